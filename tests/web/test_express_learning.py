"""The heads that the express lane remembers: those that come again."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.inside import express_of, watched_of
from support.keep_alive import connected

from xots.access import Peer, Rules, Transport
from xots.server import Server
from xots.testing import FakeClock
from xots.web.express import MAX_MARKS, MAX_REQUESTS, Body, Express
from xots.web.headers import http_date

pytestmark = pytest.mark.usefixtures("heads_only")


@pytest.mark.safeguard(
    file="web/express_connection.py",
    old="self._is_recurring = self._express.is_recurring(self.peer, self._head)",
    new="self._is_recurring = True",
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
        for number in range(MAX_REQUESTS + 1):
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


@pytest.mark.safeguard(
    file="web/express.py",
    old="        if edition is None:\n            return False\n",
    new="",
    protects_from="a response that is learned and served while an account serves nothing",
)
async def test_nothing_is_repeated_while_an_account_serves_nothing(clock: FakeClock) -> None:
    """Also a response that is offered by mistake then."""
    rules, peer = Rules(), Peer(transport=Transport.TCP, uid=0, address="127.0.0.1")
    head, now = b"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n", clock.now()
    keeper = SimpleNamespace(edition=None)
    source: Any = SimpleNamespace(keeper=keeper, rules=rules, count=lambda number, at: None)
    express = Express(lambda: rules, clock)
    date = http_date(int(now.timestamp()))
    response = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 2\r\n\r\nhi"
    body = Body(b"hi", now, now + timedelta(seconds=1))
    express.learn_head(peer, head, response.encode(), source, body)
    keeper.edition = object()
    express.learn_head(peer, head, response.encode(), source, body)
    assert express.find(peer, head) is not None
    keeper.edition = None
    express.look()
    assert express.find(peer, head) is None
    express.forget()
    express.learn_head(peer, head, response.encode(), source, body)
    assert express.find(peer, head) is None
