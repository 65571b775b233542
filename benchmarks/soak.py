"""The memory of one server during thousands of rotations, under a constant light load.

A server that keeps something of each rotation fails after months. So this experiment fails if the
memory, the descriptors, the threads or the tasks still grow after the warm-up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1
from statistics import median
from threading import Event

from .bench import MEGABYTE, Bench, BenchmarkFailed
from .load import wrk
from .outside import Refresher, SimulatedXero, checked, logged_in, simulated_xero
from .report import Cell, Plot, Table
from .servers import Server

__all__ = ["Limit", "growth", "run"]

ROTATIONS, ROTATIONS_QUICK = 4000, 150
MEASUREMENTS = 30

LIFE_SECONDS = 2
"""The lifetime of the access tokens. Many expire during a run, so that the server also forgets what
it remembers of the spent ones."""

CALLERS = 4
REQUEST_INTERVAL_MILLISECONDS = 40
"""The pause of a caller."""
PROBE_TIMEOUT_SECONDS = 10.0

PROBED = """
import asyncio, ctypes, gc, json, os, runpy, signal, sys

path = sys.argv.pop(1)

class Heap(ctypes.Structure):  # mallinfo(3)
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks mapped usmblks fsmblks in_use free keepcost".split()
    ]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Heap

def probe(number, frame):
    gc.collect()
    heap = mallinfo()
    figures = {
        "heap": (heap.in_use + heap.mapped) / 1e3,
        "blocks": sys.getallocatedblocks(),
        "tasks": len(asyncio.all_tasks()),
    }
    with open(path + ".new", "w") as stream:
        json.dump(figures, stream)
    os.rename(path + ".new", path)

signal.signal(signal.SIGUSR1, probe)
runpy.run_module("xots", run_name="__main__", alter_sys=True)
"""
"""Runs xots, and at a SIGUSR1 writes its figures to a file. It needs the GNU C library, 2.33 or
later."""


@dataclass(frozen=True)
class Limit:
    """The growth that is no growth. Either of the two is permitted."""

    name: str
    unit: float
    """The absolute growth: the noise of the figure, or more."""
    part: float = 0
    """The relative growth."""

    def allows(self, values: Sequence[float]) -> bool:
        """Tell if these figures of a whole run stay flat."""
        return growth(values) <= max(self.unit, self.part * max(values))


LIMITS = (
    Limit("resident, MB", 1, part=0.1),
    Limit("heap in use, kB", 100),
    Limit("blocks of Python in use", 500),
    Limit("descriptors", CALLERS),
    Limit("threads", 4),
    Limit("tasks", CALLERS),
)
"""The figures of each measurement in their order.

The resident memory varies: now and then Python replaces its table of interned strings, which takes
a megabyte, and the heap has gaps afterwards. The memory in use is exact. The heap has the objects
of more than 512 bytes, such as tokens, and the blocks are the smaller ones. Connections come and
go, with a descriptor and a task for each. The pool of threads fills on demand.
"""


def growth(values: Sequence[float]) -> float:
    """Return how much more the last third of these figures has than the second, by their medians.
    The first third is the warm-up."""
    third = len(values) // 3
    return median(values[-third:]) - median(values[third:-third])


def run(bench: Bench) -> list[Table | Plot]:
    """Force thousands of rotations, and take measurements.

    Raises:
        BenchmarkFailed: a figure grew, a caller got an error, or a refresh failed.
    """
    probe = bench.new_folder("probe") / "figures"
    script = probe.with_name("probed.py")
    script.write_text(PROBED, encoding="ascii")
    program = (sys.executable, script, probe)
    with (
        simulated_xero(bench, life_seconds=LIFE_SECONDS) as xero,
        logged_in(bench, xero, program=program) as (server, _),
        _light_load(bench, server),
    ):
        measurements = list(_measurements(bench, server, xero, probe))
    tables = _results(measurements)
    failed = [
        f"{limit.name}: {', '.join(f'{value:g}' for value in values)}"
        for limit, values in zip(LIMITS, _columns(measurements), strict=True)
        if not limit.allows(values)
    ]
    if failed:
        raise BenchmarkFailed(
            f"these grew during {measurements[-1][0]} rotations: {'; '.join(failed)}"
        )
    return tables


Measurement = tuple[int, Sequence[float]]
"""The rotations so far, and the figures in the order of ``LIMITS``."""


def _measurements(
    bench: Bench, server: Server, xero: SimulatedXero, probe: Path
) -> Iterator[Measurement]:
    """Force the rotations of a run, and yield a measurement from time to time."""
    rotations = 0
    step = (ROTATIONS_QUICK if bench.quick else ROTATIONS) // MEASUREMENTS
    with Refresher(server) as refresher:
        for _ in range(MEASUREMENTS):
            for _ in range(step):
                refresher.refresh()
            rotations += len(checked(xero.take_refreshes()))
            yield rotations, _measure(server, probe)


def _measure(server: Server, probe: Path) -> Sequence[float]:
    if (process := server.process) is None:
        raise BenchmarkFailed("the server runs elsewhere")
    folder = Path(f"/proc/{process.pid}")
    os.kill(process.pid, SIGUSR1)
    deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
    while not probe.exists():
        if time.monotonic() > deadline:
            raise process.failure("it does not tell its figures")
        time.sleep(0.01)
    figures = json.loads(probe.read_text(encoding="ascii"))
    probe.unlink()
    return (
        process.resident / MEGABYTE,
        figures["heap"],
        figures["blocks"],
        len(list((folder / "fd").iterdir())),
        len(list((folder / "task").iterdir())),
        figures["tasks"],
    )


@contextmanager
def _light_load(bench: Bench, server: Server) -> Iterator[None]:
    """Request tokens all the time, with pauses, on kept and on fresh connections.

    Raises:
        BenchmarkFailed: a caller got an error.
    """
    over = Event()
    script = ("every", str(REQUEST_INTERVAL_MILLISECONDS))

    def load(*, fresh: bool) -> None:
        while not over.is_set():
            wrk(bench, server.url, CALLERS, fresh=fresh, script=script, seconds=1)

    with ThreadPoolExecutor() as threads:
        loading = [threads.submit(load, fresh=fresh) for fresh in (False, True)]
        try:
            yield
        finally:
            over.set()
        for one in loading:
            one.result()


def _columns(measurements: Sequence[Measurement]) -> list[list[float]]:
    """Return the figures of all measurements, a list for each of ``LIMITS``."""
    return [[figures[place] for _, figures in measurements] for place in range(len(LIMITS))]


def _results(measurements: Sequence[Measurement]) -> list[Table | Plot]:
    rows: list[list[Cell]] = []
    series: dict[str, list[tuple[float, float]]] = {}
    for limit, values in zip(LIMITS, _columns(measurements), strict=True):
        middle = median(values[len(values) // 3 : -(len(values) // 3)])
        rows.append(
            [
                limit.name,
                (middle + growth(values)) / middle,
                values[0],
                values[-1],
                max(values),
                "yes" if limit.allows(values) else "no",
            ]
        )
        series[limit.name] = [
            (rotations, value / middle)
            for (rotations, _), value in zip(measurements, values, strict=True)
        ]
    columns = ("figure", "last third: times second", "first", "last", "maximum", "flat")
    note = f"{measurements[-1][0]:,} rotations; the first third is the warm-up."
    return [
        Table("Soak", columns, rows, note),
        Plot("Growth in a soak", "rotations", "times the median of the second third", series),
    ]
