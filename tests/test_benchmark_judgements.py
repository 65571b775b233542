"""The judgements of the benchmarks about refreshes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.bench import BenchmarkFailed
from benchmarks.outside import Refresh, checked, needless


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
