"""What every outcome, a login and its end make of the record."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.accounts import (
    HALF_HOUR,
    MINUTE,
    NOW,
    POLICY,
    attempted,
    begun,
    concluded,
    current,
    issued,
    logged_in,
    values,
    with_fallback,
)

from xots.lifecycle.account import (
    MAX_IN_FLIGHT_FALLBACKS,
    MAX_SPENT_FALLBACKS,
    AccessToken,
    Account,
    ProblemKind,
    RefreshToken,
    bounded,
)
from xots.lifecycle.logins import (
    MAX_TOKENS_TO_REVOKE,
    after_end,
    after_login,
    after_revocation_failed,
    after_revoked,
    tokens_to_revoke,
)
from xots.lifecycle.outcomes import ClientRefused, NotSent, Outcome, Refused, Throttled, Unknown
from xots.lifecycle.record_json import encode
from xots.lifecycle.schedule import Spend, State, good_for, next_step, state_of
from xots.lifecycle.transitions import begin_refresh
from xots.secret import Secret

# ---------- tokens were issued


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="kept.insert(0, spent)",
    new="pass",
    protects_from="a response whose token does not work, while the spent one still would",
)
def test_a_successor_becomes_current_and_the_spent_token_a_fallback() -> None:
    """It stays until its successor is proved by use and its grace period is over."""
    account = concluded(begun(logged_in(), NOW + 25 * MINUTE), issued(), NOW + 25 * MINUTE)
    assert current(account).value.reveal() == "r1"
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]
    assert account.fallbacks[0].first_spent_at == NOW + 25 * MINUTE
    assert (account.intent, account.failed_attempts, account.problem) == (None, 0, None)
    assert account.refreshed_by == "host:1"


def in_rapid_succession(account: Account, count: int) -> Account:
    """Return the record after so many refreshes, one each second."""
    for number in range(count):
        at = NOW + 25 * MINUTE + timedelta(seconds=number)
        account = begin_refresh(account, current(account), by="h:1", now=at)
        account = concluded(account, issued(f"s{number}", f"a{number}"), at)
    return account


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return _concluded(account, successor, bounded(kept), rotates=True)",
    new="return _concluded(account, successor, tuple(kept), rotates=True)",
    protects_from="a record that grows with each call of a program that refreshes in a loop",
)
def test_the_newest_spent_fallbacks_stay_and_the_others_leave_tombstones() -> None:
    """The number of both is bounded, so the record's size is."""
    account = in_rapid_succession(logged_in(), 150)
    assert [t.value.reveal() for t in account.fallbacks] == [f"s{n}" for n in range(148, 140, -1)]
    assert len(account.fallbacks) == MAX_SPENT_FALLBACKS
    assert account.tombstones[0] == Secret("s140").fingerprint
    assert account.tombstones_ever == 150 - MAX_SPENT_FALLBACKS
    sizes = {len(encode(in_rapid_succession(logged_in(), count))) for count in (120, 150, 199)}
    assert max(sizes) - min(sizes) < 10


def test_a_token_that_may_be_in_flight_stays_for_its_grace_however_many_refreshes_follow() -> None:
    """A retry has succeeded. The first request may reach Xero late, and only this token helps."""
    at = NOW + 20 * MINUTE
    account = concluded(begun(logged_in(), at), Unknown(detail="reset"), at)
    account = concluded(begun(account, at + MINUTE), issued(), at + MINUTE)
    account = in_rapid_succession(account, 40)
    assert account.fallbacks[-1].value.reveal() == "r0"
    assert len(account.fallbacks) == MAX_SPENT_FALLBACKS + 1
    late = at + HALF_HOUR
    account = begin_refresh(account, current(account), by="h:1", now=late)
    account = concluded(account, issued("last"), late)
    assert "r0" not in {t.value.reveal() for t in account.fallbacks}


