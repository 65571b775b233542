"""``XeroClient`` over real sockets: one request, and the outcome of each failure on the way."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from xots.clock import SystemClock
from xots.errors import UpstreamFailed
from xots.lifecycle.outcomes import ClientRefused, Issued, NotSent, Throttled, Unknown
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Client,
    Organisation,
    Sandbox,
    SandboxOptions,
)
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import MAX_RESPONSE_BYTES, XeroClient
from xots.xero.identity_server import ClientAuth, IdentityServer
from xots.xero.protocol import Credentials

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WEB_APP = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))


@pytest.fixture
async def xero() -> AsyncIterator[Sandbox]:
    """A simulated Xero on a free port, by the system's clock."""
    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        yield sandbox


def client_of(
    sandbox: Sandbox, deadline_seconds: float = 20, client_auth: ClientAuth = ClientAuth.BASIC
) -> XeroClient:
    """A client for the sandbox."""
    endpoints = IdentityServer(
        authorize_url=sandbox.authorize_url,
        token_url=sandbox.token_url,
        revoke_url=sandbox.revoke_url,
        connections_url=sandbox.connections_url,
        client_auth=client_auth,
    )
    return XeroClient(endpoints, clock=SystemClock(), deadline_seconds=deadline_seconds)


def token_of(sandbox: Sandbox) -> Secret:
    """The refresh token of a new login."""
    token = sandbox.log_in().refresh_token
    assert token is not None
    return Secret(token)


async def test_a_refresh_is_issued_over_the_wire(xero: Sandbox) -> None:
    """The sandbox accepts the request and its client authentication."""
    client = client_of(xero)
    outcome = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token is not None
    assert [r.outcome for r in xero.refreshes()] == ["issued"]
    client.close()


async def test_a_client_may_send_its_secret_in_the_form(xero: Sandbox) -> None:
    """The simulated Xero accepts it at both endpoints, and refuses a client without one."""
    client = client_of(xero, client_auth=ClientAuth.POST)
    outcome = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token is not None
    assert await client.revoke(WEB_APP, outcome.refresh_token) is None
    client.close()
    client = client_of(xero, client_auth=ClientAuth.NONE)
    refused = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(refused, ClientRefused)
    assert refused.code == "invalid_client"
    client.close()


async def test_a_client_gets_a_token_of_its_own() -> None:
    """RFC 6749 section 4.4.3: without a refresh token. Another client is refused."""
    tenant_id = Organisation("One Ltd").tenant_id
    own = Client(custom_connection_tenant_id=tenant_id)
    async with Sandbox(SandboxOptions(port=0, clients=(own,))) as xero:
        client = client_of(xero)
        outcome = await client.client_token(WEB_APP, ("accounting.settings",))
        assert isinstance(outcome, Issued)
        assert (outcome.refresh_token, outcome.scopes) == (None, ("accounting.settings",))
        other = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret("other"))
        assert isinstance(await client.client_token(other, ()), ClientRefused)
        client.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("lost", Unknown),
        ("reset", Unknown),
        ("truncated", Unknown),
        ("not-json", Unknown),
        ("500-json", Unknown),
        ("500-html", Unknown),
        ("502-empty", Unknown),
        ("503-html-after", Unknown),
        ("403-html", Unknown),
        ("429", Throttled),
        ("429=7", Throttled),
        ("invalid-client", ClientRefused),
        ("no-refresh-token", Issued),
        ("extra-keys", Issued),
        ("long-refresh-token", Issued),
        ("long-access-token", Issued),
        ("expires-in=7", Issued),
        pytest.param(
            "hold-after",
            Unknown,
            marks=pytest.mark.safeguard(
                file="xero/http.py",
                old="kind = Unknown if may_have_left else NotSent",
                new="kind = NotSent",
                protects_from="a token that counts as unspent although Xero took it",
            ),
        ),
    ],
)
async def test_each_fault_has_its_outcome(xero: Sandbox, fault: str, kind: type) -> None:
    """One request and one outcome: the client makes no second attempt."""
    xero.add_fault(f"refresh:every:{fault}")
    client = client_of(xero, deadline_seconds=0.2 if fault.startswith("hold") else 20)
    outcome = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(outcome, kind), outcome
    xero.release()
    if not fault.startswith("hold"):
        assert len(xero.refreshes()) == 1
    client.close()


