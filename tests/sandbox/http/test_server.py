"""The sandbox as a library: its import, its start and its stop."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.sandbox_caller import Caller

from xots.sandbox import Sandbox, SandboxOptions


def test_importing_it_loads_neither_tornado_nor_cryptography() -> None:
    """So a simulation of the identity provider alone starts fast."""
    program = (
        "import sys; from xots.sandbox import Identity, Sandbox;"
        "sys.exit(any(name in sys.modules for name in ('tornado', 'cryptography')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_a_sandbox_listens_and_stops_at_once() -> None:
    """A second start is an error, and a second stop is not."""
    sandbox = Sandbox(SandboxOptions(port=0))
    with pytest.raises(RuntimeError, match="not been started"):
        _ = sandbox.url
    sandbox.start()
    with pytest.raises(RuntimeError, match="already"):
        sandbox.start()
    caller = Caller(sandbox)
    assert (await caller.send("GET", "/.well-known/openid-configuration")).json[
        "issuer"
    ] == sandbox.url
    await sandbox.stop()
    with pytest.raises(ConnectionRefusedError):
        await caller.send("GET", "/")
    await sandbox.stop()


async def test_two_sandboxes_share_no_state() -> None:
    """The token of one is unknown to the other."""
    async with Sandbox(SandboxOptions(port=0)) as one, Sandbox(SandboxOptions(port=0)) as other:
        token = one.log_in().refresh_token
        assert (await Caller(other).refresh(token)).json == {"error": "invalid_grant"}
        assert (await Caller(one).refresh(token)).status == 200


async def test_a_port_in_use_is_an_os_error() -> None:
    """The sandbox that could not start leaves no socket open."""
    async with Sandbox(SandboxOptions(port=0)) as first:
        second = Sandbox(SandboxOptions(port=first.port))
        with pytest.raises(OSError, match="in use"):
            second.start()
