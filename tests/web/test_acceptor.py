"""The accept loop over real sockets: each limit, the cap, and the words for broken requests."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from support.bench import eventually
from support.inside import acceptor_of, in_flight_of
from support.raw_http import reset_at_close

from xots.server import Server
from xots.testing import FakeClock
from xots.web.connection import MAX_LINGERING, Phase
from xots.web.handler import Handler
from xots.web.headers import SECURITY_HEADERS
from xots.web.refusals import MAX_BODY_BYTES, MAX_HEAD_BYTES, REFUSALS, TOO_MANY_CONNECTIONS

NewServer = Callable[..., Awaitable[Server]]

WITHIN_SECONDS = 10
"""Upper bound on a wait for bytes that the server has sent already."""

HEAD_TIMEOUT, BODY_TIMEOUT, IDLE_TIMEOUT, WRITE_TIMEOUT = 10, 20, 30, 20

PING = b"GET /ping HTTP/1.1\r\nHost: localhost:%d\r\n\r\n"
HALF_HEAD = b"GET /ping HTTP/1.1\r\nHost: localh"
HALF_BODY = b"POST /refresh HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 10\r\n\r\nhalf"


@dataclass
class Client:
    """A connection of a test to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    port: int

    async def send(self, data: bytes) -> None:
        self.writer.write(data.replace(b"%d", str(self.port).encode()))
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Return all that arrives until the server closes. A reset raises."""
        async with asyncio.timeout(WITHIN_SECONDS):
            return await self.reader.read()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers (names in lower case) and the body of one response."""
        async with asyncio.timeout(WITHIN_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().splitlines()
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    def reset(self) -> None:
        """Close with a reset."""
        connected: socket.socket = self.writer.get_extra_info("socket")
        reset_at_close(connected)
        self.writer.transport.abort()


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect() -> Any:
    """Open connections to servers. All are closed after the test."""
    clients: list[Client] = []

    async def connect(server: Server, sent: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        clients.append(Client(reader, writer, server.port))
        if sent:
            await clients[-1].send(sent)
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()
        with suppress(OSError):
            await client.writer.wait_closed()


def count(server: Server, *phases: Phase) -> int:
    """Return the number of a server's connections in some phases; all without an argument."""
    connections = acceptor_of(server).connections
    return sum(map(connections.count, phases)) if phases else len(connections)


async def in_phase(server: Server, phase: Phase, number: int = 1) -> None:
    """Wait until so many connections are in a phase."""
    await eventually(lambda: count(server, phase) == number)


def pass_time(server: Server, clock: FakeClock, seconds: float) -> None:
    """Let time pass, and look at the limits."""
    clock.advance(seconds)
    acceptor_of(server).sweep()


def assert_refusal(raw: bytes, status: int) -> None:
    """Check one whole refusal: status line, security headers, problem, close."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    problem = msgspec.json.decode(body)
    assert first.startswith(f"HTTP/1.1 {status} "), raw
    assert SECURITY_HEADERS.items() <= headers.items()
    assert headers["Content-Type"] == "application/problem+json; charset=utf-8"
    assert headers["Connection"] == "close"
    assert int(headers["Content-Length"]) == len(body)
    assert problem["status"] == status
    assert problem["type"].startswith("urn:xots:")
    assert problem["detail"]


# ---------- limits of time


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="            Phase.HEAD: limits.head_timeout,\n",
    new="",
    protects_from="connections that never complete a request and are kept for ever",
)
async def test_an_incomplete_head_gets_a_408_at_its_limit(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """Not a moment before. A drip of bytes does not move the limit."""
    client = await connect(server, HALF_HEAD)
    await in_phase(server, Phase.HEAD)
    pass_time(server, clock, HEAD_TIMEOUT - 1)
    await client.send(b"a")
    assert count(server, Phase.HEAD) == 1
    pass_time(server, clock, 1)
    assert_refusal(await client.rest(), 408)
    client.writer.close()
    await eventually(lambda: count(server) == 0)


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="            Phase.BODY: limits.body_timeout,\n",
    new="",
    protects_from="connections that never complete a body and are kept for ever",
)
async def test_an_incomplete_body_gets_a_408_at_its_limit(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """The handler never sees the request."""
    client = await connect(server, HALF_BODY)
    await in_phase(server, Phase.BODY)
    pass_time(server, clock, BODY_TIMEOUT - 1)
    assert count(server, Phase.BODY) == 1
    pass_time(server, clock, 1)
    assert_refusal(await client.rest(), 408)
    client.writer.close()
    await eventually(lambda: count(server) == 0)


@pytest.mark.parametrize(
    ("requests", "limit", "phase"),
    [(0, HEAD_TIMEOUT, Phase.OPENED), (2, IDLE_TIMEOUT, Phase.IDLE)],
)
async def test_a_connection_without_a_byte_is_closed_without_a_response(
    server: Server, clock: FakeClock, connect: Connect, requests: int, limit: float, phase: Phase
) -> None:
    """A browser would take a 408 for the response to the next request that it sends."""
    client = await connect(server)
    for _ in range(requests):
        await client.send(PING)
        await client.response()
    await in_phase(server, phase)
    pass_time(server, clock, limit - 1)
    assert count(server) == 1
    pass_time(server, clock, 1)
    assert await client.rest() == b""
    await eventually(lambda: count(server) == 0)


async def test_the_idle_time_ends_with_the_first_byte_of_the_next_request(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """From then on, the limit is that of the headers."""
    client = await connect(server, PING)
    await client.response()
    await in_phase(server, Phase.IDLE)
    pass_time(server, clock, IDLE_TIMEOUT - 1)
    await client.send(HALF_HEAD)
    await in_phase(server, Phase.HEAD)
    pass_time(server, clock, HEAD_TIMEOUT - 1)
    assert count(server, Phase.HEAD) == 1
    pass_time(server, clock, 1)
    assert_refusal(await client.rest(), 408)


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="            Phase.WRITE: limits.write_timeout,\n",
    new="",
    protects_from="clients that do not read their responses and keep all connections",
)
async def test_a_client_that_does_not_read_is_closed_at_the_limit(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """The time counts from the first byte that it does not take."""
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", server.port))
    flood = asyncio.create_task(
        asyncio.get_running_loop().sock_sendall(
            connected, PING.replace(b"%d", str(server.port).encode()) * 60_000
        )
    )
    await in_phase(server, Phase.WRITE)
    pass_time(server, clock, WRITE_TIMEOUT - 1)
    assert count(server, Phase.WRITE) == 1
    pass_time(server, clock, 1)
    assert count(server) == 0
    flood.cancel()
    connected.close()


async def test_a_request_in_progress_has_no_limit(
    logged_in: Server, sandbox: Any, clock: FakeClock, connect: Connect
) -> None:
    """The caller waits for Xero, which takes long."""
    sandbox.add_fault("refresh:nth=1:hold-before")
    clock.advance(600)
    client = await connect(logged_in)
    await client.send(PING.replace(b"/ping", b"/token?min_ttl=1500"))
    await sandbox.held()
    for _ in range(3):
        pass_time(logged_in, clock, 15)
    assert count(logged_in, Phase.HANDLING) == 1
    sandbox.release()
    status, _, body = await client.response()
    assert status == 200, body


async def test_a_sweep_that_has_much_to_end_lets_the_event_loop_run(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """It goes on at the next turn until all are closed."""
    clients = [await connect(server, HALF_HEAD) for _ in range(150)]
    await in_phase(server, Phase.HEAD, len(clients))
    pass_time(server, clock, HEAD_TIMEOUT)
    assert 0 < count(server, Phase.HEAD) < len(clients)
    for client in clients:
        assert_refusal(await client.rest(), 408)
        client.writer.close()
    await eventually(lambda: count(server) == 0)


# ---------- the cap


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="return open_now < self.limits.max_connections or self._evict()",
    new="return True",
    protects_from="slow connections that take all descriptors from the store and from Xero",
)
async def test_at_the_cap_the_connection_that_waited_longest_for_a_request_is_closed(
    new_server: NewServer, clock: FakeClock, connect: Connect, expected_log: Any
) -> None:
    """Then the connection that was idle longest. Each new client is served."""
    expected_log("closed waiting connections to accept others")
    server = await new_server(max_connections=4)
    idle = []
    for number in range(2):
        idle.append(await connect(server, PING))
        await idle[-1].response()
        await in_phase(server, Phase.IDLE, number + 1)
        clock.advance(1)
    body = await connect(server, HALF_BODY)
    await in_phase(server, Phase.BODY)
    clock.advance(1)
    head = await connect(server, HALF_HEAD)
    await in_phase(server, Phase.HEAD)
    for victim in (body, head, *idle):
        clock.advance(1)
        client = await connect(server, PING)
        assert (await client.response())[0] == 200
        with suppress(ConnectionResetError):
            assert await victim.rest() == b""
        assert count(server) == 4
    acceptor_of(server).sweep()


async def test_many_slow_connections_do_not_keep_a_client_out(
    new_server: NewServer, connect: Connect, get: Any, expected_log: Any
) -> None:
    """Five times the cap of half heads, and each request between them is answered."""
    expected_log("closed waiting connections to accept others")
    server = await new_server(max_connections=20)
    for number in range(100):
        await connect(server, HALF_HEAD)
        if number % 10 == 0:
            assert (await get(f"{server.url}/ping")).status == 200
    assert count(server) <= 20
    acceptor_of(server).sweep()


async def test_a_new_client_gets_a_503_if_all_connections_have_a_request_in_progress(
    new_server: NewServer,
    credentials: dict[str, Any],
    log_in: Any,
    sandbox: Any,
    clock: FakeClock,
    connect: Connect,
    get: Any,
    expected_log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of these requests is lost. Accepting goes on afterwards."""
    monkeypatch.setattr(Handler, "is_crowded", False)  # or else only one of them could wait
    expected_log("refused connections, because max_connections are open")
    server = await new_server(max_connections=3, **credentials)
    await log_in(server)
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    callers = [
        asyncio.create_task(get(f"{server.url}/token?min_ttl=1500", Connection="close"))
        for _ in range(3)
    ]
    await in_phase(server, Phase.HANDLING, 3)
    await sandbox.held()
    for _ in range(5):
        client = await connect(server, PING)
        response = await client.rest()
        assert_refusal(response, TOO_MANY_CONNECTIONS.status)
        assert b"\r\nRetry-After: 1\r\n" in response
    assert count(server, Phase.HANDLING) == 3
    sandbox.release()
    assert {response.status for response in await asyncio.gather(*callers)} == {200}
    # A client may see its response before the server has closed the connection.
    await eventually(lambda: count(server) == count(server, Phase.LINGER))
    assert (await get(f"{server.url}/ping")).status == 200
    acceptor_of(server).sweep()


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="                    self._pause(error)\n",
    new='                    logger.exception("accept")\n',
    protects_from="an event loop that repeats a failing accept without end, with a line for each",
)
async def test_without_descriptors_the_server_pauses_with_one_line_and_no_traceback() -> None:
    """It serves its open connection meanwhile, and the waiting clients once descriptors are
    free."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARVED),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().split() == ["200", "200", "200"]
    lines = err.decode().splitlines()
    pauses = [line for line in lines if "can't accept connections: Too many open files" in line]
    assert 1 <= len(pauses) <= 5, err.decode()
    assert "Traceback" not in err.decode()
    assert len(lines) <= 2 * len(pauses), err.decode()


STARVED = """
import asyncio, logging, os, resource, socket
from xots.server import Server
from xots.settings import Settings

PATIENCE_SECONDS = 1.5  # longer than a pause

async def ping(reader, writer, port):
    writer.write(b"GET /ping HTTP/1.1\\r\\nHost: localhost:%d\\r\\n\\r\\n" % port)
    head = await asyncio.wait_for(reader.readuntil(b"\\r\\n\\r\\n"), 10)
    await reader.readline()
    print(head.split()[1].decode())

async def main():
    server = Server(Settings(port=0, store="memory:"))
    await server.start()
    first = await asyncio.open_connection("127.0.0.1", server.port)
    await ping(*first, server.port)
    slow = await asyncio.open_connection("127.0.0.1", server.port)
    late = socket.socket()
    late.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
    fill = []
    try:
        while True:
            fill.append(os.dup(0))
    except OSError:
        pass
    await asyncio.get_running_loop().sock_connect(late, ("127.0.0.1", server.port))
    await asyncio.sleep(0.1)
    await ping(*first, server.port)
    await asyncio.sleep(PATIENCE_SECONDS)
    for one in fill:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await ping(*await asyncio.open_connection(sock=late), server.port)
    await server.stop()

logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
"""
"""A server that meets its limit on descriptors. It prints the status of three requests."""


# ---------- TLS


@pytest.mark.safeguard(
    file="web/connection.py",
    old="buf[0] == TLS_HANDSHAKE",
    new="False",
    protects_from="an https:// client that hangs, without a hint in the log",
)
async def test_a_tls_client_is_closed_at_once_and_the_log_names_http(
    server: Server, expected_log: Any
) -> None:
    """Python's own client, with its default settings."""
    expected_log("Use http://, not https://")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        async with asyncio.timeout(1):
            await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=ssl.create_default_context(), server_hostname="x"
            )
    assert count(server) == 0
    acceptor_of(server).sweep()


