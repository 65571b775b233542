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
    with_rival,
)

from xots.clock import MAX_CLOCK_SKEW
from xots.lifecycle.account import Account, RefreshToken
from xots.lifecycle.outcomes import NotSent, Refused, Unknown
from xots.lifecycle.schedule import (
    Due,
    Idle,
    Policy,
    Spend,
    State,
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
from xots.lifecycle.transitions import after_end, after_revocation_failed, begin_refresh
from xots.secret import Secret

# ---------- lifetimes


def test_a_dead_token_is_good_for_nothing() -> None:
    """At its expiry and after it, there is no life left."""
    assert good_for(logged_in(), NOW + HALF_HOUR) == timedelta(0)
    assert good_for(logged_in(), NOW + timedelta(days=1)) == timedelta(0)


def test_a_token_is_served_for_as_long_as_it_is_good_and_no_longer() -> None:
    """A caller without any wish gets no dead token either."""
    account = logged_in()
    assert servable(account, NOW, HALF_HOUR) == account.access
    assert servable(account, NOW, HALF_HOUR + timedelta(microseconds=1)) is None
    assert servable(account, NOW + HALF_HOUR, timedelta(0)) is None


def test_hosts_may_differ_by_seconds() -> None:
    """A token issued by a host whose clock is a little ahead is served, but never longer than its life."""
    account = logged_in()
    assert good_for(account, NOW - timedelta(seconds=5)) == HALF_HOUR


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old=("if access is None or account.consent_id is None or _issued_in_future(access, now):"),
    new="if access is None or account.consent_id is None:",
    protects_from="a clock that was set back: a token that is served after its expiry",
)
def test_a_clock_that_stepped_back_does_not_lengthen_a_life() -> None:
    """A token issued in the future can't be trusted: it is not served, and refreshed."""
    account, yesterday = logged_in(), NOW - timedelta(days=1)
    assert good_for(account, yesterday) == timedelta(0)
    assert isinstance(next_step(account, yesterday, POLICY), Spend)


@pytest.mark.parametrize(
    ("life_seconds", "promised", "tick"),
    [(1800, 60, 15), (1200, 60, 15), (90, 22.5, 11.25), (20, 5, 2.5)],
)
def test_promises_shrink_with_shorter_lives(
    life_seconds: int, promised: float, tick: float
) -> None:
    """At most a quarter of a life is promised and an eighth is waited between looks, once it is shorter than Xero's."""
    account = logged_in(life=timedelta(seconds=life_seconds))
    assert promised_ttl(account, POLICY).total_seconds() == promised
    assert tick_seconds(account, POLICY) == tick


def test_a_token_that_lives_as_long_as_xeros_keeps_the_whole_promise() -> None:
    """Promises shrink with tokens that live shorter than 30 minutes only."""
    policy = Policy(min_ttl=20 * MINUTE)
    assert promised_ttl(logged_in(), policy) == 20 * MINUTE
    shorter = logged_in(life=HALF_HOUR - timedelta(seconds=1))
    assert promised_ttl(shorter, policy) < 8 * MINUTE


def test_a_promise_is_never_more_than_a_fresh_token_has() -> None:
    """A ``min_ttl`` of an hour does not have every caller refresh a token of half an hour."""
    policy = Policy(min_ttl=timedelta(hours=1))
    assert isinstance(
        next_step(logged_in(), NOW, policy, min_life=promised_ttl(logged_in(), policy)), Idle
    )


def test_no_caller_can_demand_more_than_a_fresh_token_has() -> None:
    """A demand is capped below a fresh token's life, so a token just minted is never refreshed for it."""
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
    """Both have credentials and no login."""
    account = Account(client_id="client", client_secret=Secret("secret"))
    assert state_of(account, NOW, POLICY) is State.NOT_LOGGED_IN
    assert state_of(replace(account, ended_at=NOW), NOW, POLICY) is State.REVOKED


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if not candidates(account, now, policy):",
    new="if account.current and account.current.refused_at:",
    protects_from="giving a login up while another of its tokens would issue",
)
def test_consent_is_lost_only_when_every_candidate_is_refused() -> None:
    """``invalid_grant`` condemns one token; the next candidate is tried at once; the record stays as evidence."""
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


def test_a_refresh_is_due_five_minutes_before_the_end() -> None:
    """Refresh-ahead: not a moment before, and from then on."""
    account = logged_in()
    due = NOW + timedelta(minutes=25)
    assert refresh_due(account, NOW, POLICY) == due
    assert isinstance(next_step(account, due - timedelta(seconds=1), POLICY), Idle)
    assert isinstance(next_step(account, due, POLICY), Spend)


def test_a_short_token_is_refreshed_at_half_its_life() -> None:
    """Refresh-ahead is at most half a life, so that a 90-second token isn't refreshed at once and for ever."""
    assert refresh_due(logged_in(life=timedelta(seconds=90)), NOW, POLICY) == NOW + timedelta(
        seconds=45
    )


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return [expiry, rotation, *proofs]",
    new="return [expiry, *proofs]",
    protects_from="a refresh token that dies unused after 60 days",
)
def test_the_refresh_token_is_rotated_at_its_lifetime_whatever_else() -> None:
    """An access token that lives for days does not keep the refresh token from being rotated in time."""
    policy = Policy(refresh_lifetime=10 * MINUTE)
    account = logged_in()
    assert refresh_due(account, NOW, policy) == NOW + 10 * MINUTE
    assert isinstance(next_step(account, NOW + 10 * MINUTE, policy), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return [expiry, rotation, *proofs]",
    new="return [expiry, rotation]",
    protects_from="learning only after the grace period that the other token was the live one",
)
def test_a_rival_that_arrived_is_proved_soon_and_then_dropped() -> None:
    """A rival makes a refresh due well inside the grace; once another token is proved, it goes."""
    account = with_rival(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW + MINUTE))
    due = refresh_due(account, NOW, POLICY)
    assert isinstance(due, datetime)
    assert due < NOW + timedelta(minutes=10)
    account = concluded(begun(account, due), issued("r1"), due)
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]


