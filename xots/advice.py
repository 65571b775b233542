"""The names of identity servers, and the error codes of OAuth in words: meaning and remedy. Pure.

The codes are those of RFC 6749 sections 4.1.2.1 (callback) and 5.2 (token endpoint), and those of
OpenID Connect Core section 3.1.2.6.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["ERROR_CODE", "XERO", "capitalised", "meaning", "remedy", "shown_code"]

XERO = "Xero"
"""The name of Xero in a sentence (``IdentityServer.name``). Facts about Xero are told only with
this name. Other servers are called "the identity server"."""

ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""An error code that is shown. RFC 6749 sections 4.1.2.1 and 5.2 permit nearly all of ASCII, but
every registered code has these characters only."""


class Advice(NamedTuple):
    """The meaning of an error code, and what to do. ``{server}`` is the server's name, ``{home}``
    the path of the page at which a login starts."""

    meaning: str
    remedy: str
    xeros_remedy: str | None = None
    """The remedy at Xero, if it is another one."""
    at_login: str = ""
    """A further remedy for an account with a login."""


PAGE_NEEDED = Advice(
    "{server} must show a page to the user, and the request does not permit that",
    "remove prompt=none from the setting authorize_params",
)

ADVICE = {
    "access_denied": Advice(
        "the consent was cancelled at {server}, or not given", "nothing was changed"
    ),
    "account_selection_required": PAGE_NEEDED,
    "consent_required": PAGE_NEEDED,
    "interaction_required": PAGE_NEEDED,
    "invalid_client": Advice(
        "{server} does not accept the client id and secret",
        "correct the client id, the client secret or client_auth in the settings",
        "correct the client id or secret in the settings",
        ", or enter the right ones at /login",
    ),
    "invalid_request": Advice(
        "{server} finds the request malformed",
        "check the settings client_auth, pkce, authorize_params and redirect",
    ),
    "invalid_scope": Advice(
        "{server} does not permit these scopes for this client",
        "correct the setting scopes, or permit the scopes in the client's registration",
        "start xots with -o granular, or use the button for the granular scopes on {home}",
    ),
    "login_required": PAGE_NEEDED,
    "server_error": Advice("{server} could not carry out the request", "retry later"),
    "temporarily_unavailable": Advice("{server} is overloaded or under maintenance", "retry later"),
    "unauthorized_client": Advice(
        "{server} does not permit this client to use the grant",
        "change the type of the app, or its registration",
    ),
    "unsupported_grant_type": Advice(
        "{server} does not support the grant",
        "check the settings token_url, client_auth and grant",
    ),
    "unsupported_response_type": Advice(
        "{server} issues no authorization codes to this client",
        "permit the authorization code grant in the client's registration",
    ),
}
"""The advice by error code."""

OTHER = Advice(
    "{server} responded with an error",
    "if that happens again, see the documentation of {server}",
)
"""The advice for every other code."""

UNNAMED = Advice(
    "{server} refuses the client or its request",
    "check the client id, the client secret and the other settings of the client",
)
"""The advice without a code: records of earlier versions hold none."""


def shown_code(code: str | None) -> str:
    """Return an error code as it is shown; a substitute for none, and for one with characters that
    no registered code has."""
    return code if code and ERROR_CODE.fullmatch(code) else "no readable error code"


def meaning(code: str | None, server: str) -> str:
    """Return what an error code of ``server`` means, as the beginning of a sentence."""
    return _advice(code).meaning.format(server=server)


def remedy(code: str | None, server: str, home: str = "/home", *, can_log_in: bool = True) -> str:
    """Return what to do about an error code of ``server``, as the end of a sentence.

    Args:
        code: the error code.
        server: the server's name in a sentence.
        home: the path of the page at which a login starts.
        can_log_in: False for an account without a login.
    """
    advice = _advice(code)
    text = advice.remedy
    if server == XERO and advice.xeros_remedy is not None and (can_log_in or advice.at_login):
        text = advice.xeros_remedy
    if can_log_in:
        text += advice.at_login
    return text.format(server=server, home=home)


def _advice(code: str | None) -> Advice:
    return UNNAMED if code is None else ADVICE.get(code, OTHER)


def capitalised(text: str) -> str:
    """Return a text with a capital letter at its start, as a sentence needs it."""
    return text[:1].upper() + text[1:]
