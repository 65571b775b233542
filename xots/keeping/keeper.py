"""``TokenKeeper``: keeps the tokens of one account alive, and serves them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from ..backends.base import TokenStore
from ..clock import Clock, SystemClock
from ..errors import UnknownTenant
from ..events import ClockSkewed, Event, Observer
from ..lifecycle.account import AccessToken, Account, Organisation
from ..lifecycle.attention import attention_at
from ..lifecycle.outlook import Outlook
from ..lifecycle.policy import Grant, Policy
from ..lifecycle.schedule import (
    State,
    is_work,
    tick_seconds,
)
from ..lifecycle.tenants import tenant_problem, verified_tenant
from ..sealing import Sealer
from ..tasks import Closed, Tasks
from ..xero.connections import Connection
from ..xero.http import XeroClient
from ..xero.identity_server import IdentityServer
from ..xero.protocol import Credentials
from .acts import MAX_CHOICES_AT_ONCE, Acts
from .changes import Changes
from .checking import StoreCheck
from .context import Context, this_process
from .ending import EndOutcome, end_login, is_revocation_due, resume_revocation
from .following import Following
from .login import LoginAttempt
from .logins import Logins
from .record_store import RecordStore
from .refreshing import Refreshing
from .replica import Replica, StoreChange
from .reporting import store_event
from .serving import Serving
from .siblings import FindSiblings, no_siblings
from .store_clock import StoreClock
from .tenants import TenantList, matching_tenant, write_tenant
from .usage import Fresh, Usage

__all__ = ["TokenKeeper"]


class TokenKeeper:
    """Keeps one account's tokens alive.

    Access tokens are served from memory, without a request to the store or to Xero. The keeper
    closes neither ``store`` nor ``xero``: the code that opened them does.

    Args:
        store: keeps the record.
        xero: the client for the identity server.
        sealer: seals the record.
        policy: the durations that decide when a refresh is due.
        name: the account's name in the store.
        configured: the client's credentials in the settings, if they are there.
        scopes: the scopes in the settings, for a grant without a login.
        tenant_id: the organisation that the settings name.
        fresh: when the access token is refreshed ahead of its expiry.
        observers: receive every event.
        clock: this host's clock.
        rng: the source of jitter.
        changes: the process's subscription to the store; None if the keeper is to have its own.
        store_clock: the process's comparison of clocks; None likewise.
        siblings: finds the accounts that a revocation would end too; by default there are none.
    """

    def __init__(
        self,
        store: TokenStore,
        xero: XeroClient,
        sealer: Sealer,
        *,
        policy: Policy = Policy(),
        name: str = "default",
        configured: Credentials | None = None,
        scopes: tuple[str, ...] = (),
        tenant_id: str | None = None,
        fresh: Fresh = Fresh.ALWAYS,
        observers: Iterable[Observer] = (),
        clock: Clock = SystemClock(),
        rng: random.Random = random.SystemRandom(),
        changes: Changes | None = None,
        store_clock: StoreClock | None = None,
        siblings: FindSiblings = no_siblings,
    ) -> None:
        self._observers = list(observers)
        record = RecordStore(store, sealer, name, self._attention_at)
        self._replica = Replica(record, clock=clock, report=self._store_changed)
        self._context = Context(
            name=name,
            policy=policy,
            replica=self._replica,
            store=store,
            xero=xero,
            configured=configured,
            scopes=scopes,
            tenant_id=tenant_id,
            clock=clock,
            rng=rng,
            process=this_process(),
            emit=self._emit,
            usage=Usage(fresh),
            changes=changes or Changes(store),
            store_clock=store_clock or StoreClock(store, clock),
            siblings=siblings,
        )
        self._tasks = Tasks()
        self._acts = Acts()
        self._following = Following(self._context, self._tasks)
        self._store_check = StoreCheck(self._context, self._tasks)
        self._tenant_list = TenantList(self._context, self._tasks)
        self._refreshing = Refreshing(self._context, self._tasks, self._tenant_list.refreshed)
        self._logins = Logins(self._context, self._tasks, self._tenant_list)
        self._serving = Serving(self._context, self._refreshing, self._logins, self._tasks)

    # ---------- the account as it stands

    @property
    def name(self) -> str:
        """The account's name in the store."""
        return self._context.name

    @property
    def policy(self) -> Policy:
        """The durations that decide when a refresh is due."""
        return self._context.policy

    @property
    def clock(self) -> Clock:
        """This host's clock."""
        return self._context.clock

    @property
    def identity_server(self) -> IdentityServer:
        """The identity server of the account."""
        return self._context.xero.identity_server

    @property
    def account(self) -> Account:
        """The record. Its access token and its wait are dated as this host's clock shows now."""
        return self._context.account

    @property
    def credentials(self) -> Credentials | None:
        """The client's credentials, those of the settings first if they belong to the record's
        client; None if there are none."""
        return next(iter(self._context.credentials), None)

    @property
    def state(self) -> State:
        """The state of the login, including one that a user has started here."""
        return self._logins.state

    @property
    def can_serve(self) -> bool:
        """True if an access token may be served now."""
        return self._serving.can_serve

    @property
    def outlook(self) -> Outlook:
        """The next attempts, and the time when a user must log in if nothing improves."""
        return self._context.outlook

    @property
    def store_problem(self) -> str | None:
        """Why the store cannot be used now; None if it can."""
        return self._replica.problem

    @property
    def tick_seconds(self) -> float:
        """The interval between calls of ``maintain`` that the life of its tokens demands."""
        return tick_seconds(self.account, self.policy)

    @property
    def usage(self) -> Usage:
        """The use of the account by callers of this process."""
        return self._context.usage

    @property
    def unsaved(self) -> bool:
        """True while memory holds a change that the store could not take. It is lost if the process
        ends before that is written."""
        return self._replica.unsaved

    @property
    def rolled_back(self) -> bool:
        """True if ``unsaved``, because the store lost writes and holds an older record."""
        return self._replica.rolled_back

    @property
    def clock_skew(self) -> ClockSkewed | None:
        """The difference of clocks that was found last; None if no difference is known."""
        return self._following.skew

    @property
    def known_organisations(self) -> tuple[Organisation, ...] | None:
        """The organisations of the login as the record has them, however old; None if they were
        never listed. It makes no request."""
        return self._tenant_list.known

    @property
    def tenant_id(self) -> str | None:
        """The organisation that callers are to use; None if there is none, or it is not
        verified."""
        return verified_tenant(self._replica.account, has_list=self._context.has_list)

    @property
    def tenant_problem(self) -> str | None:
        """Why callers are told no organisation; None if they are told one or need none."""
        return tenant_problem(self._replica.account, has_list=self._context.has_list)

    def observe(self, observer: Observer) -> None:
        """Send every event from now on to ``observer`` too."""
        self._observers.append(observer)

    # ---------- lifetime

    async def start(self) -> None:
        """Read the record and begin to follow the store. Call it once, before anything else.

        Raises:
            StoreUnavailable: the store cannot be read.
            SealError: the record cannot be opened. It stays as it is.
        """
        await self._following.start()

    async def close(self) -> None:
        """Start nothing new, and wait until every operation is concluded and written.

        Raises:
            StoreUnavailable: the store did not take an unsaved change in time.
        """
        await self._following.stop()
        await asyncio.gather(self._tasks.drain(), self._acts.drain())
        if self._replica.unsaved:
            await self._following.write_unsaved()

    async def maintain(self) -> None:
        """Do what is due: write an unsaved change, refresh, revoke, compare clocks.

        ``Rotation`` calls this at every tick. It does nothing once the keeper closes.
        """
        self._following.note_skew()  # before this process writes its own dates into the record
        with suppress(Closed):
            if self._replica.needs_settling:
                await self._tasks.run(self._following.settle())
            if is_work(self._context.next_step()):
                await self._refreshing.complete()
            if is_revocation_due(self._context):
                await self._tasks.run(resume_revocation(self._context))
            await self._tasks.run(self._following.check_clocks())

    async def follow(self) -> None:
        """Follow the store now, if another process wrote.

        Raises:
            StoreUnavailable, SealError: as ``start``.
        """
        await self._following.look()

    async def check_store(self) -> str | None:
        """Return why the store cannot be used, as of a second ago at most; None if it can."""
        return await self._store_check.problem()

    # ---------- tokens

    async def token(
        self, min_ttl: timedelta | None = None, *, may_wait: bool = True
    ) -> AccessToken:
        """Return an access token: see ``Serving.token``."""
        return await self._serving.token(min_ttl, may_wait=may_wait)

    def token_now(self, min_ttl: timedelta | None = None) -> AccessToken | None:
        """Return the access token that ``token`` returns at once: see ``Serving.token_now``."""
        return self._serving.token_now(min_ttl)

    def min_life(self, min_ttl: timedelta | None) -> timedelta:
        """Return the least lifetime left of the token of ``token_now``."""
        return self._serving.min_life(min_ttl)

    @property
    def edition(self) -> object | None:
        """The edition of what callers receive at once: see ``Serving.edition``."""
        return self._serving.edition

    def note_reads(self, access: AccessToken, count: int) -> None:
        """Note that callers received this token: see ``Serving.note_reads``."""
        self._serving.note_reads(access, count)

    async def refresh(self, *, by_user: bool = False) -> None:
        """Refresh now: see ``Serving.refresh``."""
        await self._serving.refresh(by_user=by_user)

    # ---------- login and end

    def login_started(self) -> None:
        """Note that a user was sent to the identity server. ``state`` is WAITING until the user
        returns, or the time for the login is over."""
        self._logins.started()

    def login_returned(self) -> None:
        """Note that the user returned from Xero, with or without a code."""
        self._logins.returned()

    async def login(self, attempt: LoginAttempt) -> None:
        """Exchange the code that the browser brought, and keep the tokens that Xero issues for it.

        Raises:
            LoginFailed: it did not succeed; a login that was live before still is.
            TooManyLogins: there were too many attempts before it, so the code was not spent.
            StoreUnavailable, SealError: the store cannot be used, so the code was not spent.
        """
        await self._logins.run(attempt)

    async def end(self, *, forget: bool, everywhere: bool = False) -> EndOutcome:
        """End the login: serve nothing more from it and revoke its tokens; ``forget`` the
        credentials too. An account without a login stays as it is, apart from its credentials.

        If a revocation would end siblings too, it is made only with ``everywhere``, for a caller
        that ends each of them. Otherwise the login's own connections are deleted instead.

        Raises:
            StoreUnavailable, SealError: the store cannot be read; nothing was changed.
        """
        self.login_returned()
        return await self._acts.run(self._end(forget, everywhere))

    async def _end(self, forget: bool, everywhere: bool) -> EndOutcome:
        with self._serving.stopped():  # at once, whatever has to be waited for
            return await end_login(self._context, forget=forget, everywhere=everywhere)

    async def connections(self) -> tuple[Connection, ...]:
        """Return the organisations that the login is connected to, listed some seconds ago at most.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost, TokenUnavailable: as ``token``.
            TenantNotFound: the identity server has no list.
            UpstreamFailed: Xero returned none.
        """
        return (await self._tenant_list.read(await self.token())).connections

    async def tenant(self, text: str, *, may_wait: bool = True) -> str:
        """Return the tenant id of the login's organisation with this id or unique name.

        Raises:
            TenantNotFound, AmbiguousTenant: no organisation, or more than one, is meant.
            And the errors of ``connections`` if the list of the record does not answer it.
        """
        return await self._tenant_list.find(text, lambda: self.token(may_wait=may_wait), may_wait)

    def known_tenant(self, text: str) -> str | None:
        """Return the tenant id that ``tenant`` returns without a request; None if it makes one."""
        return self._tenant_list.known_id(text)

    async def choose_tenant(self, tenant_id: str) -> None:
        """Use this organisation from now on.

        Raises:
            UnknownTenant: it is not among the connected ones, or the login has changed meanwhile.
            StoreUnavailable, SealError: the store cannot be read or written.
            And the errors of ``connections``.
        """
        context = self._context
        if context.policy.grant is Grant.CLIENT_CREDENTIALS and context.tenant_id is not None:
            raise UnknownTenant(
                "the setting tenant_id names the organisation of this account: change it there"
            )
        consent_id = self.account.consent_id
        tenant_id = matching_tenant(tenant_id, await self.connections())
        choice = write_tenant(self._context, tenant_id, consent_id)
        await self._acts.run(choice, at_most=MAX_CHOICES_AT_ONCE)

    # ---------- inside

    def _attention_at(self, account: Account) -> datetime | None:
        """Return when a record needs attention, whether callers use it or not: the store's index
        tells it to all processes."""
        if self._context.lacks_credentials:
            return None
        ahead = self._context.usage.fresh is Fresh.ALWAYS
        return attention_at(account, self.clock.now(), self.policy, ahead=ahead)

    def _store_changed(self, change: StoreChange) -> None:
        self._emit(store_event(self._context.situation(), change))

    def _emit(self, event: Event) -> None:
        server = self.identity_server.name
        if event.server != server:
            event = msgspec.structs.replace(event, server=server)
        for observer in self._observers:
            observer(event)
