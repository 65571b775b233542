"""The express lane for requests whose heads differ: Tornado parses them, and no handler runs."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.keep_alive import Say, connected, head
from support.raw_http import RawResponse, exchange
from support.readers import key_of

from xots.reader_file import remove_reader
from xots.server import Server
from xots.testing import FakeClock
from xots.web.express import MAX_REQUESTS
from xots.web.express_request import ExpressRequest

NewServer = Callable[..., Awaitable[Server]]

Numbered = Callable[..., Awaitable[RawResponse]]


def numbered(say: Say) -> Numbered:
    """Return a function that sends requests, each with a number of its own in its head."""
    numbers = itertools.count()

    async def say_numbered(target: str = "/token", *lines: str) -> RawResponse:
        return await say(target, *lines, f"X-Number: {next(numbers)}")

    return say_numbered


def key(name: str) -> str:
    return f"Authorization: Bearer {key_of(name)}"


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
    """From the third request for a target on, over the Unix socket as well."""
    async with connected(logged_in) as say:
        ask = numbered(say)
        made = await ask(target, line)
        assert made.status == 200
        assert [await ask(target, line) for _ in range(3)] == 3 * [made]
    assert handled == 2 * [target]


async def test_each_target_and_media_type_has_its_own_response(
    logged_in: Server, handled: list[str]
) -> None:
    """A request that asks for another one is another request."""
    cases = [("/token", "Accept: */*"), ("/token", "Accept: text/plain"), ("/token?min_ttl=1", "")]
    async with connected(logged_in) as say:
        ask = numbered(say)
        made = [await ask(target, line or "X-None: 1") for target, line in cases]
        for _ in range(2):
            again = [await ask(target, line or "X-None: 1") for target, line in cases]
            assert again == made
        assert made[0].body != made[1].body
    assert len(handled) == 2 * len(cases)


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="_offer_head(self._stream, self._headers, known.source, known.body)",
    new="pass",
    protects_from="programs that stay slow because another one was first",
)
async def test_a_head_that_comes_again_is_known_soon(
    logged_in: Server, handled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although no handler responds to it: the third request with it is not parsed any more."""
    parsed = 0
    find = ExpressRequest._find

    def counted(self: ExpressRequest, *arguments: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return find(self, *arguments)

    async with connected(logged_in) as say:
        ask = numbered(say)
        first, _ = await ask(), await ask()
        monkeypatch.setattr(ExpressRequest, "_find", counted)
        assert [await say() for _ in range(5)] == 5 * [first]
    assert len(handled) == parsed == 2


@pytest.mark.safeguard(
    file="web/express_request.py",
    old=" and express.is_recurring(source.caller, key)",
    new="",
    protects_from="a client that makes the lane forget the requests of the others",
)
async def test_targets_that_come_once_drive_out_no_other(
    logged_in: Server, handled: list[str]
) -> None:
    """Such as those with a number of their own in the query."""
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(2):
            await ask()
        for number in range(MAX_REQUESTS + 1):
            await ask(f"/token?number={number}")
        handled.clear()
        await ask()
    assert handled == []


@pytest.mark.safeguard(
    file="web/express_request.py",
    old="not is_short or ",
    new="",
    protects_from="a client whose targets fill the memory",
)
async def test_a_long_target_is_not_remembered(logged_in: Server, handled: list[str]) -> None:
    """The bound is that of a head."""
    async with connected(logged_in) as say:
        ask = numbered(say)
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
    old="return None if guard.looks_like_browser(headers) else (target, accept)",
    new="return (target, accept)",
    protects_from="a browser that keeps the storage of a program that had this port before",
)
async def test_a_browser_gets_the_headers_for_browsers(
    logged_in: Server, handled: list[str]
) -> None:
    """Also if a program has asked for the same."""
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(2):
            assert (await ask()).value("clear-site-data") is None
        for line in ("User-Agent: Mozilla/5.0", "Accept-Language: en"):
            assert (await ask("/token", line)).value("clear-site-data") == '"storage"'
        assert (await ask()).value("clear-site-data") is None
    assert len(handled) == 4


@pytest.mark.safeguard(
    file="web/express_request.py",
    old=" or _has_body(headers):",
    new=":",
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
    old='ends = version != "HTTP/1.1" or ',
    new="ends = False and ",
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
    async with connected(logged_in) as say:
        assert (await numbered(say)()).value("connection") is None


async def test_a_key_counts_for_its_own_rights_only(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """No other key, and none, gets the response to it; and it gets none once it is removed."""
    expected_log(r"WARNING xots.web: GET /token: refused \S+: this key is not valid here")
    async with connected(keyed) as say:
        ask = numbered(say)
        for _ in range(3):
            assert (await ask("/token", key("first"))).status == 200
        assert (await ask("/token")).status == 401
        assert (await ask("/token", key("unknown"))).status == 401
        assert (await ask("/token", key("second"))).status == 200
        remove_reader(readers, "first")
        assert (await ask("/token", key("first"))).status == 401
        assert (await ask("/token", key("second"))).status == 200


async def test_no_key_is_valid_while_the_readers_can_not_be_read(
    keyed: Server, readers: Path, expected_log: Any
) -> None:
    """Each request gets a response that says so."""
    expected_log("no request is permitted", "no key can be checked")
    text = readers.read_text()  # noqa: ASYNC240 - a small file, here and below
    async with connected(keyed) as say:
        ask = numbered(say)
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
    async with connected(logged_in) as say:
        ask = numbered(say)
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
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(5):
            await ask()
    [reads] = (await get(f"{logged_in.url}/status")).json["readers"]
    assert reads["count"] == 5


async def test_a_client_that_is_gone_gets_no_response(
    logged_in: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection may be evicted between the last byte of a request and the response."""
    find = ExpressRequest._find

    def ended(self: ExpressRequest, *arguments: Any) -> Any:
        known = find(self, *arguments)
        if known is not None:
            self._stream.end()
        return known

    monkeypatch.setattr(ExpressRequest, "_find", ended)
    async with connected(logged_in) as say:
        ask = numbered(say)
        for _ in range(2):
            await ask()
        raw = head(logged_in, "/token", "X-Number: 3")
        [response] = await exchange(logged_in.port, [(raw, True)])
    assert response.status == 0
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
