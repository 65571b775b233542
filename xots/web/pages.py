"""The pages of a login: the form for the credentials, the state, and its start.

``login_cookie`` describes how a login survives from one request to the next, and ``callback`` is
the return from Xero.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from datetime import datetime

from tornado.web import HTTPError

from ..advice import capitalised
from ..errors import XotsError
from ..keeping.tenants import organisations_of
from ..lifecycle.account import Account, Organisation
from ..lifecycle.outlook import Need, Outlook
from ..secret import Secret
from ..wording import FORGOTTEN_TEXT, time_text
from ..xero.protocol import SCOPE_SETS, Credentials
from ..xero.requests import authorize_url, new_code_verifier
from .cookie_handler import OTHER_CLIENT, CookieHandler
from .guard import is_opened_by_user, is_other_loopback
from .health import health
from .login_cookie import Form, Login
from .problems import SET_CREDENTIALS

__all__ = ["ROUTES", "field_problems"]

FIELD = re.compile(r"\S{0,512}")
"""A field of the form: one word. Xero's ids and secrets have less than 100 characters."""

logger = logging.getLogger("xots.web")


class Page(CookieHandler):
    """A page that a user may open by any name of this host."""

    async def prepare(self) -> None:
        """Redirect a browser that uses another name of loopback to the redirect URI's name: cookies
        belong to one name."""
        await super().prepare()
        if self.is_read and is_other_loopback(self.request.host, self.config.redirect_uri):
            self.redirect(self.config.origin + self.request.path, status=303)

    def new_login(
        self, client: Form, scopes: tuple[str, ...], scopes_configured: tuple[str, ...] = ()
    ) -> Login:
        """Return a login with these credentials and scopes, that starts now."""
        return Login(
            state=Secret(secrets.token_urlsafe(32)),
            verifier=Secret(new_code_verifier()) if self.account_config.pkce else None,
            credentials=client.credentials,
            token_url=client.token_url,
            tenant_id=client.tenant_id,
            scopes=scopes,
            scopes_configured=scopes_configured,
            redirect_uri=self.config.redirect_uri,
            replaces=self.keeper.account.consent_id,
            at=self.keeper.clock.now(),
        )


class FormHandler(Page):
    """``/`` and ``/login``: the form for the client's credentials."""

    async def get(self) -> None:
        """Show the form. ``/`` redirects to ``/home`` once the credentials are known. An account
        without a login has no form."""
        is_known = self.path == "/" and self.keeper.credentials is not None
        if is_known or not self.account_config.needs_login:
            self.redirect(self.url("/home"), status=303)
        else:
            self._write_form([])

    async def post(self) -> None:
        """Keep the credentials in a cookie and redirect to ``/home``."""
        self.check_needs_login()
        client_id = self.get_body_argument("client_id", "")
        client_secret = self.get_body_argument("client_secret", "")
        tenant_id = self.get_body_argument("tenant_id", "")
        form = Form(
            credentials=Credentials(
                client_id=client_id,
                client_secret=Secret(client_secret) if client_secret else None,
            ),
            token_url=self.account_config.identity_server.token_url,
            tenant_id=tenant_id or self.account_config.tenant_id,
            at=self.keeper.clock.now(),
        )
        pkce = self.account_config.pkce
        problems = _form_problems(client_id, client_secret, tenant_id, pkce=pkce)
        if not client_id:
            problems.append(self._missing_client_id())
        if not problems and not self._fits_cookies(form):
            problems = [f"{capitalised(self.too_long)}."]
        if not problems and self.is_other_client(client_id):
            problems = [f"{capitalised(OTHER_CLIENT)}."]
        if problems:
            self.set_status(400)
            self._write_form(problems, client_id, tenant_id)
        else:
            self.keep_cookie(form)
            self.redirect(self.url("/home"), status=303)

    def _missing_client_id(self) -> str:
        if self.account_config.identity_server.is_xero:
            return "The client id is missing: Xero shows it on the app's Configuration page."
        return "The client id is missing: it is part of the client's registration."

    def _fits_cookies(self, form: Form) -> bool:
        """True if browsers keep the cookie of a login with this form. The form's is smaller."""
        login = self.new_login(form, self.account_config.scopes)
        return self.login_cookies().new(self.keeper.name, login) is not None

    def _write_form(self, problems: list[str], client_id: str = "", tenant_id: str = "") -> None:
        self.write_page(
            "form.html",
            title="Client credentials",
            problems=problems,
            client_id=client_id,
            tenant_id=tenant_id,
        )


def _form_problems(client_id: str, client_secret: str, tenant_id: str, *, pkce: bool) -> list[str]:
    fields = {"client id": client_id, "client secret": client_secret, "tenant id": tenant_id}
    problems = field_problems(fields)
    if not client_secret and not pkce:
        problems.append(
            "The client secret is missing: a login without one needs PKCE, which is off."
        )
    return problems


def field_problems(fields: Mapping[str, str]) -> list[str]:
    """Return a sentence for each of these fields, by label, that cannot be right."""
    return [
        f"The {label} cannot be right: it holds a space or a control character, or is too long."
        for label, value in fields.items()
        if not (value.isprintable() and FIELD.fullmatch(value))
    ]


