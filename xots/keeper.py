"""``TokenKeeper``: the only code that takes the lease, re-reads, calls Xero and writes.

What to do is decided by ``lifecycle``; this room does it, in the one order that loses nothing:

1. Callers in one process share one task, shielded from any caller's disconnect.
2. Take the lease, then read again: somebody else may have refreshed.
3. Write the intent. If that fails, the token is not spent.
4. Call Xero once.
5. Write what came of it, before anybody is served from it.
6. If that write finds that somebody else wrote meanwhile, the new token joins the record as a rival; if the store
   fails, the record is held in memory and written as soon as the store works again.

Access tokens are served from the snapshot in memory, without a word to the store or to Xero.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from . import lifecycle
from .account import AccessToken, Account, RefreshToken, Secret, decode, encode
from .backends.base import TokenStore
from .errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    SealError,
    StaleWrite,
    StoreUnavailable,
    TokenUnavailable,
    UpstreamFailed,
)
from .events import (
    ConsentWasLost,
    Ended,
    Event,
    LoggedIn,
    LoginRefused,
    Observer,
    Refreshed,
    RefreshFailed,
    RevocationFailed,
    Revoked,
    StoreDegraded,
    StoreRecovered,
    TenantChosen,
    TokenRead,
)
from .lifecycle import ClientRefused, Issued, Outcome, Policy, Refused, Spend, State
from .sealing import Sealer
from .xero import Answer, Connection, Credentials, XeroClient, read_connections

__all__ = ["LOGIN_LIFE", "LoginAttempt", "TokenKeeper", "utc_now"]

logger = logging.getLogger("xots.keeper")

LEASE_SECONDS = 12.0
"""How long a vanished holder's lease outlives it, where a store can't tell: longer than a pause of a busy machine,
short enough that a caller waits it out."""

LOGIN_LIFE = timedelta(minutes=10)
"""How long a login that was begun may take; Xero's code itself lives 5 minutes."""

T = TypeVar("T")


