"""The protocol: requests as the RFCs say, answers classified, and real answers over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from xots.clock import SystemClock
from xots.errors import UpstreamFailed
from xots.lifecycle.outcomes import ClientRefused, Issued, NotSent, Refused, Throttled, Unknown
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox, SandboxOptions
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import LARGEST_ANSWER, XeroClient
from xots.xero.protocol import (
    Answer,
    Credentials,
    Endpoints,
    authorize_url,
    code_challenge,
    new_code_verifier,
    read_connections,
    read_token_answer,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
GOOD = {
    "access_token": "a",
    "expires_in": 1800,
    "token_type": "Bearer",
    "refresh_token": "r",
    "scope": "x y",
}


def answered(status: int, content: object, **headers: str) -> object:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_token_answer(
        Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, body), NOW
    )


# -------------------------------------------------------------------------------------------------- pure


def test_the_authorize_url_holds_what_the_rfcs_ask_for() -> None:
    """Response type, client, redirect, scopes, state and an S256 challenge; the verifier itself stays here."""
    verifier = new_code_verifier()
    url = authorize_url(
        "https://id.example/authorize",
        client_id="c d",
        redirect_uri="http://localhost:5001/code",
        scopes=("offline_access", "openid"),
        state="s",
        verifier=verifier,
    )
    assert {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()} == {
        "response_type": "code",
        "client_id": "c d",
        "redirect_uri": "http://localhost:5001/code",
        "scope": "offline_access openid",
        "state": "s",
        "code_challenge": code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    assert verifier not in url


def test_pkce_follows_the_rfcs_own_example() -> None:
    """RFC 7636, appendix B; and a verifier has the length and letters that the RFC allows."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )
    verifier = new_code_verifier()
    assert 43 <= len(verifier) <= 128
    assert all(c.isascii() and (c.isalnum() or c in "-._~") for c in verifier)


def test_an_answer_with_tokens_is_issued() -> None:
    """All that Xero gives is read; a scope is a string with spaces."""
    outcome = answered(200, GOOD)
    assert outcome == Issued(
        access_token=Secret("a"),
        lifetime=timedelta(minutes=30),
        refresh_token=Secret("r"),
        scopes=("x", "y"),
    )


@pytest.mark.parametrize("expires_in", [None, "soon", 0, -5, 1e300, True, [], "9" * 5000])
def test_a_strange_life_does_not_cost_the_refresh_token(expires_in: object) -> None:
    """Whatever ``expires_in`` is, the tokens of the answer are taken."""
    outcome = answered(200, GOOD | {"expires_in": expires_in})
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token == Secret("r")


@pytest.mark.parametrize(("given_life", "life"), [("1800", 1800), (1799.5, 1799.5), (60, 60)])
def test_a_life_may_be_digits_or_a_fraction(given_life: object, life: float) -> None:
    """Servers differ in how they write ``expires_in``."""
    outcome = answered(200, GOOD | {"expires_in": given_life})
    assert isinstance(outcome, Issued)
    assert outcome.lifetime == timedelta(seconds=life)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": ""}',
        b"[" * 100000,
        b"\xff\xfe",
    ],
)
def test_a_200_that_is_no_token_is_unknown(body: bytes) -> None:
    """A captive portal's page, half an answer, or nonsense says nothing about the token."""
    assert isinstance(answered(200, body), Unknown)


@pytest.mark.safeguard(
    file="xero/protocol.py",
    old='if code == "invalid_grant":',
    new="if code:",
    protects_from="any 4xx, or a page with that word in it, that costs the login",
)
def test_only_invalid_grant_exactly_condemns_a_token() -> None:
    """Neither a substring, nor another status, nor text that isn't JSON."""
    assert isinstance(answered(400, {"error": "invalid_grant"}), Refused)
    assert isinstance(answered(401, {"error": "invalid_grant"}), Refused)
    for status, content in (
        (400, b"invalid_grant"),
        (400, {"error": "not invalid_grant"}),
        (400, {"message": "invalid_grant"}),
        (400, {"error": ["invalid_grant"]}),
        (400, ["invalid_grant"]),
        (403, {"error": "invalid_grant"}),
        (500, {"error": "invalid_grant"}),
        (200, {"error": "invalid_grant"}),
    ):
        assert not isinstance(answered(status, content), Refused), (status, content)


@pytest.mark.parametrize(
    "code",
    [
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_request",
    ],
)
def test_other_oauth_errors_are_the_clients(code: str) -> None:
    """They condemn no token; the code is kept for the operator."""
    outcome = answered(400, {"error": code})
    assert isinstance(outcome, ClientRefused)
    assert outcome.code == code


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("Mon, 23 Nov 2026 12:01:00 GMT", 60),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """RFC 9110 section 10.2.3; what is neither is passed over."""
    outcome = answered(429, b"", **({"Retry_After": header} if header else {}))
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == (None if seconds is None else timedelta(seconds=seconds))


