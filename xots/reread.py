"""Values that are read from files, and read again when a file has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from .errors import SettingsError
from .safe_text import MAX_MESSAGE, safe_text

__all__ = ["LastGood", "Reread", "Status", "status_of"]

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Time between two attempts to read files that can't be read."""


Status = tuple[int, ...]


class Reread(Generic[T]):
    """A value that is read from files, and again when one of them has changed.

    Args:
        paths: the files.
        read: reads the value; raises SettingsError.
        elapsed: returns the time in seconds, by a clock that no operator sets.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], T],
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._read, self._elapsed = paths, read, elapsed
        self._seen = self._status()
        self._found: T | SettingsError = read()
        self._read_at = elapsed()

    def value(self) -> T:
        """Return the value.

        Raises:
            SettingsError: the files can't be read now. They are read again once one has changed,
                and after a second, since the fault may lie outside them.
        """
        seen, now = self._status(), self._elapsed()
        is_failing = isinstance(self._found, SettingsError)
        if seen != self._seen or (is_failing and now - self._read_at >= RETRY_SECONDS):
            # A change after this look has another status, and is seen by the next call.
            self._seen, self._read_at = seen, now
            self._found = self._outcome()
        if isinstance(self._found, SettingsError):
            raise SettingsError(self._found.problems)  # one that is raised again grows each time
        return self._found

    def _outcome(self) -> T | SettingsError:
        try:
            irregular = [path for path in self._paths if path.exists() and not path.is_file()]
        except OSError as error:  # such as a folder that this user may not search
            return SettingsError([f"{error.filename} can't be read: {error.strerror}"])
        if irregular:  # a pipe would block the server
            return SettingsError([f"{path} is not a regular file" for path in irregular])
        try:
            return self._read()
        except SettingsError as error:
            return error

    def _status(self) -> list[Status | None]:
        return [status_of(path) for path in self._paths]


def status_of(path: Path) -> Status | None:
    """Return what changes with the content of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class LastGood(Generic[T]):
    """The last value of files that could be read.

    Args:
        files: the files.
        report: receives the problem, once, if they can't be read any more.
    """

    def __init__(self, files: Reread[T], report: Callable[[str], None]) -> None:
        self._files, self._report = files, report
        self._last = files.value()
        self._reported: str | None = None

    def value(self) -> T:
        """Return the value, or the last one if the files can't be read now."""
        try:
            self._last, self._reported = self._files.value(), None
        except SettingsError as error:
            problem = safe_text(error, MAX_MESSAGE)
            if problem != self._reported:
                self._reported = problem
                self._report(problem)
        return self._last
