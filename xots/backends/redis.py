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

import asyncio
import hashlib
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from redis import exceptions
from redis.asyncio.lock import Lock
from redis.asyncio.sentinel import MasterNotFoundError

from ..clock import SystemClock
from ..errors import StoreUnavailable
from ..log_filters import hush_libraries
from ..safe_text import safe_text
from ..tasks import cancel_until_done
from . import redis_url
from .base import (
    LEASE_PREFIX,
    LEASE_TOO_LONG,
    Lease,
    Stored,
    TokenStore,
    checked_name,
    stale_write,
    wait_for_lease,
)

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

EXPLANATIONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (  # the error's own text lists clients and differs by version
        MasterNotFoundError,
        "no sentinel names a master: check that the sentinels run, that they know this service by "
        "this name, and that sentinel_password_file holds their password",
    ),
    (exceptions.AuthenticationError, "authentication failed ({0}): correct user and password"),
    (
        exceptions.NoPermissionError,
        "the user lacks a right ({0}): deploy/redis-users.acl lists all that it needs",
    ),
    (
        exceptions.ReadOnlyError,
        "it is a read-only replica: give the URL of the master, or use sentinel:",
    ),
    (
        exceptions.InvalidResponse,
        "its response is not one of Redis: check host and port, and whether it demands TLS",
    ),
    (exceptions.BusyLoadingError, "it has just started and still loads its data: wait for it"),
    (
        exceptions.OutOfMemoryError,
        "it takes no writes because its memory is full: raise maxmemory, or delete keys",
    ),
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted ({0}): correct ca_file or the host name",
    ),
    (
        ssl.SSLError,
        "TLS failed ({0}): check that this port speaks TLS, and whether it demands cert_file "
        "and key_file",
    ),
    (
        (exceptions.TimeoutError, TimeoutError),
        "no response arrived in time: check that it runs and can be reached, and that both sides "
        "use TLS or neither does",
    ),
    (
        (exceptions.ConnectionError, OSError),
        "it cannot be reached ({0}): check that it runs, and that both sides use TLS or neither "
        "does",
    ),
)
"""Explanations of errors by type; the first that fits counts. ``{0}`` is the error's text."""

REFUSALS = {
    "MISCONF": "it takes no writes because it cannot save to its disk (MISCONF): see its log",
    "NOREPLICAS": "it takes no writes because it reaches too few replicas (NOREPLICAS): start them",
}
"""Explanations of errors for which redis-py has no type, by Redis's own code."""


