"""Errors as responses: the one place where an exception becomes a status. Pure.

A program receives ``application/problem+json`` (RFC 9457) with a stable ``type``. A browser
receives a page with the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import NamedTuple

import msgspec
from tornado.web import HTTPError

from ..errors import (
    AccessDenied,
    AccountExists,
    AccountFixed,
    AccountUnusable,
    AmbiguousTenant,
    ConsentLost,
    KeyRefused,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    NoToken,
    RulesUnreadable,
    SealError,
    SettingsError,
    StoreUnavailable,
    TenantNotFound,
    TokenUnavailable,
    TooManyAccounts,
    TooManyLogins,
    UnknownAccount,
    UnknownTenant,
    UpstreamFailed,
    UpstreamThrottled,
    XotsError,
)
from ..safe_text import safe_text

__all__ = [
    "CHALLENGE",
    "INTERNAL_ERROR",
    "PROBLEM_TYPES",
    "SET_CREDENTIALS",
    "ErrorResponse",
    "ProblemDetails",
    "error_response",
    "http_reason",
]

CHALLENGE = 'Bearer realm="xots"'
"""The ``WWW-Authenticate`` header of every 401 (RFC 9110 section 15.5.2)."""

WRONG_KEY = f'{CHALLENGE}, error="invalid_token"'
"""The same for a key that is not valid (RFC 6750 section 3.1)."""

BASIC = 'Basic realm="xots", charset="UTF-8"'
"""The header by which a browser asks its user for a reader's name and key (RFC 7617 section 2)."""

SET_CREDENTIALS = (
    "set client_id and client_secret for this account in the settings, and restart xots"
)
"""The remedy for an account that lacks the client's own credentials, by which it gets tokens."""


class ProblemType(NamedTuple):
    """A kind of error, with its status."""

    status: int
    name: str
    """The last part of ``type``, after ``urn:xots:``."""
    title: str


PROBLEM_TYPES: Mapping[type[XotsError], ProblemType] = {
    NoCredentials: ProblemType(401, "no-credentials", "The client's credentials are missing"),
    KeyRefused: ProblemType(401, "key-needed", "A valid key is needed"),
    AccessDenied: ProblemType(403, "access-denied", "The caller does not have the right to this"),
    RulesUnreadable: ProblemType(503, "rules-unreadable", "No key can be checked now"),
    NotLoggedIn: ProblemType(401, "not-logged-in", "No user is logged in"),
    ConsentLost: ProblemType(401, "consent-lost", "The login is lost"),
    TokenUnavailable: ProblemType(503, "token-unavailable", "No access token is available now"),
    StoreUnavailable: ProblemType(503, "store-unavailable", "The token store cannot be used now"),
    SealError: ProblemType(503, "record-unreadable", "The stored login cannot be opened"),
    LoginFailed: ProblemType(400, "login-failed", "The login failed"),
    TooManyLogins: ProblemType(429, "too-many-logins", "Too many logins were attempted"),
    AmbiguousTenant: ProblemType(409, "ambiguous-tenant", "Several organisations have this name"),
    TenantNotFound: ProblemType(404, "tenant-not-found", "No organisation has this id or name"),
    UnknownTenant: ProblemType(400, "unknown-tenant", "The organisation is not connected"),
    UnknownAccount: ProblemType(404, "unknown-account", "There is no such account"),
    AccountExists: ProblemType(409, "account-exists", "The account exists already"),
    AccountFixed: ProblemType(409, "account-fixed", "The account is declared in the settings"),
    TooManyAccounts: ProblemType(409, "too-many-accounts", "No account can be added"),
    AccountUnusable: ProblemType(503, "account-unusable", "The account cannot be used"),
    SettingsError: ProblemType(400, "invalid-settings", "The settings of the account are wrong"),
    UpstreamThrottled: ProblemType(
        503, "upstream-throttled", "Too many requests for the list of organisations"
    ),
    UpstreamFailed: ProblemType(502, "upstream-failed", "The organisations could not be listed"),
}
"""The problem type of each error: that of the first class which the error is an instance of."""

