"""Errors as responses: statuses, headers, problems for programs and pages for browsers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.web import WANTS_PAGE
from tornado.web import HTTPError

from xots.errors import (
    AmbiguousTenant,
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    SealError,
    StaleWrite,
    StoreUnavailable,
    TenantNotFound,
    TokenUnavailable,
    UnknownTenant,
    UpstreamFailed,
    UpstreamThrottled,
)
from xots.server import Server
from xots.web.problems import ErrorResponse, error_response

LOGIN_URL = "http://localhost:5001/"


def response_to(error: BaseException | None) -> ErrorResponse:
    return error_response(error, methods=("GET", "HEAD"), login_url=LOGIN_URL)


# ---------- the pure function


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (NoCredentials("x"), 401, "no-credentials"),
        (NotLoggedIn("x"), 401, "not-logged-in"),
        (ConsentLost("x"), 401, "consent-lost"),
        (TokenUnavailable("x", 1), 503, "token-unavailable"),
        (StoreUnavailable("x"), 503, "store-unavailable"),
        (SealError("x"), 503, "record-unreadable"),
        (LoginFailed("x"), 400, "login-failed"),
        (UnknownTenant("x"), 400, "unknown-tenant"),
        (TenantNotFound("x", []), 404, "tenant-not-found"),
        (AmbiguousTenant("x", []), 409, "ambiguous-tenant"),
        (UpstreamFailed("x"), 502, "upstream-failed"),
        (UpstreamThrottled("x"), 503, "upstream-throttled"),
        (StaleWrite("x"), 500, "internal-error"),
        (HTTPError(400, "x"), 400, "bad-request"),
        (HTTPError(403, "x"), 403, "forbidden"),
        (HTTPError(404, "x"), 404, "not-found"),
        (HTTPError(421, "x"), 421, "misdirected-request"),
    ],
)
def test_each_error_has_a_status_and_a_stable_type(
    error: BaseException, status: int, name: str
) -> None:
    """The detail starts with the error's message, and there is a title."""
    problem = response_to(error).problem
    assert (problem.status, problem.type) == (status, f"urn:xots:{name}")
    assert problem.detail is not None
    assert problem.detail.startswith("x")
    assert problem.title


@pytest.mark.parametrize("error", [ValueError("a secret"), None])
def test_an_unexpected_error_is_500_without_its_message(error: BaseException | None) -> None:
    """The message of a foreign exception may hold a secret."""
    headers, problem = response_to(error)
    assert (problem.status, problem.type) == (500, "urn:xots:internal-error")
    assert "secret" not in str(problem)
    assert not headers


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (HTTPError(405), {"Allow": "GET, HEAD"}),
        (NotLoggedIn("x"), {"WWW-Authenticate": 'Bearer realm="xots"'}),
        (TokenUnavailable("x", 0.2), {"Retry-After": "1"}),
        (TokenUnavailable("x", 20.1), {"Retry-After": "21"}),
        (UpstreamFailed("x", 20.1), {"Retry-After": "21"}),
        (UpstreamFailed("x"), {}),
        (UpstreamThrottled("x", 0), {"Retry-After": "1"}),
        (UpstreamThrottled("x"), {}),
        (LoginFailed("x"), {}),
    ],
)
def test_an_error_has_the_headers_that_its_status_needs(
    error: BaseException, headers: dict[str, str]
) -> None:
    """Seconds are rounded up, so that a caller never retries too early."""
    assert dict(response_to(error).headers) == headers


def test_the_organisations_to_choose_from_are_a_field_that_is_safe_to_show() -> None:
    """There are at most a hundred, so that a problem stays small."""
    listed = [("t1", "Acme\n\x1b[2J\u202e" * 50), ("t2", None), *[("t", "n")] * 200]
    for kind in (TenantNotFound, AmbiguousTenant):
        found = response_to(kind("x", listed)).problem.organisations
        assert found is not None
        first, second, *others = found
        assert (first.id, second.id, second.name) == ("t1", "t2", None)
        assert first.name is not None
        assert first.name.isprintable()
        assert len(first.name) <= 100
        assert len(others) == 98
    assert response_to(UnknownTenant("x")).problem.organisations is None


def test_the_detail_of_a_401_names_the_page_to_open() -> None:
    """A program shows it to its user."""
    detail = "no user has logged in yet"
    expected = f"{detail}; open {LOGIN_URL} in a browser and log in"
    assert response_to(NotLoggedIn(detail)).problem.detail == expected


# ---------- paths


