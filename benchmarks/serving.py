"""The speed of ``GET /token``: xots beside nginx (the ceiling) and a plain Tornado handler (the
floor), with responses of the same size."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from .bench import Bench
from .load import Load, h2load, median_load, ratio, ratios, wrk
from .logins import new_readers, store_logins
from .report import PSS_EXPLAINED, Cell, Plot, Table, at_least, at_most, table_of_aims
from .samples import Sample, Samples, median_of, p99s, rates, sampled
from .servers import Server, against, nginx, of_same_size, plain, response_of, xots

__all__ = ["run"]

MANY = (1, 16, 64, 1000)
QUICK = (16, 64, 1000)
"""The numbers of keep-alive connections."""

USUAL = 16
"""The number of connections where it is not varied."""

XOTS, NO_LANE = "xots", "xots, lane off"
READERS, USERS = "xots, readers on", "xots, allowed users on"
NGINX, PLAIN, OTHER = "nginx", "plain Tornado", "the other"

FRESH, UNSEEN = "fresh connections", "unseen heads"
ACCESS = "rules of access"
H2LOAD, UNIX = "Unix socket and TCP, by h2load", ", Unix socket"

SERVERS = {
    XOTS: "with its default settings, and a stored login",
    NO_LANE: "with `express_lane: false`: Tornado parses each request, and a handler responds",
    READERS: "with 10 readers, one of which sends its key with each request",
    USERS: "with `allowed_users`: the user of each connection is looked up",
    PLAIN: "the floor: a Tornado server with one handler that sends the same body, without a log",
    NGINX: "the ceiling: one worker that returns the same body from memory, without a log",
    OTHER: "the server of `--against` or `--against-url`",
}
"""The servers in words."""

NOTES = {
    FRESH: "Each request has a new connection.",
    UNSEEN: (
        "Each request has the usual target, and a header `X-Request` with a new number, so that no "
        "request repeats an earlier one byte for byte."
    ),
    ACCESS: f"{USUAL} keep-alive connections.",
    H2LOAD: (
        f"{USUAL} keep-alive connections. h2load sends the requests, since wrk cannot use a Unix "
        "socket: compare these figures with each other only."
    ),
}
"""The tables in words, by their titles."""


def run(bench: Bench) -> list[Table | Plot]:
    """Measure each way to request a token."""
    with _running(bench) as servers:
        sizes = {name: _sizes(server) for name, server in servers.items()}
        measured = {
            title: bench.in_turn(measures) for title, measures in _scenarios(bench, servers)
        }
    tables = [_table(title, samples) for title, samples in measured.items()]
    return [_aims(measured), _servers(sizes), *_plots(measured), *tables]


@contextmanager
def _running(bench: Bench) -> Iterator[dict[str, Server]]:
    """Run all servers, each with a login of its own, and load each with wrk once. The express
    lane knows the head of wrk afterwards, and Python has specialised its code."""
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
            start(NO_LANE, "--express-lane", "false"),
        ]
        if (other := running.enter_context(against(bench))) is not None:
            servers.append(other)
        for server in servers:
            wrk(bench, server.url, USUAL, headers=server.headers, seconds=1)
        yield {server.name: server for server in servers}


def _scenarios(
    bench: Bench, servers: Mapping[str, Server]
) -> Iterator[tuple[str, Mapping[str, Callable[[], Sample]]]]:
    """Yield the title of each table, and its measurements."""
    every = (XOTS, NO_LANE, PLAIN, NGINX, OTHER)
    usual = (XOTS, PLAIN, NGINX, OTHER) if bench.quick else every

    def of(
        names: Sequence[str],
        connections: int = USUAL,
        *,
        fresh: bool = False,
        script: Sequence[str] = (),
    ) -> dict[str, Callable[[], Sample]]:
        def load(server: Server) -> Load:
            return wrk(
                bench,
                server.url,
                connections,
                headers=server.headers,
                fresh=fresh,
                script=script,
            )

        return {name: partial(sampled, servers[name], load) for name in names if name in servers}

    for connections in MANY if not bench.quick else QUICK:
        yield _kept(connections), of(every, connections)
    yield FRESH, of(usual, fresh=True)
    yield UNSEEN, of(usual, script=["unseen"])
    yield ACCESS, of((XOTS, READERS, USERS, PLAIN, NGINX))

    def by_tcp(server: Server) -> Load:
        return h2load(bench, server.url, USUAL)

    def by_unix(server: Server) -> Load:
        return h2load(bench, server.url, USUAL, unix_socket=server.unix_socket)

    by_h2load = {
        f"{name}{way}": partial(sampled, servers[name], load)
        for name in (XOTS, PLAIN, NGINX)
        for way, load in (("", by_tcp), (UNIX, by_unix))
    }
    for name in (XOTS, XOTS + UNIX):
        by_h2load[name]()  # the heads of h2load are new to the express lane
    yield H2LOAD, by_h2load


def _kept(connections: int) -> str:
    return f"{connections:,} keep-alive connection{'s' if connections > 1 else ''}"


# ---------- the tables


def _table(title: str, samples: Samples) -> Table:
    rows: list[list[Cell]] = []
    for name, own in samples.items():
        load = median_load([sample.load for sample in own])
        rows.append(
            [
                name,
                ratio(rates(own), rates(samples[NGINX])),
                ratio(rates(own), rates(samples[PLAIN])),
                ratio(p99s(own), p99s(samples[NGINX])),
                load.requests_per_second,
                load.p50,
                load.p99,
                load.p999,
                _ratio_of_cpu(own, samples[PLAIN]),
                median_of([sample.cpu for sample in own]),
                median_of([sample.memory for sample in own]),
            ]
        )
    columns = (
        *("server", "requests: times nginx", "times plain", "p99: times nginx"),
        *(
            "requests/s",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "CPU: times plain",
            "CPU µs/request",
            "memory MB (PSS)",
        ),
    )
    return Table(title, columns, rows, NOTES.get(title, ""))


def _sizes(server: Server) -> tuple[int, int]:
    """Return the bytes of the head, with the empty line at its end, and of the body."""
    head, body = response_of(server)
    return len(head) + len(b"\r\n\r\n"), len(body)


def _servers(sizes: Mapping[str, tuple[int, int]]) -> Table:
    """Explain the names of the servers and the figures, with the sizes of head and body."""
    rows: list[list[Cell]] = [
        [name, SERVERS[name], body, head + body] for name, (head, body) in sizes.items()
    ]
    columns = ("server", "description", "body, bytes", "whole response, bytes")
    note = (
        f"{PSS_EXPLAINED} The PSS is taken after the round. The processor time is that of the "
        "server alone. nginx and plain Tornado have spaces after the body, in place of headers."
    )
    return Table("Servers", columns, rows, note)


def _ratio_of_cpu(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float | None:
    return median_of(
        [
            our.cpu / their.cpu if our.cpu and their.cpu else None
            for our, their in zip(ours, theirs, strict=True)
        ]
    )


def _plots(measured: Mapping[str, Samples]) -> list[Plot]:
    """Draw the rate and the 99th percentile over the number of connections."""

    def series(
        value: Callable[[Sequence[Sample]], list[float]],
    ) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for connections in MANY:
            for name, samples in measured.get(_kept(connections), {}).items():
                found.setdefault(name, []).append((connections, median(value(samples))))
        return found

    x_label = "keep-alive connections"
    return [
        Plot("Requests a second", x_label, "requests/s", series(rates), log_x=True, log_y=True),
        Plot("Latency p99", x_label, "microseconds", series(p99s), log_x=True, log_y=True),
    ]


def _aims(measured: Mapping[str, Samples]) -> Table:
    """Compare the ratios with the aims of the project."""

    def times(title: str, name: str, other: str) -> list[float]:
        samples = measured[title]
        return ratios(rates(samples[name]), rates(samples[other]))

    aims = []
    for connections in (16, 64):
        title = _kept(connections)
        p99 = ratios(p99s(measured[title][XOTS]), p99s(measured[title][NGINX]))
        aims += [
            at_least(f"{title}: requests, times nginx", times(title, XOTS, NGINX), 0.8),
            at_least(f"{title}: requests, times plain", times(title, XOTS, PLAIN), 10),
            at_most(f"{title}: p99, times nginx", p99, 2),
        ]
    aims += [
        at_least(f"{FRESH}: requests, times nginx", times(FRESH, XOTS, NGINX), 0.6),
        at_least(f"{UNSEEN}: requests, times plain", times(UNSEEN, XOTS, PLAIN), 1),
        at_least("Unix socket: requests, times TCP", times(H2LOAD, XOTS + UNIX, XOTS), 0.9),
        *(
            at_least(f"{name}: requests, times without", times(ACCESS, name, XOTS), 0.9)
            for name in (READERS, USERS)
        ),
    ]
    memory = [[sample.memory or 0.0 for sample in measured[_kept(64)][n]] for n in (XOTS, PLAIN)]
    aims.append(at_most(f"{_kept(64)}: memory, times plain", ratios(*memory), 1.5))
    note = (
        f"Rounds: {len(measured[FRESH][XOTS])}. Each ratio is the median of the ratios within the "
        "rounds, beside the lowest and the highest of them."
    )
    return table_of_aims(aims, note)
