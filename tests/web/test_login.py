"""The login through the pages, against the simulated Xero: what succeeds, and all that must not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from tornado.httpclient import HTTPClientError

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_PKCE_CLIENT_ID,
    Endpoint,
    Outcome,
    Sandbox,
)
from xots.sandbox.person import Page, Person
from xots.server import Server
from xots.xero.protocol import code_challenge

NewServer = Callable[..., Awaitable[Server]]

REFUSED_AT_CODE = r"WARNING xots\.web: GET /code: "
LOGIN_REFUSED = r"WARNING xots: default: login failed"


def origin(server: Server) -> str:
    return f"http://localhost:{server.port}"


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def changed(url: str, **changes: str | None) -> str:
    """The URL with other parameters in its query; None leaves one out."""
    kept = {name: value for name, value in (query(url) | changes).items() if value is not None}
    return f"{url.partition('?')[0]}?{urlencode(kept)}"


async def begin(person: Person, server: Server) -> Page:
    """Press the button on ``/home``; what the browser shows then is Xero's consent page."""
    return await person.submit(await person.open(f"{origin(server)}/home"))


@pytest.fixture
def decide(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[str]]:
    """Decides on a consent page, and gives the address at which Xero sends the browser back, not yet followed."""

    async def decide(page: Page, action: str = "allow") -> str:
        body = urlencode([*page.form.fields, ("action", action)])
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return (await send("POST", page.url, headers, body)).headers["Location"]

    return decide


@pytest.fixture
def token_of(
    get: Callable[..., Awaitable[Any]], expected_log: Any
) -> Callable[[Server], Awaitable[str | None]]:
    """The access token that a server serves; None when it serves none."""

    async def token_of(server: Server) -> str | None:
        expected_log.perhaps(r"WARNING xots\.web: GET /token: nobody has ")
        answer = await get(f"{server.url}/token")
        return answer.json["accessToken"] if answer.status == 200 else None

    return token_of


# ------------------------------------------------------------------------------------- logins that succeed


