"""Requests that wait until they are released, so that a test needs no sleep to catch one in mid-flight."""

from __future__ import annotations

import asyncio

__all__ = ["Holds", "SandboxStopped"]


class SandboxStopped(Exception):
    """The sandbox stops while a request waits: its connection is cut."""


class Holds:
    """The requests that a fault holds, oldest first."""

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._pauses: list[asyncio.Future[None]] = []
        self._watchers: list[asyncio.Future[None]] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    async def hold(self) -> None:
        """Wait to be released. Raises SandboxStopped."""
        await self._wait(self._held, None)

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds. Raises SandboxStopped."""
        await self._wait(self._pauses, seconds)

    def release(self, count: int | None = None) -> int:
        """Let the oldest so many held requests go on, or all; return how many."""
        going = self._held[:count]
        del self._held[:count]
        for future in going:
            if not future.done():
                future.set_result(None)
        return len(going)

    async def until(self, count: int = 1) -> None:
        """Wait until at least so many requests are held."""
        while len(self._held) < count:
            watcher = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    def close(self) -> None:
        """Wake everything that waits, with SandboxStopped, now and from now on."""
        self._closed = True
        for future in (*self._held, *self._pauses):
            if not future.done():
                future.set_exception(SandboxStopped())
        self._held.clear()
        self._pauses.clear()

    async def _wait(self, waiting: list[asyncio.Future[None]], seconds: float | None) -> None:
        if self._closed:
            raise SandboxStopped
        future = asyncio.get_running_loop().create_future()
        waiting.append(future)
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()
        done, _ = await asyncio.wait([future], timeout=seconds)
        if future in waiting:
            waiting.remove(future)
        for one in done:
            one.result()
