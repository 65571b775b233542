"""``XeroClient``: the only code that sends requests to the identity server.

One call sends one request, once. No library below it retries: only the keeper may decide to spend
a refresh token again.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from ..clock import Clock
from ..errors import SettingsError, UpstreamFailed
from ..lifecycle.outcomes import Failure, NotSent, Outcome, Unknown
from ..log_filters import hush_libraries
from ..safe_text import safe_text
from ..secret import Secret
from .coding import decoded
from .connections import connections_request, disconnect_request, read_disconnect_response
from .identity_server import XERO, IdentityServer
from .protocol import (
    Credentials,
    Request,
    Response,
    read_revocation_response,
    read_token_response,
    retry_after,
)
from .requests import (
    client_credentials_request,
    exchange_request,
    refresh_request,
    revocation_request,
)

if TYPE_CHECKING:
    from tornado.httpclient import AsyncHTTPClient

__all__ = ["MAX_RESPONSE_BYTES", "Proxy", "XeroClient"]

T = TypeVar("T")

MAX_RESPONSE_BYTES = 1 << 20
"""Upper bound on a response, as it arrives and decoded. A token response has about 4 kB, a long
list of connections about 100 kB."""

CURL_NOT_SENT = frozenset({5, 6, 7, 35, 60, 77})
"""The errors of libcurl that precede the request: the name of the proxy or the host, the
connection, TLS, the certificate."""


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP proxy through which all requests go."""

    host: str
    port: int
    username: str | None = None
    password: Secret | None = None


