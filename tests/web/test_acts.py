"""``/refresh``, ``/revoke``, ``/logout`` and ``/tenants``, by programs and by buttons of pages."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from support import inside
from support.web import BROWSER, origin, revocations

from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.account import Account
from xots.sandbox import DEFAULT_CLIENT_ID, Outcome, Sandbox
from xots.sandbox.person import Page, Person
from xots.testing import FakeClock

XERO_LIFE = 1800
ACTS = ("/refresh", "/revoke", "/logout")


# ---------- pages and programs


@pytest.mark.parametrize("path", ACTS)
async def test_the_button_of_a_page_acts_once(
    brought_to: Any, person: Person, sandbox: Sandbox, send: Any, path: str
) -> None:
    """The page's form posts to the path from this origin."""
    server = await brought_to("connected")
    page = await person.open(origin(server) + path)
    headers = BROWSER | {"Sec-Fetch-Site": "same-origin", "Origin": origin(server)}
    response = await send(
        "POST", origin(server) + page.form.action, headers, urlencode(page.form.fields)
    )
    if path == "/refresh":
        assert (response.status, response.headers["Location"]) == (303, "/home")
        assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]
        return
    if path == "/logout":
        assert (response.status, response.headers["Location"]) == (303, "/")
    else:
        assert (response.status, response.headers["Content-Type"].split(";")[0]) == (
            200,
            "text/html",
        )
    assert [one.outcome for one in revocations(sandbox)] == [Outcome.REVOKED]
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []


@pytest.mark.parametrize("path", ACTS)
async def test_a_form_of_another_site_does_not_act(
    brought_to: Any, sandbox: Sandbox, send: Any, expected_log: Any, path: str
) -> None:
    """A hostile page can make a browser post a form here. Each of two headers reveals it."""
    expected_log(rf"WARNING xots\.web: POST {path}: ")
    server = await brought_to("connected")
    account = server.keeper.account
    for foreign in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        response = await send("POST", origin(server) + path, BROWSER | foreign, "")
        assert response.status == 403
    assert server.keeper.account == account
    assert sandbox.refreshes() == []
    assert revocations(sandbox) == []


async def test_the_form_of_an_act_posts_to_its_own_path(brought_to: Any, send: Any) -> None:
    """The query changes nothing on the page and does not appear on it."""
    server = await brought_to("connected")
    response = await send(
        "GET", f"{origin(server)}/revoke?action=//evil.example/&x=%3Cscript%3E", BROWSER
    )
    assert Page(f"{origin(server)}/revoke", response.status, response.text).form.action == "/revoke"
    assert "evil" not in response.text
    assert "<script" not in response.text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_program_refreshes_by_get_or_post(
    brought_to: Any, sandbox: Sandbox, send: Any, get: Any, method: str
) -> None:
    """The redirect leads to the new token."""
    server = await brought_to("connected")
    before = (await get(f"{server.url}/token")).json["accessToken"]
    response = await send(method, f"{server.url}/refresh", None, "" if method == "POST" else None)
    assert (response.status, response.headers["Location"]) == (303, "/token")
    assert (await get(f"{server.url}/token")).json["accessToken"] != before
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]


# ---------- tenants


async def test_the_tenants_are_xeros_list_with_every_field(
    brought_to: Any, sandbox: Sandbox, get: Any
) -> None:
    """No field is dropped or converted: dates keep their seven digits."""
    server = await brought_to("connected")
    token = (await get(f"{server.url}/token")).json["accessToken"]
    direct = await get(sandbox.connections_url, Authorization=f"Bearer {token}")
    response = await get(f"{server.url}/tenants")
    assert (response.status, response.json) == (200, direct.json)
    assert response.headers["Content-Type"].split(";")[0] == "application/json"
    [tenant] = response.json
    assert tenant["tenantId"] in sandbox.world.accounting.organisations


async def test_tenants_are_502_while_xero_cannot_list_them(
    brought_to: Any, sandbox: Sandbox, get: Any, expected_log: Any, clock: FakeClock
) -> None:
    """The problem names Xero's status. /token still returns the token."""
    expected_log(r"WARNING xots\.web: GET /tenants: ")
    server = await brought_to("connected")
    clock.advance(LIST_KEPT_SECONDS)
    sandbox.add_fault("connections:every:503-html")
    response = await get(f"{server.url}/tenants")
    assert (response.status, response.json["type"]) == (502, "urn:xots:upstream-failed")
    assert "503" in response.json["detail"]
    assert (await get(f"{server.url}/token")).status == 200


