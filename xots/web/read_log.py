"""``ReadLog``: which reader has read the access token of which account, how often and when."""

from __future__ import annotations

import logging
from datetime import datetime

import msgspec

from ..safe_text import safe_text

__all__ = ["ReadLog", "Reads"]

logger = logging.getLogger("xots.readers")

MAX_READERS = 100
"""Upper bound on the readers of an account. With ``readers: anyone``, each address is one."""

OTHERS = "(others)"
"""The reads of those that are not listed any more. No reader of a file can have this name."""


class Reads(msgspec.Struct):
    """The reads of one account by one reader, since the start of this process."""

    reader: str
    """The name of the caller: see ``access.Caller``."""
    count: int
    first_at: datetime
    last_at: datetime


class ReadLog:
    """Counts the reads. The log has one line for each first one."""

    def __init__(self) -> None:
        self._reads: dict[str, dict[str, Reads]] = {}
        """By account and reader. The reader that was noted last is the last one."""

    def note(self, account: str, reader: str, now: datetime, count: int = 1) -> None:
        """Count a read.

        Args:
            account: the name of the account.
            reader: the name of the caller.
            now: the time on this host.
            count: the number of reads, if there were several; ``now`` is that of the last.
        """
        of_account = self._reads.setdefault(account, {})
        found = of_account.pop(reader, None)
        if found is None:
            found = Reads(reader=reader, count=0, first_at=now, last_at=now)
            logger.info(
                "%s: %s reads the access token for the first time; /status counts the rest",
                account,
                safe_text(reader),
                extra={"limited": True},
            )
        found.count += count
        found.last_at = max(found.last_at, now)
        of_account[reader] = found
        if len(of_account) > MAX_READERS:
            _merge_oldest(of_account)

    def of(self, account: str) -> list[Reads]:
        """Return the reads of an account, the latest first."""
        latest_first = reversed(self._reads.get(account, {}).values())
        return sorted(latest_first, key=lambda reads: reads.last_at, reverse=True)


def _merge_oldest(of_account: dict[str, Reads]) -> None:
    """Move the reads of the reader that has not read for longest to those of the others."""
    others = of_account.pop(OTHERS, None)
    oldest = of_account.pop(next(iter(of_account)))
    if others is not None:
        oldest = Reads(
            reader=OTHERS,
            count=others.count + oldest.count,
            first_at=min(others.first_at, oldest.first_at),
            last_at=max(others.last_at, oldest.last_at),
        )
    oldest.reader = OTHERS
    rest = dict(of_account)
    of_account.clear()
    of_account.update({OTHERS: oldest} | rest)  # the others stay the oldest