def test_the_fallbacks_that_may_be_in_flight_are_bounded_too() -> None:
    """The response to each refresh is lost once. Unspent fallbacks are never cut."""
    account, at = logged_in(), NOW + 25 * MINUTE
    for number in range(60):
        at += timedelta(seconds=1)
        account = begin_refresh(account, current(account), by="h:1", now=at)
        account = concluded(account, Unknown(detail="reset"), at)
        account = begin_refresh(account, current(account), by="h:1", now=at)
        account = concluded(account, issued(f"s{number}", f"a{number}"), at)
    assert len(account.fallbacks) == MAX_IN_FLIGHT_FALLBACKS
    fresh = tuple(RefreshToken(value=Secret(f"f{n}"), obtained_at=at) for n in range(40))
    assert bounded((*account.fallbacks, *fresh)) == (*account.fallbacks, *fresh)


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return within_grace(token, now, policy)",
    new="return False",
    protects_from=(
        "a response whose token does not work, after the next refresh has dropped the spent one"
    ),
)
def test_a_spent_token_leaves_when_its_successor_is_proved_and_the_grace_is_over() -> None:
    """After 25 minutes its successor is proved, and it stays. It leaves 25 minutes later."""
    account, at = logged_in(), NOW
    kept = []
    for number in range(1, 5):
        at += 25 * MINUTE
        account = concluded(begun(account, at), issued(f"r{number}"), at)
        kept.append(sorted(r.value.reveal() for r in account.fallbacks))
    assert kept == [["r0"], ["r0", "r1"], ["r1", "r2"], ["r2", "r3"]]


def test_a_token_spent_long_ago_stays_while_its_successor_is_unproved() -> None:
    """The refresh succeeds after the grace period, and its token has not been used yet."""
    account = begun(logged_in(), NOW)
    account = concluded(account, Unknown(detail="reset"), NOW)
    at = NOW + timedelta(hours=5)
    account = concluded(begun(account, at), issued(), at)
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return token.obtained_at > (proved.first_spent_at or now)",
    new="return False",
    protects_from="dropping a live token for a proof that was requested before the token came",
)
def test_a_fallback_that_arrives_during_a_refresh_stays() -> None:
    """The refresh proves nothing against a token that arrived after its request."""
    account = begun(logged_in(), NOW)
    account = with_fallback(account, RefreshToken(value=Secret("x"), obtained_at=NOW + MINUTE))
    account = concluded(account, issued("r1"), NOW + 2 * MINUTE)
    assert sorted(r.value.reveal() for r in account.fallbacks) == ["r0", "x"]


def test_the_successor_of_a_fallback_becomes_current() -> None:
    """The refused token leaves the record."""
    account = with_fallback(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW))
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("x1"), NOW + MINUTE)
    assert current(account).value.reveal() == "x1"
    assert [r.value.reveal() for r in account.fallbacks] == ["x"]
    assert state_of(account, NOW, POLICY) is State.CONNECTED