async def test_tenants_are_503_with_the_time_that_xero_demands(
    brought_to: Any, sandbox: Sandbox, get: Any, expected_log: Any, clock: FakeClock
) -> None:
    """A program waits as long as this server does."""
    expected_log(r"WARNING xots\.web: GET /tenants: ")
    server = await brought_to("connected")
    clock.advance(LIST_KEPT_SECONDS)
    sandbox.add_fault("connections:every:429=90")
    for left in (90, 60):
        response = await get(f"{server.url}/tenants")
        assert (response.status, response.json["type"]) == (503, "urn:xots:upstream-throttled")
        assert response.headers["Retry-After"] == f"{left}"
        clock.advance(30)


async def test_a_list_that_is_not_as_xero_sends_it_is_served_without_its_bad_entries(
    new_server: Any, credentials: Any, log_in: Any, get: Any, send: Any, expected_log: Any
) -> None:
    """A byte order mark, missing fields and strange values cost neither the list nor the page."""
    expected_log(
        "holds 3 entries that cannot be used",
        r"WARNING xots\.web: GET /token: .*no organisation",
    )
    nulls = {"tenantId": "t-2", "id": None, "tenantType": None, "tenantName": None}
    good = [
        {"tenantId": "t-1"},
        nulls,
        {"tenantId": "t-3", "tenantName": ["x"], "\u202e": {"a": 1}},
    ]
    bad = [None, {"tenantId": "a b"}, {"id": "1", "tenantName": "No id"}]
    body = b"\xef\xbb\xbf" + json.dumps([*bad, *good]).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as lists:
        url = f"http://127.0.0.1:{lists.sockets[0].getsockname()[1]}/connections"
        server = await new_server(**credentials, connections_url=url)
        await log_in(server)
        response = await get(f"{server.url}/tenants")
        assert (response.status, response.json) == (200, good)
        assert response.body.isascii()
        assert (await get(f"{server.url}/token?tenant=t-3")).json["tenantId"] == "t-3"
        assert (await get(f"{server.url}/token?tenant=a%20b")).status == 404
        page = await send("GET", f"{origin(server)}/home", BROWSER)
        assert page.status == 200
        assert "t-2" in page.text


# ---------- the end of a login


async def test_revoke_ends_the_login_at_xero_and_keeps_the_credentials(
    brought_to: Any, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Xero accepts no token any more, and a new login needs no form."""
    server = await brought_to("connected")
    response = await get(f"{server.url}/revoke")
    assert (response.status, response.json) == (200, {"status": "revoked"})
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert (await get(f"{server.url}/token")).status == 401
    assert (await get(f"{server.url}/status")).json["client_id"] == DEFAULT_CLIENT_ID
    await person.consent(await person.submit(await person.open(f"{origin(server)}/")))
    assert (await get(f"{server.url}/token")).status == 200


@pytest.mark.parametrize("query", ["", "?all=true"])
async def test_a_second_revoke_says_that_there_is_no_login(
    brought_to: Any, send: Any, get: Any, query: str
) -> None:
    """Its status is that of the first one, so that a program may repeat a lost request."""
    server = await brought_to("revoked")
    response = await send("POST", f"{server.url}/revoke{query}", None, "")
    assert (response.status, response.json["status"]) == (200, "revoked")
    assert response.json["detail"].startswith("there is no login to revoke")
    headers = {"Accept": "text/html", "Origin": origin(server)}
    page = await send("POST", f"{origin(server)}/revoke{query}", headers, "")
    assert "There is no login to revoke" in page.text
    assert "Xero has revoked" not in page.text


@pytest.mark.parametrize("page", [False, True])
async def test_revoke_names_the_accounts_that_share_the_user(
    brought_to: Any, sandbox: Sandbox, send: Any, expected_log: Any, page: bool
) -> None:
    """Nothing was revoked, since that would end these too. The connection that remains is named."""
    expected_log(r"WARNING xots: default: the connection to .* may remain at Xero")
    server = await brought_to("connected")
    account = server.keeper.account
    other = msgspec.structs.replace(account, tenant_id="another", auth_event_id="another")
    await inside.put_beside(server.keeper, "other-books", other)
    sandbox.add_fault("connections:every:503-html")
    headers = {"Accept": "text/html", "Origin": origin(server)} if page else None
    url = f"{origin(server)}/revoke" if page else f"{server.url}/revoke"
    response = await send("POST", url, headers, "")
    assert response.status == 200
    assert revocations(sandbox) == []
    if page:
        assert "other-books" in response.text
        assert "may remain at Xero" in response.text
        return
    assert response.json["status"] == "disconnected"
    assert response.json["shared_with"] == ["other-books"]
    assert "other-books" in response.json["detail"]
    assert [one["tenant_id"] for one in response.json["remaining"]] == [account.tenant_id]


@pytest.mark.parametrize("fault", ["503-json", "reset", "403-html", "429", "down"])
async def test_a_revocation_that_xero_does_not_confirm_is_202_and_repeated(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any, fault: str
) -> None:
    """No token is returned any more. After the back-off, a tick sends the request again."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    if fault == "down":
        sandbox.options = replace(sandbox.options, port=sandbox.port)
        await sandbox.stop()
    else:
        sandbox.add_fault(f"revocation:every:{fault}")
    response = await get(f"{server.url}/revoke")
    assert response.status == 202
    assert response.json["status"] != "revoked"
    assert response.json["detail"]
    token = await get(f"{server.url}/token")
    assert (token.status, token.json["type"]) == (401, "urn:xots:not-logged-in")
    assert (await get(f"{server.url}/livez")).status == 503
    assert (await get(f"{server.url}/tenants")).status == 401
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is True
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock())
    if fault == "down":
        sandbox.start()
    sandbox.faults.clear()
    sent = len(revocations(sandbox))
    await server.rotation.tick()
    assert len(revocations(sandbox)) == sent
    clock.advance((server.keeper.account.retry_not_before - clock.now()).total_seconds())
    await server.rotation.tick()
    assert len(revocations(sandbox)) == sent + 1
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is False
    clock.advance(7200)
    await server.rotation.tick()
    assert len(revocations(sandbox)) == sent + 1


