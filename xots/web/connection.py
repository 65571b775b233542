"""One connection: its phase, and the way it ends."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter, OrderedDict
from enum import IntEnum, auto
from typing import Any

from tornado.concurrent import Future
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream, UnsatisfiableReadError

from ..access import Peer, Transport
from ..clock import Clock
from .express import Body, Repeatable
from .refusals import BAD_REQUEST, HEAD_TOO_LARGE, MAX_BODY_BYTES, MAX_HEAD_BYTES, Refusal

__all__ = ["MAX_LINGERING", "TLS", "Connection", "Connections", "Phase", "stream_of"]

TORNADO_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""Tornado's response to a malformed request: ``HTTP1Connection`` writes it, then closes."""

TLS_HANDSHAKE = 0x16
"""The first byte that a TLS client sends (RFC 8446 section 5.1). No HTTP method begins with it."""

TLS = "TLS on the plain port"
"""The reason of a close, beside the refusals and the phases."""

MAX_LINGERING = 30
"""Upper bound on the refused connections that linger. The oldest one is closed for a further
one."""

MAX_DISCARDED_BYTES = 8 << 20
"""Upper bound on the bytes that a refused connection may still send. Clients such as
``requests`` read the response only after they have sent their whole body."""


CHUNK_BYTES = 4096
"""The bytes that are read at once: more than most requests have, and than the express lane reads.
Each read makes such a buffer."""

MAX_DISCARDED_AT_ONCE = 64 << 10
"""Upper bound on the bytes that are discarded when a connection closes without a refusal."""


class Phase(IntEnum):
    """The phase of a connection, by the event that it waits for. The number has no meaning: a dict
    finds it faster than a plain member."""

    OPENED = auto()
    """The first byte."""
    HEAD = auto()
    """The rest of the request line and the headers."""
    BODY = auto()
    """The rest of the body."""
    HANDLING = auto()
    """The handler's response."""
    WRITE = auto()
    """The client, which has not taken the whole response yet."""
    IDLE = auto()
    """The first byte of a further request."""
    LINGER = auto()
    """The client's close, after a refusal. Bytes that arrive until then are discarded."""


