"""The claims in the simulated Xero's tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from .clients import User
from .consents import Consent
from .protocol import base64url
from .switches import Switches

__all__ = ["Issue", "access_claims", "id_claims"]

ID_TOKEN_LIFE_SECONDS = 300
"""Lifetime of an ID token, as at Xero."""


@dataclass(frozen=True, slots=True)
class Issue:
    """The facts about one issue of tokens."""

    consent: Consent
    now: datetime
    switches: Switches
    issuer: str

    @property
    def written_at(self) -> int:
        """The time in the tokens, in seconds since 1970, by the clock that writes them."""
        return int(self.now.timestamp() + self.switches.clock_skew_seconds)


def access_claims(issue: Issue, jti: str) -> dict[str, object]:
    """Return the claims of an access token. For a custom connection, they name no user."""
    consent, switches = issue.consent, issue.switches
    claims: dict[str, object] = {
        "nbf": issue.written_at,
        "exp": issue.written_at + switches.access_token_life_seconds,
        "iss": issue.issuer,
        "aud": f"{issue.issuer}/resources",
        "client_id": consent.app.client_id,
    }
    if consent.app.user_id:
        claims |= _session(consent, idp="local", amr=["pwd"])
    claims["jti"] = jti
    if not switches.omit_authentication_event_id:
        claims["authentication_event_id"] = consent.auth_event_id
    claims["scope"] = list(consent.scopes)
    return claims


def id_claims(issue: Issue, jti: str, *, user: User, access_token: str) -> dict[str, object]:
    """Return the claims of an ID token (OpenID Connect Core, sections 2 and 3.1.3.6)."""
    consent = issue.consent
    half_hash = hashlib.sha256(access_token.encode()).digest()[:16]
    claims: dict[str, object] = {
        "nbf": issue.written_at,
        "exp": issue.written_at + ID_TOKEN_LIFE_SECONDS,
        "iss": issue.issuer,
        "aud": consent.app.client_id,
        "iat": issue.written_at,
        "at_hash": base64url(half_hash),
        **_session(consent),
        "jti": jti,
    }
    if consent.nonce is not None:
        claims["nonce"] = consent.nonce
    if "email" in consent.scopes:
        claims["email"] = user.email
    if "profile" in consent.scopes:
        claims |= _profile(user)
    return claims


def _session(consent: Consent, **method: object) -> dict[str, object]:
    """Return the claims about the user's session, with those about the login method."""
    user_id = consent.app.user_id
    return {
        "sub": user_id.replace("-", ""),
        "auth_time": int(consent.at.timestamp()),
        **method,
        "xero_userid": user_id,
        "global_session_id": consent.session_id,
        "sid": consent.session_id,
    }


def _profile(user: User) -> dict[str, object]:
    return {
        "preferred_username": user.email,
        "given_name": user.given_name,
        "family_name": user.family_name,
        "name": user.name,
    }
