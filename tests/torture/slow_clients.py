"""Slow, broken and greedy clients: every ``/token`` is answered, and no refresh is late.

A real server runs on one core under ``ulimit -n 1024``, and the clients that disturb it on another.
The access tokens live for seconds, so that the server must refresh all the time. Ten times a second
a program requests ``/token``, each time on a new connection. Three loads are put on the server:

1100        1,100 connections with an unfinished head, which connect again when they are closed
5000        5,000 of them
everything  all kinds at once: unfinished heads and bodies, idle connections, byte drips, TLS,
            clients that do not read, connections without a request, long paths and headers,
            requests that are refused, nonsense; and clients of the express lane that stay idle,
            leave their next head unfinished, do not read, or send request after request

The command fails if a ``/token`` is not answered with a live token, if a refresh is late by more
than a second, or if a load makes the server log a megabyte.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from torture.processes import Fleet, Line, Process, fleet
from xots.sandbox.identity.protocol import BearerRefused

LOADS = {
    "1100": ("half_head=1100@1000",),
    "5000": ("half_head=5000@1000",),
    "everything": (
        *("half_head=600@200", "half_body=600@200", "no_byte=200@100", "idle=200@100"),
        *("drip=200@100", "tls=20@20", "not_reading=2@2", "connection=20@300"),
        *("idle_token=200@100", "half_token=200@100", "tokens=20@20", "tokens_not_reading=2@2"),
        *("long_path=10@100", "long_head=10@20", "foreign_host=50@50", "foreign_page=50@50"),
        "nonsense=50@50",
    ),
}
"""The clients of each load, as ``torture._floods`` takes them: kind, number, connections a
second."""

MAX_LOG_BYTES = 1_000_000

MAX_LATE_SECONDS = 1.0

TOKEN_INTERVAL_SECONDS = 0.1

TOKEN_TIMEOUT_SECONDS = 10.0

UNDER_ULIMIT = ("sh", "-c", 'ulimit -n "$0" && exec "$@"')
"""A shell command that sets both limits on descriptors, soft and hard."""


@dataclass
class Figures:
    """The figures of one load, or of the time without a load."""

    waits: list[float] = field(default_factory=list)
    """Seconds from each request of ``/token`` to its whole response."""
    failed: list[str] = field(default_factory=list)
    refreshes: int = 0
    due: int = 0
    """Number of refreshes that were due."""
    late: list[float] = field(default_factory=list)
    """Seconds by which refreshes were late, if by more than the bound."""
    log_bytes: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    most_connections: int = 0
    flood: str = ""
    """The connections that the other clients made."""

    @property
    def wrong(self) -> list[str]:
        """The broken promises."""
        found = [f"/token failed: {one}" for one in self.failed]
        found += [f"a refresh was late by {seconds:.1f} s" for seconds in self.late]
        if self.log_bytes >= MAX_LOG_BYTES:
            found.append(f"{self.log_bytes:,} bytes of log")
        return found

    def wait_text(self) -> str:
        """Return the waits: median, 99% and longest."""
        waits = sorted(self.waits) or [0.0]
        shown = (statistics.median(waits), waits[int(len(waits) * 0.99)], waits[-1])
        return " / ".join(f"{1000 * wait:.1f}" for wait in shown) + " ms"


class Meter:
    """Requests ``/token`` all the time, and watches the server.

    Args:
        fleet: the server, and its Xero.
        life_seconds: the lifetime of the access tokens.
    """

    def __init__(self, fleet: Fleet, life_seconds: int) -> None:
        self.fleet, self.process = fleet, fleet.processes[0]
        self._max_gap = timedelta(seconds=life_seconds / 2 + life_seconds / 8)
        """Time from one refresh to the next: it is due at half the lifetime, and the tick comes
        within an eighth."""
        self._own_sockets = sockets_of(self.process)

    async def measure(self, seconds: float) -> Figures:
        """Request tokens for some time, and return the figures."""
        figures = Figures(seconds=seconds)
        began, began_at = time.monotonic(), self.fleet.sandbox.clock()
        log_bytes, cpu = self.process.log.stat().st_size, cpu_seconds(self.process)
        async with asyncio.TaskGroup() as requests:
            number = 0
            while (now := time.monotonic()) < began + seconds:
                requests.create_task(self._request(figures))
                open_now = sockets_of(self.process) - self._own_sockets
                figures.most_connections = max(figures.most_connections, open_now)
                number += 1
                await asyncio.sleep(max(0, began + number * TOKEN_INTERVAL_SECONDS - now))
        figures.log_bytes = self.process.log.stat().st_size - log_bytes
        figures.cpu_seconds = cpu_seconds(self.process) - cpu
        self._judge_refreshes(figures, began_at, self.fleet.sandbox.clock())
        return figures

    async def _request(self, figures: Figures) -> None:
        line, began = Line(self.process.port, self.fleet.sandbox.clock), time.monotonic()
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_SECONDS):
                response = await line.get("/token")
            figures.waits.append(time.monotonic() - began)
            if response.status != 200:
                figures.failed.append(f"{response.status} {response.body.decode()[:200]}")
                return
            self.fleet.sandbox.identity.check_access(response.token, response.sent_at)
        except (OSError, EOFError, BearerRefused) as error:
            figures.failed.append(f"{type(error).__name__}: {error}")
        finally:
            line.close()

    def _judge_refreshes(self, figures: Figures, began_at: datetime, ended_at: datetime) -> None:
        times = [one.at for one in self.fleet.sandbox.refreshes() if one.issued]
        before = [at for at in times if at < began_at][-1:] or [began_at]
        during = [at for at in times if at >= began_at]
        figures.refreshes = len(during)
        figures.due = int((ended_at - before[0]) / self._max_gap)
        moments = [*before, *during, ended_at]
        for earlier, later in pairwise(moments):
            late = (later - earlier - self._max_gap).total_seconds()
            if late > MAX_LATE_SECONDS:
                figures.late.append(late)


def cpu_seconds(process: Process) -> float:
    """Return the processor time that a process has used."""
    stat = Path(f"/proc/{process.process.pid}/stat").read_text()
    after_name = stat.rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def sockets_of(process: Process) -> int:
    """Return the number of sockets that a process has open."""
    count = 0
    for descriptor in Path(f"/proc/{process.process.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def run_before_others(pid: int, priority: int) -> None:
    """Let a process run whenever it can, before all processes without a real-time priority."""
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(pid, policy, os.sched_param(priority))


@asynccontextmanager
async def flooding(
    port: int, specs: tuple[str, ...], core: int, realtime: bool
) -> AsyncIterator[list[str]]:
    """Run the other clients inside the block, on one core. Their counts are in the list after."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torture._floods", str(port), *specs),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    counts: list[str] = []
    try:
        os.sched_setaffinity(process.pid, {core})
        if realtime:
            run_before_others(process.pid, 1)
        yield counts
        out, _ = await process.communicate(b"")  # ends its standard input
        counts.append(out.decode().strip())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(
    specs: tuple[str, ...],
    *,
    seconds: float,
    idle_seconds: float,
    life_seconds: int = 8,
    descriptors: int = 1024,
    realtime: bool = False,
) -> tuple[Figures, Figures]:
    """Start a server, and return the figures without and with a load.

    Args:
        specs: the clients that disturb it.
        seconds: the time with the load.
        idle_seconds: the time without it, before.
        life_seconds: the lifetime of the access tokens.
        descriptors: the server's limit on open descriptors, soft and hard.
        realtime: let all processes of the run go before other programs. Needs root.
    """
    cores = sorted(os.sched_getaffinity(0))
    command = (*UNDER_ULIMIT, str(descriptors), sys.executable, "-m", "xots")
    async with fleet("file", 1, life=life_seconds, command=command) as servers:
        os.sched_setaffinity(servers.processes[0].process.pid, {cores[0]})
        if realtime:
            run_before_others(servers.processes[0].process.pid, 2)
            run_before_others(os.getpid(), 2)
        meter = Meter(servers, life_seconds)
        idle = await meter.measure(idle_seconds)
        async with flooding(servers.processes[0].port, specs, cores[-1], realtime) as counts:
            load = await meter.measure(seconds)
        load.flood = "".join(counts)
        return idle, load


