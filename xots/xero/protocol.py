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

import msgspec
from msgspec.structs import replace

from ..advice import ERROR_CODE
from ..lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from ..safe_text import safe_text
from ..secret import Secret
from .claims import claims_of

__all__ = [
    "SCOPE_SETS",
    "Credentials",
    "Request",
    "Response",
    "is_success",
    "read_revocation_response",
    "read_token_response",
    "retry_after",
    "status_text",
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

UNREVOKABLE = "unsupported_token_type"
"""The error code by which a server says that it cannot revoke refresh tokens (RFC 7009 section
2.2.1)."""

MAX_LIFETIME_SECONDS = 1e9
"""Upper bound on ``expires_in``, about 32 years. A larger value is a fault of the server."""

MAX_RETRY_AFTER_SECONDS = 10**6
"""Upper bound on ``Retry-After``, about 12 days. A fault of a server stops refreshes no longer."""

ACCESS_TOKEN = re.compile(r"[!-~]{1,16384}")
"""An access token: visible ASCII (RFC 6750 section 2.1 permits no space). Xero's have 2,000."""

REFRESH_TOKEN = re.compile(r"[ -~]{1,16384}")
"""A refresh token: printable ASCII (RFC 6749 section A.17)."""

TOKEN_TYPE = re.compile(r"[!-~]{1,128}")
"""A token type: a name or a URI (RFC 6749 section A.13)."""

SCOPE = re.compile(r"[ -~]{0,8192}")
"""Scopes, separated by spaces (RFC 6749 section A.4)."""

SCOPE_SEPARATOR = re.compile(r"[ ,]+")
"""Between two scopes: RFC 6749 section 3.3 demands a space, and some servers use a comma."""

DIGITS = re.compile(r"[0-9]+")

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
"""A number that is written as text."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
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

    Every 2xx status with an access token means "issued", since a refresh token that is lost is
    worse than a wrong status. Only the error code ``invalid_grant``, in a JSON response with status
    400 or 401, means that the token is refused. A response that clearly says neither "issued" nor
    "not carried out" is ``Unknown``: the token is kept. Each of these may name a time to wait
    (RFC 9110 section 10.2.3). ``now`` is aware UTC.
    """
    outcome = _outcome(response)
    if isinstance(outcome, Unknown | Throttled):
        return replace(outcome, retry_after=retry_after(response, now))
    return outcome


def _outcome(response: Response) -> Outcome:
    """Return the outcome without the time to wait."""
    status, content = response.status, _json_object(response.body)
    if is_success(status):
        return _issued(content) or Unknown(
            detail=f"the response has {_status(status, content)} but is not the JSON of a token"
        )
    match status:
        case 429:
            return Throttled(detail="too many requests (429)")
        case 400 | 401:
            return _refusal(status, content)
    return _unclear(status, content)


def read_revocation_response(response: Response, now: datetime) -> Failure | None:
    """Return the failure of a revocation; None if the token is revoked (RFC 7009 section 2.2).

    A token that the server does not know counts as revoked. ``now`` is aware UTC.
    """
    if is_success(response.status):
        return None
    outcome = read_token_response(response, now)
    if isinstance(outcome, Unknown) and _error_code(_json_object(response.body)) == UNREVOKABLE:
        return ClientRefused(detail=f"{UNREVOKABLE} ({response.status})", code=UNREVOKABLE)
    return None if isinstance(outcome, Issued | Refused) else outcome


def is_success(status: int) -> bool:
    """True for a 2xx status."""
    return 200 <= status < 300


def status_text(status: int) -> str:
    """Return the status of a response in words."""
    if 300 <= status < 400:
        return f"status {status}, a redirect, which is not followed"
    return f"status {status}"


def _status(status: int, content: Mapping[str, object]) -> str:
    """Return the status and the error code of a response in words, before a verb."""
    code = _error_code(content)
    text = status_text(status)
    if code is not None:
        # The server may have echoed the token, which may be forgotten before the detail is shown.
        text += f", error {safe_text(code)}"
    return f"{text}," if "," in text else text


def _error_code(content: Mapping[str, object]) -> str | None:
    """Return the error code of a response. None if it has none that is safe to show.

    The other texts of an error (``error_description``) may hold anything, and are never shown.
    """
    return _text(content.get("error"), ERROR_CODE)


def _refusal(status: int, content: Mapping[str, object]) -> Outcome:
    """Return the outcome of an error response (RFC 6749 section 5.2)."""
    code = _error_code(content)
    if code == "invalid_grant":
        return Refused(detail="invalid_grant")
    if code in CLIENT_ERRORS:
        return ClientRefused(detail=f"{code} ({status})", code=code)
    return _unclear(status, content)


def _unclear(status: int, content: Mapping[str, object]) -> Unknown:
    shown = _status(status, content)
    return Unknown(detail=f"the response has {shown} and says nothing about the token")


def _issued(content: Mapping[str, object]) -> Issued | None:
    """Return the tokens of a response (RFC 6749 section 5.1); None if it holds no access token.

    A field with characters that it may not hold counts as missing: one malformed field does not
    cost the others.
    """
    access_token = _token(content.get("access_token"), ACCESS_TOKEN)
    if access_token is None:
        return None
    xero_userid, auth_event_id = claims_of(access_token)
    return Issued(
        access_token=access_token,
        token_type=_token_type(content.get("token_type")),
        lifetime=_lifetime(content.get("expires_in")),
        refresh_token=_token(content.get("refresh_token"), REFRESH_TOKEN),
        scopes=_scopes(content.get("scope")),
        xero_userid=xero_userid,
        auth_event_id=auth_event_id,
    )


def _token_type(value: object) -> str:
    """Return the token type. Its case does not matter (RFC 6749 section 5.1)."""
    text = _text(value, TOKEN_TYPE) or "Bearer"
    return "Bearer" if text.lower() == "bearer" else text


def _scopes(value: object) -> tuple[str, ...] | None:
    """Return the scopes, separated by spaces or commas, or in an array; none for an empty field,
    which names nothing that was granted. None if the field is missing or malformed."""
    entries = value if isinstance(value, list) else [value]
    found = [text for text in (_text(entry, SCOPE) for entry in entries) if text is not None]
    text = _text(" ".join(found), SCOPE)  # an array is as long as a string at most
    if text is None or (entries and not found):
        return None
    return tuple(scope for scope in SCOPE_SEPARATOR.split(text) if scope)


def _token(value: object, permitted: re.Pattern[str]) -> Secret | None:
    text = _text(value, permitted)
    return None if text is None else Secret(text)


def _text(value: object, permitted: re.Pattern[str]) -> str | None:
    """Return a field if it is a permitted string, else None."""
    if isinstance(value, str) and permitted.fullmatch(value):
        return value
    return None


def _lifetime(expires_in: object) -> timedelta | None:
    """Return ``expires_in``, a number or its digits, as a duration; None if it is unusable.

    Zero means that the token has expired already. So does a negative number.
    """
    seconds = _number(expires_in)
    if seconds is None or not seconds < MAX_LIFETIME_SECONDS:
        return None
    return timedelta(seconds=max(seconds, 0))


def _number(value: object) -> float | None:
    match value:
        case bool():  # to Python, True is the number 1
            return None
        case int() | float():
            return value
        case str() if NUMBER.fullmatch(value):
            return float(value)
    return None


def _whole_number(text: str) -> int | None:
    """Return the number that the digits stand for; None for any other text."""
    # Twelve digits exceed every bound. Python refuses to convert thousands of them.
    return int(text[:12]) if DIGITS.fullmatch(text) else None


def retry_after(response: Response, now: datetime) -> timedelta | None:
    """Return the header ``Retry-After``, seconds or an HTTP date, as a duration (RFC 9110
    section 10.2.3); None if it is missing or neither. ``now`` is aware UTC."""
    value = response.headers.get("Retry-After")
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
