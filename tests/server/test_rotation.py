"""The tick: its first time, its interval, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from xots import rotation
from xots.events import Event, StoreDegraded
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


class CountingAccounts:
    """Counts the ticks of a rotation."""

    def __init__(self, tick_seconds: float) -> None:
        self.tick_seconds = tick_seconds
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


def rotation_of(accounts: CountingAccounts) -> Rotation:
    return Rotation(accounts)


async def test_the_first_tick_comes_at_once() -> None:
    """A refresh that was cut off is due at the start, however long the interval is."""
    accounts = CountingAccounts(LONG_SECONDS)
    ticking = rotation_of(accounts)
    ticking.start()
    await accounts.ticked()
    ticking.stop()


async def test_ticks_follow_each_other() -> None:
    """The interval is that of the policy."""
    accounts = CountingAccounts(0.01)
    ticking = rotation_of(accounts)
    ticking.start()
    for _ in range(3):
        await accounts.ticked()
    ticking.stop()


async def test_a_failed_store_shortens_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tick does not wait for the end of the interval that has begun."""
    monkeypatch.setattr(rotation, "DEGRADED_INTERVAL_SECONDS", 0.01)
    accounts = CountingAccounts(LONG_SECONDS)
    ticking = rotation_of(accounts)
    ticking.start()
    await accounts.ticked()
    accounts.store_problem = "away"
    accounts.report(DEGRADED)
    for _ in range(3):
        await accounts.ticked()
    ticking.stop()


async def test_an_event_after_the_stop_starts_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keepers report events while they close."""
    monkeypatch.setattr(rotation, "DEGRADED_INTERVAL_SECONDS", 0.01)
    accounts = CountingAccounts(LONG_SECONDS)
    ticking = rotation_of(accounts)
    ticking.start()
    await accounts.ticked()
    ticking.stop()
    accounts.store_problem = "away"
    accounts.report(DEGRADED)
    with pytest.raises(TimeoutError):
        await accounts.ticked(within_seconds=0.1)
