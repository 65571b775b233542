"""What every outcome, a login and its end make of the record."""

from __future__ import annotations

from datetime import datetime, timedelta

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
    with_rival,
)

from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.outcomes import ClientRefused, NotSent, Outcome, Refused, Throttled, Unknown
from xots.lifecycle.schedule import Spend, State, good_for, next_step, state_of
from xots.lifecycle.transitions import (
    after,
    after_end,
    after_login,
    after_revocation_failed,
    after_revoked,
    begin_refresh,
)
from xots.secret import Secret

# ---------- tokens were issued


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


def test_success_with_a_rival_makes_its_successor_current() -> None:
    """When the current token is refused and a rival is taken, the refused one leaves the record."""
    account = with_rival(logged_in(), RefreshToken(value=Secret("x"), obtained_at=NOW))
    account = concluded(begun(account, NOW), Refused(detail="invalid_grant"), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("x1"), NOW + MINUTE)
    assert current(account).value.reveal() == "x1"
    assert [r.value.reveal() for r in account.fallbacks] == ["x"]
    assert state_of(account, NOW, POLICY) is State.CONNECTED


def test_a_server_that_answers_with_the_same_token_does_not_rotate() -> None:
    """The same refresh token again is fresh, not its own rival."""
    account = concluded(begun(logged_in(), NOW), issued("r0"), NOW + MINUTE)
    assert (current(account).value.reveal(), account.fallbacks) == ("r0", ())
    assert current(account).first_spent_at is None


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


# ---------- the access token's lifetime


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


# ---------- a response without a refresh token


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


def test_a_refresh_token_that_comes_at_the_second_asking_is_taken() -> None:
    """An answer that lost its refresh token on the way costs one retry and nothing else."""
    account = concluded(begun(logged_in(), NOW), issued(None), NOW)
    account = concluded(begun(account, NOW + MINUTE), issued("r1"), NOW + MINUTE)
    assert current(account).value.reveal() == "r1"
    assert account.responses_without_token == 0


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


def test_the_count_of_responses_without_token_is_that_of_one_refresh() -> None:
    """A token that Xero refuses takes its own count along."""
    fallback = RefreshToken(value=Secret("x"), obtained_at=NOW)
    account = replace(logged_in(), fallbacks=(fallback,))
    account = attempted(account, issued(None), 25)
    assert account.responses_without_token == 1
    account = attempted(account, Refused(detail="invalid_grant"), 26)
    assert account.responses_without_token == 0


# ---------- failures


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


# ---------- waits


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


# ---------- a login and its end


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


def test_a_login_keeps_the_scopes_of_the_settings() -> None:
    """A later start compares them."""
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


def test_a_revoke_after_a_logout_that_waits_still_forgets() -> None:
    """The credentials go once Xero can be told."""
    account = after_end(logged_in(), forget=True, now=NOW)
    account = after_end(account, forget=False, now=NOW + MINUTE)
    assert after_revoked(account).client_id is None


def test_a_revocation_waits_as_long_as_a_429_demands() -> None:
    """As a refresh does."""
    now = NOW
    ended = after_end(logged_in(), forget=False, now=now)
    demanded = Throttled(detail="429", retry_after=10 * MINUTE)
    waiting = after_revocation_failed(ended, demanded, now=now, policy=POLICY, jitter=0.0)
    assert waiting.retry_not_before == now + 10 * MINUTE
    plain = Throttled(detail="429")
    waiting = after_revocation_failed(ended, plain, now=now, policy=POLICY, jitter=0.5)
    assert waiting.retry_not_before == now + POLICY.first_backoff * 0.5
