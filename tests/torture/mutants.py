"""Mutants: the command draws random mutants of the core, and prints the share that the tests kill.

A mutant is a copy of the package with one small change (``torture._mutations``). The tests of the
core run on it until one fails, which kills it. A mutant that survives is a hole in the tests, or it
is equivalent to the code.

A warm process imports pytest and the libraries once, and forks a child for each mutant. The child
imports the copy and the tests.
"""

from __future__ import annotations

import argparse
import compileall
import gc
import importlib
import math
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from py_compile import PycInvalidationMode

from torture import _copies
from torture._copies import COPY, REPORTS, ROOT, arguments, copied, read_reports
from torture._mutations import Mutation, mutated, mutations

__all__ = ["CORE", "Mutant", "RunError", "Verdict", "draw", "judge", "main", "tests_for"]

CORE = ("xots/lifecycle", "xots/keeping", "xots/tasks.py")
"""The files and folders that are mutated."""

LIFECYCLE_TESTS = (
    "lifecycle/test_account",
    "lifecycle/test_expiry",
    "lifecycle/test_schedule",
    "lifecycle/test_candidates",
    "lifecycle/test_transitions",
    "lifecycle/test_whole_records",
    "lifecycle/test_outlook",
    "lifecycle/test_record_format",
    "lifecycle/test_merging",
    "lifecycle/test_stateful_lifecycle",
)
"""The tests of the pure part, the quickest to kill first."""

KEEPER_TESTS = (
    "test_tasks",
    "keeping/test_clock_skew",
    "keeping/test_races",
    "keeping/test_reporting",
    "web/test_status",
    "keeping/test_tenants",
    "keeping/test_following",
    "keeping/test_login",
    "keeping/test_ending",
    "keeping/test_replica",
    "keeping/test_lost_writes",
    "keeping/test_refreshing",
    "keeping/test_outcomes",
    "keeping/test_keeper",
    "proofs/test_simulation",
    "keeping/test_stateful_keeper",
)
"""The tests of the keeper, in the same order."""

WARM = (
    "_hypothesis_pytestplugin",
    "cryptography.hazmat.primitives.ciphers.aead",
    "hypothesis.stateful",
    "msgspec",
    "pytest_asyncio.plugin",
    "redis.asyncio",
    "tornado.simple_httpclient",
    "tornado.web",
)
"""The modules that the warm process imports. It never imports the package itself."""

MAX_TEST_SECONDS = 40.0
"""A mutant hangs if one test takes longer. The slowest test takes 4 s on an idle machine."""

MAX_MUTANT_SECONDS = 300.0
"""A mutant hangs if all its tests take longer. The tests of the core take 30 s."""

MAX_MEMORY_BYTES = 2 << 30
"""Upper bound on the memory of a child: an endless loop may collect values."""

PRINTED = "printed"
"""The output of a child goes to this file of its copy."""

PROGRESS_INTERVAL = 50
"""Number of mutants between two progress lines."""


class RunError(Exception):
    """The tests cannot be run, or fail on the untouched copy."""


# ------------------------------------------------------------------------------------- the mutants


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    """Below the root of the repository."""
    source: str
    """The file without the change."""
    changed: str
    """The file with the change."""
    mutation: Mutation

    def __str__(self) -> str:
        """The place of the mutant, and its lines before and after."""
        before, after = self.source.splitlines(), self.changed.splitlines()
        start = 0
        while before[start] == after[start]:
            start += 1
        while before[-1] == after[-1] and min(len(before), len(after)) > start + 1:
            del before[-1], after[-1]
        lines = [f"{self.file}:{start + 1}  {self.mutation.kind}"]
        lines += [f"  - {line}" for line in before[start:]]
        lines += [f"  + {line}".rstrip() for line in after[start:]]
        return "\n".join(lines)


def core(only: Iterable[str] = ()) -> list[str]:
    """Return the files of the core, or only the files whose path begins with one of ``only``."""
    paths: list[Path] = []
    for name in CORE:
        path = ROOT / name
        paths += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    files = [path.relative_to(ROOT).as_posix() for path in paths]
    wanted = tuple(only)
    return [file for file in files if not wanted or file.startswith(wanted)]


def draw(files: Iterable[str], rng: random.Random) -> Iterator[Mutant]:
    """Draw mutants of these files without end, until all of them have been drawn.

    Each place of the code comes once, in random order, with one of its mutations. Then each place
    that has a second mutation comes again, and so on.
    """
    sources = {file: (ROOT / file).read_text() for file in files}
    places: dict[tuple[str, tuple[int, int]], list[Mutation]] = {}
    for file, source in sources.items():
        for mutation in mutations(source):
            places.setdefault((file, mutation.place), []).append(mutation)
    order = list(places.items())
    rng.shuffle(order)
    for _, found in order:
        rng.shuffle(found)
    while order:
        for (file, _), found in order:
            while found:
                mutation = found.pop()
                changed = mutated(sources[file], mutation)
                if changed is not None:
                    yield Mutant(file, sources[file], changed, mutation)
                    break
        order = [(place, found) for place, found in order if found]


