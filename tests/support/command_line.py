"""The program ``xots`` as a process or in that of the test, and its output."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from xots.commands.main import main

__all__ = ["XOTS", "Ended", "called", "process"]

XOTS = str(Path(sys.executable).with_name("xots"))


@dataclass(frozen=True)
class Ended:
    """The exit status of a command, and its output."""

    status: int
    out: str
    err: str

    def reason(self, status: int = 1) -> str:
        """Return the one line on stderr of a command that failed with this status, and that wrote
        nothing to stdout."""
        assert (self.status, self.out) == (status, "")
        assert "Traceback" not in self.err
        [line] = self.err.splitlines()
        assert line.startswith("xots: ")
        return line


def process(*arguments: str, **environment: str) -> Ended:
    """Run ``xots`` as a process of its own, to its end."""
    ended = subprocess.run(
        [XOTS, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=os.environ | environment,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """Run ``xots`` in this process."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse ends the process for a wrong option and for -h
        status = ended.code if isinstance(ended.code, int) else 1
    shown = capsys.readouterr()
    return Ended(status, shown.out, shown.err)
