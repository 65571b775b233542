"""The tick: a ``PeriodicCallback`` that lets the keeper do what is due.

Each tick compares wall-clock times. Nothing sleeps until an expiry, so the next tick notices a
suspended machine or a stepped clock.
"""

from __future__ import annotations

from tornado.ioloop import IOLoop, PeriodicCallback

from .events import Event, LoggedIn, RecordFollowed, StoreDegraded
from .keeping.keeper import TokenKeeper
from .lifecycle.schedule import tick_seconds

__all__ = ["Rotation"]

DEGRADED_INTERVAL_SECONDS = 2.0
"""Upper bound on the interval while the store fails: the keeper recovers soon after the store."""

JITTER = 0.1
"""Each interval varies by this fraction, so that processes started together tick apart."""


class Rotation:
    """Calls ``keeper.maintain()`` at every tick. A tick is skipped while the one before runs.

    Args:
        keeper: the keeper of one account.
    """

    def __init__(self, keeper: TokenKeeper) -> None:
        self._keeper = keeper
        self._callback = self._new_callback()
        keeper.observe(self._shorten)

    def start(self) -> None:
        """Start to tick in the running event loop. The first tick comes at once, since a refresh
        that was cut off is due now."""
        self._callback.start()
        IOLoop.current().add_callback(self.tick)

    def stop(self) -> None:
        """Stop ticking. The keeper finishes the operations of the last tick."""
        self._callback.stop()

    async def tick(self) -> None:
        """Tick now. The life of the token held afterwards decides when the next tick comes."""
        await self._keeper.maintain()
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
        seconds = tick_seconds(self._keeper.account, self._keeper.policy)
        if self._keeper.store_problem:
            seconds = min(seconds, DEGRADED_INTERVAL_SECONDS)
        return 1000 * seconds
