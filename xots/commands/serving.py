"""The commands that serve: ``serve``, ``demo`` and ``sandbox``.

Each function imports the server that it runs, so that the other commands start without Tornado.
"""

from __future__ import annotations

import argparse
import asyncio

from ..errors import SettingsError
from ..reread import Reread
from ..settings import Settings
from .logs import log_to_stderr
from .options import config_file, read_one, read_settings

__all__ = ["add_demo_options", "add_sandbox_options", "demo", "sandbox", "serve"]


def serve(options: argparse.Namespace) -> int:
    """Run the server until a signal stops it."""
    settings = read_settings(options)
    from ..server import serve

    log_to_stderr(settings.log_level, settings.log_format)
    asyncio.run(serve(settings, _users(options, settings)))
    return 0


def _users(options: argparse.Namespace, settings: Settings) -> Reread[tuple[int, ...]] | None:
    """Return ``allowed_users`` as the configuration file gives it; None if another source does."""
    config = config_file(options)
    if (
        config is None
        or not config.is_file()
        or not settings.sources.get("allowed_users", "").startswith(f"{config}: ")
    ):
        return None

    def read() -> tuple[int, ...]:
        if found := read_one(options, "allowed_users").allowed_users:
            return found
        raise SettingsError([f"{config} does not set it any more"])

    return Reread([config], read)


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots demo``."""
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
        help="life of the simulated Xero's access tokens; Xero's own live 1800 seconds "
        "(default: %(default)s)",
    )


def demo(options: argparse.Namespace) -> int:
    """Run the demo until a signal stops it."""
    from ..demo import demo

    log_to_stderr("warning")
    running = demo(
        port=options.port,
        sandbox_port=options.sandbox_port,
        access_token_life_seconds=options.access_token_life,
    )
    asyncio.run(running)
    return 0


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots sandbox``."""
    from ..sandbox import command

    command.add_arguments(parser)


def sandbox(options: argparse.Namespace) -> int:
    """Run the simulated Xero until a signal stops it."""
    from ..sandbox import command

    return command.run(options)


def _port(text: str) -> int:
    return _integer(text, 0, 65535, "a port")


def _life(text: str) -> int:
    return _integer(text, 10, 86400, "a number of seconds")


def _integer(text: str, low: int, high: int, noun: str) -> int:
    is_number = text.isascii() and text.isdecimal()
    if not is_number or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be {noun} from {low} to {high}")
    return int(text)
