"""Every way in which a login fails: a page and a log line that say what happened and what to do, and nothing is lost.

Each case runs at a server that nobody is logged in to, and at one with a live login.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from xots.lifecycle.account import Account
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, GRANULAR_SCOPES, Sandbox
from xots.sandbox.person import Page, Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

AT_CODE = r"WARNING xots\.web: GET /code: "
REFUSED = r"WARNING xots: default: login failed: "

UNKNOWN_TENANT = "11111111-2222-4333-8444-555555555555"


def origin(server: Server) -> str:
    return f"http://localhost:{server.port}"


def changed(url: str, **changes: str) -> str:
    """The URL with other parameters in its query."""
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    return f"{url.partition('?')[0]}?{urlencode(query | changes)}"


def one_form(page: Page, marker: str) -> Page:
    """The page with only that form left on it in whose markup ``marker`` stands."""
    forms = [
        form for form in re.findall(r"<form.*?</form>", page.text, re.DOTALL) if marker in form
    ]
    assert len(forms) == 1, f"{len(forms)} forms with {marker!r} on the page"
    return replace(page, text=forms[0])


@pytest.fixture
def decide(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[str]]:
    """Decides on a consent page, and gives the address at which Xero sends the browser back, not yet followed."""

    async def decide(page: Page, action: str = "allow", tenants: tuple[str, ...] = ()) -> str:
        fields = [("tenant", tenant) for tenant in tenants] or page.form.fields
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return (
            await send("POST", page.url, headers, urlencode([*fields, ("action", action)]))
        ).headers["Location"]

    return decide


@dataclass
class Stage:
    """What the cases play on."""

    server: Server
    sandbox: Sandbox
    person: Person
    decide: Callable[..., Awaitable[str]]
    before: Account | None = None

    async def begin(self) -> Page:
        """Press the button on ``/home``; what the browser shows then is Xero's page."""
        return await self.person.submit(await self.home())

    async def home(self) -> Page:
        return await self.person.open(f"{origin(self.server)}/home")

    def mark(self) -> None:
        """What is known now must be what is known at the end."""
        self.before = self.server.keeper.account

    def change_client(self, **changes: Any) -> None:
        """Change how the app is registered at Xero."""
        client = self.sandbox.identity.clients[DEFAULT_CLIENT_ID]
        self.sandbox.identity.register(replace(client, **changes))

    def switch(self, **changes: Any) -> None:
        self.sandbox.identity.switches = replace(self.sandbox.identity.switches, **changes)


# ------------------------------------------------------------------- the cases: what the person does and sees last


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


async def xero_does_not_answer(stage: Stage) -> Page:
    callback = await stage.decide(await stage.begin())
    stage.sandbox.add_fault("token:every:reset")
    return await stage.person.open(callback)


@dataclass(frozen=True)
class Case:
    """A way to fail, and what must be told of it. In the patterns, REDIRECT stands for the exact redirect URI."""

    play: Callable[[Stage], Awaitable[Page]]
    status: int
    happened: str
    to_do: str
    comes_back: bool = True
    """False: Xero shows an error page of its own, and the server hears nothing; ``/home`` tells the likely causes."""


CASES = [
    Case(cancelled, 400, r"cancelled", r"begin again"),
    Case(
        wrong_secret,
        400,
        r"does not accept the client id and secret \(invalid_client\)",
        r"check both.*log in again",
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
        r"no login that was begun in this browser",
        r"Begin again at http://localhost:\d+/home",
    ),
    Case(
        unknown_state,
        400,
        r"no login that was begun in this browser",
        r"Begin again at http://localhost:\d+/home",
    ),
    Case(scope_refused_by_page, 200, r"has not come back", r"scopes.*granular", comes_back=False),
    Case(scope_refused_by_callback, 400, r"refused the scopes", r"granular"),
    Case(
        not_connected, 400, rf"{UNKNOWN_TENANT} is not among the connected", r"Demo Company \(NZ\)"
    ),
    Case(xero_unreachable, 400, r"can't reach 127\.0\.0\.1", r"log in again"),
    Case(xero_does_not_answer, 400, r"no complete response from 127\.0\.0\.1", r"log in again"),
]


