"""The organisations (tenants) of a login: their list at Xero, and the one to use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec
from msgspec.structs import replace

from ..errors import (
    AmbiguousTenant,
    LoginFailed,
    SealError,
    StoreUnavailable,
    TenantNotFound,
    TokenUnavailable,
    UnknownTenant,
    UpstreamFailed,
)
from ..events import TenantChosen
from ..lifecycle.account import (
    MAX_NAME_LENGTH,
    AccessToken,
    Account,
    Organisation,
)
from ..lifecycle.tenants import after_list, tenant_problem, verified_tenant
from ..safe_text import safe_text
from ..secret import Secret
from ..tasks import Closed, SharedTask, Tasks
from ..xero.connections import Connection, Listed, read_connections
from .context import Context

__all__ = [
    "TenantList",
    "matching_tenant",
    "organisations_of",
    "skipped_text",
    "tenant_of_login",
    "write_tenant",
]

logger = logging.getLogger("xots.keeper")

LIST_KEPT_SECONDS = 10.0
"""Time for which a list, or the failure to read it, is kept at least. A new organisation needs a
new login, which drops it."""

LIST_INTERVAL_SECONDS = 86400.0
"""Interval between lists that no user and no caller demands."""

NO_LIST = (
    "the identity server has no list of organisations: leave tenant out, or set connections_url"
)


class _Kept(msgspec.Struct, frozen=True):
    """The outcome of a request for the list."""

    consent_id: str | None
    until: float
    """By ``Clock.elapsed``."""
    outcome: Listed | UpstreamFailed


class TenantList:
    """The list of the login's organisations, requested at most once in ``LIST_KEPT_SECONDS``.

    Callers at the same time share one request. A list belongs to one consent. The record keeps the
    organisations too, for a restart and for other processes. It is written only if the list changes
    it, and no caller waits for that.

    Args:
        context: the parts of the account's keeper.
        tasks: the keeper's tasks, which the write belongs to.
    """

    def __init__(self, context: Context, tasks: Tasks) -> None:
        self._context = context
        self._requesting = asyncio.Lock()
        self._last: _Kept | None = None
        self._writing = SharedTask(tasks)
        self._checking = SharedTask(tasks)
        self._due_at = context.clock.elapsed() + LIST_INTERVAL_SECONDS
        """When the list is requested again without a demand, by ``Clock.elapsed``."""

    @property
    def known(self) -> tuple[Organisation, ...] | None:
        """The organisations of the login as the record has them, however old; None if there is no
        login, or they were never listed."""
        account = self._context.account
        return account.organisations if account.consent_id is not None else None

    async def read(self, access: AccessToken) -> Listed:
        """Return the list, from memory or with the login's access token from Xero.

        Raises:
            TenantNotFound: the identity server has none.
            UpstreamFailed: Xero sent none, now or just before. A failure with a time to wait is
                kept for as long, and names the time that is left.
        """
        if self._context.is_foreign:
            raise UpstreamFailed("the login belongs to another identity server, client or grant")
        if not self._context.has_list:
            raise TenantNotFound(NO_LIST, [])
        consent_id = self._context.account.consent_id
        async with self._requesting:
            kept = self._kept(consent_id) or await self._requested(access, consent_id)
            left = kept.until - self._context.clock.elapsed()
        outcome = kept.outcome
        if isinstance(outcome, Listed):
            self._write_if_new(organisations_of(outcome.connections), consent_id)
        if isinstance(outcome, UpstreamFailed):
            is_demanded = outcome.retry_after_seconds is not None
            raise type(outcome)(str(outcome), left if is_demanded else None)
        return outcome

    async def find(
        self, text: str, token: Callable[[], Awaitable[AccessToken]], may_wait: bool
    ) -> str:
        """Return the tenant id of the organisation with this id, in any case, or this unique name.

        If the record knows none, Xero is asked: the record's list is cut, and may be old.

        Args:
            text: the id or the name.
            token: returns the login's access token.
            may_wait: False if no request to Xero may be waited for.

        Raises:
            TenantNotFound, AmbiguousTenant: no organisation, or more than one, is meant.
            UpstreamFailed: as ``read``.
            TokenUnavailable: the list is needed, and the caller may not wait. And those of
                ``token``.
        """
        if found := self.known_id(text):
            return found
        if self._context.has_list and not may_wait:
            server = self._context.server_name
            raise TokenUnavailable(f"many requests wait for {server} already; retry", 1.0)
        listed = organisations_of((await self.read(await token())).connections)
        if found := named(text, listed):
            return found
        raise TenantNotFound(
            f"no organisation of this login has the id or name {safe_text(text, 80)!r}; they are: "
            + _in_words(listed),
            [(one.tenant_id, one.name) for one in listed],
        )

    def known_id(self, text: str) -> str | None:
        """Return what ``find`` returns without a request; None if the record does not tell it.

        Raises:
            AmbiguousTenant: more than one organisation has the name.
        """
        account = self._context.account
        used = account.tenant_id if account.consent_id is not None else None
        if not self._context.has_list and used is not None and used.lower() == text.lower():
            return used
        return named(text, self.known or ())

    def refreshed(self) -> None:
        """Request the list after a refresh, if the organisation to use was not verified yet or no
        list was read for a day. No caller waits for it."""
        context, account = self._context, self._context.account
        is_due = account.organisations is None or context.clock.elapsed() >= self._due_at
        if not (context.has_list and is_due) or account.consent_id is None:
            return
        if (access := account.access) is not None:
            with suppress(Closed):
                self._checking.join(lambda: self._check(access))

    async def _check(self, access: AccessToken) -> None:
        try:
            await self.read(access)
        except UpstreamFailed as error:
            name = self._context.name
            logger.warning("%s: the organisations could not be listed: %s", name, error)

    def keep(self, listed: Listed | None) -> None:
        """Keep the list that was read with the access token of the login in the record, if it was
        read."""
        if listed is not None:
            self._keep(listed, self._context.account.consent_id)

    def _kept(self, consent_id: str | None) -> _Kept | None:
        kept, elapsed = self._last, self._context.clock.elapsed()
        if kept is None or kept.consent_id != consent_id or elapsed >= kept.until:
            return None
        return kept

    async def _requested(self, access: AccessToken, consent_id: str | None) -> _Kept:
        outcome: Listed | UpstreamFailed
        try:
            outcome = await _request_list(self._context, access.value)
        except UpstreamFailed as error:
            outcome = error
        kept = self._keep(outcome, consent_id)
        if isinstance(outcome, Listed):
            self._due_at = self._context.clock.elapsed() + LIST_INTERVAL_SECONDS
        return kept

    def _keep(self, outcome: Listed | UpstreamFailed, consent_id: str | None) -> _Kept:
        seconds = LIST_KEPT_SECONDS
        if isinstance(outcome, UpstreamFailed) and outcome.retry_after_seconds is not None:
            longest = self._context.policy.max_wait.total_seconds()
            seconds = max(seconds, min(outcome.retry_after_seconds, longest))
        until = self._context.clock.elapsed() + seconds
        self._last = _Kept(consent_id, until, outcome)
        return self._last

    def _write_if_new(self, found: tuple[Organisation, ...], consent_id: str | None) -> None:
        account, at = self._context.replica.account, self._context.clock.now()
        if after_list(account, found, listed_at=at) == account:
            return
        with suppress(Closed):
            self._writing.join(lambda: write_organisations(self._context, found, consent_id, at))


def organisations_of(connections: Iterable[Connection]) -> tuple[Organisation, ...]:
    """Return the organisations of a list, in the order of their names: Xero's order changes. The
    record keeps the first ``MAX_ORGANISATIONS`` of them."""
    found = (
        Organisation(
            connection_id=connection.id,
            tenant_id=connection.tenant_id,
            name=connection.tenant_name,
            kind=connection.tenant_type,
            auth_event_id=connection.auth_event_id,
        )
        for connection in connections
    )
    return tuple(sorted(found, key=lambda o: ((o.name or "").casefold(), o.tenant_id)))


async def _request_list(context: Context, access_token: Secret) -> Listed:
    """Return the list of organisations, and log the number of entries that cannot be used.

    Raises:
        UpstreamFailed: there was no response, or not one with status 200 and a list.
    """
    response = await context.xero.connections(access_token)
    listed = read_connections(response, context.clock.now())
    if listed.skipped:
        logger.warning("%s", skipped_text(listed.skipped))
    return listed


def skipped_text(number: int) -> str:
    """Return the sentence about entries of the list that name no valid organisation."""
    return f"the list of organisations holds {number} entries that cannot be used; they are skipped"


async def write_organisations(
    context: Context, found: tuple[Organisation, ...], consent_id: str | None, listed_at: datetime
) -> None:
    """Write the list into the record of the login ``consent_id``, if that changes it. A failed
    store only costs the record its list: the next request writes it."""
    replica = context.replica

    def change(account: Account) -> Account:
        if account.consent_id != consent_id:
            return account
        return after_list(account, found, listed_at=listed_at)

    before = replica.account
    try:
        async with replica.locked():
            if change(replica.account) != replica.account:
                await replica.update(change)
    except (StoreUnavailable, SealError) as error:
        replica.failed(error)
        return
    if replica.account.consent_id != consent_id:
        return
    used = verified_tenant(replica.account, has_list=True)
    if used not in (None, verified_tenant(before, has_list=True)):
        at = context.clock.now()
        context.emit(TenantChosen(account=context.name, at=at, tenant_id=used))
    problem = tenant_problem(replica.account, has_list=True)
    if problem not in (None, tenant_problem(before, has_list=True)):
        logger.warning("%s: %s", context.name, problem)


async def write_tenant(context: Context, tenant_id: str, consent_id: str | None) -> None:
    """Write the organisation to use into the record of the login ``consent_id``, if it is another
    one than before.

    Raises:
        UnknownTenant: another login was recorded meanwhile, or this one was ended.
        StoreUnavailable, SealError: the store cannot be read or written.
    """
    replica = context.replica

    def change(account: Account) -> Account:  # again if another process wrote after our lease
        if account.consent_id != consent_id:
            raise UnknownTenant("the login has changed meanwhile: choose the organisation again")
        return replace(account, tenant_id=tenant_id, lists_without_tenant=0)

    async with replica.locked():
        if change(replica.account) == replica.account:
            return
        await replica.update(change)
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
    if not context.has_list:
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


def matching_tenant(tenant_id: str, connected: Sequence[Connection]) -> str:
    """Return the tenant id as Xero writes it.

    Raises:
        UnknownTenant: it is not among the connected ones; the message lists these.
    """
    for connection in connected:
        if connection.tenant_id.lower() == tenant_id.lower():
            return connection.tenant_id
    raise UnknownTenant(
        "the chosen tenant is not among the connected organisations, which are: "
        + _in_words(organisations_of(connected))
    )


def named(text: str, organisations: Iterable[Organisation]) -> str | None:
    """Return the tenant id of the organisation with this id, or with this name if it is the only
    one; None if there is none. The case of both does not matter. An id comes before a name.

    Raises:
        AmbiguousTenant: several organisations have this name.
    """
    organisations = tuple(organisations)
    for one in organisations:
        if one.tenant_id.lower() == text.lower():
            return one.tenant_id
    name = _name(text)
    same = {one.tenant_id: one for one in organisations if name and _name(one.name) == name}
    if len(same) > 1:
        raise AmbiguousTenant(
            f"several organisations of this login have the name {safe_text(text, 80)!r}: give the "
            f"id of one. They are: {_in_words(same.values())}",
            [(one.tenant_id, one.name) for one in same.values()],
        )
    return next(iter(same), None)


def _name(name: str | None) -> str:
    """Return a name as it is compared: cut as in the record, without regard to its case."""
    return (name or "")[:MAX_NAME_LENGTH].strip().casefold()


def _in_words(organisations: Iterable[Organisation]) -> str:
    names = [f"{one.tenant_id} ({safe_text(one.name or 'no name', 80)})" for one in organisations]
    return ", ".join(names) or "none"
