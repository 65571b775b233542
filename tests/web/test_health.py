"""``/livez``, ``/ping`` and ``/ready`` in good times and bad."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from support import inside

from xots.sandbox import Sandbox
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"


# ---------- the login


async def test_livez_has_three_statuses(
    new_server: NewServer, credentials: Any, log_in: LogIn, get: Any, clock: Any
) -> None:
    """401 before any credentials are known, 503 before a login, 200 with the expiries after it."""
    bare = await get(f"{(await new_server()).url}/livez")
    assert (bare.status, bare.json["state"]) == (401, "no-credentials")
    assert bare.headers["WWW-Authenticate"].startswith("Bearer")
    server = await new_server(**credentials)
    waiting = await get(f"{server.url}/livez")
    assert (waiting.status, waiting.json["state"]) == (503, "not-logged-in")
    await log_in(server)
    healthy = await get(f"{server.url}/livez")
    assert (healthy.status, healthy.json["state"]) == (200, "connected")
    assert healthy.headers["Content-Type"].split(";")[0] == "application/json"
    assert datetime.fromisoformat(
        healthy.json["access_token_expiry_utc"]
    ) == clock.now() + timedelta(minutes=30)
    assert datetime.fromisoformat(
        healthy.json["refresh_token_expiry_utc"]
    ) == clock.now() + timedelta(minutes=72000)
    assert healthy.json["reason"] is None


async def test_livez_names_the_reason_of_a_503(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """The access token has expired, and Xero fails."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:500-json")
    clock.advance(XERO_LIFE)
    await logged_in.rotation.tick()
    response = await get(f"{logged_in.url}/livez")
    assert (response.status, response.json["state"]) == (503, "refresh-failing")
    assert "500" in response.json["reason"]


# ---------- the store


READY = {"ready": True}
NOT_READY = {"ready": False}


async def test_ready_is_200_while_a_token_can_be_returned_without_the_store(
    brought_to: Any, break_store: Any, clock: Any, get: Any
) -> None:
    """The response says nothing else: it is there for every Host."""
    server = await brought_to("connected")
    well = await get(f"{server.url}/ready")
    assert (well.status, well.json) == (200, READY)
    break_store(server)
    clock.advance(1)
    degraded = await get(f"{server.url}/ready")
    assert (degraded.status, degraded.json) == (200, READY)
    assert (await get(f"{server.url}/token")).status == 200


@pytest.mark.parametrize(
    "state", ["no-credentials", "credentials", "revoked", "logged-out", "consent-lost"]
)
async def test_ready_is_503_when_the_store_fails_and_no_token_can_be_returned(
    brought_to: Any, break_store: Any, get: Any, state: str
) -> None:
    """No login can be kept either, so this process can serve no request."""
    server = await brought_to(state)
    break_store(server)
    response = await get(f"{server.url}/ready")
    assert (response.status, response.json) == (503, NOT_READY)
    assert (await get(f"{server.url}/ping")).status == 200


async def test_ping_is_200_and_never_waits_for_the_store(
    brought_to: Any, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs delays ``/ready`` alone."""
    server = await brought_to("no-credentials")
    hanging, go_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        hanging.set()
        await go_on.wait()

    monkeypatch.setattr(inside.context_of(server.keeper).store, "check", hang)
    waiting = asyncio.create_task(get(f"{server.url}/ready"))
    await hanging.wait()
    response = await get(f"{server.url}/ping")
    assert (response.status, response.json) == (200, READY)
    go_on.set()
    assert (await waiting).json == READY


async def test_ping_says_not_ready_once_an_operation_has_met_a_failing_store(
    brought_to: Any, break_store: Any, clock: Any, get: Any, expected_log: Any
) -> None:
    """The process runs, which is all that the status says."""
    expected_log(r"ERROR xots: default: the token store fails")
    server = await brought_to("connected")
    break_store(server)
    clock.advance(XERO_LIFE)
    await server.rotation.tick()
    response = await get(f"{server.url}/ping")
    assert (response.status, response.json) == (200, NOT_READY)


async def test_a_store_that_fails_when_a_refresh_is_due_costs_no_refresh_token(
    brought_to: Any,
    break_store: Any,
    monkeypatch: pytest.MonkeyPatch,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
) -> None:
    """No token is spent that cannot be recorded. The old one is returned until it expires."""
    expected_log(r"ERROR xots: default: the token store fails", r"WARNING xots\.web: GET /token: ")
    server = await brought_to("connected")
    break_store(server)
    clock.advance(XERO_LIFE - 300)
    await server.rotation.tick()
    assert sandbox.refreshes() == []
    assert (await get(f"{server.url}/token")).status == 200
    assert (await get(f"{server.url}/ready")).status == 200
    clock.advance(300)
    refused = await get(f"{server.url}/token")
    assert (refused.status, refused.json["type"]) == (503, "urn:xots:token-unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await get(f"{server.url}/ready")).status == 503
    assert sandbox.refreshes() == []
    monkeypatch.undo()
    clock.advance(15)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).status == 200
    assert (await get(f"{server.url}/ready")).json == READY
