"""What a person sees: the form for the credentials, the way to Xero, and the way back.

Nothing about a login is held here between its requests. A sealed cookie carries it, HttpOnly and SameSite=Lax, one
for each login that is begun: the ``state``, the PKCE verifier, the credentials, tenant and scopes. So any process of
a cluster can finish it, two tabs don't disturb each other, and only the browser that began a login can finish it
(RFC 9700 section 2.1).
"""

from __future__ import annotations

import logging
import secrets
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from tornado.web import HTTPError

from ..errors import LoginFailed, SealError, XotsError
from ..keeping.login import LOGIN_TIMEOUT, LoginAttempt
from ..lifecycle.account import Account
from ..secret import Secret
from ..xero.protocol import SCOPE_SETS, Connection, Credentials, authorize_url, new_code_verifier
from .guard import browser_origin, is_loopback_name
from .handler import Handler, utc_text

__all__ = ["ROUTES"]

MOST_LOGINS = 4
"""So many logins may be under way in one browser; beginning another forgets the oldest."""

FORM_COOKIE = "xots-form"
LOGIN_COOKIE = "xots-login-"


class Form(msgspec.Struct, frozen=True):
    """What was entered in the form, on its way from ``/login`` to ``/home``."""

    client_id: str
    client_secret: str | None
    tenant_id: str | None
    at: datetime

    def __repr__(self) -> str:
        return f"Form(client_id={self.client_id!r})"


class Login(msgspec.Struct, frozen=True):
    """A login that was begun, on its way from ``/home`` through Xero to ``/code``."""

    state: str
    verifier: str | None
    client_id: str
    client_secret: str | None
    tenant_id: str | None
    scopes: tuple[str, ...]
    scopes_configured: tuple[str, ...]
    redirect_uri: str
    at: datetime

    def __repr__(self) -> str:
        return f"Login(client_id={self.client_id!r})"


logger = logging.getLogger("xots.web")

C = TypeVar("C", Form, Login)


class Page(Handler):
    """A handler for a person's browser."""

    def prepare(self) -> None:
        """Send a browser that came to another name of loopback to the redirect URI's: cookies belong to a name."""
        super().prepare()
        here, there = self.request.host.lower(), browser_origin(self.config.redirect_uri)[1]
        if (
            self.request.method in ("GET", "HEAD")
            and self.request.path != "/code"
            and here not in (there, urlsplit(self.config.redirect_uri).netloc.lower())
            and all(
                is_loopback_name(urlsplit(f"//{host}").hostname or "") for host in (here, there)
            )
        ):
            self.redirect(self.config.origin + self.request.path, status=303)

    def keep_cookie(self, name: str, content: Form | Login) -> None:
        """Seal ``content`` into a cookie for the length of a login."""
        sealed = self.sealer.seal(msgspec.json.encode(content), "cookie", {"name": name})
        self.set_cookie(
            name,
            sealed,
            path="/",
            max_age=int(LOGIN_TIMEOUT.total_seconds()),
            httponly=True,
            samesite="Lax",
            secure=self.config.origin.startswith("https:"),
        )

    def form(self) -> Form | None:
        """What was entered in the form, if it was lately."""
        return self._opened(FORM_COOKIE, Form)

    def logins(self) -> dict[str, Login]:
        """The logins under way in this browser, by cookie name, the oldest first."""
        found = {
            name: self._opened(name, Login)
            for name in self.cookies
            if name.startswith(LOGIN_COOKIE)
        }
        live = [(name, login) for name, login in found.items() if login is not None]
        return dict(sorted(live, key=lambda item: item[1].at))

    def _opened(self, name: str, kind: type[C]) -> C | None:
        """A cookie's content; None when it is missing, too old, or was not sealed here for this name."""
        sealed = self.get_cookie(name)
        if sealed is None:
            return None
        try:
            content = msgspec.json.decode(
                self.sealer.open(sealed.encode(), "cookie", {"name": name}), type=kind
            )
        except (SealError, msgspec.MsgspecError):
            return None
        return (
            content
            if timedelta(0) <= self.keeper.clock.now() - content.at < LOGIN_TIMEOUT
            else None
        )


