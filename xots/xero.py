"""The Xero protocol: requests built, answers read, outcomes classified; ``XeroClient`` does the I/O.

Everything but ``XeroClient`` is pure and tested by handing it an answer. Facts come from RFC 6749 (OAuth 2.0), 7636
(PKCE), 7009 (revocation) and Xero's pages "The standard authorization code flow", "Token types" and "Connections".
No library retries stand below this: whether a token may be spent twice is not a transport's decision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
from asyncio import Future
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from .clock import Clock
from .errors import SettingsError, UpstreamFailed
from .lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from .secret import Secret

if TYPE_CHECKING:
    from tornado.httpclient import AsyncHTTPClient

__all__ = [
    "SCOPE_SETS",
    "XERO",
    "Answer",
    "Connection",
    "Credentials",
    "Endpoints",
    "Proxy",
    "XeroClient",
    "authorize_url",
    "code_challenge",
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

LARGEST_ANSWER = 1 << 20
"""In bytes. A token answer is about 4 kB and a long list of connections some 100 kB; more is not from Xero."""


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


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """An HTTP proxy to go through."""

    host: str
    port: int
    username: str | None = None
    password: Secret | None = None


@dataclass(frozen=True)
class _Request:
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


def _form_request(url: str, form: Mapping[str, str], credentials: Credentials) -> _Request:
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
    return _Request("POST", url, headers, urlencode(form).encode())


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


# --------------------------------------------------------------------------------------------------- I/O


class XeroClient:
    """Talks to the identity server: one request, one deadline, one outcome; no retries, no redirects.

    Args:
        endpoints: where it is.
        clock: this host's; a date in a ``Retry-After`` is compared with its time of day.
        connect_seconds: how long DNS, TCP and TLS may take together.
        deadline_seconds: how long a whole request may take.
        ca_file: certificates of authorities to trust, in the place of the system's (PEM).
        proxy: an HTTP proxy to go through. Needs pycurl (the extra ``xots[proxy]``).

    Raises:
        SettingsError: a proxy is wanted, and pycurl is not installed.
    """

    def __init__(
        self,
        endpoints: Endpoints = XERO,
        *,
        clock: Clock,
        connect_seconds: float = 10,
        deadline_seconds: float = 20,
        ca_file: str | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.endpoints = endpoints
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._deadline_seconds = deadline_seconds
        self._proxy = proxy
        # The curl client brings its own idea of where the system's authorities are: it is told.
        self._ca_file = ca_file or (proxy and ssl.get_default_verify_paths().cafile) or None
        # One for the tokens, one for the rest: a slow list of organisations must not keep a refresh waiting.
        self._token_http, self._other_http = (
            _curl_client() if proxy else _simple_client() for _ in range(2)
        )

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        """Spend a refresh token (RFC 6749 section 6)."""
        return await self._token(
            {"grant_type": "refresh_token", "refresh_token": token.reveal()}, credentials
        )

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        """Exchange an authorization code for the first tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5)."""
        form = {
            "grant_type": "authorization_code",
            "code": code.reveal(),
            "redirect_uri": redirect_uri,
        }
        if verifier is not None:
            form["code_verifier"] = verifier.reveal()
        return await self._token(form, credentials)

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        """Revoke a refresh token (RFC 7009), and at Xero all of the user's connections to the app with it.

        None when it is done; a token that Xero does not know counts as done.
        """
        form = {"token": token.reveal(), "token_type_hint": "refresh_token"}
        answer = await self._send(_form_request(self.endpoints.revoke_url, form, credentials))
        if not isinstance(answer, Answer):
            return answer
        if 200 <= answer.status < 300:
            return None
        outcome = read_token_answer(answer, self._clock.now())
        return None if isinstance(outcome, Issued | Refused) else outcome

    async def connections(self, access_token: Secret) -> Answer:
        """What the connections endpoint answers to the bearer of ``access_token``.

        Raises:
            UpstreamFailed: no answer came.
        """
        headers = {"Authorization": f"Bearer {access_token.reveal()}", "Accept": "application/json"}
        answer = await self._send(_Request("GET", self.endpoints.connections_url, headers))
        if isinstance(answer, Answer):
            return answer
        raise UpstreamFailed(f"the connections endpoint could not be asked: {answer.detail}")

    async def reach(self) -> str | None:
        """Why the token endpoint can't be reached; None when it answers, whatever it says. Spends nothing."""
        answer = await self._send(_Request("GET", self.endpoints.token_url, {}))
        return None if isinstance(answer, Answer) else answer.detail

    def close(self) -> None:
        """Give back the HTTP clients' resources."""
        self._token_http.close()
        self._other_http.close()

    async def _token(self, form: Mapping[str, str], credentials: Credentials) -> Outcome:
        answer = await self._send(_form_request(self.endpoints.token_url, form, credentials))
        return (
            read_token_answer(answer, self._clock.now()) if isinstance(answer, Answer) else answer
        )

    async def _send(self, request: _Request) -> Answer | NotSent | Unknown:
        """Send once. ``NotSent`` only if not a byte of the body left: the body is what spends a token."""
        from tornado.httpclient import HTTPRequest

        begun = False

        def body(write: Callable[[bytes], None]) -> Future[None]:
            nonlocal begun
            begun = True
            write(request.body)
            (written := Future[None]()).set_result(None)
            return written

        headers, options = dict(request.headers), self._proxy_options()
        http = self._token_http if request.method == "POST" else self._other_http
        if request.method == "POST" and self._proxy:
            options["body"] = request.body
        elif request.method == "POST":
            # With a length given, the client leaves the body to the producer and does not chunk it.
            headers["Content-Length"] = str(len(request.body))
            options["body_producer"] = body
        try:
            response = await http.fetch(
                HTTPRequest(
                    request.url,
                    **options,
                    method=request.method,
                    headers=headers,
                    ca_certs=self._ca_file,
                    connect_timeout=self._connect_seconds,
                    request_timeout=self._deadline_seconds,
                    follow_redirects=False,
                    decompress_response=False,
                    user_agent="xots",
                ),
                raise_error=False,
            )
        except Exception as error:  # noqa: BLE001 - whatever went wrong, what counts is whether the body had left
            detail = f"{urlsplit(request.url).hostname}: {_reason(error)}"
            if self._proxy:
                # The curl client has no producer; its error tells how far it came.
                begun = getattr(error, "errno", None) not in CURL_NOT_SENT
            return (
                Unknown(detail=f"no answer from {detail}")
                if begun
                else NotSent(detail=f"can't reach {detail}")
            )
        return Answer(response.code, response.headers, response.body or b"")

    def _proxy_options(self) -> dict[str, Any]:
        if self._proxy is None:
            return {}
        password = self._proxy.password
        return {
            "proxy_host": self._proxy.host,
            "proxy_port": self._proxy.port,
            "proxy_username": self._proxy.username,
            "proxy_password": password.reveal() if password else "",
            "prepare_curl_callback": _prepare_curl,
        }


