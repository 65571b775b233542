"""``Changes``: one subscription for all accounts of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.bench import eventually

from xots.backends.memory import MemoryStore
from xots.errors import StoreUnavailable
from xots.keeping.changes import Changes


class Announcing(MemoryStore):
    """A store whose changes a test announces."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: asyncio.Queue[str | None | Exception] = asyncio.Queue()
        self.subscriptions = 0

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        self.subscriptions += 1
        while True:
            change = await self.announced.get()
            if isinstance(change, Exception):
                raise change
            yield change


class Listeners:
    """Listeners, and what each was told."""

    def __init__(self, store: Announcing) -> None:
        self.changes = Changes(store)
        self.told: dict[str, int] = {}
        self.names: list[set[str | None]] = []
        self.tasks = [asyncio.create_task(self._all())]

    def of(self, *names: str) -> None:
        self.tasks += [asyncio.create_task(self._of(name)) for name in names]

    async def _of(self, name: str) -> None:
        self.told[name] = 0
        async for _ in self.changes.of(name):
            self.told[name] += 1

    async def _all(self) -> None:
        async for names in self.changes.all():
            self.names.append(names)


async def test_a_change_reaches_the_listeners_that_it_concerns() -> None:
    """Those of its name, and those of all names; None reaches every one."""
    store = Announcing()
    listeners = Listeners(store)
    listeners.of("smith", "jones")
    await eventually(lambda: len(listeners.told) == 2)
    for change in (None, "smith"):
        before = len(listeners.names)
        store.announced.put_nowait(change)
        await eventually(lambda before=before: len(listeners.names) > before)
    await eventually(lambda: listeners.told["smith"] == 2)
    assert listeners.told["jones"] == 1
    assert listeners.names == [{None}, {"smith"}]
    assert store.subscriptions == 1
    for task in listeners.tasks:
        task.cancel()
    await asyncio.gather(*listeners.tasks, return_exceptions=True)


async def test_a_late_listener_is_told_at_once() -> None:
    """A change may have come between its last look at the record and its first wait."""
    store = Announcing()
    listeners = Listeners(store)
    store.announced.put_nowait(None)
    await eventually(lambda: listeners.names == [{None}])
    listeners.of("smith")
    await eventually(lambda: listeners.told.get("smith") == 1)
    assert store.subscriptions == 1
    for task in listeners.tasks:
        task.cancel()
    await asyncio.gather(*listeners.tasks, return_exceptions=True)


async def test_a_failed_subscription_reaches_every_listener() -> None:
    """Each reads its record and listens again."""
    store = Announcing()
    listeners = Listeners(store)
    listeners.of("smith", "jones")
    await eventually(lambda: len(listeners.told) == 2)
    store.announced.put_nowait(StoreUnavailable("away"))
    for task in listeners.tasks:
        with pytest.raises(StoreUnavailable, match="away"):
            await task
