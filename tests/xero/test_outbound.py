"""The way to Xero through a proxy, and with a certificate authority that the settings name."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xots.clock import SystemClock
from xots.lifecycle.outcomes import Failure
from xots.sandbox import DEFAULT_CLIENT_ID, Endpoint, Outcome, Sandbox
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings, load
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

REFRESH_FAILED = r"WARNING xots: default: refresh failed"
LOGIN_REFUSED = r"WARNING xots: default: login failed: "
AT_CODE = r"WARNING xots\.web: GET /code: "
TORNADO = r"WARNING tornado\.general: "


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables from which libcurl takes a proxy by itself."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# ---------- the proxy, the TLS server and the authority of the tests


class Relay:
    """A server on a free port of loopback, with a task for each connection."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; after a stop, on the same port as before."""
        self._server = await asyncio.start_server(
            self._accepted, "127.0.0.1", self.port, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # a client that keeps its connection does not help to close it
        finally:
            self._tasks.discard(task)
            await closed(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        raise NotImplementedError


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


async def piped(
    host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes
) -> None:
    """Connect, send ``first``, and pass on the bytes of both sides until both have ended."""
    their_reader, their_writer = await asyncio.open_connection(host, port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

    try:
        their_writer.write(first)
        ours = asyncio.create_task(pump(reader, their_writer))
        await pump(their_reader, writer)
        ours.cancel()
        await asyncio.gather(ours, return_exceptions=True)
    finally:
        await closed(their_writer)


@dataclass
class Seen:
    """One request that the proxy received."""

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)


class Proxy(Relay):
    """An HTTP proxy that forwards absolute targets and opens tunnels for CONNECT.

    With a ``password`` (user:password), it refuses requests without it.
    """

    def __init__(self, password: str | None = None) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.expected = (
            None if password is None else "Basic " + base64.b64encode(password.encode()).decode()
        )
        self.response_instead: bytes | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        method, target, _ = head[0].split()
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        self.seen.append(Seen(method, target, headers))
        if self.expected not in (None, headers.get("proxy-authorization")):
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
        elif self.response_instead is not None:
            writer.write(self.response_instead)
        elif method == "CONNECT":
            host, _, port = target.rpartition(":")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await piped(host, int(port), reader, writer, b"")
        else:
            parts = urlsplit(target)
            kept = {name: value for name, value in headers.items() if not name.startswith("proxy-")}
            lines = [
                f"{method} {parts.path} HTTP/1.1",
                *(f"{n}: {v}" for n, v in (kept | {"connection": "close"}).items()),
            ]
            await piped(
                parts.hostname or "",
                parts.port or 80,
                reader,
                writer,
                ("\r\n".join(lines) + "\r\n\r\n").encode(),
            )


class HttpsStandIn(Relay):
    """A TLS server in front of the sandbox."""

    def __init__(self, tls: ssl.SSLContext, sandbox: Sandbox) -> None:
        super().__init__(tls)
        self._sandbox = sandbox
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await piped("127.0.0.1", self._sandbox.port, reader, writer, b"")

    @property
    def settings(self) -> dict[str, str]:
        """The settings by which a server reaches the sandbox through this one."""
        base, behind = f"https://127.0.0.1:{self.port}", self._sandbox.url
        return {
            "token_url": self._sandbox.token_url.replace(behind, base),
            "revoke_url": self._sandbox.revoke_url.replace(behind, base),
            "connections_url": self._sandbox.connections_url.replace(behind, base),
        }


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy without a password."""
    running = Proxy()
    await running.start()
    yield running
    await running.stop()


def through(proxy: Proxy, userinfo: str = "") -> Any:
    """The setting for this proxy, read as from the environment."""
    return load({}, {"XOTS_PROXY": f"http://{userinfo}127.0.0.1:{proxy.port}"}).proxy


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests, and a server certificate from it."""

    ca_file: Path
    server_context: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that ``ca_file`` names."""
    return new_authority(tmp_path_factory.mktemp("authority"))


def new_authority(folder: Path) -> Authority:
    """Make an authority, and its certificate for 127.0.0.1.

    Both are valid by the real clock, since OpenSSL reads that one.
    """
    now = datetime.now(UTC)

    def certificate(
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        signed_by: ec.EllipticCurvePrivateKey,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()),
                critical=False,
            )
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "encipher_only", "decipher_only"),
        ),
        False,
    )
    ca = (
        certificate("an authority of the tests", ca_key, "an authority of the tests", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**ca_usage, key_cert_sign=True, crl_sign=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    own = (
        certificate("127.0.0.1", key, "an authority of the tests", ca_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    ca_file, own_file = folder / "authority.pem", folder / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    own_file.write_bytes(
        own.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_file)
    return Authority(ca_file, context)


@pytest.fixture
async def https(authority: Authority, sandbox: Sandbox) -> AsyncIterator[HttpsStandIn]:
    """The sandbox behind TLS."""
    running = HttpsStandIn(authority.server_context, sandbox)
    await running.start()
    yield running
    await running.stop()


# ---------- proxy


async def test_login_refresh_and_revocation_go_through_the_proxy(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    proxy: Proxy,
    clock: Any,
    log_in: LogIn,
    get: Any,
    send: Any,
) -> None:
    """Every request of the server to Xero goes through the proxy."""
    server = await new_server(**credentials, proxy=through(proxy))
    await log_in(server)
    first = (await get(f"{server.url}/token")).json
    assert first["tenantId"] in sandbox.world.accounting.organisations
    clock.advance(1500)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).json["accessToken"] != first["accessToken"]
    assert (await get(f"{server.url}/tenants")).status == 200
    assert (await send("POST", f"{server.url}/revoke", None, "")).json == {"status": "revoked"}
    requested = [one.path for one in sandbox.log if one.endpoint is not Endpoint.AUTHORIZE]
    assert [urlsplit(one.target).path for one in proxy.seen] == requested
    assert {urlsplit(one.target).netloc for one in proxy.seen} == {urlsplit(sandbox.url).netloc}
    assert len(requested) >= 5
    assert sandbox.identity.usable_refresh_tokens(sandbox.clock()) == []


async def test_a_connection_is_deleted_through_the_proxy(sandbox: Sandbox, proxy: Proxy) -> None:
    """The request has no body, and is sent once. A proxy that is down is a failure."""
    endpoints = IdentityServer(connections_url=sandbox.connections_url)
    client = XeroClient(endpoints, clock=SystemClock(), proxy=through(proxy))
    token = Secret(sandbox.log_in().access_token)
    app = sandbox.identity.app(DEFAULT_CLIENT_ID)
    assert app is not None
    [connection, *others] = list(app.connections.values())
    assert await client.disconnect(token, connection.connection_id) is None
    assert list(app.connections.values()) == others
    assert [urlsplit(one.target).path for one in proxy.seen] == [sandbox.log[-1].path]
    await proxy.stop()
    assert isinstance(await client.disconnect(token, connection.connection_id), Failure)
    client.close()


async def test_an_https_target_is_tunnelled_so_that_the_proxy_sees_no_secret(
    new_server: NewServer,
    credentials: Any,
    proxy: Proxy,
    https: HttpsStandIn,
    authority: Authority,
    clock: Any,
    log_in: LogIn,
    get: Any,
) -> None:
    """The proxy receives CONNECT only; ``ca_file`` verifies the TLS inside the tunnel."""
    server = await new_server(
        **credentials, **https.settings, proxy=through(proxy), ca_file=authority.ca_file
    )
    await log_in(server)
    clock.advance(1500)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).json["expiresIn"] == 1800
    assert {(one.method, one.target) for one in proxy.seen} == {
        ("CONNECT", f"127.0.0.1:{https.port}")
    }
    assert not [one for one in proxy.seen if "authorization" in one.headers]


async def test_a_proxy_does_not_loosen_the_check_of_certificates(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    proxy: Proxy,
    https: HttpsStandIn,
    person: Person,
    expected_log: Any,
) -> None:
    """In a tunnel, the certificate of an unknown authority is refused before a request is sent."""
    expected_log(LOGIN_REFUSED, AT_CODE)
    server = await new_server(**credentials, **https.settings, proxy=through(proxy))
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    page = await person.consent(page)
    assert page.status == 400
    assert "certificate" in page.text.lower()
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


async def test_the_credentials_of_the_proxy_are_sent_to_the_proxy_only(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    log_in: LogIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are decoded from the URL, sent with every request, and found in no log."""
    caplog.set_level("DEBUG")
    proxy = Proxy("clerk:p@ss canary")
    await proxy.start()
    try:
        server = await new_server(**credentials, proxy=through(proxy, "clerk:p%40ss%20canary@"))
        await log_in(server)
        assert server.keeper.can_serve
        assert proxy.seen
        assert {one.headers.get("proxy-authorization") for one in proxy.seen} == {proxy.expected}
        assert "canary" not in caplog.text + repr(server.settings)
    finally:
        await proxy.stop()


async def test_a_proxy_that_refuses_the_credentials_fails_the_login(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, person: Person, expected_log: Any
) -> None:
    """The page of the failed login shows the status 407, and the code did not reach Xero."""
    expected_log(LOGIN_REFUSED, AT_CODE)
    proxy = Proxy("clerk:right")
    await proxy.start()
    try:
        server = await new_server(**credentials, proxy=through(proxy, "clerk:wrong@"))
        page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
        page = await person.consent(page)
        assert page.status == 400
        assert "407" in page.text
        assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]
    finally:
        await proxy.stop()


async def test_with_the_proxy_down_the_refresh_token_is_not_spent(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    proxy: Proxy,
    clock: Any,
    log_in: LogIn,
    get: Any,
    expected_log: Any,
) -> None:
    """Nothing was sent, so no grace period starts. The next refresh after the outage succeeds."""
    expected_log(REFRESH_FAILED)
    server = await new_server(**credentials, proxy=through(proxy))
    await log_in(server)
    await proxy.stop()
    clock.advance(1500)
    await server.rotation.tick()
    account = server.keeper.account
    assert account.current is not None
    assert account.current.first_spent_at is None
    assert account.intent is None
    assert account.problem is not None
    assert account.problem.kind == "not-sent"
    assert "127.0.0.1" in account.problem.detail
    assert (await get(f"{server.url}/token")).json["expiresIn"] == 300
    await proxy.start()
    clock.advance(120)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).json["expiresIn"] == 1800
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]


