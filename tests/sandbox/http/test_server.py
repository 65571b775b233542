"""The sandbox as a library: its life, its clock, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from support.sandbox_caller import START, Caller

from xots.sandbox import Sandbox, SandboxClock, SandboxOptions


def test_importing_it_loads_neither_tornado_nor_cryptography() -> None:
    """A simulation of the identity provider alone starts at once."""
    program = (
        "import sys; from xots.sandbox import Identity, Sandbox;"
        "sys.exit(any(name in sys.modules for name in ('tornado', 'cryptography')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_it_listens_on_both_loopbacks_and_stops_at_once() -> None:
    """A free port is free on both; after stop nobody answers, and a second stop is harmless."""
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


async def test_two_sandboxes_know_nothing_of_each_other() -> None:
    """One's token is unknown to the other."""
    async with Sandbox(SandboxOptions(port=0)) as one, Sandbox(SandboxOptions(port=0)) as other:
        token = one.log_in().refresh_token
        assert (await Caller(other).refresh(token)).json == {"error": "invalid_grant"}
        assert (await Caller(one).refresh(token)).status == 200


def test_the_clock_is_an_offset_over_another_clock() -> None:
    """It goes on when its base goes on, and refuses a time without a zone."""
    base = [START]
    clock = SandboxClock(lambda: base[0])
    clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    base[0] += timedelta(hours=1)
    assert clock() == datetime(2030, 1, 1, 1, tzinfo=UTC)
    clock.advance(-3600)
    assert clock() == datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="zone"):
        clock.set(datetime(2030, 1, 1))  # noqa: DTZ001


async def test_a_port_that_is_taken_is_an_os_error() -> None:
    """Nothing is left open."""
    async with Sandbox(SandboxOptions(port=0)) as first:
        second = Sandbox(SandboxOptions(port=first.port))
        with pytest.raises(OSError, match="in use"):
            second.start()
