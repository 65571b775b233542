"""The schedule of a login's refreshes: its state, what is due and when.

Every function is pure: ``now`` is an argument, aware UTC. Protocol facts come from RFC 6749 and
Xero's page "Token types": a refresh token is used once, a lost response may be retried with the
same token for 30 minutes, and a refresh token that lies unused dies after 60 days.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, StrEnum

import msgspec

from ..clock import MAX_CLOCK_SKEW
from .account import AccessToken, Account, Intent, ProblemKind, RefreshToken
from .candidates import candidates, is_strict, sent_for_user, within_grace
from .policy import Grant, Policy
from .waits import cut_off_wait_ends_at, pause_ends_at, wait_ends_at

__all__ = [
    "XERO_REFRESH_LIFETIME",
    "Due",
    "Idle",
    "NoteCutOff",
    "Obtain",
    "Spend",
    "State",
    "Step",
    "Wait",
    "access_lifetime",
    "client_refused",
    "effective_min_ttl",
    "good_for",
    "is_work",
    "issued_since",
    "min_servable",
    "newest_token",
    "next_step",
    "promised_ttl",
    "refresh_due",
    "revocation_due",
    "scheduled_refresh_at",
    "servable",
    "state_of",
    "tick_seconds",
    "unresolved_intent",
]

XERO_ACCESS_LIFETIME = timedelta(minutes=30)
"""Lifetime of Xero's access tokens. For shorter-lived tokens the promises shrink in proportion."""

XERO_REFRESH_LIFETIME = timedelta(days=60)
"""An unused refresh token dies after this time (Xero: "Token types"). xots rotates it earlier."""

MIN_SERVABLE = timedelta(seconds=10)
"""An access token with less time left is not served: it may expire on its way to Xero."""

MAX_DEMANDED_PART = 0.9
"""The largest part of a token's lifetime that a caller can demand. A demand for more would find
every token too old soon after its issue."""

MIN_TICK_SECONDS = 0.25
"""Lower bound on the interval between checks, however short the tokens live."""


# ---------- the access token


def good_for(account: Account, now: datetime) -> timedelta:
    """Return how long the access token may still be served.

    Zero if there is none, it has expired, no user is logged in, or the clock was set back so far
    that its expiry cannot be trusted.
    """
    access = account.access
    if access is None or account.consent_id is None or _issued_in_future(access, now):
        return timedelta(0)
    return max(access.expires_at - max(now, access.issued_at), timedelta(0))


def _issued_in_future(access: AccessToken, now: datetime) -> bool:
    return access.issued_at - now > MAX_CLOCK_SKEW


def promised_ttl(account: Account, policy: Policy) -> timedelta:
    """Return the least lifetime that every caller is promised.

    It is ``min_ttl``, but at most nine tenths of the token's lifetime, and at most a quarter of a
    lifetime that is shorter than Xero's.
    """
    lifetime = access_lifetime(account)
    part = 1 / 4 if lifetime < XERO_ACCESS_LIFETIME else MAX_DEMANDED_PART
    return min(policy.min_ttl, lifetime * part)


def min_servable(account: Account, policy: Policy) -> timedelta:
    """Return the time left below which an access token is never served, whatever else fails."""
    return min(MIN_SERVABLE, promised_ttl(account, policy))


def servable(account: Account, now: datetime, min_life: timedelta) -> AccessToken | None:
    """Return the access token if it may be served for at least ``min_life`` from now on."""
    left = good_for(account, now)
    return account.access if left > timedelta(0) and left >= min_life else None


def issued_since(account: Account, requested_at: datetime) -> bool:
    """Tell if the access token was issued after a caller requested one."""
    return account.access is not None and account.access.issued_at >= requested_at


def effective_min_ttl(account: Account, policy: Policy, requested: timedelta | None) -> timedelta:
    """Return the lifetime that one caller receives: the promise, or more if it requests more.

    A request is capped, so that it never causes a refresh of a token that was just issued.
    """
    promised = promised_ttl(account, policy)
    if requested is None:
        return promised
    return max(promised, min(requested, access_lifetime(account) * MAX_DEMANDED_PART))


def tick_seconds(account: Account, policy: Policy) -> float:
    """Return the interval between checks in seconds: ``tick``, or an eighth of a short lifetime."""
    tick, lifetime = policy.tick.total_seconds(), access_lifetime(account)
    if lifetime >= XERO_ACCESS_LIFETIME:
        return tick
    return max(min(tick, lifetime.total_seconds() / 8), MIN_TICK_SECONDS)


def access_lifetime(account: Account) -> timedelta:
    """Return the lifetime of the access token; Xero's while there is none."""
    return account.access.lifetime if account.access else XERO_ACCESS_LIFETIME


# ---------- state


