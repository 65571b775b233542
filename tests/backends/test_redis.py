"""The Redis store on a real server: reading and writing, leases, notices and warnings."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.certificates import Certificates
from support.redis_servers import (
    ACL_LINE,
    Opener,
    RedisServer,
    refusal,
    set_user,
)

from xots.backends import leases
from xots.backends.redis import RedisStore
from xots.backends.redis_requests import MAX_REQUESTS_AT_ONCE
from xots.errors import StaleWrite, StoreUnavailable
from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.record_json import encode
from xots.sealing import Sealer, new_key
from xots.secret import Secret

# ---------- reading and writing


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="if (stored and redis.sha1hex(stored) or '') ~= ARGV[2] then return 0 end\n",
    new="",
    protects_from="a write over the newer record of another process",
)
async def test_one_of_many_writers_wins(server: RedisServer, open_store: Opener) -> None:
    """Of twenty swaps of one version through two openings one succeeds, and its value is stored."""
    stores = [open_store(server.url), open_store(server.unix_url)]
    version = await stores[0].swap("a", b"start", expected=None)
    outcomes = await asyncio.gather(
        *(stores[n % 2].swap("a", b"%d" % n, expected=version) for n in range(20)),
        return_exceptions=True,
    )
    won = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert len(won) == 1
    assert sum(isinstance(outcome, StaleWrite) for outcome in outcomes) == 19
    stored = await stores[1].read("a")
    assert stored is not None
    assert (stored.value, stored.version) == (b"%d" % won[0], outcomes[won[0]])


async def test_hundreds_of_requests_at_one_moment_share_a_few_connections(
    server: RedisServer, open_store: Opener
) -> None:
    """So it is when callers need hundreds of accounts at the same moment, such as after a start."""
    store, before = open_store(server.url), len(server.admin.client_list())
    found = await asyncio.gather(*(store.read(f"account-{number}") for number in range(500)))
    assert found == [None] * 500
    assert len(server.admin.client_list()) - before <= MAX_REQUESTS_AT_ONCE


async def test_hundreds_of_requests_to_a_server_that_hangs_all_fail_soon(
    own_server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait for others to end wait no longer than for a response."""
    monkeypatch.setattr("xots.backends.redis_url.RESPONSE_TIMEOUT_SECONDS", 0.5)
    store = open_store(own_server.url)
    await store.read("a")
    own_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    found = await asyncio.gather(
        *(store.read(f"account-{number}") for number in range(200)), return_exceptions=True
    )
    assert time.monotonic() - began < 5
    own_server.signal(signal.SIGCONT)
    assert {type(error) for error in found} == {StoreUnavailable}
    assert await store.read("a") is None


async def test_a_swap_is_one_round_trip(server: RedisServer, open_store: Opener) -> None:
    """Once Redis has the script, a swap of any size is one command from the client."""
    store = open_store(server.url)
    version = await store.swap("a", b"one", expected=None)
    version = await store.swap("a", b"x" * 1_000_000, expected=version)
    server.admin.config_resetstat()
    await store.swap("a", b"two", expected=version)
    # Redis also counts the commands that the script calls.
    calls = {name: figures["calls"] for name, figures in server.admin.info("commandstats").items()}
    commands = ("evalsha", "get", "set", "publish", "zrem")
    expected = {f"cmdstat_{command}": 1 for command in commands}
    assert {name: count for name, count in calls.items() if name in expected} == expected
    assert calls.keys() <= {*expected, "cmdstat_config|resetstat", "cmdstat_info"}


