"""The commands. ``xots`` alone serves; the first word may name another command.

Whatever goes wrong ends in one sentence on stderr and an exit status: 2 for what was asked wrongly, 1 for the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import SettingsError, XotsError

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["main"]

EPILOG = """\
commands (the first word; "xots COMMAND -h" tells more):
  serve      run the server; what "xots" alone does
  demo       run the server against a simulated Xero, logged in, on a throw-away store
  sandbox    run the simulated Xero by itself

Each option can also be set in the environment (--token-url as XOTS_TOKEN_URL), in a file of systemd's credentials
directory (token_url), or in the file that --config names (token_url: …); the command line comes first, then in that
order. A secret is never taken from the command line.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "serve"
    try:
        return COMMANDS[name](arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"xots: {problem}", file=sys.stderr)
        return 2
    except XotsError as error:
        print(f"xots: {error}", file=sys.stderr)
        return 1


def _serve(arguments: list[str]) -> int:
    settings = _settings(arguments)
    _log_to_stderr(settings.log_level)
    from .server import serve

    asyncio.run(serve(settings))
    return 0


def _demo(arguments: list[str]) -> int:
    parser = _parser("xots demo", "Run the server against a simulated Xero, logged in, on a throw-away store.")
    from . import demo

    demo.add_arguments(parser)
    options = parser.parse_args(arguments)
    _log_to_stderr("warning")
    asyncio.run(demo.run(options))
    return 0


def _sandbox(arguments: list[str]) -> int:
    parser = _parser("xots sandbox", "Run a simulated Xero, to test an integration against.")
    from .sandbox import command

    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


COMMANDS: dict[str, Callable[[list[str]], int]] = {"serve": _serve, "demo": _demo, "sandbox": _sandbox}


def _parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _settings(arguments: list[str]) -> Settings:
    """The settings of a server, from the command line and the other sources."""
    from .settings import declared, default_shown, load

    parser = _parser("xots", "Xero OAuth Token Server: logs in to Xero once, then serves fresh access tokens.", EPILOG)
    for setting in declared():
        meta = setting.metadata
        flags = [f"-{meta['letter']}"] if meta["letter"] else []
        flags.append(f"--{setting.name.replace('_', '-')}")
        shown = default_shown(setting)
        if not meta["secret"]:
            parser.add_argument(
                *flags,
                dest=setting.name,
                default=argparse.SUPPRESS,
                metavar=setting.name.upper() if meta["letter"] is None else "",
                help=meta["help"] + (f" (default: {shown})" if shown else ""),
            )
    parser.add_argument("--config", metavar="FILE", type=Path, default=None, help="read settings from a YAML file")
    parser.add_argument("--version", action="version", version=f"xots {__version__}")
    options = vars(parser.parse_args(arguments))
    config = options.pop("config") or (Path(found) if (found := os.environ.get("XOTS_CONFIG")) else None)
    return load(options, os.environ, config)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
