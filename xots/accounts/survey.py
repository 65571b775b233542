"""``Survey``: reads the records of all accounts, in sweeps and after changes in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

import msgspec
from msgspec.structs import replace

from ..backends.base import version_of
from ..errors import RecordUnusable, SealError, SettingsError, StoreUnavailable
from ..keeping.record_store import RecordStore
from ..lifecycle.account import Account
from ..lifecycle.schedule import tick_seconds
from ..tasks import cancel_until_done
from .config import AccountConfig, Configure
from .directory import Directory, Glimpse, glimpse
from .keepers import Opened, Shared

__all__ = ["Survey"]

logger = logging.getLogger("xots.accounts")

SWEEP_INTERVAL_SECONDS = 3600.0
"""Interval between sweeps, which read every record and correct the index."""

SWEEP_PAUSE_SECONDS = 0.02
"""Pause between two records of a sweep: it takes some minutes for 10,000, and delays nothing."""

MAX_FAILED_READS = 3
"""Number of reads in a row whose failure ends a sweep: the store has failed. Fewer are trouble of
their records, such as a bad sector, which is to delay no other account."""

RETRY_INTERVAL_SECONDS = 1.0
"""Interval between attempts to watch a store that failed."""


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a look has found."""

    version: str | None
    due_at: datetime | None
    """When it needs attention."""
    keeps_index: bool
    """False if an earlier version of xots wrote it, which does not tell the store's index."""