class XeroClient:
    """Sends requests to the identity server, each once and with a deadline. Follows no redirect.

    Args:
        identity_server: the URLs of the identity server, and how to authenticate there.
        clock: this host's clock; a date in a ``Retry-After`` is compared with it.
        connect_seconds: upper bound on DNS, TCP and TLS together.
        deadline_seconds: upper bound on a whole request. It may be changed later.
        max_requests: upper bound on simultaneous requests: see ``slot``.
        ca_file: a PEM file with the authorities to trust instead of the system's.
        proxy: an HTTP proxy. It needs pycurl (the extra ``xots[proxy]``).

    Raises:
        SettingsError: there is a proxy, and pycurl is not installed.
    """

    def __init__(
        self,
        identity_server: IdentityServer = XERO,
        *,
        clock: Clock,
        connect_seconds: float = 10,
        deadline_seconds: float = 20,
        max_requests: int = 10,
        ca_file: str | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        hush_libraries()
        self.identity_server = identity_server
        self.deadline_seconds = deadline_seconds
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._proxy = proxy
        self._ca_file = _curl_ca_file(ca_file) if proxy else ca_file
        new_client = _curl_client if proxy else _simple_client
        # Two clients, each with its own queue: a slow list of organisations delays no refresh.
        self._token_http, self._other_http = new_client(max_requests), new_client(max_requests)
        self._slots = asyncio.Semaphore(max_requests)
        # So the lists leave half of the places to refreshes.
        self._list_slots = asyncio.Semaphore(max(1, max_requests // 2))
        self._may_wait = True

    def slot(self) -> AbstractAsyncContextManager[bool]:
        """Wait until fewer than ``max_requests`` requests are in progress, and count one.

        An operation enters it before it writes its intent, so that a request that has to wait for
        others is not open meanwhile. Requests about connections enter it by themselves.

        Returns:
            A context that yields False if the process stops, and the operation would have to wait
            longer. It must send nothing.
        """
        return self._place(self._slots)

    @asynccontextmanager
    async def _place(self, slots: asyncio.Semaphore) -> AsyncIterator[bool]:
        """Take a place as ``slot`` does."""
        must_wait = slots.locked()
        if must_wait and not self._may_wait:
            yield False
            return
        async with slots:
            yield self._may_wait or not must_wait

    def stop_waiting(self) -> None:
        """Let no operation wait for others any more. A stop would last for as long as all of their
        requests do one after the other."""
        if self._may_wait:
            self._may_wait = False
            # The first one that waits gives this place to the next, and so on.
            self._slots.release()
            self._list_slots.release()

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        """Spend a refresh token."""
        request = refresh_request(self.identity_server, credentials, token)
        return await self._outcome(request, read_token_response)

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        """Exchange an authorization code for the first tokens of a login."""
        request = exchange_request(
            self.identity_server,
            credentials,
            code=code,
            redirect_uri=redirect_uri,
            verifier=verifier,
        )
        return await self._outcome(request, read_token_response)

    async def client_token(self, credentials: Credentials, scopes: tuple[str, ...]) -> Outcome:
        """Request an access token of the client itself. It spends no token."""
        request = client_credentials_request(self.identity_server, credentials, scopes)
        return await self._outcome(request, read_token_response)

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        """Revoke a refresh token. Xero then ends all of the user's connections to the app, too.

        Returns:
            None if the token is revoked, or unknown to the server.
        """
        request = revocation_request(self.identity_server, credentials, token)
        return await self._outcome(request, read_revocation_response)

    async def connections(self, access_token: Secret) -> Response:
        """Return the response of the connections endpoint, of any status.

        Raises:
            UpstreamFailed: there was no response, or its content cannot be decoded.
        """
        request = connections_request(self.identity_server.connections_url, access_token)
        response = await self._send_in_turn(request)
        if not isinstance(response, Response):
            raise UpstreamFailed(
                f"the connections endpoint sent no usable response: {response.detail}"
            )
        return response

    async def disconnect(self, access_token: Secret, connection_id: str) -> Failure | None:
        """Delete one connection of the user to the app.

        Returns:
            None if it is deleted, or was before. The type of a failure does not tell if Xero has
            deleted it.
        """
        try:
            url = self.identity_server.connections_url
            request = disconnect_request(url, access_token, connection_id)
        except ValueError as error:
            return NotSent(detail=f"{error}")
        response = await self._send_in_turn(request)
        return read_disconnect_response(response) if isinstance(response, Response) else response

    async def reach(self) -> str | None:
        """Return why the token endpoint cannot be reached; None if it responds, with any status.

        This spends no token.
        """
        response = await self._sent(Request("GET", self.identity_server.token_url, {}))
        return None if isinstance(response, Response) else response.detail

    def close(self) -> None:
        """Close the HTTP clients."""
        self._token_http.close()
        self._other_http.close()

    async def _outcome(
        self, request: Request, read: Callable[[Response, datetime], T]
    ) -> T | NotSent | Unknown:
        response = await self._send(request)
        if not isinstance(response, Response):
            return response
        return read(response, self._clock.now())

    async def _send_in_turn(self, request: Request) -> Response | NotSent | Unknown:
        """Send a request about connections once it is its turn."""
        async with self._place(self._list_slots) as is_turn:
            if is_turn:
                async with self.slot() as is_free:
                    if is_free:
                        return await self._send(request)
        return NotSent(detail="the process is stopping")

    async def _send(self, request: Request) -> Response | NotSent | Unknown:
        """Send a request once, and return its response with the content decoded. ``Unknown`` if
        that cannot be read; and as ``_sent``."""
        response = await self._sent(request)
        if not isinstance(response, Response):
            return response
        content = decoded(response, MAX_RESPONSE_BYTES)
        if isinstance(content, Unknown):
            return replace(content, retry_after=retry_after(response, self._clock.now()))
        return content

    async def _sent(self, request: Request) -> Response | NotSent | Unknown:
        """Send a request once.

        Returns:
            The response as it arrived. Without one: ``NotSent`` if no byte of the body has left
            this process, since the body is the part that spends a token; else ``Unknown``.
        """
        from tornado.httpclient import HTTPRequest

        body = _Body(request.body)
        try:
            response = await self._http_for(request).fetch(
                HTTPRequest(
                    request.url,
                    **self._transfer_options(request, body),
                    method=request.method,
                    ca_certs=self._ca_file,
                    connect_timeout=self._connect_seconds,
                    request_timeout=self.deadline_seconds,
                    follow_redirects=False,
                    decompress_response=False,
                    user_agent="xots",
                ),
                raise_error=False,
            )
        except Exception as error:  # noqa: BLE001 - each error means that there is no response
            may_have_left = _curl_may_have_sent(error) if self._proxy else body.requested
            kind = Unknown if may_have_left else NotSent
            return kind(detail=self._detail(request, error, may_have_left=may_have_left))
        return Response(response.code, response.headers, response.body or b"")

    def _http_for(self, request: Request) -> AsyncHTTPClient:
        return self._token_http if request.method == "POST" else self._other_http

    def _transfer_options(self, request: Request, body: _Body) -> dict[str, Any]:
        """Return Tornado's options for the headers, the body and the proxy of a request."""
        # No coding is asked for. Without this header, the server may choose any.
        headers = {**request.headers, "Accept-Encoding": "identity"}
        if self._proxy is not None:
            sent = request.body if request.method == "POST" else None
            return {"headers": headers, "body": sent, **_proxy_options(self._proxy)}
        if request.method != "POST":
            return {"headers": headers}
        # With a length in the headers, Tornado does not use the chunked coding for a body_producer.
        headers["Content-Length"] = str(len(request.body))
        return {"headers": headers, "body_producer": body}

    def _detail(self, request: Request, error: Exception, *, may_have_left: bool) -> str:
        """Return the failure in words, for the operator."""
        host, reason = urlsplit(request.url).hostname, _reason(error)
        if reason == "Timeout during request":
            return f"no response from {host} within {self.deadline_seconds:g} seconds"
        if may_have_left:
            return f"no complete response from {host}: {reason}"
        return f"can't reach {host}: {reason}"


class _Body:
    """The body of a request. Tornado requests it once it is connected, and writes it at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.requested = False

    def __call__(self, write: Callable[[bytes], None]) -> Future[None]:
        self.requested = True
        write(self._content)
        written = Future[None]()
        written.set_result(None)
        return written


def _reason(error: Exception) -> str:
    """Return the cause in the words of the library or the system; for any other error its type
    alone, since its text may quote the request."""
    words = getattr(error, "message", None) or getattr(error, "strerror", None)
    return safe_text(words) if isinstance(words, str) else type(error).__name__


def _simple_client(max_requests: int) -> AsyncHTTPClient:
    # Tornado is imported where it is used: commands that only need the types start fast.
    from tornado.simple_httpclient import SimpleAsyncHTTPClient

    return SimpleAsyncHTTPClient(
        force_instance=True, max_clients=max_requests, max_body_size=MAX_RESPONSE_BYTES
    )


# ---------- through a proxy


def _curl_client(max_requests: int) -> AsyncHTTPClient:
    try:
        from tornado.curl_httpclient import CurlAsyncHTTPClient
    except ImportError:
        raise SettingsError(
            ["proxy: a proxy needs pycurl, which is not installed (pip install 'xots[proxy]')"]
        ) from None
    return CurlAsyncHTTPClient(
        force_instance=True, max_clients=max_requests, max_body_size=MAX_RESPONSE_BYTES
    )


def _curl_ca_file(ca_file: str | None) -> str | None:
    # libcurl may look for the system's authorities in another place than Python does.
    return ca_file or ssl.get_default_verify_paths().cafile


def _curl_may_have_sent(error: Exception) -> bool:
    # libcurl requests no body from a producer; its error number tells how far it came.
    return getattr(error, "errno", None) not in CURL_NOT_SENT


def _proxy_options(proxy: Proxy) -> dict[str, Any]:
    return {
        "proxy_host": proxy.host,
        "proxy_port": proxy.port,
        "proxy_username": proxy.username,
        "proxy_password": proxy.password.reveal() if proxy.password else "",
        "prepare_curl_callback": _prepare_curl,
    }


def _prepare_curl(curl: Any) -> None:
    import pycurl

    # libcurl itself repeats a POST if a connection that it kept is dead: keep no connection.
    curl.setopt(pycurl.FRESH_CONNECT, 1)
    curl.setopt(pycurl.FORBID_REUSE, 1)
    # Its verbose log would hold the tokens.
    curl.setopt(pycurl.VERBOSE, 0)
