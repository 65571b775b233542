"""An identity server other than Xero's, by settings alone: Django OAuth Toolkit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xots.sandbox.person import Page, Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings

CLIENT_ID, CLIENT_SECRET = "books-client", "books-secret"


@pytest.fixture
def start_other() -> Iterator[Callable[[str], str]]:
    """Starts the other server for a redirect URI and returns its URL; ends it after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(redirect_uri: str) -> str:
        program = Path(__file__).parent / "other_server" / "serve.py"
        process = subprocess.Popen(
            [sys.executable, str(program), CLIENT_ID, CLIENT_SECRET, redirect_uri],
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate()


async def log_in(person: Person, page: Page) -> Page:
    """Log in at the other server, and allow the scopes that its consent page lists."""
    page = await person.submit(page, username="ada", password="lovelace")
    return await person.submit(page, allow="Authorize")


async def test_login_refresh_and_revoke_at_another_identity_server(
    start_other: Callable[[str], str], person: Person, get: Any, expected_log: Any
) -> None:
    """It takes the endpoints, the scopes and an empty connections_url."""
    probe = Server(Settings(port=0, store="memory:"))
    await probe.start()
    port, redirect_uri = probe.port, probe.redirect_uri
    await probe.stop()
    other = start_other(redirect_uri)
    server = Server(
        Settings(
            port=port,
            store="memory:",
            client_id=CLIENT_ID,
            client_secret=Secret(CLIENT_SECRET),
            authorize_url=f"{other}/o/authorize/",
            token_url=f"{other}/o/token/",
            revoke_url=f"{other}/o/revoke_token/",
            connections_url="",
            refresh_interval=0,
            scopes=("offline_access", "books"),
        )
    )
    await server.start()
    try:
        page = await person.submit(await person.open(f"http://localhost:{port}/home"))
        page = await log_in(person, page)
        assert (page.status, page.url) == (200, f"http://localhost:{port}/home")

        first = (await get(f"{server.url}/token")).json
        assert set(first["scopes"]) == {"offline_access", "books"}
        assert first["tenantId"] is None

        spent = server.keeper.account.current
        refreshed = await get(f"{server.url}/refresh")
        assert refreshed.status == 303
        second = (await get(f"{server.url}/token")).json
        assert second["accessToken"] != first["accessToken"]
        assert server.keeper.account.current != spent

        assert (await get(f"{server.url}/revoke")).json == {"status": "revoked"}
        expected_log("GET /tenants: the identity server has no")
        assert (await get(f"{server.url}/token")).status == 401
        assert (await get(f"{server.url}/tenants")).status == 404
    finally:
        await server.stop()