async def test_a_new_login_cancels_a_pending_revocation(
    brought_to: Any, sandbox: Sandbox, person: Person, clock: Any, get: Any, expected_log: Any
) -> None:
    """A late revocation at Xero would end the new login's connections too."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    sandbox.add_fault("revocation:every:503-json")
    assert (await get(f"{server.url}/revoke")).status == 202
    await person.consent(await person.submit(await person.open(f"{origin(server)}/home")))
    sandbox.faults.clear()
    sent = len(revocations(sandbox))
    for _ in range(10):
        clock.advance(600)
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).status == 200
    assert len(revocations(sandbox)) == sent
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is False


async def test_a_refresh_that_was_cut_off_is_concluded_before_the_revocation(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """A successor in a lost response does not survive the login."""
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
    """The record is as empty as at the first start, and the form appears again."""
    server = await brought_to("connected")
    response = await get(f"{server.url}/logout")
    assert (response.status, response.headers["Location"]) == (303, "/")
    assert [one.outcome for one in revocations(sandbox)] == [Outcome.REVOKED]
    kept = server.keeper.account
    assert kept == Account(
        generation=kept.generation, write_id=kept.write_id, ended_at=kept.ended_at
    )
    assert (await get(f"{server.url}/status")).json["client_id"] is None
    page = await person.open(f"{origin(server)}/")
    assert "client_id" in dict(page.form.fields)
    assert DEFAULT_CLIENT_ID not in page.text


async def test_a_logout_forgets_the_credentials_once_xero_has_confirmed_it(
    brought_to: Any, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """The revocation needs the credentials. Until then, no token is returned either."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    server = await brought_to("connected")
    sandbox.add_fault("revocation:first=1:reset")
    response = await get(f"{server.url}/logout")
    assert (response.status, response.json["status"]) == (202, "revocation-pending")
    assert "Xero has not confirmed the revocation yet" in response.json["detail"]
    assert (await get(f"{server.url}/token")).status == 401
    clock.advance((server.keeper.account.retry_not_before - clock.now()).total_seconds())
    await server.rotation.tick()
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert server.keeper.account.client_id is None
    assert (await get(f"{server.url}/livez")).json["state"] == "no-credentials"


async def test_an_end_that_cannot_be_recorded_is_503_and_changes_nothing(
    brought_to: Any, break_store: Any, sandbox: Sandbox, get: Any, expected_log: Any
) -> None:
    """The store cannot be read. The login stays as it is, at Xero too."""
    expected_log(r"WARNING xots\.web: GET /(revoke|logout): the disk is full")
    server = await brought_to("connected")
    break_store(server)
    for path in ("/revoke", "/logout"):
        response = await get(f"{server.url}{path}")
        assert (response.status, response.json["type"]) == (503, "urn:xots:store-unavailable")
    assert revocations(sandbox) == []
    assert (await get(f"{server.url}/token")).status == 200
