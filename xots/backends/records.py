"""The parts of every store: a record with its version, and the names that it can have."""

from __future__ import annotations

import re

import msgspec

from ..errors import RecordUnusable, StaleWrite

__all__ = [
    "LEASE_PREFIX",
    "MAX_RECORD_BYTES",
    "Stored",
    "check_size",
    "checked_name",
    "is_account",
    "stale_write",
    "version_of",
]

MAX_RECORD_BYTES = 1_000_000
"""Upper bound on the bytes of a record. One of xots has some kilobytes; a larger one comes from
another program, and would cost every process that reads it memory and time."""

LEASE_PREFIX = "lease-"
"""The prefix of the names that a store uses itself. ``names`` hides them."""


class Stored(msgspec.Struct, frozen=True):
    """The record that a store holds under a name."""

    value: bytes
    version: str
    """An opaque mark of these bytes, for compare-and-set. Different bytes never have the same
    version: it is random or a digest. A counter would repeat after a backup is restored."""


def checked_name(name: str) -> str:
    """Return ``name`` if it can name a record: 1 to 64 of ``a-z``, ``0-9`` and ``-``.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
        raise ValueError(
            f"{name!r} is not a name of up to 64 lower-case letters, digits and hyphens"
        )
    return name


def is_account(name: str) -> bool:
    """Tell if ``name`` can be that of an account. Another program may have written other names."""
    is_name = re.fullmatch(r"[a-z0-9-]{1,64}", name) is not None
    return is_name and not name.startswith(LEASE_PREFIX)


def check_size(name: str, size: int) -> None:
    """Check that a record that is read or written is not too large.

    Args:
        name: the name of the record.
        size: the number of its bytes.

    Raises:
        RecordUnusable: it has more than ``MAX_RECORD_BYTES``.
    """
    if size > MAX_RECORD_BYTES:
        raise RecordUnusable(
            f"the record {name} has {size} bytes, but a record has {MAX_RECORD_BYTES} at most: "
            "if another program has written it to the store, delete it there and log in again"
        )


def version_of(stored: Stored | None) -> str | None:
    """Return the version of a record; None if there is no record."""
    return stored.version if stored else None


def stale_write(name: str) -> StaleWrite:
    """Return the error for a write that found another version of ``name`` than the expected one."""
    return StaleWrite(f"another process has written {name} meanwhile; nothing was written")
