"""``Clock``: the time of day, and the time that passes, of one host."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["MAX_CLOCK_SKEW", "Clock", "SystemClock"]

MAX_CLOCK_SKEW = timedelta(seconds=10)
"""Upper bound on the difference between the clocks of hosts that share an account. A recorded time
further in the future shows that a clock was set back, or that clocks differ by more."""


class Clock(Protocol):
    """The clock of one host.

    Records and responses carry times of day, since other hosts read them. A life or a wait within
    one process counts by ``elapsed``, which stays right when an operator sets the time of day.
    """

    def now(self) -> datetime:
        """Return the time of day, aware UTC."""

    def elapsed(self) -> float:
        """Return the seconds that have passed since a fixed moment; any moment serves.

        Nothing sets this clock. It goes on while the machine sleeps, where the system has such a
        clock.
        """


class SystemClock:
    """The system's clock. It holds no state: all its instances are alike."""

    def now(self) -> datetime:
        """Return the system's time of day, aware UTC."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Return the seconds since boot; elsewhere than on Linux, those of the monotonic clock."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()
