"""The OpenAPI document of this server: every route, parameter, response and problem type. Pure.

It depends on no setting and names no host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from .._version import __version__
from .api_operations import OPERATIONS, PARAMETERS, Operation, Response
from .api_schemas import SCHEMAS, problem_schema, reference
from .guard import ACCOUNT_NAME, PROBE_PATHS
from .handler import Handler
from .problems import INTERNAL_ERROR, PROBLEM_TYPES
from .refusals import REFUSALS
from .responses import supported_methods

__all__ = ["PREFIX", "document", "problem_names"]

Route = tuple[str, type[Handler]]

PREFIX = "/accounts/{account}"
"""The beginning of the paths of an account."""

RAISED_STATUSES = (400, 403, 404, 405, 409, 421)
"""The statuses of the problems that are named for their status."""

OF_EVERY_REQUEST = (400, 403, 408, 413, 431, 500, 503)
"""The statuses of the problems that every request can meet."""

ORGANISATION_STATUSES = (404, 409)
"""The statuses of the problems that may list organisations."""

DESCRIPTION = """\
xots logs a user into Xero once and serves fresh access tokens. The paths without an account serve \
the default one. A response is a page if Accept names text/html before JSON and plain text. If the \
server has readers, each request over TCP needs the key of a reader with one of the scopes in \
x-scopes, as a bearer token or as the password of HTTP Basic; otherwise none is needed. A method \
that a path does not list gets 405, and a path that is not listed 404."""

WORKER = Response(
    "A service worker that unregisters itself, for a request with Service-Worker: script.",
    {"text/javascript": "Text"},
)

SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}, {}]
"""The last one: no key, to a server without readers or over its Unix socket."""


def problem_names() -> dict[int, list[str]]:
    """Return the last parts of the problems' types, by status."""
    found = [(status, name) for status, name, _ in [*PROBLEM_TYPES.values(), INTERNAL_ERROR]]
    found += [(one.status, one.name) for one in REFUSALS]
    for status in RAISED_STATUSES:
        found.append((status, HTTPStatus(status).phrase.lower().replace(" ", "-")))
    return {
        status: sorted({name for of, name in found if of == status})
        for status in sorted({status for status, _ in found})
    }


def document(routes: Iterable[Route], routes_of_account: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document (version 3.1.0).

    Args:
        routes: the paths that name no account, as patterns, with their handlers.
        routes_of_account: those of each account, without the account in front.
    """
    paths = {_plain(pattern): _path_item(_plain(pattern), kind) for pattern, kind in routes}
    for pattern, kind in routes_of_account:
        path = _plain(pattern)
        paths[PREFIX + path] = _path_item(path, kind, of_account=True)
    return {
        "openapi": "3.1.0",
        "info": {"title": "xots", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": _components(),
    }


def _plain(pattern: str) -> str:
    return pattern.replace("\\", "")


def _path_item(path: str, kind: type[Handler], *, of_account: bool = False) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if of_account:
        item["parameters"] = [reference("parameters", "account")]
    for method in supported_methods(kind):
        operation = OPERATIONS[path]["GET" if method == "HEAD" else method]
        words = [method.lower(), *(["account"] if of_account else []), _word(path)]
        item[method.lower()] = {
            "operationId": "_".join(words),
            **_operation(path, kind, method, operation, of_account=of_account),
        }
    return item


def _word(path: str) -> str:
    return path.strip("/").replace(".", "_") or "form"


def _operation(
    path: str, kind: type[Handler], method: str, operation: Operation, *, of_account: bool
) -> dict[str, Any]:
    statuses = {*OF_EVERY_REQUEST, *operation.problems}
    if kind.scopes is not None:
        statuses.add(401)
    if path not in PROBE_PATHS or of_account:
        statuses.add(421)
    if of_account:
        statuses.add(404)
    responses = dict(operation.responses)
    if method == "GET":
        responses[200] = _with_worker(responses.get(200))
    found: dict[str, Any] = {
        "summary": operation.summary,
        "security": [] if kind.scopes is None else SECURITY,
    }
    if kind.scopes is not None:
        found["x-scopes"] = sorted(kind.scopes)
    if operation.parameters:
        found["parameters"] = [reference("parameters", name) for name in operation.parameters]
    if operation.body:
        content = _content(operation.body)
        found["requestBody"] = {"content": content, "required": operation.needs_body}
    found["responses"] = {
        str(status): _response(status, responses.get(status), is_problem=status in statuses)
        for status in sorted(statuses | responses.keys())
    }
    return found


def _with_worker(response: Response | None) -> Response:
    """Return what a GET returns with status 200, the service worker too."""
    if response is None:
        return WORKER
    return response._replace(content={**response.content, **WORKER.content})


def _response(status: int, response: Response | None, *, is_problem: bool) -> dict[str, Any]:
    if response is None:
        return reference("responses", f"Problem{status}")
    found: dict[str, Any] = {"description": response.description}
    headers, content = {}, _content(response.content)
    if response.has_location:
        headers["Location"] = _header("the URL or the path to go on to", required=True)
    if is_problem:
        found["description"] += f" Or {_problem_text(status)}"
        headers |= _headers(status)
        content |= _problem_content(status)
    parts = {"headers": headers, "content": content}
    return found | {key: value for key, value in parts.items() if value}


def _content(schemas: Mapping[str, str]) -> dict[str, Any]:
    return {kind: {"schema": reference("schemas", name)} for kind, name in schemas.items()}


# ---------- problems


def _headers(status: int) -> dict[str, Any]:
    """Return the headers of the problems with a status."""
    match status:
        case 401:
            return {"WWW-Authenticate": _header("how to authenticate (RFC 9110)", required=True)}
        case 405:
            return {"Allow": _header("the methods that the path supports", required=True)}
        case 429 | 502 | 503:
            return {"Retry-After": _header("the seconds to wait", of="integer")}
    return {}


def _header(description: str, *, required: bool = False, of: str = "string") -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": of}}


def _problem_text(status: int) -> str:
    return f"a problem: {' or '.join(problem_names()[status])}."


def _problem_content(status: int) -> dict[str, Any]:
    return _content({"application/problem+json": f"Problem{status}", "text/html": "Text"})


def _components() -> dict[str, Any]:
    names = problem_names()
    problems = {
        f"Problem{status}": {
            "description": _problem_text(status).capitalize(),
            **({"headers": headers} if (headers := _headers(status)) else {}),
            "content": _problem_content(status),
        }
        for status in names
    }
    account = {
        "name": "account",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{ACCOUNT_NAME}$"},
        "description": "the name of the account",
        "example": "default",
    }
    return {
        "parameters": {"account": account}
        | {name: {"name": name, "in": "query", **rest} for name, rest in PARAMETERS.items()},
        "responses": problems,
        "schemas": dict(SCHEMAS)
        | {
            f"Problem{status}": problem_schema(
                status, of_status, has_organisations=status in ORGANISATION_STATUSES
            )
            for status, of_status in names.items()
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "the key of a reader"},
            "basic": {
                "type": "http",
                "scheme": "basic",
                "description": "the name of a reader and its key; not over the network in clear",
            },
        },
    }
