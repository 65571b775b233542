"""The acts on a login: ``/refresh``, ``/revoke`` and ``/logout``; and ``/tenants``.

A program's GET acts, as on the Go server. A browser's GET returns a page with a button instead,
since a link, a prefetch or a hostile page can make a browser send a GET. HEAD is not supported: it
must not act, and a status without an act would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tornado.web import HTTPError

from ..access import TOKEN_SCOPES
from ..advice import capitalised
from ..errors import AccountUnusable, NoCredentials, NotLoggedIn, XotsError
from ..keeping.ending import EndOutcome, EndResult
from ..lifecycle.schedule import State
from ..wording import FORGOTTEN_TEXT, WITHOUT_USER_TEXT, sharing_text
from . import accept, guard
from .handler import Handler
from .responses import UNSUPPORTED

__all__ = ["ROUTES"]

USE_POST = (
    "nothing was done: this request has a header of a browser (Accept-Language, Cookie, Origin, "
    "Referer, Sec-... or a User-Agent with Mozilla/), and a browser's GET does not act; use POST"
)

NO_LOGIN = "there is no login to revoke: it was ended before. The credentials are kept"
ENDED_BEFORE = {"status": "revoked", "detail": NO_LOGIN}

STATUSES = {EndResult.FORGOTTEN: "ended"}
"""The ``status`` in the response, where that is not the result itself."""


class Outcome(NamedTuple):
    """The response to a revocation."""

    status: int
    title: str
    detail: str
    """The words of the page."""
    content: dict[str, object]
    """The JSON for a program."""


def _ended(ended: EndOutcome) -> Outcome:
    """Return the response to the end of one login."""
    if not ended.had_login:
        return Outcome(200, "Ended", NO_LOGIN, dict(ENDED_BEFORE))
    status: dict[str, object] = {"status": STATUSES.get(ended.result, ended.result.value)}
    detail = ended.explanation
    if detail is None:
        server = capitalised(ended.server)
        revoked = f"{server} has revoked the login. The credentials are kept; log in again"
        return Outcome(200, "Revoked", revoked, status)
    content = status | {"detail": detail}
    match ended.result:
        case EndResult.PENDING:
            return Outcome(202, "Revoked" if ended.revokes else "Ended", detail, content)
        case EndResult.DISCONNECTED:
            content |= _disconnected(ended)
    return Outcome(200, "Ended", detail, content)


def _disconnected(ended: EndOutcome) -> dict[str, object]:
    """Return the fields about accounts that share the user."""
    return {
        "shared_with": list(ended.shared_with),
        "user_unknown": list(ended.user_unknown),
        "remaining": [{"tenant_id": one.tenant_id, "name": one.name} for one in ended.remaining],
    }


def _all_ended(ended: Mapping[str, EndOutcome]) -> Outcome:
    """Return the response to the end of several logins: that of the one with the most left."""
    outcomes = {name: _ended(found) for name, found in ended.items()}
    worst = max(outcomes.values(), key=lambda outcome: (outcome.status, len(outcome.content)))
    if len(outcomes) == 1:
        detail, content = worst.detail, dict(worst.content)
    else:
        detail = f"The logins of {', '.join(ended)} were ended together: {worst.detail}"
        has_detail = "detail" in worst.content
        content = {"status": worst.content["status"]} | ({"detail": detail} if has_detail else {})
    content["accounts"] = {name: outcome.content["status"] for name, outcome in outcomes.items()}
    return worst._replace(detail=detail, content=content)


class TenantsHandler(Handler):
    """``GET /tenants``: the organisations that the login is connected to."""

    scopes = TOKEN_SCOPES

    async def get(self) -> None:
        """Return the list, each valid organisation with all its fields, as JSON in ASCII."""
        if not self.account_config.identity_server.has_organisations:
            raise HTTPError(
                404, "the identity server has no list of organisations: connections_url is empty"
            )
        self.check_crowd()
        self.write_json([connection.fields for connection in await self.keeper.connections()])


class ActHandler(Handler):
    """An act on the login: by POST, or by a program's GET."""

    title: str

    @property
    def question(self) -> str:
        """The text of the page with the button."""
        raise NotImplementedError

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

    @property
    def question(self) -> str:
        """The text of the page with the button."""
        return (
            f"Get a new access token from {self.server_name} now? The old one stays valid until it "
            "expires."
        )

    async def act(self) -> None:
        """Respond 303 to the new token, and to a browser 303 to ``/home``.

        A POST is the demand of a user, for whom a refused token is sent once more.
        """
        self.check_crowd()
        await self.keeper.refresh(by_user=not self.is_read)
        self.redirect(self.url("/home" if self.wants_page else "/token"), status=303)


