"""``RedisIndex``: the index of due accounts that the processes on one Redis share.

It is a sorted set of names, by the time in seconds since 1970. A store uses it only if a test of
its rights has passed: an older line of the user in Redis lacks them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any

from redis import exceptions

from .records import is_account
from .redis_requests import Requests, is_of_another_type

__all__ = ["DUE", "RedisIndex", "score"]

DUE = "xots:due"
"""The key of the sorted set."""


class RedisIndex:
    """The index in Redis.

    Args:
        redis: the client. The store closes it.
        requests: makes the requests of the store.
    """

    def __init__(self, redis: Any, requests: Requests) -> None:
        self._redis, self._requests = redis, requests
        self.usable: bool | None = None
        """True if the user has the rights; False if it lacks one, or the key holds another type
        than a sorted set; None before the test."""
        self.is_of_another_type = False
        """True if the key holds another type than a sorted set."""

    async def test(self) -> bool:
        """Return true if the index can be used now. The first test decides; it changes nothing.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        if self.usable is None:
            async with self._requests.made():
                try:
                    await self._redis.zrangebyscore(DUE, "-inf", "-inf", start=0, num=1)
                    # With XX it only updates a member, and there is no member "".
                    await self._redis.zadd(DUE, {"": 0}, xx=True)
                    await self._redis.zrem(DUE, "")
                except exceptions.ResponseError as error:
                    self._note_refusal(error)
                else:
                    self.usable = True
        return bool(self.usable)

    async def due(self, before: datetime, limit: int) -> list[str]:
        """Return the due names, as ``TokenStore.due``. Members that are no names are removed."""
        while True:
            request = self._redis.zrangebyscore(DUE, "-inf", score(before), start=0, num=limit)
            members: list[bytes] = await self._made(request) or []
            names = [member.decode(errors="replace") for member in members]
            foreign = [
                member for member, name in zip(members, names, strict=True) if not is_account(name)
            ]
            if not foreign:
                return names
            await self._made(self._redis.zrem(DUE, *foreign))

    async def note(self, name: str, due_at: datetime | None) -> None:
        """Replace the time of a name; None removes it."""
        await self._made(
            self._redis.zrem(DUE, name)
            if due_at is None
            else self._redis.zadd(DUE, {name: due_at.timestamp()})
        )

    async def _made(self, request: Awaitable[Any]) -> Any:
        """Return the response to a request; None if the index turns out not to be usable."""
        async with self._requests.made():
            try:
                return await request
            except exceptions.ResponseError as error:
                self._note_refusal(error)
                if self.usable:
                    raise
        return None

    def _note_refusal(self, error: exceptions.ResponseError) -> None:
        """Use the index no more if the error will stay. A server that takes no writes now, such as
        a replica or one with a full memory, may take them later."""
        self.is_of_another_type = is_of_another_type(error)
        if self.is_of_another_type or isinstance(error, exceptions.NoPermissionError):
            self.usable = False


def score(at: datetime) -> str:
    """Return a time as Redis keeps it: seconds since 1970."""
    return repr(at.timestamp())
