"""A foreign identity server by settings alone: oidc-provider, which detects any reuse of a token.

A second use of a refresh token ends the whole grant there, and so the live access token too. With
``grace: 0``, xots never makes one while an access token lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from foreign.relay import Relay, Treatment
from support.running import running
from tornado.simple_httpclient import HTTPStreamClosedError

from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.testing import FakeClock

SETTINGS = """\
store: "{store}"
client_id: books-client
client_secret: books-secret
authorize_url: {url}/auth
authorize_params: prompt=consent
token_url: {token_url}
revoke_url: {url}/token/revocation
connections_url: ""
issuer: {url}
scopes: offline_access books
grace: 0
refresh_interval: 0
"""

ROTATIONS = 20


@pytest.fixture
def url(start_identity_server: Callable[[str], str]) -> str:
    return start_identity_server("oidc_provider/serve.mjs")


@pytest.fixture
async def relay(url: str) -> AsyncIterator[Relay]:
    async with Relay(f"{url}/token") as started:
        yield started


@pytest.fixture
async def server(
    url: str, relay: Relay, start_xots: Callable[..., Awaitable[Server]], person: Person
) -> Server:
    """A server after the login of the user."""
    server = await start_xots(SETTINGS, url=url, token_url=relay.url, store="memory:")
    await log_in(person, server.port)
    return server


async def log_in(person: Person, port: int) -> None:
    """Log in on the page of the identity server, and allow what its next page lists."""
    home = f"http://localhost:{port}/home"
    page = await person.submit(await person.open(home))
    page = await person.submit(page, username="ada", password="lovelace")
    page = await person.submit(page)
    assert (page.status, page.url) == (200, home)


def foretells_login(explanation: list[str], time: str = "UTC") -> bool:
    """Tell if the sentences of /status say that a user must probably log in, and when; none of them
    takes the identity server for Xero."""
    advice = [sentence for sentence in explanation if "must probably log in" in sentence]
    return any(time in sentence for sentence in advice) and "Xero" not in " ".join(explanation)


async def is_live(url: str, access_token: str) -> bool:
    """Tell if the identity server still accepts the access token (RFC 7662)."""
    response = await asyncio.to_thread(
        requests.post,
        f"{url}/token/introspection",
        {"token": access_token},
        auth=("books-client", "books-secret"),
        timeout=5,
    )
    return bool(response.json()["active"])


async def spend(token_url: str, token: Secret) -> int:
    """Spend a refresh token without xots, and return the status."""
    response = await asyncio.to_thread(
        requests.post,
        token_url,
        {"grant_type": "refresh_token", "refresh_token": token.reveal()},
        auth=("books-client", "books-secret"),
        timeout=5,
    )
    return response.status_code


async def test_its_pages_have_another_origin(
    url: str, relay: Relay, start_xots: Callable[..., Awaitable[Server]], person: Person
) -> None:
    """A login leads from the authorize endpoint to a second origin and back."""
    server = await start_xots(SETTINGS, url=url, token_url=relay.url, store="memory:")
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    assert page.form
    assert not page.url.startswith(f"{url}/")


async def test_a_second_use_of_a_token_ends_the_grant_there(server: Server, url: str) -> None:
    """The live access token ends too: this is what ``grace: 0`` is for."""
    account = server.keeper.account
    assert account.current is not None
    assert account.access is not None
    assert await is_live(url, account.access.value.reveal())
    assert await spend(f"{url}/token", account.current.value) == 200
    assert await is_live(url, account.access.value.reveal())
    assert await spend(f"{url}/token", account.current.value) == 400
    assert not await is_live(url, account.access.value.reveal())


async def test_no_refresh_token_is_used_twice(
    server: Server, relay: Relay, url: str, clock: FakeClock, get: Any
) -> None:
    """Twenty rotations spend twenty tokens, and the revocation at the end is confirmed."""
    served = {(await get(f"{server.url}/token")).json["accessToken"]}
    for _ in range(ROTATIONS):
        clock.advance(minutes=20)
        assert (await get(f"{server.url}/refresh")).status == 303
        served.add((await get(f"{server.url}/token")).json["accessToken"])
    assert len(served) == ROTATIONS + 1
    assert list(relay.spent.values()) == [1] * ROTATIONS
    last = (await get(f"{server.url}/token")).json["accessToken"]
    assert await is_live(url, last)
    assert (await get(f"{server.url}/revoke")).json == {"status": "revoked"}
    assert not await is_live(url, last)


async def test_after_a_lost_response_the_access_token_is_served_to_its_end(
    server: Server, relay: Relay, url: str, clock: FakeClock, get: Any, expected_log: Any
) -> None:
    """The spent token is not sent again before, and the operator learns at once of the login."""
    expected_log.perhaps("^WARNING ", "^ERROR ")
    first = (await get(f"{server.url}/token")).json
    token = first["accessToken"]
    clock.advance(minutes=10)
    relay.next = Treatment.LOSE
    assert (await get(f"{server.url}/refresh")).status == 503
    status = (await get(f"{server.url}/status")).json
    assert status["login_needed_at"] == first["expiresAt"]
    assert foretells_login(status["explanation"], "09:30:00 UTC")

    for _ in range(19):  # until a minute before the end
        clock.advance(minutes=1)
        await server.rotation.tick()
        assert (await get(f"{server.url}/refresh")).status == 503
        assert (await get(f"{server.url}/token")).json["accessToken"] == token
    clock.advance(seconds=45)
    assert (await get(f"{server.url}/token")).json["accessToken"] == token
    assert await is_live(url, token)
    assert list(relay.spent.values()) == [1]
    clock.advance(minutes=1)  # the one last attempt may follow
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).status in (401, 503)
    assert list(relay.spent.values()) in ([1], [2])


async def test_a_refresh_that_a_kill_cut_off_is_not_repeated(
    url: str,
    relay: Relay,
    write_config: Callable[..., Path],
    port: int,
    tmp_path: Path,
    person: Person,
    get: Any,
) -> None:
    """The next process serves the access token, and says that a user must log in when it ends."""
    store = (tmp_path / "store").as_uri()
    config = write_config(SETTINGS, url=url, token_url=relay.url, store=store)
    async with running("--config", str(config)) as killed:
        await killed.until("stderr", "serving on")
        await log_in(person, port)
        first = (await get(f"http://127.0.0.1:{port}/token")).json
        relay.next = Treatment.HOLD
        refreshing = asyncio.create_task(get(f"http://127.0.0.1:{port}/refresh"))
        async with asyncio.timeout(10):
            await relay.holding.wait()
        killed.process.kill()
        await killed.ended()
        with pytest.raises((HTTPStreamClosedError, ConnectionError)):
            await refreshing

    async with running("--config", str(config)) as process:
        await process.until("stderr", "serving on")
        assert (await get(f"http://127.0.0.1:{port}/refresh")).status == 503
        served = (await get(f"http://127.0.0.1:{port}/token")).json
        assert served["accessToken"] == first["accessToken"]
        assert await is_live(url, served["accessToken"])
        status = (await get(f"http://127.0.0.1:{port}/status")).json
        assert status["login_needed_at"] == first["expiresAt"]
        assert foretells_login(status["explanation"])
        assert list(relay.spent.values()) == [1]
