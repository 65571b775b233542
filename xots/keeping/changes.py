"""``Changes``: one subscription to the store's stream of changes, for all accounts of a process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..backends.base import TokenStore
from ..errors import StoreUnavailable
from ..tasks import cancel_until_done

__all__ = ["Changes"]


class Changes:
    """The names of changed records, for any number of listeners in this process.

    It subscribes while there are listeners. If the subscription fails, every listener gets the
    error, and the next one subscribes again.

    Args:
        store: the store to watch.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._listeners: defaultdict[str | None, dict[_Listener, None]] = defaultdict(dict)
        self._subscription: asyncio.Task[None] | None = None
        self._is_live = False
        """True once the store reports every change."""

    async def of(self, name: str) -> AsyncGenerator[None, None]:
        """Yield whenever the record under ``name`` may have changed, and when the watch begins.

        Raises:
            StoreUnavailable: the store cannot be watched now. A caller that starts again must read
                the record first.
        """
        async with aclosing(self._batches(name)) as batches:
            async for _ in batches:
                yield

    async def all(self) -> AsyncGenerator[list[str | None], None]:
        """Yield the names that have changed since the last batch, in their order. None among them:
        any record may have changed.

        Raises:
            StoreUnavailable: as ``of``.
        """
        async with aclosing(self._batches(None)) as batches:
            async for names in batches:
                yield names

    async def _batches(self, name: str | None) -> AsyncGenerator[list[str | None], None]:
        """Yield the changes of the record under ``name``; of all records if it is None."""
        listener = _Listener()
        self._listeners[name][listener] = None
        try:
            if self._subscription is None or self._subscription.done():
                self._is_live = False
                self._subscription = asyncio.create_task(self._subscribe())
            elif self._is_live:
                listener.notify(None)
            while True:
                yield await listener.batch()
        finally:
            self._listeners[name].pop(listener, None)
            if not self._listeners[name]:
                del self._listeners[name]
            if not self._listeners and self._subscription is not None:
                # A listener that comes while the old one ends begins a subscription of its own.
                ending, self._subscription = self._subscription, None
                await cancel_until_done(ending)

    async def _subscribe(self) -> None:
        error: Exception = StoreUnavailable("the store has ended its stream of changes")
        try:
            async with aclosing(self._store.changes()) as changes:  # type: ignore[type-var]
                async for name in changes:
                    self._is_live = True
                    for listener in self._concerned(name):
                        listener.notify(name)
        except Exception as failure:  # noqa: BLE001 - each listener raises it
            error = failure
        for listener in self._concerned(None):
            listener.fail(error)

    def _concerned(self, name: str | None) -> list[_Listener]:
        """Return the listeners that a change concerns. A change of one record costs the same for
        one listener and for thousands."""
        names = (name, None) if name is not None else tuple(self._listeners)
        return [listener for name in names for listener in self._listeners.get(name, ())]


class _Listener:
    """The changes that one listener has not seen yet."""

    def __init__(self) -> None:
        self._names: dict[str | None, None] = {}
        self._error: Exception | None = None
        self._wake = asyncio.Event()

    def notify(self, name: str | None) -> None:
        """Note a change of ``name``; None: any record may have changed."""
        self._names[name] = None
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """Note the end of the subscription."""
        self._error = error
        self._wake.set()

    async def batch(self) -> list[str | None]:
        """Wait for changes, and return them.

        Raises:
            StoreUnavailable: the subscription has ended.
        """
        await self._wake.wait()
        if self._error is not None:
            raise self._error
        self._wake.clear()
        names, self._names = list(self._names), {}
        return names
