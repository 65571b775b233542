"""A foreign identity server by settings alone: Django OAuth Toolkit, which has a grace period."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from foreign.relay import Relay, Treatment

from xots.sandbox.person import Person
from xots.server import Server

SETTINGS = """\
store: "memory:"
client_id: books-client
client_secret: books-secret
authorize_url: {url}/o/authorize/
token_url: {token_url}
revoke_url: {url}/o/revoke_token/
connections_url: ""
scopes: books
refresh_interval: 0
"""


@pytest.fixture
def url(start_identity_server: Callable[[str], str]) -> str:
    return start_identity_server("django_toolkit.py")


@pytest.fixture
async def relay(url: str) -> AsyncIterator[Relay]:
    async with Relay(f"{url}/o/token/") as started:
        yield started


@pytest.fixture
async def server(
    url: str, relay: Relay, start_xots: Callable[..., Awaitable[Server]], person: Person
) -> Server:
    """A server after the login of the user, who allows the scopes of the consent page."""
    server = await start_xots(SETTINGS, url=url, token_url=relay.url)
    home = f"http://localhost:{server.port}/home"
    page = await person.submit(await person.open(home))
    page = await person.submit(page, username="ada", password="lovelace")
    page = await person.submit(page, allow="Authorize")
    assert (page.status, page.url) == (200, home)
    return server


async def test_login_refresh_and_revoke(server: Server, get: Any, expected_log: Any) -> None:
    """It takes the endpoints, the scope and an empty connections_url; no offline_access."""
    first = (await get(f"{server.url}/token")).json
    assert first["scopes"] == ["books"]
    assert first["tenantId"] is None

    spent = server.keeper.account.current
    assert (await get(f"{server.url}/refresh")).status == 303
    second = (await get(f"{server.url}/token")).json
    assert second["accessToken"] != first["accessToken"]
    assert server.keeper.account.current != spent

    assert (await get(f"{server.url}/revoke")).json == {"status": "revoked"}
    expected_log("GET /tenants: the identity server has no")
    assert (await get(f"{server.url}/token")).status == 401
    assert (await get(f"{server.url}/tenants")).status == 404


async def test_a_lost_response_costs_no_login(
    server: Server, relay: Relay, clock: Any, get: Any, expected_log: Any
) -> None:
    """The same token is spent again within the grace period, and the server accepts it."""
    expected_log("default: refresh failed", "GET /refresh: ")
    first = (await get(f"{server.url}/token")).json["accessToken"]
    relay.next = Treatment.LOSE
    assert (await get(f"{server.url}/refresh")).status == 503
    clock.advance(minutes=1)
    assert (await get(f"{server.url}/refresh")).status == 303
    assert list(relay.spent.values()) == [2]
    assert (await get(f"{server.url}/token")).json["accessToken"] != first
    assert (await get(f"{server.url}/refresh")).status == 303
    assert list(relay.spent.values()) == [2, 1]
