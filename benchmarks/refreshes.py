"""The latency of ``GET /token`` while refreshes take place, beside the latency without them.

Each refresh takes 300 ms at Xero, and 64 callers request the token without pause. Callers get the
old token meanwhile, so the refreshes should not show.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from .bench import Bench, BenchmarkFailed
from .load import Load, median_load, ratio, ratios, wrk
from .outside import Refresher, SimulatedXero, checked, logged_in, needless, simulated_xero
from .report import Cell, Table, at_most, table_of_aims
from .servers import Server

__all__ = ["run"]

CALLERS = 64

XERO_SECONDS = 0.3
"""The time that each refresh takes at Xero."""

PACE_SECONDS = 0.5
"""The interval between forced refreshes."""

FORCED, FORCED_QUICK = 20, 6
"""The forced refreshes of one round: 100 in a whole run."""

LONG_LIFE_SECONDS = 1800
"""Xero's lifetime of access tokens: during a run, no refresh is due by time."""

SHORT_LIFE_SECONDS = 6
"""A lifetime with time for a refresh, also on a busy machine: it is due at a half, and callers are
served the old token for three quarters."""

TICK_SECONDS = 0.25

WITHOUT, BY_CALLER, BY_TIME = "without refreshes", "forced refreshes", "refreshes by time"
MAX_P999_RATIO = 2


@dataclass(frozen=True)
class Round:
    """The figures of one round."""

    load: Load
    refreshes: int = 0
    """The refreshes that were needed."""
    requests: int = 0
    """The refresh requests that Xero has received."""


def run(bench: Bench) -> list[Table]:
    """Measure rounds without refreshes, with forced ones, and with those that are due by time (not
    in a quick run).

    Raises:
        BenchmarkFailed: a caller got an error, a refresh failed, or Xero received more refresh
            requests than needed.
    """
    count = FORCED_QUICK if bench.quick else FORCED
    seconds = round(count * PACE_SECONDS)
    with (
        simulated_xero(bench, delay_seconds=XERO_SECONDS) as xero,
        logged_in(bench, xero, "--tick", str(TICK_SECONDS)) as (server, _),
    ):
        wrk(bench, server.url, CALLERS, seconds=1)
        measures = {
            WITHOUT: lambda: Round(wrk(bench, server.url, CALLERS, seconds=seconds)),
            BY_CALLER: lambda: _forced(bench, server, xero, count, seconds),
        }
        if not bench.quick:  # it takes some seconds until the first is due
            measures[BY_TIME] = lambda: _by_time(bench, server, xero, seconds)
        rounds = bench.in_turn(measures)
    return [_aims(rounds), _table(rounds)]


def _forced(bench: Bench, server: Server, xero: SimulatedXero, count: int, seconds: int) -> Round:
    """Load the server while a program forces refreshes."""
    xero.take_refreshes()
    with Refresher(server) as refresher, ThreadPoolExecutor() as threads:
        loading = threads.submit(wrk, bench, server.url, CALLERS, seconds=seconds)
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(began + number * PACE_SECONDS - time.monotonic(), 0))
            refresher.refresh()
        load = loading.result()
    found = checked(xero.take_refreshes())
    if len(found) != count:
        raise BenchmarkFailed(f"{count} forced refreshes made {len(found)} requests at Xero")
    return Round(load, count, len(found))


def _by_time(bench: Bench, server: Server, xero: SimulatedXero, seconds: int) -> Round:
    """Load the server while its tokens live so shortly that refreshes are due."""
    with Refresher(server) as refresher:
        xero.set_life(SHORT_LIFE_SECONDS)
        refresher.refresh()
        xero.take_refreshes()
        load = wrk(bench, server.url, CALLERS, seconds=seconds)
        until = datetime.now(UTC)
        xero.set_life(LONG_LIFE_SECONDS)
        refresher.refresh()
    found = checked([refresh for refresh in xero.take_refreshes() if refresh.at <= until])
    extra = needless(found, SHORT_LIFE_SECONDS)
    if extra or not found:
        raise BenchmarkFailed(f"of {len(found)} refresh requests at Xero, {extra} were needless")
    return Round(load, len(found) - extra, len(found))


def _table(rounds: dict[str, list[Round]]) -> Table:
    plain = [found.load for found in rounds[WITHOUT]]
    rows: list[list[Cell]] = []
    for name, found in rounds.items():
        loads = [one.load for one in found]
        load = median_load(loads)
        rows.append(
            [
                name,
                ratio([one.p999 for one in loads], [one.p999 for one in plain]),
                ratio([one.p99 for one in loads], [one.p99 for one in plain]),
                ratio([one.p50 for one in loads], [one.p50 for one in plain]),
                sum(one.refreshes for one in found),
                sum(one.requests for one in found),
                load.requests_per_second,
                load.p50,
                load.p99,
                load.p999,
            ]
        )
    columns = (
        *("run", "p99.9: times without", "p99: times without", "p50: times without"),
        *("refreshes", "requests at Xero", "requests/s", "p50 µs", "p99 µs", "p99.9 µs"),
    )
    note = (
        f"Medians of {len(plain)} rounds; refreshes and requests at Xero are sums. A refresh takes "
        f"{XERO_SECONDS * 1000:g} ms at Xero. Forced ones begin every "
        f"{PACE_SECONDS:g} s, far more often than in use. No caller got an error, and no refresh "
        "took a second request: either ends the run without figures."
    )
    return Table(f"{CALLERS} callers during refreshes", columns, rows, note)


def _aims(rounds: dict[str, list[Round]]) -> Table:
    plain = [found.load.p999 for found in rounds[WITHOUT]]
    return table_of_aims(
        [
            at_most(
                f"p99.9 with {name}, times without",
                ratios([one.load.p999 for one in found], plain),
                MAX_P999_RATIO,
            )
            for name, found in rounds.items()
            if name != WITHOUT
        ]
    )
