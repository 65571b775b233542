"""Wiring: sockets, the keeper, the tick and the web application, from start to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer

from .backends import open_store
from .clock import Clock, SystemClock
from .errors import SettingsError, XotsError
from .events import Event, Observer
from .keeping.keeper import TokenKeeper
from .keeping.replica import reseal_all
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .rotation import Rotation
from .sealing import Sealer
from .settings import Settings, is_loopback
from .web.app import make_app
from .web.guard import allowed_hosts
from .web.handler import InFlight, WebConfig
from .xero.http import XeroClient

__all__ = [
    "CannotStart",
    "Server",
    "end_login",
    "log_event",
    "mismatches",
    "open_keeper",
    "reseal",
    "serve",
    "shown_store",
    "stop_signal",
    "xero_client",
]

logger = logging.getLogger("xots")

LONGEST_REQUEST = 64 << 10
"""In bytes: the largest thing that anybody has to send is the form with the credentials."""


FREE_PORT_TRIES = 20
"""With port 0, the port that is free on 127.0.0.1 may be taken on ::1; one of so many is free on both."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class CannotStart(XotsError):
    """The server can't start; the message says why and what to do."""


def log_event(event: Event) -> None:
    """The observer that writes events to the log."""
    logger.log(event.level, "%s: %s", event.account, event)


def xero_client(settings: Settings, clock: Clock = SystemClock()) -> XeroClient:
    """The client that the settings describe.

    Raises:
        SettingsError: a proxy is wanted, and what it needs is not installed.
    """
    ca_file = str(settings.ca_file) if settings.ca_file else None
    return XeroClient(settings.endpoints, clock=clock, ca_file=ca_file, proxy=settings.proxy)


@asynccontextmanager
async def open_keeper(
    settings: Settings,
    *,
    clock: Clock = SystemClock(),
    observers: Sequence[Observer] = (),
    to_end: bool = False,
) -> AsyncIterator[tuple[TokenKeeper, Sealer]]:
    """Open the keeper that the settings describe, and close it with all that it uses at the end.

    Args:
        settings: the settings.
        clock: this host's clock.
        observers: receive every event, besides the log.
        to_end: open it although the settings name other scopes than the record, to end its login.

    Yields:
        The keeper, its record read, and the sealer that it seals with.

    Raises:
        SettingsError: the settings describe another login than the record, or need a library that is
            not installed.
        StoreError: the store cannot be opened or read, or, at the end, did not take a change.
        SealError: there is no key, or it does not open the record; nothing is overwritten.
    """
    async with AsyncExitStack() as opened:
        store = open_store(store_url(settings))
        opened.push_async_callback(store.close)
        xero = xero_client(settings, clock)
        opened.callback(xero.close)
        sealer = await sealer_for(store, settings)
        keeper = TokenKeeper(
            store,
            xero,
            sealer,
            policy=settings.policy,
            name=settings.account,
            configured=settings.credentials,
            observers=[log_event, *observers],
            clock=clock,
        )
        for warning in await store.warnings():
            logger.warning("%s", warning)
        await keeper.start()
        opened.push_async_callback(keeper.close)
        if problems := mismatches(settings, keeper.account, to_end=to_end):
            raise SettingsError(problems)
        yield keeper, sealer


async def end_login(settings: Settings, *, forget: bool) -> bool:
    """End the login on the store itself, where no server runs. Return True once Xero has revoked it.

    Raises:
        XotsError: there is no login to end, or one of the errors of ``open_keeper``.
    """
    async with open_keeper(settings, to_end=True) as (keeper, _):
        if keeper.account.client_id is None:
            where = shown_store(settings)
            raise XotsError(f"no server runs, and the store holds no login: {where}")
        return await keeper.end(forget=forget)


async def reseal(
    settings: Settings, promote: Callable[[], object] = lambda: None
) -> tuple[int, int]:
    """Seal every record of the store with the first key: how many were sealed anew, and how many there are.

    ``promote`` changes which key is the first, once the store was seen to work.

    Raises:
        StoreError, SealError: it could not be finished; what was done stands, and it may be run again.
    """
    store = open_store(store_url(settings))
    try:
        await store.check()
        promote()
        return await reseal_all(store, await sealer_for(store, settings))
    finally:
        await store.close()


def shown_store(settings: Settings) -> str:
    """The store's URL without what may be secret in it."""
    parts = urlsplit(store_url(settings))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}:{f'//{host}' if host or parts.path.startswith('/') else ''}{parts.path}"


def mismatches(settings: Settings, account: Account, *, to_end: bool = False) -> list[str]:
    """Where the settings speak of another login than the one that is kept: so one wrong setting can't burn it, nor
    send its tokens to another server.

    Scopes count only where they were set explicitly (the document that xots was asked for with: to limit or expand
    scopes, the token has to be revoked first), and not for ``to_end``.
    """
    if account.consent_id is None and account.revocation is None:
        return []
    problems = []
    another = (
        "set that again, end that login with xots logout, or keep the two apart with --account"
    )
    if settings.client_id not in (None, account.client_id):
        where = settings.sources["client_id"]
        problems.append(
            f"{where}: the stored login is of another client, {account.client_id}; {another}"
        )
    if settings.token_url != account.token_url:
        where = settings.sources.get("token_url", "token_url (the default)")
        problems.append(
            f"{where}: the stored login is of another identity server, {account.token_url}; {another}"
        )
    if account.consent_id is None or to_end:
        return problems
    wanted = set(settings.scopes)
    if "scopes" in settings.sources and wanted not in (
        set(account.scopes_requested),
        set(account.scopes_configured),
    ):
        kept = set(account.scopes_requested)
        changes = [f"added: {' '.join(sorted(wanted - kept))}"] if wanted - kept else []
        changes += [f"removed: {' '.join(sorted(kept - wanted))}"] if kept - wanted else []
        problems.append(
            f"{settings.sources['scopes']}: these scopes are not those of the stored login ({'; '.join(changes)}); "
            "to change them, end that login with xots revoke, start again, and log in"
        )
    return problems


