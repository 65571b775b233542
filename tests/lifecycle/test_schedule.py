"""What is due, when, and whether an access token may be served."""

from __future__ import annotations

from datetime import datetime, timedelta

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

from xots.clock import MAX_CLOCK_SKEW
from xots.lifecycle.account import Account, RefreshToken
from xots.lifecycle.logins import after_end, after_revocation_failed
from xots.lifecycle.outcomes import ClientRefused, NotSent, Refused, Unknown
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import (
    Due,
    Idle,
    Spend,
    State,
    Step,
    Wait,
    effective_min_ttl,
    good_for,
    next_step,
    promised_ttl,
    refresh_due,
    revocation_due,
    servable,
    state_of,
    tick_seconds,
)
from xots.lifecycle.transitions import begin_refresh
from xots.secret import Secret

# ---------- lifetimes


def test_an_expired_token_has_no_lifetime_left() -> None:
    """None is left at the expiry and after it."""
    assert good_for(logged_in(), NOW + HALF_HOUR) == timedelta(0)
    assert good_for(logged_in(), NOW + timedelta(days=1)) == timedelta(0)


def test_a_token_is_served_until_the_required_lifetime_is_not_left() -> None:
    """A caller without a requirement gets no expired token either."""
    account = logged_in()
    assert servable(account, NOW, HALF_HOUR) == account.access
    assert servable(account, NOW, HALF_HOUR + timedelta(microseconds=1)) is None
    assert servable(account, NOW + HALF_HOUR, timedelta(0)) is None


def test_clocks_of_hosts_may_differ_by_seconds() -> None:
    """A token that a host a little ahead issued is served, but never longer than its lifetime."""
    account = logged_in()
    assert good_for(account, NOW - timedelta(seconds=5)) == HALF_HOUR


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old=("if access is None or account.consent_id is None or _issued_in_future(access, now):"),
    new="if access is None or account.consent_id is None:",
    protects_from="a clock that was set back: a token that is served after its expiry",
)
def test_a_clock_set_back_does_not_lengthen_a_lifetime() -> None:
    """A token issued in the future is not served, and a refresh is due."""
    account, yesterday = logged_in(), NOW - timedelta(days=1)
    assert good_for(account, yesterday) == timedelta(0)
    assert isinstance(next_step(account, yesterday, POLICY), Spend)


@pytest.mark.parametrize(
    ("life_seconds", "promised", "tick"),
    [(1800, 60, 15), (1200, 60, 15), (90, 22.5, 11.25), (20, 5, 2.5)],
)
def test_promises_shrink_with_shorter_lifetimes(
    life_seconds: int, promised: float, tick: float
) -> None:
    """A lifetime below Xero's promises at most a quarter of it, and an eighth is a tick."""
    account = logged_in(life=timedelta(seconds=life_seconds))
    assert promised_ttl(account, POLICY).total_seconds() == promised
    assert tick_seconds(account, POLICY) == tick


def test_a_token_with_xeros_lifetime_keeps_the_whole_promise() -> None:
    """Promises shrink only with tokens that live shorter than 30 minutes."""
    policy = Policy(min_ttl=20 * MINUTE)
    assert promised_ttl(logged_in(), policy) == 20 * MINUTE
    shorter = logged_in(life=HALF_HOUR - timedelta(seconds=1))
    assert promised_ttl(shorter, policy) < 8 * MINUTE


def test_a_promise_is_at_most_the_lifetime_of_a_fresh_token() -> None:
    """With a ``min_ttl`` of an hour, a caller does not refresh a fresh token of half an hour."""
    policy = Policy(min_ttl=timedelta(hours=1))
    assert isinstance(
        next_step(logged_in(), NOW, policy, min_life=promised_ttl(logged_in(), policy)), Idle
    )


def test_a_caller_cannot_demand_more_than_a_fresh_token_has() -> None:
    """A demand is capped below the lifetime of a fresh token, so no refresh is repeated for it."""
    account = logged_in()
    assert effective_min_ttl(account, POLICY, timedelta(hours=9)) == 27 * MINUTE
    assert effective_min_ttl(account, POLICY, timedelta(seconds=1)) == timedelta(seconds=60)
    assert isinstance(
        next_step(
            account, NOW, POLICY, min_life=effective_min_ttl(account, POLICY, timedelta(hours=9))
        ),
        Idle,
    )


# ---------- the state


