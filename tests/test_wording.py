"""Times and durations in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from xots.wording import span_text, time_text

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (172800, "2 days"),
    ],
)
def test_a_duration_is_written_in_its_largest_unit(seconds: float, text: str) -> None:
    """It is rounded down, so that it never promises too much."""
    assert span_text(timedelta(seconds=seconds)) == text


def test_a_time_of_another_day_is_written_with_the_day() -> None:
    """A time of today is written without it."""
    assert time_text(NOW, NOW + timedelta(minutes=1)) == "12:00:00 UTC"
    assert time_text(NOW, NOW + timedelta(days=1)) == "2026-11-23 12:00:00 UTC"
