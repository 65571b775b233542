"""The express lane changes no response: a short run of ``torture lane``."""

from __future__ import annotations

from typing import Any

import pytest
from torture.lane import measure

CASES, SEED = 40, 2

BY_HEAD_AT_LEAST = {
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
"""The responses of the lane to known heads in each class: a class that it does not meet proves
nothing. In the class ``mutated``, it may meet no request that it knows."""

BY_TARGET_AT_LEAST = {"splits": 100, "times": 8, "login": 20, "rights": 40}
"""Those to known targets: Tornado puts a head together again, or it has a number of its own."""


async def test_each_response_is_the_same_with_the_lane_and_without(
    expected_log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same steps on connections of both ways, and before and after each change."""
    expected_log.perhaps(r"^WARNING ", r"^ERROR xots.readers: no request is permitted")
    figures = await measure(CASES, SEED)
    with capsys.disabled():
        print(f"\nexpress lane: {str(figures).splitlines()[-1]}")
    assert figures.wrong == []
    met = {kind for kind, least in BY_HEAD_AT_LEAST.items() if figures.by_head[kind] >= least}
    assert met == set(figures.cases) - {"mutated"} == set(BY_HEAD_AT_LEAST)
    assert all(figures.by_target[kind] >= least for kind, least in BY_TARGET_AT_LEAST.items())
