"""A connection with TLS: the same phases and refusals, after a handshake."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from typing import Any

from tornado.concurrent import Future
from tornado.iostream import SSLIOStream

from ..access import Peer
from .connection import Connection, Connections
from .refusals import Refusal

__all__ = ["HANDSHAKE", "PLAIN", "TlsConnection"]

PLAIN = "plain HTTP on the TLS port"

HANDSHAKE = "the TLS handshake failed"
"""The reasons of a close, beside the refusals and the phases."""

HTTP_REQUEST = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")
"""OpenSSL's words for a client that speaks plain HTTP."""


class HandshakeFailed(ConnectionResetError):
    """A client does not complete its handshake. Tornado closes its connection without a line.

    Args:
        reason: the reason of the close.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ECONNRESET, reason)
        self.reason = reason


class _TlsSocket(ssl.SSLSocket):
    """The server's end of a connection with TLS."""

    def do_handshake(self, block: bool = False) -> None:
        """Go on with the handshake.

        Raises:
            HandshakeFailed: the client sent something else, or does not like the certificate.
            OSError: it is gone, or it is its turn.
        """
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ConnectionError):
            raise
        except ssl.SSLError as error:
            raise HandshakeFailed(PLAIN if error.reason in HTTP_REQUEST else HANDSHAKE) from None
        except OSError:
            raise HandshakeFailed(HANDSHAKE) from None

    def shutdown(self, how: int) -> None:
        """Send no more, and say so. From then on, data is received as it arrives, encrypted."""
        self._send_close_notify()
        super().shutdown(how)

    def close(self) -> None:
        """Close, and say so."""
        self._send_close_notify()
        super().close()

    def _send_close_notify(self) -> None:
        """Send the alert without which a client may think that data is lost (RFC 8446 section
        6.1)."""
        with contextlib.suppress(OSError, ValueError):  # it does not wait for the client's alert
            self.unwrap()


class TlsConnection(Connection, SSLIOStream):
    """A connection with TLS. The phase OPENED lasts from before the handshake to the first byte of
    the first request.

    Args:
        accepted: the socket, which it replaces.
        connections: all connections, which it joins.
        peer: its other end.
        context: the certificate and its key.

    Raises:
        OSError: the client is gone.
    """

    def __init__(
        self,
        accepted: socket.socket,
        connections: Connections,
        peer: Peer,
        context: ssl.SSLContext,
    ) -> None:
        context.sslsocket_class = _TlsSocket
        wrapped = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        super().__init__(wrapped, connections, peer)

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal and close, after the handshake: before, no client can read it."""
        if self.closed() or self.socket.version() is not None:
            super().refuse(refusal)
            return

        def refuse(handshake: Future[SSLIOStream]) -> None:
            if handshake.exception() is None:
                self.refuse(refusal)

        self.begin_lingering()
        self.io_loop.add_future(self.wait_for_handshake(), refuse)

    def close(self, exc_info: Any = False) -> None:
        """Close. A handshake that has failed is counted."""
        if isinstance(exc_info, HandshakeFailed):
            self._connections.ended[exc_info.reason] += 1
        super().close(exc_info)

    def _is_connreset(self, exc: BaseException) -> bool:
        """True for a broken record too: Tornado then closes without a line, as after a reset."""
        return isinstance(exc, ssl.SSLError) or super()._is_connreset(exc)
