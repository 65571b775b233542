"""The outlook of a login, for its operator: its next attempts, and when a user must log in."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from ..advice import XERO
from .account import Account, Intent, RefreshToken
from .attention import attention_at
from .candidates import candidates, is_strict
from .policy import Grant, Policy
from .schedule import XERO_REFRESH_LIFETIME, client_refused, good_for, unresolved_intent

__all__ = ["Need", "Outlook", "Retrying", "outlook", "why_lost"]


class Retrying(StrEnum):
    """An operation that has started and is not done yet."""

    UNDER_WAY = "under-way"
    """A refresh has no outcome yet: it is in progress, or its process was cut off."""
    LOST_RESPONSE = "lost-response"
    """A refresh may have reached Xero, and its response never arrived."""
    MISSING_TOKEN = "missing-refresh-token"  # noqa: S105
    """Xero's response held no refresh token."""
    REFRESH = "refresh"
    """The last attempt failed, and no refresh is open."""
    PROOF = "proof"
    """Several refresh tokens may be live. A refresh will show which one is."""
    REVOCATION = "revocation"
    """The login was ended here, and Xero has not confirmed it yet."""


class Need(StrEnum):
    """Why a user or an operator will be needed at ``login_needed_at``."""

    NO_LOGIN = "not-logged-in"
    NO_CREDENTIALS = "no-credentials"
    """The client's own credentials, by which alone the account gets tokens, are not set."""
    CONSENT_LOST = "consent-lost"
    CLIENT_REFUSED = "client-refused"
    """Xero does not accept the client's credentials. Retries do not help."""
    GRACE_ENDS = "grace-ends"
    """Only spent tokens are left, which Xero accepts again within the grace period only."""
    LAST_ATTEMPT = "last-attempt"
    """Only a token that may be spent is left, and the identity server accepts none twice. It is
    sent once more when the access token has expired."""
    TOKEN_DIES = "refresh-token-unused"  # noqa: S105
    """An unspent refresh token is left. It dies if it lies unused."""

    @property
    def is_now(self) -> bool:
        """True if the user or the operator is needed now."""
        return self in (
            Need.NO_LOGIN,
            Need.NO_CREDENTIALS,
            Need.CONSENT_LOST,
            Need.CLIENT_REFUSED,
        )


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """The next attempts, and the time when a user must log in if nothing improves."""

    retrying: Retrying | None
    next_attempt_at: datetime | None
    """The earliest time of the next attempt or refresh; None if none will be made."""
    grace_ends_at: datetime | None
    """Until when Xero surely accepts the spent token again. None unless its successor is unknown,
    or exists in this process only."""
    login_needed_at: datetime | None
    """When a user must log in if no attempt succeeds; now, if that time has passed. None for an
    account without a login, unless an operator is needed now."""
    attention_for: Need | None
    """Why."""


def outlook(
    account: Account,
    now: datetime,
    policy: Policy,
    *,
    unsaved: bool = False,
    ahead: bool = True,
    lacks_credentials: bool = False,
) -> Outlook:
    """Return the outlook of a record. ``unsaved``: the store does not hold it yet. ``ahead``: see
    ``schedule.refresh_due``. ``lacks_credentials``: the grant needs the client's credentials of the
    settings, and these hold none.

    The time is that of the refresh token that lasts longest. That a token was spent does not prove
    that Xero received it: Xero may still accept it after the grace period, but that is not certain.
    """
    if lacks_credentials:
        return _outlook_without_credentials(now)
    if policy.grant is Grant.CLIENT_CREDENTIALS:
        return _outlook_of_client(account, now, policy, ahead=ahead)
    logged_in = account.consent_id is not None
    live = candidates(account, now, policy)
    need, needed_at = _need(account, live, now, policy)
    return Outlook(
        retrying=_retrying(account, live),
        next_attempt_at=attention_at(account, now, policy, ahead=ahead),
        grace_ends_at=_grace_ends_at(account, now, policy, unsaved) if logged_in else None,
        login_needed_at=max(needed_at, now),
        attention_for=need,
    )


def _outlook_without_credentials(now: datetime) -> Outlook:
    """Return the outlook of an account that sends no request before its credentials are set."""
    return Outlook(
        retrying=None,
        next_attempt_at=None,
        grace_ends_at=None,
        login_needed_at=now,
        attention_for=Need.NO_CREDENTIALS,
    )


def _outlook_of_client(account: Account, now: datetime, policy: Policy, *, ahead: bool) -> Outlook:
    """Return the outlook of an account without a login."""
    is_refused = client_refused(account)
    return Outlook(
        retrying=Retrying.REFRESH if account.failed_attempts else None,
        next_attempt_at=attention_at(account, now, policy, ahead=ahead),
        grace_ends_at=None,
        login_needed_at=now if is_refused else None,
        attention_for=Need.CLIENT_REFUSED if is_refused else None,
    )


