"""HTTP responses as values, and the effects of faults on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..faults import Fault, FaultKind
from ..identity.protocol import Shape
from ..identity.signing import signing_key

__all__ = ["Response", "distort", "html_response", "json_response", "shape_of", "stand_in"]

_NO_STORE = {"Cache-Control": "no-store"}

_FORBIDDEN = "<html><head><title>403 Forbidden</title></head><body>Request blocked.</body></html>"
_MAINTENANCE = b"<!doctype html><title>Maintenance</title>"

_EXTRA_KEYS = {
    "ext_expires_in": "1800",
    "not_before_policy": 0,
    "x-nested": {"list": [None, True, 1.5]},
}

_DISTORTIONS = (FaultKind.NO_REFRESH_TOKEN, FaultKind.EXPIRES_IN, FaultKind.EXTRA_KEYS)


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(
    status: int, content: object, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with JSON, which must not be cached (RFC 6749, section 5.1)."""
    all_headers = {**_NO_STORE, "Pragma": "no-cache", **(headers or {})}
    return Response(status, _json(content), headers=all_headers)


def html_response(status: int, page: str | bytes) -> Response:
    """Return a response with a page."""
    body = page.encode() if isinstance(page, str) else page
    return Response(status, body, "text/html; charset=utf-8", _NO_STORE)


def shape_of(fault: Fault) -> Shape:
    """Return the form of the tokens under a fault."""
    length = int(fault.value or 0)
    match fault.kind:
        case FaultKind.LONG_REFRESH_TOKEN:
            return Shape(refresh_token_length=length)
        case FaultKind.LONG_ACCESS_TOKEN:
            return Shape(mint=partial(signing_key().sign, min_length=length))
        case _:
            return Shape()


def stand_in(fault: Fault) -> Response | None:
    """Return the response that a fault sends instead of the real one, or None."""
    match fault.kind:
        case FaultKind.FORBIDDEN_HTML:
            return html_response(403, _FORBIDDEN)
        case FaultKind.THROTTLED:
            headers = {} if fault.value is None else {"Retry-After": f"{fault.value:.0f}"}
            return json_response(429, {"error": "too_many_requests"}, headers)
        case FaultKind.INVALID_CLIENT:
            return json_response(400, {"error": "invalid_client"})
        case FaultKind.NOT_JSON:
            return Response(200, _MAINTENANCE, headers=_NO_STORE)
        case kind:
            return None if kind.status is None else _server_error(*kind.status)


def distort(response: Response, fault: Fault) -> Response:
    """Change a successful token response as the fault says. Others stay the same."""
    if response.status != 200 or fault.kind not in _DISTORTIONS:
        return response
    fields = json.loads(response.body)
    match fault.kind:
        case FaultKind.NO_REFRESH_TOKEN:
            fields.pop("refresh_token", None)
        case FaultKind.EXPIRES_IN:
            fields["expires_in"] = int(fault.value or 0)
        case _:
            fields |= _EXTRA_KEYS
    return replace(response, body=_json(fields))


def _server_error(status: int, form: str) -> Response:
    match form:
        case "json":
            message = f"The sandbox was told to respond with {status}."
            return json_response(status, {"error": "server_error", "message": message})
        case "html":
            head = f"<head><title>{status}</title></head>"
            return html_response(status, f"<html>{head}<body><h1>{status}</h1></body></html>")
        case _:
            return Response(status)


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
