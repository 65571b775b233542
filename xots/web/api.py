"""What programs ask: the token, how things are, and the acts on the login.

A GET acts for a program, as it did on the Go server; whatever looks like a browser gets a page with a button instead,
since a link, a prefetch or a hostile page can make a browser send a GET.
"""

from __future__ import annotations

from datetime import timedelta

from tornado.web import HTTPError

from .._version import __version__
from ..errors import NoCredentials, NotLoggedIn
from ..lifecycle import State
from . import guard
from .handler import Handler

__all__ = ["ROUTES"]


class TokenHandler(Handler):
    """``/token``: a good access token."""

    async def get(self) -> None:
        """200 with the token; 401 before a login; 503 with Retry-After when it can't be had just now."""
        access = await self.keeper.token(self._min_ttl())
        if self.accepts("text/plain"):
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(access.value.reveal())
            return
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
        if len(asked) > 1 or not (asked[0].isascii() and asked[0].isdecimal()) or len(asked[0]) > 6:
            raise HTTPError(400, "min_ttl must be a whole number of seconds, given once")
        return timedelta(seconds=int(asked[0]))


class HealthHandler(Handler):
    """``GET /livez``: can a good token be served now?"""

    async def get(self) -> None:
        """200 if so; 401 before there are credentials; 503 otherwise."""
        if self.keeper.state is State.NO_CREDENTIALS:
            self.set_status(401)
            self.set_header("WWW-Authenticate", 'Bearer realm="xots"')
        elif not self.keeper.can_serve:
            self.set_status(503)
        self.write_json(self.summary())


class PingHandler(Handler):
    """``/ping``: the process lives."""

    async def get(self) -> None:
        """200, whatever the login's state."""
        self.write_json({"status": "alive"})


class ReadyHandler(Handler):
    """``/ready``: can requests be sent here?"""

    async def get(self) -> None:
        """200 while the store works, or while a good token can be served without it; else 503."""
        problem = await self.keeper.check_store()
        ready = problem is None or self.keeper.can_serve
        self.set_status(200 if ready else 503)
        self.write_json({"ready": ready, "store": "degraded" if problem else "ok", "reason": problem})


class StatusHandler(Handler):
    """``GET /status``: everything but secrets."""

    async def get(self) -> None:
        """A page for a browser, JSON for a program."""
        account = self.keeper.account
        access, current, problem = account.access, account.current, account.problem
        status = self.summary() | {
            "access_token": f"#{access.value.fingerprint}" if access else None,
            "refresh_token": f"#{current.value.fingerprint}" if current else None,
            "account": self.keeper.name,
            "client_id": credentials.client_id if (credentials := self.keeper.credentials) else None,
            "tenant_id": account.tenant_id,
            "scopes": account.scopes_granted,
            "consented_at": account.consented_at,
            "refreshed_at": account.refreshed_at,
            "refreshed_by": account.refreshed_by,
            "failed_tries": account.tries,
            "last_problem_at": problem.at if problem else None,
            "retry_not_before": account.retry_not_before,
            "revocation_pending": account.revocation is not None,
            "store": "degraded" if self.keeper.store_problem else "ok",
            "redirect_uri": self.config.redirect_uri,
            "version": __version__,
        }
        if self.wants_page:
            self.write_page("status.html", title="Status", status=status)
        else:
            self.write_json(status)


class TenantsHandler(Handler):
    """``/tenants``: the organisations that the login is connected to."""

    async def get(self) -> None:
        """The list as Xero gives it."""
        if not self.config.has_tenants:
            raise HTTPError(404, "the identity server has no organisations: connections_url is empty")
        answer = await self.keeper.connections_answer()
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(answer.body)


class ActHandler(Handler):
    """An act on the login: by POST, or by a program's GET."""

    title: str
    question: str

    async def get(self) -> None:
        """Act for a program; ask a browser first."""
        if guard.looks_like_browser(self.request.headers):
            self._ask()
        else:
            await self.act()

    async def head(self) -> None:
        """HEAD never acts."""
        self._ask()

    async def post(self) -> None:
        """Act."""
        await self.act()

    async def act(self) -> None:
        """What the endpoint is for."""
        raise NotImplementedError

    def _ask(self) -> None:
        self.write_page("confirm.html", title=self.title, question=self.question, action=self.request.path)


class RefreshHandler(ActHandler):
    """``/refresh``: refresh now."""

    title = "Refresh"
    question = "Get a new access token from Xero now? The old one stays good until its end."

    async def act(self) -> None:
        """303 to the new token."""
        await self.keeper.refresh()
        self.redirect("/token", status=303)


class RevokeHandler(ActHandler):
    """``/revoke``: end the login and revoke it at Xero, but keep the credentials."""

    title = "Revoke"
    question = "End this login? Xero disconnects the app from all its organisations; the credentials stay here."

    async def act(self) -> None:
        """200 when Xero has revoked it; 202 when Xero can't be told yet; 401 if nobody ever logged in."""
        if self.keeper.state is State.NO_CREDENTIALS:
            raise NoCredentials("there is no login to revoke: nobody has entered the client's credentials yet")
        if self.keeper.state in (State.NOT_LOGGED_IN, State.WAITING):
            raise NotLoggedIn("there is no login to revoke")
        if await self.keeper.end(forget=False):
            status, detail = "revoked", "Xero has revoked the login. The credentials are kept; connect to log in again"
        else:
            self.set_status(202)
            status, detail = "revocation-pending", PENDING
        if self.wants_page:
            self.write_page("message.html", title="Revoked", detail=detail, good=True)
        else:
            self.write_json({"status": status} | ({"detail": detail} if status != "revoked" else {}))


class LogoutHandler(ActHandler):
    """``/logout``: end the login, revoke it at Xero, and forget the credentials."""

    title = "Log out"
    question = "End this login and forget the credentials? Xero disconnects the app from all its organisations."

    async def act(self) -> None:
        """303 to the form."""
        await self.keeper.end(forget=True)
        self.redirect("/", status=303)


PENDING = "nothing is served from this login any more, but Xero can't be told just now; that is tried again by itself"

ROUTES = [
    (r"/token", TokenHandler),
    (r"/livez", HealthHandler),
    (r"/status", StatusHandler),
    (r"/ping", PingHandler),
    (r"/ready", ReadyHandler),
    (r"/tenants", TenantsHandler),
    (r"/refresh", RefreshHandler),
    (r"/revoke", RevokeHandler),
    (r"/logout", LogoutHandler),
]
