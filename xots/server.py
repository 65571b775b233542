"""One server, from start to stop: its sockets, keeper, tick and web application."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress

from .accounts.accounts import Accounts
from .clock import Clock, SystemClock
from .events import Observer
from .keeping.keeper import TokenKeeper
from .lifecycle.policy import Grant
from .listening import listen
from .rotation import Rotation
from .settings import Settings, is_loopback
from .web.acceptor import Acceptor, Limits
from .web.app import make_app
from .web.guard import allowed_hosts
from .web.in_flight import InFlight
from .web.responses import WebConfig
from .wiring import open_accounts

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
    ) -> None:
        self.settings = settings
        self.port = settings.port
        self._clock = clock
        self._observers = observers
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
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def redirect_uri(self) -> str:
        """The redirect URI to register at Xero. Unless it is set, it has the port listened on."""
        return self.settings.redirect or f"http://localhost:{self.port}/code"

    async def start(self) -> None:
        """Listen, read the record, and start to tick.

        Raises:
            CannotStart: the address can't be listened on.
            SettingsError, StoreError, SealError: as for ``open_accounts``.
        """
        with ExitStack() as undo:
            sockets = listen(self.settings.address, self.settings.port)
            for listening in sockets:
                undo.callback(listening.close)
            self.port = sockets[0].getsockname()[1]
            opening = open_accounts(self.settings, clock=self._clock, observers=self._observers)
            self.accounts, sealer = await self._opened.enter_async_context(opening)
            undo.pop_all()
        self.rotation = Rotation(self.accounts)
        limits = self._limits()
        config = self._web_config(max_waiting=limits.max_connections // 2)
        app = make_app(self.accounts, sealer, config, self._in_flight)
        self._acceptor = Acceptor(sockets, app, limits, clock=self._clock)
        self._acceptor.start()
        self.rotation.start()

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

    def _web_config(self, *, max_waiting: int) -> WebConfig:
        settings, redirect_uri = self.settings, self.redirect_uri
        own_hosts = allowed_hosts(settings.address, [self.port], redirect_uri)
        return WebConfig(
            redirect_uri=redirect_uri,
            max_waiting=max_waiting,
            hosts=own_hosts | frozenset(settings.allowed_hosts),
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


async def serve(settings: Settings) -> None:
    """Run a server until SIGINT or SIGTERM.

    Raises:
        CannotStart, SettingsError, StoreError, SealError: as for ``Server.start`` and ``stop``.
    """
    raise_descriptor_limit()
    stop = stop_signal()
    for warning in settings.warnings:
        logger.warning("%s", warning)
    server = Server(settings)
    await server.start()
    if not is_loopback(settings.address):
        logger.warning(
            "listening on %s: every machine that can connect to it can request the token. Listen "
            "on 127.0.0.1, or let a firewall keep other machines away",
            settings.address,
        )
    logger.info("serving on %s%s", server.url, _redirect_text(settings, server.redirect_uri))
    try:
        await stop.wait()
        logger.info("stopping")
    finally:
        await server.stop()
    logger.info("stopped")
