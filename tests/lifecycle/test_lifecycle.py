"""The state machine, as its protocol says: what is due, and what every outcome makes of the record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from xots.clock import MAX_CLOCK_SKEW
from xots.lifecycle.account import MAX_TOMBSTONES, AccessToken, Account, RefreshToken
from xots.lifecycle.merging import diverged, merged
from xots.lifecycle.outcomes import (
    ClientRefused,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.schedule import (
    Due,
    Idle,
    Policy,
    Spend,
    State,
    Wait,
    candidates,
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
from xots.lifecycle.transitions import (
    after,
    after_end,
    after_login,
    after_revocation_failed,
    after_revoked,
    begin_refresh,
    tokens_to_revoke,
)
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy()
MINUTE = timedelta(minutes=1)
HALF_HOUR = timedelta(minutes=30)


def issued(
    token: str | None = "r1", access: str = "a1", life: timedelta | None = HALF_HOUR
) -> Issued:
    return Issued(
        access_token=Secret(access), lifetime=life, refresh_token=Secret(token) if token else None
    )


def logged_in(at: datetime = NOW, life: timedelta | None = HALF_HOUR) -> Account:
    return after_login(
        Account(generation=7),
        issued("r0", "a0", life),
        consent_id="c1",
        client_id="client",
        client_secret=Secret("secret"),
        token_url="https://id.example/token",
        tenant_id=None,
        scopes_requested=("offline_access",),
        began_at=at,
    )


def current(account: Account) -> RefreshToken:
    assert account.current is not None
    return account.current


def begun(account: Account, at: datetime) -> Account:
    step = next_step(account, at, POLICY, min_life=timedelta(days=1))
    assert isinstance(step, Spend)
    return begin_refresh(account, step.token, by="host:1", now=at)


def concluded(account: Account, outcome: Outcome, at: datetime, jitter: float = 0.5) -> Account:
    return after(account, outcome, now=at, policy=POLICY, jitter=jitter)


def with_rival(account: Account, token: RefreshToken) -> Account:
    """The record once a token that another process got for the same consent has joined it."""
    return merged(account, replace(account, current=token, fallbacks=()))


def values(account: Account) -> set[str]:
    return {t.value.reveal() for t in candidates(account, NOW, POLICY)}


# ---------------------------------------------------------------------------------------------- what is due


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


def test_an_open_intent_is_due_at_once() -> None:
    """A refresh that was cut off is taken up by whoever looks next, with the same token."""
    account = begun(logged_in(), NOW)
    step = next_step(account, NOW, POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


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


def test_the_longest_possible_wait_is_kept_and_not_a_microsecond_more() -> None:
    """A longest wait that another host's clock dated is still one that xots set."""
    longest = POLICY.max_wait + POLICY.first_backoff + MAX_CLOCK_SKEW
    at = NOW + HALF_HOUR
    account = replace(logged_in(), retry_not_before=at + longest)
    assert next_step(account, at, POLICY) == Wait(at + longest)
    assert isinstance(next_step(account, at - timedelta(microseconds=1), POLICY), Spend)


# --------------------------------------------------------------------------------------------------- clocks


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


def test_hosts_may_differ_by_seconds() -> None:
    """A token issued by a host whose clock is a little ahead is served, but never longer than its life."""
    account = logged_in()
    assert good_for(account, NOW - timedelta(seconds=5)) == HALF_HOUR


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


# ----------------------------------------------------------------------------------------------- outcomes


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="kept.insert(0, spent)",
    new="pass",
    protects_from="a response whose token does not work, while the spent one still would",
)
def test_issued_moves_on_and_keeps_the_spent_token() -> None:
    """The successor is current; the spent token stays until its successor is proved and the grace is over."""
    account = concluded(begun(logged_in(), NOW + 25 * MINUTE), issued(), NOW + 25 * MINUTE)
    assert current(account).value.reveal() == "r1"
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]
    assert account.fallbacks[0].first_spent_at == NOW + 25 * MINUTE
    assert (account.intent, account.failed_attempts, account.problem) == (None, 0, None)
    assert account.refreshed_by == "host:1"


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return within_grace(token, now, policy)",
    new="return False",
    protects_from=(
        "a response whose token does not work, after the next refresh has dropped the spent one"
    ),
)
def test_a_spent_token_leaves_when_its_successor_is_proved_and_the_grace_is_over() -> None:
    """25 minutes after, it stays though its successor is proved; another 25 minutes on, it goes."""
    account, at = logged_in(), NOW
    kept = []
    for number in range(1, 5):
        at += 25 * MINUTE
        account = concluded(begun(account, at), issued(f"r{number}"), at)
        kept.append(sorted(r.value.reveal() for r in account.fallbacks))
    assert kept == [["r0"], ["r0", "r1"], ["r1", "r2"], ["r2", "r3"]]


