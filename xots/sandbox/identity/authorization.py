"""Authorization requests, and the proof (PKCE) that the same client sent request and code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .clients import Client
from .protocol import AuthorizationRequest, CallbackError, ErrorPage, PageProblem, base64url
from .switches import Switches

__all__ = ["denial", "proves", "read_authorization"]

# RFC 7636, sections 4.1 and 4.2: the alphabet and length of the verifier. A challenge of the S256
# method is 32 bytes in base64url.
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}", re.ASCII)
_CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}", re.ASCII)


def read_authorization(
    parameters: Mapping[str, str], clients: Mapping[str, Client], switches: Switches
) -> AuthorizationRequest:
    """Read the query of an authorization request (RFC 6749, section 4.1.1; RFC 7636, section 4.3).

    Raises:
        ErrorPage: the request is not valid.
        CallbackError: a scope is refused, and ``refused_scopes_come_back`` is on.
    """
    client = _client(parameters, clients)
    redirect_uri = parameters.get("redirect_uri", "")
    if redirect_uri not in client.redirect_uris:
        raise ErrorPage(PageProblem.INVALID_REDIRECT_URI)
    if parameters.get("response_type") != "code":
        raise ErrorPage(PageProblem.UNSUPPORTED_RESPONSE_TYPE)
    scopes = tuple(dict.fromkeys(parameters.get("scope", "").split()))
    state = parameters.get("state")
    if client.refused_scopes(scopes) and switches.refused_scopes_come_back:
        raise CallbackError(redirect_uri, denial(state, "Requested wrong apps scopes"))
    if not scopes or client.refused_scopes(scopes):
        raise ErrorPage(PageProblem.INVALID_SCOPE)
    challenge = _code_challenge(parameters, client)
    nonce = parameters.get("nonce")
    return AuthorizationRequest(client.client_id, redirect_uri, scopes, state, challenge, nonce)


def _client(parameters: Mapping[str, str], clients: Mapping[str, Client]) -> Client:
    client = clients.get(parameters.get("client_id", ""))
    if client is None or not client.enabled:
        raise ErrorPage(PageProblem.UNKNOWN_CLIENT)
    if client.custom_connection_tenant_id is not None:
        raise ErrorPage(PageProblem.CUSTOM_CONNECTION)
    return client


def _code_challenge(parameters: Mapping[str, str], client: Client) -> str | None:
    challenge = parameters.get("code_challenge")
    if challenge is None:
        if client.secret is None:
            raise ErrorPage(PageProblem.CODE_CHALLENGE_REQUIRED)
        return None
    # RFC 7636 reads a missing method as "plain", which Xero refuses.
    if parameters.get("code_challenge_method") != "S256":
        raise ErrorPage(PageProblem.PLAIN_CHALLENGE)
    if _CHALLENGE.fullmatch(challenge) is None:
        raise ErrorPage(PageProblem.CODE_CHALLENGE_REQUIRED)
    return challenge


def denial(state: str | None, description: str) -> dict[str, str]:
    """Return the callback's parameters for a refusal (RFC 6749, section 4.1.2.1)."""
    parameters = {"error": "access_denied", "error_description": description}
    return parameters if state is None else {**parameters, "state": state}


def proves(verifier: str | None, challenge: str | None) -> bool:
    """Return True if the verifier proves the challenge (RFC 7636, section 4.6).

    A verifier for a code without a challenge is refused too, as RFC 9700 (section 2.1.1) requires.
    """
    if verifier is None or challenge is None:
        return verifier is None and challenge is None
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    return base64url(hashlib.sha256(verifier.encode()).digest()) == challenge
