"""For programs that ask a running server. Needs no Tornado, so that it starts fast."""

from __future__ import annotations

import http.client
import json
from typing import Any

from .errors import ServerRefused, ServerUnreachable

__all__ = ["Client"]

PATIENCE_SECONDS = 60.0
"""A request may wait for a whole refresh: its deadline, and the lease of somebody who vanished in the middle of one."""


class Client:
    """Asks the xots server at one address.

    Args:
        host: its host name or address.
        port: its port.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 5001) -> None:
        self.host, self.port = host, port

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def token(self, min_ttl: int | None = None) -> dict[str, Any]:
        """What ``/token`` answers: ``accessToken``, ``expiresIn``, ``tenantId`` and so on.

        Raises:
            ServerUnreachable: no server answers.
            ServerRefused: it gave no token; the message says why and what to do.
        """
        path = "/token" if min_ttl is None else f"/token?min_ttl={min_ttl}"
        content: dict[str, Any] = self.ask("GET", path, "accessToken")
        return content

    def ask(
        self,
        method: str,
        path: str,
        *fields: str,
        also: tuple[int, ...] = (),
        done_at: str | None = None,
    ) -> Any:
        """The JSON that a request is answered with; None if a redirect to ``done_at`` says that it is done.

        ``fields`` are what an object that is answered with must hold (without any, a list is wanted); ``also`` names
        statuses of 400 and above that are answers and not errors.

        Raises:
            ServerUnreachable, ServerRefused: as ``token``.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(
                method, path, headers={"Accept": "application/json", "User-Agent": "xots"}
            )
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException:
            raise ServerRefused(f"what answers at {self.url} is not xots") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ServerUnreachable(
                f"no server answers at {self.url} ({reason}); start it with: xots"
            ) from None
        finally:
            connection.close()
        if done_at is not None and answer.status == 303 and answer.headers["Location"] == done_at:
            return None
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if (
            answer.status >= 400
            and answer.status not in also
            and isinstance(content, dict)
            and "title" in content
        ):
            raise ServerRefused(str(content.get("detail") or content["title"]))
        is_xots = (
            all(name in content for name in fields)
            if isinstance(content, dict)
            else isinstance(content, list)
        )
        if not is_xots or isinstance(content, list) == bool(fields):
            raise ServerRefused(f"what answers at {self.url} is not xots (status {answer.status})")
        return content
