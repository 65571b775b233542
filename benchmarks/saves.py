"""The time of one save in each store, and of a whole refresh apart from Xero's own time.

A save replaces a sealed record by compare-and-set, as each change of an account does. Beside it
stand the fewest steps that make the same bytes as safe: to write, sync and rename a file and sync
its folder, and one ``SET`` for Redis.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from statistics import median
from urllib.parse import urlencode, urlsplit

from xots.backends import open_store
from xots.backends.records import version_of
from xots.sandbox import DEFAULT_CLIENT_SECRET, DEFAULT_CUSTOM_CLIENT_ID

from .bench import Bench, BenchmarkFailed
from .load import percentile, ratio
from .logins import store_logins
from .outside import Refresher, SimulatedXero, checked, logged_in, redis, simulated_xero
from .report import Cell, Table
from .servers import Server

__all__ = ["run"]

SAVES, SAVES_QUICK = 200, 50
"""The saves of one round."""

REFRESHES, REFRESHES_QUICK = 40, 10
"""The refreshes of one round."""

MEMORY, FILE = "memory", "file"
REDIS, REDIS_LOG = "Redis", "Redis, appendonly yes"
BARE_FILE, BARE_REDIS = "bare file", "bare SET in Redis"
BARE = {FILE: BARE_FILE, REDIS: BARE_REDIS, REDIS_LOG: BARE_REDIS}
"""The bare steps with which a store is compared."""

Times = Sequence[float]
"""The seconds that each operation of a round took."""


def run(bench: Bench) -> list[Table]:
    """Measure the saves and the refreshes.

    Raises:
        BenchmarkFailed: a refresh failed, or made another number of requests at Xero than one.
    """
    return [_saves(bench), _refreshes(bench)]


@contextmanager
def _stores(bench: Bench) -> Iterator[dict[str, str]]:
    """Run new, empty stores, and yield the URL of each."""
    with redis(bench) as plain, redis(bench, "--appendonly", "yes") as with_log:
        yield {
            MEMORY: "memory:",
            FILE: (bench.new_folder("stores") / "store").as_uri(),
            REDIS: plain,
            REDIS_LOG: with_log,
        }


# ---------- saves


def _saves(bench: Bench) -> Table:
    """Save the record of a login in each store."""
    record = _sealed_record(bench)
    count = SAVES_QUICK if bench.quick else SAVES
    folder = bench.new_folder("bare")

    def save(url: str) -> Times:
        return asyncio.run(_swaps(url, record, count))

    with _stores(bench) as urls, _on_core(bench.server_core):
        measures: dict[str, Callable[[], Times]] = {
            name: partial(save, url) for name, url in urls.items()
        }
        measures[BARE_FILE] = lambda: _file_writes(folder, record, count)
        measures[BARE_REDIS] = lambda: _redis_sets(urls[REDIS], record, count)
        times = bench.in_turn(measures)
    rows: list[list[Cell]] = []
    for name, found in times.items():
        every = sorted(chain(*found))
        bare = times.get(BARE.get(name, ""))
        rows.append(
            [
                name,
                ratio(_medians(found), _medians(bare)) if bare else None,
                percentile(every, 50) * 1e6,
                percentile(every, 99) * 1e6,
            ]
        )
    note = (
        f"A record of {len(record):,} bytes, {count * bench.rounds:,} saves in each store. "
        f"{BARE_FILE.capitalize()} writes, syncs and renames a file, and syncs its folder; "
        f"{BARE_REDIS} is one command: the fewest steps that make the record as safe."
    )
    return Table("A save", ("store", "p50: times bare", "p50 µs", "p99 µs"), rows, note)


def _sealed_record(bench: Bench) -> bytes:
    """Return the sealed record of an account that is logged in."""
    stored = store_logins(bench.new_folder("record"))

    async def read() -> bytes:
        store = open_store(stored.url)
        try:
            found = await store.read("default")
        finally:
            await store.close()
        if found is None:
            raise BenchmarkFailed("the login was not stored")
        return found.value

    return asyncio.run(read())


async def _swaps(url: str, record: bytes, count: int) -> Times:
    """Save the record so many times, after a first save that opens the store."""
    store = open_store(url)
    times = []
    try:
        version = version_of(await store.read("saved"))
        version = await store.swap("saved", record, expected=version)
        for _ in range(count):
            began = time.perf_counter()
            version = await store.swap("saved", record, expected=version)
            times.append(time.perf_counter() - began)
    finally:
        await store.close()
    return times


def _file_writes(folder: Path, record: bytes, count: int) -> Times:
    """Write the record to a file so many times: the old or the new one survives a power cut."""
    times = []
    opened = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(count):
            began = time.perf_counter()
            with (folder / "new").open("wb") as stream:
                stream.write(record)
                stream.flush()
                os.fsync(stream.fileno())
            (folder / "new").rename(folder / "record")
            os.fsync(opened)
            times.append(time.perf_counter() - began)
    finally:
        os.close(opened)
    return times


def _redis_sets(url: str, record: bytes, count: int) -> Times:
    """Set a key of Redis to the record so many times, with nothing between the sockets."""
    command = b"*3\r\n$3\r\nSET\r\n$4\r\nbare\r\n$%d\r\n%s\r\n" % (len(record), record)
    times = []
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as connection:
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(command)
            response = connection.recv(100)
            times.append(time.perf_counter() - began)
            if response != b"+OK\r\n":
                raise BenchmarkFailed(f"Redis responded to SET: {response!r}")
    return times


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Run this process on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---------- refreshes


@dataclass(frozen=True)
class Refreshes:
    """The seconds of one round."""

    whole: Times
    """From the request for a refresh to its response."""
    at_xero: Times
    """From a request for a token at Xero to its response."""

    @property
    def own(self) -> Times:
        """The seconds of each refresh apart from Xero's usual time."""
        return [whole - median(self.at_xero) for whole in self.whole]