class FormHandler(Page):
    """``/`` and ``/login``: the form for the client's credentials."""

    async def get(self) -> None:
        """The form; ``/`` leads on to ``/home`` where the credentials are known."""
        if self.request.path == "/" and self.keeper.credentials is not None:
            self.redirect("/home", status=303)
            return
        self._write_form([])

    async def post(self) -> None:
        """Take the form, and lead on to ``/home``."""
        client_id, client_secret, tenant_id = (
            self.get_body_argument(name, "") for name in ("client_id", "client_secret", "tenant_id")
        )
        problems: list[str] = []
        for label, value in (
            ("client id", client_id),
            ("client secret", client_secret),
            ("tenant id", tenant_id),
        ):
            if not value.isprintable() or " " in value or len(value) > 512:
                problems.append(
                    f"The {label} can't be right: it holds a space or a control character, or is too long."
                )
        if not client_id:
            problems.append(
                "The client id is missing: Xero shows it on the app's Configuration page."
            )
        if not client_secret and not self.config.pkce:
            problems.append(
                "The client secret is missing, and PKCE, which does without, is turned off."
            )
        if problems:
            self.set_status(400)
            self._write_form(problems, client_id, tenant_id)
            return
        self.keep_cookie(
            FORM_COOKIE,
            Form(
                client_id,
                client_secret or None,
                tenant_id or self.config.tenant_id,
                self.keeper.clock.now(),
            ),
        )
        self.redirect("/home", status=303)

    def _write_form(self, problems: list[str], client_id: str = "", tenant_id: str = "") -> None:
        self.write_page(
            "form.html",
            title="Client credentials",
            problems=problems,
            client_id=client_id,
            tenant_id=tenant_id,
        )


class HomeHandler(Page):
    """``/home``: what is connected, and the buttons that start the OAuth2 flow or choose the organisation."""

    async def get(self) -> None:
        """What is connected, and the buttons."""
        form, credentials = self.form(), self.keeper.credentials
        if form is None and credentials is None:
            self.redirect("/", status=303)
            return
        account = self.keeper.account
        # What was begun before the login that is live is not worth a hint any more.
        since = account.consented_at if account.consent_id else None
        pending = [login for login in self.logins().values() if since is None or login.at > since]
        for login in pending:
            logger.info(
                "a login begun at %s has not come back; if Xero showed an error page, register the redirect URI %s "
                "there to the letter, check the client id, or try -o granular",
                utc_text(login.at),
                login.redirect_uri,
            )
        connections, trouble = await self._connections()
        self.write_page(
            "home.html",
            title="Xero connection",
            summary=self.summary(),
            account=account,
            client_id=form.client_id if form else credentials.client_id if credentials else "",
            new_client=form is not None
            and (credentials is None or form.client_id != credentials.client_id),
            pending=pending[-1] if pending else None,
            offer_granular=self._offers_granular(account, pending),
            connections=connections,
            trouble=trouble,
        )

    async def post(self) -> None:
        """Choose the organisation if one is named; else begin a login and lead to Xero."""
        if tenant_id := self.get_body_argument("tenant_id", ""):
            await self.keeper.choose_tenant(tenant_id)
            self.redirect("/home", status=303)
            return
        client = self._client()
        if client is None:
            self.redirect("/", status=303)
            return
        asked = self.get_body_argument("scopes", "")
        if asked and asked not in SCOPE_SETS:
            raise HTTPError(400, "scopes must be one of: " + ", ".join(SCOPE_SETS))
        login = Login(
            state=secrets.token_urlsafe(32),
            verifier=new_code_verifier() if self.config.pkce else None,
            client_id=client.client_id,
            client_secret=client.client_secret,
            tenant_id=client.tenant_id,
            scopes=SCOPE_SETS[asked] if asked else self.config.scopes,
            scopes_configured=self.config.scopes if asked else (),
            redirect_uri=self.config.redirect_uri,
            at=self.keeper.clock.now(),
        )
        under_way = list(self.logins())
        for name in under_way[: max(0, len(under_way) - MOST_LOGINS + 1)]:
            self.clear_cookie(name)
        self.keep_cookie(LOGIN_COOKIE + login.state[:16], login)
        self.keeper.login_started()
        self.redirect(
            authorize_url(
                self.config.authorize_url,
                client_id=login.client_id,
                redirect_uri=login.redirect_uri,
                scopes=login.scopes,
                state=login.state,
                verifier=login.verifier,
            ),
            status=303,
        )

    def _client(self) -> Form | None:
        """Whom to log in with: what was entered in the form, else the credentials that are known."""
        credentials = self.keeper.credentials
        if (form := self.form()) is not None or credentials is None:
            return form
        secret = credentials.client_secret
        return Form(
            credentials.client_id,
            secret.reveal() if secret else None,
            self.config.tenant_id,
            self.keeper.clock.now(),
        )

    def _offers_granular(self, account: Account, pending: list[Login]) -> bool:
        """Might a login with the granular scopes help? Not where it was tried already."""
        granular, broad = (
            SCOPE_SETS["granular"],
            set(SCOPE_SETS["classic"]) - set(SCOPE_SETS["granular"]),
        )
        tried = [account.scopes_requested, *(login.scopes for login in pending)]
        return bool(pending or broad & set(self.config.scopes)) and granular not in tried

    async def _connections(self) -> tuple[list[Connection], str | None]:
        """The organisations to choose among, while none is chosen; and why they can't be listed."""
        if (
            self.keeper.account.tenant_id
            or not self.keeper.can_serve
            or not self.config.has_tenants
        ):
            return [], None
        try:
            return await self.keeper.connections(), None
        except XotsError as error:
            return [], f"{error}"


