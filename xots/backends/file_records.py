"""The records in the folder of a file store: their list, and those that change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from .records import LEASE_PREFIX, is_account

__all__ = ["RECORD", "FolderWatch", "foreign_records", "records_in"]

RECORD = ".sealed"

COARSEST_TIME_SECONDS = 2.0
"""The longest tick of a file system's clock (FAT's). Two writes in one tick have the same time."""

MAX_SKIPPED_LOOKS = 10
"""Upper bound on the looks at the folder's time alone. It does not change when another program
writes into a record in place."""


def records_in(folder: int) -> Iterator[os.DirEntry[str]]:
    """Yield the records of an open folder. Links, folders and files of other names are skipped."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_record = entry.name.endswith(RECORD) and is_account(entry.name.removesuffix(RECORD))
            if is_record and entry.is_file(follow_symlinks=False):
                yield entry


def foreign_records(folder: int) -> list[str]:
    """Return the names in an open folder that end like a record's and are none, in order."""
    records = {entry.name for entry in records_in(folder)}
    return sorted(
        name
        for name in os.listdir(folder)
        if name.endswith(RECORD) and not name.startswith(LEASE_PREFIX) and name not in records
    )


class FolderWatch:
    """Finds the records that change between two looks at the folder.

    A new record changes the folder's time. So most looks read that time only, and not one of 10,000
    records. A time tells nothing about writes in the same tick of the file system's clock: after a
    change, the records are read until that tick is over for certain.
    """

    def __init__(self) -> None:
        self._identities: dict[str, tuple[int, ...]] = {}
        self._folder_time: int | None = None
        self._changed_at = self._read_at = 0.0
        """When a look first saw this time of the folder, and when one last read the records."""
        self._skipped = 0

    def look(self, folder: int) -> list[str]:
        """Return the names of the records that have changed since the last look, in order.

        Args:
            folder: the open folder.
        """
        now, folder_time = time.monotonic(), os.fstat(folder).st_mtime_ns
        if folder_time != self._folder_time:
            self._folder_time, self._changed_at = folder_time, now
        elif (
            self._read_at - self._changed_at >= COARSEST_TIME_SECONDS
            and self._skipped < MAX_SKIPPED_LOOKS
        ):
            self._skipped += 1
            return []
        before, self._identities = self._identities, _identities(folder)
        self._read_at, self._skipped = now, 0
        return sorted({name for name, _ in before.items() ^ self._identities.items()})


def _identities(folder: int) -> dict[str, tuple[int, ...]]:
    """Return numbers for each record, by its name. A write changes them."""
    found: dict[str, tuple[int, ...]] = {}
    for entry in records_in(folder):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # it was removed meanwhile
        numbers = status.st_ino, status.st_mtime_ns, status.st_size
        found[entry.name.removesuffix(RECORD)] = numbers
    return found
