"""``LiveRules``: the rules of access in files that an operator changes while the server runs.

Each request looks at the status of the files, which takes a few microseconds, and reads a file
again once it has changed. So a key that was revoked, or a user that was removed, is refused at the
next request, on open connections too.
"""

from __future__ import annotations

import logging
from pathlib import Path

from msgspec.structs import replace

from .access import Reader, Rules
from .errors import RulesUnreadable, SettingsError
from .reread import LastGood, Reread
from .safe_text import MAX_MESSAGE, safe_text
from .settings import Settings
from .settings.parsing import ANYONE

__all__ = ["LiveRules"]

logger = logging.getLogger("xots.readers")


class LiveRules:
    """The rules of a server, as its files say now.

    Args:
        settings: the settings of its start.
        users: the value of ``allowed_users`` in a file; None if no file gives it.

    Raises:
        SettingsError: the file of readers can't be used.
    """

    def __init__(self, settings: Settings, users: Reread[tuple[int, ...]] | None = None) -> None:
        self._rules = Rules(
            serves_anyone=settings.readers == ANYONE, allowed_users=settings.allowed_users
        )
        # A fault in the file must neither stop the service nor open it to all.
        self._users = None if users is None else LastGood(users, _report_users)
        self._readers = None
        if isinstance(path := settings.readers, Path):
            from .reader_file import read_readers  # here, since a start without readers needs none

            place = settings.sources.get("readers", "readers")
            self._readers = Reread([path], lambda: read_readers(path, place))

    def __call__(self) -> Rules:
        """Return the rules now: the same object until they change.

        Raises:
            RulesUnreadable: the file of readers can't be read.
        """
        last = self._rules
        readers = last.readers if self._readers is None else _readable(self._readers)
        allowed = last.allowed_users if self._users is None else self._users.value()
        if readers is not last.readers or allowed is not last.allowed_users:
            self._rules = replace(last, readers=readers, allowed_users=allowed)
        return self._rules


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


def _report_users(problem: str) -> None:
    logger.error(
        "allowed_users stays as it was: %s. Correct the file; to let all users connect, restart "
        "xots too",
        problem,
    )
