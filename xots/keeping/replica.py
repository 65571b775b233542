"""``Replica``: one account's record in memory, kept in agreement with the store.

Callers are served from memory. Memory follows the store, with two exceptions in which memory knows
more:

- It holds a response from Xero that the store could not take yet, until that is written.
- A store that has lost writes (restored from an old dump, failed over to a replica that lagged) is
  written again.

The response to a refresh is committed before the next ``await``: it is never only a local variable.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto

import msgspec
from msgspec.structs import replace

from ..backends.base import Lease, Stored, version_of
from ..clock import Clock
from ..errors import SealError, StaleWrite, StoreUnavailable
from ..lifecycle.account import Account
from ..lifecycle.expiry import Expiry
from ..lifecycle.merging import diverged, merged
from .record_store import RecordStore

__all__ = ["Peeked", "Replica", "StoreChange"]


class StoreChange(Enum):
    """The changes of the store's health that the replica reports."""

    FAILED = auto()
    """The store cannot be used, or memory holds a change that it could not take."""
    RECOVERED = auto()
    LOST_WRITES = auto()


class Peeked(Enum):
    """The results of a look at the store without the lease."""

    NOTHING_NEW = auto()
    FOLLOWED = auto()
    """Another process wrote the record, and memory follows it."""
    LOST_WRITES = auto()
    """The store has lost writes. That is settled under the lease."""


class _Seen(msgspec.Struct, frozen=True):
    """The record that the store was last seen to hold, and its version there."""

    account: Account
    version: str | None


