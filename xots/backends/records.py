"""The parts of every store: a record with its version, and the names that it can have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import StaleWrite

__all__ = ["LEASE_PREFIX", "Stored", "checked_name", "stale_write", "version_of"]

LEASE_PREFIX = "lease-"
"""The prefix of the names that a store uses itself. ``names`` hides them."""


@dataclass(frozen=True)
class Stored:
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


def version_of(stored: Stored | None) -> str | None:
    """Return the version of a record; None if there is no record."""
    return stored.version if stored else None


def stale_write(name: str) -> StaleWrite:
    """Return the error for a write that found another version of ``name`` than the expected one."""
    return StaleWrite(f"another process has written {name} meanwhile; nothing was written")
