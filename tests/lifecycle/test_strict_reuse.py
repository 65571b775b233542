"""``grace: 0``: an identity server that accepts no refresh token twice, and may end the login at a
second use (RFC 9700 section 4.14.2)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace
from support.accounts import HALF_HOUR, MINUTE, NOW, POLICY, current, issued, logged_in

from xots.lifecycle.account import Account, RefreshToken
from xots.lifecycle.attention import attention_at
from xots.lifecycle.candidates import candidates, without_reuse
from xots.lifecycle.merging import merged
from xots.lifecycle.outcomes import (
    ClientRefused,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.outlook import Need, Retrying, outlook, why_lost
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import (
    Idle,
    NoteCutOff,
    Spend,
    State,
    Wait,
    newest_token,
    next_step,
    servable,
    state_of,
)
from xots.lifecycle.transitions import after, after_cut_off, begin_refresh
from xots.secret import Secret

STRICT = replace(POLICY, grace=timedelta(0))
EXPIRY = NOW + HALF_HOUR
LOST = Unknown(detail="reset")


def sent(account: Account, at: datetime) -> Account:
    """Return the record with the intent of the refresh that is due."""
    step = next_step(account, at, STRICT)
    assert isinstance(step, Spend)
    return begin_refresh(account, step.token, by="h:1", now=at, strict=True)


def answered(account: Account, outcome: Outcome, at: datetime) -> Account:
    """Return the record after the outcome of its open refresh."""
    return after(account, outcome, now=at, policy=STRICT, jitter=0.5)


def after_lost_response() -> Account:
    """Return the record after a refresh at the 25th minute whose response was lost."""
    at = NOW + 25 * MINUTE
    return answered(sent(logged_in(), at), LOST, at)


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="        until = max(until or now, live.expires_at) if live else until\n",
    new="",
    protects_from="a reuse at a strict server, which ends the live access token with the login",
)
def test_a_token_that_may_be_spent_waits_for_the_expiry_of_the_access_token() -> None:
    """Neither a tick, nor a caller's demand, nor a forced refresh sends it before."""
    account = after_lost_response()
    for at in (NOW + 26 * MINUTE, EXPIRY - timedelta(seconds=1)):
        assert servable(account, at, timedelta(0)) is not None
        assert next_step(account, at, STRICT) == Wait(EXPIRY)
        assert next_step(account, at, STRICT, min_life=timedelta(hours=1)) == Wait(EXPIRY)
        forced = next_step(account, at, STRICT, expected_current=newest_token(account))
        assert forced == Wait(EXPIRY)
        by_user = next_step(
            account, at, STRICT, expected_current=newest_token(account), by_user=True
        )
        assert by_user == Wait(EXPIRY)
        assert attention_at(account, at, STRICT) == EXPIRY
        assert without_reuse(account, at, STRICT) == ()
    assert isinstance(next_step(account, EXPIRY, STRICT), Spend)


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="(t.refused_at or (t.resent and account.rotates))",
    new="t.refused_at",
    protects_from="one reuse after another at a server that accepts none",
)
def test_the_last_attempt_is_made_once() -> None:
    """After its response is lost too, the login is lost."""
    account = answered(sent(after_lost_response(), EXPIRY), LOST, EXPIRY)
    at = EXPIRY + timedelta(hours=1)
    assert next_step(account, at, STRICT) == Idle()
    assert state_of(account, at, STRICT) is State.CONSENT_LOST
    assert "12:25:00 UTC arrived, nor to the last attempt" in why_lost(
        account, STRICT, "the identity server"
    )


def test_the_last_attempt_may_succeed() -> None:
    """The first request never reached the server. The new access token has its whole lifetime."""
    account = answered(sent(after_lost_response(), EXPIRY), issued(), EXPIRY)
    assert account.access is not None
    assert account.access.expires_at == EXPIRY + HALF_HOUR
    assert account.intent is None
    assert current(account).is_fresh