def tests_for(file: str) -> list[str]:
    """Return the tests of the core. The tests of this file's room come first."""
    stems = LIFECYCLE_TESTS + KEEPER_TESTS
    if not file.startswith("xots/lifecycle/"):
        stems = KEEPER_TESTS + LIFECYCLE_TESTS
    return [f"tests/{stem}.py" for stem in stems]


# ---------------------------------------------------------------------------------------- the runs


@dataclass(frozen=True)
class Verdict:
    """The outcome of the tests on one mutant, or on the untouched copy."""

    mutant: Mutant | None
    killed_by: str | None
    """The test that failed, or the reason why no test ran to its end. None: it survives."""
    hung: bool
    seconds: float


@dataclass
class _Slot:
    """One copy of the package, and the child that runs on it."""

    copy: Path
    process: BaseProcess | None = None
    mutant: Mutant | None = None
    began_at: float = field(default=0.0)


def _warm_up() -> None:
    """Import the libraries, and make Hypothesis draw the same examples in each run.

    Raises:
        RunError: the package is imported already, so that a child could not import its copy.
    """
    if "xots" in sys.modules:
        raise RunError("this process has imported xots itself; run the command on its own")
    for name in WARM:
        importlib.import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,  # a busy machine must not kill a mutant
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),  # a kill needs no smallest example
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("mutants")
    gc.freeze()


