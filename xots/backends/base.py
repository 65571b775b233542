"""``TokenStore``: the one interface behind which every store keeps its records.

A store keeps opaque bytes under a name. It gives no meaning to them (they are sealed before they arrive), so
whoever writes one never sees a secret. Its versions are its own: opaque, and never the same for different bytes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

__all__ = ["Lease", "Stored", "TokenStore"]


@dataclass(frozen=True)
class Stored:
    """What a store holds under a name."""

    value: bytes
    version: str
    """The store's own mark of these bytes, for compare-and-set. Random or a digest, never a counter: a dump that
    is restored would repeat it."""


class Lease:
    """The right to act for an account, while it is held."""

    @property
    def lost(self) -> bool:
        """True once the lease ran out under its holder, who must then not begin anything new."""
        return False


class TokenStore(ABC):
    """Keeps opaque bytes under a name (``[a-z0-9-]{1,64}``), with compare-and-set, a lease and a notice of changes.

    Names that begin with ``lease-`` are reserved for the store's own use and hidden from ``names``. A store never
    swallows an error: what it can't do it says by ``StoreUnavailable``, and then what it held is still there.
    """

    shared: bool = False
    """Do other processes see what is written here?"""
    durable: bool = False
    """Does what was written survive a restart?"""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> TokenStore:
        """The store that ``url`` names. Opens nothing yet.

        Raises:
            ValueError: the URL is not one for this store; the message says what is wrong with it.
        """

    @abstractmethod
    async def read(self, name: str) -> Stored | None:
        """What is kept under ``name``, or None when nothing is.

        Raises:
            StoreUnavailable: it can't be read now.
        """

    @abstractmethod
    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """Put ``value`` in the place of the version ``expected`` (None: nothing is there yet); the new version.

        When it returns, the value is kept as well as this store can keep it.

        Raises:
            StaleWrite: another version is there. Nothing was written.
            StoreUnavailable: it can't be written now, *or the reply was lost*: the caller reads back to know.
        """

    @abstractmethod
    async def names(self) -> list[str]:
        """The names under which something is kept, in order.

        Raises:
            StoreUnavailable: they can't be listed now.
        """

    @abstractmethod
    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Wait for the right to act for ``name`` and hold it inside the ``async with``.

        ``ttl_seconds``: how long it outlives a holder that vanished, where the store can't tell that by itself.

        Raises:
            StoreUnavailable: the lease can't be taken now.
        """

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """Yields whenever what is kept under ``name`` may have changed. This default looks every second."""
        known = await self.read(name)
        while True:
            await asyncio.sleep(every_seconds)
            found = await self.read(name)
            if found != known:
                known = found
                yield

    async def check(self) -> None:
        """Can the store be read and written now?

        Raises:
            StoreUnavailable: no; the message says why.
        """
        await self.names()

    async def close(self) -> None:
        """Give back whatever was opened. The store is not used afterwards."""
        return
