"""Fixtures for foreign identity servers, which xots uses by settings alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support.redis_servers import free_port

from xots.server import Server
from xots.settings import load
from xots.testing import FakeClock

SERVERS = Path(__file__).parent / "servers"
"""The programs. Each takes its client's id and secret and the redirect URI, and prints its URL."""

CLIENT = ("books-client", "books-secret")
"""The client's id and secret at all of them."""

INTERPRETERS = {".py": sys.executable, ".mjs": "node"}


@pytest.fixture
def port() -> int:
    """The port of xots. Its redirect URI is registered before it starts."""
    return free_port()


@pytest.fixture
def start_identity_server(port: int) -> Iterator[Callable[[str], str]]:
    """Start one of the programs, and return its URL."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> str:
        path = SERVERS / program
        process = subprocess.Popen(
            [INTERPRETERS[path.suffix], path, *CLIENT, f"http://localhost:{port}/code"],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"{program} did not start: has make test-all installed its needs?"
        return url

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def write_config(port: int, tmp_path: Path) -> Callable[..., Path]:
    """Write the YAML file of an operator. The arguments stand in for the names in braces."""

    def write(yaml: str, **urls: str) -> Path:
        path = tmp_path / "xots.yaml"
        path.touch(0o600)
        path.write_text(f"port: {port}\n" + yaml.format_map(urls))
        return path

    return write


@pytest.fixture
async def start_xots(
    write_config: Callable[..., Path], clock: FakeClock
) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start a server with such a file alone, and with the clock of the test."""
    servers: list[Server] = []

    async def start(yaml: str, **urls: str) -> Server:
        server = Server(load({}, {}, write_config(yaml, **urls)), clock=clock)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()
