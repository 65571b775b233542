"""``/accounts``: the accounts of this server, and how one is added or removed at run time.

The list is made from summaries in memory: it makes no request to the store or to Xero. Only just
after a start, it waits until the records were read, which tells the removed accounts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime

import msgspec
from tornado.web import HTTPError

from ..accounts.accounts import unknown_account
from ..accounts.directory import Summary
from ..backends.records import is_account
from ..errors import SettingsError, StoreUnavailable
from ..lifecycle.account import Entry
from ..lifecycle.outlook import Need
from ..lifecycle.schedule import State
from ..secret import Secret, concealed
from ..wording import time_text
from ..xero.scopes import scopes
from . import accept
from .handler import Handler, Subject
from .pages import field_problems
from .responses import UNSUPPORTED

__all__ = ["ROUTES", "ROUTES_OF_ACCOUNT"]

MAX_SCOPES_LENGTH = 2000
"""Upper bound on the characters of the scopes. All of Xero's together have fewer."""

MAX_SWEEP_WAIT_SECONDS = 2.0
"""Upper bound on the time for which the list waits after a start. Thousands of records take
longer."""

STATE_TEXTS = {
    State.NO_CREDENTIALS: "credentials missing",
    State.NOT_LOGGED_IN: "not logged in",
    State.WAITING: "login started",
    State.CONNECTED: "connected",
    State.REFRESH_FAILING: "refresh failing",
    State.CONSENT_LOST: "login lost",
    State.REVOKED: "login ended",
}
"""The states on the page."""

NEED_TEXTS = {
    Need.NO_LOGIN: "no user is logged in",
    Need.NO_CREDENTIALS: "the client's credentials are not set",
    Need.CONSENT_LOST: "the login is lost",
    Need.CLIENT_REFUSED: "the client or its request is refused",
    Need.GRACE_ENDS: "if no response to the open refresh arrives",
    Need.LAST_ATTEMPT: "if the last attempt fails",
    Need.TOKEN_DIES: "if no refresh succeeds",
}
"""The reasons for a login on the page."""

WRONG_BODY = (
    "the body must be a form or a JSON object with the fields name, client_id, client_secret, "
    "tenant_id and scopes, each a string and given once; only name is required"
)

USE_POST = "nothing was removed: use POST"


