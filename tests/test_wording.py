"""Times, durations, and accounts and connections in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from xots.advice import XERO
from xots.lifecycle.account import ProblemKind
from xots.wording import (
    FAILURE_TEXTS,
    remaining_text,
    shared_text,
    sharing_text,
    span_text,
    time_text,
    unclear_text,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_each_kind_of_problem_has_words() -> None:
    """A kind without words would make ``/status`` fail."""
    assert set(FAILURE_TEXTS) == set(ProblemKind)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (172800, "2 days"),
    ],
)
def test_a_duration_is_written_in_its_largest_unit(seconds: float, text: str) -> None:
    """It is rounded down, so that it never promises too much."""
    assert span_text(timedelta(seconds=seconds)) == text


def test_a_time_of_another_day_is_written_with_the_day() -> None:
    """A time of today is written without it."""
    assert time_text(NOW, NOW + timedelta(minutes=1)) == "12:00:00 UTC"
    assert time_text(NOW, NOW + timedelta(days=1)) == "2026-11-23 12:00:00 UTC"


@pytest.mark.parametrize(
    ("organisations", "text"),
    [
        (
            (),
            "connections of the ended login may remain at Xero: Xero is away. If no other login "
            "needs them,",
        ),
        (
            ["A"],
            "the connection to A may remain at Xero: Xero is away. If no other login needs it,",
        ),
        (
            ["A", "B"],
            "the connections to A, B may remain at Xero: Xero is away. If no other login "
            "needs them,",
        ),
    ],
)
def test_connections_that_may_remain_are_named(organisations: list[str], text: str) -> None:
    """In the singular if there is one. The remedy follows."""
    remedy = " disconnect the app at Xero (Settings, Connected apps)"
    assert remaining_text(organisations, "Xero is away", XERO) == text + remedy


@pytest.mark.parametrize(
    ("names", "number", "text"),
    [
        (["a"], 1, "xots does not know if the account a uses it"),
        (["a", "b"], 1, "xots does not know if the accounts a, b use it"),
        (["a"], 2, "xots does not know which of them the account a uses"),
        (["a", "b"], 2, "xots does not know which of them the accounts a, b use"),
    ],
)
def test_an_unknown_use_of_connections_is_a_sentence(
    names: list[str], number: int, text: str
) -> None:
    """For each number of accounts and of connections."""
    assert unclear_text(names, number) == text


def test_accounts_of_one_user_are_a_sentence() -> None:
    """For each number of accounts."""
    one, two = sharing_text(["a"], XERO), sharing_text(["a", "b"], XERO)
    assert one.startswith("The account a logs in with the same client as the same Xero user")
    assert "would end its login too" in one
    assert two.startswith("The accounts a, b log in with the same client")
    assert "would end their logins too" in two
    shared = shared_text(["a"], ["b"], XERO)
    assert "xots does not know if the Xero user of b is the same one" in shared
