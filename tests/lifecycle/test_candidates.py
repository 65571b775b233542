"""The order in which refresh tokens are tried, and those that are tried no more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace
from support.accounts import (
    HALF_HOUR,
    MINUTE,
    NOW,
    POLICY,
    begun,
    concluded,
    current,
    issued,
    logged_in,
    with_fallback,
)

from xots.lifecycle.account import RefreshToken
from xots.lifecycle.candidates import candidates
from xots.lifecycle.outcomes import Refused, Unknown
from xots.lifecycle.schedule import Spend, State, next_step, state_of
from xots.lifecycle.transitions import begin_refresh
from xots.secret import Secret

# ---------- the current token


def test_the_current_token_is_a_candidate_however_old_its_open_refresh() -> None:
    """Only a refusal by Xero condemns it."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    step = next_step(account, NOW + timedelta(days=3), POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old=(
        "    if token is account.current:\n"
        "        return _rank_of_current(account, token, now, policy)\n"
    ),
    new="",
    protects_from=(
        "giving a login up after an outage longer than the grace period, or after a clock was set"
    ),
)
def test_a_current_token_spent_long_ago_is_a_candidate_without_an_open_refresh() -> None:
    """Another process may have reported its use, or a replay have returned it."""
    account = logged_in()
    account = replace(account, current=replace(current(account), first_spent_at=NOW))
    assert state_of(account, NOW + timedelta(hours=2), POLICY) is State.CONNECTED
    assert [t.value.reveal() for t in candidates(account, NOW + timedelta(hours=2), POLICY)] == [
        "r0"
    ]


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="return Rank.IN_GRACE if account.intent is None else Rank.LATE",
    new="return Rank.LATE",
    protects_from="the same two tokens again and again, until the grace period of both is over",
)
def test_a_current_token_from_a_replay_comes_before_the_token_that_was_replayed() -> None:
    """A retry with the latter would return the former again until the grace period is over."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = replace(
        account, current=replace(current(account), first_spent_at=at - timedelta(days=1))
    )
    account = concluded(
        begin_refresh(account, account.fallbacks[0], by="host:1", now=at), issued("r1"), at
    )
    assert [t.value.reveal() for t in candidates(account, at + MINUTE, POLICY)] == ["r1", "r0"]
    account = concluded(begun(account, at + MINUTE), Unknown(detail="reset"), at + MINUTE)
    assert [t.value.reveal() for t in candidates(account, at + MINUTE, POLICY)] == ["r0", "r1"]


# ---------- fallbacks


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="if within_grace(token, now, policy):",
    new="if True:",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_an_unspent_fallback_comes_before_a_current_token_whose_grace_is_over() -> None:
    """Late reuse may end the whole chain."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = with_fallback(account, RefreshToken(value=Secret("x"), obtained_at=NOW))
    assert [t.value.reveal() for t in candidates(account, NOW, POLICY)] == ["r0", "x"]
    assert [t.value.reveal() for t in candidates(account, NOW + HALF_HOUR, POLICY)] == ["x", "r0"]


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="return Rank.IN_GRACE if account.intent is None else Rank.LATE",
    new="return Rank.IN_GRACE",
    protects_from="late reuse of the current token, after the fallback was tried",
)
@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="return is_past and within_grace(token, now, policy)",
    new="return within_grace(token, now, policy)",
    protects_from="late reuse after a clock was set back",
)
def test_a_fallback_within_its_grace_comes_before_a_current_token_whose_grace_is_over() -> None:
    """The outcome of the late attempt is unknown, and Xero surely accepts the fallback."""
    account = with_fallback(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW))
    account = concluded(begun(account, NOW), Unknown(detail="reset"), NOW)
    later = NOW + HALF_HOUR
    account = concluded(begun(account, later), Unknown(detail="reset"), later)
    assert [t.value.reveal() for t in candidates(account, later + MINUTE, POLICY)] == ["x", "r0"]
    # After a clock was set back, it is unknown how long ago the token was spent.
    earlier = replace(
        account, current=replace(current(account), first_spent_at=NOW - timedelta(days=2))
    )
    assert [t.value.reveal() for t in candidates(earlier, later - timedelta(days=1), POLICY)] == [
        "r0",
        "x",
    ]


