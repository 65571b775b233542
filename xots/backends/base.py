"""``TokenStore``: the one interface behind which every store keeps its records.

A store keeps opaque bytes under a name. It gives no meaning to them (they are sealed before they arrive), so
whoever writes one never sees a secret. ``xots.testing.TokenStoreContract`` is the suite that a store must pass.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..clock import MAX_CLOCK_SKEW, SystemClock
from ..errors import StaleWrite, StoreUnavailable

__all__ = [
    "LEASE_PATIENCE_SECONDS",
    "LEASE_PREFIX",
    "LOOK_EVERY_SECONDS",
    "Lease",
    "Stored",
    "TokenStore",
    "checked_name",
]

LEASE_PREFIX = "lease-"
"""Names that begin so are the store's own, and hidden."""

LEASE_PATIENCE_SECONDS = 40.0
"""How long to wait for a lease that somebody else holds: longer than a refresh with its deadline takes."""

MAX_TIMESTAMP = datetime(9999, 1, 1, tzinfo=UTC).timestamp()

LOOK_EVERY_SECONDS = 0.05
"""How often a lease that somebody else holds is looked at."""


@dataclass(frozen=True)
class Stored:
    """What a store holds under a name."""

    value: bytes
    version: str
    """The store's own mark of these bytes, for compare-and-set. Opaque, and never the same for different bytes:
    random or a digest, never a counter, which a restored dump would repeat."""


class Lease:
    """The right to act for an account, while it is held.

    Args:
        ttl_seconds: how long it lasts from now unless it is renewed; None for one that can't run out.
    """

    def __init__(self, ttl_seconds: float | None = None) -> None:
        self._ends_at = None if ttl_seconds is None else SystemClock().elapsed() + ttl_seconds
        self._lost = False

    def renewed(self, ttl_seconds: float, since: float) -> None:
        """Count the life anew from ``since``: the clock's elapsed time when the request was sent."""
        self._ends_at = since + ttl_seconds

    def lose(self) -> None:
        """The store says that somebody else holds it."""
        self._lost = True

    @property
    def lost(self) -> bool:
        """True once it ran out under its holder, who must then not begin anything new. A process that was stopped
        for a while, or its machine suspended, learns it here at once, without asking the store."""
        return self._lost or (
            self._ends_at is not None and SystemClock().elapsed() >= self._ends_at
        )


def checked_name(name: str) -> str:
    """The name, if it is one: 1 to 64 of ``a-z``, ``0-9`` and ``-``.

    Raises:
        ValueError: it isn't.
    """
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
        raise ValueError(
            f"{name!r} is not a name of up to 64 lower-case letters, digits and hyphens"
        )
    return name


