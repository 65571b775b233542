"""The claims of an access token: the Xero user and the login that it belongs to. Pure.

Xero's access token is a JWT (Xero: "Token types"). Its signature is not verified here. The token
came over TLS from the token endpoint, and the claims decide no access: they tell which accounts
share a user at Xero, whose connections one revocation would end. OAuth calls an access token opaque
to its client (RFC 6749 section 1.4), so a token without these claims is as good as any.
"""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

from ..lifecycle.account import valid_id
from ..secret import Secret

__all__ = ["Claims", "claims_of"]

MAX_TOKEN_LENGTH = 1 << 14
"""Upper bound on the characters of a token that is read. Xero's have about 2,000."""


class Claims(NamedTuple):
    """The claims of an access token. Each is None if the token has no valid one of this name."""

    xero_userid: str | None = None
    auth_event_id: str | None = None


def claims_of(access_token: Secret) -> Claims:
    """Return the claims of an access token; none for a token that is no JWT. It never raises."""
    content = _payload(access_token.reveal())
    return Claims(
        valid_id(content.get("xero_userid")), valid_id(content.get("authentication_event_id"))
    )


def _payload(token: str) -> dict[str, object]:
    """Return the payload of a JWT (RFC 7519 section 3); an empty one for any other text."""
    parts = token.split(".") if len(token) <= MAX_TOKEN_LENGTH else []
    if len(parts) != 3:
        return {}
    try:
        encoded = parts[1].encode("ascii")
        padding = b"=" * (-len(encoded) % 4)
        content = json.loads(base64.b64decode(encoded + padding, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):  # ValueError: no ASCII, base64, UTF-8 or JSON
        return {}
    return content if isinstance(content, dict) else {}
