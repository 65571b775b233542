# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``FaultRules``: every store while its disk or its server fails, or keeps it waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..backends.base import TokenStore
from ..errors import StoreUnavailable
from .opening import EVENT_TIMEOUT_SECONDS, Opening, opened

__all__ = ["FaultRules", "Faults"]

TURNS = 20
"""The turns of the event loop that a waiting write must permit. A store that blocks permits none
before its write has ended."""


@dataclass(frozen=True)
class Faults:
    """The faults that the tests cause. Each field is a function without arguments, which returns a
    context manager: the fault lasts while a test is inside."""

    unreachable: Callable[[], AbstractContextManager[object]]
    """Make the records unreachable, as when the disk or the server fails. The records stay, and
    are there again afterwards."""
    busy: Callable[[], AbstractContextManager[object]]
    """Make a write of the record ``default`` wait, as when another process holds its lock or the
    server hangs. It lasts less than a second, which the store must bear without an error."""


class FaultRules:
    """The rules for a store that fails or waits, one test for each."""

    async def test_an_unreachable_store_is_an_error(
        self, opening: Opening, faults: Faults | None
    ) -> None:
        """While the records are unreachable, no method reports that there are none, and all of them
        raise StoreUnavailable. Afterwards the same store works again."""
        async with opened(opening) as (store, another):
            if faults is None:
                assert not store.shared, "a shared store must define its faults"
                assert not store.durable, "a durable store must define its faults"
                return
            version = await store.swap("default", b"kept", expected=None)
            with faults.unreachable():
                async with opened(opening) as (unused, _):
                    for one in (store, another, unused):
                        await _is_unavailable("read", one.read("default"))
                        await _is_unavailable("read of a missing name", one.read("missing"))
                        await _is_unavailable("names", one.names())
                        new = one.swap("default", b"new", expected=version)
                        await _is_unavailable("swap", new)
                        created = one.swap("missing", b"new", expected=None)
                        await _is_unavailable("swap of a missing name", created)
                        await _is_unavailable("check", one.check())
                        await _is_unavailable("lease", _hold(one))
                        await _is_unavailable("changes", _follow(one))
            give_up_at = time.monotonic() + EVENT_TIMEOUT_SECONDS
            while not await _is_reached(store):
                assert time.monotonic() < give_up_at, "the store does not work again"
                await asyncio.sleep(0.05)
            stored = await store.read("default")
            assert stored is not None, "the record is gone after the fault"
            assert stored.value == b"kept", "a write during the fault took effect"

    async def test_no_operation_runs_in_the_event_loop(self, opening: Opening) -> None:
        """A store whose records are outside this process waits for each operation, and lets other
        work go on meanwhile."""
        async with opened(opening) as (store, _):
            version = await store.swap("default", b"value", expected=None)
            operations: dict[str, Callable[[], Awaitable[object]]] = {
                "read": lambda: store.read("default"),
                "names": store.names,
                "check": store.check,
                "swap": lambda: store.swap("default", b"new", expected=version),
            }
            for name, operation in operations.items():
                task = asyncio.ensure_future(operation())
                await asyncio.sleep(0)  # the operation gets one turn
                at_once = task.done()
                await task
                assert not at_once or not (store.shared or store.durable), (
                    f"{name} blocks the event loop until it has ended"
                )

    async def test_a_waiting_write_blocks_no_other_work(
        self, opening: Opening, faults: Faults | None
    ) -> None:
        """The event loop goes on while a write waits, and the write succeeds after the wait."""
        async with opened(opening) as (store, _):
            if faults is None:
                assert not store.shared, "a shared store must define its faults"
                assert not store.durable, "a durable store must define its faults"
                return
            version = await store.swap("default", b"value", expected=None)
            with faults.busy():
                swap = asyncio.ensure_future(store.swap("default", b"new", expected=version))
                for _ in range(TURNS):
                    await asyncio.sleep(0.005)
                has_waited = not swap.done()
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                [outcome] = await asyncio.gather(swap, return_exceptions=True)
            assert has_waited, "the write blocks the event loop, or it has not waited at all"
            stored = await store.read("default")
            assert stored is not None
            assert (stored.value, stored.version) == (b"new", outcome)


async def _hold(store: TokenStore) -> None:
    async with store.lease("default", 1):
        pass


async def _follow(store: TokenStore) -> None:
    async for _ in store.changes(every_seconds=0.05):
        pass


async def _is_reached(store: TokenStore) -> bool:
    try:
        await store.read("default")
    except StoreUnavailable:
        return False
    return True


async def _is_unavailable(method: str, call: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
            result: object = await call
    except StoreUnavailable:
        return
    except TimeoutError:
        result = "nothing in time"
    raise AssertionError(f"the store is unreachable, and {method} returns {result!r}")
