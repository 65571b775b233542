"""The whole endpoint table in every state of a login, for a program and for a browser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from support.web import BROWSER, origin, revocations

from xots.sandbox import Sandbox
from xots.server import Server
from xots.web.app import PATHS_OF_ACCOUNT, ROUTES

# A row for each path, a column for each state of the login. A cell is a status with a detail: a
# path is the Location, a word at /livez and /status is the state, and elsewhere the last part of
# the problem type. In "failing" Xero fails and the access token is still valid; in "failing-dead"
# it has expired.
TABLE = """
path     | no-credentials     | credentials       | waiting           | connected     | failing               | failing-dead          | consent-lost     | revoked           | logged-out
/        | 200                | 303 /home         | 303 /home         | 303 /home     | 303 /home             | 303 /home             | 303 /home        | 303 /home         | 200
/login   | 200                | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 200
/home    | 303 /              | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 303 /
/code    | 400 login-failed   | 400 login-failed  | 400 login-failed  | 400 login-failed | 400 login-failed   | 400 login-failed      | 400 login-failed | 400 login-failed  | 400 login-failed
/livez   | 401 no-credentials | 503 not-logged-in | 503 waiting       | 200 connected | 200 refresh-failing   | 503 refresh-failing   | 503 consent-lost | 503 revoked       | 401 no-credentials
/status  | 200 no-credentials | 200 not-logged-in | 200 waiting       | 200 connected | 200 refresh-failing   | 200 refresh-failing   | 200 consent-lost | 200 revoked       | 200 no-credentials
/token   | 401 no-credentials | 401 not-logged-in | 401 not-logged-in | 200           | 200                   | 503 token-unavailable | 401 consent-lost | 401 not-logged-in | 401 no-credentials
/refresh | 401 no-credentials | 401 not-logged-in | 401 not-logged-in | 303 /token    | 503 token-unavailable | 503 token-unavailable | 401 consent-lost | 401 not-logged-in | 401 no-credentials
/tenants | 401 no-credentials | 401 not-logged-in | 401 not-logged-in | 200           | 200                   | 503 token-unavailable | 401 consent-lost | 401 not-logged-in | 401 no-credentials
/revoke  | 401 no-credentials | 401 not-logged-in | 401 not-logged-in | 200 revoked   | 200 revoked           | 200 revoked           | 200 revoked      | 200 revoked       | 401 no-credentials
/logout  | 303 /              | 303 /             | 303 /             | 303 /         | 303 /                 | 303 /                 | 303 /            | 303 /             | 303 /
/ping    | 200                | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 200
/ready   | 200                | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 200
/accounts | 200               | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 200
/openapi.json | 200           | 200               | 200               | 200           | 200                   | 200                   | 200              | 200               | 200
"""  # noqa: E501 - a table is read by its columns
METHODS = {
    "/": "GET HEAD POST",
    "/login": "GET HEAD POST",
    "/home": "GET HEAD POST",
    "/code": "GET",
    "/livez": "GET HEAD",
    "/status": "GET HEAD",
    "/token": "GET HEAD",
    "/refresh": "GET POST",
    "/tenants": "GET HEAD",
    "/revoke": "GET POST",
    "/logout": "GET POST",
    "/ping": "GET HEAD",
    "/ready": "GET HEAD",
    "/accounts": "GET HEAD POST",
    "/openapi.json": "GET HEAD",
}
ACTS = ("/refresh", "/revoke", "/logout")


@dataclass(frozen=True)
class Expected:
    """One cell of the table."""

    status: int
    told: str


def _read_table() -> dict[str, dict[str, Expected]]:
    """Return the cells of the table, by state and then by path."""
    header, *rows = (
        [cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()
    )
    cells = {
        (state, row[0]): cell
        for row in rows
        for state, cell in zip(header[1:], row[1:], strict=True)
    }
    table: dict[str, dict[str, Expected]] = {state: {} for state in header[1:]}
    for (state, path), cell in cells.items():
        status, _, told = cell.partition(" ")
        table[state][path] = Expected(int(status), told)
    return table


EXPECTED = _read_table()


def test_every_route_has_a_row() -> None:
    """A new endpoint needs a row in the table, and its methods."""
    routes = {pattern.replace("\\", "") for pattern, *_ in ROUTES}
    assert routes == set(METHODS) == set(EXPECTED["connected"])


def test_each_path_but_the_servers_own_exists_for_each_account() -> None:
    """One redirect URI is registered at Xero, and a probe asks for the process."""
    assert {path for path, _ in PATHS_OF_ACCOUNT} - {"/remove"} == set(METHODS) - ONCE


ONCE = {"/code", "/ping", "/ready", "/accounts", "/openapi.json"}
"""The paths that exist once."""

UNSAID = {"/livez", "/revoke"}
"""The paths whose 401 does not lead to a login: the first has no words, the second needs none."""

PREFIXES = pytest.mark.parametrize("prefix", ["", "/accounts/default"])
"""The default account is served by its name too, as every other one is."""


def existing(paths: list[str], prefix: str) -> list[str]:
    return [path for path in paths if not prefix or path not in ONCE]


SAFE = [path for path in METHODS if path not in ACTS]
# One test requests all the paths that only read. Each act has a server of its own.
EVERY_CELL = pytest.mark.parametrize(
    ("state", "paths"),
    [
        pytest.param(
            state, paths, id=f"{state}-{paths[0] if len(paths) == 1 else 'all that reads'}"
        )
        for state in EXPECTED
        for paths in [SAFE, *([act] for act in ACTS)]
    ],
)


@PREFIXES
@EVERY_CELL
async def test_the_response_to_a_programs_get_is_that_of_the_table(
    brought_to: Any, get: Any, expected_log: Any, state: str, paths: list[str], prefix: str
) -> None:
    """Status, Location, state or problem type, and the headers that each error needs."""
    expected_log.perhaps(r"WARNING xots\.web: GET /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    for path in existing(paths, prefix):
        expected = EXPECTED[state][path]
        response = await get(origin(server) + prefix + path)
        assert (path, response.status) == (path, expected.status)
        assert response.headers["Cache-Control"] == "no-store"
        if 300 <= expected.status < 400:
            assert (path, response.headers["Location"]) == (path, prefix + expected.told)
            continue
        kind = response.headers["Content-Type"].split(";")[0]
        if path in ("/livez", "/status"):
            assert (path, response.json["state"]) == (path, expected.told)
        elif expected.status >= 400:
            assert (path, kind) == (path, "application/problem+json")
            problem = response.json
            assert (path, problem["type"]) == (path, f"urn:xots:{expected.told}")
            assert problem["status"] == expected.status
            assert problem["title"]
            assert problem["detail"]
        elif expected.told:
            assert response.json["status"] == expected.told
        if expected.status == 401:
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert f"{origin(server)}{prefix}/" in response.text or path in UNSAID
        if expected.status == 503 and path != "/livez":
            assert int(response.headers["Retry-After"]) >= 1


@PREFIXES
@EVERY_CELL
async def test_the_response_to_a_browsers_get_is_a_page_and_changes_nothing(
    brought_to: Any,
    send: Any,
    sandbox: Sandbox,
    expected_log: Any,
    state: str,
    paths: list[str],
    prefix: str,
) -> None:
    """Errors keep their status. An act returns a form that posts to it, and does not act."""
    expected_log.perhaps(r"WARNING xots\.web: GET /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    account, sent = server.keeper.account, len(sandbox.refreshes()) + len(revocations(sandbox))
    for path in existing(paths, prefix):
        expected = Expected(200, "") if path in ACTS else EXPECTED[state][path]
        response = await send("GET", origin(server) + prefix + path, BROWSER)
        assert (path, response.status) == (path, expected.status)
        if response.status in (301, 302, 303):
            assert (path, response.headers["Location"]) == (path, prefix + expected.told)
            continue
        a_page = path in ("/", "/login", "/home", "/status", "/accounts", *ACTS) or (
            expected.status >= 400 and path != "/livez"
        )
        if a_page:
            assert (path, response.headers["Content-Type"].split(";")[0]) == (path, "text/html")
            assert "Set-Cookie" not in response.headers
        if path in ACTS:
            assert re.search(
                rf'<form method="post" action="{prefix}{path}">\s*<button type="submit">',
                response.text,
            )
    assert server.keeper.account == account
    assert len(sandbox.refreshes()) + len(revocations(sandbox)) == sent


@pytest.mark.safeguard(
    file="web/acts.py",
    old="    head = UNSUPPORTED  # type: ignore[assignment]  # Tornado marks a missing method so\n",
    new="",
    protects_from="a link checker that ends the login",
)
@pytest.mark.parametrize("state", EXPECTED)
async def test_head_has_the_status_of_get_and_never_acts(
    brought_to: Any, send: Any, sandbox: Sandbox, expected_log: Any, state: str
) -> None:
    """Link checkers send HEAD. Where GET acts, HEAD is 405: a 200 would claim an act."""
    expected_log.perhaps(r"WARNING xots\.web: HEAD /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    account, sent = server.keeper.account, len(sandbox.refreshes()) + len(revocations(sandbox))
    for path in METHODS:
        for headers in (None, BROWSER):
            response = await send("HEAD", origin(server) + path, headers)
            assert response.body == b""
            if "HEAD" not in METHODS[path]:
                assert (path, response.status) == (path, 405)
                assert response.headers["Allow"] == METHODS[path].replace(" ", ", ")
            else:
                assert (path, response.status) == (path, EXPECTED[state][path].status)
    assert server.keeper.account == account
    assert len(sandbox.refreshes()) + len(revocations(sandbox)) == sent


@pytest.mark.parametrize("path", METHODS)
async def test_any_other_method_is_405_and_lists_the_supported_ones(
    server: Server, send: Any, expected_log: Any, path: str
) -> None:
    """``Allow`` lists exactly the table's methods; a program receives a problem."""
    expected_log(r"WARNING xots\.web: (\w+|\(unknown method\)) /")
    offered = METHODS[path].split()
    for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "FINISH"):
        if method in offered:
            continue
        body = "" if method in ("POST", "PUT", "PATCH") else None
        response = await send(method, origin(server) + path, None, body)
        assert (method, response.status) == (method, 405)
        assert {one.strip() for one in response.headers["Allow"].split(",")} == set(offered)
        assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
        if method != "HEAD":
            assert response.json["type"] == "urn:xots:method-not-allowed"
