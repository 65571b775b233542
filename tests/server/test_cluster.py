"""Several processes that share one account through Redis: three servers, and two programs that use the keeper."""

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
"""How long Redis is away in the outage's test; set it to 60 for the long version."""

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
                answer = {"token": (await keeper.token()).value.reveal()}
            except XotsError as error:
                answer = {"error": type(error).__name__}
            print(json.dumps(answer), flush=True)

asyncio.run(main())
"""


@dataclass
class Process:
    """One process of the cluster, and how to ask it for the token: None if it has none to give."""

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


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, Any]:
    """A program's request to a server: status and JSON; 0 if nobody listens."""

    def fetch() -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    return await asyncio.to_thread(fetch)


async def until(condition: Callable[[], Awaitable[bool]], within_seconds: float = 20) -> float:
    """Wait until it holds; how long that took, in seconds."""
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
    """Starts the five processes, on tokens that live so many seconds."""
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
                    status, content = await ask(port, "/token")
                    return content["accessToken"] if status == 200 else None

                cluster.processes.append(Process(process, from_server, port))
            for _ in range(2):
                program = await spawn(sys.executable, "-c", PROGRAM)

                async def from_program(program: asyncio.subprocess.Process = program) -> str | None:
                    assert program.stdin is not None
                    assert program.stdout is not None
                    program.stdin.write(b"\n")
                    answer: dict[str, str] = json.loads(await program.stdout.readline())
                    return answer.get("token")

                cluster.processes.append(Process(program, from_program))
            for port in ports:
                await until(lambda port=port: answers(port))
            return cluster

        yield started


async def answers(port: int) -> bool:
    return (await ask(port, "/ping"))[0] == 200


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_one_login_serves_all_and_one_revoke_ends_it_for_all(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """A login on any of them is every one's; a revoke on another is seen by all within 2 seconds."""
    cluster = await start()
    first, second, _ = cluster.servers
    await cluster.log_in(first)
    await until(lambda: all_have_the_same(cluster))
    assert [r.grant_type for r in cluster.sandbox.log if r.grant_type] == ["authorization_code"]
    assert (await ask(second, "/revoke"))[1] == {"status": "revoked"}
    took = await until(lambda: none_has_any(cluster))
    assert took < 2


async def all_have_the_same(cluster: Cluster) -> bool:
    tokens = await cluster.tokens()
    return None not in tokens and len(set(tokens)) == 1


async def none_has_any(cluster: Cluster) -> bool:
    return set(await cluster.tokens()) == {None}


async def test_there_is_one_refresh_a_rotation(start: Callable[..., Awaitable[Cluster]]) -> None:
    """Five processes, all of which tick: no refresh token is spent twice, and none of their callers goes without."""
    cluster = await start(life_seconds=6)
    await cluster.log_in(cluster.servers[0])
    await until(lambda: all_have_the_same(cluster))
    given = 0
    while len(cluster.sandbox.refreshes()) < 4:
        tokens = await cluster.tokens()
        assert None not in tokens
        given += len(tokens)
    refreshes = cluster.sandbox.refreshes()
    assert {r.outcome for r in refreshes} == {"issued"}
    assert len({r.token for r in refreshes}) == len(refreshes)
    for earlier, later in pairwise(refreshes):
        assert later.token == earlier.issued
    assert given > len(refreshes)


async def test_redis_away_is_degraded_and_not_more(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """Each process serves its token meanwhile, says that it is degraded, and is well within 5 seconds of the return."""
    cluster = await start()
    await cluster.log_in(cluster.servers[0])
    await until(lambda: all_have_the_same(cluster))
    token = (await cluster.tokens())[0]
    cluster.redis.kill()
    began, asked = time.monotonic(), 0
    for port in cluster.servers:
        await until(lambda port=port: says(port, "degraded"))
    while time.monotonic() - began < OUTAGE_SECONDS:
        assert set(await cluster.tokens()) == {token}
        asked += 1
    assert asked > 5
    for port in cluster.servers:
        assert (await ask(port, "/ready"))[0] == 200, "it can still serve"
        assert (await ask(port, "/livez"))[0] == 200
    await asyncio.to_thread(cluster.redis.start)
    back = time.monotonic()
    for port in cluster.servers:
        await until(lambda port=port: says(port, "ok"))
    assert time.monotonic() - back < 5
    assert set(await cluster.tokens()) == {token}
    assert (await ask(cluster.servers[1], "/refresh"))[0] == 200
    await until(lambda: all_have_the_same(cluster))
    assert (await cluster.tokens())[0] != token


async def says(port: int, store: str) -> bool:
    ready, status = await asyncio.gather(ask(port, "/ready"), ask(port, "/status"))
    return (
        ready[1] is not None
        and status[1] is not None
        and ready[1]["store"] == status[1]["store"] == store
    )


async def test_nothing_in_redis_or_its_traffic_is_in_clear(
    start: Callable[..., Awaitable[Cluster]],
) -> None:
    """No credential, token or key in any key or value, nor in what a MONITOR sees of all that is done."""
    cluster = await start()
    secrets: set[str] = {DEFAULT_CLIENT_SECRET}
    with cluster.redis.admin.monitor() as monitor:
        await cluster.log_in(cluster.servers[0])
        for port in cluster.servers:
            await until(lambda: all_have_the_same(cluster))
            secrets |= {str(token) for token in await cluster.tokens()}
            secrets |= set(cluster.sandbox.identity.usable_refresh_tokens(cluster.sandbox.clock()))
            assert (await ask(port, "/refresh"))[0] == 200
        keys = cluster.redis.admin.keys("*")
        kept = b" ".join([*keys, *(cluster.redis.admin.get(key) or b"" for key in keys)])
        assert (await ask(cluster.servers[0], "/revoke"))[0] == 200
        await asyncio.to_thread(cluster.redis.admin.echo, "the end")
        seen = []
        while "the end" not in (
            command := (await asyncio.to_thread(monitor.next_command))["command"]
        ):
            seen.append(command)
    assert any("xots:record:default" in command for command in seen)
    assert b"xots:record:default" in kept
    assert len(secrets) > 5
    for secret in secrets:
        assert secret.encode() not in kept
        assert not any(secret in command for command in seen), fingerprint(secret)
