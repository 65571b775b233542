"""The Accept header: the media types that a client names, and the one that it prefers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["names", "preferred"]

OFFERED = frozenset({"application/json", "text/html", "text/plain"})
"""The media types among which the header chooses."""

WEIGHT = re.compile(r"(?i)\s*q\s*=\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*")


def preferred(accept: str) -> str | None:
    """Return the offered media type with the highest q, and the first of equal ones.

    Only a type that is named with q > 0 counts (RFC 9110 section 12.5.1). None: there is none; a
    wildcard names no type.
    """
    return max(_named(accept), key=lambda named: named[1], default=(None, 0.0))[0]


def names(accept: str, media_type: str) -> bool:
    """True if the header names this offered media type with q > 0."""
    return any(named == media_type for named, _ in _named(accept))


def _named(accept: str) -> Iterator[tuple[str, float]]:
    """Yield the offered media types that the header names, with their q, in its order."""
    for part in accept.split(","):
        media_type, *parameters = part.split(";")
        name = media_type.strip().lower()
        if name in OFFERED and (weight := _weight(parameters)) > 0:
            yield name, weight


def _weight(parameters: list[str]) -> float:
    """Return q. A malformed one counts as missing: the client did name the type."""
    found = next(filter(None, map(WEIGHT.fullmatch, parameters)), None)
    return min(float(found[1]), 1.0) if found else 1.0