class TokenStore(ABC):
    """Keeps opaque bytes under a name (``[a-z0-9-]{1,64}``), with compare-and-set, a lease and a notice of changes.

    A store must provide ``from_url``, ``read``, ``swap`` and ``names``; the rest has defaults that are built on
    these. What every store does:

    - A **missing name** is None when read, and ``expected=None`` when written. Nothing is ever deleted: whoever wants
      an account forgotten writes an empty record.
    - A **stale write** (the version is no longer the expected one) raises ``StaleWrite`` and has written nothing.
    - A **lost reply** (it may have been written, or not) raises ``StoreUnavailable``, and is never tried again by the
      store. The caller reads back, and knows its own write by what it wrote.
    - A store that **can't be reached** raises ``StoreUnavailable`` soon (within some seconds), keeps what it held,
      and works again by itself when the cause is gone. It never swallows an error.
    """

    shared: bool = False
    """Do other processes see what is written here?"""
    durable: bool = False
    """Does what was written survive a restart?"""
    may_generate_key: bool = False
    """May a sealing key be made for it at its first start? Only where every process that shares it reads the same
    key file: on one machine, for one user."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> TokenStore:
        """The store that ``url`` names. Opens nothing yet.

        Raises:
            ValueError: the URL is not one for this store; the message says what is wrong, without a password in it.
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
        """The names under which something is kept, in order, without those that begin with ``lease-``.

        Raises:
            StoreUnavailable: they can't be listed now.
        """

    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Wait for the right to act for ``name`` and hold it inside the ``async with``.

        This default writes who holds it, and until when, under a name of its own, and renews that while it is held.
        A store with a lock of its own overrides it.

        Args:
            name: the account.
            ttl_seconds: how long it outlives a holder that vanished, where the store can't tell that by itself.

        Raises:
            StoreUnavailable: it can't be taken now, or somebody else held it for longer than anybody should.
        """
        return self._lease_by_swap(name, ttl_seconds)

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """Yields once when it begins to look, since somebody may have written just before, and then whenever what is
        kept under ``name`` may have changed. This default looks every second.

        Raises:
            StoreUnavailable: it can't be told now. Whoever asks again must look for himself first.
        """
        known: object = object()  # equal to nothing that is read
        while True:
            if (found := await self.read(name)) != known:
                known = found
                yield
            await asyncio.sleep(every_seconds)

    async def check(self) -> None:
        """Can the store be read and written now?

        Raises:
            StoreUnavailable: no; the message says why.
        """
        await self.names()

    async def clock_skew(self, name: str) -> tuple[str, timedelta] | None:
        """Compare this host's clock with the store's, or with that of the lease's holder.

        This default can tell of a holder whose clock is ahead.

        Returns:
            The name of the host or server, and how far its clock is ahead of this host's (negative:
            behind); None if the store cannot tell.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        found = _lease_holder(await self.read(_lease_key(name)))
        if found is None:
            return None
        host, at = found
        return (host, timedelta(seconds=at - time.time())) if at > time.time() else None

    async def warnings(self) -> list[str]:
        """What an operator should know of how well this store keeps what it acknowledges: a sentence each.

        Raises:
            StoreUnavailable: it can't be told now.
        """
        return []

    async def close(self) -> None:
        """Give back whatever was opened. The store is not used afterwards."""
        return

    @asynccontextmanager
    async def _lease_by_swap(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """A lease is a record of its holder and its end by the wall clock.

        A lease whose end has passed is taken over, and one whose end lies further off than any lease
        lasts, by clocks that agree to within ``MAX_CLOCK_SKEW``.
        """
        key, me = _lease_key(name), secrets.token_hex(8)
        give_up_at = time.monotonic() + LEASE_PATIENCE_SECONDS
        while True:
            stored = await self.read(key)
            until = _ends_at(stored)
            if not 0 < until - time.time() <= ttl_seconds + MAX_CLOCK_SKEW.total_seconds():
                asked_at = SystemClock().elapsed()
                with suppress(StaleWrite):
                    version = await self.swap(
                        key,
                        _lease_record(me, ttl_seconds),
                        expected=stored.version if stored else None,
                    )
                    break
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"another process has held the lease of {name} for too long")
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        lease = Lease(ttl_seconds)
        lease.renewed(ttl_seconds, asked_at)

        released = asyncio.Event()

        async def renew() -> None:
            nonlocal version
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(released.wait(), ttl_seconds / 4)
                    return
                asked_at = SystemClock().elapsed()
                try:
                    version = await self.swap(key, _lease_record(me, ttl_seconds), expected=version)
                    lease.renewed(ttl_seconds, asked_at)
                except StaleWrite:
                    lease.lose()
                    return
                except StoreUnavailable:
                    continue  # it lasts until its end, which the lease itself knows

        renewal = asyncio.create_task(renew())
        try:
            yield lease
        finally:
            released.set()
            await renewal
            # If it can't be given back, it runs out by itself.
            with suppress(StaleWrite, StoreUnavailable):
                await self.swap(key, _lease_record(me, 0), expected=version)


def _lease_key(name: str) -> str:
    return LEASE_PREFIX + name[: 64 - len(LEASE_PREFIX)]


def _ends_at(stored: Stored | None) -> float:
    """When a lease's record says that it ends; one that says nothing of the kind holds nobody up."""
    try:
        return float(json.loads(stored.value)["until"]) if stored else 0.0
    except (ValueError, TypeError, KeyError):
        return 0.0


def _lease_holder(stored: Stored | None) -> tuple[str, float] | None:
    """Return the host that wrote the lease, and when by its clock; None if the lease does not say.

    Leases are not sealed: a host name of other characters, or an impossible time, counts as none.
    """
    try:
        lease = json.loads(stored.value) if stored else {}
        host, at = str(lease["host"]), float(lease["at"])
    except (ValueError, TypeError, KeyError):
        return None
    is_plausible = re.fullmatch(r"[A-Za-z0-9._-]{1,255}", host) and 0 <= at <= MAX_TIMESTAMP
    return (host, at) if is_plausible else None


def _lease_record(holder: str, ttl_seconds: float) -> bytes:
    # A random part, so that no two records have the same bytes, and so the same digest for a version.
    now = time.time()
    lease = {"holder": holder, "host": socket.gethostname(), "at": now, "until": now + ttl_seconds}
    return json.dumps(lease | {"mark": secrets.token_hex(4)}).encode()
