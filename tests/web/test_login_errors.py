"""Every way in which a login fails. A page and a log line explain it, and nothing is lost.

Each case runs at a server without a login, and at one with a live login.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.web import changed, one_form, origin, query

from xots.lifecycle.account import Account
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, GRANULAR_SCOPES, Sandbox
from xots.sandbox.person import Page, Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

AT_CODE = r"WARNING xots\.web: GET /code: "
REFUSED = r"WARNING xots: default: login failed: "
UNKNOWN_TENANT = "11111111-2222-4333-8444-555555555555"


@dataclass
class Stage:
    """The server, the sandbox and the user of a case."""

    server: Server
    sandbox: Sandbox
    person: Person
    decide: Callable[..., Awaitable[str]]
    before: Account | None = None

    async def begin(self) -> Page:
        """Press the button on ``/home``. The browser shows Xero's page then."""
        return await self.person.submit(await self.home())

    async def home(self) -> Page:
        return await self.person.open(f"{origin(self.server)}/home")

    def mark(self) -> None:
        """Demand that the record at the end is the record of now."""
        self.before = self.server.keeper.account

    def change_client(self, **changes: Any) -> None:
        """Change the registration of the app at Xero."""
        client = self.sandbox.identity.clients[DEFAULT_CLIENT_ID]
        self.sandbox.identity.register(replace(client, **changes))

    def switch(self, **changes: Any) -> None:
        self.sandbox.identity.switches = replace(self.sandbox.identity.switches, **changes)


# ---------- the cases: the actions of the user, up to the last page


async def cancelled(stage: Stage) -> Page:
    return await stage.person.open(await stage.decide(await stage.begin(), "cancel"))


async def wrong_secret(stage: Stage) -> Page:
    return await stage.person.log_in(origin(stage.server), DEFAULT_CLIENT_ID, "wrong-secret-canary")


async def wrong_redirect(stage: Stage) -> Page:
    stage.change_client(redirect_uris=("http://localhost:1/code",))
    page = await stage.begin()
    assert (page.status, page.url.startswith(stage.sandbox.url)) == (500, True)
    return await stage.home()


async def unknown_client(stage: Stage) -> Page:
    page = await stage.person.open(f"{origin(stage.server)}/login")
    home = await stage.person.submit(page, client_id="MISTYPED", client_secret="s", tenant_id="")
    page = await stage.person.submit(home)
    assert (page.status, page.url.startswith(stage.sandbox.url)) == (500, True)
    return await stage.home()


