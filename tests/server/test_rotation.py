"""The tick: its first time, its interval, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from xots import rotation
from xots.events import Event, StoreDegraded
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.account import Account
from xots.lifecycle.policy import Policy
from xots.rotation import Rotation

LONG_SECONDS = 300.0
"""An interval that no test waits for."""

DEGRADED = StoreDegraded(
    account="default",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    reason="away",
    unsaved=False,
    grace_ends_at=None,
)


class CountingKeeper:
    """Counts the ticks of a rotation."""

    def __init__(self, tick_seconds: float) -> None:
        self.account = Account()
        self.policy = Policy(tick=timedelta(seconds=tick_seconds))
        self.store_problem: str | None = None
        self.report: Callable[[Event], None] = lambda event: None
        self._ticks = asyncio.Semaphore(0)

    def observe(self, observer: Callable[[Event], None]) -> None:
        self.report = observer

    async def maintain(self) -> None:
        self._ticks.release()

    async def ticked(self, within_seconds: float = 10.0) -> None:
        """Wait for the next tick."""
        async with asyncio.timeout(within_seconds):
            await self._ticks.acquire()


def rotation_of(keeper: CountingKeeper) -> Rotation:
    return Rotation(cast("TokenKeeper", keeper))


async def test_the_first_tick_comes_at_once() -> None:
    """A refresh that was cut off is due at the start, however long the interval is."""
    keeper = CountingKeeper(LONG_SECONDS)
    ticking = rotation_of(keeper)
    ticking.start()
    await keeper.ticked()
    ticking.stop()


async def test_ticks_follow_each_other() -> None:
    """The interval is that of the policy."""
    keeper = CountingKeeper(0.01)
    ticking = rotation_of(keeper)
    ticking.start()
    for _ in range(3):
        await keeper.ticked()
    ticking.stop()


async def test_a_failed_store_shortens_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tick does not wait for the end of the interval that has begun."""
    monkeypatch.setattr(rotation, "DEGRADED_INTERVAL_SECONDS", 0.01)
    keeper = CountingKeeper(LONG_SECONDS)
    ticking = rotation_of(keeper)
    ticking.start()
    await keeper.ticked()
    keeper.store_problem = "away"
    keeper.report(DEGRADED)
    for _ in range(3):
        await keeper.ticked()
    ticking.stop()


async def test_an_event_after_the_stop_starts_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper reports events while it closes."""
    monkeypatch.setattr(rotation, "DEGRADED_INTERVAL_SECONDS", 0.01)
    keeper = CountingKeeper(LONG_SECONDS)
    ticking = rotation_of(keeper)
    ticking.start()
    await keeper.ticked()
    ticking.stop()
    keeper.store_problem = "away"
    keeper.report(DEGRADED)
    with pytest.raises(TimeoutError):
        await keeper.ticked(within_seconds=0.1)