class Server:
    """One running server.

    Args:
        settings: what it is told.
        clock: this host's.
        observers: what is told of every event, besides the log.
    """

    keeper: TokenKeeper
    """What it serves from, once it is started."""
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
        self._http: HTTPServer | None = None
        self._opened = AsyncExitStack()
        self._in_flight = InFlight()

    @property
    def url(self) -> str:
        """Where programs reach it."""
        host = self.settings.address
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def redirect_uri(self) -> str:
        """The redirect URI to register at Xero; without one set it follows the port that is really used."""
        return self.settings.redirect or f"http://localhost:{self.port}/code"

    async def start(self) -> None:
        """Listen, read the record, and begin to tick.

        Raises:
            CannotStart: the address can't be listened on.
            And what ``open_keeper`` raises.
        """
        sockets = listen(self.settings.address, self.settings.port)
        self.port = sockets[0].getsockname()[1]
        try:
            opening = open_keeper(self.settings, clock=self._clock, observers=self._observers)
            self.keeper, sealer = await self._opened.enter_async_context(opening)
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
        self.rotation = Rotation(self.keeper)
        config = WebConfig(
            redirect_uri=self.redirect_uri,
            authorize_url=self.settings.authorize_url,
            token_url=self.settings.token_url,
            scopes=self.settings.scopes,
            tenant_id=self.settings.tenant_id,
            pkce=self.settings.pkce,
            has_tenants=bool(self.settings.connections_url),
            refresh_lifetime=self.settings.policy.refresh_lifetime,
            hosts=allowed_hosts(self.settings.address, [self.port], self.redirect_uri)
            | frozenset(self.settings.allowed_hosts),
        )
        app = make_app(self.keeper, sealer, config, self._in_flight)
        self._http = HTTPServer(
            app, max_body_size=LONGEST_REQUEST, max_buffer_size=LONGEST_REQUEST * 2
        )
        self._http.add_sockets(sockets)
        self.rotation.start()

    async def stop(self) -> None:
        """Take no more requests, conclude and keep what was begun, answer who still waits, and close.

        Raises:
            StoreUnavailable: a token that only this process knows could not be written.
        """
        if self._http is None:
            return
        self.rotation.stop()
        self._http.stop()
        try:
            await self._opened.aclose()
        finally:
            # Whoever waited for the token that was just kept gets it before the connections close.
            await self._in_flight.none(within_seconds=2)
            await self._http.close_all_connections()


def listen(address: str, port: int) -> list[socket.socket]:
    """The sockets to serve on. ``127.0.0.1`` and ``localhost`` take ``::1`` too, where the machine has it.

    A browser sends the redirect to ``localhost``, which may mean ``::1``: if somebody else listened there, he would
    get the code.

    Raises:
        CannotStart: an address can't be listened on.
    """
    addresses = ["127.0.0.1", "::1"] if address in LOOPBACK else [address]
    for tries_left in reversed(range(FREE_PORT_TRIES if port == 0 else 1)):
        sockets: list[socket.socket] = []
        for one in addresses:
            wanted = sockets[0].getsockname()[1] if sockets else port
            family = socket.AF_INET6 if ip_address(one).version == 6 else socket.AF_INET
            try:
                sockets.append(socket.create_server((one, wanted), family=family, backlog=128))
            except OSError as error:
                if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6: nobody else can listen there either
                for opened in sockets:
                    opened.close()
                if not tries_left:
                    raise CannotStart(_why_not(one, wanted, error)) from None
                break
        else:
            for listening in sockets:
                listening.setblocking(False)
            return sockets
    raise AssertionError("the last try returns or raises")


def _why_not(address: str, port: int, error: OSError) -> str:
    where = f"{address} port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"another program listens on {where} already; stop it, or choose another port with --port"
    if error.errno == errno.EACCES:
        return f"there is no permission to listen on {where}; ports below 1024 need it, choose another with --port"
    return f"can't listen on {where}: {error.strerror}; choose another address with --address"


def stop_signal() -> asyncio.Event:
    """An event that is set by the first SIGINT or SIGTERM. Further ones change nothing: a refresh is concluded."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def serve(settings: Settings) -> None:
    """Run a server until SIGINT or SIGTERM."""
    stop = stop_signal()
    server = Server(settings)
    await server.start()
    if not is_loopback(settings.address):
        logger.warning(
            "listening on %s: every machine that reaches it can ask for the token. Listen on loopback unless a "
            "firewall keeps strangers away",
            settings.address,
        )
    logger.info(
        "serving on %s; the redirect URI to register at Xero is %s", server.url, server.redirect_uri
    )
    try:
        await stop.wait()
        logger.info("stopping")
    finally:
        await server.stop()
    logger.info("stopped")
