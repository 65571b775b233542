"""The log of a server: lines on stderr, as text or as JSON.

Each record is one line of visible characters; the lines of an exception follow it, indented. So no
text from outside can forge a line. ``safe_text`` also redacts live secrets.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

from ..log_filters import hush_libraries, traceback_text
from ..safe_text import MAX_MESSAGE, safe_text
from .repeats import Repeats

__all__ = ["LogHandler", "log_to_stderr"]

INDENT = "    "


def log_to_stderr(level: str, line_format: str = "text") -> None:
    """Send the log to stderr.

    Args:
        level: the least level, such as ``info``.
        line_format: ``text`` or ``json``.
    """
    hush_libraries()
    logging.basicConfig(level=level.upper(), handlers=[LogHandler(sys.stderr, line_format)])


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes safe lines to a stream, and counts repeated ones.

    Args:
        stream: the stream.
        line_format: ``text`` or ``json``.
    """

    def __init__(self, stream: TextIO, line_format: str = "text") -> None:
        super().__init__(stream)
        self.setFormatter(_JsonLines() if line_format == "json" else _TextLines())
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the records that are due."""
        try:
            due = self._repeats.admitted(record)
        except Exception:  # noqa: BLE001 - a message that cannot be formatted
            self.handleError(record)
            return
        for one in due:
            super().emit(one)

    def close(self) -> None:
        """Write the counts that are left."""
        for one in self._repeats.counts():
            super().emit(one)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Name the place of a record that cannot be written. Python would print its arguments."""
        place = f"{record.name}, line {record.lineno}"
        if sys.stderr is not None:  # a service may run with stderr closed
            with contextlib.suppress(OSError, ValueError):
                print(f"xots: a message of {place} could not be logged", file=sys.stderr)


def _message(record: logging.LogRecord) -> str:
    return safe_text(record.getMessage(), MAX_MESSAGE)


def _exception(record: logging.LogRecord) -> str:
    """Return the lines of a record's exception; empty without one."""
    if record.exc_info and record.exc_info[1] is not None:
        return traceback_text(record.exc_info[1])
    lines = (record.exc_text or "").splitlines()
    return "\n".join(safe_text(line) for line in lines)


class _TextLines(logging.Formatter):
    """Begins each line with its time in UTC, as are the times in the messages."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        where = f"{at}.{int(record.msecs):03d} UTC {record.levelname} {record.name}"
        lines = [f"{where}: {_message(record)}", *_exception(record).splitlines()]
        return f"\n{INDENT}".join(lines)


class _JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger`` and ``message``; for a logged
    exception, ``exception`` too."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if exception := _exception(record):
            line["exception"] = exception
        return json.dumps(line)