def test_a_response_with_the_same_refresh_token_makes_it_fresh() -> None:
    """A server that does not rotate returns it, and it is no fallback of itself."""
    account = concluded(begun(logged_in(), NOW), issued("r0"), NOW + MINUTE)
    assert (current(account).value.reveal(), account.fallbacks) == ("r0", ())
    assert current(account).first_spent_at is None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="known = next((t for t in _others(account, spent) if t.value == value), None)",
    new="known = None",
    protects_from="a spent token that counts as new",
)
def test_a_replay_of_an_earlier_response_makes_no_token_fresh() -> None:
    """The token of the replay is known. It keeps its first-spent time and is held once."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = concluded(begun(account, at + MINUTE), issued("r2"), at + MINUTE)
    account = concluded(begun(account, at + MINUTE), Refused(detail="invalid_grant"), at + MINUTE)
    step = next_step(account, at + MINUTE, POLICY)
    assert isinstance(step, Spend)
    account = begin_refresh(
        account, next(r for r in account.fallbacks if r.value.reveal() == "r0"), by="x", now=at
    )
    account = concluded(account, issued("r1"), at + 2 * MINUTE)
    assert (current(account).value.reveal(), current(account).first_spent_at) == ("r1", at + MINUTE)
    assert "r1" not in [r.value.reveal() for r in account.fallbacks]


def test_a_replay_that_returns_a_tombstoned_token_makes_it_no_fresher() -> None:
    """It was spent at some time after the token that was replayed."""
    account, at = logged_in(), NOW
    for number in range(1, 5):
        at += HALF_HOUR
        account = concluded(begun(account, at), issued(f"r{number}"), at)
    spent = begin_refresh(account, account.fallbacks[0], by="host:1", now=at)
    account = concluded(spent, issued("r1"), at)
    assert (current(account).value.reveal(), current(account).first_spent_at) == ("r1", at)
    assert Secret("r1").fingerprint not in account.tombstones
    assert isinstance(next_step(account, at, POLICY), Spend)


# ---------- the access token's lifetime


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=(
        "return ASSUMED_LIFETIME if issued.lifetime is None else min(issued.lifetime, MAX_LIFETIME)"
    ),
    new="return issued.lifetime or ASSUMED_LIFETIME",
    protects_from="serving an expired token for a year",
)
@pytest.mark.parametrize("life", [None, timedelta(days=400)])
def test_a_missing_or_enormous_lifetime_is_bounded(life: timedelta | None) -> None:
    """The access token lives for a day at most."""
    account = concluded(begun(logged_in(), NOW), issued(life=life), NOW)
    assert timedelta(0) < good_for(account, NOW) <= timedelta(days=1)


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if not (intent.set_first_spent or is_strict(policy)):  # a retry",
    new="if False:",
    protects_from="serving an expired token, since the response was a replay",
)
def test_the_lifetime_of_a_retrys_access_token_counts_from_the_first_attempt() -> None:
    """The response may be a replay of one that was issued 20 minutes ago."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + 20 * MINUTE), issued(), NOW + 20 * MINUTE)
    assert account.access is not None
    assert account.access.expires_at == NOW + HALF_HOUR


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if datable else began - _lifetime(issued)",
    new="if datable else began",
    protects_from="serving an expired token where a clock was set between the attempts",
)
@pytest.mark.parametrize(
    "spent_at", [NOW, NOW + timedelta(hours=16)], ids=["long ago", "in the future"]
)
def test_a_retrys_access_token_of_unknown_age_is_not_served(spent_at: datetime) -> None:
    """After the grace period it is no replay, unless a clock was set. Another refresh is due."""
    account = concluded(begun(logged_in(), spent_at), Unknown(detail="reset"), spent_at)
    at = NOW + timedelta(hours=8)
    account = concluded(begun(account, at), issued(), at)
    assert good_for(account, at) == timedelta(0)
    step = next_step(account, at, POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r1"


def test_a_replayed_access_token_keeps_its_age() -> None:
    """Two responses without a refresh token conclude the refresh. The third replays the first."""
    account, at = logged_in(), NOW + 25 * MINUTE
    for seconds in (0, 5):
        account = concluded(
            begun(account, at + timedelta(seconds=seconds)),
            issued(None),
            at + timedelta(seconds=seconds),
        )
    assert current(account).first_spent_at is None
    account = concluded(begun(account, at + 2 * MINUTE), issued("r1"), at + 2 * MINUTE)
    assert account.access is not None
    assert account.access.expires_at == at + HALF_HOUR


# ---------- a response without a refresh token


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if is_first or has_rotated:",
    new="if has_rotated:",
    protects_from="a refresh token that was lost on the way",
)
def test_a_response_without_a_refresh_token_is_requested_again_once() -> None:
    """The first access token is served, and the refresh stays open. The second concludes it."""
    account = concluded(begun(logged_in(), NOW), issued(None, "a1"), NOW)
    assert account.access is not None
    assert account.access.value.reveal() == "a1"
    assert account.intent is not None
    assert current(account).first_spent_at == NOW
    account = concluded(begun(account, NOW + MINUTE), issued(None, "a2"), NOW + MINUTE)
    assert account.intent is None
    assert current(account).value.reveal() == "r0"
    assert current(account).first_spent_at is None
    account = concluded(begun(account, NOW + 2 * MINUTE), issued(None, "a3"), NOW + 2 * MINUTE)
    assert account.intent is None, "a server without rotation gets a second request"


def test_a_refresh_token_in_the_second_response_becomes_current() -> None:
    """A first response without its refresh token costs one retry and nothing else."""
    account = concluded(begun(logged_in(), NOW), issued(None), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("r1"), NOW + MINUTE)
    assert current(account).value.reveal() == "r1"
    assert account.responses_without_token == 0