@pytest.fixture(params=["nobody is logged in", "a login is live"])
async def stage(
    request: pytest.FixtureRequest,
    server: Server,
    sandbox: Sandbox,
    log_in: Callable[[Server], Awaitable[None]],
    decide: Any,
    clock: Any,
) -> Stage:
    """A server in one of two states, and a person with a browser that has never been there."""
    if request.param == "a login is live":
        await log_in(server)
        clock.advance(1)
    return Stage(server, sandbox, Person(), decide, server.keeper.account)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_a_failed_login_is_explained_and_changes_nothing(
    stage: Stage,
    clock: Any,
    get: Any,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
    case: Case,
) -> None:
    """Page and log tell what happened and what to do; the record is what it was, and a live login goes on."""
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
    answer = await get(f"{server.url}/token")
    if stage.before is not None and stage.before.access:
        assert (answer.status, answer.json["accessToken"]) == (
            200,
            stage.before.access.value.reveal(),
        )
        stage.sandbox.faults.clear()
        clock.advance(1500)
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).json["expiresIn"] == 1800
    else:
        assert answer.status == 401
        assert (await get(f"{server.url}/livez")).status == 503


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_a_failed_login_leaves_a_line_in_the_log(
    stage: Stage, expected_log: Any, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    """An operator who sees only the log learns what happened and what to do, also of a login that never came back."""
    caplog.set_level(logging.INFO)
    expected_log.perhaps(r"WARNING xots")
    await case.play(stage)
    told = [case.happened, case.to_do]
    if not case.comes_back:
        told = [r"not come back", re.escape(f"{origin(stage.server)}/code")]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("xots")]
    assert [line for line in lines if all(re.search(one, line, re.IGNORECASE) for one in told)], (
        lines
    )


# Whose answer one with an unknown state was is not known: the login that was begun may still come back.
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.comes_back and case.play is not unknown_state],
    ids=lambda case: case.play.__name__,
)
async def test_after_a_failed_login_nothing_waits_any_more(
    stage: Stage, get: Any, expected_log: Any, case: Case
) -> None:
    """The person came back, so the state says where the login stands and not that one is under way."""
    expected_log.perhaps(r"WARNING xots")
    await case.play(stage)
    state = (await get(f"{stage.server.url}/status")).json["state"]
    assert state == ("connected" if stage.before and stage.before.access else "not-logged-in")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.play.__name__)
async def test_the_next_login_succeeds_once_the_cause_is_mended(
    stage: Stage, get: Any, expected_log: Any, case: Case
) -> None:
    """No failure leaves anything in the browser or the server that stands in the way of the next try."""
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


# ---------------------------------------------------------------------------------------- the granular scopes


@pytest.mark.parametrize("comes_back", [False, True], ids=["Xero's own page", "access_denied"])
async def test_refused_scopes_are_mended_by_the_button_for_the_granular_set(
    stage: Stage, get: Any, expected_log: Any, comes_back: bool
) -> None:
    """However Xero refuses the classic scopes of a new app, one button on home leads to a login with granular ones."""
    expected_log.perhaps(AT_CODE, REFUSED)
    await (scope_refused_by_callback if comes_back else scope_refused_by_page)(stage)
    if stage.before and stage.before.consent_id:
        # Xero's scopes are additive: the sandbox's user gives the classic ones up before she may go on without them.
        stage.sandbox.identity.forget()
    home = await stage.home()
    page = await stage.person.submit(one_form(home, 'value="granular"'))
    assert page.url.startswith(stage.sandbox.authorize_url)
    asked = dict(parse_qsl(urlsplit(page.url).query))["scope"].split()
    assert "offline_access" in asked
    assert set(asked) - {"offline_access"} <= GRANULAR_SCOPES
    home = await stage.person.consent(page)
    assert (home.status, home.url) == (200, f"{origin(stage.server)}/home")
    assert 'value="granular"' not in home.text
    assert (await get(f"{stage.server.url}/token")).json["scopes"] == asked


async def test_a_login_with_granular_scopes_that_does_not_come_back_offers_them_no_second_time(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, person: Person
) -> None:
    """Where the granular set was asked for already, another cause is at work."""
    server = await new_server(**credentials, scopes=("offline_access", "no.such.scope"))
    stage = Stage(server, sandbox, person, lambda page: person.open(page.url))
    assert (await stage.begin()).status == 500
    home = await stage.home()
    page = await person.submit(one_form(home, 'value="granular"'))
    assert page.url.startswith(sandbox.authorize_url)
    assert page.status == 200
    assert 'value="granular"' not in (await stage.home()).text


