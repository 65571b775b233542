"""A second user of the machine, by a process with another user id. Only root can start one."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

__all__ = ["OTHER_UID", "as_other_user", "raw_get"]

OTHER_UID = 61234
"""The id of a user that no system has."""

BECOME = """
import os, socket, sys, time
os.setgroups([])
os.setgid({uid})
os.setuid({uid})
"""

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


async def as_other_user(program: str, *arguments: str, uid: int = OTHER_UID) -> bytes:
    """Run a Python program as another user, and return its output.

    Args:
        program: its text, after the imports of os, socket, sys and time.
        arguments: its arguments.
        uid: the id of the user.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", BECOME.format(uid=uid) + program, *arguments),
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
