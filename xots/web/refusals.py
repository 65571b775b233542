"""The responses to connections that send no complete request. Pure.

Tornado resets or closes such a connection, or sends a bare status line. These responses say what is
wrong. The connection closes after each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from .headers import SECURITY_HEADERS
from .problems import ProblemDetails

__all__ = [
    "BAD_REQUEST",
    "BODY_TOO_LARGE",
    "HEAD_TOO_LARGE",
    "MAX_BODY_BYTES",
    "MAX_HEAD_BYTES",
    "REFUSALS",
    "TIMED_OUT",
    "TOO_MANY_CONNECTIONS",
    "Refusal",
]

MAX_HEAD_BYTES = 64 << 10
"""Upper bound on the request line and the headers. Browsers send the cookies of all ports of
localhost with each request, so that valid requests can have many kilobytes."""

MAX_BODY_BYTES = 64 << 10
"""Upper bound on a body. The largest valid one is the form with the credentials: a few
kilobytes."""


class Refusal(NamedTuple):
    """A problem that ends a connection."""

    status: int
    name: str
    """The last part of ``type``, after ``urn:xots:``."""
    title: str
    detail: str
    headers: Mapping[str, str] = MappingProxyType({})

    def response(self) -> bytes:
        """Return the whole response, head and body."""
        problem = ProblemDetails(
            type=f"urn:xots:{self.name}", title=self.title, status=self.status, detail=self.detail
        )
        body = msgspec.json.encode(problem) + b"\n"
        headers = {
            "Content-Type": "application/problem+json; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **SECURITY_HEADERS,
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


BAD_REQUEST = Refusal(
    400, "bad-request", "Bad Request", "this is no valid HTTP/1.1 request; correct the program"
)
TIMED_OUT = Refusal(
    408,
    "request-timeout",
    "Request Timeout",
    "the request did not arrive completely in time; send it again",
)
BODY_TOO_LARGE = Refusal(
    413,
    "content-too-large",
    "Content Too Large",
    f"the body has more than {MAX_BODY_BYTES} bytes; no request to this server needs so many",
)
HEAD_TOO_LARGE = Refusal(
    431,
    "request-header-fields-too-large",
    "Request Header Fields Too Large",
    f"the request line and the headers have more than {MAX_HEAD_BYTES} bytes; send fewer or "
    "shorter headers, or delete cookies of localhost",
)
TOO_MANY_CONNECTIONS = Refusal(
    503,
    "too-many-connections",
    "Too Many Connections",
    "this server handles as many requests as max_connections permits; retry later",
    MappingProxyType({"Retry-After": "1"}),
)

REFUSALS = (BAD_REQUEST, TIMED_OUT, BODY_TOO_LARGE, HEAD_TOO_LARGE, TOO_MANY_CONNECTIONS)
"""All of them."""
