"""The settings as options of the commands, and the settings or client that the options describe."""

from __future__ import annotations

import argparse
import os
import re
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._version import __version__
from ..errors import SettingsError, XotsError
from ..secret import Secret
from ..settings import Setting, Settings, declared, default_shown, load
from ..settings.parsing import NO_ADDRESS
from ..settings.reading import read_text

if TYPE_CHECKING:
    from ..client import Client

__all__ = [
    "Joined",
    "UsageError",
    "add_one",
    "add_server",
    "add_server_address",
    "add_settings",
    "as_usage",
    "client_for",
    "config_file",
    "is_under_exec",
    "read_one",
    "read_server_settings",
    "read_settings",
    "server_client",
    "server_variables",
]

SERVER_ADDRESS = ("address", "port")
"""The settings of the TCP socket of a server."""

FINDING = (*SERVER_ADDRESS, "unix_socket", "tls_certificate", "server_user", "reader_key_file")
"""The settings by which a command finds a server, proves who it is, and gets the right to use
it."""

SERVER_URL = "XOTS_URL"
"""The variable in which ``xots exec`` passes the server's URL on."""

CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
"""A certificate in PEM (RFC 7468 section 5.1)."""


class UsageError(XotsError):
    """The command line is wrong. The message says how to correct it."""


@contextmanager
def as_usage(argument: str) -> Iterator[None]:
    """Raise a problem of an argument as a UsageError that names it."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{argument}: {error}") from None


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


def add_one(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare the setting of this name as an option: ``read_one`` reads it."""
    _add(parser, [name])


def add_server_address(parser: argparse.ArgumentParser, *further: str) -> None:
    """Declare the options by which a server is found, and further settings as options."""
    _add(parser, (*FINDING, *further))


def add_server(parser: argparse.ArgumentParser) -> None:
    """Declare the options by which a server is found, and which of its accounts is meant."""
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


def read_server_settings(options: argparse.Namespace) -> Settings:
    """Return the settings by which a server is found, and the account; all others have their
    defaults. The user of a command may have no right to read the files that those name.

    Raises:
        SettingsError: one of them is not valid.
    """
    needed = (*FINDING, "account")
    return load(_texts(options, needed), os.environ, config_file(options), only=needed)


def server_client(options: argparse.Namespace) -> Client:
    """Return a client for the server that the options and the other sources describe.

    Raises:
        SettingsError: as for ``read_server_settings`` and ``client_for``.
    """
    return client_for(read_server_settings(options))


def client_for(settings: Settings) -> Client:
    """Return a client for the server with these settings, as seen from this machine.

    A Unix socket comes before an address and a port, unless the command line names these. If the
    settings name no server, it is the one whose token ``xots exec`` gave to this process. If no
    source sets the account, it is the one that the server's paths without a name serve.

    Raises:
        SettingsError: ``XOTS_URL`` is malformed, or the file of the key or the certificate can't be
            used. The message does not quote it.
    """
    from ..client import Client  # here, since the server needs none

    account = settings.account if "account" in settings.sources else None
    if unix_socket := _unix_socket(settings):
        return Client(account=account, unix_socket=unix_socket, server_user=settings.server_user)
    host, port, uses_tls = _tcp_address(settings)
    return Client(
        host,
        port,
        account,
        key=_reader_key(settings),
        server_user=settings.server_user,
        uses_tls=uses_tls,
        certificate=_certificate(settings),
    )


def _unix_socket(settings: Settings) -> Path | None:
    """Return the Unix socket to connect to; None for TCP."""
    names_tcp = any(settings.sources.get(name) == f"--{name}" for name in SERVER_ADDRESS)
    if names_tcp and settings.sources.get("unix_socket") != "--unix-socket":
        return None
    return settings.unix_socket


def _tcp_address(settings: Settings) -> tuple[str, int, bool]:
    """Return host and port to connect to, and whether the server speaks TLS there."""
    has_certificate = settings.tls_certificate is not None
    if not settings.sources.keys() & set(SERVER_ADDRESS) and (url := os.environ.get(SERVER_URL)):
        return _parsed(url, has_certificate=has_certificate)
    if settings.address == NO_ADDRESS:
        place = settings.sources["address"]
        raise SettingsError([f"{place}: without an address, set unix_socket too"])
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to
    host = wildcards.get(settings.address, settings.address)
    return host, settings.port, has_certificate


def _parsed(url: str, *, has_certificate: bool) -> tuple[str, int, bool]:
    with suppress(ValueError):  # a malformed host or port
        parts = urlsplit(url)
        if parts.scheme == "http" and has_certificate:
            raise SettingsError([f"{SERVER_URL}: must be https://HOST:PORT with tls_certificate"])
        (parts.hostname or "").encode("idna")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port:
            return parts.hostname, parts.port, parts.scheme == "https"
    form = "http://HOST:PORT or https://HOST:PORT, as xots exec sets it"
    raise SettingsError([f"{SERVER_URL}: must be {form}"])


def _reader_key(settings: Settings) -> Secret | None:
    """Return the key that a command sends.

    Raises:
        SettingsError: its file can't be read, other users may know it, or it holds no key.
    """
    if settings.reader_key_file is None:
        return None
    from ..client import WORD

    text = _safe_text_of(settings.reader_key_file, settings.sources["reader_key_file"], secret=True)
    if not WORD.fullmatch(text.strip()):
        place = settings.sources["reader_key_file"]
        raise SettingsError([f"{place}: the file must hold one key, as xots reader add prints it"])
    return Secret(text.strip())


def _certificate(settings: Settings) -> bytes | None:
    """Return the certificate that the server must have, in DER: the first one of its file.

    Raises:
        SettingsError: the file can't be read, other users may replace it, or it holds none.
    """
    if settings.tls_certificate is None:
        return None
    place = settings.sources["tls_certificate"]
    text = _safe_text_of(settings.tls_certificate, place, secret=False)
    with suppress(ValueError):
        if found := CERTIFICATE.search(text):
            return ssl.PEM_cert_to_DER_cert(found[0])
    raise SettingsError([f"{place}: the file that it names holds no certificate in PEM format"])


def _safe_text_of(path: Path, place: str, *, secret: bool) -> str:
    """Return the text of a file that other users can't replace, and can't read if it is secret.

    Raises:
        SettingsError: they can, or this user can't read it.
    """
    try:
        file = read_text(path)
    except ValueError as error:
        raise SettingsError([f"{place}: {error}"]) from None
    if dangers := file.dangers(secret=secret):
        raise SettingsError([f"{place}: {danger}" for danger in dangers])
    return file.text


def server_variables(settings: Settings, server: Client) -> dict[str, str]:
    """Return the variables by which commands in the program of ``xots exec`` find and prove the
    same server. A key is passed on by its file: each process of the user can see an environment.

    Args:
        settings: those from which the client was made.
        server: the client.
    """
    found = {
        "account": server.account,
        "unix_socket": server.unix_socket,
        "tls_certificate": settings.tls_certificate,
        "server_user": settings.server_user,
        "reader_key_file": settings.reader_key_file,
    }
    variables = {
        f"XOTS_{name.upper()}": str(value.absolute() if isinstance(value, Path) else value)
        for name, value in found.items()
        if value is not None
    }
    return variables if server.unix_socket else variables | {SERVER_URL: server.url}


def is_under_exec() -> bool:
    """Tell if ``xots exec`` has started this process. Then the settings of the server's store are
    not known here."""
    has_token = "XERO_ACCESS_TOKEN" in os.environ
    return SERVER_URL in os.environ or (has_token and "XOTS_UNIX_SOCKET" in os.environ)


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
