"""The user at the other end of a connection on this machine, as the kernel knows it.

A Unix socket names its peer by ``SO_PEERCRED`` (unix(7)). For TCP, Linux's socket diagnostics
(sock_diag(7), ``NETLINK_SOCK_DIAG``) name the user that opened the peer's socket, if that socket is
on this machine and in this network namespace.
"""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

__all__ = ["MAX_ID", "NOBODY", "PeerLookup", "group_text", "uid_of_user", "unix_peer", "user_text"]

NOBODY: Final = 65534
"""The user id that the kernel reports for a user without an id in this user namespace. Any user may
stand behind it."""

MAX_ID = (1 << 32) - 1
"""The number after the largest id of a user or group: it stands for no id (chown(2))."""

SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NETLINK_SOCK_DIAG = 4
"""From Linux's ``linux/netlink.h`` and ``linux/sock_diag.h``."""

ESTABLISHED = 1
"""The state of an open connection, from Linux's ``net/tcp_states.h``."""

HEADER = struct.Struct("=IHHII")
"""``nlmsghdr``: length, type, flags, sequence number, port."""

REQUEST = struct.Struct("=BBBBI")
"""The begin of ``inet_diag_req_v2``: family, protocol, extensions, padding, states."""

SOCKET_ID = struct.Struct("!HH16s16s")
"""The begin of ``inet_diag_sockid``, in network byte order: two ports and two addresses."""

REST_OF_ID = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
"""Its rest: any interface, and no cookie."""

RESPONSE = struct.Struct("=BBBB36s12xIIIII")
"""``inet_diag_msg``: family, state, timer, retransmissions, the identity of the socket (its rest
left out), expiry, two queues, user id, inode."""

IPV4_IN_IPV6 = bytes(10) + b"\xff\xff"
"""The begin of an IPv4 address in an IPv6 socket, as Java uses it (RFC 4291 section 2.5.5.2)."""

MAX_RESPONSE_BYTES = 4096


class _Found(NamedTuple):
    """A TCP socket of this machine."""

    uid: int
    """The user that opened it; 0 if it is not held."""
    is_held: bool
    """True if the connection is open, and a program has the socket."""


class PeerLookup:
    """Asks the kernel for the users of TCP sockets. A request takes some microseconds.

    Raises:
        OSError: this system has no socket diagnostics.
    """

    def __init__(self) -> None:
        # Linux only: mypy on other systems does not know the family.
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._netlink.setblocking(False)  # the kernel responds before the request returns
        self._netlink.connect((0, 0))
        self._number = 0

    def close(self) -> None:
        """Close the connection to the kernel."""
        self._netlink.close()

    def uid(self, connected: socket.socket) -> int | None:
        """Return the id of the user that opened the socket at the other end of a TCP connection.

        None if the kernel does not know it for certain: the socket is on another machine or in
        another network namespace, or no program has it any more. The kernel reports user 0 for a
        socket without a program, which a client leaves behind that sends and closes at once, and
        for a connection that its server has not accepted yet.
        """
        found = self._find(connected)
        if found is None or not found.is_held or found.uid == NOBODY:
            return None
        return found.uid

    def is_waiting(self, connected: socket.socket) -> bool:
        """Tell if a TCP connection is open, and no program has its other end: its server has not
        accepted it yet, or the program has closed it."""
        found = self._find(connected)
        return found is not None and not found.is_held

    def _find(self, connected: socket.socket) -> _Found | None:
        """Return the socket at the other end; None if this kernel has no such socket."""
        try:
            return self._request(connected.family, connected.getpeername(), connected.getsockname())
        except OSError:
            return None

    def _request(
        self, family: int, theirs: tuple[str, int], ours: tuple[str, int]
    ) -> _Found | None:
        wanted = _identity(theirs, ours)
        self._number = self._number + 1 & 0xFFFFFFFF
        request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + wanted + REST_OF_ID
        length = HEADER.size + len(request)
        self._netlink.send(
            HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, self._number, 0) + request
        )
        response = self._netlink.recv(MAX_RESPONSE_BYTES)
        _, kind, _, number, _ = HEADER.unpack_from(response)
        if kind != SOCK_DIAG_BY_FAMILY or number != self._number:
            return None  # an error: there is no such socket
        _, state, _, _, found, _, _, _, uid, inode = RESPONSE.unpack_from(response, HEADER.size)
        # Without an open connection, the kernel returns a listening socket of the same port.
        if found not in (wanted, _identity(theirs, ours, IPV4_IN_IPV6)):
            return None
        is_held = state == ESTABLISHED and inode != 0
        return _Found(uid, is_held)


def _identity(theirs: tuple[str, int], ours: tuple[str, int], prefix: bytes = b"") -> bytes:
    """Return the ports and addresses of a socket as the kernel writes them."""
    return SOCKET_ID.pack(
        theirs[1], ours[1], prefix + _packed(theirs[0]), prefix + _packed(ours[0])
    )


def _packed(host: str) -> bytes:
    """Return the bytes of an IP address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0])


def unix_peer(connected: socket.socket) -> int | None:
    """Return the id of the user at the other end of a Unix socket: the one that connected, or for
    the client's end the one that listens. None if the system does not tell."""
    with suppress(OSError, AttributeError):
        found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", found)
        if uid not in (-1, NOBODY):
            return int(uid)
    return None


def uid_of_user(word: str) -> int:
    """Return the id of a user that is named by its id or name.

    Raises:
        ValueError: there is no such user. The message does not repeat the word.
    """
    if word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) < MAX_ID:
        return int(word)
    try:
        return pwd.getpwnam(word).pw_uid
    except (KeyError, ValueError, UnicodeError):
        raise ValueError("the value names no user of this machine") from None


def user_text(uid: int) -> str:
    """Return a user in words: ``user alice (1000)``, or ``user 1000`` if it has no name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except (KeyError, OverflowError):
        return f"user {uid}"


def group_text(gid: int) -> str:
    """Return a group in words: ``group www (33)``, or ``group 33`` if it has no name."""
    try:
        return f"group {grp.getgrgid(gid).gr_name} ({gid})"
    except (KeyError, OverflowError):
        return f"group {gid}"
