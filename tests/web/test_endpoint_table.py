"""The whole endpoint table in every state of a login: what a program gets, what a browser gets, and what it changes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import pytest

from xots.errors import StoreUnavailable
from xots.lifecycle.account import Account
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Endpoint,
    LoggedRequest,
    Outcome,
    Sandbox,
)
from xots.sandbox.person import Page, Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

XERO_LIFE = 1800

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

BROWSER = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-NZ,en;q=0.5",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-User": "?1",
}


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


def origin(server: Server) -> str:
    """The server under the redirect's host name, at which the pages answer without leading elsewhere."""
    return f"http://localhost:{server.port}"


def asked_to_revoke(sandbox: Sandbox) -> list[LoggedRequest]:
    return [one for one in sandbox.log if one.endpoint is Endpoint.REVOCATION]


@pytest.fixture
def brought_to(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    person: Person,
    clock: Any,
    send: Any,
    expected_log: Any,
) -> Callable[[str], Awaitable[Server]]:
    """Starts a server and brings it into one of the table's states, with the real pages and acts."""

    async def brought_to(state: str) -> Server:
        if state == "no-credentials":
            return await new_server()
        if state in ("credentials", "waiting"):
            server = await new_server(**credentials)
            if state == "waiting":
                await person.submit(await person.open(f"{origin(server)}/home"))
            return server
        server = await new_server()
        page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
        assert page.status == 200
        if state.startswith("failing"):
            expected_log(r"WARNING xots: default: refresh failed")
            sandbox.add_fault("refresh:every:503-html")
            clock.advance(XERO_LIFE - (0 if state == "failing-dead" else 300))
            await server.rotation.tick()
        elif state == "consent-lost":
            expected_log(r"ERROR xots: default: the login is lost")
            sandbox.identity.forget()
            clock.advance(XERO_LIFE)
            await server.rotation.tick()
        elif state in ("revoked", "logged-out"):
            await send(
                "POST", f"{server.url}/{'revoke' if state == 'revoked' else 'logout'}", None, ""
            )
        return server

    return brought_to


# ------------------------------------------------------------------------------------------- the table


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
    account, asked = server.keeper.account, len(sandbox.refreshes()) + len(asked_to_revoke(sandbox))
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
    assert len(sandbox.refreshes()) + len(asked_to_revoke(sandbox)) == asked


@pytest.mark.parametrize("state", EXPECTED)
async def test_head_is_answered_where_get_is_and_never_acts(
    brought_to: Any, send: Any, sandbox: Sandbox, expected_log: Any, state: str
) -> None:
    """Link checkers and curious programs send HEAD; it has GET's status and no body, and leaves the login alone."""
    expected_log.perhaps(r"WARNING xots\.web: HEAD /", r"WARNING xots: default: refresh failed")
    server = await brought_to(state)
    account, asked = server.keeper.account, len(sandbox.refreshes()) + len(asked_to_revoke(sandbox))
    for path in METHODS:
        for headers in (None, BROWSER):
            answer = await send("HEAD", origin(server) + path, headers)
            assert answer.body == b""
            if path in ACTS:
                assert (path, answer.status) == (path, 200)
            else:
                assert (path, answer.status) == (path, EXPECTED[state][path].status)
    assert server.keeper.account == account
    assert len(sandbox.refreshes()) + len(asked_to_revoke(sandbox)) == asked


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


# ---------------------------------------------------------------------------------------------- the acts


@pytest.mark.parametrize("path", ACTS)
async def test_the_button_of_a_browsers_page_acts(
    brought_to: Any, person: Person, sandbox: Sandbox, send: Any, path: str
) -> None:
    """What the page's form sends, from this origin, is done once."""
    server = await brought_to("connected")
    page = await person.open(origin(server) + path)
    headers = BROWSER | {"Sec-Fetch-Site": "same-origin", "Origin": origin(server)}
    answer = await send(
        "POST", origin(server) + page.form.action, headers, urlencode(page.form.fields)
    )
    if path == "/refresh":
        assert (answer.status, answer.headers["Location"]) == (303, "/token")
        assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]
        return
    if path == "/logout":
        assert (answer.status, answer.headers["Location"]) == (303, "/")
    else:
        assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert [one.outcome for one in asked_to_revoke(sandbox)] == [Outcome.REVOKED]
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []


