"""The system's clock, where a test makes more time pass than does by itself."""

from __future__ import annotations

import mmap
import struct
from datetime import datetime, timedelta
from pathlib import Path

from xots.clock import SystemClock

__all__ = ["LeapingClock", "SharedClock"]


class LeapingClock:
    """The system's clock, moved on by the time that a test makes pass besides."""

    leapt = 0.0
    """That time, in seconds."""

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(seconds=self.leapt)

    def elapsed(self) -> float:
        return SystemClock().elapsed() + self.leapt

    def advance(self, seconds: float) -> None:
        self.leapt += seconds


class SharedClock(LeapingClock):
    """A leaping clock of several processes: they map its file, and a leap in one is a leap in all.

    Args:
        path: of the file; made here if it is missing.
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