class Added(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of an account to add."""

    name: str
    client_id: str = ""
    client_secret: Secret = Secret("")
    tenant_id: str = ""
    scopes: str = ""

    @property
    def problems(self) -> list[str]:
        """A sentence for each field that cannot be right."""
        fields = {
            "client id": self.client_id,
            "client secret": self.client_secret.reveal(),
            "tenant id": self.tenant_id,
        }
        problems = field_problems(fields)
        if not is_account(self.name):
            problems.append(
                "The name cannot be used: it must have 1 to 64 characters, each a small letter, a "
                "digit or a hyphen, and not begin with lease-."
            )
        if self.client_secret.reveal() and not self.client_id:
            problems.append("The client id is missing: a client secret belongs to one.")
        try:
            self.scope_list()
        except ValueError as error:
            problems.append(f"The scopes cannot be right: {error}.")
        return problems

    def scope_list(self) -> tuple[str, ...]:
        """Return the scopes; none if the field is empty.

        Raises:
            ValueError: they cannot be requested. The message does not repeat them.
        """
        if len(self.scopes) > MAX_SCOPES_LENGTH:
            raise ValueError(f"they have more than {MAX_SCOPES_LENGTH} characters")
        return scopes(self.scopes) if self.scopes.strip() else ()


class AccountsHandler(Handler):
    """``/accounts``: the list, and the form to add one."""

    subject = Subject.SERVER

    async def get(self) -> None:
        """Respond with a page to a browser, and with JSON to a program."""
        with suppress(StoreUnavailable, TimeoutError):
            await asyncio.wait_for(self.accounts.swept(), MAX_SWEEP_WAIT_SECONDS)
        if self.wants_page:
            self._write_list([], Added(name=""))
        else:
            self.write_json({"accounts": self.accounts.summaries()})

    async def post(self) -> None:
        """Add an account. Respond 201 to a program, and to a browser 303 to its ``/home``."""
        added = self._added()
        if problems := added.problems:
            self._refuse(problems, added)
            return
        self.check_crowd()
        entry = Entry(
            client_id=added.client_id or None,
            client_secret=added.client_secret if added.client_secret.reveal() else None,
            tenant_id=added.tenant_id or None,
            scopes=added.scope_list(),
            added_at=self.keeper.clock.now(),
        )
        try:
            config = await self.accounts.add(added.name, entry)
        except SettingsError as error:
            self._refuse(error.problems, added)
            return
        self.named_account = added.name
        if self.wants_page:
            self.redirect(self.url("/home"), status=303)
        else:
            self.set_status(201)
            self.set_header("Location", self.url("/home"))
            fields = {"account": added.name, "needs_login": config.needs_login}
            self.write_json({"status": "added"} | fields)

    def _refuse(self, problems: list[str], added: Added) -> None:
        """Respond with the reasons why the account cannot be added: on the page, or by raising.

        Raises:
            HTTPError: the client is a program.
        """
        if not self.wants_page:
            raise HTTPError(400, " ".join(problems))
        self.set_status(400)
        self._write_list(problems, added)

    def _added(self) -> Added:
        """Return the fields of the body.

        Raises:
            HTTPError: it has no such fields.
        """
        content_type = self.request.headers.get("Content-Type", "")
        try:
            if content_type.partition(";")[0].strip().lower() == "application/json":
                return msgspec.json.decode(self.request.body, type=Added, dec_hook=concealed)
            given = self.request.body_arguments
            if any(len(values) > 1 for values in given.values()):
                raise HTTPError(400, WRONG_BODY)
            fields = {name: self.get_body_argument(name) for name in given}
            return msgspec.convert(fields, Added, dec_hook=concealed)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise HTTPError(400, WRONG_BODY) from None

    def _write_list(self, problems: list[str], added: Added) -> None:
        self.write_page(
            "accounts.html",
            title="Accounts",
            summaries=self.accounts.summaries(),
            needed=_needed,
            state_texts=STATE_TEXTS,
            need_texts=NEED_TEXTS,
            problems=problems,
            added=added,
        )


def _needed(summary: Summary, now: datetime) -> str | None:
    """Return when a login is needed, in words; None before the first look at the record. The time
    of one that is needed now is that of the last look."""
    if summary.login_needed_at is None or summary.attention_for is None:
        return None
    return "now" if summary.attention_for.is_now else time_text(summary.login_needed_at, now)


class RemoveHandler(Handler):
    """``/accounts/NAME/remove``: end the account's login, and remove the account.

    It needs no keeper, so that an account that cannot be used can be removed.
    """

    opens_account = False
    subject = Subject.NONE  # once the account is gone, its name leads nowhere

    head = UNSUPPORTED  # type: ignore[assignment]  # Tornado marks a missing method so

    async def get(self) -> None:
        """Return the page with the button.

        Raises:
            HTTPError: the client accepts no page. It must use POST.
            UnknownAccount: there is no such account.
        """
        if not accept.names(self.request.headers.get("Accept", ""), "text/html"):
            raise HTTPError(405, USE_POST)
        name = self.named_account or ""
        if name not in self.accounts.names():
            raise unknown_account(name)
        self.write_page(
            "confirm.html",
            title="Remove the account",
            question=f"Remove the account {name}? Its login ends, and its credentials are dropped.",
            action=self.request.path,
            end_all=None,
        )

    async def post(self) -> None:
        """Remove the account. Respond with JSON, and to a browser 303 to ``/accounts``, or with a
        page if the end of its login left anything at Xero."""
        self.check_crowd()
        removed = self.named_account
        ended = await self.accounts.remove(removed or "")
        self.named_account = None  # its pages are gone
        if not self.wants_page:
            detail = {"detail": ended.explanation} if ended.explanation else {}
            self.write_json({"status": "removed", "account": removed} | detail)
        elif ended.explanation:
            self.write_page(
                "message.html",
                title="Removed",
                detail=ended.explanation,
                good=True,
                in_list=True,
            )
        else:
            self.redirect("/accounts", status=303)


ROUTES = [(r"/accounts", AccountsHandler)]

ROUTES_OF_ACCOUNT = [(r"/remove", RemoveHandler)]
"""The endpoints that exist for an account in the path only."""