class EndHandler(ActHandler):
    """An act that ends the login, or with ``all=true`` those of all accounts that share its client
    and Xero user too."""

    ends_login = True

    async def prepare(self) -> None:
        """Refuse the end of a login for an account that has none."""
        await super().prepare()
        if not self.account_config.problems(self.keeper.account):  # or the record's login is ended
            self.check_needs_login()

    act_in_words: str
    """The act in the middle of a question."""
    consequence: str
    """The sentence about the credentials, if they stay."""

    @property
    def question(self) -> str:
        """The text of the page with the button."""
        return f"{self.act_in_words}? {self._consequence()}{self.consequence}"

    def _consequence(self) -> str:
        server = self.account_config.identity_server
        if self.keeper.account.without_user:
            return f"Nothing is revoked: {WITHOUT_USER_TEXT}."
        if shared := self._shared():
            return (
                f"{sharing_text(shared, server.name)}. So nothing is revoked: the connections of "
                f"this login are deleted at {server.name}, and its tokens are forgotten."
            )
        if not server.revoke_url:
            return f"Its tokens are {FORGOTTEN_TEXT}."
        if server.is_xero:
            return "Xero disconnects the app from all its organisations."
        return f"{capitalised(server.name)} revokes its tokens."

    def _shared(self) -> list[str]:
        """Return the accounts that share the client and the Xero user."""
        return list(self.accounts.siblings(self.keeper.name))

    def confirm(self) -> None:
        """Write the page with the button, and with a second one if other accounts share the client
        and the Xero user."""
        shared = self._shared()
        self.write_page(
            "confirm.html",
            title=self.title,
            question=self.question,
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
    def ends_all(self) -> bool:
        """True if the accounts that share the client and the Xero user are to be ended too.

        Raises:
            HTTPError: the parameter ``all`` has another value.
            AccessDenied: the caller is limited to some accounts.
        """
        match self.get_arguments("all"):
            case []:
                return False
            case ["true"]:
                # The accounts that share the user are found only while they are ended.
                self.check_all_accounts()
                return True
        raise HTTPError(400, "all must be true, given once, or be left out")


class RevokeHandler(EndHandler):
    """``/revoke``: end the login and revoke it, but keep the credentials."""

    title = "Revoke"
    act_in_words = "End this login"
    consequence = " The credentials stay here."

    async def act(self) -> None:
        """Respond 200 once the login is revoked or forgotten, and 202 if that is pending."""
        ends_all = self.ends_all
        self._check_login()
        if ends_all:
            outcome = _all_ended(await self.end_all(forget=False))
        else:
            outcome = _ended(await self.keeper.end(forget=False))
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
    """``/logout``: end the login, revoke it, and forget the credentials."""

    title = "Log out"
    act_in_words = "End this login and forget the credentials"
    consequence = ""

    async def act(self) -> None:
        """Respond 303 to the form.

        If nothing was revoked, respond 200 and tell what remains at the identity server; if the end
        is pending, respond 202. If several logins were ended, respond to a program as ``/revoke``
        does, and to a browser 303 to the list of accounts.

        Raises:
            AccountUnusable: some of them could not be ended.
        """
        if self.ends_all:
            every = await self.end_all(forget=True)
            if self.wants_page:
                self.redirect("/accounts", status=303)
            else:
                self.write_outcome(_all_ended(every))
            return
        ended = await self.keeper.end(forget=True)
        if ended.result is EndResult.REVOKED:
            self.redirect(self.url("/"), status=303)
        else:
            self.write_outcome(_ended(ended))


ROUTES = [
    (r"/tenants", TenantsHandler),
    (r"/refresh", RefreshHandler),
    (r"/revoke", RevokeHandler),
    (r"/logout", LogoutHandler),
]