def test_the_state_tells_whether_a_login_was_ended_or_never_made() -> None:
    """Both records have credentials and no login."""
    account = Account(client_id="client", client_secret=Secret("secret"))
    assert state_of(account, NOW, POLICY) is State.NOT_LOGGED_IN
    assert state_of(replace(account, ended_at=NOW), NOW, POLICY) is State.REVOKED


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if _action(account, now, policy) is None:",
    new="if account.current and account.current.refused_at:",
    protects_from="giving a login up while another of its tokens would issue",
)
def test_consent_is_lost_only_when_every_candidate_is_refused() -> None:
    """``invalid_grant`` condemns one token. The next one is due at once; the record keeps both."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued(), at)
    account = concluded(begun(account, at + MINUTE), Refused(detail="invalid_grant"), at + MINUTE)
    assert state_of(account, at + MINUTE, POLICY) is State.REFRESH_FAILING
    step = next_step(account, at + MINUTE, POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"
    account = begin_refresh(account, step.token, by="host:1", now=at + MINUTE)
    account = concluded(account, Refused(detail="invalid_grant"), at + MINUTE)
    assert state_of(account, at + MINUTE, POLICY) is State.CONSENT_LOST
    assert current(account).value.reveal() == "r1"
    assert isinstance(next_step(account, at + MINUTE, POLICY), Idle)


# ---------- when a refresh is due


def test_nothing_is_due_before_a_login() -> None:
    """Without a login there is nothing to refresh, with or without credentials."""
    assert isinstance(next_step(Account(), NOW, POLICY), Idle)
    assert refresh_due(Account(client_id="client"), NOW, POLICY) is Due.NEVER


def test_a_refresh_is_due_five_minutes_before_the_expiry() -> None:
    """It is not due a second earlier."""
    account = logged_in()
    due = NOW + timedelta(minutes=25)
    assert refresh_due(account, NOW, POLICY) == due
    assert isinstance(next_step(account, due - timedelta(seconds=1), POLICY), Idle)
    assert isinstance(next_step(account, due, POLICY), Spend)


def test_a_short_token_is_refreshed_at_half_its_lifetime() -> None:
    """A 90-second token is not refreshed again at once."""
    assert refresh_due(logged_in(life=timedelta(seconds=90)), NOW, POLICY) == NOW + timedelta(
        seconds=45
    )


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return [current.obtained_at + policy.refresh_lifetime, *proofs]",
    new="return [current.obtained_at + policy.refresh_lifetime * 9, *proofs]",
    protects_from="a refresh token that dies unused after 60 days",
)
def test_the_refresh_token_is_rotated_in_time_for_its_own_lifetime() -> None:
    """An access token that lives for days does not delay it."""
    policy = Policy(refresh_lifetime=10 * MINUTE)
    account = logged_in()
    assert refresh_due(account, NOW, policy) == NOW + 10 * MINUTE
    assert isinstance(next_step(account, NOW + 10 * MINUTE, policy), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return [current.obtained_at + policy.refresh_lifetime, *proofs]",
    new="return [current.obtained_at + policy.refresh_lifetime]",
    protects_from="learning only after the grace period that the other token was the live one",
)
def test_a_new_fallback_is_proved_soon_and_then_removed() -> None:
    """A fallback makes a refresh due well inside the grace period. The refresh removes it."""
    account = with_fallback(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW + MINUTE))
    due = refresh_due(account, NOW, POLICY)
    assert isinstance(due, datetime)
    assert due < NOW + timedelta(minutes=10)
    account = concluded(begun(account, due), issued("r1"), due)
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]


def test_an_open_refresh_is_due_at_once() -> None:
    """The next process resumes it with the same token."""
    account = begun(logged_in(), NOW)
    step = next_step(account, NOW, POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if account.intent is not None or not current.is_fresh:",
    new="if not current.is_fresh:",
    protects_from="a lost response that is retried only after the grace period",
)
def test_an_open_refresh_that_is_dated_tomorrow_is_due_now() -> None:
    """The retry has to come within the grace period, whatever clock dated its start."""
    tomorrow = NOW + timedelta(days=1)
    account = begin_refresh(logged_in(), current(logged_in()), by="host:1", now=tomorrow)
    assert isinstance(next_step(account, NOW + MINUTE, POLICY), Spend)
    # So is one of another token: its late request may have invalidated the current one.
    account = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    account = begin_refresh(account, account.fallbacks[0], by="host:1", now=tomorrow)
    assert isinstance(next_step(account, NOW + MINUTE, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if account.intent is not None or not current.is_fresh:",
    new="if account.intent is not None or current.refused_at:",
    protects_from=(
        "a lost response that is retried only after the grace period, since a fallback "
        "was tried in between"
    ),
)
def test_a_current_token_that_was_spent_is_due_at_once() -> None:
    """Its successor is unknown although no refresh is open: a replay may have returned it."""
    tomorrow = NOW + timedelta(days=1)  # the clock is ahead
    account = replace(begun(logged_in(), tomorrow), intent=None)
    assert refresh_due(account, NOW, POLICY) is Due.AT_ONCE
    for now in (NOW + MINUTE, tomorrow):
        assert isinstance(next_step(account, now, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if account.intent is not None or not current.is_fresh:",
    new="if account.intent is not None:",
    protects_from=(
        "a clock that was set back by a day: a refresh that is due at once and waits "
        "until that day is over"
    ),
)
def test_a_clock_set_back_does_not_delay_a_refresh_that_is_due_at_once() -> None:
    """A refused token or a missing access token, dated tomorrow, is due now."""
    tomorrow = NOW + timedelta(days=1)
    account = with_fallback(
        logged_in(tomorrow), RefreshToken(value=Secret("x"), obtained_at=tomorrow)
    )
    refused = concluded(begun(account, tomorrow), Refused(detail="invalid_grant"), tomorrow)
    for due in (replace(refused, access=None), replace(logged_in(tomorrow), access=None)):
        assert isinstance(next_step(due, NOW, POLICY), Spend)
    refused = concluded(begun(account, NOW + MINUTE), Refused(detail="invalid_grant"), NOW + MINUTE)
    assert isinstance(next_step(replace(refused, access=logged_in().access), NOW, POLICY), Spend)


# ---------- the next step


def test_a_demand_for_a_longer_lifetime_makes_a_refresh_due() -> None:
    """The tick would not refresh yet."""
    account, later = logged_in(), NOW + 10 * MINUTE
    assert isinstance(next_step(account, later, POLICY), Idle)
    assert isinstance(next_step(account, later, POLICY, min_life=25 * MINUTE), Spend)


def test_a_forced_refresh_is_void_when_another_token_is_current() -> None:
    """Another process has spent the expected token already."""
    account, later = logged_in(), NOW + MINUTE
    assert isinstance(forced(account, later), Spend)
    assert isinstance(next_step(account, later, POLICY, expected_current="000000000000"), Idle)


def forced(account: Account, at: datetime, policy: Policy = POLICY) -> Step:
    """Return the next step for a caller that forces a refresh of the current token."""
    return next_step(account, at, policy, expected_current=current(account).fingerprint)


def refused_client(account: Account, at: datetime) -> Account:
    """Return the record after an attempt to which Xero responded ``invalid_client``."""
    refusal = ClientRefused(detail="invalid_client (400)", code="invalid_client")
    return concluded(begun(account, at), refusal, at)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if forced and pause_ends_at(account.refreshed_at, now, policy) is None:",
    new="if forced:",
    protects_from="a rotation for each call of a program that refreshes in a loop",
)
def test_a_refresh_is_forced_once_in_the_shortest_interval() -> None:
    """It begins at the login, and again at each refresh. An interval of zero is none."""
    account, interval = logged_in(), POLICY.refresh_interval
    instant = timedelta(microseconds=1)
    refreshed = concluded(begun(account, NOW + MINUTE), issued(), NOW + MINUTE)
    for recent, at in ((account, NOW), (refreshed, NOW + MINUTE)):
        assert isinstance(forced(recent, at), Idle)
        assert isinstance(forced(recent, at + interval - instant), Idle)
        assert isinstance(forced(recent, at + interval), Spend)
        assert isinstance(forced(recent, at, Policy(refresh_interval=timedelta(0))), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return pause  # it tries credentials that an operator may have corrected",
    new="return None",
    protects_from="a request for each call of a program, while the client's secret is wrong",
)
def test_a_refresh_is_attempted_once_in_the_shortest_interval() -> None:
    """After ``invalid_client`` a caller can try corrected credentials, but not at each call."""
    at = NOW + MINUTE
    account, interval = refused_client(logged_in(), at), POLICY.refresh_interval
    assert forced(account, at) == Wait(at + interval)
    assert isinstance(forced(account, at + interval), Spend)
    account = concluded(begun(logged_in(), at), NotSent(detail="no route"), at, jitter=0)
    assert forced(account, at) == Wait(at + interval)
    assert isinstance(forced(account, at + interval), Spend)


def test_the_shortest_interval_delays_no_refresh_that_is_due() -> None:
    """A login with a short token, a lost response, and a caller that needs a longer lifetime."""
    slow = Policy(refresh_interval=timedelta(seconds=300))
    short = logged_in(life=timedelta(seconds=2))
    assert isinstance(forced(short, NOW + timedelta(seconds=1), slow), Spend)
    lost = concluded(begun(logged_in(), NOW + MINUTE), Unknown(detail="reset"), NOW + MINUTE)
    assert isinstance(forced(lost, NOW + 2 * MINUTE, slow), Spend)
    assert isinstance(next_step(logged_in(), NOW, slow, min_life=HALF_HOUR * 2), Spend)
    away = refused_client(logged_in(), NOW + 26 * MINUTE)
    away = replace(away, retry_not_before=NOW + 27 * MINUTE)
    assert isinstance(forced(away, NOW + 28 * MINUTE, slow), Spend)


@pytest.mark.safeguard(
    file="lifecycle/waits.py",
    old="or not -MAX_CLOCK_SKEW <= now - at < wait",
    new="or not now - at < wait",
    protects_from="a clock that was set back by a day: no forced refresh until that day is over",
)
def test_a_clock_set_back_blocks_no_forced_refresh_for_long() -> None:
    """A refresh dated in the future is no limit. One within the difference of clocks is."""
    account = logged_in(NOW + timedelta(days=1))
    assert isinstance(forced(replace(account, access=logged_in().access), NOW), Spend)
    ahead = logged_in(NOW + MAX_CLOCK_SKEW)
    assert isinstance(forced(ahead, NOW), Idle)
    assert isinstance(forced(ahead, NOW + MAX_CLOCK_SKEW + POLICY.refresh_interval), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return action if until is None else Wait(until)",
    new="return Spend(choices[0])",
    protects_from="a request to Xero at every tick and for every caller",
)
def test_no_token_is_spent_during_a_wait() -> None:
    """The next attempt is at ``retry_not_before``."""
    account = concluded(begun(logged_in(), NOW), NotSent(detail="no route"), NOW, jitter=1)
    assert account.retry_not_before is not None
    later = NOW + timedelta(minutes=40)
    waiting = replace(account, retry_not_before=later + MINUTE)
    assert next_step(waiting, later, POLICY) == Wait(later + MINUTE)
    assert isinstance(next_step(waiting, later + MINUTE, POLICY), Spend)


def test_the_longest_wait_is_kept_and_a_longer_one_is_ignored() -> None:
    """The longest wait includes a difference between the clocks of two hosts."""
    longest = POLICY.max_wait + POLICY.first_backoff + MAX_CLOCK_SKEW
    at = NOW + HALF_HOUR
    account = replace(logged_in(), retry_not_before=at + longest)
    assert next_step(account, at, POLICY) == Wait(at + longest)
    assert isinstance(next_step(account, at - timedelta(microseconds=1), POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/waits.py",
    old="    return until if until - now <= longest else None\n",
    new="    return until\n",
    protects_from="a clock that was set back by a day: no refresh until that day is over",
)
def test_a_wait_dated_by_a_clock_since_set_back_is_over() -> None:
    """A ``retry_not_before`` beyond the longest wait does not stop refreshes for a day."""
    account = replace(logged_in(), retry_not_before=NOW + timedelta(days=1))
    assert isinstance(next_step(account, NOW + HALF_HOUR, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old=("return account.revocation is not None and wait_ends_at(account, now, policy) is None"),
    new=("return account.revocation is not None and (account.retry_not_before or now) <= now"),
    protects_from="a clock that was set back by a day: no revocation until that day is over",
)
def test_a_wait_for_a_revocation_dated_by_a_clock_since_set_back_is_over() -> None:
    """Xero is told of the end within minutes."""
    tomorrow = NOW + timedelta(days=1)
    account = after_end(logged_in(tomorrow), forget=False, now=tomorrow)
    failed = Unknown(detail="reset")
    account = after_revocation_failed(account, failed, now=tomorrow, policy=POLICY, jitter=0.5)
    assert not revocation_due(account, tomorrow, POLICY)
    assert revocation_due(account, NOW, POLICY)


def test_a_revocation_waits_as_long_as_the_server_demands() -> None:
    """A 503 may name that time as a 429 does."""
    account = after_end(logged_in(), forget=False, now=NOW)
    failed = Unknown(detail="503", retry_after=HALF_HOUR)
    account = after_revocation_failed(account, failed, now=NOW, policy=POLICY, jitter=0.5)
    assert not revocation_due(account, NOW + HALF_HOUR - timedelta(seconds=1), POLICY)
    assert revocation_due(account, NOW + HALF_HOUR + timedelta(minutes=1), POLICY)
