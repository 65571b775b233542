"""TLS on the TCP sockets: handshakes, renewed certificates, limits, and the guard over https."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.bench import eventually
from support.certificates import Certificates, make_certificates
from support.inside import acceptor_of
from support.other_user import OTHER_UID
from support.raw_http import RawResponse, read_response, reset_at_close

from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server
from xots.testing import FakeClock
from xots.web.connection import MAX_LINGERING, Phase
from xots.web.handler import Handler
from xots.web.refusals import MAX_BODY_BYTES, MAX_HEAD_BYTES

NewServer = Callable[..., Awaitable[Server]]

WITHIN_SECONDS = 10
"""Upper bound on a wait for bytes that the server has sent already."""

HEAD_TIMEOUT = 10

PART_OF_A_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01"


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    """The certificates of the server under test, and their authority."""
    return make_certificates(tmp_path)


@pytest.fixture
def tls(files: Certificates) -> dict[str, Path]:
    """The settings that name them."""
    return {"tls_certificate": files.server, "tls_key": files.server_key}


@pytest.fixture
async def server(new_server: NewServer, credentials: Any, tls: dict[str, Path]) -> Server:
    """A server with TLS, without a login."""
    return await new_server(**credentials, **tls)


@dataclass
class Client:
    """A connection of a test to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    port: int

    @property
    def certificate(self) -> bytes:
        """The certificate that the server has shown, in DER."""
        return bytes(self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> RawResponse:
        async with asyncio.timeout(WITHIN_SECONDS):
            return await read_response(self.reader)

    async def get(self, path: str = "/ping", *headers: str, host: str = "localhost") -> RawResponse:
        """Return the response to a GET with these headers."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{self.port}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode())
        return await self.response()

    async def rest(self) -> bytes:
        """Return all that arrives until the server closes."""
        async with asyncio.timeout(WITHIN_SECONDS):
            return await self.reader.read()


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def open_streams() -> AsyncIterator[Connect]:
    """Open connections to servers; all are closed after the test."""
    clients: list[Client] = []

    async def open_streams(server: Server, context: ssl.SSLContext | None = None) -> Client:
        name = None if context is None else "localhost"
        streams = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, server_hostname=name
        )
        clients.append(Client(*streams, server.port))
        return clients[-1]

    yield open_streams
    for client in clients:
        client.writer.transport.abort()
        with suppress(OSError):
            await client.writer.wait_closed()


@pytest.fixture
def connect(open_streams: Connect, files: Certificates) -> Connect:
    """Open a connection with TLS that trusts the authority, or ``ca``."""

    async def connect(server: Server, ca: Path = files.ca) -> Client:
        return await open_streams(server, trusting(ca))

    return connect


@pytest.fixture
def plain(open_streams: Connect) -> Connect:
    """Open a connection without TLS, and send something."""

    async def plain(server: Server, sent: bytes = b"") -> Client:
        client = await open_streams(server)
        if sent:
            await client.send(sent)
        return client

    return plain


def trusting(ca: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts an authority, with HTTP/2 if the server has it."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def handshake(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Shake hands in the calling thread. Return the session, and whether it was resumed. Unlike
    asyncio's client, this one tells the server why it fails."""
    with (
        socket.create_connection(("127.0.0.1", server.port), WITHIN_SECONDS) as connected,
        context.wrap_socket(connected, server_hostname="localhost", session=session) as secure,
    ):
        return secure.session, secure.session_reused


def count(server: Server, *phases: Phase) -> int:
    """Return the number of a server's connections in some phases; all without an argument."""
    connections = acceptor_of(server).connections
    return sum(map(connections.count, phases)) if phases else len(connections)


def renew(files: Certificates, folder: Path, *names: str) -> Certificates:
    """Replace files by those of another authority, as ACME clients do, and return the new ones."""
    folder.mkdir()
    made = make_certificates(folder)
    for name in names:
        copy = folder / f"{name}.copy"
        copy.write_bytes((folder / name).read_bytes())
        copy.replace(files.server.with_name(name))
    return made


# ---------- serving


async def test_a_user_logs_in_and_a_program_reads_the_token_over_https(
    server: Server, files: Certificates, connect: Connect, sandbox: Sandbox
) -> None:
    """The URLs say https, and the cookies of the login are sent by https alone."""
    assert server.url == f"https://127.0.0.1:{server.port}"
    assert server.redirect_uri == f"https://localhost:{server.port}/code"
    person = Person(str(files.ca))
    page = await person.open(f"https://localhost:{server.port}/home")
    page = await person.consent(await person.submit(page))
    assert page.status == 200, page.text
    client = await connect(server)
    assert (await client.get("/token")).status == 200
    body = b"POST /home HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 0\r\n"
    await client.send(body % server.port + b"Sec-Fetch-Site: same-origin\r\n\r\n")
    cookie = (await client.response()).value("set-cookie")
    assert cookie is not None
    assert "; Secure" in cookie


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="    express.look()\n",
    new="",
    protects_from="a response that is out of date, over TLS",
)
async def test_the_express_lane_serves_requests_over_https(
    server: Server, files: Certificates, connect: Connect, clock: FakeClock, handled: list[str]
) -> None:
    """Once Tornado has parsed them. Each gets the response of its own time."""
    person = Person(str(files.ca))
    page = await person.open(f"https://localhost:{server.port}/home")
    assert (await person.consent(await person.submit(page))).status == 200
    client = await connect(server)
    made = [await client.get("/token") for _ in range(3)]
    assert made == 3 * [made[0]]
    clock.advance(60)
    assert b'"expiresIn":1740' in (await client.get("/token")).body
    assert handled == 2 * ["/token"]


