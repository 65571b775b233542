"""What the simulated Xero writes into its tokens."""

from __future__ import annotations

import hashlib
from datetime import datetime

from .clients import User
from .consents import Consent
from .protocol import base64url
from .switches import Switches

__all__ = ["access_claims", "id_claims"]


def access_claims(
    consent: Consent, now: datetime, switches: Switches, issuer: str, jti: str
) -> dict[str, object]:
    """Return the claims of an access token. A custom connection's names no user."""
    app = consent.app
    written_at = int(now.timestamp() + switches.clock_skew_seconds)
    claims: dict[str, object] = {
        "nbf": written_at,
        "exp": written_at + switches.access_token_life_seconds,
        "iss": issuer,
        "aud": f"{issuer}/resources",
        "client_id": app.client_id,
    }
    if app.user_id:
        claims |= {
            "sub": app.user_id.replace("-", ""),
            "auth_time": int(consent.at.timestamp()),
            "idp": "local",
            "amr": ["pwd"],
            "xero_userid": app.user_id,
            "global_session_id": consent.session_id,
            "sid": consent.session_id,
        }
    claims["jti"] = jti
    if not switches.omit_authentication_event_id:
        claims["authentication_event_id"] = consent.auth_event_id
    claims["scope"] = list(consent.scopes)
    return claims


def id_claims(
    consent: Consent,
    now: datetime,
    switches: Switches,
    issuer: str,
    jti: str,
    *,
    user: User,
    access_token: str,
) -> dict[str, object]:
    """Return the claims of an ID token (OpenID Connect Core, sections 2 and 3.1.3.6)."""
    written_at = int(now.timestamp() + switches.clock_skew_seconds)
    half_hash = hashlib.sha256(access_token.encode()).digest()[:16]
    claims: dict[str, object] = {
        "nbf": written_at,
        "exp": written_at + 300,
        "iss": issuer,
        "aud": consent.app.client_id,
        "iat": written_at,
        "at_hash": base64url(half_hash),
        "sub": user.user_id.replace("-", ""),
        "auth_time": int(consent.at.timestamp()),
        "xero_userid": user.user_id,
        "global_session_id": consent.session_id,
        "sid": consent.session_id,
        "jti": jti,
    }
    if consent.nonce is not None:
        claims["nonce"] = consent.nonce
    if "email" in consent.scopes:
        claims["email"] = user.email
    if "profile" in consent.scopes:
        claims |= {
            "preferred_username": user.email,
            "given_name": user.given_name,
            "family_name": user.family_name,
            "name": user.name,
        }
    return claims
