"""The parts that all rules of the contract share: how a test opens a store, and what it awaits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from ..backends.base import TokenStore
from ..errors import RecordUnusable, StaleWrite

__all__ = ["EVENT_TIMEOUT_SECONDS", "Opening", "is_stale", "opened", "refusal"]

Opening: TypeAlias = Callable[[], TokenStore]

EVENT_TIMEOUT_SECONDS = 20.0
"""A test fails after this wait for an event. Each event takes far less, on a busy machine too."""


@asynccontextmanager
async def opened(opening: Opening) -> AsyncIterator[tuple[TokenStore, TokenStore]]:
    """Open the store twice, or once if it is not shared. Close both at the end."""
    store = opening()
    another = opening() if store.shared else store
    try:
        yield store, another
    finally:
        await store.close()
        await another.close()


async def is_stale(swap: Awaitable[str]) -> None:
    try:
        await swap
    except StaleWrite:
        return
    raise AssertionError("a stale write was accepted")


async def refusal(call: Awaitable[object], failure: str) -> str:
    """Return the message of the ``RecordUnusable`` that a call raises.

    Raises:
        AssertionError: it raises none; ``failure`` is the message.
    """
    try:
        await call
    except RecordUnusable as error:
        return str(error)
    raise AssertionError(failure)
