"""A login's end: nothing is served from it, and Xero revokes its tokens."""

from __future__ import annotations

from ..backends.base import Lease
from ..errors import SealError, StaleWrite, StoreUnavailable
from ..events import LoginEnded, RevocationFailed, Revoked
from ..lifecycle.logins import after_end, after_revocation_failed, after_revoked, tokens_to_revoke
from ..lifecycle.schedule import candidates, revocation_due
from ..lifecycle.waits import pause_ends_at
from .context import Context
from .refreshing import spend

__all__ = ["end_login", "is_revocation_due", "resume_revocation"]


async def end_login(context: Context, *, forget: bool) -> bool:
    """End the login and revoke its tokens; ``forget`` its credentials too.

    Returns:
        True if nothing is left to revoke; False if Xero is still to be told.

    Raises:
        StoreUnavailable, SealError: the store cannot be read; nothing was changed.
    """
    replica = context.replica
    async with replica.locked() as lease:
        # 1. Request the outcome of an open refresh once more: its successor is to be revoked too.
        await _conclude_open_refresh(context, lease)
        found, now = replica.account, context.clock.now()
        is_pristine = found.client_id is None and found.ended_at is None
        if is_pristine and not forget:
            return True
        # 2. Write the end. From now on no late response can revive the login. An end is written
        # even if there is no login: it also ends one whose code is being exchanged now.
        await replica.commit(after_end(found, forget=forget, now=now), after=found)
        if found.consent_id or found.revocation or forget:
            context.emit(LoginEnded(account=context.name, at=now, forgotten=forget))
        if replica.unsaved:
            # Xero is told only after the end is stored. Otherwise a crash would leave a live login
            # in the store that Xero has ended.
            return False
        # 3. Tell Xero, unless Xero has failed to confirm an earlier request just now.
        if replica.account.revocation is None:
            return True
        failed_at = found.problem.at if found.problem and found.revocation else None
        if pause_ends_at(failed_at, now, context.policy) is not None:
            return False
        return await _revoke(context, lease)


def is_revocation_due(context: Context) -> bool:
    """Tell if a pending revocation is due now."""
    is_due = revocation_due(context.account, context.clock.now(), context.policy)
    return is_due and not context.is_foreign


async def resume_revocation(context: Context) -> None:
    """Tell Xero of an earlier end, if that is still due once the lease is held. It never raises for
    a failed store or request."""
    try:
        async with context.replica.locked() as lease:
            if is_revocation_due(context):
                await _revoke(context, lease)
    except (StoreUnavailable, SealError) as error:
        context.replica.failed(error)


async def _conclude_open_refresh(context: Context, lease: Lease) -> None:
    account = context.account
    tokens = candidates(account, context.clock.now(), context.policy)
    if account.intent is None or context.is_foreign or not tokens:
        return
    try:
        await spend(context, tokens[0], lease)
    except StaleWrite:
        await context.replica.read()
    except StoreUnavailable:
        return  # nothing was spent; memory holds the end until the store works again


async def _revoke(context: Context, lease: Lease) -> bool:
    """Tell Xero to revoke the tokens. Return True once it has.

    It stops once the lease is lost: a user may have logged in since, and this request would end
    that login too.
    """
    replica = context.replica
    known = replica.account
    tokens = tokens_to_revoke(known) if context.xero.endpoints.revoke_url else ()
    for token in tokens:
        if not context.may_send(lease):
            return False
        _, failure = await context.authenticated(context.xero.revoke, token, lease)
        if failure is not None:
            now, jitter = context.clock.now(), context.rng.random()
            failed = after_revocation_failed(
                known, failure, now=now, policy=context.policy, jitter=jitter
            )
            await replica.commit(failed, after=known)
            context.emit(
                RevocationFailed(
                    account=context.name,
                    at=now,
                    detail=failure.detail,
                    retry_not_before=replica.account.retry_not_before,
                )
            )
            return False
    await replica.commit(after_revoked(known), after=known)
    context.emit(Revoked(account=context.name, at=context.clock.now()))
    return True