class Connections:
    """The open connections by phase, in each the one that entered it first at the front.

    Args:
        clock: this host's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entered_at: dict[Phase, OrderedDict[Connection, float]] = {
            phase: OrderedDict() for phase in Phase
        }
        self.ended: Counter[str] = Counter()
        """The connections that this server ended, by reason, since the last report."""

    def __len__(self) -> int:
        return sum(map(len, self._entered_at.values()))

    def count(self, phase: Phase) -> int:
        """Return the number of connections in a phase."""
        return len(self._entered_at[phase])

    def move(
        self, connection: Connection, phase: Phase | None, elapsed: float | None = None
    ) -> None:
        """Let a connection enter a phase.

        Args:
            connection: the connection.
            phase: the phase; None if the connection is closed.
            elapsed: the time, by ``Clock.elapsed``; None: now.
        """
        if connection.phase is not None:
            del self._entered_at[connection.phase][connection]
        if phase is not None:
            at = self._clock.elapsed() if elapsed is None else elapsed
            self._entered_at[phase][connection] = at
        connection.phase = phase

    def first(self, *phases: Phase) -> Connection | None:
        """Return the connection that has been in its phase the longest, of those in ``phases``."""
        fronts = [next(iter(self._entered_at[phase].items()), None) for phase in phases]
        found = [(entered_at, one) for one, entered_at in filter(None, fronts)]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def longer_than(self, phase: Phase, seconds: float) -> Connection | None:
        """Return the first connection of a phase, if it entered it ``seconds`` ago or earlier."""
        first = self.first(phase)
        if first is None or self._entered_at[phase][first] + seconds > self._clock.elapsed():
            return None
        return first


class Connection(IOStream):
    """The stream of one connection. It keeps its own phase, and can end with a refusal.

    After a refusal, Tornado sees a closed stream, while the socket lingers: the client could lose
    the response to a reset otherwise, because a socket that is closed with unread data sends one.

    Args:
        accepted: the socket.
        connections: all connections, which it joins.
        peer: its other end.
    """

    phase: Phase | None = None
    """None once it is closed."""

    def __init__(self, accepted: socket.socket, connections: Connections, peer: Peer) -> None:
        super().__init__(
            accepted,
            max_buffer_size=2 * max(MAX_HEAD_BYTES, MAX_BODY_BYTES),
            read_chunk_size=CHUNK_BYTES,
        )
        self.peer = peer
        self._connections = connections
        self._refusal: Refusal | None = None
        self._lingering: socket.socket | None = None
        self._discarded_bytes = 0
        connections.move(self, Phase.OPENED)

    def enter(self, phase: Phase) -> None:
        """Enter a phase, unless the connection has ended."""
        if not self.closed():
            self._connections.move(self, phase)

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal in place of any response to a request, and close."""
        if not self.closed():
            self._refusal = refusal
            self.close()

    def end(self) -> None:
        """Close at once, in any phase."""
        if self._lingering is not None:
            self._stop_lingering(self._lingering)
        else:
            self.close()

    def offer(self, source: Repeatable, body: Body) -> bool:
        """Let the express lane remember the head of the request, and the response with this body,
        which is written next. Return False if it does not: see ``ExpressConnection``."""
        return False

    # ---------- called by Tornado

    def set_nodelay(self, value: bool) -> None:
        """Do nothing. The listening socket has it set for all connections; Tornado would set it
        twice for each request."""

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read, and notice the first byte of a request."""
        received = self.receive(buf)
        if received and self.phase in (Phase.OPENED, Phase.IDLE):
            is_first = self.phase is Phase.OPENED and self.peer.transport is not Transport.TLS
            if is_first and buf[0] == TLS_HANDSHAKE:
                self._connections.ended[TLS] += 1
                return 0  # as at the end of the stream: Tornado closes it
            self.enter(Phase.HEAD)
        return received

    def receive(self, buf: bytearray | memoryview) -> int | None:
        """Read from the socket: see ``IOStream.read_from_fd``."""
        return super().read_from_fd(buf)

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Write, and notice a client that does not read."""
        if data == TORNADO_BAD_REQUEST:
            self._refusal = self._refusal or BAD_REQUEST  # Tornado closes the stream next
            replaced: Future[None] = Future()
            replaced.set_result(None)
            return replaced
        written = super().write(data)
        if self.phase is Phase.HANDLING and self.writing():
            self.enter(Phase.WRITE)
        return written

    def close(self, exc_info: Any = False) -> None:
        """Close. A head that is too large is refused."""
        if isinstance(exc_info, UnsatisfiableReadError) and self._refusal is None:
            self._refusal = BAD_REQUEST if self.phase is Phase.BODY else HEAD_TOO_LARGE
        super().close(exc_info)

    def close_fd(self) -> None:
        """Close the socket, or let it linger after a refusal."""
        refusal = self._refusal
        # In the middle of another response, the client would read the refusal as a part of it.
        if refusal is None or self.writing() or not _send_last(self.socket, refusal.response()):
            self._connections.move(self, None)
            # Unread bytes would turn the close into a reset: the client could lose a response.
            with contextlib.suppress(OSError):
                self.socket.recv(MAX_DISCARDED_AT_ONCE)
            super().close_fd()
            return
        self._connections.ended[refusal.name] += 1
        self.begin_lingering()
        self._lingering, self.socket = self.socket, None  # type: ignore[assignment]
        self.io_loop.add_handler(self._lingering, self._discard, self.io_loop.READ)

    # ---------- after a refusal

    def begin_lingering(self) -> None:
        """Enter the last phase. The oldest connection in it makes room."""
        if self.phase is not Phase.LINGER:
            oldest = self._connections.first(Phase.LINGER)
            if oldest is not None and self._connections.count(Phase.LINGER) >= MAX_LINGERING:
                oldest.end()
            self._connections.move(self, Phase.LINGER)

    def _discard(self, lingering: socket.socket, events: int) -> None:
        """Read and forget, until the client closes or has sent too much."""
        try:
            received = len(lingering.recv(MAX_HEAD_BYTES))
        except BlockingIOError:
            return
        except OSError:
            received = 0
        self._discarded_bytes += received
        if received == 0 or self._discarded_bytes > MAX_DISCARDED_BYTES:
            self._stop_lingering(lingering)

    def _stop_lingering(self, lingering: socket.socket) -> None:
        self.io_loop.remove_handler(lingering)
        lingering.close()
        self._lingering = None
        self._connections.move(self, None)


def stream_of(request: HTTPServerRequest) -> Connection:
    """Return the connection on which a request has come."""
    connection: Any = request.connection  # an HTTP1Connection
    stream: Connection = connection.stream
    return stream


def _send_last(connected: socket.socket, data: bytes) -> bool:
    """Send a short response, and no more after it. Return False if the socket does not take it."""
    with contextlib.suppress(OSError):
        if connected.send(data) == len(data):
            connected.shutdown(socket.SHUT_WR)
            return True
    return False
