"""``/openapi.json``: the document, compared with the code. ``tests/conftest.py`` compares it with
each response of a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from documents.reading import rows
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from support.described import faults_of, resolved
from support.readers import bearer, line_of
from support.web import BROWSER, origin

from xots.server import Server
from xots.web.api_operations import OPERATIONS, PARAMETERS
from xots.web.app import ASSETS, PATHS_OF_ACCOUNT, ROUTES, openapi_document
from xots.web.handler import Handler
from xots.web.openapi import PREFIX, problem_names
from xots.web.problems import PROBLEM_TYPES
from xots.web.refusals import REFUSALS
from xots.web.responses import supported_methods

DOCUMENT = openapi_document()
PATHS = DOCUMENT["paths"]

HANDLERS: dict[str, type[Handler]] = {
    **{pattern.replace("\\", ""): handler for pattern, handler in [*ROUTES, *ASSETS]},
    **{PREFIX + pattern: handler for pattern, handler in PATHS_OF_ACCOUNT},
}
"""The handler of each path, as the application routes it."""

EVERY_OPERATION = [
    (path, method, operation)
    for path, item in PATHS.items()
    for method, operation in item.items()
    if method != "parameters"
]


def test_the_document_is_valid_openapi_3_1() -> None:
    """By the schema of OpenAPI, and each reference leads to a component."""
    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


def test_the_document_names_no_host() -> None:
    """A client adds its paths to the address of the server, whatever that is."""
    assert DOCUMENT["servers"] == [{"url": "/"}]
    assert "://" not in json.dumps(DOCUMENT)


def test_the_document_has_every_route_with_its_methods_and_no_other() -> None:
    """A method that the application supports is described, and each other one is not."""
    found = {
        path: {name.upper() for name in item.keys() - {"parameters"}}
        for path, item in PATHS.items()
    }
    assert found == {path: set(supported_methods(kind)) for path, kind in HANDLERS.items()}


def test_no_description_is_left_over() -> None:
    """Each operation, parameter and component that a hand has described is used."""
    described = {path.removeprefix(PREFIX) for path in PATHS}
    assert set(OPERATIONS) == described
    text = json.dumps(DOCUMENT)
    unused = {
        f"{kind}/{name}"
        for kind, components in DOCUMENT["components"].items()
        for name in components
        if kind != "securitySchemes" and f'"#/components/{kind}/{name}"' not in text
    }
    assert unused == set()
    assert set(PARAMETERS) < set(DOCUMENT["components"]["parameters"])


def test_each_operation_has_a_name_of_its_own() -> None:
    """Generators of clients name their functions so."""
    names = [operation["operationId"] for _, _, operation in EVERY_OPERATION]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", HANDLERS)
def test_each_operation_has_the_scopes_of_its_handler(path: str) -> None:
    """One that is open to all has neither scopes nor a security scheme."""
    scopes = HANDLERS[path].scopes
    for method in PATHS[path].keys() - {"parameters"}:
        operation = PATHS[path][method]
        if scopes is None:
            assert operation["security"] == []
            assert "x-scopes" not in operation
        else:
            assert set(operation["x-scopes"]) == scopes
            assert [*map(list, operation["security"])] == [["bearer"], ["basic"], []]


def test_the_open_endpoints_are_those_of_the_probes_and_the_style_sheet() -> None:
    """Nothing else is readable without a key."""
    is_open = {path for path, _, operation in EVERY_OPERATION if not operation["security"]}
    assert is_open == {"/ping", "/ready", "/style.css"}


def test_the_problem_types_are_those_of_the_code() -> None:
    """Each status lists exactly the types that it can have."""
    declared = {(status, name) for status, name, _ in PROBLEM_TYPES.values()}
    declared |= {(refusal.status, refusal.name) for refusal in REFUSALS}
    found = {(status, name) for status, names in problem_names().items() for name in names}
    assert declared < found
    schemas = DOCUMENT["components"]["schemas"]
    for status, names in problem_names().items():
        properties = schemas[f"Problem{status}"]["properties"]
        assert properties["type"]["enum"] == [f"urn:xots:{name}" for name in names]
        assert properties["status"]["const"] == status


def test_the_problem_types_are_those_of_the_table_of_errors() -> None:
    """docs/endpoints.md says what to do about each of them."""
    table = rows("docs/endpoints.md", "status", "`type`")
    described = {
        (str(status), f"`urn:xots:{name}`")
        for status, names in problem_names().items()
        for name in names
    }
    assert described == {(row[0], row[1]) for row in table}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_each_refusal_of_a_connection_is_described_everywhere(refusal: Any) -> None:
    """A connection is refused before its path counts."""
    head, _, body = refusal.response().partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    for path, method, _ in EVERY_OPERATION:
        shown = path.replace("{account}", "firm")
        assert faults_of(method.upper(), shown, refusal.status, headers, body) == []


SCOPES = {"owner": "admin", "report": "token", "monitor": "metrics"}
"""The scope of each reader."""


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    """A file of these readers."""
    path = tmp_path / "readers"
    path.touch(0o600)
    path.write_text("".join(line_of(name, scope) for name, scope in SCOPES.items()))
    return path


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize("name", [None, "wrong", *SCOPES])
async def test_the_responses_with_each_key_and_without_one_are_described(
    new_server: Any,
    credentials: Any,
    readers: Path,
    send: Any,
    expected_log: Any,
    name: str | None,
    accept: str,
) -> None:
    """Over all paths and methods, for programs and as pages. The fixture of all tests compares."""
    expected_log.perhaps("^WARNING xots.web")
    server = await new_server(**credentials, readers=readers)
    headers = {"Accept": accept, "Origin": origin(server)}
    headers |= bearer(name) if name else {}
    for path, method, operation in EVERY_OPERATION:
        url = origin(server) + path.replace("{account}", "default")
        response = await send(method.upper(), url, headers, "" if method == "post" else None)
        scopes = operation.get("x-scopes", [])
        is_let_in = not scopes or SCOPES.get(name or "") in scopes
        if is_let_in:
            assert (path, method, response.status) != (path, method, 403)
        else:
            refused = 403 if name in SCOPES else 401
            assert (path, method, response.status) == (path, method, refused)


# ---------- the oracle itself

JSON = {"Content-Type": "application/json; charset=utf-8"}
PROBLEM = {"Content-Type": "application/problem+json", "Allow": "GET"}
READY = b'{"ready": true}'


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "body"),
    [
        ("GET", "/ping", 200, JSON, READY),
        ("HEAD", "/ping", 200, JSON, READY),
        (
            "GET",
            "/nowhere",
            404,
            PROBLEM,
            b'{"type": "urn:xots:not-found", "title": "", "status": 404}',
        ),
        (
            "PUT",
            "/accounts/firm/token",
            405,
            PROBLEM,
            b'{"type": "urn:xots:method-not-allowed", "title": "", "status": 405}',
        ),
        ("GET", "/sw.js", 200, {"Content-Type": "text/javascript"}, b""),
    ],
)
def test_a_described_response_has_no_faults(
    method: str, path: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    """The oracle itself: it finds no fault where there is none."""
    assert faults_of(method, path, status, headers, body) == []


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "body", "fault"),
    [
        ("GET", "/ping", 201, JSON, READY, "not described"),
        ("GET", "/nowhere", 200, JSON, READY, "not described"),
        ("PUT", "/ping", 200, JSON, READY, "not described"),
        ("GET", "/ping", 200, {"Content-Type": "text/plain"}, READY, "has the type"),
        ("GET", "/ping", 200, {}, READY, "has the type"),
        ("GET", "/ping", 200, JSON, b"true", "not of type 'object'"),
        ("GET", "/ping", 200, JSON, b"{", "is not JSON"),
        ("GET", "/ping", 200, JSON, b"{}", "required"),
        ("GET", "/ping", 200, JSON, b'{"ready": true, "more": 1}', "Additional properties"),
        ("GET", "/ping", 200, JSON, b'{"ready": "yes"}', "not of type 'boolean'"),
        (
            "GET",
            "/token",
            401,
            PROBLEM,
            b'{"type": "urn:xots:key-needed", "title": "", "status": 401}',
            "has no WWW-Authenticate",
        ),
        (
            "GET",
            "/ping",
            400,
            PROBLEM,
            b'{"type": "urn:xots:not-found", "title": "", "status": 400}',
            "is not one of",
        ),
    ],
)
def test_a_response_that_is_not_described_has_a_fault(
    method: str, path: str, status: int, headers: dict[str, str], body: bytes, fault: str
) -> None:
    """The oracle itself: it finds a wrong status, type, header, field or value."""
    (found,) = faults_of(method, path, status, headers, body)
    assert fault in found


# ---------- the endpoint


async def test_the_endpoint_returns_the_document(server: Server, get: Any, send: Any) -> None:
    """To a program and to a browser, before a login too."""
    response = await get(f"{server.url}/openapi.json")
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.json == json.loads(json.dumps(DOCUMENT))
    shown = await send("GET", f"{origin(server)}/openapi.json", BROWSER)
    assert shown.json == response.json


async def test_the_document_holds_nothing_of_the_server(
    logged_in: Server, get: Any, canaries: Any
) -> None:
    """It depends on no setting and on no login."""
    text = (await get(f"{logged_in.url}/openapi.json")).text
    assert [secret for secret in canaries(logged_in) if secret in text] == []
    assert str(logged_in.port) not in text


def test_each_reference_of_a_response_is_to_a_component_of_its_status() -> None:
    """A reference to another status would describe another problem."""
    for _, _, operation in EVERY_OPERATION:
        for status, response in operation["responses"].items():
            assert response.get("$ref", f"Problem{status}").endswith(f"Problem{status}")
            assert resolved(response)["description"]
