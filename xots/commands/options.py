"""The settings as options of the commands, and the settings or client that the options describe."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .._version import __version__
from ..client import Client
from ..errors import SettingsError, XotsError
from ..settings import Setting, Settings, declared, default_shown, load

__all__ = [
    "ACCOUNT",
    "SERVER_URL",
    "Joined",
    "UsageError",
    "add_server",
    "add_server_address",
    "add_settings",
    "client_for",
    "config_file",
    "read_one",
    "read_settings",
    "server_client",
]

SERVER_ADDRESS = ("address", "port")
"""The settings that say where a server runs."""

ACCOUNT = "XOTS_ACCOUNT"
"""The variable of the setting ``account``, in which ``xots exec`` passes the account's name on."""

SERVER_URL = "XOTS_URL"
"""The variable in which ``xots exec`` passes the server's URL on."""


class UsageError(XotsError):
    """The command line is wrong. The message says how to correct it."""


class Once(argparse.Action):
    """An option that can be given once: a second value would replace the first unnoticed."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """Keep the value.

        Raises:
            ArgumentError: there is one already. The message repeats neither.
        """
        if hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, "must be given only once")
        setattr(namespace, self.dest, values)


class Joined(argparse.Action):
    """An option that can be given several times: its values are joined by spaces."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """Add the value to those before it."""
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if before is None else f"{before} {values}")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare every setting as an option."""
    _add(parser, _all_names())
    parser.add_argument("--version", action="version", version=f"xots {__version__}")


def add_server_address(parser: argparse.ArgumentParser, *further: str) -> None:
    """Declare the options that say where a server runs, and further settings as options."""
    _add(parser, (*SERVER_ADDRESS, *further))


def add_server(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say where a server runs, and which of its accounts is meant."""
    add_server_address(parser)
    parser.add_argument(
        "--account",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="account to use (default: the one at the server's paths without a name)",
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """Return the settings from the options and the other sources.

    Raises:
        SettingsError: with all problems of all sources.
    """
    return load(_texts(options, _all_names()), os.environ, config_file(options))


def read_one(options: argparse.Namespace, name: str) -> Settings:
    """Return the settings with the one of this name read again, and all others at their defaults.

    Raises:
        SettingsError: it is not valid, or its file can't be read.
    """
    return load(_texts(options, [name]), os.environ, config_file(options), only=[name])


def server_client(options: argparse.Namespace) -> Client:
    """Return a client for the server that the options and the other sources describe.

    It reads no other setting: the user of the command may have no right to read the files that
    some of them name.

    Raises:
        SettingsError: an address, port or account is not valid.
    """
    needed = (*SERVER_ADDRESS, "account")
    return client_for(load(_texts(options, needed), os.environ, config_file(options), only=needed))


def client_for(settings: Settings) -> Client:
    """Return a client for the server with these settings, as seen from this machine.

    If they name no server, it is the one whose token ``xots exec`` gave to this process. If no
    source sets the account, it is the one that the server's paths without a name serve.

    Raises:
        SettingsError: ``XOTS_URL`` is malformed.
    """
    account = settings.account if "account" in settings.sources else None
    if not settings.sources.keys() & set(SERVER_ADDRESS) and (url := os.environ.get(SERVER_URL)):
        return _client_at(url, account)
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to
    return Client(wildcards.get(settings.address, settings.address), settings.port, account)


def _client_at(url: str, account: str | None) -> Client:
    parts = urlsplit(url)
    with contextlib.suppress(ValueError):  # a malformed port
        if parts.scheme == "http" and parts.hostname and parts.port:
            return Client(parts.hostname, parts.port, account)
    raise SettingsError([f"{SERVER_URL}: must be http://HOST:PORT, as xots exec sets it"])


def _all_names() -> list[str]:
    return [setting.name for setting in declared()]


def _texts(options: argparse.Namespace, names: Collection[str]) -> dict[str, str]:
    """Return the texts of those options that are settings with these names."""
    return {name: text for name, text in vars(options).items() if name in names}


def config_file(options: argparse.Namespace) -> Path | None:
    """Return the YAML file to read: that of the option, else that of the environment."""
    if options.config is not None:
        return Path(options.config)
    named = os.environ.get("XOTS_CONFIG")
    return Path(named) if named else None


def _add(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    for setting in declared():
        if setting.name in names:
            _add_setting(parser, setting)
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="read settings from a YAML file"
    )


def _add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    short = [f"-{setting.letter}"] if setting.letter else []
    parser.add_argument(
        *short,
        setting.option,
        action=Joined if setting.may_repeat else Once,
        dest=setting.name,
        default=argparse.SUPPRESS,
        metavar=setting.metavar or setting.name.upper(),
        help=_help(setting),
    )


def _help(setting: Setting) -> str:
    if setting.secret:
        # The option is declared so that the refusal gives a reason. It is not offered.
        return argparse.SUPPRESS
    default = default_shown(setting)
    shown = f" (default: {default})" if default else ""
    return f"{setting.help}{shown}"
