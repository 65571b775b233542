"""Short runs of the deterministic simulation; ``make simulate`` runs the long ones."""

from __future__ import annotations

from typing import Any

import pytest
from simulation.runs import FAULTS_BEYOND, run_beyond, run_seed, run_years
from simulation.trouble import run_trouble

from xots.sandbox import SiblingMode


@pytest.mark.parametrize("mode", SiblingMode)
def test_hours_of_trouble_lose_no_login(mode: SiblingMode) -> None:
    """Through every kind of fault, the store holds a token that Xero accepts, for each account."""
    figures = run_seed(26, mode, hours=2)
    assert figures["refreshes issued"] > 0
    assert figures["refresh requests of other accounts"] > 0
    assert figures["logins"] > 0


@pytest.mark.parametrize(("seed", "accounts"), [(25, 1), (2, 4), (11, 4)])
def test_one_account_and_many_lose_no_login(seed: int, accounts: int) -> None:
    """Some seeds have the default account only; others have several of one Xero user."""
    figures = run_seed(seed, SiblingMode.LAST_VALID, hours=1)
    assert figures["refreshes issued"] > 0
    assert figures["logins"] >= accounts


@pytest.mark.parametrize("seed", [24, 26])
def test_at_a_strict_server_only_a_lost_response_costs_a_login(seed: int) -> None:
    """No spent token is sent again, except for one last attempt after the access token's expiry."""
    figures = run_seed(seed, SiblingMode.LAST_VALID, hours=2, grace_seconds=0)
    lost = sum(count for name, count in figures.items() if name.startswith("logins lost: "))
    assert figures["last attempts"] > 0
    assert figures["logins after a loss"] <= lost <= figures["last attempts"]
    assert figures["reuses of spent tokens"] <= figures["last attempts"]


def test_a_short_grace_period_is_used_and_then_over() -> None:
    """Within it a lost response is retried; later, the access token's expiry comes first."""
    figures = run_seed(24, SiblingMode.LAST_VALID, hours=2, grace_seconds=30)
    assert figures["reuses within the grace period"] > 0
    assert figures["reuses of spent tokens"] > figures["reuses within the grace period"]


@pytest.mark.parametrize("seed", [1, 4])
def test_trouble_in_some_accounts_delays_no_other(seed: int, expected_log: Any) -> None:
    """Due refreshes and callers of the other accounts never wait for them."""
    expected_log.perhaps("the record is damaged")
    figures = run_trouble(seed, SiblingMode.LAST_VALID, hours=2)
    assert sum(count for name, count in figures.items() if name.startswith("trouble: ")) > 3
    assert figures["requests of callers without trouble"] > 10


def test_a_seed_replays() -> None:
    """The same seed makes the same story, so that a failure can be replayed."""
    assert run_seed(31, SiblingMode.LAST_VALID, hours=1) == run_seed(
        31, SiblingMode.LAST_VALID, hours=1
    )


def test_a_lost_login_beyond_the_bound_is_reported() -> None:
    """Each fault occurs, each lost login is reported, and a new login works."""
    figures: set[str] = set()
    for seed in range(20):
        figures |= run_beyond(seed, SiblingMode.LAST_VALID_WITH_DESCENDANTS).keys()
    for fault in FAULTS_BEYOND:
        assert any(figure.startswith(fault) for figure in figures), fault
    assert any(figure.endswith(": lost, and reported") for figure in figures)


def test_weeks_of_faulty_calls_need_no_second_login() -> None:
    """One call in twenty fails for eleven days, at Xero and at the store."""
    assert run_years(5, SiblingMode.LAST_VALID, years=0.03)["refreshes issued"] > 300