async def test_with_the_proxy_down_a_login_names_the_host(
    new_server: NewServer, credentials: Any, proxy: Proxy, person: Person, expected_log: Any
) -> None:
    """The page and a log line name the host that could not be reached."""
    expected_log(LOGIN_REFUSED + r"can't reach", AT_CODE)
    server = await new_server(**credentials, proxy=through(proxy))
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    await proxy.stop()
    page = await person.consent(page)
    assert page.status == 400
    assert "log in again" in page.text
    assert server.keeper.account.consent_id is None


@pytest.mark.parametrize("behind", ["forward", "tunnel"])
async def test_a_response_lost_behind_the_proxy_is_retried_with_the_same_token(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    proxy: Proxy,
    https: HttpsStandIn,
    authority: Authority,
    clock: Any,
    log_in: LogIn,
    expected_log: Any,
    behind: str,
) -> None:
    """The outcome is unknown, so the token counts as spent; its retry gets the next token."""
    expected_log(REFRESH_FAILED)
    more = https.settings | {"ca_file": authority.ca_file} if behind == "tunnel" else {}
    server = await new_server(**credentials, **more, proxy=through(proxy))
    await log_in(server)
    sandbox.add_fault("refresh:nth=1:lost")
    clock.advance(1500)
    await server.rotation.tick()
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.LOST], "a library has retried"
    account = server.keeper.account
    assert account.current is not None
    assert account.current.first_spent_at == clock.now()
    assert account.intent is not None
    clock.advance(60)
    await server.rotation.tick()
    lost, retried = sandbox.refreshes()
    assert (lost.at, retried.at) == (clock.now() - timedelta(seconds=60), clock.now())
    assert (lost.outcome, retried.outcome, retried.token) == (
        Outcome.LOST,
        Outcome.ISSUED,
        lost.token,
    )


