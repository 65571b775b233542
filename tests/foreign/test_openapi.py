"""Schemathesis, which makes requests of an OpenAPI document and compares the responses with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.readers import KeyHolder, bearer, line
from support.thread_servers import sandbox_in_thread, started_server

from xots.lifecycle.schedule import State
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.secret import Secret
from xots.server import Server

PROGRAM = Path(sys.executable).with_name("schemathesis")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "allow_header_conformance",
)

ENDS = "/(revoke|logout)$"
"""The paths that end the login. They have a server of their own: after the first of them, every
other endpoint would only say that there is no login."""

CONFIG = """\
[[operations]]
include-path-regex = "^/accounts/.*/livez$"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
"""The run adds accounts. They have no login, and ``/livez`` says so by 503. A 500 would still be a
line of the log at ERROR, which fails the test."""

EXAMPLES, SEED = 10, 15


async def log_in(server: Server) -> None:
    owner = KeyHolder(server, "owner")
    page = await owner.submit(await owner.open(f"http://localhost:{server.port}/home"))
    assert (await owner.consent(page)).status == 200


@pytest.fixture
def logged_in_server(tmp_path: Path) -> Iterator[Server]:
    """A server with a login and a reader who may do everything, by the real clock."""
    readers = tmp_path / "readers"
    readers.touch(0o600)
    readers.write_text(line("owner"))
    with sandbox_in_thread() as (loop, sandbox):
        settings = {"client_id": DEFAULT_CLIENT_ID, "client_secret": Secret(DEFAULT_CLIENT_SECRET)}
        server = loop.run(started_server(sandbox, **settings, readers=readers))
        loop.run(log_in(server))
        yield server
        loop.run(server.stop())


def run_schemathesis(
    server: Server, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Request every operation that the options choose, with valid and with invalid data."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    url = f"http://localhost:{server.port}"
    headers = [f"{name}: {value}" for name, value in ({"Origin": url} | bearer("owner")).items()]
    return subprocess.run(
        [
            PROGRAM,
            "run",
            f"{url}/openapi.json",
            f"--checks={','.join(CHECKS)}",
            f"--max-examples={EXAMPLES}",
            f"--seed={SEED}",
            "--mode=all",
            "--max-redirects=0",
            "--warnings=off",
            *(f"--header={header}" for header in headers),
            *options,
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_schemathesis_finds_no_fault_of_a_server_with_a_login(
    logged_in_server: Server, tmp_path: Path, expected_log: Any, accept: str
) -> None:
    """No 500, and no status, type, header or field that the document does not describe."""
    expected_log.perhaps("^WARNING xots")
    done = run_schemathesis(
        logged_in_server, tmp_path, f"--header=Accept: {accept}", f"--exclude-path-regex={ENDS}"
    )
    assert done.returncode == 0, done.stdout
    assert logged_in_server.keeper.state is State.CONNECTED


def test_schemathesis_finds_no_fault_of_the_ends_of_a_login(
    logged_in_server: Server, tmp_path: Path, expected_log: Any
) -> None:
    """The first request ends the login, and the further ones find none."""
    expected_log.perhaps("^WARNING xots")
    done = run_schemathesis(logged_in_server, tmp_path, f"--include-path-regex={ENDS}")
    assert done.returncode == 0, done.stdout
    assert logged_in_server.keeper.state is not State.CONNECTED
