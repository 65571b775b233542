"""An access token by the client's own credentials: no login, no refresh token, and nothing to lose.

The processes of a cluster share it through the record, and the lease lets one of them request it.
"""

from __future__ import annotations

import secrets

from ..backends.base import Lease
from ..lifecycle.client_grant import after_client_token
from ..lifecycle.outcomes import Issued
from ..lifecycle.schedule import scheduled_refresh_at
from .context import Context
from .reporting import client_token_event

__all__ = ["obtain"]


async def obtain(context: Context, lease: Lease) -> None:
    """Request an access token once, and commit the outcome.

    It first waits while too many requests of other accounts are in progress. It does nothing if the
    process stops meanwhile, or if the lease ran out.
    """
    async with context.xero.slot() as may_send:
        if may_send and context.may_send(lease):
            await _obtain(context)


async def _obtain(context: Context) -> None:
    replica, clock, credentials = context.replica, context.clock, context.configured
    if credentials is None:
        return
    found, began_at = replica.account, clock.now()
    due_at = scheduled_refresh_at(found, context.policy)
    sending = replica.expiry = replica.expiry.sending("", retry=False, elapsed=clock.elapsed())
    outcome = await context.xero.client_token(credentials, context.scopes)
    now = clock.now()
    concluded = after_client_token(
        found,
        outcome,
        consent_id=secrets.token_hex(16),
        client_id=credentials.client_id,
        token_url=context.xero.identity_server.token_url,
        tenant_id=context.tenant_id,
        scopes_requested=context.scopes,
        by=context.process,
        began_at=began_at,
        now=now,
        policy=context.policy,
        jitter=context.rng.random(),
    )
    if isinstance(outcome, Issued):
        concluded = sending.issued(concluded, now, clock.elapsed())
    await replica.commit(concluded, after=found)
    context.emit(
        client_token_event(
            context.situation(),
            concluded=concluded,
            failed_attempts=found.failed_attempts,
            due_at=due_at,
            seconds=(now - began_at).total_seconds(),
        )
    )
