"""The proof of a server by its user: connections that a test can't bring about with a command."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.other_user import OTHER_UID, needs_root

from xots import proof
from xots.errors import ServerUnproved
from xots.peers import PeerLookup
from xots.proof import prove_tcp, prove_unix

WHERE = "http://127.0.0.1:5001"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_server_is_proved_once_it_accepts(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel knows no user before."""
    accepted: list[socket.socket] = []
    found: list[int | None] = []

    class Lookup(PeerLookup):
        def uid(self, connected: socket.socket) -> int | None:
            found.append(super().uid(connected))
            if not accepted:
                accepted.append(listening.accept()[0])
            return found[-1]

    monkeypatch.setattr(proof, "PeerLookup", Lookup)
    with socket.create_connection(listening.getsockname()) as connected:
        prove_tcp(connected, WHERE, None, within_seconds=20, must_know=True)
    assert found == [None, os.geteuid()]
    accepted[0].close()


def test_a_server_that_does_not_accept_is_not_proved(listening: socket.socket) -> None:
    """The wait ends with the time of a request."""
    with (
        socket.create_connection(listening.getsockname()) as connected,
        pytest.raises(ServerUnproved, match=r"does not know which user .*unix_socket"),
    ):
        prove_tcp(connected, WHERE, None, within_seconds=0, must_know=True)


@pytest.mark.parametrize("said", [b"", b"220 ready\r\n"])
def test_a_server_that_closes_at_once_is_not_waited_for(
    listening: socket.socket, said: bytes
) -> None:
    """Its socket belongs to no one any more, whatever it has sent before."""
    with socket.create_connection(listening.getsockname()) as connected:
        accepted, _ = listening.accept()
        accepted.sendall(said)
        accepted.close()
        with pytest.raises(ServerUnproved, match="does not know which user"):
            prove_tcp(connected, WHERE, None, within_seconds=60, must_know=True)


class Remote(socket.socket):
    """A socket whose other end seems to be on another machine."""

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 5001


def test_a_server_on_another_machine_is_not_waited_for(listening: socket.socket) -> None:
    """Its user is known there alone. The message names the other ways."""
    with Remote() as connected:
        connected.connect(listening.getsockname())
        with pytest.raises(ServerUnproved, match=r"unix_socket.*tls_certificate"):
            prove_tcp(connected, WHERE, None, within_seconds=60, must_know=True)


def test_a_program_whose_user_is_not_known_gets_a_request_without_a_secret(
    listening: socket.socket,
) -> None:
    """As one on another machine."""
    with Remote() as connected:
        connected.connect(listening.getsockname())
        prove_tcp(connected, WHERE, None, within_seconds=60, must_know=False)


def test_a_system_that_knows_no_users_proves_no_server(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Linux has the lookup."""

    def unknown(*arguments: object) -> PeerLookup:
        raise AttributeError

    monkeypatch.setattr(proof, "PeerLookup", unknown)
    with (
        socket.create_connection(listening.getsockname()) as connected,
        pytest.raises(ServerUnproved, match="only Linux"),
    ):
        prove_tcp(connected, WHERE, None, within_seconds=60, must_know=True)


@pytest.mark.safeguard(
    file="proof.py",
    old="        if problem := folder_problem(folder, found, owners=(found.st_uid,)):\n",
    new="        if problem := None:\n",
    protects_from="a socket that another user has put in the place of the server's",
)
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_socket_in_a_folder_that_others_can_write_to_proves_nothing(
    tmp_path: Path, mode: int
) -> None:
    """A link to it from a safe folder changes nothing."""
    folder, link = tmp_path / "open", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder / "xots.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "xots.sock"))
        listening.listen()
        for path in (folder / "xots.sock", link):
            folder.chmod(0o755)
            with socket.socket(socket.AF_UNIX) as connected:
                connected.connect(str(path))
                prove_unix(connected, path, None)
                folder.chmod(mode)
                with pytest.raises(ServerUnproved, match="is open to other users"):
                    prove_unix(connected, path, None)


@needs_root
def test_a_folder_of_another_user_proves_nothing_unless_that_runs_the_server(
    tmp_path: Path,
) -> None:
    """That user may put any program there."""
    path = tmp_path / "xots.sock"
    os.chown(tmp_path, OTHER_UID, OTHER_UID)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as connected:
        listening.bind(str(path))
        listening.listen()
        connected.connect(str(path))
        with pytest.raises(ServerUnproved, match=f"belongs to user {OTHER_UID}.* set server_user"):
            prove_unix(connected, path, None)
        prove_unix(connected, path, str(OTHER_UID))
