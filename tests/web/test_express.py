"""The express lane: which requests it responds to itself, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.inside import acceptor_of
from support.raw_http import RawResponse, read_response
from support.readers import KeyHolder, key_of, reader

from xots.access import Scope
from xots.reader_file import add_reader, remove_reader
from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server
from xots.testing import FakeClock
from xots.web.connection import Phase
from xots.web.express import MAX_HEADS
from xots.web.tokens import TokenHandler

NewServer = Callable[..., Awaitable[Server]]
Say = Callable[..., Awaitable[RawResponse]]

XERO_LIFE = 1800


@asynccontextmanager
async def connected(server: Server, path: Path | None = None) -> AsyncIterator[Say]:
    """Open one connection for many requests. Yield a function that sends ``GET /token``, or another
    target, with further lines of headers, or the bytes that are given instead."""
    if path is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    else:
        reader, writer = await asyncio.open_unix_connection(path)

    async def say(target: str = "/token", *lines: str, raw: bytes = b"") -> RawResponse:
        writer.write(raw or head(server, target, *lines))
        async with asyncio.timeout(10):
            return await read_response(reader)

    try:
        yield say
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(server: Server, target: str = "/token", *lines: str) -> bytes:
    """Return the bytes of a request without a body."""
    first = (f"GET {target} HTTP/1.1", f"Host: localhost:{server.port}")
    return "\r\n".join((*first, *lines, "", "")).encode()


def key(name: str) -> str:
    return f"Authorization: Bearer {key_of(name)}"


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the requests that the handler has responded to."""
    targets: list[str] = []
    get = TokenHandler.get

    async def counted(self: TokenHandler) -> None:
        targets.append(self.request.uri or "")
        await get(self)

    monkeypatch.setattr(TokenHandler, "get", counted)
    return targets


# ---------- the requests that are repeated


async def test_a_known_request_gets_the_same_bytes_without_the_handler(
    logged_in: Server, handled: list[str]
) -> None:
    """On the connection that was first, and on every other one, its first request too."""
    async with connected(logged_in) as say, connected(logged_in) as say_too:
        first = await say()
        assert first.status == 200
        assert [await say(), await say_too(), await say_too()] == 3 * [first]
    assert handled == ["/token"]


