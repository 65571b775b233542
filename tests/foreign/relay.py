"""``Relay``: a TCP relay before a token endpoint, which loses responses and counts tokens."""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import StreamReader, StreamWriter
from collections import Counter
from enum import Enum
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

__all__ = ["Relay", "Treatment"]


class Treatment(Enum):
    """What the relay does with a response that it has read whole."""

    FORWARD = "forward"
    LOSE = "lose"
    """Close the connection of the client instead."""
    HOLD = "hold"
    """Keep it until the client closes the connection."""


class Relay:
    """Forwards each request to the token endpoint at ``target``, one request a connection."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.next = Treatment.FORWARD
        """The treatment of the next response. Those after it are forwarded."""
        self.holding = asyncio.Event()
        """Set once the relay holds a response."""
        self.spent = Counter[str]()
        """How often each refresh token has passed, by its SHA-256."""

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The URL that stands in for the token endpoint's."""
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}{self._target.path}"

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        try:
            request = await _read_request(client)
            self._count(request)
            treatment, self.next = self.next, Treatment.FORWARD
            response = await self._response(request)
            match treatment:
                case Treatment.FORWARD:
                    to_client.write(response)
                    await to_client.drain()
                case Treatment.HOLD:
                    self.holding.set()
                    await client.read()
        finally:
            to_client.close()

    def _count(self, request: bytes) -> None:
        form = parse_qs(request.partition(b"\r\n\r\n")[2])
        for token in form.get(b"refresh_token", []):
            self.spent[hashlib.sha256(token).hexdigest()] += 1

    async def _response(self, request: bytes) -> bytes:
        """Return the whole response. The client has demanded ``Connection: close``."""
        upstream, to_upstream = await asyncio.open_connection(
            self._target.hostname, self._target.port
        )
        try:
            to_upstream.write(request)
            return await upstream.read()
        finally:
            to_upstream.close()


async def _read_request(client: StreamReader) -> bytes:
    head = await client.readuntil(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    [length] = [int(value) for name, _, value in fields if name == b"content-length"]
    return head + await client.readexactly(length)
