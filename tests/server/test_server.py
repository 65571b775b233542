"""The server as a process, from start to signal, on free ports."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.running import STOP_SECONDS, Running, running

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Outcome, Sandbox, SandboxOptions
from xots.sandbox.person import Person

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture
async def real_time_sandbox() -> AsyncIterator[Sandbox]:
    """A simulated Xero by the real clock, which the processes use too."""
    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        yield sandbox


Started = Callable[[], AbstractAsyncContextManager[Running]]


@pytest.fixture
def started(real_time_sandbox: Sandbox) -> Started:
    """Starts ``xots`` at log level DEBUG. Its redirect URI is registered at the sandbox."""
    sandbox = real_time_sandbox

    @asynccontextmanager
    async def start() -> AsyncIterator[Running]:
        environment = {
            "XOTS_CLIENT_ID": DEFAULT_CLIENT_ID,
            "XOTS_CLIENT_SECRET": DEFAULT_CLIENT_SECRET,
            "XOTS_AUTHORIZE_URL": sandbox.authorize_url,
            "XOTS_TOKEN_URL": sandbox.token_url,
            "XOTS_REVOKE_URL": sandbox.revoke_url,
            "XOTS_CONNECTIONS_URL": sandbox.connections_url,
            "XOTS_LOG_LEVEL": "debug",
        }
        async with running("-p", "0", **environment) as xots:
            found = await xots.until("stderr", r"redirect URI .*(http://localhost:(\d+)/code)")
            xots.port = int(found[2])
            client = sandbox.identity.clients[DEFAULT_CLIENT_ID]
            sandbox.identity.register(replace(client, redirect_uris=(found[1],)))
            yield xots

    return start


async def log_in(xots: Running) -> None:
    person = Person()
    page = await person.submit(await person.open(f"http://localhost:{xots.port}/home"))
    assert (await person.consent(page)).status == 200


async def until_refused(port: int, address: str = "127.0.0.1") -> None:
    """Return once no program listens there any more."""
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it was in the queue when the socket closed
                continue
            writer.close()


@SIGNALS
async def test_an_idle_server_stops_at_once(
    started: Started, get: Any, number: signal.Signals
) -> None:
    """Without a login, and with an idle connection open, it ends with status 0 within 5 seconds."""
    async with started() as xots:
        reader, writer = await asyncio.open_connection("127.0.0.1", xots.port)
        writer.write(f"GET /status HTTP/1.1\r\nHost: 127.0.0.1:{xots.port}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        xots.process.send_signal(number)
        assert await xots.ended() == 0
        writer.close()
        assert "Traceback" not in xots.output


@SIGNALS
async def test_a_server_with_a_login_stops_at_once(
    started: Started, get: Any, number: signal.Signals
) -> None:
    """A login for which nothing is due does not delay it."""
    async with started() as xots:
        await log_in(xots)
        assert (await get(f"http://127.0.0.1:{xots.port}/token")).status == 200
        xots.process.send_signal(number)
        assert await xots.ended() == 0


async def test_a_signal_before_the_first_request_stops_it(started: Started) -> None:
    """It stops even if the signal comes as soon as the server listens."""
    async with started() as xots:
        xots.process.terminate()
        assert await xots.ended() == 0


@pytest.mark.safeguard(
    file="server.py",
    old="    for warning in settings.warnings:",
    new="    for warning in ():",
    protects_from="a secret that other users read unnoticed",
)
async def test_a_start_warns_of_a_secret_that_other_users_can_read(tmp_path: Path) -> None:
    """The warning comes first, with the remedy, and the server serves."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    environment = {
        "XOTS_CLIENT_ID": "C",
        "XOTS_CLIENT_SECRET_FILE": str(secret),
        "XOTS_STORE": "memory:",
        "XOTS_LOG_LEVEL": "info",
    }
    async with running("-p", "0", **environment) as xots:
        await xots.until("stderr", "serving on")
    assert "WARNING" in xots.lines[0]
    assert f"XOTS_CLIENT_SECRET_FILE: {secret} is open to other users" in xots.lines[0]
    assert f"chmod 600 {secret}" in xots.lines[0]
    assert "hunter2" not in xots.output


@pytest.mark.parametrize("fault", ["hold-before", "hold-after"])
@SIGNALS
async def test_a_refresh_in_progress_is_finished_and_its_caller_served_before_the_end(
    started: Started, real_time_sandbox: Sandbox, get: Any, number: signal.Signals, fault: str
) -> None:
    """After the signal, the server accepts no connection. The waiting caller gets its token, and
    the process ends with status 0. A second signal changes nothing."""
    sandbox = real_time_sandbox
    # The first access token lives one second, so a request for a long life starts a refresh.
    sandbox.add_fault("token:nth=1:expires-in=1")
    sandbox.add_fault(f"refresh:nth=1:{fault}")
    async with started() as xots:
        await log_in(xots)
        held = asyncio.create_task(sandbox.held())
        async with asyncio.timeout(5):
            while not held.done():
                caller = asyncio.create_task(
                    get(f"http://127.0.0.1:{xots.port}/token?min_ttl=999999")
                )
                await asyncio.wait({held, caller}, return_when=asyncio.FIRST_COMPLETED)
        assert not caller.done()
        xots.process.send_signal(number)
        await until_refused(xots.port)
        await until_refused(xots.port, "::1")
        xots.process.send_signal(number)
        assert xots.process.returncode is None
        assert not caller.done()
        sandbox.release()
        response = await caller
        assert response.status == 200
        assert response.json["expiresIn"] > 1700
        assert await xots.ended() == 0
        assert "Traceback" not in xots.output
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]
    assert (
        await get(sandbox.connections_url, Authorization=f"Bearer {response.json['accessToken']}")
    ).status == 200


async def test_a_process_logs_nothing_secret(
    started: Started, real_time_sandbox: Sandbox, get: Any
) -> None:
    """At level DEBUG, a login, a token request and an error log no secret, token, code or state."""
    sandbox = real_time_sandbox
    async with started() as xots:
        await log_in(xots)
        token = (await get(f"http://127.0.0.1:{xots.port}/token")).json["accessToken"]
        await get(f"http://localhost:{xots.port}/code?code=code-canary&state=state-canary")
        xots.process.terminate()
        assert await xots.ended() == 0
    assert "logged in" in xots.output
    refresh_tokens = sandbox.identity.usable_refresh_tokens(sandbox.clock())
    assert refresh_tokens
    for secret in (
        DEFAULT_CLIENT_SECRET,
        token,
        *refresh_tokens,
        "eyJ",
        "code-canary",
        "state-canary",
        "code=",
    ):
        assert secret not in xots.output
