"""A Redis server that is missing, refuses, hangs or restarts: the error, and the recovery."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from support.redis_servers import (
    Opener,
    RedisServer,
    free_port,
    refusal,
    until,
)

from xots.backends import redis_stream, redis_url
from xots.backends.redis import RedisStore
from xots.errors import StoreUnavailable
from xots.log_filters import traceback_text


async def test_a_missing_server_is_reported_soon(open_store: Opener, tmp_path: Path) -> None:
    """No process listens at the port or at the socket."""
    port = free_port()
    message = await refusal(open_store(f"redis://:hunter2@127.0.0.1:{port}").read("a"))
    assert f"Redis at 127.0.0.1:{port}: it cannot be reached" in message
    assert "it cannot be reached" in await refusal(
        open_store(f"unix://:hunter2@{tmp_path}/none").check()
    )
    assert "it cannot be reached" in await refusal(
        anext(open_store(f"redis://127.0.0.1:{port}").changes())
    )
    assert "no sentinel names a master" in await refusal(
        open_store(f"sentinel://:hunter2@127.0.0.1:{port}/service").check()
    )


@pytest.mark.parametrize("userinfo", [":wrong-password@", "nobody:wrong-password@", ""])
async def test_a_wrong_password_or_user_is_reported(
    userinfo: str, server: RedisServer, open_store: Opener
) -> None:
    """The message says that authentication failed, and names the remedy."""
    store = open_store(f"redis://{userinfo}127.0.0.1:{server.port}")
    for call in (
        store.read("a"),
        store.swap("a", b"", expected=None),
        store.names(),
        store.check(),
        store.warnings(),
    ):
        assert "authentication failed" in await refusal(call)
    assert "correct user and password" in await refusal(anext(store.changes()))
    assert "correct user and password" in await refusal(store.lease("a", 1).__aenter__())


@pytest.mark.parametrize("password", ["hunter2", "pw", "hunter2" * 40, "it's hunter2", "get"])
async def test_a_password_that_the_server_quotes_is_not_shown(
    password: str, open_store: Opener, tmp_path: Path
) -> None:
    """A server without AUTH repeats the refused request. The message names the command only, and no
    traceback shows more. This holds for a sentinel too."""
    file = tmp_path / "password"
    file.write_text(password)
    file.chmod(0o600)
    no_auth = ('rename-command AUTH ""',)
    monitor = "sentinel monitor books 127.0.0.1 1 1"
    with (
        RedisServer(*no_auth, password="") as server,
        RedisServer(*no_auth, monitor, command="redis-sentinel", password="") as sentinel,
    ):
        for url in (
            f"redis://127.0.0.1:{server.port}?password_file={file}",
            f"redis://{quote(password, safe='')}@127.0.0.1:{server.port}?password_file={file}",
            f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}",
            f"unix://{server.socket}?password_file={file}",
            f"sentinel://127.0.0.1:{sentinel.port}/books?sentinel_password_file={file}",
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await open_store(url).check()
            assert str(caught.value).endswith(": it refused the request: unknown command 'AUTH'")
            shown = traceback_text(caught.value)
            assert "AUTH" in shown
            assert "with args beginning" not in shown


@pytest.mark.safeguard(
    file="backends/redis_requests.py",
    old="found = UP_TO_QUOTATION.match(str(error))",
    new='found = re.match(".*", str(error))',
    protects_from="a password of Redis in the log, because the server quotes it",
)
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-ERR unknown command `GET`, with args beginning with: `pw`, ", "unknown command `GET`"),
        ("-ERR unknown command 'pw', with args beginning with: ", "unknown command"),
        ('-ERR broken request "pw"', "broken request"),
        ("-NOPERM this user may not run the 'get' command 'pw'", "may not run the 'get' command"),
        ("-NOAUTH 'pw'", "authentication failed ()"),
        ("-WRONGPASS wrong: 'pw'", "authentication failed (wrong)"),
        ("HTTP/1.1 400 'pw'", "not one of Redis"),
    ],
)
async def test_no_quotation_of_another_server_is_shown(
    line: str, shown: str, open_store: Opener
) -> None:
    """Each server has its own texts, and a wrong port may lead to no Redis at all."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(1000):
                writer.write(line.encode() + b"\r\n")
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        message = await refusal(open_store(f"redis://127.0.0.1:{port}").read("a"))
    assert shown in message
    assert "pw" not in message