def _run_child(copy: Path, tests: Sequence[str]) -> None:
    """Run the tests on the copy, and end this process with the status of pytest."""
    import pytest
    from hypothesis.configuration import set_hypothesis_home_dir

    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    output = os.open(copy / PRINTED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    set_hypothesis_home_dir(copy / ".hypothesis")
    os.environ |= {COPY: str(copy), "PYTHONPATH": os.pathsep.join([str(copy), str(ROOT / "tests")])}
    sys.path[:] = [
        str(copy),
        str(ROOT / "tests"),
        *(p for p in sys.path if p not in ("", str(ROOT))),
    ]
    options = ["-x", "--tb=short", "--basetemp", str(copy / "tmp")]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the plug-ins are imported
    status = pytest.main(arguments(tests, *options), plugins=[_copies])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _start(slot: _Slot, mutant: Mutant | None, tests: Sequence[str]) -> None:
    """Write the mutant to the copy of the slot, and start the child."""
    (slot.copy / REPORTS).unlink(missing_ok=True)
    if mutant is not None:
        (slot.copy / mutant.file).write_text(mutant.changed)
    slot.mutant, slot.began_at = mutant, time.monotonic()
    slot.process = multiprocessing.get_context("fork").Process(
        target=_run_child, args=(slot.copy, tests)
    )
    slot.process.start()


def _silent_seconds(slot: _Slot) -> float:
    """Return the time since the last report of the child, or since its start."""
    since_start = time.monotonic() - slot.began_at
    reports = slot.copy / REPORTS
    if not reports.exists():
        return since_start
    return min(since_start, time.time() - reports.stat().st_mtime)


def _kill(slot: _Slot) -> None:
    """Kill the child, with the processes that its tests started."""
    if slot.process is not None and slot.process.pid is not None and slot.process.is_alive():
        try:
            os.killpg(slot.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            slot.process.kill()
        slot.process.join()


def _verdict(slot: _Slot) -> Verdict | None:
    """Return the verdict on the mutant of the slot; None while its tests run.

    Raises:
        RunError: pytest itself failed, so that the outcome says nothing about the mutant.
    """
    process, mutant = slot.process, slot.mutant
    assert process is not None
    seconds = time.monotonic() - slot.began_at
    hung = False
    if process.exitcode is None:
        hung = _silent_seconds(slot) > MAX_TEST_SECONDS or seconds > MAX_MUTANT_SECONDS
        if not hung:
            return None
        _kill(slot)
    process.join()
    if mutant is not None:
        (slot.copy / mutant.file).write_text(mutant.source)
    slot.process = slot.mutant = None
    status = process.exitcode
    failed = [report.test for report in read_reports(slot.copy) if report.outcome == "failed"]
    if hung:
        return Verdict(mutant, "a hang", hung, seconds)
    if status == 0:
        return Verdict(mutant, None, hung, seconds)
    if failed:
        return Verdict(mutant, failed[0], hung, seconds)
    if status in (1, 2, 4):  # pytest could not import the package or a test file
        return Verdict(mutant, "the import", hung, seconds)
    if status is not None and status < 0:
        return Verdict(mutant, "a crash", hung, seconds)
    printed = (slot.copy / PRINTED).read_text(errors="replace")
    raise RunError(f"pytest ended with status {status}:\n{mutant or ''}\n{printed}")


def judge(
    mutants: Iterable[Mutant], *, tests: Sequence[str] | None = None, jobs: int = 1
) -> Iterator[Verdict]:
    """Run tests on the untouched copy and then on each mutant, and yield the verdicts as they come.

    Args:
        mutants: drawn one by one, whenever a child is free.
        tests: test files; None means the tests of the core, in an order for each mutant.
        jobs: number of children that run at a time.

    Raises:
        RunError: the tests cannot be run, or fail on the untouched copy.
    """
    _warm_up()
    rest = iter(mutants)
    with ExitStack() as stack:
        slots = [_Slot(stack.enter_context(copied())) for _ in range(jobs)]
        for slot in slots:
            stack.callback(_kill, slot)
            # The compiled files are valid by the hash of their source, not by its date: a mutant
            # may have the size and the second of the file before.
            compileall.compile_dir(
                slot.copy, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH
            )
        _start(slots[0], None, tests or tests_for(""))
        while (untouched := _verdict(slots[0])) is None:
            _wait(slots)
        if untouched.killed_by is not None:
            printed = (slots[0].copy / PRINTED).read_text(errors="replace")
            raise RunError(
                f"the tests fail on the untouched copy, by {untouched.killed_by}:\n{printed}"
            )
        yield untouched
        while True:
            for slot in slots:
                if slot.process is None and (mutant := next(rest, None)) is not None:
                    _start(slot, mutant, tests or tests_for(mutant.file))
            if all(slot.process is None for slot in slots):
                return
            _wait(slots)
            for slot in slots:
                if slot.process is not None and (verdict := _verdict(slot)) is not None:
                    yield verdict


def _wait(slots: Iterable[_Slot]) -> None:
    """Wait until a child ends, and at most until the next check for a child that hangs."""
    wait([slot.process.sentinel for slot in slots if slot.process is not None], timeout=1)


# ------------------------------------------------------------------------------------- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torture mutants",
        description="Draw random mutants of the core, run its tests on each, and print the score.",
    )
    add = parser.add_argument
    add("--count", type=int, default=100, help="number of mutants to draw (default: %(default)s)")
    add("--seed", type=int, default=1, help="the seed of the draw (default: %(default)s)")
    add("--jobs", type=int, default=2, help="number of runs at a time (default: %(default)s)")
    add(
        "--minutes",
        type=float,
        default=math.inf,
        help="draw no further mutant after this time",
    )
    add(
        "--at-least",
        type=float,
        default=92.0,
        metavar="PERCENT",
        help="required share of killed mutants (default: %(default)g)",
    )
    add(
        "--only",
        action="append",
        default=[],
        metavar="PATH",
        help="only files of the core below this path, such as xots/lifecycle/; can be repeated",
    )
    add("--list", action="store_true", help="print the mutants, and run nothing")
    return parser


def main(arguments: list[str]) -> int:
    """Draw the mutants, and print the surviving mutants and the score."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.count < 1:
        parser.error("--jobs and --count need at least 1")
    files = core(options.only)
    if not files:
        parser.error(f"no file of the core begins with {' or '.join(options.only)}")
    drawn = draw(files, random.Random(options.seed))  # noqa: S311 - no secret
    if options.list:
        for mutant, _ in zip(drawn, range(options.count), strict=False):
            print(mutant)
        return 0
    began_at = time.monotonic()
    is_over = False

    def draw_in_time() -> Iterator[Mutant]:
        nonlocal is_over
        for _ in range(options.count):
            is_over = time.monotonic() - began_at > options.minutes * 60
            mutant = None if is_over else next(drawn, None)
            if mutant is None:
                return
            yield mutant

    verdicts: list[Verdict] = []
    try:
        for verdict in judge(draw_in_time(), jobs=options.jobs):
            if verdict.mutant is None:
                print(f"The tests pass on the untouched copy, in {verdict.seconds:.0f} s.\n")
                continue
            verdicts.append(verdict)
            if verdict.killed_by is None:
                print(f"SURVIVED {verdict.mutant}\n", flush=True)
            elif verdict.hung:
                print(f"HUNG {verdict.mutant}\n", flush=True)
            if len(verdicts) % PROGRESS_INTERVAL == 0:
                print(f"{len(verdicts)} done, {time.monotonic() - began_at:.0f} s\n", flush=True)
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    if is_over:
        print(f"The {options.minutes:g} minutes are over: no further mutant is drawn.")
    elif len(verdicts) < options.count:
        print("These files have no further mutant.")
    share = _print_score(verdicts, options.seed, time.monotonic() - began_at)
    return 0 if share >= options.at_least else 1


def _print_score(verdicts: Sequence[Verdict], seed: int, seconds: float) -> float:
    """Print the score, and return the share of killed mutants in percent."""
    killers = [verdict.killed_by for verdict in verdicts if verdict.killed_by is not None]
    drawn, killed = len(verdicts), len(killers)
    share = 100 * killed / drawn if drawn else 0.0
    files = Counter(Path(killer.partition("::")[0]).stem for killer in killers)
    by_file = ", ".join(f"{name} {times}" for name, times in files.most_common())
    print(
        f"{drawn} mutants drawn (seed {seed}), {killed} killed ({share:.1f} %), "
        f"{sum(verdict.hung for verdict in verdicts)} of these hung; "
        f"by test file: {by_file or 'none'}; {drawn - killed} survived"
    )
    print(f"{seconds:.0f} s, {seconds / max(drawn, 1):.1f} s a mutant")
    return share
