"""The check of the store that ``/ready`` asks for: at most one a second."""

from __future__ import annotations

import asyncio
import math

from ..errors import StoreUnavailable
from ..tasks import Closed, SharedTask, Tasks
from .context import Context

__all__ = ["StoreCheck"]

CHECK_INTERVAL_SECONDS = 1.0
"""Load balancers and strangers may request ``/ready`` as often as they like: the store does not
notice."""


class StoreCheck:
    """Checks the store, in one task that all callers share.

    Args:
        context: the account.
        tasks: the owner's tasks.
    """

    def __init__(self, context: Context, tasks: Tasks) -> None:
        self._context = context
        self._shared = SharedTask(tasks)
        self._checked_at = -math.inf
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """Return why the store cannot be read and written, as of a second ago at most; None if it
        can.

        A failure that an operation has met is known without a check. A closed keeper makes none.
        """
        replica = self._context.replica
        if replica.problem is None and self._is_due:
            try:
                task, _ = self._shared.join(self._check)
            except Closed:
                return "the server is stopping"
            await asyncio.shield(task)
        return replica.problem or self._problem

    @property
    def _is_due(self) -> bool:
        age = self._context.clock.elapsed() - self._checked_at
        return self._shared.running is not None or age >= CHECK_INTERVAL_SECONDS

    async def _check(self) -> None:
        self._problem = None
        try:
            await self._context.store.check()
        except StoreUnavailable as error:
            self._problem = str(error)
        finally:
            self._checked_at = self._context.clock.elapsed()