class State(StrEnum):
    """The state of a login."""

    NO_CREDENTIALS = "no-credentials"
    NOT_LOGGED_IN = "not-logged-in"
    WAITING = "waiting"
    """A login was started and its user has not returned from Xero. Only the process that started
    it knows."""
    CONNECTED = "connected"
    REFRESH_FAILING = "refresh-failing"
    CONSENT_LOST = "consent-lost"
    REVOKED = "revoked"


def state_of(
    account: Account, now: datetime, policy: Policy, *, is_configured: bool = False
) -> State:
    """Return the state that the record is in. ``is_configured``: the settings hold the credentials
    of a client."""
    if policy.grant is Grant.CLIENT_CREDENTIALS:
        failing = State.REFRESH_FAILING if account.failed_attempts else State.CONNECTED
        return failing if is_configured else State.NO_CREDENTIALS
    if account.client_id is None:
        return State.NOT_LOGGED_IN if is_configured else State.NO_CREDENTIALS
    if account.consent_id is None:
        return State.NOT_LOGGED_IN if account.ended_at is None else State.REVOKED
    if _action(account, now, policy) is None:
        return State.CONSENT_LOST
    return State.REFRESH_FAILING if account.failed_attempts else State.CONNECTED


def client_refused(account: Account) -> bool:
    """Tell if Xero refused the client's credentials at the last attempt."""
    return account.problem is not None and account.problem.kind is ProblemKind.CLIENT_REFUSED


def newest_token(account: Account) -> str:
    """Return the fingerprint of the token that the next refresh replaces: the current refresh
    token, or the access token of an account without refresh tokens; empty if there is none."""
    token = account.current or account.access
    return token.value.fingerprint if token else ""


def unresolved_intent(account: Account) -> Intent | None:
    """Return the intent of a refresh that is in progress or was cut off; None if the outcome of the
    last attempt is known."""
    intent, problem = account.intent, account.problem
    if intent is None or account.responses_without_token:
        return None
    return None if problem is not None and problem.at >= intent.began_at else intent


# ---------- what is due


class Due(Enum):
    """When a refresh is due, if not at a date."""

    NEVER = "never"
    AT_ONCE = "at-once"


def refresh_due(
    account: Account, now: datetime, policy: Policy, *, ahead: bool = True
) -> datetime | Due:
    """Return when the next refresh is due, without regard to ``retry_not_before``.

    ``NEVER`` without a login. ``AT_ONCE`` for an open refresh, a current token that was spent or
    refused, and a missing access token or one whose expiry cannot be trusted. Otherwise the
    scheduled time.

    Args:
        account: the record.
        now: the current time.
        policy: the durations to decide by.
        ahead: False for an account that is not in use. Its access token may expire or be missing:
            only the refresh token is kept alive.
    """
    current, access = account.current, account.access
    if policy.grant is Grant.CLIENT_CREDENTIALS:
        return _renewal_due(account, now, policy) if ahead else Due.NEVER
    if account.consent_id is None or current is None:
        return Due.NEVER
    if account.intent is not None or not current.is_fresh:
        return Due.AT_ONCE
    if not ahead:
        return min(_rotations(account, current, policy))
    if access is None or _issued_in_future(access, now):
        return Due.AT_ONCE
    return min(_scheduled(account, current, access, policy))


def scheduled_refresh_at(account: Account, policy: Policy) -> datetime | None:
    """Return the scheduled time of the refresh, without regard to the reasons that make one due at
    once; None without tokens."""
    if account.access is None:
        return None
    if account.current is None:
        return _ahead_of(account.access, policy)
    return min(_scheduled(account, account.current, account.access, policy))


def _renewal_due(account: Account, now: datetime, policy: Policy) -> datetime | Due:
    """Return when an account without refresh tokens needs its next access token."""
    access = account.access
    if account.consent_id is None or access is None or _issued_in_future(access, now):
        return Due.AT_ONCE
    return _ahead_of(access, policy)


def _ahead_of(access: AccessToken, policy: Policy) -> datetime:
    return access.expires_at - min(policy.refresh_ahead, access.lifetime / 2)


def _scheduled(
    account: Account, current: RefreshToken, access: AccessToken, policy: Policy
) -> list[datetime]:
    """Return the dates of the access token's expiry, of the rotation by age, and of proofs."""
    return [_ahead_of(access, policy), *_rotations(account, current, policy)]


def _rotations(account: Account, current: RefreshToken, policy: Policy) -> list[datetime]:
    """Return the dates of the rotation by age and of proofs: those that need no use."""
    proofs = [t.obtained_at + policy.proving_wait for t in account.fallbacks if t.is_fresh]
    return [current.obtained_at + policy.refresh_lifetime, *proofs]


class Idle(msgspec.Struct, frozen=True):
    """Nothing is to be done: no refresh is due, or none is possible."""


class Wait(msgspec.Struct, frozen=True):
    """A refresh is due, but not before ``until``."""

    until: datetime


