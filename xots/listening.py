"""The sockets on which a server listens."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address

from .errors import XotsError

__all__ = ["CannotStart", "listen"]

BACKLOG = 1024
"""The connections that the system keeps until they are accepted. It drops others, and their clients
retry after a second."""

MAX_FREE_PORT_ATTEMPTS = 20
"""With port 0, a port that is free on 127.0.0.1 may be taken on ::1. One of these attempts finds a
port that is free on both."""

LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")

NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class CannotStart(XotsError):
    """The server can't start; the message gives the reason and the remedy."""


def listen(address: str, port: int) -> list[socket.socket]:
    """Return the sockets to serve on. A loopback address means both 127.0.0.1 and ::1.

    A browser follows the redirect to ``localhost``, which may resolve to ``::1``. If another
    program listened there, it would get the code.

    Args:
        address: an IP address, or ``localhost``.
        port: the port; 0 takes any that is free.

    Raises:
        CannotStart: an address can't be listened on.
    """
    addresses = ("127.0.0.1", "::1") if address in LOOPBACK_NAMES else (address,)
    for _ in range(MAX_FREE_PORT_ATTEMPTS - 1 if port == 0 else 0):
        with suppress(CannotStart):
            return _bind(addresses, port)
    return _bind(addresses, port)


def _bind(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Listen at one port of all addresses. If one of them fails, no socket stays open."""
    sockets: list[socket.socket] = []
    with ExitStack() as undo:
        for address in addresses:
            family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
            try:
                bound = socket.create_server((address, port), family=family, backlog=BACKLOG)
            except OSError as error:
                if sockets and error.errno in NO_IPV6:
                    continue  # without IPv6, no other program can listen on ::1 either
                raise CannotStart(_bind_problem(address, port, error)) from None
            undo.callback(bound.close)
            bound.setblocking(False)
            sockets.append(bound)
            port = bound.getsockname()[1]
        undo.pop_all()
    return sockets


def _bind_problem(address: str, port: int, error: OSError) -> str:
    where = f"{address} port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"another program already listens on {where}; stop it, or choose another port "
                "with --port"
            )
        case errno.EACCES:
            return (
                f"this user may not listen on {where}; ports below 1024 need a permission, choose "
                "another with --port"
            )
        case _:
            return (
                f"can't listen on {where}: {error.strerror}; choose another address with --address"
            )
