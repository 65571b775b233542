"""A small HTTP server in the place of xots, which records the requests of commands."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "StandIn", "serving"]

UNKNOWN = {"type": "urn:xots:unknown-account", "title": "No such account", "detail": "no such one"}


class StandIn(ThreadingHTTPServer):
    """A server that gives a fixed response to each method and path.

    Args:
        place: a host and a port, or the path of a Unix socket.
        tls: makes the server speak TLS.
    """

    daemon_threads = True

    def __init__(
        self, place: tuple[str, int] | Path = ("127.0.0.1", 0), tls: ssl.SSLContext | None = None
    ) -> None:
        self.responses: dict[str, tuple[int, object]] = {}
        self.requests: list[tuple[str, Any]] = []
        """The method and path of each request, with its body."""
        self.keys: list[str | None] = []
        """The Authorization header of each."""
        self._tls = tls
        if isinstance(place, Path):
            self.address_family = socket.AF_UNIX
        super().__init__(str(place) if isinstance(place, Path) else place, _Handler)  # type: ignore[arg-type]

    @property
    def port(self) -> str:
        return str(self.server_address[1])

    def server_bind(self) -> None:
        """Bind the socket. The base looks up a host name, which a Unix socket has not."""
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. A handshake that fails ends it."""
        accepted, address = super().get_request()
        return self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an unexpected exception. A client may reset its connection at any time."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        """Respond as the test says."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path}"
        self.server.requests.append((request, json.loads(body) if body else None))
        self.server.keys.append(self.headers.get("Authorization"))
        status, content = self.server.responses.get(request, (404, UNKNOWN))
        self.send_response(status)
        if status == 303:
            self.send_header("Location", str(content))
        sent = json.dumps(content).encode()
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_POST = do_GET  # noqa: N815 - the name of the base

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base
        """Write no log."""


@contextmanager
def serving(server: StandIn) -> Iterator[StandIn]:
    """Run a server in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