def report(name: str, idle: Figures, load: Figures) -> None:
    """Print the figures of a load."""
    made = len(load.waits) + len(load.failed)
    print(
        f"{name}: {load.seconds:.0f} s\n"
        f"  /token requested {made}, failed {len(load.failed)}\n"
        f"  wait, median / 99% / longest: {load.wait_text()}; without the load {idle.wait_text()}\n"
        f"  refreshes {load.refreshes}, due {load.due}, late {len(load.late)}\n"
        f"  log {load.log_bytes:,} bytes\n"
        f"  processor {load.cpu_seconds / load.seconds:.0%} of a core; "
        f"without the load {idle.cpu_seconds / idle.seconds:.0%}\n"
        f"  open connections at most {load.most_connections}\n"
        f"  connections made by the other clients: {load.flood}",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture slow_clients", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", choices=LOADS, help="only this load (default: all of them)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="seconds of each load (default: %(default)s)"
    )
    parser.add_argument(
        "--life",
        type=int,
        default=8,
        help="lifetime of an access token in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--descriptors",
        type=int,
        default=1024,
        help="the server's limit on open descriptors (default: %(default)s)",
    )
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="measure as on a quiet machine: the processes of this command run before all other "
        "programs; needs root",
    )
    options = parser.parse_args(arguments)
    wrong: list[str] = []
    for name in [options.only] if options.only else LOADS:
        idle, load = asyncio.run(
            run(
                LOADS[name],
                seconds=options.seconds,
                idle_seconds=min(10, options.seconds),
                life_seconds=options.life,
                descriptors=options.descriptors,
                realtime=options.realtime,
            )
        )
        report(name, idle, load)
        wrong += [f"{name}: {one}" for one in load.wrong]
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
