"""HTTP answers as values, and what the faults make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..faults import Fault, FaultKind
from ..identity.protocol import Shape
from ..identity.signing import signing_key

__all__ = ["Reply", "distort", "failure", "html_reply", "json_reply", "shape_of"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, ready to be sent."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(status: int, content: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer of JSON. Nothing here may be cached (RFC 6749, section 5.1)."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return Reply(
        status, body, headers={"Cache-Control": "no-store", "Pragma": "no-cache", **(headers or {})}
    )


def html_reply(status: int, page: str | bytes) -> Reply:
    """Return a page."""
    body = page.encode() if isinstance(page, str) else page
    return Reply(status, body, "text/html; charset=utf-8", {"Cache-Control": "no-store"})


def shape_of(fault: Fault | None) -> Shape:
    """Return how a fault wants the tokens to look."""
    if fault is not None and fault.value is not None:
        if fault.kind is FaultKind.LONG_REFRESH_TOKEN:
            return Shape(refresh_token_length=int(fault.value))
        if fault.kind is FaultKind.LONG_ACCESS_TOKEN:
            return Shape(mint=partial(signing_key().sign, min_length=int(fault.value)))
    return Shape()


def failure(fault: Fault) -> Reply | None:
    """Return the answer that stands in for the true one, or None if the fault has none of its own."""
    if fault.kind.status is not None:
        return _server_error(*fault.kind.status)
    if fault.kind is FaultKind.FORBIDDEN_HTML:
        return html_reply(
            403,
            "<html><head><title>403 Forbidden</title></head><body>Request blocked.</body></html>",
        )
    if fault.kind is FaultKind.THROTTLED:
        headers = {} if fault.value is None else {"Retry-After": f"{fault.value:.0f}"}
        return json_reply(429, {"error": "too_many_requests"}, headers)
    if fault.kind is FaultKind.INVALID_CLIENT:
        return json_reply(400, {"error": "invalid_client"})
    if fault.kind is FaultKind.NOT_JSON:
        return Reply(
            200, b"<!doctype html><title>Maintenance</title>", headers={"Cache-Control": "no-store"}
        )
    return None


def distort(reply: Reply, fault: Fault) -> Reply:
    """Change a token answer of status 200 as the fault says; anything else stays as it is."""
    if reply.status != 200:
        return reply
    if fault.kind is FaultKind.NO_REFRESH_TOKEN:
        answer = json.loads(reply.body)
        answer.pop("refresh_token", None)
    elif fault.kind is FaultKind.EXPIRES_IN and fault.value is not None:
        answer = json.loads(reply.body) | {"expires_in": int(fault.value)}
    elif fault.kind is FaultKind.EXTRA_KEYS:
        extra = {
            "ext_expires_in": "1800",
            "not_before_policy": 0,
            "x-nested": {"list": [None, True, 1.5]},
        }
        answer = json.loads(reply.body) | extra
    else:
        return reply
    return replace(reply, body=json.dumps(answer, separators=(",", ":")).encode())


def _server_error(status: int, form: str) -> Reply:
    if form == "json":
        return json_reply(
            status,
            {"error": "server_error", "message": f"The sandbox was told to answer {status}."},
        )
    if form == "html":
        return html_reply(
            status,
            f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>",
        )
    return Reply(status)
