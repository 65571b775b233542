"""Tasks that run to their end, whatever becomes of their callers. There is no OAuth in here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .log_filters import error_text

__all__ = ["Closed", "SharedTask", "Tasks", "cancel_until_done"]

logger = logging.getLogger("xots.tasks")

CANCEL_INTERVAL_SECONDS = 0.1
"""Interval between two cancellations of a task that does not end."""

T = TypeVar("T")


class Closed(Exception):
    """Raised when a task is started after ``drain``."""


class Tasks:
    """The tasks of one owner. They outlive their callers, and ``drain`` waits for all of them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.closed = False
        """True once ``drain`` was called: nothing new is started."""

    @property
    def running(self) -> frozenset[asyncio.Task[Any]]:
        """The tasks that have not ended yet."""
        return frozenset(self._running)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work`` as a task.

        Raises:
            Closed: ``drain`` was called before.
        """
        if self.closed:
            work.close()
            raise Closed
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result. A cancelled caller does not cancel it.

        Raises:
            Closed: ``drain`` was called before.
        """
        return await asyncio.shield(self.start(work))

    async def drain(self) -> None:
        """Start nothing new, and wait for the tasks that run."""
        self.closed = True
        while self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A waiting caller receives the error itself. Log it in case none waits.
            logger.debug("a task ended with %s", error_text(error))


class SharedTask:
    """One task at a time that all callers join.

    Args:
        tasks: the owner's tasks, which it belongs to.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> asyncio.Task[None] | None:
        """The running task, or None. A task that is done is not returned: a caller that waits for
        one in a loop would never yield to the event loop."""
        return self._task if self._task is not None and not self._task.done() else None

    def join(
        self, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> tuple[asyncio.Task[None], bool]:
        """Return the running task and False, or start ``work`` and return its task and True.

        Raises:
            Closed: no task runs, and ``drain`` was called before.
        """
        if (running := self.running) is not None:
            return running, False
        self._task = self._tasks.start(work())
        return self._task, True


async def cancel_until_done(task: asyncio.Task[None]) -> None:
    """Cancel ``task``, as often as it takes.

    Python 3.11's ``asyncio.wait_for`` drops a cancellation that arrives just when its awaitable
    ends (https://github.com/python/cpython/issues/81839), and clients of stores use it.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_INTERVAL_SECONDS)
