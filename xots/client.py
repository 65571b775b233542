"""A client for programs that use a running server. It needs no Tornado, so that it starts fast."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from .errors import ServerRefused, ServerUnreachable

__all__ = ["Client"]

WORD = re.compile("[!-~]+")
"""A token or an id: visible ASCII."""

REQUEST_TIMEOUT_SECONDS = 60.0
"""A request may wait for a whole refresh: its deadline, and the lease of a process that vanished in
the middle of one."""


@dataclass(frozen=True)
class _Response:
    status: int
    location: str | None
    content: Any
    """The JSON value of the body; None if the body is not JSON."""


class Client:
    """Sends requests to the xots server at one address.

    Args:
        host: its host name or address.
        port: its port.
        account: the name of the account; None for the one that the paths without a name serve.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 5001, account: str | None = None
    ) -> None:
        self.host, self.port, self.account = host, port, account

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

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
            ServerUnreachable, ServerRefused: as for ``token``.
        """
        content: list[dict[str, Any]] = self.request("GET", "/tenants")
        if not all(isinstance(tenant, dict) and "tenantId" in tenant for tenant in content):
            raise self._not_xots()
        return content

    def accounts(self) -> list[dict[str, Any]]:
        """Return the accounts of the server, each with ``name`` and ``state``.

        Raises:
            ServerUnreachable, ServerRefused: as for ``token``.
        """
        found = Client(self.host, self.port).request("GET", "/accounts", "accounts")["accounts"]
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
            ServerUnreachable, ServerRefused: as for ``token``.
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
        connection = http.client.HTTPConnection(
            self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS
        )
        try:
            connection.request(method, path, sent, headers)
            response = connection.getresponse()
            location = response.headers["Location"]
            return _Response(response.status, location, _json(response.read()))
        except http.client.HTTPException:
            raise self._not_xots() from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ServerUnreachable(
                f"no server responds at {self.url} ({reason}); start one with xots, or "
                "give the port of a running one with --port or XOTS_PORT"
            ) from None
        finally:
            connection.close()

    def _not_xots(self, reason: str = "") -> ServerRefused:
        return ServerRefused(f"the program at {self.url} is not xots{reason}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _has(content: Any, *names: str) -> bool:
    """Return True if the content is an object with all these names."""
    return isinstance(content, dict) and all(name in content for name in names)
