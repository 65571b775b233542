"""Clocks of hosts that differ by more than ten seconds are reported, and cost no refresh token."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import Bench
from support.redis_servers import RedisServer
from support.stores import PlainStore

from xots.backends.memory import MemoryStore
from xots.backends.redis import RedisStore
from xots.commands.main import main
from xots.errors import StoreUnavailable
from xots.events import ClockSkewed, Event, Refreshed
from xots.keeping.keeper import TokenKeeper
from xots.keeping.reporting import clock_skew
from xots.lifecycle.account import Account, Intent, Problem, ProblemKind
from xots.lifecycle.record_json import encode
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


PROBLEM = Problem(kind=ProblemKind.THROTTLED, detail="429", at=NOW + MINUTE)


INTENT = Intent(by="app2:7", began_at=NOW + MINUTE, fingerprint="f", set_first_spent=True)


@pytest.mark.parametrize(
    ("account", "of_store", "host", "ahead"),
    [
        (Account(), None, None, None),
        (Account(refreshed_at=NOW - 60 * MINUTE, refreshed_by="app2:7"), None, None, None),
        (Account(refreshed_at=NOW + 10 * SECOND, refreshed_by="app2:7"), None, None, None),
        (Account(refreshed_at=NOW + 11 * SECOND, refreshed_by="app2:7"), None, "app2:7", 11),
        (Account(refreshed_at=NOW + MINUTE), None, "the host of the last login", 60),
        (Account(ended_at=NOW + MINUTE), None, "the host of the last logout", 60),
        (Account(intent=INTENT), None, "app2:7", 60),
        (Account(problem=PROBLEM), None, "the host of the last failed attempt", 60),
        (Account(), ("Redis at x", 10 * SECOND), None, None),
        (Account(), ("Redis at x", -11 * SECOND), "Redis at x", -11),
        (Account(intent=INTENT), ("Redis at x", -90 * SECOND), "Redis at x", -90),
        (Account(intent=INTENT), ("Redis at x", 2 * SECOND), "app2:7", 60),
    ],
)
def test_the_largest_difference_of_more_than_ten_seconds_is_found(
    account: Account,
    of_store: tuple[str, timedelta] | None,
    host: str | None,
    ahead: int | None,
) -> None:
    """A record shows only a clock that is ahead. A store compares both ways."""
    found = clock_skew("default", account, NOW, of_store)
    seconds = found and found.ahead.total_seconds()
    assert (found and found.host, seconds) == (host, ahead)


def test_the_event_names_host_difference_and_remedy() -> None:
    """It does so for a clock ahead and for one behind."""
    event = ClockSkewed(account="default", at=NOW, host="app2:7", ahead=3 * MINUTE)
    assert str(event) == (
        "this host's clock is at least 3 minutes behind that of app2:7. No refresh token is lost, "
        "but extra refreshes and 503 responses may follow: synchronise the clocks"
    )
    event = ClockSkewed(account="default", at=NOW, host="app2:7", ahead=-3 * MINUTE)
    assert str(event).startswith("this host's clock is at least 3 minutes ahead of that of app2:7.")


# ---------- the stores


async def test_a_lease_shows_that_its_holders_clock_is_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its date lies in the future. A date in the past shows nothing."""
    store, real = PlainStore(), time.time
    assert await store.clock_skew("default") is None
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: real() + 3600)
        async with store.lease("default", 1):
            pass
    found = await store.clock_skew("default")
    assert found is not None
    host, difference = found
    assert host
    assert timedelta(minutes=59) < difference <= timedelta(minutes=60)
    stored = await store.read("lease-default")
    assert stored is not None
    await store.swap("lease-default", json.dumps({"until": 1}).encode(), expected=stored.version)
    assert await store.clock_skew("default") is None


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis_store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(redis_server.unix_url)
    yield store
    await store.close()