@pytest.mark.parametrize("path", ACTS)
async def test_another_sites_form_does_not_act(
    brought_to: Any, sandbox: Sandbox, send: Any, expected_log: Any, path: str
) -> None:
    """A hostile page can make a browser post a form here; it is refused, by either of the headers that betray it."""
    expected_log(rf"WARNING xots\.web: POST {path}: ")
    server = await brought_to("connected")
    account = server.keeper.account
    for foreign in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        answer = await send("POST", origin(server) + path, BROWSER | foreign, "")
        assert answer.status == 403
    assert server.keeper.account == account
    assert sandbox.refreshes() == []
    assert asked_to_revoke(sandbox) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_program_refreshes_with_either_method(
    brought_to: Any, sandbox: Sandbox, send: Any, get: Any, method: str
) -> None:
    """The redirect leads to the new token, which is another than before."""
    server = await brought_to("connected")
    before = (await get(f"{server.url}/token")).json["accessToken"]
    answer = await send(method, f"{server.url}/refresh", None, "" if method == "POST" else None)
    assert (answer.status, answer.headers["Location"]) == (303, "/token")
    assert (await get(f"{server.url}/token")).json["accessToken"] != before
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]


# ---------------------------------------------------------------------------------------------- the token


async def test_the_bare_token_is_given_to_who_accepts_plain_text(brought_to: Any, get: Any) -> None:
    """Nothing but the token itself, so that a shell can use it as it comes; JSON for whoever names no type."""
    server = await brought_to("connected")
    token = (await get(f"{server.url}/token")).json["accessToken"]
    answer = await get(f"{server.url}/token", Accept="text/plain")
    assert (answer.status, answer.text.rstrip("\n")) == (200, token)
    assert answer.headers["Content-Type"].split(";")[0] == "text/plain"
    assert answer.headers["Cache-Control"] == "no-store"
    for accept in ("*/*", "application/json", "application/json, text/plain"):
        assert (await get(f"{server.url}/token", Accept=accept)).json["accessToken"] == token


async def test_no_bare_text_is_mistaken_for_a_token_before_a_login(
    brought_to: Any, get: Any
) -> None:
    """Who asks for plain text before a login gets the status and the problem."""
    server = await brought_to("credentials")
    answer = await get(f"{server.url}/token", Accept="text/plain")
    assert answer.status == 401
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"


# -------------------------------------------------------------------------------------------- the tenants


async def test_the_tenants_are_xeros_list_byte_for_byte(
    brought_to: Any, sandbox: Sandbox, get: Any
) -> None:
    """Seven digits, nulls and all: what Xero's endpoint gives the token's bearer is what is passed on."""
    server = await brought_to("connected")
    token = (await get(f"{server.url}/token")).json["accessToken"]
    direct = await get(sandbox.connections_url, Authorization=f"Bearer {token}")
    answer = await get(f"{server.url}/tenants")
    assert (answer.status, answer.body) == (200, direct.body)
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    [tenant] = answer.json
    assert tenant["tenantId"] in sandbox.world.accounting.organisations


async def test_tenants_that_xero_does_not_list_are_502(
    brought_to: Any, sandbox: Sandbox, get: Any, expected_log: Any
) -> None:
    """A failing connections endpoint is told as Xero's failure; the token is served all the same."""
    expected_log(r"WARNING xots\.web: GET /tenants: ")
    server = await brought_to("connected")
    sandbox.add_fault("connections:every:503-html")
    answer = await get(f"{server.url}/tenants")
    assert (answer.status, answer.json["type"]) == (502, "urn:xots:upstream-failed")
    assert "503" in answer.json["detail"]
    assert (await get(f"{server.url}/token")).status == 200


# -------------------------------------------------------------------------------------- the login's end


