"""``SystemClock``, and ``FakeClock``, which only tests move."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from xots.clock import Clock, SystemClock
from xots.testing import FakeClock

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_the_system_clock_tells_the_time_in_utc() -> None:
    """The time of day is aware and current."""
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert abs(now.timestamp() - time.time()) < 60


def test_the_system_clock_goes_on_while_the_machine_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its elapsed time counts from boot, with the time in suspend."""
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7200.5}.__getitem__)
    assert SystemClock().elapsed() == 7200.5


def test_a_system_without_a_boot_clock_has_its_monotonic_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The monotonic clock stands still in suspend, and the platform has no other."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    monkeypatch.setattr(time, "monotonic", lambda: 5.25)
    assert SystemClock().elapsed() == 5.25


def test_the_clock_moves_only_when_it_is_set() -> None:
    """Its times are aware and in UTC, before and after each step."""
    clock: Clock = FakeClock()
    before = clock.now()
    assert before.utcoffset() == timedelta(0)
    assert clock.now() == before
    assert isinstance(clock, FakeClock)
    clock.advance(90.5)
    assert (clock.now() - before).total_seconds() == 90.5
    clock.step(-100)
    assert (clock.now() - before).total_seconds() == -9.5


def test_time_that_passes_moves_both_and_a_step_only_the_time_of_day() -> None:
    """All durations add up."""
    clock = FakeClock(START)
    clock.advance(1, minutes=2, hours=3, days=4)
    passed = timedelta(seconds=1, minutes=2, hours=3, days=4)
    assert (clock.now(), clock.elapsed()) == (START + passed, passed.total_seconds())
    clock.step(-1, minutes=-2, hours=-3, days=-4)
    assert (clock.now(), clock.elapsed()) == (START, passed.total_seconds())


def test_time_does_not_go_back() -> None:
    """The error names ``step``, which sets a clock back."""
    with pytest.raises(ValueError, match="step"):
        FakeClock().advance(-1)


def test_the_time_of_day_is_utc_whatever_zone_it_was_given_in() -> None:
    """An aware time in another zone is the same moment."""
    clock = FakeClock(START.astimezone(timezone(timedelta(hours=9))))
    assert (clock.now(), clock.now().tzinfo) == (START, UTC)


@pytest.mark.parametrize("mover", [lambda one, _: one, lambda _, other: other])
def test_the_same_time_passes_on_a_host_beside(
    mover: Callable[[FakeClock, FakeClock], FakeClock],
) -> None:
    """The test may advance either clock. The difference between them stays."""
    clock = FakeClock(START)
    clock.advance(hours=1)
    other = clock.beside(minutes=-3)
    mover(clock, other).advance(minutes=20)
    assert clock.now() - other.now() == timedelta(minutes=3)
    assert clock.elapsed() == other.elapsed() == 80 * 60


def test_a_host_beside_is_set_on_its_own() -> None:
    """A step on either leaves the other's time of day as it is."""
    clock = FakeClock(START)
    other = clock.beside(days=1)
    other.step(days=-1)
    clock.step(hours=1)
    assert (clock.now(), other.now()) == (START + timedelta(hours=1), START)
    assert clock.elapsed() == other.elapsed() == 0
