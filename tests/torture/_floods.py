"""Slow, broken and greedy clients: a process of its own, which ``torture.slow_clients`` starts.

``python -m torture._floods PORT KIND=CLIENTS@RATE...`` runs until its standard input ends. Each
kind has so many clients at once, and all clients of a kind connect ``RATE`` times a second at most.
It prints the number of connections that it made.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache

FOREVER_SECONDS = 3600.0

MAX_UNREAD = 2500
"""Number of style sheets that fill the buffers of a socket: some megabytes."""

PAUSE_SECONDS = 1.0
"""Time until a client connects again after the server has closed its connection."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(port: int, path: str = "/ping", *, host: str = "", more: str = "") -> bytes:
    """Return the head of a request."""
    return f"GET {path} HTTP/1.1\r\nHost: {host or f'localhost:{port}'}\r\n{more}\r\n".encode()


async def half_head(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(head(port)[:-4])
    await reader.read()


async def half_body(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(
        head(port, "/refresh", more="Content-Length: 100\r\n").replace(b"GET", b"POST") + b"half"
    )
    await reader.read()


async def no_byte(streams: Streams, port: int) -> None:
    await streams[0].read()


async def idle(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(head(port))
    await reader.read()


async def drip(streams: Streams, port: int) -> None:
    """Send a byte each half second."""
    _, writer = streams
    for byte in head(port, "/ping" + "?" * 1000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.5)


async def tls(streams: Streams, port: int) -> None:
    """Begin a TLS handshake, as a client does that was given an https:// URL."""
    reader, writer = streams
    writer.write(client_hello())
    await reader.read()


@cache
def client_hello() -> bytes:
    """Return the first bytes of Python's own TLS client."""
    outgoing = ssl.MemoryBIO()
    handshake = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return outgoing.read()


async def not_reading(streams: Streams, port: int) -> None:
    """Request until all buffers are full, and read no response."""
    _, writer = streams
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(MAX_UNREAD):
        writer.write(head(port, "/style.css"))
        await writer.drain()
        await asyncio.sleep(0.01)
    await asyncio.sleep(FOREVER_SECONDS)


async def idle_token(streams: Streams, port: int) -> None:
    """Request a token, which the express lane sends, and stay."""
    reader, writer = streams
    writer.write(head(port, "/token"))
    while await reader.read(1 << 16):
        pass


async def half_token(streams: Streams, port: int) -> None:
    """Send half a head after one that the express lane knows."""
    reader, writer = streams
    writer.write(head(port, "/token"))
    await reader.read(1 << 16)
    writer.write(head(port, "/token")[:-2])
    while await reader.read(1 << 16):
        pass


async def tokens(streams: Streams, port: int) -> None:
    """Request tokens, one after the other."""
    reader, writer = streams
    writer.write(head(port, "/token"))
    while await reader.read(1 << 16):
        await asyncio.sleep(0.05)
        writer.write(head(port, "/token"))


async def tokens_not_reading(streams: Streams, port: int) -> None:
    """Request tokens until all buffers are full, and read no response."""
    _, writer = streams
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(10 * MAX_UNREAD):
        writer.write(head(port, "/token"))
        await writer.drain()
        await asyncio.sleep(0.002)
    await asyncio.sleep(FOREVER_SECONDS)


async def connection(streams: Streams, port: int) -> None:
    """Close at once."""


async def long_path(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(head(port, "/" + "long%0a" * 1000, more="Connection: close\r\n"))
    await reader.read()


async def long_head(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(head(port, more=f"Cookie: {'c' * 70_000}\r\n"))
    await reader.read()


async def foreign_host(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(head(port, "/token", host="rebound.example", more="Connection: close\r\n"))
    await reader.read()


async def foreign_page(streams: Streams, port: int) -> None:
    reader, writer = streams
    more = "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\nConnection: close\r\n"
    writer.write(head(port, "/token", more=more))
    await reader.read()


async def nonsense(streams: Streams, port: int) -> None:
    reader, writer = streams
    writer.write(b"\x00\x1b[31m\r\nAuthorization Bearer no colon\r\n\r\n")
    await reader.read()


KINDS: dict[str, Callable[[Streams, int], Awaitable[None]]] = {
    found.__name__: found
    for found in (
        *(half_head, half_body, no_byte, idle, drip, tls, not_reading, connection),
        *(idle_token, half_token, tokens, tokens_not_reading),
        *(long_path, long_head, foreign_host, foreign_page, nonsense),
    )
}


class Flood:
    """The clients of one kind."""

    def __init__(self, kind: str, clients: int, rate: float, port: int) -> None:
        self.kind, self.clients, self.rate, self.port = kind, clients, rate, port
        self.made = 0
        self._next_at = 0.0

    async def run(self) -> None:
        """Run until cancelled."""
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _turn(self) -> None:
        """Wait until the next connection is permitted."""
        now = asyncio.get_running_loop().time()
        self._next_at = max(now, self._next_at + 1 / self.rate)
        await asyncio.sleep(self._next_at - now)

    async def _client(self) -> None:
        while True:
            await self._turn()
            with suppress(OSError):
                await self._connect_once()
            if self.kind not in ("connection", "long_path"):
                await asyncio.sleep(PAUSE_SECONDS)

    async def _connect_once(self) -> None:
        connected = socket.socket()
        connected.setblocking(False)
        if self.kind.endswith("not_reading"):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            address = ("127.0.0.1", self.port)
            await asyncio.get_running_loop().sock_connect(connected, address)
            streams = await asyncio.open_connection(sock=connected)
        except BaseException:
            connected.close()
            raise
        self.made += 1
        try:
            await KINDS[self.kind](streams, self.port)
        finally:
            streams[1].transport.abort()


def parse(text: str, port: int) -> Flood:
    """Return the flood of ``KIND=CLIENTS@RATE``."""
    kind, _, numbers = text.partition("=")
    clients, _, rate = numbers.partition("@")
    return Flood(kind, int(clients), float(rate), port)


async def run(port: int, specs: list[str]) -> None:
    """Run the floods until standard input ends."""
    floods = [parse(spec, port) for spec in specs]
    tasks = [asyncio.create_task(flood.run()) for flood in floods]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(" ".join(f"{flood.kind}={flood.made}" for flood in floods), flush=True)


if __name__ == "__main__":
    os.nice(10)  # the clients that are measured share this core
    asyncio.run(run(int(sys.argv[1]), sys.argv[2:]))
