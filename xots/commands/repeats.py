"""Repeated lines of the log are counted instead of written. Pure.

A program that repeats a refused request, or a store that fails at each attempt, must not fill the
disk. The first lines tell what happens; a count tells how often.
"""

from __future__ import annotations

import logging

import msgspec

from ..safe_text import safe_text

__all__ = ["MAX_LINES", "WINDOW_SECONDS", "Repeats"]

MAX_LINES = 20
"""Lines of one kind in one window. Six retries of a refresh in a minute are all shown."""

WINDOW_SECONDS = 60.0

MAX_KINDS = 1000
"""Upper bound on the windows in memory. There are about 100 kinds of message."""


class _Window(msgspec.Struct):
    """The lines of one kind, from the first one on. It does not keep the records: an exception of
    theirs would keep its frames alive."""

    began_at: float
    name: str
    level: int
    first: str
    """The message of the first line."""
    count: int = 0

    @property
    def left_out(self) -> int:
        return self.count - MAX_LINES


class Repeats:
    """Decides which records of a log are written.

    Records of one kind have the same logger, level and message template, and the same attribute
    ``kind`` if they have one (``extra={"kind": …}``). Records at WARNING or above are limited, and
    those with ``extra={"limited": True}``. The time is that of the records.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int, str, str], _Window] = {}

    def admitted(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Return the records to write now: a count for each kind whose window has ended, and the
        record itself unless there were too many of its kind."""
        due = self._ended(record.created)
        if record.levelno < logging.WARNING and not getattr(record, "limited", False):
            return [*due, record]
        kind = (
            record.name,
            record.levelno,
            str(record.msg)[:200],
            str(getattr(record, "kind", ""))[:200],
        )
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            due += self.counts()
        if kind not in self._windows:
            self._windows[kind] = _Window(
                record.created, record.name, record.levelno, safe_text(record.getMessage())
            )
        window = self._windows[kind]
        window.count += 1
        return due if window.left_out > 0 else [*due, record]

    def counts(self) -> list[logging.LogRecord]:
        """Return the counts of all windows, also those that have not ended, and forget them."""
        return self._ended(float("inf"))

    def _ended(self, now: float) -> list[logging.LogRecord]:
        # A clock that was set back ends a window too.
        ended = [
            kind
            for kind, window in self._windows.items()
            if not window.began_at <= now < window.began_at + WINDOW_SECONDS
        ]
        windows = [self._windows.pop(kind) for kind in ended]
        return [_count(window) for window in windows if window.left_out > 0]


def _count(window: _Window) -> logging.LogRecord:
    """Return the record that counts the lines of a window that were not written."""
    return logging.LogRecord(
        name=window.name,
        level=window.level,
        pathname=__file__,
        lineno=0,
        msg="%d more lines like this one were counted in %d seconds: %s",
        args=(window.left_out, WINDOW_SECONDS, window.first),
        exc_info=None,
    )
