"""``RedisUrl``: the URL of a Redis store, and the clients for the servers that it names.

A URL has one of these forms::

    redis://user:password@host:6379/0
    rediss://user@host:6380/0?ca_file=PATH&cert_file=PATH&key_file=PATH&password_file=PATH
    unix:///run/redis/redis.sock?db=0&username=user&password_file=PATH
    sentinel://user@host:26379,host2:26379/service/0?password_file=PATH&sentinel_password_file=PATH
        &tls=true&ca_file=PATH&cert_file=PATH&key_file=PATH

Only the hosts, the path of the socket and the service are required.

- ``username`` works in every form.
- ``password_file`` keeps the password out of the URL. The file is read for each new connection.
- ``ca_file`` holds authorities to trust in addition to the system's. ``cert_file`` and
  ``key_file`` are the client's own certificate.
- With ``sentinel:``, the user, the password, ``tls`` and the certificates are for the servers. The
  sentinels receive only the password in ``sentinel_password_file``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from ..file_access import public_file_problems, read_bounded, secret_file_problems
from ..secret import Secret

__all__ = ["RedisUrl"]

CONNECT_TIMEOUT_SECONDS = 2.0
"""Timeout for a connection with its TLS handshake: about 100 times the usual time."""

RESPONSE_TIMEOUT_SECONDS = 5.0
"""Timeout for a response. Redis responds within milliseconds unless it is stopped, swaps, or the
network is cut."""

SENTINEL_TIMEOUT_SECONDS = 1.0
"""Timeout for a response of a sentinel. One call may have to try several of them in turn."""

DEFAULT_PORTS: Mapping[str, int] = {"redis": 6379, "rediss": 6379, "unix": 0, "sentinel": 26379}
"""The default ports by scheme; a socket has none."""

CERTIFICATES = frozenset({"ca_file", "cert_file", "key_file"})

SECRET_FILES = frozenset({"password_file", "sentinel_password_file", "key_file"})
"""The options that name a file with a secret."""

OPTIONS: Mapping[str, frozenset[str]] = {
    "redis": frozenset({"username", "password_file"}),
    "rediss": frozenset({"username", "password_file"}) | CERTIFICATES,
    "unix": frozenset({"username", "password_file", "db"}),
    "sentinel": frozenset({"username", "password_file", "sentinel_password_file", "tls"})
    | CERTIFICATES,
}
"""The options that a URL may have after its question mark, by scheme."""

MALFORMED = (
    "it does not have the form redis://user:password@host:port/database?option=value; in a user, "
    "a password or a path, these characters must be percent-encoded: @ : / ? # [ ] % and spaces"
)

CLIENT_NAME_OPTIONS = (
    {"driver_info"}
    if "driver_info" in inspect.signature(Redis).parameters
    else {"lib_name", "lib_version"}
)
"""The options by which redis-py, depending on its version, tells Redis its own name and version.
They are turned off: if the Redis user may not set them, each connection leaves an entry in
Redis's log."""


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """The parts of a URL, percent-decoded."""

    scheme: str
    """``redis``, ``rediss``, ``unix`` or ``sentinel``."""
    username: str = field(default="", repr=False)
    """The user before the host; ``options`` may hold it instead."""
    password: Secret | None = None
    hosts: str = ""
    """The hosts with their ports, as the URL has them."""
    addresses: Sequence[tuple[str, int]] = ()
    """The same hosts, each with its port or the default port."""
    path: str = ""
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Return the parts of a URL that can be used.

        Raises:
            ValueError: it cannot be used. The message quotes no part that may be a password.
        """
        url = cls._split(text)
        url.validate()
        return url

    @classmethod
    def _split(cls, text: str) -> RedisUrl:
        # The errors of urllib quote the text, so they must not become the context of ours.
        with suppress(ValueError, KeyError):
            parts = urlsplit(text)
            default_port = DEFAULT_PORTS[parts.scheme]
            options = parse_qsl(
                parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)
            )
            userinfo, _, hosts = parts.netloc.rpartition("@")
            username, _, password = userinfo.partition(":")
            url = cls(
                scheme=parts.scheme,
                username=unquote(username),
                password=Secret(unquote(password)) if password else None,
                hosts=hosts,
                addresses=[_address(host, default_port) for host in hosts.split(",")],
                path=unquote(parts.path),
                options=dict(options),
            )
            # An @ after the host shows that the password holds a / or ? that is not encoded.
            if "@" not in parts.path + parts.query and not parts.fragment:
                return url
        raise ValueError(MALFORMED)

    def validate(self) -> None:
        """Check that the parts go together, and that the files can be read.

        Raises:
            ValueError: the first problem. The message quotes no part that may be a password.
        """
        if unknown := self.options.keys() - OPTIONS[self.scheme]:
            import difflib  # here, since only an error needs it

            near = difflib.get_close_matches(min(unknown), OPTIONS[self.scheme], n=1, cutoff=0.8)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"it has an unknown option{hint}; those of {self.scheme}: are "
                f"{', '.join(sorted(OPTIONS[self.scheme]))}"
            )
        for is_wrong, message in CHECKS:
            if is_wrong(self):
                raise ValueError(message)
        for option in sorted(name for name in self.options if name.endswith("_file")):
            if problem := _read_problem(self.options[option]):
                raise ValueError(f"{option}: {problem}")

    def file_warnings(self) -> list[str]:
        """Return why other users may know the secrets in files that the URL names, or replace the
        secrets or the authorities."""
        found = []
        for option in sorted(self.options.keys() & (SECRET_FILES | {"ca_file"})):
            path = Path(self.options[option])
            look = secret_file_problems if option in SECRET_FILES else public_file_problems
            try:
                with path.open("rb") as file:
                    problems = look(path, file.fileno())
            except OSError as error:
                problems = [f"{path} cannot be read: {error.strerror}"]
            found += [f"{option}: {problem}" for problem in problems]
        return found

    @property
    def tls(self) -> bool:
        """True if the connections to the servers use TLS."""
        return self.scheme == "rediss" or self.options.get("tls") == "true"

    @property
    def service(self) -> str:
        """The name by which the sentinels know the servers."""
        return self.path.strip("/").partition("/")[0]

    @property
    def database(self) -> str:
        """The number of the database; empty for 0."""
        match self.scheme:
            case "unix":
                return self.options.get("db", "")
            case "sentinel":
                return self.path.strip("/").partition("/")[2]
            case _:
                return self.path.strip("/")

    @property
    def server(self) -> str:
        """The server's name in messages."""
        match self.scheme:
            case "unix":
                return f"Redis at {self.path}"
            case "sentinel":
                return f"Redis by the sentinels at {self.hosts}, service {self.service}"
            case _:
                ((host, port),) = self.addresses
                return f"Redis at {host}:{port}"

    def connect(self) -> tuple[Redis, Sequence[Redis]]:
        """Return a client for the server, and those for the sentinels; the caller closes them all.

        They return bytes and never retry. They open no connection before the first request.
        """
        options = self._server_options()
        match self.scheme:
            case "unix":
                return Redis(unix_socket_path=self.path, **options), []
            case "sentinel":
                manager = Sentinel(  # type: ignore[no-untyped-call]
                    self.addresses, sentinel_kwargs=self._sentinel_options()
                )
                return manager.master_for(self.service, **options), manager.sentinels
            case _:
                ((host, port),) = self.addresses
                return Redis(host=host, port=port, **options), []

    def _server_options(self) -> dict[str, Any]:
        options = _client_options(CONNECT_TIMEOUT_SECONDS, RESPONSE_TIMEOUT_SECONDS)
        options["db"] = int(self.database or 0)
        username = self.username or self.options.get("username", "")
        password_file = self.options.get("password_file")
        if username or self.password or password_file:
            options["credential_provider"] = _Credentials(username, self.password, password_file)
        if self.tls:
            options |= self._tls_options()
        return options

    def _tls_options(self) -> dict[str, Any]:
        return {
            "ssl": True,
            "ssl_check_hostname": True,
            "ssl_ca_certs": self.options.get("ca_file"),
            "ssl_certfile": self.options.get("cert_file"),
            "ssl_keyfile": self.options.get("key_file"),
        }

    def _sentinel_options(self) -> dict[str, Any]:
        options = _client_options(SENTINEL_TIMEOUT_SECONDS, SENTINEL_TIMEOUT_SECONDS)
        if password_file := self.options.get("sentinel_password_file"):
            options["credential_provider"] = _Credentials("", None, password_file)
        return options


