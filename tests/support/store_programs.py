"""Programs that use a file store in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN_TIMEOUT_SECONDS = 30

AM_ROOT = os.geteuid() == 0

OTHER_USER = 65534
"""The id of another user, which root can become."""

PREFACE = """
import asyncio, os, sys
from pathlib import Path
from xots.backends.file import FileStore
from xots.errors import StaleWrite, StoreUnavailable
store = FileStore(Path(sys.argv[1]))
"""


def python(program: str, folder: Path, *before: str | Path) -> list[str | Path]:
    """Return the command that runs a program with a store on the folder, under other commands."""
    return [*before, sys.executable, "-c", PREFACE + program, folder]


def run(command: list[str | Path]) -> list[str]:
    """Run a command that must succeed, and return the lines of its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def in_the_folder(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
