"""``/code``: the redirect URI, at which a browser returns from the identity server. It serves all
accounts."""

from __future__ import annotations

from collections.abc import Iterable

from tornado.web import HTTPError

from ..advice import XERO, meaning, remedy, shown_code
from ..errors import LoginFailed, TooManyLogins
from ..keeping.login import LOGIN_TIMEOUT, LoginAttempt
from ..safe_text import safe_text
from ..secret import Secret
from ..wording import span_text
from .cookie_handler import OTHER_CLIENT, CookieHandler
from .guard import browser_origin
from .handler import Subject
from .login_cookie import Login
from .responses import UNSUPPORTED

__all__ = ["ROUTES"]


class CodeHandler(CookieHandler):
    """``/code``: the redirect URI, at which a browser returns from the identity server."""

    subject = Subject.NONE  # the login's cookie names the account

    head = UNSUPPORTED  # type: ignore[assignment]  # Tornado marks a missing method so

    async def get(self) -> None:
        """Finish the login that this browser started, and redirect to ``/home``."""
        login = await self._started_login(self._single("state"))
        self.check_needs_login()
        self.keeper.login_returned()
        self._check_issuer(self._single("iss"))
        server = self.server_name
        if error := self._single("error"):
            description = self._single("error_description")
            raise LoginFailed(_error_in_words(error, description, server, self.url("/home")))
        if not (code := self._single("code")):
            raise LoginFailed(
                f"{server}'s response holds neither a code nor an error; start again at "
                f"{self.url('/home')}"
            )
        if login.token_url != self.account_config.identity_server.token_url:
            raise LoginFailed(
                "the settings of this account name another identity server since this login was "
                f"started. Nothing was sent to it; start again at {self.url('/home')}"
            )
        if self.is_other_client(login.credentials.client_id):
            # The account was removed meanwhile, and added with another client.
            raise LoginFailed(OTHER_CLIENT)
        try:
            await self.keeper.login(_attempt(login, code))
        except TooManyLogins:
            # A reload of this page can finish the login, as long as Xero accepts its code.
            self.keep_cookie(login)
            raise
        self.clear_cookie(self.login_cookies().form_name(self.keeper.name))
        self.redirect(self.url("/home"), status=303)

    async def _started_login(self, state: str) -> Login:
        """Return the login with this ``state``, serve its account, and clear its cookie.

        Raises:
            LoginFailed: this browser started none, or it took too long.
            AccessDenied: the caller may not use the account. The cookie stays.
            UnknownAccount, AccountUnusable, StoreUnavailable: the account cannot be used now. The
                cookie stays.
        """
        cookies = self.login_cookies()
        found = cookies.started(Secret(state))
        if found is None:
            start = "/accounts" if len(self.accounts.names()) > 1 else "/home"
            raise LoginFailed(
                "no login that was started in this browser within the last "
                f"{span_text(LOGIN_TIMEOUT)} belongs to this response. Start again at "
                f"{self.config.origin}{start} and finish in the same browser"
            )
        account, login = found
        self.check_account(account)
        if account != self.accounts.default.name:
            self.named_account = account
        await self.use_account(account)
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

        It must equal the setting ``issuer`` (section 2.4: by simple string comparison). If that is
        not set, it must have the origin of the identity server's URLs.

        Raises:
            LoginFailed: it names another issuer.
        """
        ours = self.account_config.identity_server
        if ours.issuer is not None:
            is_ours = issuer == ours.issuer
            rule = "it must equal the setting issuer, character by character"
        else:
            is_ours = _has_origin_of(issuer, (ours.authorize_url, ours.token_url))
            rule = "set issuer, if its origin is not that of authorize_url or token_url"
        if issuer and not is_ours:
            raise LoginFailed(
                "the response names an issuer that is not the identity server of this login: "
                + rule
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


def _error_in_words(code: str, description: str, server: str, home: str) -> str:
    """Return an error that the browser brought from the identity server in words (RFC 6749 section
    4.1.2.1).

    Args:
        code: the code of the error.
        description: the server's own words.
        server: the server's name in a sentence.
        home: the path at which the user can start again.
    """
    if server == XERO and code == "access_denied" and "scope" in description.lower():
        # Xero refuses some scopes by the code for a cancelled consent.
        return (
            "Xero refused the scopes for this app. Apps created since 2 March 2026 cannot use the "
            f"classic ones: {remedy('invalid_scope', server, home)}"
        )
    words = f": {safe_text(description)}" if description else ""
    return (
        f"{meaning(code, server)} ({shown_code(code)}{words}): {remedy(code, server, home)}; start "
        f"again at {home}"
    )


ROUTES = [(r"/code", CodeHandler)]