@given(status=st.integers(100, 599), body=st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_classify(status: int, body: bytes) -> None:
    """Every answer has an outcome, and random bytes never condemn or issue."""
    assert isinstance(answered(status, body), Unknown | Throttled)


def test_a_detail_never_repeats_what_the_server_sent() -> None:
    """An answer that echoes the token can't bring it into a log."""
    for status in (200, 400, 401, 403, 429, 500):
        for content in (b"canary", {"error_description": "canary"}, {"error": 5, "x": "canary"}):
            assert "canary" not in str(answered(status, content))


def test_connections_are_read_as_xero_gives_them() -> None:
    """A bare array; a name may be null, fields that are not known are passed over."""
    body = b'[{"id":"1","authEventId":"e","tenantId":"t","tenantType":"PRACTICE","tenantName":null,"new":1}]'
    (connection,) = read_connections(Answer(200, {}, body))
    assert (connection.tenant_id, connection.tenant_name) == ("t", None)
    for bad in (
        Answer(401, {}, body),
        Answer(200, {}, b"{}"),
        Answer(200, {}, b"<html>"),
        Answer(200, {}, b"[{}]"),
    ):
        with pytest.raises(UpstreamFailed):
            read_connections(bad)


# ------------------------------------------------------------------------------------------ over sockets


@pytest.fixture
async def xero() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        yield sandbox


WEB_APP = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))


def client_of(sandbox: Sandbox, **times: float) -> XeroClient:
    endpoints = Endpoints(
        authorize_url=sandbox.authorize_url,
        token_url=sandbox.token_url,
        revoke_url=sandbox.revoke_url,
        connections_url=sandbox.connections_url,
    )
    return XeroClient(endpoints, clock=SystemClock(), **times)


def token_of(sandbox: Sandbox) -> Secret:
    token = sandbox.log_in().refresh_token
    assert token is not None
    return Secret(token)


async def test_a_refresh_is_issued_over_the_wire(xero: Sandbox) -> None:
    """The sandbox takes our request and our client authentication."""
    client = client_of(xero)
    outcome = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token is not None
    assert [r.outcome for r in xero.refreshes()] == ["issued"]
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
                old='if begun\n                else NotSent(detail=f"can',
                new='if False\n                else NotSent(detail=f"can',
                protects_from="a token that counts as unspent although Xero took it",
            ),
        ),
    ],
)
async def test_each_fault_has_its_outcome(
    xero: Sandbox, fault: str, kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    """One request, one outcome, and no second request: retries are not a transport's decision."""
    xero.add_fault(f"refresh:every:{fault}")
    client = client_of(xero, **({"deadline_seconds": 0.2} if fault.startswith("hold") else {}))
    outcome = await client.refresh(WEB_APP, token_of(xero))
    assert isinstance(outcome, kind), outcome
    xero.release()
    if not fault.startswith("hold"):
        assert len(xero.refreshes()) == 1
    client.close()


async def test_nobody_listening_is_not_sent(xero: Sandbox) -> None:
    """A refused connection and a name that does not resolve: the token is not spent, and the outcome says so."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for url in (
            f"http://127.0.0.1:{unused.getsockname()[1]}/",
            "http://nowhere.invalid/",
            "https://[::1]:1/",
        ):
            client = XeroClient(Endpoints(token_url=url), clock=FakeClock(NOW))
            assert isinstance(await client.refresh(WEB_APP, Secret("r")), NotSent)
            client.close()


async def test_tls_that_does_not_verify_is_not_sent(
    tmp_path: Path, expected_log: Callable[..., None]
) -> None:
    """A server that can't prove who it is never sees the token."""
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
    asked: list[bytes] = []

    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(serving, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        client = XeroClient(Endpoints(token_url=url), clock=FakeClock(NOW))
        outcome = await client.refresh(WEB_APP, Secret("r"))
        client.close()
    assert isinstance(outcome, NotSent)
    assert not any(asked)


async def test_an_enormous_answer_is_cut_off(xero: Sandbox) -> None:
    """More than a token answer can be is not read to its end."""
    xero.add_fault(f"refresh:every:long-access-token={LARGEST_ANSWER + 1000}")
    client = client_of(xero)
    assert isinstance(await client.refresh(WEB_APP, token_of(xero)), Unknown)
    client.close()


@pytest.mark.safeguard(
    file="xero/http.py",
    old="follow_redirects=False,",
    new="follow_redirects=True,",
    protects_from="a token that is sent to wherever an answer points",
)
async def test_redirects_are_never_followed() -> None:
    """A 307 would carry the refresh token to wherever it points."""
    seen: list[bytes] = []

    async def redirecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        port = writer.get_extra_info("sockname")[1]
        writer.write(
            f"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:{port}/elsewhere\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirecting, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
        client = XeroClient(Endpoints(token_url=url), clock=FakeClock(NOW))
        assert isinstance(await client.refresh(WEB_APP, Secret("r")), Unknown)
        client.close()
    (head,) = seen
    assert b"POST /token " in head
    expected = base64.b64encode(f"{DEFAULT_CLIENT_ID}:{DEFAULT_CLIENT_SECRET}".encode())
    assert b"Authorization: Basic " + expected in head