async def test_the_lane_reads_first_although_the_next_request_comes_at_once(
    logged_in: Server, handled: list[str]
) -> None:
    """Tornado looks for it as soon as it has sent a response, before the event loop tells of it."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", logged_in.port))) as client:
        client.sendall(head(logged_in))
        client.setblocking(False)
        responses = 0
        async with asyncio.timeout(10):
            while responses < 5:
                with contextlib.suppress(BlockingIOError):
                    client.recv(1 << 16)
                    client.send(head(logged_in))  # before Tornado's next turn
                    responses += 1
                await asyncio.sleep(0)
    assert handled == ["/token"]


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/token?min_ttl=600", "Accept: */*"),
        ("/token", "Accept: text/plain"),
        ("/accounts/default/token", "Accept: application/json"),
    ],
)
async def test_the_parameters_of_a_request_hold_for_its_repetition(
    logged_in: Server, handled: list[str], target: str, line: str
) -> None:
    """``min_ttl``, the media type, and the account in the path."""
    async with connected(logged_in) as say:
        assert await say(target, line) == await say(target, line)
        assert (await say(target, line, "X-Other: 1")).status == 200
    assert handled == 2 * [target]


@pytest.mark.parametrize(
    "line",
    ["Cookie: a=b", "Content-Length: 0", "Expect: something", "Authorization: Basic eDp5"],
)
async def test_a_request_with_a_cookie_a_body_or_a_password_is_not_remembered(
    logged_in: Server, handled: list[str], line: str
) -> None:
    """Those of browsers, and those after which further bytes may belong to the request."""
    async with connected(logged_in) as say:
        for _ in range(2):
            assert (await say("/token", line)).status in (200, 417)
    assert len(handled) == 2


async def test_only_heads_with_the_ends_of_lines_of_http_are_remembered(
    logged_in: Server, handled: list[str]
) -> None:
    """Tornado takes a bare LF too, at which the lane would have to find the end of a head."""
    raw = head(logged_in).replace(b"\r\n", b"\n")
    async with connected(logged_in) as say:
        assert (await say(raw=raw)).status == (await say(raw=raw)).status == 200
    assert len(handled) == 2


async def test_the_end_of_another_request_is_no_request(logged_in: Server) -> None:
    """A proxy may let one client send the begin of a request, and another one the rest."""
    async with connected(logged_in) as say:
        assert (await say()).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    begin = f"GET /livez HTTP/1.1\r\nHost: localhost:{logged_in.port}\r\nX-Value: "
    writer.write(head(logged_in, "/livez") + begin.encode())
    async with asyncio.timeout(10):
        assert b"accessToken" not in (await read_response(reader)).body
        writer.write(head(logged_in))
        # "X-Value: GET /token HTTP/1.1" is a header, "Host" a second one.
        response = await read_response(reader)
    assert response.status == 400
    writer.close()


async def test_a_setting_switches_the_lane_off(
    new_server: NewServer, credentials: dict[str, Any], log_in: Any, handled: list[str]
) -> None:
    """Then Tornado serves every request."""
    server = await new_server(express_lane=False, **credentials)
    await log_in(server)
    async with connected(server) as say:
        assert await say() == await say()
    assert len(handled) == 2


async def test_with_the_log_at_debug_each_request_has_its_line(
    logged_in: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """At other levels, ``/status`` counts the requests for a token."""
    with caplog.at_level(logging.DEBUG, "xots.access"):
        async with connected(logged_in) as say:
            await say()
            await say()
    lines = [one.getMessage() for one in caplog.records if one.name == "xots.access"]
    assert [line.partition(" uid:")[0] for line in lines[-2:]] == 2 * ["200 GET /token"]


# ---------- the end of a response


async def test_the_times_of_a_repeated_response_are_true(
    logged_in: Server, clock: FakeClock, handled: list[str]
) -> None:
    """``expiresIn`` rounds down at each moment, and ``Date`` is that of this host's clock."""
    async with connected(logged_in) as say:
        await say()
        for _ in range(3):
            clock.advance(0.4)
            repeated, made = await say(), await say("/token", f"X-Now: {clock.elapsed()}")
            assert repeated == made
    assert len(handled) == 4


async def test_a_new_token_is_served_at_once_without_the_handler(
    logged_in: Server, sandbox: Sandbox, clock: FakeClock, handled: list[str], get: Any
) -> None:
    """The lane makes the new response itself, so that a refresh makes no crowd of callers wait."""
    async with connected(logged_in) as say:
        old = await say()
        clock.advance(XERO_LIFE - 100)
        await logged_in.rotation.tick()
        new = await say()
    assert handled == ["/token"]
    assert new != old
    assert new.body == (await get(f"{logged_in.url}/token")).body


async def test_a_token_that_lives_too_short_is_left_to_the_handler(
    logged_in: Server, clock: FakeClock, handled: list[str], sandbox: Sandbox
) -> None:
    """It refreshes first, which the lane cannot."""
    async with connected(logged_in) as say:
        await say("/token?min_ttl=600")
        clock.advance(XERO_LIFE - 599.5)
        assert b'"expiresIn":1800' in (await say("/token?min_ttl=600")).body
    assert len(handled) == 2
    assert len(sandbox.refreshes()) == 1


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_a_login_that_was_ended_is_not_served(logged_in: Server, send: Any, act: str) -> None:
    """The next request learns it."""
    async with connected(logged_in) as say:
        assert (await say()).status == 200
        await send("POST", f"{logged_in.url}/{act}", None, "")
        assert (await say()).status == 401


