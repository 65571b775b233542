"""``/token?tenant=``: the organisation that a caller chooses among those of the login."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import BROWSER, begin

from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server

LOGGED = r"WARNING xots\.web: GET /token: "


@pytest.fixture
async def firm(server: Server, sandbox: Sandbox, person: Person, decide: Any) -> Server:
    """A server after a login to the sandbox's two organisations, of which none is chosen."""
    tenants = tuple(sandbox.world.accounting.organisations)
    await person.open(await decide(await begin(person, server), tenants=tenants))
    return server


def url(server: Server, **query: Any) -> str:
    return f"{server.url}/token?{urlencode(query, doseq=True)}"


async def test_a_caller_chooses_by_id_or_name(firm: Server, sandbox: Sandbox, get: Any) -> None:
    """The token is the same. Without a choice the response is as before, and stays so."""
    plain = (await get(f"{firm.url}/token")).json
    assert plain["tenantId"] is None
    for tenant_id, organisation in sandbox.world.accounting.organisations.items():
        name = organisation.name or ""
        for text in (tenant_id, tenant_id.upper(), name, name.upper()):
            assert (await get(url(firm, tenant=text))).json == plain | {"tenantId": tenant_id}
            found = await get(url(firm, tenant=text, min_ttl=60))
            assert found.json["tenantId"] == tenant_id
    assert (await get(f"{firm.url}/token")).json == plain


async def test_plain_text_works_with_a_choice(firm: Server, get: Any, expected_log: Any) -> None:
    """A wrong choice is an error there too, and never plain text."""
    expected_log(LOGGED)
    token = (await get(f"{firm.url}/token")).json["accessToken"]
    found = await get(url(firm, tenant="demo company (uk)"), Accept="text/plain")
    assert (found.status, found.text.strip()) == (200, token)
    wrong = await get(url(firm, tenant="nobody"), Accept="text/plain")
    assert wrong.status == 404
    assert wrong.headers["Content-Type"].split(";")[0] == "application/problem+json"


async def test_an_unknown_organisation_is_404_with_the_list(
    firm: Server, sandbox: Sandbox, get: Any, send: Any, expected_log: Any
) -> None:
    """A program reads the ids and names from the problem, and a browser gets a page."""
    expected_log(LOGGED)
    response = await get(url(firm, tenant="nobody\n\x1b[2J"))
    assert (response.status, response.json["type"]) == (404, "urn:xots:tenant-not-found")
    assert {one["id"]: one["name"] for one in response.json["organisations"]} == {
        tenant_id: one.name for tenant_id, one in sandbox.world.accounting.organisations.items()
    }
    assert response.json["detail"].isprintable()
    page = await send("GET", url(firm, tenant="nobody"), BROWSER)
    assert (page.status, page.headers["Content-Type"].split(";")[0]) == (404, "text/html")


async def test_an_ambiguous_name_is_409_with_the_ids(
    server: Server, sandbox: Sandbox, person: Person, decide: Any, get: Any, expected_log: Any
) -> None:
    """Two clients of a firm may have the same name."""
    expected_log(LOGGED)
    known = sandbox.world.accounting.organisations
    for tenant_id, one in list(known.items()):
        known[tenant_id] = type(one)("Acme", tenant_id)
    await person.open(await decide(await begin(person, server), tenants=tuple(known)))
    response = await get(url(server, tenant="acme"))
    assert (response.status, response.json["type"]) == (409, "urn:xots:ambiguous-tenant")
    assert {one["id"] for one in response.json["organisations"]} == set(known)


@pytest.mark.parametrize("values", [["a", "b"], ["a", "a"], [""], [" "], ["a", ""]])
async def test_a_choice_is_given_once_and_is_not_empty(
    firm: Server, get: Any, expected_log: Any, values: list[str]
) -> None:
    """Two readers of one URL might otherwise see two organisations in it."""
    expected_log(LOGGED)
    response = await get(url(firm, tenant=values))
    assert (response.status, response.json["type"]) == (400, "urn:xots:bad-request")


async def test_without_a_list_of_organisations_no_other_one_can_be_chosen(
    new_server: Any, credentials: Any, log_in: Any, get: Any, expected_log: Any
) -> None:
    """A retry would not help: 404, as from ``/tenants``."""
    expected_log(LOGGED, r"WARNING xots\.web: GET /tenants: ")
    server = await new_server(**credentials, connections_url="")
    await log_in(server)
    response = await get(url(server, tenant="x"))
    assert (response.status, response.json["type"]) == (404, "urn:xots:tenant-not-found")
    assert "leave tenant out, or set connections_url" in response.json["detail"]
    assert (await get(f"{server.url}/tenants")).status == 404


async def test_before_a_login_a_choice_is_401(brought_to: Any, get: Any, expected_log: Any) -> None:
    """The caller learns the first thing that is missing."""
    expected_log.perhaps(LOGGED)
    server = await brought_to("credentials")
    assert (await get(url(server, tenant="x"))).status == 401
