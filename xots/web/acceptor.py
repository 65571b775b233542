"""The accept loop: it hands sockets to Tornado, and bounds their number and their time.

A client that is slow, broken or greedy costs one connection for a limited time, and never the
service of the others.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import Application

from ..access import Peer, Transport
from ..clock import Clock
from ..peers import unix_peer
from .connection import TLS, Connection, Connections, Phase
from .express import Express
from .express_connection import ExpressConnection, Watch
from .refusals import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    HEAD_TOO_LARGE,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    TIMED_OUT,
    TOO_MANY_CONNECTIONS,
)
from .tls_connection import HANDSHAKE, PLAIN, TlsConnection

__all__ = ["Acceptor", "Limits"]

logger = logging.getLogger("xots.web")

MAX_ACCEPTED_PER_TURN = 16
"""Upper bound on the connections accepted before the event loop serves the open ones again. This
takes a few milliseconds."""

MAX_ENDED_PER_TURN = 64
"""The same for connections that a sweep ends."""

SWEEP_INTERVAL_SECONDS = 1.0
"""Interval between two looks at the limits."""

PAUSE_SECONDS = 1.0
"""Time without accepting after the system had no descriptor or memory for a connection. The
descriptor stays readable, so that without a pause the event loop would call without end."""

LINGER_SECONDS = 2.0
"""Time for a refused client to read the response and close."""

WAITING = (Phase.OPENED, Phase.HEAD, Phase.BODY)
"""The phases of connections that wait for a complete request."""

EVICTED = "evicted"
"""The reason of a close at the cap, beside those of ``connection`` and ``tls_connection``."""

REPORTS = {
    TLS: (logging.WARNING, "closed connections that spoke TLS: %d. Use http://, not https://"),
    PLAIN: (
        logging.WARNING,
        "closed connections that spoke plain HTTP: %d. Use https://, not http://",
    ),
    HANDSHAKE: (
        logging.INFO,
        "closed connections whose TLS handshake failed: %d. Some clients may not trust the "
        "certificate",
    ),
    EVICTED: (
        logging.WARNING,
        "closed waiting connections to accept others, at max_connections or the file limit: %d",
    ),
    TOO_MANY_CONNECTIONS.name: (
        logging.WARNING,
        "refused connections, because max_connections are open and have a request in progress: %d",
    ),
    TIMED_OUT.name: (logging.INFO, "closed connections whose request stayed incomplete: %d"),
    Phase.WRITE.name: (logging.INFO, "closed connections whose client did not read: %d"),
    BAD_REQUEST.name: (logging.INFO, "refused malformed requests: %d"),
    BODY_TOO_LARGE.name: (logging.INFO, "refused requests with a body that is too large: %d"),
    HEAD_TOO_LARGE.name: (logging.INFO, "refused requests with headers that are too large: %d"),
}
"""The log line for each reason of a close. Each is logged once a sweep at most, with a count, so
that no client can flood the log. A reason without a line is an ordinary end."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits on connections. All times are in seconds."""

    max_connections: int
    """Upper bound on open connections, apart from a few refused ones that linger."""
    head_timeout: float
    """From the opening or the first byte of a request to the end of its headers."""
    body_timeout: float
    """From the headers to the end of the body."""
    idle_timeout: float
    """From a response to the first byte of the next request."""
    write_timeout: float
    """From the first part of a response that the client does not take to the end of it."""


