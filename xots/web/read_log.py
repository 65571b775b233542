"""``ReadLog``: which reader has read the access token of which account, how often and when."""

from __future__ import annotations

import logging
from datetime import datetime

import msgspec

from ..safe_text import safe_text

__all__ = ["ReadLog", "Reads"]

logger = logging.getLogger("xots.readers")

MAX_ENTRIES = 10_000
"""Upper bound on the pairs of account and reader. With ``readers: anyone``, each address is a
reader."""

OTHERS = "others"
"""The name of all further readers together."""


class Reads(msgspec.Struct):
    """The reads of one account by one reader, since the start of this process."""

    reader: str
    """The name of a key, or ``uid:…`` or ``ip:…`` for a caller without one."""
    count: int
    first_at: datetime
    last_at: datetime


class ReadLog:
    """Counts the reads. The log has one line for each first one."""

    def __init__(self) -> None:
        self._reads: dict[str, dict[str, Reads]] = {}
        self._entries = 0

    def note(self, account: str, reader: str, now: datetime) -> None:
        """Count a read.

        Args:
            account: the name of the account.
            reader: the name of the caller: see ``access.Caller``.
            now: the time on this host.
        """
        of_account = self._reads.setdefault(account, {})
        if reader not in of_account and self._entries >= MAX_ENTRIES:
            reader = OTHERS
        if (found := of_account.get(reader)) is not None:
            found.count += 1
            found.last_at = now
            return
        of_account[reader] = Reads(reader=reader, count=1, first_at=now, last_at=now)
        self._entries += 1
        logger.info(
            "%s: %s reads the access token for the first time since the start; /status counts its "
            "further reads",
            account,
            safe_text(reader),
        )

    def of(self, account: str) -> list[Reads]:
        """Return the reads of an account, the latest first."""
        of_account = self._reads.get(account, {}).values()
        return sorted(of_account, key=lambda reads: reads.last_at, reverse=True)
