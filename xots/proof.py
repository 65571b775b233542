"""The proof that the program at an address is the caller's own server, before it gets a key.

While the server is stopped, another user of the machine may listen at its port. So the caller asks
the kernel which user runs the program at the other end, or compares the program's certificate.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path

from .errors import ServerUnproved, SettingsError
from .file_access import folder_problem
from .peers import PeerLookup, uid_of_user, unix_peer, user_text

__all__ = ["prove_certificate", "prove_tcp", "prove_unix"]

STEP_MILLISECONDS = 10
"""The time between two looks at a connection that its server has not accepted yet."""

UNSENT = "nothing was sent to it"

SET_USER = (
    "stop that program; only if your server runs as that user, set server_user to it "
    "(--server-user, XOTS_SERVER_USER)"
)


def prove_unix(connected: socket.socket, path: Path, server_user: str | None) -> None:
    """Check the user that listens on a Unix socket, and the owner and mode of the socket's folder.

    Args:
        connected: the socket of the caller.
        path: the path that it is connected to.
        server_user: the name or id of the user that runs the server; None if that is this user or
            root.

    Raises:
        ServerUnproved: another user may listen there.
        SettingsError: ``server_user`` names no user.
        OSError: the folder can't be looked at.
    """
    where = f"unix:{path}"
    if hasattr(socket, "SO_PEERCRED"):  # elsewhere, the folder alone proves the server
        _check_user(unix_peer(connected), where, server_user)
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        found = folder.stat()
        if not _is_trusted(found.st_uid, server_user):
            raise ServerUnproved(
                f"the folder {folder} belongs to {user_text(found.st_uid)}, who may put any "
                f"program at {where}, so {UNSENT}; if your server runs as that user, "
                "set server_user to it"
            )
        if problem := folder_problem(folder, found, owners=(found.st_uid,)):
            raise ServerUnproved(f"{problem}. Nothing was sent to the server")


def prove_tcp(
    connected: socket.socket,
    where: str,
    server_user: str | None,
    within_seconds: float,
    *,
    must_know: bool,
) -> None:
    """Check the user that runs the program at the other end of a TCP connection.

    Args:
        connected: the socket of the caller.
        where: the server's URL, for messages.
        server_user: as for ``prove_unix``.
        within_seconds: the time that the program has to accept the connection. The kernel knows no
            user before.
        must_know: the request holds a secret, or ``server_user`` is set, so that a program whose
            user is not known must not receive it.

    Raises:
        ServerUnproved, SettingsError: as for ``prove_unix``.
    """
    uid = _tcp_uid(connected, within_seconds)
    if uid is not None or must_know:
        _check_user(uid, where, server_user)


def prove_certificate(connected: ssl.SSLSocket, where: str, certificate: bytes) -> None:
    """Check that the server has this certificate and no other.

    Args:
        connected: the socket of the caller, after the handshake, by which the server has proved
            that it has the private key.
        where: the server's URL, for messages.
        certificate: the certificate in DER.

    Raises:
        ServerUnproved: it has another one.
    """
    if connected.getpeercert(binary_form=True) != certificate:
        raise ServerUnproved(
            f"the program at {where} has another certificate than the file of tls_certificate, so "
            f"{UNSENT}; if the server has a new certificate, copy it into that file"
        )


def _check_user(uid: int | None, where: str, server_user: str | None) -> None:
    if uid is None:
        raise ServerUnproved(
            f"this machine does not know which user runs the program at {where}, so {UNSENT}. A "
            "Unix socket (unix_socket) or TLS (tls_certificate) proves the server; by TCP alone, "
            "only Linux knows the user, and only if the program is on this machine and accepts the "
            "connection"
        )
    if not _is_trusted(uid, server_user):
        raise ServerUnproved(
            f"the program at {where} runs as {user_text(uid)}, so {UNSENT}; {SET_USER}"
        )


def _is_trusted(uid: int, server_user: str | None) -> bool:
    if uid in (0, os.geteuid()):
        return True
    try:
        return server_user is not None and uid == uid_of_user(server_user)
    except ValueError as error:  # a user that exists only while its service runs, for example
        raise SettingsError([f"server_user: {error}"]) from None


def _tcp_uid(connected: socket.socket, within_seconds: float) -> int | None:
    """Return the id of the user that has accepted a connection; None if that is not known."""
    try:
        lookup = PeerLookup()
    except (OSError, AttributeError):  # not on Linux
        return None
    deadline = time.monotonic() + within_seconds
    readable = select.poll()
    readable.register(connected, select.POLLIN)
    with closing(lookup):
        while (uid := lookup.uid(connected)) is None:
            if not lookup.is_waiting(connected) or time.monotonic() >= deadline:
                return lookup.uid(connected)  # it may have been accepted between the two looks
            if readable.poll(STEP_MILLISECONDS):
                # It has accepted, and has closed the connection or speaks before it is asked.
                return lookup.uid(connected)
    return uid
