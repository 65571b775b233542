"""The tick: a ``PeriodicCallback`` that asks the keeper to do what is due.

It compares wall-clock times at every tick and never sleeps until an expiry, so a suspended machine or a clock that
steps is noticed at the next one.
"""

from __future__ import annotations

from tornado.ioloop import IOLoop, PeriodicCallback

from .events import Event, LoggedIn, RecordFollowed, StoreDegraded
from .keeping.keeper import TokenKeeper
from .lifecycle.schedule import tick_seconds

__all__ = ["Rotation"]

DEGRADED_SECONDS = 2.0
"""How often a store that fails is tried: so soon after its return all is well again."""

JITTER = 0.1
"""Each wait varies by this part, so that processes which were started together don't tick together."""


class Rotation:
    """Calls ``keeper.maintain()`` at every tick; a tick that finds the one before still at work passes."""

    def __init__(self, keeper: TokenKeeper) -> None:
        self._keeper = keeper
        self._callback = self._new_callback()
        keeper.observe(self._follow)

    def start(self) -> None:
        """Begin to tick, in the running event loop, and at once: a refresh that was cut off is due now."""
        self._callback.start()
        IOLoop.current().add_callback(self.tick)

    def stop(self) -> None:
        """Tick no more. What a tick began goes on to its end in the keeper."""
        self._callback.stop()

    async def tick(self) -> None:
        """One tick, now. The next one follows the life of the token that is there then."""
        await self._keeper.maintain()
        self._callback.callback_time = self._milliseconds()

    def _follow(self, event: Event) -> None:
        """A login, here or by another process, may bring a token whose life wants a shorter wait than the one that
        runs, and a store that fails is looked at more often: begin a new one."""
        if (
            not isinstance(event, LoggedIn | RecordFollowed | StoreDegraded)
            or not self._callback.is_running()
        ):
            return
        if self._milliseconds() < self._callback.callback_time:
            self._callback.stop()
            self._callback = self._new_callback()
            self._callback.start()

    def _new_callback(self) -> PeriodicCallback:
        return PeriodicCallback(self.tick, self._milliseconds(), jitter=JITTER)

    def _milliseconds(self) -> float:
        tick = tick_seconds(self._keeper.account, self._keeper.policy)
        return 1000 * (min(tick, DEGRADED_SECONDS) if self._keeper.store_problem else tick)