async def test_revoke_ends_the_login_at_xero_and_keeps_the_credentials(
    brought_to: Any, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Xero takes no token any more; a new login needs no form."""
    server = await brought_to("connected")
    answer = await get(f"{server.url}/revoke")
    assert (answer.status, answer.json) == (200, {"status": "revoked"})
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert (await get(f"{server.url}/token")).status == 401
    assert (await get(f"{server.url}/status")).json["client_id"] == DEFAULT_CLIENT_ID
    await person.consent(await person.submit(await person.open(f"{origin(server)}/")))
    assert (await get(f"{server.url}/token")).status == 200


@pytest.mark.parametrize("fault", ["503-json", "reset", "403-html", "429", "down"])
async def test_a_revocation_that_xero_does_not_take_is_202_and_tried_again(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any, fault: str
) -> None:
    """Serving stops at once; after the back-off and not before, the tick asks again, until Xero has revoked it."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    if fault == "down":
        sandbox.options = replace(sandbox.options, port=sandbox.port)
        await sandbox.stop()
    else:
        sandbox.add_fault(f"revocation:every:{fault}")
    answer = await get(f"{server.url}/revoke")
    assert answer.status == 202
    assert answer.json["status"] != "revoked"
    assert answer.json["detail"]
    token = await get(f"{server.url}/token")
    assert (token.status, token.json["type"]) == (401, "urn:xots:not-logged-in")
    assert (await get(f"{server.url}/livez")).status == 503
    assert (await get(f"{server.url}/tenants")).status == 401
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is True
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock())
    if fault == "down":
        sandbox.start()
    sandbox.faults.clear()
    asked = len(asked_to_revoke(sandbox))
    await server.rotation.tick()
    assert len(asked_to_revoke(sandbox)) == asked
    clock.advance((server.keeper.account.retry_not_before - clock.now()).total_seconds())
    await server.rotation.tick()
    assert len(asked_to_revoke(sandbox)) == asked + 1
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is False
    clock.advance(7200)
    await server.rotation.tick()
    assert len(asked_to_revoke(sandbox)) == asked + 1


async def test_a_new_login_cancels_a_pending_revocation(
    brought_to: Any, sandbox: Sandbox, person: Person, clock: Any, get: Any, expected_log: Any
) -> None:
    """A revocation at Xero would end the new login's connections too, so it is not made up for."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    sandbox.add_fault("revocation:every:503-json")
    assert (await get(f"{server.url}/revoke")).status == 202
    await person.consent(await person.submit(await person.open(f"{origin(server)}/home")))
    sandbox.faults.clear()
    asked = len(asked_to_revoke(sandbox))
    for _ in range(10):
        clock.advance(600)
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).status == 200
    assert len(asked_to_revoke(sandbox)) == asked
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is False


async def test_a_refresh_that_was_cut_off_is_concluded_before_the_revocation(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """The successor that Xero issued and nobody heard of does not outlive the login."""
    expected_log(r"WARNING xots: default: refresh failed")
    server = await brought_to("connected")
    sandbox.add_fault("refresh:nth=1:lost")
    clock.advance(XERO_LIFE - 300)
    await server.rotation.tick()
    assert (await get(f"{server.url}/revoke")).json == {"status": "revoked"}
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.LOST, Outcome.ISSUED]
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []


async def test_logout_forgets_the_credentials(
    brought_to: Any, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Afterwards the server knows no more than at its first start: the form is shown, no secret is kept."""
    server = await brought_to("connected")
    answer = await get(f"{server.url}/logout")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert [one.outcome for one in asked_to_revoke(sandbox)] == [Outcome.REVOKED]
    kept = server.keeper.account
    assert kept == Account(
        generation=kept.generation, write_id=kept.write_id, ended_at=kept.ended_at
    )
    assert (await get(f"{server.url}/status")).json["client_id"] is None
    page = await person.open(f"{origin(server)}/")
    assert "client_id" in dict(page.form.fields)
    assert DEFAULT_CLIENT_ID not in page.text