def test_an_open_intent_is_due_at_once() -> None:
    """A refresh that was cut off is taken up by whoever looks next, with the same token."""
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
def test_an_open_intent_of_tomorrows_clock_is_due_now() -> None:
    """Its answer is to be asked for within the grace, whatever the clock said when it was begun."""
    tomorrow = NOW + timedelta(days=1)
    account = begin_refresh(logged_in(), current(logged_in()), by="host:1", now=tomorrow)
    assert isinstance(next_step(account, NOW + MINUTE, POLICY), Spend)
    # And so, where it is another token's: who sent that late may have killed the current one.
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
    """Without an intent too: its successor is not known. A replay of an answer further back may have brought it."""
    tomorrow = NOW + timedelta(days=1)  # by a clock that is ahead
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
def test_what_is_due_at_once_is_so_although_a_clock_stepped_back() -> None:
    """A refused token, or no access token, of tomorrow's clock: the next try is now, not tomorrow."""
    tomorrow = NOW + timedelta(days=1)
    account = with_rival(logged_in(tomorrow), RefreshToken(value=Secret("x"), obtained_at=tomorrow))
    refused = concluded(begun(account, tomorrow), Refused(detail="invalid_grant"), tomorrow)
    for due in (replace(refused, access=None), replace(logged_in(tomorrow), access=None)):
        assert isinstance(next_step(due, NOW, POLICY), Spend)
    refused = concluded(begun(account, NOW + MINUTE), Refused(detail="invalid_grant"), NOW + MINUTE)
    assert isinstance(next_step(replace(refused, access=logged_in().access), NOW, POLICY), Spend)


# ---------- the next step


def test_a_demand_for_a_longer_life_makes_it_due() -> None:
    """A caller's own demand is met although the tick would not refresh yet."""
    account, later = logged_in(), NOW + 10 * MINUTE
    assert isinstance(next_step(account, later, POLICY), Idle)
    assert isinstance(next_step(account, later, POLICY, min_life=25 * MINUTE), Spend)


def test_forcing_is_void_when_another_token_is_current() -> None:
    """Whoever wants r0 spent finds that somebody else has done it, and uses what is there."""
    account = logged_in()
    assert isinstance(
        next_step(account, NOW, POLICY, expected_current=current(account).value.fingerprint), Spend
    )
    assert isinstance(next_step(account, NOW, POLICY, expected_current="000000000000"), Idle)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old=("return Spend(choices[0]) if forced and client_refused(account) else Wait(until)"),
    new="return Spend(choices[0])",
    protects_from="a request to Xero at every tick and for every caller",
)
def test_a_wait_that_was_asked_for_is_kept() -> None:
    """No call before ``retry_not_before``."""
    account = concluded(begun(logged_in(), NOW), NotSent(detail="no route"), NOW, jitter=1)
    assert account.retry_not_before is not None
    later = NOW + timedelta(minutes=40)
    waiting = replace(account, retry_not_before=later + MINUTE)
    assert next_step(waiting, later, POLICY) == Wait(later + MINUTE)
    assert isinstance(next_step(waiting, later + MINUTE, POLICY), Spend)


def test_the_longest_possible_wait_is_kept_and_not_a_microsecond_more() -> None:
    """A longest wait that another host's clock dated is still one that xots set."""
    longest = POLICY.max_wait + POLICY.first_backoff + MAX_CLOCK_SKEW
    at = NOW + HALF_HOUR
    account = replace(logged_in(), retry_not_before=at + longest)
    assert next_step(account, at, POLICY) == Wait(at + longest)
    assert isinstance(next_step(account, at - timedelta(microseconds=1), POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="    return until if until - now <= longest else None\n",
    new="    return until\n",
    protects_from="a clock that was set back by a day: no refresh until that day is over",
)
def test_a_wait_from_a_clock_that_stepped_back_counts_as_reached() -> None:
    """A ``retry_not_before`` further off than is ever asked for does not stop the refresh for a day."""
    account = replace(logged_in(), retry_not_before=NOW + timedelta(days=1))
    assert isinstance(next_step(account, NOW + HALF_HOUR, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old=("return account.revocation is not None and _wait_ends_at(account, now, policy) is None"),
    new=("return account.revocation is not None and (account.retry_not_before or now) <= now"),
    protects_from="a clock that was set back by a day: no revocation until that day is over",
)
def test_a_revocations_wait_from_a_clock_that_stepped_back_counts_as_reached() -> None:
    """Xero is told of an end within minutes, and not when tomorrow comes again."""
    tomorrow = NOW + timedelta(days=1)
    account = after_end(logged_in(tomorrow), forget=False, now=tomorrow)
    failed = Unknown(detail="reset")
    account = after_revocation_failed(account, failed, now=tomorrow, policy=POLICY, jitter=0.5)
    assert not revocation_due(account, tomorrow, POLICY)
    assert revocation_due(account, NOW, POLICY)
