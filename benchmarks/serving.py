"""The speed of ``GET /token``: xots beside nginx (the ceiling) and a plain Tornado handler (the
floor), with responses of the same size."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from .bench import Bench
from .load import Load, h2load, median_load, ratio, wrk
from .logins import new_readers, store_logins
from .report import Cell, Plot, Table
from .servers import Server, against, has_express_lane, nginx, of_same_size, plain, xots

__all__ = ["Sample", "run", "sampled"]

MANY = (1, 16, 64, 1000)
CLOSE = ("Connection: close",)
USUAL = 16
"""The number of connections where it is not varied."""

XOTS, NO_LANE = "xots", "xots, lane off"
READERS, USERS = "xots, readers on", "xots, allowed users on"
NGINX, PLAIN = "nginx", "plain Tornado"

FRESH, UNSEEN = "fresh connections", "unseen heads"
TCP, UNIX = "TCP, by h2load", "Unix socket, by h2load"
ACCESS = "rules of access"

MEGABYTE = 1 << 20


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


def run(bench: Bench) -> list[Table | Plot]:
    """Measure each way to request a token."""
    with _running(bench) as servers:
        measured = {
            title: bench.in_turn(
                {name: partial(sampled, servers[name], load) for name in names if name in servers}
            )
            for title, names, load in _scenarios(bench)
        }
    tables = [_table(title, samples) for title, samples in measured.items()]
    return [_targets(measured), *_plots(measured), *tables]


@contextmanager
def _running(bench: Bench) -> Iterator[dict[str, Server]]:
    """Run all servers, each with a login of its own, and warm them up."""
    with ExitStack() as running:

        def start(name: str, *options: str | Path, headers: Sequence[str] = ()) -> Server:
            stored = store_logins(bench.new_folder("login"))
            return running.enter_context(xots(bench, stored, *options, name=name, headers=headers))

        readers = bench.new_folder("readers") / "readers"
        key = new_readers(readers, 10)
        first = start(XOTS)
        servers = [
            first,
            start(READERS, "--readers", readers, headers=[f"Authorization: Bearer {key}"]),
            start(USERS, "--allowed-users", getpass.getuser()),
            running.enter_context(of_same_size(plain, bench, first)),
            running.enter_context(of_same_size(nginx, bench, first)),
        ]
        if has_express_lane():
            servers.append(start(NO_LANE, "--express-lane", "false"))
        if (other := running.enter_context(against(bench))) is not None:
            servers.append(other)
        for server in servers:
            wrk(bench, server.url, USUAL, headers=server.headers, seconds=1)
        yield {server.name: server for server in servers}


Scenario = tuple[str, Sequence[str], Callable[[Server], Load]]
"""Its title, the names of its servers, and the load."""


def _scenarios(bench: Bench) -> Iterator[Scenario]:
    every = (XOTS, NO_LANE, PLAIN, NGINX, "the other")

    def by_wrk(
        server: Server,
        connections: int = USUAL,
        headers: Sequence[str] = (),
        script: Sequence[str] = (),
    ) -> Load:
        every_header = [*server.headers, *headers]
        return wrk(bench, server.url, connections, headers=every_header, script=script)

    for connections in MANY:
        yield _kept(connections), every, partial(by_wrk, connections=connections)
    yield FRESH, every, partial(by_wrk, headers=CLOSE)
    yield UNSEEN, every, partial(by_wrk, script=["unseen"])
    yield ACCESS, (XOTS, READERS, USERS, PLAIN, NGINX), by_wrk
    with_socket = (XOTS, NO_LANE, PLAIN, NGINX)
    yield TCP, with_socket, lambda server: h2load(bench, server.url, USUAL)
    yield (
        UNIX,
        with_socket,
        lambda server: h2load(bench, server.url, USUAL, unix_socket=server.unix_socket),
    )


def _kept(connections: int) -> str:
    return f"{connections:,} keep-alive connection{'s' if connections > 1 else ''}"


def sampled(server: Server, load: Callable[[Server], Load]) -> Sample:
    """Load a server once, and return the figures with its processor time and memory."""
    if server.process is None:
        return Sample(load(server), None, None)
    before = server.process.cpu_seconds()
    found = load(server)
    used = server.process.cpu_seconds() - before
    return Sample(found, used / found.requests * 1e6, server.process.memory / MEGABYTE)


# ---------- the tables


def _rates(samples: Sequence[Sample]) -> list[float]:
    return [sample.load.requests_per_second for sample in samples]


def _p99s(samples: Sequence[Sample]) -> list[float]:
    return [sample.load.p99 for sample in samples]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _table(title: str, samples: Samples) -> Table:
    rows: list[list[Cell]] = []
    for name, own in samples.items():
        load = median_load([sample.load for sample in own])
        rows.append(
            [
                name,
                ratio(_rates(own), _rates(samples[NGINX])),
                ratio(_rates(own), _rates(samples[PLAIN])),
                ratio(_p99s(own), _p99s(samples[NGINX])),
                load.requests_per_second,
                load.p50,
                load.p99,
                load.p999,
                _median([sample.cpu for sample in own]),
                _median([sample.memory for sample in own]),
            ]
        )
    columns = (
        *("server", "requests: times nginx", "times plain", "p99: times nginx"),
        *("requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/request", "memory MB"),
    )
    return Table(title, columns, rows)


def _plots(measured: Mapping[str, Samples]) -> list[Plot]:
    """Draw the rate and the 99th percentile over the number of connections."""

    def series(
        value: Callable[[Sequence[Sample]], list[float]],
    ) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for connections in MANY:
            for name, samples in measured[_kept(connections)].items():
                found.setdefault(name, []).append((connections, median(value(samples))))
        return found

    x_label = "keep-alive connections"
    return [
        Plot("Requests a second", x_label, "requests/s", series(_rates), log_x=True, log_y=True),
        Plot("Latency p99", x_label, "microseconds", series(_p99s), log_x=True, log_y=True),
    ]


def _targets(measured: Mapping[str, Samples]) -> Table:
    """Compare the ratios with the targets of the project."""
    rows: list[list[str | float]] = []

    def row(claim: str, found: float, bound: float, *, at_least: bool = True) -> None:
        is_met = found >= bound if at_least else found <= bound
        wanted = f"{'at least' if at_least else 'at most'} {bound:g}"
        rows.append([claim, found, wanted, "yes" if is_met else "no"])

    def rate(scenario: str, other: str) -> float:
        samples = measured[scenario]
        return ratio(_rates(samples[XOTS]), _rates(samples[other]))

    for connections in (16, 64):
        title = _kept(connections)
        p99 = ratio(_p99s(measured[title][XOTS]), _p99s(measured[title][NGINX]))
        row(f"{title}: requests, times nginx", rate(title, NGINX), 0.8)
        row(f"{title}: requests, times plain", rate(title, PLAIN), 10)
        row(f"{title}: p99, times nginx", p99, 2, at_least=False)
    row(f"{FRESH}: requests, times nginx", rate(FRESH, NGINX), 0.6)
    row(f"{UNSEEN}: requests, times plain", rate(UNSEEN, PLAIN), 1)
    by_unix, by_tcp = measured[UNIX][XOTS], measured[TCP][XOTS]
    row("Unix socket: requests, times TCP", ratio(_rates(by_unix), _rates(by_tcp)), 0.9)
    for name in (READERS, USERS):
        own, without = measured[ACCESS][name], measured[ACCESS][XOTS]
        row(f"{name}: requests, times without", ratio(_rates(own), _rates(without)), 0.9)
    memory = [[sample.memory or 0.0 for sample in measured[_kept(64)][n]] for n in (XOTS, PLAIN)]
    row("memory, times plain", ratio(*memory), 1.5, at_least=False)
    note = f"Medians of {len(measured[FRESH][XOTS])} rounds, each ratio within one round."
    return Table("Targets", ("ratio", "measured", "target", "met"), rows, note)
