"""Rows: error responses of the token endpoint, at a login and at a refresh."""

from __future__ import annotations

from traits.rows import Row
from traits.steps import (
    LoginFails,
    LogsIn,
    Passes,
    Recovers,
    Refreshes,
    RefreshFails,
    Serves,
    ServesNothing,
    Spent,
)
from traits.stub import Reply, Shape, Trait, error, json_reply, plain

__all__ = ["ROWS"]

AGAIN = r"log in again"
HTML = {"Content-Type": "text/html"}
CONTROL = '\x1b[31m"onclick=<b>\\'
NOT_SHOWN = (r"onclick", r"\[31m", r"<b>")
NOT_THE_SECRETS_FAULT = (r"secret",)
DUE_SECONDS = 1600
"""A refresh is due after this time. The access token lives for 200 seconds more."""


def _busy(status: int) -> Shape:
    return lambda tokens: json_reply({"error": "busy"}, status, Retry_After="120")


def _firewall(tokens: bytes) -> Reply:
    return Reply(b"<html><h1>Forbidden</h1>" + tokens, 403, HTML)


def _at_login(
    name: str, rule: str, shape: Shape, *patterns: str, never: tuple[str, ...] = ()
) -> Row:
    """Return the row of a server that does not exchange the code."""
    return Row(
        name=f"login-{name}",
        rule=rule,
        trait=Trait(exchange=shape),
        steps=(LoginFails(patterns, never),),
    )


def _at_refresh(
    name: str,
    rule: str,
    shape: Shape,
    *patterns: str,
    never: tuple[str, ...] = (),
    retry_after: int | None = None,
) -> Row:
    """Return the row of a server that fails once at a refresh: the same refresh token is kept, and
    the old access token is served meanwhile."""
    return Row(
        name=f"refresh-{name}",
        rule=rule,
        trait=Trait(refreshes=(shape,)),
        steps=(
            LogsIn(),
            RefreshFails(patterns, never=never, retry_after=retry_after),
            Serves(),
            Passes(700),
            Recovers("refresh-1"),
            Serves(),
        ),
    )


