"""The express lane changes no response: a short run of ``torture lane``."""

from __future__ import annotations

from typing import Any

import pytest
from torture.lane import measure

CASES, SEED = 40, 2

REPEATED_AT_LEAST = {
    "matrix": 5,
    "fuzzed": 1,
    "splits": 150,
    "pipelines": 100,
    "ends": 30,
    "followers": 60,
    "embedded": 30,
    "times": 15,
    "login": 50,
    "rights": 40,
}
"""The responses that the lane gives in each class: a class that it does not meet proves nothing. In
the class ``mutated``, it may meet no request that it knows."""


async def test_each_response_is_the_same_with_the_lane_and_without(
    expected_log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same steps on connections of both ways, and before and after each change."""
    expected_log.perhaps(r"^WARNING ", r"^ERROR xots.readers: no request is permitted")
    figures = await measure(CASES, SEED)
    with capsys.disabled():
        print(f"\nexpress lane: {str(figures).splitlines()[-1]}")
    assert figures.wrong == []
    met = {kind for kind, least in REPEATED_AT_LEAST.items() if figures.repeated[kind] >= least}
    assert met == set(figures.cases) - {"mutated"} == set(REPEATED_AT_LEAST)
