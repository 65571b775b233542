"""The express lane changes no response: a longer run of ``torture lane``, by another seed."""

from __future__ import annotations

from typing import Any

from torture.lane import measure


async def test_many_responses_are_the_same_with_the_lane_and_without(expected_log: Any) -> None:
    """Every class of cases, with more of each."""
    expected_log.perhaps(r"^WARNING ", r"^ERROR xots.readers: no request is permitted")
    figures = await measure(300, 11)
    assert figures.wrong == []
    assert sum(figures.repeated.values()) > 2000
