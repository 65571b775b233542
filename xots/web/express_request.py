"""The express lane for requests with a known target, whose head has a number of its own, say.

Tornado has parsed the head, and the guard and the rules of access check each request as for a
handler. If the lane knows the target, with this Accept and from this caller, it sends the response
without a handler.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    ResponseStartLine,
)

from ..errors import AccessError
from . import guard
from .checks import caller_of, decision_on
from .connection import stream_of
from .express import MAX_KNOWN_HEAD_BYTES, Body, Express, Known, Repeatable
from .responses import WebConfig

__all__ = ["find", "learn"]

OK = ResponseStartLine("HTTP/1.1", 200, "OK")

BODY_HEADERS = ("Content-Length", "Transfer-Encoding", "Expect")
"""The headers of requests that have a body."""

Response = tuple[HTTPHeaders, Body]


class KnownRequest(HTTPMessageDelegate):
    """A request to which the lane responds.

    Args:
        request: the request, without a body.
        known: the response to it.
    """

    def __init__(self, request: HTTPServerRequest, known: Known[Response]) -> None:
        self._request, self._known = request, known

    def finish(self) -> None:
        connection: Any = self._request.connection
        headers, body = self._known.response
        _offer_head(self._request, self._known.source, body)
        connection.write_headers(OK, headers, body.content)
        headers.pop("Connection", None)  # Tornado may have added it, for this response only
        connection.finish()


def find(request: HTTPServerRequest, config: WebConfig) -> HTTPMessageDelegate | None:
    """Return the delegate that responds to a request; None if a handler has to respond, or to
    refuse.

    Args:
        request: the request.
        config: the lane, and the names of this server.
    """
    express, key = config.express, _key(request)
    if express is None or not express.knows(key) or not _depends_on_key_only(request):
        return None
    express.look()
    rules, stream, (target, _) = express.rules, stream_of(request), key
    if rules is None or stream.closed():
        return None
    decision = decision_on("GET", target, request.headers, stream.peer, config)
    if decision is not guard.Decision.PERMIT:
        return None
    try:
        caller = caller_of(request.headers, stream.peer, rules)
    except AccessError:
        return None
    known = express.find(caller, key)
    return None if known is None else KnownRequest(request, known)


def learn(
    express: Express,
    request: HTTPServerRequest,
    headers: HTTPHeaders,
    source: Repeatable,
    body: Body,
) -> None:
    """Let the lane remember a request and its response, which is written next: by its head if that
    comes again, or else by its target.

    Args:
        express: the lane.
        request: the request.
        headers: the headers of the response, with a Date.
        source: makes the body again.
        body: that of the response.
    """
    key = _key(request)
    is_taken = _offer_head(request, source, body)
    if is_taken or not _depends_on_key_only(request) or sum(map(len, key)) > MAX_KNOWN_HEAD_BYTES:
        return
    if express.is_recurring(source.caller, key):
        # A copy, since Tornado adds headers for this response only.
        render = partial(_response, HTTPHeaders(headers))
        express.learn(source.caller, key, render, source, body)


def _offer_head(request: HTTPServerRequest, source: Repeatable, body: Body) -> bool:
    """Let the lane remember the head of a request, unless it belongs to a browser or has a body.
    Return True if it does."""
    headers = request.headers
    is_basic = headers.get("Authorization", "").lower().startswith("basic")
    may_remember = not (is_basic or "Cookie" in headers or _has_body(headers))
    return may_remember and stream_of(request).offer(source, body)


def _key(request: HTTPServerRequest) -> tuple[str, str]:
    """Return the parts of a permitted GET on which the response to its caller depends: the target
    and Accept."""
    return request.uri or "", request.headers.get("Accept", "")


def _depends_on_key_only(request: HTTPServerRequest) -> bool:
    """Tell if the response depends on nothing else. Tornado refuses some values of Content-Type."""
    headers = request.headers
    is_other = request.method != "GET" or "Content-Type" in headers or _has_body(headers)
    return not (is_other or guard.looks_like_browser(headers))


def _has_body(headers: HTTPHeaders) -> bool:
    return any(name in headers for name in BODY_HEADERS)


def _response(headers: HTTPHeaders, body: Body) -> Response:
    """Return the headers with those of this body, and the body."""
    made = HTTPHeaders(headers)
    made["Date"], made["Content-Length"] = body.date, str(len(body.content))
    return made, body
