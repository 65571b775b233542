"""``TokenStore``'s own parts: names, the lease as its holder sees it, and the default lease."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from xots.backends import base
from xots.backends.base import Lease, Stored, TokenStore, check_size, checked_name, is_account
from xots.backends.memory import MemoryStore
from xots.clock import SystemClock
from xots.errors import RecordUnusable, StoreUnavailable

EXPIRED = json.dumps({"until": 1}).encode()


class StoreWithoutLocks(MemoryStore):
    """A store without a lease of its own, which can be made unavailable."""

    available = True

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with TokenStore.lease(self, name, ttl_seconds) as lease:
            yield lease

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        if not self.available:
            raise StoreUnavailable("the store is away")
        return await super().swap(name, value, expected=expected, due_at=due_at)


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, while the event loop runs."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["a", "-", "0", "default", "z" * 64])
def test_a_name_is_returned(name: str) -> None:
    """Up to 64 lower-case letters, digits and hyphens make a name."""
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "a/b", "a\n", "ä", "a" * 65])
def test_an_invalid_name_is_refused(name: str) -> None:
    """The message quotes it and says what a name is."""
    with pytest.raises(ValueError, match="is not a name of up to 64 lower-case letters"):
        checked_name(name)


@pytest.mark.parametrize(
    ("name", "can_be"),
    [("default", True), ("leasehold", True), ("lease-default", False), ("A", False), ("", False)],
)
def test_the_names_of_accounts_are_those_that_no_store_uses_itself(name: str, can_be: bool) -> None:
    """A store may hold others: its own leases, and the records of another program."""
    assert is_account(name) is can_be


def test_a_record_has_a_largest_size() -> None:
    """The message names the record and its size, and says what to do."""
    check_size("default", 1_000_000)
    with pytest.raises(RecordUnusable, match=r"record default has 1000001 bytes.*delete it"):
        check_size("default", 1_000_001)


# ---------- the default stream


class CountingStore(MemoryStore):
    """A store that counts its reads, and cannot read one record."""

    reads = 0

    async def read(self, name: str) -> Stored | None:
        self.reads += 1
        if name == "bad":
            raise RecordUnusable("another program has written it")
        return await super().read(name)


@pytest.mark.safeguard(
    file="backends/base.py",
    old="                await asyncio.sleep(1 / MAX_READS_PER_SECOND)\n",
    new="",
    protects_from="a store of another package that spends its time on reads of 10,000 records",
)
async def test_the_default_stream_reads_at_a_bounded_rate() -> None:
    """It never reads more than 100 records a second, however many there are."""
    store = CountingStore()
    for number in range(100):
        await store.swap(f"account-{number}", b"value", expected=None)
    began_at = time.monotonic()
    changes = store.changes(every_seconds=0)
    assert await anext(changes) is None
    assert store.reads == 0
    for _ in range(50):
        await anext(changes)
    seconds = time.monotonic() - began_at
    assert store.reads <= 1 + seconds * base.MAX_READS_PER_SECOND


async def test_a_record_that_cannot_be_read_does_not_end_the_default_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other records are reported, and so is a record that another program has removed."""
    monkeypatch.setattr(base, "MAX_READS_PER_SECOND", 10_000)
    store = CountingStore()
    await store.swap("bad", b"value", expected=None)
    version = await store.swap("good", b"one", expected=None)
    seen: list[str | None] = []

    async def follow() -> None:
        async for change in store.changes(every_seconds=0):
            seen.append(change)

    follower = asyncio.create_task(follow())
    await soon(lambda: seen == [None, "bad", "good"])
    await store.swap("good", b"two", expected=version)
    await soon(lambda: seen == [None, "bad", "good", "good"])
    del store._kept["good"]  # noticed once or twice: by its read, by the list of names
    await soon(lambda: seen[4:] in (["good"], ["good", "good"]))
    follower.cancel()
    await asyncio.wait([follower])


# ---------- leases


def test_a_lease_ends_with_its_lifetime_unless_it_is_extended() -> None:
    """A lease without a lifetime ends only when another holder has it."""
    now = SystemClock().elapsed()
    assert Lease(ttl_seconds=0).lost
    lease = Lease(ttl_seconds=0)
    lease.extend(60, since=now)
    assert not lease.lost
    lease.extend(60, since=now - 61)
    assert lease.lost
    endless = Lease()
    assert not endless.lost
    endless.lose()
    assert endless.lost


@pytest.mark.safeguard(
    file="backends/leases.py",
    old="                lease.lose()\n",
    new="",
    protects_from="two holders at once, after another process has taken the lease",
)
async def test_a_lease_that_another_holder_took_is_lost() -> None:
    """Its first holder notices at the next renewal, and its release leaves the other's alone."""
    store = StoreWithoutLocks()
    async with store.lease("default", 1) as first:
        stored = await store.read("lease-default")
        assert stored is not None
        await store.swap("lease-default", EXPIRED, expected=stored.version)
        second = store.lease("default", 60)
        await second.__aenter__()
        taken = await store.read("lease-default")
        began_at = time.monotonic()
        await soon(lambda: first.lost)
        assert time.monotonic() - began_at < 0.9, "it noticed only when its own lease ended"
    assert await store.read("lease-default") == taken
    await second.__aexit__(None, None, None)


async def test_a_lease_ends_by_its_own_clock_while_the_store_is_away() -> None:
    """A failing renewal is no loss; only the end of the lifetime is."""
    store = StoreWithoutLocks()
    async with store.lease("default", 0.6) as lease:
        store.available = False
        await asyncio.sleep(0.2)  # one renewal fails
        assert not lease.lost
        store.available = True
        await asyncio.sleep(0.6)  # beyond the first lifetime
        assert not lease.lost
        store.available = False
        await soon(lambda: lease.lost)


async def test_a_record_that_is_no_lease_is_replaced() -> None:
    """Foreign bytes under the lease's name keep no process waiting."""
    store = StoreWithoutLocks()
    await store.swap("lease-default", b"not JSON", expected=None)
    async with asyncio.timeout(5), store.lease("default", 60) as lease:
        assert not lease.lost
