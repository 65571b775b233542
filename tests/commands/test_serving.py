"""The commands that serve: the error for a port that is in use."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["demo", "--sandbox-port", "0"], ["sandbox"]], ids=str
)
def test_a_port_in_use_is_a_clear_error(command: list[str], taken_port: int) -> None:
    """The process reports that the port is taken and how to choose another; its status is 1."""
    flag = "--port" if command == ["sandbox"] else "-p"
    ended = subprocess.run(
        [sys.executable, "-m", "xots", *command, flag, str(taken_port)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert str(taken_port) in ended.stderr
    assert "--port" in ended.stderr
