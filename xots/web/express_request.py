"""The express lane for requests whose heads differ, such as those with a number of their own.

Tornado has parsed the head, and the guard and the rules of access check each request as for a
handler. If the lane knows the response to this caller's request for this target, it is sent without
a handler.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import cast

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

from ..errors import AccessError
from . import guard
from .checks import caller_of, decision_on
from .connection import Connection
from .express import MAX_KNOWN_HEAD_BYTES, Body, Express, Known, Repeatable
from .headers import http_date
from .responses import WebConfig

__all__ = ["ExpressRequest", "learn"]

OK = ResponseStartLine("HTTP/1.1", 200, "OK")

BODY_HEADERS = ("Content-Length", "Transfer-Encoding", "Expect")
"""The headers of requests that have a body."""

Key = tuple[str, str]
"""All of a permitted request on which the response to its caller depends: target and Accept."""

Response = tuple[HTTPHeaders, bytes]


class ExpressRequest(HTTPMessageDelegate):
    """One request. The lane responds to it, or its handler.

    Args:
        delegate: lets the handler respond.
        connection: the connection, to which the response is written.
        express: the lane.
        config: the names of this server.
    """

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        connection: HTTPConnection,
        express: Express,
        config: WebConfig,
    ) -> None:
        self._delegate, self._connection = delegate, connection
        self._stream: Connection = connection.stream  # type: ignore[attr-defined]
        self._express, self._config = express, config
        self._known: Known[Response] | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._headers = headers
        self._known = self._find(cast(RequestStartLine, start_line), headers)
        if self._known is not None:
            return None
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        if self._known is None:
            self._delegate.finish()
            return
        known, (headers, content) = self._known, self._known.response
        _offer_head(self._stream, self._headers, known.source, known.body)
        self._connection.write_headers(OK, headers, content)
        self._connection.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()

    def _find(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Known[Response] | None:
        """Return the response; None if the handler has to respond, or to refuse."""
        method, target, version = start_line
        key = _key(method, target, headers)
        # Tornado adds a header to the response if the connection ends with it.
        ends = version != "HTTP/1.1" or headers.get("Connection", "").lower() == "close"
        if key is None or ends:
            return None
        self._express.look()
        rules = self._express.rules
        if rules is None or not self._express.knows(key):
            return None
        decision = decision_on(method, target, headers, self._stream.peer, self._config)
        if decision is not guard.Decision.PERMIT:
            return None
        try:
            caller = caller_of(headers, self._stream.peer, rules)
        except AccessError:
            return None
        return self._express.find(caller, key)


def learn(
    express: Express,
    stream: Connection,
    request: HTTPServerRequest,
    headers: HTTPHeaders,
    source: Repeatable,
    body: Body,
) -> None:
    """Let the lane remember a request and its response, which is written next.

    Args:
        express: the lane.
        stream: the connection.
        request: the request.
        headers: the headers of the response, with a Date.
        source: makes the body again.
        body: that of the response.
    """
    _offer_head(stream, request.headers, source, body)
    key = _key(request.method or "", request.uri or "", request.headers)
    if key is not None and express.is_recurring(source.caller, key):
        # Tornado adds headers that belong to this response only.
        render = partial(_response, HTTPHeaders(headers))
        express.learn(source.caller, key, render, source, body)


def _offer_head(stream: Connection, headers: HTTPHeaders, source: Repeatable, body: Body) -> None:
    """Let the lane remember the head of a request, unless it belongs to a browser or has a body."""
    is_basic = headers.get("Authorization", "").lower().startswith("basic")
    if not (is_basic or "Cookie" in headers or _has_body(headers)):
        stream.offer(source, body)


def _key(method: str, target: str, headers: HTTPHeaders) -> Key | None:
    """Return the key of a request; None if the response may depend on more of it."""
    accept = headers.get("Accept", "")
    is_short = len(target) + len(accept) <= MAX_KNOWN_HEAD_BYTES
    if method != "GET" or not is_short or _has_body(headers):
        return None
    return None if guard.looks_like_browser(headers) else (target, accept)


def _has_body(headers: HTTPHeaders) -> bool:
    return any(name in headers for name in BODY_HEADERS)


def _response(headers: HTTPHeaders, body: Body) -> Response:
    """Return the headers with those of this body, and the body."""
    made = HTTPHeaders(headers)
    made["Date"] = http_date(int(body.since.timestamp()))
    made["Content-Length"] = str(len(body.content))
    return made, body.content