def test_a_server_that_has_rotated_gets_retries_until_the_grace_is_over() -> None:
    """Responses without a refresh token do not prove yet that the server rotates no more."""
    account = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    waits = []
    for minute in (1, 2, 10, 29):
        at = NOW + minute * MINUTE
        account = concluded(begun(account, at), issued(None, "a2"), at)
        assert account.intent is not None
        assert account.retry_not_before is not None
        waits.append((account.retry_not_before - at).total_seconds())
    assert waits == [1, 2, 4, 8]
    at = NOW + 32 * MINUTE
    account = concluded(begun(account, at), issued(None, "a3"), at)
    assert account.intent is None, (
        "it issues from a token whose grace is over: it does not rotate any more"
    )


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if is_first or has_rotated:",
    new="if is_first:",
    protects_from="taking a spent token for fresh, since two responses lost theirs",
)
def test_a_spent_token_of_a_server_that_has_rotated_is_not_fresh_within_its_grace() -> None:
    """Its responses lost their refresh tokens, and the first-spent time stays."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    for minutes in range(0, 30, 5):
        account = concluded(
            begun(account, at + minutes * MINUTE), issued(None), at + minutes * MINUTE
        )
        assert account.intent is not None
        assert current(account).first_spent_at == at


def test_responses_without_a_refresh_token_are_counted_for_one_token() -> None:
    """A token that Xero refuses takes its count along."""
    fallback = RefreshToken(value=Secret("x"), obtained_at=NOW)
    account = replace(logged_in(), fallbacks=(fallback,))
    account = attempted(account, issued(None), 25)
    assert account.responses_without_token == 1
    account = attempted(account, Refused(detail="invalid_grant"), 26)
    assert account.responses_without_token == 0


# ---------- failures


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="            kind = ProblemKind.UNKNOWN\n",
    new=(
        "            kind = ProblemKind.UNKNOWN\n"
        "            account = replace(account, intent=None)\n"
    ),
    protects_from="a lost response that is forgotten",
)
@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="first_spent_at=token.first_spent_at or now",
    new="first_spent_at=now",
    protects_from="a grace period that seems to begin anew with each attempt",
)
def test_an_unknown_outcome_keeps_the_refresh_open() -> None:
    """The token stays current and spent since its first attempt, and a retry is due."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW + MINUTE)
    assert current(account).first_spent_at == NOW
    assert account.intent is not None
    assert account.failed_attempts == 1
    assert state_of(account, NOW, POLICY) is State.REFRESH_FAILING
    again = begun(account, NOW + 5 * MINUTE)
    assert current(again).first_spent_at == NOW, "the first-spent time has moved later"