async def test_nothing_is_served_while_a_login_is_ended(
    logged_in: Server, sandbox: Sandbox, send: Any
) -> None:
    """From the request on that ends it, not only from Xero's response on."""
    async with connected(logged_in) as say:
        assert (await say()).status == 200
        sandbox.add_fault("revocation:nth=1:hold-before")
        ending = asyncio.create_task(send("POST", f"{logged_in.url}/revoke", None, ""))
        await sandbox.held()
        response = await say()
        assert response.status == 401
        assert b"the login is being ended" in response.body
        sandbox.release()
        await ending


async def test_a_chosen_organisation_is_in_the_next_response(
    server: Server, sandbox: Sandbox, person: Person
) -> None:
    """The record changes, and the response with it."""
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    await person.consent(replace(page, text=page.text.replace('type="checkbox"', 'type="hidden"')))
    first, other, *_ = sandbox.world.accounting.organisations
    async with connected(server) as say:
        for tenant_id in (first, other):
            await server.keeper.choose_tenant(tenant_id)
            assert f'"tenantId":"{tenant_id}"'.encode() in (await say()).body


async def test_a_further_account_is_repeated_until_it_is_removed(
    new_server: NewServer,
    credentials: dict[str, Any],
    person: Person,
    send: Any,
    handled: list[str],
    expected_log: Any,
) -> None:
    """Its keeper stays open meanwhile, as it does for requests that the handler responds to."""
    server = await new_server(**credentials)
    body, json = '{"name": "firm"}', {"Content-Type": "application/json"}
    assert (await send("POST", f"{server.url}/accounts", json, body)).status == 201
    page = await person.open(f"http://localhost:{server.port}/accounts/firm/home")
    assert (await person.consent(await person.submit(page))).status == 200
    target = "/accounts/firm/token"
    async with connected(server) as say:
        assert await say(target) == await say(target)
        assert len(handled) == 1
        expected_log(r"WARNING xots.web: GET /accounts/firm/token: there is no account firm")
        removed = await send("POST", f"{server.url}/accounts/firm/remove", None, "")
        assert removed.status == 200, removed.body
        assert (await say(target)).status == 404


async def test_an_unused_account_that_is_repeated_counts_as_used(
    new_server: NewServer, credentials: dict[str, Any], log_in: Any, clock: FakeClock
) -> None:
    """It is refreshed ahead then, as after requests that the handler responds to."""
    server = await new_server(fresh="used", **credentials)
    await log_in(server)
    async with connected(server) as say:
        await say()
        clock.advance(XERO_LIFE - 700)
        before = server.keeper.usage.until
        await say()
        await say()
        acceptor_of(server).sweep()
    assert server.keeper.usage.until == before + XERO_LIFE - 700


# ---------- the sender


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    """The path of a file with the readers ``first`` and ``second``."""
    path = tmp_path / "readers"
    for name in ("first", "second"):
        add_reader(path, reader(name, Scope.TOKEN))
    add_reader(path, reader("owner", Scope.ADMIN))
    return path


