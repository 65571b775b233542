"""The pages: the form, home with its buttons and hints, and the headers of all of them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import BROWSER, begin, one_form, origin, query

from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server
from xots.testing import FakeClock

NewServer = Callable[..., Awaitable[Server]]

UNKNOWN_TENANT = "11111111-2222-4333-8444-555555555555"


# ---------- the form


async def test_credentials_of_the_settings_need_no_form(
    server: Server, person: Person, token_of: Any
) -> None:
    """``/`` redirects to home, and the login uses them."""
    page = await person.open(f"{origin(server)}/")
    assert page.url == f"{origin(server)}/home"
    page = await person.consent(await person.submit(page))
    assert page.status == 200
    assert await token_of(server) is not None


async def test_without_credentials_home_redirects_to_the_form(
    new_server: NewServer, person: Person
) -> None:
    """A login needs a client."""
    server = await new_server()
    page = await person.open(f"{origin(server)}/home")
    assert "client_id" in dict(page.form.fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "client id"),
        ({"client_secret": "secret-canary"}, "client id"),
        ({"client_id": "two words", "client_secret": "secret-canary"}, "client id"),
        ({"client_id": "C" * 600, "client_secret": "secret-canary"}, "client id"),
        ({"client_id": "C", "client_secret": "secret-canary\tx"}, "client secret"),
        ({"client_id": "C", "client_secret": "secret-canary", "tenant_id": "a b"}, "tenant id"),
    ],
)
async def test_an_implausible_form_is_shown_again_with_the_reason(
    new_server: NewServer, person: Person, fields: dict[str, str], named: str
) -> None:
    """The page names the field, and does not repeat the secret."""
    server = await new_server()
    page = await person.submit(await person.open(f"{origin(server)}/login"), **fields)
    assert page.status == 400
    assert f"The {named}" in page.text
    assert "secret-canary" not in page.text


# ---------- the organisations on home


async def test_the_only_organisation_is_used_without_a_choice(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any
) -> None:
    """Home offers no choice."""
    _, only = sandbox.world.accounting.organisations
    page = await person.open(await decide(await begin(person, server), tenants=(only,)))
    assert 'type="radio"' not in page.text
    assert only in page.text
    assert (await get(f"{server.url}/token")).json["tenantId"] == only


async def test_the_user_chooses_among_several_organisations_on_home(
    server: Server, sandbox: Sandbox, person: Person, clock: Any, get: Any, decide: Any
) -> None:
    """Home lists them by name. ``/token`` returns the choice from then on, after refreshes too."""
    organisations = sandbox.world.accounting.organisations
    home = await person.open(
        await decide(await begin(person, server), tenants=tuple(organisations))
    )
    assert home.status == 200
    before = (await get(f"{server.url}/token")).json
    assert before["tenantId"] is None
    for organisation in organisations.values():
        assert organisation.tenant_id in home.text
        assert str(organisation.name) in unescape(home.text)
    chosen = list(organisations)[1]
    home = await person.submit(one_form(home, 'type="radio"'), tenant_id=chosen)
    assert (home.status, home.url) == (200, f"{origin(server)}/home")
    assert 'type="radio"' not in home.text
    after = (await get(f"{server.url}/token")).json
    assert after == before | {"tenantId": chosen}
    clock.advance(1500)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).json["tenantId"] == chosen
    assert (await get(f"{server.url}/status")).json["tenant_id"] == chosen


@pytest.mark.safeguard(
    file="web/pages.py",
    old="        if not is_opened_by_user(self.request.headers) or self.is_crowded:\n"
    "            return self.keeper.known_organisations, None\n",
    new="",
    protects_from="a flood of requests to Xero that a foreign page causes by links to /home",
)
@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
async def test_a_request_that_a_foreign_page_may_have_caused_calls_no_xero(
    server: Server,
    sandbox: Sandbox,
    person: Person,
    clock: FakeClock,
    decide: Any,
    send: Any,
    site: str | None,
) -> None:
    """Home shows the list that xots remembers from the login, however old it is."""
    await person.open(
        await decide(
            await begin(person, server), tenants=tuple(sandbox.world.accounting.organisations)
        )
    )
    clock.advance(minutes=1)
    requests = len(sandbox.log)
    headers = {name: value for name, value in BROWSER.items() if not name.startswith("Sec-")}
    if site is not None:
        headers = BROWSER | {"Sec-Fetch-Site": site}
    for path in ("/", "/login", "/home"):
        assert (await send("GET", origin(server) + path, headers)).status in (200, 303)
    home = await send("GET", f"{origin(server)}/home", headers)
    assert (home.status, "Connected" in home.text) == (200, True)
    assert 'type="radio"' in home.text
    assert len(sandbox.log) == requests


async def test_a_user_who_arrives_from_xero_lists_the_organisations_by_a_click(
    server: Server, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """A redirect from Xero is cross-site, as a foreign page's link is. The click is not."""
    organisations = sandbox.world.accounting.organisations
    page = await begin(person, server)
    all_ticked = re.sub(r'( name="tenant" value="[^"]+")(?: checked)?>', r"\1 checked>", page.text)
    home = await person.consent(replace(page, text=all_ticked))
    assert (home.status, home.url) == (200, f"{origin(server)}/home")
    if 'type="radio"' not in home.text:
        home = await person.follow(home, "Show the organisations")
    chosen = list(organisations)[1]
    await person.submit(one_form(home, 'type="radio"'), tenant_id=chosen)
    assert (await get(f"{server.url}/token")).json["tenantId"] == chosen


