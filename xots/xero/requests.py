"""The requests of the protocol, and the URL at which a login starts, as pure functions.

The facts come from RFC 6749 (OAuth 2.0), RFC 7636 (PKCE), RFC 7009 (revocation) and Xero's page
"The standard authorization code flow".
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from urllib.parse import quote_plus, urlencode, urlsplit

from ..secret import Secret
from .protocol import Credentials, Request

__all__ = [
    "authorize_url",
    "code_challenge",
    "exchange_request",
    "new_code_verifier",
    "refresh_request",
    "revocation_request",
]


def new_code_verifier() -> str:
    """Return a new PKCE code verifier: 43 characters, 256 random bits (RFC 7636 section 4.1)."""
    return secrets.token_urlsafe(32)


def code_challenge(verifier: str) -> str:
    """Return the S256 challenge of a code verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorize_url(
    base: str,
    *,
    client_id: str,
    redirect_uri: str,
    scopes: tuple[str, ...],
    state: str,
    verifier: str | None,
) -> str:
    """Return the URL at which the user's browser starts a login (RFC 6749 section 4.1.1).

    Without a ``verifier`` the login does without PKCE.
    """
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "state": state,
    }
    if verifier is not None:
        query |= {"code_challenge": code_challenge(verifier), "code_challenge_method": "S256"}
    separator = "&" if urlsplit(base).query else "?"
    return f"{base}{separator}{urlencode(query)}"


def refresh_request(url: str, credentials: Credentials, token: Secret) -> Request:
    """Return the request that spends a refresh token at the token endpoint ``url`` (RFC 6749
    section 6)."""
    form = {"grant_type": "refresh_token", "refresh_token": token.reveal()}
    return _form_request(url, form, credentials)


def exchange_request(
    url: str, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
) -> Request:
    """Return the request that exchanges an authorization code for tokens at the token endpoint
    ``url`` (RFC 6749 section 4.1.3, RFC 7636 section 4.5)."""
    form = {
        "grant_type": "authorization_code",
        "code": code.reveal(),
        "redirect_uri": redirect_uri,
    }
    if verifier is not None:
        form["code_verifier"] = verifier.reveal()
    return _form_request(url, form, credentials)


def revocation_request(url: str, credentials: Credentials, token: Secret) -> Request:
    """Return the request that revokes a refresh token (RFC 7009 section 2.1)."""
    form = {"token": token.reveal(), "token_type_hint": "refresh_token"}
    return _form_request(url, form, credentials)


def _form_request(url: str, form: Mapping[str, str], credentials: Credentials) -> Request:
    """Return a form POST that authenticates the client: by HTTP Basic if it has a secret, else by
    its id in the body (RFC 6749 section 2.3.1)."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if credentials.client_secret is None:
        form = {**form, "client_id": credentials.client_id}
    else:
        headers["Authorization"] = _basic(credentials.client_id, credentials.client_secret)
    return Request("POST", url, headers, urlencode(form).encode())


def _basic(client_id: str, client_secret: Secret) -> str:
    # The RFC demands that both are form-encoded before they are joined.
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret.reveal())}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