def test_a_token_spent_long_ago_stays_while_its_successor_is_unproved() -> None:
    """A recovery after the grace keeps the spent token: nothing has proved the answer's token yet."""
    account = begun(logged_in(), NOW)
    account = concluded(account, Unknown(detail="reset"), NOW)
    at = NOW + timedelta(hours=5)
    account = concluded(begun(account, at), issued(), at)
    assert [r.value.reveal() for r in account.fallbacks] == ["r0"]


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return _failed(account, outcome, ProblemKind.UNKNOWN, now, backoff)",
    new=(
        "return _failed(replace(account, intent=None), outcome, ProblemKind.UNKNOWN, now, backoff)"
    ),
    protects_from="a lost response that is forgotten",
)
@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="first_spent_at=token.first_spent_at or now",
    new="first_spent_at=now",
    protects_from="a grace period that seems to begin anew with each attempt",
)
def test_unknown_keeps_everything_open() -> None:
    """No answer: the token stays current, spent when it was first tried, the intent stays, and a retry is set."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW + MINUTE)
    assert current(account).first_spent_at == NOW
    assert account.intent is not None
    assert account.failed_attempts == 1
    assert state_of(account, NOW, POLICY) is State.REFRESH_FAILING
    again = begun(account, NOW + 5 * MINUTE)
    assert current(again).first_spent_at == NOW, "the first-spent time is never moved later"


@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(detail="no route"),
        Throttled(detail="429"),
        ClientRefused(detail="x", code="invalid_client"),
    ],
)
def test_an_answer_that_shows_the_token_unspent_undoes_its_own_stamp(outcome: Outcome) -> None:
    """Not sent, throttled and client refused start no grace clock."""
    account = concluded(begun(logged_in(), NOW), outcome, NOW)
    assert current(account).first_spent_at is None
    assert account.intent is None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=("    if not intent.set_first_spent:\n        return account\n"),
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
def test_it_does_not_undo_an_earlier_unknown(outcome: Outcome) -> None:
    """After an unknown, the intent and the first-spent time stand, whatever a later try says of itself."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + MINUTE), outcome, NOW + MINUTE)
    assert current(account).first_spent_at == NOW
    assert account.intent is not None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if not intent.set_first_spent:  # a retry",
    new="if False:",
    protects_from="serving an expired token, since the response was a replay",
)
def test_on_a_retry_the_access_tokens_life_counts_from_the_first_try() -> None:
    """The answer to a retry may be a replay of the lost one, minted 20 minutes ago."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + 20 * MINUTE), issued(), NOW + 20 * MINUTE)
    assert account.access is not None
    assert account.access.expires_at == NOW + HALF_HOUR


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return min(wait, policy.max_backoff)",
    new="return wait",
    protects_from="back-off that grows until one wait outlasts the grace period",
)
@given(tries=st.integers(0, 40), jitter=st.floats(0, 1, exclude_max=True))
def test_waits_after_an_unknown_fit_the_grace_many_times(tries: int, jitter: float) -> None:
    """However often it failed, the next try is at most a minute away."""
    account = replace(begun(logged_in(), NOW), failed_attempts=tries)
    account = concluded(account, Unknown(detail="reset"), NOW, jitter)
    assert account.retry_not_before is not None
    assert timedelta(0) <= account.retry_not_before - NOW <= MINUTE


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return policy.slow_wait if account.intent else policy.max_wait",
    new="return policy.max_wait",
    protects_from="a wait of an hour that outlasts the grace period",
)
def test_retry_after_is_kept_but_capped_while_a_refresh_is_open() -> None:
    """A 429 may ask for an hour; after a lost answer for 5 minutes, lest the grace be slept through."""
    hour = Throttled(detail="429", retry_after=timedelta(hours=1))
    account = concluded(begun(logged_in(), NOW), hour, NOW, jitter=0)
    assert account.retry_not_before == NOW + timedelta(hours=1)
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = concluded(begun(account, NOW + MINUTE), hour, NOW + MINUTE, jitter=0)
    assert account.retry_not_before == NOW + 6 * MINUTE


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=("case ClientRefused():\n            wait ="),
    new=(
        "case ClientRefused():\n"
        "            return _after_refused(account, Refused(detail=outcome.detail), now=now)\n"
        "            wait ="
    ),
    protects_from="a mistyped secret that costs the login",
)
def test_a_refused_client_drops_nothing_and_is_tried_slowly() -> None:
    """``invalid_client`` is the operator's to mend: some minutes between the tries, nothing lost."""
    account = concluded(
        begun(logged_in(), NOW), ClientRefused(detail="x", code="invalid_client"), NOW
    )
    assert values(account) == {"r0"}
    assert account.retry_not_before is not None
    assert account.retry_not_before - NOW > MINUTE
    assert state_of(account, NOW, POLICY) is State.REFRESH_FAILING


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


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return Rank.LATE if spent_in_future or is_last_hope else None",
    new="return Rank.LATE",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_a_rival_is_never_reused_after_the_grace() -> None:
    """A token that was spent more than 30 minutes ago is not worth the risk that Xero ends the chain."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued(), at)
    assert [t.value.reveal() for t in candidates(account, at + HALF_HOUR, POLICY)] == ["r1"]


def test_the_last_hope_is_tried_whatever_the_clock_says_of_it() -> None:
    """A clock of yesterday stamped the token that was spent last: when its successor is refused, it is tried all the
    same, and only that one."""
    yesterday = NOW - timedelta(days=1)
    account = concluded(begun(logged_in(yesterday), yesterday), issued("r1"), yesterday)
    account = concluded(begun(account, yesterday), issued("r2"), yesterday)
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    assert [t.value.reveal() for t in candidates(account, NOW, POLICY)] == ["r1"]
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    assert state_of(account, NOW, POLICY) is State.CONSENT_LOST


def test_the_current_token_is_tried_however_old_its_intent() -> None:
    """An old intent condemns nothing: only Xero's word does."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    step = next_step(account, NOW + timedelta(days=3), POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


