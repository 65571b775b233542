"""The sandbox's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.sandbox_caller import START

from xots.sandbox import SandboxClock


def test_the_clock_is_an_offset_from_another_clock() -> None:
    """It moves with its base, and refuses a time without a time zone."""
    base = [START]
    clock = SandboxClock(lambda: base[0])
    clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    base[0] += timedelta(hours=1)
    assert clock() == datetime(2030, 1, 1, 1, tzinfo=UTC)
    clock.advance(-3600)
    assert clock() == datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="zone"):
        clock.set(datetime(2030, 1, 1))  # noqa: DTZ001
