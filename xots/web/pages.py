"""The pages of a login: the form for the credentials, the start at Xero, and the return from it.

``login_cookie`` describes how a login survives from one request to the next.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from tornado.web import HTTPError

from ..errors import LoginFailed, TooManyLogins, XotsError
from ..keeping.login import LOGIN_TIMEOUT, LoginAttempt
from ..lifecycle.account import Account
from ..safe_text import safe_text
from ..secret import Secret
from ..wording import span_text, time_text
from ..xero.protocol import SCOPE_SETS, Connection, Credentials, authorize_url, new_code_verifier
from .guard import browser_origin, is_loopback_name, is_opened_by_user
from .handler import UNSUPPORTED, Handler
from .health import health
from .login_cookie import Form, Login, LoginCookies

__all__ = ["ROUTES"]

FIELD = re.compile(r"\S{0,512}")
"""A field of the form: one word. Xero's ids and secrets have less than 100 characters."""

TOO_LONG = (
    "the client id, the secret, the tenant id and the scopes are too long together for a cookie of "
    "4096 bytes, which carries them to Xero and back. Nothing was changed; check each of them"
)

GRANULAR = "start xots with -o granular, or use the button for the granular scopes on /home"

logger = logging.getLogger("xots.web")


class CookieHandler(Handler):
    """A handler that reads and writes the cookies of a login."""

    def keep_cookie(self, content: Form | Login) -> None:
        """Seal ``content`` into a cookie that expires with the login.

        Raises:
            HTTPError: the cookie would be so large that browsers drop it.
        """
        cookie = self.login_cookies().new(self.keeper.name, content)
        if cookie is None:
            raise HTTPError(400, TOO_LONG)
        for name in cookie.replaced:
            self.clear_cookie(name)
        self.set_cookie(
            cookie.name,
            cookie.value,
            path="/",
            max_age=int(LOGIN_TIMEOUT.total_seconds()),
            httponly=True,
            samesite="Lax",
            secure=self.config.origin.startswith("https:"),
        )

    def login_cookies(self) -> LoginCookies:
        """Return the cookies of this request."""
        return LoginCookies(
            sealer=self.sealer,
            redirect_uri=self.config.redirect_uri,
            values={name: morsel.value for name, morsel in self.cookies.items()},
            now=self.keeper.clock.now(),
        )

    def new_login(
        self, client: Form, scopes: tuple[str, ...], scopes_configured: tuple[str, ...] = ()
    ) -> Login:
        """Return a login with these credentials and scopes, that starts now."""
        return Login(
            state=Secret(secrets.token_urlsafe(32)),
            verifier=Secret(new_code_verifier()) if self.config.pkce else None,
            credentials=client.credentials,
            tenant_id=client.tenant_id,
            scopes=scopes,
            scopes_configured=scopes_configured,
            redirect_uri=self.config.redirect_uri,
            replaces=self.keeper.account.consent_id,
            at=self.keeper.clock.now(),
        )


class Page(CookieHandler):
    """A page that a user may open by any name of this host."""

    def prepare(self) -> None:
        """Redirect a browser that uses another name of loopback to the redirect URI's name: cookies
        belong to one name."""
        super().prepare()
        if self.is_read and _is_other_loopback(self.request.host.lower(), self.config.redirect_uri):
            self.redirect(self.config.origin + self.request.path, status=303)


def _is_other_loopback(host: str, redirect_uri: str) -> bool:
    """True if this host and the redirect URI's are different names of loopback."""
    wanted = browser_origin(redirect_uri)[1]
    if host in (wanted, urlsplit(redirect_uri).netloc.lower()):
        return False
    return all(is_loopback_name(urlsplit(f"//{name}").hostname or "") for name in (host, wanted))


