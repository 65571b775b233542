"""The real processes: ``xots`` and ``xots demo``, from start to signal, on free ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Outcome, Sandbox, SandboxOptions
from xots.sandbox.person import Person

STOP_SECONDS = 5
"""What an idle process may take to stop."""

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@dataclass
class Running:
    """A process, and what it has said so far."""

    process: Process
    said: list[str] = field(default_factory=list)
    port: int = 0

    async def until(self, stream: str, pattern: str, within_seconds: float = 15) -> re.Match[str]:
        """Read the stream line by line until the pattern is found."""
        reader = getattr(self.process, stream)
        async with asyncio.timeout(within_seconds):
            while line := (await reader.readline()).decode():
                self.said.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"{pattern!r} never came; it said: {''.join(self.said)}")

    async def ended(self, within_seconds: float = STOP_SECONDS) -> int:
        """Its exit status, once it has ended by itself; all that it still says is read."""
        async with asyncio.timeout(within_seconds):
            rest = await self.process.communicate()
        self.said += [one.decode() for one in rest]
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.said)


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Running]:
    """``xots`` with these arguments, and nothing set by the environment but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")}
    kept.pop("CREDENTIALS_DIRECTORY", None)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("xots")),
        *arguments,
        env=kept | environment,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@pytest.fixture
async def real_time_sandbox() -> AsyncIterator[Sandbox]:
    """A simulated Xero by the real clock, which the processes go by too."""
    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        yield sandbox


Started = Callable[[], Any]


@pytest.fixture
def started(real_time_sandbox: Sandbox) -> Started:
    """Starts ``xots`` wired to that sandbox, at log level DEBUG, with its redirect URI registered there."""
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
    """Return once nobody listens there any more."""
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it was in the queue when the socket closed
                continue
            writer.close()


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@SIGNALS
async def test_an_idle_server_stops_at_once(
    started: Started, get: Any, number: signal.Signals
) -> None:
    """With nobody logged in, and a client's idle connection still open, it ends with status 0 within 5 seconds."""
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
    """A login that needs nothing done does not delay it."""
    async with started() as xots:
        await log_in(xots)
        assert (await get(f"http://127.0.0.1:{xots.port}/token")).status == 200
        xots.process.send_signal(number)
        assert await xots.ended() == 0


async def test_a_signal_before_anything_was_asked_is_heeded(started: Started) -> None:
    """Stopped in the moment in which it is up."""
    async with started() as xots:
        xots.process.terminate()
        assert await xots.ended() == 0


@pytest.mark.parametrize("fault", ["hold-before", "hold-after"])
@SIGNALS
async def test_a_refresh_in_flight_is_concluded_and_its_caller_served_before_the_end(
    started: Started, real_time_sandbox: Sandbox, get: Any, number: signal.Signals, fault: str
) -> None:
    """After the signal nobody new is let in; the waiting caller gets his token, then the process ends with 0.

    A second signal, from an impatient operator, does not cut it short.
    """
    sandbox = real_time_sandbox
    # The first access token is said to live one second, so a caller who asks for much soon brings a refresh about.
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
        answer = await caller
        assert answer.status == 200
        assert answer.json["expiresIn"] > 1700
        assert await xots.ended() == 0
        assert "Traceback" not in xots.output
    assert [one.outcome for one in sandbox.refreshes()] == [Outcome.ISSUED]
    assert (
        await get(sandbox.connections_url, Authorization=f"Bearer {answer.json['accessToken']}")
    ).status == 200


async def test_a_process_logs_nothing_secret(
    started: Started, real_time_sandbox: Sandbox, get: Any
) -> None:
    """At level DEBUG, through a login, a token read and an error: no secret, token, code or state."""
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


@asynccontextmanager
async def demo() -> AsyncIterator[tuple[Running, str]]:
    """The demo on free ports, and the curl line that it prints."""
    async with running("demo", "-p", "0", "--sandbox-port", "0") as process:
        found = await process.until("stdout", r"(curl \S.*localhost:(\d+)/token)\s*$")
        process.port = int(found[2])
        yield process, found[1]


@SIGNALS
async def test_the_demo_logs_in_by_itself_and_its_curl_line_works(number: signal.Signals) -> None:
    """What it prints can be pasted into a shell; it shows no secret itself, and stops cleanly."""
    async with demo() as (process, line):
        await process.until("stdout", "Stop with Ctrl-C")
        curl = await asyncio.create_subprocess_exec(*shlex.split(line), stdout=PIPE)
        shown, _ = await curl.communicate()
        assert curl.returncode == 0
        token = json.loads(shown)["accessToken"]
        process.process.send_signal(number)
        assert await process.ended() == 0
    assert "logged in" in process.output
    assert "Traceback" not in process.output
    for secret in (token, "eyJ", DEFAULT_CLIENT_SECRET):
        assert secret not in process.output


async def test_the_demo_prints_addresses_that_answer(get: Callable[..., Awaitable[Any]]) -> None:
    """Every URL of its greeting is one that can be opened, and the simulated Xero tells what it was asked."""
    async with demo() as (process, _):
        await process.until("stdout", "Stop with Ctrl-C")
        addresses = set(re.findall(r"http://(?:localhost|127\.0\.0\.1):\d+/\S+", process.output))
        assert len(addresses) >= 4
        for address in addresses:
            assert (await get(address)).status == 200, address
        [log] = [address for address in addresses if address.endswith("/sandbox/log")]
        grants = [one["grant_type"] for one in (await get(log)).json["log"] if one["grant_type"]]
        assert grants[0] == "authorization_code"


async def test_the_demo_takes_nothing_of_the_users(
    get: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    """Settings of the environment do not reach it, nor does it leave anything in the user's folders."""
    secret = "the-users-own-canary"
    environment = {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XOTS_CLIENT_ID": "USERS",
        "XOTS_CLIENT_SECRET": secret,
        "XOTS_STORE": "nosuch://x",
    }
    async with running("demo", "-p", "0", "--sandbox-port", "0", **environment) as process:
        found = await process.until("stdout", r"localhost:(\d+)/token\s*$")
        status = (await get(f"http://localhost:{found[1]}/status")).json
        assert status["client_id"] == DEFAULT_CLIENT_ID
        process.process.terminate()
        assert await process.ended() == 0
    assert secret not in process.output
    assert left_in(tmp_path) == []