def test_success_with_a_rival_makes_its_successor_current() -> None:
    """When the current token is refused and a rival is taken, the refused one leaves the record."""
    account = with_rival(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW))
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("x1"), NOW + MINUTE)
    assert current(account).value.reveal() == "x1"
    assert [r.value.reveal() for r in account.fallbacks] == ["x"]
    assert state_of(account, NOW, POLICY) is State.CONNECTED


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


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return token.obtained_at > (proved.first_spent_at or now)",
    new="return False",
    protects_from="dropping a live token for a proof that was requested before the token came",
)
def test_a_rival_that_arrives_during_the_proof_stays() -> None:
    """What came after the proving request was sent is not proved wrong by it."""
    account = begun(logged_in(), NOW)
    account = with_rival(account, RefreshToken(value=Secret("x"), obtained_at=NOW + MINUTE))
    account = concluded(account, issued("r1"), NOW + 2 * MINUTE)
    assert sorted(r.value.reveal() for r in account.fallbacks) == ["r0", "x"]


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if is_first or has_rotated:",
    new="if has_rotated:",
    protects_from="a refresh token that was lost on the way",
)
def test_an_answer_without_a_refresh_token_is_asked_again_once() -> None:
    """The first time its access token is served and the intent stays; the second time the server does not rotate."""
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
    assert account.intent is None, "a server that is known not to rotate is not asked twice"


def test_a_server_that_has_rotated_is_asked_for_the_token_as_long_as_the_grace_lasts() -> None:
    """Two answers in a row lost their refresh token on the way: that is not yet a server which never sends any."""
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


def test_a_refresh_token_that_comes_at_the_second_asking_is_taken() -> None:
    """An answer that lost its refresh token on the way costs one retry and nothing else."""
    account = concluded(begun(logged_in(), NOW), issued(None), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("r1"), NOW + MINUTE)
    assert current(account).value.reveal() == "r1"
    assert account.responses_without_token == 0


def test_a_server_that_answers_with_the_same_token_does_not_rotate() -> None:
    """The same refresh token again is fresh, not its own rival."""
    account = concluded(begun(logged_in(), NOW), issued("r0"), NOW + MINUTE)
    assert (current(account).value.reveal(), account.fallbacks) == ("r0", ())
    assert current(account).first_spent_at is None


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=("return min(issued.lifetime, MAX_LIFETIME) if issued.lifetime else ASSUMED_LIFETIME"),
    new="return issued.lifetime or ASSUMED_LIFETIME",
    protects_from="serving an expired token for a year",
)
@pytest.mark.parametrize("life", [None, timedelta(days=400)])
def test_an_absurd_life_is_not_believed(life: timedelta | None) -> None:
    """A missing or enormous ``expires_in`` still yields a token, with a life of at most a day."""
    account = concluded(begun(logged_in(), NOW), issued(life=life), NOW)
    assert timedelta(0) < good_for(account, NOW) <= timedelta(days=1)


