"""One subscription to the store for all listeners of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.bench import eventually

from xots.errors import StoreUnavailable
from xots.keeping.changes import Changes
from xots.testing import FlakyStore


class Announcing(FlakyStore):
    """A store whose changes the test announces."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions = 0
        self.now_open = 0
        self.announced: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        self.subscriptions += 1
        self.now_open += 1
        try:
            yield None
            while True:
                change = await self.announced.get()
                if isinstance(change, Exception):
                    raise change
                yield change
        finally:
            self.now_open -= 1


@pytest.fixture
def store() -> Announcing:
    return Announcing()


async def counted(changes: Changes, name: str, seen: list[str]) -> None:
    async for _ in changes.of(name):
        seen.append(name)


async def test_all_listeners_share_one_subscription(store: Announcing) -> None:
    """Each hears of its own name only. The subscription ends with the last of them."""
    changes, seen = Changes(store), list[str]()
    tasks = [asyncio.create_task(counted(changes, name, seen)) for name in ("one", "two")]
    await eventually(lambda: sorted(seen) == ["one", "two"])
    seen.clear()
    store.announced.put_nowait("two")
    await eventually(lambda: seen == ["two"])
    store.announced.put_nowait(None)
    await eventually(lambda: sorted(seen) == ["one", "two", "two"])
    assert store.subscriptions == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await eventually(lambda: store.now_open == 0)


async def test_a_late_listener_is_told_to_look_at_once(store: Announcing) -> None:
    """Its record may have changed before it listened."""
    changes, seen = Changes(store), list[str]()
    first = asyncio.create_task(counted(changes, "one", seen))
    await eventually(lambda: seen == ["one"])
    second = asyncio.create_task(counted(changes, "two", seen))
    await eventually(lambda: seen == ["one", "two"])
    for task in (first, second):
        task.cancel()
    await asyncio.wait([first, second])


async def test_a_listener_of_all_names_gets_them_in_batches(store: Announcing) -> None:
    """Two writes of one record are one look at it."""
    changes = Changes(store)
    batches = changes.all()
    assert await anext(batches) == [None]
    for name in ("one", "two", "one"):
        store.announced.put_nowait(name)
    await eventually(store.announced.empty)
    assert await anext(batches) == ["one", "two"]
    await batches.aclose()


async def test_a_failed_subscription_reaches_every_listener(store: Announcing) -> None:
    """The next listener subscribes again."""
    changes = Changes(store)
    one, every = changes.of("one"), changes.all()
    await anext(one)
    await anext(every)
    store.announced.put_nowait(StoreUnavailable("away"))
    for listener in (one, every):
        with pytest.raises(StoreUnavailable, match="away"):
            await anext(listener)
    again = changes.of("one")
    await anext(again)
    assert store.subscriptions == 2
    await again.aclose()


class Ending(FlakyStore):
    """A store whose stream ends without an error."""

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        yield None


async def test_a_stream_that_ends_is_a_failure() -> None:
    """Otherwise its listeners would wait for ever."""
    one = Changes(Ending()).of("one")
    with pytest.raises(StoreUnavailable):
        async for _ in one:
            pass


class EndingSlowly(Announcing):
    """A store whose stream takes a moment to end, as a connection does."""

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        try:
            async for change in super().changes(every_seconds):
                yield change
        finally:
            await asyncio.sleep(0.05)


async def test_a_listener_that_comes_while_a_subscription_ends_misses_nothing() -> None:
    """The subscription of the last listener ends in several steps."""
    store = EndingSlowly()
    changes, seen = Changes(store), list[str]()
    last = changes.of("one")
    await anext(last)
    closing = asyncio.create_task(last.aclose())
    await asyncio.sleep(0)
    listening = asyncio.create_task(counted(changes, "one", seen))
    await closing
    await eventually(lambda: seen == ["one"])
    store.announced.put_nowait("one")
    await eventually(lambda: seen == ["one", "one"])
    listening.cancel()
    await asyncio.wait([listening])