async def test_a_response_of_the_proxy_itself_refuses_no_token(
    new_server: NewServer,
    credentials: Any,
    proxy: Proxy,
    clock: Any,
    log_in: LogIn,
    get: Any,
    expected_log: Any,
) -> None:
    """An error page of the proxy is no response of Xero."""
    expected_log(REFRESH_FAILED)
    server = await new_server(**credentials, proxy=through(proxy))
    await log_in(server)
    clock.advance(1500)
    for status in (b"502 Bad Gateway", b"403 Forbidden", b"400 Bad Request"):
        proxy.response_instead = (
            b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhtml"
        )
        await server.rotation.tick()
        assert (await get(f"{server.url}/token")).status == 200
        clock.advance(60)
    proxy.response_instead = None
    await server.rotation.tick()
    assert (await get(f"{server.url}/livez")).json["state"] == "connected"


def without_pycurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``xots`` in a process that cannot import pycurl."""
    program = (
        "import sys; sys.modules['pycurl'] = None\n"
        "from xots.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=kept | {"XOTS_STORE": "memory:"},
    )


def test_a_proxy_without_pycurl_is_a_settings_error() -> None:
    """The start ends with status 2 and names the package to install, without a traceback."""
    ended = without_pycurl("-p", "0", "--proxy", "http://127.0.0.1:3128")
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert "proxy" in line
    assert "pip install 'xots[proxy]'" in line


def test_check_finds_that_pycurl_is_missing() -> None:
    """``xots check`` names the package to install, without a traceback."""
    ended = without_pycurl("check", "--proxy", "http://127.0.0.1:3128")
    assert ended.returncode in (1, 2)
    assert "pip install 'xots[proxy]'" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_proxy_nothing_needs_pycurl() -> None:
    """It is an optional extra."""
    url = "http://127.0.0.1:1/connect/token"
    ended = without_pycurl("check", "--token-url", url, "--authorize-url", url)
    assert "pycurl" not in ended.stdout + ended.stderr
    assert "can't reach 127.0.0.1" in ended.stdout


# ---------- ca_file


async def test_the_authority_in_ca_file_is_trusted(
    new_server: NewServer,
    credentials: Any,
    https: HttpsStandIn,
    authority: Authority,
    clock: Any,
    log_in: LogIn,
    get: Any,
) -> None:
    """Login, list of organisations and refresh each use one TLS connection."""
    settings = load({"ca_file": str(authority.ca_file)}, {})
    server = await new_server(**credentials, **https.settings, ca_file=settings.ca_file)
    await log_in(server)
    clock.advance(1500)
    await server.rotation.tick()
    assert (await get(f"{server.url}/token")).json["expiresIn"] == 1800
    assert https.connections == 3


async def test_an_unknown_authority_is_not_trusted_without_ca_file(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    https: HttpsStandIn,
    person: Person,
    expected_log: Any,
) -> None:
    """The page of the failed login names the certificate; neither code nor secret was sent."""
    expected_log(LOGIN_REFUSED, AT_CODE)
    expected_log.perhaps(TORNADO)
    server = await new_server(**credentials, **https.settings)
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    page = await person.consent(page)
    assert page.status == 400
    assert "certificate" in page.text.lower()
    assert not [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN]


@pytest.mark.parametrize("with_proxy", [False, True], ids=["direct", "through a proxy"])
async def test_a_certificate_that_is_no_longer_trusted_spends_no_refresh_token(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    https: HttpsStandIn,
    authority: Authority,
    proxy: Proxy,
    clock: Any,
    log_in: LogIn,
    expected_log: Any,
    tmp_path: Path,
    with_proxy: bool,
) -> None:
    """TLS fails before the request is sent, so no grace period starts."""
    expected_log(REFRESH_FAILED)
    expected_log.perhaps(TORNADO)
    server = await new_server(
        **credentials,
        **https.settings,
        ca_file=authority.ca_file,
        proxy=through(proxy) if with_proxy else None,
    )
    await log_in(server)
    # From here on the server at that address has a certificate from another authority.
    await https.stop()
    https.tls = new_authority(tmp_path).server_context
    await https.start()
    clock.advance(1500)
    await server.rotation.tick()
    assert sandbox.refreshes() == []
    account = server.keeper.account
    assert account.current is not None
    assert account.current.first_spent_at is None
    assert account.problem is not None
    assert account.problem.kind == "not-sent"
    assert "certificate" in account.problem.detail.lower()


@pytest.mark.parametrize("content", ["", "not a certificate\n"], ids=["empty", "no PEM"])
def test_a_ca_file_without_a_certificate_is_reported_at_the_start(
    tmp_path: Path, content: str
) -> None:
    """Such a file would make every request fail, so the start or ``xots check`` reports it."""
    ca_file = tmp_path / "authority.pem"
    ca_file.write_text(content)
    ended = without_pycurl(
        "check", "--ca-file", str(ca_file), "--token-url", "https://127.0.0.1:1/"
    )
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
    assert [
        line
        for line in (ended.stdout + ended.stderr).splitlines()
        if str(ca_file) in line and "FAIL" in line
    ] or (ended.returncode == 2 and "--ca-file" in ended.stderr)


def test_the_proxy_and_the_ca_file_are_off_by_default() -> None:
    """By default the system's authorities are trusted, and no proxy is used."""
    assert (Settings().proxy, Settings().ca_file) == (None, None)
