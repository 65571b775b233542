"""The parts of the benchmarks that measure nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.bench import MEGABYTE, Bench, BenchmarkFailed
from benchmarks.growth import aim_of, growth_of
from benchmarks.load import Load, median_load, parse_h2load, parse_wrk, percentile, ratio
from benchmarks.outside import Refresh, checked, needless
from benchmarks.report import Plot, Table, at_least, at_most, document, shown, table_of_aims, write
from benchmarks.soak import Limit
from benchmarks.start import BARE, FILES, REDIS, Start, aims_of, rows_of

WRK = """Running 2s test @ http://127.0.0.1:8099/token
  1 threads and 16 connections
Requests/sec: 111672.18
{"requests": 500, "microseconds": 2000000, "status": 0, "connect": 0, "read": 0, "write": 0, \
"timeout": 0, "p50": 73, "p99": 240, "p999": 1882}
"""

H2LOAD = """
finished in 2.00s, 156992.50 req/s, 22.76MB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_the_figures_of_wrk_are_read() -> None:
    """The rate is that of all responses in the time that wrk measured."""
    expected = Load(requests=500, requests_per_second=250, p50=73, p99=240, p999=1882)
    assert parse_wrk(WRK) == expected


def test_the_errors_of_wrk_are_read() -> None:
    """Each kind is named with its number, and a response that is an error is no request."""
    load = parse_wrk(WRK.replace('"status": 0', '"status": 3').replace('"read": 0', '"read": 1'))
    assert (load.requests, load.errors) == (
        497,
        "3 with a status other than 2xx and 3xx, 1 errors of reading",
    )


def test_the_end_of_a_fresh_connection_is_no_error() -> None:
    """wrk counts it as one if the server does not announce it."""
    assert parse_wrk(WRK.replace('"read": 0', '"read": 500'), fresh=True).errors == ""


def test_the_figures_of_h2load_are_read() -> None:
    """The latencies come from its log."""
    log = "".join(f"1795850360441880\t200\t{microseconds}\n" for microseconds in (4, 1, 3, 2))
    expected = Load(requests=4, requests_per_second=156992.5, p50=2, p99=4, p999=4)
    assert parse_h2load(H2LOAD, log) == expected


def test_the_errors_of_h2load_are_read() -> None:
    """A failed request has no status in the log."""
    output = H2LOAD.replace("0 failed", "1 failed").replace("0 5xx", "2 5xx")
    load = parse_h2load(output, "1\t200\t7\n1\t-1\t9\n1\t503\t8\n1\t503\t8\n")
    assert (load.requests, load.errors) == (1, "1 of failed, 2 of 5xx")


@pytest.mark.parametrize("parse", [parse_wrk, lambda output: parse_h2load(output, "")])
def test_an_output_without_figures_is_a_failure(parse: object) -> None:
    """The error shows the output."""
    assert callable(parse)
    with pytest.raises(BenchmarkFailed, match="no such host"):
        parse("no such host")


def test_a_percentile_is_one_of_the_values() -> None:
    """It is the smallest value that so many values do not exceed."""
    values = [float(value) for value in range(1, 1001)]
    found = [percentile(values, percent) for percent in (0, 50, 99, 99.9, 100)]
    assert found == [1, 500, 990, 999, 1000]
    assert percentile([], 50) == 0


def test_a_ratio_is_taken_within_a_round() -> None:
    """A round in which the whole machine was slow changes nothing."""
    assert ratio([100, 10, 100], [50, 5, 50]) == 2


def test_the_median_of_loads_is_that_of_each_figure() -> None:
    """One round with a high latency may have a usual rate."""
    loads = [Load(1, 10, 5, 50, 500), Load(2, 30, 1, 20, 300), Load(3, 20, 3, 90, 400)]
    assert median_load(loads) == Load(2, 20, 3, 50, 400)