async def test_a_failure_is_told_in_words(xero: Sandbox) -> None:
    """The operator reads the host, and the cause or the time that passed."""
    client = client_of(xero, deadline_seconds=0.2)
    for fault, detail in (
        ("hold-after", "no response from 127.0.0.1 within 0.2 seconds"),
        ("reset", "no complete response from 127.0.0.1: Connection reset by peer"),
        ("503-html", "the response has status 503 and says nothing about the token"),
    ):
        xero.add_fault(f"refresh:nth=1:{fault}")
        outcome = await client.refresh(WEB_APP, token_of(xero))
        assert outcome == Unknown(detail=detail)
        xero.faults.clear()
        xero.release()
    await xero.stop()
    assert await client.reach() == "can't reach 127.0.0.1: Connection refused"
    with pytest.raises(UpstreamFailed, match=r"sent no usable response: can't reach 127\.0\.0\.1"):
        await client.connections(Secret("a"))
    client.close()


async def test_a_server_that_cannot_be_reached_is_not_sent_the_token() -> None:
    """The token is not spent if the connection is refused or the name does not resolve."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for url in (
            f"http://127.0.0.1:{unused.getsockname()[1]}/",
            "http://nowhere.invalid/",
            "https://[::1]:1/",
        ):
            client = XeroClient(IdentityServer(token_url=url), clock=FakeClock(NOW))
            assert isinstance(await client.refresh(WEB_APP, Secret("r")), NotSent)
            client.close()


async def test_a_server_whose_certificate_does_not_verify_is_not_sent_the_token(
    tmp_path: Path, expected_log: Callable[..., None]
) -> None:
    """TLS fails before any byte of the request is sent."""
    expected_log("SSL Error")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    received: list[bytes] = []

    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(serving, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        client = XeroClient(IdentityServer(token_url=url), clock=FakeClock(NOW))
        outcome = await client.refresh(WEB_APP, Secret("r"))
        client.close()
    assert isinstance(outcome, NotSent)
    assert not any(received)


async def test_a_response_that_is_too_large_is_cut_off(xero: Sandbox) -> None:
    """The client does not read more than a token response can hold."""
    xero.add_fault(f"refresh:every:long-access-token={MAX_RESPONSE_BYTES + 1000}")
    client = client_of(xero)
    assert isinstance(await client.refresh(WEB_APP, token_of(xero)), Unknown)
    client.close()


@pytest.mark.safeguard(
    file="xero/http.py",
    old="follow_redirects=False,",
    new="follow_redirects=True,",
    protects_from="a token that is sent to the target of a redirect",
)
async def test_redirects_are_never_followed() -> None:
    """A 307 would carry the refresh token to its target."""
    seen: list[bytes] = []

    async def redirecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        port = writer.get_extra_info("sockname")[1]
        writer.write(
            b"HTTP/1.1 307 X\r\nContent-Length: 0\r\n"
            + f"Location: http://127.0.0.1:{port}/elsewhere\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirecting, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
        client = XeroClient(IdentityServer(token_url=url), clock=FakeClock(NOW))
        assert isinstance(await client.refresh(WEB_APP, Secret("r")), Unknown)
        client.close()
    (head,) = seen
    assert b"POST /token " in head
    expected = base64.b64encode(f"{DEFAULT_CLIENT_ID}:{DEFAULT_CLIENT_SECRET}".encode())
    assert b"Authorization: Basic " + expected in head
