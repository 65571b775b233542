"""Safeguards: the command removes each one from a copy of the program; its test must then fail.

A safeguard is a piece of source text that protects from one fault. The test that proves it carries
the mark::

    @pytest.mark.safeguard(
        file="backends/file.py",  # below xots/
        old="os.fsync(opened)",  # the text of the safeguard: the file holds it exactly once
        new="pass",  # the text in its place when the safeguard is taken out
        protects_from="a power cut: a record that is torn or empty",
    )

A test can carry several marks. A mark on one ``pytest.param`` names that case. A mark on a class
names one of its tests with a further keyword, such as ``test="test_a_lease_excludes"``: a subclass
marks a test that it inherits.

The file must hold the text exactly once, so that the marks follow the code. First all the tests run
on an untouched copy, and must pass.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torture._copies import COPY, ROOT, copied, run_tests

if TYPE_CHECKING:
    import pytest

__all__ = [
    "MarkError",
    "Safeguard",
    "check_untouched",
    "collect",
    "main",
    "occurrences",
    "take_out",
]

MARKS = "marks.json"
"""The file in the folder of the copy to which the plug-in writes the marks."""


@dataclass(frozen=True)
class Safeguard:
    """One mark, and the test that carries it."""

    file: str
    """Below ``xots/``."""
    old: str
    new: str
    protects_from: str
    test: str
    """A node id. For a parametrised test, an id without brackets means all the cases."""

    @property
    def title(self) -> str:
        """The name of the safeguard in an error message."""
        return f"{self.file}, {self.protects_from!r}"


class MarkError(Exception):
    """A mark does not fit the code, or its test does not run, or fails on the untouched code."""


# ---------------------------------------------------------------------------------------- the marks


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write all the marks of the collected tests, each with its tests.

    pytest calls this where this module is a plug-in of the collection. The cases of one
    parametrised test share one mark object, and so do the tests of a class.
    """
    marks: dict[int, tuple[dict[str, str], list[str]]] = {}
    for item in session.items:
        for mark in item.iter_markers("safeguard"):
            values, tests = marks.setdefault(id(mark), (dict(mark.kwargs), []))
            wanted = values.get("test")
            if wanted is None or wanted == getattr(item, "originalname", item.name):
                tests.append(item.nodeid)
    (Path(os.environ[COPY]) / MARKS).write_text(json.dumps(list(marks.values())))


def collect(*tests: str) -> list[Safeguard]:
    """Collect the marks of these test files or folders, in the order of the source.

    Raises:
        MarkError: a mark has wrong keywords, or names no test, or several.
    """
    with copied() as copy:
        options = ("--collect-only", "-p", "torture.safeguards")
        run = run_tests(copy, tests or ["tests"], *options)
        if run.status != 0:
            raise MarkError(f"pytest can not collect the tests:\n{run.printed}")
        marks = json.loads((copy / MARKS).read_text())
    safeguards = [_from_mark(values, nodes) for values, nodes in marks]
    return sorted(safeguards, key=lambda safeguard: (safeguard.file, _position(safeguard)))


def _from_mark(values: dict[str, str], nodes: list[str]) -> Safeguard:
    without_cases = {node.partition("[")[0] for node in nodes}
    if len(without_cases) != 1:
        raise MarkError(
            f"the mark {values} is that of {len(without_cases)} tests instead of one; "
            "the mark of a class names its test with test=..."
        )
    test = nodes[0] if len(nodes) == 1 else without_cases.pop()
    try:
        return Safeguard(**{**values, "test": test})
    except TypeError as error:
        raise MarkError(f"the mark {values} of {test} has wrong keywords: {error}") from None


def _position(safeguard: Safeguard) -> int:
    """Return the position of its text in the file; -1 if the file does not hold it."""
    path = ROOT / "xots" / safeguard.file
    return path.read_text().find(safeguard.old) if path.is_file() else -1


def occurrences(safeguard: Safeguard) -> int:
    """Count its text in the source; 1 is right."""
    path = ROOT / "xots" / safeguard.file
    return path.read_text().count(safeguard.old) if path.is_file() else 0


# ----------------------------------------------------------------------------------------- the runs


def _is_of(node: str, test: str) -> bool:
    """Tell if ``node`` is this test, or a case of it."""
    return node == test or node.startswith(f"{test}[")


def _tests(safeguards: Sequence[Safeguard]) -> list[str]:
    """Return the tests, each once."""
    return list(dict.fromkeys(safeguard.test for safeguard in safeguards))


