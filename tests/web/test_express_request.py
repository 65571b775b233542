"""The express lane for requests whose heads differ: Tornado parses them, and no handler runs."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from support.bench import eventually
from support.inside import acceptor_of, express_of
from support.keep_alive import Say, connected, head
from support.raw_http import RawResponse, exchange, read_response, reset_at_close
from support.readers import key, line_of

from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.account import AccessToken
from xots.reader_file import remove_reader
from xots.server import Server
from xots.testing import FakeClock
from xots.web import express_request
from xots.web.connection import Phase
from xots.web.express import MAX_KNOWN_REQUESTS

Numbered = Callable[..., Awaitable[RawResponse]]


def numbered(say: Say) -> Numbered:
    """Return a function that sends requests, each with a number of its own in its head."""
    numbers = itertools.count()

    async def say_numbered(target: str = "/token", *lines: str) -> RawResponse:
        return await say(target, *lines, f"X-Number: {next(numbers)}")

    return say_numbered


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Numbered]:
    """Open one connection for such requests."""
    async with connected(server) as say:
        yield numbered(say)


# ---------- the requests that are repeated


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/token", "Accept: */*"),
        ("/token", "Accept: text/plain"),
        ("/token?min_ttl=600", "Connection: keep-alive"),
        ("/accounts/default/token", "User-Agent: program/1"),
    ],
)
async def test_a_new_head_gets_the_bytes_of_the_handler_without_it(
    logged_in: Server, handled: list[str], target: str, line: str
) -> None:
    """From the third request for a target on."""
    async with asking(logged_in) as ask:
        made = await ask(target, line)
        assert made.status == 200
        assert [await ask(target, line) for _ in range(3)] == 3 * [made]
    assert handled == 2 * [target]


async def test_each_target_and_media_type_has_its_own_response(
    logged_in: Server, handled: list[str]
) -> None:
    """A request that asks for another one is another request."""
    text, json = "Accept: text/plain", "Accept: application/json"
    cases = [("/token", text), ("/token", json, text), ("/token?min_ttl=1", text)]
    async with asking(logged_in) as ask:
        made = [await ask(*case) for case in cases]
        for _ in range(2):
            assert [await ask(*case) for case in cases] == made
        assert made[0].body != made[1].body
    assert len(handled) == 2 * len(cases)


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="_offer_head(self._request, self._known.source, body)",
    new="pass",
    protects_from="programs that stay slow because another one was first",
)
async def test_a_head_that_comes_again_is_known_soon(
    logged_in: Server, handled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although no handler responds to it: the third request with it is not parsed any more."""
    parsed, find = 0, express_request.find

    def counted(*arguments: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return find(*arguments)

    async with connected(logged_in) as say:
        ask = numbered(say)
        first, _ = await ask(), await ask()
        monkeypatch.setattr(express_request, "find", counted)
        assert [await say() for _ in range(5)] == 5 * [first]
    assert len(handled) == parsed == 2


async def test_a_long_head_that_comes_again_is_parsed_but_has_no_handler(
    logged_in: Server, handled: list[str]
) -> None:
    """The lane can't remember it, but its target."""
    async with connected(logged_in) as say:
        for _ in range(4):
            assert (await say("/token", f"X-Long: {2100 * 'x'}")).status == 200
    assert len(handled) == 2


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="if express.is_recurring(source.caller, key):",
    new="if True:",
    protects_from="a client that makes the lane forget the requests of the others",
)
async def test_targets_that_come_once_drive_out_no_other(
    logged_in: Server, handled: list[str]
) -> None:
    """Such as those with a number of their own in the query."""
    async with asking(logged_in) as ask:
        for _ in range(2):
            await ask()
        for number in range(MAX_KNOWN_REQUESTS + 1):
            await ask(f"/token?number={number}")
        handled.clear()
        await ask()
    assert handled == []


@pytest.mark.safeguard(
    file="web/express_request.py",
    old=" or sum(map(len, key)) > MAX_KNOWN_HEAD_BYTES:",
    new=":",
    protects_from="a client whose targets fill the memory",
)
async def test_a_long_target_is_not_remembered(logged_in: Server, handled: list[str]) -> None:
    """The bound is that of a head."""
    async with asking(logged_in) as ask:
        for _ in range(3):
            assert (await ask(f"/token?long={2100 * 'x'}")).status == 200
    assert len(handled) == 3


