"""The example of the first server: it still runs, unchanged."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xots.listening import CannotStart
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.server import Server
from xots.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "requests_example.py"
XERO_API = "api.xero.com"
LONGEST_RUN_SECONDS = 30

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class Authority:
    """A certificate authority for one test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "an authority made for a test")]
        )
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(self._usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server_pem(self, host: str) -> bytes:
        """A certificate for a host, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = (
            self._builder(name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(self._usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    @staticmethod
    def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            encipher_only=False,
            decipher_only=False,
        )


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy the data until either side closes the connection."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Connect to a port of this machine, and copy in both directions."""
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
    for one in (writer, there_writer):
        with contextlib.suppress(ConnectionError):
            await one.wait_closed()


@contextlib.asynccontextmanager
async def listening(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a server on a free port, and give the port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def https_proxy(destinations: dict[str, int], requested: list[str]) -> AsyncIterator[str]:
    """Run a proxy for CONNECT that connects each known destination to a port of this machine.

    ``requested`` gets each destination, known or not. No data leaves this machine.
    """

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, destination, _ = (
            (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode().split()
        )
        requested.append(f"{method} {destination}")
        if method == "CONNECT" and destination in destinations:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await join(reader, writer, destinations[destination])
        else:
            writer.write(
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            writer.close()
            await writer.wait_closed()

    async with listening(connect) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A simulated Xero whose clock stands still, because the clock dates its invoices."""
    now = datetime.now(UTC)
    async with Sandbox(SandboxOptions(port=0), clock=lambda: now) as running:
        yield running


@pytest.fixture
async def server(sandbox: Sandbox) -> AsyncIterator[Server]:
    """A server with a login, at the port that the example uses."""
    server = Server(
        Settings(
            port=5001,
            authorize_url=sandbox.authorize_url,
            token_url=sandbox.token_url,
            revoke_url=sandbox.revoke_url,
            connections_url=sandbox.connections_url,
        )
    )
    try:
        await server.start()
    except CannotStart as error:
        problem = f"the example needs port 5001: {error}"
        raise pytest.fail.Exception(problem, pytrace=False) from None
    try:
        page = await Person().log_in(server.url, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
        assert page.status == 200, page.text
        yield server
    finally:
        await server.stop()


async def test_the_example_prints_the_invoices(
    sandbox: Sandbox, server: Server, tmp_path: Path
) -> None:
    """It gets a token from a server on the default port, and with it invoices from Xero."""
    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.pem())
    (tmp_path / "server.pem").write_bytes(authority.server_pem(XERO_API))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.pem")
    requested: list[str] = []

    async def xero(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await join(reader, writer, sandbox.port)

    async with (
        asyncio.timeout(LONGEST_RUN_SECONDS),
        listening(xero, tls) as xero_port,
        https_proxy({f"{XERO_API}:443": xero_port}, requested) as proxy,
    ):
        example = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLE,
            env={
                "PATH": os.environ["PATH"],
                "HTTPS_PROXY": proxy,
                "NO_PROXY": "127.0.0.1",
                "REQUESTS_CA_BUNDLE": str(tmp_path / "authority.pem"),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await example.communicate()

    assert (example.returncode, err.decode()) == (0, "")
    assert requested == [f"CONNECT {XERO_API}:443"] * 2
    first = next(iter(sandbox.world.accounting.organisations.values()))
    assert ast.literal_eval(out.decode()) == sandbox.world.accounting.response(
        "Invoices", first, sandbox.clock()
    )
