"""The acts on a login: ``/refresh``, ``/revoke`` and ``/logout``; and ``/tenants``.

A program's GET acts, as on the Go server. A browser's GET returns a page with a button instead,
since a link, a prefetch or a hostile page can make a browser send a GET. HEAD is not supported: it
must not act, and a status without an act would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tornado.web import HTTPError

from ..errors import AccountUnusable, NoCredentials, NotLoggedIn, XotsError
from ..keeping.ending import PENDING_TEXT, EndOutcome, EndResult
from ..lifecycle.schedule import State
from ..wording import sharing_text
from . import accept, guard
from .handler import UNSUPPORTED, Handler

__all__ = ["ROUTES"]

USE_POST = (
    "nothing was done: this request has a header of a browser (Accept-Language, Cookie, Origin, "
    "Referer, Sec-... or a User-Agent with Mozilla/), and a browser's GET does not act; use POST"
)

NO_LOGIN = "there is no login to revoke: it was ended before. The credentials are kept"
REVOKED = "Xero has revoked the login. The credentials are kept; connect to log in again"
ENDED = (
    "the login is ended here; the identity server revokes no tokens (revoke_url is empty), so they "
    "stay valid there until they expire"
)


class Outcome(NamedTuple):
    """The response to a revocation."""

    status: int
    title: str
    detail: str
    """The words of the page."""
    content: dict[str, object]
    """The JSON for a program."""


CONFIRMED = Outcome(200, "Revoked", REVOKED, {"status": "revoked"})
UNCONFIRMED = Outcome(
    202, "Revoked", PENDING_TEXT, {"status": "revocation-pending", "detail": PENDING_TEXT}
)
ENDED_BEFORE = Outcome(200, "Ended", NO_LOGIN, {"status": "revoked", "detail": NO_LOGIN})
NOT_REVOCABLE = Outcome(200, "Ended", ENDED, {"status": "ended", "detail": ENDED})


def _ended(ended: EndOutcome, *, can_revoke: bool) -> Outcome:
    """Return the response to the end of one login."""
    if ended.result is EndResult.DISCONNECTED:
        return _disconnected(ended)
    if not ended.had_login:
        return ENDED_BEFORE
    if not can_revoke:
        return NOT_REVOCABLE
    return CONFIRMED if ended else UNCONFIRMED


def _all_ended(ended: Mapping[str, EndOutcome], *, can_revoke: bool) -> Outcome:
    """Return the response to the end of several logins."""
    outcomes = {name: _ended(found, can_revoke=can_revoke) for name, found in ended.items()}
    worst = max(outcomes.values(), key=lambda outcome: outcome.status)
    if len(outcomes) == 1:
        detail, content = worst.detail, dict(worst.content)
    else:
        detail = f"The logins of {', '.join(ended)} were ended together: {worst.detail}"
        content = {"status": worst.content["status"]}
    content["accounts"] = {name: outcome.content["status"] for name, outcome in outcomes.items()}
    return worst._replace(detail=detail, content=content)


def _disconnected(ended: EndOutcome) -> Outcome:
    explanation = ended.explanation or ""
    remaining = [{"tenant_id": one.tenant_id, "name": one.name} for one in ended.remaining]
    content: dict[str, object] = {
        "status": ended.result,
        "detail": explanation,
        "shared_with": list(ended.shared_with),
        "user_unknown": list(ended.user_unknown),
        "remaining": remaining,
    }
    return Outcome(200, "Ended", explanation, content)


class TenantsHandler(Handler):
    """``GET /tenants``: the organisations that the login is connected to."""

    async def get(self) -> None:
        """Return Xero's list, each valid organisation with all its fields, as JSON in ASCII."""
        if not self.account_config.identity_server.connections_url:
            raise HTTPError(
                404, "the identity server has no organisations: connections_url is empty"
            )
        self.check_crowd()
        self.write_json([connection.fields for connection in await self.keeper.connections()])


class ActHandler(Handler):
    """An act on the login: by POST, or by a program's GET."""

    title: str
    question: str
    """The text of the page with the button."""

    head = UNSUPPORTED  # type: ignore[assignment]  # Tornado marks a missing method so

    async def get(self) -> None:
        """Act for a program; return the page with the button to a browser.

        Raises:
            HTTPError: a client that looks like a browser accepts no page. It must use POST.
        """
        headers = self.request.headers
        if not guard.looks_like_browser(headers):
            await self.act()
        elif accept.names(headers.get("Accept", ""), "text/html"):
            self.confirm()
        else:
            raise HTTPError(405, USE_POST)

    async def post(self) -> None:
        """Act."""
        await self.act()

    async def act(self) -> None:
        """Carry out the act and write the response."""
        raise NotImplementedError

    def confirm(self) -> None:
        """Write the page with the button."""
        self.write_page(
            "confirm.html",
            title=self.title,
            question=self.question,
            action=self.request.path,
            end_all=None,
        )


class RefreshHandler(ActHandler):
    """``/refresh``: refresh now."""

    title = "Refresh"
    question = "Get a new access token from Xero now? The old one stays valid until it expires."

    async def act(self) -> None:
        """Respond 303 to the new token, and to a browser 303 to ``/home``."""
        self.check_crowd()
        await self.keeper.refresh()
        self.redirect(self.url("/home" if self.wants_page else "/token"), status=303)