# ---------- the checks


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="if decision is not guard.Decision.PERMIT:",
    new="if False:",
    protects_from="a web page that reads the token",
)
@pytest.mark.parametrize(
    ("line", "status"),
    [("Upgrade: websocket", 403), ("X-Purpose: preview", 403), ("Host: evil.example", 421)],
)
async def test_the_guard_decides_on_each_request(
    logged_in: Server, expected_log: Any, line: str, status: int
) -> None:
    """Also if the lane knows its target."""
    expected_log(f"WARNING xots.web: GET /token: refused with status {status}")
    async with connected(logged_in) as say:
        for number in range(3):
            assert (await say("/token", f"X-Number: {number}")).status == 200
        raw = head(logged_in, "/token", "X-Number: 4", line)
        if line.startswith("Host"):
            raw = raw.replace(f"Host: localhost:{logged_in.port}\r\n".encode(), b"")
        assert (await say(raw=raw)).status == status


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="return not (is_other or guard.looks_like_browser(headers))",
    new="return not is_other",
    protects_from="a browser that keeps the storage of a program that had this port before",
)
async def test_a_browser_gets_the_headers_for_browsers(
    logged_in: Server, handled: list[str]
) -> None:
    """Also if a program has asked for the same."""
    async with asking(logged_in) as ask:
        for _ in range(2):
            assert (await ask()).value("clear-site-data") is None
        for line in ("User-Agent: Mozilla/5.0", "Accept-Language: en"):
            assert (await ask("/token", line)).value("clear-site-data") == '"storage"'
        assert (await ask()).value("clear-site-data") is None
    assert len(handled) == 4


@pytest.mark.safeguard(
    file="web/express_request.py",
    old='"Content-Type" in headers or _has_body(headers)',
    new='"Content-Type" in headers',
    protects_from="a body that no handler reads",
)
async def test_a_request_with_a_body_has_a_handler(logged_in: Server, handled: list[str]) -> None:
    """The body is not taken for the next request."""
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(2):
            await ask()
        raw = head(logged_in, "/token", "Content-Length: 4") + b"body"
        assert (await say(raw=raw)).status == 200
        assert (await ask()).status == 200
    assert len(handled) == 3


@pytest.mark.safeguard(
    file="web/express_request.py",
    old=' or "Content-Type" in headers',
    new="",
    protects_from="a token in place of the refusal of a malformed request",
)
async def test_a_request_that_tornado_refuses_stays_refused(
    logged_in: Server, expected_log: Any
) -> None:
    """It parses bodies of forms, the empty one of a GET too."""
    expected_log("WARNING xots.web: GET /token: ")
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(3):
            assert (await ask()).status == 200
        for _ in range(3):
            refused = await say("/token", "Content-Type: multipart/form-data")
            assert refused.status == 400


