"""Stores that several tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from xots.backends.base import Lease, TokenStore
from xots.backends.memory import MemoryStore


class PlainStore(MemoryStore):
    """A store with neither a lock nor a clock of its own: its leases are records."""

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with TokenStore.lease(self, name, ttl_seconds) as lease:
            yield lease
