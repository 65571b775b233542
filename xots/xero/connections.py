"""The connections of a login: its organisations, and the requests about them, as pure functions.

The facts come from Xero's page "Connections": ``DELETE /connections/{id}`` with an access token of
the user disconnects one organisation; the status is 204, and 404 from then on.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from ..errors import UpstreamFailed
from ..lifecycle.account import valid_id
from ..lifecycle.outcomes import Failure, Unknown
from ..secret import Secret
from .protocol import Request, Response

__all__ = [
    "Connection",
    "connections_request",
    "disconnect_request",
    "read_connections",
    "read_disconnect_response",
]

Id = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,128}\Z")]
"""An id of an organisation, which is kept and shown: visible ASCII. Xero's are UUIDs."""


class Connection(msgspec.Struct, frozen=True, rename="camel"):
    """One organisation that the login is connected to (Xero: "Connections").

    Fields of the response that are not named here are ignored.
    """

    id: Id
    tenant_id: Id
    tenant_type: Id = "ORGANISATION"
    tenant_name: str | None = None
    """Any text. Show it with ``safe_text``."""
    auth_event_id: object = None
    """The login that connected it. Read it with ``valid_id``."""


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


def read_connections(response: Response) -> list[Connection]:
    """Return the organisations in a response of the connections endpoint.

    Raises:
        UpstreamFailed: the response is not a list of connections, or an id in it is malformed.
    """
    if response.status != 200:
        raise UpstreamFailed(f"the connections endpoint responded with status {response.status}")
    try:
        return msgspec.json.decode(response.body, type=list[Connection])
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not UTF-8
        raise UpstreamFailed(
            "the response of the connections endpoint is not a list of connections, each with ids "
            "of up to 128 printable characters"
        ) from None


def read_disconnect_response(response: Response) -> Failure | None:
    """Return the failure of a deletion; None if the connection is deleted, or unknown there."""
    if response.status in (204, 404):
        return None
    return Unknown(detail=f"the connections endpoint responded with status {response.status}")
