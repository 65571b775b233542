"""The connections of a login: its organisations, and the requests about them, as pure functions.

The facts come from Xero's page "Connections": ``DELETE /connections/{id}`` with an access token of
the user disconnects one organisation; the status is 204, and 404 from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from ..errors import UpstreamFailed, UpstreamThrottled
from ..lifecycle.account import valid_id
from ..lifecycle.outcomes import Failure, Unknown
from ..secret import Secret
from .protocol import Request, Response, retry_after, status_text

__all__ = [
    "Connection",
    "Listed",
    "connections_request",
    "disconnect_request",
    "read_connections",
    "read_disconnect_response",
]

VISIBLE = re.compile(r"[!-~]{1,128}")
"""The id or the type of an organisation, which are kept and shown: visible ASCII. Xero's ids are
UUIDs."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_DEPTH = 20
"""Upper bound on the nested values of an entry. Xero's have none."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One organisation that the login is connected to (Xero: "Connections")."""

    tenant_id: str
    id: str | None = None
    """Its id, by which it is deleted; None if the list names no valid one."""
    tenant_type: str | None = None
    tenant_name: str | None = None
    """Any text. Show it with ``safe_text``."""
    auth_event_id: str | None = None
    """The login that connected it."""
    fields: Mapping[str, object] = field(repr=False)
    """All its fields, as the identity server sent them. Only ``tenantId`` is known to be valid."""


class Listed(msgspec.Struct, frozen=True):
    """The list of connections."""

    connections: tuple[Connection, ...]
    skipped: int
    """Number of entries that are left out, since they name no valid organisation."""


def connections_request(url: str, access_token: Secret) -> Request:
    """Return the request for the list of organisations (Xero: "Connections")."""
    headers = {"Authorization": f"Bearer {access_token.reveal()}", "Accept": "application/json"}
    return Request("GET", url, headers)


def disconnect_request(url: str, access_token: Secret, connection_id: str) -> Request:
    """Return the request that deletes a connection of the list at ``url``.

    Raises:
        ValueError: the id may not stand in a URL: it could name another resource.
    """
    if valid_id(connection_id) is None:
        raise ValueError("the id of the connection is not made of letters, digits and hyphens")
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{connection_id}"
    headers = {"Authorization": f"Bearer {access_token.reveal()}", "Accept": "application/json"}
    return Request("DELETE", parts._replace(path=path).geturl(), headers)


def read_connections(response: Response, now: datetime) -> Listed:
    """Return the organisations in a response of the connections endpoint. ``now`` is aware UTC.

    Raises:
        UpstreamThrottled: the server has received too many requests.
        UpstreamFailed: the response is not a list.
    """
    if response.status != 200:
        wait = retry_after(response, now)
        kind = UpstreamThrottled if response.status == 429 else UpstreamFailed
        raise kind(
            f"the connections endpoint responded with {status_text(response.status)}",
            None if wait is None else wait.total_seconds(),
        )
    try:
        body = response.body.removeprefix(BYTE_ORDER_MARK)
        entries = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not UTF-8
        raise UpstreamFailed(
            "the response of the connections endpoint is not a list of connections"
        ) from None
    found = tuple(one for one in map(_connection, entries) if one is not None)
    return Listed(found, len(entries) - len(found))


def _connection(entry: msgspec.Raw) -> Connection | None:
    """Return the connection of an entry; None if it names no valid organisation.

    Any other field with a wrong type or characters that it may not hold counts as missing.
    """
    try:
        fields = msgspec.json.decode(entry)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or _is_deep(fields):
        return None
    tenant_id, name = _visible(fields.get("tenantId")), fields.get("tenantName")
    if tenant_id is None:
        return None
    return Connection(
        tenant_id=tenant_id,
        id=valid_id(fields.get("id")),
        tenant_type=_visible(fields.get("tenantType")),
        tenant_name=name if isinstance(name, str) else None,
        auth_event_id=valid_id(fields.get("authEventId")),
        fields=fields,
    )


def _visible(value: object) -> str | None:
    """Return a field if it is short visible text, else None."""
    return value if isinstance(value, str) and VISIBLE.fullmatch(value) else None


def _is_deep(value: object, levels: int = MAX_DEPTH) -> bool:
    """True if a value has too many nested values to be written as JSON again."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(one, levels - 1) for one in inner)


def read_disconnect_response(response: Response) -> Failure | None:
    """Return the failure of a deletion; None if the connection is deleted, or unknown there."""
    if response.status in (204, 404):
        return None
    return Unknown(detail=f"the connections endpoint responded with {status_text(response.status)}")
