"""A server whose accounts need no login: custom connections, in one process and as a program."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from support.bench import eventually
from support.command_line import process
from support.inside import context_of
from support.running import running

from xots.errors import SettingsError
from xots.sandbox import (
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    Client,
    OAuthErrorCode,
    Sandbox,
)
from xots.secret import Secret
from xots.server import Server
from xots.settings.accounts import Layer
from xots.testing import FakeClock
from xots.wiring import end_login

NewServer = Callable[..., Awaitable[Server]]

SECOND_CLIENT = "SECOND-CUSTOM-CLIENT"
OWN: dict[str, Any] = {
    "grant": "client_credentials",
    "client_id": DEFAULT_CUSTOM_CLIENT_ID,
    "client_secret": Secret(DEFAULT_CLIENT_SECRET),
    "scopes": ("accounting.settings",),
}
"""The settings of an account that is a custom connection."""


@pytest.fixture(autouse=True)
def organisation(sandbox: Sandbox) -> str:
    """Register two custom connections for the first organisation; return its id."""
    tenant_id = next(iter(sandbox.world.accounting.organisations))
    for client_id in (DEFAULT_CUSTOM_CLIENT_ID, SECOND_CLIENT):
        own = Client(client_id, redirect_uris=(), custom_connection_tenant_id=tenant_id)
        sandbox.identity.register(own)
    return tenant_id


def requests(sandbox: Sandbox) -> int:
    """Return the number of requests for an access token by a client alone."""
    return len(sandbox.requests("client_credentials"))


async def served(get: Any, url: str) -> Any:
    """Return the response to ``GET /token`` once the organisations were listed."""
    async with asyncio.timeout(20):
        while "tenantProblem" in (found := (await get(f"{url}/token")).json):
            await asyncio.sleep(0.01)
    return found


async def indexed(server: Server, clock: FakeClock) -> list[str]:
    """Return the accounts that the store's index names as due."""
    return await context_of(server.keeper).store.due(clock.now(), 9)


# ---------- one account


async def test_the_first_caller_waits_for_the_first_token(
    new_server: NewServer, sandbox: Sandbox, get: Any
) -> None:
    """No user logs in. The tick at the start has made the request already."""
    sandbox.add_fault("token:nth=1:hold-before")
    server = await new_server(**OWN)
    await sandbox.held()
    assert (await get(f"{server.url}/livez")).status == 503
    caller = asyncio.create_task(get(f"{server.url}/token"))
    assert (await get(f"{server.url}/ping")).status == 200
    assert not caller.done()
    sandbox.release()
    response = await caller
    assert response.status == 200
    assert response.json["expiresIn"] == 1800
    assert response.json["scopes"] == ["accounting.settings"]
    assert (await get(f"{server.url}/livez")).status == 200
    assert requests(sandbox) == 1


async def test_the_endpoints_for_programs_work_without_a_login(
    new_server: NewServer, sandbox: Sandbox, get: Any, send: Any, organisation: str
) -> None:
    """No user is asked for. The only organisation is that of the token."""
    server = await new_server(**OWN)
    first = await served(get, server.url)
    assert first["tenantId"] == organisation
    [listed] = (await get(f"{server.url}/tenants")).json
    assert listed["tenantId"] == organisation
    for method in ("GET", "POST"):
        assert (await send(method, f"{server.url}/refresh")).status == 303
    second = await served(get, server.url)
    assert second["accessToken"] != first["accessToken"]
    assert requests(sandbox) == 3
    plain = await get(f"{server.url}/token?tenant={organisation}", Accept="text/plain")
    assert plain.text == second["accessToken"]


async def test_the_status_asks_for_no_login(
    new_server: NewServer, sandbox: Sandbox, get: Any, clock: FakeClock, expected_log: Any
) -> None:
    """It asks for an operator once Xero refuses the client, and for none after the recovery."""
    server = await new_server(**OWN)
    await served(get, server.url)
    status = (await get(f"{server.url}/status")).json
    assert (status["state"], status["healthy"]) == ("connected", True)
    assert status["client_id"] == DEFAULT_CUSTOM_CLIENT_ID
    assert (status["refresh_token"], status["refresh_token_expiry_utc"]) == (None, None)
    assert (status["attention_for"], status["login_needed_at"]) == (None, None)
    assert "No user has to log in" in " ".join(status["explanation"])
    expected_log(r"refresh failed")
    switches = sandbox.identity.switches
    refused = replace(switches, custom_connections_refused=OAuthErrorCode.INVALID_CLIENT)
    sandbox.identity.switches = refused
    clock.advance(minutes=25)
    await server.rotation.tick()
    status = (await get(f"{server.url}/status")).json
    assert (status["state"], status["attention_for"]) == ("refresh-failing", "client-refused")
    assert (await get(f"{server.url}/token")).status == 200
    assert requests(sandbox) == 2
    sandbox.identity.switches = switches
    assert (await get(f"{server.url}/refresh")).status == 303
    status = (await get(f"{server.url}/status")).json
    assert (status["state"], status["attention_for"]) == ("connected", None)