@pytest.mark.parametrize("off", [0, 90, -90])
async def test_redis_compares_its_own_clock(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """The difference is exact to the time of a round trip."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - off)
    found = await redis_store.clock_skew("default")
    assert found is not None
    host, ahead = found
    assert host.startswith("Redis at ")
    assert abs(ahead.total_seconds() - off) < 5


@pytest.mark.safeguard(
    file="backends/leases.py",
    old=" <= self._ttl_seconds + MAX_CLOCK_SKEW.total_seconds()",
    new=" <= self._ttl_seconds",
    protects_from="a lease that another host takes over, since its clock is some seconds behind",
)
@pytest.mark.parametrize(("ahead", "is_taken"), [(4, False), (3600, True)])
async def test_a_lease_dated_some_seconds_ahead_is_not_taken_over(
    monkeypatch: pytest.MonkeyPatch, ahead: int, is_taken: bool
) -> None:
    """Its end lies a little beyond the ttl. A lease that ends an hour later is taken over."""
    store, real = PlainStore(), time.time
    monkeypatch.setattr("xots.backends.leases.LEASE_TIMEOUT_SECONDS", 0.2)
    there = pytest.MonkeyPatch()
    there.setattr(time, "time", lambda: real() + ahead)
    async with store.lease("default", 60):
        there.undo()
        if is_taken:
            async with store.lease("default", 60):
                pass
        else:
            with pytest.raises(StoreUnavailable, match="for too long"):
                await store.lease("default", 60).__aenter__()


# ---------- the keeper


class Host:
    """A keeper with a clock of its own, on a store that others share."""

    def __init__(self, store: MemoryStore, sealer: Sealer, clock: FakeClock) -> None:
        self.events: list[Event] = []
        self.xero = XeroClient(clock=clock)
        self.keeper = TokenKeeper(
            store, self.xero, sealer, clock=clock, observers=[self.events.append]
        )

    @property
    def reported(self) -> list[str]:
        return [event.host for event in self.events if isinstance(event, ClockSkewed)]


@pytest.fixture
async def new_host() -> AsyncIterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def new_host(store: MemoryStore, sealer: Sealer, clock: FakeClock) -> Host:
        hosts.append(Host(store, sealer, clock))
        return hosts[-1]

    yield new_host
    for host in hosts:
        await host.keeper.close()
        host.xero.close()


async def put(store: MemoryStore, sealer: Sealer, account: Account) -> None:
    stored = await store.read("default")
    sealed = sealer.seal(encode(account), "account", {"name": "default"})
    await store.swap("default", sealed, expected=stored.version if stored else None)


async def test_a_record_from_the_future_is_reported_once_and_known_for_an_hour(
    new_host: Callable[..., Host],
) -> None:
    """The next record of the same host brings no second report. One of a third host does, and so
    does one after an hour without any."""
    clock, store, sealer = FakeClock(NOW), MemoryStore(), Sealer.for_this_process()
    ahead = Account(refreshed_at=NOW + 2 * MINUTE, refreshed_by="app2:7", generation=1)
    await put(store, sealer, ahead)
    host = new_host(store, sealer, clock)

    async def write_ahead(by: str) -> None:
        written = replace(
            host.keeper.account,
            refreshed_at=clock.now() + MINUTE,
            refreshed_by=by,
            generation=host.keeper.account.generation + 1,
            write_id=f"{by} {clock.elapsed()}",
        )
        await put(store, sealer, written)
        await host.keeper.follow()
        await host.keeper.maintain()

    await host.keeper.start()
    assert host.reported == ["app2:7"]
    for _ in range(4):
        clock.advance(15)
        await host.keeper.maintain()
    assert host.keeper.clock_skew is not None
    assert host.keeper.clock_skew.ahead == MINUTE
    clock.advance(minutes=25)
    await host.keeper.maintain()
    assert host.keeper.clock_skew is not None
    await write_ahead("app2:7")
    assert host.reported == ["app2:7"]
    await write_ahead("app3:9")
    assert host.reported == ["app2:7", "app3:9"]
    clock.advance(minutes=59)
    await host.keeper.maintain()
    assert host.keeper.clock_skew is not None
    clock.advance(minutes=3)
    await host.keeper.maintain()
    assert host.keeper.clock_skew is None
    await write_ahead("app3:9")
    assert host.reported == ["app2:7", "app3:9", "app3:9"]


@pytest.mark.parametrize(
    "lease",
    [
        b"nonsense",
        b'{"host": "h", "at": "x"}',
        b'{"host": "h", "at": Infinity}',
        b'{"host": "h", "at": 1e300}',
        b'{"host": "h\\n2026 ERROR forged \\u001b[31m", "at": 32503680000}',
        b'{"host": "", "at": 32503680000}',
    ],
)
async def test_a_malformed_lease_shows_no_difference(lease: bytes) -> None:
    """Leases are not sealed: an impossible time or a forged line does not reach the log."""
    store = PlainStore()
    await store.swap("lease-default", lease, expected=None)
    assert await store.clock_skew("default") is None


async def test_an_exception_in_a_comparison_of_clocks_costs_no_refresh(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """The keeper starts and the tick goes on, whatever the store raises."""
    expected_log("comparing clocks with the store failed")
    clock, store = FakeClock(NOW), MemoryStore()

    async def broken(name: str) -> None:
        raise OSError("a bug")

    monkeypatch.setattr(store, "clock_skew", broken)
    host = new_host(store, Sealer.for_this_process(), clock)
    await host.keeper.start()
    clock.advance(minutes=6)
    await host.keeper.maintain()
    assert host.keeper.clock_skew is None


async def test_the_stores_clock_is_read_at_the_start_and_every_five_minutes(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails then shows no difference, and the start succeeds."""
    clock, store, compared_at = FakeClock(NOW), MemoryStore(), []

    async def compared(name: str) -> tuple[str, timedelta] | None:
        compared_at.append(clock.elapsed())
        if len(compared_at) == 2:
            raise StoreUnavailable("away")
        return ("the store", timedelta(hours=1))

    monkeypatch.setattr(store, "clock_skew", compared)
    host = new_host(store, Sealer.for_this_process(), clock)
    await host.keeper.start()
    for _ in range(41):
        clock.advance(15)
        await host.keeper.maintain()
    assert compared_at == [0.0, 300.0, 600.0]
    assert host.reported == ["the store"]


@pytest.mark.safeguard(
    file="keeping/following.py",
    old="if not is_known and compared.is_news(found.host):",
    new="if True:",
    protects_from="the same report of clocks that differ at every tick",
)
async def test_a_record_from_the_future_is_reported_once(bench: Bench) -> None:
    """The process that finds it reports it at its start, and not at each tick."""
    writer = await bench.keeper(bench.clock.beside(minutes=3))
    await writer.login(bench.attempt())
    bench.sandbox.add_fault("refresh:every:503-html")
    keeper = await bench.keeper()
    for _ in range(4):
        bench.clock.advance(seconds=15)
        await keeper.maintain()
        assert keeper.clock_skew is not None
    skews = [event for event in bench.events if isinstance(event, ClockSkewed)]
    assert [skew.ahead for skew in skews] == [timedelta(minutes=3)]
    assert writer.clock_skew is None


async def test_a_clock_that_was_set_back_is_reported_before_a_refresh_hides_it(
    bench: Bench,
) -> None:
    """A refresh that is due overwrites the only date that shows it."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    bench.clock.advance(minutes=26)
    wall.step(minutes=-40)
    await keeper.maintain()
    assert bench.happened(Refreshed) == 1
    (skew,) = [event for event in bench.events if isinstance(event, ClockSkewed)]
    assert (skew.host, skew.ahead) == ("the host of the last login", timedelta(minutes=14))


# ---------- the operator


async def test_the_status_shows_the_difference(logged_in: Any, clock: FakeClock, get: Any) -> None:
    """The field is ``clock_skew``, beside a sentence. It is null while the clocks agree."""
    status = (await get(f"{logged_in.url}/status")).json
    assert status["clock_skew"] is None
    clock.step(minutes=-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xots.wiring.log_event", lambda event: None)
        await logged_in.keeper.maintain()
    status = (await get(f"{logged_in.url}/status")).json
    assert status["clock_skew"].startswith(
        "this host's clock is at least 5 minutes behind that of "
    )
    sentence = status["clock_skew"][0].upper() + status["clock_skew"][1:] + "."
    assert sentence in status["explanation"]


@pytest.fixture(autouse=True)
def skews_are_logged(expected_log: Any) -> None:
    expected_log.perhaps("this host's clock is")


@pytest.mark.parametrize(("ahead", "status"), [(0, 0), (2 * MINUTE, 1)])
def test_check_compares_the_clocks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ahead: timedelta,
    status: int,
) -> None:
    """One line names the host and the difference, and the exit status tells of a problem."""
    key = tmp_path / "key"
    key.write_text("K" * 43 + "=")
    key.chmod(0o600)
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    written = datetime.now(UTC) + (ahead or timedelta(0))
    account = Account(generation=1, refreshed_at=written, refreshed_by="app2:7")
    sealer = Sealer([Secret("K" * 43 + "=")])
    record = folder / "default.sealed"
    record.write_bytes(sealer.seal(encode(account), "account", {"name": "default"}))
    record.chmod(0o600)
    monkeypatch.setattr("xots.check.reach_problem", reachable)
    arguments = ["--store", f"file://{folder}", "--key-file", str(key)]
    assert main(["check", *arguments]) == status
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " clock " in line]
    assert line.startswith("FAIL" if ahead else "ok")
    assert ("at least 1 minute behind that of app2:7" in line) == bool(ahead)


async def reachable(settings: object) -> None:
    """Send no request to Xero in this test."""
