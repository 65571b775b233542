"""Run pytest on a changed copy of the package, and read the report of each test.

The copy holds the package as a wheel would install it. This module is also the pytest plug-in of
such a run: it checks that the tests import the copy, and writes the reports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = [
    "COPY",
    "REPORTS",
    "ROOT",
    "Report",
    "Run",
    "arguments",
    "copied",
    "read_reports",
    "run_tests",
]

ROOT = Path(__file__).parents[2]

RUN_TIMEOUT_SECONDS = 120.0
"""Upper bound on a run. The slowest test of a safeguard takes some seconds."""

COPY = "TORTURE_COPY"
"""The environment variable that names the folder of the copy to the plug-ins of a run."""

REPORTS = "reports"
"""The plug-in writes one line for each report to this file of the copy: test, phase, outcome."""


@dataclass(frozen=True)
class Report:
    """The outcome of one phase of one test."""

    test: str
    """Its node id."""
    phase: str
    """``setup``, ``call`` or ``teardown``."""
    outcome: str
    """``passed``, ``failed`` or ``skipped``."""


@dataclass(frozen=True)
class Run:
    """The result of one run of pytest."""

    status: int | None
    """The exit status of pytest; None: the run hung and was killed."""
    reports: tuple[Report, ...]
    printed: str


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the package to a new folder, as a wheel would install it: ``xots`` below this path."""
    with tempfile.TemporaryDirectory(prefix="xots-copy-") as name:
        folder = Path(name)
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "xots", folder / "xots", ignore=unwanted)
        shutil.copytree(ROOT / "templates", folder / "xots" / "templates", ignore=unwanted)
        yield folder


def arguments(tests: Iterable[str], *options: str) -> list[str]:
    """Return the arguments of pytest for a run of these tests in the folder of a copy."""
    return [
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
        *(str(ROOT / test) for test in tests),
    ]


def read_reports(copy: Path) -> tuple[Report, ...]:
    """Return the reports that the plug-in has written in the folder of a copy."""
    path = copy / REPORTS
    lines = path.read_text().splitlines() if path.exists() else []
    return tuple(Report(*line.split("\t")) for line in lines)


def run_tests(copy: Path, tests: Iterable[str], *options: str) -> Run:
    """Run tests on the copy: node ids or paths below the root of the repository.

    pytest runs in the folder of the copy: the processes that a test starts import the copy too.
    """
    command = [sys.executable, "-m", "pytest", "-p", "torture._copies"]
    command += arguments(tests, *options)
    paths = [str(copy), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), COPY: str(copy)}
    with subprocess.Popen(
        command,
        cwd=copy,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=RUN_TIMEOUT_SECONDS)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            status, printed = None, ""
        finally:
            if process.returncode is None:
                # The processes that a test started are in the same process group.
                os.killpg(process.pid, signal.SIGKILL)
    return Run(status, read_reports(copy), printed)


# ------------------------------------------------------------------------------------- the plug-in


def pytest_sessionstart() -> None:
    """Stop the run if the tests would import another package than the copy."""
    import pytest

    import xots

    if not Path(xots.__file__).is_relative_to(os.environ[COPY]):
        pytest.exit(
            f"the tests import {xots.__file__}, not the copy in {os.environ[COPY]}", returncode=3
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the report of one phase of a test."""
    with (Path(os.environ[COPY]) / REPORTS).open("a") as file:
        file.write(f"{report.nodeid}\t{report.when}\t{report.outcome}\n")
