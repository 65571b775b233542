"""A login: the exchange of the code that the browser brought back from Xero."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import msgspec
from msgspec.structs import replace

from ..advice import XERO, meaning, remedy, shown_code
from ..errors import LoginFailed, SealError, StoreUnavailable
from ..events import LoggedIn, LoginRefused
from ..lifecycle.logins import after_login
from ..lifecycle.merging import merged
from ..lifecycle.outcomes import ClientRefused, Failure, Issued, Refused
from ..secret import Secret
from ..xero.protocol import Credentials
from .context import Context
from .tenants import TenantList, organisations_of, tenant_of_login

__all__ = ["LOGIN_TIMEOUT", "LoginAttempt", "log_in"]

LOGIN_TIMEOUT = timedelta(minutes=10)
"""Time a started login may take, on the identity server's pages too. Xero's code itself lives for 5
minutes."""

ADVICE_AT_XERO = ": the scopes must include offline_access"
ADVICE_ELSEWHERE = (
    ", without which the login would end with its access token: request the scope or the "
    "parameter by which this server issues one (settings scopes and authorize_params)"
)
"""What a login without a refresh token lacks."""


class LoginAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """The code that the browser brought back from Xero, and the request that led there."""

    credentials: Credentials
    code: Secret
    verifier: Secret | None
    """The PKCE code verifier (RFC 7636); None without PKCE."""
    redirect_uri: str
    scopes: tuple[str, ...]
    """The scopes that were requested."""
    scopes_configured: tuple[str, ...] = ()
    """The scopes in the settings, if the user chose another set."""
    tenant_id: str | None = None
    """The organisation that the user or the settings name."""


async def log_in(context: Context, attempt: LoginAttempt, organisations: TenantList) -> None:
    """Exchange the code and keep the tokens that Xero issues for it.

    Neither the exchange nor the check before it holds the lease, so that an invented code cannot
    delay a refresh. The exception is an earlier login whose revocation Xero has not confirmed: it
    needs no refresh, and its revocation would end the new login too. The lease keeps that request
    away until the new login is recorded. ``LoginLimit`` bounds the logins that hold it so.

    Raises:
        LoginFailed: the login did not succeed. This call ended no earlier login.
        StoreUnavailable, SealError: the store cannot be used, so the code was not spent.
    """
    try:
        await _exchange_and_record(context, attempt, organisations)
    except LoginFailed as error:
        at = context.clock.now()
        context.emit(LoginRefused(account=context.name, at=at, reason=str(error)))
        raise


async def _exchange_and_record(
    context: Context, attempt: LoginAttempt, organisations: TenantList
) -> None:
    replica, credentials = context.replica, attempt.credentials
    async with AsyncExitStack() as held:
        # 1. Read the record and check the store: no code is spent for a login that cannot be kept.
        await replica.peek()
        if replica.account.revocation is not None:
            lease = await held.enter_async_context(replica.locked())
        await context.store.check()
        known, began_at = replica.account, context.clock.now()
        if known.revocation is None:
            await held.aclose()

        # 2. Exchange the code, and list the organisations of the login.
        issued, token = await _exchange(context, attempt)
        tenant_id, listed = await tenant_of_login(
            context, credentials.client_id, attempt.tenant_id, issued.access_token
        )

        # 3. Take the lease. If the store has failed meanwhile, memory holds the login.
        if known.revocation is None:
            with suppress(StoreUnavailable, SealError):
                lease = await held.enter_async_context(replica.locked())

        # 4. Record the login. It counts from the start of its exchange, so that a newer login, or a
        # newer end of one, wins the merge. If Xero may have been told of an end since, it may have
        # ended this login too. Then it is older than that end, whatever the clocks show.
        found = replica.account
        login = after_login(
            known,
            issued,
            consent_id=secrets.token_hex(16),
            client_id=credentials.client_id,
            client_secret=credentials.client_secret,
            token_url=context.xero.identity_server.token_url,
            tenant_id=tenant_id,
            scopes_requested=attempt.scopes,
            scopes_configured=attempt.scopes_configured,
            organisations=None if listed is None else organisations_of(listed.connections),
            began_at=began_at,
        )
        was_ended = found.ended_at != known.ended_at
        if was_ended or (known.revocation is not None and lease.lost):
            login = replace(login, consented_at=known.epoch - timedelta(microseconds=1))
        await replica.commit(merged(found, login), after=found)

    if replica.account.consent_id != login.consent_id:
        raise LoginFailed(
            "another login, or the end of one, was recorded at the same time: see /status, and log "
            "in again if there is none"
        )
    organisations.keep(listed)
    context.emit(
        LoggedIn(
            account=context.name,
            at=context.clock.now(),
            client_id=credentials.client_id,
            scopes=login.scopes_granted,
            token=token.fingerprint,
        )
    )


async def _exchange(context: Context, attempt: LoginAttempt) -> tuple[Issued, Secret]:
    """Return the tokens for the code, and the refresh token among them.

    Raises:
        LoginFailed: Xero issued none, no refresh token, or fewer scopes than requested.
    """
    async with context.xero.slot() as may_send:
        if not may_send:
            raise LoginFailed("the server is stopping: start it again, and log in again")
        outcome = await context.xero.exchange(
            attempt.credentials,
            code=attempt.code,
            redirect_uri=attempt.redirect_uri,
            verifier=attempt.verifier,
        )
    server = context.server_name
    if not isinstance(outcome, Issued):
        raise LoginFailed(_exchange_error(outcome, server))
    if outcome.refresh_token is None:
        advice = ADVICE_AT_XERO if server == XERO else ADVICE_ELSEWHERE
        raise LoginFailed(f"{server} issued no refresh token{advice}")
    # The refresh token grants offline_access, whether the response names that or not.
    granted = (*(attempt.scopes if outcome.scopes is None else outcome.scopes), "offline_access")
    if missing := [scope for scope in attempt.scopes if scope not in granted]:
        raise LoginFailed(
            f"{server} granted fewer scopes than requested; missing: {' '.join(missing)}; "
            "permit them at the next login, or take them out of the setting scopes"
        )
    return outcome, outcome.refresh_token


def _exchange_error(failure: Failure, server: str) -> str:
    if isinstance(failure, Refused):
        aged = "is older than 5 minutes" if server == XERO else "has expired"
        return (
            f"{server} refused the code (invalid_grant): it was used before, or {aged}; log in "
            "again"
        )
    if not isinstance(failure, ClientRefused):
        return f"{failure.detail}; log in again"
    code = failure.code
    return f"{meaning(code, server)} ({shown_code(code)}): {remedy(code, server)}, and log in again"
