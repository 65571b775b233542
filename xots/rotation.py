"""The tick: a ``PeriodicCallback`` that lets the accounts carry out due operations.

Each tick compares wall-clock times. Nothing sleeps until an expiry, so the next tick notices a
suspended machine or a stepped clock.
"""

from __future__ import annotations

from typing import Protocol

from tornado.ioloop import IOLoop, PeriodicCallback

from .events import Event, LoggedIn, Observer, RecordFollowed, StoreDegraded

__all__ = ["Rotation"]

DEGRADED_INTERVAL_SECONDS = 2.0
"""Upper bound on the interval while the store fails: the keepers recover soon after the store."""

JITTER = 0.1
"""Each interval varies by this fraction, so that processes started together tick apart."""


class Maintained(Protocol):
    """All accounts of a process, or the keeper of one."""

    @property
    def tick_seconds(self) -> float:
        """The interval between ticks that the tokens demand."""

    @property
    def store_problem(self) -> str | None:
        """Why the store cannot be used now; None if it can."""

    async def maintain(self) -> None:
        """Carry out the due operations."""

    def observe(self, observer: Observer) -> None:
        """Send every event from now on to ``observer`` too."""


class Rotation:
    """Calls ``accounts.maintain()`` at every tick. A tick is skipped while the one before runs.

    Args:
        accounts: they are maintained.
    """

    def __init__(self, accounts: Maintained) -> None:
        self._accounts = accounts
        self._callback = self._new_callback()
        accounts.observe(self._shorten)

    def start(self) -> None:
        """Start to tick in the running event loop. The first tick comes at once, since a refresh
        that was cut off is due now."""
        self._callback.start()
        IOLoop.current().add_callback(self.tick)

    def stop(self) -> None:
        """Stop ticking. The keepers finish the operations of the last tick."""
        self._callback.stop()

    async def tick(self) -> None:
        """Tick now. The shortest life of a token held afterwards decides when the next tick
        comes."""
        await self._accounts.maintain()
        self._callback.callback_time = self._interval_milliseconds()

    def _shorten(self, event: Event) -> None:
        """Restart the interval if the event makes it shorter: a login, here or in another process,
        may bring a token with a shorter life, and a failed store needs frequent attempts."""
        shortens = isinstance(event, LoggedIn | RecordFollowed | StoreDegraded)
        if not shortens or not self._callback.is_running():
            return
        if self._interval_milliseconds() < self._callback.callback_time:
            self._callback.stop()
            self._callback = self._new_callback()
            self._callback.start()

    def _new_callback(self) -> PeriodicCallback:
        return PeriodicCallback(self.tick, self._interval_milliseconds(), jitter=JITTER)

    def _interval_milliseconds(self) -> float:
        seconds = self._accounts.tick_seconds
        if self._accounts.store_problem:
            seconds = min(seconds, DEGRADED_INTERVAL_SECONDS)
        return 1000 * seconds