MAX_SHOWN = 100
"""Upper bound on the organisations in a problem. ``/tenants`` lists all of them."""

INTERNAL_ERROR = ProblemType(500, "internal-error", "Internal error")
"""The problem type of every other exception."""


class Organisation(msgspec.Struct, frozen=True):
    """An organisation that a caller may choose."""

    id: str
    name: str | None
    """Safe text; None if it has no name."""


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error response (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str | None = None
    organisations: list[Organisation] | None = None
    """The organisations to choose from, for a request that chose none of them."""


class ErrorResponse(NamedTuple):
    """An error response, its status in the problem."""

    headers: Sequence[tuple[str, str]]
    problem: ProblemDetails


def error_response(
    error: BaseException | None,
    *,
    methods: Sequence[str],
    login_url: str | None,
    lacks_credentials: bool = False,
) -> ErrorResponse:
    """Return the response to a request that raised ``error``.

    Args:
        error: the exception; None if Tornado names none.
        methods: the methods that the path supports, for the response to an unsupported one.
        login_url: the page at which a user can log in; None for a request that needs no login.
        lacks_credentials: the account gets its tokens by credentials that are not set.
    """
    match error:
        case HTTPError(status_code=405):
            allowed = ", ".join(methods)
            detail = error.get_message() or f"this path supports only {allowed}"
            return _response(error, detail, [("Allow", allowed)])
        case HTTPError():
            return _response(error, http_reason(error))
        case NoToken():
            remedy = f"; open {login_url} in a browser and log in" if login_url else ""
            if lacks_credentials:
                remedy = f"; {SET_CREDENTIALS}"
            return _response(error, f"{error}{remedy}", [("WWW-Authenticate", CHALLENGE)])
        case KeyRefused():
            # Chromium reads one challenge a line.
            challenges = [WRONG_KEY if error.is_wrong else CHALLENGE]
            challenges += [BASIC] if error.may_use_basic else []
            return _response(error, str(error), [("WWW-Authenticate", one) for one in challenges])
        case TenantNotFound():
            return _response(error, str(error), organisations=_shown(error.organisations))
        case TokenUnavailable() | TooManyLogins() | UpstreamFailed():
            return _response(error, str(error), _retry_after(error.retry_after_seconds))
        case XotsError():
            return _response(error, str(error))
    return _response(error, "an unexpected error occurred; the server's log shows it")


def _retry_after(seconds: float | None) -> list[tuple[str, str]]:
    """Return the header with the time to wait, in whole seconds; none if there is no such time."""
    return [] if seconds is None else [("Retry-After", str(max(1, ceil(seconds))))]


def http_reason(error: HTTPError) -> str | None:
    """Return the reason of an ``HTTPError`` as safe text; None if it has none.

    Tornado raises some of them from an error of its parsers, which quotes the request.
    """
    if error.__cause__ is not None:
        return "the body of the request is malformed"
    message = error.get_message()
    return safe_text(message, 1000) if message else None


def _response(
    error: BaseException | None,
    detail: str | None,
    headers: Sequence[tuple[str, str]] = (),
    organisations: list[Organisation] | None = None,
) -> ErrorResponse:
    status, name, title = _problem_type(error)
    problem = ProblemDetails(
        type=f"urn:xots:{name}",
        title=title,
        status=status,
        detail=detail,
        organisations=organisations,
    )
    return ErrorResponse(headers, problem)


def _shown(organisations: list[tuple[str, str | None]]) -> list[Organisation]:
    """Return the organisations with names that are safe to show, up to ``MAX_SHOWN``."""
    return [
        Organisation(tenant_id, None if name is None else safe_text(name, 100))
        for tenant_id, name in organisations[:MAX_SHOWN]
    ]


def _problem_type(error: BaseException | None) -> ProblemType:
    if isinstance(error, HTTPError):
        phrase = HTTPStatus(error.status_code).phrase
        return ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    found = (known for kind, known in PROBLEM_TYPES.items() if isinstance(error, kind))
    return next(found, INTERNAL_ERROR)
