"""The deletion of a connection as pure functions: build the request, read the response.

The facts come from Xero's page "Connections": ``DELETE /connections/{id}`` with an access token of
the user disconnects one organisation; the status is 204, and 404 from then on.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ..lifecycle.outcomes import Failure, Unknown
from ..secret import Secret
from .protocol import Request, Response

__all__ = ["disconnect_request", "read_disconnect_response"]

CONNECTION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""The id of a connection that may stand in a URL. Xero's are UUIDs."""


def disconnect_request(url: str, access_token: Secret, connection_id: str) -> Request:
    """Return the request that deletes a connection of the list at ``url``.

    Raises:
        ValueError: the id may not stand in a URL: it could name another resource.
    """
    if not CONNECTION_ID.fullmatch(connection_id):
        raise ValueError("the id of the connection is not made of letters, digits and hyphens")
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{connection_id}"
    headers = {"Authorization": f"Bearer {access_token.reveal()}", "Accept": "application/json"}
    return Request("DELETE", parts._replace(path=path).geturl(), headers)


def read_disconnect_response(response: Response) -> Failure | None:
    """Return the failure of a deletion; None if the connection is deleted, or unknown there."""
    if response.status in (204, 404):
        return None
    return Unknown(detail=f"the connections endpoint responded with status {response.status}")