def utc_now() -> datetime:
    """The current time, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class LoginAttempt:
    """What the browser brought back from Xero, and what it was sent there with."""

    credentials: Credentials
    code: Secret
    verifier: Secret | None
    redirect_uri: str
    scopes: tuple[str, ...]
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
        clock: the current time, aware UTC.
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
        clock: Callable[[], datetime] = utc_now,
        chance: random.Random | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.name = name
        self.clock = clock
        self._store = store
        self._xero = xero
        self._sealer = sealer
        self._configured = configured
        self._observers = list(observers)
        self._chance = chance or random.SystemRandom()
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._account = Account()
        self._version: str | None = None
        self._unwritten = False
        """Does the snapshot hold what the store could not take?"""
        self._store_problem: str | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._waiting_until: datetime | None = None

    # ------------------------------------------------------------------------------------ what is known

    @property
    def account(self) -> Account:
        """The snapshot of the record that is served from."""
        return self._account

    @property
    def credentials(self) -> Credentials | None:
        """The client's credentials: the record's, else the configured ones, else None."""
        if self._account.client_id is None:
            return self._configured
        return Credentials(client_id=self._account.client_id, client_secret=self._account.client_secret)

    @property
    def state(self) -> State:
        """Where the login stands now."""
        state = lifecycle.state_of(self._account, self.clock(), self.policy)
        if state in (State.NO_CREDENTIALS, State.NOT_LOGGED_IN, State.REVOKED):
            if self._waiting_until is not None and self.clock() < self._waiting_until:
                return State.WAITING
            if state is State.NO_CREDENTIALS and self._configured:
                return State.NOT_LOGGED_IN
        return state

    @property
    def can_serve(self) -> bool:
        """Is there an access token that may be served now?"""
        return self._good_for(lifecycle.last_seconds(self._account, self.policy)) is not None

    @property
    def store_problem(self) -> str | None:
        """Why the store can't be used just now; None when it can."""
        return self._store_problem

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
        await self._read()

    async def close(self) -> None:
        """Begin nothing new, wait until all that was begun is concluded and kept, then give everything back."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._unwritten:
            await self._settle()
        self._xero.close()
        await self._store.close()

    # ------------------------------------------------------------------------------------- for callers

    async def token(self, min_ttl: timedelta | None = None) -> AccessToken:
        """An access token that lives at least ``min_ttl`` (None: as long as the policy promises).

        Served from memory; Xero is asked only if the token there is too short. Should that fail, a caller who did
        not name a ``min_ttl`` gets what is left of the old token.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: a person has to act.
            TokenUnavailable: not now, but soon.
        """
        ours = False
        while (access := self._good_for(self._demanded(min_ttl))) is None and not ours:
            # A refresh that others began may have been content with less than is needed here: then ours follows.
            ours = await self._refresh_together(needed=self._demanded(min_ttl))
        if access is None and min_ttl is None:
            access = self._good_for(lifecycle.last_seconds(self._account, self.policy))
        if access is None:
            raise self._no_token()
        self._emit(TokenRead(account=self.name, at=self.clock(), token=access.value.fingerprint))
        return access

    async def refresh(self) -> None:
        """Refresh now, due or not.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: there is nothing to refresh.
            TokenUnavailable: it did not succeed; nothing is lost.
        """
        before = self._account
        if before.current is not None:
            await self._refresh_together(meant=before.current.value.fingerprint)
        if self._account.consent_id is None or self._account.access == before.access:
            raise self._no_token()

    async def tend(self) -> None:
        """What the tick calls: write what the store could not take before, refresh and revoke if it is due."""
        if self._unwritten or self._store_problem is not None:
            await self._in_a_task(self._settle())
        if isinstance(lifecycle.next_step(self._account, self.clock(), self.policy), Spend):
            await self._refresh_together()
        if lifecycle.revocation_due(self._account, self.clock(), self.policy):
            await self._in_a_task(self._take_up_revocation())

    async def login(self, attempt: LoginAttempt) -> None:
        """Exchange the code that the browser brought, and keep what Xero issues for it.

        Raises:
            LoginFailed: it did not succeed; a login that was live before still is.
            StoreUnavailable, SealError: the store can't be read, so the code was not spent.
        """
        if self._closing:
            raise LoginFailed("the server is stopping; log in again when it is back")
        await self._in_a_task(self._login(attempt))

    def login_began(self) -> None:
        """A person was sent to Xero: until he comes back, or the time for it is over, the state says so."""
        self._waiting_until = self.clock() + LOGIN_LIFE

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
            raise UpstreamFailed("this identity server has no list of organisations (connections_url is empty)")
        answer = await self._xero.connections((await self.token()).value)
        if answer.status != 200:
            raise UpstreamFailed(f"the connections endpoint answered with status {answer.status}")
        return answer

    async def check_store(self) -> str | None:
        """Why the store can't be read and written now; None when it can."""
        if self._store_problem is None:
            try:
                await self._store.check()
            except StoreUnavailable as error:
                return str(error)
        return self._store_problem

    async def choose_tenant(self, tenant_id: str) -> None:
        """Use this organisation from now on.

        Raises:
            LoginFailed: it is not among those that are connected.
            And what ``connections`` raises.
        """
        tenant_id = _among(tenant_id, await self.connections())
        await self._in_a_task(self._choose_tenant(tenant_id))

    # ------------------------------------------------------------------------------------- the one task

    async def _in_a_task(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end even if the caller goes away; ``close`` waits for it."""
        return await asyncio.shield(self._begin(work))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task is self._refreshing:
            self._refreshing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits gets the error itself; this line is for the case that nobody is left waiting.
            logger.debug("%s: %s", type(error).__name__, error)

    async def _refresh_together(self, *, needed: timedelta | None = None, meant: str | None = None) -> bool:
        """Join the refresh that is under way, or begin one; return when it is concluded, however it went.

        True if it was begun here, or can't be begun any more.
        """
        if ours := self._refreshing is None:
            if self._closing:
                return True
            self._refreshing = self._begin(self._refresh(needed, meant))
        await asyncio.shield(self._refreshing)
        return ours

    # ---------------------------------------------------------------------------------------- a refresh

    async def _refresh(self, needed: timedelta | None, meant: str | None) -> None:
        """Refresh if, under the lease, it is still due. Never raises: what went wrong is in the snapshot."""
        try:
            async with self._store.lease(self.name, LEASE_SECONDS) as lease:
                await self._read()
                while not lease.lost:
                    step = lifecycle.next_step(self._account, self.clock(), self.policy, needed=needed, meant=meant)
                    if not isinstance(step, Spend):
                        return
                    try:
                        begun = await self._save(self._intending(step.token))
                    except StaleWrite:
                        # Somebody slept past his own lease and wrote under ours: look at what he wrote.
                        await self._read()
                        continue
                    if lease.lost or not isinstance(await self._spend(begun, step.token), Refused):
                        return
        except (StoreUnavailable, SealError) as error:
            self._store_failed(error)

    def _intending(self, token: RefreshToken) -> Account:
        return lifecycle.begin_refresh(self._account, token, by=self._process, now=self.clock())

    async def _spend(self, begun: Account, token: RefreshToken) -> Outcome:
        """One try, whose intent is written: the request and its conclusion."""
        credentials = self.credentials
        assert credentials is not None, "a record with a refresh token has a client id"  # noqa: S101
        started = self.clock()
        outcome = await self._xero.refresh(credentials, token.value)
        now = self.clock()
        concluded = lifecycle.after(begun, outcome, now=now, policy=self.policy, jitter=self._chance.random())
        try:
            await self._keep(concluded)
        except StaleWrite:
            await self._join_as_rival(begun, outcome)
        self._tell(token, outcome, seconds=(now - started).total_seconds())
        return outcome

    def _tell(self, spent: RefreshToken, outcome: Outcome, seconds: float) -> None:
        account, at = self._account, self.clock()
        if isinstance(outcome, Issued):
            if account.access is not None:
                issued = outcome.refresh_token
                self._emit(
                    Refreshed(
                        account=self.name,
                        at=at,
                        spent=spent.value.fingerprint,
                        issued=issued.fingerprint if issued else None,
                        expires_at=account.access.expires_at,
                        seconds=seconds,
                    )
                )
        elif self.state is State.CONSENT_LOST:
            self._emit(ConsentWasLost(account=self.name, at=at, reason=outcome.detail))
        else:
            self._emit(
                RefreshFailed(
                    account=self.name,
                    at=at,
                    kind=account.problem.kind if account.problem else "unknown",
                    detail=outcome.detail,
                    tries=account.tries,
                    retry_not_before=account.retry_not_before,
                )
            )

    async def _join_as_rival(self, begun: Account, outcome: Outcome) -> None:
        """This process slept past its lease, and another one wrote. Its record stands; our new token joins it."""
        while True:
            await self._read()
            if not isinstance(outcome, Issued) or outcome.refresh_token is None:
                return
            if not lifecycle.is_ours(begun, self._account):
                return  # another login took its place, or its end: our token belongs to nobody any more
            rival = RefreshToken(value=outcome.refresh_token, obtained_at=self.clock())
            try:
                await self._keep(lifecycle.with_rival(self._account, rival))
            except StaleWrite:
                continue
            return

    # ------------------------------------------------------------------------------------------ a login

    async def _login(self, attempt: LoginAttempt) -> None:
        async with self._store.lease(self.name, LEASE_SECONDS):
            await self._read()
            try:
                await self._exchange(attempt)
            except LoginFailed as error:
                self._emit(LoginRefused(account=self.name, at=self.clock(), reason=str(error)))
                raise

    async def _exchange(self, attempt: LoginAttempt) -> None:
        began_at = self.clock()
        outcome = await self._xero.exchange(
            attempt.credentials, code=attempt.code, redirect_uri=attempt.redirect_uri, verifier=attempt.verifier
        )
        if not isinstance(outcome, Issued):
            raise LoginFailed(_why_no_exchange(outcome))
        if outcome.refresh_token is None:
            raise LoginFailed("Xero issued no refresh token: the scopes must include offline_access")
        granted = attempt.scopes if outcome.scopes is None else outcome.scopes
        if missing := [scope for scope in attempt.scopes if scope not in granted]:
            raise LoginFailed(f"Xero granted less than was asked for; missing: {' '.join(missing)}")
        tenant_id = await self._tenant(attempt, outcome.access_token)
        consent_id = secrets.token_hex(16)
        await self._change(
            lambda account: lifecycle.after_login(
                account,
                outcome,
                consent_id=consent_id,
                client_id=attempt.credentials.client_id,
                client_secret=attempt.credentials.client_secret,
                token_url=self._xero.endpoints.token_url,
                tenant_id=tenant_id,
                scopes_asked=attempt.scopes,
                began_at=began_at,
                now=self.clock(),
            )
        )
        self._emit(
            LoggedIn(
                account=self.name,
                at=self.clock(),
                client_id=attempt.credentials.client_id,
                scopes=self._account.scopes_granted,
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
        if attempt.tenant_id is None:
            return connected[0].tenant_id if len(connected) == 1 else None
        return _among(attempt.tenant_id, connected)

    # ------------------------------------------------------------------------------------- a login's end

    async def _end(self, forget: bool) -> bool:
        async with self._store.lease(self.name, LEASE_SECONDS):
            await self._read()
            await self._conclude_intent()
            if self._account.consent_id is None and self._account.revocation is None and not forget:
                return True
            await self._change(lambda account: lifecycle.after_end(account, forget=forget, now=self.clock()))
            self._emit(Ended(account=self.name, at=self.clock(), forgotten=forget))
            return self._account.revocation is None or await self._revoke()

    async def _conclude_intent(self) -> None:
        """Ask once more what became of a refresh that was cut off: its successor is to be revoked, not lost."""
        account = self._account
        if account.intent is None or account.current is None or account.consent_id is None:
            return
        try:
            await self._spend(await self._save(self._intending(account.current)), account.current)
        except StaleWrite:
            await self._read()

    async def _revoke(self) -> bool:
        """Tell Xero, under the lease."""
        credentials = self.credentials
        assert credentials is not None, "a record with a refresh token has a client id"  # noqa: S101
        tokens = lifecycle.tokens_to_revoke(self._account) if self._xero.endpoints.revoke_url else ()
        for token in tokens:
            failure = await self._xero.revoke(credentials, token.value)
            if failure is not None:
                failed = partial(
                    lifecycle.after_revocation_failed,
                    failure=failure,
                    now=self.clock(),
                    policy=self.policy,
                    jitter=self._chance.random(),
                )
                await self._change(failed)
                self._emit(
                    RevocationFailed(
                        account=self.name,
                        at=self.clock(),
                        detail=failure.detail,
                        retry_not_before=self._account.retry_not_before,
                    )
                )
                return False
        await self._change(lifecycle.after_revoked)
        self._emit(Revoked(account=self.name, at=self.clock()))
        return True

    async def _take_up_revocation(self) -> None:
        try:
            async with self._store.lease(self.name, LEASE_SECONDS):
                await self._read()
                if lifecycle.revocation_due(self._account, self.clock(), self.policy):
                    await self._revoke()
        except (StoreUnavailable, SealError) as error:
            self._store_failed(error)

    async def _choose_tenant(self, tenant_id: str) -> None:
        async with self._store.lease(self.name, LEASE_SECONDS):
            await self._read()
            await self._change(lambda account: replace(account, tenant_id=tenant_id))
        self._emit(TenantChosen(account=self.name, at=self.clock(), tenant_id=tenant_id))

    # ---------------------------------------------------------------------------------------- the store

    async def _read(self) -> None:
        """Bring the snapshot and the store together: write what the store could not take before, or read it."""
        if self._unwritten:
            await self._write_the_unwritten()
            return
        await self._fetch()

    async def _fetch(self) -> None:
        stored = await self._store.read(self.name)
        self._account = Account() if stored is None else self._open(stored.value)
        self._version = None if stored is None else stored.version

    async def _save(self, account: Account) -> Account:
        """Write the record in the place of the one that the snapshot came from; the snapshot moves on.

        Raises:
            StaleWrite: another record is there. The snapshot stays.
            StoreUnavailable: it was not written, or can't be known to be. The snapshot stays.
        """
        account = replace(account, generation=self._account.generation + 1, write_id=secrets.token_hex(8))
        sealed = self._sealer.seal(encode(account), "account", {"name": self.name})
        try:
            version = await self._store.swap(self.name, sealed, expected=self._version)
        except (StaleWrite, StoreUnavailable):
            # The reply may have been lost: never written again blindly, but read back.
            stored = await self._store.read(self.name)
            if stored is None or self._open(stored.value).write_id != account.write_id:
                raise
            version = stored.version
        self._account, self._version, self._unwritten = account, version, False
        self._store_works()
        return account

    async def _keep(self, account: Account) -> None:
        """Write a record that must not be lost: if the store fails, it is held in memory and written later."""
        try:
            await self._save(account)
        except (StoreUnavailable, SealError) as error:
            self._account, self._unwritten = account, True
            self._store_failed(error)

    async def _change(self, change: Callable[[Account], Account]) -> None:
        """Keep the record that ``change`` makes of the one that is there, whoever wrote that."""
        while True:
            try:
                return await self._keep(change(self._account))
            except StaleWrite:
                await self._read()

    async def _write_the_unwritten(self) -> None:
        """Write the record that was held in memory; if another was written meanwhile, join it."""
        held = self._account
        try:
            await self._save(held)
        except StaleWrite:
            await self._fetch()
            self._unwritten = False
            if lifecycle.is_ours(held, self._account) and held.current is not None:
                await self._keep(lifecycle.with_rival(self._account, held.current))

    async def _settle(self) -> None:
        """Look whether the store works again, and write what it could not take."""
        try:
            async with self._store.lease(self.name, LEASE_SECONDS):
                await self._store.check()
                await self._read()
                self._store_works()
        except (StoreUnavailable, SealError) as error:
            self._store_failed(error)

    def _open(self, sealed: bytes) -> Account:
        try:
            return decode(self._sealer.open(sealed, "account", {"name": self.name}))
        except msgspec.MsgspecError as error:
            raise SealError(f"the record of {self.name!r} was written by another version: {error}") from None

    def _store_failed(self, error: Exception) -> None:
        if self._store_problem is None:
            self._emit(StoreDegraded(account=self.name, at=self.clock(), reason=str(error)))
        self._store_problem = str(error)

    def _store_works(self) -> None:
        if self._store_problem is not None:
            self._store_problem = None
            self._emit(StoreRecovered(account=self.name, at=self.clock()))

    # ------------------------------------------------------------------------------------------ answers

    def _demanded(self, min_ttl: timedelta | None) -> timedelta:
        return lifecycle.demanded_ttl(self._account, self.policy, min_ttl)

    def _good_for(self, needed: timedelta) -> AccessToken | None:
        return self._account.access if lifecycle.good_for(self._account, self.clock()) >= needed else None

    def _no_token(self) -> Exception:
        """Why no token can be given."""
        account, problem = self._account, self._account.problem
        match self.state:
            case State.NO_CREDENTIALS:
                return NoCredentials("nobody has entered the client's credentials yet")
            case State.NOT_LOGGED_IN:
                return NotLoggedIn("nobody has logged in yet")
            case State.WAITING:
                return NotLoggedIn("nobody has logged in yet: a login was begun, and has not come back from Xero")
            case State.REVOKED:
                return NotLoggedIn("the login was revoked")
            case State.CONSENT_LOST:
                return ConsentLost(f"Xero refused the refresh token ({problem.detail if problem else 'no token'})")
        reason = self._store_problem or (problem.detail if problem else "the access token could not be refreshed")
        wait = self.policy.first_wait
        if account.retry_not_before is not None:
            wait = max(wait, account.retry_not_before - self.clock())
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
    raise LoginFailed(f"the tenant {tenant_id} is not among the connected organisations, which are: {listed}")
