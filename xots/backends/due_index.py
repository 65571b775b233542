"""``DueIndex``: when each account next needs attention, in the memory of one process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from datetime import datetime

__all__ = ["DueIndex"]

AFTER_EVERY_NAME = chr(0x10FFFF)
"""A text that sorts after each name."""


class DueIndex:
    """Names in the order in which they are due.

    The cost of ``due`` follows the number of names that it returns. ``note`` moves the entries
    behind its own in one block: that takes microseconds among 10,000.
    """

    def __init__(self) -> None:
        self._order: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}

    def note(self, name: str, due_at: datetime | None) -> None:
        """Replace the time of ``name``; None removes it."""
        if (known := self._due_at.pop(name, None)) is not None:
            del self._order[bisect_left(self._order, (known, name))]
        if due_at is not None:
            self._due_at[name] = due_at.timestamp()
            insort(self._order, (self._due_at[name], name))

    def due(self, before: datetime, limit: int) -> list[str]:
        """Return up to ``limit`` names whose time is not after ``before``, the earliest first."""
        end = bisect_right(self._order, (before.timestamp(), AFTER_EVERY_NAME))
        return [name for _, name in self._order[: min(end, limit)]]
