"""Five processes share one account through Redis: three servers, and two programs with a keeper."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.redis_servers import RedisServer

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Client,
    Sandbox,
    SandboxOptions,
    Switches,
    fingerprint,
)
from xots.sandbox.person import Person
from xots.sealing import new_key

OUTAGE_SECONDS = float(os.environ.get("REDIS_OUTAGE_SECONDS", "2"))
"""Length of the outage in the test of one; the long version has 60."""

PROGRAM = """
import asyncio, json, os, sys
from xots.errors import XotsError
from xots.rotation import Rotation
from xots.wiring import open_keeper
from xots.settings import load

async def main():
    async with open_keeper(load({}, os.environ)) as (keeper, _):
        Rotation(keeper).start()
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            try:
                response = {"token": (await keeper.token()).value.reveal()}
            except XotsError as error:
                response = {"error": type(error).__name__}
            print(json.dumps(response), flush=True)

asyncio.run(main())
"""


@dataclass
class Process:
    """One process of the cluster, and a function that requests its token: None if it has none."""

    process: asyncio.subprocess.Process
    token: Callable[[], Awaitable[str | None]]
    port: int | None = None


@dataclass
class Cluster:
    sandbox: Sandbox
    redis: RedisServer
    processes: list[Process]

    @property
    def servers(self) -> list[int]:
        return [p.port for p in self.processes if p.port is not None]

    async def log_in(self, port: int) -> None:
        page = await Person().log_in(
            f"http://localhost:{port}", DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
        )
        assert page.status == 200, page.text

    async def tokens(self) -> list[str | None]:
        return list(await asyncio.gather(*(p.token() for p in self.processes)))


async def fetch(port: int, path: str) -> tuple[int, Any]:
    """Send a GET to a server as a program does. Return status and JSON; 0 if it does not listen."""

    def fetch_in_thread() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    return await asyncio.to_thread(fetch_in_thread)


async def until(condition: Callable[[], Awaitable[bool]], within_seconds: float = 20) -> float:
    """Wait until the condition holds. Return the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(within_seconds):
        while not await condition():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer("appendonly yes") as server:
        yield server


@pytest.fixture
async def start(
    redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Cluster]]]:
    """Starts the five processes. Access tokens live ``life_seconds``."""
    async with AsyncExitStack() as running:

        async def started(life_seconds: int = 1800) -> Cluster:
            ports = free_ports(3)
            client = Client(redirect_uris=tuple(f"http://localhost:{port}/code" for port in ports))
            switches = replace(Switches(), access_token_life_seconds=life_seconds)
            options = SandboxOptions(port=0, clients=(client,), switches=switches)
            sandbox = await running.enter_async_context(Sandbox(options))
            (tmp_path / "key").write_text(new_key().reveal())
            (tmp_path / "key").chmod(0o600)
            environment = {
                name: value for name, value in os.environ.items() if not name.startswith("XOTS_")
            } | {
                "XOTS_STORE": redis_server.unix_url,
                "XOTS_KEY_FILE": str(tmp_path / "key"),
                "XOTS_AUTHORIZE_URL": sandbox.authorize_url,
                "XOTS_TOKEN_URL": sandbox.token_url,
                "XOTS_REVOKE_URL": sandbox.revoke_url,
                "XOTS_CONNECTIONS_URL": sandbox.connections_url,
                "XOTS_REFRESH_INTERVAL": "0",
            }
            log = running.enter_context((tmp_path / "log").open("wb"))

            async def spawn(*command: str, **more: str) -> asyncio.subprocess.Process:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    env=environment | more,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                )
                running.push_async_callback(ended, process)
                return process

            cluster = Cluster(sandbox, redis_server, [])
            for port in ports:
                process = await spawn(
                    str(Path(sys.executable).with_name("xots")), "--port", str(port)
                )

                async def from_server(port: int = port) -> str | None:
                    status, content = await fetch(port, "/token")
                    return content["accessToken"] if status == 200 else None

                cluster.processes.append(Process(process, from_server, port))
            for _ in range(2):
                program = await spawn(sys.executable, "-c", PROGRAM)

                async def from_program(program: asyncio.subprocess.Process = program) -> str | None:
                    assert program.stdin is not None
                    assert program.stdout is not None
                    program.stdin.write(b"\n")
                    response: dict[str, str] = json.loads(await program.stdout.readline())
                    return response.get("token")

                cluster.processes.append(Process(program, from_program))
            for port in ports:
                await until(partial(responds, port))
            return cluster

        yield started


