"""The outlook of a login: the open operation, its next attempt, and the time of the next login."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support import accounts

from xots.advice import XERO
from xots.lifecycle.account import Account, ProblemKind, RefreshToken
from xots.lifecycle.candidates import candidates
from xots.lifecycle.logins import after_end, after_login, after_revocation_failed, after_revoked
from xots.lifecycle.outcomes import (
    ClientRefused,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.outlook import Need, Retrying, outlook, why_lost
from xots.lifecycle.policy import Policy
from xots.lifecycle.transitions import after, begin_refresh
from xots.secret import Secret
from xots.wording import problem_text

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy()
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
DUE = NOW + 25 * MINUTE
"""When the first refresh of the table's login is due."""
HALF_A_SECOND = timedelta(seconds=0.5)


def issued(token: str | None) -> Issued:
    successor = None if token is None else Secret(token)
    return Issued(
        access_token=Secret(f"access-{token}"), lifetime=30 * MINUTE, refresh_token=successor
    )


def logged_in() -> Account:
    return after_login(
        Account(),
        issued("r0"),
        consent_id="c1",
        client_id="client",
        client_secret=None,
        token_url="https://id.example/token",
        tenant_id=None,
        scopes_requested=("offline_access",),
        began_at=NOW,
    )


def started(account: Account, at: datetime) -> Account:
    token = candidates(account, at, POLICY)[0]
    return begin_refresh(account, token, by="host:1", now=at)


def attempted(account: Account, outcome: Outcome, at: datetime) -> Account:
    """Return the record after an attempt with this outcome."""
    return after(started(account, at), outcome, now=at, policy=POLICY, jitter=0.5)


def with_fallback(account: Account, **changes: Any) -> Account:
    fallback = RefreshToken(value=Secret("fallback"), obtained_at=DUE, **changes)
    return replace(account, fallbacks=(fallback, *account.fallbacks))


