"""The connections of a login: its organisations, and the requests about them, as pure functions.

The facts come from Xero's page "Connections".
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..errors import UpstreamFailed
from ..secret import Secret
from .protocol import Request, Response

__all__ = ["Connection", "connections_request", "read_connections"]

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


def connections_request(url: str, access_token: Secret) -> Request:
    """Return the request for the list of organisations (Xero: "Connections")."""
    headers = {"Authorization": f"Bearer {access_token.reveal()}", "Accept": "application/json"}
    return Request("GET", url, headers)


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
