"""The acts on the login: ``/refresh``, ``/revoke``, ``/logout``; and ``/tenants``.

A GET acts for a program, as it did on the Go server; whatever looks like a browser gets a page with a button instead,
since a link, a prefetch or a hostile page can make a browser send a GET.
"""

from __future__ import annotations

from tornado.web import HTTPError

from ..errors import NoCredentials, NotLoggedIn
from ..lifecycle.schedule import State
from . import guard
from .handler import Handler

__all__ = ["ROUTES"]

PENDING = "nothing is served from this login any more, but Xero can't be told just now; that is tried again by itself"


class TenantsHandler(Handler):
    """``/tenants``: the organisations that the login is connected to."""

    async def get(self) -> None:
        """The list as Xero gives it."""
        if not self.config.has_tenants:
            raise HTTPError(
                404, "the identity server has no organisations: connections_url is empty"
            )
        answer = await self.keeper.connections_response()
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
        self.write_page(
            "confirm.html", title=self.title, question=self.question, action=self.request.path
        )


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
            raise NoCredentials(
                "there is no login to revoke: nobody has entered the client's credentials yet"
            )
        if self.keeper.state in (State.NOT_LOGGED_IN, State.WAITING):
            raise NotLoggedIn("there is no login to revoke")
        if await self.keeper.end(forget=False):
            status, detail = (
                "revoked",
                "Xero has revoked the login. The credentials are kept; connect to log in again",
            )
        else:
            self.set_status(202)
            status, detail = "revocation-pending", PENDING
        if self.wants_page:
            self.write_page("message.html", title="Revoked", detail=detail, good=True)
        else:
            self.write_json(
                {"status": status} | ({"detail": detail} if status != "revoked" else {})
            )


class LogoutHandler(ActHandler):
    """``/logout``: end the login, revoke it at Xero, and forget the credentials."""

    title = "Log out"
    question = "End this login and forget the credentials? Xero disconnects the app from all its organisations."

    async def act(self) -> None:
        """303 to the form."""
        await self.keeper.end(forget=True)
        self.redirect("/", status=303)


ROUTES = [
    (r"/tenants", TenantsHandler),
    (r"/refresh", RefreshHandler),
    (r"/revoke", RevokeHandler),
    (r"/logout", LogoutHandler),
]