def check_untouched(safeguards: Sequence[Safeguard]) -> None:
    """Run all their tests on an untouched copy.

    Raises:
        MarkError: one does not pass.
    """
    with copied() as copy:
        run = run_tests(copy, _tests(safeguards))
    if run.status != 0:
        raise MarkError(
            f"the tests do not pass on the untouched code:\n{run.printed or 'they hang'}"
        )
    for test in _tests(safeguards):
        outcomes = {
            report.outcome
            for report in run.reports
            if report.phase == "call" and _is_of(report.test, test)
        }
        if outcomes != {"passed"}:
            raise MarkError(
                f"{test} does not pass on the untouched code: "
                f"{', '.join(outcomes) or 'it does not run'}"
            )


def take_out(safeguard: Safeguard) -> str:
    """Run the test without its safeguard. Return "fails", or else "SURVIVES" with the reason.

    A test that hangs proves nothing, since a busy machine is slow too.

    Raises:
        MarkError: the file does not hold its text exactly once, or its test could not be run.
    """
    if (found := occurrences(safeguard)) != 1:
        raise MarkError(
            f"{safeguard.title}: xots/{safeguard.file} holds its text {found} times, not once"
        )
    with copied() as copy:
        path = copy / "xots" / safeguard.file
        path.write_text(path.read_text().replace(safeguard.old, safeguard.new))
        run = run_tests(copy, [safeguard.test], "-x")
    if run.status is None:
        return "SURVIVES (the test hangs)"
    if run.status == 0:
        return "SURVIVES"
    failed = [
        report.test
        for report in run.reports
        if (report.phase, report.outcome) == ("call", "failed")
    ]
    if run.status != 1 or not all(_is_of(node, safeguard.test) for node in failed):
        raise MarkError(
            f"{safeguard.title}: its test could not be run (status {run.status}):\n{run.printed}"
        )
    return "fails" if failed else "SURVIVES (an error around the test)"


# -------------------------------------------------------------------------------------- the command

COLUMNS = {"file": 18, "protects from": 60, "without it": 10, "test": 100}


def _line(*texts: str) -> str:
    """Format a line of the table; a text that is longer than its column wraps."""
    columns = [
        textwrap.wrap(text, width) or [""]
        for text, width in zip(texts, COLUMNS.values(), strict=True)
    ]
    height = max(map(len, columns))
    rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(
        " | ".join(
            f"{cell:{width}}" for cell, width in zip(row, COLUMNS.values(), strict=True)
        ).rstrip()
        for row in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torture safeguards",
        description="Remove each safeguard from a copy of the program: its test must then fail.",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of runs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only safeguards with this text in their file, fault or test",
    )
    parser.add_argument(
        "--file",
        default="",
        metavar="PREFIX",
        help="only files whose path below xots/ begins with this",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Remove each safeguard in turn, and print the table."""
    parser = _parser()
    options = parser.parse_args(arguments)
    began_at = time.monotonic()
    try:
        safeguards = [
            safeguard
            for safeguard in collect()
            if safeguard.file.startswith(options.file)
            and any(
                options.only in text
                for text in (safeguard.file, safeguard.protects_from, safeguard.test)
            )
        ]
        if not safeguards:
            parser.error(f"no safeguard fits {options.only or options.file!r}")
        check_untouched(safeguards)
    except MarkError as error:
        print(error, file=sys.stderr)
        return 1
    print(_line(*COLUMNS))
    print("-|-".join("-" * width for width in COLUMNS.values()))
    bad = []

    def outcome_of(safeguard: Safeguard) -> str:
        try:
            return take_out(safeguard)
        except MarkError as error:
            return f"ERROR: {error}"

    with ThreadPoolExecutor(options.jobs) as pool:
        for safeguard, outcome in zip(safeguards, pool.map(outcome_of, safeguards), strict=True):
            print(
                _line(
                    safeguard.file,
                    safeguard.protects_from,
                    outcome.partition(":")[0],
                    safeguard.test,
                ),
                flush=True,
            )
            if outcome != "fails":
                bad.append(f"{safeguard.title}: {outcome}")
    print(
        f"\n{len(safeguards)} safeguards taken out, {len(_tests(safeguards))} tests, "
        f"{time.monotonic() - began_at:.0f} s: without it, the named test fails for "
        f"{len(safeguards) - len(bad)} of {len(safeguards)}"
    )
    for line in bad:
        print(line)
    return 1 if bad else 0
