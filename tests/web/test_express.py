"""The express lane: which requests it responds to itself, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bench import eventually
from support.inside import acceptor_of, open_keepers_of, serving_of
from support.keep_alive import connected, head
from support.raw_http import read_response
from support.readers import key

from xots.reader_file import remove_reader
from xots.sandbox import Sandbox
from xots.sandbox.person import Person
from xots.server import Server
from xots.testing import FakeClock
from xots.web.connection import Phase
from xots.web.express import MAX_KNOWN_REQUESTS
from xots.web.tokens import TokenHandler

NewServer = Callable[..., Awaitable[Server]]

XERO_LIFE = 1800

pytestmark = pytest.mark.usefixtures("learns_at_once")


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


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="not (is_basic or ",
    new="not (",
    protects_from="a browser's password that is kept in memory",
)
@pytest.mark.safeguard(
    file="web/express_request.py",
    old='"Cookie" in headers or _has_body(headers))',
    new='"Cookie" in headers)',
    protects_from="a body that is taken for the next request",
)
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


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old=" or ONE_HEAD.fullmatch(head) is None:",
    new=":",
    protects_from="two requests in one segment that get one response",
)
async def test_only_heads_with_the_ends_of_lines_of_http_are_remembered(
    logged_in: Server, handled: list[str]
) -> None:
    """Tornado takes a bare LF too, at which the lane would have to find the end of a head."""
    raw = head(logged_in).replace(b"\r\n", b"\n")
    async with connected(logged_in) as say:
        assert (await say(raw=raw)).status == (await say(raw=raw)).status == 200
    assert len(handled) == 2


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="return is_waiting and not self._read_buffer_size",
    new="return is_waiting",
    protects_from="the rest of a request that a proxy has begun, taken for a request",
)
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


@pytest.mark.safeguard(
    file="web/tokens.py",
    old=" or access_log.isEnabledFor(logging.DEBUG)",
    new="",
    protects_from="requests that the log at DEBUG does not show",
)
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


@pytest.mark.safeguard(
    file="web/express.py",
    old="        if known.look != self._looks:\n",
    new="        if known.look == 0:\n",
    protects_from="a response that is repeated for ever",
)
@pytest.mark.safeguard(
    file="web/express.py",
    old="is_now = self._since <= now",
    new="is_now = now",
    protects_from="the times of the future, when the clock is set back",
)
@pytest.mark.safeguard(
    file="web/express.py",
    old="        self._until = min(body.until, _next_second(body.since))\n",
    new="        self._until = body.until\n",
    protects_from="a Date that stands still",
)
@pytest.mark.safeguard(
    file="web/express.py",
    old="min(body.until, _next_second(body.since))",
    new="_next_second(body.since)",
    protects_from="a lifetime that is given too long",
)
async def test_the_times_of_a_repeated_response_are_true(
    logged_in: Server, clock: FakeClock, handled: list[str]
) -> None:
    """``expiresIn`` rounds down at each moment, and ``Date`` is that of this host's clock."""
    clock.advance(0.4)
    await logged_in.keeper.refresh()  # the token expires between two whole seconds
    clock.advance(0.5)
    async with connected(logged_in) as say:
        await say()
        for _ in range(8):
            clock.advance(0.3)
            repeated, made = await say(), await say("/token", f"X-Now: {clock.elapsed()}")
            assert repeated == made
        clock.step(-5)
        assert await say() == await say("/token", "X-Now: before")
    assert len(handled) == 10


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


@pytest.mark.safeguard(
    file="web/express.py",
    old=" or edition is not self._edition:",
    new=":",
    protects_from="an old token or organisation that is served after a change",
)
async def test_a_token_of_this_very_second_is_served_at_once(
    logged_in: Server, clock: FakeClock, handled: list[str]
) -> None:
    """No response outlives the record that it was made of."""
    clock.advance(0.4)
    async with connected(logged_in) as say:
        old = await say()
        await logged_in.keeper.refresh()
        assert (await say()).body != old.body
    assert handled == ["/token"]


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_a_login_that_was_ended_is_not_served(
    logged_in: Server, send: Any, clock: FakeClock, act: str
) -> None:
    """The next request learns it."""
    clock.advance(0.4)
    async with connected(logged_in) as say:
        assert (await say()).status == 200
        await send("POST", f"{logged_in.url}/{act}", None, "")
        assert (await say()).status == 401


async def test_nothing_is_served_while_a_login_is_ended(
    logged_in: Server, sandbox: Sandbox, send: Any, clock: FakeClock
) -> None:
    """From the request on that ends it, not only from Xero's response on."""
    clock.advance(0.4)
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


@pytest.mark.safeguard(
    file="keeping/serving.py",
    old="is_stopped = self._ends_running or self._tasks.closed",
    new="is_stopped = self._tasks.closed",
    protects_from="a token that is served while its login is ended",
)
async def test_nothing_is_served_before_the_end_of_a_login_is_stored(
    logged_in: Server, clock: FakeClock
) -> None:
    """The store may take its time, and the record is still that of the login."""
    clock.advance(0.4)
    async with connected(logged_in) as say:
        assert (await say()).status == 200
        with serving_of(logged_in.keeper).stopped():
            assert (await say()).status == 401
        assert (await say()).status == 200


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


