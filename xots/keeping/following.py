"""The keeper follows its store: it reads other processes' writes, and notes failures and clocks."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from ..errors import SealError, StoreUnavailable
from ..events import ClockSkewed
from ..tasks import Tasks, cancel_until_done
from .context import Context
from .replica import Peeked
from .reporting import clock_skew, followed_event, loss_at_close
from .store_clock import SKEW_KEPT_SECONDS

__all__ = ["RETRY_INTERVAL_SECONDS", "Following"]

logger = logging.getLogger("xots.keeper")

CLOSE_TIMEOUT_SECONDS = 20.0
"""Time after which a closing keeper makes no further attempt to write an unsaved change."""

RETRY_INTERVAL_SECONDS = 1.0
"""Interval between attempts to use a store that failed."""


class Following:
    """Keeps the replica of one account up to date, and reports clocks that differ.

    Args:
        context: the parts of the account's keeper.
        tasks: the keeper's tasks, which run the operations on the store.
    """

    def __init__(self, context: Context, tasks: Tasks) -> None:
        self._context = context
        self._tasks = tasks
        self._watch: asyncio.Task[None] | None = None
        self._skew_until = 0.0
        self.skew: ClockSkewed | None = None
        """The difference of clocks that was found last; None if no difference is known."""

    async def start(self) -> None:
        """Read the record, compare the clocks, and watch a store that other processes write to.

        Raises:
            StoreUnavailable: the store cannot be read.
            SealError: the record cannot be opened. It stays as it is.
        """
        await self._context.replica.read()
        await self.check_clocks()
        if self._context.store.shared:
            self._watch = asyncio.create_task(self._watch_changes())

    async def stop(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            await cancel_until_done(self._watch)

    @property
    def watch(self) -> asyncio.Task[None] | None:
        """The task that watches the store, if there is one."""
        return self._watch

    async def look(self) -> None:
        """Follow the store if another process wrote.

        Raises:
            StoreUnavailable: the store cannot be read.
            SealError: the record cannot be opened. It stays as it is.
        """
        peeked = await self._context.replica.peek()
        if peeked is Peeked.LOST_WRITES:
            await self._tasks.run(self.settle())
        if peeked is Peeked.FOLLOWED:
            self._context.emit(followed_event(self._context.situation()))
            self.note_skew()  # the record's dates may lie in the future for a short time only

    async def settle(self) -> None:
        """Check if the store works again, and write the change that it could not take. It never
        raises for a failed store."""
        replica = self._context.replica
        try:
            async with replica.locked():
                await self._context.store.check()
                replica.works()
        except (StoreUnavailable, SealError) as error:
            replica.failed(error)

    async def write_unsaved(self) -> None:
        """Write the change that memory holds, before the keeper closes.

        Raises:
            StoreUnavailable: the store did not take it in time.
        """
        replica, give_up_at = self._context.replica, time.monotonic() + CLOSE_TIMEOUT_SECONDS
        await self.settle()
        while replica.unsaved:
            if time.monotonic() > give_up_at:
                name, rolled_back = self._context.name, replica.rolled_back
                raise StoreUnavailable(
                    loss_at_close(
                        name,
                        replica.problem,
                        rolled_back=rolled_back,
                        grace=self._context.policy.grace,
                    )
                )
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)
            await self.settle()

    async def check_clocks(self) -> None:
        """Compare this host's clock with the store's, from time to time, and with the record's
        dates."""
        await self._context.store_clock.compare(self._context.name)
        self.note_skew()

    def note_skew(self) -> None:
        """Note a difference of clocks that the record or the store shows, and report it if it is
        not known yet."""
        context, compared = self._context, self._context.store_clock
        now, elapsed = context.clock.now(), context.clock.elapsed()
        found = clock_skew(context.name, context.replica.account, now, compared.skew)
        if found is not None:
            is_known = self.skew is not None and self.skew.host == found.host
            if not is_known and compared.is_news(found.host):
                context.emit(found)
            self.skew, self._skew_until = found, elapsed + SKEW_KEPT_SECONDS
        elif elapsed >= self._skew_until:
            self.skew = None

    async def _watch_changes(self) -> None:
        """Follow other processes' writes: a login, a refresh or an end is seen here soon."""
        replica = self._context.replica
        while True:
            try:
                if replica.needs_settling:
                    await self._tasks.run(self.settle())
                if replica.problem is None:
                    # It begins with a look: a change may have come before the watch.
                    async with aclosing(self._context.changes.of(self._context.name)) as changes:
                        async for _ in changes:
                            await self.look()
            except (StoreUnavailable, SealError) as error:
                replica.failed(error)
            except Exception:  # the watch goes on, whatever a store raises
                logger.exception("following the store failed")
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)
