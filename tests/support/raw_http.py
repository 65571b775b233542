"""Raw requests over keep-alive connections, many on each, and their responses."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NO_RESPONSE", "RawResponse", "exchange", "read_response", "reset_at_close"]

RESPONSE_TIMEOUT_SECONDS = 20
"""Upper bound on the wait for the responses on one connection. No healthy run comes near it."""


@dataclass(frozen=True)
class RawResponse:
    """A response. Status 0: the server closed the connection without one."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def value(self, name: str) -> str | None:
        """Return the header's value; None if there is none."""
        return next((value for given, value in self.headers if given == name.lower()), None)

    @property
    def media_type(self) -> str:
        return (self.value("content-type") or "").partition(";")[0]

    def shows(self, text: str) -> bool:
        """Tell if the text occurs in the body or in a header."""
        return text.encode() in self.body or any(text in value for _, value in self.headers)


NO_RESPONSE = RawResponse(0)


def reset_at_close(connected: socket.socket) -> None:
    """Let the close of a socket reset its connection."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def read_response(reader: asyncio.StreamReader, *, head_only: bool = False) -> RawResponse:
    """Read one response.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: the connection ended before its end.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = tuple(
        (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
    )
    response = RawResponse(int(first.split()[1]), headers)
    if head_only or response.status in (204, 304):
        return response
    length = response.value("content-length")
    body = await (reader.read() if length is None else reader.readexactly(int(length)))
    return RawResponse(response.status, headers, body)


async def exchange(
    server: int | Path,
    requests: Sequence[tuple[bytes, bool]],
    tls: ssl.SSLContext | None = None,
) -> list[RawResponse]:
    """Send the requests down one connection and return their responses.

    When the server closes the connection, the rest goes down a new one.

    Args:
        server: its port on 127.0.0.1, or the path of its Unix socket.
        requests: the bytes of each, and whether its response has no body (HEAD).
        tls: speak TLS.
    """
    responses: list[RawResponse] = []
    alone = False
    """True after a connection that brought no response: the next one carries one request."""
    while len(responses) < len(requests):
        rest = requests[len(responses) :][: 1 if alone else None]
        received = await _on_one_connection(server, rest, tls)
        if not received and alone:
            received = [NO_RESPONSE]
        alone = not received
        responses += received
    return responses


async def _on_one_connection(
    server: int | Path, requests: Sequence[tuple[bytes, bool]], tls: ssl.SSLContext | None
) -> list[RawResponse]:
    responses: list[RawResponse] = []
    async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
        if isinstance(server, Path):
            reader, writer = await asyncio.open_unix_connection(server)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", server, ssl=tls)
        try:
            writer.write(b"".join(sent for sent, _ in requests))
            for _, head_only in requests:
                responses.append(await read_response(reader, head_only=head_only))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
    return responses
