"""The login through the pages, against the simulated Xero: successes, forgeries and refusals."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from support.web import begin, changed, origin, query, verifies
from tornado.httpclient import HTTPClientError

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_PKCE_CLIENT_ID,
    Endpoint,
    Outcome,
    Sandbox,
)
from xots.sandbox.person import Person
from xots.server import Server
from xots.xero.requests import code_challenge

NewServer = Callable[..., Awaitable[Server]]

REFUSED_AT_CODE = r"WARNING xots\.web: GET /code: "
LOGIN_REFUSED = r"WARNING xots: default: login failed"


# ---------- logins that succeed


async def test_a_login_goes_from_the_form_through_xero_to_home(
    new_server: NewServer, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Form, home, consent, code and home again lead to a token that Xero's API accepts."""
    server = await new_server()
    form = await person.open(f"{origin(server)}/")
    assert "client_id" in dict(form.form.fields)
    assert f"{origin(server)}/code" in form.text
    home = await person.submit(
        form, client_id=DEFAULT_CLIENT_ID, client_secret=DEFAULT_CLIENT_SECRET
    )
    assert (home.url, home.status) == (f"{origin(server)}/home", 200)
    consent = await person.submit(home)
    assert consent.url.startswith(sandbox.authorize_url)
    home = await person.consent(consent)
    assert (home.url, home.status) == (f"{origin(server)}/home", 200)
    assert "Connected" in home.text
    token = (await get(f"{server.url}/token")).json["accessToken"]
    assert (await get(sandbox.connections_url, Authorization=f"Bearer {token}")).status == 200
    outcomes = [(one.endpoint, one.method, one.outcome) for one in sandbox.log[:3]]
    assert outcomes == [
        (Endpoint.AUTHORIZE, "GET", Outcome.SERVED),
        (Endpoint.AUTHORIZE, "POST", Outcome.CONSENTED),
        (Endpoint.TOKEN, "POST", Outcome.ISSUED),
    ]


