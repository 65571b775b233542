"""The sockets on which a server listens: TCP, and a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

from .errors import XotsError
from .file_access import folder_problems
from .file_writing import locked

__all__ = ["CannotStart", "UnixListener", "listen"]

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
            # Each accepted socket inherits it: a response is sent in one piece, at once.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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


class UnixListener:
    """A Unix socket on which a server listens. Its file has mode 0600, or 0660 for a group.

    Args:
        path: its path. A socket that a server has left behind, which did not stop in order, is
            replaced.
        group: the id of the group whose users may connect; None for this user and root alone.

    Raises:
        CannotStart: the path can't be used, or another server listens there.
    """

    def __init__(self, path: Path, group: int | None = None) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._identity: tuple[int, int, int] | None = None
        try:
            _check_folder(path)
            # Two starts at once would both replace a socket, also one that does not listen yet.
            with locked(path):
                _remove_left_behind(path)
                self._listen(group)
        except OSError as error:
            self._undo()
            raise CannotStart(_unix_problem(path, error)) from None
        except CannotStart:
            self._undo()
            raise

    def _listen(self, group: int | None) -> None:
        umask = os.umask(0o177)  # so the file has mode 0600 from its first moment on
        try:
            self.socket.bind(str(self.path))
        finally:
            os.umask(umask)
        self._identity = _identity(self.path)
        if group is not None:
            os.chown(self.path, -1, group)
            self.path.chmod(0o660)
            self._identity = _identity(self.path)
        self.socket.listen(BACKLOG)
        self.socket.setblocking(False)

    def _undo(self) -> None:
        self.remove()
        self.socket.close()

    def remove(self) -> None:
        """Remove the file, unless another server has replaced it."""
        with suppress(OSError):
            if self._identity is not None and _identity(self.path) == self._identity:
                self.path.unlink()


def _check_folder(path: Path) -> None:
    """Check that no other user can put a socket in place of this one.

    Raises:
        CannotStart: another user may write to the folder.
    """
    if problems := folder_problems(path):
        raise CannotStart(f"unix_socket can't be used safely: {'; '.join(problems)}")


def _identity(path: Path) -> tuple[int, int, int]:
    """Return what tells this file from a later one, which may get the same inode."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _remove_left_behind(path: Path) -> None:
    """Remove a socket on which no program listens.

    Raises:
        CannotStart: a program listens on it, or it is another kind of file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotStart(
            f"{path} is not a socket; remove it, or choose another path with --unix-socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a program listens, and its backlog is full
    raise CannotStart(
        f"another program already listens on {path}; stop it, or choose another path with "
        "--unix-socket"
    )


def _unix_problem(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"unix_socket: the folder {path.parent} does not exist; make it, with the mode 0755"
    if error.errno == errno.EPERM:
        return (
            f"unix_socket: this user may not give {path} to the group of unix_socket_group; choose "
            "a group that the user of xots belongs to"
        )
    return f"unix_socket: can't listen on {path}: {error.strerror or error}"
