"""The organisations (tenants) of a login: their list at Xero, and the one to use."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from msgspec.structs import replace

from ..errors import LoginFailed, UnknownTenant, UpstreamFailed
from ..events import TenantChosen
from ..lifecycle.account import AccessToken
from ..safe_text import safe_text
from ..secret import Secret
from ..xero.connections import Connection, read_connections
from ..xero.protocol import Response
from .context import Context

__all__ = ["Listed", "TenantList", "matching_tenant", "tenant_of_login", "write_tenant"]

logger = logging.getLogger("xots.keeper")

LIST_KEPT_SECONDS = 10.0
"""Time for which a list, or the failure to read it, is kept. A new organisation needs a new login,
which drops it."""


@dataclass(frozen=True)
class Listed:
    """The list of organisations, as Xero sent it and as it was read."""

    response: Response
    connections: list[Connection]


@dataclass(frozen=True)
class _Kept:
    """The outcome of a request for the list."""

    consent_id: str | None
    until: float
    """By ``Clock.elapsed``."""
    outcome: Listed | UpstreamFailed


class TenantList:
    """The list of the login's organisations, requested at most once in ``LIST_KEPT_SECONDS``.

    Callers at the same time share one request. A list belongs to one consent.

    Args:
        context: the parts of the account's keeper.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._requesting = asyncio.Lock()
        self._last: _Kept | None = None
        self._known: tuple[str, list[Connection]] | None = None

    @property
    def known(self) -> list[Connection] | None:
        """The list that was read last for this consent, however old; None if there is none."""
        if self._known is None or self._known[0] != self._context.account.consent_id:
            return None
        return self._known[1]

    async def read(self, access: AccessToken) -> Listed:
        """Return the list, from memory or with the login's access token from Xero.

        Raises:
            UpstreamFailed: Xero sent none, now or just before, or the identity server has none.
        """
        if not self._context.xero.endpoints.connections_url:
            raise UpstreamFailed(
                "this identity server has no list of organisations (connections_url is empty)"
            )
        consent_id = self._context.account.consent_id
        async with self._requesting:
            outcome = self._kept(consent_id)
            if outcome is None:
                outcome = await self._requested(access, consent_id)
        if isinstance(outcome, UpstreamFailed):
            raise UpstreamFailed(str(outcome))
        return outcome

    def keep(self, listed: Listed | None) -> None:
        """Keep the list that was read with the access token of the login in the record, if it was
        read."""
        if listed is not None:
            self._keep(listed, self._context.account.consent_id)

    def _kept(self, consent_id: str | None) -> Listed | UpstreamFailed | None:
        kept, elapsed = self._last, self._context.clock.elapsed()
        if kept is None or kept.consent_id != consent_id or elapsed >= kept.until:
            return None
        return kept.outcome

    async def _requested(
        self, access: AccessToken, consent_id: str | None
    ) -> Listed | UpstreamFailed:
        outcome: Listed | UpstreamFailed
        try:
            outcome = await _request_list(self._context, access.value)
        except UpstreamFailed as error:
            outcome = error
        self._keep(outcome, consent_id)
        return outcome

    def _keep(self, outcome: Listed | UpstreamFailed, consent_id: str | None) -> None:
        until = self._context.clock.elapsed() + LIST_KEPT_SECONDS
        self._last = _Kept(consent_id, until, outcome)
        if isinstance(outcome, Listed) and consent_id is not None:
            self._known = consent_id, outcome.connections


async def _request_list(context: Context, access_token: Secret) -> Listed:
    """Return the list of organisations.

    Raises:
        UpstreamFailed: there was no response, or not one with status 200 and a list.
    """
    response = await context.xero.connections(access_token)
    return Listed(response, read_connections(response))


async def write_tenant(context: Context, tenant_id: str, consent_id: str | None) -> None:
    """Write the organisation to use into the record of the login ``consent_id``, if it is another
    one than before.

    Raises:
        UnknownTenant: another login was recorded meanwhile, or this one was ended.
        StoreUnavailable, SealError: the store cannot be read or written.
    """
    async with context.replica.locked():
        if context.replica.account.consent_id != consent_id:
            raise UnknownTenant("the login has changed meanwhile: choose the organisation again")
        if context.replica.account.tenant_id == tenant_id:
            return
        await context.replica.update(lambda account: replace(account, tenant_id=tenant_id))
    at = context.clock.now()
    context.emit(TenantChosen(account=context.name, at=at, tenant_id=tenant_id))


async def tenant_of_login(
    context: Context, client_id: str, requested: str | None, access_token: Secret
) -> tuple[str | None, Listed | None]:
    """Return the organisation that a new login is to use: the requested one, the only one, or the
    one that the same client used before. Return the list of organisations too, if it was read.

    Raises:
        LoginFailed: the requested one is not connected.
    """
    if not context.xero.endpoints.connections_url:
        return requested, None
    try:
        found = await _request_list(context, access_token)
        if requested is not None:
            return matching_tenant(requested, found.connections), found
    except UpstreamFailed as error:
        # Keep the login, although its organisation could not be checked.
        logger.warning("the organisations of the login could not be listed: %s", error)
        return requested, None
    except UnknownTenant as error:
        raise LoginFailed(f"{error}") from None
    listed = [connection.tenant_id for connection in found.connections]
    if len(listed) == 1:
        return listed[0], found
    account = context.account
    used_before = account.tenant_id if account.client_id == client_id else None
    return used_before if used_before in listed else None, found


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
        "the chosen tenant is not among the connected organisations, which are: "
        + (", ".join(names) or "none")
    )
