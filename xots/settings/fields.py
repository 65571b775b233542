"""The settings of a server: ``Settings``, in which each setting is declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import cache
from pathlib import Path

from ..lifecycle.account import Entry
from ..lifecycle.policy import Grant, Policy
from ..secret import Secret
from ..xero.http import Proxy
from ..xero.identity_server import XERO, ClientAuth, IdentityServer
from ..xero.protocol import SCOPE_SETS, Credentials
from . import parsing
from .accounts import Layer, of_entry
from .declaring import Setting, setting

__all__ = ["Settings", "declared"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server. Its repr shows no secret."""

    port: int = setting(5001, parsing.integer(0, 65535), "port to run on", letter="p")
    address: str = setting("127.0.0.1", parsing.address, "network address to run on", letter="n")
    redirect: str | None = setting(
        None,
        parsing.redirect,
        "oauth2 redirect address",
        letter="r",
        default_text="http://localhost:5001/code",
    )
    scopes: tuple[str, ...] = setting(
        SCOPE_SETS["classic"],
        parsing.scopes,
        "oauth2 scopes; granular and classic stand for whole sets",
        letter="o",
        default_text=", ".join(SCOPE_SETS["classic"]),
        per_account=True,
        may_repeat=True,
    )
    refreshmins: int = setting(
        72000,
        parsing.integer(1, 84960),  # 59 days: Xero's refresh tokens die after 60
        "set lifetime of refresh token (default 50 days)",
        letter="m",
        per_account=True,
    )
    client_id: str | None = setting(
        None,
        parsing.printable,
        "client id of the app at Xero; without one, a form asks for it",
        metavar="ID",
        per_account=True,
    )
    client_secret: Secret | None = setting(
        None,
        parsing.secret,
        "client secret of the app at Xero",
        secret=True,
        per_account=True,
    )
    client_secret_file: Path | None = setting(
        None,
        parsing.readable_file,
        "file that holds the client secret",
        metavar="FILE",
        per_account=True,
    )
    tenant_id: str | None = setting(
        None,
        parsing.printable,
        "id of the organisation to use",
        metavar="ID",
        per_account=True,
    )
    account: str = setting(
        "default", parsing.account_name, "name of the account in the store", metavar="NAME"
    )
    store: str | None = setting(
        None,
        parsing.store,
        "URL of the store that keeps the login: file:///folder, redis://…, rediss://…, unix://…, "
        "sentinel://…, memory:",
        metavar="URL",
        default_text="a folder of the user's own",
        in_repr=False,  # it may hold a password
    )
    key: tuple[Secret, ...] = setting(
        (), parsing.keys, "sealing keys: the first seals, all open", secret=True
    )
    key_file: Path | None = setting(
        None, Path, "file of sealing keys, one a line: the first seals, all open", metavar="FILE"
    )
    authorize_url: str = setting(
        XERO.authorize_url,
        parsing.url,
        "URL at which the user logs in",
        metavar="URL",
        per_account=True,
    )
    token_url: str = setting(
        XERO.token_url,
        parsing.url,
        "URL of the token endpoint",
        metavar="URL",
        per_account=True,
    )
    revoke_url: str = setting(
        XERO.revoke_url,
        parsing.optional_url,
        "URL that revokes tokens; empty if there is none",
        metavar="URL",
        may_be_empty=True,
        per_account=True,
    )
    connections_url: str = setting(
        XERO.connections_url,
        parsing.optional_url,
        "URL that lists the connected organisations; empty if there is none",
        metavar="URL",
        may_be_empty=True,
        per_account=True,
    )
    authorize_params: tuple[tuple[str, str], ...] = setting(
        (),
        parsing.authorize_params,
        "further parameters of the login's URL, as in a query: prompt=consent&access_type=offline",
        metavar="QUERY",
        per_account=True,
    )
    client_auth: str = setting(
        ClientAuth.BASIC.value,
        parsing.choice(*ClientAuth),
        "how the client authenticates: by HTTP Basic, in the form (post), by its id alone (none)",
        metavar="basic|post|none",
        per_account=True,
    )
    issuer: str | None = setting(
        None,
        parsing.printable,
        "issuer that a login's response must name if it names one",
        metavar="URL",
        per_account=True,
    )
    grace: float = setting(
        1800.0,
        parsing.seconds(0, 86400),
        "the server accepts a spent refresh token again for this many seconds; 0: never",
        metavar="SECONDS",
        per_account=True,
    )
    grant: str = setting(
        Grant.AUTHORIZATION_CODE.value,
        parsing.choice(*Grant),
        "how the account gets its tokens: by a user's login, or by the client's own credentials",
        metavar="|".join(Grant),
        per_account=True,
    )
    pkce: bool = setting(
        True,
        parsing.boolean,
        "whether a login uses PKCE",
        metavar="true|false",
        default_text="true",
        per_account=True,
    )
    refresh_ahead: float = setting(
        300.0,
        parsing.seconds(0, 86400),
        "refresh this many seconds before the access token expires",
        metavar="SECONDS",
        per_account=True,
    )
    min_ttl: float = setting(
        60.0,
        parsing.seconds(0, 86400),
        "callers get a token that lives at least this many seconds",
        metavar="SECONDS",
        per_account=True,
    )
    tick: float = setting(
        15.0,
        parsing.seconds(0.1, 300),
        "interval between checks for a due refresh, in seconds",
        metavar="SECONDS",
    )
    refresh_interval: float = setting(
        5.0,
        parsing.seconds(0, 300),
        "programs can force a refresh at most this often, in seconds; 0: no limit",
        metavar="SECONDS",
        per_account=True,
    )
    fresh: str | None = setting(
        None,
        parsing.choice("always", "used"),
        "refresh access tokens ahead: always, or used: while callers use the account",
        metavar="always|used",
        default_text="always; for further accounts used",
        per_account=True,
    )
    max_requests: int = setting(
        10,
        parsing.integer(1, 1000),
        "upper bound on simultaneous requests to one identity server",
        metavar="NUMBER",
    )
    max_accounts: int = setting(
        1000,
        parsing.integer(1, 100_000),
        "upper bound on accounts, for those that are added at run time",
        metavar="NUMBER",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        parsing.hosts,
        "further values of the Host header to accept, such as the host name of a reverse proxy",
        metavar="HOSTS",
    )
    unix_socket: Path | None = setting(
        None, parsing.socket_path, "path of the server's Unix socket", metavar="PATH"
    )
    unix_socket_group: int | None = setting(
        None, parsing.group, "group whose users may connect to the Unix socket", metavar="GROUP"
    )
    readers: Path | str | None = setting(
        None,
        parsing.readers,
        "file of readers: each request over TCP needs the key of one; anyone: none needs a key",
        metavar="FILE|anyone",
        may_be_empty=True,
    )
    allowed_users: tuple[int, ...] | None = setting(
        None,
        parsing.users,
        "users of this machine that alone may connect",
        metavar="USERS",
        may_be_empty=True,
    )
    tls_certificate: Path | None = setting(
        None,
        parsing.certificates,
        "PEM file of the server's certificate; with it, TCP speaks TLS",
        metavar="FILE",
    )
    tls_key: Path | None = setting(
        None, parsing.readable_file, "private key of tls_certificate", metavar="FILE"
    )
    reader_key_file: Path | None = setting(
        None, Path, "for commands: file that holds the reader's key to send", metavar="FILE"
    )
    server_user: str | None = setting(
        None,
        parsing.printable,
        "for commands: user that runs the server, if that is neither root nor the caller",
        metavar="USER",
    )
    max_connections: int = setting(
        1000, parsing.integer(10, 60000), "upper bound on open connections", metavar="NUMBER"
    )
    head_timeout: float = setting(
        10.0,
        parsing.seconds(0.1, 3600),
        "time for the headers of a request, in seconds",
        metavar="SECONDS",
    )
    body_timeout: float = setting(
        20.0,
        parsing.seconds(0.1, 3600),
        "time for the body of a request, in seconds",
        metavar="SECONDS",
    )
    idle_timeout: float = setting(
        30.0,
        parsing.seconds(0.1, 3600),
        "time until the next request on an open connection, in seconds",
        metavar="SECONDS",
    )
    write_timeout: float = setting(
        20.0,
        parsing.seconds(0.1, 3600),
        "time for a client to take a response, in seconds",
        metavar="SECONDS",
    )
    express_lane: bool = setting(
        True,
        parsing.boolean,
        "whether a repeated request for /token gets the known response without a handler",
        metavar="true|false",
        default_text="true",
    )
    ca_file: Path | None = setting(
        None,
        parsing.certificates,
        "certificates of the authorities to trust instead of the system's",
        metavar="FILE",
        per_account=True,
    )
    proxy: Proxy | None = setting(
        None,
        parsing.proxy,
        "URL of an HTTP proxy for requests to Xero",
        metavar="URL",
        per_account=True,
    )
    log_level: str = setting(
        "info",
        parsing.choice("debug", "info", "warning", "error"),
        "lowest level of messages in the log",
        metavar="LEVEL",
    )
    log_format: str = setting(
        "text", parsing.choice("text", "json"), "format of the log's lines", metavar="FORMAT"
    )

    accounts: Mapping[str, Layer] = field(default_factory=dict)
    """The own settings of each account that the YAML file names."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The place where each setting was set, by its name. A default has none."""
    warnings: tuple[str, ...] = ()
    """Why other users may know a secret of the settings or replace it, with the remedies."""

    def for_account(self, name: str, entry: Entry | None = None) -> Settings:
        """Return the settings of one account: ``account`` is its name, ``fresh`` is set, and the
        scopes are those to request.

        Settings of its own in the YAML file win over those of its entry, and both over those of the
        top level. ``accounts`` says which ones are inherited.

        Args:
            name: the name of the account, which need not be in ``accounts``.
            entry: its settings if it was added at run time.
        """
        top = Layer({name: getattr(self, name) for name in _own_names()}, self.sources)
        own = self.accounts.get(name, Layer()).above(of_entry(entry).above(top))
        values = dict(own.values)
        if values["fresh"] is None:
            values["fresh"] = "always" if name == self.account else "used"
        if values["grant"] == Grant.CLIENT_CREDENTIALS:
            # It brings no refresh token, and Xero refuses the scope.
            scopes = (scope for scope in values["scopes"] if scope != "offline_access")
            values["scopes"] = tuple(scopes)
        return replace(self, **values, account=name, accounts={}, sources=own.places)

    @property
    def scheme(self) -> str:
        """The scheme of this server's URLs over TCP."""
        return "https" if self.tls_certificate else "http"

    @property
    def redirect_uri(self) -> str:
        """The redirect URI: the setting, or ``localhost`` with the port."""
        return self.redirect or f"{self.scheme}://localhost:{self.port}/code"

    @property
    def credentials(self) -> Credentials | None:
        """The client's credentials; None if the settings hold no client id, or lack the secret by
        which alone it gets tokens."""
        by_client = self.grant == Grant.CLIENT_CREDENTIALS
        is_secret_needed = by_client and self.client_auth != ClientAuth.NONE
        if self.client_id is None or (is_secret_needed and self.client_secret is None):
            return None
        return Credentials(client_id=self.client_id, client_secret=self.client_secret)

    @property
    def identity_server(self) -> IdentityServer:
        """The identity server."""
        return IdentityServer(
            authorize_url=self.authorize_url,
            token_url=self.token_url,
            revoke_url=self.revoke_url,
            connections_url=self.connections_url,
            authorize_params=self.authorize_params,
            client_auth=ClientAuth(self.client_auth),
            issuer=self.issuer,
        )

    @property
    def policy(self) -> Policy:
        """The durations that decide when a refresh is due."""
        return Policy(
            refresh_ahead=timedelta(seconds=self.refresh_ahead),
            min_ttl=timedelta(seconds=self.min_ttl),
            refresh_lifetime=timedelta(minutes=self.refreshmins),
            tick=timedelta(seconds=self.tick),
            refresh_interval=timedelta(seconds=self.refresh_interval),
            grace=timedelta(seconds=self.grace),
            grant=Grant(self.grant),
        )


@cache
def _own_names() -> tuple[str, ...]:
    """Return the names of the settings that an account can have of its own."""
    return tuple(setting.name for setting in declared() if setting.per_account)


def declared() -> list[Setting]:
    """Return the declarations of all settings, in the order of the help."""
    return [
        replace(found.metadata["setting"], name=found.name)
        for found in fields(Settings)
        if "setting" in found.metadata
    ]
