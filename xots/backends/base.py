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
from datetime import timedelta

from .leases import LEASE_TOO_LONG, Lease, RecordedLease, lease_holder, lease_key, wait_for_lease
from .records import LEASE_PREFIX, Stored, checked_name, stale_write, version_of

__all__ = [
    "LEASE_PREFIX",
    "LEASE_TOO_LONG",
    "Lease",
    "Stored",
    "TokenStore",
    "checked_name",
    "stale_write",
    "version_of",
    "wait_for_lease",
]


class TokenStore(ABC):
    """Keeps opaque bytes under a name (``[a-z0-9-]{1,64}``), with compare-and-set, a lease and a
    notice of changes.

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
      It never hides an error.
    """

    shared: bool = False
    """True if other processes see the records that this one writes."""
    durable: bool = False
    """True if the records survive a restart."""
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
        """

    @abstractmethod
    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """Replace the version ``expected`` by ``value``, and return the new version.

        When it returns, the record is as safe as this store can make it.

        Args:
            name: the name of the record.
            value: the new bytes.
            expected: the version to replace; None to create the record.

        Raises:
            StaleWrite: the stored version is another one. Nothing was written.
            StoreUnavailable: the store cannot be written now, *or the response was lost*. The
                caller must read the record to know if it was written.
        """

    @abstractmethod
    async def names(self) -> list[str]:
        """Return the names of all records in order, without those that begin with ``lease-``.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """

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

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """Yield whenever the record under ``name`` may have changed.

        The first time, it yields when it begins to watch, because another process may have written
        just before. This default reads the record at an interval.

        Args:
            name: the name of the record.
            every_seconds: the interval. A store that notices changes by itself ignores it.

        Raises:
            StoreUnavailable: the store cannot be watched now. A caller that starts again must read
                the record first.
        """
        known: object = object()  # equal to nothing that can be read
        while True:
            if (found := await self.read(name)) != known:
                known = found
                yield
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
