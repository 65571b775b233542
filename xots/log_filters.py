"""The messages of libraries, without the data that they quote.

Tornado, asyncio and redis-py quote header values, cookies, arguments, results of tasks and URLs in
their messages. ``hush_libraries`` keeps the constant words of each message. ``traceback_text``
keeps the text of an exception only if its type is known to quote no data.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator

from .errors import XotsError
from .safe_text import safe_text

__all__ = ["MAX_TRACEBACK_LINES", "error_text", "hush_libraries", "traceback_text"]

MAX_TRACEBACK_LINES = 200
"""Upper bound on the lines of a logged exception; one that calls itself has a thousand frames."""

NAMES_ONLY = (XotsError, AttributeError, ImportError, NameError, RecursionError, TypeError)
"""The exceptions whose texts hold names of the code, or words of this package. The text of any
other may quote what a library was given: a ``KeyError`` its key, a decoder its input."""


# ---------- exceptions


def error_text(error: BaseException) -> str:
    """Return the type of an exception, with its text if that quotes no data."""
    kind = type(error).__qualname__
    if isinstance(error, NAMES_ONLY):
        return f"{kind}: {safe_text(str(error), 1000)}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{kind}: [Errno {error.errno}] {safe_text(error.strerror)}"  # without its file
    return kind


def traceback_text(error: BaseException) -> str:
    """Return an exception with those that led to it, as Python prints them, each with
    ``error_text``."""
    lines = list(_traceback_lines(error))
    if len(lines) > MAX_TRACEBACK_LINES:
        half = MAX_TRACEBACK_LINES // 2
        lines[half:-half] = [f"[{len(lines) - 2 * half} lines are left out]"]
    return "\n".join(safe_text(line) for line in lines)


def _traceback_lines(error: BaseException) -> Iterator[str]:
    for at, one in enumerate(_with_causes(error)):
        if at:
            yield "This exception led to the next one:"
        yield "Traceback (most recent call last):"
        for frame in traceback.format_tb(one.__traceback__):
            yield from frame.splitlines()
        yield error_text(one)


def _with_causes(error: BaseException) -> list[BaseException]:
    """Return an exception after all that led to it, the first one first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and all(cause is not one for one in found):
        found.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


# ---------- loggers of libraries

LOGGERS = (
    "asyncio",
    "redis",
    "tornado.access",
    "tornado.application",
    "tornado.curl_httpclient",
    "tornado.general",
)

VARIABLE = re.compile(r"""[%:'"`<({\[\n0-9]""")
"""The end of the constant words of a message: what follows may be data."""


class _ConstantWords(logging.Filter):
    """Keeps the words before the first value, and the exception without its text.

    A client can cause many of these records, so ``commands.repeats`` limits them at each level.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        words = VARIABLE.split(str(record.msg), maxsplit=1)[0].strip()
        record.msg = words or f"a message of {record.name}, line {record.lineno}"
        record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = traceback_text(record.exc_info[1])
        record.exc_info = None
        record.limited = True
        return True


_constant_words = _ConstantWords()


def hush_libraries() -> None:
    """Let the loggers of libraries log constant words only, at every level and to every handler.

    A filter of a logger does not hold for those below it, so this is called again once more of them
    exist. Calling it twice changes nothing.
    """
    below = [name for name in list(logging.root.manager.loggerDict) if name.startswith("redis.")]
    for name in (*LOGGERS, *below):
        logging.getLogger(name).addFilter(_constant_words)
