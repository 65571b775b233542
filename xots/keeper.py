"""``TokenKeeper``: the only code that takes the lease, re-reads, calls Xero and writes.

What to do is decided by ``lifecycle``; this room does it, in the one order that loses nothing:

1. Callers in one process share one task, shielded from any caller's disconnect.
2. Take the lease, then read again: somebody else may have refreshed.
3. Write the intent. If that fails, the token is not spent.
4. Call Xero once.
5. Write what came of it, before anybody is served from it.
6. If that write finds that somebody else wrote meanwhile, the new token joins the record as a rival; if the store
   fails, the record is held in memory and written as soon as the store works again (``record``).

Access tokens are served from the snapshot in memory, without a word to the store or to Xero.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace

from . import lifecycle
from .account import AccessToken, Account, RefreshToken, Secret
from .backends.base import Lease, TokenStore, stopped
from .clock import Clock, SystemClock
from .errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    SealError,
    StaleWrite,
    StoreUnavailable,
    TokenUnavailable,
    UnknownTenant,
    UpstreamFailed,
)
from .events import (
    ConsentWasLost,
    Ended,
    Event,
    Followed,
    LoggedIn,
    LoginRefused,
    Observer,
    Refreshed,
    RefreshFailed,
    RevocationFailed,
    Revoked,
    StoreDegraded,
    StoreLostWrites,
    StoreRecovered,
    SuccessorMissing,
    TakenOver,
    TenantChosen,
    TokenRead,
    problem_in_words,
    time_text,
)
from .lifecycle import (
    ClientRefused,
    Issued,
    Outcome,
    Outlook,
    Policy,
    Refused,
    Retrying,
    Spend,
    State,
    Step,
    Wait,
)
from .record import Record
from .sealing import Sealer
from .xero import Answer, Connection, Credentials, XeroClient, read_connections

__all__ = ["LEASE_SECONDS", "LOGIN_LIFE", "LoginAttempt", "TokenKeeper"]

logger = logging.getLogger("xots.keeper")

LEASE_SECONDS = 12.0
"""How long a vanished holder's lease outlives it, where a store can't tell: longer than a pause of a busy machine,
short enough that a caller waits it out."""

LOGIN_LIFE = timedelta(minutes=10)
"""How long a login that was begun may take; Xero's code itself lives 5 minutes."""

STOP_PATIENCE_SECONDS = 20.0
"""How long a process that is to stop tries to write what only it knows: well inside systemd's 90 seconds."""

SERVED_PATIENCE_SECONDS = 5.0
"""How long a caller waits for a refresh where the old access token may be served to him instead."""

CALLER_PATIENCE_SECONDS = 60.0
"""How much longer he waits where it may not: longer than the lease, Xero's deadline and a working store take."""

