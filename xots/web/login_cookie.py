"""The sealed cookies of a login, from the form through Xero to ``/code``. Pure.

The server holds nothing of a login between its requests: a sealed cookie carries it. So any process
of a cluster can finish it, two tabs do not disturb each other, and only the browser that started a
login can finish it (RFC 9700 section 2.1).

Cookies ignore ports (RFC 6265 section 8.5): a browser sends those of every server on ``localhost``
to each of them. So name and seal hold the redirect URI, by which servers differ, and the account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple, TypeVar

import msgspec

from ..errors import SealError
from ..keeping.login import LOGIN_TIMEOUT
from ..sealing import Sealer
from ..secret import Secret, concealed
from ..xero.protocol import Credentials

__all__ = [
    "MAX_COOKIE_BYTES",
    "MAX_LOGINS",
    "MAX_TOTAL_BYTES",
    "Form",
    "Login",
    "LoginCookies",
    "NewCookie",
]

FORM_COOKIES = "xots-form-"
LOGIN_COOKIES = "xots-login-"

STATE_LENGTH = 16
"""Characters of the state in a cookie's name: enough to tell the logins of one browser apart."""

BEFORE_ALL = datetime.min.replace(tzinfo=UTC)

MAX_COOKIE_BYTES = 3900
"""Upper bound on name and value of a cookie. Browsers silently drop a cookie that has more than
4096 bytes with its attributes (RFC 6265 section 6.1)."""

MAX_TOTAL_BYTES = 16 << 10
"""Upper bound on this server's cookies in one browser, those of all accounts together. A request
carries the cookies of every server on ``localhost``, and may have ``refusals.MAX_HEAD_BYTES``. A
further cookie replaces the oldest ones."""

MAX_LOGINS = 4
"""Upper bound on the logins of one account in progress in one browser, so that abandoned ones do
not replace those of other accounts."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of the form, on their way from ``/login`` to ``/home``."""

    credentials: Credentials
    token_url: str
    """The identity server that the credentials are for."""
    tenant_id: str | None
    at: datetime
    """When the user sent the form."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A started login, on its way from ``/home`` through Xero to ``/code``."""

    state: Secret
    verifier: Secret | None
    """The PKCE code verifier; None without PKCE."""
    credentials: Credentials
    token_url: str
    """The identity server at which the user logs in."""
    tenant_id: str | None
    scopes: tuple[str, ...]
    scopes_configured: tuple[str, ...]
    """The scopes in the settings, if the user chose another set."""
    redirect_uri: str
    replaces: str | None
    """``consent_id`` of the login that was live when this one started."""
    at: datetime
    """When the user started it."""


C = TypeVar("C", Form, Login)


class NewCookie(NamedTuple):
    """A cookie to set."""

    name: str
    value: bytes
    replaced: list[str]
    """The names of the cookies to clear, so that the bounds hold."""


class OwnCookie(NamedTuple):
    """A cookie of this server in the browser."""

    name: str
    account: str
    content: Form | Login | None
    """None if it has expired or cannot be opened."""


class LoginCookies(msgspec.Struct, frozen=True, kw_only=True):
    """The cookies of one request, of which only this server's are read and replaced."""

    sealer: Sealer
    redirect_uri: str
    """It tells this server from others on the same host."""
    values: Mapping[str, str]
    """All cookies of the request, by name."""
    now: datetime

    def form_name(self, account: str) -> str:
        """Return the name of the cookie with the account's form."""
        return f"{self._prefix(FORM_COOKIES)}{account}"

    def login_name(self, account: str, state: Secret) -> str:
        """Return the name of the cookie with the account's login of this ``state``."""
        return f"{self._prefix(LOGIN_COOKIES)}{state.reveal()[:STATE_LENGTH]}-{account}"

    def form(self, account: str) -> Form | None:
        """Return the account's form that the user sent within ``LOGIN_TIMEOUT``, if there is
        one."""
        return self._opened(self.form_name(account), account, Form)

    def logins(self, account: str) -> list[Login]:
        """Return the account's logins in progress in this browser, the oldest first."""
        return [login for one, login in self._logins() if one.account == account]

    def started(self, state: Secret) -> tuple[str, Login] | None:
        """Return the login in progress with this ``state``, after the account that it is for."""
        found = ((one.account, login) for one, login in self._logins() if login.state == state)
        return next(found, None)

    def new(self, account: str, content: Form | Login) -> NewCookie | None:
        """Return the cookie for ``content``; None if it is so large that browsers drop it."""
        if isinstance(content, Login):
            name = self.login_name(account, content.state)
        else:
            name = self.form_name(account)
        encoded = msgspec.json.encode(content, enc_hook=Secret.reveal)
        value = self.sealer.seal(encoded, "cookie", self._context(name, account))
        if len(name) + len(value) > MAX_COOKIE_BYTES:
            return None
        others = [one for one in self._own() if one.name != name]
        replaced = _oldest_logins(others, account) if isinstance(content, Login) else []
        left = MAX_TOTAL_BYTES - len(name) - len(value)
        for one in reversed([one for one in others if one.name not in replaced]):
            left -= len(one.name) + len(self.values[one.name])
            if left < 0:
                replaced.append(one.name)
        return NewCookie(name, value, replaced)

    # ---------- inside

    def _prefix(self, kind: str) -> str:
        return f"{kind}{sha256(self.redirect_uri.encode()).hexdigest()[:12]}-"

    def _context(self, name: str, account: str) -> dict[str, str]:
        return {"name": name, "redirect_uri": self.redirect_uri, "account": account}

    def _own(self) -> list[OwnCookie]:
        """Return this server's cookies: those without content first, then the oldest."""
        form_prefix, login_prefix = self._prefix(FORM_COOKIES), self._prefix(LOGIN_COOKIES)
        found = []
        for name in self.values:
            if name.startswith(form_prefix):
                account = name[len(form_prefix) :]
                found.append(OwnCookie(name, account, self._opened(name, account, Form)))
            elif name.startswith(login_prefix):
                account = name[len(login_prefix) + STATE_LENGTH + 1 :]
                found.append(OwnCookie(name, account, self._opened(name, account, Login)))
        return sorted(found, key=lambda one: one.content.at if one.content else BEFORE_ALL)

    def _logins(self) -> Iterator[tuple[OwnCookie, Login]]:
        for one in self._own():
            if isinstance(one.content, Login):
                yield one, one.content

    def _opened(self, name: str, account: str, kind: type[C]) -> C | None:
        """Return the content of a cookie; None if there is none, if it has expired, or if it was
        not sealed for this name, server and account.

        A time in the future does not matter: the clock of the host that sealed the cookie is
        ahead, or this one was set back.
        """
        try:
            sealed = self.values.get(name, "").encode()
            opened = self.sealer.open(sealed, "cookie", self._context(name, account))
            content = msgspec.json.decode(opened, type=kind, dec_hook=concealed)
        except (SealError, msgspec.MsgspecError):
            return None
        return content if self.now - content.at < LOGIN_TIMEOUT else None


def _oldest_logins(cookies: list[OwnCookie], account: str) -> list[str]:
    """Return the names of the account's logins that a further one replaces."""
    logins = [
        one.name for one in cookies if one.account == account and isinstance(one.content, Login)
    ]
    return logins[: 1 - MAX_LOGINS]
