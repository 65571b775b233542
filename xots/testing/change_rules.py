# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``ChangeRules``: the stream of changes of every store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ..backends.base import TokenStore
from .opening import EVENT_TIMEOUT_SECONDS, Opening, opened

__all__ = ["ChangeRules"]

POLL_SECONDS = 0.05
"""The interval of the streams, and that between two looks at what they have reported."""


class ChangeRules:
    """The rules for the stream of changes, one test for each."""

    async def test_the_stream_begins_with_every_record(self, opening: Opening) -> None:
        """The first change is None, with and without records: all may have changed before."""
        async with opened(opening) as (store, another):
            for _ in range(2):
                changes = store.changes(every_seconds=POLL_SECONDS)
                async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                    assert await anext(changes) is None, "the first change is not None"
                await changes.aclose()  # type: ignore[attr-defined] # an async generator
                if await another.read("default") is None:
                    await another.swap("default", b"value", expected=None)

    async def test_each_change_is_named(self, opening: Opening) -> None:
        """One stream names each record that is written, also a new one, and no other."""
        async with opened(opening) as (store, another):
            first = await another.swap("one", b"first", expected=None)
            async with _followed(store) as seen:
                second = await another.swap("one", b"second", expected=first)
                await _until(lambda: "one" in seen, "a change of a known name was not reported")
                other = await another.swap("two", b"first", expected=None)
                await _until(lambda: "two" in seen, "a new name was not reported")
                for number in range(3):
                    seen.clear()
                    other = await another.swap("two", b"%d" % number, expected=other)
                    await _until(lambda: "two" in seen, "a later change was not reported")
                    assert "one" not in seen, "a record was reported that had not changed"
                await another.swap("one", b"third", expected=second)
                await _until(lambda: "one" in seen, "a later change was not reported")

    async def test_names_of_the_store_are_not_reported(self, opening: Opening) -> None:
        """The stream reports accounts only: a lease and its record are no changes."""
        async with opened(opening) as (store, another), _followed(store) as seen:
            await another.swap("lease-of-the-store", b"", expected=None)
            async with another.lease("default", 10):
                pass
            await another.swap("default", b"value", expected=None)
            await _until(lambda: "default" in seen, "a change was not reported")
            assert {*seen} <= {"default", None}, "a name that no account can have was reported"


@asynccontextmanager
async def _followed(store: TokenStore) -> AsyncIterator[list[str | None]]:
    """Follow a store inside the ``async with``; yield the list to which each change is added."""
    seen: list[str | None] = []

    async def follow() -> None:
        async for change in store.changes(every_seconds=POLL_SECONDS):
            seen.append(change)

    follower = asyncio.create_task(follow())
    try:
        await _until(lambda: bool(seen) or follower.done(), "the stream does not begin")
        seen.clear()
        yield seen
        assert not follower.done(), "the stream has ended"
    finally:
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower


async def _until(condition: Callable[[], bool], failure: str) -> None:
    give_up_at = time.monotonic() + EVENT_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, failure
        await asyncio.sleep(POLL_SECONDS / 5)