def _need(
    account: Account, live: tuple[RefreshToken, ...], now: datetime, policy: Policy
) -> tuple[Need, datetime]:
    if account.consent_id is None:
        return Need.NO_LOGIN, now
    if not live:
        is_last = is_strict(policy) and unresolved_intent(account) is not None
        return Need.LAST_ATTEMPT if is_last else Need.CONSENT_LOST, now
    if client_refused(account):
        return Need.CLIENT_REFUSED, now
    best = max(live, key=lambda token: _dies_at(token, now, policy))
    if best.first_spent_at and is_strict(policy):
        return Need.LAST_ATTEMPT, now + good_for(account, now)
    need = Need.GRACE_ENDS if best.first_spent_at else Need.TOKEN_DIES
    return need, _dies_at(best, now, policy)


def _dies_at(token: RefreshToken, now: datetime, policy: Policy) -> datetime:
    """Return until when Xero surely accepts the token. A recorded time that lies in the future
    counts as now: the clock was set back."""
    dies_at = min(token.obtained_at, now) + XERO_REFRESH_LIFETIME
    if token.first_spent_at is None:
        return dies_at
    return min(dies_at, min(token.first_spent_at, now) + policy.grace)


def _grace_ends_at(
    account: Account, now: datetime, policy: Policy, unsaved: bool
) -> datetime | None:
    """Return the end of the grace period of the refresh that would be repeated: the open one, or
    the last one if its result exists in this process only."""
    if is_strict(policy):
        return None
    result_is_unsaved = unsaved and not account.failed_attempts
    retried = account.tokens if result_is_unsaved else (account.spending,)
    live = [token for token in filter(None, retried) if not token.refused_at]
    spent = [min(at, now) for at in filter(None, (token.first_spent_at for token in live))]
    return max(spent) + policy.grace if spent else None


def _retrying(account: Account, live: tuple[RefreshToken, ...]) -> Retrying | None:
    if account.consent_id is None:
        return Retrying.REVOCATION if account.revocation else None
    if not live and unresolved_intent(account) is None:
        return None
    if account.intent is not None:
        return _retrying_open(account, account.intent)
    if account.failed_attempts:
        return Retrying.REFRESH
    unproved = [t for t in live if t is not account.current and t.first_spent_at is None]
    return Retrying.PROOF if unproved else None


def _retrying_open(account: Account, intent: Intent) -> Retrying:
    if account.responses_without_token:
        return Retrying.MISSING_TOKEN
    in_first_attempt = intent.set_first_spent and unresolved_intent(account)
    return Retrying.UNDER_WAY if in_first_attempt else Retrying.LOST_RESPONSE


def why_lost(account: Account, policy: Policy, server: str) -> str:
    """Return why no refresh token is left, as far as the record of a lost consent shows.
    ``server`` is the name of the identity server in a sentence."""
    if (sent := account.spending) is not None and sent.resent and not sent.refused_at:
        return (
            f"no response to the refresh started at {_time(sent.first_spent_at)} arrived, nor to "
            f"the last attempt, and {server} accepts no refresh token twice"
        )
    refused = [token for token in account.tokens if token.refused_at]
    newest = max(refused, key=lambda token: token.obtained_at, default=None)
    if newest is None or newest.refused_at is None:
        return "the record holds no refresh token"
    spent = newest.first_spent_at or newest.refused_at
    if newest.resent and newest.may_be_in_flight and is_strict(policy):
        return (
            f"no response to the refresh started at {_time(spent)} arrived, and {server} accepts "
            "no refresh token twice"
        )
    if policy.grace and newest.refused_at - spent >= policy.grace:
        minutes = f"{policy.grace.total_seconds() / 60:.0f} minutes"
        return (
            f"no response to the refresh started at {_time(spent)} arrived within {server}'s "
            f"{minutes}"
        )
    if newest.may_be_in_flight and server != XERO:
        return (
            f"no response to the refresh started at {_time(spent)} arrived, so xots sent the token "
            f"again; if {server} accepts none twice, set grace: 0"
        )
    if server != XERO:
        return f"most likely the login was ended at {server}, or lay unused there too long"
    if newest.refused_at - newest.obtained_at >= XERO_REFRESH_LIFETIME:
        return f"the refresh token lay unused for {XERO_REFRESH_LIFETIME.days} days"
    return "most likely the app was disconnected at Xero"


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "an unknown time"
