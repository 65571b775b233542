"""Requests for a token, one at a time on a connection that stays open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from support.raw_http import RawResponse, read_response
from xots.server import Server

__all__ = ["Say", "connected", "head"]

Say = Callable[..., Awaitable[RawResponse]]


@asynccontextmanager
async def connected(server: Server, path: Path | None = None) -> AsyncIterator[Say]:
    """Open one connection for many requests. Yield a function that sends ``GET /token``, or another
    target, with further lines of headers, or the bytes that are given instead."""
    if path is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    else:
        reader, writer = await asyncio.open_unix_connection(path)

    async def say(target: str = "/token", *lines: str, raw: bytes = b"") -> RawResponse:
        writer.write(raw or head(server, target, *lines))
        async with asyncio.timeout(10):
            return await read_response(reader)

    try:
        yield say
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(server: Server, target: str = "/token", *lines: str) -> bytes:
    """Return the bytes of a request without a body."""
    first = (f"GET {target} HTTP/1.1", f"Host: localhost:{server.port}")
    return "\r\n".join((*first, *lines, "", "")).encode()
