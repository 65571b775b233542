"""The requests of the protocol, and the URL at which a login starts, as pure functions.

The facts come from RFC 6749 (OAuth 2.0), RFC 7636 (PKCE), RFC 7009 (revocation) and Xero's page
"The standard authorization code flow".
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from urllib.parse import quote_plus, unquote_plus, urlencode, urlsplit

from ..secret import Secret
from .identity_server import ClientAuth, IdentityServer
from .protocol import Credentials, Request

__all__ = [
    "OWN_PARAMETERS",
    "authorize_url",
    "client_credentials_request",
    "code_challenge",
    "exchange_request",
    "new_code_verifier",
    "refresh_request",
    "revocation_request",
]

OWN_PARAMETERS = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)
"""The parameters of an authorization request that xots sets, or leaves out, by itself."""


def new_code_verifier() -> str:
    """Return a new PKCE code verifier: 43 characters, 256 random bits (RFC 7636 section 4.1)."""
    return secrets.token_urlsafe(32)


def code_challenge(verifier: str) -> str:
    """Return the S256 challenge of a code verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorize_url(
    server: IdentityServer,
    *,
    client_id: str,
    redirect_uri: str,
    scopes: tuple[str, ...],
    state: str,
    verifier: str | None,
) -> str:
    """Return the URL at which the user's browser starts a login (RFC 6749 section 4.1.1).

    The query of ``server.authorize_url`` is kept, and ``server.authorize_params`` are added. No
    parameter occurs twice (section 3.1): the login's own ones come first. Without scopes, the
    server chooses them (section 3.3). Without a ``verifier``, the login does without PKCE.
    """
    own = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        **_scope(scopes),
    }
    if verifier is not None:
        own |= {"code_challenge": code_challenge(verifier), "code_challenge_method": "S256"}
    added = {name: value for name, value in server.authorize_params if name not in OWN_PARAMETERS}
    parts = urlsplit(server.authorize_url)
    kept = [
        pair
        for pair in parts.query.split("&")
        if pair and _name(pair) not in OWN_PARAMETERS | added.keys()
    ]
    return parts._replace(query="&".join([*kept, urlencode(added | own)])).geturl()


def _name(pair: str) -> str:
    """Return the name of one parameter in a query."""
    return unquote_plus(pair.partition("=")[0])


def _scope(scopes: tuple[str, ...]) -> dict[str, str]:
    """Return the parameter ``scope`` (RFC 6749 section 3.3); none without scopes, since it must not
    be empty."""
    return {"scope": " ".join(scopes)} if scopes else {}


def refresh_request(server: IdentityServer, credentials: Credentials, token: Secret) -> Request:
    """Return the request that spends a refresh token (RFC 6749 section 6)."""
    form = {"grant_type": "refresh_token", "refresh_token": token.reveal()}
    return _form_request(server, server.token_url, form, credentials)


def exchange_request(
    server: IdentityServer,
    credentials: Credentials,
    *,
    code: Secret,
    redirect_uri: str,
    verifier: Secret | None,
) -> Request:
    """Return the request that exchanges an authorization code for tokens (RFC 6749 section 4.1.3,
    RFC 7636 section 4.5)."""
    form = {
        "grant_type": "authorization_code",
        "code": code.reveal(),
        "redirect_uri": redirect_uri,
    }
    if verifier is not None:
        form["code_verifier"] = verifier.reveal()
    return _form_request(server, server.token_url, form, credentials)


def client_credentials_request(
    server: IdentityServer, credentials: Credentials, scopes: tuple[str, ...]
) -> Request:
    """Return the request for an access token of the client itself (RFC 6749 section 4.4.2).

    Without scopes, the server chooses them.
    """
    form = {"grant_type": "client_credentials", **_scope(scopes)}
    return _form_request(server, server.token_url, form, credentials)


def revocation_request(server: IdentityServer, credentials: Credentials, token: Secret) -> Request:
    """Return the request that revokes a refresh token (RFC 7009 section 2.1)."""
    form = {"token": token.reveal(), "token_type_hint": "refresh_token"}
    return _form_request(server, server.revoke_url, form, credentials)


def _form_request(
    server: IdentityServer, url: str, form: Mapping[str, str], credentials: Credentials
) -> Request:
    """Return a form POST that authenticates the client as the server demands, in one way only
    (RFC 6749 section 2.3). A client without a secret sends its id in the form (section 3.2.1)."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    client_id, client_secret = credentials.client_id, credentials.client_secret
    if client_secret is None or server.client_auth is ClientAuth.NONE:
        form = {**form, "client_id": client_id}
    elif server.client_auth is ClientAuth.POST:
        form = {**form, "client_id": client_id, "client_secret": client_secret.reveal()}
    else:
        headers["Authorization"] = _basic(client_id, client_secret)
    return Request("POST", url, headers, urlencode(form).encode())


def _basic(client_id: str, client_secret: Secret) -> str:
    # Section 2.3.1 demands that both are form-encoded before they are joined.
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret.reveal())}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
