"""Connections that the express lane serves: the limits hold for them, and no byte is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from support.bench import eventually
from support.inside import acceptor_of, tornado_timeout_of, watched_of
from support.keep_alive import head
from support.raw_http import exchange, read_response

from xots.sandbox import Sandbox
from xots.server import Server
from xots.testing import FakeClock
from xots.web.connection import Connection, Phase
from xots.web.express import Express
from xots.web.express_connection import (
    IDLE_STEP_SECONDS,
    REQUESTS_PER_TURN,
    ExpressConnection,
)
from xots.web.tokens import TokenHandler

pytestmark = pytest.mark.usefixtures("learns_at_once")


class Client:
    """A client of a test, and the server's end of its connection.

    Args:
        connected: the client's socket.
        connection: the server's end.
    """

    def __init__(self, connected: socket.socket, connection: Connection) -> None:
        self.socket, self.connection = connected, connection
        self.room = 1 << 20
        """The number of bytes that the connection still takes from the server."""
        self.parts = 0
        """The number of responses of which it takes a part first."""
        self._of_server, connection.socket = connection.socket, self  # type: ignore[assignment]

    async def receive(self, responses: int) -> bytes:
        """Return so many responses, and all that arrived with them."""
        loop, received = asyncio.get_running_loop(), b""
        async with asyncio.timeout(10):
            while received.count(b"}\n") < responses:
                part = await loop.sock_recv(self.socket, 1 << 16)
                assert part, received
                received += part
        return received

    def unread(self) -> int:
        """Return the number of bytes that the server has not read."""
        return len(self._of_server.recv(1 << 16, socket.MSG_PEEK))

    # ---------- the server's socket

    def send(self, data: bytes) -> int:
        if self.room == 0:
            raise BlockingIOError
        room, self.parts = (100, self.parts - 1) if self.parts else (self.room, 0)
        sent = self._of_server.send(data[:room])
        self.room -= sent
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of_server, name)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """Open the only connection."""
    connections = acceptor_of(server).connections
    await eventually(lambda: len(connections) == 0)
    with closing(socket.create_connection(("127.0.0.1", server.port))) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await eventually(lambda: len(connections) == 1)
        connection = connections.first(*Phase)
        assert connection is not None
        yield Client(opened, connection)


async def turns(number: int = 20) -> None:
    """Let the event loop run."""
    for _ in range(number):
        await asyncio.sleep(0)


async def learn(server: Server, *lines: str) -> bytes:
    """Let the lane learn a head, and return it."""
    raw = head(server, "/token", *lines)
    await exchange(server.port, [(raw, False)])
    return raw


# ---------- a client that reads slowly


async def by_tornado(client: Client, server: Server) -> None:
    """Let Tornado serve the connection, by a request that the lane does not know."""
    client.socket.send(head(server, "/token", "X-New: 1"))
    await client.receive(1)


@pytest.mark.parametrize("lines", [(), ("Connection: close",)])
async def test_the_rest_of_a_response_is_sent_before_the_next_request_is_read(
    logged_in: Server, lines: tuple[str, ...]
) -> None:
    """On a connection that only the lane has served. Until then the client is not idle: it has the
    time of the write timeout, and a stop does not cut the response off."""
    raw = await learn(logged_in, *lines)
    async with connected(logged_in) as client:
        client.room = 100
        for _ in range(1 if lines else 2):
            client.socket.send(raw)
            await turns()
            assert client.connection.phase is Phase.WRITE
        client.room = 1 << 20
        received = await client.receive(1 if lines else 2)
        assert received.count(b"HTTP/1.1 200 OK\r\n") == (1 if lines else 2)


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="let the event loop watch it again.\n            self._add_io_state(READ)\n",
    new="let the event loop watch it again.\n",
    protects_from="a connection that is deaf after a response in two parts",
)
@pytest.mark.parametrize("is_of_tornado", [False, True])
async def test_a_rest_that_is_sent_at_once_leaves_no_deaf_connection(
    logged_in: Server, is_of_tornado: bool
) -> None:
    """The socket takes the first part of a response, and then the rest without a wait."""
    raw = await learn(logged_in)
    async with connected(logged_in) as client:
        if is_of_tornado:
            await by_tornado(client, logged_in)
        client.parts = 1
        for _ in range(2):
            client.socket.send(raw)
            await client.receive(1)
        assert client.parts == 0


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="        self._leave_watch()\n        written",
    new="        written",
    protects_from="a client that sends requests, reads no response, and fills the memory",
)
@pytest.mark.parametrize("is_of_tornado", [False, True])
async def test_a_client_that_reads_nothing_is_closed_at_the_limit(
    logged_in: Server, clock: FakeClock, is_of_tornado: bool
) -> None:
    """The server reads no further request of it, and closes at the write timeout."""
    acceptor = acceptor_of(logged_in)
    raw = await learn(logged_in)
    async with connected(logged_in) as client:
        if is_of_tornado:
            await by_tornado(client, logged_in)
        client.room = 100
        client.socket.send(raw)
        await turns()
        client.socket.send(raw)
        await turns()
        assert client.unread() == len(raw)
        clock.advance(acceptor.limits.write_timeout - 0.1)
        acceptor.sweep()
        assert client.connection.phase is Phase.WRITE
        clock.advance(0.2)
        acceptor.sweep()
        assert client.connection.closed()


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="        if closes or self._express.is_closed:\n",
    new="        if closes:\n",
    protects_from="a program that sends its next request to a server that stops",
)
async def test_a_rest_that_is_sent_during_a_stop_is_the_last_response(logged_in: Server) -> None:
    """As after each response of Tornado, the client learns at once that it has to connect again."""
    raw = await learn(logged_in)
    async with connected(logged_in) as client:
        client.room = 100
        client.socket.send(raw)
        await turns()
        acceptor_of(logged_in).stop()
        client.room = 1 << 20
        await client.receive(1)
        await eventually(client.connection.closed)


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="(self._unread or self.phase is Phase.WRITE)",
    new="self.phase is Phase.WRITE",
    protects_from="requests without a response, because their client has ended its half",
)
@pytest.mark.parametrize("express_lane", [True, False])
async def test_a_client_that_ends_its_half_gets_all_responses(
    new_server: Any,
    credentials: dict[str, Any],
    log_in: Any,
    sandbox: Sandbox,
    clock: FakeClock,
    express_lane: bool,
) -> None:
    """Its second request, and the end, arrive while the first one waits for Xero."""
    server = await new_server(express_lane=express_lane, **credentials)
    await log_in(server)
    await learn(server)
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    slow = head(server).replace(b"/token", b"/token?min_ttl=1700")
    async with connected(server) as client:
        client.socket.send(slow)
        await sandbox.held()
        client.socket.send(head(server))
        await turns()
        client.socket.shutdown(socket.SHUT_WR)
        await turns()
        sandbox.release()
        received = await client.receive(2)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old=" or self.phase is Phase.WRITE):",
    new="):",
    protects_from="a response in the middle of another one, or a full memory, by a client that "
    "reads slowly",
)
async def test_no_request_is_read_while_a_rest_is_sent_part_by_part(logged_in: Server) -> None:
    """Each part that the socket takes lets the event loop watch it for requests, too."""
    raw, other = await learn(logged_in), head(logged_in, "/token", "X-Other: 1")
    async with connected(logged_in) as client:
        await by_tornado(client, logged_in)
        client.socket.send(raw)
        await client.receive(1)
        client.room = 100
        client.socket.send(raw)
        await turns()
        client.socket.send(other)
        for _ in range(3):
            client.room = 100
            await turns()
            assert client.unread() == len(other)
        client.room = 1 << 20
        received = await client.receive(2)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


# ---------- many requests at once


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="                self.express.look_if_late()\n",
    new="",
    protects_from="a token that has expired while the process was suspended",
)
async def test_the_time_that_passes_between_two_responses_counts(
    logged_in: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be suspended after the first of those that have arrived together."""
    raw = await learn(logged_in)
    connections = acceptor_of(logged_in).connections
    await eventually(lambda: len(connections) == 0)
    read_ahead, began = ExpressConnection.read_ahead, clock.elapsed()

    def suspended(self: ExpressConnection) -> None:
        read_ahead(self)
        if clock.elapsed() == began:
            clock.advance(1800)

    monkeypatch.setattr(ExpressConnection, "read_ahead", suspended)
    address = ("127.0.0.1", logged_in.port)
    clients = [socket.create_connection(address) for _ in range(2)]
    await eventually(lambda: watched_of(logged_in) == 2)
    for client in clients:
        client.setblocking(False)
        client.send(raw)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        received = [await loop.sock_recv(client, 1 << 16) for client in clients]
    for client in clients:
        client.close()
    assert all(b'"expiresIn":1800' in response for response in received)
    assert received[0] != received[1]


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="            left -= len(arrived)\n",
    new="",
    protects_from="clients without a pause, for which all others wait",
)
async def test_the_others_have_their_turn_although_requests_come_without_pause(
    logged_in: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the refreshes, and the requests that the lane does not know."""
    raw, look = await learn(logged_in), Express.look
    clients = [socket.create_connection(("127.0.0.1", logged_in.port)) for _ in range(2)]
    resting, looks, turns = {clients[1]}, 0, 0

    def look_and_send(self: Express) -> None:
        """Send the next request of each client that has its response."""
        nonlocal looks
        look(self)
        looks += 1
        for client in clients:
            with suppress(BlockingIOError):
                if client not in resting:
                    client.recv(1 << 16)
                if looks < 10 * REQUESTS_PER_TURN:
                    client.send(raw)
                    resting.discard(client)

    await eventually(lambda: watched_of(logged_in) == 2)
    for client in clients:
        client.setblocking(False)
    with monkeypatch.context() as patched:
        patched.setattr(Express, "look", look_and_send)
        clients[0].send(raw)
        async with asyncio.timeout(10):
            while looks < 10 * REQUESTS_PER_TURN:
                await asyncio.sleep(0)
                turns += 1
    for client in clients:
        client.close()
    assert turns >= 9


@pytest.mark.safeguard(
    file="web/express.py",
    old="                del self._known[request][sender]\n                return None\n",
    new="                raise\n",
    protects_from="clients without a response, if one can not be made",
)
async def test_a_response_that_can_not_be_repeated_is_made_by_the_handler(
    logged_in: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """An observer may raise as it counts the last ones, for example."""
    expected_log(r"ERROR xots.web: the express lane could not repeat a response")
    raw = await learn(logged_in)
    clock.advance(1)

    def fail(self: object, now: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("xots.web.tokens._Repeated.body", fail)
    for _ in range(2):
        [response] = await exchange(logged_in.port, [(raw, False)])
        assert response.status == 200


# ---------- the other limits


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="            self._connections.move(self, Phase.IDLE, self._stays_idle_until)\n",
    new="            pass\n",
    protects_from="a program in use that is closed, as if it had sent nothing",
)
@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="move(self, Phase.IDLE, self._stays_idle_until)",
    new="move(self, Phase.IDLE, self._express.elapsed)",
    protects_from="a connection that is closed before the idle timeout",
)
@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="self._head, self._stays_idle_until = self._unread, 0.0",
    new="self._head = self._unread",
    protects_from="a connection that is closed before the idle timeout, after Tornado served it",
)
async def test_the_idle_time_begins_with_each_response_of_the_lane(
    logged_in: Server, clock: FakeClock
) -> None:
    """A connection closes at the idle timeout or soon after it, not before."""
    acceptor = acceptor_of(logged_in)
    raw, other = await learn(logged_in), head(logged_in, "/livez")
    almost = acceptor.limits.idle_timeout - 0.1 * IDLE_STEP_SECONDS
    async with connected(logged_in) as client:
        for seconds in (almost, 0.8 * IDLE_STEP_SECONDS, almost):
            client.socket.send(raw)
            await client.receive(1)
            assert client.connection.phase is Phase.IDLE
            clock.advance(seconds)
            acceptor.sweep()
            assert not client.connection.closed()
        step = IDLE_STEP_SECONDS
        for sent, seconds in ((raw, 0.2 * step), (other, 0.6 * step), (raw, almost)):
            client.socket.send(sent)
            await client.receive(1)
            await eventually(lambda: client.connection.phase is Phase.IDLE)
            clock.advance(seconds)
            acceptor.sweep()
            assert not client.connection.closed()
        clock.advance(2 * IDLE_STEP_SECONDS)
        acceptor.sweep()
        assert client.connection.closed()


async def test_an_incomplete_head_after_responses_of_the_lane_gets_a_408(
    logged_in: Server, clock: FakeClock
) -> None:
    """The first bytes of a known head are no known head."""
    acceptor = acceptor_of(logged_in)
    raw = await learn(logged_in)
    async with connected(logged_in) as client:
        client.socket.send(raw)
        await client.receive(1)
        client.socket.send(raw[:-1])
        await eventually(lambda: client.connection.phase is Phase.HEAD)
        clock.advance(acceptor.limits.head_timeout)
        acceptor.sweep()
        refused = await asyncio.get_running_loop().sock_recv(client.socket, 1 << 16)
        assert refused.startswith(b"HTTP/1.1 408 ")


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="        self._http.conn_params.header_timeout = None\n",
    new="",
    protects_from="a busy connection that is closed in each hour, perhaps under a request",
)
async def test_tornado_closes_no_connection_that_the_lane_serves(logged_in: Server) -> None:
    """Tornado waits for the next head all the time in which the lane responds: its limit would run
    from its own last request on. The limits of this server replace it."""
    assert tornado_timeout_of(acceptor_of(logged_in)) is None


async def test_the_cap_counts_the_connections_of_the_lane(
    new_server: Any, credentials: dict[str, Any], log_in: Any, expected_log: Any
) -> None:
    """The one that has been idle for longest makes room for a new one."""
    expected_log("closed waiting connections to accept others")
    server = await new_server(max_connections=3, **credentials)
    await log_in(server)
    raw, acceptor = await learn(server), acceptor_of(server)
    await eventually(lambda: len(acceptor.connections) == 0)
    clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    for reader, writer in clients:
        writer.write(raw)
        assert (await read_response(reader)).status == 200
    assert len(await exchange(server.port, [(raw, False)])) == 1
    assert await clients[0][0].read() == b""
    acceptor.sweep()
    for reader, writer in clients[1:]:
        writer.write(raw)
        assert (await read_response(reader)).status == 200
    for _, writer in clients:
        writer.close()


# ---------- the counts


@pytest.mark.safeguard(
    file="web/express.py",
    old="            by_sender[sender].flush()\n",
    new="            pass\n",
    protects_from="reads of a token that /status does not show",
)
async def test_the_reads_between_two_first_requests_are_counted(
    logged_in: Server, monkeypatch: pytest.MonkeyPatch, get: Any
) -> None:
    """Two programs send the same new head at the same time: the lane learns it twice."""
    raw, gate, waiting = head(logged_in), asyncio.Event(), asyncio.Event()
    get_token = TokenHandler.get

    async def late(self: TokenHandler) -> None:
        monkeypatch.setattr(TokenHandler, "get", get_token)
        waiting.set()
        await gate.wait()
        await get_token(self)

    monkeypatch.setattr(TokenHandler, "get", late)
    first = asyncio.create_task(exchange(logged_in.port, [(raw, False)]))
    await waiting.wait()
    for _ in range(3):
        await exchange(logged_in.port, [(raw, False)])
    gate.set()
    await first
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert reads["count"] == 4


@pytest.mark.safeguard(
    file="web/express.py",
    old=" and elapsed < self._ends_at\n",
    new="\n",
    protects_from="an expired token that is served when the clock is set back",
)
async def test_a_clock_that_is_set_back_repeats_no_second(
    logged_in: Server, clock: FakeClock
) -> None:
    """The token expires while the clock comes back to the second of the last response."""
    clock.advance(0.4)  # at a whole second, ``expiresIn`` changes at once
    raw = await learn(logged_in)
    (before,) = await exchange(logged_in.port, [(raw, False)])
    clock.advance(hours=1)
    clock.step(hours=-1)
    (after,) = await exchange(logged_in.port, [(raw, False)])
    assert after.status == 200
    assert after.body != before.body