@pytest.mark.safeguard(
    file="web/tokens.py",
    old="        if not self.accounts.extend(keeper):\n            return None\n",
    new="",
    protects_from="an account in use that is closed",
)
async def test_a_further_account_that_is_repeated_stays_open(
    new_server: NewServer,
    credentials: dict[str, Any],
    person: Person,
    send: Any,
    clock: FakeClock,
    handled: list[str],
) -> None:
    """Its keeper closes ten minutes after the last request; those of the lane count."""
    server = await new_server(idle_timeout=3600, **credentials)
    body, json = '{"name": "firm"}', {"Content-Type": "application/json"}
    assert (await send("POST", f"{server.url}/accounts", json, body)).status == 201
    page = await person.open(f"http://localhost:{server.port}/accounts/firm/home")
    assert (await person.consent(await person.submit(page))).status == 200
    opened = open_keepers_of(server.accounts)["firm"]
    async with connected(server) as say:
        await say("/accounts/firm/token")
        kept = opened.kept_until
        clock.advance(minutes=7)
        await say("/accounts/firm/token")
        assert opened.kept_until == kept + 7 * 60
    assert len(handled) == 1


@pytest.mark.safeguard(
    file="web/acceptor.py",
    old="            self._watch.express.flush()\n",
    new="            pass\n",
    protects_from="an account in use whose token is not refreshed ahead",
)
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
        acceptor_of(server).sweep()
    assert server.keeper.usage.until == before + XERO_LIFE - 700


# ---------- the sender


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="            self.express.look()\n",
    new="",
    protects_from="a removed key that stays valid on a new connection",
)
async def test_a_key_is_refused_on_a_connection_that_only_the_lane_has_served(
    keyed: Server, readers: Path, expected_log: Any, handled: list[str]
) -> None:
    """At the first request after its removal, and at the next one."""
    expected_log("this key is not valid here")
    async with connected(keyed) as say, connected(keyed) as say_too:
        assert await say("/token", key("first")) == await say_too("/token", key("first"))
        assert len(handled) == 1
        remove_reader(readers, "first")
        for _ in range(2):
            assert (await say_too("/token", key("first"))).status == 401


