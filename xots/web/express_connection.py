"""A connection at which the express lane reads first, and Tornado what the lane does not know."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from tornado.concurrent import Future

from ..access import Peer
from .connection import Connection, Connections, Phase
from .express import MAX_HEAD_BYTES, Express, Repeatable, sender_of

__all__ = ["ExpressConnection"]


class ExpressConnection(Connection):
    """A connection whose requests the express lane responds to, if it knows them.

    Tornado begins to serve it with the first request that the lane does not know. From then on it
    waits for the next request at each time at which the lane reads first.

    Args:
        accepted: the socket.
        connections: all connections, which it joins.
        peer: its other end.
        express: the lane.
    """

    def __init__(
        self,
        accepted: socket.socket,
        connections: Connections,
        peer: Peer,
        express: Express,
    ) -> None:
        super().__init__(accepted, connections, peer)
        self._express, self._sender = express, sender_of(peer)
        self._serve: Callable[[], None] | None = None
        """Lets Tornado serve the connection; None once it does."""
        self._unread = b""
        """Bytes that the lane has read for Tornado."""
        self._head: bytes | None = None
        """The bytes of the request that Tornado serves, if the lane has read them all."""
        self._offered: Repeatable | None = None

    def begin(self, serve: Callable[[], None]) -> None:
        """Wait for the first request.

        Args:
            serve: lets Tornado serve the connection.
        """
        self._serve = serve
        self._add_io_state(self.io_loop.READ)

    def offer(self, source: Repeatable) -> None:
        """Let the lane repeat the response that is written next."""
        self._offered = source

    # ---------- called by Tornado

    def _handle_events(self, fd: Any, events: int) -> None:
        """Let the lane read before Tornado does.

        Tornado has no public function for this. It calls this one for each event of the socket.
        """
        if events == self.io_loop.READ and self._is_between_requests and self._read_first():
            return
        if self._serve is None:
            super()._handle_events(fd, events)
            return
        serve, self._serve = self._serve, None
        serve()

    def receive(self, buf: bytearray | memoryview) -> int | None:
        """Return the bytes that the lane has read, or those of the socket."""
        if not self._unread:
            self._head = None
            return super().receive(buf)
        received, self._unread = self._unread, b""
        buf[: len(received)] = received
        return len(received)

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Write, and let the lane learn a response that was offered."""
        written = super().write(data)
        if self._offered is not None:
            source, self._offered = self._offered, None
            if self._head is not None:
                self._express.learn(self._sender, self._head, bytes(data), source)
        return written

    # ---------- the lane

    @property
    def _is_between_requests(self) -> bool:
        """True if the next byte is the first one of a request, and no other one waits for it."""
        is_waiting = self.phase is Phase.IDLE or self.phase is Phase.OPENED
        return is_waiting and not self._read_buffer_size

    def _read_first(self) -> bool:
        """Read, and respond. Return False if Tornado has to."""
        try:
            received = self.socket.recv(MAX_HEAD_BYTES + 1)
        except BlockingIOError:
            return True
        except OSError:
            received = b""
        if not received:
            self.close()
            return True
        known = self._express.find(self._sender, received)
        if known is None:
            self._unread = self._head = received
            return False
        self._send(known.response, closes=known.closes)
        return True

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
        else:
            self.enter(Phase.IDLE)

    def _send_rest(self, rest: memoryview, *, closes: bool) -> None:
        """Send the rest to a client that does not read as fast, and read nothing meanwhile."""
        self.enter(Phase.WRITE)
        written = super().write(rest)
        if self.writing():
            self.io_loop.update_handler(self.fileno(), self.io_loop.WRITE)
        written.add_done_callback(partial(self._rest_sent, closes=closes))

    def _rest_sent(self, written: Future[None], *, closes: bool) -> None:
        if written.exception() is not None:
            return  # the connection is closed
        if closes:
            self.close()
        elif self.phase is Phase.WRITE:
            self.enter(Phase.IDLE)
