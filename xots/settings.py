"""Every setting, declared once: name, type, default, help; and the sources they come from.

A setting ``token_url`` is ``--token-url`` on the command line, ``XOTS_TOKEN_URL`` in the environment, a file
``token_url`` in the systemd credentials directory and ``token_url:`` in the YAML file; the first source that has it
wins, in that order. All problems are collected and told at once, each with the source and key it came from.
"""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .backends import scheme_of
from .errors import SettingsError, StoreError
from .lifecycle.schedule import Policy
from .secret import Secret
from .xero.http import Proxy
from .xero.protocol import SCOPE_SETS, XERO, Credentials, Endpoints

__all__ = ["Settings", "load"]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (
            not (text.isascii() and text.isdecimal() and len(text) < 20)
            or not low <= int(text) <= high
        ):
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1
        if not low <= seconds <= high:
            raise ValueError(f"{text!r} is not a number of seconds from {low:g} to {high:g}")
        return seconds

    return parse


def _boolean(text: str) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is none of: {', '.join(choices)}")
        return text.lower()

    return parse


def _address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        if text == "localhost":
            return text
        raise ValueError(f"{text!r} is not an IP address") from None


def _url(text: str) -> str:
    if "@" in text:  # looked at first, since every other message would repeat it
        raise ValueError("a user name or password does not belong in this URL")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(f"{text!r} is not an http or https URL")
    if parts.port == 0:  # .port also raises ValueError for one that is no port
        raise ValueError(f"{text!r} has no usable port")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(f"{text!r} has a host name that can't be one") from None
    return text


def _url_or_nothing(text: str) -> str:
    return _url(text) if text else ""


def _redirect(text: str) -> str:
    parts = urlsplit(_url(text))
    if parts.query:
        raise ValueError(f"{text!r} has a query string, which a redirect URI must not have here")
    if parts.path != "/code":
        raise ValueError(f"{text!r} does not end in /code, where this server takes Xero's answer")
    return text


def _scopes(text: str) -> tuple[str, ...]:
    words = text.replace(",", " ").split()
    names = tuple(dict.fromkeys(name for word in words for name in SCOPE_SETS.get(word, (word,))))
    if not names:
        raise ValueError("no scope is named")
    for name in names:
        if not all("!" <= c <= "~" and c not in '"\\' for c in name):  # RFC 6749 section 3.3
            raise ValueError(f"the scope {name!r} has a character that no scope may have")
    if "offline_access" not in names:
        raise ValueError("offline_access is missing: without it Xero issues no refresh token")
    return names


