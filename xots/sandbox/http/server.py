"""The sandbox with its sockets: what a test or a command starts and stops."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from ..faults import Endpoint, FaultScript, Rule
from ..identity.protocol import TokenResponse
from ..identity.provider import Identity
from ..log import LoggedRequest
from ..world import Clock, SandboxClock, SandboxOptions, World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tornado.httpserver import HTTPServer

__all__ = ["Sandbox"]

# A free port on 127.0.0.1 may be taken on ::1; among so many tries one is free on both.
_PORT_TRIES = 20


class Sandbox:
    """A simulated Xero on a real socket.

    ``clock`` returns an aware UTC datetime (default: real time); the sandbox's own clock is an offset over it.
    Nothing is imported from Tornado until `start`.
    """

    def __init__(self, options: SandboxOptions | None = None, clock: Clock | None = None) -> None:
        self.options = options or SandboxOptions()
        self.world = World(self.options, clock)
        self._server: HTTPServer | None = None
        self._port: int | None = None

    # Life

    def start(self) -> None:
        """Listen, in the running event loop. Raises OSError if the address can't be had."""
        if self._server is not None:
            raise RuntimeError("the sandbox is running already")
        from tornado.httpserver import HTTPServer

        from .app import make_application

        sockets = _listen(self.options.port, self.options.address)
        self._port = sockets[0].getsockname()[1]
        self.world.identity.issuer = self.url
        self._server = HTTPServer(make_application(self.world))
        self._server.add_sockets(sockets)

    async def stop(self) -> None:
        """Stop listening, cut whatever still waits, and close every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        server.stop()
        self.world.holds.close()
        await asyncio.gather(*self.world.running, return_exceptions=True)
        await server.close_all_connections()

    async def __aenter__(self) -> Sandbox:
        self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    # Addresses

    @property
    def port(self) -> int:
        """The port that it listens on. Raises RuntimeError before `start`."""
        if self._port is None:
            raise RuntimeError("the sandbox has not been started")
        return self._port

    @property
    def url(self) -> str:
        """The base of all addresses, without a slash at the end; the issuer of its tokens too."""
        address = self.options.address
        host = (
            "127.0.0.1"
            if address in ("", "0.0.0.0", "localhost")  # noqa: S104
            else "::1"
            if address == "::"
            else address
        )
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def authorize_url(self) -> str:
        return f"{self.url}/identity/connect/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.url}/connect/token"

    @property
    def revoke_url(self) -> str:
        return f"{self.url}/connect/revocation"

    @property
    def connections_url(self) -> str:
        return f"{self.url}/connections"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api.xro/2.0"

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/.well-known/openid-configuration/jwks"

    # What tests ask for and act on

    @property
    def clock(self) -> SandboxClock:
        return self.world.clock

    @property
    def identity(self) -> Identity:
        """The state machine. Set its ``switches`` to change how it behaves."""
        return self.world.identity

    @property
    def faults(self) -> FaultScript:
        return self.world.faults

    @property
    def log(self) -> list[LoggedRequest]:
        """The requests so far, in the order in which they were answered."""
        return self.world.log

    def refreshes(self) -> list[LoggedRequest]:
        """Return the log of the requests with a refresh token as grant, however they ended."""
        return [request for request in self.log if request.endpoint is Endpoint.REFRESH]

    def add_fault(self, rule: str | Rule) -> int:
        """Add a rule (see `xots.sandbox.faults` for its grammar) and return its id. Raises FaultSyntaxError."""
        return self.faults.add(rule)

    async def held(self, count: int = 1) -> None:
        """Wait until a fault holds at least so many requests."""
        await self.world.holds.until(count)

    def release(self, count: int | None = None) -> int:
        """Let the oldest so many held requests go on, or all; return how many."""
        return self.world.holds.release(count)

    def log_in(
        self,
        scopes: Iterable[str] = ("offline_access", "accounting.transactions"),
        *,
        client_id: str | None = None,
        tenant_ids: Iterable[str] | None = None,
        user_id: str | None = None,
    ) -> TokenResponse:
        """Log a user in without a browser and return the tokens. Defaults: the first client, all organisations."""
        return self.identity.log_in(
            self.options.clients[0].client_id if client_id is None else client_id,
            self.clock(),
            scopes=scopes,
            tenant_ids=self.world.books.organisations if tenant_ids is None else tenant_ids,
            user_id=user_id,
        )


def _listen(port: int, address: str) -> list[socket.socket]:
    """Bind one socket, or for this machine's own address one on each loopback, with the same port."""
    if address not in ("127.0.0.1", "localhost"):
        return [_bound(port, address)]
    for attempt in range(_PORT_TRIES):
        first = _bound(port, "127.0.0.1")
        try:
            return [first, _bound(first.getsockname()[1], "::1")]
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return [first]
            first.close()
            if port != 0 or attempt == _PORT_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _bound(port: int, address: str) -> socket.socket:
    found = socket.getaddrinfo(
        address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    bound = socket.create_server(where[:2], family=family, backlog=128)
    bound.setblocking(False)
    return bound
