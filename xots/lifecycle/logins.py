"""The transitions of the record at a login and its end, and at the end of the account itself.

Every function takes the record and returns a new one. ``now`` and ``jitter`` are arguments.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from ..secret import Secret
from .account import (
    Account,
    Entry,
    Organisation,
    ProblemKind,
    RefreshToken,
    Revocation,
)
from .outcomes import ClientRefused, Failure, Issued, Throttled, Unknown
from .policy import Policy
from .transitions import after_failure, new_access_token
from .waits import backoff_wait, demanded_wait, slow_wait

__all__ = [
    "after_added",
    "after_end",
    "after_epoch",
    "after_login",
    "after_removed",
    "after_revocation_failed",
    "after_revoked",
    "tokens_to_revoke",
    "without_login",
]

MAX_TOKENS_TO_REVOKE = 8
"""Upper bound on the tokens that one revocation names. At Xero, one of them is enough."""


def after_login(
    account: Account,
    issued: Issued,
    *,
    consent_id: str,
    client_id: str,
    client_secret: Secret | None,
    token_url: str,
    tenant_id: str | None,
    scopes_requested: tuple[str, ...],
    scopes_configured: tuple[str, ...] = (),
    organisations: tuple[Organisation, ...] | None = None,
    began_at: datetime,
) -> Account:
    """Return the account after a code exchange that was requested at ``began_at``. It keeps nothing
    of the login before but the time of its end. ``organisations``: None if they were not listed."""
    token = issued.refresh_token
    return replace(
        without_login(account),
        client_id=client_id,
        client_secret=client_secret,
        token_url=token_url,
        tenant_id=tenant_id,
        consent_id=consent_id,
        consented_at=after_epoch(account, began_at),
        scopes_requested=scopes_requested,
        scopes_configured=scopes_configured,
        scopes_granted=scopes_requested if issued.scopes is None else issued.scopes,
        access=new_access_token(issued, began_at),
        current=RefreshToken(value=token, obtained_at=began_at) if token else None,
        refreshed_at=began_at,
        xero_userid=issued.xero_userid,
        auth_event_id=issued.auth_event_id,
        organisations=organisations,
        listed_at=None if organisations is None else began_at,
    )


def after_end(account: Account, *, forget: bool, now: datetime) -> Account:
    """Return the account after a login's end: nothing is served from it any more. Its tokens stay
    until Xero has revoked them, and so do the user and the organisations that they belong to.

    The cleared ``consent_id`` keeps a late response to a refresh from reviving the login. A second
    end keeps the wait before the next revocation.
    """
    forget = forget or account.revocation is Revocation.FORGET_CREDENTIALS
    spending = account.spending
    if spending is not None:  # its successor may be live, and is unknown
        account = account.with_token(replace(spending, may_be_in_flight=True))
    if account.revocation is None:
        account = replace(account, failed_attempts=0, retry_not_before=None, problem=None)
    ended = replace(
        account,
        consent_id=None,
        ended_at=after_epoch(account, now),
        access=None,
        scopes_granted=(),
        revocation=Revocation.FORGET_CREDENTIALS if forget else Revocation.KEEP_CREDENTIALS,
        intent=None,
    )
    return ended if account.tokens else after_revoked(ended)


def after_revoked(account: Account) -> Account:
    """Return the account once Xero has revoked the tokens, or once they are to be forgotten without
    that (``sharing``). The credentials stay, or go too.

    A forgotten account is an empty record, not a missing one, so that generations never restart.
    """
    if account.revocation is Revocation.FORGET_CREDENTIALS:
        return without_login(account)
    return replace(
        account,
        access=None,
        current=None,
        fallbacks=(),
        intent=None,
        without_user=False,
        revocation=None,
        failed_attempts=0,
        retry_not_before=None,
        problem=None,
        xero_userid=None,
        auth_event_id=None,
        organisations=None,
        listed_at=None,
        lists_without_tenant=0,
    )


def after_added(account: Account, entry: Entry) -> Account:
    """Return the account once it was added with the settings ``entry``, anew after a removal or for
    the first time. A revocation that Xero has not confirmed continues."""
    return replace(account, entry=_after_entry(account, entry), removed=False)


def after_removed(account: Account, *, now: datetime) -> Account:
    """Return the account after its removal: its login is ended, and its settings are forgotten.

    The record stays, so that generations never restart if the account is added again.
    """
    ended = after_end(account, forget=True, now=now)
    return replace(ended, entry=_after_entry(account, Entry(added_at=now)), removed=True)


def _after_entry(account: Account, entry: Entry) -> Entry:
    """Return ``entry`` with a time later than that of the account's: the later one wins a merge."""
    if account.entry is None:
        return entry
    earliest = account.entry.added_at + timedelta(microseconds=1)
    return replace(entry, added_at=max(entry.added_at, earliest))


def without_login(account: Account) -> Account:
    """Return the account with nothing of its login but the time of its end.

    The rest belongs to the account itself: its settings, its history and its generation.
    """
    return Account(
        generation=account.generation,
        write_id=account.write_id,
        ended_at=account.ended_at,
        removed=account.removed,
        entry=account.entry,
        refreshes=account.refreshes,
        login_states=account.login_states,
        notices=account.notices,
    )


def after_revocation_failed(
    account: Account, failure: Failure, *, now: datetime, policy: Policy, jitter: float
) -> Account:
    """Return the account after a revocation that Xero did not confirm: all stays, for a retry."""
    wait = backoff_wait(account, policy, jitter)
    if isinstance(failure, ClientRefused):
        wait = slow_wait(policy, jitter)
    if isinstance(failure, Throttled | Unknown):
        wait = max(wait, demanded_wait(account, failure, policy, jitter))
    return after_failure(account, failure, ProblemKind.REVOCATION, now, wait)


def tokens_to_revoke(account: Account) -> tuple[RefreshToken, ...]:
    """Return the tokens to name in revocation requests, the likeliest live one first.

    They are the current token, the fallbacks that were never spent, and those that a request may
    still spend: an open refresh is one of these. If there is none, it is the first spent one. Xero
    responds 200 to a dead token too (RFC 7009 section 2.2), and ends the whole login for a live
    one. So a spent token with a known successor needs no request of its own.
    """
    live = [token for token in account.tokens if not token.refused_at]
    in_flight = [token for token in live if token.may_be_in_flight]
    unspent = [token for token in live if token.first_spent_at is None]
    current = [token for token in live if token is account.current]
    named = dict.fromkeys([*current, *unspent, *in_flight]) or live[:1]
    return tuple(named)[:MAX_TOKENS_TO_REVOKE]


def after_epoch(account: Account, now: datetime) -> datetime:
    """Return the time of a new login or end: always later than ``account.epoch``."""
    return max(now, account.epoch + timedelta(microseconds=1))
