# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``ChangeRules``: the stream of changes of every store."""

from __future__ import annotations

import asyncio
import time

from .opening import EVENT_TIMEOUT_SECONDS, Opening, opened

__all__ = ["ChangeRules"]


class ChangeRules:
    """The rules for the stream of changes, one test for each."""

    async def test_a_change_is_noticed(self, opening: Opening) -> None:
        """A follower of a name is notified of each write through another opening."""
        async with opened(opening) as (store, another):
            changes = store.changes(every_seconds=0.05)
            version = None
            try:
                # The time at which it begins to follow is unknown, so write until it is notified.
                notified = asyncio.ensure_future(anext(changes))
                give_up_at = time.monotonic() + EVENT_TIMEOUT_SECONDS
                while not notified.done():
                    assert time.monotonic() < give_up_at, "no change was noticed"
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    await asyncio.wait([notified], timeout=0.1)
                await notified
                # From now on it is notified of each write.
                for _ in range(3):
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                        await anext(changes)
            finally:
                await changes.aclose()  # type: ignore[attr-defined] # an async generator
