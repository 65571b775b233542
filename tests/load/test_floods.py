"""Floods of calls to a real server: a short run of ``torture floods``."""

from __future__ import annotations

from torture.floods import run


async def test_floods_of_calls_stay_within_their_bounds() -> None:
    """The requests at Xero, the size of the record, the lateness of a refresh, the revocation."""
    assert await run(calls=200, parallel=50, codes=30, rotations=1) == []
