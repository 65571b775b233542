"""``Lease``: the right to act for an account, and a lease that a store without locks can keep."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol

from ..clock import MAX_CLOCK_SKEW, SystemClock
from ..errors import StaleWrite, StoreUnavailable
from .records import LEASE_PREFIX, Stored, version_of

__all__ = [
    "LEASE_TOO_LONG",
    "Lease",
    "RecordedLease",
    "lease_holder",
    "lease_key",
    "wait_for_lease",
]

LEASE_TIMEOUT_SECONDS = 40.0
"""Time to wait for a lease that another process holds: longer than a refresh with its deadline."""

LEASE_POLL_INTERVAL_SECONDS = 0.05
"""Interval between attempts to take a lease that another process holds, in the first seconds."""

SLOW_POLL_AFTER_SECONDS, SLOW_POLL_INTERVAL_SECONDS = 2.0, 0.25
"""The same later: then more than a hundred accounts may wait, for a process that hangs."""

LEASE_TOO_LONG = (
    "another process has held the lease of {} for too long: restart that process if it hangs"
)

MAX_TIMESTAMP = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


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


async def wait_for_lease(attempt: Callable[[], Awaitable[Lease | None]], too_long: str) -> Lease:
    """Repeat ``attempt`` until it returns a lease.

    Args:
        attempt: takes the lease and returns it; returns None if another holder has it.
        too_long: the message if that takes longer than ``LEASE_TIMEOUT_SECONDS``.

    Raises:
        StoreUnavailable: it takes too long, or ``attempt`` raised it.
    """
    began = time.monotonic()
    while (lease := await attempt()) is None:
        waited = time.monotonic() - began
        if waited > LEASE_TIMEOUT_SECONDS:
            raise StoreUnavailable(too_long)
        is_slow = waited > SLOW_POLL_AFTER_SECONDS
        await asyncio.sleep(SLOW_POLL_INTERVAL_SECONDS if is_slow else LEASE_POLL_INTERVAL_SECONDS)
    return lease


class _Records(Protocol):
    """The part of a ``TokenStore`` that a recorded lease needs."""

    async def read(self, name: str) -> Stored | None: ...

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str: ...


class RecordedLease:
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

    def __init__(self, store: _Records, name: str, ttl_seconds: float) -> None:
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
        stored = await self._store.read(lease_key(self._name))
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
            lease_key(self._name), json.dumps(record).encode(), expected=self._version
        )


async def _is_set_within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def lease_key(name: str) -> str:
    """Return the name of the record that holds a lease: a digest stands for a long name."""
    longest = 64 - len(LEASE_PREFIX)
    if len(name) > longest:
        name = hashlib.sha256(name.encode()).hexdigest()[:longest]
    return LEASE_PREFIX + name


def _ends_at(stored: Stored | None) -> float:
    """Return when a recorded lease ends, in seconds since 1970; 0 if the record does not say."""
    try:
        return float(json.loads(stored.value)["until"]) if stored else 0.0
    except (ValueError, TypeError, KeyError):
        return 0.0


def lease_holder(stored: Stored | None) -> tuple[str, float] | None:
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