def _refreshes(bench: Bench) -> Table:
    """Force refreshes of a server on each store."""
    count = REFRESHES_QUICK if bench.quick else REFRESHES
    with _stores(bench) as urls, ExitStack() as running:
        measures = {}
        xero = running.enter_context(simulated_xero(bench, logins=len(urls)))
        for name, url in urls.items():
            server, _ = running.enter_context(logged_in(bench, xero, store=url))
            measures[name] = partial(_refreshed, server, xero, count)
            measures[name]()
        found = bench.in_turn(measures)
    rows: list[list[Cell]] = []
    for name, rounds in found.items():
        own = sorted(chain(*(one.own for one in rounds)))
        bare = [_median_ms(one.own) for one in found[MEMORY]]
        rows.append(
            [
                name,
                ratio([_median_ms(one.own) for one in rounds], bare),
                percentile(own, 50) * 1e3,
                percentile(own, 99) * 1e3,
                _median_ms([*chain(*(one.whole for one in rounds))]),
                _median_ms([*chain(*(one.at_xero for one in rounds))]),
            ]
        )
    columns = (
        *("store", "p50: times memory", "p50 ms", "p99 ms"),
        *("with Xero: p50 ms", "Xero: p50 ms"),
    )
    note = (
        f"{count * bench.rounds} refreshes on each store, one after another. Xero's time is that "
        "of a request for a token without a login, on a connection that is open."
    )
    return Table("A refresh apart from Xero's time", columns, rows, note)


def _refreshed(server: Server, xero: SimulatedXero, count: int) -> Refreshes:
    """Force so many refreshes, and request as many tokens from Xero directly, in turn."""
    xero.take_refreshes()
    whole, at_xero = [], []
    direct = HTTPConnection("127.0.0.1", xero.port, timeout=10)
    try:
        with Refresher(server) as refresher:
            for _ in range(count):
                whole.append(refresher.refresh())
                at_xero.append(_obtained(direct))
    finally:
        direct.close()
    if (made := len(checked(xero.take_refreshes()))) != count:
        raise BenchmarkFailed(f"{count} forced refreshes made {made} requests at Xero")
    return Refreshes(whole, at_xero)


def _obtained(connection: HTTPConnection) -> float:
    """Request an access token from Xero, and return the seconds that it took."""
    form = {
        "grant_type": "client_credentials",
        "client_id": DEFAULT_CUSTOM_CLIENT_ID,
        "client_secret": DEFAULT_CLIENT_SECRET,
        "scope": "accounting.settings",
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    began = time.perf_counter()
    connection.request("POST", "/connect/token", urlencode(form), headers)
    response = connection.getresponse()
    content = response.read()
    took = time.perf_counter() - began
    if response.status != 200:
        raise BenchmarkFailed(f"the simulated Xero issued no token: {content[:500]!r}")
    return took


def _medians(rounds: Sequence[Times]) -> list[float]:
    return [median(times) for times in rounds]


def _median_ms(times: Times) -> float:
    return median(times) * 1e3