async def test_a_login_that_never_came_back_is_told_to_its_own_browser_only_and_not_for_ever(
    server: Server, sandbox: Sandbox, person: Person, clock: Any, decide: Any
) -> None:
    """Ten minutes on, it is over; another person's browser knows nothing of it."""
    stage = Stage(server, sandbox, person, decide)
    await wrong_redirect(stage)
    assert "has not come back" in (await stage.home()).text
    assert "has not come back" not in (await Person().open(f"{origin(server)}/home")).text
    clock.advance(10 * 60)
    assert "has not come back" not in (await stage.home()).text


# ------------------------------------------------------------------------------------------- organisations


async def test_the_page_names_those_organisations_that_are_connected(
    stage: Stage, sandbox: Sandbox, expected_log: Any
) -> None:
    """Each with its id and its name, and none that the person did not connect."""
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
    """With the tenant given by the settings, a login to another organisation is not taken for it."""
    expected_log(REFUSED, AT_CODE)
    connected, wanted = sandbox.world.accounting.organisations
    server = await new_server(**credentials, tenant_id=wanted)
    stage = Stage(server, sandbox, person, decide)
    page = await person.open(await decide(await stage.begin(), tenants=(connected,)))
    assert page.status == 400
    assert wanted in page.text
    assert connected in page.text
    assert server.keeper.account.consent_id is None
    page = await person.open(await decide(await stage.begin(), tenants=(connected, wanted)))
    assert page.status == 200
    assert (await get(f"{server.url}/token")).json["tenantId"] == wanted


async def test_the_only_organisation_is_taken_by_itself(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any
) -> None:
    """With one connected there is nothing to ask."""
    _, only = sandbox.world.accounting.organisations
    stage = Stage(server, sandbox, person, decide)
    page = await person.open(await decide(await stage.begin(), tenants=(only,)))
    assert 'type="radio"' not in page.text
    assert only in page.text
    assert (await get(f"{server.url}/token")).json["tenantId"] == only


async def test_among_several_organisations_the_person_chooses_on_home(
    server: Server, sandbox: Sandbox, person: Person, clock: Any, get: Any, decide: Any
) -> None:
    """Home lists them by name; the choice is what ``/token`` names from then on, over refreshes too."""
    organisations = sandbox.world.accounting.organisations
    stage = Stage(server, sandbox, person, decide)
    home = await person.open(await decide(await stage.begin(), tenants=tuple(organisations)))
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
    organisations = sandbox.world.accounting.organisations
    stage = Stage(server, sandbox, person, decide)
    home = await person.open(await decide(await stage.begin(), tenants=tuple(organisations)))
    account = server.keeper.account
    page = await person.submit(one_form(home, 'type="radio"'), tenant_id=UNKNOWN_TENANT)
    assert page.status == 400
    assert all(tenant_id in page.text for tenant_id in organisations)
    assert server.keeper.account == account


async def test_organisations_that_cannot_be_listed_are_told_and_do_not_break_home(
    server: Server, sandbox: Sandbox, person: Person, decide: Any
) -> None:
    """While Xero's list fails, home says so and everything else on it works."""
    stage = Stage(server, sandbox, person, decide)
    await person.open(
        await decide(await stage.begin(), tenants=tuple(sandbox.world.accounting.organisations))
    )
    sandbox.add_fault("connections:every:503-html")
    home = await stage.home()
    assert home.status == 200
    assert "can't be listed" in unescape(home.text)
    assert "Connected" in home.text


async def test_the_tenant_is_known_although_the_list_failed_at_the_login(
    server: Server, sandbox: Sandbox, person: Person, get: Any, decide: Any, expected_log: Any
) -> None:
    """The login is kept; the one organisation can be chosen on home as soon as Xero lists it."""
    expected_log(r"WARNING xots\.keeper: the organisations of the login could not be listed")
    stage = Stage(server, sandbox, person, decide)
    callback = await decide(await stage.begin())
    sandbox.add_fault("connections:first=1:503-html")
    await person.open(callback)
    assert (await get(f"{server.url}/token")).status == 200
    only = next(iter(sandbox.world.accounting.organisations))
    home = await stage.home()
    if 'type="radio"' in home.text:
        await person.submit(one_form(home, 'type="radio"'), tenant_id=only)
    assert (await get(f"{server.url}/token")).json["tenantId"] == only
