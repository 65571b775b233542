"""`Sandbox`: the simulated Xero with its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from ..faults import Endpoint, FaultScript, Rule
from ..identity.protocol import TokenResponse
from ..identity.provider import Identity
from ..log import LoggedRequest
from ..world import Clock, SandboxClock, SandboxOptions, World, real_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tornado.httpserver import HTTPServer

__all__ = ["Sandbox"]

MAX_PORT_ATTEMPTS = 20
"""Attempts to find a port that is free on both loopbacks: a free one may be taken on the other."""

_HOSTS = {
    "": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",  # noqa: S104 - no socket is opened with it
    "localhost": "127.0.0.1",
    "::": "::1",
}
"""The host in the URLs, by the address to listen on, where they differ."""


class Sandbox:
    """A simulated Xero on a real socket. `start` imports Tornado.

    Args:
        options: the options; None is the defaults.
        clock: returns an aware UTC datetime. The sandbox's own clock is an offset from it.
    """

    def __init__(self, options: SandboxOptions | None = None, clock: Clock = real_time) -> None:
        self.options = options or SandboxOptions()
        self.world = World(self.options, clock)
        self._server: HTTPServer | None = None
        self._port: int | None = None

    # ---------- start and stop

    def start(self) -> None:
        """Listen, in the running event loop.

        Raises:
            OSError: the address is not available.
            RuntimeError: the sandbox is running already.
        """
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
        """Stop listening, reset the requests that wait, and close every connection."""
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

    # ---------- addresses

    @property
    def port(self) -> int:
        """The port that it listens on. Raises RuntimeError before `start`."""
        if self._port is None:
            raise RuntimeError("the sandbox has not been started")
        return self._port

    @property
    def url(self) -> str:
        """The base of all addresses, without a slash at the end. It is the tokens' issuer too."""
        host = _HOSTS.get(self.options.address, self.options.address)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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

    # ---------- for tests

    @property
    def clock(self) -> SandboxClock:
        return self.world.clock

    @property
    def identity(self) -> Identity:
        """The identity provider. Set its ``switches`` to change its behaviour."""
        return self.world.identity

    @property
    def faults(self) -> FaultScript:
        return self.world.faults

    @property
    def log(self) -> list[LoggedRequest]:
        """The requests so far, in the order of their responses."""
        return self.world.log

    def refreshes(self) -> list[LoggedRequest]:
        """Return the logged requests with a refresh token as grant, with any outcome."""
        return [request for request in self.log if request.endpoint is Endpoint.REFRESH]

    def requests(self, grant_type: str) -> list[LoggedRequest]:
        """Return the logged requests with this ``grant_type``, with any outcome."""
        return [request for request in self.log if request.grant_type == grant_type]

    def add_fault(self, rule: str | Rule) -> int:
        """Add a rule (`xots.sandbox.faults` has the grammar) and return its id.

        Raises:
            FaultSyntaxError: the text is not a valid rule.
        """
        return self.faults.add(rule)

    async def held(self, count: int = 1) -> None:
        """Wait until a fault holds at least ``count`` requests."""
        await self.world.holds.wait_for(count)

    def release(self, count: int | None = None) -> int:
        """Release the ``count`` oldest held requests, or all. Return the number released."""
        return self.world.holds.release(count)

    def log_in(
        self,
        scopes: Iterable[str] = ("offline_access", "accounting.transactions"),
        *,
        client_id: str | None = None,
        tenant_ids: Iterable[str] | None = None,
        user_id: str | None = None,
    ) -> TokenResponse:
        """Log a user in without a browser, and return the tokens.

        The defaults are the first client, all organisations and the first user.
        """
        return self.identity.log_in(
            self.options.clients[0].client_id if client_id is None else client_id,
            self.clock(),
            scopes=scopes,
            tenant_ids=self.world.accounting.organisations if tenant_ids is None else tenant_ids,
            user_id=user_id,
        )


def _listen(port: int, address: str) -> list[socket.socket]:
    """Bind one socket, or for this machine's own address one on each loopback."""
    if address not in ("127.0.0.1", "localhost"):
        return [_bound(port, address)]
    attempts = MAX_PORT_ATTEMPTS if port == 0 else 1
    for _ in range(attempts - 1):
        with contextlib.suppress(OSError):
            return _bound_to_loopbacks(port)
    return _bound_to_loopbacks(port)


def _bound_to_loopbacks(port: int) -> list[socket.socket]:
    """Bind the same port on 127.0.0.1 and, if the machine has it, on ::1. Raises OSError."""
    first = _bound(port, "127.0.0.1")
    try:
        return [first, _bound(first.getsockname()[1], "::1")]
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return [first]
        first.close()
        raise


def _bound(port: int, address: str) -> socket.socket:
    found = socket.getaddrinfo(
        address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    bound = socket.create_server(where[:2], family=family, backlog=128)
    bound.setblocking(False)
    return bound
