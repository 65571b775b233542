"""The protocol of the identity provider as types: requests, responses and errors."""

from __future__ import annotations

import base64
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
    "TokenResponse",
    "base64url",
]

Mint = Callable[[dict[str, object]], str]
"""Makes the text of a token from its claims."""


class OAuthErrorCode(StrEnum):
    """The ``error`` of a token or revocation response (RFC 6749, section 5.2; RFC 7009)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"


class Refusal(StrEnum):
    """The reason why a refresh token is refused.

    The response says only ``invalid_grant``. The reason is for logs and tests.
    """

    UNKNOWN = "unknown"
    FOREIGN = "issued to another client"
    REVOKED = "revoked"
    CHAIN_KILLED = "killed by the late reuse of another token of its consent"
    DISCONNECTED = "its connections were deleted"
    FORGOTTEN = "forgotten by the sandbox's control"
    SIBLING = "killed by a newer sibling"
    SPENT = "spent, and its grace period is over"
    IDLE = "unused for too long"


class PageProblem(StrEnum):
    """The texts of Xero's error page, for authorization requests that are not called back."""

    UNKNOWN_CLIENT = "unauthorized_client : Unknown client or client not enabled"
    INVALID_REDIRECT_URI = "unauthorized_client : Invalid redirect_uri"
    INVALID_SCOPE = "invalid_scope : Invalid scope for client"
    CODE_CHALLENGE_REQUIRED = "invalid_request : code challenge required"
    PLAIN_CHALLENGE = "invalid_request : Transform algorithm not supported"
    UNSUPPORTED_RESPONSE_TYPE = "unsupported_response_type : Response type not supported"
    CUSTOM_CONNECTION = "unauthorized_client : Grant type not allowed for client"

    @property
    def page_id(self) -> str:
        """The name of the problem in the error page's address."""
        return self.name.lower().replace("_", "-")


class BearerProblem(StrEnum):
    """The reason why the API refuses an access token."""

    EXPIRED = "TokenExpired"
    UNKNOWN = "TokenInvalid"


class OAuthError(Exception):
    """The token or revocation endpoint refuses a request.

    ``code`` is sent in the response. ``reason`` is for logs and tests.
    """

    def __init__(self, code: OAuthErrorCode, reason: Refusal | str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class ErrorPage(Exception):
    """The user gets Xero's own error page. There is no callback."""

    def __init__(self, problem: PageProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class CallbackError(Exception):
    """The callback reports that the authorization request is refused.

    ``parameters`` belong in the query of ``redirect_uri``.
    """

    def __init__(self, redirect_uri: str, parameters: Mapping[str, str]) -> None:
        super().__init__(parameters["error"])
        self.redirect_uri = redirect_uri
        self.parameters = parameters


class BearerRefused(Exception):
    """The API refuses an access token. ``expired_at`` is set if the token was valid before."""

    def __init__(self, problem: BearerProblem, expired_at: datetime | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.expired_at = expired_at


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A valid authorization request. Its ``code_challenge`` is of the S256 method."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str | None = None
    code_challenge: str | None = None
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of the tokens in one response. The defaults are Xero's."""

    refresh_token_length: int = 43
    mint: Mint | None = None
    """Makes this response's access token instead of the identity provider's own function."""


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A successful response of the token endpoint. ``fields`` are in Xero's order."""

    fields: Mapping[str, object] = field(repr=False)
    replayed: bool = False
    """True if the same response was sent before."""

    @property
    def access_token(self) -> str:
        return str(self.fields["access_token"])

    @property
    def refresh_token(self) -> str | None:
        value = self.fields.get("refresh_token")
        return None if value is None else str(value)


def base64url(data: bytes) -> str:
    """Encode without padding, as JOSE and PKCE do (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
