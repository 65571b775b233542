"""Floods of requests: what their callers receive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.bench import eventually
from support.inside import in_flight_of
from support.web import BROWSER, WANTS_PAGE, begin, changed, origin

from xots.keeping.login_limit import LOGIN_INTERVAL_SECONDS, MAX_LOGINS_IN_A_ROW
from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.policy import Policy
from xots.sandbox import Endpoint, Sandbox
from xots.sandbox.person import Person
from xots.server import Server
from xots.settings import Settings
from xots.testing import FakeClock

LogIn = Callable[[Server], Awaitable[None]]


def requests(sandbox: Sandbox, endpoint: Endpoint) -> int:
    """Return the number of requests that Xero saw at this endpoint."""
    return sum(request.endpoint is endpoint for request in sandbox.log)


def test_the_settings_and_the_keeper_have_the_same_defaults() -> None:
    """A keeper without settings, such as in a program of a user, has the same limits."""
    assert Settings().policy == Policy()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refresh_right_after_another_returns_the_token_just_issued(
    new_server: Any,
    credentials: dict[str, Any],
    log_in: LogIn,
    sandbox: Sandbox,
    send: Any,
    clock: FakeClock,
    method: str,
) -> None:
    """It is the login's at first. The setting is the interval."""
    server = await new_server(refresh_interval=30, **credentials)
    await log_in(server)
    body = "" if method == "POST" else None
    for made in (0, 1):
        for _ in range(20):
            response = await send(method, f"{server.url}/refresh", body=body)
            assert (response.status, response.headers["Location"]) == (303, "/token")
        assert len(sandbox.refreshes()) == made
        clock.advance(30)


async def test_the_list_of_organisations_is_kept_for_all_requests(
    logged_in: Server, sandbox: Sandbox, get: Any, clock: FakeClock
) -> None:
    """A response that is no list is a failure of Xero's, which is not passed on."""
    before = requests(sandbox, Endpoint.CONNECTIONS)
    bodies = {(await get(f"{logged_in.url}/tenants")).body for _ in range(20)}
    assert len(bodies) == 1
    assert requests(sandbox, Endpoint.CONNECTIONS) == before


async def test_a_response_that_is_no_list_is_not_passed_on(
    logged_in: Server, sandbox: Sandbox, get: Any, clock: FakeClock, expected_log: Any
) -> None:
    """Its status is 200, and its body is not JSON."""
    expected_log(r"WARNING xots\.web: GET /tenants: ")
    clock.advance(LIST_KEPT_SECONDS)
    sandbox.add_fault("connections:every:not-json")
    response = await get(f"{logged_in.url}/tenants")
    assert (response.status, response.json["type"]) == (502, "urn:xots:upstream-failed")


@pytest.mark.safeguard(
    file="web/callback.py",
    old="            self.keep_cookie(login)\n            raise\n",
    new="            raise\n",
    protects_from="a flood that makes users start their logins again",
)
async def test_a_login_that_was_refused_for_a_flood_finishes_by_a_reload(
    server: Server,
    person: Person,
    decide: Any,
    send: Any,
    clock: FakeClock,
    sandbox: Sandbox,
    expected_log: Any,
) -> None:
    """The page says when, and its code was not spent. A program receives a problem."""
    expected_log(r"WARNING xots\.web: GET /code: ", r"WARNING xots: default: ")
    callback = await decide(await begin(person, server))
    cookie = "; ".join(f"{name}={value}" for name, value in person.cookies["localhost"].items())
    invented = changed(callback, code="invented")
    for _ in range(MAX_LOGINS_IN_A_ROW):
        assert (await send("GET", invented, {"Cookie": cookie})).status == 400
    sent = requests(sandbox, Endpoint.TOKEN)
    refused = await send("GET", invented, {"Cookie": cookie})
    assert (refused.status, refused.json["type"]) == (429, "urn:xots:too-many-logins")
    assert 1 <= int(refused.headers["Retry-After"]) <= LOGIN_INTERVAL_SECONDS
    page = await send("GET", callback, {"Cookie": cookie, **WANTS_PAGE})
    assert page.status == 429
    assert "reload this page" in page.text
    assert "invented" not in page.text
    assert (await person.open(callback)).status == 429
    assert requests(sandbox, Endpoint.TOKEN) == sent
    clock.advance(LOGIN_INTERVAL_SECONDS)
    assert (await person.open(callback)).status == 200
    assert server.keeper.can_serve


# ---------- requests that wait


@pytest.mark.safeguard(
    file="web/handler.py",
    old="        if self.is_crowded:\n",
    new="        if False:\n",
    protects_from="memory that grows with each client that sends a request and leaves",
)
@pytest.mark.safeguard(
    file="web/tokens.py",
    old="token(demand.min_ttl, may_wait=not self.is_crowded)",
    new="token(demand.min_ttl, may_wait=True)",
    protects_from="a program that takes all connections by requests for a longer lifetime",
)
@pytest.mark.safeguard(
    file="web/tokens.py",
    old="tenant(demand.tenant, may_wait=not self.is_crowded)",
    new="tenant(demand.tenant, may_wait=True)",
    protects_from="a program that takes all connections by names of unknown organisations",
)
async def test_requests_that_wait_leave_room_for_those_that_need_not(
    new_server: Any,
    credentials: dict[str, Any],
    log_in: LogIn,
    sandbox: Sandbox,
    get: Any,
    clock: FakeClock,
    expected_log: Any,
) -> None:
    """While Xero does not respond, half of the connections wait for it at most. The others receive
    the token in memory, or a 503 at once."""
    expected_log(r"WARNING xots\.web: GET /(refresh|tenants): many", r"GET /token: ")
    server = await new_server(max_connections=10, **credentials)
    await log_in(server)
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    callers = [asyncio.create_task(get(f"{server.url}/token?min_ttl=1700")) for _ in range(5)]
    await sandbox.held()
    await eventually(lambda: in_flight_of(server).count == len(callers))
    for path in ("/refresh", "/tenants", "/token?min_ttl=1700", "/token?tenant=nobody"):
        response = await get(f"{server.url}{path}")
        assert (response.status, response.headers["Retry-After"]) == (503, "1"), path
    for path in ("/token", "/status", "/livez", "/ping", "/ready"):
        assert (await get(f"{server.url}{path}")).status == 200
    page = await get(f"{origin(server)}/home", **BROWSER)
    assert (page.status, "Connected" in page.text) == (200, True)
    end = asyncio.create_task(get(f"{server.url}/logout"))
    await eventually(lambda: in_flight_of(server).count == len(callers) + 1)
    sandbox.release()
    await asyncio.gather(*callers)
    assert (await end).status == 303
    assert server.keeper.credentials is None or server.keeper.account.consent_id is None