async def test_a_request_that_fails_loses_no_cancellation(
    own_server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hangs. A cancelled task ends as cancelled, whichever turn the call has reached."""
    monkeypatch.setattr(redis_url, "RESPONSE_TIMEOUT_SECONDS", 0.2)
    store = open_store(own_server.unix_url)
    await store.read("a")
    own_server.signal(signal.SIGSTOP)
    try:
        for turns in range(6):
            read = asyncio.create_task(store.read("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            read.cancel()
            await asyncio.wait([read], timeout=10)
            assert read.cancelled(), f"the cancellation after {turns} turns was lost"
    finally:
        own_server.signal(signal.SIGCONT)


async def test_refused_writes_are_explained(own_server: RedisServer, open_store: Opener) -> None:
    """Full memory, a full disk, too few replicas, and a read-only replica."""
    store, admin = open_store(own_server.url), own_server.admin

    async def write() -> None:
        await store.swap("a", b"x", expected=None)

    admin.config_set("maxmemory", "1")
    assert "its memory is full" in await refusal(write())
    assert "its memory is full" in await refusal(store.check())
    admin.config_set("maxmemory", "0")
    admin.config_set("min-replicas-to-write", "1")
    assert "too few replicas" in await refusal(write())
    assert "too few replicas" in await refusal(store.check())
    admin.config_set("min-replicas-to-write", "0")
    admin.config_set("save", "3600 1")
    blocker = own_server.folder / "dump.rdb"
    blocker.mkdir()  # the snapshot cannot replace it
    admin.set("other", "1")
    admin.bgsave()
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert "cannot save to its disk" in await refusal(write())
    assert "cannot save to its disk" in await refusal(store.check())
    admin.config_set("save", "")
    admin.replicaof("127.0.0.1", free_port())
    assert "read-only replica" in await refusal(write())
    assert "read-only replica" in await refusal(store.check())
    admin.replicaof("NO", "ONE")
    await write()


async def test_a_hanging_server_is_reported(
    own_server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process accepts connections and never responds; later the store works again."""
    monkeypatch.setattr(redis_url, "RESPONSE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(redis_stream, "PING_INTERVAL_SECONDS", 0.1)
    store = open_store(own_server.url)
    changes = store.changes()
    await anext(changes)
    await asyncio.gather(*(store.read("a") for _ in range(5)))  # several connections in the pool
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    assert "no response arrived in time" in await refusal(store.read("a"))
    assert "no response arrived in time" in await refusal(anext(changes))
    own_server.process.send_signal(signal.SIGCONT)
    until(own_server.admin.ping)
    assert await store.read("a") is None


async def test_idle_connections_that_are_cut_off_cost_one_call(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a firewall drops them silently, the first call fails and the next ones connect anew."""
    monkeypatch.setattr(redis_url, "RESPONSE_TIMEOUT_SECONDS", 1.0)
    is_cut_off: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_old = not is_cut_off
        to_server = await asyncio.open_connection("127.0.0.1", server.port)
        while request := await reader.read(65536):
            if is_cut_off and is_old:
                continue
            to_server[1].write(request)
            writer.write(await to_server[0].read(65536))
        for end in (writer, to_server[1]):
            end.close()
            await end.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        store = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        await asyncio.gather(*(store.read("a") for _ in range(5)))
        is_cut_off.append(True)
        assert "no response arrived in time" in await refusal(store.read("a"))
        assert await asyncio.gather(*(store.read("a") for _ in range(5))) == [None] * 5
        await store.close()


@pytest.mark.parametrize("times", [1, 2])
async def test_the_first_call_after_a_restart_works(
    times: int, own_server: RedisServer, open_store: Opener
) -> None:
    """No old connection makes it fail, and the script is loaded again."""
    store = open_store(own_server.unix_url if times == 2 else own_server.url)
    for _ in range(times):
        await asyncio.gather(*(store.read("a") for _ in range(5)))
        await asyncio.to_thread(own_server.kill)
        assert "cannot be reached" in await refusal(store.read("a"))
        await asyncio.to_thread(own_server.start)
        await store.swap("a", b"x", expected=None)
        await asyncio.gather(*(store.read("a") for _ in range(5)))


async def test_a_restart_between_two_calls_goes_unnoticed(
    own_server: RedisServer, open_store: Opener
) -> None:
    """If no call is made while the server is away, no call fails."""
    store = open_store(own_server.url)
    await asyncio.gather(*(store.read("a") for _ in range(5)))
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(own_server.start)
    await asyncio.gather(*(store.swap(f"a{n}", b"x", expected=None) for n in range(5)))