LOGIN = [
    _at_login(
        "invalid-grant",
        "RFC 6749 section 5.2: invalid_grant means a code that is wrong, expired or of another "
        "redirect URI.",
        error("invalid_grant"),
        r"\binvalid_grant\b",
        AGAIN,
    ),
    _at_login(
        "invalid-client-401",
        "RFC 6749 section 5.2: invalid_client may have status 401, with WWW-Authenticate.",
        error("invalid_client", 401, WWW_Authenticate='Basic realm="id"'),
        r"\binvalid_client\b",
        r"secret",
        AGAIN,
    ),
    _at_login(
        "invalid-client-400",
        "RFC 6749 section 5.2: each error has status 400 unless it is said otherwise.",
        error("invalid_client"),
        r"\binvalid_client\b",
        r"secret",
        AGAIN,
    ),
    _at_login(
        "invalid-request",
        "RFC 6749 section 5.2: invalid_request means a parameter that is missing or malformed.",
        error("invalid_request"),
        r"\binvalid_request\b",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_login(
        "invalid-scope",
        "RFC 6749 section 5.2: invalid_scope means a scope that is unknown or exceeds the grant.",
        error("invalid_scope"),
        r"\binvalid_scope\b",
        r"scopes",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_login(
        "unauthorized-client",
        "RFC 6749 section 5.2: unauthorized_client means that the authenticated client may not use "
        "this grant.",
        error("unauthorized_client"),
        r"\bunauthorized_client\b",
        r"\bgrant\b|permit|allow|may not",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_login(
        "unsupported-grant-type",
        "RFC 6749 section 5.2: unsupported_grant_type means that the server does not know this "
        "grant.",
        error("unsupported_grant_type"),
        r"\bunsupported_grant_type\b",
        r"\bgrant\b|token_url|authorization code",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_login(
        "extension-code",
        "RFC 6749 section 8.5: a server may define further error codes, which are shown by name.",
        error("interaction_required"),
        r"\binteraction_required\b",
        AGAIN,
    ),
    _at_login(
        "malformed-code",
        "RFC 6749 section 5.2: an error code holds no quotation mark, backslash or control "
        "character.",
        error(CONTROL),
        AGAIN,
        never=NOT_SHOWN,
    ),
    _at_login(
        "error-with-status-200",
        "RFC 6749 section 5.2 demands status 400; some servers send the error with 200, and its "
        "code says what is wrong.",
        error("bad_verification_code", 200),
        r"\bbad_verification_code\b",
        AGAIN,
    ),
    _at_login(
        "error-is-an-object",
        "RFC 6749 section 5.2: the error is a string; another value names no code.",
        error({"code": "invalid_grant", "message": "<b>onclick"}),
        r"400",
        AGAIN,
        never=NOT_SHOWN,
    ),
    _at_login(
        "html-403",
        "RFC 9110 section 15.5.4: a 403 without an OAuth error says nothing about the code.",
        _firewall,
        r"403",
        AGAIN,
    ),
    _at_login(
        "429",
        "RFC 6585 section 4: a 429 means too many requests; the user tries later.",
        _busy(429),
        r"429|too many",
        AGAIN,
    ),
    _at_login(
        "503",
        "RFC 9110 section 15.6.4: a 503 is temporary.",
        _busy(503),
        r"503",
        AGAIN,
    ),
]

REFRESH = [
    Row(
        name="refresh-invalid-grant",
        rule="RFC 6749 section 5.2: invalid_grant means a refresh token that is expired or "
        "revoked: the login is lost.",
        trait=Trait(refreshes=(error("invalid_grant"),) * 4),
        steps=(
            LogsIn(),
            Passes(DUE_SECONDS, lost=True),
            RefreshFails((r"\binvalid_grant\b", r"log in"), status=401),
            Passes(DUE_SECONDS),
            ServesNothing(401, (r"\binvalid_grant\b", r"log in")),
        ),
    ),
    Row(
        name="refresh-momentary-invalid-grant",
        rule="RFC 6749 section 5.2: invalid_grant is the server's word of one moment; a user who "
        "asks for a refresh may ask again with the only token (section 6).",
        trait=Trait(refreshes=(error("invalid_grant"),)),
        steps=(LogsIn(), Passes(DUE_SECONDS, lost=True), Refreshes("refresh-1"), Serves()),
    ),
    _at_refresh(
        "invalid-client",
        "RFC 6749 section 5.2: invalid_client is about the client; the refresh token is kept.",
        error("invalid_client", 401, WWW_Authenticate='Basic realm="id"'),
        r"\binvalid_client\b",
        r"secret",
    ),
    _at_refresh(
        "invalid-request",
        "RFC 6749 section 5.2: invalid_request is about the request; the refresh token is kept.",
        error("invalid_request"),
        r"\binvalid_request\b",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_refresh(
        "invalid-scope",
        "RFC 6749 section 5.2: invalid_scope is about the scope; the refresh token is kept.",
        error("invalid_scope"),
        r"\binvalid_scope\b",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_refresh(
        "unauthorized-client",
        "RFC 6749 section 5.2: unauthorized_client is about the client's rights; the refresh token "
        "is kept.",
        error("unauthorized_client"),
        r"\bunauthorized_client\b",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_refresh(
        "unsupported-grant-type",
        "RFC 6749 section 5.2: unsupported_grant_type is about the server; the refresh token is "
        "kept.",
        error("unsupported_grant_type"),
        r"\bunsupported_grant_type\b",
        never=NOT_THE_SECRETS_FAULT,
    ),
    _at_refresh(
        "extension-code",
        "RFC 6749 section 8.5: an unknown code condemns no refresh token, and is shown by name.",
        error("interaction_required"),
        r"\binteraction_required\b",
    ),
    _at_refresh(
        "malformed-code",
        "RFC 6749 section 5.2: a malformed code is no code; the refresh token is kept.",
        error(CONTROL),
        never=NOT_SHOWN,
    ),
    _at_refresh(
        "html-403",
        "RFC 9110 section 15.5.4: a 403 of a firewall says nothing about the refresh token.",
        _firewall,
        r"403",
    ),
    _at_refresh(
        "429",
        "RFC 6585 section 4: Retry-After of a 429 says how long to wait.",
        _busy(429),
        r"429|too many|pause",
        retry_after=120,
    ),
    _at_refresh(
        "503",
        "RFC 9110 section 10.2.3: Retry-After of a 503 says how long the server expects to be "
        "unavailable.",
        _busy(503),
        r"503",
        retry_after=120,
    ),
    Row(
        name="refresh-503-with-strict-reuse-detection",
        rule="RFC 9700 section 4.14.2: a server may end the grant at a second use, so a token that "
        "may be spent is kept for the end of the access token.",
        trait=Trait(strict=True, refreshes=(_busy(503),)),
        settings={"grace": "0"},
        steps=(
            LogsIn(),
            RefreshFails((r"503",)),
            Passes(600),
            RefreshFails(()),
            Serves(),
            Spent(("refresh-1",)),
            Passes(1210, lost=True),
            Spent(("refresh-1", "refresh-1")),
            ServesNothing(401),
        ),
    ),
    Row(
        name="refresh-fails-twice-and-recovers",
        rule="RFC 9110 section 15.6.4: after a temporary failure the same request may succeed.",
        trait=Trait(refreshes=(_busy(503), _firewall, plain)),
        steps=(
            LogsIn(),
            Passes(DUE_SECONDS),
            Passes(130),
            Serves(),
            Passes(130),
            Serves(),
            Refreshes("refresh-2"),
        ),
    ),
]

ROWS = [*LOGIN, *REFRESH]
