"""``FlakyStore``: it is a store, and it fails as a test demands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from xots.errors import StaleWrite, StoreUnavailable
from xots.testing import FlakyStore, Opening, TokenStoreContract


class TestFlakyStore(TokenStoreContract):
    @pytest.fixture
    def opening(self) -> Opening:
        return FlakyStore

    @pytest.fixture
    def faults(self) -> None:
        """It keeps its records in this process; the tests below make it fail."""


NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


@pytest.fixture
def store() -> FlakyStore:
    return FlakyStore()


async def test_a_failing_method_raises_until_the_repair(store: FlakyStore) -> None:
    """The other methods work meanwhile."""
    store.fail("swap", reason="the disk is full")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await store.swap("default", b"value", expected=None)
    assert await store.read("default") is None
    store.repair()
    await store.swap("default", b"value", expected=None)


@pytest.mark.parametrize(
    "method", ["read", "swap", "names", "check", "lease", "due", "note_due", "changes"]
)
async def test_each_method_can_fail(store: FlakyStore, method: str) -> None:
    """A test names the method as the store does."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "read": lambda: store.read("default"),
        "swap": lambda: store.swap("default", b"value", expected=None),
        "names": store.names,
        "check": store.check,
        "lease": lambda: store.lease("default", 10).__aenter__(),
        "due": lambda: store.due(NOW, 10),
        "note_due": lambda: store.note_due("default", NOW),
        "changes": lambda: anext(store.changes()),
    }
    store.fail(method)
    with pytest.raises(StoreUnavailable, match="on demand"):
        await calls[method]()


async def test_a_stream_that_has_begun_fails_too(store: FlakyStore) -> None:
    """The failure of a real store ends the streams that watch it."""
    changes = store.changes(every_seconds=0)
    assert await anext(changes) is None
    store.fail("changes")
    await store.swap("default", b"value", expected=None)
    with pytest.raises(StoreUnavailable, match="on demand"):
        await anext(changes)


def test_an_unknown_method_is_refused(store: FlakyStore) -> None:
    """A misspelt name would make a test of a failure pass without one."""
    with pytest.raises(
        ValueError, match="'write' is none of the methods changes, check, due, lease"
    ):
        store.fail("write")
    with pytest.raises(ValueError, match="'write'"):
        store.hold("write")


async def test_the_check_fails_while_writes_fail(store: FlakyStore) -> None:
    """A real store writes in its check."""
    store.fail("swap")
    with pytest.raises(StoreUnavailable):
        await store.check()


async def test_a_write_whose_reply_is_lost_is_stored(store: FlakyStore) -> None:
    """The caller cannot know that, unless it reads."""
    store.lose_replies()
    with pytest.raises(StoreUnavailable, match="the reply was lost"):
        await store.swap("default", b"value", expected=None)
    stored = await store.read("default")
    assert stored is not None
    assert stored.value == b"value"
    await store.swap("default", b"next", expected=stored.version)


async def test_an_act_runs_once_before_or_after_a_call(store: FlakyStore) -> None:
    """Here another process writes just before this one's swap."""
    version = await store.swap("default", b"first", expected=None)

    async def write() -> None:
        await store.swap("default", b"another process's", expected=version)

    store.before("swap", write)
    with pytest.raises(StaleWrite):
        await store.swap("default", b"second", expected=version)
    released: list[str] = []
    store.after("lease", lambda: released.append("once"))
    for _ in range(2):
        async with store.lease("default", 10):
            assert len(released) < 2
    assert released == ["once"]


@pytest.mark.parametrize("after", [False, True])
async def test_a_held_call_waits_for_its_release(store: FlakyStore, after: bool) -> None:
    """It has written by then, or it has not."""
    hold = store.hold("swap", after=after)
    swap = asyncio.create_task(store.swap("default", b"value", expected=None))
    await hold.reached()
    assert ((await store.read("default")) is not None) is after
    assert not swap.done()
    hold.release()
    await swap
    assert await store.read("default") is not None


async def test_a_lease_that_lapses_is_given_to_another_caller(store: FlakyStore) -> None:
    """Its holder learns it only if the test says so."""
    async with store.lease("default", 10) as first:
        store.lapse()
        async with store.lease("default", 10) as second:
            assert store.leases == [first, second]
            assert not first.lost
            store.leases[0].lose()
            assert first.lost


async def test_a_restored_dump_undoes_the_writes_since(store: FlakyStore) -> None:
    """Versions and values are those of the dump."""
    version = await store.swap("default", b"first", expected=None)
    dump = store.dump()
    await store.swap("default", b"second", expected=version)
    store.restore(dump)
    assert await store.read("default") == dump["default"]
    store.restore({})
    assert await store.names() == []