class Survey:
    """Keeps the directory and the store's index in agreement with the records.

    Args:
        shared: the parts that all keepers share.
        configure: returns the settings of an account.
        directory: the known accounts.
        is_open: tells if an account has an open keeper, which follows its record by itself.
    """

    def __init__(
        self,
        shared: Shared,
        configure: Configure,
        directory: Directory,
        is_open: Callable[[str], bool],
    ) -> None:
        self._shared = shared
        self._configure = configure
        self._directory = directory
        self._is_open = is_open
        self._watching: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._sweep_at = float("-inf")
        self._is_complete = False
        self._completing = asyncio.Lock()
        self._shared_index = False
        self._shortest_of_sweep = float("inf")
        self.shortest_tick_seconds = float("inf")
        """The interval between ticks that the shortest token demands."""

    async def start(self) -> None:
        """Learn the names of the accounts, and begin to watch a store that other processes write.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        self._directory.expect(await self._shared.store.names())
        if self._shared.store.shared:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Watch no more, and end a sweep."""
        for task in (self._watching, self._sweeping):
            if task is not None:
                await cancel_until_done(task)

    async def complete(self) -> None:
        """Read every record now, unless that was done since the start.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        async with self._completing:
            if self._is_complete:
                return
            self._sweep_at = self._shared.clock.elapsed() + SWEEP_INTERVAL_SECONDS
            try:
                await self._sweep(pause_seconds=0)
            except StoreUnavailable:
                self.demand_sweep()
                raise

    def demand_sweep(self) -> None:
        """Make a sweep due now: records may have changed unseen, or the clock was set."""
        self._sweep_at = float("-inf")

    def sweep_if_due(self) -> None:
        """Start a sweep if none was made for an hour, or if the store has lost the index that it
        shared with others. The first one makes no pauses."""
        shares_index = self._shared.store.shares_index
        if self._shared_index and not shares_index:
            self.demand_sweep()  # from now on it is in memory, and empty
        self._shared_index = shares_index
        elapsed = self._shared.clock.elapsed()
        is_running = self._sweeping is not None and not self._sweeping.done()
        if elapsed < self._sweep_at or is_running:
            return
        self._sweep_at = elapsed + SWEEP_INTERVAL_SECONDS
        pause_seconds = 0 if self._sweeping is None else SWEEP_PAUSE_SECONDS
        self._sweeping = asyncio.create_task(self._sweep_quietly(pause_seconds))

    async def _watch(self) -> None:
        """Look at each record that another process writes. Open keepers follow by themselves."""
        while True:
            try:
                async with aclosing(self._shared.changes.all()) as batches:
                    async for names in batches:
                        for name in names:
                            if name is None:
                                self.demand_sweep()
                            else:
                                await self._look(name)
            except StoreUnavailable:
                pass  # the open keepers report it
            except Exception:  # the watch goes on, whatever a store raises
                logger.exception("following the store failed")
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def _sweep_quietly(self, pause_seconds: float) -> None:
        try:
            await self._sweep(pause_seconds)
        except StoreUnavailable:  # the open keepers report it
            self.demand_sweep()
        except Exception:  # the next sweep comes, whatever a store raises
            logger.exception("reading the records of all accounts failed")

    async def _sweep(self, pause_seconds: float) -> None:
        """Read every record, and correct the index and the directory.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        seen, names = self._directory.seen, await self._shared.store.names()
        # An account that was added meanwhile need not be among the names.
        self._directory.forget(seen.difference(names))
        self._shortest_of_sweep = float("inf")
        without_record = sorted(self._directory.declared.keys() - set(names))
        failed_in_a_row = 0
        for name in (*names, *without_record):
            try:
                await self.correct_index(name)
                failed_in_a_row = 0
            except StoreUnavailable:
                failed_in_a_row += 1
                if failed_in_a_row == MAX_FAILED_READS:
                    raise
            await asyncio.sleep(pause_seconds)
        self.shortest_tick_seconds = self._shortest_of_sweep
        self._is_complete = True

    async def _look(self, name: str) -> None:
        """Look at an account that another process has written. An open keeper follows it itself,
        and the other process has written the index if it is shared.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        if not self._shared.store.shares_index:
            await self.correct_index(name)
        elif not self._is_open(name):
            found = await self._read(name)
            if found is not None and not found.keeps_index:
                await self.correct_index(name)

    async def correct_index(self, name: str) -> None:
        """Read the record of an account into the directory, and correct the index by it.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        found = await self._read(name)
        while found is not None:
            await self._shared.store.note_due(name, found.due_at)
            # Another process may have written meanwhile, and its time may just have been replaced.
            before, found = found, await self._read(name)
            if found is None or found.version == before.version:
                return

    async def _read(self, name: str) -> _Found | None:
        """Read a record into the directory; return None if it cannot be used.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        record = RecordStore(self._shared.store, self._shared.sealer, name)
        try:
            stored = await record.read()
            account = record.opened(stored)
            config = self._configure(name, account.entry)
        except (RecordUnusable, SealError, SettingsError) as error:
            self.note_problem(name, str(error))
            return None
        self._observe(config, account)
        return _Found(
            version=version_of(stored),
            due_at=config.indexed_at(account, self._shared.clock.now()),
            keeps_index=stored is None or record.is_indexed(stored),
        )

    def observe(self, found: Opened) -> None:
        """Bring the record of an open keeper into the directory."""
        self._observe(found.config, found.keeper.account)

    def _observe(self, config: AccountConfig, account: Account) -> None:
        has_record = account.generation > 0
        if not has_record and config.name not in self._directory.declared:
            # The index or the stream has a name that is no account's.
            self._directory.forget([config.name])
            return
        self.note(config.name, glimpse(config, account, self._shared.clock.now()))
        seconds = tick_seconds(account, config.policy)
        self.shortest_tick_seconds = min(self.shortest_tick_seconds, seconds)
        self._shortest_of_sweep = min(self._shortest_of_sweep, seconds)

    def note(self, name: str, found: Glimpse) -> None:
        """Remember an account, and report a problem that is new."""
        before = self._directory.note(name, found)
        if found.problem is not None and (before is None or before.problem != found.problem):
            logger.warning("%s: %s", name, found.problem)

    def note_problem(self, name: str, problem: str) -> None:
        """Remember why an account cannot be used. The rest of its glimpse stays."""
        known = self._directory.get(name) or Glimpse(source="the store")
        self.note(name, replace(known, problem=problem))
