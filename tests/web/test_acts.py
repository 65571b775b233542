"""``/refresh``, ``/revoke``, ``/logout`` and ``/tenants``: by programs and by the buttons of pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import BROWSER, origin, revocations

from xots.lifecycle.account import Account
from xots.sandbox import DEFAULT_CLIENT_ID, Outcome, Sandbox
from xots.sandbox.person import Page, Person

XERO_LIFE = 1800
ACTS = ("/refresh", "/revoke", "/logout")


# ---------- pages and programs


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
    assert [one.outcome for one in revocations(sandbox)] == [Outcome.REVOKED]
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
    assert revocations(sandbox) == []


async def test_a_page_of_an_act_leads_nowhere_else(brought_to: Any, send: Any) -> None:
    """Its one form posts to its own path, whatever the query says, and repeats nothing of it."""
    server = await brought_to("connected")
    answer = await send(
        "GET", f"{origin(server)}/revoke?action=//evil.example/&x=%3Cscript%3E", BROWSER
    )
    assert Page(f"{origin(server)}/revoke", answer.status, answer.text).form.action == "/revoke"
    assert "evil" not in answer.text
    assert "<script" not in answer.text


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


# ---------- tenants


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
    assert tenant["tenantId"] in sandbox.world.books.organisations


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


# ---------- the end of a login


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
    asked = len(revocations(sandbox))
    await server.rotation.tick()
    assert len(revocations(sandbox)) == asked
    clock.advance((server.keeper.account.retry_not_before - clock.now()).total_seconds())
    await server.rotation.tick()
    assert len(revocations(sandbox)) == asked + 1
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []
    assert (await get(f"{server.url}/status")).json["revocation_pending"] is False
    clock.advance(7200)
    await server.rotation.tick()
    assert len(revocations(sandbox)) == asked + 1


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
    asked = len(revocations(sandbox))
    for _ in range(10):
        clock.advance(600)
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).status == 200
    assert len(revocations(sandbox)) == asked
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
    assert [one.outcome for one in revocations(sandbox)] == [Outcome.REVOKED]
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
    assert revocations(sandbox) == []
    assert (await get(f"{server.url}/token")).status == 200
