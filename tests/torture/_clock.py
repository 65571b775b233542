"""The system's clock, which a test can advance."""

from __future__ import annotations

import mmap
import struct
from datetime import datetime, timedelta
from pathlib import Path

from xots.clock import SystemClock

__all__ = ["LeapingClock", "SharedClock"]


class LeapingClock:
    """The system's clock plus the time by which a test has advanced it."""

    leapt = 0.0
    """The time of all advances, in seconds."""

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(seconds=self.leapt)

    def elapsed(self) -> float:
        return SystemClock().elapsed() + self.leapt

    def advance(self, seconds: float) -> None:
        self.leapt += seconds


class SharedClock(LeapingClock):
    """A leaping clock of several processes. They map its file, so that a leap in one is one in all.

    Args:
        path: the file. It is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), 8)

    @property
    def leapt(self) -> float:
        (seconds,) = struct.unpack("d", self._file[:])
        return float(seconds)

    @leapt.setter
    def leapt(self, seconds: float) -> None:
        self._file[:] = struct.pack("d", seconds)