def test_a_rival_with_an_open_intent_is_not_condemned_by_the_clock() -> None:
    """Xero was down for longer than the grace while the last candidate, a rival, was tried: it is tried again."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued(), at)
    account = concluded(begun(account, at), Refused(detail="invalid_grant"), at)
    account = concluded(begun(account, at), Unknown(detail="reset"), at)
    assert state_of(account, at + timedelta(hours=2), POLICY) is State.REFRESH_FAILING
    step = next_step(account, at + timedelta(hours=2), POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r0"


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="if within_grace(token, now, policy):",
    new="if True:",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_a_fresh_rival_is_tried_before_a_current_token_whose_grace_is_over() -> None:
    """Late reuse may end the whole chain: what is unspent goes first, though it is not the current one."""
    account = concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW)
    account = with_rival(account, RefreshToken(value=Secret("x"), obtained_at=NOW))
    assert [t.value.reveal() for t in candidates(account, NOW, POLICY)] == ["r0", "x"]
    assert [t.value.reveal() for t in candidates(account, NOW + HALF_HOUR, POLICY)] == ["x", "r0"]


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return Rank.IN_GRACE if account.intent is None else Rank.LATE",
    new="return Rank.IN_GRACE",
    protects_from="late reuse of the current token, after the fallback was tried",
)
@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return is_past and within_grace(token, now, policy)",
    new="return within_grace(token, now, policy)",
    protects_from="late reuse after a clock was set back",
)
def test_a_rival_within_its_grace_is_tried_before_a_current_token_whose_grace_is_over() -> None:
    """It was tried when that grace was over, and nobody knows how that went: Xero surely takes it again."""
    account = with_rival(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW))
    account = concluded(begun(account, NOW), Unknown(detail="reset"), NOW)
    later = NOW + HALF_HOUR
    account = concluded(begun(account, later), Unknown(detail="reset"), later)
    assert [t.value.reveal() for t in candidates(account, later + MINUTE, POLICY)] == ["x", "r0"]
    # By a clock that went back under it, nobody knows how long ago it was spent.
    earlier = replace(
        account, current=replace(current(account), first_spent_at=NOW - timedelta(days=2))
    )
    assert [t.value.reveal() for t in candidates(earlier, later - timedelta(days=1), POLICY)] == [
        "r0",
        "x",
    ]


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return Rank.IN_GRACE if account.intent is None else Rank.LATE",
    new="return Rank.LATE",
    protects_from="the same two tokens again and again, until the grace period of both is over",
)
def test_a_current_token_that_a_replay_brought_is_tried_before_the_one_that_brought_it() -> None:
    """Whatever a clock says of its age: asked again, that one would bring it again, till its grace is over."""
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


def test_an_access_token_that_comes_again_is_as_old_as_it_was() -> None:
    """Two answers without refresh token make the server one that does not rotate; the third replays the first."""
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


def test_a_replay_that_brings_a_token_which_was_dropped_makes_it_no_fresher() -> None:
    """It was spent, at some time after the one that brings it."""
    account, at = logged_in(), NOW
    for number in range(1, 5):
        at += HALF_HOUR
        account = concluded(begun(account, at), issued(f"r{number}"), at)
    spent = begin_refresh(account, account.fallbacks[0], by="host:1", now=at)
    account = concluded(spent, issued("r1"), at)
    assert (current(account).value.reveal(), current(account).first_spent_at) == ("r1", at)
    assert Secret("r1").fingerprint not in account.tombstones
    assert isinstance(next_step(account, at, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="known = next((t for t in _others(account, spent) if t.value == value), None)",
    new="known = None",
    protects_from="a spent token that counts as new",
)
def test_a_replay_of_an_earlier_answer_makes_nothing_fresh() -> None:
    """Spending a rival again brings a token that is known and spent: it keeps its first-spent time, and stands once."""
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
    """Beyond the grace it is no replay if the clock is right, but a clock may have stepped: another one is due."""
    account = concluded(begun(logged_in(), spent_at), Unknown(detail="reset"), spent_at)
    at = NOW + timedelta(hours=8)
    account = concluded(begun(account, at), issued(), at)
    assert good_for(account, at) == timedelta(0)
    step = next_step(account, at, POLICY)
    assert isinstance(step, Spend)
    assert step.token.value.reveal() == "r1"


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


def test_rivals_are_tried_in_the_order_they_were_spent_whatever_the_clock_said() -> None:
    """One that a clock of tomorrow stamped seems the newest: tried first, its late reuse may end the whole chain."""
    tomorrow, at = NOW + timedelta(days=1), NOW + timedelta(hours=2)
    account = concluded(begun(logged_in(), tomorrow), issued("r1"), tomorrow)
    account = concluded(begun(account, at), issued("r2"), at)
    account = concluded(begun(account, at), issued("r3"), at)
    account = concluded(begun(account, at), Refused(detail="invalid_grant"), at)
    assert [t.value.reveal() for t in candidates(account, at, POLICY)] == ["r2", "r1", "r0"]


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="policy.first_backoff * 2 ** min(times, MAX_DOUBLINGS)",
    new="policy.first_backoff",
    protects_from="frequent requests to a server that is in trouble",
)
def test_retry_after_zero_does_not_turn_back_off_off() -> None:
    """A server that says "at once" with every 429 is still not hammered."""
    account = replace(begun(logged_in(), NOW), failed_attempts=8)
    account = concluded(account, Throttled(detail="429", retry_after=timedelta(0)), NOW)
    assert account.retry_not_before is not None
    assert account.retry_not_before - NOW >= timedelta(seconds=20)


def test_a_promise_is_never_more_than_a_fresh_token_has() -> None:
    """A ``min_ttl`` of an hour does not have every caller refresh a token of half an hour."""
    policy = Policy(min_ttl=timedelta(hours=1))
    assert isinstance(
        next_step(logged_in(), NOW, policy, min_life=promised_ttl(logged_in(), policy)), Idle
    )


# ------------------------------------------------------------------------------------------------- merging


def ended(account: Account, at: datetime, *, forget: bool = False) -> Account:
    return after_revoked(after_end(account, forget=forget, now=at))


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="first_spent_at=min(uses, default=None)",
    new="first_spent_at=max(uses, default=None)",
    protects_from="a grace period that seems to begin anew when two records are merged",
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="fallbacks=_fallbacks_of_both(first, second),",
    new="fallbacks=tuple(_known_to_both(token, second) for token in first.fallbacks),",
    protects_from="a token that only one of the two versions holds",
)
def test_tokens_of_one_consent_are_united() -> None:
    """Theirs stays current, ours joins; of a token that both know, the earliest spending and any refusal count."""
    theirs = concluded(begun(logged_in(), NOW), issued("theirs"), NOW)
    mine = concluded(begun(logged_in(), NOW - MINUTE), issued("mine", life=timedelta(hours=2)), NOW)
    both = merged(theirs, mine)
    assert current(both).value.reveal() == "theirs"
    assert {r.value.reveal(): r.first_spent_at for r in both.fallbacks} == {
        "mine": None,
        "r0": NOW - MINUTE,
    }
    assert both.access == mine.access


def test_united_tokens_keep_their_order() -> None:
    """Whatever joins a record stays in the order of its own: the one that was spent last is tried first."""
    ours = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    ours = concluded(begun(ours, NOW + MINUTE), issued("r2"), NOW + MINUTE)
    sibling = concluded(begun(logged_in(), NOW), issued("sibling"), NOW)
    both = merged(sibling, ours)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == [
        "sibling",
        "r2",
        "r1",
        "r0",
    ]


def test_who_has_gone_on_from_the_others_token_stays_in_front() -> None:
    """Whichever record the two are united in: a token being asked for again is not tried before its answer."""
    older = replace(
        concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW), tenant_id="chosen"
    )
    newer = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    for both in (merged(older, newer), merged(newer, older)):
        assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r1", "r0"]
        assert both.intent is not None
    assert merged(older, newer).tenant_id == "chosen"
    gone = newer
    for number in range(2, 5):
        at = NOW + number * HALF_HOUR
        gone = concluded(begun(gone, at), issued(f"r{number}"), at)
    both = merged(
        replace(older, fallbacks=(RefreshToken(value=Secret("r1"), obtained_at=NOW),)), gone
    )
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r4", "r3", "r0"]
    assert set(both.tombstones) == {Secret(value).fingerprint for value in ("r1", "r2")}


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="    joining = [t for t in joining if not _was_tombstoned(t, first)]\n",
    new="",
    protects_from="an old dump's token that seems unspent, and was spent long ago",
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=" for t in first.fallbacks if not _was_tombstoned(t, second)]",
    new=" for t in first.fallbacks]",
    protects_from=(
        "an old dump's spent token that seems unspent, where ours is merged into the dump's record"
    ),
)
def test_what_was_dropped_does_not_come_back_from_an_old_dump() -> None:
    """It seems unspent there, and may be the newest by a wrong clock; one that is only unknown here joins."""
    dump = with_rival(logged_in(), RefreshToken(value=Secret("sibling"), obtained_at=NOW))
    dump = replace(dump, current=replace(current(dump), obtained_at=NOW + timedelta(days=1)))
    ours, at = replace(dump, fallbacks=()), NOW
    for number in range(1, 4):
        at += timedelta(minutes=31)
        ours = concluded(begun(ours, at), issued(f"r{number}"), at)
    assert ours.tombstones == tuple(Secret(value).fingerprint for value in ("r1", "r0"))
    both = merged(ours, dump)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r3", "sibling", "r2"]
    still = with_rival(
        replace(dump, current=RefreshToken(value=Secret("y"), obtained_at=NOW)), current(dump)
    )
    both = merged(still, ours)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == [
        "y",
        "r3",
        "r2",
        "sibling",
    ]


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="united = united.with_tombstones(other.tombstones)",
    new="pass",
    protects_from=(
        "a merged record that seems to have diverged, since it lacks the tombstones of "
        "one of the two"
    ),
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("if not is_same_consent(theirs, ours) or tombstones_since > len(theirs.tombstones):"),
    new="if not is_same_consent(theirs, ours):",
    protects_from="a descendant that seems to have diverged, since its older tombstones are gone",
)
def test_a_record_that_goes_on_from_ours_is_told_by_the_tokens_it_has_dropped() -> None:
    """Whatever the clocks said; as far back as it remembers, and beyond that it is taken to be one."""
    ours, at = concluded(begun(logged_in(), NOW), issued("r1"), NOW), NOW
    theirs = ours
    for number in range(2, 2 * MAX_TOMBSTONES):
        at += timedelta(minutes=31)
        theirs = concluded(begun(theirs, at), issued(f"r{number}"), at)
        assert len(theirs.tombstones) == min(number - 1, MAX_TOMBSTONES)
        assert theirs.tombstones_ever == number - 1
        assert not diverged(theirs, ours)
    other = concluded(begun(logged_in(), NOW), issued("other"), NOW)
    assert diverged(other, ours)
    assert diverged(ours, other)
    refused = concluded(begun(ours, NOW), Refused(detail="invalid_grant"), NOW)
    assert not diverged(
        replace(refused, current=refused.fallbacks[0]), refused
    )  # what Xero refused is not missed
    assert diverged(replace(refused, fallbacks=()), refused)  # but what it may still take
    for _ in range(2):
        assert (
            merged(ours, theirs).tombstones_ever
            == merged(theirs, ours).tombstones_ever
            == theirs.tombstones_ever
        )
    both = merged(other, theirs)
    assert not diverged(both, theirs)
    assert not diverged(both, other)
    dump = replace(ours, current=RefreshToken(value=Secret("r150"), obtained_at=at))
    assert "r150" not in values(
        merged(both, dump)
    )  # the one that was united remembers what either has dropped


def test_a_token_that_is_held_again_is_not_remembered_as_dropped() -> None:
    """A spent one that another record still holds joins again, and may be dropped again."""
    ours, at = logged_in(), NOW
    for number in range(1, 4):
        at += HALF_HOUR
        ours = concluded(begun(ours, at), issued(f"r{number}"), at)
    older = begun(logged_in(), NOW + HALF_HOUR)
    assert ours.tombstones == tuple(Secret(value).fingerprint for value in ("r1", "r0"))
    both = merged(ours, older)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r3", "r2", "r0"]
    assert both.tombstones == (Secret("r1").fingerprint,)
    assert concluded(begun(both, at), issued("r4"), at).tombstones_ever == ours.tombstones_ever + 1


@pytest.mark.parametrize(
    "outcome", [NotSent(detail="no route"), Throttled(detail="429"), Refused(detail="no")]
)
def test_a_doubt_is_open_again_when_the_token_after_it_came_to_nothing(outcome: Outcome) -> None:
    """Who slept and then sent may have killed it; that it was not spent itself is known."""
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
    file="lifecycle/merging.py",
    old="winner, loser = (other, base) if other.epoch > base.epoch else (base, other)",
    new="winner, loser = base, other",
    protects_from="an old login that takes the place of a new one",
)
def test_the_newest_consent_wins_a_merge() -> None:
    """Whoever holds it, and whatever the generations say."""
    old, new = logged_in(), replace(logged_in(NOW + MINUTE), consent_id="c2")
    assert merged(old, new) == new
    assert merged(new, old) == new


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="is_end = end.consent_id is None and login.consent_id is not None",
    new="is_end = False",
    protects_from="a logout that another process's refresh undoes",
)
def test_an_end_wins_over_the_login_before_it_and_loses_to_the_one_after() -> None:
    """A logout that could not be written is not undone by another process's refresh; a new login is not by it."""
    login, later = logged_in(), replace(logged_in(NOW + 2 * MINUTE), consent_id="c2")
    end = after_end(login, forget=False, now=NOW + MINUTE)
    refreshed = concluded(begun(login, NOW), issued("late"), NOW)
    for mine, theirs in ((end, refreshed), (refreshed, end)):
        after_both = merged(mine, theirs)
        assert after_both.consent_id is None
        assert after_both.revocation == "revoke"
        assert "late" in {t.value.reveal() for t in tokens_to_revoke(after_both)}
        assert good_for(after_both, NOW) == timedelta(0)
    assert merged(end, later) == later