def test_a_refused_last_attempt_ends_the_login() -> None:
    """The reason names the lost response, not a time of Xero's."""
    account = answered(sent(after_lost_response(), EXPIRY), Refused(detail="d"), EXPIRY)
    assert state_of(account, EXPIRY, STRICT) is State.CONSENT_LOST
    assert why_lost(account, STRICT, "the identity server") == (
        "no response to the refresh started at 2026-11-23 12:25:00 UTC arrived, and the identity "
        "server accepts no refresh token twice"
    )


@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(detail="d"),
        Throttled(detail="d"),
        ClientRefused(detail="d", code="invalid_client"),
    ],
)
def test_a_last_attempt_that_was_not_carried_out_is_repeated(outcome: Outcome) -> None:
    """Its outcome proves that it was no second use."""
    account = answered(sent(after_lost_response(), EXPIRY), outcome, EXPIRY)
    at = EXPIRY + timedelta(hours=1)
    step = next_step(account, at, STRICT)
    assert isinstance(step, Spend)
    again = answered(begin_refresh(account, step.token, by="h:2", now=at, strict=True), LOST, at)
    assert next_step(again, at + timedelta(hours=1), STRICT) == Idle()


@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(detail="d"),
        Throttled(detail="d"),
        ClientRefused(detail="d", code="invalid_client"),
    ],
)
def test_a_first_attempt_that_was_not_carried_out_is_repeated_soon(outcome: Outcome) -> None:
    """The token is unspent: its refresh need not wait for the access token's expiry."""
    at = NOW + 25 * MINUTE
    account = answered(sent(logged_in(), at), outcome, at)
    assert isinstance(next_step(account, at + 5 * MINUTE, STRICT), Spend)
    assert outlook(account, at, STRICT).attention_for is not Need.LAST_ATTEMPT


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="        if unresolved_intent(account) is not None:\n            return NoteCutOff()\n",
    new="",
    protects_from="an operator who learns of a lost refresh only when the access token has expired",
)
def test_an_intent_found_at_a_start_is_noted_and_not_resent() -> None:
    """The process that finds it, under the lease, tells the operator when a login will be
    needed."""
    at = NOW + 25 * MINUTE
    found = sent(logged_in(), at)
    assert next_step(found, at + MINUTE, STRICT) == NoteCutOff()
    noted = after_cut_off(found, now=at + MINUTE)
    assert next_step(noted, at + MINUTE, STRICT) == Wait(EXPIRY)
    assert state_of(noted, at + MINUTE, STRICT) is State.REFRESH_FAILING
    assert noted.problem is not None
    assert "h:1 started a refresh and recorded no outcome" in noted.problem.detail
    assert outlook(noted, at + MINUTE, STRICT).login_needed_at == EXPIRY


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="    noted = replace(noted, retry_not_before=now + CUT_OFF_WAIT)\n",
    new="    noted = replace(noted, retry_not_before=None)\n",
    protects_from="a reuse that ends the login of a process whose response is not written yet",
)
def test_a_refresh_that_was_cut_off_may_still_be_written() -> None:
    """The access token has expired, and the store did not take the response of another process at
    once. The last attempt waits for several of its ticks."""
    first = begin_refresh(logged_in(), current(logged_in()), by="h:1", now=EXPIRY)
    assert next_step(first, EXPIRY + MINUTE, STRICT) == NoteCutOff()
    noted = after_cut_off(first, now=EXPIRY + MINUTE)
    assert next_step(noted, EXPIRY + MINUTE, STRICT) == Wait(EXPIRY + 2 * MINUTE)
    assert isinstance(next_step(noted, EXPIRY + 2 * MINUTE, STRICT), Spend)


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="    return max(now - token.first_spent_at, timedelta(0)) < policy.grace\n",
    new="    return now - token.first_spent_at < policy.grace\n",
    protects_from="a reuse after a refresh by a process whose clock is ahead",
)
def test_a_token_spent_in_the_future_is_not_sent_again() -> None:
    """The clock of the process that spent it is ahead. No grace period has begun."""
    found = sent(logged_in(), NOW + 26 * MINUTE)
    assert next_step(found, NOW + 25 * MINUTE, STRICT) == NoteCutOff()


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="    return None if unresolved_intent(account) is None else NoteCutOff()\n",
    new="    return None\n",
    protects_from="a login that counts as lost while its last attempt is in progress",
)
def test_a_last_attempt_in_progress_is_no_loss() -> None:
    """Its outcome may still be written for a minute. The process that finds its intent then, under
    the lease, tells the operator of the loss."""
    found, at = sent(after_lost_response(), EXPIRY), EXPIRY + MINUTE
    assert state_of(found, at, STRICT) is State.REFRESH_FAILING
    assert next_step(found, EXPIRY, STRICT) == Wait(at)
    assert next_step(found, at, STRICT) == NoteCutOff()
    seen = outlook(found, at, STRICT)
    assert (seen.attention_for, seen.retrying) == (Need.LAST_ATTEMPT, Retrying.LOST_RESPONSE)
    noted = after_cut_off(found, now=at)
    assert state_of(noted, at, STRICT) is State.CONSENT_LOST
    assert next_step(noted, at + timedelta(hours=1), STRICT) == Idle()
    assert outlook(noted, at, STRICT).attention_for is Need.CONSENT_LOST