async def test_a_logout_that_xero_does_not_hear_of_stops_serving_and_forgets_once_it_does(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """The credentials are needed to revoke, so they go when that is done and not before."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    sandbox.add_fault("revocation:first=1:reset")
    answer = await get(f"{server.url}/logout")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert (await get(f"{server.url}/token")).status == 401
    clock.advance((server.keeper.account.retry_not_before - clock.now()).total_seconds())
    await server.rotation.tick()
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert server.keeper.account.client_id is None
    assert (await get(f"{server.url}/livez")).json["state"] == "no-credentials"


# ---------------------------------------------------------------------------------------------- the store


@pytest.fixture
def break_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    """Makes a server's store fail from now on, to be read, written and checked, until the patches are undone."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the disk is full")

    def break_store(server: Server) -> None:
        store = server.keeper._context.store
        for method in ("check", "swap", "read", "names"):
            monkeypatch.setattr(store, method, fail)

    return break_store


async def test_ready_tells_a_store_that_fails_while_a_token_can_be_served(
    brought_to: Any, break_store: Any, monkeypatch: pytest.MonkeyPatch, get: Any
) -> None:
    """Degraded, with the reason, and still of use to who wants a token; well again when the store is."""
    server = await brought_to("connected")
    well = await get(f"{server.url}/ready")
    assert (well.status, well.json) == (200, {"ready": True, "store": "ok", "reason": None})
    break_store(server)
    degraded = await get(f"{server.url}/ready")
    assert degraded.status == 200
    assert (degraded.json["ready"], degraded.json["store"]) == (True, "degraded")
    assert "the disk is full" in degraded.json["reason"]
    assert (await get(f"{server.url}/token")).status == 200
    monkeypatch.undo()
    assert (await get(f"{server.url}/ready")).json["store"] == "ok"


@pytest.mark.parametrize(
    "state", ["no-credentials", "credentials", "revoked", "logged-out", "consent-lost"]
)
async def test_ready_is_503_when_the_store_fails_and_no_token_can_be_served(
    brought_to: Any, break_store: Any, get: Any, state: str
) -> None:
    """A request that is sent here could not be served: no login can be kept."""
    server = await brought_to(state)
    break_store(server)
    answer = await get(f"{server.url}/ready")
    assert answer.status == 503
    assert (answer.json["ready"], answer.json["store"]) == (False, "degraded")
    assert (await get(f"{server.url}/ping")).status == 200


async def test_a_store_that_fails_when_a_refresh_is_due_costs_no_refresh_token(
    brought_to: Any,
    break_store: Any,
    monkeypatch: pytest.MonkeyPatch,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
) -> None:
    """Nothing is spent that could not be written down; the old token is served to its end; then all recovers."""
    expected_log(r"ERROR xots: default: the token store fails", r"WARNING xots\.web: GET /token: ")
    server = await brought_to("connected")
    break_store(server)
    clock.advance(XERO_LIFE - 300)
    await server.rotation.tick()
    assert sandbox.refreshes() == []
    assert (await get(f"{server.url}/token")).status == 200
    assert (await get(f"{server.url}/ready")).status == 200
    clock.advance(300)
    refused = await get(f"{server.url}/token")
    assert (refused.status, refused.json["type"]) == (503, "urn:xots:token-unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await get(f"{server.url}/ready")).status == 503
    assert sandbox.refreshes() == []
    monkeypatch.undo()
    clock.advance(15)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).status == 200
    assert (await get(f"{server.url}/ready")).json == {"ready": True, "store": "ok", "reason": None}


async def test_an_end_that_cannot_be_kept_is_told(
    brought_to: Any, break_store: Any, sandbox: Sandbox, get: Any, expected_log: Any
) -> None:
    """With a store that can't be read, neither act is done: 503 with the reason, and the login goes on."""
    expected_log(r"WARNING xots\.web: GET /(revoke|logout): the disk is full")
    server = await brought_to("connected")
    break_store(server)
    for path in ("/revoke", "/logout"):
        answer = await get(f"{server.url}{path}")
        assert (answer.status, answer.json["type"]) == (503, "urn:xots:store-unavailable")
    assert asked_to_revoke(sandbox) == []
    assert (await get(f"{server.url}/token")).status == 200


async def test_a_page_of_an_act_leads_nowhere_else(brought_to: Any, send: Any) -> None:
    """Its one form posts to its own path, whatever the query says, and repeats nothing of it."""
    server = await brought_to("connected")
    answer = await send(
        "GET", f"{origin(server)}/revoke?action=//evil.example/&x=%3Cscript%3E", BROWSER
    )
    assert Page(f"{origin(server)}/revoke", answer.status, answer.text).form.action == "/revoke"
    assert "evil" not in answer.text
    assert "<script" not in answer.text
