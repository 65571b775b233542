"""``TokenStore``: the contract that every store fulfils.

A store keeps opaque bytes under a name and gives them no meaning. They are sealed before they
arrive, so the author of a store never sees a secret. A store must pass the test suite
``xots.testing.TokenStoreContract``.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..clock import MAX_CLOCK_SKEW, SystemClock
from ..errors import StaleWrite, StoreUnavailable

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

LEASE_PREFIX = "lease-"
"""The prefix of the names that a store uses itself. ``names`` hides them."""

LEASE_TIMEOUT_SECONDS = 40.0
"""Time to wait for a lease that another process holds: longer than a refresh with its deadline."""

LEASE_POLL_INTERVAL_SECONDS = 0.05
"""Interval between attempts to take a lease that another process holds."""

LEASE_TOO_LONG = (
    "another process has held the lease of {} for too long: restart that process if it hangs"
)

MAX_TIMESTAMP = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Stored:
    """The record that a store holds under a name."""

    value: bytes
    version: str
    """An opaque mark of these bytes, for compare-and-set. Different bytes never have the same
    version: it is random or a digest. A counter would repeat after a backup is restored."""


class Lease:
    """The right to act for an account while it is held.

    Args:
        ttl_seconds: its lifetime from now, unless it is renewed; None if it never expires.
    """

    def __init__(self, ttl_seconds: float | None = None) -> None:
        self._ends_at = None if ttl_seconds is None else SystemClock().elapsed() + ttl_seconds
        self._lost = False

    def extend(self, ttl_seconds: float, *, since: float) -> None:
        """Note that the store has renewed it.

        Args:
            ttl_seconds: its lifetime.
            since: the start of the lifetime: the clock's elapsed time before the request was sent.
        """
        self._ends_at = since + ttl_seconds

    def lose(self) -> None:
        """Note that the store has given it to another holder."""
        self._lost = True

    @property
    def lost(self) -> bool:
        """True once it has expired or another holder has it. Its holder must start nothing new.

        Expiry is measured by this host's clock, without a request. So a process that was stopped,
        or whose machine was suspended, finds this out as soon as it continues.
        """
        return self._lost or (
            self._ends_at is not None and SystemClock().elapsed() >= self._ends_at
        )


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
        return _RecordedLease(self, name, ttl_seconds).held()

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
        found = _lease_holder(await self.read(_lease_key(name)))
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


def checked_name(name: str) -> str:
    """Return ``name`` if it can name a record: 1 to 64 of ``a-z``, ``0-9`` and ``-``.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
        raise ValueError(
            f"{name!r} is not a name of up to 64 lower-case letters, digits and hyphens"
        )
    return name


def version_of(stored: Stored | None) -> str | None:
    """Return the version of a record; None if there is no record."""
    return stored.version if stored else None


def stale_write(name: str) -> StaleWrite:
    """Return the error for a write that found another version of ``name`` than the expected one."""
    return StaleWrite(f"another process has written {name} meanwhile; nothing was written")


async def wait_for_lease(attempt: Callable[[], Awaitable[Lease | None]], too_long: str) -> Lease:
    """Repeat ``attempt`` until it returns a lease.

    Args:
        attempt: takes the lease and returns it; returns None if another holder has it.
        too_long: the message if that takes longer than ``LEASE_TIMEOUT_SECONDS``.

    Raises:
        StoreUnavailable: it takes too long, or ``attempt`` raised it.
    """
    give_up_at = time.monotonic() + LEASE_TIMEOUT_SECONDS
    while (lease := await attempt()) is None:
        if time.monotonic() > give_up_at:
            raise StoreUnavailable(too_long)
        await asyncio.sleep(LEASE_POLL_INTERVAL_SECONDS)
    return lease


class _RecordedLease:
    """A lease as a record in the store, which names its holder and its end by the wall clock.

    A lease is free when its end has passed. It is also free when its end is further off than any
    lease lasts, because then a clock is wrong (``MAX_CLOCK_SKEW``). Either can be misjudged, so
    each write is a compare-and-set: a holder that was replaced finds that out at its next write.
    With leases of 12 seconds::

        second  process A               process B               record
        ------  ----------------------  ----------------------  -----------
           0.0  takes the lease                                 A until 12
           1.0                          finds it held, waits
           3.0  renews it                                       A until 15
           4.0  is suspended
          15.0                          finds it expired,
                                        takes it                B until 27
          18.0                          renews it               B until 30
          20.0  wakes up: its lease
                is lost by its own
                clock; renewing and
                releasing are stale
                writes
          20.5                          releases it             B until 20.5
    """

    def __init__(self, store: TokenStore, name: str, ttl_seconds: float) -> None:
        self._store, self._name, self._ttl_seconds = store, name, ttl_seconds
        self._holder = secrets.token_hex(8)
        self._version: str | None = None
        """The version of the record that was read or written last."""

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Lease]:
        lease = await wait_for_lease(self._take, LEASE_TOO_LONG.format(self._name))
        released = asyncio.Event()
        renewal = asyncio.create_task(self._renew_until(released, lease))
        try:
            yield lease
        finally:
            released.set()
            await renewal  # its version is the one to replace
            # A lease that cannot be released now expires.
            with suppress(StaleWrite, StoreUnavailable):
                await self._write(ttl_seconds=0)

    async def _take(self) -> Lease | None:
        """Take the lease; return None if it is held."""
        stored = await self._store.read(_lease_key(self._name))
        if self._is_held(stored):
            return None
        self._version = version_of(stored)
        lease = Lease(self._ttl_seconds)  # it counts from before the request
        try:
            await self._write(self._ttl_seconds)
        except StaleWrite:
            return None
        return lease

    def _is_held(self, stored: Stored | None) -> bool:
        seconds_left = _ends_at(stored) - time.time()
        return 0 < seconds_left <= self._ttl_seconds + MAX_CLOCK_SKEW.total_seconds()

    async def _renew_until(self, released: asyncio.Event, lease: Lease) -> None:
        while not await _is_set_within(self._ttl_seconds / 4, released):
            requested_at = SystemClock().elapsed()
            try:
                await self._write(self._ttl_seconds)
            except StaleWrite:
                lease.lose()
                return
            except StoreUnavailable:
                continue  # the lease knows its own end
            lease.extend(self._ttl_seconds, since=requested_at)

    async def _write(self, ttl_seconds: float) -> None:
        """Write an end in ``ttl_seconds``; it fails if another holder has written meanwhile."""
        now = time.time()
        record = {
            "holder": self._holder,
            "host": socket.gethostname(),
            "at": now,
            "until": now + ttl_seconds,
            # No two records have the same bytes, or they could have the same digest as version.
            "mark": secrets.token_hex(4),
        }
        self._version = await self._store.swap(
            _lease_key(self._name), json.dumps(record).encode(), expected=self._version
        )


async def _is_set_within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _lease_key(name: str) -> str:
    return LEASE_PREFIX + name[: 64 - len(LEASE_PREFIX)]


def _ends_at(stored: Stored | None) -> float:
    """Return when a recorded lease ends, in seconds since 1970; 0 if the record does not say."""
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
