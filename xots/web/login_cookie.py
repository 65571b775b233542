"""The sealed cookies of a login, from the form through Xero to ``/code``. Pure.

The server holds nothing of a login between its requests: a sealed cookie carries it. So any process
of a cluster can finish it, two tabs do not disturb each other, and only the browser that started a
login can finish it (RFC 9700 section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from ..errors import SealError
from ..keeping.login import LOGIN_TIMEOUT
from ..sealing import Sealer
from ..secret import Secret
from ..xero.protocol import Credentials

__all__ = [
    "FORM_COOKIE",
    "Form",
    "Login",
    "cookie_name",
    "open_form",
    "open_logins",
    "seal",
    "superseded",
]

FORM_COOKIE = "xots-form"
LOGIN_COOKIES = "xots-login-"
"""The prefix of the cookies of started logins, one cookie for each."""

MAX_LOGINS = 4
"""Upper bound on the logins in progress in one browser: a request with more cookies becomes too
large. A further login replaces the oldest one."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of the form, on their way from ``/login`` to ``/home``."""

    credentials: Credentials
    tenant_id: str | None
    at: datetime
    """When the user sent the form."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A started login, on its way from ``/home`` through Xero to ``/code``."""

    state: Secret
    verifier: Secret | None
    """The PKCE code verifier; None without PKCE."""
    credentials: Credentials
    tenant_id: str | None
    scopes: tuple[str, ...]
    scopes_configured: tuple[str, ...]
    """The scopes in the settings, if the user chose another set."""
    redirect_uri: str
    at: datetime
    """When the user started it."""


C = TypeVar("C", Form, Login)


def cookie_name(state: str) -> str:
    """Return the name of the cookie of the login with this ``state``."""
    return LOGIN_COOKIES + state[:16]


def seal(sealer: Sealer, name: str, content: Form | Login) -> bytes:
    """Return the value of the cookie ``name``, sealed for this name only."""
    encoded = msgspec.json.encode(content, enc_hook=Secret.reveal)
    return sealer.seal(encoded, "cookie", {"name": name})


def open_form(sealer: Sealer, cookies: Mapping[str, str], now: datetime) -> Form | None:
    """Return the form that the user sent within ``LOGIN_TIMEOUT``, if there is one."""
    if FORM_COOKIE not in cookies:
        return None
    return _opened(sealer, FORM_COOKIE, cookies[FORM_COOKIE], Form, now)


def open_logins(sealer: Sealer, cookies: Mapping[str, str], now: datetime) -> dict[str, Login]:
    """Return the logins in progress in this browser, by cookie name, the oldest first."""
    opened = [
        (name, _opened(sealer, name, sealed, Login, now))
        for name, sealed in cookies.items()
        if name.startswith(LOGIN_COOKIES)
    ]
    live = [(name, login) for name, login in opened if login is not None]
    return dict(sorted(live, key=lambda item: item[1].at))


def superseded(logins: Iterable[str]) -> list[str]:
    """Return the cookies to clear before a further login starts, of those of ``open_logins``."""
    kept = MAX_LOGINS - 1
    return list(logins)[:-kept]


def _opened(sealer: Sealer, name: str, sealed: str, kind: type[C], now: datetime) -> C | None:
    """Return the content of a cookie; None if it has expired or was not sealed here for this
    name."""
    try:
        opened = sealer.open(sealed.encode(), "cookie", {"name": name})
        content = msgspec.json.decode(opened, type=kind, dec_hook=_secret)
    except (SealError, msgspec.MsgspecError):
        return None
    return content if timedelta(0) <= now - content.at < LOGIN_TIMEOUT else None


def _secret(_: type, value: str) -> Secret:
    """Return a field that is a secret. No other type of ``Form`` and ``Login`` needs a hook."""
    return Secret(value)
