"""The content coding: a response in gzip is read within a bound, by both HTTP clients."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.errors import UpstreamFailed
from xots.lifecycle.outcomes import Issued, Outcome, Unknown
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.coding import decoded
from xots.xero.http import MAX_RESPONSE_BYTES, Proxy, XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials, Response

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TOKENS = json.dumps({"access_token": "a", "refresh_token": "r", "expires_in": 1800}).encode()
packed = partial(gzip.compress, mtime=0)  # the same bytes in each process of a run

PACKED = packed(TOKENS)
BOMB = packed(b" " * (MAX_RESPONSE_BYTES + 1))


def decoded_of(coding: str, body: bytes, status: int = 200, bound: int = 1000) -> bytes | str:
    """The decoded content of this response, or the detail of the failure."""
    found = decoded(Response(status, {"Content-Encoding": coding}, body), bound)
    return found.body if isinstance(found, Response) else found.detail


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", TOKENS),
        ("identity", TOKENS),
        ("gzip", PACKED),
        ("x-gzip", PACKED),
        ("GZIP", PACKED),
        (" gzip ", PACKED),
        ("identity, gzip", PACKED),
        ("gzip", packed(TOKENS[:9]) + packed(b"") + packed(TOKENS[9:])),
    ],
)
def test_gzip_is_decoded(coding: str, body: bytes) -> None:
    """RFC 9110 section 8.4.1: ``x-gzip`` is the same coding, and the case does not matter. RFC 1952
    section 2.2: the data may have several members."""
    assert decoded_of(coding, body) == TOKENS


def test_an_empty_content_has_no_coding() -> None:
    """A server may name the coding of a response without content."""
    for coding in ("gzip", "br", "gzip, gzip"):
        assert decoded_of(coding, b"", 204) == b""


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        ("gzip", PACKED[:-1], "cut off"),
        ("gzip", PACKED[:5], "cut off"),
        ("gzip", PACKED[:-8] + b"\0" * 8, "malformed"),
        ("gzip", PACKED + b"rest", "malformed"),
        ("gzip", PACKED + PACKED[:9], "cut off"),
        ("gzip", TOKENS, "malformed"),
        ("gzip", packed(b"x" * 1001), "more than 1000 bytes"),
        ("gzip", packed(b"x" * 600) * 2, "more than 1000 bytes"),
        ("br", TOKENS, "not gzip but br"),
        ("deflate", TOKENS, "not gzip but deflate"),
        ("gzip, gzip", packed(PACKED), "not gzip but another one"),
        ("\x1b[2J", TOKENS, "not gzip but another one"),
    ],
)
def test_a_content_that_cannot_be_decoded_is_a_failure(
    coding: str, body: bytes, reason: str
) -> None:
    """The detail gives the status and the reason, and nothing of the content."""
    detail = decoded_of(coding, body)
    assert isinstance(detail, str)
    assert "status 200" in detail
    assert reason in detail
    assert detail.isprintable()


def test_a_429_needs_no_content() -> None:
    """Its status says that the request was not carried out."""
    for coding, body in (("br", b"x"), ("gzip", b"x")):
        assert decoded_of(coding, body, 429) == b""


@given(st.binary(max_size=100))
def test_random_bytes_never_raise_another_error(rest: bytes) -> None:
    """Whatever follows a good start is decoded or a failure."""
    for body in (rest, PACKED[:10] + rest, PACKED + rest):
        decoded_of("gzip", body)


async def outcome_of(body: bytes, headers: str, through_proxy: bool) -> tuple[Outcome, str]:
    """Refresh and list at a server that sends this response to both: the outcome, and the body or
    the error of the list."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        client = XeroClient(
            IdentityServer(token_url=url, connections_url=url),
            clock=FakeClock(NOW),
            proxy=Proxy(host="127.0.0.1", port=port) if through_proxy else None,
        )
        outcome = await client.refresh(Credentials(client_id="c"), Secret("r"))
        try:
            listed = (await client.connections(Secret("a"))).body.decode()
        except UpstreamFailed as error:
            listed = str(error)
        client.close()
    assert [head.count("accept-encoding: identity\r\n") for head in heads] == [1, 1]
    assert [head.count("accept-encoding:") for head in heads] == [1, 1]
    return outcome, listed


@pytest.mark.parametrize("through_proxy", [False, True], ids=["simple", "curl"])
async def test_both_clients_ask_for_no_coding_and_read_gzip(through_proxy: bool) -> None:
    """RFC 9110 section 12.5.3: without the header, any coding would be permitted."""
    for body, headers in ((TOKENS, ""), (PACKED, "Content-Encoding: gzip\r\n")):
        outcome, listed = await outcome_of(body, headers, through_proxy)
        assert isinstance(outcome, Issued)
        assert outcome.refresh_token == Secret("r")
        assert listed == TOKENS.decode()


@pytest.mark.parametrize("through_proxy", [False, True], ids=["simple", "curl"])
@pytest.mark.safeguard(
    file="xero/coding.py",
    old="if len(content) > max_bytes:",
    new="if False:",
    protects_from="a part of a response that is read as the whole",
)
async def test_a_response_that_cannot_be_decoded_keeps_the_token(through_proxy: bool) -> None:
    """The server may have issued. A small response that unpacks to a large one is cut off."""
    for body, coding in ((BOMB, "gzip"), (PACKED[:-3], "gzip"), (TOKENS, "br")):
        headers = f"Content-Encoding: {coding}\r\nRetry-After: 77\r\n"
        outcome, listed = await outcome_of(body, headers, through_proxy)
        assert isinstance(outcome, Unknown)
        assert outcome.retry_after == timedelta(seconds=77)
        assert "cannot be read" in outcome.detail
        assert outcome.detail in listed


async def test_a_server_whose_coding_is_unknown_can_be_reached() -> None:
    """The check of an installation asks for any response."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 1\r\nContent-Encoding: br\r\n\r\nx")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        client = XeroClient(IdentityServer(token_url=url), clock=FakeClock(NOW))
        assert await client.reach() is None
        client.close()