async def test_curl_with_https_fails_within_a_second(server: Server, expected_log: Any) -> None:
    """Also if it accepts any certificate."""
    expected_log("Use http://, not https://")
    process = await asyncio.create_subprocess_exec(
        *("curl", "-k", "-s", "-m", "5", f"https://localhost:{server.port}/token")
    )
    async with asyncio.timeout(1):
        assert await process.wait() in (35, 56)
    acceptor_of(server).sweep()


async def test_many_tls_clients_cost_one_line(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture, expected_log: Any
) -> None:
    """The line has their number."""
    expected_log(r"spoke TLS: 50\. Use http://")
    clients = [await connect(server, b"\x16\x03\x01\x00\xa5") for _ in range(50)]
    for client in clients:
        with suppress(ConnectionResetError):
            await client.rest()
    acceptor_of(server).sweep()
    assert len([one for one in caplog.records if "TLS" in one.getMessage()]) == 1


# ---------- words instead of resets

TOO_LONG = b"a" * (MAX_HEAD_BYTES + 1)
HOST = b"Host: localhost:%d\r\n"
POST = b"POST /refresh HTTP/1.1\r\n" + HOST
CHUNK = b"1000\r\n" + b"c" * 0x1000 + b"\r\n"

BROKEN = {
    "a long path": (b"GET /" + TOO_LONG + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "long headers": (b"GET /ping HTTP/1.1\r\n" + HOST + b"Cookie: " + TOO_LONG + b"\r\n\r\n", 431),
    "a head without an end": (b"GET /" + TOO_LONG * 20, 431),
    "a long body": (
        POST + f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode() + b"b" * MAX_BODY_BYTES,
        413,
    ),
    "an announced long body": (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
    "a body of absurd length": (POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", 413),
    "an expected long body": (
        POST + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n",
        413,
    ),
    "a very long body": (
        POST + b"Content-Length: 3000000\r\n\r\n" + b"b" * 3_000_000,
        413,
    ),
    "long chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 100, 413),
    "chunks just too long": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 16 + b"1\r\nx\r\n0\r\n\r\n",
        413,
    ),
    "a chunk without a size": (POST + b"Transfer-Encoding: chunked\r\n\r\nnone\r\n", 400),
    "a chunk size without an end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 500,
        400,
    ),
    "a length that is no number": (POST + b"Content-Length: ten\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "no host": (b"GET /ping HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /ping HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
    "a port of absurd length": (
        b"GET /ping HTTP/1.1\r\nHost: localhost:" + b"9" * 5000 + b"\r\n\r\n",
        400,
    ),
    "two ways to send a body": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "no request line": (b"hello\r\n\r\n", 400),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    "a header without a colon": (b"GET /ping HTTP/1.1\r\n" + HOST + b"nocolon\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_request_gets_words_and_not_a_reset(
    server: Server, connect: Connect, case: str
) -> None:
    """The response is complete and carries the security headers, though data is unread."""
    sent, status = BROKEN[case]
    client = await connect(server)
    await client.send(sent)
    assert_refusal(await client.rest(), status)
    client.writer.close()
    await eventually(lambda: count(server) == 0)


@pytest.mark.safeguard(
    file="web/connection.py",
    old="        self.io_loop.add_handler(self._lingering, self._discard, self.io_loop.READ)\n",
    new="        self._stop_lingering(self._lingering)\n",
    protects_from="a reset in place of the reason for which a request was refused",
)
async def test_a_client_that_sends_all_before_it_reads_gets_the_reason(
    server: Server, connect: Connect
) -> None:
    """The rest of its body arrives after the refusal, and is discarded."""
    client = await connect(server, POST + b"Content-Length: 3000000\r\n\r\n")
    await in_phase(server, Phase.LINGER)
    for _ in range(3):
        await client.send(b"b" * 1_000_000)
        await asyncio.sleep(0)
    assert_refusal(await client.rest(), 413)


async def test_a_refused_client_that_stays_is_closed_after_two_seconds(
    server: Server, clock: FakeClock, connect: Connect
) -> None:
    """Without a further word."""
    await connect(server, b"hello\r\n\r\n")
    await in_phase(server, Phase.LINGER)
    pass_time(server, clock, 1.9)
    assert count(server) == 1
    pass_time(server, clock, 0.1)
    assert count(server) == 0


async def test_only_some_refused_clients_linger(server: Server, connect: Connect) -> None:
    """They must not take the descriptors of the store. Each gets its response."""
    clients = [await connect(server, b"hello\r\n\r\n") for _ in range(2 * MAX_LINGERING)]
    for client in clients:
        assert_refusal(await client.rest(), 400)
    assert count(server) == count(server, Phase.LINGER) == MAX_LINGERING


async def test_a_refused_client_that_sends_without_end_is_closed(
    server: Server, connect: Connect
) -> None:
    """After some megabytes."""
    client = await connect(server, b"hello\r\n\r\n")

    async def send_without_end() -> None:
        while True:
            await client.send(b"x" * 1_000_000)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_without_end(), WITHIN_SECONDS)
    await eventually(lambda: count(server) == 0)


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="if self._connection.closed():",
    new="if False:",
    protects_from="an act of a request that was refused after its last byte had arrived",
)
async def test_a_body_that_is_too_large_does_nothing(
    logged_in: Server, connect: Connect, get: Any
) -> None:
    """The login that it would have ended goes on."""
    for sent, status in BROKEN.values():
        if status == 413:
            client = await connect(logged_in, sent.replace(b"/refresh", b"/logout"))
            assert_refusal(await client.rest(), 413)
    assert (await get(f"{logged_in.url}/token")).status == 200


def test_each_refusal_is_one_small_response() -> None:
    """It fits into the buffer of any socket, so that it is sent at once."""
    for refusal in REFUSALS:
        response = refusal.response()
        assert len(response) < 1500
        assert_refusal(response, refusal.status)


# ---------- ordinary connections


async def test_a_connection_serves_many_requests(
    server: Server, connect: Connect, expected_log: Any
) -> None:
    """One after another, and several sent at once, in their order."""
    expected_log("this path does not exist")
    client = await connect(server)
    for _ in range(3):
        await client.send(PING)
        assert (await client.response())[0] == 200
    await client.send(PING + PING.replace(b"/ping", b"/nowhere") + PING + HALF_HEAD)
    assert [(await client.response())[0] for _ in range(3)] == [200, 404, 200]
    await client.send(b"ost:%d\r\n\r\n")
    assert (await client.response())[0] == 200
    assert count(server) == 1


@pytest.mark.parametrize("ending", ["close", "reset", "half-close"])
@pytest.mark.parametrize(
    "sent", [b"", HALF_HEAD, HALF_BODY, PING, PING * 3, b"hello\r\n\r\n", b"\x16\x03\x01"]
)
async def test_no_connection_is_left_after_its_client_has_gone(
    server: Server, connect: Connect, sent: bytes, ending: str, expected_log: Any
) -> None:
    """Whatever it had sent, and however it leaves."""
    expected_log.perhaps("spoke TLS")
    clients = [await connect(server, sent) for _ in range(3)]
    for client in clients:
        if ending == "reset":
            client.reset()
        elif ending == "half-close":
            with suppress(OSError):  # the server may have closed already
                client.writer.write_eof()
        else:
            client.writer.close()
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()


# ---------- the stop


async def test_a_stop_closes_idle_connections_and_finishes_requests(
    logged_in: Server, sandbox: Any, clock: FakeClock, connect: Connect, get: Any
) -> None:
    """No connection and no socket is left."""
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    idle = await connect(logged_in, PING)
    await idle.response()
    await in_phase(logged_in, Phase.IDLE)
    lingering = await connect(logged_in, b"hello\r\n\r\n")
    await in_phase(logged_in, Phase.LINGER)
    caller = asyncio.create_task(get(f"{logged_in.url}/token?min_ttl=1500"))
    await sandbox.held()
    stopping = asyncio.create_task(logged_in.stop())
    assert await idle.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(logged_in)
    sandbox.release()
    assert (await caller).status == 200
    await stopping
    assert_refusal(await lingering.rest(), 400)
    assert count(logged_in) == 0


LONG_TOKEN = b"GET /token?min_ttl=1500 HTTP/1.1\r\nHost: localhost:%d\r\n\r\n"
LOGOUT = b"POST /logout HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="if self.is_stopping:",
    new="if False:",
    protects_from="clients that delay a stop by the requests that they have sent already",
)
async def test_a_stop_serves_one_request_of_each_connection(
    logged_in: Server, sandbox: Any, clock: FakeClock, connect: Connect
) -> None:
    """Requests that the client has sent behind it have no response, and do nothing."""
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    client = await connect(logged_in, LONG_TOKEN + LOGOUT + PING * 500)
    await sandbox.held()
    stopping = asyncio.create_task(logged_in.stop())
    await eventually(lambda: acceptor_of(logged_in).is_stopping)
    sandbox.release()
    assert (await client.response())[0] == 200
    assert await client.rest() == b""
    await stopping
    assert logged_in.keeper.account.consent_id is not None


async def test_requests_of_a_client_that_is_gone_do_nothing(
    logged_in: Server, sandbox: Any, clock: FakeClock, connect: Connect
) -> None:
    """It has sent several at once, and left before the response to the first."""
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    client = await connect(logged_in, LONG_TOKEN + LOGOUT)
    await sandbox.held()
    client.reset()
    sandbox.release()
    await eventually(lambda: count(logged_in) == in_flight_of(logged_in).count == 0)
    assert logged_in.keeper.account.consent_id is not None
