"""``XeroClient``: the only code that does I/O with the identity server.

No library retries stand below this: whether a token may be spent twice is not a transport's decision.
"""

from __future__ import annotations

import ssl
from asyncio import Future
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..clock import Clock
from ..errors import SettingsError, UpstreamFailed
from ..lifecycle.outcomes import Failure, Issued, NotSent, Outcome, Refused, Unknown
from ..secret import Secret
from .protocol import XERO, Answer, Credentials, Endpoints, Request, form_request, read_token_answer

if TYPE_CHECKING:
    from tornado.httpclient import AsyncHTTPClient

__all__ = ["LARGEST_ANSWER", "Proxy", "XeroClient"]

LARGEST_ANSWER = 1 << 20
"""In bytes. A token answer is about 4 kB and a long list of connections some 100 kB; more is not from Xero."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """An HTTP proxy to go through."""

    host: str
    port: int
    username: str | None = None
    password: Secret | None = None


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
        answer = await self._send(form_request(self.endpoints.revoke_url, form, credentials))
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
        answer = await self._send(Request("GET", self.endpoints.connections_url, headers))
        if isinstance(answer, Answer):
            return answer
        raise UpstreamFailed(f"the connections endpoint could not be asked: {answer.detail}")

    async def reach(self) -> str | None:
        """Why the token endpoint can't be reached; None when it answers, whatever it says. Spends nothing."""
        answer = await self._send(Request("GET", self.endpoints.token_url, {}))
        return None if isinstance(answer, Answer) else answer.detail

    def close(self) -> None:
        """Give back the HTTP clients' resources."""
        self._token_http.close()
        self._other_http.close()

    async def _token(self, form: Mapping[str, str], credentials: Credentials) -> Outcome:
        answer = await self._send(form_request(self.endpoints.token_url, form, credentials))
        return (
            read_token_answer(answer, self._clock.now()) if isinstance(answer, Answer) else answer
        )

    async def _send(self, request: Request) -> Answer | NotSent | Unknown:
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