class Replica:
    """One account's record.

    Args:
        record: the record in the store.
        clock: this host's clock.
        report: receives the changes of the store's health, at once. It must not raise.
    """

    def __init__(
        self,
        record: RecordStore,
        *,
        clock: Clock,
        report: Callable[[StoreChange], None],
    ) -> None:
        self.account = Account()
        """The newest version of the record, perhaps not stored yet. It is replaced whole."""
        self.expiry = Expiry()
        """The ends of its access token and wait by the clock that cannot be set."""
        self.unsaved = False
        """True while memory holds a change that the store has not acknowledged."""
        self.rolled_back = False
        """True if ``unsaved``, because the store lost writes that it had acknowledged."""
        self.problem: str | None = None
        """Why the store cannot be used now; None if it can."""
        self._record = record
        self._clock = clock
        self._report = report
        self._seen = _Seen(self.account, None)
        self._holders = 0
        """Operations of this process that took the lease. They may have lost it since."""

    @property
    def needs_settling(self) -> bool:
        """True while the store has failed, or memory holds a change."""
        return self.unsaved or self.problem is not None

    @property
    def _is_busy(self) -> bool:
        """True while an operation of this process is under way, or its change is not written."""
        return self.unsaved or self._holders > 0

    def dated(self) -> Account:
        """Return the record with its dates corrected for changes of this host's clock."""
        return self.expiry.dated(self.account, self._clock.now(), self._clock.elapsed())

    # ---------- under the lease

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Lease]:
        """Take the lease and read the record again, for an operation on the account.

        Raises:
            StoreUnavailable, SealError: as ``read``, and if the lease cannot be taken.
        """
        async with self._record.lease() as lease:
            self._holders += 1
            try:
                await self.read()
                yield lease
            finally:
                self._holders -= 1

    async def read(self) -> None:
        """Bring memory and store together: write the change in memory, or follow the store.

        Raises:
            StoreUnavailable: the store cannot be read, or not be written where it must. Memory
            stays. SealError: the stored record cannot be opened. It stays as it is, and so does
            memory.
        """
        while not self.unsaved:
            seen, stored = self._seen, await self._record.read()
            theirs = self._record.opened(stored)
            if self.unsaved or self._seen is not seen:
                continue  # another operation has held or written a change meanwhile
            if not self._has_lost_writes(theirs):
                self._follow(stored, theirs)
                return
            self._join(stored, theirs)
        await self._write_held()

    async def compare_and_set(self, account: Account) -> Account:
        """Write ``account`` in place of the record that memory follows; return it as it was
        written.

        Raises:
            StaleWrite: another record is there. Memory stays.
            StoreUnavailable, SealError: it was not written, or this is not known. Memory stays.
        """
        before, account = self.account, self._stamped(account, above=self.account)
        try:
            version = await self._record.swap(account, self._seen.version)
        except StoreUnavailable as error:
            self.failed(error)
            raise
        if self.account is before:
            self._adopt(account, unsaved=False)
            self.rolled_back = False
            self._seen = _Seen(account, version)
            self.works()
        # Otherwise another operation changed memory meanwhile. Its write will merge with this one.
        return account

    async def commit(self, account: Account, *, after: Account) -> None:
        """Write ``account``, which was made from ``after`` and must not be lost.

        Memory has it at once, before it is stored.

        If memory follows another record by now, or the store holds another one, both are merged. If
        the store fails, memory holds the change, and a later ``read`` writes it.
        """
        if self.account.write_id != after.write_id:
            # Memory has changed since: the lease was lost, or another operation has written.
            account = merged(self.account, account)
        self._hold(account, above=self.account)
        try:
            await self._write_held()
        except (StoreUnavailable, SealError) as error:
            self.problem = None  # report the unsaved change, even if the failure is known
            self.failed(error)

    async def update(self, change: Callable[[Account], Account]) -> None:
        """Write ``change(record)`` for the record that is there, whichever process wrote that.

        Raises:
            StoreUnavailable, SealError: as ``read``.
        """
        while True:
            try:
                await self.compare_and_set(change(self.account))
            except StaleWrite:
                await self.read()
            else:
                return

    # ---------- without the lease

    async def peek(self) -> Peeked:
        """Follow the store if another process wrote, unless an operation of this one is under way.

        Raises:
            StoreUnavailable, SealError: as ``read``.
        """
        seen = self._seen
        if self._is_busy:
            return Peeked.NOTHING_NEW
        stored = await self._record.read()
        if self._is_busy or self._seen is not seen or version_of(stored) == seen.version:
            return Peeked.NOTHING_NEW
        theirs = self._record.opened(stored)
        if self._has_lost_writes(theirs):
            return Peeked.LOST_WRITES
        self._follow(stored, theirs)
        return Peeked.FOLLOWED

    def failed(self, error: Exception) -> None:
        """Note that the store failed. Callers are served from memory meanwhile."""
        began, self.problem = self.problem is None, f"{error}"
        if began:
            self._report(StoreChange.FAILED)

    def works(self) -> None:
        """Note that the store works."""
        if self.problem is not None:
            self.problem = None
            self._report(StoreChange.RECOVERED)

    # ---------- inside

    async def _write_held(self) -> None:
        while self.unsaved:
            account = self.account
            try:
                version = await self._record.swap(account, self._seen.version)
            except StaleWrite:
                stored = await self._record.read()
                self._join(stored, self._record.opened(stored))
            else:
                self._seen = _Seen(account, version)
                self.unsaved = self.account is not account  # another operation may have held more
                self.rolled_back = False
                if not self.unsaved:
                    self.works()

    def _has_lost_writes(self, theirs: Account) -> bool:
        """Tell if the store went back to an older record than it was seen to hold.

        A lower generation tells. A higher one proves nothing: after a fail-over another process may
        have written past ours. Then the epoch and the tokens tell.
        """
        seen = self._seen.account
        if theirs.generation == seen.generation:
            return theirs.write_id != seen.write_id
        is_older = theirs.generation < seen.generation or theirs.epoch < seen.epoch
        return is_older or diverged(theirs, seen)

    def _join(self, stored: Stored | None, theirs: Account) -> None:
        """Hold memory merged with the stored record. The stored one is the base of the merge,
        unless the store has lost writes, or ours was made from it."""
        has_lost = self._has_lost_writes(theirs)
        ours_first = has_lost or theirs.write_id == self._seen.account.write_id
        pair = (self.account, theirs) if ours_first else (theirs, self.account)
        self._hold(merged(*pair), above=theirs)
        self._note(stored, theirs)
        if has_lost:
            self.rolled_back = True
            self._report(StoreChange.LOST_WRITES)

    def _hold(self, account: Account, *, above: Account) -> None:
        self._adopt(self._stamped(account, above=above), unsaved=True)

    def _stamped(self, account: Account, *, above: Account) -> Account:
        generation = max(self.account.generation, above.generation) + 1
        return replace(account, generation=generation, write_id=secrets.token_hex(8))

    def _follow(self, stored: Stored | None, theirs: Account) -> None:
        self._adopt(theirs, unsaved=False)
        self._note(stored, theirs)

    def _adopt(self, account: Account, *, unsaved: bool) -> None:
        """Make ``account`` the record in memory: the one place that does."""
        self.account, self.unsaved = account, unsaved
        self.expiry = self.expiry.seen(account, self._clock.now(), self._clock.elapsed())

    def _note(self, stored: Stored | None, theirs: Account) -> None:
        self._seen = _Seen(theirs, version_of(stored))
