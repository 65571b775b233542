"""The parts of the protocol, and its responses: read one, and classify the outcome. Pure.

The facts come from RFC 6749 (OAuth 2.0), RFC 7009 (revocation) and Xero's pages "The standard
authorization code flow", "Token types" and "Scopes".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from ..lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from ..secret import Secret
from .claims import claims_of

__all__ = [
    "SCOPE_SETS",
    "Credentials",
    "Request",
    "Response",
    "read_revocation_response",
    "read_token_response",
]

SCOPE_SETS = {
    "classic": ("offline_access", "accounting.transactions", "accounting.reports.read"),
    "granular": (
        "offline_access",
        "accounting.invoices",
        "accounting.payments",
        "accounting.banktransactions",
        "accounting.manualjournals",
        "accounting.reports.aged.read",
        "accounting.reports.balancesheet.read",
        "accounting.reports.banksummary.read",
        "accounting.reports.budgetsummary.read",
        "accounting.reports.executivesummary.read",
        "accounting.reports.profitandloss.read",
        "accounting.reports.trialbalance.read",
        "accounting.reports.taxreports.read",
    ),
}
"""Named sets of scopes. An app that was created at Xero on or after 2 March 2026 cannot use the
classic set. The granular set holds the scopes that replace it (Xero: "Scopes")."""

CLIENT_ERRORS = frozenset(
    {
        "invalid_client",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
"""The error codes by which a token endpoint refuses the client or the request, so that it has not
spent the token (RFC 6749 section 5.2)."""

MAX_LIFETIME_SECONDS = 1e9
"""Upper bound on ``expires_in``, about 32 years. A larger value is a fault of the server."""

MAX_RETRY_AFTER_SECONDS = 10**6
"""Upper bound on ``Retry-After``, about 12 days. A fault of a server stops refreshes no longer."""

TOKEN = re.compile(r"[!-~]{1,16384}")
"""A token: visible ASCII (RFC 6749 sections A.12 and A.17, without the space). Xero's are 2,000."""

TOKEN_TYPE = re.compile(r"[A-Za-z]{1,64}")
"""A token type: the name of an authentication scheme (RFC 6749 section A.13, letters only)."""

SCOPE = re.compile(r"[ -~]{0,8192}")
"""Scopes, separated by spaces (RFC 6749 section A.4)."""

DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A client's id and secret. A PKCE app has no secret."""

    client_id: str
    client_secret: Secret | None = None


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Response:
    """One HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def read_token_response(response: Response, now: datetime) -> Outcome:
    """Return the outcome of a request to the token endpoint, for the token that it held.

    Only the error code ``invalid_grant``, in a JSON response with status 400 or 401, means that
    the token is refused. A response that clearly says neither "issued" nor "not carried out" is
    ``Unknown``: the token is kept. ``now`` is aware UTC.
    """
    content = _json_object(response.body)
    match response.status:
        case 200:
            return _issued(content) or Unknown(
                detail="the response has status 200, but is not the JSON of a token"
            )
        case 429:
            return Throttled(
                detail="too many requests (429)",
                retry_after=_retry_after(response.headers.get("Retry-After"), now),
            )
        case 400 | 401:
            return _refusal(content.get("error"), response.status)
    return _unclear(response.status)


def read_revocation_response(response: Response, now: datetime) -> Failure | None:
    """Return the failure of a revocation; None if the token is revoked (RFC 7009 section 2.2).

    A token that the server does not know counts as revoked. ``now`` is aware UTC.
    """
    if 200 <= response.status < 300:
        return None
    outcome = read_token_response(response, now)
    return None if isinstance(outcome, Issued | Refused) else outcome


def _refusal(code: object, status: int) -> Outcome:
    """Return the outcome of an error response (RFC 6749 section 5.2)."""
    if not isinstance(code, str):
        return _unclear(status)
    if code == "invalid_grant":
        return Refused(detail="invalid_grant")
    if code in CLIENT_ERRORS:
        return ClientRefused(detail=f"{code} ({status})", code=code)
    return _unclear(status)


def _unclear(status: int) -> Unknown:
    return Unknown(detail=f"the response has status {status} and says nothing about the token")


def _issued(content: Mapping[str, object]) -> Issued | None:
    """Return the tokens of a response (RFC 6749 section 5.1); None if it holds no access token.

    A field with characters that it may not hold counts as missing: one malformed field does not
    cost the others.
    """
    access_token = _token(content.get("access_token"))
    if access_token is None:
        return None
    scope = _text(content.get("scope"), SCOPE)
    xero_userid, auth_event_id = claims_of(access_token)
    return Issued(
        access_token=access_token,
        token_type=_text(content.get("token_type"), TOKEN_TYPE) or "Bearer",
        lifetime=_lifetime(content.get("expires_in")),
        refresh_token=_token(content.get("refresh_token")),
        scopes=None if scope is None else tuple(scope.split()),
        xero_userid=xero_userid,
        auth_event_id=auth_event_id,
    )


def _token(value: object) -> Secret | None:
    text = _text(value, TOKEN)
    return None if text is None else Secret(text)


def _text(value: object, permitted: re.Pattern[str]) -> str | None:
    """Return a field if it is a permitted string, else None."""
    if isinstance(value, str) and permitted.fullmatch(value):
        return value
    return None


def _lifetime(expires_in: object) -> timedelta | None:
    """Return ``expires_in``, a number or its digits, as a duration; None if it is unusable.

    A lifetime below one second becomes one second: a token never expires before it is issued.
    """
    seconds = _number(expires_in)
    if seconds is None or not abs(seconds) < MAX_LIFETIME_SECONDS:
        return None
    return timedelta(seconds=max(seconds, 1))


def _number(value: object) -> float | None:
    match value:
        case bool():  # to Python, True is the number 1
            return None
        case int() | float():
            return value
        case str():
            return _whole_number(value)
    return None


def _whole_number(text: str) -> int | None:
    """Return the number that the digits stand for; None for any other text."""
    # Twelve digits exceed every bound. Python refuses to convert thousands of them.
    return int(text[:12]) if DIGITS.fullmatch(text) else None


def _retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return a ``Retry-After`` header, seconds or an HTTP date, as a duration (RFC 9110
    section 10.2.3); None if it is neither."""
    if value is None:
        return None
    seconds = _whole_number(value.strip())
    if seconds is None:
        return _until(value, now)
    return timedelta(seconds=min(seconds, MAX_RETRY_AFTER_SECONDS))


def _until(http_date: str, now: datetime) -> timedelta | None:
    try:
        at = parsedate_to_datetime(http_date)
        return max(at.replace(tzinfo=at.tzinfo or UTC) - now, timedelta(0))
    except (ValueError, OverflowError, TypeError):
        return None


def _json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body; an empty one for any other content."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
