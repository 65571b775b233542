"""The memory store."""

from __future__ import annotations

import pytest

from xots.backends.base import Stored
from xots.backends.memory import MemoryStore
from xots.errors import StaleWrite


async def test_the_stores_own_rules() -> None:
    """Compare-and-set: a version that moved is stale, and nothing is written."""
    store = MemoryStore()
    assert await store.read("a") is None
    first = await store.swap("a", b"1", expected=None)
    with pytest.raises(StaleWrite):
        await store.swap("a", b"2", expected=None)
    second = await store.swap("a", b"2", expected=first)
    with pytest.raises(StaleWrite):
        await store.swap("a", b"3", expected=first)
    assert await store.read("a") == Stored(b"2", second)
    assert await store.names() == ["a"]