async def responds(port: int) -> bool:
    return (await fetch(port, "/ping"))[0] == 200


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_one_login_serves_all_and_one_revoke_ends_it_for_all(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """A login at one server serves all. A revoke at another reaches all within 2 seconds."""
    cluster = await start()
    first, second, _ = cluster.servers
    await cluster.log_in(first)
    await until(lambda: all_have_the_same(cluster))
    assert [r.grant_type for r in cluster.sandbox.log if r.grant_type] == ["authorization_code"]
    assert (await fetch(second, "/revoke"))[1] == {"status": "revoked"}
    took = await until(lambda: none_has_any(cluster))
    assert took < 2


async def all_have_the_same(cluster: Cluster) -> bool:
    tokens = await cluster.tokens()
    return None not in tokens and len(set(tokens)) == 1


async def none_has_any(cluster: Cluster) -> bool:
    return set(await cluster.tokens()) == {None}


async def test_there_is_one_refresh_a_rotation(start: Callable[..., Awaitable[Cluster]]) -> None:
    """All five processes tick. No refresh token is spent twice, and every caller gets a token."""
    cluster = await start(life_seconds=6)
    await cluster.log_in(cluster.servers[0])
    await until(lambda: all_have_the_same(cluster))
    served = 0
    while len(cluster.sandbox.refreshes()) < 3:
        tokens = await cluster.tokens()
        assert None not in tokens
        served += len(tokens)
    refreshes = cluster.sandbox.refreshes()
    assert {r.outcome for r in refreshes} == {"issued"}
    assert len({r.token for r in refreshes}) == len(refreshes)
    for earlier, later in pairwise(refreshes):
        assert later.token == earlier.issued
    assert served > len(refreshes)


async def test_without_redis_every_process_serves_its_token(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """Meanwhile each reports that it is degraded. All recover within 5 seconds of its return."""
    cluster = await start()
    await cluster.log_in(cluster.servers[0])
    await until(lambda: all_have_the_same(cluster))
    token = (await cluster.tokens())[0]
    cluster.redis.kill()
    began, rounds = time.monotonic(), 0
    for port in cluster.servers:
        await until(partial(reports, port, "degraded"))
    while time.monotonic() - began < OUTAGE_SECONDS:
        assert set(await cluster.tokens()) == {token}
        rounds += 1
    assert rounds > 5
    for port in cluster.servers:
        assert (await fetch(port, "/ready"))[0] == 200, "it can still serve"
        assert (await fetch(port, "/livez"))[0] == 200
    await asyncio.to_thread(cluster.redis.start)
    back = time.monotonic()
    for port in cluster.servers:
        await until(partial(reports, port, "ok"))
    assert time.monotonic() - back < 5
    assert set(await cluster.tokens()) == {token}
    assert (await fetch(cluster.servers[1], "/refresh"))[0] == 200
    await until(lambda: all_have_the_same(cluster))
    assert (await cluster.tokens())[0] != token


async def reports(port: int, store: str) -> bool:
    _, status = await fetch(port, "/status")
    return status is not None and status["store"] == store


async def test_redis_and_its_traffic_hold_no_secret_in_clear(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """No key, no value and no command that MONITOR shows holds a credential, a token or a key."""
    cluster = await start()
    secrets: set[str] = {DEFAULT_CLIENT_SECRET}
    with cluster.redis.admin.monitor() as monitor:
        await cluster.log_in(cluster.servers[0])
        for port in cluster.servers:
            await until(lambda: all_have_the_same(cluster))
            secrets |= {str(token) for token in await cluster.tokens()}
            secrets |= set(cluster.sandbox.identity.usable_refresh_tokens(cluster.sandbox.clock()))
            assert (await fetch(port, "/refresh"))[0] == 200
        admin = cluster.redis.admin
        keys = [key for key in admin.keys("*") if key != b"xots:due"]
        index = admin.zrange("xots:due", 0, -1)
        stored = b" ".join([*keys, *index, *(admin.get(key) or b"" for key in keys)])
        assert (await fetch(cluster.servers[0], "/revoke"))[0] == 200
        await asyncio.to_thread(cluster.redis.admin.echo, "the end")
        seen = []
        while "the end" not in (
            command := (await asyncio.to_thread(monitor.next_command))["command"]
        ):
            seen.append(command)
    assert any("xots:record:default" in command for command in seen)
    assert b"xots:record:default" in stored
    assert len(secrets) > 5
    for secret in secrets:
        assert secret.encode() not in stored
        assert not any(secret in command for command in seen), fingerprint(secret)