class HomeHandler(Page):
    """``/home``: the state of the login, and the buttons to log in and to choose an
    organisation."""

    async def get(self) -> None:
        """Show the page. Without any credentials, redirect to the form, if there is one."""
        client, config = self._client(), self.account_config
        if client is None and config.needs_login:
            self.redirect(self.url("/"), status=303)
            return
        client_id = client.credentials.client_id if client else None
        account, pending, known = self.keeper.account, self._pending(), self.keeper.credentials
        is_xero = config.identity_server.is_xero
        organisations, trouble = await self._organisations()
        self.write_page(
            "home.html",
            starts_login=config.needs_login,
            title="Xero connection" if is_xero else "Connection",
            health=health(self.keeper),
            account=account,
            client_id=client_id,
            new_client=client_id is not None and (known is None or client_id != known.client_id),
            pending=pending[-1] if pending else None,
            login_needed_at=_needed_at(self.keeper.outlook),
            offer_granular=is_xero
            and config.needs_login
            and _offers_granular(config.scopes, account, pending),
            forgotten_text=FORGOTTEN_TEXT,
            set_credentials=SET_CREDENTIALS,
            organisations=organisations,
            trouble=trouble,
            tenant_id=self.keeper.tenant_id,
            tenant_problem=self.keeper.tenant_problem,
        )

    async def post(self) -> None:
        """Choose the organisation if the request names one. Otherwise start a login."""
        tenant_id = self.get_body_argument("tenant_id", "")
        client = self._client()
        if tenant_id:
            self.check_crowd()
            await self.keeper.choose_tenant(tenant_id)
            self.redirect(self.url("/home"), status=303)
            return
        self.check_needs_login()
        if client is None:
            self.redirect(self.url("/"), status=303)
        else:
            self._start(self.new_login(client, *self._scopes()))

    def _start(self, login: Login) -> None:
        """Keep the login in a cookie and redirect to the identity server."""
        self.keep_cookie(login)
        self.keeper.login_started()
        self.redirect(
            authorize_url(
                self.account_config.identity_server,
                client_id=login.credentials.client_id,
                redirect_uri=login.redirect_uri,
                scopes=login.scopes,
                state=login.state.reveal(),
                verifier=login.verifier.reveal() if login.verifier else None,
            ),
            status=303,
        )

    def _scopes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the scopes to request, and those of the settings if the user chose another set.

        Raises:
            HTTPError: there is no such set.
        """
        name = self.get_body_argument("scopes", "")
        if not name:
            return self.account_config.scopes, ()
        if name not in SCOPE_SETS:
            raise HTTPError(400, "scopes must be one of: " + ", ".join(SCOPE_SETS))
        return SCOPE_SETS[name], self.account_config.scopes

    def _client(self) -> Form | None:
        """Return the credentials to log in with: those of the form, or else the known ones. An
        account without a login has no form."""
        needs_login, credentials = self.account_config.needs_login, self.keeper.credentials
        form = self.login_cookies().form(self.keeper.name) if needs_login else None
        token_url = self.account_config.identity_server.token_url
        if form is not None and form.token_url != token_url:
            form = None  # the settings name another server since: it gets no secret of this one
        if form is not None or credentials is None:
            return form
        return Form(
            credentials=credentials,
            token_url=token_url,
            tenant_id=self.account_config.tenant_id,
            at=self.keeper.clock.now(),
        )

    def _pending(self) -> list[Login]:
        """Return the logins that have not returned from the identity server, and log each.

        A login that started before the live one needs no hint. Times of day cannot tell.
        """
        consent_id, now = self.keeper.account.consent_id, self.keeper.clock.now()
        logins = self.login_cookies().logins(self.keeper.name)
        if consent_id is not None:
            logins = [login for login in logins if login.replaces == consent_id]
        server = self.account_config.identity_server
        for login in logins:
            logger.info(
                "%s: a login started at %s has not returned from %s; if %s showed an error page, "
                "register exactly the redirect URI %s there, check the client id, or %s",
                self.keeper.name,
                time_text(login.at, now),
                server.name,
                server.name,
                login.redirect_uri,
                "start xots with -o granular" if server.is_xero else "correct the setting scopes",
            )
        return logins

    async def _organisations(self) -> tuple[tuple[Organisation, ...] | None, str | None]:
        """Return the organisations to choose from, if none is chosen, and why they cannot be
        listed.

        None: they are not known, and the user has to click for a request to Xero. A user arrives
        here from Xero, but a foreign page can lead here too.
        """
        may_choose = (
            self.account_config.identity_server.has_organisations and not self.keeper.tenant_id
        )
        if not may_choose or not self.keeper.can_serve:
            return (), None
        if not is_opened_by_user(self.request.headers) or self.is_crowded:
            return self.keeper.known_organisations, None
        try:
            return organisations_of(await self.keeper.connections()), None
        except XotsError as error:
            return (), str(error)


def _needed_at(outlook: Outlook) -> datetime | None:
    """Return when a user must log in, if a last attempt is all that is left."""
    return outlook.login_needed_at if outlook.attention_for is Need.LAST_ATTEMPT else None


def _offers_granular(configured: tuple[str, ...], account: Account, pending: list[Login]) -> bool:
    """True if a login with the granular scopes may help: Xero may have refused the scopes of the
    others, and none of them requested the granular ones."""
    granular = SCOPE_SETS["granular"]
    requested = [account.scopes_requested, *(login.scopes for login in pending)]
    if granular in requested:
        return False
    classic = set(SCOPE_SETS["classic"]) - set(granular)
    return bool(pending) or not classic.isdisjoint(configured)


ROUTES = [
    (r"/", FormHandler),
    (r"/login", FormHandler),
    (r"/home", HomeHandler),
]
