"""``FlakyStore``: a memory store that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from inspect import isawaitable
from typing import TypeAlias

from ..backends.base import Lease, Stored
from ..backends.memory import MemoryStore
from ..errors import StoreUnavailable

__all__ = ["FlakyStore", "Hold"]

Act: TypeAlias = Callable[[], object]
"""A function without arguments, or a coroutine function. Its result is ignored."""

METHODS = frozenset({"read", "swap", "names", "check", "lease", "due", "note_due", "changes"})
"""The methods that can fail or wait."""


class FlakyStore(MemoryStore):
    """A memory store that fails on demand, to test how a program handles failures.

    Every method works until a test demands a failure of it, by its name: ``"read"``, ``"swap"``,
    ``"names"``, ``"check"``, ``"lease"``, ``"due"``, ``"note_due"`` or ``"changes"``. An example::

        store = FlakyStore()
        store.fail("swap", reason="the disk is full")  # every swap, until repair()
        store.repair()
        store.lose_replies()  # the next swap writes, and raises StoreUnavailable

        backup = store.dump()
        ...
        store.restore(backup)  # now the store has lost all later writes

        hold = store.hold("swap")  # the next swap waits
        refresh = asyncio.create_task(keeper.refresh())
        await hold.reached()
        hold.release()

        store.lapse()  # other callers may take the lease, and its holder does not notice
        store.leases[-1].lose()  # now its holder notices
        store.before("swap", store.lapse)  # the lease lapses just before the next write
    """

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[Lease] = []
        """Every lease that was taken, the newest last."""
        self._failures: dict[str, str] = {}
        self._lost_replies = 0
        self._before: dict[str, Act] = {}
        self._after: dict[str, Act] = {}

    # ---------- the demands of a test

    def fail(self, *methods: str, reason: str = "the store fails on demand") -> None:
        """Raise ``StoreUnavailable(reason)`` from each call of these methods, until ``repair``.

        ``check`` fails with ``swap``, because a store that cannot be written fails its check. A
        stream of ``changes`` that has begun fails at its next item.

        Raises:
            ValueError: there is no such method. ``before``, ``after`` and ``hold`` raise it too.
        """
        self._failures |= {_checked(method): reason for method in methods}

    def repair(self) -> None:
        """Let every method work again."""
        self._failures.clear()
        self._lost_replies = 0

    def lose_replies(self, count: int = 1) -> None:
        """Write the next ``count`` swaps and raise ``StoreUnavailable``: their replies are lost."""
        self._lost_replies = count

    def before(self, method: str, act: Act) -> None:
        """Run ``act`` once, before the next call of ``method``."""
        self._before[_checked(method)] = act

    def after(self, method: str, act: Act) -> None:
        """Run ``act`` once, after the next call of ``method``. For a lease, after its release."""
        self._after[_checked(method)] = act

    def hold(self, method: str, *, after: bool = False) -> Hold:
        """Make the next call of ``method`` wait until the hold is released: before it starts, or
        ``after`` it has ended."""
        hold, place = Hold(), self.after if after else self.before
        place(method, hold)
        return hold

    def lapse(self) -> None:
        """Let other callers take the leases that are held. Their holders do not notice it, like a
        process that is suspended between its check of the lease and its request."""
        self._locks.clear()

    def dump(self) -> dict[str, Stored]:
        """Return a copy of the records, by name."""
        return dict(self._kept)

    def restore(self, records: Mapping[str, Stored]) -> None:
        """Replace all records by these, at once and without a check of versions."""
        self._kept = dict(records)

    # ---------- the store

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        async with self._called("read"):
            return await super().read(name)

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        """See ``TokenStore.swap``."""
        async with self._called("swap"):
            version = await super().swap(name, value, expected=expected, due_at=due_at)
        if self._lost_replies:
            self._lost_replies -= 1
            raise StoreUnavailable("the reply was lost")
        return version

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        async with self._called("names"):
            return await super().names()

    async def due(self, before: datetime, limit: int) -> list[str]:
        """See ``TokenStore.due``."""
        async with self._called("due"):
            return await super().due(before, limit)

    async def note_due(self, name: str, due_at: datetime | None) -> None:
        """See ``TokenStore.note_due``."""
        async with self._called("note_due"):
            await super().note_due(name, due_at)

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        """See ``TokenStore.changes``."""
        async with self._called("changes"):
            changes = super().changes(every_seconds)
        async for change in changes:
            self._raise_failure("changes")
            yield change

    async def check(self) -> None:
        """See ``TokenStore.check``."""
        async with self._called("check"):
            self._raise_failure("swap")

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``."""
        async with self._called("lease"), super().lease(name, ttl_seconds) as lease:
            self.leases.append(lease)
            yield lease

    @asynccontextmanager
    async def _called(self, method: str) -> AsyncIterator[None]:
        self._raise_failure(method)
        await _run(self._before.pop(method, None))
        yield
        await _run(self._after.pop(method, None))

    def _raise_failure(self, method: str) -> None:
        if method in self._failures:
            raise StoreUnavailable(self._failures[method])


class Hold:
    """A call that waits. ``FlakyStore.hold`` returns it."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def __call__(self) -> None:
        """Wait until ``release``."""
        self._reached.set()
        await self._released.wait()

    async def reached(self) -> None:
        """Wait until the call is held."""
        await self._reached.wait()

    def release(self) -> None:
        """Let the call go on."""
        self._released.set()


def _checked(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"{method!r} is none of the methods {', '.join(sorted(METHODS))}")
    return method


async def _run(act: Act | None) -> None:
    result = act() if act is not None else None
    if isawaitable(result):
        await result
