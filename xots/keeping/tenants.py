"""The organisations (tenants) of a login: their list at Xero, and the one to use."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from ..errors import LoginFailed, UnknownTenant, UpstreamFailed
from ..events import TenantChosen
from ..lifecycle.account import AccessToken
from ..safe_text import safe_text
from ..secret import Secret
from ..xero.protocol import Connection, Response, read_connections
from .context import Context

__all__ = ["check_listed", "matching_tenant", "request_list", "tenant_of_login", "write_tenant"]

logger = logging.getLogger("xots.keeper")


def check_listed(context: Context) -> None:
    """Check that the identity server has a list of organisations.

    Raises:
        UpstreamFailed: it has none.
    """
    if not context.xero.endpoints.connections_url:
        raise UpstreamFailed(
            "this identity server has no list of organisations (connections_url is empty)"
        )


async def request_list(context: Context, access: AccessToken) -> Response:
    """Return the response with the list of organisations, as it is.

    Raises:
        UpstreamFailed: there was no response, or not one with status 200.
    """
    response = await context.xero.connections(access.value)
    if response.status != 200:
        raise UpstreamFailed(f"the connections endpoint responded with status {response.status}")
    return response


async def write_tenant(context: Context, tenant_id: str, consent_id: str | None) -> None:
    """Write the organisation to use into the record of the login ``consent_id``.

    Raises:
        UnknownTenant: another login was recorded meanwhile, or this one was ended.
        StoreUnavailable, SealError: the store cannot be read or written.
    """
    async with context.replica.locked():
        if context.replica.account.consent_id != consent_id:
            raise UnknownTenant("the login has changed meanwhile: choose the organisation again")
        await context.replica.update(lambda account: replace(account, tenant_id=tenant_id))
    at = context.clock.now()
    context.emit(TenantChosen(account=context.name, at=at, tenant_id=tenant_id))


async def tenant_of_login(
    context: Context, client_id: str, requested: str | None, access_token: Secret
) -> str | None:
    """Return the organisation that a new login is to use: the requested one, the only one, or the
    one that the same client used before.

    Raises:
        LoginFailed: the requested one is not connected.
    """
    if not context.xero.endpoints.connections_url:
        return requested
    try:
        connected = read_connections(await context.xero.connections(access_token))
        if requested is not None:
            return matching_tenant(requested, connected)
    except UpstreamFailed as error:
        # Keep the login, although its organisation could not be checked.
        logger.warning("the organisations of the login could not be listed: %s", error)
        return requested
    except UnknownTenant as error:
        raise LoginFailed(f"{error}") from None
    listed = [connection.tenant_id for connection in connected]
    if len(listed) == 1:
        return listed[0]
    account = context.account
    used_before = account.tenant_id if account.client_id == client_id else None
    return used_before if used_before in listed else None


def matching_tenant(tenant_id: str, connected: list[Connection]) -> str:
    """Return the tenant id as Xero writes it.

    Raises:
        UnknownTenant: it is not among the connected ones; the message lists these.
    """
    for connection in connected:
        if connection.tenant_id.lower() == tenant_id.lower():
            return connection.tenant_id
    names = [f"{c.tenant_id} ({safe_text(c.tenant_name or 'no name', 80)})" for c in connected]
    raise UnknownTenant(
        f"the tenant {safe_text(tenant_id)} is not among the connected organisations, which are: "
        + (", ".join(names) or "none")
    )
