"""What is said at the identity provider's door: requests, answers and refusals, as types."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

__all__ = [
    "AuthorizationRequest",
    "BearerProblem",
    "BearerRefused",
    "CallbackError",
    "ErrorPage",
    "Mint",
    "OAuthError",
    "OAuthErrorCode",
    "PageProblem",
    "Refusal",
    "Shape",
    "TokenAnswer",
    "base64url",
    "random_text",
]

Mint = Callable[[dict[str, object]], str]
"""Makes the text of a token from its claims."""


class OAuthErrorCode(StrEnum):
    """The ``error`` of a token or revocation answer (RFC 6749, section 5.2; RFC 7009)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"


class Refusal(StrEnum):
    """Why a refresh token is refused. The wire never tells (it says ``invalid_grant``); tests want to know."""

    UNKNOWN = "unknown"
    FOREIGN = "issued to another client"
    REVOKED = "revoked"
    CHAIN_KILLED = "killed by the late reuse of another token of its consent"
    FORGOTTEN = "forgotten by the sandbox's control"
    SIBLING = "killed by a newer sibling"
    SPENT = "spent, and its grace is over"
    IDLE = "unused for too long"


class PageProblem(StrEnum):
    """What is wrong with an authorization request that never comes back: the texts of Xero's error page."""

    UNKNOWN_CLIENT = "unauthorized_client : Unknown client or client not enabled"
    INVALID_REDIRECT_URI = "unauthorized_client : Invalid redirect_uri"
    INVALID_SCOPE = "invalid_scope : Invalid scope for client"
    CODE_CHALLENGE_REQUIRED = "invalid_request : code challenge required"
    PLAIN_CHALLENGE = "invalid_request : Transform algorithm not supported"
    UNSUPPORTED_RESPONSE_TYPE = "unsupported_response_type : Response type not supported"
    CUSTOM_CONNECTION = "unauthorized_client : Grant type not allowed for client"

    @property
    def page_id(self) -> str:
        """The problem as it stands in the error page's address."""
        return self.name.lower().replace("_", "-")


class BearerProblem(StrEnum):
    """Why an access token is refused at the API."""

    EXPIRED = "TokenExpired"
    UNKNOWN = "TokenInvalid"


class OAuthError(Exception):
    """The token or revocation endpoint refuses: ``code`` goes over the wire, ``reason`` is for tests and logs."""

    def __init__(self, code: OAuthErrorCode, reason: Refusal | str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class ErrorPage(Exception):
    """The authorization request is shown Xero's own error page; there is no callback."""

    def __init__(self, problem: PageProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class CallbackError(Exception):
    """The authorization request is refused with a callback; ``parameters`` belong in its query."""

    def __init__(self, redirect_uri: str, parameters: Mapping[str, str]) -> None:
        super().__init__(parameters["error"])
        self.redirect_uri = redirect_uri
        self.parameters = parameters


class BearerRefused(Exception):
    """An access token isn't good; ``expired_at`` is set if it once was."""

    def __init__(self, problem: BearerProblem, expired_at: datetime | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.expired_at = expired_at


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """An authorization request that was found good. ``code_challenge`` is of the S256 method."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str | None = None
    code_challenge: str | None = None
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """How the tokens of one answer are to look; the defaults are Xero's habits."""

    refresh_token_length: int = 43
    mint: Mint | None = None
    """Makes this answer's access token in the stead of the identity provider's own."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A token endpoint's answer of status 200; ``fields`` in the order in which Xero sends them."""

    fields: Mapping[str, object] = field(repr=False)
    replayed: bool = False
    """True if this answer was given before, word for word."""

    @property
    def access_token(self) -> str:
        return str(self.fields["access_token"])

    @property
    def refresh_token(self) -> str | None:
        value = self.fields.get("refresh_token")
        return None if value is None else str(value)


def random_text(source: random.Random, length: int) -> str:
    """Return so many characters of ``A-Z a-z 0-9 - _``, six bits of the source in each."""
    # An integer's bits, six at a time, are cheaper than a choice for each character.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bits = source.getrandbits(6 * length)
    return "".join(alphabet[bits >> 6 * place & 63] for place in range(length))


def base64url(data: bytes) -> str:
    """Encode without padding, as JOSE and PKCE do (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
