"""The pages and acts of an account without a login (``grant: client_credentials``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.web import origin

from xots.sandbox import Client, Sandbox
from xots.sandbox.person import Person
from xots.sealing import new_key
from xots.secret import Secret
from xots.server import Server

CLIENT, SECRET = "CAFE", "custom-secret"


@pytest.fixture(autouse=True)
def registered(sandbox: Sandbox) -> None:
    """Register the custom connection at the simulated Xero."""
    tenant_id = next(iter(sandbox.world.accounting.organisations))
    sandbox.identity.register(Client(CLIENT, SECRET, (), custom_connection_tenant_id=tenant_id))


@pytest.fixture
async def custom(new_server: Any) -> Server:
    """A server whose default account is a custom connection of the simulated Xero."""
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


async def test_the_status_names_the_grant(custom: Server, new_server: Any, get: Any) -> None:
    """A program need not wait for a login that no user can make."""
    assert (await get(f"{custom.url}/status")).json["grant"] == "client_credentials"
    other = await new_server()
    assert (await get(f"{other.url}/status")).json["grant"] == "authorization_code"


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


@pytest.fixture
async def firm(new_server: Any, send: Any, tmp_path: Path) -> tuple[Server, str]:
    """A server, and the URL of an account with a client id only, which was added before all
    accounts got the grant."""
    kept = {"store": f"file://{tmp_path / 'store'}", "key": (new_key(),)}
    before = await new_server(**kept)
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"name": "firm", "client_id": "OTHER"})
    assert (await send("POST", f"{before.url}/accounts", headers, body)).status == 201
    server: Server = await new_server(
        grant="client_credentials", client_id=CLIENT, client_secret=Secret(SECRET), **kept
    )
    return server, f"{origin(server)}/accounts/firm"


async def test_home_without_the_clients_credentials_says_what_to_set(
    firm: tuple[Server, str], person: Person
) -> None:
    """There is no form that it could lead to."""
    for path in ("/", "/login", "/home"):
        page = await person.open(f"{firm[1]}{path}")
        assert page.url.endswith("/home")
        assert "set client_id and client_secret" in page.text
        assert "Refresh now" not in page.text


async def test_a_program_learns_which_credentials_to_set(
    firm: tuple[Server, str], get: Any, send: Any, expected_log: Any
) -> None:
    """It is not sent to a page at which nobody can log in, and no refusal is invented."""
    server, url = firm
    refused = await get(f"{url}/token")
    assert refused.status == 401
    assert "set client_id and client_secret" in refused.json["detail"]
    assert "log in" not in refused.json["detail"]
    status = (await get(f"{url}/status")).json
    assert (status["attention_for"], status["next_attempt_at"]) == ("no-credentials", None)
    assert "set client_id and client_secret" in " ".join(status["explanation"])
    assert "does not accept" not in " ".join(status["explanation"])
    accounts = (await get(f"{server.url}/accounts")).json["accounts"]
    [needed] = [one["attention_for"] for one in accounts if one["name"] == "firm"]
    assert needed == "no-credentials"
    expected_log("this account has no login")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await send("POST", f"{url}/home", form, b"")).status == 409


async def test_a_login_that_was_started_before_is_not_finished(
    new_server: Any,
    credentials: Any,
    sandbox: Sandbox,
    person: Person,
    expected_log: Any,
    tmp_path: Path,
) -> None:
    """The operator has changed the grant since. No code is sent to the server."""
    expected_log("this account has no login")
    expected_log.perhaps("refresh failed")
    store = (tmp_path / "state").as_uri()
    first = await new_server(**credentials, store=store)
    page = await person.submit(await person.open(f"http://localhost:{first.port}/home"))
    await first.stop()
    second = await new_server(
        **credentials, store=store, port=first.port, grant="client_credentials"
    )
    page = await person.consent(page)
    assert page.status == 409
    assert second.keeper.account.current is None
    assert sandbox.identity.counts.exchanges == 0
