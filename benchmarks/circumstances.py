"""The facts that the figures of a run depend on: the machine, the programs, the options and other
load. They name no host, no user and no path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import tornado

from xots import __version__

from .bench import Bench, own_environment

__all__ = ["Circumstances"]

MAX_LOAD_AVERAGE = 0.5
"""The load average of a machine that does little else, on which figures can be trusted."""

VERSION_OPTIONS = {"nginx": "-v", "wrk": "-v"}
"""The option that prints the version of a program, if it is not ``--version``."""


@dataclass(frozen=True)
class Circumstances:
    """The time and the load average as a run begins."""

    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    """The processes that ran or waited for a core, on average during the minute before."""

    @property
    def warning(self) -> str:
        """A sentence if other programs may have slowed the run, else empty."""
        if self.load_average <= MAX_LOAD_AVERAGE:
            return ""
        return (
            f"The load average was {self.load_average:.1f} before the measurement began, more than "
            f"{MAX_LOAD_AVERAGE:g}: other programs were running, so the figures may be too low."
        )

    def text(self, bench: Bench, programs: Iterable[str]) -> str:
        """Return all facts, in a list of Markdown.

        Args:
            bench: the options of the run.
            programs: the programs that it used besides Python.
        """
        versions = [
            *(f"xots {__version__}", f"Python {platform.python_version()}"),
            *(f"Tornado {tornado.version}", *map(version_of, programs)),
        ]
        options = f"--rounds {bench.rounds} --seconds {bench.seconds}"
        few = "One round says little: its ratios differ from run to run."
        lines = [
            f"Measured on {self.began_at:%d %B %Y} at {self.began_at:%H:%M} UTC.",
            "",
            f"- Machine: {_cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}",
            f"- Cores: the servers on number {bench.server_core}, the load on {bench.load_core}",
            f"- Programs: {', '.join(versions)}",
            f"- Options: `{'--quick ' if bench.quick else ''}{options}`",
            f"- Load average before: {self.load_average:.1f}",
        ]
        notes = [self.warning, few if bench.rounds == 1 else ""]
        return "\n".join([*lines, *(f"\n{note}" for note in notes if note)])


def version_of(program: str) -> str:
    """Return the name of a program with its version."""
    done = subprocess.run(
        [program, VERSION_OPTIONS.get(program, "--version")],
        env=own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return f"{program} {found[0] if found else 'of an unknown version'}"


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
