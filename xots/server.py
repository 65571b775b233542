"""One server, from start to stop: its sockets, keeper, tick and web application."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING

from .access_files import LiveRules
from .accounts.accounts import Accounts
from .clock import Clock, SystemClock
from .events import Observer
from .keeping.keeper import TokenKeeper
from .lifecycle.policy import Grant
from .listening import CannotStart, UnixListener, listen
from .peers import PeerLookup
from .reread import Reread
from .rotation import Rotation
from .settings import Settings, is_loopback
from .settings.parsing import ANYONE, NO_ADDRESS
from .web.acceptor import Acceptor, Limits
from .web.app import make_app
from .web.express import Express
from .web.guard import allowed_hosts
from .web.in_flight import InFlight
from .web.responses import WebConfig
from .wiring import open_accounts

if TYPE_CHECKING:
    from .tls import LiveTls

__all__ = [
    "Server",
    "raise_descriptor_limit",
    "serve",
    "stop_signal",
]

logger = logging.getLogger("xots")

MAX_DESCRIPTORS = 65536
"""The descriptors that a server raises its limit to. Some systems permit a billion, and some
libraries loop over all."""

RESERVED_DESCRIPTORS = 100
"""The descriptors that connections leave to the store, to requests to Xero and to files."""

DRAIN_TIMEOUT_SECONDS = 2.0
"""Time that open requests have, once the keeper is closed, to send their responses."""


class Server:
    """One running server.

    Args:
        settings: the settings.
        clock: this host's clock.
        observers: receive every event, as the log does.
        users: reads ``allowed_users`` again; None if no file gives it.
    """

    accounts: Accounts
    """The accounts that it serves, set by ``start``."""
    rotation: Rotation

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = SystemClock(),
        observers: Sequence[Observer] = (),
        users: Reread[tuple[int, ...]] | None = None,
    ) -> None:
        self.settings = settings
        self.port = settings.port
        self._clock = clock
        self._observers = observers
        self._users = users
        self._acceptor: Acceptor | None = None
        self._opened = AsyncExitStack()
        self._in_flight = InFlight()

    @property
    def keeper(self) -> TokenKeeper:
        """The keeper of the default account."""
        return self.accounts.default

    @property
    def url(self) -> str:
        """The URL at which programs reach it."""
        host = self.settings.address
        if host == NO_ADDRESS:
            return f"unix:{self.settings.unix_socket}"
        return f"{self.settings.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def urls(self) -> list[str]:
        """The URLs of all ways to it."""
        path = self.settings.unix_socket
        return list(dict.fromkeys([self.url, *([] if path is None else [f"unix:{path}"])]))

    @property
    def redirect_uri(self) -> str:
        """The redirect URI to register at Xero. Unless it is set, it has the port listened on."""
        return self.settings.redirect or f"{self.settings.scheme}://localhost:{self.port}/code"

    async def start(self) -> None:
        """Listen, read the record, and start to tick.

        Raises:
            CannotStart: the address can't be listened on.
            SettingsError, StoreError, SealError: as for ``open_accounts``.
        """
        with ExitStack() as undo:
            rules, tls = LiveRules(self.settings, self._users), self._tls()
            sockets = self._listen(undo)
            uid_of = self._uid_of(undo)
            opening = open_accounts(self.settings, clock=self._clock, observers=self._observers)
            self.accounts, sealer = await self._opened.enter_async_context(opening)
            self._opened.push(undo.pop_all())
        self.rotation = Rotation(self.accounts)
        limits = self._limits()
        express = self._express(rules)
        config = self._web_config(rules, express, max_waiting=limits.max_connections // 2)
        app = make_app(self.accounts, sealer, config, self._in_flight)
        self._acceptor = Acceptor(
            sockets, app, limits, uid_of=uid_of, tls=tls, express=express, clock=self._clock
        )
        self._acceptor.start()
        self.rotation.start()

    def _listen(self, undo: ExitStack) -> list[socket.socket]:
        """Return the sockets to serve on, each closed by ``undo``.

        Raises:
            CannotStart: an address or a path can't be listened on.
        """
        settings, sockets = self.settings, []
        if settings.address != NO_ADDRESS:
            sockets = listen(settings.address, settings.port)
            for listening in sockets:
                undo.callback(listening.close)
            self.port = sockets[0].getsockname()[1]
        if settings.unix_socket is not None:
            unix = UnixListener(settings.unix_socket, settings.unix_socket_group)
            undo.callback(unix.socket.close)
            undo.callback(unix.remove)
            sockets.append(unix.socket)
        return sockets

    def _tls(self) -> LiveTls | None:
        """Return the TLS of the TCP sockets; None if they are plain.

        Raises:
            SettingsError: the certificate or its key can't be used.
        """
        settings = self.settings
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        from .tls import LiveTls  # here, since a start without TLS needs none

        return LiveTls(settings.tls_certificate, settings.tls_key, settings.sources)

    def _uid_of(self, undo: ExitStack) -> Callable[[socket.socket], int | None]:
        """Return the function that looks up the user of a TCP connection.

        Raises:
            CannotStart: the settings need it, and this system has no such function.
        """
        try:
            lookup = PeerLookup()
        except (OSError, AttributeError):
            if self.settings.allowed_users and self.settings.address != NO_ADDRESS:
                raise CannotStart(
                    "allowed_users needs Linux's socket diagnostics for TCP, and they are not "
                    "available; permit AF_NETLINK in the unit, or set unix_socket and address: none"
                ) from None
            return lambda _: None
        undo.callback(lookup.close)
        return lookup.uid

    def _limits(self) -> Limits:
        settings = self.settings
        possible = max_connections_possible()
        if settings.max_connections > possible and "max_connections" in settings.sources:
            logger.warning(
                "max_connections is %d, but the limit on open files permits only %d connections; "
                "raise that limit, or lower the setting",
                settings.max_connections,
                possible,
            )
        return Limits(
            max_connections=min(settings.max_connections, possible),
            head_timeout=settings.head_timeout,
            body_timeout=settings.body_timeout,
            idle_timeout=settings.idle_timeout,
            write_timeout=settings.write_timeout,
        )

    def _express(self, rules: LiveRules) -> Express | None:
        if not self.settings.express_lane:
            return None
        return Express(rules, self._clock)

    def _web_config(
        self, rules: LiveRules, express: Express | None, *, max_waiting: int
    ) -> WebConfig:
        settings, redirect_uri = self.settings, self.redirect_uri
        address = "localhost" if settings.address == NO_ADDRESS else settings.address
        return WebConfig(
            redirect_uri=redirect_uri,
            max_waiting=max_waiting,
            rules=rules,
            express=express,
            hosts=allowed_hosts(
                address, [self.port], redirect_uri, settings.scheme, settings.allowed_hosts
            ),
        )

    async def stop(self) -> None:
        """Accept no more requests, finish and store the operations in progress, send the open
        responses, and close.

        Raises:
            StoreUnavailable: the store did not take a token that only this process holds.
        """
        if self._acceptor is None:
            return
        self.rotation.stop()
        self._acceptor.stop()
        try:
            await self._opened.aclose()
        finally:
            # A caller that waited for the token just stored gets it before its connection closes.
            await self._in_flight.none(within_seconds=DRAIN_TIMEOUT_SECONDS)
            await self._acceptor.close()


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit on open descriptors to the hard one, up to a bound."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < raised:
        with suppress(OSError, ValueError):  # macOS permits fewer than its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def max_connections_possible() -> int:
    """Return the number of connections that the limit on open descriptors permits."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_DESCRIPTORS
    return max(limit - RESERVED_DESCRIPTORS, limit // 2)


def stop_signal() -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets.

    Further signals change nothing, so that a refresh in progress is finished.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _redirect_text(settings: Settings, redirect_uri: str) -> str:
    """Return the rest of the sentence that names the redirect URI to register; empty if no account
    of the settings needs a login."""
    accounts = [settings.for_account(name) for name in (settings.account, *settings.accounts)]
    logins = [own for own in accounts if own.policy.grant is Grant.AUTHORIZATION_CODE]
    if not logins:
        return ""
    where = " and ".join(dict.fromkeys(own.identity_server.name for own in logins))
    return f"; the redirect URI to register at {where} is {redirect_uri}"


async def serve(settings: Settings, users: Reread[tuple[int, ...]] | None = None) -> None:
    """Run a server until SIGINT or SIGTERM. The arguments are those of ``Server``.

    Raises:
        CannotStart, SettingsError, StoreError, SealError: as for ``Server.start`` and ``stop``.
    """
    raise_descriptor_limit()
    stop = stop_signal()
    for warning in settings.warnings:
        logger.warning("%s", warning)
    server = Server(settings, users=users)
    await server.start()
    # The modules stay for as long as the process. A full collection that visited all of their
    # objects would pause it for 5 ms.
    gc.freeze()
    if settings.readers == ANYONE:
        logger.warning(
            "readers is set to anyone: every program that can connect to %s can get the token of "
            "each account, end its login and add accounts. Give your programs keys (xots reader "
            "add), and set readers to their file",
            server.url,
        )
    if not is_loopback(settings.address) and settings.tls_certificate is None:
        logger.warning(
            "keys and tokens cross the network readable, since %s speaks no TLS; set "
            "tls_certificate and tls_key",
            server.url,
        )
    redirect = _redirect_text(settings, server.redirect_uri)
    logger.info("serving on %s%s", " and ".join(server.urls), redirect)
    try:
        await stop.wait()
        logger.info("stopping")
    finally:
        await server.stop()
    logger.info("stopped")