class FormHandler(Page):
    """``/`` and ``/login``: the form for the client's credentials."""

    async def get(self) -> None:
        """Show the form. ``/`` redirects to ``/home`` once the credentials are known."""
        if self.request.path == "/" and self.keeper.credentials is not None:
            self.redirect("/home", status=303)
        else:
            self._write_form([])

    async def post(self) -> None:
        """Keep the credentials in a cookie and redirect to ``/home``."""
        client_id = self.get_body_argument("client_id", "")
        client_secret = self.get_body_argument("client_secret", "")
        tenant_id = self.get_body_argument("tenant_id", "")
        form = Form(
            credentials=Credentials(
                client_id=client_id,
                client_secret=Secret(client_secret) if client_secret else None,
            ),
            tenant_id=tenant_id or self.config.tenant_id,
            at=self.keeper.clock.now(),
        )
        problems = _form_problems(client_id, client_secret, tenant_id, pkce=self.config.pkce)
        if not problems and not self._fits_cookies(form):
            problems = [f"{TOO_LONG[0].upper()}{TOO_LONG[1:]}."]
        if problems:
            self.set_status(400)
            self._write_form(problems, client_id, tenant_id)
        else:
            self.keep_cookie(form)
            self.redirect("/home", status=303)

    def _fits_cookies(self, form: Form) -> bool:
        """True if browsers keep the cookie of a login with this form. The form's is smaller."""
        login = self.new_login(form, self.config.scopes)
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
    problems = [
        f"The {label} cannot be right: it holds a space or a control character, or is too long."
        for label, value in fields.items()
        if not (value.isprintable() and FIELD.fullmatch(value))
    ]
    if not client_id:
        problems.append("The client id is missing: Xero shows it on the app's Configuration page.")
    if not client_secret and not pkce:
        problems.append(
            "The client secret is missing: a login without one needs PKCE, which is off."
        )
    return problems