class CodeHandler(Page):
    """``/code``: where Xero sends the browser back."""

    async def get(self) -> None:
        """Finish the login that this browser began, and lead to ``/home``."""
        state = self._single("state")
        name = LOGIN_COOKIE + state[:16]
        login = self.logins().get(name)
        if login is None or not secrets.compare_digest(login.state.encode(), state.encode()):
            raise LoginFailed(
                f"no login that was begun in this browser within the last 10 minutes fits this answer. Begin again at "
                f"{self.config.origin}/home and finish in the same browser"
            )
        self.clear_cookie(name)
        self.keeper.login_returned()
        if issuer := self._single("iss"):
            self._check_issuer(issuer)
        if error := self._single("error"):
            raise LoginFailed(_refused(error, self._single("error_description")))
        if not (code := self._single("code")):
            raise LoginFailed(
                "Xero's answer holds neither a code nor an error; begin again at /home"
            )
        await self.keeper.login(
            LoginAttempt(
                credentials=Credentials(
                    client_id=login.client_id,
                    client_secret=Secret(login.client_secret) if login.client_secret else None,
                ),
                code=Secret(code),
                verifier=Secret(login.verifier) if login.verifier else None,
                redirect_uri=login.redirect_uri,
                scopes=login.scopes,
                scopes_configured=login.scopes_configured,
                tenant_id=login.tenant_id,
            )
        )
        self.clear_cookie(FORM_COOKIE)
        self.redirect("/home", status=303)

    def _single(self, name: str) -> str:
        values = self.get_query_arguments(name, strip=False)
        if len(values) > 1:
            raise HTTPError(400, f"the parameter {name} was given more than once")
        return values[0] if values else ""

    def _check_issuer(self, issuer: str) -> None:
        """RFC 9207: an answer that names its issuer must name ours. Xero does not send it."""
        try:
            known = {
                browser_origin(url) for url in (self.config.authorize_url, self.config.token_url)
            }
            ours = browser_origin(issuer) in known
        except (ValueError, KeyError):
            ours = False
        if not ours:
            raise LoginFailed(
                "the answer names an issuer that is not the identity server of this login"
            )


def _refused(error: str, description: str) -> str:
    """What an error that Xero sent back with the browser means, and what to do (RFC 6749 section 4.1.2.1)."""
    if error == "access_denied" and "scope" in description.lower():
        return (
            "Xero refused the scopes for this app. Apps made since 2 March 2026 can't use the classic ones: "
            + GRANULAR
        )
    if error == "access_denied":
        return "the consent was cancelled at Xero, or not given. Nothing was changed; begin again when you like"
    if error == "invalid_scope":
        return "Xero does not allow these scopes to the app. " + GRANULAR
    return f"Xero answered with an error: {_shown(error)} {_shown(description)}".rstrip()


GRANULAR = "start xots with -o granular, or use the button for the granular scopes on /home"


def _shown(text: str) -> str:
    return "".join(c for c in text[:200] if c.isprintable())


ROUTES = [
    (r"/", FormHandler),
    (r"/login", FormHandler),
    (r"/home", HomeHandler),
    (r"/code", CodeHandler),
]
