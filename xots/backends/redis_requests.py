"""``Requests``: the requests to a Redis, whose errors become explanations for the operator."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from ..errors import StoreUnavailable
from ..safe_text import safe_text
from . import redis_url

__all__ = ["MAX_REQUESTS_AT_ONCE", "Requests", "is_of_another_type"]

MAX_REQUESTS_AT_ONCE = 20
"""Upper bound on the simultaneous requests of a store, and so on its connections. Each one takes
less than a millisecond, so hundreds at one moment wait only shortly. redis-py refuses more than a
hundred."""

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
    r"""[^'"`]*(?:['`](?:auth|client|del|evalsha|get|hello|info|pexpire|ping|psubscribe|pttl"""
    r"""|publish|scan|script(?:\|load)?|select|sentinel|set|subscribe|time|zadd|zrangebyscore"""
    r"""|zrem)['`][^'"`]*)?""",
    re.IGNORECASE,
)
"""The text of a server's error before it quotes anything but the name of a command of xots."""


class Requests:
    """Makes the requests of a store, and explains their errors.

    Args:
        redis: the client. The store closes it.
        server: the name of the server in messages.
    """

    def __init__(self, redis: Any, server: str) -> None:
        self._redis, self._server = redis, server
        self._slots = asyncio.Semaphore(MAX_REQUESTS_AT_ONCE)

    @asynccontextmanager
    async def made(self) -> AsyncIterator[None]:
        """Raise ``StoreUnavailable`` with an explanation for each error of the requests inside.

        In Python 3.11, ``asyncio.wait_for``, which redis-py uses, drops a cancellation that comes
        just as its part of a request ends. The cancellation is then raised here, whether the
        request succeeds or not.
        """
        await self._take_slot()
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
            self._slots.release()
            if _cancellations() > cancellations:
                raise asyncio.CancelledError

    async def _take_slot(self) -> None:
        """Wait until fewer than ``MAX_REQUESTS_AT_ONCE`` requests are in progress.

        Raises:
            StoreUnavailable: that takes as long as no response may take.
        """
        try:
            async with asyncio.timeout(redis_url.RESPONSE_TIMEOUT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._server}: {_explanation(error)}") from None

    async def permitted(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response to a request; None if the user has no right to make it."""
        async with self.made():
            try:
                return await request()
            except exceptions.NoPermissionError:
                return None


def is_of_another_type(error: exceptions.ResponseError) -> bool:
    """Tell if a request failed because its key holds another type of value."""
    return "WRONGTYPE" in str(error)  # Redis 6 puts the script's name before it


def _cancellations() -> int:
    """Return how often the current task was told to cancel."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


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
