"""The memory store: for tests and short runs. Its records end with the process."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .base import LEASE_PREFIX, Lease, Stored, TokenStore, stale_write

__all__ = ["MemoryStore"]


class MemoryStore(TokenStore):
    """Keeps records in a dictionary; the lease is an ``asyncio.Lock``."""

    def __init__(self) -> None:
        self._kept: dict[str, Stored] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        """Return a new store without records. The URL is ``memory:``.

        Raises:
            ValueError: the URL is another one.
        """
        if url.rstrip("/") != "memory:":
            raise ValueError("the memory store has no location: its URL is memory:")
        return cls()

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        return self._kept.get(name)

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """See ``TokenStore.swap``."""
        current = self._kept.get(name)
        if (current.version if current else None) != expected:
            raise stale_write(name)
        version = secrets.token_hex(8)
        self._kept[name] = Stored(value, version)
        return version

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        return sorted(name for name in self._kept if not name.startswith(LEASE_PREFIX))

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``."""
        async with self._locks[name]:
            yield Lease()