async def test_a_login_goes_from_the_form_through_xero_to_home(
    new_server: NewServer, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Form, home, consent, code and home again end in a token that Xero's own API takes."""
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


async def test_the_authorize_url_is_what_the_protocol_asks_for(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """RFC 6749 section 4.1.1 and RFC 7636 section 4.3 name every parameter, and no other is sent."""
    asked = query((await begin(person, server)).url)
    assert asked.keys() == {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
    }
    assert asked["response_type"] == "code"
    assert asked["client_id"] == DEFAULT_CLIENT_ID
    assert asked["redirect_uri"] == f"{origin(server)}/code"
    assert asked["scope"] == "offline_access accounting.transactions accounting.reports.read"
    assert asked["code_challenge_method"] == "S256"
    assert len(base64.urlsafe_b64decode(asked["code_challenge"] + "=")) == 32
    assert len(asked["state"]) >= 43  # 256 bits in base64


async def test_every_login_has_a_state_and_a_challenge_of_its_own(
    server: Server, person: Person
) -> None:
    """Neither a page viewed twice nor a second login repeats either."""
    asked = [query((await begin(person, server)).url) for _ in range(3)]
    assert len({one["state"] for one in asked}) == 3
    assert len({one["code_challenge"] for one in asked}) == 3


async def test_a_code_of_another_challenge_is_worth_nothing(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """A code that was issued to somebody else's challenge and slipped into this login is refused (RFC 7636)."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    page = await begin(person, server)
    tampered = await person.open(changed(page.url, code_challenge=code_challenge("v" * 43)))
    page = await person.open(await decide(tampered))
    assert page.status == 400
    assert await token_of(server) is None


async def test_an_app_without_a_secret_logs_in_and_refreshes(
    new_server: NewServer, sandbox: Sandbox, person: Person, clock: Any, token_of: Any
) -> None:
    """A PKCE app authenticates by its client id in the body, at the exchange and at every refresh."""
    server = await new_server()
    page = await person.log_in(origin(server), DEFAULT_PKCE_CLIENT_ID)
    assert (page.url, page.status) == (f"{origin(server)}/home", 200)
    first = await token_of(server)
    clock.advance(1600)
    await server.rotation.tick()
    assert await token_of(server) not in (first, None)
    assert {one.client_id for one in sandbox.log if one.grant_type} == {DEFAULT_PKCE_CLIENT_ID}


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


async def test_pkce_can_be_turned_off(
    new_server: NewServer, credentials: Any, person: Person, token_of: Any
) -> None:
    """A web app whose identity server knows no PKCE logs in with its secret alone."""
    server = await new_server(**credentials, pkce=False)
    page = await begin(person, server)
    assert "code_challenge" not in query(page.url)
    assert (await person.consent(page)).status == 200
    assert await token_of(server) is not None


async def test_a_login_begun_at_127_0_0_1_finishes_at_localhost(
    server: Server, person: Person, token_of: Any
) -> None:
    """Cookies belong to a host name, so the browser is moved to the redirect URI's before it gets one."""
    page = await person.open(f"http://127.0.0.1:{server.port}/home")
    assert page.url == f"{origin(server)}/home"
    assert (await person.consent(await person.submit(page))).status == 200
    assert "127.0.0.1" not in person.cookies or not person.cookies["127.0.0.1"]
    assert await token_of(server) is not None


async def test_two_tabs_of_one_browser_both_finish(
    server: Server, person: Person, token_of: Any
) -> None:
    """A second login that is begun meanwhile does not break the first, nor the other way round."""
    one, two = await begin(person, server), await begin(person, server)
    assert (await person.consent(one)).status == 200
    first = await token_of(server)
    assert (await person.consent(two)).status == 200
    assert await token_of(server) not in (first, None)


async def test_two_tabs_finish_in_the_other_order_too(
    server: Server, person: Person, token_of: Any
) -> None:
    """The login that was begun last may come back first."""
    one, two = await begin(person, server), await begin(person, server)
    assert (await person.consent(two)).status == 200
    assert (await person.consent(one)).status == 200
    assert await token_of(server) is not None


async def test_many_abandoned_logins_do_not_hinder_the_next(
    server: Server, person: Person, token_of: Any
) -> None:
    """The cookies of logins that never came back don't pile up until the browser's requests are too large."""
    for _ in range(12):
        page = await begin(person, server)
    assert sum(len(value) for value in person.cookies["localhost"].values()) < 8192
    assert (await person.consent(page)).status == 200
    assert await token_of(server) is not None


async def test_after_success_the_address_is_clean_and_the_cookies_are_gone(
    new_server: NewServer, person: Person
) -> None:
    """Neither the code nor anything of the login stays in the browser."""
    server = await new_server()
    page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    assert page.url == f"{origin(server)}/home"
    assert person.cookies["localhost"] == {}


async def test_the_only_organisation_is_taken_and_a_tenant_that_was_asked_for_is_kept(
    new_server: NewServer, sandbox: Sandbox, person: Person, get: Any
) -> None:
    """Without a tenant id in the form the only connected organisation is used; with one, that one."""
    server = await new_server()
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    only = next(iter(sandbox.world.accounting.organisations))
    assert (await get(f"{server.url}/token")).json["tenantId"] == only
    await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, only.upper())
    assert (await get(f"{server.url}/token")).json["tenantId"].lower() == only


async def test_more_scopes_than_asked_for_are_no_error(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, log_in: Any, get: Any
) -> None:
    """Xero's scopes are additive: what was consented to earlier comes back too."""
    sandbox.log_in(["offline_access", "accounting.contacts"])
    server = await new_server(**credentials, scopes=("offline_access", "accounting.transactions"))
    await log_in(server)
    scopes = (await get(f"{server.url}/token")).json["scopes"]
    assert {"offline_access", "accounting.transactions", "accounting.contacts"} == set(scopes)


async def test_an_answer_that_names_the_right_issuer_is_taken(
    server: Server, sandbox: Sandbox, log_in: Any, token_of: Any
) -> None:
    """RFC 9207: a server that adds ``iss`` to the callback is no stranger for it."""
    sandbox.identity.switches = replace(sandbox.identity.switches, add_iss=True)
    await log_in(server)
    assert await token_of(server) is not None


# ---------------------------------------------------------------------------------------------- the state


async def test_a_replayed_callback_changes_nothing(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """The back button after a login gets an explanation, and the login stands."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    assert (await person.open(callback)).status == 200
    token = await token_of(server)
    page = await person.open(callback)
    assert page.status == 400
    assert "Begin again" in page.text
    assert await token_of(server) == token


async def test_a_callback_replayed_with_its_cookies_restored_changes_nothing(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """Should a browser bring its cookie again, Xero's single use of the code is the guard."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    cookies = dict(person.cookies["localhost"])
    assert (await person.open(callback)).status == 200
    token = await token_of(server)
    person.cookies["localhost"] = cookies
    assert (await person.open(callback)).status == 400
    assert await token_of(server) == token


async def test_swapped_states_log_nobody_in(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """The code of one login does not pass under the state of another of the same browser."""
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
    """Only the state itself, whole and unchanged, finishes a login; anything else is the visitor's mistake."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    page = await person.open(changed(callback, state=alter(query(callback)["state"])))
    assert page.status == 400
    assert await token_of(server) is None


async def test_an_expired_state_is_refused(
    server: Server, person: Person, clock: Any, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """A login that takes 11 minutes is over, even if its code is fresh."""
    expected_log(REFUSED_AT_CODE)
    consent = await begin(person, server)
    clock.advance(11 * 60)
    page = await person.open(await decide(consent))
    assert page.status == 400
    assert "10 minutes" in page.text
    assert await token_of(server) is None


async def test_a_login_of_nine_minutes_is_in_time(
    server: Server, person: Person, clock: Any, decide: Any, token_of: Any
) -> None:
    """A person may look for a password."""
    consent = await begin(person, server)
    clock.advance(9 * 60)
    assert (await person.open(await decide(consent))).status == 200
    assert await token_of(server) is not None


async def test_another_browsers_state_is_refused(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """Whoever lures a victim to his own callback does not connect his Xero to the victim's programs."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    victim = Person()
    assert (await victim.open(callback)).status == 400
    await begin(victim, server)
    assert (await victim.open(callback)).status == 400
    assert await token_of(server) is None
    assert (await person.open(callback)).status == 200


async def test_a_cookie_that_was_made_elsewhere_is_refused(
    server: Server,
    new_server: NewServer,
    credentials: Any,
    person: Person,
    decide: Any,
    expected_log: Any,
) -> None:
    """A login's cookie opens only where it was sealed; another server's, or one moved to another name, does not."""
    expected_log(REFUSED_AT_CODE)
    other = await new_server(**credentials)
    callback = await decide(await begin(person, server))
    assert (await person.open(callback.replace(str(server.port), str(other.port)))).status == 400
    [(name, sealed)] = person.cookies["localhost"].items()
    state = "B" * 16 + query(callback)["state"][16:]
    person.cookies["localhost"] = {name[:-16] + "B" * 16: sealed}
    assert (await person.open(changed(callback, state=state))).status == 400


# --------------------------------------------------------------------------------------- logins that fail


async def test_a_program_at_the_redirect_endpoint_gets_a_problem(
    server: Server, get: Any, expected_log: Any
) -> None:
    """Without a browser's cookie there is no login to finish, and the answer says so in JSON."""
    expected_log(REFUSED_AT_CODE)
    answer = await get(f"{server.url}/code?code=abc&state=def")
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["type"].endswith("login-failed")


async def test_a_cancelled_consent_is_taken_kindly(
    logged_in: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """Cancel at Xero leads to a page that says so and leads back, and leaves a live login alone."""
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
    """An answer that says nothing is refused with a page."""
    expected_log(REFUSED_AT_CODE)
    page = await person.open(changed(await decide(await begin(person, server)), code=None))
    assert page.status == 400
    assert 'href="/home"' in page.text


async def test_what_xero_says_is_shown_as_text_only(
    server: Server, person: Person, decide: Any, expected_log: Any
) -> None:
    """An error description of the callback is never markup on the page."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server), "cancel")
    page = await person.open(
        changed(callback, error="odd", error_description="<script>alert(1)</script>")
    )
    assert "<script" not in page.text
    assert "<script>alert(1)</script>" in unescape(page.text)


async def test_an_unregistered_redirect_uri_never_comes_back_and_home_says_why(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """Xero shows its own error page then; the next look at home names the likely causes."""
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
    """A wrong secret in the form is told, and the login that was live goes on: served, and refreshed when due."""
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
async def test_an_exchange_that_goes_wrong_leaves_a_live_login_untouched(
    logged_in: Server,
    sandbox: Sandbox,
    person: Person,
    token_of: Any,
    expected_log: Any,
    fault: str,
) -> None:
    """Whatever Xero answers to the code of a second login, the first one's token is still served."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    token = await token_of(logged_in)
    consent = await begin(person, logged_in)
    sandbox.add_fault(f"token:every:{fault}")
    page = await person.consent(consent)
    assert page.status >= 400
    assert 'href="/home"' in page.text
    assert await token_of(logged_in) == token


async def test_fewer_scopes_than_asked_for_is_an_error(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """A scope that was asked for and not granted is named, and nobody is logged in."""
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
    """Without a refresh token the login would be over in half an hour, so it is refused and told."""
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
async def test_an_answer_of_another_issuer_is_refused(
    server: Server,
    sandbox: Sandbox,
    person: Person,
    decide: Any,
    token_of: Any,
    expected_log: Any,
    issuer: str,
) -> None:
    """RFC 9207: a code that another server issued is not sent to this one."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    page = await person.open(changed(callback, iss=issuer))
    assert page.status == 400
    assert await token_of(server) is None
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
async def test_a_parameter_given_twice_is_refused(
    server: Server,
    sandbox: Sandbox,
    person: Person,
    decide: Any,
    token_of: Any,
    expected_log: Any,
    name: str,
) -> None:
    """RFC 6749 section 3.1: no parameter may come more than once, and no code is sent on then."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    value = query(callback).get(name, sandbox.url)
    twice = f"{changed(callback, **{name: value})}&{urlencode({name: value})}"
    assert (await person.open(twice)).status == 400
    assert await token_of(server) is None
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


async def test_a_tenant_that_is_not_connected_is_refused_with_those_that_are(
    new_server: NewServer, sandbox: Sandbox, person: Person, token_of: Any, expected_log: Any
) -> None:
    """A mistyped tenant id does not become the tenant that programs book into."""
    expected_log(LOGIN_REFUSED, REFUSED_AT_CODE)
    server = await new_server()
    tenant_id = "11111111-2222-4333-8444-555555555555"
    page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, tenant_id)
    assert page.status == 400
    assert next(iter(sandbox.world.accounting.organisations)) in page.text
    assert await token_of(server) is None


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


# ------------------------------------------------------------------------------------------- secrets kept


async def test_cookies_are_for_the_server_only_and_hold_nothing_readable(
    new_server: NewServer, send: Any
) -> None:
    """HttpOnly, SameSite=Lax, for ten minutes at most; neither the secret, the state nor the verifier can be read."""
    server = await new_server()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode({"client_id": DEFAULT_CLIENT_ID, "client_secret": DEFAULT_CLIENT_SECRET})
    posted = await send("POST", f"{origin(server)}/login", headers, form)
    [form_cookie] = posted.headers.get_list("Set-Cookie")
    begun = await send(
        "POST", f"{origin(server)}/home", {"Cookie": form_cookie.partition(";")[0]}, ""
    )
    [login_cookie] = begun.headers.get_list("Set-Cookie")
    asked = query(begun.headers["Location"])
    for cookie in (form_cookie, login_cookie):
        value, *attributes = cookie.split("; ")
        settings = {
            name.lower(): setting for name, _, setting in (one.partition("=") for one in attributes)
        }
        assert "httponly" in settings
        assert settings["samesite"] == "Lax"
        assert settings["path"] == "/"
        assert 0 < int(settings["max-age"]) <= 600
        assert "domain" not in settings
        sealed = value.partition("=")[2]
        for shown in (sealed, base64.urlsafe_b64decode(sealed.strip('"')).decode("latin-1")):
            assert DEFAULT_CLIENT_SECRET not in shown
            assert DEFAULT_CLIENT_ID not in shown
            assert asked["state"] not in shown
            assert not verifies(shown, asked["code_challenge"])


def verifies(text: str, challenge: str) -> bool:
    """Does any part of the text prove the challenge? It is S256 of a verifier of 43 characters."""
    digest = base64.urlsafe_b64decode(challenge + "=")
    raw = text.encode()
    return any(hashlib.sha256(raw[at : at + 43]).digest() == digest for at in range(len(raw) - 42))


class Diarist(Person):
    """A person whose browser notes every address it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def _headers(self, url: str, site: str, origin: str | None) -> dict[str, str]:
        self.addresses.append(url)
        return super()._headers(url, site, origin)


async def test_credentials_stand_in_no_address_and_no_log(
    new_server: NewServer,
    clock: Any,
    canaries: Any,
    get: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """At level DEBUG, through a login, a refresh and failed logins: no secret, token, code, state or verifier."""
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


async def test_a_stopping_server_loses_no_login_that_was_begun(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """A code exchange in flight is concluded and kept before the server ends."""
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
