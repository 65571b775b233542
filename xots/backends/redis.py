"""The Redis store: records that several processes share, on one host or on many. It needs Redis 6.2
or newer. ``redis_url`` describes its URLs.

Its keys and its channels begin with these texts. The account's name follows the first three:

- ``xots:record:`` holds the sealed record.
- ``xots:lease:`` names the lease holder.
- ``xots:changes:`` is the channel that announces each write.
- ``xots:due`` is a sorted set: the names of the accounts, by the time at which each needs
  attention, in seconds since 1970. Names and times stand there in clear.
- ``xots:check`` is written by a check, and expires after a minute.

So a Redis user needs only the rights in ``deploy/redis-users.acl``, which are those in
``USER_LINE``. A database other than 0 also needs ``+select``. Without ``+info`` there are no
warnings about the server at start, and without ``+time`` no comparison of clocks.

Without ``+zadd``, ``+zrem`` or ``+zrangebyscore``, each process keeps an index in its own memory.
Without ``+psubscribe``, it subscribes to the channel of each name that it knows, on one
connection, and lists the names again every few seconds. A warning gives the missing rights. Each
right is tested before it is used, once in a process: after a change of the rights, restart.

Redis acknowledges a write before a replica has it and, with ``appendfsync everysec``, up to a
second before its disk has it. A fail-over or a power cut may lose such a write.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from typing import Any

from redis import exceptions

from ..errors import RecordUnusable, StoreUnavailable
from ..log_filters import hush_libraries
from . import redis_url
from .base import (
    Lease,
    Stored,
    TokenStore,
    check_size,
    checked_name,
    is_account,
    stale_write,
)
from .redis_index import DUE, RedisIndex, score
from .redis_lease import held
from .redis_requests import Requests, is_of_another_type
from .redis_stream import CHANGES, RedisStream

__all__ = ["RedisStore"]

RECORD, LEASE, CHECK = "xots:record:", "xots:lease:", "xots:check"

USER_LINE = (
    "user xots on #SHA256-OF-THE-PASSWORD resetchannels ~xots:* &xots:changes:* -@all "
    "+get +set +del +pttl +pexpire +scan +evalsha +script|load +publish +subscribe +psubscribe "
    "+zadd +zrem +zrangebyscore +ping +info +time"
)
"""The line of the user in Redis, with all rights that a store uses."""

SWAP = """
local stored = redis.call('GET', KEYS[1])
if (stored and redis.sha1hex(stored) or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], '')
if KEYS[2] and ARGV[5] == '' then
    redis.pcall('ZREM', KEYS[2], ARGV[4])
elseif KEYS[2] then
    redis.pcall('ZADD', KEYS[2], ARGV[5], ARGV[4])
end
return 1
"""
"""Compares, writes, announces and indexes a record in one step. Its keys are the record and, if the
user may use it, the index. Its arguments are the new bytes, the expected version, the channel, the
name, and the time for the index, which is empty to remove the name.

An error of the index fails no write: the record is written by then, and the index is a hint."""


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
        self._index = RedisIndex(self._redis, self._requests)
        self._stream = RedisStream(self._redis, self._requests, self.names)
        self._swap = self._redis.register_script(SWAP)

    @property
    def shares_index(self) -> bool:  # type: ignore[override] # here it depends on the rights
        """See ``TokenStore.shares_index``. It is known after the first use of the index, and after
        ``warnings``; False before. It becomes False for good if the index stops to be usable."""
        return bool(self._index.usable)

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """Return the store at ``url``, which has a form that ``redis_url`` describes.

        Raises:
            ValueError: as ``TokenStore.from_url``.
        """
        return cls(redis_url.RedisUrl.parse(url))

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        key = RECORD + checked_name(name)
        self._stream.note(name)
        async with self._requests.made():
            value: Any = await self._of_record(key, self._redis.get(key))
        if value is None:
            return None
        check_size(name, len(value))
        return Stored(value, _version(value))

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        """See ``TokenStore.swap``. It takes one round trip, and another one at the first time."""
        check_size(name, len(value))
        key = RECORD + checked_name(name)
        self._stream.note(name)
        keys = [key, DUE] if await self._index.test() else [key]
        time_due = "" if due_at is None else score(due_at)
        args: list[bytes | str] = [value, expected or "", CHANGES + name, name, time_due]
        async with self._requests.made():
            written = await self._of_record(key, self._swap(keys=keys, args=args))
        if not written:
            raise stale_write(name)
        if not self.shares_index:
            await super().note_due(name, due_at)
        return _version(value)

    async def due(self, before: datetime, limit: int) -> list[str]:
        """See ``TokenStore.due``."""
        if await self._index.test():
            names = await self._index.due(before, limit)
            if self.shares_index:
                return names
        return await super().due(before, limit)

    async def note_due(self, name: str, due_at: datetime | None) -> None:
        """See ``TokenStore.note_due``."""
        if await self._index.test():
            await self._index.note(name, due_at)
        if not self.shares_index:
            await super().note_due(name, due_at)

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        return sorted(filter(is_account, await self._names()))

    async def foreign(self) -> list[str]:
        """See ``TokenStore.foreign``."""
        return sorted(name for name in await self._names() if not is_account(name))

    async def _names(self) -> set[str]:
        async with self._requests.made():
            # A scan may return a key more than once.
            keys = {key async for key in self._redis.scan_iter(match=RECORD + "*", count=1000)}
        return {key.decode(errors="backslashreplace").removeprefix(RECORD) for key in keys}

    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """See ``TokenStore.lease``. Redis frees it ``ttl_seconds`` after its last renewal."""
        key = LEASE + checked_name(name)
        return held(self._redis, self._requests, key, name, ttl_seconds)

    def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        """See ``TokenStore.changes``. Redis announces each write, so ``every_seconds`` is ignored.
        It uses one connection."""
        return self._stream.changes()

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
        found = self._file_warnings() + (_warnings(self._server, info) if info else [])
        await self._index.test()
        lacks_rights = self._index.usable is False and not self._index.is_of_another_type
        if lacks_rights or not await self._stream.may_use_pattern():
            found.append(
                f"the user of {self._server} lacks rights of this version of xots: it works, but "
                "each process looks for due accounts and for changes by itself, with more "
                f"requests; let the line of the user have these rights, and restart: {USER_LINE}"
            )
        if self._index.is_of_another_type:
            found.append(
                f"the key {DUE} of {self._server} holds no sorted set, so each process looks for "
                "due accounts by itself: delete the key, and restart"
            )
        return found

    async def _of_record(self, key: str, request: Awaitable[Any]) -> Any:
        """Return the response to a request that uses the record at ``key``.

        Raises:
            RecordUnusable: another type of value is there.
        """
        try:
            return await request
        except exceptions.ResponseError as error:
            if not is_of_another_type(error):
                raise
        raise RecordUnusable(
            f"{self._server}: the key {key} holds no record, because another program has written "
            "it: delete it and log in again"
        )

    async def close(self) -> None:
        """See ``TokenStore.close``."""
        # A server that is gone needs no clean disconnect.
        for client in (self._redis, *self._sentinels):
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()


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