CHECKS: Sequence[tuple[Callable[[RedisUrl], object], str]] = (
    (
        lambda url: url.username and "username" in url.options,
        "it names the user twice, before the host and as username: remove one of the two",
    ),
    (
        lambda url: url.password and "password_file" in url.options,
        "it has a password and a password_file: remove one of the two",
    ),
    (
        lambda url: url.options.get("tls", "true") not in ("true", "false"),
        "the option tls must be true or false",
    ),
    (
        lambda url: url.options.keys() & CERTIFICATES and not url.tls,
        "certificates have no effect without TLS: add tls=true",
    ),
    (
        lambda url: url.scheme == "unix" and (url.hosts or not url.path.startswith("/")),
        "unix:// must be followed by the absolute path of a socket",
    ),
    (
        lambda url: url.scheme != "unix" and not all(host for host, _ in url.addresses),
        "it names no host",
    ),
    (
        lambda url: url.scheme == "sentinel" and not url.service,
        "the sentinels must be followed by /service, the name by which they know the servers",
    ),
    (
        lambda url: url.scheme != "sentinel" and len(url.addresses) > 1,
        "only sentinel: takes several hosts",
    ),
    (
        lambda url: not re.fullmatch(r"[0-9]{0,5}", url.database),
        "the database is not a number",
    ),
)
"""The checks of a URL's parts: a test that is true if they are wrong, and its message."""


class _Credentials(CredentialProvider):
    """The user and the password. The file is read for each new connection, so that an operator can
    change the password while the server runs."""

    def __init__(self, username: str, password: Secret | None, password_file: str | None) -> None:
        self._username, self._file = username, password_file
        self._password = password or Secret("")

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._read_password()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def _read_password(self) -> str:
        if self._file is not None:
            # As long as it lives, the log does not show it.
            self._password = Secret(_password_in(self._file))
        return self._password.reveal()


def _password_in(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            return read_bounded(opened).decode().strip()
    except OSError as error:
        reason = error.strerror
    except UnicodeError:
        reason = "it is not text"
    raise exceptions.AuthenticationError(f"{file} cannot be read: {reason}")


def _address(host: str, default_port: int) -> tuple[str, int]:
    """Return a host and its port. It raises ValueError if the port is not a number."""
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or default_port


def _read_problem(path: str) -> str | None:
    """Return why a file cannot be read; None if it can."""
    try:
        Path(path).open("rb").close()
    except OSError as error:
        return f"the file that it names cannot be read: {error.strerror}"
    except ValueError:
        return "the file that it names cannot be read: its path is malformed"
    return None


def _client_options(
    connect_timeout_seconds: float, response_timeout_seconds: float
) -> dict[str, Any]:
    """Return the options that all clients share."""
    options: dict[str, Any] = dict.fromkeys(CLIENT_NAME_OPTIONS)
    return options | {
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # version 3 needs more rights, for nothing that is used here
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": response_timeout_seconds,
    }
