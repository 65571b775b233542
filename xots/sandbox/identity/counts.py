"""Counts of the identity provider's events."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counts"]


@dataclass(slots=True)
class Counts:
    """The number of events of each kind since the start."""

    consents: int = 0
    exchanges: int = 0
    refreshes: int = 0
    """Refreshes that issued new tokens."""
    replays: int = 0
    """Refreshes that repeated an earlier response."""
    refusals: int = 0
    revocations: int = 0
    disconnections: int = 0
    """Connections that an app has deleted."""
    shuffles: int = 0
    """Lists of connections in a changed order."""
