"""An event loop in which waiting takes no time: the time jumps to the next event."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.SelectSelector):
    """A selector that never waits, and advances the time of the loop instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: no task waits for an event that will happen")
        self.now += max(timeout, 0)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of the simulation, in seconds from its beginning."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now