class Acceptor:
    """Accepts connections on listening sockets, and serves them by a Tornado application.

    Args:
        listening: the sockets, not blocking. The acceptor closes them.
        app: the application.
        limits: the limits on connections.
        uid_of: returns the id of the user at the other end of a TCP connection; None if that is
            not certain.
        tls: returns the context for a new TCP connection; None: TCP is plain.
        express: the express lane of plain connections; None: Tornado serves all requests.
        clock: this host's clock.
    """

    def __init__(
        self,
        listening: Sequence[socket.socket],
        app: Application,
        limits: Limits,
        *,
        uid_of: Callable[[socket.socket], int | None],
        tls: Callable[[], ssl.SSLContext] | None = None,
        express: Express | None = None,
        clock: Clock,
    ) -> None:
        self.connections = Connections(clock)
        """The open connections."""
        self.limits = limits
        """The limits on connections."""
        self._listening = list(listening)
        self._uid_of, self._tls = uid_of, tls
        self._watch = None if express is None else Watch(express)
        self._timeouts = {
            Phase.OPENED: limits.head_timeout,
            Phase.HEAD: limits.head_timeout,
            Phase.BODY: limits.body_timeout,
            Phase.WRITE: limits.write_timeout,
            Phase.IDLE: limits.idle_timeout,
            Phase.LINGER: LINGER_SECONDS,
        }
        # The delegate below bounds the body, because Tornado's own bound gives no reason.
        self._http = _HTTPServer(app, max_header_size=MAX_HEAD_BYTES, max_body_size=sys.maxsize)
        # The sweep bounds the time for a head. Tornado would start a timer for each request, and
        # end a connection that the lane serves an hour after the last request that Tornado served.
        self._http.conn_params.header_timeout = None
        self._io_loop = IOLoop.current()
        self._sweeping = PeriodicCallback(self.sweep, SWEEP_INTERVAL_SECONDS * 1000)
        self._resuming: asyncio.TimerHandle | None = None

    @property
    def is_stopping(self) -> bool:
        """True once ``stop`` was called."""
        return self._http.is_stopping

    def start(self) -> None:
        """Accept, and keep the limits, in the running event loop."""
        self._sweeping.start()
        if self._watch is not None:
            self._watch.start()
        self._resume()

    def stop(self) -> None:
        """Accept no more, and close the idle connections. The others close after the response to
        their present request."""
        self._http.is_stopping = True
        if self._watch is not None:
            self._watch.express.close()
        if self._resuming is None:
            self._ignore_listening()
        else:
            self._resuming.cancel()
        for listening in self._listening:
            listening.close()
        self._listening = []
        while (idle := self.connections.first(Phase.IDLE)) is not None:
            idle.end()

    async def close(self) -> None:
        """Close all connections, after ``stop``."""
        self._sweeping.stop()
        await self._http.close_all_connections()
        while (left := self.connections.first(*Phase)) is not None:
            left.end()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # ---------- accepting

    def _resume(self) -> None:
        self._resuming = None
        for listening in self._listening:
            self._io_loop.add_handler(listening, self._accept, IOLoop.READ)

    def _ignore_listening(self) -> None:
        for listening in self._listening:
            self._io_loop.remove_handler(listening)

    def _accept(self, listening: socket.socket, events: int) -> None:
        for number in range(MAX_ACCEPTED_PER_TURN):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EPROTO):
                    continue  # this client is gone; the next one may wait
                # Linux needs a descriptor even to find that no connection waits. If one does, the
                # event loop calls again.
                if number == 0:
                    self._pause(error)
                return
            self._admit(accepted, address)

    def _admit(self, accepted: socket.socket, address: tuple[str, int]) -> None:
        """Make room for a connection and serve it, or refuse it."""
        peer = self._peer(accepted, address)
        has_room = self._make_room()
        connection = self._connection(accepted, peer)
        if connection is None:
            return
        if not has_room:
            connection.refuse(TOO_MANY_CONNECTIONS)
        elif isinstance(connection, ExpressConnection):
            connection.begin(lambda: self._http.handle_stream(connection, address))
        else:
            self._http.handle_stream(connection, address)

    def _peer(self, accepted: socket.socket, address: tuple[str, int]) -> Peer:
        """Return the other end of a connection. It is looked up at once, while the client still
        has its socket: a later lookup may find none, or that of another program."""
        if accepted.family is socket.AF_UNIX:
            return Peer(transport=Transport.UNIX, uid=unix_peer(accepted))
        transport = Transport.TCP if self._tls is None else Transport.TLS
        return Peer(transport=transport, uid=self._uid_of(accepted), address=address[0])

    def _connection(self, accepted: socket.socket, peer: Peer) -> Connection | None:
        """Return the connection; None if the client is gone already."""
        if self._tls is not None and peer.transport is Transport.TLS:
            try:
                return TlsConnection(accepted, self.connections, peer, self._tls())
            except OSError:
                return None
        if self._watch is None:
            return Connection(accepted, self.connections, peer)
        return ExpressConnection(accepted, self.connections, peer, self._watch)

    def _make_room(self) -> bool:
        """Return False if there is no room for another connection, and none can be made."""
        open_now = len(self.connections) - self.connections.count(Phase.LINGER)
        return open_now < self.limits.max_connections or self._evict()

    def _evict(self) -> bool:
        """End the connection that is missed least. Return False if each has a request in progress.

        A connection without a complete request goes first: a flood consists of these, and the
        oldest of them is not a client that has just connected.
        """
        victim = (
            self.connections.first(*WAITING)
            or self.connections.first(Phase.IDLE)
            or self.connections.first(Phase.WRITE)
        )
        if victim is None:
            return False
        self.connections.ended[EVICTED] += 1
        victim.end()
        return True

    def _pause(self, error: OSError) -> None:
        """Accept nothing for a while: the system has no descriptor or no memory left."""
        if self._resuming is not None:
            return
        self._ignore_listening()
        self._evict()
        self._resuming = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._resume)
        logger.warning(
            "can't accept connections: %s; the next attempt is in a second. If this lasts, "
            "raise the limit on open files",
            error.strerror,
        )

    # ---------- the limits

    def sweep(self) -> None:
        """End the connections that are past a limit, and log what ended since the last sweep."""
        for _ in range(MAX_ENDED_PER_TURN):
            if not self._end_one():
                break
        else:
            self._io_loop.add_callback(self.sweep)
            return
        for reason, count in self.connections.ended.items():
            if reason in REPORTS:
                logger.log(*REPORTS[reason], count)
        self.connections.ended.clear()
        if self._watch is not None:
            self._watch.express.flush()

    def _end_one(self) -> bool:
        """End one connection that is past the limit of its phase. Return False if none is."""
        for phase, seconds in self._timeouts.items():
            connection = self.connections.longer_than(phase, seconds)
            if connection is None:
                continue
            if phase in (Phase.HEAD, Phase.BODY):
                connection.refuse(TIMED_OUT)
            else:
                self.connections.ended[phase.name] += 1
                connection.end()
            return True
        return False


