"""``/token``: a valid access token for a caller."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
from tornado.web import HTTPError

from ..access import TOKEN_SCOPES, Caller, Rules
from ..accounts.accounts import Accounts
from ..errors import AmbiguousTenant, TokenUnavailable
from ..keeping.keeper import TokenKeeper
from ..lifecycle.account import AccessToken
from .express import Body
from .express_request import learn
from .handler import Handler, access_log
from .read_log import ReadLog
from .responses import json_text

__all__ = ["ROUTES"]

MIN_TTL = re.compile(r"[0-9]{1,6}")
"""A whole number of seconds, up to 11 days: far more than the lifetime of any token."""


class _Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The token that a request demands."""

    min_ttl: timedelta | None
    """The least lifetime left; None: as the policy promises."""
    tenant: str | None
    """The organisation, by id or name; None: the one that was chosen."""
    is_text: bool
    """True if the response is the bare token."""


class TokenHandler(Handler):
    """``GET /token``: a valid access token."""

    scopes = TOKEN_SCOPES
    access_level = logging.DEBUG  # /status counts these

    async def get(self) -> None:
        """Respond 200 with the token, 401 before a login, 404 or 409 for a ``tenant`` that is no
        organisation of the login or several, or 503 with Retry-After if there is no token now."""
        demand = _Demand(
            min_ttl=_min_ttl(self.get_query_arguments("min_ttl")),
            tenant=_tenant(self.get_query_arguments("tenant")),
            is_text=self.accepts("text/plain"),
        )
        keeper, tenant_id, consent_id = self.keeper, None, None
        if demand.tenant is not None:
            consent_id = keeper.account.consent_id
            tenant_id = await keeper.tenant(demand.tenant, may_wait=not self.is_crowded)
        access = await keeper.token(demand.min_ttl, may_wait=not self.is_crowded)
        if tenant_id is not None and keeper.account.consent_id != consent_id:
            raise TokenUnavailable("the login has changed meanwhile; retry", 1.0)
        now = keeper.clock.now()
        media_type = "text/plain" if demand.is_text else "application/json"
        self.set_header("Content-Type", f"{media_type}; charset=utf-8")
        body = _body(keeper, demand, access, tenant_id, now)
        self.set_header("Date", body.date)
        self.write(body.content)
        if self.caller is not None and self.request.method != "HEAD":
            self.config.reads.note(keeper.name, self.caller.name, now)
            self._let_repeat(access, demand, self.caller, body)

    def _let_repeat(self, access: AccessToken, demand: _Demand, caller: Caller, body: Body) -> None:
        """Let the express lane repeat the response, unless each request has a line in the log."""
        express = self.config.express
        if express is None or access_log.isEnabledFor(logging.DEBUG):
            return
        source = _Repeated(
            keeper=self.keeper,
            rules=self.rules,
            access=access,
            demand=demand,
            caller=caller,
            accounts=self.accounts,
            reads=self.config.reads,
        )
        learn(express, self.request, self._headers, source, body)


class _Repeated(msgspec.Struct, kw_only=True):
    """The response to the same request of the same sender: see ``express.Repeatable``."""

    keeper: TokenKeeper
    rules: Rules
    access: AccessToken
    """The token of the last body."""
    demand: _Demand
    caller: Caller
    accounts: Accounts
    reads: ReadLog

    def body(self, now: datetime) -> Body | None:
        """Return the body at a time; None if the handler has to decide."""
        keeper, demand, tenant_id = self.keeper, self.demand, None
        if not self.accounts.extend(keeper):
            return None
        if demand.tenant is not None:
            with suppress(AmbiguousTenant):
                tenant_id = keeper.known_tenant(demand.tenant)
            if tenant_id is None:
                return None
        access = keeper.token_now(demand.min_ttl)
        if access is None:
            return None
        self.access = access
        return _body(keeper, demand, access, tenant_id, now)

    def count(self, number: int, at: datetime) -> None:
        """Count repeated responses, of which the last was sent at a time."""
        self.reads.note(self.keeper.name, self.caller.name, at, number)
        self.keeper.note_reads(self.access, number)


def _body(
    keeper: TokenKeeper,
    demand: _Demand,
    access: AccessToken,
    tenant_id: str | None,
    now: datetime,
) -> Body:
    """Return the body at a time.

    Args:
        keeper: the account's keeper.
        demand: the token that the request demands.
        access: the token.
        tenant_id: the organisation that ``demand`` names.
        now: the time.
    """
    elapsed = keeper.clock.elapsed()
    seconds_left = int((access.expires_at - now).total_seconds())
    until = access.expires_at - max(
        timedelta(seconds=seconds_left), keeper.min_life(demand.min_ttl)
    )
    if demand.is_text:
        return Body(access.value.reveal().encode(), now, until, elapsed)
    problem = keeper.tenant_problem if demand.tenant is None else None
    content = {
        "accessToken": access.value.reveal(),
        "tokenType": access.token_type,
        "expiresAt": access.expires_at,
        "expiresIn": seconds_left,
        "scopes": keeper.account.scopes_granted,
        "tenantId": keeper.tenant_id if demand.tenant is None else tenant_id,
    } | ({"tenantProblem": problem} if problem else {})
    return Body(json_text(content), now, until, elapsed)


def _min_ttl(values: list[str]) -> timedelta | None:
    """Return the caller's ``min_ttl``; None if there is none.

    Raises:
        HTTPError: it is not one whole number of seconds.
    """
    match values:
        case []:
            return None
        case [text] if MIN_TTL.fullmatch(text):
            return timedelta(seconds=int(text))
    raise HTTPError(400, "min_ttl must be a whole number of seconds, given once")


def _tenant(values: list[str]) -> str | None:
    """Return the organisation that the caller chooses, by id or name; None if it chooses none.

    Raises:
        HTTPError: it is empty, or given twice.
    """
    match values:
        case []:
            return None
        case [text] if text:
            return text
    raise HTTPError(400, "tenant must be the id or the name of an organisation, given once")


ROUTES = [(r"/token", TokenHandler)]
