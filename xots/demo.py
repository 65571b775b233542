"""``xots demo``: the server against a simulated Xero, logged in, on a throw-away store.

It uses neither the user's settings nor the user's store.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from .errors import XotsError
from .events import Event, LoggedIn, Refreshed
from .safe_text import MAX_MESSAGE, safe_text
from .sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Client,
    Sandbox,
    SandboxOptions,
    Switches,
)
from .sandbox.person import Person
from .secret import Secret
from .server import Server, raise_descriptor_limit, stop_signal
from .settings import Settings

__all__ = ["demo"]


async def demo(*, port: int, sandbox_port: int, access_token_life_seconds: int) -> None:
    """Run the demo until SIGINT or SIGTERM.

    Args:
        port: the port of the server; 0 takes any that is free.
        sandbox_port: the port of the simulated Xero; likewise.
        access_token_life_seconds: the life of the simulated Xero's access tokens.

    Raises:
        CannotStart: the server can't listen on its port.
        XotsError: the simulated Xero can't listen on its port, or the login did not succeed.
    """
    raise_descriptor_limit()
    stop = stop_signal()
    async with AsyncExitStack() as running:
        sandbox = _sandbox(sandbox_port, access_token_life_seconds)
        try:
            await running.enter_async_context(sandbox)
        except OSError as error:
            raise XotsError(
                f"the simulated Xero can't listen on port {sandbox_port}: {error.strerror}; "
                "choose another with --sandbox-port"
            ) from None
        server = Server(_settings(port, sandbox), observers=[_show])
        await server.start()
        running.push_async_callback(server.stop)
        await _log_in(server, sandbox)
        print(_greeting(server, sandbox), flush=True)
        await stop.wait()
        print("\nstopping", flush=True)
    print("stopped; nothing was kept", flush=True)


def _sandbox(port: int, access_token_life_seconds: int) -> Sandbox:
    return Sandbox(
        SandboxOptions(
            port=port,
            clients=(Client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, ()),),
            switches=Switches(access_token_life_seconds=access_token_life_seconds),
        )
    )


def _settings(port: int, sandbox: Sandbox) -> Settings:
    return Settings(
        port=port,
        store="memory:",
        client_id=DEFAULT_CLIENT_ID,
        client_secret=Secret(DEFAULT_CLIENT_SECRET),
        authorize_url=sandbox.authorize_url,
        token_url=sandbox.token_url,
        revoke_url=sandbox.revoke_url,
        connections_url=sandbox.connections_url,
        refresh_interval=0,  # the simulated Xero has no quota to protect
    )


async def _log_in(server: Server, sandbox: Sandbox) -> None:
    """Register the redirect URI, known only now if the port was 0, and log in through the pages."""
    redirect_uris = (server.redirect_uri,)
    sandbox.identity.register(Client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, redirect_uris))
    person = Person()
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    page = await person.consent(page)
    if page.status != 200 or not server.keeper.can_serve:
        raise XotsError(f"the demo's login did not succeed (status {page.status})")


def _show(event: Event) -> None:
    if isinstance(event, LoggedIn | Refreshed):
        print(f"{event.at:%H:%M:%S}  {safe_text(event, MAX_MESSAGE)}", flush=True)


def _greeting(server: Server, sandbox: Sandbox) -> str:
    return f"""
xots serves a simulated Xero account, logged in, on a throw-away store.

  a fresh access token    curl -s http://localhost:{server.port}/token
  the current status      http://localhost:{server.port}/status
  the connection          http://localhost:{server.port}/home
  the simulated Xero      {sandbox.url}
  the requests it got     curl -s {sandbox.url}/sandbox/log

Each line below is a refresh: xots spent its refresh token and stored the new one.
Stop with Ctrl-C.
"""