def _printable(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("it is empty, or has a space or a control character")
    return text


def _secret(text: str) -> Secret:
    return Secret(_printable(text))


def _keys(text: str) -> tuple[Secret, ...]:
    lines = (
        line for line in text.splitlines() if not line.lstrip().startswith("#")
    )  # as in a key file
    return tuple(Secret(word) for line in lines for word in line.replace(",", " ").split())


def _account_name(text: str) -> str:
    if (
        not 0 < len(text) <= 64
        or text.startswith("lease-")
        or not all(c in _NAME_LETTERS for c in text)
    ):
        raise ValueError(
            f"{text!r} is not a name of up to 64 lower-case letters, digits and hyphens"
        )
    return text


def _file(text: str) -> Path:
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{text!r} can't be read: {error.strerror}") from None


def _certificates(text: str) -> Path:
    path = _file(text)
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        raise ValueError(f"{text!r} holds no certificates (PEM)") from None
    return path


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(text.replace(",", " ").lower().split())
    for host in hosts:
        if (
            any(c in "/@?#*" for c in host)
            or not host.isprintable()
            or not urlsplit(f"//{host}").hostname
        ):
            raise ValueError(f"{host!r} is not a host name, with or without a port")
    return hosts


def _proxy(text: str) -> Proxy:
    parts = urlsplit(text)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if (
        parts.scheme != "http"
        or not parts.hostname
        or not port
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        # What was given may hold a password: it is not repeated.
        raise ValueError("this is not the URL of an HTTP proxy, such as http://proxy.example:3128")
    return Proxy(
        host=parts.hostname,
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
    )


_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def _store(text: str) -> str:
    try:
        scheme_of(text)
    except StoreError as error:
        raise ValueError(str(error)) from None
    return text


def _setting(
    default: Any,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - argparse's word for it
    *,
    letter: str | None = None,
    shown: str | None = None,
    secret: bool = False,
    metavar: str | None = None,
    may_be_empty: bool = False,
    hidden: bool = False,
) -> Any:
    """A setting. ``shown`` is how the default reads in the help where its value would not do; ``may_be_empty`` says
    that an empty value in the environment or the file is a value, and not the same as none."""
    return field(
        default=default,
        repr=not hidden,
        metadata={
            "parse": parse,
            "help": help,
            "letter": letter,
            "shown": shown,
            "secret": secret,
            "metavar": metavar,
            "may_be_empty": may_be_empty,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told. ``sources`` says where each setting that is not a default was set."""

    port: int = _setting(5001, _integer(0, 65535), "port to run on", letter="p")
    address: str = _setting("127.0.0.1", _address, "network address to run on", letter="n")
    redirect: str | None = _setting(
        None, _redirect, "oauth2 redirect address", letter="r", shown="http://localhost:5001/code"
    )
    scopes: tuple[str, ...] = _setting(
        SCOPE_SETS["classic"],
        _scopes,
        "oauth2 scopes; granular and classic stand for whole sets",
        letter="o",
        shown=", ".join(SCOPE_SETS["classic"]),
    )
    refreshmins: int = _setting(
        72000, _integer(1, 84960), "set lifetime of refresh token (default 50 days)", letter="m"
    )
    client_id: str | None = _setting(
        None,
        _printable,
        "client id of the app at Xero; without it a form asks for it",
        metavar="ID",
    )
    client_secret: Secret | None = _setting(
        None, _secret, "client secret of the app at Xero", secret=True
    )
    client_secret_file: Path | None = _setting(
        None, _file, "file that holds the client secret", metavar="FILE"
    )
    tenant_id: str | None = _setting(
        None, _printable, "id of the organisation to use", metavar="ID"
    )
    account: str = _setting(
        "default", _account_name, "name of the account in the store", metavar="NAME"
    )
    store: str | None = _setting(
        None,
        _store,
        "where the login is kept, as a URL: file:///folder, redis://…, rediss://…, unix://…, sentinel://…, memory:",
        shown="a folder of the user's own",
        metavar="URL",
        hidden=True,  # a password may stand in it
    )
    key: tuple[Secret, ...] = _setting(
        (), _keys, "sealing keys: the first seals, all open", secret=True
    )
    key_file: Path | None = _setting(
        None, Path, "file of sealing keys, one a line: the first seals, all open", metavar="FILE"
    )
    authorize_url: str = _setting(
        XERO.authorize_url, _url, "where the person is sent to log in", metavar="URL"
    )
    token_url: str = _setting(XERO.token_url, _url, "where tokens are issued", metavar="URL")
    revoke_url: str = _setting(
        XERO.revoke_url,
        _url_or_nothing,
        "where tokens are revoked; empty: nowhere",
        metavar="URL",
        may_be_empty=True,
    )
    connections_url: str = _setting(
        XERO.connections_url,
        _url_or_nothing,
        "where the connected organisations are listed; empty: there are no such",
        metavar="URL",
        may_be_empty=True,
    )
    pkce: bool = _setting(True, _boolean, "whether a login uses PKCE", metavar="true|false")
    refresh_ahead: float = _setting(
        300.0,
        _seconds(0, 86400),
        "refresh this many seconds before the access token's end",
        metavar="SECONDS",
    )
    min_ttl: float = _setting(
        60.0,
        _seconds(0, 86400),
        "callers get a token that lives at least this many seconds",
        metavar="SECONDS",
    )
    tick: float = _setting(
        15.0, _seconds(0.1, 300), "seconds between looks at what is due", metavar="SECONDS"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        _hosts,
        "further values of the Host header to answer to, such as those of a proxy in front",
        metavar="HOSTS",
    )
    ca_file: Path | None = _setting(
        None,
        _certificates,
        "certificates of the authorities to trust, in the system's place",
        metavar="FILE",
    )
    proxy: Proxy | None = _setting(
        None, _proxy, "HTTP proxy to go through, as a URL", metavar="URL"
    )
    log_level: str = _setting(
        "info",
        _choice("debug", "info", "warning", "error"),
        "least level of what is logged",
        metavar="LEVEL",
    )
    log_format: str = _setting(
        "text", _choice("text", "json"), "how a line of the log is written", metavar="FORMAT"
    )

    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def redirect_uri(self) -> str:
        """The redirect URI: the one that was set, else ``localhost`` at the port."""
        return self.redirect or f"http://localhost:{self.port}/code"

    @property
    def credentials(self) -> Credentials | None:
        """The client's credentials, if the settings hold them."""
        if self.client_id is None:
            return None
        return Credentials(client_id=self.client_id, client_secret=self.client_secret)

    @property
    def endpoints(self) -> Endpoints:
        """Where the identity server is."""
        return Endpoints(
            authorize_url=self.authorize_url,
            token_url=self.token_url,
            revoke_url=self.revoke_url,
            connections_url=self.connections_url,
        )

    @property
    def policy(self) -> Policy:
        """The durations that decide what is due."""
        return Policy(
            refresh_ahead=timedelta(seconds=self.refresh_ahead),
            min_ttl=timedelta(seconds=self.min_ttl),
            refresh_lifetime=timedelta(minutes=self.refreshmins),
            tick=timedelta(seconds=self.tick),
        )


def declared() -> list[Field[Any]]:
    """The settings as dataclass fields, in the order of the help."""
    return [f for f in fields(Settings) if "parse" in f.metadata]


def default_shown(setting: Field[Any]) -> str | None:
    """A setting's default as the help and the README show it; None when there is none."""
    if setting.metadata["shown"]:
        return str(setting.metadata["shown"])
    if setting.default in (None, ()):
        return None
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return f"{setting.default:g}" if isinstance(setting.default, float) else f"{setting.default}"


def load(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    config: Path | None = None,
    *,
    only: Collection[str] | None = None,
) -> Settings:
    """The settings from all their sources.

    Args:
        arguments: what the command line set, by setting name.
        environment: the process's environment.
        config: a YAML file, or None.
        only: the settings that are wanted; None for all. The others keep their defaults, unread.

    Raises:
        SettingsError: with every problem of every source.
    """
    problems: list[str] = []
    sources: list[tuple[Callable[[str], str], Mapping[str, str]]] = [
        (lambda name: f"--{name.replace('_', '-')}", arguments),
        (lambda name: f"XOTS_{name.upper()}", _of_environment(environment)),
    ]
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        folder = Path(directory)
        sources.append((lambda name: f"{folder / name}", _of_credentials(folder, problems)))
    if config is not None:
        sources.append((lambda name: f"{config}: {name}", _of_yaml(config, problems)))

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in declared():
        if only is not None and setting.name not in only:
            continue
        for place, source in sources:
            if setting.name not in source:
                continue
            origins[setting.name] = place(setting.name)
            try:
                values[setting.name] = _parsed(
                    setting, source[setting.name], public=source is arguments
                )
            except ValueError as error:
                problems.append(f"{origins[setting.name]}: {error}")
            break
    _read_secret_file(values, origins, problems)
    if "key" in origins and "key_file" in origins:
        problems.append(
            f"{origins['key_file']}: key is set too ({origins['key']}); set one of them"
        )
    if "client_secret" in values and "client_id" not in origins and only is None:
        problems.append(
            f"{origins['client_secret']}: a client secret without a client id (set client_id too)"
        )
    if (
        "address" in values
        and not is_loopback(values["address"])
        and "redirect" not in origins
        and only is None
    ):
        problems.append(
            f"{origins['address']}: with an address that is not loopback, the redirect URI that Xero sends browsers to "
            "can't be guessed: set redirect too"
        )
    if problems:
        raise SettingsError(problems)
    return Settings(**values, sources=origins)


def is_loopback(address: str) -> bool:
    """Is this address reached from this machine alone?"""
    return address == "localhost" or ip_address(address).is_loopback


NOT_ON_THE_COMMAND_LINE = (
    "a secret is not taken from the command line, where every user of the machine can see it; set it in the "
    "environment, in a file that --config names, or in systemd's credentials directory"
)


def _parsed(setting: Field[Any], text: str, *, public: bool) -> Any:
    """A setting's value. In public, on the command line, neither a secret nor a URL with a password is taken."""
    if public and (setting.metadata["secret"] or _holds_password(text)):
        raise ValueError(NOT_ON_THE_COMMAND_LINE)
    return setting.metadata["parse"](text)


def _holds_password(text: str) -> bool:
    _, found, rest = text.partition("://")
    userinfo, at, _ = rest.partition("/")[0].rpartition("@")
    return bool(found and at and ":" in userinfo)


def _read_secret_file(values: dict[str, Any], origins: dict[str, str], problems: list[str]) -> None:
    """``client_secret_file`` stands for ``client_secret``."""
    path = values.get("client_secret_file")
    if path is None:
        return
    where = origins["client_secret_file"]
    if "client_secret" in origins:
        problems.append(
            f"{where}: client_secret is set too ({origins['client_secret']}); set one of them"
        )
        return
    try:
        values["client_secret"] = _secret(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        problems.append(
            f"{where}: {str(path)!r} does not hold a client secret: one line of printable text"
        )
    origins["client_secret"] = where


def _of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``XOTS_…`` variables; an empty one counts as not set, as is the custom, but where it means something."""
    found = {s.name: environment.get(f"XOTS_{s.name.upper()}") for s in declared()}
    return {
        name: text
        for name, text in found.items()
        if text or (text is not None and _may_be_empty(name))
    }


def _may_be_empty(name: str) -> bool:
    return any(s.name == name and s.metadata["may_be_empty"] for s in declared())


def _of_credentials(folder: Path, problems: list[str]) -> dict[str, str]:
    """Files of systemd's credentials directory that bear a setting's name."""
    found = {}
    for setting in declared():
        path = folder / setting.name
        if not path.is_file():
            continue
        try:
            found[setting.name] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: it can't be read: {error}")
    return found


def _of_yaml(path: Path, problems: list[str]) -> dict[str, str]:
    """The keys of a YAML file, as the texts that the other sources would give."""
    import yaml  # here, since a start without --config need not pay for it

    class TextLoader(yaml.SafeLoader):
        """Leaves every value as it is written: an id such as 0011 or 12:30 is not a number. Null is not set."""

    TextLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=TextLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:  # its own words quote the file, where a secret may stand
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problems.append(
            f"{path}{line}: this is not YAML; a value with special characters wants quotes"
        )
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(
            f"{path}: it can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        )
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: it is not a list of settings, one 'name: value' a line")
        return {}
    names = [setting.name for setting in declared()]
    found = {}
    for key, value in content.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            problems.append(
                f"{path}: {key}: no such setting{f' (did you mean {near[0]}?)' if near else ''}"
            )
        elif isinstance(value, list):
            found[key] = " ".join(str(item) for item in value)
        elif isinstance(value, dict):
            problems.append(f"{path}: {key}: a single value is wanted here")
        elif value is not None or _may_be_empty(key):
            found[key] = "" if value is None else str(value)
    return found