def test_servers_are_measured_in_turn(tmp_path: Path) -> None:
    """Each round measures every one of them, and each is first in one round."""
    calls: list[str] = []

    def measure(name: str) -> int:
        calls.append(name)
        return len(calls)

    bench = Bench(tmp_path, rounds=3)
    results = bench.in_turn({name: lambda name=name: measure(name) for name in "abc"})  # type: ignore[misc]
    assert "".join(calls) == "abcbcacab"
    assert results == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


@pytest.mark.parametrize(
    ("points", "growth"),
    [
        ([(1, 100), (10, 120), (100, 110)], "flat"),
        ([(1, 100), (10, 100), (100, 100.5)], "flat"),
        ([(1, 100), (10, 150), (100, 100)], "flat"),
        ([(1, 11), (10, 12), (100, 493), (1000, 55)], "uneven"),
        ([(1, 100), (2, 200), (4, 400), (8, 800)], "linear"),
        ([(1, 100), (10, 300), (100, 400)], "linear"),
        ([(1, 1), (2, 4), (4, 16), (8, 64)], "faster"),
        ([(1, 100), (1000, 200), (4000, 6000)], "faster"),
    ],
)
def test_the_growth_of_a_cost_is_told(points: list[tuple[float, float]], growth: str) -> None:
    """A cost below the line from the first to the last point grows faster than linearly."""
    assert growth_of(points) == growth


def test_two_points_are_not_judged() -> None:
    """They cannot show a curve, so the run neither meets the aim nor misses it."""
    aims = [aim_of("CPU", [(1, 5), (1000, 9)]), aim_of("CPU", [(1, 5), (10, 5), (1000, 9)])]
    assert table_of_aims(aims).rows == [
        ["CPU", None, None, "flat or linear", ""],
        ["CPU", "linear", None, "flat or linear", "yes"],
    ]


def refreshes(*made: tuple[float, str]) -> list[Refresh]:
    """Refreshes at these seconds, each with the token that it spent."""
    began = datetime(2026, 11, 1, tzinfo=UTC)
    return [Refresh(began + timedelta(seconds=at), token, "issued") for at, token in made]


@pytest.mark.parametrize(
    ("made", "count"),
    [
        ([], 0),
        ([(0, "a"), (1.1, "b"), (2.2, "c")], 0),
        ([(0, "a"), (0.2, "b"), (1.3, "c")], 1),
        ([(0, "a"), (1.1, "b"), (2.2, "b"), (2.3, "b")], 2),
        ([(1.1, "b"), (0, "a")], 0),
    ],
)
def test_needless_refreshes_are_counted(made: list[tuple[float, str]], count: int) -> None:
    """Of tokens that live for two seconds, one is due after each. None is spent twice."""
    assert needless(refreshes(*made), 2) == count


def test_a_refresh_without_a_token_fails_an_experiment() -> None:
    """The error names the outcome."""
    good = refreshes((0, "a"))
    assert checked(good) == good
    with pytest.raises(BenchmarkFailed, match="1 of 2 refreshes brought no token: refused"):
        checked([*good, replace(good[0], outcome="refused")])


@pytest.mark.parametrize(
    ("values", "is_flat"),
    [
        ([10, 30, 35, 36, 35, 36, 35, 36, 35], True),
        ([10, 30, 35, 36, 37, 38, 39, 40, 41], False),
        ([10, 30, 35, 40, 40, 40, 35, 35, 35], True),
        ([10, 30, 35, 36, 36, 36, 36, 90, 36], True),
    ],
)
def test_the_growth_after_the_warm_up_counts(values: list[float], is_flat: bool) -> None:
    """The first third is the warm-up, and one sample that differs is noise."""
    assert Limit("memory", 0.5).allows(values) == is_flat