def test_the_operator_learns_at_once_when_a_user_must_log_in() -> None:
    """That is when the access token expires, and the last attempt is made."""
    account = after_lost_response()
    found = outlook(account, NOW + 26 * MINUTE, STRICT)
    assert found.attention_for is Need.LAST_ATTEMPT
    assert found.login_needed_at == found.next_attempt_at == EXPIRY
    assert found.retrying is Retrying.LOST_RESPONSE
    assert found.grace_ends_at is None
    assert outlook(account, EXPIRY + MINUTE, STRICT).login_needed_at == EXPIRY + MINUTE


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="    if has_rotated and not is_strict(policy):\n",
    new="    if has_rotated:\n",
    protects_from="a record that keeps spent tokens which must never be sent",
)
def test_a_spent_token_is_no_fallback() -> None:
    """Its successor is alone in the record from the start. Where reuse is permitted, it stays."""
    at = NOW + 25 * MINUTE
    strict = answered(sent(logged_in(), at), issued(), at)
    assert [token.value.reveal() for token in strict.tokens] == ["r1"]
    lenient = after(
        begin_refresh(logged_in(), current(logged_in()), by="h:1", now=at),
        issued(),
        now=at,
        policy=POLICY,
        jitter=0.5,
    )
    assert [token.value.reveal() for token in lenient.tokens] == ["r1", "r0"]


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="if token in _newest(account, policy) and not token.is_fresh",
    new="if token and not token.is_fresh",
    protects_from="a reuse of a token whose successor is known",
)
def test_a_token_with_a_known_successor_is_not_sent_again() -> None:
    """The response came late, after another process had noted that the refresh was cut off."""
    at = NOW + 25 * MINUTE
    found = sent(logged_in(), at)
    late = answered(found, issued(), at + MINUTE)
    noted = after_cut_off(found, now=at + MINUTE)
    account = merged(noted, late)
    assert [t.value.reveal() for t in account.tokens] == ["r1", "r0"]
    for outcome in (LOST, Refused(detail="d")):
        at += HALF_HOUR
        step = next_step(account, at, STRICT)
        assert isinstance(step, Spend)
        assert step.token.value.reveal() == "r1"
        account = answered(
            begin_refresh(account, step.token, by="h:1", now=at, strict=True), outcome, at
        )
    assert state_of(account, at, STRICT) is State.CONSENT_LOST


def test_fallbacks_that_were_never_spent_are_used_and_outdated_ones_are_not() -> None:
    """A token of an old dump was most likely spent; one that joined later was not."""
    old = RefreshToken(value=Secret("old"), obtained_at=NOW - MINUTE)
    new = RefreshToken(value=Secret("new"), obtained_at=NOW + MINUTE)
    account = replace(logged_in(), fallbacks=(old, new))
    assert [t.value.reveal() for t in candidates(account, NOW, STRICT)] == ["r0", "new"]


def test_a_response_without_a_refresh_token_keeps_the_old_one() -> None:
    """RFC 6749 section 6: the server does not rotate. No request repeats it."""
    at = NOW + 25 * MINUTE
    account = answered(sent(logged_in(), at), issued(None), at)
    assert (account.intent, account.rotates) == (None, False)
    assert current(account).is_fresh
    assert current(account).value.reveal() == "r0"


