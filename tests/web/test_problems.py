"""Errors as responses: statuses, headers, problems for programs and pages for browsers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.web import WANTS_PAGE

from xots.server import Server

# ---------- paths


async def test_an_unknown_path_is_404_for_both_kinds_of_reader(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """A program gets a problem in JSON, a browser a page; every method alike."""
    expected_log(r"WARNING xots\.web: \w+ /nowhere: ")
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        body = "" if method in ("POST", "PUT", "PATCH") else None
        answer = await send(method, f"{logged_in.url}/nowhere", None, body)
        assert answer.status == 404
        assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
        assert answer.json["status"] == 404
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = await send("GET", f"{logged_in.url}/nowhere", WANTS_PAGE)
    assert page.status == 404
    assert page.headers["Content-Type"].split(";")[0] == "text/html"


@pytest.mark.parametrize(
    "path", ["/token/", "/Token", "//token", "/token%00", "/token;a=b", "/status/x", "/..%2ftoken"]
)
async def test_a_path_that_only_resembles_a_route_is_404(
    logged_in: Server, get: Any, expected_log: Any, path: str
) -> None:
    """Nothing is guessed: a route is its exact path."""
    expected_log(r"WARNING xots\.web: GET ")
    answer = await get(logged_in.url + path)
    assert answer.status == 404
    assert b"eyJ" not in answer.body


# ---------- methods


@pytest.mark.parametrize("path", ["/token", "/livez", "/status", "/code"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
async def test_a_method_that_is_not_offered_is_405(
    logged_in: Server, send: Any, expected_log: Any, path: str, method: str
) -> None:
    """The answer is a problem in JSON, and nothing secret comes with it."""
    expected_log(rf"WARNING xots\.web: {method} {path}: ")
    body = "" if method in ("POST", "PUT", "PATCH") else None
    answer = await send(method, logged_in.url + path, None, body)
    assert answer.status == 405
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert answer.json["status"] == 405
    assert b"eyJ" not in answer.body


@pytest.mark.parametrize(
    ("path", "offered"),
    [("/token", {"GET", "HEAD"}), ("/home", {"GET", "HEAD", "POST"}), ("/code", {"GET", "HEAD"})],
)
async def test_a_405_says_which_methods_are_offered(
    logged_in: Server, send: Any, expected_log: Any, path: str, offered: set[str]
) -> None:
    """RFC 9110 section 15.5.6: the answer must list in Allow what the path takes."""
    expected_log(rf"WARNING xots\.web: DELETE {path}: ")
    answer = await send("DELETE", logged_in.url + path)
    assert answer.status == 405
    assert {one.strip() for one in answer.headers.get("Allow", "").split(",")} == offered


async def test_a_browsers_wrong_method_gets_a_page(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """A person sees a page, whatever went wrong."""
    expected_log(r"WARNING xots\.web: POST /token: ")
    answer = await send("POST", f"{logged_in.url}/token", WANTS_PAGE, "")
    assert answer.status == 405
    assert answer.headers["Content-Type"].split(";")[0] == "text/html"


async def test_head_is_get_without_the_body(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """Status and headers are those of GET; no body follows (RFC 9110 section 9.3.2)."""
    expected_log.perhaps(r"WARNING xots\.web: ")
    for path in (
        "/token",
        "/livez",
        "/status",
        "/home",
        "/login",
        "/style.css",
        "/nowhere",
        "/code",
    ):
        got, head = (
            await send("GET", logged_in.url + path),
            await send("HEAD", logged_in.url + path),
        )
        assert head.body == b""
        assert head.status == got.status
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert head.headers.get("Content-Length") == got.headers.get("Content-Length")


# ---------- browsers


async def test_a_browser_before_a_login_gets_a_page_at_token(
    server: Server, get: Any, expected_log: Any
) -> None:
    """Whoever types the address into a browser reads what to do, with the same status."""
    answer = await get(f"{server.url}/token", **WANTS_PAGE)
    assert answer.status == 401
    assert answer.headers["Content-Type"].split(";")[0] == "text/html"
    assert f"http://localhost:{server.port}/" in answer.text


# ---------- bodies


async def test_a_body_that_is_too_large_is_refused_and_the_server_goes_on(
    logged_in: Server, expected_log: Any, get: Any
) -> None:
    """Nobody has anything large to send; the connection of one who does ends, and the others are served."""
    expected_log.perhaps(r"tornado\.general: ")
    reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    head = f"POST /login HTTP/1.1\r\nHost: localhost:{logged_in.port}\r\nContent-Length: 99999999\r\n\r\n"
    writer.write(head.encode())
    received = await reader.read()
    writer.close()
    assert not received.startswith(b"HTTP/1.1 2")
    assert (await get(f"{logged_in.url}/token")).status == 200