def test_a_late_token_of_a_forgotten_login_is_revoked_with_its_own_credentials() -> None:
    """The record that forgot them gets them back for just as long as the revocation takes."""
    login = logged_in()
    late = concluded(begun(login, NOW), issued("late"), NOW)
    both = merged(late, ended(login, NOW + MINUTE, forget=True))
    assert (both.client_id, both.revocation) == ("client", "forget")
    assert "late" in {t.value.reveal() for t in tokens_to_revoke(both)}
    assert after_revoked(both).client_id is None


def test_an_empty_store_takes_what_memory_knows() -> None:
    """A record that is gone is the oldest of all."""
    assert merged(logged_in(), Account()) == logged_in()


def test_a_revoke_after_a_logout_that_waits_still_forgets() -> None:
    """The credentials go once Xero can be told."""
    account = after_end(logged_in(), forget=True, now=NOW)
    account = after_end(account, forget=False, now=NOW + MINUTE)
    assert after_revoked(account).client_id is None


def test_a_login_starts_clean_but_keeps_the_generation() -> None:
    """A new consent replaces all there was, and the generations go on rising."""
    account = logged_in()
    assert (account.generation, account.consent_id, account.fallbacks, account.failed_attempts) == (
        7,
        "c1",
        (),
        0,
    )
    assert state_of(account, NOW, POLICY) is State.CONNECTED


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
def test_without_a_refusal_no_history_loses_the_last_token(
    history: list[tuple[object, float, int]],
) -> None:
    """Whatever happens short of ``invalid_grant``, the newest issued token is current and nothing is condemned."""
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
        account = after(account, outcome, now=now, policy=POLICY, jitter=jitter)  # type: ignore[arg-type]
        assert current(account).value.reveal() == f"r{count}"
        assert state_of(account, now, POLICY) is not State.CONSENT_LOST


