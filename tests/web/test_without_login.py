"""The pages and acts of an account without a login (``grant: client_credentials``)."""

from __future__ import annotations

from typing import Any

import pytest

from xots.sandbox import Client, Sandbox
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server

CLIENT, SECRET = "CAFE", "custom-secret"


@pytest.fixture
async def custom(new_server: Any, sandbox: Sandbox) -> Server:
    """A server whose default account is a custom connection of the simulated Xero."""
    tenant_id = next(iter(sandbox.world.accounting.organisations))
    sandbox.identity.register(Client(CLIENT, SECRET, (), custom_connection_tenant_id=tenant_id))
    server: Server = await new_server(
        grant="client_credentials",
        client_id=CLIENT,
        client_secret=Secret(SECRET),
        scopes=("offline_access", "accounting.contacts"),
    )
    return server


async def test_home_offers_no_login(custom: Server, person: Person, get: Any) -> None:
    """It says that none is needed."""
    await get(f"{custom.url}/token")
    for path in ("/", "/login", "/home"):
        page = await person.open(f"http://localhost:{custom.port}{path}")
        assert page.url.endswith("/home")
        assert "No login is needed" in page.text
        assert "Connect" not in page.text
        assert "Refresh token" not in page.text
        assert 'href="/refresh"' in page.text
        assert not any(path in page.text for path in ('href="/revoke"', 'href="/logout"'))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/revoke", "/logout"])
async def test_there_is_no_login_to_end(
    custom: Server, send: Any, get: Any, expected_log: Any, method: str, path: str
) -> None:
    """A program learns why, and the token is still served."""
    expected_log("this account has no login")
    response = await send(method, f"{custom.url}{path}", {})
    assert response.status == 409
    assert "grant: client_credentials" in response.json["detail"]
    assert (await get(f"{custom.url}/token")).status == 200


@pytest.mark.parametrize(
    ("path", "body"), [("/login", b"client_id=X&client_secret=y"), ("/home", b"")]
)
async def test_no_login_starts(
    custom: Server, send: Any, expected_log: Any, path: str, body: bytes
) -> None:
    """Neither the form's fields nor the button of another tab are accepted."""
    expected_log("this account has no login")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await send("POST", f"{custom.url}{path}", form, body)
    assert response.status == 409