@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(detail="no route"),
        Throttled(detail="429"),
        ClientRefused(detail="x", code="invalid_client"),
    ],
)
def test_an_outcome_that_proves_the_token_unspent_clears_its_first_spent_time(
    outcome: Outcome,
) -> None:
    """No grace period starts."""
    account = concluded(begun(logged_in(), NOW), outcome, NOW)
    assert current(account).first_spent_at is None
    assert account.intent is None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=(
        "    if not intent.set_first_spent:\n"
        "        return account.with_token(replace(spent, resent=False))\n"
    ),
    new="",
    protects_from="a later attempt that was not sent, and hides that an earlier one was",
)
@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(detail="no route"),
        Throttled(detail="429"),
        ClientRefused(detail="x", code="invalid_client"),
    ],
)
def test_a_later_unspent_attempt_does_not_clear_an_unknown_outcome(outcome: Outcome) -> None:
    """The refresh stays open, and the first-spent time stays."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + MINUTE), outcome, NOW + MINUTE)
    assert current(account).first_spent_at == NOW
    assert account.intent is not None


@pytest.mark.parametrize(
    "outcome", [NotSent(detail="no route"), Throttled(detail="429"), Refused(detail="no")]
)
def test_a_failed_attempt_reopens_the_refresh_of_another_token(outcome: Outcome) -> None:
    """A late request with that token may have invalidated the current one."""
    account = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    account = begin_refresh(account, account.fallbacks[0], by="slept:1", now=NOW)
    account = begin_refresh(account, current(account), by="host:1", now=NOW + MINUTE)
    retried = begin_refresh(account, current(account), by="host:1", now=NOW + 2 * MINUTE)
    for one in (account, concluded(retried, Unknown(detail="reset"), NOW + 2 * MINUTE)):
        assert one.intent is not None
        assert one.intent.also_open == Secret("r0").fingerprint
    account = concluded(account, outcome, NOW + MINUTE)
    assert account.intent is not None
    assert (account.intent.fingerprint, account.intent.set_first_spent) == (
        Secret("r0").fingerprint,
        False,
    )
    assert bool(current(account).first_spent_at) == isinstance(outcome, Refused)
    account = concluded(account, Refused(detail="no"), NOW + MINUTE)
    assert account.intent is None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=("        case NotSent() | Throttled() | ClientRefused():\n"),
    new=(
        "        case ClientRefused():\n"
        "            return _after_refused(account, Refused(detail=outcome.detail), now=now)\n"
        "        case NotSent() | Throttled():\n"
    ),
    protects_from="a mistyped secret that costs the login",
)
def test_a_refused_client_costs_no_token_and_is_retried_slowly() -> None:
    """The operator has to correct ``invalid_client``, so the attempts are minutes apart."""
    account = concluded(
        begun(logged_in(), NOW), ClientRefused(detail="x", code="invalid_client"), NOW
    )
    assert values(account) == {"r0"}
    assert account.retry_not_before is not None
    assert account.retry_not_before - NOW > MINUTE
    assert state_of(account, NOW, POLICY) is State.REFRESH_FAILING


OUTCOMES = st.one_of(
    st.just(NotSent(detail="d")),
    st.just(Unknown(detail="d")),
    st.builds(
        Throttled,
        detail=st.just("d"),
        retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(days=2)),
    ),
    st.just(ClientRefused(detail="d", code="invalid_client")),
    st.just("issued"),
)


@given(st.lists(st.tuples(OUTCOMES, st.floats(0, 0.99), st.integers(1, 3600)), max_size=30))
def test_no_history_without_a_refusal_loses_the_newest_token(
    history: list[tuple[Any, float, int]],
) -> None:
    """The newest issued token is current, and none is condemned."""
    account, now, count = logged_in(), NOW, 0
    for outcome, jitter, seconds in history:
        now += timedelta(seconds=seconds)
        step = next_step(account, now, POLICY, min_life=timedelta(days=1))
        if not isinstance(step, Spend):
            continue
        account = begin_refresh(account, step.token, by="host:1", now=now)
        if outcome == "issued":
            count += 1
            outcome = issued(f"r{count}")
        account = concluded(account, outcome, now, jitter)
        assert current(account).value.reveal() == f"r{count}"
        assert state_of(account, now, POLICY) is not State.CONSENT_LOST


# ---------- waits


@pytest.mark.safeguard(
    file="lifecycle/waits.py",
    old="return min(wait, policy.max_backoff)",
    new="return wait",
    protects_from="back-off that grows until one wait outlasts the grace period",
)
@given(attempts=st.integers(0, 40), jitter=st.floats(0, 1, exclude_max=True))
def test_a_wait_after_an_unknown_outcome_is_a_minute_at_most(attempts: int, jitter: float) -> None:
    """Many retries fit into the grace period, however many attempts failed."""
    account = replace(begun(logged_in(), NOW), failed_attempts=attempts)
    account = concluded(account, Unknown(detail="reset"), NOW, jitter)
    assert account.retry_not_before is not None
    assert timedelta(0) <= account.retry_not_before - NOW <= MINUTE


@pytest.mark.safeguard(
    file="lifecycle/waits.py",
    old="return policy.slow_wait if account.intent else policy.max_wait",
    new="return policy.max_wait",
    protects_from="a wait of an hour that outlasts the grace period",
)
def test_retry_after_is_kept_but_capped_while_a_refresh_is_open() -> None:
    """A 429 may demand an hour. While a refresh is open, the wait is 5 minutes."""
    hour = Throttled(detail="429", retry_after=timedelta(hours=1))
    account = concluded(begun(logged_in(), NOW), hour, NOW, jitter=0)
    assert account.retry_not_before == NOW + timedelta(hours=1)
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + MINUTE), hour, NOW + MINUTE, jitter=0)
    assert account.retry_not_before == NOW + 6 * MINUTE


@pytest.mark.safeguard(
    file="lifecycle/waits.py",
    old="policy.first_backoff * 2 ** min(times, MAX_DOUBLINGS)",
    new="policy.first_backoff",
    protects_from="frequent requests to a server that is in trouble",
)
def test_a_retry_after_of_zero_does_not_disable_back_off() -> None:
    """The wait grows although each 429 permits a retry at once."""
    account = replace(begun(logged_in(), NOW), failed_attempts=8)
    account = concluded(account, Throttled(detail="429", retry_after=timedelta(0)), NOW)
    assert account.retry_not_before is not None
    assert account.retry_not_before - NOW >= timedelta(seconds=20)


# ---------- a login and its end


def test_a_login_replaces_the_record_and_keeps_its_generation() -> None:
    """Fallbacks and failed attempts are gone."""
    account = logged_in()
    assert (account.generation, account.consent_id, account.fallbacks, account.failed_attempts) == (
        7,
        "c1",
        (),
        0,
    )
    assert state_of(account, NOW, POLICY) is State.CONNECTED


def test_a_login_keeps_the_scopes_of_the_settings() -> None:
    """A later start compares them with its own."""
    account = after_login(
        Account(generation=3, write_id="w", tenant_id="before", failed_attempts=4),
        issued("r0"),
        consent_id="c",
        client_id="client",
        client_secret=Secret("s"),
        token_url="https://id.example/token",
        tenant_id="tenant",
        scopes_requested=("a", "b"),
        scopes_configured=("b",),
        began_at=NOW + MINUTE,
    )
    access = AccessToken(value=Secret("a1"), issued_at=NOW + MINUTE, expires_at=NOW + 31 * MINUTE)
    assert account == Account(
        generation=3,
        write_id="w",
        client_id="client",
        client_secret=Secret("s"),
        token_url="https://id.example/token",
        tenant_id="tenant",
        consent_id="c",
        consented_at=NOW + MINUTE,
        scopes_requested=("a", "b"),
        scopes_granted=("a", "b"),
        scopes_configured=("b",),
        access=access,
        current=RefreshToken(value=Secret("r0"), obtained_at=NOW + MINUTE),
        refreshed_at=NOW + MINUTE,
    )


def test_a_revoke_does_not_cancel_a_pending_logout() -> None:
    """The credentials are removed once Xero has confirmed."""
    account = after_end(logged_in(), forget=True, now=NOW)
    account = after_end(account, forget=False, now=NOW + MINUTE)
    assert after_revoked(account).client_id is None


def test_a_second_end_keeps_the_wait_of_the_revocation() -> None:
    """Otherwise each further call would be a request to Xero."""
    account = after_end(logged_in(), forget=False, now=NOW)
    failed = Unknown(detail="reset")
    account = after_revocation_failed(account, failed, now=NOW, policy=POLICY, jitter=0.5)
    again = after_end(account, forget=True, now=NOW)
    assert (again.retry_not_before, again.problem, again.failed_attempts) == (
        account.retry_not_before,
        account.problem,
        1,
    )


@pytest.mark.safeguard(
    file="lifecycle/logins.py",
    old="named = dict.fromkeys([*current, *unspent, *in_flight]) or live[:1]",
    new="named = live",
    protects_from="a revocation of many requests",
)
def test_a_revocation_names_a_handful_of_tokens() -> None:
    """The current token, the unspent ones, and that of an open refresh. Any of them may be live."""
    account = in_rapid_succession(logged_in(), 40)
    late = RefreshToken(value=Secret("late"), obtained_at=NOW + HALF_HOUR)
    account = with_fallback(account, late)
    opened = begin_refresh(account, late, by="h:1", now=NOW + HALF_HOUR)
    ended = after_end(opened, forget=False, now=NOW + HALF_HOUR)
    assert [t.value.reveal() for t in tokens_to_revoke(ended)] == ["s39", "late"]
    many = replace(
        account, fallbacks=tuple(replace(late, value=Secret(f"f{n}")) for n in range(40))
    )
    assert len(tokens_to_revoke(after_end(many, forget=False, now=NOW))) == MAX_TOKENS_TO_REVOKE
    assert tokens_to_revoke(after_end(many, forget=False, now=NOW))[0] == many.current


def test_a_revocation_names_a_spent_token_if_there_is_no_other() -> None:
    """Xero refused the current one, and may still accept its predecessor."""
    at = NOW + 25 * MINUTE
    account = in_rapid_succession(logged_in(), 3)
    account = replace(account, current=replace(current(account), refused_at=at))
    ended = after_end(account, forget=False, now=at)
    assert [t.value.reveal() for t in tokens_to_revoke(ended)] == ["s1"]


def test_a_revocation_waits_as_long_as_a_429_demands() -> None:
    """A refresh waits so too."""
    now = NOW
    ended = after_end(logged_in(), forget=False, now=now)
    demanded = Throttled(detail="429", retry_after=10 * MINUTE)
    waiting = after_revocation_failed(ended, demanded, now=now, policy=POLICY, jitter=0.0)
    assert waiting.retry_not_before == now + 10 * MINUTE
    plain = Throttled(detail="429")
    waiting = after_revocation_failed(ended, plain, now=now, policy=POLICY, jitter=0.5)
    assert waiting.retry_not_before == now + POLICY.first_backoff * 0.5


def test_an_access_token_that_had_expired_does_not_replace_a_live_one() -> None:
    """``expires_in: 0``: programs receive the old one until it expires."""
    at = NOW + 10 * MINUTE
    account = concluded(begun(logged_in(), at), issued(life=timedelta(0)), at)
    assert account.access == logged_in().access
    assert current(account).value.reveal() == "r1"
    assert account.problem is not None
    assert account.problem.kind is ProblemKind.EXPIRED
