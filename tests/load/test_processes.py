"""Several processes on one store, and many callers: one refresh for each rotation.

Short runs of ``torture processes`` and ``torture callers``, and both on a clock that is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.inside import context_of
from torture.processes import Run, fleet, stop_the_holder

from xots.backends.base import Lease
from xots.lifecycle.policy import Grant
from xots.sandbox import Sandbox
from xots.sandbox.identity.switches import SiblingMode
from xots.server import Server

XERO_LIFE = 1800
CALLERS = 64

Start = Callable[..., Awaitable[list[Server]]]


@pytest.mark.parametrize(
    ("store", "count", "storms", "accounts"), [("redis", 3, 10, 1), ("file", 3, 8, 0)]
)
async def test_processes_that_all_refresh_at_once_cost_one_refresh_a_rotation(
    store: str, count: int, storms: int, accounts: int
) -> None:
    """Each storm costs one refresh. No token of any account is spent twice, or early."""
    async with fleet(store, count, accounts=accounts) as servers:
        run = Run(servers, life=2 + accounts)
        figures = await run.go(storms=storms, demands=3, expiries=3)
        assert figures.wrong == []
        assert figures.polls > storms
        assert figures.checks > 0
        assert figures.soonest
        assert len(servers.refreshes()) == run.rotations >= storms + 6
        for name in servers.names[1:]:
            assert len(servers.refreshes(name)) == servers.rotations(name) > 0


async def test_eight_processes_of_a_custom_connection_cost_one_request_a_rotation() -> None:
    """No user logs in. After each storm, all of them serve the same token."""
    async with fleet("redis", 8, grant=Grant.CLIENT_CREDENTIALS) as servers:
        assert len(servers.sandbox.requests("client_credentials")) == 1
        run = Run(servers, life=2)
        figures = await run.go(storms=5, demands=1, expiries=2)
        assert figures.wrong == []
        assert figures.polls > 5
        assert figures.soonest
        assert len(servers.refreshes()) == run.rotations >= 8
        assert servers.sandbox.refreshes() == []


async def test_faulty_calls_cost_no_login_and_serve_no_expired_token() -> None:
    """Each fifth refresh fails, and callers see 503 with Retry-After at most."""
    async with fleet("redis", 4, seed=5) as servers:
        run = Run(servers, faults_percent=20, life=4, seed=5)
        figures = await run.go(storms=12, demands=1, expiries=0)
        assert figures.wrong == []
        assert any(refresh.fault for refresh in servers.sandbox.refreshes())


@pytest.mark.parametrize("store", ["redis", "file"])
async def test_a_holder_of_the_lease_that_is_stopped_throws_no_token_away(store: str) -> None:
    """The holder wakes after another process has refreshed, in each sibling mode of Xero."""
    async with fleet(store, 2) as servers:
        modes = SiblingMode if store == "redis" else (SiblingMode.LAST_VALID,)
        for mode, hold in product(
            modes, ("hold-before", "hold-after") if store == "redis" else ("hold-after",)
        ):
            await stop_the_holder(servers, mode, hold)


# ---------- on a clock that is set


@pytest.fixture
async def logged_in_at(
    new_server: Callable[..., Awaitable[Server]],
    credentials: dict[str, Any],
    log_in: Callable[[Server], Awaitable[None]],
    tmp_path: Path,
) -> Start:
    """Start servers on one store, with one login."""

    async def start(count: int, **settings: Any) -> list[Server]:
        store = "memory:" if count == 1 else (tmp_path / "state").as_uri()
        servers = [await new_server(store=store, **credentials, **settings)]
        await log_in(servers[0])
        return servers + [
            await new_server(store=store, **credentials, **settings) for _ in range(count - 1)
        ]

    return start


def send_requests(get: Any, servers: list[Server]) -> list[asyncio.Task[Any]]:
    """Send the requests of the callers, spread over the servers."""
    return [
        asyncio.create_task(get(f"{servers[n % len(servers)].url}/token")) for n in range(CALLERS)
    ]


@pytest.mark.parametrize("count", [1, 3])
async def test_callers_at_the_instant_of_expiry_cost_one_refresh_of_a_slow_xero(
    logged_in_at: Start, sandbox: Sandbox, clock: Any, get: Any, count: int
) -> None:
    """Xero takes 300 ms. All servers make one refresh, and every caller gets the new token."""
    servers = await logged_in_at(count)
    old = (await get(f"{servers[0].url}/token")).json["accessToken"]
    sandbox.add_fault("refresh:every:delay-before=0.3")
    clock.advance(XERO_LIFE)
    responses = await asyncio.gather(*send_requests(get, servers))
    assert {response.status for response in responses} == {200}
    (token,) = {response.json["accessToken"] for response in responses}
    assert token != old
    assert {response.json["expiresIn"] for response in responses} == {XERO_LIFE}
    assert [refresh.outcome for refresh in sandbox.refreshes()] == ["issued"]


@pytest.mark.parametrize("count", [1, 3])
async def test_no_caller_waits_while_a_refresh_ahead_is_in_progress(
    logged_in_at: Start, sandbox: Sandbox, clock: Any, get: Any, count: int
) -> None:
    """Xero is slow while every server's tick wants a refresh. Callers get the old token."""
    servers = await logged_in_at(count)
    old = (await get(f"{servers[0].url}/token")).json["accessToken"]
    sandbox.add_fault("refresh:every:hold-before")
    clock.advance(XERO_LIFE - 300)
    ticks = [asyncio.create_task(server.rotation.tick()) for server in servers]
    await sandbox.held()
    responses = await asyncio.gather(*send_requests(get, servers))
    assert [response.json["accessToken"] for response in responses] == [old] * CALLERS
    assert len(sandbox.world.holds) == 1
    sandbox.release()
    await asyncio.gather(*ticks)
    assert [refresh.outcome for refresh in sandbox.refreshes()] == ["issued"]
    responses = await asyncio.gather(*send_requests(get, servers))
    assert {response.json["expiresIn"] for response in responses} == {XERO_LIFE}


async def test_a_refresh_that_is_requested_as_another_ends_is_made(
    logged_in_at: Start, sandbox: Sandbox, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier refresh has its token and releases the lease. The caller gets another one."""
    (server,) = await logged_in_at(1)
    store, over, go_on = context_of(server.keeper).store, asyncio.Event(), asyncio.Event()
    whole = store.lease

    @asynccontextmanager
    async def slow_to_give_back(name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with whole(name, ttl_seconds) as lease:
            yield lease
            over.set()
            await go_on.wait()

    monkeypatch.setattr(store, "lease", slow_to_give_back)
    first = asyncio.create_task(get(f"{server.url}/refresh"))
    await over.wait()
    second = asyncio.create_task(get(f"{server.url}/refresh"))
    for _ in range(2):  # afterwards the server has received the second request
        assert (await get(f"{server.url}/livez")).status == 200
    go_on.set()
    assert (await first).status == 303
    assert (await second).status == 303
    assert [refresh.outcome for refresh in sandbox.refreshes()] == ["issued", "issued"]


async def test_without_a_promise_a_dead_token_is_not_served_either(
    logged_in_at: Start, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """``min_ttl`` 0 promises only a live token, also in an outage and without ticks."""
    expected_log.perhaps("refresh failed", "GET /token")
    (server,) = await logged_in_at(1, min_ttl=0, refresh_ahead=0)
    sandbox.add_fault("refresh:nth=1:reset")
    clock.advance(XERO_LIFE)
    assert (await get(f"{server.url}/token")).status == 503
    assert len(sandbox.refreshes()) == 1
    assert (await get(f"{server.url}/livez")).status == 503
