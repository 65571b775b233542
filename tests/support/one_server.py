"""One server with a login, on a simulated Xero whose clock only the caller moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from support.readers import KeyHolder
from xots.reread import Reread
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Client, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings
from xots.testing import FakeClock

__all__ = ["OneServer", "one_server"]


@dataclass(frozen=True)
class OneServer:
    """A server with credentials in its settings, and its Xero."""

    server: Server
    sandbox: Sandbox
    clock: FakeClock

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def is_logged_in(self) -> bool:
        account = self.server.keeper.account
        return account.consent_id is not None and account.access is not None

    async def log_in(self, person: Person | None = None) -> None:
        """Log in through the pages, for all organisations: ``/home`` then lists them, for the user
        to choose one. It takes a minute, which is more than the bound on logins demands.

        Args:
            person: the user; None: one whose browser has no key.
        """
        self.clock.advance(minutes=1)
        person = person or Person()
        page = await person.submit(await person.open(f"http://localhost:{self.port}/home"))
        all_ticked = replace(page, text=page.text.replace('type="checkbox"', 'type="hidden"'))
        page = await person.consent(all_ticked)
        assert page.status == 200, page.text
        assert self.server.keeper.account.tenant_id is None

    def secrets(self) -> list[str]:
        """Return the client id and secret, and all tokens that the server and Xero hold now."""
        identity = self.sandbox.identity
        access = self.server.keeper.account.access
        held = [access.value.reveal()] if access else []
        usable = identity.usable_refresh_tokens(self.clock.now())
        return [DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, *usable, *held]


@asynccontextmanager
async def one_server(
    *,
    users: Reread[tuple[int, ...]] | None = None,
    holder: str | None = None,
    **further: Any,
) -> AsyncIterator[OneServer]:
    """Run a simulated Xero and a server on free ports, and log in.

    Args:
        users: reads ``allowed_users``, as for ``Server``.
        holder: the reader whose key the user of the login has; None: no key is needed.
        further: settings.
    """
    clock = FakeClock()
    options = SandboxOptions(port=0, clients=(Client(redirect_uris=()),))
    async with Sandbox(options, clock=clock.now) as sandbox:
        settings = Settings(
            port=0,
            store="memory:",
            client_id=DEFAULT_CLIENT_ID,
            client_secret=Secret(DEFAULT_CLIENT_SECRET),
            authorize_url=sandbox.authorize_url,
            token_url=sandbox.token_url,
            revoke_url=sandbox.revoke_url,
            connections_url=sandbox.connections_url,
            **further,
        )
        server = Server(settings, clock=clock, users=users)
        await server.start()
        try:
            client = sandbox.identity.clients[DEFAULT_CLIENT_ID]
            sandbox.identity.register(replace(client, redirect_uris=(server.redirect_uri,)))
            running = OneServer(server, sandbox, clock)
            await running.log_in(None if holder is None else KeyHolder(server, holder))
            yield running
        finally:
            await server.stop()