@asynccontextmanager
async def proxy_that_drops_the_response_to(command: bytes, port: int) -> AsyncIterator[int]:
    """Forward bytes to the server; close the connection in place of the response to ``command``."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", port)
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            while request := await reader.read(65536):
                to_server[1].write(request)
                response = await to_server[0].read(65536)
                if command in request and not response.startswith(b"-NOSCRIPT"):
                    break
                writer.write(response)
        finally:
            for end in (writer, to_server[1]):
                end.close()
                await end.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
    if tasks:
        await asyncio.wait(tasks)


async def test_a_lost_response_is_reported_and_the_write_is_found_by_reading(
    server: RedisServer, open_store: Opener
) -> None:
    """The write took effect without a response: it is StoreUnavailable, without a retry."""
    store = open_store(server.url)
    async with proxy_that_drops_the_response_to(b"EVALSHA", server.port) as port:
        cut_off = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        assert "cannot be reached" in await refusal(cut_off.swap("a", b"mine", expected=None))
        calls = server.admin.info("commandstats")["cmdstat_publish"]["calls"]
        stored = await cut_off.read("a")
        await cut_off.close()
    assert stored is not None
    assert stored.value == b"mine"
    with pytest.raises(StaleWrite):
        await store.swap("a", b"other", expected=None)
    assert server.admin.info("commandstats")["cmdstat_publish"]["calls"] == calls


@pytest.mark.safeguard(
    file="backends/redis_url.py",
    old='"retry": Retry(NoBackoff(), 0),',
    new='"retry": Retry(NoBackoff(), 3),',
    protects_from="a library that retries a write whose response was lost",
)
async def test_a_write_whose_response_was_lost_is_not_retried(
    server: RedisServer, open_store: Opener
) -> None:
    """Neither the store nor its library retries it."""
    await open_store(server.url).swap("b", b"so that Redis has the script", expected=None)
    server.admin.config_resetstat()
    async with proxy_that_drops_the_response_to(b"EVALSHA", server.port) as port:
        cut_off = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        assert "cannot be reached" in await refusal(cut_off.swap("a", b"mine", expected=None))
        await cut_off.close()
    assert server.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


async def test_cancelled_calls_never_mix_up_responses(
    server: RedisServer, open_store: Opener
) -> None:
    """A call that is cancelled at any moment leaves no response for the next call to read."""
    store = open_store(server.url)
    for name in "abcd":
        await store.swap(name, name.encode() * 10, expected=None)
    for n in range(200):
        victims = [asyncio.create_task(store.read(name)) for name in "abcd"]
        for _ in range(n % 12):
            await asyncio.sleep(0)
        for victim in victims:
            victim.cancel()
        await asyncio.wait(victims)
        for name in "abcd":
            stored = await store.read(name)
            assert stored is not None
            assert stored.value == name.encode() * 10


async def test_no_call_loses_a_cancellation(server: RedisServer, open_store: Opener) -> None:
    """A task ends when it is cancelled, whichever turn of the event loop the call has reached."""
    store = open_store(server.unix_url)
    await store.read("a")

    async def read_for_ever() -> None:
        while True:
            await store.read("a")

    for turns in range(60):
        task = asyncio.create_task(read_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, pending = await asyncio.wait([task], timeout=5)
        while pending:
            task.cancel()
            _, pending = await asyncio.wait([task], timeout=0.1)
        assert done, f"the cancellation after {turns} turns was lost"


async def test_no_secret_reaches_redis_in_clear(server: RedisServer, open_store: Opener) -> None:
    """A record with canaries is written, watched and read; no command, key or value holds one."""
    now = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    canaries = [
        f"canary-{kind}-3f9c1e7a" for kind in ("secret", "access", "refresh", "fallback", "id")
    ]
    secret, access, refresh, fallback = (Secret(canary) for canary in canaries[:4])
    account = Account(
        client_id=canaries[4],
        client_secret=secret,
        access=AccessToken(value=access, issued_at=now, expires_at=now + timedelta(minutes=30)),
        current=RefreshToken(value=refresh, obtained_at=now),
        fallbacks=(RefreshToken(value=fallback, obtained_at=now),),
    )
    key = new_key()
    sealer = Sealer([key])
    sealed = sealer.seal(encode(account), "account", {"name": "a"})
    store = open_store(server.url)
    with server.admin.monitor() as monitor:
        changes = store.changes()
        await anext(changes)
        async with store.lease("a", 5):
            version = await store.swap("a", sealed, expected=None)
            await store.swap(
                "a", sealer.seal(encode(account), "account", {"name": "a"}), expected=version
            )
        await asyncio.wait_for(anext(changes), 2)
        await store.check()
        stored = await store.read("a")
        server.admin.echo("the end")
        traffic = []
        for command in monitor.listen():
            traffic.append(command["command"])
            if "the end" in command["command"]:
                break
    assert stored is not None
    assert sealer.open(stored.value, "account", {"name": "a"}) == encode(account)
    assert any("EVALSHA" in line for line in traffic)
    keys = server.admin.keys()
    assert set(keys) == {b"xots:record:a", b"xots:check"}
    sinks = [*traffic, *(repr((key, server.admin.get(key))) for key in keys)]
    for canary in [*canaries, key.reveal(), "access_token", "client_secret", "consent_id"]:
        assert not any(canary in sink for sink in sinks), canary


# ---------- leases


HOLDER = """
import asyncio, sys
from xots.backends.redis import RedisStore
from xots.backends.redis_requests import MAX_REQUESTS_AT_ONCE