class Spend(msgspec.Struct, frozen=True):
    """Refresh with this token now."""

    token: RefreshToken


class NoteCutOff(msgspec.Struct, frozen=True):
    """Note that a refresh was cut off. Its token may be spent, and is not to be sent now."""


class Obtain(msgspec.Struct, frozen=True):
    """Request an access token with the client's own credentials now."""


Action = Spend | NoteCutOff | Obtain
Step = Idle | Wait | Action


def is_work(step: Step) -> bool:
    """Tell if something is to be done now, under the lease."""
    return not isinstance(step, Idle | Wait)


def next_step(
    account: Account,
    now: datetime,
    policy: Policy,
    *,
    ahead: bool = True,
    min_life: timedelta | None = None,
    expected_current: str | None = None,
    by_user: bool = False,
) -> Step:
    """Return what to do about the tokens now.

    Args:
        account: the record.
        now: the current time.
        policy: the durations to decide by.
        ahead: False for an account that is not in use: see ``refresh_due``.
        min_life: the time left that a caller needs. A token with less is refreshed early.
        expected_current: the ``newest_token`` that a caller saw and wants refreshed now, due or
            not. If there is another, a refresh has happened, and nothing is forced. Within
            ``refresh_interval`` of the last refresh or failure nothing is forced either.
        by_user: True if a user demands it, who may have the current token sent once more.
    """
    due = refresh_due(account, now, policy, ahead=ahead)
    action = _action(account, now, policy)
    forced = expected_current is not None and newest_token(account) == expected_current
    if due is Due.NEVER and not (forced and isinstance(action, Obtain)):
        return Idle()
    if action is None:
        return _step_for_user(account, now, policy) if forced and by_user else Idle()
    is_due = due is Due.AT_ONCE or (due is not Due.NEVER and due <= now)
    too_short = min_life is not None and good_for(account, now) < min_life
    if forced and pause_ends_at(account.refreshed_at, now, policy) is None:
        until = _forced_at(account, now, policy, needed=is_due or too_short)
    elif is_due or too_short:
        until = wait_ends_at(account, now, policy)
    else:
        return Idle()
    return _when_sent_again(account, now, policy, action, until)


def _action(account: Account, now: datetime, policy: Policy) -> Action | None:
    """Return what a refresh does; None if no request can succeed. A last attempt without an outcome
    may still succeed: only the lease shows that it was cut off."""
    if policy.grant is Grant.CLIENT_CREDENTIALS:
        return Obtain()
    choices = candidates(account, now, policy)
    if choices:
        return Spend(choices[0])
    return None if unresolved_intent(account) is None else NoteCutOff()


def _step_for_user(account: Account, now: datetime, policy: Policy) -> Step:
    """Return the step for a user who demands a refresh although no token is left to spend."""
    is_live = good_for(account, now) > timedelta(0)
    token = sent_for_user(account, policy, is_live=is_live)
    if token is None:
        return Idle()
    until = pause_ends_at(account.problem.at if account.problem else None, now, policy)
    return Spend(token) if until is None else Wait(until)


def _when_sent_again(
    account: Account,
    now: datetime,
    policy: Policy,
    action: Action,
    until: datetime | None,
) -> Step:
    """Return ``action``, or the wait before it.

    A token that may be spent, and whose grace period is over, is not sent before the access token
    has expired: a server that notices its reuse may end that one too (RFC 9700 section 4.14.2).
    Xero's access tokens do not outlive the grace period. A refresh that was cut off is noted first,
    with a wait in which its outcome may still be written.
    """
    if isinstance(action, NoteCutOff):
        until = cut_off_wait_ends_at(account, now)
    is_late = isinstance(action, Spend) and not within_grace(action.token, now, policy)
    access = account.access
    live = access if access is not None and _may_be_live(access, now) else None
    outlives = live is not None and live.lifetime > policy.grace
    if is_late and (outlives or is_strict(policy)):
        if unresolved_intent(account) is not None:
            return NoteCutOff()
        until = max(until or now, live.expires_at) if live else until
    return action if until is None else Wait(until)


def _may_be_live(access: AccessToken, now: datetime) -> bool:
    """Tell if an access token may be live. If the clock was set back, its end is not known."""
    return access.expires_at > now or _issued_in_future(access, now)


def _forced_at(account: Account, now: datetime, policy: Policy, *, needed: bool) -> datetime | None:
    """Return the end of the wait before a forced refresh; None if there is none."""
    until = wait_ends_at(account, now, policy)
    pause = pause_ends_at(account.problem.at if account.problem else None, now, policy)
    if until is not None and client_refused(account):
        return pause  # it tries credentials that an operator may have corrected
    return until if needed else until or pause


def revocation_due(account: Account, now: datetime, policy: Policy) -> bool:
    """Tell if a revocation is to be requested at Xero now."""
    return account.revocation is not None and wait_ends_at(account, now, policy) is None
