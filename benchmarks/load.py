"""The load: wrk and h2load, and the figures in their output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .bench import Bench, BenchmarkFailed

__all__ = ["Load", "h2load", "median_load", "parse_h2load", "parse_wrk", "ratio", "ratios", "wrk"]

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Load:
    """The figures of one run of a load generator. The latencies are in microseconds."""

    requests: int
    """The number of responses with status 2xx or 3xx."""
    requests_per_second: float
    p50: float
    p99: float
    p999: float
    errors: str = ""
    """The responses with another status, and the failures of connections, by kind; empty if there
    were none."""


def wrk(
    bench: Bench,
    url: str,
    connections: int,
    *,
    headers: Iterable[str] = (),
    fresh: bool = False,
    script: Sequence[str | Path] = (),
    seconds: int | None = None,
) -> Load:
    """Load a server by TCP with wrk, from one core.

    Args:
        bench: the run.
        url: the URL to get.
        connections: the number of open connections. Each sends its next request at once.
        headers: further headers.
        fresh: use a fresh connection for each request.
        script: the arguments of ``load.lua``.
        seconds: the duration; None: that of the run.

    Raises:
        BenchmarkFailed: wrk failed, or a response was an error.
    """
    sent = [*headers, *(["Connection: close"] if fresh else [])]
    output = bench.run(
        [
            *("wrk", "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds or bench.seconds}s", "--timeout", "10s"),
            *("--script", SCRIPT),
            *(word for header in sent for word in ("--header", header)),
            *(url, "--", *script),
        ]
    )
    load = parse_wrk(output, fresh=fresh)
    return _without_errors(load, f"wrk {url} with {connections} connections")


def h2load(
    bench: Bench,
    url: str,
    connections: int,
    *,
    unix_socket: Path | None = None,
    headers: Iterable[str] = (),
    seconds: int | None = None,
) -> Load:
    """Load a server with h2load, which speaks HTTP/1.1 here, by TCP or by a Unix socket.

    The other arguments are those of ``wrk``. Its figures are not comparable with those of wrk.

    Raises:
        BenchmarkFailed: h2load failed, or a response was an error.
    """
    log = bench.new_folder("h2load") / "requests"
    output = bench.run(
        [
            *("h2load", "--h1", "--threads=1", f"--clients={connections}"),
            *(f"--duration={seconds or bench.seconds}s", f"--log-file={log}"),
            *([] if unix_socket is None else [f"--base-uri=unix:{unix_socket}"]),
            *(f"--header={header}" for header in headers),
            url,
        ]
    )
    try:
        latencies = log.read_text(encoding="ascii")
    except OSError:
        raise BenchmarkFailed(f"h2load sent no request to {url}:\n{output}") from None
    log.unlink()
    where = f"{url if unix_socket is None else unix_socket} with {connections} connections"
    return _without_errors(parse_h2load(output, latencies), f"h2load {where}")


KINDS = {
    "status": "with a status other than 2xx and 3xx",
    "connect": "connections that failed",
    "read": "errors of reading",
    "write": "errors of writing",
    "timeout": "without a response in time",
}
"""The kinds of failures that wrk counts, in words."""


def _without_errors(load: Load, what: str) -> Load:
    if load.errors or not load.requests:
        raise BenchmarkFailed(f"{what}: {load.requests} responses; {load.errors or 'no response'}")
    return load


def parse_wrk(output: str, *, fresh: bool = False) -> Load:
    """Return the figures that ``load.lua`` printed last.

    With ``fresh``, a server that closes a connection after its response, as it was told to, may
    omit the header that says so. wrk counts that as an error of its next read.

    Raises:
        BenchmarkFailed: the output has no figures.
    """
    found = re.search(r"^\{.*\}$", output, re.MULTILINE)
    if found is None:
        raise BenchmarkFailed(f"wrk printed no figures:\n{output}")
    figures: dict[str, int] = json.loads(found[0])
    kinds = ["status", "connect", "write", "timeout", *([] if fresh else ["read"])]
    return Load(
        requests=figures["requests"] - figures["status"],
        requests_per_second=figures["requests"] / max(figures["microseconds"], 1) * 1e6,
        p50=figures["p50"],
        p99=figures["p99"],
        p999=figures["p999"],
        errors=", ".join(f"{figures[kind]} {KINDS[kind]}" for kind in kinds if figures[kind]),
    )


def parse_h2load(output: str, log: str) -> Load:
    """Return the figures of h2load.

    Args:
        output: the text that it printed.
        log: its log: a line with start, status and microseconds for each request.

    Raises:
        BenchmarkFailed: the output has no figures.
    """
    finished = re.search(r"^finished in .*?, ([0-9.]+) req/s", output, re.MULTILINE)
    if finished is None:
        raise BenchmarkFailed(f"h2load printed no figures:\n{output}")
    lines = [line.split() for line in log.splitlines()]
    good = sorted(int(line[2]) for line in lines if line[1][0] in "23")
    failures = {
        kind: int(count)
        for count, kind in re.findall(r"(\d+) (failed|errored|timeout|4xx|5xx)", output)
        if count != "0"
    }
    return Load(
        requests=len(good),
        requests_per_second=float(finished[1]),
        p50=percentile(good, 50),
        p99=percentile(good, 99),
        p999=percentile(good, 99.9),
        errors=", ".join(f"{count} of {kind}" for kind, count in failures.items()),
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of these values do not exceed; 0 if there is none."""
    if not ascending:
        return 0.0
    place = -(-len(ascending) * percent // 100)  # rounded up
    return ascending[max(int(place), 1) - 1]


def median_load(loads: Sequence[Load]) -> Load:
    """Return the medians of each figure of several rounds."""
    return Load(
        requests=int(median(load.requests for load in loads)),
        requests_per_second=median(load.requests_per_second for load in loads),
        p50=median(load.p50 for load in loads),
        p99=median(load.p99 for load in loads),
        p999=median(load.p999 for load in loads),
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round. The figures of a round stand at the same place in both."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios, round by round."""
    return median(ratios(ours, theirs))
