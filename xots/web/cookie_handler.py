"""``CookieHandler``: the base of the handlers that read and write the cookies of a login."""

from __future__ import annotations

from tornado.web import HTTPError

from ..keeping.login import LOGIN_TIMEOUT
from ..lifecycle.account import Account
from .handler import Handler
from .login_cookie import Form, Login, LoginCookies

__all__ = ["OTHER_CLIENT", "CookieHandler"]

OTHER_CLIENT = (
    "the settings of this account name another client, so a login of this one could not be used. "
    "Enter the credentials of that client, or add an account for this one at /accounts"
)


class CookieHandler(Handler):
    """A handler that reads and writes the cookies of a login."""

    @property
    def too_long(self) -> str:
        """Why a login is refused whose cookie browsers would drop."""
        return (
            "the client id, the secret, the tenant id and the scopes are too long together for a "
            f"cookie of 4096 bytes, which carries them to {self.server_name} and back. Nothing was "
            "changed; check each of them"
        )

    def is_other_client(self, client_id: str) -> bool:
        """True if the settings name another client, so that its login would make the account
        unusable. The default account can have such a login until the next start."""
        login = Account(
            client_id=client_id,
            consent_id="new",
            token_url=self.account_config.identity_server.token_url,
            scopes_requested=self.account_config.scopes,
        )
        return bool(self.account_config.problems(login))

    def keep_cookie(self, content: Form | Login) -> None:
        """Seal ``content`` into a cookie that expires with the login.

        Raises:
            HTTPError: the cookie would be so large that browsers drop it.
        """
        cookie = self.login_cookies().new(self.keeper.name, content)
        if cookie is None:
            raise HTTPError(400, self.too_long)
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
