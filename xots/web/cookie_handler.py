"""``CookieHandler``: the base of the handlers that read and write the cookies of a login."""

from __future__ import annotations

from tornado.web import HTTPError

from ..keeping.login import LOGIN_TIMEOUT
from .handler import Handler
from .login_cookie import Form, Login, LoginCookies

__all__ = ["TOO_LONG", "CookieHandler"]

TOO_LONG = (
    "the client id, the secret, the tenant id and the scopes are too long together for a cookie of "
    "4096 bytes, which carries them to Xero and back. Nothing was changed; check each of them"
)


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
