"""Short runs of the deterministic simulation; ``make simulate`` runs the long ones."""

from __future__ import annotations

import pytest
from simulation.runs import FAULTS_BEYOND, run_beyond, run_seed, run_years

from xots.sandbox import SiblingMode


@pytest.mark.parametrize("mode", SiblingMode)
@pytest.mark.parametrize("seed", [3, 25])
def test_hours_of_trouble_lose_no_login(mode: SiblingMode, seed: int) -> None:
    """Through every kind of fault, the store holds a token that Xero accepts."""
    figures = run_seed(seed, mode, hours=4)
    assert figures["refreshes issued"] > 0
    assert figures["logins"] > 0


def test_a_seed_replays() -> None:
    """The same seed makes the same story, so that a failure can be replayed."""
    assert run_seed(31, SiblingMode.LAST_VALID, hours=2) == run_seed(
        31, SiblingMode.LAST_VALID, hours=2
    )


def test_a_lost_login_beyond_the_bound_is_reported() -> None:
    """Each fault occurs, each lost login is reported, and a new login works."""
    figures: set[str] = set()
    for seed in range(40):
        figures |= run_beyond(seed, SiblingMode.LAST_VALID_WITH_DESCENDANTS).keys()
    for fault in FAULTS_BEYOND:
        assert any(figure.startswith(fault) for figure in figures), fault
    assert any(figure.endswith(": lost, and reported") for figure in figures)


def test_weeks_of_faulty_calls_need_no_second_login() -> None:
    """One call in twenty fails for eighteen days, at Xero and at the store."""
    assert run_years(5, SiblingMode.LAST_VALID, years=0.05)["refreshes issued"] > 500
