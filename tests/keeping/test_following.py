"""Following the store: the writes of other processes, its failures, and clocks that differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from support.bench import Bench, eventually

from xots.backends.base import Stored
from xots.errors import StoreUnavailable, TokenUnavailable
from xots.events import StoreDegraded, StoreRecovered
from xots.lifecycle.schedule import State


async def test_another_keepers_login_and_end_are_followed(bench: Bench) -> None:
    """On a shared store, one process sees the writes of the other without a call."""
    bench.store.shared = True
    first, second = await bench.keeper(), await bench.keeper()
    await first.login(bench.attempt())
    await eventually(lambda: second.state is State.CONNECTED)
    assert await second.token() == await first.token()
    await first.end(forget=False)
    await eventually(lambda: second.state is State.REVOKED)


async def test_following_an_unchanged_store_takes_no_lease(bench: Bench) -> None:
    """The lease would delay the other processes at every tick."""
    keeper = await bench.logged_in()
    taken = len(bench.store.leases)
    await keeper.follow()
    assert len(bench.store.leases) == taken


async def test_the_changes_of_other_accounts_cause_no_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream names the records of all accounts. A keeper reads its own only."""
    announced: asyncio.Queue[str | None] = asyncio.Queue()
    reads: list[str] = []
    read, begun = bench.store.read, asyncio.Event()

    async def changes(every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        reads.clear()
        begun.set()
        while True:
            yield await announced.get()

    async def counted(name: str) -> Stored | None:
        reads.append(name)
        return await read(name)

    monkeypatch.setattr(bench.store, "changes", changes)
    monkeypatch.setattr(bench.store, "read", counted)
    monkeypatch.setattr(bench.store, "shared", True)
    keeper = await bench.keeper()
    await begun.wait()
    announced.put_nowait("other")
    announced.put_nowait(keeper.name)
    await eventually(lambda: reads == [keeper.name])
    announced.put_nowait("other")
    announced.put_nowait(None)
    await eventually(lambda: reads == [keeper.name] * 2)


async def test_the_watch_continues_after_a_failure_of_the_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """A later write is seen, after an error of the store and after any other exception."""
    monkeypatch.setattr("xots.keeping.following.RETRY_INTERVAL_SECONDS", 0)
    changes, errors = bench.store.changes, [StoreUnavailable("away"), KeyError("a bug")]

    async def failing(every_seconds: float = 0.01) -> AsyncIterator[str | None]:
        if errors:
            raise errors.pop()
        async for change in changes(every_seconds=every_seconds):
            yield change

    monkeypatch.setattr(bench.store, "changes", failing)
    monkeypatch.setattr(bench.store, "shared", True)
    expected_log("following the store failed")
    keeper, other = await bench.keeper(), await bench.keeper()
    await other.login(bench.attempt())
    await eventually(lambda: keeper.state is State.CONNECTED)
    assert errors == []


async def test_a_recovery_is_reported_once_every_change_is_written(bench: Bench) -> None:
    """At that time no change exists in this process only."""
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    unsaved: list[bool] = []
    keeper.observe(
        lambda event: unsaved.append(keeper.unsaved) if isinstance(event, StoreRecovered) else None
    )
    bench.store.repair()
    await keeper.maintain()
    assert unsaved == [False]


async def test_the_reason_of_a_degraded_store_is_the_text_of_its_error(bench: Bench) -> None:
    """So it is when the write of an intent is the first to fail."""
    keeper = await bench.logged_in()
    bench.store.fail("swap", reason="the disk is full")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    (degraded,) = [event for event in bench.events if isinstance(event, StoreDegraded)]
    assert degraded.reason == keeper.store_problem == "the disk is full"


async def test_a_host_whose_clock_is_behind_takes_no_token_from_other_hosts(bench: Bench) -> None:
    """A good token seems issued in the future there. The host serves none and overwrites none."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:every:503-html")
    other = await bench.keeper(bench.clock.beside(minutes=-2))
    await other.maintain()
    with pytest.raises(TokenUnavailable):
        await other.token()
    await keeper.follow()
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