@pytest.mark.safeguard(
    file="web/express.py",
    old="            self.forget()\n            self.rules = rules\n",
    new="            self.rules = rules\n",
    protects_from="a removed key that stays valid",
)
async def test_a_key_is_refused_at_the_request_after_its_removal(
    keyed: Server, readers: Path, expected_log: Any, handled: list[str]
) -> None:
    """On a connection on which it was valid. The other key stays valid."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    async with connected(keyed) as say:
        for name in 2 * ("first", "second"):
            assert (await say("/token", key(name))).status == 200
        assert len(handled) == 2
        remove_reader(readers, "first")
        assert (await say("/token", key("first"))).status == 401
        assert (await say("/token", key("second"))).status == 200
        assert (await say("/token")).status == 401


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="        self._express.look()\n        self.read_ahead()\n",
    new="        self.read_ahead()\n",
    protects_from="a removed key that stays valid on a connection in use",
)
async def test_a_key_is_refused_that_is_removed_after_another_request(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """Tornado has served the last request of the connection, and the event loop sees it itself."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    async with connected(keyed) as say:
        for _ in range(2):
            assert (await say("/token", key("first"))).status == 200
        assert (await say("/livez", key("first"))).status == 200
        remove_reader(readers, "first")
        assert (await say("/token", key("first"))).status == 401


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="            self._express.look()\n            if",
    new="            if",
    protects_from="a key that is removed while the request before is served and stays valid",
)
async def test_a_key_is_refused_that_is_removed_while_the_request_before_waits(
    keyed: Server, readers: Path, monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """The second request arrives before its key is removed, and is read after that."""
    expected_log("this key is not valid here")
    get, gate, waiting = TokenHandler.get, asyncio.Event(), asyncio.Event()

    async def held(self: TokenHandler) -> None:
        waiting.set()
        await gate.wait()
        await get(self)

    async with connected(keyed) as say:
        await say("/token", key("first"))
    reader, writer = await asyncio.open_connection("127.0.0.1", keyed.port)
    monkeypatch.setattr(TokenHandler, "get", held)
    writer.write(head(keyed, "/token", key("second"), "Cookie: a=b"))
    async with asyncio.timeout(10):
        await waiting.wait()
        writer.write(head(keyed, "/token", key("first")))
        for _ in range(20):
            await asyncio.sleep(0)
        remove_reader(readers, "first")
        gate.set()
        assert [(await read_response(reader)).status for _ in range(2)] == [200, 401]
    writer.close()


@pytest.mark.safeguard(
    file="web/express.py",
    old="            rules = None\n",
    new="            rules = self.rules\n",
    protects_from="keys that are valid while their file can not be read",
)
async def test_nothing_is_repeated_while_the_readers_can_not_be_read(
    keyed: Server, readers: Path, expected_log: Any, handled: list[str]
) -> None:
    """The key is valid again when the file is."""
    expected_log("no request is permitted", "no key can be checked")
    text = readers.read_text()  # noqa: ASYNC240 - a small file, here and below
    async with connected(keyed) as say:
        for _ in range(2):
            assert (await say("/token", key("first"))).status == 200
        readers.write_text(text + "no reader\n")  # noqa: ASYNC240
        for _ in range(2):
            assert (await say("/token", key("first"))).status == 503
        readers.write_text(text)  # noqa: ASYNC240
        assert (await say("/token", key("first"))).status == 200
    assert len(handled) == 2


@pytest.mark.safeguard(
    file="web/express.py",
    old="self._known.get(request, NO_SENDERS).get(sender)",
    new="next(iter(self._known.get(request, NO_SENDERS).values()), None)",
    protects_from="a user who gets a token by the right of another one",
)
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


@pytest.mark.safeguard(
    file="web/status.py",
    old="            self.config.express.flush()\n",
    new="            pass\n",
    protects_from="reads of a token that /status does not show",
)
async def test_repeated_reads_are_counted(logged_in: Server, get: Any) -> None:
    """By ``/status``, with those that the handler responds to."""
    async with connected(logged_in) as say:
        for _ in range(5):
            await say()
    await get(f"{logged_in.url}/token")
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert (reads["reader"], reads["count"]) == (f"uid:{os.geteuid()}", 6)


# ---------- connections


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="self._send(response, closes=closes)",
    new="self._send(response, closes=False)",
    protects_from="a connection that stays open against its client's demand",
)
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
    await eventually(lambda: len(connections) == 0)
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
        async with asyncio.timeout(10):
            while connections.count(Phase.WRITE) == 0:
                await loop.sock_sendall(client, request)
                sent += 1
                for _ in range(3):  # the server's turn
                    await asyncio.sleep(0)
            while connections.count(Phase.WRITE):
                received += await loop.sock_recv(client, 1 << 10)
                await asyncio.sleep(0)
            await loop.sock_sendall(client, last)
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


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="is_waiting = self.phase is Phase.IDLE or self.phase is Phase.OPENED",
    new="is_waiting = True",
    protects_from="a request that is hidden in the body of another one",
)
async def test_a_known_head_in_a_body_is_a_part_of_the_body(
    logged_in: Server, expected_log: Any
) -> None:
    """It comes by itself, after the head of its request."""
    expected_log("POST /token: HTTP 405")
    raw = head(logged_in)
    posted = f"POST /token HTTP/1.1\r\nHost: localhost:{logged_in.port}\r\n"
    async with connected(logged_in) as say:
        assert (await say(raw=raw)).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    writer.write(f"{posted}Content-Length: {len(raw)}\r\n\r\n".encode())
    await eventually(lambda: acceptor_of(logged_in).connections.count(Phase.BODY) == 1)
    writer.write(raw)
    async with asyncio.timeout(10):
        assert (await read_response(reader)).status == 405
        writer.write(raw)
        assert (await read_response(reader)).status == 200
    writer.close()


async def test_the_response_to_a_request_is_not_learned_for_the_one_before(
    logged_in: Server,
) -> None:
    """The next request may arrive at any time while Tornado serves one."""
    other = head(logged_in, "/livez")
    for turns in range(10):
        with contextlib.closing(socket.create_connection(("127.0.0.1", logged_in.port))) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setblocking(False)
            client.send(other)
            for _ in range(turns):
                await asyncio.sleep(0)
            client.send(head(logged_in, "/token", f"X-Turns: {turns}"))
            received = b""
            async with asyncio.timeout(10):
                while received.count(b"HTTP/1.1 200 OK") < 2:
                    received += await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        async with connected(logged_in) as say:
            assert b"accessToken" not in (await say(raw=other)).body


# ---------- the bounds


@pytest.mark.safeguard(
    file="web/express.py",
    old="if sum(map(len, self._known.values())) >= MAX_KNOWN_REQUESTS:",
    new="if False:",
    protects_from="a client whose heads fill the memory",
)
async def test_the_number_of_known_heads_is_bounded(logged_in: Server, handled: list[str]) -> None:
    """A client that changes its head at each request costs no memory."""
    async with connected(logged_in) as say:
        for number in range(MAX_KNOWN_REQUESTS + 1):
            await say("/token", f"X-Number: {number}")
        await say("/token", f"X-Number: {MAX_KNOWN_REQUESTS}")
        assert len(handled) == MAX_KNOWN_REQUESTS + 1  # the last one is known
        await say("/token", "X-Number: 0")
    assert len(handled) == MAX_KNOWN_REQUESTS + 2


async def test_a_long_head_is_not_remembered(logged_in: Server, handled: list[str]) -> None:
    """The lane reads a bounded number of bytes at once."""
    async with connected(logged_in) as say:
        for _ in range(2):
            assert (await say("/token", f"X-Long: {2100 * 'x'}")).status == 200
    assert len(handled) == 2
