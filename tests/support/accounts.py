"""Records of a login and of its refreshes, for the tests of the lifecycle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
)
from xots.lifecycle.candidates import candidates
from xots.lifecycle.logins import after_end, after_login, after_revoked
from xots.lifecycle.merging import merged
from xots.lifecycle.outcomes import Issued, Outcome
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import Spend, next_step
from xots.lifecycle.transitions import after, begin_refresh
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy()
MINUTE = timedelta(minutes=1)
HALF_HOUR = timedelta(minutes=30)

PRECISELY = NOW.replace(microsecond=123456)
CANARY = "canary-4f1d"
"""Each secret of ``FULL`` holds this text."""


FULL = Account(
    generation=3,
    write_id="w",
    client_id="client",
    client_secret=Secret(CANARY + "-secret"),
    token_url="https://id.example/token",
    tenant_id="tenant",
    consent_id="consent",
    consented_at=PRECISELY,
    without_user=True,
    scopes_requested=("offline_access",),
    scopes_granted=("offline_access", "openid"),
    access=AccessToken(value=Secret(CANARY + "-access"), issued_at=PRECISELY, expires_at=PRECISELY),
    current=RefreshToken(
        value=Secret(CANARY + "-current"),
        obtained_at=PRECISELY,
        first_spent_at=PRECISELY,
        resent=True,
    ),
    fallbacks=(
        RefreshToken(
            value=Secret(CANARY + "-fallback"), obtained_at=PRECISELY, refused_at=PRECISELY
        ),
    ),
    intent=Intent(by="host:1", began_at=PRECISELY, fingerprint="f", set_first_spent=True),
    retry_not_before=PRECISELY,
    failed_attempts=2,
    responses_without_token=1,
    problem=Problem(
        kind=ProblemKind.UNKNOWN,
        code="invalid_scope",
        detail="reset",
        at=PRECISELY,
        without_user=True,
    ),
    refreshed_at=PRECISELY,
    refreshed_by="host:1",
    xero_userid="user-1",
    auth_event_id="event-1",
    organisations=(
        Organisation(
            connection_id="connection-1",
            tenant_id="tenant",
            name="Demo",
            kind="ORGANISATION",
            auth_event_id="event-1",
        ),
    ),
    listed_at=PRECISELY,
    lists_without_tenant=1,
    removed=True,
    entry=Entry(
        client_id="client",
        client_secret=Secret(CANARY + "-entry"),
        tenant_id="tenant",
        scopes=("offline_access",),
        added_at=PRECISELY,
    ),
    refreshes=(
        RefreshNote(at=PRECISELY, by="host:1", ok=False, kind=ProblemKind.UNKNOWN),
        RefreshNote(at=PRECISELY - MINUTE, by="host:2", ok=True),
    ),
    login_states=(LoginState(digest="d" * 64, at=PRECISELY, problem="refused"),),
    notices=(Notice(kind="login-needed", key="consent", at=PRECISELY),),
)
"""A record in which every field is set."""


def issued(
    token: str | None = "r1", access: str = "a1", life: timedelta | None = HALF_HOUR
) -> Issued:
    """Return the outcome of a refresh that Xero has carried out."""
    return Issued(
        access_token=Secret(access), lifetime=life, refresh_token=Secret(token) if token else None
    )


def logged_in(at: datetime = NOW, life: timedelta | None = HALF_HOUR) -> Account:
    """Return the record after a login."""
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
    """Return the current refresh token of a record that has one."""
    assert account.current is not None
    return account.current


def begun(account: Account, at: datetime) -> Account:
    """Return the record once a forced refresh has started."""
    step = next_step(account, at, POLICY, min_life=timedelta(days=1))
    assert isinstance(step, Spend)
    return begin_refresh(account, step.token, by="host:1", now=at)


def concluded(account: Account, outcome: Outcome, at: datetime, jitter: float = 0.5) -> Account:
    """Return the record after the outcome of its open refresh."""
    return after(account, outcome, now=at, policy=POLICY, jitter=jitter)


def attempted(account: Account, outcome: Outcome, minutes: int) -> Account:
    """Return the record after a refresh that was sent ``minutes`` after the login."""
    at = NOW + minutes * MINUTE
    account = begin_refresh(account, candidates(account, at, POLICY)[0], by="h:1", now=at)
    return concluded(account, outcome, at)


def with_fallback(account: Account, token: RefreshToken) -> Account:
    """Return the record after a token of the same consent, from another process, has joined it."""
    return merged(account, replace(account, current=token, fallbacks=()))


def values(account: Account) -> set[str]:
    """Return the values of the candidates."""
    return {t.value.reveal() for t in candidates(account, NOW, POLICY)}


def ended(account: Account, at: datetime, *, forget: bool = False) -> Account:
    """Return the record after an end that Xero has confirmed."""
    return after_revoked(after_end(account, forget=forget, now=at))
