"""The whole endpoint table in every state of a login: the responses to a program and to a browser, and
their effects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from support.web import BROWSER, origin, revocations

from xots.sandbox import Sandbox
from xots.server import Server

# A row for each path, a column for each state of the login. A cell is a status, and what else the answer must tell:
# a path is its Location; at /livez and /status a word is the state; elsewhere it is the last part of a problem's type.
# In "failing" Xero fails and the access token is good still; in "failing-dead" it is not.
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
"""  # noqa: E501 - a table is read by its columns
METHODS = {
    "/": "GET HEAD POST",
    "/login": "GET HEAD POST",
    "/home": "GET HEAD POST",
    "/code": "GET HEAD",
    "/livez": "GET HEAD",
    "/status": "GET HEAD",
    "/token": "GET HEAD",
    "/refresh": "GET HEAD POST",
    "/tenants": "GET HEAD",
    "/revoke": "GET HEAD POST",
    "/logout": "GET HEAD POST",
    "/ping": "GET HEAD",
    "/ready": "GET HEAD",
}
ACTS = ("/refresh", "/revoke", "/logout")


@dataclass(frozen=True)
class Expected:
    """One cell of the table."""

    status: int
    told: str


def _read_table() -> dict[str, dict[str, Expected]]:
    """By state, then by path."""
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
SAFE = [path for path in METHODS if path not in ACTS]
# What only reads is asked for in one go; each act gets a server of its own.
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


@EVERY_CELL
async def test_a_programs_get_is_answered_as_the_table_says(
    brought_to: Any, get: Any, expected_log: Any, state: str, paths: list[str]
) -> None:
    """Status, Location, state or the problem's stable type, with what each kind of error must carry."""
    expected_log.perhaps(r"WARNING xots\.web: GET /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    for path in paths:
        expected = EXPECTED[state][path]
        answer = await get(origin(server) + path)
        assert (path, answer.status) == (path, expected.status)
        assert answer.headers["Cache-Control"] == "no-store"
        if 300 <= expected.status < 400:
            assert (path, answer.headers["Location"]) == (path, expected.told)
            continue
        kind = answer.headers["Content-Type"].split(";")[0]
        if path in ("/livez", "/status"):
            assert (path, answer.json["state"]) == (path, expected.told)
        elif expected.status >= 400:
            assert (path, kind) == (path, "application/problem+json")
            problem = answer.json
            assert (path, problem["type"]) == (path, f"urn:xots:{expected.told}")
            assert problem["status"] == expected.status
            assert problem["title"]
            assert problem["detail"]
        elif expected.told:
            assert answer.json == {"status": expected.told}
        if expected.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert f"{origin(server)}/" in answer.text or path == "/livez"
        if expected.status == 503 and path != "/livez":
            assert int(answer.headers["Retry-After"]) >= 1


@EVERY_CELL
async def test_a_browsers_get_is_answered_with_pages_and_changes_nothing(
    brought_to: Any, send: Any, sandbox: Sandbox, expected_log: Any, state: str, paths: list[str]
) -> None:
    """Errors keep their status and become pages; each act answers with a form that posts to it, and does not act."""
    expected_log.perhaps(r"WARNING xots\.web: GET /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    account, asked = server.keeper.account, len(sandbox.refreshes()) + len(revocations(sandbox))
    for path in paths:
        expected = Expected(200, "") if path in ACTS else EXPECTED[state][path]
        answer = await send("GET", origin(server) + path, BROWSER)
        assert (path, answer.status) == (path, expected.status)
        if answer.status in (301, 302, 303):
            assert (path, answer.headers["Location"]) == (path, expected.told)
            continue
        a_page = path in ("/", "/login", "/home", "/status", *ACTS) or (
            expected.status >= 400 and path != "/livez"
        )
        if a_page:
            assert (path, answer.headers["Content-Type"].split(";")[0]) == (path, "text/html")
            assert "Set-Cookie" not in answer.headers
        if path in ACTS:
            assert re.search(
                rf'<form method="post" action="{path}">\s*<button type="submit">', answer.text
            )
    assert server.keeper.account == account
    assert len(sandbox.refreshes()) + len(revocations(sandbox)) == asked


@pytest.mark.parametrize("state", EXPECTED)
async def test_head_is_answered_where_get_is_and_never_acts(
    brought_to: Any, send: Any, sandbox: Sandbox, expected_log: Any, state: str
) -> None:
    """Link checkers and curious programs send HEAD; it has GET's status and no body, and leaves the login alone."""
    expected_log.perhaps(r"WARNING xots\.web: HEAD /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    account, asked = server.keeper.account, len(sandbox.refreshes()) + len(revocations(sandbox))
    for path in METHODS:
        for headers in (None, BROWSER):
            answer = await send("HEAD", origin(server) + path, headers)
            assert answer.body == b""
            if path in ACTS:
                assert (path, answer.status) == (path, 200)
            else:
                assert (path, answer.status) == (path, EXPECTED[state][path].status)
    assert server.keeper.account == account
    assert len(sandbox.refreshes()) + len(revocations(sandbox)) == asked


@pytest.mark.parametrize("path", METHODS)
async def test_any_other_method_is_405_and_names_those_that_are_offered(
    server: Server, send: Any, expected_log: Any, path: str
) -> None:
    """``Allow`` lists exactly the table's methods, and HEAD where GET is; a program's answer is a problem."""
    expected_log(r"WARNING xots\.web: \w+ /")
    offered = METHODS[path].split()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        if method in offered:
            continue
        body = "" if method in ("POST", "PUT", "PATCH") else None
        answer = await send(method, origin(server) + path, None, body)
        assert (method, answer.status) == (method, 405)
        assert {one.strip() for one in answer.headers["Allow"].split(",")} == set(offered)
        assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
        assert answer.json["type"] == "urn:xots:method-not-allowed"
