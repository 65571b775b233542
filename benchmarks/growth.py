"""How the cost of a request grows: with the size of the token, and with the number of readers, of
accounts and of open connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from .bench import Bench, BenchmarkFailed
from .load import wrk
from .logins import new_readers, store_logins
from .report import PSS_EXPLAINED, Aim, Cell, Plot, Table, table_of_aims
from .samples import Sample, median_of, sampled
from .servers import Server, xots

__all__ = ["aim_of", "growth_of", "run"]

CONNECTIONS = 16
"""The connections that send requests."""

KILOBYTE = 1 << 10

NOISE = 1.25
"""Costs up to this many times the first one count as flat: so much differs on a busy machine."""

IN_TURN = 100
"""The accounts that are requested in turn, in one of the series."""

MAX_CONNECTIONS = 10_000

FLAT_OR_LINEAR = "flat or linear"
"""The aim for each cost."""

TWO_POINTS = (
    "A quick run measures two points of each curve, which cannot show its shape, so no aim is "
    "judged. The next table compares the last point with the first."
)

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Target:
    """A server, and how it is loaded."""

    server: Server
    script: Sequence[str | Path] = ()
    """The arguments of ``load.lua``."""

    def sample(self, bench: Bench, seconds: int | None = None) -> Sample:
        """Load the server once."""
        return sampled(
            self.server,
            lambda server: wrk(
                bench,
                server.url,
                CONNECTIONS,
                headers=server.headers,
                script=self.script,
                seconds=seconds,
            ),
        )


Start = Callable[[Bench, ExitStack, int], Target]
"""Starts a server with so many of what varies; the stack ends it."""


def _with_token(bench: Bench, running: ExitStack, kilobytes: int, *options: str) -> Target:
    stored = store_logins(bench.new_folder("login"), token_bytes=kilobytes * KILOBYTE)
    return Target(running.enter_context(xots(bench, stored, *options)))


def _with_readers(bench: Bench, running: ExitStack, count: int, *options: str) -> Target:
    stored = store_logins(bench.new_folder("login"))
    readers = bench.new_folder("readers") / "readers"
    headers = [f"Authorization: Bearer {new_readers(readers, count)}"]
    server = xots(bench, stored, "--readers", readers, *options, headers=headers)
    return Target(running.enter_context(server))


def _with_accounts(bench: Bench, running: ExitStack, count: int, *options: str) -> Target:
    names = [f"account-{number}" for number in range(count)]
    stored = store_logins(bench.new_folder("login"), names=names)
    server = xots(bench, stored, *options, path=f"/accounts/{names[0]}/token")
    return Target(running.enter_context(server))


def _with_accounts_in_turn(bench: Bench, running: ExitStack, count: int) -> Target:
    paths = bench.new_folder("paths") / "paths"
    names = (f"account-{number}" for number in range(min(count, IN_TURN)))
    paths.write_text("".join(f"/accounts/{name}/token\n" for name in names), encoding="ascii")
    return Target(_with_accounts(bench, running, count).server, ("paths", paths))


def _with_connections(bench: Bench, running: ExitStack, count: int, *options: str) -> Target:
    stored = store_logins(bench.new_folder("login"))
    limits = ("--max-connections", str(MAX_CONNECTIONS), "--idle-timeout", "3600")
    target = Target(running.enter_context(xots(bench, stored, *limits, *options)))
    running.enter_context(_idle_connections(target.server, count))
    return target


@contextmanager
def _idle_connections(server: Server, count: int) -> Iterator[None]:
    """Keep so many connections open that have received one response each."""
    with ExitStack() as opened:
        for _ in range(count):
            connection = opened.enter_context(
                closing(HTTPConnection("127.0.0.1", server.port, timeout=10))
            )
            connection.request("GET", "/token")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise BenchmarkFailed(f"{server.name} refused an idle connection")
        yield


def run(bench: Bench) -> list[Table | Plot]:
    """Measure the cost of a request over each of these numbers."""
    quick = bench.quick
    lanes = _one if quick else _lanes
    in_turn = {} if quick else {f"xots, {IN_TURN} accounts in turn": _with_accounts_in_turn}
    experiments: list[tuple[str, Sequence[int], Mapping[str, Start]]] = [
        ("kilobytes of token", (1, 16) if quick else (1, 2, 4, 8, 16), lanes(_with_token)),
        ("readers", (1, 1000) if quick else (1, 10, 100, 1000), lanes(_with_readers)),
        (
            "accounts",
            (1, 1000) if quick else (1, 10, 100, 1000, 10_000),
            lanes(_with_accounts) | in_turn,
        ),
        (
            "idle connections",
            (1, 4000) if quick else (1, 100, 1000, 4000),
            lanes(_with_connections),
        ),
    ]
    aims: list[Aim] = []
    rows: list[list[Cell]] = []
    plots: list[Plot] = []
    for what, counts, starts in experiments:
        measured = {name: _measured(bench, counts, start) for name, start in starts.items()}
        cpu = {name: _points(found, lambda sample: sample.cpu) for name, found in measured.items()}
        memory = {
            name: _points(found, lambda sample: sample.memory) for name, found in measured.items()
        }
        aims += [
            aim_of(f"{name}: {cost} over {what}", costs[name])
            for name in starts
            for cost, costs in (("CPU", cpu), ("memory", memory))
        ]
        rows += [_row(what, name, cpu[name], memory[name]) for name in starts]
        plots += [
            Plot(
                f"CPU over {what}", what, "CPU µs/request", cpu, log_x=what != "kilobytes of token"
            ),
            Plot(f"Memory over {what}", what, "MB", memory),
        ]
    columns = (
        *("over", "server", "from", "to", "CPU: last, times first"),
        *("first µs", "last µs", "PSS: last, times first", "first MB", "last MB"),
    )
    note = TWO_POINTS if quick else ""
    table = Table("Growth", columns, rows, PSS_EXPLAINED)
    return [table_of_aims(aims, note), table, *plots]


def _one(start: Start) -> dict[str, Start]:
    """Return how to start xots with its default settings."""
    return {"xots": start}


def _lanes(start: Callable[..., Target]) -> dict[str, Start]:
    """Return how to start xots with its default settings, and without the express lane."""
    return {
        "xots": start,
        "xots, lane off": lambda *arguments: start(*arguments, "--express-lane", "false"),
    }


def _measured(bench: Bench, counts: Sequence[int], start: Start) -> dict[int, list[Sample]]:
    """Start a server for each of these numbers, and measure all of them in turn."""
    with ExitStack() as running:
        measures: dict[str, Callable[[], Sample]] = {}
        for count in counts:
            target = start(bench, running, count)
            target.sample(bench, seconds=1)  # the express lane knows its heads from now on
            if target.server.process is not None:
                target.server.process.wait_until_idle()
            measures[str(count)] = partial(target.sample, bench)
        return {int(count): samples for count, samples in bench.in_turn(measures).items()}


def _points(
    measured: Mapping[int, Sequence[Sample]], value: Callable[[Sample], float | None]
) -> Points:
    return [
        (count, median_of([value(sample) for sample in samples]) or 0.0)
        for count, samples in measured.items()
    ]


def _row(what: str, name: str, cpu: Points, memory: Points) -> list[Cell]:
    figures: list[float] = []
    for points in (cpu, memory):
        least, most = points[0][1], points[-1][1]
        figures += [most / least, least, most]
    return [what, name, cpu[0][0], cpu[-1][0], *figures]


def aim_of(figure: str, points: Points) -> Aim:
    """Return the aim for these costs. Two points cannot miss it, so they do not meet it either."""
    if len(points) < 3:
        return Aim(figure, None, FLAT_OR_LINEAR, is_met=None)
    growth = growth_of(points)
    return Aim(figure, growth, FLAT_OR_LINEAR, growth in ("flat", "linear"))


def growth_of(points: Points) -> str:
    """Tell how the costs at these points grow: ``flat``, ``linear`` (or less) or ``faster``.

    They are flat if the last is not much larger than the first. Otherwise they are linear unless
    the line from the first to the last point lies far above a point between them: a cost that grows
    faster than in proportion is still small there. They are ``uneven`` if a point between costs
    twice as much as both ends, which is neither growth nor noise.
    """
    (first, base), (last, most) = points[0], points[-1]
    if max(cost for _, cost in points) > 2 * max(base, most):
        return "uneven"
    if most <= base * NOISE:
        return "flat"
    for count, cost in points[1:-1]:
        on_line = (most - base) * (count - first) / (last - first)
        if on_line > base * NOISE and cost - base < on_line / 2:
            return "faster"
    return "linear"