async def test_a_key_is_refused_at_the_request_after_its_removal(
    new_server: NewServer,
    credentials: dict[str, Any],
    readers: Path,
    expected_log: Any,
    handled: list[str],
) -> None:
    """On a connection on which it was valid. The other key stays valid."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    server = await new_server(readers=readers, **credentials)
    owner = KeyHolder(server, "owner")
    await owner.consent(
        await owner.submit(await owner.open(f"http://localhost:{server.port}/home"))
    )
    async with connected(server) as say:
        for name in 2 * ("first", "second"):
            assert (await say("/token", key(name))).status == 200
        assert len(handled) == 2
        remove_reader(readers, "first")
        assert (await say("/token", key("first"))).status == 401
        assert (await say("/token", key("second"))).status == 200
        assert (await say("/token")).status == 401


async def test_the_response_to_one_sender_is_not_repeated_to_another(
    new_server: NewServer,
    credentials: dict[str, Any],
    log_in: Any,
    tmp_path: Path,
    handled: list[str],
) -> None:
    """Over the socket, or from another address, other rules may decide."""
    path = tmp_path / "socket"
    server = await new_server(unix_socket=path, **credentials)
    await log_in(server)
    raw = head(server)
    async with connected(server) as say, connected(server, path) as say_by_socket:
        first = await say(raw=raw)
        assert await say_by_socket(raw=raw) == first
        assert len(handled) == 2
        assert await say_by_socket(raw=raw) == await say(raw=raw) == first
    assert len(handled) == 2


async def test_repeated_reads_are_counted(logged_in: Server, get: Any) -> None:
    """By ``/status``, with those that the handler responds to."""
    async with connected(logged_in) as say:
        for _ in range(5):
            await say()
    await get(f"{logged_in.url}/token")
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert (reads["reader"], reads["count"]) == (f"uid:{os.geteuid()}", 6)


# ---------- connections


async def test_a_request_that_demands_the_end_of_the_connection_gets_it(
    logged_in: Server, handled: list[str]
) -> None:
    """After the whole response."""
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
        writer.write(head(logged_in, "/token", "Connection: close"))
        async with asyncio.timeout(10):
            response = await read_response(reader)
            assert await reader.read() == b""
        assert (response.status, response.value("connection")) == (200, "close")
        writer.close()
    assert len(handled) == 1


async def test_a_client_that_does_not_read_gets_every_byte_later(
    logged_in: Server, handled: list[str]
) -> None:
    """The rest of a response waits in the connection, which reads no further request meanwhile."""
    loop, connections = asyncio.get_running_loop(), acceptor_of(logged_in).connections
    request, last = head(logged_in), head(logged_in, "/token", "Connection: close")
    async with connected(logged_in) as say, connected(logged_in) as say_last:
        expected = [await say(raw=request), await say_last(raw=last)]
    while len(connections):
        await asyncio.sleep(0)
    with socket.create_connection(("127.0.0.1", logged_in.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each request by itself
        client.setblocking(False)
        await loop.sock_sendall(client, request)
        received = await loop.sock_recv(client, 1 << 16)
        stream = connections.first(*Phase)
        assert stream is not None
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = 1
        while connections.count(Phase.WRITE) == 0:
            await loop.sock_sendall(client, request)
            sent += 1
            for _ in range(3):  # the server's turn
                await asyncio.sleep(0)
        while connections.count(Phase.WRITE):
            received += await loop.sock_recv(client, 1 << 10)
            await asyncio.sleep(0)
        await loop.sock_sendall(client, last)
        async with asyncio.timeout(10):
            while more := await loop.sock_recv(client, 1 << 16):
                received += more
    assert handled == 2 * ["/token"]
    first, closing = (one.body for one in expected)
    assert received.count(first) == sent + 1
    assert received.endswith(closing)
    assert received.count(b"HTTP/1.1 200 OK") == sent + 1


async def test_a_stopped_server_repeats_nothing(logged_in: Server) -> None:
    """Idle connections close, those that the lane has served too."""
    async with connected(logged_in) as say:
        await say()
        await say()
        await logged_in.stop()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await say()


# ---------- the bounds


async def test_the_number_of_known_heads_is_bounded(logged_in: Server, handled: list[str]) -> None:
    """A client that changes its head at each request costs no memory."""
    async with connected(logged_in) as say:
        for number in range(MAX_HEADS + 1):
            await say("/token", f"X-Number: {number}")
        await say("/token", f"X-Number: {MAX_HEADS}")
        assert len(handled) == MAX_HEADS + 1  # the last one is known
        await say("/token", "X-Number: 0")
    assert len(handled) == MAX_HEADS + 2


async def test_a_long_head_is_not_remembered(logged_in: Server, handled: list[str]) -> None:
    """The lane reads a bounded number of bytes at once."""
    async with connected(logged_in) as say:
        for _ in range(2):
            assert (await say("/token", f"X-Long: {2100 * 'x'}")).status == 200
    assert len(handled) == 2
