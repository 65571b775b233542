"""The record of an account that gets its tokens by its client's own credentials (RFC 6749
section 4.4). Pure.

It has no user, no login and no refresh token. A lost response costs nothing: the same request can
be made again at any time. So there is no intent, and the record only shares the access token among
processes.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from .account import Account, ProblemKind
from .logins import after_epoch, without_login
from .outcomes import Issued, Outcome, Refused
from .policy import Policy
from .transitions import (
    after_failure,
    after_other_failure,
    new_access_token,
    with_expired_noted,
    with_note,
)
from .waits import slow_wait

__all__ = ["after_client_token"]


def after_client_token(
    account: Account,
    outcome: Outcome,
    *,
    consent_id: str,
    client_id: str,
    token_url: str,
    tenant_id: str | None,
    scopes_requested: tuple[str, ...],
    by: str,
    began_at: datetime,
    now: datetime,
    policy: Policy,
    jitter: float,
) -> Account:
    """Return the account after a request for an access token.

    Args:
        account: the record before it.
        outcome: the result of the request.
        consent_id: a random id for the record's first token. Later tokens keep it.
        client_id: the client.
        token_url: the token endpoint.
        tenant_id: the organisation that the settings name. Another one than the record's has to be
            verified anew.
        scopes_requested: the requested scopes.
        by: the process that made the request.
        began_at: when it was sent.
        now: when the response arrived.
        policy: the durations to decide by.
        jitter: a random number in [0, 1), for the wait before the next attempt.
    """
    match outcome:
        case Issued():
            found = replace(
                _begun(account, consent_id, tenant_id, began_at),
                client_id=client_id,
                token_url=token_url,
                scopes_requested=scopes_requested,
                scopes_granted=scopes_requested if outcome.scopes is None else outcome.scopes,
                access=new_access_token(outcome, began_at),
                refreshed_at=now,
                refreshed_by=by,
                failed_attempts=0,
                problem=None,
                retry_not_before=None,
            )
            found = with_expired_noted(found, account, outcome, now, policy, jitter)
        case Refused():
            wait = slow_wait(policy, jitter)
            found = after_failure(account, outcome, ProblemKind.REFUSED, now, wait)
        case _:
            found = after_other_failure(account, outcome, now=now, policy=policy, jitter=jitter)
    if found.problem is not None:
        found = replace(found, problem=replace(found.problem, without_user=True))
    return with_note(found, by, now)


def _begun(account: Account, consent_id: str, tenant_id: str | None, began_at: datetime) -> Account:
    """Return the account with the id that all its tokens share, and the settings' organisation."""
    if account.consent_id is not None:
        if tenant_id is None or tenant_id.lower() == (account.tenant_id or "").lower():
            return account
        return replace(account, tenant_id=tenant_id, organisations=None, lists_without_tenant=0)
    return replace(
        without_login(account),
        consent_id=consent_id,
        without_user=True,
        consented_at=after_epoch(account, began_at),
        tenant_id=tenant_id,
    )