LOGGED_IN = logged_in()
LOST = attempted(LOGGED_IN, Unknown(detail="reset"), DUE)
ENDED = after_end(LOGGED_IN, forget=False, now=NOW)
SIXTY_DAYS = NOW + 60 * DAY
GRACE_ENDS = DUE + 30 * MINUTE
LATER = DUE + MINUTE
# A record, the time, and the outlook: the open operation, its next attempt, the end of the grace
# period, and the time and reason of the next login.
TABLE: dict[str, tuple[Account, datetime, tuple[Any, ...]]] = {
    "no credentials": (Account(), NOW, (None, None, None, NOW, Need.NO_LOGIN)),
    "revoked": (after_revoked(ENDED), NOW, (None, None, None, NOW, Need.NO_LOGIN)),
    "ended, and the revocation is due": (
        ENDED,
        NOW,
        (Retrying.REVOCATION, NOW, None, NOW, Need.NO_LOGIN),
    ),
    "ended, and the revocation failed": (
        after_revocation_failed(ENDED, NotSent(detail="down"), now=NOW, policy=POLICY, jitter=0.5),
        NOW,
        (Retrying.REVOCATION, NOW + HALF_A_SECOND, None, NOW, Need.NO_LOGIN),
    ),
    "no failure": (LOGGED_IN, NOW, (None, DUE, None, SIXTY_DAYS, Need.TOKEN_DIES)),
    "a refresh is due": (LOGGED_IN, LATER, (None, LATER, None, SIXTY_DAYS, Need.TOKEN_DIES)),
    "no failure any more": (
        attempted(LOST, issued("r1"), LATER),
        LATER,
        (None, DUE + 25 * MINUTE, None, LATER + 60 * DAY, Need.TOKEN_DIES),
    ),
    "a refresh is in progress, or was cut off": (
        started(LOGGED_IN, DUE),
        LATER,
        (Retrying.UNDER_WAY, LATER, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "a refresh is in progress after one that was not sent": (
        started(attempted(LOGGED_IN, NotSent(detail="down"), DUE), LATER),
        LATER,
        (Retrying.UNDER_WAY, LATER, GRACE_ENDS + MINUTE, GRACE_ENDS + MINUTE, Need.GRACE_ENDS),
    ),
    "the response was lost": (
        LOST,
        DUE,
        (Retrying.LOST_RESPONSE, DUE + HALF_A_SECOND, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "the response was lost, and the next attempt is in progress": (
        started(LOST, LATER),
        LATER,
        (Retrying.LOST_RESPONSE, LATER, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "the response was lost, and then Xero could not be reached": (
        attempted(LOST, NotSent(detail="down"), LATER),
        LATER,
        (
            Retrying.LOST_RESPONSE,
            LATER + timedelta(seconds=1),
            GRACE_ENDS,
            GRACE_ENDS,
            Need.GRACE_ENDS,
        ),
    ),
    "the response was lost, and the grace period is over": (
        LOST,
        GRACE_ENDS + MINUTE,
        (
            Retrying.LOST_RESPONSE,
            GRACE_ENDS + MINUTE,
            GRACE_ENDS,
            GRACE_ENDS + MINUTE,
            Need.GRACE_ENDS,
        ),
    ),
    "the response was lost, and another token was never spent": (
        with_fallback(LOST),
        LATER,
        (Retrying.LOST_RESPONSE, LATER, GRACE_ENDS, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "the response held no refresh token": (
        attempted(LOGGED_IN, issued(None), DUE),
        DUE,
        (
            Retrying.MISSING_TOKEN,
            DUE + timedelta(seconds=1),
            GRACE_ENDS,
            GRACE_ENDS,
            Need.GRACE_ENDS,
        ),
    ),
    "the request was not sent": (
        attempted(LOGGED_IN, NotSent(detail="down"), DUE),
        DUE,
        (Retrying.REFRESH, DUE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "throttled": (
        attempted(LOGGED_IN, Throttled(detail="429", retry_after=10 * MINUTE), DUE),
        DUE,
        (Retrying.REFRESH, DUE + 10 * MINUTE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "throttled when it was not due yet": (
        attempted(LOGGED_IN, Throttled(detail="429", retry_after=60 * MINUTE), NOW),
        NOW,
        (Retrying.REFRESH, NOW + 60 * MINUTE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "the client was refused": (
        attempted(LOGGED_IN, ClientRefused(detail="invalid_client", code="invalid_client"), DUE),
        DUE,
        (Retrying.REFRESH, DUE + 0.75 * POLICY.slow_wait, None, DUE, Need.CLIENT_REFUSED),
    ),
    "Xero refused one token of two": (
        attempted(with_fallback(LOGGED_IN), Refused(detail="invalid_grant"), DUE),
        DUE,
        (Retrying.REFRESH, DUE, None, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "the access token had expired at its issue": (
        attempted(LOGGED_IN, replace(issued("r1"), lifetime=timedelta(0)), DUE),
        DUE,
        (Retrying.REFRESH, DUE + 0.75 * POLICY.slow_wait, None, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "a fallback is to be proved": (
        with_fallback(attempted(LOGGED_IN, issued("r1"), DUE)),
        LATER,
        (Retrying.PROOF, DUE + POLICY.proving_wait, None, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "Xero refused every token": (
        attempted(LOGGED_IN, Refused(detail="invalid_grant"), DUE),
        LATER,
        (None, None, None, LATER, Need.CONSENT_LOST),
    ),
    "the token lay unused beyond its lifetime": (
        LOGGED_IN,
        SIXTY_DAYS + DAY,
        (None, SIXTY_DAYS + DAY, None, SIXTY_DAYS + DAY, Need.TOKEN_DIES),
    ),
    "the clock was set back": (
        LOGGED_IN,
        NOW - DAY,
        (None, NOW - DAY, None, SIXTY_DAYS - DAY, Need.TOKEN_DIES),
    ),
    "the clock was set back after a response was lost": (
        LOST,
        DUE - DAY,
        (Retrying.LOST_RESPONSE, DUE - DAY, GRACE_ENDS - DAY, GRACE_ENDS - DAY, Need.GRACE_ENDS),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_outlook_is_as_the_table_says(name: str) -> None:
    """The open operation, its next attempt, the end of the grace period and the next login."""
    account, now, expected = TABLE[name]
    seen = outlook(account, now, POLICY)
    found = (
        seen.retrying,
        seen.next_attempt_at,
        seen.grace_ends_at,
        seen.login_needed_at,
        seen.attention_for,
    )
    assert found == expected


def test_an_unsaved_successor_leaves_the_spent_token_to_the_next_process() -> None:
    """If this process ends, the store still holds the spent token, for the grace period."""
    account = attempted(LOGGED_IN, issued("r1"), DUE)
    assert outlook(account, LATER, POLICY, unsaved=True).grace_ends_at == GRACE_ENDS
    assert outlook(account, LATER, POLICY).grace_ends_at is None
    assert outlook(LOGGED_IN, LATER, POLICY, unsaved=True).grace_ends_at is None


def test_an_unsaved_failed_attempt_risks_no_token() -> None:
    """The token was not spent and the store holds it, so no grace period counts."""
    account = attempted(
        attempted(LOGGED_IN, issued("r1"), DUE), NotSent(detail="down"), DUE + 25 * MINUTE
    )
    assert outlook(account, DUE + 25 * MINUTE, POLICY, unsaved=True).grace_ends_at is None


@pytest.mark.parametrize(
    ("account", "at", "reason"),
    [
        (LOGGED_IN, DUE, "disconnected"),
        (LOGGED_IN, NOW + 60 * DAY, "unused for 60 days"),
        (LOST, LATER, "disconnected"),
        (LOST, GRACE_ENDS, "started at 2026-11-23 12:25:00 UTC arrived within Xero's 30 minutes"),
    ],
)
def test_a_lost_consent_has_a_reason(account: Account, at: datetime, reason: str) -> None:
    """A loss after the grace period differs from a token that lay unused too long."""
    assert reason in why_lost(attempted(account, Refused(detail="invalid_grant"), at), POLICY, XERO)


def test_a_lost_consent_at_another_server_is_explained_without_facts_of_xero() -> None:
    """How long a refresh token may lie unused there is not known."""
    server = "the identity server"
    for at in (DUE, NOW + 60 * DAY):
        lost = attempted(LOGGED_IN, Refused(detail="invalid_grant"), at)
        text = why_lost(lost, POLICY, server)
        assert text == f"most likely the login was ended at {server}, or lay unused there too long"
    text = why_lost(attempted(LOST, Refused(detail="invalid_grant"), GRACE_ENDS), POLICY, server)
    assert text.endswith("arrived within the identity server's 30 minutes")


def test_a_record_without_tokens_has_a_reason_of_its_own() -> None:
    """Xero refused none of its tokens."""
    assert why_lost(Account(), POLICY, XERO) == "the record holds no refresh token"


def test_a_server_without_rotation_is_remembered_until_it_rotates() -> None:
    """Two responses without a refresh token tell. Later refreshes have the usual outlook."""
    account = accounts.attempted(accounts.logged_in(), accounts.issued(None), 25)
    assert account.rotates
    assert outlook(account, NOW + 25 * MINUTE, POLICY).retrying is Retrying.MISSING_TOKEN
    account = accounts.attempted(account, accounts.issued(None), 26)
    assert (account.rotates, account.responses_without_token, account.intent) == (False, 0, None)
    at = NOW + 51 * MINUTE
    begun = begin_refresh(account, candidates(account, at, POLICY)[0], by="h:1", now=at)
    assert outlook(begun, at, POLICY).retrying is Retrying.UNDER_WAY
    lost = after(begun, Unknown(detail="reset"), now=at, policy=POLICY, jitter=0.5)
    assert outlook(lost, at, POLICY).retrying is Retrying.LOST_RESPONSE
    account = accounts.attempted(lost, accounts.issued(None), 52)
    assert (account.rotates, account.intent) == (False, None)
    account = accounts.attempted(account, accounts.issued("r1"), 80)
    assert account.rotates
    assert accounts.attempted(account, accounts.issued(None), 110).intent is not None


def test_a_lost_consent_is_explained_by_its_newest_token() -> None:
    """An older token that was unused for long is not the reason."""
    old = RefreshToken(
        value=Secret("old"),
        obtained_at=NOW - timedelta(days=70),
        refused_at=NOW,
    )
    new = RefreshToken(value=Secret("new"), obtained_at=NOW, refused_at=NOW + MINUTE)
    account = replace(accounts.logged_in(), current=new, fallbacks=(old,))
    assert "disconnected" in why_lost(account, POLICY, XERO)
    assert "unused" in why_lost(replace(account, current=old, fallbacks=()), POLICY, XERO)


def test_every_kind_of_problem_has_words() -> None:
    """The kinds are those that the transitions write into the record."""
    failed = [account.problem for account, _, _ in TABLE.values() if account.problem is not None]
    kinds = {problem.kind for problem in failed}
    assert kinds == set(ProblemKind)
    assert all("Xero" in problem_text(problem, XERO) for problem in failed)