def test_the_access_token_type_has_a_life() -> None:
    """``lifetime`` is from issue to expiry."""
    token = AccessToken(value=Secret("a"), issued_at=NOW, expires_at=NOW + MINUTE)
    assert token.lifetime == MINUTE


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
    old=(
        "    if token is account.current:\n"
        "        return _rank_of_current(account, token, now, policy)\n"
    ),
    new="",
    protects_from=(
        "giving a login up after an outage longer than the grace period, or after a clock was set"
    ),
)
def test_a_current_token_that_was_spent_long_ago_is_tried_also_without_an_intent() -> None:
    """Another process may have told of its spending, or a replay have brought it: only Xero's word condemns it."""
    account = logged_in()
    account = replace(account, current=replace(current(account), first_spent_at=NOW))
    assert state_of(account, NOW + timedelta(hours=2), POLICY) is State.CONNECTED
    assert [t.value.reveal() for t in candidates(account, NOW + timedelta(hours=2), POLICY)] == [
        "r0"
    ]


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="is_last_hope = token in (account.spending, _last_resort(account))",
    new="is_last_hope = token == _last_resort(account)",
    protects_from=(
        "an outage longer than the grace period, or a clock that was set, where the "
        "last candidate is a fallback"
    ),
)
def test_an_older_rival_whose_answer_is_open_is_not_condemned_by_the_clock() -> None:
    """Xero refused the two newer ones, and was down for longer than the grace while this one was tried."""
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


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="is_last_hope = token in (account.spending, _last_resort(account))",
    new="is_last_hope = token == account.spending",
    protects_from=(
        "an outage longer than the grace period, or a clock that was set: a "
        "predecessor that seems spent too long ago"
    ),
)
def test_the_predecessor_of_a_refused_token_is_the_last_hope_whatever_the_clock_says() -> None:
    """It seems spent long ago, but a clock may have stepped, and there is nothing else left to lose."""
    at, later = NOW + 25 * MINUTE, NOW + timedelta(hours=3)
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = concluded(begun(account, later), Refused(detail="invalid_grant"), later)
    assert [t.value.reveal() for t in candidates(account, later, POLICY)] == ["r0"]