class HomeHandler(Page):
    """``/home``: the state of the login, and the buttons to log in and to choose an
    organisation."""

    async def get(self) -> None:
        """Show the page. Without any credentials, redirect to the form."""
        client = self._client()
        if client is None:
            self.redirect("/", status=303)
            return
        client_id, known = client.credentials.client_id, self.keeper.credentials
        account, pending = self.keeper.account, self._pending()
        connections, trouble = await self._connections()
        self.write_page(
            "home.html",
            title="Xero connection",
            health=health(self.keeper, self.config.refresh_lifetime),
            account=account,
            client_id=client_id,
            new_client=known is None or client_id != known.client_id,
            pending=pending[-1] if pending else None,
            offer_granular=_offers_granular(self.config.scopes, account, pending),
            connections=connections,
            trouble=trouble,
        )

    async def post(self) -> None:
        """Choose the organisation if the request names one. Otherwise start a login."""
        tenant_id = self.get_body_argument("tenant_id", "")
        client = self._client()
        if tenant_id:
            self.check_crowd()
            await self.keeper.choose_tenant(tenant_id)
            self.redirect("/home", status=303)
        elif client is None:
            self.redirect("/", status=303)
        else:
            self._start(self.new_login(client, *self._scopes()))

    def _start(self, login: Login) -> None:
        """Keep the login in a cookie and redirect to Xero."""
        self.keep_cookie(login)
        self.keeper.login_started()
        self.redirect(
            authorize_url(
                self.config.authorize_url,
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
            return self.config.scopes, ()
        if name not in SCOPE_SETS:
            raise HTTPError(400, "scopes must be one of: " + ", ".join(SCOPE_SETS))
        return SCOPE_SETS[name], self.config.scopes

    def _client(self) -> Form | None:
        """Return the credentials to log in with: those of the form, or else the known ones."""
        form = self.login_cookies().form(self.keeper.name)
        credentials = self.keeper.credentials
        if form is not None or credentials is None:
            return form
        now = self.keeper.clock.now()
        return Form(credentials=credentials, tenant_id=self.config.tenant_id, at=now)

    def _pending(self) -> list[Login]:
        """Return the logins that have not returned from Xero, and log each.

        A login that started before the live one needs no hint. Times of day cannot tell.
        """
        consent_id, now = self.keeper.account.consent_id, self.keeper.clock.now()
        logins = self.login_cookies().logins(self.keeper.name)
        if consent_id is not None:
            logins = [login for login in logins if login.replaces == consent_id]
        for login in logins:
            logger.info(
                "a login started at %s has not returned from Xero; if Xero showed an error page, "
                "register exactly the redirect URI %s there, check the client id, or start xots "
                "with -o granular",
                time_text(login.at, now),
                login.redirect_uri,
            )
        return logins

    async def _connections(self) -> tuple[list[Connection] | None, str | None]:
        """Return the organisations to choose from, if none is chosen, and why they cannot be
        listed.

        None: they are not known, and the user has to click for a request to Xero. A user arrives
        here from Xero, but a foreign page can lead here too.
        """
        may_choose = self.config.has_tenants and not self.keeper.account.tenant_id
        if not may_choose or not self.keeper.can_serve:
            return [], None
        if not is_opened_by_user(self.request.headers) or self.is_crowded:
            return self.keeper.known_connections, None
        try:
            return await self.keeper.connections(), None
        except XotsError as error:
            return [], str(error)


def _offers_granular(configured: tuple[str, ...], account: Account, pending: list[Login]) -> bool:
    """True if a login with the granular scopes may help: Xero may have refused the scopes of the
    others, and none of them requested the granular ones."""
    granular = SCOPE_SETS["granular"]
    requested = [account.scopes_requested, *(login.scopes for login in pending)]
    if granular in requested:
        return False
    classic = set(SCOPE_SETS["classic"]) - set(granular)
    return bool(pending) or not classic.isdisjoint(configured)


class CodeHandler(CookieHandler):
    """``/code``: the redirect URI, at which a browser returns from Xero."""

    head = UNSUPPORTED  # type: ignore[assignment]  # Tornado marks a missing method so

    async def get(self) -> None:
        """Finish the login that this browser started, and redirect to ``/home``."""
        login = self._started_login(self._single("state"))
        self.keeper.login_returned()
        self._check_issuer(self._single("iss"))
        if error := self._single("error"):
            raise LoginFailed(_error_of_xero(error, self._single("error_description")))
        if not (code := self._single("code")):
            raise LoginFailed(
                "Xero's response holds neither a code nor an error; start again at /home"
            )
        try:
            await self.keeper.login(_attempt(login, code))
        except TooManyLogins:
            # A reload of this page can finish the login, as long as Xero accepts its code.
            self.keep_cookie(login)
            raise
        self.clear_cookie(self.login_cookies().form_name(self.keeper.name))
        self.redirect("/home", status=303)

    def _started_login(self, state: str) -> Login:
        """Return the login with this ``state``, and clear its cookie.

        Raises:
            LoginFailed: this browser started none, or it took too long.
        """
        cookies = self.login_cookies()
        account, login = cookies.started(Secret(state)) or (None, None)
        if login is None or account != self.keeper.name:
            raise LoginFailed(
                "no login that was started in this browser within the last "
                f"{span_text(LOGIN_TIMEOUT)} belongs to this response. Start again at "
                f"{self.config.origin}/home and finish in the same browser"
            )
        self.clear_cookie(cookies.login_name(account, login.state))
        return login

    def _single(self, name: str) -> str:
        """Return a parameter; empty if there is none.

        Raises:
            HTTPError: it occurs more than once (RFC 6749 section 3.1).
        """
        values = self.get_query_arguments(name, strip=False)
        if len(values) > 1:
            raise HTTPError(400, f"the parameter {name} occurs more than once")
        return "".join(values)

    def _check_issuer(self, issuer: str) -> None:
        """Check that a response that names its issuer names ours (RFC 9207). Xero names none.

        Raises:
            LoginFailed: it names another issuer.
        """
        ours = (self.config.authorize_url, self.config.token_url)
        if issuer and not _has_origin_of(issuer, ours):
            raise LoginFailed(
                "the response names an issuer that is not the identity server of this login"
            )


def _has_origin_of(uri: str, others: Iterable[str]) -> bool:
    try:
        return browser_origin(uri) in map(browser_origin, others)
    except (ValueError, KeyError):
        return False


def _attempt(login: Login, code: str) -> LoginAttempt:
    return LoginAttempt(
        credentials=login.credentials,
        code=Secret(code),
        verifier=login.verifier,
        redirect_uri=login.redirect_uri,
        scopes=login.scopes,
        scopes_configured=login.scopes_configured,
        tenant_id=login.tenant_id,
    )


def _error_of_xero(error: str, description: str) -> str:
    """Return an error that the browser brought from Xero in words (RFC 6749 section 4.1.2.1)."""
    match error:
        case "access_denied" if "scope" in description.lower():
            return (
                "Xero refused the scopes for this app. Apps created since 2 March 2026 cannot use "
                f"the classic ones: {GRANULAR}"
            )
        case "access_denied":
            return (
                "the consent was cancelled at Xero, or not given. Nothing was changed; start again "
                "at /home"
            )
        case "invalid_scope":
            return f"Xero does not permit these scopes for this app: {GRANULAR}"
    words = f"{safe_text(error)} {safe_text(description)}"
    return f"Xero responded with an error: {words}".rstrip()


ROUTES = [
    (r"/", FormHandler),
    (r"/login", FormHandler),
    (r"/home", HomeHandler),
    (r"/code", CodeHandler),
]
