"""The whole record after each event of a login's life: every field, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from xots.lifecycle.account import (
    AccessToken,
    Account,
    Entry,
    Intent,
    LoginState,
    Notice,
    Organisation,
    Problem,
    ProblemKind,
    RefreshNote,
    RefreshToken,
    Revocation,
)
from xots.lifecycle.logins import (
    after_added,
    after_end,
    after_login,
    after_removed,
    after_revocation_failed,
    after_revoked,
)
from xots.lifecycle.merging import merged
from xots.lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.policy import Policy
from xots.lifecycle.transitions import after, begin_refresh
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
POLICY = Policy()

ACCESS = AccessToken(value=Secret("a0"), issued_at=NOW, expires_at=NOW + 30 * MINUTE)
R0 = RefreshToken(value=Secret("r0"), obtained_at=NOW)
OLD = RefreshToken(
    value=Secret("old"), obtained_at=NOW - 60 * MINUTE, first_spent_at=NOW - 31 * MINUTE
)
RECENT = RefreshToken(
    value=Secret("recent"), obtained_at=NOW - 20 * MINUTE, first_spent_at=NOW - MINUTE
)
FRESH = RefreshToken(value=Secret("fresh"), obtained_at=NOW - 9 * MINUTE)
PROBLEM = Problem(kind=ProblemKind.UNKNOWN, detail="reset", at=NOW - MINUTE)

NOTE = RefreshNote(at=NOW - 25 * MINUTE, by="h:0", ok=True)

LOGIN = Account(
    generation=5,
    write_id="w",
    client_id="client",
    client_secret=Secret("s"),
    token_url="https://id.example/token",
    tenant_id="tenant",
    consent_id="c",
    consented_at=NOW - 90 * MINUTE,
    ended_at=NOW - 99 * MINUTE,
    scopes_requested=("a",),
    scopes_granted=("a", "b"),
    scopes_configured=("z",),
    access=ACCESS,
    current=R0,
    fallbacks=(FRESH, RECENT, OLD),
    tombstones=("t1",),
    tombstones_ever=4,
    retry_not_before=NOW + MINUTE,
    failed_attempts=2,
    responses_without_token=1,
    problem=PROBLEM,
    refreshed_at=NOW - 25 * MINUTE,
    refreshed_by="h:0",
    xero_userid="user",
    auth_event_id="event",
    organisations=(Organisation(tenant_id="tenant", name="Demo"),),
    listed_at=NOW - 80 * MINUTE,
    entry=Entry(client_id="client", added_at=NOW - 100 * MINUTE),
    refreshes=(NOTE,),
    login_states=(LoginState(digest="0" * 64, at=NOW - 90 * MINUTE),),
    notices=(Notice(kind="k", key="c", at=NOW),),
)
AT = NOW + 2 * MINUTE
SPENT = replace(R0, first_spent_at=AT)
INTENT = Intent(by="h:1", began_at=AT, fingerprint=R0.fingerprint, set_first_spent=True)
BEGUN = replace(LOGIN, current=SPENT, intent=INTENT)


def test_the_start_of_a_refresh_changes_the_token_and_nothing_else() -> None:
    """It sets the first-spent time. A retry keeps that time, and the intent records that. The
    earlier request may still be in flight."""
    assert begin_refresh(LOGIN, R0, by="h:1", now=AT) == BEGUN
    again = begin_refresh(BEGUN, SPENT, by="h:2", now=AT + MINUTE)
    retry = replace(INTENT, by="h:2", began_at=AT + MINUTE, set_first_spent=False)
    in_flight = replace(SPENT, may_be_in_flight=True)
    assert again == replace(BEGUN, current=in_flight, intent=retry)
    other = begin_refresh(BEGUN, FRESH, by="h:2", now=AT + MINUTE)
    assert other == replace(
        BEGUN,
        current=in_flight,
        fallbacks=(replace(FRESH, first_spent_at=AT + MINUTE), RECENT, OLD),
        intent=Intent(
            by="h:2",
            began_at=AT + MINUTE,
            fingerprint=FRESH.fingerprint,
            set_first_spent=True,
            also_open=R0.fingerprint,
        ),
    )


def test_a_response_with_tokens_replaces_access_token_and_current_token() -> None:
    """Fallbacks that the refresh made needless leave tombstones, and the problem is cleared."""
    issued = Issued(
        access_token=Secret("a1"),
        token_type="MAC",
        lifetime=10 * MINUTE,
        refresh_token=Secret("r1"),
        scopes=("a", "c"),
    )
    found = after(BEGUN, issued, now=AT + SECOND, policy=POLICY, jitter=0.5)
    assert found == replace(
        LOGIN,
        scopes_granted=("a", "c"),
        access=AccessToken(
            value=Secret("a1"), token_type="MAC", issued_at=AT, expires_at=AT + 10 * MINUTE
        ),
        current=RefreshToken(value=Secret("r1"), obtained_at=AT + SECOND),
        fallbacks=(SPENT, RECENT),
        tombstones=(FRESH.fingerprint, OLD.fingerprint, "t1"),
        tombstones_ever=6,
        retry_not_before=None,
        failed_attempts=0,
        responses_without_token=0,
        problem=None,
        refreshed_at=AT + SECOND,
        refreshed_by="h:1",
        refreshes=(RefreshNote(at=AT + SECOND, by="h:1", ok=True), NOTE),
    )
    silent = Issued(access_token=Secret("a1"), refresh_token=Secret("r1"))
    found = after(BEGUN, silent, now=AT, policy=POLICY, jitter=0.5)
    assert found.scopes_granted == LOGIN.scopes_granted
    assert found.access == AccessToken(value=Secret("a1"), issued_at=AT, expires_at=AT + 5 * MINUTE)


def test_a_response_without_refresh_token_leaves_the_refresh_open() -> None:
    """The access token counts, and the same refresh token is sent again after a short wait."""
    begun = replace(BEGUN, responses_without_token=0)
    issued = Issued(access_token=Secret("a1"), lifetime=10 * MINUTE)
    found = after(begun, issued, now=AT, policy=POLICY, jitter=0.5)
    access = AccessToken(value=Secret("a1"), issued_at=AT, expires_at=AT + 10 * MINUTE)
    assert found == replace(
        begun,
        access=access,
        retry_not_before=AT + SECOND,
        failed_attempts=0,
        responses_without_token=1,
        problem=None,
        refreshed_at=AT,
        refreshed_by="h:1",
        refreshes=(RefreshNote(at=AT, by="h:1", ok=True), NOTE),
    )


def test_a_second_response_without_refresh_token_concludes_the_refresh() -> None:
    """The server does not rotate, so the spent token is fresh again."""
    begun = replace(BEGUN, fallbacks=())
    found = after(begun, Issued(access_token=Secret("a1")), now=AT, policy=POLICY, jitter=0.5)
    assert found == replace(
        LOGIN,
        access=AccessToken(value=Secret("a1"), issued_at=AT, expires_at=AT + 5 * MINUTE),
        current=replace(R0, obtained_at=AT),
        fallbacks=(),
        responses_without_token=0,
        rotates=False,
        retry_not_before=None,
        failed_attempts=0,
        problem=None,
        refreshed_at=AT,
        refreshed_by="h:1",
        refreshes=(RefreshNote(at=AT, by="h:1", ok=True), NOTE),
    )


def test_a_refused_token_is_condemned_and_the_next_one_is_due() -> None:
    """The others stay, and no wait is kept."""
    found = after(BEGUN, Refused(detail="invalid_grant"), now=AT, policy=POLICY, jitter=0.5)
    assert found == replace(
        BEGUN,
        current=replace(SPENT, refused_at=AT),
        intent=None,
        failed_attempts=3,
        responses_without_token=0,
        retry_not_before=None,
        problem=Problem(kind=ProblemKind.REFUSED, detail="invalid_grant", at=AT),
        refreshes=(RefreshNote(at=AT, by="h:1", ok=False, kind=ProblemKind.REFUSED), NOTE),
    )


@pytest.mark.parametrize(
    ("outcome", "kind", "wait", "unspent"),
    [
        (Unknown(detail="d"), ProblemKind.UNKNOWN, 2 * SECOND, False),
        (NotSent(detail="d"), ProblemKind.NOT_SENT, 2 * SECOND, True),
        (Throttled(detail="d"), ProblemKind.THROTTLED, 2 * SECOND, True),
        (
            Throttled(detail="d", retry_after=2 * 60 * MINUTE),
            ProblemKind.THROTTLED,
            60 * MINUTE + 0.5 * SECOND,
            True,
        ),
        (
            ClientRefused(detail="d", code="invalid_client"),
            ProblemKind.CLIENT_REFUSED,
            0.75 * 5 * MINUTE,
            True,
        ),
    ],
)
def test_a_failure_sets_problem_wait_and_count(
    outcome: Outcome, kind: ProblemKind, wait: timedelta, unspent: bool
) -> None:
    """It concludes the refresh only if the outcome proves that the token is unspent."""
    found = after(BEGUN, outcome, now=AT, policy=POLICY, jitter=0.5)
    assert found == replace(
        LOGIN if unspent else BEGUN,
        failed_attempts=3,
        retry_not_before=AT + wait,
        problem=Problem(kind=kind, code=getattr(outcome, "code", None), detail="d", at=AT),
        refreshes=(RefreshNote(at=AT, by="h:1", ok=False, kind=kind), NOTE),
    )


def test_a_failure_reopens_the_refresh_of_the_other_token() -> None:
    """The intent has no first-spent time of its own to clear."""
    begun = begin_refresh(BEGUN, FRESH, by="h:2", now=AT + MINUTE)
    found = after(begun, NotSent(detail="d"), now=AT + MINUTE, policy=POLICY, jitter=0.5)
    assert found.fallbacks == LOGIN.fallbacks
    assert found.intent == Intent(
        by="h:2", began_at=AT + MINUTE, fingerprint=R0.fingerprint, set_first_spent=False
    )


ENDED = replace(
    BEGUN,
    current=replace(SPENT, may_be_in_flight=True),
    consent_id=None,
    ended_at=AT,
    revocation=Revocation.KEEP_CREDENTIALS,
    access=None,
    scopes_granted=(),
    intent=None,
    retry_not_before=None,
    failed_attempts=0,
    problem=None,
)


@pytest.mark.parametrize("forget", [False, True])
def test_an_end_stops_serving_and_keeps_the_tokens_to_revoke(forget: bool) -> None:
    """It notes what happens to the credentials. A second end does not change that back."""
    fate = Revocation.FORGET_CREDENTIALS if forget else Revocation.KEEP_CREDENTIALS
    found = after_end(BEGUN, forget=forget, now=AT)
    assert found == replace(ENDED, revocation=fate)
    assert after_end(found, forget=False, now=AT).revocation is fate


def test_an_end_is_always_newer_than_the_login_before_it() -> None:
    """It is newer by at least a microsecond, whatever the clock shows."""
    early = after_end(LOGIN, forget=False, now=NOW - 200 * MINUTE)
    assert early.ended_at == LOGIN.epoch + timedelta(microseconds=1)


def test_a_revoked_login_leaves_its_credentials_or_nothing() -> None:
    """A forgotten account keeps its generation, the time of its end, its settings and its notes."""
    waiting = replace(ENDED, failed_attempts=3, retry_not_before=AT, problem=PROBLEM)
    assert after_revoked(waiting) == replace(
        ENDED,
        current=None,
        fallbacks=(),
        revocation=None,
        xero_userid=None,
        auth_event_id=None,
        organisations=None,
        listed_at=None,
    )
    forgotten = replace(waiting, revocation=Revocation.FORGET_CREDENTIALS)
    left = Account(
        generation=5,
        write_id="w",
        ended_at=AT,
        entry=LOGIN.entry,
        refreshes=LOGIN.refreshes,
        login_states=LOGIN.login_states,
        notices=LOGIN.notices,
    )
    assert after_revoked(forgotten) == left
    empty = replace(LOGIN, current=None, fallbacks=())
    assert after_end(empty, forget=True, now=AT) == left


def test_a_new_login_keeps_what_belongs_to_the_account() -> None:
    """The user and the organisations are those of the new login; its settings and notes stay."""
    issued = Issued(
        access_token=Secret("b0"),
        lifetime=10 * MINUTE,
        refresh_token=Secret("s0"),
        scopes=("a",),
        xero_userid="another",
        auth_event_id="later",
    )
    known = replace(LOGIN, removed=True)
    login: dict[str, Any] = {
        "consent_id": "d",
        "client_id": "client",
        "client_secret": None,
        "token_url": "https://id.example/token",
        "tenant_id": "t",
        "scopes_requested": ("a",),
    }
    listed = (Organisation(tenant_id="t"),)
    found = after_login(known, issued, **login, organisations=listed, began_at=AT)
    assert found == Account(
        **login,
        generation=5,
        write_id="w",
        consented_at=AT,
        ended_at=LOGIN.ended_at,
        scopes_granted=("a",),
        access=AccessToken(value=Secret("b0"), issued_at=AT, expires_at=AT + 10 * MINUTE),
        current=RefreshToken(value=Secret("s0"), obtained_at=AT),
        refreshed_at=AT,
        xero_userid="another",
        auth_event_id="later",
        organisations=listed,
        listed_at=AT,
        removed=True,
        entry=LOGIN.entry,
        refreshes=LOGIN.refreshes,
        login_states=LOGIN.login_states,
        notices=LOGIN.notices,
    )
    unlisted = after_login(known, issued, **login, began_at=AT)
    assert (unlisted.organisations, unlisted.listed_at) == (None, None)


@pytest.mark.parametrize("revoked", [False, True])
def test_a_removal_forgets_the_settings_and_an_addition_continues_the_record(revoked: bool) -> None:
    """The login is ended. Its revocation continues even if the account is added meanwhile."""
    removed = after_removed(LOGIN, now=AT)
    assert removed == replace(
        after_end(LOGIN, forget=True, now=AT), removed=True, entry=Entry(added_at=AT)
    )
    removed = after_revoked(removed) if revoked else removed
    entry = Entry(client_id="new", added_at=AT - MINUTE)
    dated = replace(entry, added_at=AT + timedelta(microseconds=1))
    added = after_added(removed, entry)
    assert added == replace(removed, removed=False, entry=dated)
    assert (added.generation, added.refreshes) == (5, (NOTE,))
    assert after_revoked(added).entry == dated
    assert after_added(Account(), entry) == Account(entry=entry)


def test_a_refresh_tells_the_user_of_a_record_that_did_not_know() -> None:
    """The record was written in format 3. A known user is never replaced."""
    issued = Issued(
        access_token=Secret("a1"),
        refresh_token=Secret("r1"),
        xero_userid="claimed",
        auth_event_id="at-claimed",
    )
    unknown = replace(BEGUN, xero_userid=None, auth_event_id=None)
    for begun, expected in ((unknown, ("claimed", "at-claimed")), (BEGUN, ("user", "event"))):
        found = after(begun, issued, now=AT, policy=POLICY, jitter=0.5)
        assert (found.xero_userid, found.auth_event_id) == expected


def test_the_history_keeps_the_last_outcomes() -> None:
    """A process that fails for a day does not make the record larger."""
    account = BEGUN
    for second in range(30):
        at = AT + second * SECOND
        account = after(account, Unknown(detail="d"), now=at, policy=POLICY, jitter=0.5)
    assert [note.at for note in account.refreshes] == [
        AT + second * SECOND for second in range(29, 9, -1)
    ]


@pytest.mark.parametrize(
    ("failure", "wait"),
    [
        (Unknown(detail="d"), 2 * SECOND),
        (ClientRefused(detail="d", code="invalid_client"), 0.75 * 5 * MINUTE),
        (Throttled(detail="d", retry_after=3 * MINUTE), 3 * MINUTE + 0.5 * SECOND),
        (Throttled(detail="d"), 2 * SECOND),
    ],
)
def test_a_failed_revocation_keeps_the_tokens_to_revoke(failure: Failure, wait: timedelta) -> None:
    """It is retried after a wait that fits the failure."""
    pending = replace(ENDED, failed_attempts=2)
    found = after_revocation_failed(pending, failure, now=AT, policy=POLICY, jitter=0.5)
    assert found == replace(
        pending,
        failed_attempts=3,
        retry_not_before=AT + wait,
        problem=Problem(
            kind=ProblemKind.REVOCATION, code=getattr(failure, "code", None), detail="d", at=AT
        ),
    )


def test_a_merge_changes_only_the_tokens_of_the_first_version() -> None:
    """Tokens, tombstones, the access token and the intent come from both versions."""
    longer = replace(ACCESS, value=Secret("a9"), expires_at=ACCESS.expires_at + MINUTE)
    newer = RefreshToken(value=Secret("r9"), obtained_at=AT)
    other = replace(
        BEGUN,
        generation=9,
        write_id="x",
        tenant_id="another",
        access=longer,
        current=newer,
        fallbacks=(SPENT,),
        tombstones=("t2",),
        tombstones_ever=9,
        failed_attempts=0,
        problem=None,
        retry_not_before=None,
    )
    assert merged(LOGIN, other) == replace(
        LOGIN,
        access=longer,
        current=newer,
        fallbacks=(FRESH, RECENT, OLD, SPENT),
        tombstones=("t2", "t1"),
        tombstones_ever=9,
        intent=INTENT,
    )


@pytest.mark.parametrize("forget", [False, True])
def test_a_late_token_of_an_ended_login_is_revoked_with_its_own_credentials(forget: bool) -> None:
    """The end keeps its time, and its decision about the credentials."""
    end = after_revoked(after_end(LOGIN, forget=forget, now=AT))
    found = merged(end, LOGIN)
    fate = Revocation.FORGET_CREDENTIALS if forget else Revocation.KEEP_CREDENTIALS
    assert found == replace(
        LOGIN,
        consent_id=None,
        ended_at=AT,
        revocation=fate,
        access=None,
        scopes_granted=(),
        retry_not_before=None,
        failed_attempts=0,
        problem=None,
    )


def test_a_fallback_that_may_be_live_stays_beside_a_current_token_without_rotation() -> None:
    """It arrived after the first request with the current token. An earlier one leaves."""
    long_ago = AT - POLICY.grace - MINUTE
    before = replace(FRESH, obtained_at=long_ago - MINUTE)
    late = RefreshToken(value=Secret("late"), obtained_at=long_ago + MINUTE)
    spent = replace(R0, first_spent_at=long_ago)
    begun = replace(BEGUN, current=spent, fallbacks=(before, late))
    found = after(begun, Issued(access_token=Secret("a1")), now=AT, policy=POLICY, jitter=0.5)
    assert found.fallbacks == (late,)
    assert found.intent is None