class EndHandler(ActHandler):
    """An act that ends the login, or with ``all=true`` those of all accounts that share its client
    and Xero user too."""

    ends_login = True

    question_if_shared: str
    """The text of the page if there are such accounts, with a place for a sentence about them."""

    def confirm(self) -> None:
        """Write the page with the button, and with a second one if other accounts share the client
        and the Xero user."""
        shared = list(self.accounts.siblings(self.keeper.name))
        question = self.question
        if shared:
            question = self.question_if_shared.format(sharing_text(shared))
        self.write_page(
            "confirm.html",
            title=self.title,
            question=question,
            action=self.request.path,
            end_all=", ".join([self.keeper.name, *shared]) if shared else None,
        )

    async def end_all(self, *, forget: bool) -> dict[str, EndOutcome]:
        """End the logins of all accounts that share the client and the Xero user.

        Raises:
            AccountUnusable: some could not be ended. The others were.
        """
        found = await self.accounts.end_all(self.keeper.name, forget=forget)
        ended = {name: one for name, one in found.items() if isinstance(one, EndOutcome)}
        failed = [f"{name}: {one}" for name, one in found.items() if isinstance(one, XotsError)]
        if failed:
            others = f"; the logins of {', '.join(ended)} were ended" if ended else ""
            raise AccountUnusable(f"a login could not be ended{others}. {'; '.join(failed)}")
        return ended

    def write_outcome(self, outcome: Outcome) -> None:
        """Write the outcome as a page or as JSON."""
        self.set_status(outcome.status)
        if self.wants_page:
            self.write_page(
                "message.html",
                title=outcome.title,
                detail=outcome.detail,
                good=True,
                in_list=False,
            )
        else:
            self.write_json(outcome.content)

    @property
    def can_revoke(self) -> bool:
        """True if the identity server revokes tokens."""
        return bool(self.account_config.identity_server.revoke_url)

    @property
    def ends_all(self) -> bool:
        """True if the accounts that share the client and the Xero user are to be ended too.

        Raises:
            HTTPError: the parameter ``all`` has another value.
        """
        match self.get_arguments("all"):
            case []:
                return False
            case ["true"]:
                return True
        raise HTTPError(400, "all must be true, given once, or be left out")


class RevokeHandler(EndHandler):
    """``/revoke``: end the login and revoke it at Xero, but keep the credentials."""

    title = "Revoke"
    question = (
        "End this login? Xero disconnects the app from all its organisations; the credentials "
        "stay here."
    )
    question_if_shared = (
        "End this login? {}. So nothing is revoked: the connections of this login are deleted at "
        "Xero, and its tokens are forgotten. The credentials stay here."
    )

    async def act(self) -> None:
        """Respond 200 once Xero has revoked the login, and 202 if Xero has not confirmed it yet."""
        ends_all = self.ends_all
        self._check_login()
        if ends_all:
            outcome = _all_ended(await self.end_all(forget=False), can_revoke=self.can_revoke)
        else:
            outcome = _ended(await self.keeper.end(forget=False), can_revoke=self.can_revoke)
        self.write_outcome(outcome)

    def _check_login(self) -> None:
        """Check that there is a login to revoke.

        Raises:
            NoCredentials, NotLoggedIn: there is none.
        """
        match self.keeper.state:
            case State.NO_CREDENTIALS:
                raise NoCredentials(
                    "there is no login to revoke: the client's credentials have not been entered "
                    "yet"
                )
            case State.NOT_LOGGED_IN | State.WAITING:
                raise NotLoggedIn("there is no login to revoke")


class LogoutHandler(EndHandler):
    """``/logout``: end the login, revoke it at Xero, and forget the credentials."""

    title = "Log out"
    question = (
        "End this login and forget the credentials? Xero disconnects the app from all its "
        "organisations."
    )
    question_if_shared = (
        "End this login and forget the credentials? {}. So nothing is revoked: the connections of "
        "this login are deleted at Xero, and its tokens are forgotten."
    )

    async def act(self) -> None:
        """Respond 303 to the form.

        If nothing was revoked, since other accounts share the Xero user, respond 200 and tell what
        remains at Xero. If several logins were ended, respond to a program as ``/revoke`` does, and
        to a browser 303 to the list of accounts.

        Raises:
            AccountUnusable: some of them could not be ended.
        """
        if self.ends_all:
            every = await self.end_all(forget=True)
            if self.wants_page:
                self.redirect("/accounts", status=303)
            else:
                self.write_outcome(_all_ended(every, can_revoke=self.can_revoke))
            return
        ended = await self.keeper.end(forget=True)
        if ended.result is EndResult.DISCONNECTED:
            self.write_outcome(_disconnected(ended))
        else:
            self.redirect(self.url("/"), status=303)


ROUTES = [
    (r"/tenants", TenantsHandler),
    (r"/refresh", RefreshHandler),
    (r"/revoke", RevokeHandler),
    (r"/logout", LogoutHandler),
]