async def test_an_organisation_that_is_not_connected_cannot_be_chosen(
    server: Server, sandbox: Sandbox, person: Person, decide: Any, expected_log: Any
) -> None:
    """A forged or outdated form changes nothing; the page lists the connected ones."""
    expected_log(r"WARNING xots\.web: POST /home: .*not among the connected")
    organisations = sandbox.world.accounting.organisations
    home = await person.open(
        await decide(await begin(person, server), tenants=tuple(organisations))
    )
    account = server.keeper.account
    page = await person.submit(one_form(home, 'type="radio"'), tenant_id=UNKNOWN_TENANT)
    assert page.status == 400
    assert all(tenant_id in page.text for tenant_id in organisations)
    assert server.keeper.account == account


async def test_home_works_while_xero_cannot_list_the_organisations(
    server: Server, sandbox: Sandbox, person: Person, decide: Any, clock: FakeClock
) -> None:
    """The page says so, and shows the rest."""
    await person.open(
        await decide(
            await begin(person, server), tenants=tuple(sandbox.world.accounting.organisations)
        )
    )
    clock.advance(LIST_KEPT_SECONDS)
    sandbox.add_fault("connections:every:503-html")
    home = await person.open(f"{origin(server)}/home")
    assert home.status == 200
    assert "can't be listed" in unescape(home.text)
    assert "Connected" in home.text


async def test_the_organisation_can_be_chosen_later_if_the_list_failed_at_the_login(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any, expected_log: Any
) -> None:
    """The login is kept. Home offers the choice as soon as Xero lists the organisations."""
    expected_log(r"WARNING xots\.keeper: the organisations of the login could not be listed")
    callback = await decide(await begin(person, server))
    sandbox.add_fault("connections:first=1:503-html")
    await person.open(callback)
    assert (await get(f"{server.url}/token")).status == 200
    only = next(iter(sandbox.world.accounting.organisations))
    home = await person.open(f"{origin(server)}/home")
    if 'type="radio"' in home.text:
        await person.submit(one_form(home, 'type="radio"'), tenant_id=only)
    assert (await get(f"{server.url}/token")).json["tenantId"] == only


# ---------- every page


async def test_a_form_may_lead_only_to_this_server_and_xero(
    server: Server, sandbox: Sandbox, get: Any
) -> None:
    """The page's policy names no other origin."""
    policy = (await get(f"{origin(server)}/home", Accept="text/html")).headers[
        "Content-Security-Policy"
    ]
    [directive] = [
        one.split()[1:] for one in policy.split(";") if one.strip().startswith("form-action")
    ]
    assert set(directive) == {"'self'", sandbox.url}


async def test_the_forms_of_other_pages_lead_to_this_server_only(server: Server, send: Any) -> None:
    """Only ``/home`` starts a login."""
    for path in ("/login", "/status", "/revoke", "/logout", "/accounts"):
        response = await send("GET", f"{origin(server)}{path}", BROWSER)
        assert "form-action 'self';" in response.headers["Content-Security-Policy"], path


async def test_no_request_chooses_the_target_of_a_redirect(
    server: Server, person: Person, send: Any, get: Any
) -> None:
    """Neither ``next`` nor ``redirect_uri`` in a request does, nor a doubled slash."""
    evil = "https://evil.example/"
    hostile = urlencode({"next": evil, "redirect_uri": evil, "url": evil})
    for path in ("/", "/home", "/login"):
        response = await get(f"http://127.0.0.1:{server.port}{path}?{hostile}", Accept="text/html")
        assert response.headers["Location"] in (f"{origin(server)}{path}", "/home")
    started = await send("POST", f"{origin(server)}/home?{hostile}", None, hostile)
    assert query(started.headers["Location"])["redirect_uri"] == f"{origin(server)}/code"
