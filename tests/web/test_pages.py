"""The pages: the form, home with its buttons and hints, and the headers of all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import begin, one_form, origin, query

from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

UNKNOWN_TENANT = "11111111-2222-4333-8444-555555555555"


# ---------- the form


async def test_credentials_of_the_settings_need_no_form(
    server: Server, person: Person, token_of: Any
) -> None:
    """With the client set, the front page leads to the connection at once, and the login takes it."""
    page = await person.open(f"{origin(server)}/")
    assert page.url == f"{origin(server)}/home"
    page = await person.consent(await person.submit(page))
    assert page.status == 200
    assert await token_of(server) is not None


async def test_without_any_credentials_home_leads_to_the_form(
    new_server: NewServer, person: Person
) -> None:
    """There is nothing to connect with yet."""
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
async def test_a_form_that_cannot_be_right_comes_back_with_the_reason(
    new_server: NewServer, person: Person, fields: dict[str, str], named: str
) -> None:
    """What is missing or misshapen is named on the form, and the secret is not written back into it."""
    server = await new_server()
    page = await person.submit(await person.open(f"{origin(server)}/login"), **fields)
    assert page.status == 400
    assert f"The {named}" in page.text
    assert "secret-canary" not in page.text


# ---------- the organisations on home


async def test_the_only_organisation_is_taken_by_itself(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any
) -> None:
    """With one connected there is nothing to ask."""
    _, only = sandbox.world.books.organisations
    page = await person.open(await decide(await begin(person, server), tenants=(only,)))
    assert 'type="radio"' not in page.text
    assert only in page.text
    assert (await get(f"{server.url}/token")).json["tenantId"] == only


async def test_among_several_organisations_the_person_chooses_on_home(
    server: Server, sandbox: Sandbox, person: Person, clock: Any, get: Any, decide: Any
) -> None:
    """Home lists them by name; the choice is what ``/token`` names from then on, over refreshes too."""
    organisations = sandbox.world.books.organisations
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


async def test_an_organisation_that_is_not_connected_cannot_be_chosen(
    server: Server, sandbox: Sandbox, person: Person, decide: Any, expected_log: Any
) -> None:
    """A form that was tampered with, or is out of date, changes nothing; the page lists those that are connected."""
    expected_log(r"WARNING xots\.web: POST /home: .*not among the connected")
    organisations = sandbox.world.books.organisations
    home = await person.open(
        await decide(await begin(person, server), tenants=tuple(organisations))
    )
    account = server.keeper.account
    page = await person.submit(one_form(home, 'type="radio"'), tenant_id=UNKNOWN_TENANT)
    assert page.status == 400
    assert all(tenant_id in page.text for tenant_id in organisations)
    assert server.keeper.account == account


async def test_organisations_that_cannot_be_listed_are_told_and_do_not_break_home(
    server: Server, sandbox: Sandbox, person: Person, decide: Any
) -> None:
    """While Xero's list fails, home says so and everything else on it works."""
    await person.open(
        await decide(await begin(person, server), tenants=tuple(sandbox.world.books.organisations))
    )
    sandbox.add_fault("connections:every:503-html")
    home = await person.open(f"{origin(server)}/home")
    assert home.status == 200
    assert "can't be listed" in unescape(home.text)
    assert "Connected" in home.text


async def test_the_tenant_is_known_although_the_list_failed_at_the_login(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any, expected_log: Any
) -> None:
    """The login is kept; the one organisation can be chosen on home as soon as Xero lists it."""
    expected_log(r"WARNING xots\.keeper: the organisations of the login could not be listed")
    callback = await decide(await begin(person, server))
    sandbox.add_fault("connections:first=1:503-html")
    await person.open(callback)
    assert (await get(f"{server.url}/token")).status == 200
    only = next(iter(sandbox.world.books.organisations))
    home = await person.open(f"{origin(server)}/home")
    if 'type="radio"' in home.text:
        await person.submit(one_form(home, 'type="radio"'), tenant_id=only)
    assert (await get(f"{server.url}/token")).json["tenantId"] == only


# ---------- every page


async def test_pages_of_a_login_are_neither_cached_nor_framed(server: Server, get: Any) -> None:
    """Every page forbids storing, framing, sniffing, foreign readers and scripts."""
    for path in ("/login", "/home", "/status"):
        answer = await get(f"{origin(server)}{path}", Accept="text/html")
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        # Under "no-referrer" browsers would send "Origin: null" with this server's own forms (Fetch, "append Origin").
        assert answer.headers["Referrer-Policy"] == "same-origin"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script" not in policy


async def test_the_form_may_lead_to_xero_and_nowhere_else(
    server: Server, sandbox: Sandbox, get: Any
) -> None:
    """The policy of the page names this server and Xero's origin as the only places that a form may lead to."""
    policy = (await get(f"{origin(server)}/home", Accept="text/html")).headers[
        "Content-Security-Policy"
    ]
    [directive] = [
        one.split()[1:] for one in policy.split(";") if one.strip().startswith("form-action")
    ]
    assert set(directive) == {"'self'", sandbox.url}


async def test_no_request_chooses_where_it_is_led(
    server: Server, person: Person, send: Any, get: Any
) -> None:
    """A ``next``, a ``redirect_uri`` or a doubled slash in a request never becomes a redirect's target."""
    evil = "https://evil.example/"
    asked = urlencode({"next": evil, "redirect_uri": evil, "url": evil})
    for path in ("/", "/home", "/login"):
        answer = await get(f"http://127.0.0.1:{server.port}{path}?{asked}", Accept="text/html")
        assert answer.headers["Location"] in (f"{origin(server)}{path}", "/home")
    begun = await send("POST", f"{origin(server)}/home?{asked}", None, asked)
    assert query(begun.headers["Location"])["redirect_uri"] == f"{origin(server)}/code"