async def main():
    store = RedisStore.from_url(sys.argv[1])
    async with store.lease("a", float(sys.argv[2])) as lease:
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("lost" if lease.lost else "held", flush=True)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def new_holder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that hold the lease until they read a line, and then print if it is lost."""
    with ExitStack() as stack:

        def start(url: str, ttl_seconds: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, url, str(ttl_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


async def soon(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition is true, while the event loop runs."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.safeguard(
    file="backends/redis_lease.py",
    old="await lock.extend(ttl_seconds, replace_ttl=True)",
    new="pass",
    protects_from="a slow refresh that outlives its lease",
)
async def test_a_lease_excludes_other_processes(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """No other gets it while its holder renews it beyond its lifetime; afterwards one does."""
    holder = new_holder(server.url, 1.5)
    store = open_store(server.url)
    waiting = asyncio.ensure_future(store.lease("a", 5).__aenter__())
    await asyncio.wait([waiting], timeout=2)
    assert not waiting.done()
    output, _ = await asyncio.to_thread(holder.communicate, "\n")
    assert output == "held\n"
    assert not (await asyncio.wait_for(waiting, 2)).lost


async def test_waiting_for_a_lease_ends(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the timeout the caller gets an error."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 0.2)
    server.admin.set("xots:lease:a", "another holder", px=1000)
    assert "held the lease of a for too long" in await refusal(
        open_store(server.url).lease("a", 1).__aenter__()
    )


@pytest.mark.safeguard(
    file="backends/redis_lease.py",
    old="if left ~= -1 and left <= tonumber(ARGV[3]) then return 0 end",
    new="if true then return 0 end",
    protects_from="an account that is never refreshed again, after a restore of a lease",
)
@pytest.mark.parametrize("lifetime", [None, 60_000])
async def test_a_lease_that_never_ends_is_taken_over(
    server: RedisServer, open_store: Opener, lifetime: int | None
) -> None:
    """An operator or a restored dump has left a key without an end, or with one too far off."""
    server.admin.set("xots:lease:a", "left over", px=lifetime)
    async with asyncio.timeout(5), open_store(server.url).lease("a", 2) as lease:
        assert 0 < server.admin.pttl("xots:lease:a") <= 2000
        assert not lease.lost
    assert not server.admin.exists("xots:lease:a")


async def test_a_lease_of_another_type_is_taken_over(
    server: RedisServer, open_store: Opener
) -> None:
    """It is a key of another program, and delays no account."""
    server.admin.hset("xots:lease:a", "field", "value")
    async with asyncio.timeout(5), open_store(server.url).lease("a", 2):
        pass


async def test_of_takeovers_at_the_same_time_one_succeeds(
    server: RedisServer, open_store: Opener
) -> None:
    """A lease that another process has just taken over is not replaced, nor one within the largest
    difference of clocks."""
    server.admin.set("xots:lease:a", "left over")
    stores = [open_store(server.url) for _ in range(8)]
    inside = most = 0

    async def hold(store: RedisStore) -> None:
        nonlocal inside, most
        async with store.lease("a", 5):
            inside += 1
            most = max(most, inside)
            await store.read("a")
            inside -= 1

    async with asyncio.timeout(20):
        await asyncio.gather(*(hold(store) for store in stores))
    assert most == 1
    server.admin.set("xots:lease:a", "another holder", px=11_900)
    waiting = asyncio.ensure_future(stores[0].lease("a", 2).__aenter__())
    await asyncio.wait([waiting], timeout=0.3)
    assert server.admin.get("xots:lease:a") == b"another holder"
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.safeguard(
    file="backends/redis_lease.py",
    old="timeout=ttl_seconds)",
    new="timeout=None)",
    protects_from="a killed holder that excludes all others for ever",
)
async def test_a_lease_expires_in_redis(server: RedisServer, open_store: Opener) -> None:
    """Redis frees it even if its holder never returns."""
    async with open_store(server.url).lease("a", 5):
        assert 0 < server.admin.pttl("xots:lease:a") <= 5000


async def test_the_lease_of_a_killed_holder_expires(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """It is free after its lifetime, and not before."""
    holder = new_holder(server.url, 2)
    store = open_store(server.url)
    holder.kill()
    left = server.admin.pttl("xots:lease:a") / 1000
    began_at = time.monotonic()
    async with store.lease("a", 1):
        assert left - 0.1 <= time.monotonic() - began_at <= left + 1


@pytest.mark.safeguard(
    file="backends/leases.py",
    old="self._ends_at is not None and SystemClock().elapsed() >= self._ends_at",
    new="False",
    protects_from="a stopped process that does not notice that its lease has expired",
)
async def test_a_stopped_holder_finds_its_lease_lost(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """It makes no request to find out, and leaves the lease of the next holder alone."""
    holder = new_holder(server.url, 0.5)
    holder.send_signal(signal.SIGSTOP)
    async with open_store(server.url).lease("a", 5) as lease:
        mine = server.admin.get("xots:lease:a")
        holder.send_signal(signal.SIGCONT)
        output, _ = await asyncio.to_thread(holder.communicate, "\n")
        assert output == "lost\n"
        assert server.admin.get("xots:lease:a") == mine
        assert not lease.lost


@pytest.mark.safeguard(
    file="backends/redis_lease.py",
    old="            lease.lose()",
    new="            pass",
    protects_from="two holders at once, after a fail-over of Redis has lost the lease",
)
async def test_a_lease_that_another_holder_took_is_lost(
    server: RedisServer, open_store: Opener
) -> None:
    """As after a fail-over: the next renewal finds the other holder, before the lease ends."""
    store = open_store(server.url)
    async with store.lease("a", 4) as lease:
        server.admin.set("xots:lease:a", "another holder")
        await soon(lambda: lease.lost, 2)
    assert server.admin.get("xots:lease:a") == b"another holder"


async def test_a_lease_outlives_a_short_outage_but_not_a_long_one(
    own_server: RedisServer, open_store: Opener
) -> None:
    """It lasts if one renewal succeeds in time; otherwise it ends by its own clock."""
    store = open_store(own_server.url)
    async with store.lease("a", 1) as lease:
        ends_at = time.monotonic() + 1.5
        while time.monotonic() < ends_at:
            own_server.admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)
            assert not lease.lost
        own_server.kill()
        await soon(lambda: lease.lost, 1.1)


# ---------- notices


async def test_a_change_is_seen_by_another_opening(server: RedisServer, open_store: Opener) -> None:
    """It is reported within two seconds with its name, after a first notice at the start."""
    watcher, writer = open_store(server.url), open_store(server.unix_url)
    changes = watcher.changes()
    assert await asyncio.wait_for(anext(changes), 2) is None
    versions: dict[str, str | None] = {"a": None, "b": None}
    for name in ("a", "b", "a"):
        versions[name] = await writer.swap(name, b"value", expected=versions[name])
        assert await asyncio.wait_for(anext(changes), 2) == name
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_broken_subscription_is_an_error(server: RedisServer, open_store: Opener) -> None:
    """It raises StoreUnavailable and misses no change silently; a new subscription works."""
    store = open_store(server.url)
    changes = store.changes()
    await anext(changes)
    notice = asyncio.ensure_future(anext(changes))
    server.admin.client_kill_filter(_type="pubsub")
    assert "cannot be reached" in await refusal(notice)
    await asyncio.wait_for(anext(store.changes()), 2)


# ---------- warnings


async def test_warnings_name_possible_losses(own_server: RedisServer, open_store: Opener) -> None:
    """Neither an append-only file nor a replica is one warning, a memory that evicts another."""
    store, admin = open_store(own_server.url), own_server.admin
    (warning,) = await store.warnings()
    assert "neither an append-only file nor a replica" in warning
    assert "appendonly yes" in warning
    assert "hunter2" not in warning
    admin.config_set("appendonly", "yes")
    assert await store.warnings() == []
    admin.config_set("maxmemory", "100mb")
    assert await store.warnings() == []
    admin.config_set("maxmemory-policy", "allkeys-lru")
    (warning,) = await store.warnings()
    assert "deletes keys when its memory is full (maxmemory-policy allkeys-lru)" in warning


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="found = self._file_warnings() + ",
    new="found = [] + ",
    protects_from="a file of the Redis password that other users read unnoticed",
)
async def test_a_password_file_that_is_open_to_others_is_warned_about(
    server: RedisServer, open_store: Opener, tmp_path: Path
) -> None:
    """The warning names the option and the remedy, also without the right to INFO."""
    file = tmp_path / "password"
    url = urlsplit(set_user(server, ACL_LINE.replace(" +info", "")))
    file.write_text(url.password or "")
    file.chmod(0o640)
    named = f"redis://{url.username}@{url.hostname}:{url.port}/?password_file={file}"
    assert await open_store(named).warnings() == [
        f"password_file: {file} is open to other users (mode 0640): chmod 600 {file}"
    ]
    file.chmod(0o600)
    assert await open_store(named).warnings() == []


async def test_authorities_that_others_can_write_are_warned_about(
    certificates: Certificates, tls_url: str, server: RedisServer, open_store: Opener
) -> None:
    """They could add one of theirs, which vouches for a false server. All may read them."""
    mode = certificates.ca.stat().st_mode & 0o777
    for certificate in (certificates.ca, certificates.client_key):
        certificate.chmod(0o600)
    before = await open_store(tls_url).warnings()
    certificates.ca.chmod(0o644)
    assert await open_store(tls_url).warnings() == before
    certificates.ca.chmod(0o664)
    [warning] = set(await open_store(tls_url).warnings()) - set(before)
    certificates.ca.chmod(mode)
    assert warning == (
        f"ca_file: {certificates.ca} is open to other users (mode 0664): "
        f"chmod 644 {certificates.ca}"
    )


async def test_keys_of_other_programs_are_skipped_and_named(
    own_server: RedisServer, open_store: Opener
) -> None:
    """As the file store names foreign files."""
    store, admin = open_store(own_server.url), own_server.admin
    await store.swap("default", b"value", expected=None)
    for name in ("UPPER", "a b\n", "a" * 65, "lease-x", "\x1b[31m", ""):
        admin.set(f"xots:record:{name}", "value")
    assert await store.names() == ["default"]
    assert len(await store.foreign()) == 6


async def test_there_are_no_warnings_without_the_right_to_info(
    server: RedisServer, open_store: Opener
) -> None:
    """A user without INFO gets no warning and no error."""
    assert await open_store(set_user(server, ACL_LINE.replace(" +info", ""))).warnings() == []