def test_a_small_growth_is_noise() -> None:
    """It is within the absolute or the relative limit."""
    values = [100.0] * 6 + [102] * 3
    assert not Limit("objects", 1, part=0.01).allows(values)
    assert Limit("objects", 2, part=0.01).allows(values)
    assert Limit("objects", 1, part=0.02).allows(values)


def starts(seconds: Sequence[float], megabytes: float) -> list[Start]:
    """Starts that took so many seconds, one a round."""
    return [Start(each, each, megabytes * MEGABYTE, MEGABYTE) for each in seconds]


STARTS = {
    BARE: starts([0.1, 0.2, 0.4], megabytes=1),
    FILES: starts([0.2, 0.4, 0.4], megabytes=1.5),
    REDIS: starts([0.1, 0.8, 1.6], megabytes=3),
}


def test_a_start_is_compared_with_that_of_the_same_round() -> None:
    """The ratio is the median of the ratios, since one minute differs from the next."""
    assert rows_of(STARTS) == [
        [BARE, 200, None, 200, None, 1, None, 1, None],
        [FILES, 400, 2, 400, 2, 1.5, 1.5, 1, 1],
        [REDIS, 800, 4, 800, 4, 3, 3, 1, 1],
    ]


def test_the_aims_of_a_start_differ_by_store() -> None:
    """Redis may take longer. The memory has one aim for both."""
    assert [(aim.wanted, aim.is_met) for aim in aims_of(STARTS)] == [
        ("at most 2", True),
        ("at most 3", False),
        ("at most 1.5", True),
        ("at most 1.5", False),
    ]


@pytest.mark.parametrize(
    ("cell", "text"),
    [("nginx", "nginx"), (None, "-"), (0, "0"), (0.12345, "0.123"), (1234567.8, "1,234,568")],
)
def test_a_cell_has_three_digits(cell: str | float | None, text: str) -> None:
    """More digits would be noise."""
    assert shown(cell) == text


def test_a_table_is_markdown() -> None:
    """Columns of numbers are aligned to the right."""
    table = Table("Speed", ("server", "requests/s"), [("nginx", 155000), ("xots", None)], "A note.")
    assert table.markdown().splitlines() == [
        *("### Speed", ""),
        "| server | requests/s |",
        "| ------ | ---------: |",
        "| nginx  |    155,000 |",
        "| xots   |          - |",
        *("", "A note."),
    ]


def test_the_aims_stand_beside_the_figures() -> None:
    """A figure that is equal to its bound meets the aim. Several rounds have a range."""
    aims = [at_least("rate", [0.8], 0.8), at_least("rate", [0.79], 0.8)]
    aims += [at_most("p99", [2.5, 1.234, 2], 2), at_most("p99", [1, 4], 2)]
    assert table_of_aims(aims).rows == [
        ["rate", 0.8, None, "at least 0.8", "yes"],
        ["rate", 0.79, None, "at least 0.8", "no"],
        ["p99", 2, "1.23 to 2.5", "at most 2", "yes"],
        ["p99", 2.5, "1 to 4", "at most 2", "no"],
    ]


def test_a_plot_is_a_table_too() -> None:
    """A series without a point at some place has a dash there."""
    plot = Plot("CPU over readers", "readers", "µs", {"on": [(1, 5), (10, 6)], "off": [(10, 7)]})
    table = plot.table()
    assert (table.columns, table.rows) == (["readers", "on", "off"], [[1, 5, None], [10, 6, 7]])
    assert "![CPU over readers](cpu-over-readers.svg)" in plot.markdown()


def test_the_results_of_an_experiment_are_one_file(tmp_path: Path) -> None:
    """The folder is made, and the file has the name of the experiment."""
    results = [Table("Speed", ("server",), [("nginx",)])]
    text = document("serving", results, "Measured today.")
    assert text.startswith("## serving\n\nMeasured today.\n\n### Speed\n")
    path = write("serving", text, results, tmp_path / "new")
    assert path.name == "serving.md"
    assert path.read_text(encoding="utf-8") == text