@pytest.mark.safeguard(
    file="web/express_request.py",
    old='headers.pop("Connection", None)',
    new="pass",
    protects_from="connections that end although their clients keep them open",
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_the_end_of_one_connection_is_not_announced_to_others(
    logged_in: Server, clock: FakeClock, version: str
) -> None:
    """Tornado adds the header ``Connection`` where it belongs."""
    clock.advance(0.4)  # the response stays the same for a while
    lines = {"1.1": "Connection: close", "1.0": "Connection: keep-alive"}
    async with connected(logged_in) as say, connected(logged_in) as say_too:
        ask = numbered(say)
        for _ in range(3):
            assert (await ask()).value("connection") is None
        raw = head(logged_in, "/token", lines[version])
        response = await say_too(raw=raw.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        assert response.value("connection") == {"1.1": "close", "1.0": "Keep-Alive"}[version]
        assert (await ask()).value("connection") is None


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="partial(_response, HTTPHeaders(headers))",
    new="partial(_response, headers)",
    protects_from="connections that end because the one of the first request has",
)
async def test_the_end_of_the_first_connection_is_not_announced_to_others(
    logged_in: Server, clock: FakeClock
) -> None:
    """The headers of a response are made again with each body."""
    for number in range(2):
        raw = head(logged_in, "/token", "Connection: close", f"X-Number: {number}")
        [response] = await exchange(logged_in.port, [(raw, False)])
        assert response.value("connection") == "close"
    clock.advance(1)
    async with asking(logged_in) as ask:
        assert (await ask()).value("connection") is None


async def test_a_key_counts_for_its_own_rights_only(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """No other key, and none, gets the response to it; and it gets none once it is removed."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    async with asking(keyed) as ask:
        for _ in range(3):
            assert (await ask("/token", key("first"))).status == 200
        assert (await ask("/token")).status == 401
        assert (await ask("/token", key("unknown"))).status == 401
        assert (await ask("/token", key("second"))).status == 200
        remove_reader(readers, "first")
        assert (await ask("/token", key("first"))).status == 401
        assert (await ask("/token", key("second"))).status == 200


@pytest.mark.safeguard(
    file="web/express_request.py",
    old='"Transfer-Encoding", ',
    new="",
    protects_from="a key that was removed before the end of its request",
)
async def test_a_key_that_is_removed_before_the_end_of_a_body_is_refused(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """The response comes after the body, and by the rules of that time."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    async with asking(keyed) as ask:
        for _ in range(3):
            assert (await ask("/token", key("first"))).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", keyed.port)
    writer.write(head(keyed, "/token", key("first"), "Transfer-Encoding: chunked"))
    await eventually(lambda: acceptor_of(keyed).connections.count(Phase.BODY) == 1)
    remove_reader(readers, "first")
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await read_response(reader)).status == 401
    writer.close()


async def test_no_key_is_valid_while_the_readers_can_not_be_read(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """Each request gets a response that says so."""
    expected_log("no request is permitted", "no key can be checked")
    text = readers.read_text()  # noqa: ASYNC240 - a small file, here and below
    async with asking(keyed) as ask:
        for _ in range(3):
            assert (await ask("/token", key("first"))).status == 200
        readers.write_text(text + "no reader\n")  # noqa: ASYNC240
        assert (await ask("/token", key("first"))).status == 503
        readers.write_text(text)  # noqa: ASYNC240
        assert (await ask("/token", key("first"))).status == 200


# ---------- the end of a response


async def test_the_times_are_those_of_the_request(
    logged_in: Server, clock: FakeClock, handled: list[str]
) -> None:
    """``expiresIn`` and ``Date`` pass, and a new token is served at once."""
    async with asking(logged_in) as ask:
        for _ in range(2):
            first = await ask()
        clock.advance(60)
        second = await ask()
        assert second.value("date") != first.value("date")
        assert b'"expiresIn":1740' in second.body
        await logged_in.keeper.refresh()
        assert b'"expiresIn":1800' in (await ask()).body
        clock.advance(1801)
        assert b'"expiresIn":1800' in (await ask()).body  # the handler has refreshed
    assert len(handled) == 3


async def test_the_reads_are_counted(logged_in: Server, get: Any) -> None:
    """By ``/status``, with those that the handler responds to."""
    async with asking(logged_in) as ask:
        for _ in range(5):
            await ask()
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert reads["count"] == 5


@pytest.mark.safeguard(
    file="web/express_request.py",
    old=" or stream.closed():",
    new=":",
    protects_from="reads that /status shows although no token was sent",
)
async def test_a_response_to_a_client_that_is_gone_is_not_counted(
    logged_in: Server, get: Any
) -> None:
    """It may send several requests at once, and leave."""
    raw = [head(logged_in, "/token", f"X-Number: {number}") for number in range(20)]
    with closing(socket.create_connection(("127.0.0.1", logged_in.port))) as client:
        client.setblocking(False)
        reset_at_close(client)
        for _ in range(2):
            client.send(raw.pop())
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        client.send(b"".join(raw))
    await eventually(lambda: len(acceptor_of(logged_in).connections) == 0)
    for _ in range(3 * len(raw)):
        await asyncio.sleep(0)  # the turns of all requests
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert reads["count"] < 2 + len(raw) / 2


@pytest.mark.safeguard(
    file="web/express.py",
    old="self.source = copy(source)",
    new="self.source = source",
    protects_from="reads that are reported for another token",
)
async def test_each_token_is_reported_as_often_as_it_was_read(
    logged_in: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the response to a head and that to its target have the same source."""
    reported: Counter[str] = Counter()

    def note(_: object, access: AccessToken, count: int) -> None:
        reported[access.value.reveal()] += count

    clock.advance(0.4)
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(3):
            await ask()
        for _ in range(3):
            await say()
        express_of(logged_in).flush()
        monkeypatch.setattr(TokenKeeper, "note_reads", note)
        tokens = []
        for _ in range(2):
            access = logged_in.keeper.account.access
            assert access is not None
            tokens.append(access.value.reveal())
            for _ in range(5):
                await ask()
            await logged_in.keeper.refresh()
            await say()
        express_of(logged_in).flush()
    assert [reported[token] for token in tokens] == [5, 6]


async def test_a_program_whose_head_is_constant_takes_one_place(
    keyed: Server, readers: Path, handled: list[str]
) -> None:
    """So that as many programs as the lane knows requests are quick."""
    names = [f"program-{number}" for number in range(MAX_KNOWN_REQUESTS - 10)]
    text = readers.read_text()  # noqa: ASYNC240 - a small file
    readers.write_text(text + "".join(line_of(name, "token") for name in names))  # noqa: ASYNC240
    async with connected(keyed) as say:
        for _ in range(3):
            handled.clear()
            for name in names:
                assert (await say("/token", key(name))).status == 200
    assert handled == []
