"""Reading an authorization request, and the proof (PKCE) that its code comes back to whoever sent it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .clients import Client
from .protocol import AuthorizationRequest, CallbackError, ErrorPage, PageProblem, base64url
from .switches import Switches

__all__ = ["denial", "proves", "read_authorization"]

# RFC 7636, section 4.1: the verifier's alphabet and length; a challenge of S256 is 32 bytes in base64url.
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}", re.ASCII)
_CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}", re.ASCII)


def read_authorization(
    parameters: Mapping[str, str], clients: Mapping[str, Client], switches: Switches
) -> AuthorizationRequest:
    """Read the query of an authorization request (RFC 6749, section 4.1.1; RFC 7636, section 4.3).

    Raises ErrorPage, or CallbackError for refused scopes if the switch says that they come back.
    """
    client = clients.get(parameters.get("client_id", ""))
    if client is None or not client.enabled:
        raise ErrorPage(PageProblem.UNKNOWN_CLIENT)
    if client.custom_connection_tenant_id is not None:
        raise ErrorPage(PageProblem.CUSTOM_CONNECTION)
    redirect_uri = parameters.get("redirect_uri", "")
    if redirect_uri not in client.redirect_uris:
        raise ErrorPage(PageProblem.INVALID_REDIRECT_URI)
    if parameters.get("response_type") != "code":
        raise ErrorPage(PageProblem.UNSUPPORTED_RESPONSE_TYPE)
    state = parameters.get("state")
    scopes = tuple(dict.fromkeys(parameters.get("scope", "").split()))
    if not scopes or client.refused_scopes(scopes):
        if scopes and switches.refused_scopes_come_back:
            raise CallbackError(redirect_uri, denial(state, "Requested wrong apps scopes"))
        raise ErrorPage(PageProblem.INVALID_SCOPE)
    challenge = parameters.get("code_challenge")
    if challenge is None and client.secret is None:
        raise ErrorPage(PageProblem.CODE_CHALLENGE_REQUIRED)
    if challenge is not None:
        # RFC 7636 takes a missing method for "plain", which Xero refuses.
        if parameters.get("code_challenge_method") != "S256":
            raise ErrorPage(PageProblem.PLAIN_CHALLENGE)
        if _CHALLENGE.fullmatch(challenge) is None:
            raise ErrorPage(PageProblem.CODE_CHALLENGE_REQUIRED)
    return AuthorizationRequest(
        client.client_id, redirect_uri, scopes, state, challenge, parameters.get("nonce")
    )


def denial(state: str | None, description: str) -> dict[str, str]:
    """Return the callback's parameters of a refusal (RFC 6749, section 4.1.2.1)."""
    parameters = {"error": "access_denied", "error_description": description}
    return parameters if state is None else {**parameters, "state": state}


def proves(verifier: str | None, challenge: str | None) -> bool:
    """Check RFC 7636, section 4.6. A verifier for a code that has no challenge is refused too, as RFC 9700 demands."""
    if verifier is None or challenge is None:
        return verifier is None and challenge is None
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    return base64url(hashlib.sha256(verifier.encode()).digest()) == challenge
