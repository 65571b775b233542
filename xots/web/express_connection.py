"""A connection at which the express lane reads first, and Tornado what the lane does not know."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from tornado.concurrent import Future
from tornado.ioloop import IOLoop

from ..access import Peer
from .connection import Connection, Connections, Phase
from .express import MAX_KNOWN_HEAD_BYTES, ONE_HEAD, Body, Express, Repeatable

__all__ = ["ExpressConnection"]

READ = IOLoop.READ

AHEAD = frozenset({Phase.OPENED, Phase.IDLE, Phase.HANDLING})
"""The phases in which the lane reads: those before a request, and the one before the next."""

REQUESTS_PER_TURN = 64
"""After so many requests, the event loop has its turn, although further ones have arrived."""

IDLE_STEP_SECONDS = 0.01
"""A connection enters the idle phase anew after this time, and is dated this much ahead, so that it
is not closed too early. Doing it with each response would take a twentieth of the time. A longer
one would let the cap end a connection in use before one that is idle."""


class Watch:
    """Watches the connections whose next request the lane may know.

    The event loop sees one descriptor for all of them. At its one event, the lane responds to all
    requests that have arrived, and to those that arrive meanwhile: an event for each would cost as
    much as its response.

    Args:
        express: the lane.
    """

    def __init__(self, express: Express) -> None:
        self.express = express
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        """Respond to requests in the running event loop."""
        IOLoop.current().add_handler(self._selector.fileno(), self._respond, READ)

    def close(self) -> None:
        """Watch no more."""
        IOLoop.current().remove_handler(self._selector.fileno())
        self._selector.close()

    def add(self, connection: ExpressConnection) -> None:
        """Watch a connection."""
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def remove(self, connection: ExpressConnection) -> None:
        """Watch a connection no more."""
        self._selector.unregister(connection.socket)

    def _respond(self, selector: int, events: int) -> None:
        left = REQUESTS_PER_TURN
        while left > 0 and (arrived := self._selector.select(0)):
            self.express.look()
            for key, _ in arrived:
                connection: ExpressConnection = key.data
                self.express.look_if_late()
                connection.read_ahead()
            left -= len(arrived)


class ExpressConnection(Connection):
    """A connection whose requests the express lane responds to, if it knows them.

    Tornado begins to serve it with the first request that the lane does not know. From then on it
    waits for the next request at each time at which the lane reads first.

    Args:
        accepted: the socket.
        connections: all connections, which it joins.
        peer: its other end.
        watch: watches it until the event loop does.
    """

    def __init__(
        self, accepted: socket.socket, connections: Connections, peer: Peer, watch: Watch
    ) -> None:
        super().__init__(accepted, connections, peer)
        self._express = watch.express
        self._watch, self._is_watched = watch, False
        self._serve: Callable[[], None] | None = None
        """Lets Tornado serve the connection; None once it does."""
        self._unread = b""
        """Bytes that the lane has read, and Tornado has not."""
        self._head: bytes | None = None
        """The bytes of the request that Tornado serves, if the lane has read them all."""
        self._stays_idle_until = 0.0
        """Until this time, by ``Clock.elapsed``, a response lets it stay in the idle phase."""
        self._offered: tuple[bytes, Repeatable, Body] | None = None
        """The head of which the lane learns the response that is written next."""

    def begin(self, serve: Callable[[], None]) -> None:
        """Wait for the first request.

        Args:
            serve: lets Tornado serve the connection.
        """
        self._serve = serve
        self._enter_watch()

    def offer(self, source: Repeatable, body: Body) -> bool:
        """Let the lane remember the head of the request, and the response with this body, which is
        written next. Return False if it does not: the head has come for the first time, or is not
        all that was read."""
        head = self._head
        if head is None or ONE_HEAD.fullmatch(head) is None:
            return False
        if not self._express.is_recurring(self.peer, head):
            return False
        self._offered = head, source, body
        return True

    # ---------- called by Tornado

    def _handle_events(self, fd: Any, events: int) -> None:
        """Let the lane read before Tornado does.

        Tornado has no public function for this. It calls this one for each event of the socket.
        """
        if events == READ and (self._unread or self.phase is Phase.WRITE):
            # Further bytes, or the client's end, wait until Tornado looks for the next request,
            # or until the last response is sent.
            self._state = (self._state or 0) & ~READ
            self.io_loop.update_handler(fd, self._state)
            return
        if events != READ or self._read_buffer_size or self.phase not in AHEAD:
            super()._handle_events(fd, events)
            return
        self._express.look()
        self.read_ahead()
        if self.phase is Phase.IDLE and not self._unread and not self._read_buffer_size:
            self._return_to_watch()

    def close_fd(self) -> None:
        """Close the socket, or let it linger after a refusal."""
        self._leave_watch()
        super().close_fd()

    def receive(self, buf: bytearray | memoryview) -> int | None:
        """Return bytes for Tornado: those that the lane has read and does not know, or those of the
        socket.

        Tornado looks for the next request as soon as it has sent a response. It gets none before
        the lane has read.
        """
        if not self._is_between_requests:
            self._head = None
        elif not self._unread:
            return None
        elif self._head is not self._unread:
            self._express.look()
            if self._respond_if_known():
                return None
        if not self._unread:
            return super().receive(buf)
        received, self._unread = self._unread, b""
        buf[: len(received)] = received
        return len(received)

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Write, and let the lane learn a response that was offered."""
        written = super().write(data)
        if self._offered is not None:
            (head, source, body), self._offered = self._offered, None
            self._express.learn_head(self.peer, head, bytes(data), source, body)
        return written

    # ---------- the lane

    @property
    def _is_between_requests(self) -> bool:
        """True if the next byte is the first one of a request, and no other one waits for it."""
        is_waiting = self.phase is Phase.IDLE or self.phase is Phase.OPENED
        return is_waiting and not self._read_buffer_size

    def read_ahead(self) -> None:
        """Read what has arrived. Respond if it is a known request, or let Tornado read it.
        ``Express.look`` comes before."""
        try:
            received = self.socket.recv(MAX_KNOWN_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            return
        self._unread = received
        if self.phase is Phase.HANDLING:
            return  # Tornado looks for this request after its response to the last one
        if not self._respond_if_known():
            self._let_tornado_read()

    def _respond_if_known(self) -> bool:
        """Respond to the request that was read, if the lane knows it."""
        known = self._express.find(self.peer, self._unread)
        if known is None:
            self._head, self._stays_idle_until = self._unread, 0.0
            return False
        self._unread = b""
        response, closes = known.response
        self._send(response, closes=closes)
        return True

    def _let_tornado_read(self) -> None:
        self._leave_watch()
        if self._serve is None:
            self._add_io_state(READ)
            super()._handle_events(self.fileno(), READ)
            return
        serve, self._serve = self._serve, None
        serve()

    def _return_to_watch(self) -> None:
        """Wait for the next request where that costs less. Tornado does not notice it."""
        self.io_loop.remove_handler(self.fileno())
        self._state = None  # Tornado registers the socket again then
        self._enter_watch()

    def _enter_watch(self) -> None:
        self._watch.add(self)
        self._is_watched = True

    def _leave_watch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._watch.remove(self)

    def _send(self, response: bytes, *, closes: bool) -> None:
        try:
            sent = self.socket.send(response)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(response):
            self._send_rest(memoryview(response)[sent:], closes=closes)
        elif closes:
            self.close()
        elif self.phase is not Phase.IDLE or self._express.elapsed > self._stays_idle_until:
            self._stays_idle_until = self._express.elapsed + IDLE_STEP_SECONDS
            self._connections.move(self, Phase.IDLE, self._stays_idle_until)

    def _send_rest(self, rest: memoryview, *, closes: bool) -> None:
        """Send the rest to a client that does not read as fast. ``_handle_events`` reads nothing
        meanwhile."""
        self.enter(Phase.WRITE)
        self._leave_watch()
        written = super().write(rest)
        written.add_done_callback(partial(self._rest_sent, closes=closes))

    def _rest_sent(self, written: Future[None], *, closes: bool) -> None:
        if written.exception() is not None:
            return  # the connection is closed
        if closes or self._express.is_closed:
            self.close()
        elif self.phase is Phase.WRITE:
            self.enter(Phase.IDLE)
            # If the socket took the rest at once, no event has let the event loop watch it again.
            self._add_io_state(READ)