async def expired_code(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    stage.sandbox.clock.advance(6 * 60)
    return await stage.person.open(callback)


async def replayed_code(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    cookies = dict(stage.person.cookies["localhost"])
    assert (await stage.person.open(callback)).status == 200
    stage.person.cookies["localhost"] = cookies
    stage.mark()
    return await stage.person.open(callback)


async def pressed_back(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    assert (await stage.person.open(callback)).status == 200
    stage.mark()
    return await stage.person.open(callback)


async def unknown_state(stage: Stage) -> Page:
    return await stage.person.open(changed(await stage.decide(await stage.begin()), state="B" * 43))


async def scope_refused_by_page(stage: Stage) -> Page:
    stage.change_client(new_app=True)
    page = await stage.begin()
    assert (page.status, page.url.startswith(stage.sandbox.url)) == (500, True)
    return await stage.home()


async def scope_refused_by_callback(stage: Stage) -> Page:
    stage.change_client(new_app=True)
    stage.switch(refused_scopes_come_back=True)
    page = await stage.begin()
    assert urlsplit(page.url).path == "/code"
    return page


async def not_connected(stage: Stage) -> Page:
    return await stage.person.log_in(
        origin(stage.server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, tenant_id=UNKNOWN_TENANT
    )


async def xero_unreachable(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    stage.sandbox.options = replace(stage.sandbox.options, port=stage.sandbox.port)
    await stage.sandbox.stop()
    try:
        return await stage.person.open(callback)
    finally:
        stage.sandbox.start()


async def xero_does_not_respond(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    stage.sandbox.add_fault("token:every:reset")
    return await stage.person.open(callback)


@dataclass(frozen=True)
class Case:
    """A failure, and the patterns of its explanation. REDIRECT stands for the redirect URI."""

    play: Callable[[Stage], Awaitable[Page]]
    status: int
    happened: str
    to_do: str
    comes_back: bool = True
    """False if Xero shows an error page and never redirects: ``/home`` names the likely causes."""


CASES = [
    Case(cancelled, 400, r"cancelled", r"start again"),
    Case(
        wrong_secret,
        400,
        r"does not accept the client id and secret \(invalid_client\)",
        r"correct the client id or secret.*log in again",
    ),
    Case(
        wrong_redirect,
        200,
        r"has not come back",
        r"redirect URI exactly as\s+REDIRECT",
        comes_back=False,
    ),
    Case(
        unknown_client,
        200,
        r"has not come back",
        r"client id MISTYPED is mistyped",
        comes_back=False,
    ),
    Case(expired_code, 400, r"Xero refused the code.*older than 5 minutes", r"log in again"),
    Case(replayed_code, 400, r"Xero refused the code.*used before", r"log in again"),
    Case(
        pressed_back,
        400,
        r"no login that was started in this browser",
        r"Start again at http://localhost:\d+/home",
    ),
    Case(
        unknown_state,
        400,
        r"no login that was started in this browser",
        r"Start again at http://localhost:\d+/home",
    ),
    Case(scope_refused_by_page, 200, r"has not come back", r"scopes.*granular", comes_back=False),
    Case(scope_refused_by_callback, 400, r"refused the scopes", r"granular"),
    Case(
        not_connected, 400, "the chosen tenant is not among the connected", r"Demo Company \(NZ\)"
    ),
    Case(xero_unreachable, 400, r"can't reach 127\.0\.0\.1", r"log in again"),
    Case(xero_does_not_respond, 400, r"no complete response from 127\.0\.0\.1", r"log in again"),
]


@pytest.fixture(params=["no login", "a live login"])
async def stage(
    request: pytest.FixtureRequest,
    server: Server,
    sandbox: Sandbox,
    log_in: Callable[[Server], Awaitable[None]],
    decide: Any,
    clock: Any,
) -> Stage:
    """A server in one of two states, and a user with a new browser."""
    if request.param == "a live login":
        await log_in(server)
        clock.advance(1)
    return Stage(server, sandbox, Person(), decide, server.keeper.account)


# ---------- the tests of each case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_a_failed_login_is_explained_and_changes_nothing(
    stage: Stage,
    clock: Any,
    get: Any,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
    case: Case,
) -> None:
    """The page says what happened and what to do. A live login is still served and refreshed."""
    caplog.set_level(logging.INFO)
    expected_log.perhaps(REFUSED, AT_CODE, r"WARNING xots")
    server = stage.server
    page = await case.play(stage)

    assert page.status == case.status
    shown = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", page.text)))
    told = [
        pattern.replace("REDIRECT", re.escape(f"{origin(server)}/code"))
        for pattern in (case.happened, case.to_do)
    ]
    for pattern in told:
        assert re.search(pattern, shown, re.IGNORECASE), shown
    assert 'href="/home"' in page.text or urlsplit(page.url).path == "/home"
    assert "wrong-secret-canary" not in page.text + caplog.text

    account = server.keeper.account
    assert account == stage.before
    response = await get(f"{server.url}/token")
    if stage.before is not None and stage.before.access:
        assert (response.status, response.json["accessToken"]) == (
            200,
            stage.before.access.value.reveal(),
        )
        stage.sandbox.faults.clear()
        clock.advance(1500)
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).json["expiresIn"] == 1800
    else:
        assert response.status == 401
        assert (await get(f"{server.url}/livez")).status == 503


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_a_failed_login_leaves_a_line_in_the_log(
    stage: Stage, expected_log: Any, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    """An operator who sees only the log learns the same, also of a login that never returns."""
    caplog.set_level(logging.INFO)
    expected_log.perhaps(r"WARNING xots")
    await case.play(stage)
    told = [case.happened, case.to_do]
    if not case.comes_back:
        told = [r"not returned", re.escape(f"{origin(stage.server)}/code")]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("xots")]
    assert [line for line in lines if all(re.search(one, line, re.IGNORECASE) for one in told)], (
        lines
    )


# A response with an unknown state belongs to no known login: the started one may still return.
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.comes_back and case.play is not unknown_state],
    ids=lambda case: case.play.__name__,
)
async def test_after_a_failed_login_the_state_is_no_longer_waiting(
    stage: Stage, get: Any, expected_log: Any, case: Case
) -> None:
    """The user has returned, so no login is in progress."""
    expected_log.perhaps(r"WARNING xots")
    await case.play(stage)
    state = (await get(f"{stage.server.url}/status")).json["state"]
    assert state == ("connected" if stage.before and stage.before.access else "not-logged-in")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_the_next_login_succeeds_once_the_cause_is_removed(
    stage: Stage, get: Any, expected_log: Any, case: Case
) -> None:
    """No failure leaves an obstacle in the browser or the server."""
    expected_log.perhaps(r"WARNING xots")
    await case.play(stage)
    stage.sandbox.faults.clear()
    stage.change_client(new_app=False, redirect_uris=(f"{origin(stage.server)}/code",))
    page = await stage.person.log_in(origin(stage.server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    assert (page.status, page.url) == (200, f"{origin(stage.server)}/home")
    account = stage.server.keeper.account
    assert account.access is not None
    assert account.consent_id != (stage.before.consent_id if stage.before else None)
    assert (await get(f"{stage.server.url}/token")).json[
        "accessToken"
    ] == account.access.value.reveal()


# ---------- refused scopes, and redirects that never come


@pytest.mark.parametrize("comes_back", [False, True], ids=["Xero's own page", "access_denied"])
async def test_the_button_for_the_granular_scopes_helps_after_a_refusal(
    stage: Stage, get: Any, expected_log: Any, comes_back: bool
) -> None:
    """Xero may refuse the classic scopes on its own page or by a redirect."""
    expected_log.perhaps(AT_CODE, REFUSED)
    await (scope_refused_by_callback if comes_back else scope_refused_by_page)(stage)
    if stage.before and stage.before.consent_id:
        # Xero's scopes are additive: without this, the consent would include the classic ones.
        stage.sandbox.identity.forget()
    home = await stage.home()
    page = await stage.person.submit(one_form(home, 'value="granular"'))
    assert page.url.startswith(stage.sandbox.authorize_url)
    requested = query(page.url)["scope"].split()
    assert "offline_access" in requested
    assert set(requested) - {"offline_access"} <= GRANULAR_SCOPES
    home = await stage.person.consent(page)
    assert (home.status, home.url) == (200, f"{origin(stage.server)}/home")
    assert 'value="granular"' not in home.text
    assert (await get(f"{stage.server.url}/token")).json["scopes"] == requested


async def test_the_granular_scopes_are_not_offered_twice(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, person: Person, decide: Any
) -> None:
    """If a login with them does not return, there is another cause."""
    server = await new_server(**credentials, scopes=("offline_access", "no.such.scope"))
    stage = Stage(server, sandbox, person, decide)
    assert (await stage.begin()).status == 500
    home = await stage.home()
    page = await person.submit(one_form(home, 'value="granular"'))
    assert page.url.startswith(sandbox.authorize_url)
    assert page.status == 200
    assert 'value="granular"' not in (await stage.home()).text


async def test_the_hint_about_a_login_is_for_its_own_browser_and_expires(
    server: Server, sandbox: Sandbox, person: Person, clock: Any, decide: Any
) -> None:
    """It disappears after ten minutes. Another browser never shows it."""
    stage = Stage(server, sandbox, person, decide)
    await wrong_redirect(stage)
    assert "has not come back" in (await stage.home()).text
    assert "has not come back" not in (await Person().open(f"{origin(server)}/home")).text
    clock.advance(10 * 60)
    assert "has not come back" not in (await stage.home()).text


# ---------- organisations that are not connected


async def test_the_page_lists_the_connected_organisations(
    stage: Stage, sandbox: Sandbox, expected_log: Any
) -> None:
    """Each with its id and its name, and no other."""
    expected_log(REFUSED, AT_CODE)
    page = await not_connected(stage)
    connected, other = sandbox.world.accounting.organisations.values()
    assert connected.tenant_id in page.text
    assert str(connected.name) in unescape(page.text)
    assert other.tenant_id not in page.text


async def test_a_tenant_of_the_settings_that_is_not_connected_is_an_error(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    person: Person,
    get: Any,
    decide: Any,
    expected_log: Any,
) -> None:
    """A login to another organisation fails, and changes nothing."""
    expected_log(REFUSED, AT_CODE)
    connected, wanted = sandbox.world.accounting.organisations
    server = await new_server(**credentials, tenant_id=wanted)
    stage = Stage(server, sandbox, person, decide)
    page = await person.open(await decide(await stage.begin(), tenants=(connected,)))
    assert page.status == 400
    assert "chosen tenant is not among" in page.text
    assert wanted not in page.text  # it may be a secret in the wrong place
    assert connected in page.text
    assert server.keeper.account.consent_id is None
    page = await person.open(await decide(await stage.begin(), tenants=(connected, wanted)))
    assert page.status == 200
    assert (await get(f"{server.url}/token")).json["tenantId"] == wanted
