"""A simulated Xero and its servers, by the real clock, in a thread beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Client, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings

__all__ = ["Loop", "ThreadServers", "sandbox_in_thread", "servers_in_thread", "started_server"]

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own."""

    def __enter__(self) -> Loop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine in the thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@dataclass
class ThreadServers:
    """The servers in the thread."""

    loop: Loop
    sandbox: Sandbox
    server: Server
    """Has credentials; tests log in to it."""
    logged_out: Server
    """Has credentials and no login."""
    bare: Server
    """Has no credentials."""

    def log_in(self, server: Server) -> None:
        async def log_in() -> None:
            person = Person()
            page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
            assert (await person.consent(page)).status == 200

        self.loop.run(log_in())


@contextmanager
def sandbox_in_thread() -> Iterator[tuple[Loop, Sandbox]]:
    """Run a simulated Xero on a free port; its client has no redirect URI yet."""

    async def start() -> Sandbox:
        sandbox = Sandbox(SandboxOptions(port=0, clients=(Client(redirect_uris=()),)))
        sandbox.start()
        return sandbox

    with Loop() as loop:
        sandbox = loop.run(start())
        yield loop, sandbox
        loop.run(sandbox.stop())


@contextmanager
def servers_in_thread() -> Iterator[ThreadServers]:
    """Run a simulated Xero and three servers that are registered there."""
    credentials = {"client_id": DEFAULT_CLIENT_ID, "client_secret": Secret(DEFAULT_CLIENT_SECRET)}
    with sandbox_in_thread() as (loop, sandbox):
        servers = [
            loop.run(started_server(sandbox, **settings))
            for settings in (credentials, credentials, {})
        ]
        yield ThreadServers(loop, sandbox, *servers)
        for server in servers:
            loop.run(server.stop())


async def started_server(sandbox: Sandbox, **settings: Any) -> Server:
    """Start a server that uses the sandbox, and register it there; the arguments are settings."""
    wired: dict[str, Any] = {
        "port": 0,
        "store": "memory:",
        "authorize_url": sandbox.authorize_url,
        "token_url": sandbox.token_url,
        "revoke_url": sandbox.revoke_url,
        "connections_url": sandbox.connections_url,
        "refresh_interval": 0,
    }
    server = Server(Settings(**(wired | settings)))
    await server.start()
    client = sandbox.identity.clients[DEFAULT_CLIENT_ID]
    redirect_uris = (*client.redirect_uris, server.redirect_uri)
    sandbox.identity.register(replace(client, redirect_uris=redirect_uris))
    return server