@pytest.mark.safeguard(
    file="lifecycle/schedule.py",
    old="return Rank.OUTDATED if _is_outdated(account, token, policy) else Rank.UNSPENT",
    new="return Rank.UNSPENT",
    protects_from="late reuse, for which a server may end the whole chain",
)
def test_an_unspent_token_of_an_old_dump_is_tried_last() -> None:
    """It is older than the current one by the grace, so it was spent long ago: late reuse may end the whole chain."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    account = with_rival(account, RefreshToken(value=Secret("x"), obtained_at=NOW - 10 * MINUTE))
    account = replace(account, current=replace(current(account), first_spent_at=at))
    assert [t.value.reveal() for t in candidates(account, at + HALF_HOUR, POLICY)] == ["r1", "x"]


@pytest.mark.parametrize(
    ("older_by", "order"),
    [
        (POLICY.grace, ["r1", "r0", "x"]),
        (POLICY.grace - timedelta(microseconds=1), ["r1", "x", "r0"]),
    ],
)
def test_an_unspent_fallback_is_outdated_from_the_grace_on(
    older_by: timedelta, order: list[str]
) -> None:
    """Before that it is tried ahead of the spent ones."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    fallback = RefreshToken(value=Secret("x"), obtained_at=at - older_by)
    account = replace(account, fallbacks=(*account.fallbacks, fallback))
    assert [t.value.reveal() for t in candidates(account, at, POLICY)] == order


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="if is_first or has_rotated:",
    new="if is_first:",
    protects_from="taking a spent token for fresh, since two responses lost theirs",
)
def test_a_server_that_has_rotated_is_asked_for_a_refresh_token_through_the_whole_grace() -> None:
    """Its answers lose them on the way; before the grace is over, the spent token is never taken for fresh."""
    at = NOW + 25 * MINUTE
    account = concluded(begun(logged_in(), at), issued("r1"), at)
    for minutes in range(0, 30, 5):
        account = concluded(
            begun(account, at + minutes * MINUTE), issued(None), at + minutes * MINUTE
        )
        assert account.intent is not None
        assert current(account).first_spent_at == at


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="intent=base.intent or other.intent,",
    new="intent=base.intent,",
    protects_from=(
        "a late request that invalidated the tokens of the other processes, and that "
        "no record shows"
    ),
)
def test_an_open_intent_survives_a_merge() -> None:
    """Who slept and then sent may have killed what the others got: a refresh is due, and shows it."""
    account = merged(logged_in(), begun(logged_in(), NOW))
    assert account.intent is not None
    assert isinstance(next_step(account, NOW + MINUTE, POLICY), Spend)


def test_the_state_tells_whether_a_login_was_ended_or_never_made() -> None:
    """Both have credentials and no login."""
    account = Account(client_id="client", client_secret=Secret("secret"))
    assert state_of(account, NOW, POLICY) is State.NOT_LOGGED_IN
    assert state_of(replace(account, ended_at=NOW), NOW, POLICY) is State.REVOKED


def test_a_token_that_lives_as_long_as_xeros_keeps_the_whole_promise() -> None:
    """Promises shrink with tokens that live shorter than 30 minutes only."""
    policy = Policy(min_ttl=20 * MINUTE)
    assert promised_ttl(logged_in(), policy) == 20 * MINUTE
    shorter = logged_in(life=HALF_HOUR - timedelta(seconds=1))
    assert promised_ttl(shorter, policy) < 8 * MINUTE
