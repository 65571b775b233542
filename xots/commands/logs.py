"""The log of a server: lines on stderr, as text or as JSON."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime

__all__ = ["log_to_stderr"]


def log_to_stderr(level: str, line_format: str = "text") -> None:
    """Send the log to stderr.

    Args:
        level: the least level, such as ``info``.
        line_format: ``text`` or ``json``.
    """
    logging.basicConfig(level=level.upper())
    formatter = _JsonLines() if line_format == "json" else _text_lines()
    logging.getLogger().handlers[0].setFormatter(formatter)


def _text_lines() -> logging.Formatter:
    """Begin each line with its time in UTC, as are the times in the messages."""
    lines = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    lines.converter = time.gmtime
    lines.default_msec_format = "%s.%03d UTC"
    return lines


class _JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger`` and ``message``; for a logged
    exception, ``exception`` too."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
