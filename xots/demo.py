"""``xots demo``: the server against a simulated Xero, logged in by itself, on a throw-away store.

It uses neither the user's settings nor the user's store, and says what it does.
"""

from __future__ import annotations

import argparse
import contextlib

from .errors import XotsError
from .events import Event, LoggedIn, Refreshed
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
from .server import Server, stop_signal
from .settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "-p", "--port", type=_port, default=5001, help="port of the server (default: %(default)s)"
    )
    parser.add_argument(
        "--sandbox-port",
        type=_port,
        default=5002,
        help="port of the simulated Xero (default: %(default)s)",
    )
    parser.add_argument(
        "--access-token-life",
        type=_life,
        default=90,
        metavar="SECONDS",
        help="how long the simulated Xero's access tokens live; the real one's live 1800 (default: %(default)s)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _life(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 10 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 10 to 86400")
    return int(text)


async def run(options: argparse.Namespace) -> None:
    """Run the demo until SIGINT or SIGTERM.

    Raises:
        XotsError: a port is taken, or the login did not succeed.
    """
    stop = stop_signal()
    sandbox = Sandbox(_sandbox_options(options))
    async with contextlib.AsyncExitStack() as running:
        try:
            await running.enter_async_context(sandbox)
        except OSError as error:
            raise XotsError(
                f"the simulated Xero can't listen on port {options.sandbox_port}: {error.strerror}; "
                "choose another with --sandbox-port"
            ) from None
        server = Server(
            Settings(
                port=options.port,
                store="memory:",
                client_id=DEFAULT_CLIENT_ID,
                client_secret=Secret(DEFAULT_CLIENT_SECRET),
                authorize_url=sandbox.authorize_url,
                token_url=sandbox.token_url,
                revoke_url=sandbox.revoke_url,
                connections_url=sandbox.connections_url,
            ),
            observers=[_show],
        )
        await server.start()
        running.push_async_callback(server.stop)
        # Only now is it known which port was taken, if any free one was asked for.
        web_app = sandbox.options.clients[0]
        sandbox.identity.register(Client(web_app.client_id, web_app.secret, (server.redirect_uri,)))
        person = Person()
        page = await person.consent(
            await person.submit(await person.open(f"http://localhost:{server.port}/home"))
        )
        if page.status != 200 or not server.keeper.can_serve:
            raise XotsError(f"the demo's login did not succeed (status {page.status})")
        print(_greeting(server, sandbox), flush=True)
        await stop.wait()
        print("\nstopping", flush=True)
    print("stopped; nothing was kept", flush=True)


def _sandbox_options(options: argparse.Namespace) -> SandboxOptions:
    return SandboxOptions(
        port=options.sandbox_port,
        clients=(Client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, ()),),
        switches=Switches(access_token_life_seconds=options.access_token_life),
    )


def _show(event: Event) -> None:
    if isinstance(event, LoggedIn | Refreshed):
        print(f"{event.at:%H:%M:%S}  {event}", flush=True)


def _greeting(server: Server, sandbox: Sandbox) -> str:
    return f"""
xots serves a simulated Xero account, logged in, on a throw-away store.

  a fresh access token    curl -s http://localhost:{server.port}/token
  how things are          http://localhost:{server.port}/status
  the connection          http://localhost:{server.port}/home
  the simulated Xero      {sandbox.url}
  what it was asked       curl -s {sandbox.url}/sandbox/log

Each line below is a rotation: the refresh token was spent, and its successor is kept. Stop with Ctrl-C.
"""
