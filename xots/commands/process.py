"""The process of a command: prepared before it holds a secret."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

from ..safe_text import MAX_MESSAGE, safe_text

__all__ = ["columns", "protect_process", "show"]


def protect_process() -> None:
    """Let nothing of this process's memory reach a core dump or a traceback, and let no character
    make its output fail."""
    _forbid_core_dumps()
    sys.excepthook = _print_exception
    threading.excepthook = _print_exception_of_thread
    sys.unraisablehook = _print_unraisable
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A locale may have no byte for a character of a name. For stderr, this is the default.
        sys.stdout.reconfigure(errors="backslashreplace")


def show(*texts: object) -> None:
    """Print texts on one line of stdout. Text from outside may be among them."""
    print(*(safe_text(text, MAX_MESSAGE) for text in texts), flush=True)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, whose columns are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _forbid_core_dumps() -> None:
    """Forbid core dumps, which would hold tokens and keys. A program that ``exec`` starts inherits
    this, and may change it."""
    try:
        import resource
    except ImportError:
        return  # not a Unix system
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an unexpected exception without the texts that may quote data."""
    from ..log_filters import traceback_text  # here, since most commands need it never

    print(traceback_text(error), file=sys.stderr)


def _print_exception_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        _print_exception(found.exc_type, found.exc_value, found.exc_traceback)


def _print_unraisable(found: sys.UnraisableHookArgs) -> None:
    """Print an exception of a finaliser. The object itself may quote data."""
    if found.exc_value is not None:
        _print_exception(found.exc_type, found.exc_value, found.exc_traceback)