WATCH_AGAIN_SECONDS = 1.0
"""How long to wait before a store that could not tell of changes is asked again."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoginAttempt:
    """What the browser brought back from Xero, and what it was sent there with."""

    credentials: Credentials
    code: Secret
    verifier: Secret | None
    redirect_uri: str
    scopes: tuple[str, ...]
    scopes_set: tuple[str, ...] = ()
    """What the settings name, where the person chose another set."""
    tenant_id: str | None = None


class TokenKeeper:
    """Keeps one account's tokens alive.

    Args:
        store: where the record is kept.
        xero: whom to ask.
        sealer: what the record is sealed with.
        policy: the durations that decide what is due.
        name: the account's name in the store.
        configured: the client's credentials from the settings, if they are there.
        observers: what is told of every event.
        clock: this host's.
        chance: where the jitter comes from.
    """

    def __init__(
        self,
        store: TokenStore,
        xero: XeroClient,
        sealer: Sealer,
        *,
        policy: Policy | None = None,
        name: str = "default",
        configured: Credentials | None = None,
        observers: Iterable[Observer] = (),
        clock: Clock = SystemClock(),
        chance: random.Random | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.name = name
        self.clock = clock
        self._store = store
        self._xero = xero
        self._configured = configured
        self._observers = list(observers)
        self._chance = chance or random.SystemRandom()
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._record = Record(
            store,
            sealer,
            name,
            on_health=self._health_changed,
            on_lost_writes=self._writes_were_lost,
        )
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._waiting_until: datetime | None = None
        self._ending = False
        self._acting = 0
        """How many acts are under way."""
        self._acts = 0
        """How many have begun."""
        self._watching: asyncio.Task[None] | None = None
        self._first_seen: tuple[AccessToken | None, float] = (None, 0.0)
        """The record's access token, and when it ends by the clock that can't be set."""
        self._well_dated: tuple[AccessToken | None, str | None, float] = (None, None, 0.0)
        """The last one that was not old when it was first seen, of which consent, and its end by that clock."""
        self._rest_until = 0.0
        """After a failure of our own, nothing is tried here before: another host, whose clock is ahead, may take the
        wait in the record for over, and so may we take its; each waits for itself, some seconds at least."""
        self._first_sent: tuple[str, float] = ("", 0.0)
        """The refresh token that was spent here last, by its fingerprint, and when first, by the same clock."""

    # ------------------------------------------------------------------------------------ what is known

    @property
    def account(self) -> Account:
        """The snapshot of the record that is served from.

        Since its access token was first seen here, time has passed by whichever clock says more: one that is set back
        does not lengthen its life. Where another host's clock is wrong, or ours, its new token seems old: the one
        before it, which is as good at Xero as ever, is served to its end, and hosts do not refresh against each other.
        """
        account, now, elapsed = self._record.account, self.clock.now(), self.clock.elapsed()
        if account.access is None:
            return account
        if account.access != self._first_seen[0]:
            self._see(
                account.access, account.consent_id, lifecycle.good_for(account, now).total_seconds()
            )
        dated = lifecycle.ending_within(
            account, timedelta(seconds=self._first_seen[1] - elapsed), now
        )
        access, consent_id, ends_at = self._well_dated
        if access not in (None, account.access) and consent_id == account.consent_id:
            other = replace(account, access=access)
            other = lifecycle.ending_within(other, timedelta(seconds=ends_at - elapsed), now)
            if lifecycle.good_for(other, now) > lifecycle.good_for(dated, now):
                return other
        return dated

    def _see(self, access: AccessToken, consent_id: str | None, left: float) -> None:
        """A new access token, which lives for so many seconds more."""
        self._first_seen = access, self.clock.elapsed() + left
        if left > access.life_seconds / 2:
            self._well_dated = access, consent_id, self._first_seen[1]

    @property
    def credentials(self) -> Credentials | None:
        """The client's credentials: the configured ones where they are of the record's client, else the record's."""
        choices = self._credentials()
        return choices[0] if choices else None

    def _credentials(self) -> list[Credentials]:
        """What the client may authenticate with, the likeliest first: a secret that was changed in the settings is
        tried, and the record's too, so that neither a new nor a mistyped one costs the login."""
        account, configured = self.account, self._configured
        if account.client_id is None:
            return [configured] if configured else []
        kept = Credentials(client_id=account.client_id, client_secret=account.client_secret)
        if configured is None or configured == kept:
            return [kept]
        if configured.client_id == kept.client_id:
            return [configured, kept]
        # Another client's credentials are for the next login, once nothing is kept of this one.
        return [kept] if account.consent_id or account.revocation else [configured]

    @property
    def state(self) -> State:
        """Where the login stands now."""
        state = lifecycle.state_of(self.account, self.clock.now(), self.policy)
        if state in (State.NO_CREDENTIALS, State.NOT_LOGGED_IN, State.REVOKED):
            if self._waiting_until is not None and self.clock.now() < self._waiting_until:
                return State.WAITING
            if state is State.NO_CREDENTIALS and self._configured:
                return State.NOT_LOGGED_IN
        return state

    @property
    def can_serve(self) -> bool:
        """Is there an access token that may be served now?"""
        return self._good_for(lifecycle.last_seconds(self.account, self.policy)) is not None

    @property
    def store_problem(self) -> str | None:
        """Why the store can't be used just now; None when it can."""
        return self._record.problem

    @property
    def unwritten(self) -> bool:
        """Does memory hold what the store could not take? It is lost if the process ends before that is written."""
        return self._record.unwritten

    @property
    def rolled_back(self) -> bool:
        """Is that because the store lost what it had acknowledged, and holds an older record?"""
        return self._record.rolled_back

    @property
    def outlook(self) -> Outlook:
        """What is being retried and when, and when a person will be needed if nothing improves."""
        before_it = self.unwritten and not self.rolled_back
        outlook = lifecycle.outlook(
            self.account, self.clock.now(), self.policy, unwritten=before_it
        )
        # Nothing is tried here with what is another identity server's.
        return (
            dataclasses.replace(outlook, retrying=None, next_try_at=None)
            if self._foreign
            else outlook
        )

    def observe(self, observer: Observer) -> None:
        """Tell one more observer of every event from now on."""
        self._observers.append(observer)

    # ---------------------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        """Read the record. To be called once, before anything else.

        Raises:
            StoreUnavailable: the store can't be read.
            SealError: the record can't be opened; it is left as it is.
        """
        await self._record.read()
        if self._store.shared:
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Begin nothing new, wait until all that was begun is concluded and kept, then give everything back.

        Raises:
            StoreUnavailable: the store could not take what is held in memory, for as long as one can wait.
        """
        self._closing = True
        if self._watching is not None:
            await stopped(self._watching)
        while self._tasks:
            await asyncio.wait(self._tasks)
        give_up_at = time.monotonic() + STOP_PATIENCE_SECONDS
        while self._record.unwritten:
            await self._settle()
            if self._record.unwritten and time.monotonic() > give_up_at:
                break
            await asyncio.sleep(WATCH_AGAIN_SECONDS if self._record.unwritten else 0)
        self._xero.close()
        await self._store.close()
        if self._record.unwritten:
            what_follows = (
                "the next start goes on from the older record that the store holds: a person may have to log in"
                if self.rolled_back
                else "the next start goes on from the record before it: a refresh can be repeated for 30 minutes, a "
                "login or its end has to be done again"
            )
            raise StoreUnavailable(
                f"stopped with a change of {self.name!r} that the store could not take ({self._record.problem}); "
                + what_follows
            )

    # ------------------------------------------------------------------------------------- for callers

    async def token(self, min_ttl: timedelta | None = None) -> AccessToken:
        """An access token that lives at least ``min_ttl`` (None: as long as the policy promises).

        Served from memory; Xero is asked only if the token there is too short. Should that fail, a caller who did
        not name a ``min_ttl`` gets what is left of the old token, and so does one who has waited some seconds. One that
        was minted for a caller is never refreshed for him, however long its answer took.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: a person has to act.
            TokenUnavailable: not now, but soon.
        """
        ours, asked_at = False, self.clock.now()
        while (
            (access := self._good_for(self._demanded(min_ttl))) is None
            and not ours
            and self._may_refresh(min_ttl)
        ):
            # A refresh that others began may have been content with less than is needed here: then ours follows.
            ours = await self._refresh_together(
                needed=self._demanded(min_ttl), may_serve=min_ttl is None
            )
        minted = (
            ours and self.account.access is not None and self.account.access.issued_at >= asked_at
        )
        if access is None and (
            min_ttl is None or minted
        ):  # none lives longer than one that was minted for him
            access = self._good_for(lifecycle.last_seconds(self.account, self.policy))
        if access is None:
            raise self._no_token()
        self._emit(
            TokenRead(account=self.name, at=self.clock.now(), token=access.value.fingerprint)
        )
        return access

    async def refresh(self) -> None:
        """Refresh now, due or not.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: there is nothing to refresh.
            TokenUnavailable: it did not succeed; nothing is lost.
        """
        before = self._record.account
        if before.current is not None:
            meant = before.current.value.fingerprint
            while not await self._refresh_together(meant=meant):
                # One that others began may have been over but for its lease: then ours follows.
                if not isinstance(self._next_step(meant=meant), Spend):
                    break
        if self.account.consent_id is None or self._record.account.access == before.access:
            raise self._no_token()

    async def tend(self) -> None:
        """What the tick calls: write what the store could not take before, refresh and revoke if it is due."""
        if self._closing:
            return
        if self._record.unwritten or self._record.problem is not None:
            await self._in_a_task(self._settle())
        if isinstance(self._next_step(), Spend):
            await self._refresh_together()
        if self._revocation_due():
            await self._in_a_task(self._take_up_revocation())

    async def login(self, attempt: LoginAttempt) -> None:
        """Exchange the code that the browser brought, and keep what Xero issues for it.

        Raises:
            LoginFailed: it did not succeed; a login that was live before still is.
            StoreUnavailable, SealError: the store can't be read or written, so the code was not spent.
        """
        await self._in_a_task(self._login(attempt))

    def login_began(self) -> None:
        """A person was sent to Xero: until he comes back, or the time for it is over, the state says so."""
        self._waiting_until = self.clock.now() + LOGIN_LIFE

    def login_came_back(self) -> None:
        """The person came back from Xero, however it went."""
        self._waiting_until = None

    async def end(self, *, forget: bool) -> bool:
        """End the login: serve nothing more from it and revoke its tokens at Xero; ``forget`` the credentials too.

        An account that nobody is logged in to stays as it is, but for what is to be forgotten.

        Returns:
            True when Xero has revoked the tokens; False when it could not be told yet, which is tried again.

        Raises:
            StoreUnavailable, SealError: the store can't be read; nothing was changed.
        """
        self.login_came_back()
        return await self._in_a_task(self._end(forget))

    async def connections(self) -> list[Connection]:
        """The organisations that the login is connected to.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost, TokenUnavailable: as ``token``.
            UpstreamFailed: Xero gave no list.
        """
        return read_connections(await self.connections_answer())

    async def connections_answer(self) -> Answer:
        """What Xero's connections endpoint answers, as it is; raises as ``connections``."""
        if not self._xero.endpoints.connections_url:
            raise UpstreamFailed(
                "this identity server has no list of organisations (connections_url is empty)"
            )
        answer = await self._xero.connections((await self.token()).value)
        if answer.status != 200:
            raise UpstreamFailed(f"the connections endpoint answered with status {answer.status}")
        return answer

    async def check_store(self) -> str | None:
        """Why the store can't be read and written now; None when it can."""
        if self._record.problem is None:
            try:
                await self._store.check()
            except StoreUnavailable as error:
                return str(error)
        return self._record.problem

    async def choose_tenant(self, tenant_id: str) -> None:
        """Use this organisation from now on.

        Raises:
            UnknownTenant: it is not among those that are connected.
            And what ``connections`` raises.
        """
        tenant_id = _among(tenant_id, await self.connections())
        await self._in_a_task(self._choose_tenant(tenant_id))

    # ------------------------------------------------------------------------------------- the one task

    @asynccontextmanager
    async def _door(self) -> AsyncIterator[Lease]:
        """The one way to act on the account: take the lease, then read again."""
        async with self._store.lease(self.name, LEASE_SECONDS) as lease:
            self._acting, self._acts = self._acting + 1, self._acts + 1
            try:
                await self._record.read()
                yield lease
            finally:
                self._acting -= 1

    async def _in_a_task(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end even if the caller goes away; ``close`` waits for it."""
        if self._closing:
            work.close()
            raise TokenUnavailable(
                "the server is stopping; try again when it is back", WATCH_AGAIN_SECONDS
            )
        return await asyncio.shield(self._begin(work))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits gets the error itself; this line is for the case that nobody is left waiting.
            logger.debug("%s: %s", type(error).__name__, error)

    async def _refresh_together(
        self, *, needed: timedelta | None = None, meant: str | None = None, may_serve: bool = False
    ) -> bool:
        """Join the refresh that is under way, or begin one; return when it is concluded, however it went, or goes on
        for longer than a caller waits. ``may_serve``: there is a token for him meanwhile.

        False if another may be begun now.
        """
        under_way = self._under_way
        if ours := under_way is None:
            if self._closing:
                return True
            under_way = self._refreshing = self._begin(self._refresh(needed, meant))
        # It goes on, whatever becomes of its callers.
        done, _ = await asyncio.wait([under_way], timeout=SERVED_PATIENCE_SECONDS)
        if not done and not (may_serve and self.can_serve):
            done, _ = await asyncio.wait([under_way], timeout=CALLER_PATIENCE_SECONDS)
        for task in done:
            task.result()
        return ours or not done

    @property
    def _under_way(self) -> asyncio.Task[None] | None:
        """The refresh that can be joined. One that is done can't: whoever waited for it in a loop would never yield."""
        return (
            self._refreshing
            if self._refreshing is not None and not self._refreshing.done()
            else None
        )

    # ---------------------------------------------------------------------------------------- a refresh

    @property
    def _foreign(self) -> bool:
        """Is what is kept another identity server's? Then its tokens are not for the one that is asked here."""
        return self.account.token_url not in (None, self._xero.endpoints.token_url)

    def _next_step(self, *, needed: timedelta | None = None, meant: str | None = None) -> Step:
        now = self.clock.now()
        step = lifecycle.next_step(self.account, now, self.policy, needed=needed, meant=meant)
        return Wait(now + self._rest) if self._rest and isinstance(step, Spend) else step

    def _revocation_due(self) -> bool:
        return not self._rest and lifecycle.revocation_due(
            self.account, self.clock.now(), self.policy
        )

    @property
    def _rest(self) -> timedelta:
        """How long nothing is tried yet, as long as the record knows of a wait at all."""
        waiting = self._record.account.retry_not_before is not None
        return (
            timedelta(seconds=max(self._rest_until - self.clock.elapsed(), 0))
            if waiting
            else timedelta(0)
        )

    def _rests(self, account: Account, now: datetime) -> None:
        """Wait as long as ``account`` says; no longer than a back-off lasts, since others may change what that is."""
        wait = account.retry_not_before - now if account.retry_not_before else timedelta(0)
        self._rest_until = (
            self.clock.elapsed() + min(wait, self.policy.longest_backoff).total_seconds()
        )

    async def _refresh(self, needed: timedelta | None, meant: str | None) -> None:
        """Refresh if, under the lease, it is still due. Never raises: what went wrong is in the snapshot."""
        answers = 0
        try:
            async with self._door() as lease:
                while not (lease.lost or self._foreign):
                    step = self._next_step(needed=needed, meant=meant)
                    if not isinstance(step, Spend):
                        return
                    try:
                        begun = await self._intend(step.token)
                    except StaleWrite:
                        # Somebody slept past his own lease and wrote under ours: look at what he wrote.
                        await self._record.read()
                        continue
                    if lease.lost:
                        return
                    match await self._spend(begun, step.token, lease):
                        case Issued() if not answers:
                            # A retry may bring an access token whose life is over: then the next is due at once.
                            answers, needed, meant = 1, None, None
                        case Refused():
                            pass  # the next candidate, if there is one
                        case _:
                            return
        except (StoreUnavailable, SealError) as error:
            self._record.failed(error)

    async def _intend(self, token: RefreshToken) -> Account:
        """Write the intent to spend ``token``; raises as ``Record.save``."""
        # As it was written, not as it is dated here: the clock that is wrong may be ours.
        found, now = self._record.account, self.clock.now()
        begun = await self._record.save(
            lifecycle.begin_refresh(found, token, by=self._process, now=now)
        )
        if cut_off := lifecycle.unconcluded(found):
            same = cut_off.fingerprint == token.value.fingerprint
            self._emit(
                TakenOver(
                    account=self.name, at=now, by=cut_off.by, began_at=cut_off.began_at, same=same
                )
            )
        return begun

    async def _spend(self, begun: Account, token: RefreshToken, lease: Lease) -> Outcome:
        """One try, whose intent is written: the request and its conclusion."""
        started = self.clock.now()
        retried = begun.intent is not None and not begun.intent.stamped
        if not (retried and self._first_sent[0] == token.value.fingerprint):
            self._first_sent = token.value.fingerprint, self.clock.elapsed()
        credentials, outcome = await self._authenticated(self._xero.refresh, token, lease)
        now = self.clock.now()
        concluded = lifecycle.after(
            begun, outcome, now=now, policy=self.policy, jitter=self._chance.random()
        )
        if isinstance(outcome, Issued) and concluded.access is not None:
            # Its life counts from the first try, also where the clock was set since.
            left = self._first_sent[1] + concluded.access.life_seconds - self.clock.elapsed()
            concluded = lifecycle.ending_within(concluded, timedelta(seconds=left), now)
            concluded = replace(concluded, client_secret=credentials.client_secret)
            if concluded.access is not None:
                self._see(concluded.access, concluded.consent_id, left)
        self._rests(concluded, now)
        await self._record.keep(concluded, after=begun)
        self._tell(begun, token, outcome, concluded, seconds=(now - started).total_seconds())
        return outcome

    async def _authenticated(
        self, ask: Callable[[Credentials, Secret], Awaitable[T]], token: RefreshToken, lease: Lease
    ) -> tuple[Credentials, T]:
        """Ask Xero with the likeliest credentials, and with the others only if it does not accept those, and the lease
        was not slept past meanwhile."""
        *others, last = self._credentials()
        for credentials in others:
            outcome = await ask(credentials, token.value)
            if lease.lost or not (
                isinstance(outcome, ClientRefused) and outcome.code == "invalid_client"
            ):
                return credentials, outcome
        return last, await ask(last, token.value)

    def _tell(
        self,
        begun: Account,
        spent: RefreshToken,
        outcome: Outcome,
        concluded: Account,
        seconds: float,
    ) -> None:
        account, at, outlook = self.account, self.clock.now(), self.outlook
        if isinstance(outcome, Issued):
            if account.access is not None:
                issued = outcome.refresh_token
                before = begun.current and replace(begun.current, first_spent_at=None)
                self._emit(
                    Refreshed(
                        account=self.name,
                        at=at,
                        spent=spent.value.fingerprint,
                        issued=issued.fingerprint if issued else None,
                        expires_at=account.access.expires_at,
                        seconds=seconds,
                        tries=begun.tries,
                        due_at=lifecycle.refresh_due_at(
                            replace(begun, current=before, intent=None), self.policy
                        ),
                    )
                )
            if outlook.retrying is Retrying.MISSING_TOKEN:
                self._emit(
                    SuccessorMissing(
                        account=self.name,
                        at=at,
                        token=spent.value.fingerprint,
                        next_try_at=outlook.next_try_at,
                        grace_ends_at=outlook.grace_ends_at,
                    )
                )
        elif self.state is State.CONSENT_LOST:
            self._emit(
                ConsentWasLost(
                    account=self.name,
                    at=at,
                    detail=outcome.detail,
                    refused=spent.value.fingerprint,
                    reason=lifecycle.why_lost(account, self.policy),
                    served_until=account.access.expires_at
                    if account.access and self.can_serve
                    else None,
                )
            )
        elif concluded.problem is not None and concluded.problem == account.problem:
            self._emit(
                RefreshFailed(
                    account=self.name,
                    at=at,
                    kind=concluded.problem.kind,
                    detail=outcome.detail,
                    tries=account.tries,
                    next_try_at=outlook.next_try_at,
                    grace_ends_at=outlook.grace_ends_at,
                    person_needed_at=outlook.person_needed_at,
                )
            )
        else:  # slept through: another process has gone on from there, and how it went for that one counts
            self._emit_followed()

    # ------------------------------------------------------------------------------------------ a login

    async def _login(self, attempt: LoginAttempt) -> None:
        async with self._door():
            try:
                await self._exchange(attempt)
            except LoginFailed as error:
                self._emit(LoginRefused(account=self.name, at=self.clock.now(), reason=str(error)))
                raise

    async def _exchange(self, attempt: LoginAttempt) -> None:
        await self._store.check()  # a login that can't be kept is not begun
        began_at, known = self.clock.now(), self.account
        outcome = await self._xero.exchange(
            attempt.credentials,
            code=attempt.code,
            redirect_uri=attempt.redirect_uri,
            verifier=attempt.verifier,
        )
        if not isinstance(outcome, Issued):
            raise LoginFailed(_why_no_exchange(outcome))
        if outcome.refresh_token is None:
            raise LoginFailed(
                "Xero issued no refresh token: the scopes must include offline_access"
            )
        granted = attempt.scopes if outcome.scopes is None else outcome.scopes
        if missing := [scope for scope in attempt.scopes if scope not in granted]:
            raise LoginFailed(f"Xero granted less than was asked for; missing: {' '.join(missing)}")
        tenant_id = await self._tenant(attempt, outcome.access_token)
        await self._record.keep(
            lifecycle.after_login(
                known,
                outcome,
                consent_id=secrets.token_hex(16),
                client_id=attempt.credentials.client_id,
                client_secret=attempt.credentials.client_secret,
                token_url=self._xero.endpoints.token_url,
                tenant_id=tenant_id,
                scopes_asked=attempt.scopes,
                scopes_set=attempt.scopes_set,
                began_at=began_at,
                now=self.clock.now(),
            ),
            after=known,
        )
        self._emit(
            LoggedIn(
                account=self.name,
                at=self.clock.now(),
                client_id=attempt.credentials.client_id,
                scopes=self.account.scopes_granted,
                token=outcome.refresh_token.fingerprint,
            )
        )

    async def _tenant(self, attempt: LoginAttempt, access_token: Secret) -> str | None:
        """The organisation to use: the one that was asked for, or the only one that is connected."""
        if not self._xero.endpoints.connections_url:
            return attempt.tenant_id
        try:
            connected = read_connections(await self._xero.connections(access_token))
        except UpstreamFailed as error:
            # A login is worth more than the check of its tenant.
            logger.warning("the login's organisations could not be listed: %s", error)
            return attempt.tenant_id
        if attempt.tenant_id is not None:
            try:
                return _among(attempt.tenant_id, connected)
            except UnknownTenant as error:
                raise LoginFailed(f"{error}") from None
        if len(connected) == 1:
            return connected[0].tenant_id
        # Whoever logs in again goes on with the organisation that was chosen before, if it is still connected.
        chosen = (
            self.account.tenant_id
            if self.account.client_id == attempt.credentials.client_id
            else None
        )
        return chosen if chosen in [c.tenant_id for c in connected] else None

    # ------------------------------------------------------------------------------------- a login's end

    async def _end(self, forget: bool) -> bool:
        self._ending = True  # serving stops at once, whatever has to be waited for
        try:
            async with self._door() as lease:
                await self._conclude_intent(lease)
                if (
                    self.account.consent_id is None
                    and self.account.revocation is None
                    and not forget
                ):
                    return True
                known = self.account
                await self._record.keep(
                    lifecycle.after_end(known, forget=forget, now=self.clock.now()), after=known
                )
                self._emit(Ended(account=self.name, at=self.clock.now(), forgotten=forget))
                if self._record.unwritten:
                    return False  # who died now would leave a login that Xero has ended
                return self.account.revocation is None or await self._revoke(lease)
        finally:
            self._ending = False

    async def _conclude_intent(self, lease: Lease) -> None:
        """Ask once more what became of a refresh that was cut off: its successor is to be revoked, not lost."""
        token = next(lifecycle.candidates(self.account, self.clock.now(), self.policy), None)
        if (
            self.account.intent is None
            or token is None
            or self.account.consent_id is None
            or self._foreign
        ):
            return
        try:
            begun = await self._intend(token)
        except StaleWrite:
            await self._record.read()
            return
        if not lease.lost:
            await self._spend(begun, token, lease)

    async def _revoke(self, lease: Lease) -> bool:
        """Tell Xero, while the lease is ours: who slept past it may find a new login, which this would end too."""
        known = self.account
        tokens = lifecycle.tokens_to_revoke(known) if self._xero.endpoints.revoke_url else ()
        for token in tokens:
            if lease.lost or self._foreign:
                return False
            _, failure = await self._authenticated(self._xero.revoke, token, lease)
            if failure is not None:
                now, jitter = self.clock.now(), self._chance.random()
                failed = lifecycle.after_revocation_failed(
                    known, failure, now=now, policy=self.policy, jitter=jitter
                )
                self._rests(failed, now)
                await self._record.keep(failed, after=known)
                self._emit(
                    RevocationFailed(
                        account=self.name,
                        at=self.clock.now(),
                        detail=failure.detail,
                        retry_not_before=self.account.retry_not_before,
                    )
                )
                return False
        await self._record.keep(lifecycle.after_revoked(known), after=known)
        self._emit(Revoked(account=self.name, at=self.clock.now()))
        return True

    async def _take_up_revocation(self) -> None:
        try:
            async with self._door() as lease:
                if self._revocation_due():
                    await self._revoke(lease)
        except (StoreUnavailable, SealError) as error:
            self._record.failed(error)

    async def _choose_tenant(self, tenant_id: str) -> None:
        async with self._door():
            await self._record.change(lambda account: replace(account, tenant_id=tenant_id))
        self._emit(TenantChosen(account=self.name, at=self.clock.now(), tenant_id=tenant_id))

    # ---------------------------------------------------------------------------------------- the store

    async def _watch(self) -> None:
        """Follow what other processes write: a login, a refresh or an end is seen here soon."""
        while True:
            try:
                if self._record.problem is not None:
                    await self._in_a_task(self._settle())
                if self._record.problem is None:
                    await self._look()
                    async for _ in self._store.changes(self.name):
                        await self._look()
            except (StoreUnavailable, SealError) as error:
                self._record.failed(error)
            except Exception:  # whatever a store does wrong, the watch goes on
                logger.exception("following the store failed")
            await asyncio.sleep(WATCH_AGAIN_SECONDS)

    async def _look(self) -> None:
        """Follow the store, unless an act of our own is under way, which reads for itself."""
        before, known = self._acts, self.account.write_id
        if self._acting:
            return
        if await self._record.look(lambda: self._acts == before):
            await self._in_a_task(self._settle())
        if self.account.write_id != known:
            self._emit_followed()

    def _emit_followed(self) -> None:
        account = self.account
        self._emit(
            Followed(
                account=self.name,
                at=self.clock.now(),
                generation=account.generation,
                refreshed_at=account.refreshed_at,
                refreshed_by=account.refreshed_by,
            )
        )

    async def _settle(self) -> None:
        """Look whether the store works again, and write what it could not take."""
        try:
            async with self._door():
                await self._store.check()
                self._record.works()
        except (StoreUnavailable, SealError) as error:
            self._record.failed(error)

    def _health_changed(self, problem: str | None) -> None:
        at, ends_at = self.clock.now(), self.outlook.grace_ends_at
        self._emit(
            StoreRecovered(account=self.name, at=at)
            if problem is None
            else StoreDegraded(
                account=self.name,
                at=at,
                reason=problem,
                unwritten=self.unwritten,
                grace_ends_at=ends_at,
            )
        )

    def _writes_were_lost(self) -> None:
        self._emit(
            StoreLostWrites(
                account=self.name, at=self.clock.now(), generation=self.account.generation
            )
        )

    # ------------------------------------------------------------------------------------------ answers

    def _demanded(self, min_ttl: timedelta | None) -> timedelta:
        return lifecycle.demanded_ttl(self.account, self.policy, min_ttl)

    def _may_refresh(self, min_ttl: timedelta | None) -> bool:
        """Could a refresh help now? If not, nobody waits for the lease in vain."""
        step = self._next_step(needed=self._demanded(min_ttl))
        return not self._ending and (self._under_way is not None or isinstance(step, Spend))

    def _good_for(self, needed: timedelta) -> AccessToken | None:
        good_for = lifecycle.good_for(self.account, self.clock.now())
        return None if self._ending or not good_for or good_for < needed else self.account.access

    def _no_token(self) -> Exception:
        """Why no token can be given."""
        account, problem = self.account, self.account.problem
        if self._ending:
            return NotLoggedIn("the login is being ended")
        match self.state:
            case State.NO_CREDENTIALS:
                return NoCredentials("nobody has entered the client's credentials yet")
            case State.NOT_LOGGED_IN:
                return NotLoggedIn("nobody has logged in yet")
            case State.WAITING:
                return NotLoggedIn(
                    "nobody has logged in yet: a login was begun, and has not come back from Xero"
                )
            case State.REVOKED:
                return NotLoggedIn("the login was revoked")
            case State.CONSENT_LOST:
                return ConsentLost(
                    f"Xero refused the refresh token ({problem.detail if problem else 'no token'})"
                )
        if self._foreign:
            return TokenUnavailable(
                f"the stored login is of another identity server, {account.token_url}; set token_url to that, or keep "
                "the two apart with an account of their own",
                self.policy.longest_wait.total_seconds(),
            )
        reason = "the access token could not be refreshed"
        if self._under_way is not None:
            reason = "a refresh is under way, and takes long"
        if self._record.problem is not None:
            reason = f"the token store can't be used: {self._record.problem}"
        elif problem is not None:
            reason = problem_in_words(problem.kind, problem.detail)
        wait, now = self.policy.first_wait, self.clock.now()
        if account.retry_not_before is not None and account.retry_not_before > now:
            wait = max(wait, account.retry_not_before - now)
            reason += f"; Xero is not asked again before {time_text(account.retry_not_before, now)}"
        if account.access is not None and self.can_serve:
            reason += f"; /token gives the old access token until {time_text(account.access.expires_at, now)}"
        return TokenUnavailable(reason, min(wait, self.policy.longest_wait).total_seconds())

    def _emit(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def _why_no_exchange(
    outcome: lifecycle.NotSent | lifecycle.Unknown | lifecycle.Throttled | ClientRefused | Refused,
) -> str:
    match outcome:
        case Refused():
            return "Xero refused the code (invalid_grant): it was used before, or is older than 5 minutes; log in again"
        case ClientRefused(code="invalid_client"):
            return "Xero does not accept the client id and secret (invalid_client): check both and log in again"
        case ClientRefused():
            return f"Xero refused the exchange of the code: {outcome.detail}"
        case _:
            return f"{outcome.detail}; log in again"


def _among(tenant_id: str, connected: list[Connection]) -> str:
    """The tenant id as Xero writes it, if it is one of those that are connected."""
    for connection in connected:
        if connection.tenant_id.lower() == tenant_id.lower():
            return connection.tenant_id
    listed = ", ".join(f"{c.tenant_id} ({c.tenant_name or 'no name'})" for c in connected) or "none"
    raise UnknownTenant(
        f"the tenant {tenant_id} is not among the connected organisations, which are: {listed}"
    )
