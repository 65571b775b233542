"""The Xero protocol: requests built, answers read, outcomes classified.

Everything here is pure and tested by handing it an answer. Facts come from RFC 6749 (OAuth 2.0), 7636
(PKCE), 7009 (revocation) and Xero's pages "The standard authorization code flow", "Token types" and "Connections".

"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from ..errors import UpstreamFailed
from ..lifecycle.outcomes import (
    ClientRefused,
    Issued,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from ..secret import Secret

__all__ = [
    "SCOPE_SETS",
    "XERO",
    "Answer",
    "Connection",
    "Credentials",
    "Endpoints",
    "Request",
    "authorize_url",
    "code_challenge",
    "form_request",
    "new_code_verifier",
    "read_connections",
    "read_token_answer",
]

CLIENT_ERRORS = frozenset(
    {
        "invalid_client",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
"""The errors by which a token endpoint says that it did not carry out the request (RFC 6749 section 5.2)."""

SCOPE_SETS = {
    "classic": ("offline_access", "accounting.transactions", "accounting.reports.read"),
    "granular": (
        "offline_access",
        *(
            f"accounting.{name}"
            for name in ("invoices", "payments", "banktransactions", "manualjournals")
        ),
        *(
            f"accounting.reports.{name}.read"
            for name in (
                *("aged", "balancesheet", "banksummary", "budgetsummary"),
                *("executivesummary", "profitandloss", "trialbalance", "taxreports"),
            )
        ),
    ),
}
"""Shorthands for whole sets. Apps made at Xero on or after 2 March 2026 can't use the classic ones; the granular ones
are what Xero names in their place (Xero: "Scopes")."""


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the identity server is. The defaults are Xero's; they are not discovered, so nothing can move them."""

    authorize_url: str = "https://login.xero.com/identity/connect/authorize"
    token_url: str = "https://identity.xero.com/connect/token"  # noqa: S105 - an address, not a secret
    revoke_url: str = "https://identity.xero.com/connect/revocation"
    connections_url: str = "https://api.xero.com/connections"
    """Empty for an identity server without tenants."""


XERO = Endpoints()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a client authenticates with; a PKCE app has no secret."""

    client_id: str
    client_secret: Secret | None = None


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Connection(msgspec.Struct, frozen=True, rename="camel"):
    """One organisation that the login is connected to (Xero: "Connections"). Fields not named here are passed over."""

    id: str
    tenant_id: str
    tenant_type: str = "ORGANISATION"
    tenant_name: str | None = None


# ---------------------------------------------------------------------------------------------- requests


def new_code_verifier() -> str:
    """A PKCE code verifier: 43 characters that hold 256 random bits (RFC 7636 section 4.1)."""
    return secrets.token_urlsafe(32)


def code_challenge(verifier: str) -> str:
    """The S256 challenge of a code verifier (RFC 7636 section 4.2)."""
    return (
        base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    )


def authorize_url(
    base: str,
    *,
    client_id: str,
    redirect_uri: str,
    scopes: tuple[str, ...],
    state: str,
    verifier: str | None,
) -> str:
    """Where to send the person's browser (RFC 6749 section 4.1.1); ``verifier`` None does without PKCE."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "state": state,
    }
    if verifier is not None:
        query |= {"code_challenge": code_challenge(verifier), "code_challenge_method": "S256"}
    return f"{base}{'&' if urlsplit(base).query else '?'}{urlencode(query)}"


def form_request(url: str, form: Mapping[str, str], credentials: Credentials) -> Request:
    """A form POST that authenticates the client: HTTP Basic with a secret, the bare id in the body without one."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if credentials.client_secret is None:
        form = {**form, "client_id": credentials.client_id}
    else:
        # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
        pair = (
            f"{quote_plus(credentials.client_id)}:{quote_plus(credentials.client_secret.reveal())}"
        )
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return Request("POST", url, headers, urlencode(form).encode())


# ----------------------------------------------------------------------------------------------- answers


def read_token_answer(answer: Answer, now: datetime) -> Outcome:
    """What an answer of the token endpoint means for the token that was spent.

    Only ``invalid_grant``, exactly, in a JSON answer of status 400 or 401, condemns it. Whatever does not clearly
    say "issued" or "not carried out" is ``Unknown``, which loses nothing.
    """
    content = _json_object(answer.body)
    if answer.status == 200:
        issued = _read_issued(content) if content is not None else None
        return issued or Unknown(detail="the answer was 200, but not the JSON of a token")
    if answer.status == 429:
        return Throttled(
            detail="too many requests (429)",
            retry_after=_retry_after(answer.headers.get("Retry-After"), now),
        )
    if (
        answer.status in (400, 401)
        and content is not None
        and isinstance(code := content.get("error"), str)
    ):
        if code == "invalid_grant":
            return Refused(detail="invalid_grant")
        if code in CLIENT_ERRORS:
            return ClientRefused(detail=f"{code} ({answer.status})", code=code)
    return Unknown(detail=f"the answer was status {answer.status} and says nothing about the token")


def _read_issued(content: dict[str, object]) -> Issued | None:
    """The tokens of an answer. What is not made of the characters that RFC 6749 appendix A allows counts as absent, so
    that nothing odd in one field can cost the others."""
    access_token, refresh_token = (
        _visible(content.get(name)) for name in ("access_token", "refresh_token")
    )
    scope, token_type = content.get("scope"), content.get("token_type")
    if access_token is None:
        return None
    return Issued(
        access_token=Secret(access_token),
        token_type=token_type
        if isinstance(token_type, str) and token_type.isascii() and token_type.isalpha()
        else "Bearer",
        lifetime=_lifetime(content.get("expires_in")),
        refresh_token=Secret(refresh_token) if refresh_token else None,
        scopes=tuple(scope.split())
        if isinstance(scope, str) and scope.isascii() and scope.isprintable()
        else None,
    )


def _visible(value: object) -> str | None:
    return (
        value if isinstance(value, str) and value and all("!" <= c <= "~" for c in value) else None
    )


def _lifetime(expires_in: object) -> timedelta | None:
    """``expires_in`` as a duration, given as a number or as digits; None when it is missing or absurd. A token that is
    born dead gets a second, so that it is neither served nor believed in."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdecimal():
        expires_in = int(expires_in[:12])
    if (
        isinstance(expires_in, bool)
        or not isinstance(expires_in, int | float)
        or not -1e9 < expires_in < 1e9
    ):
        return None
    return timedelta(seconds=max(expires_in, 1))


def _retry_after(value: str | None, now: datetime) -> timedelta | None:
    """A Retry-After header as a duration: seconds or an HTTP date (RFC 9110 section 10.2.3); None when neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return timedelta(seconds=min(int(value.strip()[:12]), 10**6))
    try:
        at = parsedate_to_datetime(value)
        return max(at.replace(tzinfo=at.tzinfo or UTC) - now, timedelta(0))
    except (ValueError, OverflowError, TypeError):
        return None


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_connections(answer: Answer) -> list[Connection]:
    """The organisations of an answer of the connections endpoint.

    Raises:
        UpstreamFailed: it is not the list that was asked for.
    """
    if answer.status != 200:
        raise UpstreamFailed(f"the connections endpoint answered with status {answer.status}")
    try:
        return msgspec.json.decode(answer.body, type=list[Connection])
    except msgspec.MsgspecError as error:
        raise UpstreamFailed(
            "the connections endpoint did not answer with a list of connections"
        ) from error
