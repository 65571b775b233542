"""The judgements of the benchmarks about refreshes, and about growth in a soak."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.bench import BenchmarkFailed
from benchmarks.outside import Refresh, checked, needless
from benchmarks.soak import Limit


def refreshes(*made: tuple[float, str]) -> list[Refresh]:
    """Refreshes at these seconds, each with the token that it spent."""
    began = datetime(2026, 11, 1, tzinfo=UTC)
    return [Refresh(began + timedelta(seconds=at), token, "issued") for at, token in made]


@pytest.mark.parametrize(
    ("made", "count"),
    [
        ([], 0),
        ([(0, "a"), (1.1, "b"), (2.2, "c")], 0),
        ([(0, "a"), (0.2, "b"), (1.3, "c")], 1),
        ([(0, "a"), (1.1, "b"), (2.2, "b"), (2.3, "b")], 2),
        ([(1.1, "b"), (0, "a")], 0),
    ],
)
def test_needless_refreshes_are_counted(made: list[tuple[float, str]], count: int) -> None:
    """Of tokens that live for two seconds, one is due after each. None is spent twice."""
    assert needless(refreshes(*made), 2) == count


def test_a_refresh_without_a_token_fails_an_experiment() -> None:
    """The error names the outcome."""
    good = refreshes((0, "a"))
    assert checked(good) == good
    with pytest.raises(BenchmarkFailed, match="1 of 2 refreshes brought no token: refused"):
        checked([*good, replace(good[0], outcome="refused")])


@pytest.mark.parametrize(
    ("values", "is_flat"),
    [
        ([10, 30, 35, 36, 35, 36, 35, 36, 35], True),
        ([10, 30, 35, 36, 37, 38, 39, 40, 41], False),
        ([10, 30, 35, 40, 40, 40, 35, 35, 35], True),
        ([10, 30, 35, 36, 36, 36, 36, 90, 36], True),
    ],
)
def test_the_growth_after_the_warm_up_counts(values: list[float], is_flat: bool) -> None:
    """The first third is the warm-up, and one sample that differs is noise."""
    assert Limit("memory", 0.5).allows(values) == is_flat


def test_a_small_growth_is_noise() -> None:
    """It is within the absolute or the relative limit."""
    values = [100.0] * 6 + [102] * 3
    assert not Limit("objects", 1, part=0.01).allows(values)
    assert Limit("objects", 2, part=0.01).allows(values)
    assert Limit("objects", 1, part=0.02).allows(values)
