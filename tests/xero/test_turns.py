"""The upper bound on simultaneous requests to one identity server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from support.bench import START
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from xots.errors import UpstreamFailed
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials

WEB_APP = Credentials(client_id="client", client_secret=Secret("secret"))
TOKEN = Secret("token")


class Counting(RequestHandler):
    """Counts the requests that are there at once, and lets them go when the test says so."""

    now = most = 0
    released: asyncio.Event

    async def prepare(self) -> None:
        Counting.now += 1
        Counting.most = max(Counting.most, Counting.now)
        await Counting.released.wait()
        Counting.now -= 1

    def get(self) -> None:
        self.write("[]")

    post = get


@pytest.fixture
async def client() -> AsyncIterator[XeroClient]:
    Counting.now = Counting.most = 0
    Counting.released = asyncio.Event()
    socket, port = bind_unused_port()
    server = HTTPServer(Application([("/.*", Counting)]))
    server.add_sockets([socket])
    url = f"http://127.0.0.1:{port}"
    endpoints = IdentityServer(
        authorize_url=url, token_url=f"{url}/token", revoke_url=url, connections_url=url
    )
    client = XeroClient(endpoints, clock=FakeClock(START), max_requests=4)
    yield client
    Counting.released.set()
    client.close()
    server.stop()
    await server.close_all_connections()


async def refresh(client: XeroClient) -> object:
    async with client.slot() as is_free:
        return await client.refresh(WEB_APP, TOKEN) if is_free else None


async def started(*requests: Awaitable[object]) -> list[asyncio.Future[object]]:
    """Start requests, and wait until as many as may be are there."""
    tasks: list[asyncio.Future[object]] = [asyncio.ensure_future(each) for each in requests]
    async with asyncio.timeout(10):
        while Counting.now < 4:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # further ones would come now
    return tasks


async def test_refreshes_and_lists_share_one_bound(client: XeroClient) -> None:
    """Logins list the organisations while others exchange their codes."""
    lists = [client.connections(TOKEN) for _ in range(8)]
    tasks = await started(*lists, *(refresh(client) for _ in range(8)))
    Counting.released.set()
    await asyncio.gather(*tasks)
    assert Counting.most == 4


async def test_lists_leave_places_to_refreshes(client: XeroClient) -> None:
    """However slow they are, and however many."""
    lists = [client.connections(TOKEN) for _ in range(8)]
    tasks = await started(*lists, refresh(client), refresh(client))
    assert Counting.now == 4
    Counting.released.set()
    await asyncio.gather(*tasks)


async def test_a_process_that_stops_sends_no_request_that_waits(client: XeroClient) -> None:
    """Those that are in progress are concluded, and a free place may be used."""
    lists = [client.connections(TOKEN) for _ in range(3)]
    tasks = await started(*lists, *(refresh(client) for _ in range(6)))
    client.stop_waiting()
    outcomes = asyncio.gather(*tasks, return_exceptions=True)
    Counting.released.set()
    results = await outcomes
    assert sum(isinstance(result, UpstreamFailed) for result in results) == 1
    assert sum(result is None for result in results) == 4
    assert Counting.most == 4
    assert await refresh(client) is not None
