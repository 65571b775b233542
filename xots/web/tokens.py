"""``/token``: a valid access token for a caller."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from tornado.web import HTTPError

from ..access import TOKEN_SCOPES
from ..errors import TokenUnavailable
from .handler import Handler

__all__ = ["ROUTES"]

MIN_TTL = re.compile(r"[0-9]{1,6}")
"""A whole number of seconds, up to 11 days: far more than the lifetime of any token."""


class TokenHandler(Handler):
    """``GET /token``: a valid access token."""

    scopes = TOKEN_SCOPES

    async def get(self) -> None:
        """Respond 200 with the token, 401 before a login, 404 or 409 for a ``tenant`` that is no
        organisation of the login or several, or 503 with Retry-After if there is no token now."""
        min_ttl = _min_ttl(self.get_query_arguments("min_ttl"))
        tenant = _tenant(self.get_query_arguments("tenant"))
        consent_id = self.keeper.account.consent_id
        tenant_id = None
        if tenant is not None:
            tenant_id = await self.keeper.tenant(tenant, may_wait=not self.is_crowded)
        access = await self.keeper.token(min_ttl, may_wait=not self.is_crowded)
        account = self.keeper.account
        if tenant is not None and account.consent_id != consent_id:
            raise TokenUnavailable("the login has changed meanwhile; retry", 1.0)
        now = self.keeper.clock.now()
        if self.accepts("text/plain"):
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(access.value.reveal())
            self._note(now)
            return
        left = access.expires_at - now
        problem = self.keeper.tenant_problem if tenant is None else None
        self.write_json(
            {
                "accessToken": access.value.reveal(),
                "tokenType": access.token_type,
                "expiresAt": access.expires_at,
                "expiresIn": int(left.total_seconds()),
                "scopes": account.scopes_granted,
                "tenantId": self.keeper.tenant_id if tenant is None else tenant_id,
            }
            | ({"tenantProblem": problem} if problem else {})
        )
        self._note(now)

    def _note(self, now: datetime) -> None:
        """Count the read. The response to HEAD holds no token."""
        if self.caller is not None and self.request.method != "HEAD":
            self.reads.note(self.keeper.name, self.caller.name, now)


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
