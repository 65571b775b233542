"""The heads that the express lane remembers: those that come again."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.inside import express_of, watched_of
from support.keep_alive import connected

from xots.access import Peer, Rules, Transport
from xots.server import Server
from xots.testing import FakeClock
from xots.web.express import (
    MAX_KNOWN_BODY_BYTES,
    MAX_KNOWN_REQUESTS,
    MAX_MARKS,
    Body,
    Express,
)

pytestmark = pytest.mark.usefixtures("heads_only")


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="if not self._express.is_recurring(self.peer, head):",
    new="if False:",
    protects_from="a client that makes the lane forget the heads of the others",
)
async def test_a_head_is_known_once_it_has_come_twice(
    logged_in: Server, handled: list[str]
) -> None:
    """Heads with a number of their own, as tracing adds it, drive out no other."""
    async with connected(logged_in) as say:
        for _ in range(3):
            await say()
        assert len(handled) == 2
        for number in range(MAX_KNOWN_REQUESTS + 1):
            await say("/token", f"X-Number: {number}")
        handled.clear()
        await say()
    assert handled == []


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="            self._return_to_watch()\n",
    new="            pass\n",
    protects_from="connections that stay slow because their first request was unknown",
)
async def test_a_connection_that_tornado_has_served_returns_to_the_lane(
    logged_in: Server,
) -> None:
    """The event loop spends less on it then."""
    async with connected(logged_in) as say:
        for _ in range(3):
            assert (await say()).status == 200
        assert watched_of(logged_in) == 1
        assert (await say("/livez")).status == 200
        assert watched_of(logged_in) == 0
        assert (await say()).status == 200
        assert watched_of(logged_in) == 1


async def test_a_head_comes_again_for_its_sender_only(logged_in: Server) -> None:
    """The others may be refused."""
    express = express_of(logged_in)
    one, other = (
        Peer(transport=Transport.TCP, uid=0, address="127.0.0.1"),
        Peer(transport=Transport.TCP, uid=1, address="127.0.0.1"),
    )
    assert not express.is_recurring(one, b"GET")
    assert not express.is_recurring(other, b"GET")
    assert express.is_recurring(one, b"GET")


async def test_the_number_of_noted_heads_is_bounded(logged_in: Server) -> None:
    """With too many, the lane begins to note them anew."""
    express, one = express_of(logged_in), Peer(transport=Transport.TCP, uid=0, address="127.0.0.1")
    assert not express.is_recurring(one, b"first")
    for number in range(MAX_MARKS):
        express.is_recurring(one, b"%d" % number)
    assert not express.is_recurring(one, b"first")


# ---------- what may be repeated

PEER = Peer(transport=Transport.TCP, uid=0, address="127.0.0.1")

HEAD = b"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Source:
    """A response whose content a test changes.

    Args:
        express: the lane.
        clock: the clock.
    """

    def __init__(self, express: Express, clock: FakeClock) -> None:
        self.express, self._clock = express, clock
        assert express.rules is not None
        self.rules, self.shared = express.rules, SimpleNamespace(content=b"hi")
        self.keeper: Any = SimpleNamespace(edition=object())
        self.caller: Any = None

    def body(self, now: datetime) -> Body:
        """Return the body at a time."""
        return Body(self.shared.content, now, now + timedelta(seconds=1), self._clock.elapsed())

    def count(self, number: int, at: datetime) -> None:
        """Count nothing."""

    def teach(self, *lines: str, sent: bytes | None = None) -> None:
        """Let the lane learn a response.

        Args:
            lines: headers beside those of the body.
            sent: the bytes that were sent in place of the body.
        """
        body = self.body(self._clock.now())
        own = (f"Date: {body.date}", f"Content-Length: {len(body.content)}")
        response = "\r\n".join(("HTTP/1.1 200 OK", *own, *lines, "", "")).encode()
        response += body.content if sent is None else sent
        self.express.learn_head(PEER, HEAD, response, self, body)

    @property
    def is_repeated(self) -> bool:
        """True if the lane knows the response."""
        self.express.look()
        return self.express.find(PEER, HEAD) is not None


@pytest.fixture
def source(clock: FakeClock) -> Source:
    """A response, and a lane that does not know it yet."""
    rules = Rules()
    express = Express(lambda: rules, clock)
    express.look()
    return Source(express, clock)


def test_a_response_is_known_once_it_was_sent(source: Source, clock: FakeClock) -> None:
    """Until its body is made again, in the next second."""
    assert not source.is_repeated
    source.teach("X-Header: value")
    assert source.is_repeated
    clock.advance(1)
    assert source.is_repeated


@pytest.mark.safeguard(
    file="web/express.py",
    old="        if edition is None:\n            return False\n",
    new="",
    protects_from="a response that is learned and served while an account serves nothing",
)
def test_nothing_is_repeated_while_an_account_serves_nothing(source: Source) -> None:
    """Also a response that is offered by mistake then."""
    source.teach()
    source.keeper.edition = None
    assert not source.is_repeated
    source.teach()
    assert not source.is_repeated


@pytest.mark.safeguard(
    file="web/express.py",
    old=" or is_long:",
    new=":",
    protects_from="long responses that fill the memory",
)
def test_a_long_response_is_not_remembered(source: Source) -> None:
    """The bound is 64 KiB."""
    source.shared.content = b"x" * (MAX_KNOWN_BODY_BYTES + 1)
    source.teach()
    assert not source.is_repeated


@pytest.mark.safeguard(
    file="web/express.py",
    old=" or len(body.content) > MAX_KNOWN_BODY_BYTES:",
    new=":",
    protects_from="responses that have become long and fill the memory",
)
def test_a_response_that_becomes_long_is_left_to_the_handler(
    source: Source, clock: FakeClock
) -> None:
    """Such as one of a login with more scopes."""
    source.teach()
    source.shared.content = b"x" * (MAX_KNOWN_BODY_BYTES + 1)
    clock.advance(1)
    assert not source.is_repeated


@pytest.mark.safeguard(
    file="web/express.py",
    old="if render(body)[0] == response:",
    new="if True:",
    protects_from="a response that differs from the one that was learned",
)
def test_only_a_response_that_the_lane_can_make_is_learned(source: Source) -> None:
    """The body that was sent may be another one than was offered."""
    source.teach(sent=b"ho")
    assert not source.is_repeated


@pytest.mark.safeguard(
    file="web/express.py",
    old="if self.is_closed or ",
    new="if ",
    protects_from="a connection that goes on while the server stops",
)
def test_nothing_is_learned_during_a_stop(source: Source, clock: FakeClock) -> None:
    """Requests that were accepted before have their responses then."""
    source.express.close()
    source.teach()
    assert not source.is_repeated
