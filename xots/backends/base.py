"""``TokenStore``: the contract that every store fulfils.

A store keeps opaque bytes under a name and gives them no meaning. They are sealed before they
arrive, so the author of a store never sees a secret. A store must pass the test suite
``xots.testing.TokenStoreContract``.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import cached_property

from ..errors import RecordUnusable
from .due_index import DueIndex
from .leases import LEASE_TOO_LONG, Lease, RecordedLease, lease_holder, lease_key, wait_for_lease
from .records import (
    LEASE_PREFIX,
    MAX_RECORD_BYTES,
    Stored,
    check_size,
    checked_name,
    is_account,
    stale_write,
    version_of,
)

__all__ = [
    "LEASE_PREFIX",
    "LEASE_TOO_LONG",
    "MAX_RECORD_BYTES",
    "Lease",
    "Stored",
    "TokenStore",
    "check_size",
    "checked_name",
    "is_account",
    "stale_write",
    "version_of",
    "wait_for_lease",
]

MAX_READS_PER_SECOND = 100.0
"""Upper bound on the reads of a store that is watched by reading it, however many records it has.
"""


class TokenStore(ABC):
    """Keeps opaque bytes under a name (``[a-z0-9-]{1,64}``), with compare-and-set, a lease, a
    stream of changes and an index of due accounts.

    A store must provide ``from_url``, ``read``, ``swap`` and ``names``. The other methods have
    defaults, which use these four. Every store behaves as follows:

    - A **missing name**: ``read`` returns None, and ``swap`` creates it with ``expected=None``.
      Nothing is ever deleted. To forget an account, the caller writes an empty record.
    - A **stale write**: if the stored version is not the expected one, ``swap`` raises
      ``StaleWrite`` and has written nothing.
    - A **lost response**: the record may have been written, or not. ``swap`` raises
      ``StoreUnavailable``, and the store never retries. The caller reads the record and recognises
      its own write by the bytes.
    - A **store that cannot be reached**: every method raises ``StoreUnavailable`` within seconds.
      The store keeps its records and works again without a restart once the cause is gone.
      It never hides an error, and never reports records that it cannot reach as missing.
    - A **record that cannot be used**, such as one of more than ``MAX_RECORD_BYTES``: ``read`` and
      ``swap`` raise ``RecordUnusable``. ``names`` and ``changes`` go on with the other records,
      and skip names that no account can have.

    All methods run in the event loop, and none of them blocks it.
    """

    shared: bool = False
    """True if other processes see the records that this one writes."""
    durable: bool = False
    """True if the records survive a restart."""
    shares_index: bool = False
    """True if other processes see the index of due accounts that this one keeps."""
    may_generate_key: bool = False
    """True if the first start may generate a sealing key. This is safe only if all processes that
    share the store read the same key file: on one machine, for one user."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> TokenStore:
        """Return the store at ``url``. It opens nothing yet.

        Raises:
            ValueError: the URL is not one for this store. The message names the fault, and never
                quotes a password.
        """

    @abstractmethod
    async def read(self, name: str) -> Stored | None:
        """Return the record under ``name``; None if there is none.

        Raises:
            StoreUnavailable: the store cannot be read now.
            RecordUnusable: this record cannot be used; ``check_size`` raises it.
        """

    @abstractmethod
    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        """Replace the version ``expected`` by ``value``, and return the new version.

        When it returns, the record is as safe as this store can make it. A store with the default
        index begins with ``check_size(name, len(value))`` and ends with
        ``await self.note_due(name, due_at)``.

        Args:
            name: the name of the record.
            value: the new bytes.
            expected: the version to replace; None to create the record.
            due_at: when the account next needs attention, aware UTC; None if it needs none.

        Raises:
            StaleWrite: the stored version is another one. Nothing was written.
            StoreUnavailable: the store cannot be written now, *or the response was lost*. The
                caller must read the record to know if it was written.
            RecordUnusable: the record, or the new one, cannot be used. Nothing was written.
        """

    @abstractmethod
    async def names(self) -> list[str]:
        """Return the names of all records in order, without those that begin with ``lease-``.

        ``is_account`` tells if a name belongs to the result.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """

    async def due(self, before: datetime, limit: int) -> list[str]:
        """Return the names of accounts that need attention, the earliest first. It removes none.

        The index is a hint. This default keeps it in the memory of this process: a new process
        fills it from the records, by ``note_due``.

        Args:
            before: the latest time that counts, aware UTC.
            limit: the upper bound on the number of names.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        return self._due_index.due(before, limit)

    async def note_due(self, name: str, due_at: datetime | None) -> None:
        """Correct the index by a record that was read. It writes no record.

        Args:
            name: the account.
            due_at: when the account next needs attention, aware UTC; None if it needs none.

        Raises:
            StoreUnavailable: the store cannot be written now.
        """
        self._due_index.note(name, due_at)

    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Wait for the lease of ``name``, and hold it inside the ``async with``.

        This default keeps the lease as a record under a name of its own, and renews it while it
        is held. A store with locks of its own overrides this method.

        Args:
            name: the account.
            ttl_seconds: the lifetime of the lease if its holder dies. A store that notices the
                death of a holder may ignore it.

        Raises:
            StoreUnavailable: the store cannot be used now, or another process has held the lease
                for longer than ``LEASE_TIMEOUT_SECONDS``.
        """
        return RecordedLease(self, name, ttl_seconds).held()

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        """Yield the name of each record that another process may have written.

        None stands for every record. It is yielded first, as soon as changes are noticed, and
        whenever some may have been missed. This process's own writes may be reported too. This
        default reads all records again and again, at most ``MAX_READS_PER_SECOND``.

        Args:
            every_seconds: the interval. A store that notices changes by itself ignores it.

        Raises:
            StoreUnavailable: the store cannot be watched now. A caller that starts again gets None
                first.
        """
        versions: dict[str, str | None] = {}
        yield None  # a record that is written from now on is not known yet, so it is reported
        while True:
            names = await self.names()
            for name in versions.keys() - set(names):
                del versions[name]
                yield name
            for name in names:
                version = await self._version_at(name)
                if name not in versions or versions[name] != version:
                    versions[name] = version
                    yield name
                await asyncio.sleep(1 / MAX_READS_PER_SECOND)
            await asyncio.sleep(every_seconds)

    async def check(self) -> None:
        """Check that the store can be read and written now.

        Raises:
            StoreUnavailable: it cannot; the message says why.
        """
        await self.names()

    async def clock_skew(self, name: str) -> tuple[str, timedelta] | None:
        """Compare this host's clock with the store's, or with that of the lease's holder.

        This default only notices a holder whose clock is ahead.

        Returns:
            The name of the host or server, and how far its clock is ahead of this host's (negative:
            behind); None if the store cannot tell.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        found = lease_holder(await self.read(lease_key(name)))
        if found is None:
            return None
        host, at = found
        return (host, timedelta(seconds=at - time.time())) if at > time.time() else None

    async def foreign(self) -> list[str]:
        """Return the names of records that no account can have, in order. Another program or an
        operator has written them. The other methods skip them.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        return []

    async def warnings(self) -> list[str]:
        """Return the ways in which this store may lose an acknowledged record, or reveal a secret
        of its URL, a sentence each.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        return []

    async def close(self) -> None:
        """Close everything that was opened. The store is not used afterwards."""
        return

    @cached_property
    def _due_index(self) -> DueIndex:
        """The index in memory. A subclass need not call the constructor of this class."""
        return DueIndex()

    async def _version_at(self, name: str) -> str | None:
        """Return the version of a record; None if there is none or it cannot be used."""
        try:
            return version_of(await self.read(name))
        except RecordUnusable:
            return None
