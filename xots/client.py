"""A client for programs that use a running server. It needs no Tornado, so that it starts fast."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .errors import ServerRefused, ServerUnproved, ServerUnreachable
from .proof import prove_certificate, prove_tcp, prove_unix
from .secret import Secret

__all__ = ["WORD", "Client"]

WORD = re.compile("[!-~]+")
"""A token, an id or a key: visible ASCII."""

MAX_RESPONSE_BYTES = 32 << 20
"""Upper bound on the part of a response that is read. A longer one is cut, and no JSON then: no
program fills the memory of a command."""

REQUEST_TIMEOUT_SECONDS = 60.0
"""A request may wait for a whole refresh: its deadline, and the lease of a process that vanished in
the middle of one."""


@dataclass(frozen=True)
class _Response:
    status: int
    location: str | None
    content: Any
    """The JSON value of the body; None if the body is not JSON."""


@dataclass(frozen=True)
class Client:
    """Sends requests to the xots server at one address, and a key only to a server that has proved
    who it is."""

    host: str = "127.0.0.1"
    """The host name or address of the server."""
    port: int = 5001
    account: str | None = None
    """The name of the account; None for the one that the paths without a name serve."""
    _: KW_ONLY
    unix_socket: Path | None = None
    """The Unix socket to connect to, instead of host and port. No key is sent there."""
    key: Secret | None = None
    """The reader's key, which matches ``WORD``."""
    server_user: str | None = None
    """The name or id of the user that runs the server; None if that is this user or root."""
    uses_tls: bool = False
    certificate: bytes | None = field(default=None, repr=False)
    """The only certificate that the server may have, in DER. With None, TLS accepts one that an
    authority of this system has signed for the host."""

    def __post_init__(self) -> None:
        if self.certificate is not None and not self.uses_tls:
            raise ValueError("a certificate proves nothing without TLS")

    @property
    def url(self) -> str:
        """The server's URL; ``unix:`` with the path of a Unix socket."""
        if self.unix_socket is not None:
            return f"unix:{self.unix_socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.uses_tls else 'http'}://{host}:{self.port}"

    @property
    def path(self) -> str:
        """The path of the account, which stands before that of each of its endpoints."""
        return f"/accounts/{self.account}" if self.account else ""

    def token(self, min_ttl: int | None = None, tenant: str | None = None) -> dict[str, Any]:
        """Return the response of ``/token``, with ``accessToken``, ``expiresIn`` and ``tenantId``.

        Args:
            min_ttl: the least life of the token in seconds; None leaves it to the server.
            tenant: the id or the unique name of the organisation whose id ``tenantId`` is to be;
                None leaves it to the server.

        Raises:
            ServerUnreachable: no server responds.
            ServerUnproved: the program at the address may be another user's; nothing was sent.
            SettingsError: ``server_user`` names no user.
            ServerRefused: it gave no token; the message gives its reason and the remedy.
        """
        given = {"min_ttl": min_ttl, "tenant": tenant}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        path = f"/token?{query}" if query else "/token"
        content: dict[str, Any] = self.request("GET", path, "accessToken")
        words = (content["accessToken"], content.get("tenantId") or "none")
        if not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
            raise self._not_xots()
        return content

    def tenants(self) -> list[dict[str, Any]]:
        """Return the response of ``/tenants``: the connected organisations, as Xero lists them.

        Raises:
            ServerUnreachable, ServerUnproved, SettingsError, ServerRefused: as for ``token``.
        """
        content: list[dict[str, Any]] = self.request("GET", "/tenants")
        if not all(isinstance(tenant, dict) and "tenantId" in tenant for tenant in content):
            raise self._not_xots()
        return content

    def accounts(self) -> list[dict[str, Any]]:
        """Return the accounts of the server, each with ``name`` and ``state``.

        Raises:
            ServerUnreachable, ServerUnproved, SettingsError, ServerRefused: as for ``token``.
        """
        everything = replace(self, account=None)
        found = everything.request("GET", "/accounts", "accounts")["accounts"]
        if not (isinstance(found, list) and all(_has(one, "name", "state") for one in found)):
            raise self._not_xots()
        return found

    def request(
        self,
        method: str,
        path: str,
        *fields: str,
        body: Mapping[str, str] | None = None,
        also: tuple[int, ...] = (),
        done_at: str | None = None,
    ) -> Any:
        """Send a request and return the JSON value of its response.

        Args:
            method: the HTTP method.
            path: the path below that of the account, with its query.
            fields: the names that the object in the response must have. Without names, the response
                must be a list.
            body: the object to send, as JSON. It may hold secrets, which no message repeats.
            also: statuses from 400 up that are no errors.
            done_at: the path, below that of the account, of a redirect that reports success. None
                is returned for it.

        Raises:
            ServerUnreachable, ServerUnproved, SettingsError, ServerRefused: as for ``token``.
        """
        response = self._send(method, self.path + path, body)
        done = None if done_at is None else (303, self.path + done_at)
        if (response.status, response.location) == done:
            return None
        content = response.content
        if response.status >= 400 and response.status not in also and _has(content, "title"):
            kind = str(content.get("type")).rpartition(":")[2]
            if kind == "not-found" and self.account:
                raise ServerRefused(
                    f"the server at {self.url} has no paths of accounts: it runs an earlier "
                    "version, with one account. Restart it with this version, or leave out "
                    "--account and XOTS_ACCOUNT",
                    kind,
                )
            raise ServerRefused(str(content.get("detail") or content["title"]), kind)
        if not (_has(content, *fields) if fields else isinstance(content, list)):
            raise self._not_xots(f" (status {response.status})")
        return content

    def _send(self, method: str, path: str, body: Mapping[str, str] | None) -> _Response:
        headers = {"Accept": "application/json", "User-Agent": "xots"}
        sent = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = json.dumps(body).encode()
        if self.key is not None and self.unix_socket is None:
            headers["Authorization"] = f"Bearer {self.key.reveal()}"
        try:
            with closing(self._proved_connection(has_secret=body is not None)) as connection:
                connection.request(method, path, sent, headers)
                response = connection.getresponse()
                location = response.headers["Location"]
                content = response.read(MAX_RESPONSE_BYTES)
                return _Response(response.status, location, _json(content))
        except OSError as error:  # that of a program that closes without a response, too
            raise self._interrupted(error) from None
        except http.client.HTTPException:
            raise self._not_xots() from None

    def _proved_connection(self, *, has_secret: bool) -> http.client.HTTPConnection:
        """Connect, and return the connection once the server has proved who it is.

        Raises:
            ServerUnreachable, ServerUnproved, SettingsError, ServerRefused: as for ``token``.
            OSError: the program at the address ends the connection.
        """
        connection = self._connection()
        connection.auto_open = 0  # it would connect again without a proof
        try:
            connection.connect()
            self._prove(connection.sock, has_secret=has_secret)
        except ssl.SSLError as error:
            connection.close()
            reason = getattr(error, "verify_message", None) or error.reason or type(error).__name__
            remedy = "set tls_certificate to the certificate of the server"
            if self.certificate is not None:
                remedy = "check that your server runs, and that it speaks TLS"
            raise ServerUnproved(
                f"the program at {self.url} does not prove by TLS that it is your server "
                f"({reason}), so nothing was sent to it; {remedy}"
            ) from None
        except OSError as error:
            is_connected = connection.sock is not None
            connection.close()
            raise self._interrupted(error) if is_connected else self._unreachable(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _connection(self) -> http.client.HTTPConnection:
        if self.unix_socket is not None:
            return _UnixConnection(self.unix_socket)
        if not self.uses_tls:
            return http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        if self.certificate is not None:  # _prove compares it
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS, context=context
        )

    def _prove(self, connected: socket.socket, *, has_secret: bool) -> None:
        if self.unix_socket is not None:
            prove_unix(connected, self.unix_socket, self.server_user)
        elif isinstance(connected, ssl.SSLSocket):
            if self.certificate is not None:
                prove_certificate(connected, self.url, self.certificate)
        else:
            prove_tcp(
                connected,
                self.url,
                self.server_user,
                REQUEST_TIMEOUT_SECONDS,
                must_know=has_secret or self.key is not None or self.server_user is not None,
            )

    def _unreachable(self, error: OSError) -> ServerUnreachable | ServerRefused:
        reason = error.strerror or type(error).__name__
        if self.unix_socket is None:
            remedy = "give the port of a running one with --port or XOTS_PORT"
        elif isinstance(error, PermissionError):
            return ServerRefused(
                f"this user may not connect to {self.url} ({reason}); an operator can add the user "
                "to the group of unix_socket_group",
                "access-denied",
            )
        else:
            remedy = "give the socket of a running one with --unix-socket or XOTS_UNIX_SOCKET"
        return ServerUnreachable(
            f"no server responds at {self.url} ({reason}); start one with xots, or {remedy}"
        )

    def _interrupted(self, error: OSError) -> ServerRefused:
        """Return the error of a request that got no response from a program that listens. It may
        be the server, so that no command works on the store in its place."""
        reason = error.strerror or type(error).__name__
        remedy = "" if self.uses_tls else "; if it speaks TLS, set tls_certificate"
        return ServerRefused(f"the program at {self.url} sent no response ({reason}){remedy}")

    def _not_xots(self, reason: str = "") -> ServerRefused:
        return ServerRefused(f"the program at {self.url} is not xots{reason}")


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=REQUEST_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(self.timeout)
            connecting.connect(str(self._path))
        except OSError:
            connecting.close()
            raise
        self.sock = connecting


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _has(content: Any, *names: str) -> bool:
    """Return True if the content is an object with all these names."""
    return isinstance(content, dict) and all(name in content for name in names)
