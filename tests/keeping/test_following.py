"""Following the store: the writes of other processes, its failures, and clocks that differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from support.bench import Bench, eventually

from xots.errors import StoreUnavailable, TokenUnavailable
from xots.events import StoreDegraded, StoreRecovered
from xots.lifecycle.schedule import State


async def test_another_keepers_login_and_end_are_followed(bench: Bench) -> None:
    """On a shared store, what one process does is seen by the other without being asked."""
    bench.store.shared = True
    first, second = await bench.keeper(), await bench.keeper()
    await first.login(bench.attempt())
    await eventually(lambda: second.state is State.CONNECTED)
    assert await second.token() == await first.token()
    await first.end(forget=False)
    await eventually(lambda: second.state is State.REVOKED)


async def test_a_look_at_a_store_without_news_takes_no_lease(bench: Bench) -> None:
    """Every tick looks; a lease would keep the other processes waiting."""
    keeper = await bench.logged_in()
    taken = len(bench.store.leases)
    await keeper.follow()
    assert len(bench.store.leases) == taken


async def test_the_watch_goes_on_after_a_store_that_could_not_tell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """Whether the store fails as a store does, or raises something else, a later write is seen."""
    monkeypatch.setattr("xots.keeping.following.RETRY_INTERVAL_SECONDS", 0)
    changes, errors = bench.store.changes, [StoreUnavailable("away"), KeyError("a bug")]

    async def failing(name: str, every_seconds: float = 0.01) -> AsyncIterator[None]:
        if errors:
            raise errors.pop()
        async for change in changes(name, every_seconds=every_seconds):
            yield change

    monkeypatch.setattr(bench.store, "changes", failing)
    monkeypatch.setattr(bench.store, "shared", True)
    expected_log("following the store failed")
    keeper, other = await bench.keeper(), await bench.keeper()
    await other.login(bench.attempt())
    await eventually(lambda: keeper.state is State.CONNECTED)
    assert errors == []


async def test_the_store_has_recovered_once_everything_is_written(bench: Bench) -> None:
    """When that is reported, nothing exists in this process only."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.fail("swap", "read")
    bench.sandbox.release()
    await refresh
    unsaved: list[bool] = []
    keeper.observe(
        lambda event: unsaved.append(keeper.unsaved) if isinstance(event, StoreRecovered) else None
    )
    bench.store.repair()
    await keeper.maintain()
    assert unsaved == [False]


async def test_the_reason_of_a_degraded_store_is_the_stores_own(bench: Bench) -> None:
    """Also where the write of an intent is the first to fail."""
    keeper = await bench.logged_in()
    bench.store.fail("swap", reason="the disk is full")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    (degraded,) = [event for event in bench.events if isinstance(event, StoreDegraded)]
    assert degraded.reason == keeper.store_problem == "the disk is full"


async def test_a_host_whose_clock_is_behind_takes_no_token_from_the_others(bench: Bench) -> None:
    """To it, a good token comes from the future: it serves none, and leaves the others theirs while Xero is away."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:every:503-html")
    other = await bench.keeper(bench.clock.beside(minutes=-2))
    await other.maintain()
    with pytest.raises(TokenUnavailable):
        await other.token()
    await keeper.follow()
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