def test_a_server_that_does_not_rotate_gets_the_same_token_again() -> None:
    """It may rotate one day, so the access token is not risked. Then there is no last attempt."""
    at = NOW + 25 * MINUTE
    account = answered(sent(logged_in(), at), issued(None), at)
    later = at + 25 * MINUTE
    account = answered(sent(account, later), LOST, later)
    expiry = at + HALF_HOUR
    assert next_step(account, later + MINUTE, STRICT) == Wait(expiry)
    for minutes in (1, 2, 3):
        step = next_step(account, expiry + minutes * MINUTE, STRICT)
        assert isinstance(step, Spend)
        account = answered(
            begin_refresh(account, step.token, by="h:1", now=expiry, strict=True), LOST, expiry
        )


def test_a_short_grace_period_is_used_and_then_over() -> None:
    """Within it a lost response is retried; after it the token waits for the access token's
    expiry."""
    short = replace(POLICY, grace=timedelta(seconds=60))
    account, at = after_lost_response(), NOW + 25 * MINUTE
    assert isinstance(next_step(account, at + timedelta(seconds=30), short), Spend)
    assert next_step(account, at + timedelta(seconds=61), short) == Wait(EXPIRY)


def test_a_retry_of_a_refused_token_needs_a_user() -> None:
    """POST /refresh sends it once more; a tick, a caller or a program's GET never does."""
    at = NOW + 25 * MINUTE
    refused = after(
        begin_refresh(logged_in(), current(logged_in()), by="h:1", now=at),
        Refused(detail="invalid_grant"),
        now=at,
        policy=POLICY,
        jitter=0.5,
    )
    later, seen = at + MINUTE, newest_token(refused)
    assert state_of(refused, later, POLICY) is State.CONSENT_LOST
    assert next_step(refused, later, POLICY) == Idle()
    assert next_step(refused, later, POLICY, min_life=HALF_HOUR) == Idle()
    assert next_step(refused, later, POLICY, expected_current=seen) == Idle()
    step = next_step(refused, later, POLICY, expected_current=seen, by_user=True)
    assert isinstance(step, Spend)
    soon = at + timedelta(seconds=1)
    pause = next_step(refused, soon, POLICY, expected_current=seen, by_user=True)
    assert pause == Wait(at + POLICY.refresh_interval)
    again = begin_refresh(refused, step.token, by="h:1", now=later, strict=True)
    recovered = after(again, issued(), now=later, policy=POLICY, jitter=0.5)
    assert state_of(recovered, later, POLICY) is State.CONNECTED
    lost = after(again, Refused(detail="invalid_grant"), now=later, policy=POLICY, jitter=0.5)
    assert state_of(lost, later, POLICY) is State.CONSENT_LOST


@pytest.mark.parametrize("policy", [POLICY, STRICT])
@pytest.mark.parametrize(
    "outcome",
    [
        LOST,
        NotSent(detail="d"),
        Throttled(detail="d"),
        ClientRefused(detail="d", code="invalid_client"),
        Refused(detail="d"),
    ],
)
def test_a_refused_token_stays_refused_until_it_is_accepted(
    outcome: Outcome, policy: Policy
) -> None:
    """Its one request more has any other outcome: neither a tick nor a caller sends it again."""
    at = NOW + 25 * MINUTE
    refused = answered(sent(logged_in(), at), Refused(detail="d"), at)
    again = begin_refresh(refused, current(refused), by="h:1", now=at + MINUTE, strict=True)
    assert not current(again).may_be_in_flight
    found = after(again, outcome, now=at + MINUTE, policy=policy, jitter=0.5)
    for later in (at + 2 * MINUTE, at + timedelta(hours=1)):
        assert next_step(found, later, policy, min_life=HALF_HOUR) == Idle()
        assert state_of(found, later, policy) is State.CONSENT_LOST
        assert outlook(found, later, policy).attention_for is Need.CONSENT_LOST
    assert "no response" not in why_lost(found, policy, "Xero")


