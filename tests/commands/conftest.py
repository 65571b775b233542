"""A simulated Xero and its servers in a thread, and commands that run in the test's own process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.command_line import Ended, called
from support.thread_servers import ThreadServers, servers_in_thread

from xots.server import Server


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of the test run sets nothing here, and no file is written in the home folder.
    Lines of the help are not wrapped."""
    for name in list(os.environ):
        if name.startswith(("XOTS_", "XERO_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def servers() -> Iterator[ThreadServers]:
    """A simulated Xero and three servers, shared by the tests of a module."""
    with servers_in_thread() as servers:
        yield servers


@pytest.fixture
def connected(servers: ThreadServers) -> Server:
    """The server with a login, in whatever state the test before left it."""
    current = servers.server.keeper.account.current
    # The logout of another server ends this login at Xero too: user and app are the same.
    if current is None or not servers.sandbox.identity.would_issue(
        current.value.reveal(), servers.sandbox.clock()
    ):
        servers.log_in(servers.server)
    return servers.server


@pytest.fixture
def xots(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command in this process."""
    return partial(called, capsys)


@pytest.fixture
def free_port() -> int:
    """A port on which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
