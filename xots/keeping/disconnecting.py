"""The end of a login that shares its Xero user with others: delete its own connections.

One revocation would end the others too. So the login's tokens are forgotten instead, and only the
connections that no other login uses are deleted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..backends.base import Lease
from ..errors import UpstreamFailed
from ..lifecycle.account import AccessToken, Account, Organisation
from ..lifecycle.candidates import without_reuse
from ..lifecycle.outcomes import Failure, Issued
from ..lifecycle.sharing import is_use_known, own_organisations
from ..safe_text import safe_text
from ..secret import Secret
from ..wording import unclear_text
from ..xero.connections import read_connections
from .context import Context
from .refreshing import spend
from .siblings import Siblings
from .tenants import organisations_of, skipped_text

__all__ = ["Disconnection", "delete_connections"]


MAX_SECONDS = 30.0
"""Upper bound on the time in which deletions begin. A user may have hundreds of connections, and
the next login of the account waits for the lease."""


class Disconnection(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the deletion of an ended login's own connections."""

    deleted: int = 0
    """Number of connections that are deleted."""
    remaining: tuple[Organisation, ...] = ()
    """The organisations whose connections may remain, as far as they are known."""
    problem: str | None = None
    """Why connections may remain; None if all are deleted."""


async def delete_connections(
    context: Context, lease: Lease, access: AccessToken | None, siblings: Siblings
) -> Disconnection:
    """Delete the ended login's own connections that no sibling uses.

    It ends at the first failure: the login's end must not wait for a Xero that is down.

    Args:
        context: the parts of the account's keeper. The record holds the end of the login.
        lease: the lease of the account.
        access: the login's access token, if it is still good; otherwise one refresh is made.
        siblings: the siblings of the account.

    Raises:
        StaleWrite, StoreUnavailable, SealError: the record could not be written for the refresh.
    """
    account = context.replica.account
    assumed = _own(account, siblings, _remembered(account))
    unclear = [name for name, sibling in siblings.items() if not is_use_known(sibling)]
    token = access.value if access else await _new_access_token(context, lease)
    if token is None:
        problem = f"{context.server_name} issued no access token for it"
        return Disconnection(remaining=assumed, problem=problem)
    try:
        response = await context.xero.connections(token)
        listed = read_connections(response, context.clock.now())
    except UpstreamFailed as error:
        return Disconnection(remaining=assumed, problem=f"{error}")
    # Those that cannot be deleted come last: the first failure ends the deletions.
    own = tuple(
        sorted(
            _own(account, siblings, organisations_of(listed.connections)),
            key=lambda organisation: organisation.connection_id is None,
        )
    )
    if own and unclear:
        return Disconnection(remaining=own, problem=unclear_text(unclear, len(own)))
    until = context.clock.elapsed() + MAX_SECONDS
    for done, organisation in enumerate(own):
        failure: str | None = "the deletions took too long"
        if context.clock.elapsed() < until:
            failure = await _delete(context, lease, token, organisation)
        if failure is not None:
            return Disconnection(deleted=done, remaining=own[done:], problem=failure)
    skipped = skipped_text(listed.skipped) if listed.skipped else None
    return Disconnection(deleted=len(own), problem=skipped)


def _own(
    account: Account, siblings: Siblings, listed: Sequence[Organisation]
) -> tuple[Organisation, ...]:
    return tuple(own_organisations(account, siblings.values(), listed))


def _remembered(account: Account) -> tuple[Organisation, ...]:
    """Return the organisations of the login as the record knows them."""
    if account.organisations is not None:
        return account.organisations
    return (Organisation(tenant_id=account.tenant_id),) if account.tenant_id else ()


async def _new_access_token(context: Context, lease: Lease) -> Secret | None:
    """Refresh once, and return the access token; None if none was issued.

    The record holds no login any more, so no caller receives the token.
    """
    tokens = without_reuse(context.account, context.clock.now(), context.policy)
    if not tokens or not context.may_send(lease):
        return None
    outcome = await spend(context, tokens[0], lease)
    return outcome.access_token if isinstance(outcome, Issued) else None


async def _delete(
    context: Context, lease: Lease, token: Secret, organisation: Organisation
) -> str | None:
    """Delete one connection. Return why it may remain; None if it is deleted.

    A holder whose lease has expired deletes nothing: a user may have logged in since, and a
    connection keeps its id in a new consent.
    """
    if organisation.connection_id is None:
        return f"{context.server_name}'s list names no id for it"
    if not context.may_send(lease):
        return "another process has the account"
    failure: Failure | None = await context.xero.disconnect(token, organisation.connection_id)
    return None if failure is None else safe_text(failure.detail)
