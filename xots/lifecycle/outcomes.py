"""The outcomes of one request to the token endpoint, each a type of its own.

They differ in the answer to one question: did this request spend the token? Errors of the OAuth
protocol are those of RFC 6749 section 5.2.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from ..secret import Secret

__all__ = [
    "ClientRefused",
    "Failure",
    "Issued",
    "NotSent",
    "Outcome",
    "Refused",
    "Throttled",
    "Unknown",
]


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """Xero issued an access token and, as a rule, a new refresh token."""

    access_token: Secret
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's name of the scheme
    lifetime: timedelta | None = None
    """None when the response held no usable ``expires_in``."""
    refresh_token: Secret | None = None
    scopes: tuple[str, ...] | None = None
    """None when the response named none: RFC 6749 section 5.1 then means the requested scopes."""
    xero_userid: str | None = None
    """The Xero user, by the claim of the access token; None if it has no such claim."""
    auth_event_id: str | None = None
    """The login, by the claim ``authentication_event_id``; None if there is no such claim."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome without tokens."""

    detail: str
    """The failure in words, for the operator. It holds no secret."""


class NotSent(Failure, frozen=True, kw_only=True):
    """The request never left (DNS, connection refused, TLS): it did not spend the token."""


class Unknown(Failure, frozen=True, kw_only=True):
    """The request may have been carried out: no response, part of one, or an unclear one."""

    retry_after: timedelta | None = None
    """The wait that the server demanded, such as with a status 503."""


class Throttled(Failure, frozen=True, kw_only=True):
    """Status 429: the request was not carried out."""

    retry_after: timedelta | None = None


class ClientRefused(Failure, frozen=True, kw_only=True):
    """Xero refused the client or the request (``invalid_client``, …): it did not spend the
    token."""

    code: str
    """The OAuth error code (RFC 6749 section 5.2)."""


class Refused(Failure, frozen=True, kw_only=True):
    """``invalid_grant``: Xero will never issue from this token, or code, again."""


Outcome = Issued | NotSent | Unknown | Throttled | ClientRefused | Refused