def test_fallbacks_come_in_the_order_they_were_spent_whatever_their_dates() -> None:
    """A fallback that a wrong clock dated tomorrow is not the newest."""
    tomorrow, at = NOW + timedelta(days=1), NOW + timedelta(hours=2)
    account = concluded(begun(logged_in(), tomorrow), issued("r1"), tomorrow)
    account = concluded(begun(account, at), issued("r2"), at)
    account = concluded(begun(account, at), issued("r3"), at)
    account = concluded(begun(account, at), Refused(detail="invalid_grant"), at)
    assert [t.value.reveal() for t in candidates(account, at, POLICY)] == ["r2", "r1", "r0"]


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="return Rank.LATE if spent_in_future or is_last_hope else None",
    new="return Rank.LATE",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_a_spent_fallback_is_no_candidate_after_its_grace() -> None:
    """Late reuse may end the whole chain."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued(), at)
    assert [t.value.reveal() for t in candidates(account, at + HALF_HOUR, POLICY)] == ["r1"]


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="return Rank.OUTDATED if _is_outdated(account, token, policy) else Rank.UNSPENT",
    new="return Rank.UNSPENT",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_an_unspent_token_of_an_old_dump_comes_last() -> None:
    """It is older than the current token by the grace period, so it was spent long ago."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = with_fallback(account, RefreshToken(value=Secret("x"), obtained_at=NOW - 10 * MINUTE))
    account = replace(account, current=replace(current(account), first_spent_at=at))
    assert [t.value.reveal() for t in candidates(account, at + HALF_HOUR, POLICY)] == ["r1", "x"]


@pytest.mark.parametrize(
    ("older_by", "order"),
    [
        (POLICY.grace, ["r1", "r0", "x"]),
        (POLICY.grace - timedelta(microseconds=1), ["r1", "x", "r0"]),
    ],
)
def test_an_unspent_fallback_older_by_the_grace_is_outdated(
    older_by: timedelta, order: list[str]
) -> None:
    """A younger one comes before the spent tokens."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    fallback = RefreshToken(value=Secret("x"), obtained_at=at - older_by)
    account = replace(account, fallbacks=(*account.fallbacks, fallback))
    assert [t.value.reveal() for t in candidates(account, at, POLICY)] == order


# ---------- the last candidate


def test_the_last_candidate_stays_one_after_an_outage_longer_than_the_grace() -> None:
    """Xero was down while the last candidate, a fallback, was attempted."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued(), at)
    account = concluded(begun(account, at), Refused(detail="invalid_grant"), at)
    account = concluded(begun(account, at), Unknown(detail="reset"), at)
    assert state_of(account, at + timedelta(hours=2), POLICY) is State.REFRESH_FAILING
    step = next_step(account, at + timedelta(hours=2), POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="is_last_hope = token in (account.spending, _last_resort(account))",
    new="is_last_hope = token == _last_resort(account)",
    protects_from=(
        "an outage longer than the grace period, or a clock that was set, where the "
        "last candidate is a fallback"
    ),
)
def test_an_older_fallback_whose_response_is_open_stays_a_candidate() -> None:
    """Xero refused the two newer tokens, and was down while this one was attempted."""
    at = NOW + 25 * MINUTE
    account = logged_in()
    for token in ("r1", "r2"):
        account = concluded(begun(account, at), issued(token), at)
    for _ in range(2):
        account = concluded(begun(account, at), Refused(detail="invalid_grant"), at)
    account = concluded(begun(account, at), Unknown(detail="reset"), at)
    assert [t.value.reveal() for t in candidates(account, at + timedelta(hours=2), POLICY)] == [
        "r0"
    ]


def test_only_the_latest_predecessor_of_a_refused_token_is_a_candidate_after_its_grace() -> None:
    """A clock of yesterday dated its use, so its grace period only seems to be over."""
    yesterday = NOW - timedelta(days=1)
    account = concluded(begun(logged_in(yesterday), yesterday), issued("r1"), yesterday)
    account = concluded(begun(account, yesterday), issued("r2"), yesterday)
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    assert [t.value.reveal() for t in candidates(account, NOW, POLICY)] == ["r1"]
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    assert state_of(account, NOW, POLICY) is State.CONSENT_LOST


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="is_last_hope = token in (account.spending, _last_resort(account))",
    new="is_last_hope = token == account.spending",
    protects_from=(
        "an outage longer than the grace period, or a clock that was set: a "
        "predecessor that seems spent too long ago"
    ),
)
def test_the_predecessor_of_a_refused_token_is_a_candidate_whatever_its_dates() -> None:
    """It seems spent long ago, but a clock may have been set, and no other token is left."""
    at, later = NOW + 25 * MINUTE, NOW + timedelta(hours=3)
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = concluded(begun(account, later), Refused(detail="invalid_grant"), later)
    assert [t.value.reveal() for t in candidates(account, later, POLICY)] == ["r0"]
