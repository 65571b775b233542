"""The Unix socket of a server: its file, its rights, and a start beside another server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.other_user import OTHER_UID, needs_root
from support.raw_http import RawResponse, exchange

from xots import file_writing
from xots.errors import SealError
from xots.file_writing import locked
from xots.listening import CannotStart, UnixListener
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]


async def requested(path: Path, target: str, host: str = "localhost") -> RawResponse:
    """Send a GET over the socket."""
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    [response] = await exchange(path, [(request, False)])
    return response


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_there(path: Path) -> bool:
    return os.path.lexists(path)


def group_of(path: Path) -> int:
    return path.stat().st_gid


@pytest.mark.safeguard(
    file="listening.py",
    old="        umask = os.umask(0o177)",
    new="        umask = os.umask(0)",
    protects_from="a socket to which every user may connect",
)
async def test_only_the_user_of_the_server_may_connect(new_server: NewServer, path: Path) -> None:
    """Mode 0600; the file is there beside TCP, and gone after the stop."""
    server = await new_server(unix_socket=path)
    assert mode_of(path) == 0o600
    assert (await requested(path, "/status")).status == 200
    assert server.port != 0
    await server.stop()
    assert not is_there(path)


@needs_root
async def test_the_users_of_a_group_may_connect_if_it_is_set(
    new_server: NewServer, path: Path
) -> None:
    """Mode 0660, and the group of the setting."""
    await new_server(unix_socket=path, unix_socket_group=OTHER_UID)
    assert (mode_of(path), group_of(path)) == (0o660, OTHER_UID)


async def test_a_server_can_listen_on_the_socket_alone(new_server: NewServer, path: Path) -> None:
    """No port is open, and messages name the socket."""
    server = await new_server(unix_socket=path, address="none", port=5001)
    assert server.url == f"unix:{path}"
    assert (await requested(path, "/status")).status == 200
    assert server.redirect_uri == "http://localhost:5001/code"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:5001", 200),
        ("127.0.0.1:5001", 200),
        ("localhost:6001", 421),
        ("evil.example", 421),
        ("evil.example:5001", 421),
    ],
)
async def test_the_host_names_are_those_of_tcp_and_localhost(
    new_server: NewServer, path: Path, expected_log: Callable[..., None], host: str, status: int
) -> None:
    """A browser can reach the socket through a forwarder, so DNS rebinding concerns it too."""
    if status == 421:
        expected_log(r"refused with status 421")
    await new_server(unix_socket=path, address="none", port=5001)
    assert (await requested(path, "/status", host)).status == status


async def test_plain_localhost_is_no_host_of_tcp(
    new_server: NewServer, path: Path, expected_log: Callable[..., None]
) -> None:
    """There a port belongs to it."""
    expected_log(r"refused with status 421")
    server = await new_server(unix_socket=path)
    request = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    [response] = await exchange(server.port, [(request, False)])
    assert response.status == 421


# ---------- the file


async def test_a_socket_that_was_left_behind_is_replaced(new_server: NewServer, path: Path) -> None:
    """As after a kill."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await new_server(unix_socket=path)
    assert (await requested(path, "/status")).status == 200


def test_the_socket_of_a_running_server_is_not_replaced(path: Path) -> None:
    """Also while its backlog is full. The message names the setting to change."""
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(path))
        running.listen(0)
        waiting = []
        for _ in range(3):
            with pytest.raises(CannotStart, match=r"already listens on .*--unix-socket"):
                UnixListener(path)
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
            waiting.append(client)
        for client in waiting:
            client.close()
    assert path.exists()


def test_another_file_is_not_replaced(path: Path) -> None:
    """It may be a mistake in the setting."""
    path.write_text("precious")
    with pytest.raises(CannotStart, match=f"{path} is not a socket"):
        UnixListener(path)
    assert path.read_text() == "precious"


def test_a_link_is_not_followed(path: Path) -> None:
    """Its target could be any socket."""
    path.symlink_to(path.with_name("other"))
    with pytest.raises(CannotStart, match="is not a socket"):
        UnixListener(path)


@pytest.mark.safeguard(
    file="listening.py",
    old="    if problems := folder_problems(path):",
    new="    if problems := []:",
    protects_from="another user who puts a socket of its own in place of this one",
)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_to_which_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """The sticky bit is no help: the other user may come first. Nothing is left there."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CannotStart, match="unix_socket can't be used safely"):
        UnixListener(folder / "socket")
    assert list(folder.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """With the remedy."""
    with pytest.raises(CannotStart, match=r"missing does not exist; make it"):
        UnixListener(tmp_path / "missing" / "socket")


def test_the_file_of_another_server_is_not_removed(path: Path) -> None:
    """One that has replaced it since."""
    first = UnixListener(path)
    first.socket.close()
    second = UnixListener(path)
    first.remove()
    assert path.exists()
    second.socket.close()
    second.remove()
    assert not path.exists()


def test_a_group_that_can_not_be_given_leaves_no_socket(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may give a file to a group of its own only. The message names the setting."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(CannotStart, match="unix_socket_group"):
        UnixListener(path, group=4321)
    assert not path.exists()


@pytest.mark.safeguard(
    file="listening.py",
    old="                _remove_left_behind(path)\n                self._listen(group)",
    new="                _remove_left_behind(path)\n            self._listen(group)",
    protects_from="a second server that replaces a socket which does not listen yet",
)
def test_the_path_is_locked_until_the_socket_listens(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that does not listen looks like one that was left behind."""
    listen, was_locked = socket.socket.listen, []

    def listening(self: socket.socket, backlog: int) -> None:
        monkeypatch.setattr(file_writing, "LOCK_SECONDS", 0)
        with pytest.raises(OSError, match="holds its lock"), locked(path):
            pass
        was_locked.append(True)
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listening)
    listener = UnixListener(path)
    assert was_locked == [True]
    listener.socket.close()
    listener.remove()


async def test_two_starts_at_once_leave_one_socket(path: Path) -> None:
    """One of them serves, the others say so."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    def start() -> UnixListener | str:
        try:
            return UnixListener(path)
        except CannotStart as error:
            return str(error)

    found = await asyncio.gather(*(asyncio.to_thread(start) for _ in range(8)))
    listeners = [one for one in found if isinstance(one, UnixListener)]
    assert len(listeners) == 1
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listeners[0].socket.close()
    listeners[0].remove()


async def test_a_start_that_fails_later_leaves_no_socket(new_server: NewServer, path: Path) -> None:
    """The next start finds the path free."""
    with pytest.raises(SealError):
        await new_server(unix_socket=path, store="redis://127.0.0.1:1/0")
    assert not is_there(path)
