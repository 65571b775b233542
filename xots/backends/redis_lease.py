"""``held``: the lease of an account in Redis, which frees it when its holder dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import exceptions
from redis.asyncio.lock import Lock

from ..clock import MAX_CLOCK_SKEW, SystemClock
from ..errors import StoreUnavailable
from ..tasks import cancel_until_done
from .leases import LEASE_TOO_LONG, Lease, wait_for_lease
from .redis_requests import Requests

__all__ = ["held"]

TAKE = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
local left = redis.call('PTTL', KEYS[1])
if left ~= -1 and left <= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""Takes a lease that is free, has no end, or has one further off than any lease lasts. Its key is
the lease; its arguments are the token of the new holder, its lifetime, and the longest that another
lease can last, in milliseconds.

No holder writes a lease without an end: an operator or the restore of a dump leaves one. Redis runs
the script as one step, so a lease that another process has just taken is never replaced."""


@asynccontextmanager
async def held(
    redis: Any, requests: Requests, key: str, name: str, ttl_seconds: float
) -> AsyncIterator[Lease]:
    """Wait for the lease of ``name``, which is the key ``key``, and hold it.

    Raises:
        StoreUnavailable: as ``TokenStore.lease``.
    """
    lock = _Lock(redis, key, timeout=ttl_seconds)

    async def take() -> Lease | None:
        # It counts from before the request, so that it never outlives Redis's own count.
        lease = Lease(ttl_seconds)
        async with requests.made():
            return lease if await lock.acquire(blocking=False) else None

    try:
        lease = await wait_for_lease(take, LEASE_TOO_LONG.format(name))
        renewal = asyncio.create_task(_renew(lock, lease, ttl_seconds))
        try:
            yield lease
        finally:
            await cancel_until_done(renewal)
    finally:
        await _release(lock, requests)


class _Lock(Lock):
    """A lock with an end, which also takes over a lease without one."""

    async def do_acquire(self, token: str | bytes) -> bool:
        lifetime = int((self.timeout or 0) * 1000)
        longest = lifetime + int(MAX_CLOCK_SKEW.total_seconds() * 1000)
        take = self.redis.register_script(TAKE)
        return bool(await take(keys=[self.name], args=[token, lifetime, longest]))


async def _renew(lock: Lock, lease: Lease, ttl_seconds: float) -> None:
    while not lease.lost:
        await asyncio.sleep(ttl_seconds / 4)
        requested_at = SystemClock().elapsed()
        try:
            await lock.extend(ttl_seconds, replace_ttl=True)
        except exceptions.LockNotOwnedError:
            lease.lose()
        except (exceptions.RedisError, OSError):
            continue  # the lease knows its own end
        else:
            lease.extend(ttl_seconds, since=requested_at)


async def _release(lock: Lock, requests: Requests) -> None:
    """Release a lock that was taken. If that fails, or another holder has it, it expires."""
    if lock.local.token is not None:
        with suppress(StoreUnavailable):
            async with requests.made():
                await lock.release()
