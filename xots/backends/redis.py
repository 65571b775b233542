"""The Redis store: records that several processes share, on one host or on many. It needs Redis 6.2
or newer. ``redis_url`` describes its URLs.

Its keys and its channel end with the account's name:

- ``xots:record:`` holds the sealed record.
- ``xots:lease:`` names the lease holder.
- ``xots:changes:`` is the channel that announces each write.
- ``xots:check`` (without a name) is written by a check, and expires after a minute.

So a Redis user needs only the rights in ``deploy/redis-users.acl``, which are these::

    user xots on #SHA256-OF-THE-PASSWORD resetchannels ~xots:* &xots:changes:* -@all
        +get +set +del +pttl +pexpire +scan +evalsha +script|load +publish +subscribe +ping
        +info +time

A database other than 0 also needs ``+select``. Without ``+info`` there are no warnings about
the server at start, and without ``+time`` no comparison of clocks.

Redis acknowledges a write before a replica has it and, with ``appendfsync everysec``, up to a
second before its disk has it. A fail-over or a power cut may lose such a write.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import Any

from redis import exceptions

from ..errors import StoreUnavailable
from ..log_filters import hush_libraries
from . import redis_url
from .base import LEASE_PREFIX, Lease, Stored, TokenStore, checked_name, stale_write
from .redis_lease import held
from .redis_requests import Requests

__all__ = ["RedisStore"]

RECORD, LEASE, CHANGES, CHECK = "xots:record:", "xots:lease:", "xots:changes:", "xots:check"

IS_ACCOUNT = re.compile(rf"(?!{LEASE_PREFIX})[a-z0-9-]{{1,64}}").fullmatch
"""True for a name that an account can have. Another program may have written other keys."""

PING_INTERVAL_SECONDS = 10.0
"""Interval between pings on a quiet subscription: a broken network line reports nothing itself."""

SWAP = """
local stored = redis.call('GET', KEYS[1])
if (stored and redis.sha1hex(stored) or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], '')
return 1
"""
"""Compares, writes and announces a record in one step. Its first key is the record; its arguments
are the new bytes, the expected version and the channel."""


class RedisStore(TokenStore):
    """Keeps records in Redis.

    Args:
        url: names the server. The store closes the clients that it makes for it.
    """

    shared = True
    durable = True

    def __init__(self, url: redis_url.RedisUrl) -> None:
        hush_libraries()
        self._server = url.server
        self._file_warnings = url.file_warnings
        self._redis, self._sentinels = url.connect()
        self._requests = Requests(self._redis, url.server)
        self._swap = self._redis.register_script(SWAP)

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """Return the store at ``url``, which has a form that ``redis_url`` describes.

        Raises:
            ValueError: as ``TokenStore.from_url``.
        """
        return cls(redis_url.RedisUrl.parse(url))

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        async with self._requests.made():
            value: Any = await self._redis.get(RECORD + checked_name(name))
        return None if value is None else Stored(value, _version(value))

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """See ``TokenStore.swap``. It takes one round trip."""
        key = RECORD + checked_name(name)
        async with self._requests.made():
            written = await self._swap(keys=[key], args=[value, expected or "", CHANGES + name])
        if not written:
            raise stale_write(name)
        return _version(value)

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        async with self._requests.made():
            # A scan may return a key more than once.
            keys = {key async for key in self._redis.scan_iter(match=RECORD + "*", count=1000)}
        names = (key.decode(errors="replace").removeprefix(RECORD) for key in keys)
        return sorted(filter(IS_ACCOUNT, names))

    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """See ``TokenStore.lease``. Redis frees it ``ttl_seconds`` after its last renewal."""
        key = LEASE + checked_name(name)
        return held(self._redis, self._requests, key, name, ttl_seconds)

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """See ``TokenStore.changes``. Redis announces each write, so ``every_seconds`` is ignored.

        The first time, it yields when Redis has confirmed the subscription: Redis does not announce
        earlier writes.
        """
        subscription: Any = self._redis.pubsub()
        try:
            async with self._requests.made():
                await subscription.subscribe(CHANGES + checked_name(name))
                await _confirmed(subscription)
            yield
            while True:
                async with self._requests.made():
                    message = await _next_message(subscription)
                if message["type"] in ("subscribe", "message"):
                    yield
        finally:
            await subscription.aclose()

    async def check(self) -> None:
        """See ``TokenStore.check``. It writes and reads a key that expires after a minute."""
        async with self._requests.made():
            await self._redis.set(CHECK, secrets.token_hex(8), ex=60)
            # The check of another process may have replaced the value: any value is good.
            if await self._redis.get(CHECK) is None:
                raise StoreUnavailable(f"{self._server}: it has lost a new key: see its log")

    async def clock_skew(self, name: str) -> tuple[str, timedelta] | None:
        """See ``TokenStore.clock_skew``. It compares with the server's clock (TIME); None without
        the right to read it."""
        sent_at = time.time()
        reading = await self._requests.permitted(self._redis.time)
        if reading is None:
            return None
        # The server read its clock at some moment between the request and the response.
        seconds, microseconds = reading
        server, received_at = seconds + microseconds / 1e6, time.time()
        here = min(max(server, sent_at), received_at)
        return self._server, timedelta(seconds=server - here)

    async def warnings(self) -> list[str]:
        """See ``TokenStore.warnings``. Those about the server need the right INFO."""
        info: dict[str, Any] | None = await self._requests.permitted(self._redis.info)
        return self._file_warnings() + (_warnings(self._server, info) if info else [])

    async def close(self) -> None:
        """See ``TokenStore.close``."""
        # A server that is gone needs no clean disconnect.
        for client in (self._redis, *self._sentinels):
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()


async def _confirmed(subscription: Any) -> dict[str, Any]:
    """Return the next message of a subscription from which Redis owes a response."""
    timeout_seconds = redis_url.RESPONSE_TIMEOUT_SECONDS
    message: dict[str, Any] | None = await subscription.get_message(timeout=timeout_seconds)
    if message is None:
        raise exceptions.TimeoutError
    return message


async def _next_message(subscription: Any) -> dict[str, Any]:
    """Return the next message of a subscription, which may be the response to a ping."""
    message: dict[str, Any] | None = await subscription.get_message(timeout=PING_INTERVAL_SECONDS)
    if message is not None:
        return message
    await subscription.ping()
    return await _confirmed(subscription)


def _version(value: bytes) -> str:
    """Return the version that the script computes. Redis offers only SHA-1. It need not withstand
    forgery, because the records are sealed."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def _warnings(server: str, info: dict[str, Any]) -> list[str]:
    """Return the warnings that follow from the response to INFO."""
    found = []
    if not info.get("aof_enabled") and not info.get("connected_slaves"):
        found.append(
            f"{server} has neither an append-only file nor a replica: if it stops suddenly, the "
            "writes since its last snapshot are lost, and the login may be lost with them; set "
            "appendonly yes, or add a replica"
        )
    policy = str(info.get("maxmemory_policy"))
    if info.get("maxmemory") and policy.startswith("allkeys"):
        found.append(
            f"{server} deletes keys when its memory is full (maxmemory-policy {policy}), and may "
            "delete the login: set noeviction or one of the volatile policies"
        )
    return found
