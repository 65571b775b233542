"""The requests to Xero of several processes that share one account through one Redis.

Each refresh is due by time, in all processes at once. One of them refreshes for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from .bench import Bench, BenchmarkFailed
from .load import Load, median_load, wrk
from .outside import SimulatedXero, checked, logged_in, needless, redis, simulated_xero
from .report import Cell, Table
from .servers import Server, xots

__all__ = ["run"]

COUNTS, COUNTS_QUICK = (1, 2, 4, 8), (1, 4)
"""The numbers of processes."""

LIFE_SECONDS = 2
"""The lifetime of the access tokens: about one refresh a second."""

SECONDS, SECONDS_QUICK = 20, 3
"""The duration of the measurement with each number of processes."""

CALLERS = 4
"""The callers of each process."""

REQUEST_INTERVAL_MILLISECONDS = 20
"""The pause of a caller. It leaves the processor some time for all processes."""


def run(bench: Bench) -> list[Table]:
    """Start more and more processes, and count the refresh requests at Xero.

    Raises:
        BenchmarkFailed: a caller got an error, a refresh failed, or Xero received more refresh
            requests than needed.
    """
    rows: list[list[Cell]] = []
    with (
        simulated_xero(bench, life_seconds=LIFE_SECONDS) as xero,
        redis(bench) as url,
        logged_in(bench, xero, store=url) as (first, stored),
        ExitStack() as running,
    ):
        servers = [first]
        for count in COUNTS_QUICK if bench.quick else COUNTS:
            while len(servers) < count:
                servers.append(running.enter_context(xots(bench, stored)))
            rows.append(_measured(bench, xero, servers))
    columns = (
        *("processes", "refreshes", "requests at Xero"),
        *("requests of callers", "p50 µs", "p99 µs"),
    )
    note = (
        f"The access tokens live for {LIFE_SECONDS} s. {CALLERS} callers of each process request a "
        f"token every {REQUEST_INTERVAL_MILLISECONDS} ms. No caller got an error, and no refresh "
        "took a second request: either ends the run without figures."
    )
    return [Table("Processes that share one account", columns, rows, note)]


def _measured(bench: Bench, xero: SimulatedXero, servers: Sequence[Server]) -> list[Cell]:
    """Load all servers at once, and return the row of the table."""
    seconds = SECONDS_QUICK if bench.quick else SECONDS

    def load(server: Server) -> Load:
        script = ("every", str(REQUEST_INTERVAL_MILLISECONDS))
        return wrk(bench, server.url, CALLERS, script=script, seconds=seconds)

    xero.take_refreshes()
    with ThreadPoolExecutor(len(servers)) as threads:
        loads = list(threads.map(load, servers))
    found = checked(xero.take_refreshes())
    extra = needless(found, LIFE_SECONDS)
    if extra or not found:
        raise BenchmarkFailed(
            f"{len(servers)} processes made {len(found)} refresh requests at Xero, of which "
            f"{extra} were needless"
        )
    load_of_one = median_load(loads)
    return [
        len(servers),
        len(found) - extra,
        len(found),
        sum(one.requests for one in loads),
        load_of_one.p50,
        load_of_one.p99,
    ]