UP_TO_QUOTATION = re.compile(
    r"""[^'"`]*(?:['`](?:auth|client|del|evalsha|get|hello|info|pexpire|ping|pttl|publish|scan"""
    r"""|script(?:\|load)?|select|sentinel|set|subscribe|time)['`][^'"`]*)?""",
    re.IGNORECASE,
)
"""The text of a server's error before it quotes anything but the name of a command of xots."""


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
        async with self._requesting():
            value: Any = await self._redis.get(RECORD + checked_name(name))
        return None if value is None else Stored(value, _version(value))

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """See ``TokenStore.swap``. It takes one round trip."""
        key = RECORD + checked_name(name)
        async with self._requesting():
            written = await self._swap(keys=[key], args=[value, expected or "", CHANGES + name])
        if not written:
            raise stale_write(name)
        return _version(value)

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        async with self._requesting():
            # A scan may return a key more than once.
            keys = {key async for key in self._redis.scan_iter(match=RECORD + "*", count=1000)}
        names = (key.decode(errors="replace").removeprefix(RECORD) for key in keys)
        return sorted(filter(IS_ACCOUNT, names))

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``. Redis frees it ``ttl_seconds`` after its last renewal."""
        lock = Lock(self._redis, LEASE + checked_name(name), timeout=ttl_seconds)

        async def take() -> Lease | None:
            # It counts from before the request, so that it never outlives Redis's own count.
            lease = Lease(ttl_seconds)
            async with self._requesting():
                return lease if await lock.acquire(blocking=False) else None

        try:
            lease = await wait_for_lease(take, LEASE_TOO_LONG.format(name))
            renewal = asyncio.create_task(_renew(lock, lease, ttl_seconds))
            try:
                yield lease
            finally:
                await cancel_until_done(renewal)
        finally:
            await self._release(lock)

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """See ``TokenStore.changes``. Redis announces each write, so ``every_seconds`` is ignored.

        The first time, it yields when Redis has confirmed the subscription: Redis does not announce
        earlier writes.
        """
        subscription: Any = self._redis.pubsub()
        try:
            async with self._requesting():
                await subscription.subscribe(CHANGES + checked_name(name))
                await _confirmed(subscription)
            yield
            while True:
                async with self._requesting():
                    message = await _next_message(subscription)
                if message["type"] in ("subscribe", "message"):
                    yield
        finally:
            await subscription.aclose()

    async def check(self) -> None:
        """See ``TokenStore.check``. It writes and reads a key that expires after a minute."""
        async with self._requesting():
            await self._redis.set(CHECK, secrets.token_hex(8), ex=60)
            # The check of another process may have replaced the value: any value is good.
            if await self._redis.get(CHECK) is None:
                raise StoreUnavailable(f"{self._server}: it has lost a new key: see its log")

    async def clock_skew(self, name: str) -> tuple[str, timedelta] | None:
        """See ``TokenStore.clock_skew``. It compares with the server's clock (TIME); None without
        the right to read it."""
        sent_at = time.time()
        reading = await self._permitted(self._redis.time)
        if reading is None:
            return None
        # The server read its clock at some moment between the request and the response.
        seconds, microseconds = reading
        server, received_at = seconds + microseconds / 1e6, time.time()
        here = min(max(server, sent_at), received_at)
        return self._server, timedelta(seconds=server - here)

    async def warnings(self) -> list[str]:
        """See ``TokenStore.warnings``. Those about the server need the right INFO."""
        info: dict[str, Any] | None = await self._permitted(self._redis.info)
        return self._file_warnings() + (_warnings(self._server, info) if info else [])

    async def close(self) -> None:
        """See ``TokenStore.close``."""
        # A server that is gone needs no clean disconnect.
        for client in (self._redis, *self._sentinels):
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()

    async def _release(self, lock: Lock) -> None:
        """Release a lock that was taken. If that fails, or another holder has it, it expires."""
        if lock.local.token is not None:
            with suppress(StoreUnavailable):
                async with self._requesting():
                    await lock.release()

    @asynccontextmanager
    async def _requesting(self) -> AsyncIterator[None]:
        """Raise ``StoreUnavailable`` with an explanation for each error of the requests inside.

        In Python 3.11, ``asyncio.wait_for``, which redis-py uses, drops a cancellation that comes
        just as its part of a request ends. The cancellation is then raised here, whether the
        request succeeds or not.
        """
        cancellations = _cancellations()
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            if not isinstance(error, exceptions.ResponseError) or isinstance(
                error, exceptions.ReadOnlyError
            ):
                # The idle connections lead to the same server. Each would make one more call fail.
                with suppress(exceptions.RedisError, OSError):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
            # Without its cause: a traceback would show the server's text, which may quote a secret.
            raise StoreUnavailable(f"{self._server}: {_explanation(error)}") from None
        finally:
            if _cancellations() > cancellations:
                raise asyncio.CancelledError

    async def _permitted(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response to a request; None if the user has no right to make it."""
        async with self._requesting():
            try:
                return await request()
            except exceptions.NoPermissionError:
                return None


def _cancellations() -> int:
    """Return how often the current task was told to cancel."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


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


def _explanation(error: Exception) -> str:
    """Return what happened, and what the operator can do."""
    own = _unwrapped(error)
    causes = (own, _tls_error(error))
    for kind, explanation in EXPLANATIONS:
        if cause := next((cause for cause in causes if isinstance(cause, kind)), None):
            return explanation.format(_shown(cause))
    return REFUSALS.get(str(own).partition(" ")[0], f"it refused the request: {_shown(own)}")


def _unwrapped(error: Exception) -> Exception:
    """Return the error inside a ``ConnectionError`` that redis-py makes of it while it connects."""
    while isinstance(error, exceptions.ConnectionError):
        [inner] = error.args[:1] or [None]
        if not isinstance(inner, Exception):
            break
        error = inner
    return error


def _shown(error: Exception) -> str:
    """Return the text of an error. That of a server is shown up to its first quotation, which may
    be an argument of the refused request, such as the password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return safe_text(error.verify_message)
    # These come from the system and from redis-py. The servers' errors have types of their own.
    if isinstance(error, OSError) or type(error) is exceptions.ConnectionError:
        return safe_text(str(error))
    found = UP_TO_QUOTATION.match(str(error))
    return safe_text(found[0].partition(", with args")[0].strip(" ,:")) if found else ""


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS that led to this one; None if there is none."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
