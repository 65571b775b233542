"""``Work``: the accounts that are due, maintained a few at a time.

Each account is maintained in a task of its own. So one that has to wait, for its lease or for its
identity server, delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..clock import Clock
from ..errors import StoreUnavailable, XotsError
from ..tasks import Closed, SharedTask, Tasks

__all__ = ["Work"]

logger = logging.getLogger("xots.accounts")

MAX_AT_ONCE = 64
"""Upper bound on the accounts in maintenance that are not slow. Few of them have a request at Xero:
the others wait for a lease or for the store."""

SLOW_SECONDS = 2.0
"""Time after which an account in maintenance is slow, and leaves its place to another one. It waits
for a lease that another process holds, or for Xero."""

MAX_BUSY = 128
"""Upper bound on the accounts in maintenance, with the slow ones. Each may hold its lease while it
waits for a place at Xero. More of them would hold it for longer than other processes wait."""

PAUSE_SECONDS = 2.0
"""Time for which an account is left alone after its maintenance, whatever the index holds."""

TROUBLE_PAUSE_SECONDS = 60.0
"""The same after a failure: its store, its record or its settings have to be mended first."""

TICK_TIMEOUT_SECONDS = 1.0
"""Time that a tick waits for the work it has started. The work goes on afterwards."""

Due = Callable[[int], Awaitable[list[str]]]
"""Return up to so many names of accounts that are due."""


class Work:
    """Maintains the accounts that are due.

    Args:
        always: the account that is maintained at every tick.
        due: returns the names of due accounts, at most as many as its argument.
        maintain: maintains one account.
        clock: this host's clock.
        rng: the source of the order of due accounts.
    """

    def __init__(
        self,
        always: str,
        due: Due,
        maintain: Callable[[str], Awaitable[None]],
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._always, self._find_due, self._maintain = always, due, maintain
        self._clock, self._rng = clock, rng
        self._tasks = Tasks()
        self._shared = SharedTask(self._tasks)
        self._room = asyncio.Semaphore(MAX_AT_ONCE)
        self._busy: set[str] = set()
        self._paused: dict[str, float] = {}
        """Until when each account is left alone, by ``Clock.elapsed``."""

    @property
    def busy(self) -> frozenset[str]:
        """The accounts in maintenance."""
        return frozenset(self._busy)

    async def tick(self) -> None:
        """Start the maintenance of all accounts that are due, and wait a moment for it."""
        try:
            started = [self._shared.join(self._work_off)[0]]
            if self._always not in self._busy:
                started.append(self._start(self._always))
        except Closed:
            return
        await asyncio.wait(started, timeout=TICK_TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Start nothing new, and wait for the accounts in maintenance."""
        await self._tasks.drain()

    async def _work_off(self) -> None:
        """Maintain due accounts until none is left that can be started."""
        with suppress(Closed):
            while names := await self._next():
                for name in names:
                    await self._room.acquire()
                    self._tasks.start(self._give_up_room(self._start(name)))

    async def _give_up_room(self, task: asyncio.Task[None]) -> None:
        """Let another account in once this one's maintenance has ended, or is slow."""
        await asyncio.wait([task], timeout=SLOW_SECONDS)
        self._room.release()

    async def _next(self) -> list[str]:
        """Return the next due accounts in a random order: the processes that share a store do not
        all begin with the same one."""
        elapsed = self._clock.elapsed()
        self._paused = {name: until for name, until in self._paused.items() if until > elapsed}
        excluded = self._busy | self._paused.keys()
        if len(self._busy) >= MAX_BUSY:
            return []  # the next tick asks again
        try:
            found = await self._find_due(MAX_AT_ONCE + len(excluded))
        except StoreUnavailable:
            return []  # the open keepers report it, and the next tick asks again
        names = [name for name in found if name not in excluded]
        self._rng.shuffle(names)
        return names

    def _start(self, name: str) -> asyncio.Task[None]:
        task = self._tasks.start(self._maintain_one(name))
        self._busy.add(name)
        return task

    async def _maintain_one(self, name: str) -> None:
        pause = PAUSE_SECONDS
        try:
            await self._maintain(name)
        except XotsError:  # the account's state and the log show it already
            pause = TROUBLE_PAUSE_SECONDS
        except Exception:  # one account's failure, whatever it is, must not end the others' work
            pause = TROUBLE_PAUSE_SECONDS
            logger.exception("%s: the maintenance failed", name)
        finally:
            self._busy.discard(name)
            self._paused[name] = self._clock.elapsed() + pause