async def test_without_its_credentials_a_server_requests_nothing(
    new_server: NewServer, sandbox: Sandbox, get: Any, clock: FakeClock, expected_log: Any
) -> None:
    """A client id without the secret is not sent either. ``load`` refuses such settings."""
    expected_log.perhaps("GET /token")
    for missing in ({"client_id": None, "client_secret": None}, {"client_secret": None}):
        server = await new_server(**OWN | missing)
        await server.rotation.tick()
        response = await get(f"{server.url}/token")
        assert (response.status, response.json["type"]) == (401, "urn:xots:no-credentials")
        assert (await get(f"{server.url}/livez")).status == 401
        await server.accounts.swept()
        assert await indexed(server, clock) == []
    assert sandbox.log == []


# ---------- other settings


async def test_another_client_must_not_take_over_the_record(
    new_server: NewServer, sandbox: Sandbox, get: Any, tmp_path: Path, expected_log: Any
) -> None:
    """It may be of another organisation. An end of the old one, which sends nothing, permits it."""
    kept = {"store": (tmp_path / "state").as_uri()}
    first = await new_server(**OWN, **kept)
    await served(get, first.url)
    await first.stop()
    with pytest.raises(SettingsError, match="belongs to another client"):
        await new_server(**OWN | {"client_id": SECOND_CLIENT}, **kept)
    made, settings = len(sandbox.log), first.settings
    expected_log.perhaps("clock is at least")  # an end without a server is by the real clock
    ended = await end_login(replace(settings, client_id=SECOND_CLIENT), forget=True)
    assert ended["default"]
    assert len(sandbox.log) == made
    second = await new_server(**OWN | {"client_id": SECOND_CLIENT}, **kept)
    await served(get, second.url)
    assert second.keeper.account.client_id == SECOND_CLIENT


async def test_an_account_with_another_client_is_used_once_the_old_token_was_forgotten(
    new_server: NewServer,
    sandbox: Sandbox,
    send: Any,
    get: Any,
    tmp_path: Path,
    expected_log: Any,
) -> None:
    """Its end sends nothing, also in a server that runs."""
    expected_log("belongs to another client")
    kept = {"store": (tmp_path / "state").as_uri()}
    first = await new_server(accounts={"firm": Layer(OWN)}, **kept)
    await served(get, f"{first.url}/accounts/firm")
    await first.stop()
    changed = Layer(OWN | {"client_id": SECOND_CLIENT})
    second = await new_server(accounts={"firm": changed}, **kept)
    url = f"{second.url}/accounts/firm"
    refused = await get(f"{url}/token")
    assert (refused.status, refused.json["type"]) == (503, "urn:xots:account-unusable")
    made = len(sandbox.log)
    ended = await send("POST", f"{url}/logout")
    assert (ended.status, ended.json["status"]) == (200, "ended")
    assert "its client can get others" in ended.json["detail"]
    assert len(sandbox.log) == made
    await served(get, url)
    assert (await get(f"{url}/status")).json["client_id"] == SECOND_CLIENT


async def test_other_scopes_count_from_the_next_token_on(
    new_server: NewServer, get: Any, tmp_path: Path
) -> None:
    """No login was made for the old ones, so that none has to be ended first."""
    kept = {"store": (tmp_path / "state").as_uri(), "sources": {"scopes": "-o"}}
    first = await new_server(**OWN, **kept)
    await served(get, first.url)
    await first.stop()
    more = ("accounting.settings", "accounting.contacts")
    second = await new_server(**OWN | {"scopes": more}, **kept)
    assert (await served(get, second.url))["scopes"] == list(OWN["scopes"])
    assert (await get(f"{second.url}/refresh")).status == 303
    assert (await served(get, second.url))["scopes"] == list(more)


# ---------- several accounts


async def test_one_server_serves_a_login_and_a_custom_connection(
    new_server: NewServer,
    credentials: dict[str, Any],
    log_in: Callable[[Server], Awaitable[None]],
    sandbox: Sandbox,
    get: Any,
    organisation: str,
) -> None:
    """Each has its own client and grant. The list shows both as connected."""
    server = await new_server(**credentials, accounts={"firm": Layer(OWN)})
    firm = await served(get, f"{server.url}/accounts/firm")
    assert firm["tenantId"] == organisation
    assert (await get(f"{server.url}/accounts/firm/livez")).status == 200
    await log_in(server)
    assert (await served(get, server.url))["accessToken"] != firm["accessToken"]
    listed = (await get(f"{server.url}/accounts")).json["accounts"]
    found = {one["name"]: one for one in listed}
    assert found.keys() == {"default", "firm"}
    assert {one["state"] for one in found.values()} == {"connected"}
    assert found["firm"]["organisation"] == "Demo Company (NZ)"
    assert (found["firm"]["attention_for"], found["firm"]["login_needed_at"]) == (None, None)
    assert len(sandbox.refreshes()) == 0


