"""Every setting, declared once: name, type, default, help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..lifecycle.schedule import Policy
from ..secret import Secret
from ..xero import SCOPE_SETS, XERO, Credentials, Endpoints, Proxy
from . import parsing


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

    port: int = _setting(5001, parsing.integer(0, 65535), "port to run on", letter="p")
    address: str = _setting("127.0.0.1", parsing.address, "network address to run on", letter="n")
    redirect: str | None = _setting(
        None,
        parsing.redirect,
        "oauth2 redirect address",
        letter="r",
        shown="http://localhost:5001/code",
    )
    scopes: tuple[str, ...] = _setting(
        SCOPE_SETS["classic"],
        parsing.scopes,
        "oauth2 scopes; granular and classic stand for whole sets",
        letter="o",
        shown=", ".join(SCOPE_SETS["classic"]),
    )
    refreshmins: int = _setting(
        72000,
        parsing.integer(1, 84960),
        "set lifetime of refresh token (default 50 days)",
        letter="m",
    )
    client_id: str | None = _setting(
        None,
        parsing.printable,
        "client id of the app at Xero; without it a form asks for it",
        metavar="ID",
    )
    client_secret: Secret | None = _setting(
        None, parsing.secret, "client secret of the app at Xero", secret=True
    )
    client_secret_file: Path | None = _setting(
        None, parsing.file, "file that holds the client secret", metavar="FILE"
    )
    tenant_id: str | None = _setting(
        None, parsing.printable, "id of the organisation to use", metavar="ID"
    )
    account: str = _setting(
        "default", parsing.account_name, "name of the account in the store", metavar="NAME"
    )
    store: str | None = _setting(
        None,
        parsing.store,
        "where the login is kept, as a URL: file:///folder, redis://…, rediss://…, unix://…, sentinel://…, memory:",
        shown="a folder of the user's own",
        metavar="URL",
        hidden=True,  # a password may stand in it
    )
    key: tuple[Secret, ...] = _setting(
        (), parsing.keys, "sealing keys: the first seals, all open", secret=True
    )
    key_file: Path | None = _setting(
        None, Path, "file of sealing keys, one a line: the first seals, all open", metavar="FILE"
    )
    authorize_url: str = _setting(
        XERO.authorize_url, parsing.url, "where the person is sent to log in", metavar="URL"
    )
    token_url: str = _setting(XERO.token_url, parsing.url, "where tokens are issued", metavar="URL")
    revoke_url: str = _setting(
        XERO.revoke_url,
        parsing.url_or_nothing,
        "where tokens are revoked; empty: nowhere",
        metavar="URL",
        may_be_empty=True,
    )
    connections_url: str = _setting(
        XERO.connections_url,
        parsing.url_or_nothing,
        "where the connected organisations are listed; empty: there are no such",
        metavar="URL",
        may_be_empty=True,
    )
    pkce: bool = _setting(True, parsing.boolean, "whether a login uses PKCE", metavar="true|false")
    refresh_ahead: float = _setting(
        300.0,
        parsing.seconds(0, 86400),
        "refresh this many seconds before the access token's end",
        metavar="SECONDS",
    )
    min_ttl: float = _setting(
        60.0,
        parsing.seconds(0, 86400),
        "callers get a token that lives at least this many seconds",
        metavar="SECONDS",
    )
    tick: float = _setting(
        15.0, parsing.seconds(0.1, 300), "seconds between looks at what is due", metavar="SECONDS"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        parsing.hosts,
        "further values of the Host header to answer to, such as those of a proxy in front",
        metavar="HOSTS",
    )
    ca_file: Path | None = _setting(
        None,
        parsing.certificates,
        "certificates of the authorities to trust, in the system's place",
        metavar="FILE",
    )
    proxy: Proxy | None = _setting(
        None, parsing.proxy, "HTTP proxy to go through, as a URL", metavar="URL"
    )
    log_level: str = _setting(
        "info",
        parsing.choice("debug", "info", "warning", "error"),
        "least level of what is logged",
        metavar="LEVEL",
    )
    log_format: str = _setting(
        "text", parsing.choice("text", "json"), "how a line of the log is written", metavar="FORMAT"
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
