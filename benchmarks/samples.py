"""The figures of one server in one round, with its processor time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .bench import MEGABYTE
from .load import Load
from .servers import Server

__all__ = ["Sample", "Samples", "median_of", "p99s", "rates", "sampled"]


@dataclass(frozen=True)
class Sample:
    """The figures of one server in one round."""

    load: Load
    cpu: float | None
    """The server's processor time for each request, in microseconds."""
    memory: float | None
    """The server's memory after the round, in MB."""


Samples = Mapping[str, Sequence[Sample]]
"""The samples of each server by its name, round by round."""


def sampled(server: Server, load: Callable[[Server], Load]) -> Sample:
    """Load a server once, and return the figures with its processor time and memory."""
    if server.process is None:
        return Sample(load(server), None, None)
    before = server.process.cpu_seconds()
    found = load(server)
    used = server.process.cpu_seconds() - before
    return Sample(found, used / found.requests * 1e6, server.process.memory / MEGABYTE)


def rates(samples: Sequence[Sample]) -> list[float]:
    """Return the requests a second of each round."""
    return [sample.load.requests_per_second for sample in samples]


def p99s(samples: Sequence[Sample]) -> list[float]:
    """Return the 99th percentile of the latency of each round, in microseconds."""
    return [sample.load.p99 for sample in samples]


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values; None if none is known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
