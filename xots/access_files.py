"""``LiveRules``: the rules of access in files that an operator changes while the server runs.

Each request looks at the status of the files, which takes a few microseconds, and reads a file
again once it has changed. So a key that was revoked, or a user that was removed, is refused at the
next request, on open connections too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from .access import Reader, Rules
from .errors import RulesUnreadable, SettingsError
from .reader_file import read_readers
from .safe_text import MAX_MESSAGE, safe_text
from .settings import Settings
from .settings.parsing import ANYONE

__all__ = ["LiveRules", "Reread"]

logger = logging.getLogger("xots.readers")

T = TypeVar("T")


class Reread(Generic[T]):
    """A value that is read from files, and again when one of them has changed.

    Args:
        paths: the files.
        read: reads the value; raises SettingsError.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths, self._read = paths, read
        self._seen = self._status()
        self._found: T | SettingsError = read()

    def value(self) -> T:
        """Return the value.

        Raises:
            SettingsError: the files can't be read now. They are read again once one has changed.
        """
        if (seen := self._status()) != self._seen:
            # A change after this look has another status, and is seen by the next call.
            self._seen = seen
            try:
                self._found = self._read()
            except SettingsError as error:
                self._found = error
        if isinstance(self._found, SettingsError):
            raise SettingsError(self._found.problems)  # one that is raised again grows each time
        return self._found

    def _status(self) -> list[tuple[int, ...] | None]:
        return [_status(path) for path in self._paths]


def _status(path: Path) -> tuple[int, ...] | None:
    """Return what changes with the content of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class LiveRules:
    """The rules of a server, as its files say now.

    Args:
        settings: the settings of its start.
        users: reads ``allowed_users`` again; None if no file gives it.

    Raises:
        SettingsError: the file of readers can't be used.
    """

    def __init__(self, settings: Settings, users: Reread[tuple[int, ...]] | None = None) -> None:
        self._serves_anyone = settings.readers == ANYONE
        self._users, self._allowed = users, settings.allowed_users
        self._readers = None
        if isinstance(path := settings.readers, Path):
            place = settings.sources.get("readers", "readers")
            self._readers = Reread([path], lambda: read_readers(path, place))

    def __call__(self) -> Rules:
        """Return the rules now.

        Raises:
            RulesUnreadable: the file of readers can't be read.
        """
        return Rules(
            readers=None if self._readers is None else _readable(self._readers),
            serves_anyone=self._serves_anyone,
            allowed_users=self._allowed_users() or None,
        )

    def _allowed_users(self) -> tuple[int, ...]:
        """Return the users that may connect. The last known ones stay if the file can't be read, or
        does not name any: a fault in it must neither stop the service nor open it to all."""
        if self._users is None:
            return self._allowed
        problem = "it is not set there any more"
        try:
            if found := self._users.value():
                self._allowed = found
                return found
        except SettingsError as error:
            problem = str(error)
        logger.error(
            "allowed_users stays as it was: %s. Correct the file; to let all users connect, "
            "restart xots too",
            safe_text(problem, MAX_MESSAGE),
            extra={"kind": "allowed_users"},
        )
        return self._allowed


def _readable(readers: Reread[dict[str, Reader]]) -> dict[str, Reader]:
    """Return the readers; raises as ``LiveRules``. The receiver of the response is not known, so it
    gets no details: the log has them."""
    try:
        return readers.value()
    except SettingsError as error:
        problem = safe_text(error, MAX_MESSAGE)
    logger.error(
        "no request is permitted: %s. Correct the file", problem, extra={"kind": "readers"}
    )
    raise RulesUnreadable(
        "no key can be checked now; an operator must act: the server's log names the fault"
    )
