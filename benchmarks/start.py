"""A start of xots on a stored login, beside that of a bare Tornado: the time from the start of the
process to its first response, and the memory afterwards."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

from .bench import MEGABYTE, Bench, BenchmarkFailed, Process
from .load import ratios
from .logins import Stored, store_logins
from .outside import redis
from .report import PSS_EXPLAINED, Aim, Cell, Table, at_most, table_of_aims
from .servers import XOTS, Server, response_of

__all__ = ["Start", "rows_of", "run"]

BARE, FILES, REDIS = "bare Tornado", "xots, files", "xots, Redis"

STARTS_A_ROUND = 5
"""A start is short, so each round has several."""

MAX_TIMES_BARE = {FILES: 2, REDIS: 3}
"""The aim for the time to the first token, over that of a bare Tornado."""

MAX_RSS_TIMES = 1.5

TIMEOUT_SECONDS = 30.0

POLL_SECONDS = 0.001

WRITES_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""So the modules are compiled at the first start only, as those of an installation are."""

HELLO = """
import asyncio, sys
from tornado.web import Application, RequestHandler

class Token(RequestHandler):
    def get(self):
        self.finish({"hello": "world"})

async def main():
    Application([(r"/token", Token)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""A bare Tornado: the least that a start of a server of this kind does."""


NOTE = (
    'Bare Tornado is a Tornado server with one handler, which sends `{"hello": "world"}`: the '
    "least that a start of a server of this kind does. The first response of xots is a stored "
    "token. RSS (resident set size) is the memory of a server with all pages that it shares. "
    f"{PSS_EXPLAINED}"
)

NOTE_OF_AIMS = (
    f"Each round has {STARTS_A_ROUND} starts of each server. The median, the lowest and the "
    "highest ratio are those of all starts."
)


@dataclasses.dataclass(frozen=True)
class Start:
    """The figures of one start."""

    seconds: float
    """From the start of the process to the end of its first response."""
    cpu_seconds: float
    """Its processor time until then."""
    resident: float
    """Its memory then, in bytes, with all pages that it shares with others (RSS)."""
    memory: float
    """Its memory then, in bytes, with its share of these pages (PSS)."""


def run(bench: Bench) -> list[Table]:
    """Start each server several times, in turn with the others."""
    program = bench.new_folder("bare") / "bare.py"
    program.write_text(HELLO, encoding="ascii")
    with redis(bench, "--save", "") as url:
        in_files = store_logins(bench.new_folder("login"))
        in_redis = store_logins(bench.new_folder("login"), url=url)
        commands: dict[str, Callable[[int], Sequence[str | Path]]] = {
            BARE: lambda port: (sys.executable, program, str(port)),
            FILES: partial(_xots, in_files),
            REDIS: partial(_xots, in_redis),
        }
        measures = {name: partial(_start, bench, command) for name, command in commands.items()}
        for measure in measures.values():
            measure()  # a first one, after which its modules are compiled and its files cached
        often = dataclasses.replace(bench, rounds=STARTS_A_ROUND * bench.rounds)
        starts = often.in_turn(measures)
    columns = (
        *("server", "first response after ms", "time: times bare", "CPU ms", "CPU: times bare"),
        *("RSS MB", "RSS: times bare", "PSS MB", "PSS: times bare"),
    )
    table = Table("Start: process to first token", columns, rows_of(starts), NOTE)
    return [table_of_aims(aims_of(starts), NOTE_OF_AIMS), table]


def _xots(stored: Stored, port: int) -> Sequence[str | Path]:
    return [*XOTS, "serve", *stored.options, "--port", str(port)]


def _start(bench: Bench, command: Callable[[int], Sequence[str | Path]]) -> Start:
    """Start a server, and stop it after its first response.

    Raises:
        BenchmarkFailed: it gave no response with status 200 in time.
    """
    port = bench.free_port()
    began = time.perf_counter()
    with bench.start(command(port), env=WRITES_BYTECODE) as process:
        server = Server("the started one", f"http://127.0.0.1:{port}/token", process)
        while not _serves(server):
            waited = time.perf_counter() - began
            if not process.is_running() or waited > TIMEOUT_SECONDS:
                raise process.failure(f"it has served no token after {waited:.1f} seconds")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        cpu = _cpu_seconds(process)
        return Start(seconds, cpu, process.resident, process.memory)


def _serves(server: Server) -> bool:
    """Request the token, and tell if the response has the status 200."""
    with suppress(OSError, BenchmarkFailed):
        response_of(server)
        return True
    return False


def _cpu_seconds(process: Process) -> float:
    """Return the processor time of the main thread and all others, to the nanosecond."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def rows_of(starts: Mapping[str, Sequence[Start]]) -> list[list[Cell]]:
    """Return a row for each server: the median of each figure, and its ratio to that of the bare
    Tornado."""
    rows: list[list[Cell]] = []
    for name, found in starts.items():
        row: list[Cell] = [name]
        for field, unit in UNITS.items():
            typical = median(getattr(each, field) for each in found) / unit
            row += [typical, None if name == BARE else median(_times_bare(starts, name, field))]
        rows.append(row)
    return rows


def aims_of(starts: Mapping[str, Sequence[Start]]) -> list[Aim]:
    """Compare the ratios with the aims of the project."""
    aims = [
        at_most(f"{name}: time, times bare", _times_bare(starts, name, "seconds"), bound)
        for name, bound in MAX_TIMES_BARE.items()
    ]
    aims += [
        at_most(f"{name}: RSS, times bare", _times_bare(starts, name, "resident"), MAX_RSS_TIMES)
        for name in MAX_TIMES_BARE
    ]
    return aims


def _times_bare(starts: Mapping[str, Sequence[Start]], name: str, field: str) -> list[float]:
    """Return the ratios of a figure to that of the bare Tornado in the same round."""
    ours, bare = ([getattr(each, field) for each in starts[key]] for key in (name, BARE))
    return ratios(ours, bare)


UNITS = {"seconds": 1e-3, "cpu_seconds": 1e-3, "resident": MEGABYTE, "memory": MEGABYTE}
"""The figures in the order of the table, each with its unit there."""