@pytest.mark.safeguard(
    file="tls.py",
    old="    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
    new="    context.minimum_version = ssl.TLSVersion.TLSv1\n"
    '    context.set_ciphers("ALL:@SECLEVEL=0")\n',
    protects_from="connections with the broken versions of TLS",
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_versions_before_tls_1_2_are_refused(
    server: Server, files: Certificates, open_streams: Connect
) -> None:
    """The newest one is chosen, and HTTP/1.1."""
    old = trusting(files.ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await open_streams(server, old)
    client = await open_streams(server, trusting(files.ca))
    found = client.writer.get_extra_info("ssl_object")
    assert (found.version(), found.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    acceptor_of(server).sweep()


async def test_the_user_of_a_connection_is_known_with_tls_too(
    new_server: NewServer, tls: dict[str, Path], connect: Connect, expected_log: Any
) -> None:
    """``allowed_users`` holds."""
    expected_log("refused uid:")
    server = await new_server(**tls, allowed_users=(OTHER_UID,))
    response = await (await connect(server)).get("/token")
    assert (response.status, b"allowed_users" in response.body) == (403, True)


async def test_the_unix_socket_stays_plain(
    new_server: NewServer, tls: dict[str, Path], tmp_path: Path
) -> None:
    """No other user can read it."""
    await new_server(**tls, unix_socket=tmp_path / "socket")
    reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await read_response(reader)).status == 200
    writer.close()


@pytest.mark.safeguard(
    file="web/guard.py",
    old='        served_at = f"{self.scheme}://{host}"\n',
    new='        served_at = f"http://{host}"\n',
    protects_from="a page of a plain HTTP server on the same address that acts here",
)
async def test_the_own_origin_is_https(server: Server, connect: Connect, expected_log: Any) -> None:
    """One of http is foreign, at the same address too."""
    expected_log("refused with status 403")
    client = await connect(server)
    for scheme, status in (("https", 401), ("http", 403)):
        origin = f"Origin: {scheme}://127.0.0.1:{server.port}"
        assert (await client.get("/token", origin, host="127.0.0.1")).status == status


# ---------- renewal


@pytest.mark.safeguard(
    file="tls.py",
    old="        found = self._files.value()\n",
    new="        found = self._identity\n",
    protects_from="a certificate that expires although it was renewed",
)
async def test_a_renewed_certificate_is_for_the_next_connection(
    server: Server, files: Certificates, connect: Connect, tmp_path: Path
) -> None:
    """Open connections go on."""
    before = await connect(server)
    assert (await before.get()).status == 200
    renewed = renew(files, tmp_path / "new", "server.pem", "server.key")
    after = await connect(server, renewed.ca)
    assert after.certificate == ssl.PEM_cert_to_DER_cert(renewed.server.read_text())
    assert after.certificate != before.certificate
    for client in (before, after):
        assert (await client.get()).status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(server)


async def test_a_session_of_the_old_certificate_is_not_resumed(
    server: Server, files: Certificates, tmp_path: Path
) -> None:
    """The client sees the new certificate, and refuses it here."""
    context = trusting(files.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions exist after the handshake

    session, _ = await asyncio.to_thread(handshake, server, context)
    assert (await asyncio.to_thread(handshake, server, context, session))[1]
    renew(files, tmp_path / "new", "server.pem", "server.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(handshake, server, context, session)


@pytest.mark.safeguard(
    file="reread.py",
    old="            problem = safe_text(error, MAX_MESSAGE)",
    new='            raise\n            problem = ""',
    protects_from="an outage while a certificate and its key are replaced one after the other",
)
async def test_files_that_do_not_fit_change_nothing(
    server: Server,
    files: Certificates,
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """The log says so once. Once the other file has followed, both are used."""
    expected_log("tls_key: this is not the key of the certificate")
    first = (await connect(server)).certificate
    renewed = renew(files, tmp_path / "new", "server.pem")
    for _ in range(3):
        assert (await connect(server)).certificate == first
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    renewed.server_key.replace(files.server_key)
    assert (await connect(server, renewed.ca)).certificate != first


# ---------- handshakes that fail


@pytest.mark.safeguard(
    file="web/tls_connection.py",
    old="PLAIN if error.reason in HTTP_REQUEST else HANDSHAKE",
    new="HANDSHAKE",
    protects_from="an http:// client that fails, without a hint in the log",
)
@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
async def test_a_plain_client_is_closed_at_once_and_the_log_names_https(
    server: Server,
    plain: Connect,
    expected_log: Any,
    method: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Many of them cost one line."""
    expected_log(r"spoke plain HTTP: 30\. Use https://, not http://")
    for _ in range(30):
        client = await plain(server, f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with suppress(ConnectionResetError):
            assert b"HTTP" not in await client.rest()
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()
    assert len([one for one in caplog.records if "HTTP" in one.getMessage()]) == 1


async def test_a_client_that_distrusts_the_certificate_is_one_line_without_a_warning(
    server: Server,
    files: Certificates,
    plain: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Garbage in place of a handshake counts too."""
    caplog.set_level(logging.INFO)
    for _ in range(5):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(handshake, server, trusting(files.other_ca))
        await plain(server, b"\x16\x03\x01\x00\x05hello")
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()
    found = [one.getMessage() for one in caplog.records if "handshake" in one.getMessage()]
    assert found == [
        "closed connections whose TLS handshake failed: 10. Some clients may not trust the "
        "certificate"
    ]


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", PART_OF_A_CLIENT_HELLO, b"GE", b"\0" * 500])
async def test_no_connection_is_left_after_a_client_that_goes_in_the_handshake(
    server: Server, plain: Connect, ending: str, sent: bytes
) -> None:
    """And no line at WARNING, as a port scanner would cause."""
    for _ in range(3):
        client = await plain(server, sent)
        if ending == "reset":
            connected = client.writer.get_extra_info("socket")
            reset_at_close(connected)
        client.writer.transport.abort()
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="            Phase.OPENED: limits.head_timeout,\n",
    new="",
    protects_from="handshakes that never end and take all connections",
)
async def test_a_handshake_that_never_ends_is_closed_at_the_limit_of_the_head(
    server: Server, plain: Connect, clock: FakeClock
) -> None:
    """A drip of bytes does not move the limit."""
    client = await plain(server, PART_OF_A_CLIENT_HELLO)
    await eventually(lambda: count(server, Phase.OPENED) == 1)
    clock.advance(HEAD_TIMEOUT - 1)
    acceptor_of(server).sweep()
    await client.send(b"\x00")
    assert count(server, Phase.OPENED) == 1
    clock.advance(1)
    acceptor_of(server).sweep()
    assert count(server) == 0
    with suppress(ConnectionResetError):
        await client.rest()


async def test_a_broken_record_ends_the_connection_without_a_line(
    server: Server, connect: Connect
) -> None:
    """In the middle of a request."""
    client = await connect(server)
    assert (await client.get()).status == 200
    raw: socket.socket = client.writer.get_extra_info("socket")
    os.write(raw.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()


# ---------- limits and refusals

POST = b"POST /refresh HTTP/1.1\r\nHost: localhost:%d\r\n"

REFUSED = {
    "a long head": (b"GET /" + b"a" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\n\r\n", 431),
    "a long body": (POST + b"Content-Length: 3000000\r\n\r\n" + b"b" * 3_000_000, 413),
    "an announced long body": (POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
    "no request line": (b"hello\r\n\r\n", 400),
    "TLS in TLS": (b"\x16\x03\x01\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_reaches_its_client(server: Server, connect: Connect, case: str) -> None:
    """Encrypted, and whole, though data is unread."""
    sent, status = REFUSED[case]
    client = await connect(server)
    await client.send(sent.replace(b"%d", str(server.port).encode()))
    response = await client.response()
    assert response.status == status
    assert b'"type":"urn:xots:' in response.body
    assert await client.rest() == b""
    client.writer.transport.abort()
    await eventually(lambda: count(server) == 0)
    acceptor_of(server).sweep()


@pytest.mark.safeguard(
    file="web/tls_connection.py",
    old="            self.unwrap()\n",
    new="            pass\n",
    protects_from="clients that take the end of a response for an attack",
)
@pytest.mark.parametrize("request_line", [b"GET /ping HTTP/1.1", b"hello"])
async def test_each_close_is_announced(
    server: Server, files: Certificates, request_line: bytes
) -> None:
    """After a response and after a refusal. A client raises ``SSLEOFError`` otherwise."""
    context = trusting(files.ca)

    def received() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", server.port), WITHIN_SECONDS) as plain,
            context.wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            ) as secure,
        ):
            host = f"Host: localhost:{server.port}".encode()
            secure.sendall(b"\r\n".join([request_line, host, b"Connection: close", b"", b""]))
            return b"".join(iter(lambda: secure.recv(65536), b""))

    assert (await asyncio.to_thread(received)).startswith(b"HTTP/1.1 ")


async def test_a_slow_head_gets_a_408(server: Server, connect: Connect, clock: FakeClock) -> None:
    """As without TLS."""
    client = await connect(server)
    await client.send(b"GET /ping HTTP/1.1\r\n")
    await eventually(lambda: count(server, Phase.HEAD) == 1)
    clock.advance(HEAD_TIMEOUT)
    acceptor_of(server).sweep()
    assert (await client.response()).status == 408


FLOOD = 3_000
"""Requests whose responses fill all buffers on their way, those of asyncio's client too."""


async def test_a_client_that_does_not_read_is_closed_at_the_limit(
    server: Server, connect: Connect, clock: FakeClock
) -> None:
    """The phase WRITE begins once the socket takes no more."""
    client = await connect(server)
    assert (await client.get()).status == 200
    connection = acceptor_of(server).connections.first(Phase.IDLE)
    assert connection is not None
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connected = client.writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    flood = b"GET /ping HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % server.port * FLOOD
    client.writer.write(flood)
    await eventually(lambda: count(server, Phase.WRITE) == 1)
    clock.advance(20)
    acceptor_of(server).sweep()
    assert count(server) == 0


async def test_a_new_client_gets_a_503_if_all_connections_have_a_request_in_progress(
    new_server: NewServer,
    credentials: dict[str, Any],
    tls: dict[str, Path],
    files: Certificates,
    sandbox: Sandbox,
    clock: FakeClock,
    connect: Connect,
    plain: Connect,
    expected_log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its handshake. A few clients that do not complete theirs linger, for two seconds."""
    monkeypatch.setattr(Handler, "is_crowded", False)
    expected_log("refused connections, because max_connections are open")
    server = await new_server(max_connections=1, **credentials, **tls)
    person = Person(str(files.ca))
    page = await person.submit(await person.open(f"https://localhost:{server.port}/home"))
    assert (await person.consent(page)).status == 200
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    caller = await connect(server)
    request = asyncio.create_task(caller.get("/token?min_ttl=1500"))
    await eventually(lambda: count(server, Phase.HANDLING) == 1)
    refused = await connect(server)
    response = await refused.get()
    assert (response.status, response.value("retry-after")) == (503, "1")
    refused.writer.transport.abort()
    for _ in range(2 * MAX_LINGERING):
        await plain(server)
    await eventually(lambda: count(server, Phase.LINGER) == MAX_LINGERING)
    clock.advance(2)
    acceptor_of(server).sweep()
    assert count(server) == 1
    sandbox.release()
    assert (await request).status == 200


async def test_a_stop_closes_idle_connections_and_those_in_a_handshake(
    server: Server, connect: Connect, plain: Connect
) -> None:
    """None is left."""
    idle = await connect(server)
    assert (await idle.get()).status == 200
    await plain(server, PART_OF_A_CLIENT_HELLO)
    await eventually(lambda: count(server) == 2)
    await server.stop()
    assert await idle.rest() == b""
    assert count(server) == 0
