"""The memory store: for tests and short runs. Its records end with the process."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from .base import Lease, Stored, TokenStore, check_size, is_account, stale_write, version_of

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
        stored = self._kept.get(name)
        check_size(name, len(stored.value) if stored else 0)
        return stored

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        """See ``TokenStore.swap``."""
        check_size(name, len(value))
        current = self._kept.get(name)
        if version_of(current) != expected:
            raise stale_write(name)
        version = secrets.token_hex(8)
        self._kept[name] = Stored(value, version)
        await self.note_due(name, due_at)
        return version

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        return sorted(filter(is_account, self._kept))

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``."""
        async with self._locks[name]:
            yield Lease()