def test_a_cut_off_request_with_a_refused_token_is_noted_and_over() -> None:
    """The process died in it. Xero may have issued from it, but its refusal counts."""
    at = NOW + 25 * MINUTE
    refused = answered(sent(logged_in(), at), Refused(detail="d"), at)
    again = begin_refresh(refused, current(refused), by="h:1", now=at + MINUTE, strict=True)
    assert next_step(again, at + 3 * MINUTE, POLICY) == NoteCutOff()
    noted = after_cut_off(again, now=at + 3 * MINUTE)
    assert next_step(noted, at + 5 * MINUTE, POLICY) == Idle()


def test_a_user_may_have_an_unanswered_last_attempt_repeated() -> None:
    """The server was down all the time. Once the access token has expired, nothing is left to
    lose. No tick and no program repeats it."""
    account = answered(sent(after_lost_response(), EXPIRY), LOST, EXPIRY)
    at, seen = EXPIRY + timedelta(hours=1), newest_token(account)
    assert state_of(account, at, STRICT) is State.CONSENT_LOST
    assert next_step(account, at, STRICT, expected_current=seen) == Idle()
    step = next_step(account, at, STRICT, expected_current=seen, by_user=True)
    assert isinstance(step, Spend)
    again = begin_refresh(account, step.token, by="h:1", now=at, strict=True)
    recovered = answered(again, issued(), at)
    assert state_of(recovered, at, STRICT) is State.CONNECTED
    assert next_step(answered(again, LOST, at), at + MINUTE, STRICT) == Idle()


def test_a_clock_that_was_set_back_permits_no_reuse() -> None:
    """The access token may be live: its end is not known."""
    account, earlier = after_lost_response(), NOW - timedelta(hours=1)
    assert servable(account, earlier, timedelta(0)) is None
    assert isinstance(next_step(account, earlier, STRICT), Wait)


def test_a_cut_off_refresh_is_noted_once_whatever_the_clocks_show() -> None:
    """The clock of the process that was cut off was ahead of this one's."""
    found, earlier = sent(logged_in(), NOW + 25 * MINUTE), NOW + 5 * MINUTE
    assert next_step(found, earlier, STRICT) == NoteCutOff()
    noted = after_cut_off(found, now=earlier)
    assert next_step(noted, earlier, STRICT) == Wait(EXPIRY)


def test_retries_before_a_change_to_a_strict_server_do_not_count() -> None:
    """The operator sets ``grace: 0`` during an outage: the last attempt is still to come."""
    at = NOW + 25 * MINUTE
    account = answered(sent(logged_in(), at), LOST, at)
    again = begin_refresh(account, current(account), by="h:1", now=at + MINUTE)
    account = after(again, LOST, now=at + MINUTE, policy=POLICY, jitter=0.5)
    assert next_step(account, at + 2 * MINUTE, STRICT) == Wait(EXPIRY)
    assert isinstance(next_step(account, EXPIRY, STRICT), Spend)


def test_one_response_without_a_refresh_token_does_not_end_strictness() -> None:
    """Some servers rotate only sometimes. A lost response may be the one that did."""
    at = NOW + 25 * MINUTE
    account = answered(sent(logged_in(), at), issued(None), at)
    assert not account.rotates
    later = at + 25 * MINUTE
    account = answered(sent(account, later), LOST, later)
    assert next_step(account, later + MINUTE, STRICT) == Wait(at + HALF_HOUR)


@pytest.mark.safeguard(
    file="lifecycle/candidates.py",
    old="    return None if is_live and is_strict(policy) else token\n",
    new="    return token\n",
    protects_from="a reuse by a user's demand, which ends the live access token",
)
def test_no_user_has_a_token_sent_again_while_the_access_token_is_live() -> None:
    """The server refused it, perhaps for a moment, and accepts none twice."""
    at = NOW + 25 * MINUTE
    refused = answered(sent(logged_in(), at), Refused(detail="d"), at)
    seen = newest_token(refused)
    for later, step in ((at + MINUTE, Idle), (EXPIRY, Spend)):
        found = next_step(refused, later, STRICT, expected_current=seen, by_user=True)
        assert isinstance(found, step)