async def test_an_account_that_was_never_used_looks_connected_and_requests_nothing(
    new_server: NewServer, credentials: dict[str, Any], sandbox: Sandbox, get: Any
) -> None:
    """Its first caller, or a forced refresh, gets its first token."""
    server = await new_server(**credentials, accounts={"firm": Layer(OWN), "shop": Layer(OWN)})
    await server.accounts.swept()
    await server.rotation.tick()
    assert requests(sandbox) == 0
    listed = (await get(f"{server.url}/accounts")).json["accounts"]
    assert {one["name"]: one["state"] for one in listed if one["name"] != "default"} == {
        "firm": "connected",
        "shop": "connected",
    }
    assert (await get(f"{server.url}/accounts/firm/refresh")).status == 303
    await served(get, f"{server.url}/accounts/shop")
    assert requests(sandbox) == 2
    listed = (await get(f"{server.url}/accounts")).json["accounts"]
    assert [one["shares_with"] for one in listed] == [[], [], []]


@pytest.mark.parametrize("given", [{}, {"client_id": SECOND_CLIENT}])
async def test_an_account_without_the_credentials_that_its_grant_needs_is_not_added(
    new_server: NewServer, send: Any, get: Any, expected_log: Any, given: dict[str, str]
) -> None:
    """The client of the account that it inherits from is not its own. With a secret, it is."""
    expected_log(r"WARNING xots\.web: ")
    server = await new_server(grant="client_credentials", accounts={"default": Layer(OWN)})
    url, typed = f"{server.url}/accounts", {"Content-Type": "application/json"}
    fields = {"name": "firm", "scopes": "accounting.settings", **given}
    refused = await send("POST", url, typed, json.dumps(fields))
    assert refused.status == 400
    assert "give client_id and client_secret" in refused.json["detail"]
    assert [one["name"] for one in (await get(url)).json["accounts"]] == ["default"]
    fields |= {"client_id": SECOND_CLIENT, "client_secret": DEFAULT_CLIENT_SECRET}
    assert (await send("POST", url, typed, json.dumps(fields))).status == 201
    await served(get, f"{url}/firm")


@pytest.mark.safeguard(
    file="accounts/keepers.py",
    old="config = replace(config, fresh=Fresh.USED)",
    new="pass",
    protects_from="tokens for an account that was removed",
)
@pytest.mark.safeguard(
    file="accounts/config.py",
    old=" and not self.is_removed(account)",
    new="",
    protects_from="a removed account that is due at each tick",
)
async def test_a_removed_account_requests_nothing_any_more(
    new_server: NewServer, sandbox: Sandbox, send: Any, clock: FakeClock, tmp_path: Path
) -> None:
    """Not even if all accounts are kept fresh, here or in a process that is started later."""
    kept = {"store": (tmp_path / "state").as_uri(), "fresh": "always"}
    server = await new_server(**OWN, **kept)
    url = f"{server.url}/accounts"
    added = await send("POST", url, {"Content-Type": "application/json"}, '{"name": "firm"}')
    assert (added.status, added.json["needs_login"]) == (201, False)
    await server.rotation.tick()
    await eventually(lambda: requests(sandbox) == 2)
    assert (await send("POST", f"{url}/firm/remove")).status == 200
    other = await new_server(**OWN, **kept)
    await other.accounts.swept()
    clock.advance(minutes=25)
    for one in (server, other, server, other):
        await one.rotation.tick()
        await eventually(lambda one=one: not one.accounts.busy)  # type: ignore[misc]
    assert requests(sandbox) == 3  # the last one is the default account's
    assert "firm" not in await indexed(other, clock)


# ---------- the program


async def test_the_commands_work_with_the_settings_that_the_sandbox_prints(tmp_path: Path) -> None:
    """``token``, ``refresh``, ``exec`` and ``account list`` of real processes, without a login."""
    async with running("sandbox", "--port", "0") as sandbox:
        await sandbox.until("stdout", "Stop with")
        _, block = re.findall(r"(?m)(?:^  \w+: .*\n)+", sandbox.output)
        assert "grant: client_credentials" in block
        config = tmp_path / "xots.yaml"
        config.write_text(dedent(block) + "refresh_interval: 0\n")
        config.chmod(0o600)
        async with running("-p", "0", "--config", str(config), "--store", "memory:") as xots:
            found = await xots.until("stderr", r"serving on http://127\.0\.0\.1:(\d+)")
            at = ("--port", found[1])
            first = await asyncio.to_thread(process, "token", *at)
            assert first.status == 0, first
            assert first.out.startswith("eyJ")
            assert (await asyncio.to_thread(process, "refresh", *at)).status == 0
            program = (sys.executable, "-c", "import os; print(os.environ['XERO_ACCESS_TOKEN'])")
            second = await asyncio.to_thread(process, "exec", *at, "--", *program)
            assert second.out.startswith("eyJ")
            assert second.out != first.out
            assert (await asyncio.to_thread(process, "login", *at)).out == (
                "no login is needed (grant: client_credentials)\n"
            )
            assert "redirect URI" not in xots.output
            listed = await asyncio.to_thread(process, "account", "list", *at)
            row = listed.out.splitlines()[1].split("  ")
            assert [cell.strip() for cell in row if cell.strip()] == [
                "default",
                "connected",
                "Demo Company (NZ)",
                "-",
                "the default account",
            ]
