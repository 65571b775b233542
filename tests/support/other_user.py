"""A second user of the machine, by a process with another user id. Only root can start one."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from support.store_programs import AM_ROOT

__all__ = ["OTHER_UID", "THIRD_UID", "as_other_user", "become", "needs_root", "raw_get"]

needs_root = pytest.mark.skipif(not AM_ROOT, reason="only root can act as another user")

OTHER_UID, THIRD_UID = 61234, 61235
"""The ids of two users, and of their groups, that no system has."""

IMPORTS = "import os, socket, sys, time"
"""Before the change of the user, who may have no right to read Python's own files."""

EXCHANGE = """
where, request = sys.argv[1], sys.argv[2].encode()
family = socket.AF_UNIX if where.startswith("/") else socket.AF_INET
connected = socket.socket(family, socket.SOCK_STREAM)
connected.settimeout(20)
connected.connect(where if family == socket.AF_UNIX else ("127.0.0.1", int(where)))
connected.sendall(request)
received = b""
while data := connected.recv(65536):
    received += data
sys.stdout.buffer.write(received)
"""


def become(uid: int = OTHER_UID) -> str:
    """Return the lines of a Python program, after its imports, from which on it runs as a user."""
    return f"\nos.setgroups([])\nos.setgid({uid})\nos.setuid({uid})\n"


async def as_other_user(program: str, *arguments: str, uid: int = OTHER_UID) -> bytes:
    """Run a Python program as another user, and return its output.

    Args:
        program: its text, after the imports of os, socket, sys and time.
        arguments: its arguments.
        uid: the id of the user.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", IMPORTS + become(uid) + program, *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(30):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output


async def raw_get(
    where: int | Path, path: str, *, host: str | None = None, uid: int = OTHER_UID
) -> bytes:
    """Send a GET as another user to a port or a socket, and return the whole response."""
    if host is None:
        host = "localhost" if isinstance(where, Path) else f"localhost:{where}"
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", "", ""]
    return await as_other_user(EXCHANGE, str(where), "\r\n".join(lines), uid=uid)
