"""A foreign identity server by settings alone: Authlib's grants.

It issues refresh tokens without ``offline_access``, knows ``client_secret_post`` only, and revokes
no tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from foreign.relay import Relay

from xots.sandbox.person import Person
from xots.server import Server
from xots.testing import FakeClock

SETTINGS = """\
store: "memory:"
client_id: books-client
client_secret: books-secret
client_auth: post
authorize_url: {url}/authorize
token_url: {token_url}
revoke_url: ""
connections_url: ""
scopes: books
refresh_interval: 0
"""

ROTATIONS = 3


async def test_login_refreshes_and_an_end_without_revocation(
    start_identity_server: Callable[[str], str],
    start_xots: Callable[..., Awaitable[Server]],
    person: Person,
    clock: FakeClock,
    get: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """The response and the log say that the login is forgotten here only."""
    caplog.set_level(logging.INFO, "xots")
    url = start_identity_server("authlib_grants.py")
    async with Relay(f"{url}/token") as relay:
        server = await start_xots(SETTINGS, url=url, token_url=relay.url)
        home = f"http://localhost:{server.port}/home"
        page = await person.submit(await person.open(home))
        page = await person.submit(page, username="ada", password="lovelace")
        assert (page.status, page.url) == (200, home)

        served = [(await get(f"{server.url}/token")).json]
        for _ in range(ROTATIONS):
            clock.advance(minutes=20)
            assert (await get(f"{server.url}/refresh")).status == 303
            served.append((await get(f"{server.url}/token")).json)
        assert len({one["accessToken"] for one in served}) == ROTATIONS + 1
        assert [one["scopes"] for one in served] == [["books"]] * (ROTATIONS + 1)
        assert list(relay.spent.values()) == [1] * ROTATIONS

        expected_log.perhaps("forgotten here only")
        ended = await get(f"{server.url}/revoke")
        assert ended.status == 200
        assert "forgotten here only" in ended.text
        assert "forgotten here only" in caplog.text
        assert (await get(f"{server.url}/token")).status == 401
