"""What programs ask: the token, and how things are."""

from __future__ import annotations

from datetime import timedelta

from tornado.web import HTTPError

from .._version import __version__
from ..lifecycle import State
from .handler import Handler

__all__ = ["ROUTES"]


class TokenHandler(Handler):
    """``GET /token``: a good access token."""

    async def get(self) -> None:
        """200 with the token; 401 before a login; 503 with Retry-After when it can't be had just now."""
        access = await self.keeper.token(self._min_ttl())
        account = self.keeper.account
        left = access.expires_at - self.keeper.clock()
        self.write_json(
            {
                "accessToken": access.value.reveal(),
                "tokenType": access.token_type,
                "expiresAt": access.expires_at,
                "expiresIn": int(left.total_seconds()),
                "scopes": account.scopes_granted,
                "tenantId": account.tenant_id,
            }
        )

    def _min_ttl(self) -> timedelta | None:
        asked = self.get_query_arguments("min_ttl")
        if not asked:
            return None
        if len(asked) > 1 or not asked[0].isdecimal() or len(asked[0]) > 6:
            raise HTTPError(400, "min_ttl must be a whole number of seconds, given once")
        return timedelta(seconds=int(asked[0]))


class HealthHandler(Handler):
    """``GET /livez``: can a good token be served now?"""

    async def get(self) -> None:
        """200 if so; 401 before there are credentials; 503 otherwise."""
        if self.keeper.state is State.NO_CREDENTIALS:
            self.set_status(401)
            self.set_header("WWW-Authenticate", 'Bearer realm="xots"')
        elif not self.healthy:
            self.set_status(503)
        self.write_json(self.summary())


class StatusHandler(Handler):
    """``GET /status``: everything but secrets."""

    async def get(self) -> None:
        """A page for a browser, JSON for a program."""
        account = self.keeper.account
        access, current, problem = account.access, account.current, account.problem
        status = self.summary() | {
            "access_token": f"#{access.value.fingerprint}" if access else None,
            "refresh_token": f"#{current.value.fingerprint}" if current else None,
            "client_id": credentials.client_id if (credentials := self.keeper.credentials) else None,
            "tenant_id": account.tenant_id,
            "scopes": account.scopes_granted,
            "consented_at": account.consented_at,
            "refreshed_at": account.refreshed_at,
            "refreshed_by": account.refreshed_by,
            "failed_tries": account.tries,
            "last_problem_at": problem.at if problem else None,
            "retry_not_before": account.retry_not_before,
            "redirect_uri": self.config.redirect_uri,
            "version": __version__,
        }
        if self.wants_page:
            self.write_page("status.html", title="Status", status=status)
        else:
            self.write_json(status)


ROUTES = [
    (r"/token", TokenHandler),
    (r"/livez", HealthHandler),
    (r"/status", StatusHandler),
]
