"""``RedisStream``: the announcements of writes in Redis, on one connection."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from redis import exceptions

from . import redis_url
from .records import is_account
from .redis_requests import Requests

__all__ = ["CHANGES", "RedisStream"]

CHANGES = "xots:changes:"
"""The channel that announces the writes of an account begins with this. The name follows."""

PING_INTERVAL_SECONDS = 10.0
"""Interval between pings on a quiet subscription: a broken network line reports nothing itself."""

NAMES_INTERVAL_SECONDS = 3.0
"""Interval between lists of the names, if the user may subscribe to single channels only."""


class RedisStream:
    """The stream of changes. It uses one connection while it is read.

    Args:
        redis: the client. The store closes it.
        requests: makes the requests of the store.
        names: lists the names of all records.
    """

    def __init__(
        self, redis: Any, requests: Requests, names: Callable[[], Awaitable[list[str]]]
    ) -> None:
        self._redis, self._requests, self._names = redis, requests, names
        self._used: set[str] = set()
        self._may_use_pattern: bool | None = None

    def note(self, name: str) -> None:
        """Note a name that this process uses. Its record may not exist yet."""
        self._used.add(name)

    async def may_use_pattern(self) -> bool:
        """Tell if the user may subscribe to the channels of all names at once.

        Raises:
            StoreUnavailable: the test cannot be made now.
        """
        if self._may_use_pattern is None:
            subscription = self._redis.pubsub()
            try:
                await self._subscribe_to_all(subscription)
            finally:
                await subscription.aclose()
        return bool(self._may_use_pattern)

    async def changes(self) -> AsyncIterator[str | None]:
        """Yield the names of changed records, as ``TokenStore.changes``.

        The first time, it yields when Redis has confirmed the subscription: Redis does not announce
        earlier writes.
        """
        subscription: Any = self._redis.pubsub()
        next_changes: Callable[[], Awaitable[list[str | None]]]
        next_changes = partial(self._next_changes, subscription)
        try:
            if self._may_use_pattern is not False:
                await self._subscribe_to_all(subscription)
            if not self._may_use_pattern:
                await subscription.aclose()  # it forgets the pattern, and connects again
                channels = _KnownChannels(subscription, self._requests, self._all_names)
                await channels.subscribe()
                next_changes = channels.next_changes
            yield None
            while True:
                for change in await next_changes():
                    yield change
        finally:
            await subscription.aclose()

    async def _all_names(self) -> set[str]:
        return {*await self._names(), *self._used}

    async def _subscribe_to_all(self, subscription: Any) -> None:
        """Subscribe to the channels of all names, and note if the user has the right to do so."""
        async with self._requests.made():
            try:
                await subscription.psubscribe(CHANGES + "*")
                await _confirmed(subscription)
            except exceptions.NoPermissionError:
                self._may_use_pattern = False
            else:
                self._may_use_pattern = True

    async def _next_changes(self, subscription: Any) -> list[str | None]:
        """Return the changes in the next message of a subscription to all channels."""
        async with self._requests.made():
            message: dict[str, Any] | None = await subscription.get_message(
                timeout=PING_INTERVAL_SECONDS
            )
            if message is None:
                await subscription.ping()
                message = await _confirmed(subscription)
        if message["type"] == "psubscribe":  # the library has connected again
            return [None]
        name = _changed_name(message)
        return [name] if name else []


class _KnownChannels:
    """A subscription to one channel a name, for a user that may not subscribe to all at once.

    The names are listed again and again. A new one is reported when its channel is confirmed,
    because earlier writes were not announced.

    Args:
        subscription: the subscription. Its owner closes it.
        requests: makes the requests of the store.
        names: lists the names to watch.
    """

    def __init__(
        self, subscription: Any, requests: Requests, names: Callable[[], Awaitable[set[str]]]
    ) -> None:
        self._subscription, self._requests, self._names = subscription, requests, names
        self._known: set[str] = set()
        self._list_at = 0.0
        self._responses_owed = 0

    async def subscribe(self) -> None:
        """Subscribe to the channels of all names, and wait until Redis has confirmed that."""
        # The channel without a name keeps a subscription open when there are no names.
        await self._watch({"", *await self._names()})
        while self._responses_owed:
            await self._received(redis_url.RESPONSE_TIMEOUT_SECONDS)

    async def next_changes(self) -> list[str | None]:
        """Return the change in the next message; none if it is time to list the names again."""
        seconds = self._list_at - time.monotonic()
        if seconds <= 0:
            if self._responses_owed > 0:
                async with self._requests.made():
                    raise exceptions.TimeoutError
            await self._watch(await self._names() - self._known)
            return []
        message = await self._received(seconds, may_be_none=True)
        name = _changed_name(message) if message else ""
        return [name] if name else []

    async def _watch(self, names: set[str]) -> None:
        """Subscribe to the channels of new names. Without any, a ping shows that the line works."""
        async with self._requests.made():
            if names:
                await self._subscription.subscribe(*(CHANGES + name for name in names))
            else:
                await self._subscription.ping()
        self._known |= names
        self._responses_owed = len(names) or 1
        self._list_at = time.monotonic() + NAMES_INTERVAL_SECONDS

    async def _received(
        self, seconds: float, *, may_be_none: bool = False
    ) -> dict[str, Any] | None:
        """Return the next message, and count the responses that Redis owes."""
        async with self._requests.made():
            message: dict[str, Any] | None = await self._subscription.get_message(timeout=seconds)
            if message is None and not may_be_none:
                raise exceptions.TimeoutError
        if message and message["type"] in ("subscribe", "pong"):
            self._responses_owed -= 1
        return message


def _changed_name(message: dict[str, Any]) -> str:
    """Return the name in the channel of a message; empty if no account can have it."""
    channel: bytes = message["channel"] or b""
    name = channel.decode(errors="replace").removeprefix(CHANGES)
    return name if is_account(name) else ""


async def _confirmed(subscription: Any) -> dict[str, Any]:
    """Return the next message of a subscription from which Redis owes a response."""
    timeout_seconds = redis_url.RESPONSE_TIMEOUT_SECONDS
    message: dict[str, Any] | None = await subscription.get_message(timeout=timeout_seconds)
    if message is None:
        raise exceptions.TimeoutError
    return message