async def test_an_unknown_path_is_404_for_programs_and_browsers(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """With every method, a program receives a problem in JSON, and a browser a page."""
    expected_log(r"WARNING xots\.web: \w+ /nowhere: ")
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        body = "" if method in ("POST", "PUT", "PATCH") else None
        response = await send(method, f"{logged_in.url}/nowhere", None, body)
        assert response.status == 404
        assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
        assert response.json["status"] == 404
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    page = await send("GET", f"{logged_in.url}/nowhere", WANTS_PAGE)
    assert page.status == 404
    assert page.headers["Content-Type"].split(";")[0] == "text/html"


@pytest.mark.parametrize(
    "path", ["/token/", "/Token", "//token", "/token%00", "/token;a=b", "/status/x", "/..%2ftoken"]
)
async def test_a_path_that_only_resembles_a_route_is_404(
    logged_in: Server, get: Any, expected_log: Any, path: str
) -> None:
    """A route is its exact path."""
    expected_log(r"WARNING xots\.web: GET ")
    response = await get(logged_in.url + path)
    assert response.status == 404
    assert b"eyJ" not in response.body


# ---------- methods


@pytest.mark.parametrize("path", ["/token", "/livez", "/status", "/code"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
async def test_an_unsupported_method_is_405(
    logged_in: Server, send: Any, expected_log: Any, path: str, method: str
) -> None:
    """The response is a problem in JSON and holds no secret."""
    expected_log(r"WARNING xots\.web: .*HTTP 405")
    body = "" if method in ("POST", "PUT", "PATCH") else None
    response = await send(method, logged_in.url + path, None, body)
    assert response.status == 405
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert response.json["status"] == 405
    assert b"eyJ" not in response.body


@pytest.mark.parametrize(
    ("path", "offered"),
    [("/token", {"GET", "HEAD"}), ("/home", {"GET", "HEAD", "POST"}), ("/code", {"GET"})],
)
async def test_a_405_lists_the_supported_methods(
    logged_in: Server, send: Any, expected_log: Any, path: str, offered: set[str]
) -> None:
    """RFC 9110 section 15.5.6: the Allow header lists them."""
    expected_log(rf"WARNING xots\.web: DELETE {path}: ")
    response = await send("DELETE", logged_in.url + path)
    assert response.status == 405
    assert {one.strip() for one in response.headers.get("Allow", "").split(",")} == offered


async def test_a_405_for_a_browser_is_a_page(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """A user sees a page for every error."""
    expected_log(r"WARNING xots\.web: POST /token: ")
    headers = WANTS_PAGE | {"Origin": logged_in.url}
    response = await send("POST", f"{logged_in.url}/token", headers, "")
    assert response.status == 405
    assert response.headers["Content-Type"].split(";")[0] == "text/html"


async def test_head_is_get_without_the_body(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """Status and headers are those of GET (RFC 9110 section 9.3.2)."""
    expected_log.perhaps(r"WARNING xots\.web: ")
    for path in (
        "/token",
        "/livez",
        "/status",
        "/home",
        "/login",
        "/style.css",
        "/nowhere",
    ):
        got, head = (
            await send("GET", logged_in.url + path),
            await send("HEAD", logged_in.url + path),
        )
        assert head.body == b""
        assert head.status == got.status
        assert head.headers.get("Content-Type") == got.headers.get("Content-Type")
        assert head.headers.get("Content-Length") == got.headers.get("Content-Length")


# ---------- browsers


async def test_a_browser_at_token_before_a_login_receives_a_page(
    server: Server, get: Any, expected_log: Any
) -> None:
    """A user who types the address reads where to log in; the status is that of a program."""
    response = await get(f"{server.url}/token", **WANTS_PAGE)
    assert response.status == 401
    assert response.headers["Content-Type"].split(";")[0] == "text/html"
    assert f"http://localhost:{server.port}/" in response.text


# ---------- bodies


async def test_a_body_that_is_too_large_is_refused_and_the_server_goes_on(
    logged_in: Server, expected_log: Any, get: Any
) -> None:
    """The connection of that client ends, and other clients receive their responses."""
    expected_log.perhaps(r"tornado\.general: ")
    reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    host = f"Host: localhost:{logged_in.port}"
    writer.write(f"POST /login HTTP/1.1\r\n{host}\r\nContent-Length: 99999999\r\n\r\n".encode())
    received = await reader.read()
    writer.close()
    assert not received.startswith(b"HTTP/1.1 2")
    assert (await get(f"{logged_in.url}/token")).status == 200