CURL_NOT_SENT = frozenset({5, 6, 7, 35, 60, 77})
"""libcurl's errors that come before a request is sent: name of the proxy or host, connection, TLS, certificate."""


def _prepare_curl(curl: Any) -> None:
    """One connection a request, since libcurl repeats a POST by itself when a connection that it kept has died; and
    no verbose log of its own, which would hold the tokens."""
    import pycurl

    curl.setopt(pycurl.FRESH_CONNECT, 1)
    curl.setopt(pycurl.FORBID_REUSE, 1)
    curl.setopt(pycurl.VERBOSE, 0)


def _simple_client() -> AsyncHTTPClient:
    # Tornado is imported here and above, so that commands which only need this room's types start fast.
    from tornado.simple_httpclient import SimpleAsyncHTTPClient

    return SimpleAsyncHTTPClient(force_instance=True, max_body_size=LARGEST_ANSWER)


def _curl_client() -> AsyncHTTPClient:
    try:
        from tornado.curl_httpclient import CurlAsyncHTTPClient
    except ImportError:
        raise SettingsError(
            [
                "proxy: going through a proxy needs pycurl, which is not installed (pip install 'xots[proxy]')"
            ]
        ) from None
    return CurlAsyncHTTPClient(force_instance=True, max_body_size=LARGEST_ANSWER)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) or hasattr(error, "message"):
        return (
            getattr(error, "message", None)
            or getattr(error, "strerror", None)
            or type(error).__name__
        )
    return type(error).__name__  # the text of an error that is not foreseen may quote what was sent
