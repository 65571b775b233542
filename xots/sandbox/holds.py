"""Requests that wait until a test releases them, so that it needs no sleep to catch one midway."""

from __future__ import annotations

import asyncio

__all__ = ["Holds", "SandboxStopped"]


class SandboxStopped(Exception):
    """The sandbox stops while a request waits. The connection is reset."""


class Holds:
    """The requests that a fault holds or delays."""

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        """Oldest first."""
        self._pauses: list[asyncio.Future[None]] = []
        self._watchers: list[asyncio.Future[None]] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    async def hold(self) -> None:
        """Wait for a release. Raises SandboxStopped."""
        await self._wait(self._held, None)

    async def pause(self, seconds: float) -> None:
        """Wait for this time. Raises SandboxStopped."""
        await self._wait(self._pauses, seconds)

    def release(self, count: int | None = None) -> int:
        """Release the ``count`` oldest held requests, or all. Return the number released."""
        released = self._held[:count]
        del self._held[:count]
        _wake(released)
        return len(released)

    async def wait_for(self, count: int = 1) -> None:
        """Wait until at least ``count`` requests are held."""
        while len(self._held) < count:
            watcher = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    def close(self) -> None:
        """Wake all waiting requests, and all later ones at once, with SandboxStopped."""
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
        _wake(self._watchers)
        self._watchers.clear()
        done, _ = await asyncio.wait([future], timeout=seconds)
        if future in waiting:
            waiting.remove(future)
        for ended in done:
            ended.result()


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