class _HTTPServer(HTTPServer):
    """Tornado's server, which lets each connection know its phase."""

    is_stopping = False
    """True once no connection may have a further request."""

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        connection = request_conn.stream  # type: ignore[attr-defined]  # an HTTP1Connection
        if connection.phase is not Phase.OPENED:
            connection.enter(Phase.IDLE)
            if self.is_stopping:  # the client may have sent further requests already
                connection.end()
        return _Request(super().start_request(server_conn, request_conn), connection)


class _Request(HTTPMessageDelegate):
    """Passes one request on, and moves its connection from phase to phase."""

    def __init__(self, delegate: HTTPMessageDelegate, connection: Connection) -> None:
        self._delegate, self._connection = delegate, connection
        self._body_bytes = 0

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._connection.enter(Phase.BODY)
        try:
            passed_on = self._delegate.headers_received(start_line, headers)
        except ValueError as error:
            # Tornado converts the port in Host with int(), which refuses thousands of digits.
            raise HTTPInputError("Invalid header value") from error
        if _announces_too_much(headers.get("Content-Length", "")):
            self._connection.refuse(BODY_TOO_LARGE)
        return passed_on

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._body_bytes += len(chunk)
        if self._body_bytes > MAX_BODY_BYTES:
            self._connection.refuse(BODY_TOO_LARGE)
            return None
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        if self._connection.closed():
            # It was refused or evicted after its last byte had arrived, or the client that sent
            # several requests at once is gone. Nothing may be done then.
            self._delegate.on_connection_close()
            return
        self._connection.enter(Phase.HANDLING)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


def _announces_too_much(content_length: str) -> bool:
    """True if a Content-Length is above the bound. Tornado refuses one that is no number."""
    digits = content_length.lstrip("0")
    is_number = digits.isascii() and digits.isdecimal()
    return is_number and (len(digits) > 18 or int(digits) > MAX_BODY_BYTES)