async def test_the_authorize_url_has_the_parameters_of_the_protocol(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """RFC 6749 section 4.1.1 and RFC 7636 section 4.3 name them all; there is no other."""
    requested = query((await begin(person, server)).url)
    assert requested.keys() == {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
    }
    assert requested["response_type"] == "code"
    assert requested["client_id"] == DEFAULT_CLIENT_ID
    assert requested["redirect_uri"] == f"{origin(server)}/code"
    assert requested["scope"] == "offline_access accounting.transactions accounting.reports.read"
    assert requested["code_challenge_method"] == "S256"
    assert len(base64.urlsafe_b64decode(requested["code_challenge"] + "=")) == 32
    assert len(requested["state"]) >= 43  # 256 bits in base64


async def test_every_login_has_a_state_and_a_challenge_of_its_own(
    server: Server, person: Person
) -> None:
    """No second login repeats either."""
    requested = [query((await begin(person, server)).url) for _ in range(3)]
    assert len({one["state"] for one in requested}) == 3
    assert len({one["code_challenge"] for one in requested}) == 3


async def test_a_code_of_another_challenge_is_refused(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """An attacker's code, slipped into this login, does not fit its verifier (RFC 7636)."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    page = await begin(person, server)
    tampered = await person.open(changed(page.url, code_challenge=code_challenge("v" * 43)))
    page = await person.open(await decide(tampered))
    assert page.status == 400
    assert await token_of(server) is None


async def test_an_app_without_a_secret_logs_in_and_refreshes(
    new_server: NewServer, sandbox: Sandbox, person: Person, clock: Any, token_of: Any
) -> None:
    """A PKCE app authenticates by its client id in the body, at exchange and refresh."""
    server = await new_server()
    page = await person.log_in(origin(server), DEFAULT_PKCE_CLIENT_ID)
    assert (page.url, page.status) == (f"{origin(server)}/home", 200)
    first = await token_of(server)
    clock.advance(1600)
    await server.rotation.tick()
    assert await token_of(server) not in (first, None)
    assert {one.client_id for one in sandbox.log if one.grant_type} == {DEFAULT_PKCE_CLIENT_ID}


async def test_pkce_can_be_turned_off(
    new_server: NewServer, credentials: Any, person: Person, token_of: Any
) -> None:
    """A web app of an identity server without PKCE logs in with its secret alone."""
    server = await new_server(**credentials, pkce=False)
    page = await begin(person, server)
    assert "code_challenge" not in query(page.url)
    assert (await person.consent(page)).status == 200
    assert await token_of(server) is not None


async def test_a_login_started_at_127_0_0_1_finishes_at_localhost(
    server: Server, person: Person, token_of: Any
) -> None:
    """Cookies belong to a host name: the browser is redirected before it receives one."""
    page = await person.open(f"http://127.0.0.1:{server.port}/home")
    assert page.url == f"{origin(server)}/home"
    assert (await person.consent(await person.submit(page))).status == 200
    assert "127.0.0.1" not in person.cookies or not person.cookies["127.0.0.1"]
    assert await token_of(server) is not None


async def test_two_tabs_of_one_browser_both_finish(
    server: Server, person: Person, token_of: Any
) -> None:
    """A second login does not disturb the first, and the other way round."""
    one, two = await begin(person, server), await begin(person, server)
    assert (await person.consent(one)).status == 200
    first = await token_of(server)
    assert (await person.consent(two)).status == 200
    assert await token_of(server) not in (first, None)


async def test_two_tabs_finish_in_the_other_order_too(
    server: Server, person: Person, token_of: Any
) -> None:
    """The login that started last may return first."""
    one, two = await begin(person, server), await begin(person, server)
    assert (await person.consent(two)).status == 200
    assert (await person.consent(one)).status == 200
    assert await token_of(server) is not None


async def test_after_success_the_address_is_clean_and_the_cookies_are_gone(
    new_server: NewServer, person: Person
) -> None:
    """Neither the code nor a cookie of the login stays in the browser."""
    server = await new_server()
    page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    assert page.url == f"{origin(server)}/home"
    assert person.cookies["localhost"] == {}


async def test_the_only_organisation_is_used_and_a_requested_tenant_is_kept(
    new_server: NewServer, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Without a tenant id in the form the only connected organisation is used; with one, that
    one."""
    server = await new_server()
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    only = next(iter(sandbox.world.accounting.organisations))
    assert (await get(f"{server.url}/token")).json["tenantId"] == only
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, only.upper())
    assert (await get(f"{server.url}/token")).json["tenantId"].lower() == only


async def test_more_scopes_than_requested_are_no_error(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, log_in: Any, get: Any
) -> None:
    """Xero's scopes are additive: it grants those of an earlier consent too."""
    sandbox.log_in(["offline_access", "accounting.contacts"])
    server = await new_server(**credentials, scopes=("offline_access", "accounting.transactions"))
    await log_in(server)
    scopes = (await get(f"{server.url}/token")).json["scopes"]
    assert {"offline_access", "accounting.transactions", "accounting.contacts"} == set(scopes)


async def test_a_response_with_the_right_issuer_is_accepted(
    server: Server, sandbox: Sandbox, log_in: Any, token_of: Any
) -> None:
    """RFC 9207: the identity server may add ``iss`` to the redirect."""
    sandbox.identity.switches = replace(sandbox.identity.switches, add_iss=True)
    await log_in(server)
    assert await token_of(server) is not None


async def test_a_stopping_server_loses_no_code_exchange(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """An exchange in progress is concluded and recorded before the server ends."""
    consent = await begin(person, server)
    sandbox.add_fault("token:every:hold-after")
    finishing = asyncio.create_task(person.consent(consent))
    await sandbox.held()
    stopping = asyncio.create_task(server.stop())
    sandbox.release()
    await stopping
    assert server.keeper.account.consent_id is not None
    with pytest.raises((HTTPClientError, OSError)):  # the code was taken; /home is no longer there
        await finishing


# ---------- the state


async def test_a_replayed_callback_changes_nothing(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """After a login, the back button shows an explanation, and the login stays as it is."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    assert (await person.open(callback)).status == 200
    token = await token_of(server)
    page = await person.open(callback)
    assert page.status == 400
    assert "Start again" in page.text
    assert await token_of(server) == token


async def test_a_callback_replayed_with_its_cookies_restored_changes_nothing(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """A browser may send its cookie again: then Xero refuses the second use of the code."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    cookies = dict(person.cookies["localhost"])
    assert (await person.open(callback)).status == 200
    token = await token_of(server)
    person.cookies["localhost"] = cookies
    assert (await person.open(callback)).status == 400
    assert await token_of(server) == token


async def test_swapped_states_are_refused(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """The code of one login does not fit the state of another, even in one browser."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    one, two = await decide(await begin(person, server)), await decide(await begin(person, server))
    page = await person.open(changed(one, state=query(two)["state"]))
    assert page.status == 400
    assert await token_of(server) is None


ALTERATIONS: dict[str, Callable[[str], str | None]] = {
    "missing": lambda state: None,
    "empty": lambda state: "",
    "cut": lambda state: state[:16],
    "last character": lambda state: state[:-1] + ("A" if state[-1] != "A" else "B"),
    "longer": lambda state: state + "A",
    "other case": lambda state: state.swapcase(),
    "not ASCII": lambda state: state[:-1] + "é",
    "NUL": lambda state: state[:-1] + "\0",
    "a cookie's name": lambda state: "=; ",
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS.keys())
async def test_an_altered_state_is_refused(
    server: Server,
    person: Person,
    decide: Any,
    token_of: Any,
    expected_log: Any,
    alter: Callable[[str], str | None],
) -> None:
    """Only the exact state finishes a login. Any other one is 400."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    page = await person.open(changed(callback, state=alter(query(callback)["state"])))
    assert page.status == 400
    assert await token_of(server) is None


# ---------- logins that fail


async def test_a_program_at_the_redirect_uri_receives_a_problem(
    server: Server, get: Any, expected_log: Any
) -> None:
    """Without a browser's cookie there is no login to finish."""
    expected_log(REFUSED_AT_CODE)
    response = await get(f"{server.url}/code?code=abc&state=def")
    assert response.status == 400
    assert response.headers["Content-Type"].startswith("application/problem+json")
    assert response.json["type"].endswith("login-failed")


async def test_a_cancelled_consent_is_explained_and_changes_nothing(
    logged_in: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """The page leads back to home, and a live login stays as it is."""
    expected_log(REFUSED_AT_CODE)
    token = await token_of(logged_in)
    page = await person.open(await decide(await begin(person, logged_in), "cancel"))
    assert page.url.startswith(f"{origin(logged_in)}/code")
    assert "cancelled" in page.text
    assert 'href="/home"' in page.text
    assert await token_of(logged_in) == token


async def test_a_callback_with_neither_code_nor_error_is_explained(
    server: Server, person: Person, decide: Any, expected_log: Any
) -> None:
    """The response is a page with status 400."""
    expected_log(REFUSED_AT_CODE)
    page = await person.open(changed(await decide(await begin(person, server)), code=None))
    assert page.status == 400
    assert 'href="/home"' in page.text


async def test_xeros_error_description_is_shown_as_text(
    server: Server, person: Person, decide: Any, expected_log: Any
) -> None:
    """It is never markup on the page."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server), "cancel")
    page = await person.open(
        changed(callback, error="odd", error_description="<script>alert(1)</script>")
    )
    assert "<script" not in page.text
    assert "<script>alert(1)</script>" in unescape(page.text)


async def test_after_xeros_own_error_page_home_names_the_likely_causes(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """An unregistered redirect URI never returns to this server."""
    client = sandbox.identity.clients[DEFAULT_CLIENT_ID]
    sandbox.identity.register(replace(client, redirect_uris=("http://localhost:1/code",)))
    page = await begin(person, server)
    assert page.status == 500
    assert page.url.startswith(sandbox.url)
    home = await person.open(f"{origin(server)}/home")
    assert "has not come back" in home.text
    assert f"{origin(server)}/code" in home.text


async def test_a_failed_exchange_leaves_a_live_login_untouched(
    logged_in: Server,
    sandbox: Sandbox,
    person: Person,
    clock: Any,
    token_of: Any,
    expected_log: Any,
) -> None:
    """A wrong secret in the form is explained. The live login is still served and refreshed."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    token = await token_of(logged_in)
    page = await person.log_in(origin(logged_in), DEFAULT_CLIENT_ID, "wrong-secret-canary")
    assert page.status == 400
    assert "secret" in page.text
    assert "wrong-secret-canary" not in page.text
    assert await token_of(logged_in) == token
    clock.advance(1600)
    await logged_in.rotation.tick()
    assert await token_of(logged_in) not in (token, None)
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]


@pytest.mark.parametrize("fault", ["lost", "500-html", "429", "no-refresh-token", "not-json"])
async def test_a_faulty_response_to_the_exchange_leaves_a_live_login_untouched(
    logged_in: Server,
    sandbox: Sandbox,
    person: Person,
    token_of: Any,
    expected_log: Any,
    fault: str,
) -> None:
    """The access token of the first login is still returned."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    token = await token_of(logged_in)
    consent = await begin(person, logged_in)
    sandbox.add_fault(f"token:every:{fault}")
    page = await person.consent(consent)
    assert page.status >= 400
    assert 'href="/home"' in page.text
    assert await token_of(logged_in) == token


async def test_fewer_scopes_than_requested_are_an_error(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """The page names the missing scope, and no login is recorded."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    page = await begin(person, server)
    narrowed = await person.open(changed(page.url, scope="offline_access accounting.transactions"))
    page = await person.open(await decide(narrowed))
    assert page.status == 400
    assert "accounting.reports.read" in page.text
    assert await token_of(server) is None


async def test_a_login_without_offline_access_is_an_error(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """Without a refresh token it would end after half an hour."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    page = await begin(person, server)
    narrowed = await person.open(
        changed(page.url, scope="accounting.transactions accounting.reports.read")
    )
    page = await person.open(await decide(narrowed))
    assert page.status == 400
    assert "offline_access" in page.text
    assert await token_of(server) is None


@pytest.mark.parametrize(
    "issuer", ["https://evil.example", "https://identity.xero.com.evil.example", "x"]
)
async def test_a_response_of_another_issuer_is_refused(
    server: Server,
    sandbox: Sandbox,
    person: Person,
    decide: Any,
    token_of: Any,
    expected_log: Any,
    issuer: str,
) -> None:
    """RFC 9207: a code of another server is not sent to this one."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    page = await person.open(changed(callback, iss=issuer))
    assert page.status == 400
    assert await token_of(server) is None
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
async def test_a_repeated_parameter_is_refused(
    server: Server,
    sandbox: Sandbox,
    person: Person,
    decide: Any,
    token_of: Any,
    expected_log: Any,
    name: str,
) -> None:
    """RFC 6749 section 3.1: no parameter may occur twice. No code is sent to Xero."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    value = query(callback).get(name, sandbox.url)
    twice = f"{changed(callback, **{name: value})}&{urlencode({name: value})}"
    assert (await person.open(twice)).status == 400
    assert await token_of(server) is None
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


async def test_a_tenant_that_is_not_connected_is_refused_with_a_list(
    new_server: NewServer, sandbox: Sandbox, person: Person, token_of: Any, expected_log: Any
) -> None:
    """So no program books into a mistyped tenant. The page lists the connected ones."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    server = await new_server()
    tenant_id = "11111111-2222-4333-8444-555555555555"
    page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, tenant_id)
    assert page.status == 400
    assert next(iter(sandbox.world.accounting.organisations)) in page.text
    assert await token_of(server) is None


# ---------- secrets


class Diarist(Person):
    """A user whose browser notes the address of every request."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def _headers(self, url: str) -> dict[str, str]:
        self.addresses.append(url)
        return super()._headers(url)


async def test_no_address_and_no_log_line_holds_a_secret(
    new_server: NewServer,
    clock: Any,
    canaries: Any,
    get: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """At level DEBUG, through logins, failures and a refresh: no token, code or verifier either."""
    caplog.set_level(logging.DEBUG)
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    server = await new_server()
    person = Diarist()
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    secret = canaries(server)
    callback = next(url for url in person.addresses if urlsplit(url).path == "/code")
    assert (await person.open(callback)).status == 400
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, "wrong-secret-canary")
    clock.advance(1600)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).status == 200
    secret += [*canaries(server), "wrong-secret-canary"]
    addresses = "\n".join(person.addresses)
    assert not [one for one in secret if one in addresses]
    sent = [query(url) for url in person.addresses]
    values = {one[name] for one in sent for name in ("code", "state") if name in one}
    challenges = {one["code_challenge"] for one in sent if "code_challenge" in one}
    assert values
    assert len(challenges) == 2
    logged = caplog.text
    assert "refreshed" in logged  # so the log was listened to
    assert not [one for one in [*secret, *values] if one in logged]
    assert not [one for one in challenges if verifies(logged + addresses, one)]
