"""``FakeClock``: a clock that only tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["FakeClock"]


class FakeClock:
    """A clock for tests: it stands still until a test moves it, and nothing waits in real time.

    It is an ``xots.clock.Clock``: ``TokenKeeper`` and ``XeroClient`` take it as ``clock``. The
    simulated Xero takes a function: pass it ``clock.now``.

    Two things happen to a real clock, and a test makes either: time passes (``advance``), or an
    operator or NTP sets the time of day while no time passes (``step``)::

        clock = FakeClock()
        host = clock.beside(minutes=3)  # another host, whose time of day is three minutes ahead
        clock.advance(minutes=20)  # 20 minutes pass, on both hosts
        host.step(minutes=-3)  # the other host's time of day is put right

    Args:
        now: the time of day at first, aware.
    """

    def __init__(self, now: datetime = datetime(2026, 11, 2, 9, tzinfo=UTC)) -> None:
        self._began_at = now.astimezone(UTC)
        """The time of day when no time had passed yet. A step moves it."""
        self._passed = _PassedTime()

    def now(self) -> datetime:
        """Return the time of day, aware UTC."""
        return self._began_at + self._passed.duration

    def elapsed(self) -> float:
        """Return the seconds that have passed since the clock was made. No step changes them."""
        return self._passed.duration.total_seconds()

    def advance(
        self, seconds: float = 0.0, *, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Let time pass: ``now`` and ``elapsed`` move on, here and on every clock beside this one.

        Raises:
            ValueError: the duration is negative. Time does not go back; ``step`` sets a clock back.
        """
        duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if duration < timedelta(0):
            raise ValueError("time does not go back: set the clock back with step()")
        self._passed.duration += duration

    def step(
        self, seconds: float = 0.0, *, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Set the time of day forward, or back with a negative duration, while no time passes.

        Only this clock's ``now`` moves: not ``elapsed``, and no clock beside this one.
        """
        self._began_at += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

    def beside(
        self, seconds: float = 0.0, *, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> FakeClock:
        """Return the clock of another host, ahead of this one, or behind with a negative duration.

        The same time passes on both hosts, whichever of the two clocks a test advances. A step on
        one leaves the other as it is.
        """
        other = FakeClock(self._began_at)
        other._passed = self._passed
        other.step(seconds, minutes=minutes, hours=hours, days=days)
        return other


class _PassedTime:
    """The time that has passed, which the clocks of all hosts of a test share."""

    def __init__(self) -> None:
        self.duration = timedelta(0)
