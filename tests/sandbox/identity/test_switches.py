"""The ranges of the switches."""

from __future__ import annotations

import pytest

from xots.sandbox import Switches


@pytest.mark.parametrize("wrong", [{"grace_seconds": -1}, {"access_token_life_seconds": 0}])
def test_impossible_durations_are_refused(wrong: dict[str, float]) -> None:
    """A grace period may be zero, a lifetime may not."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Switches(**wrong)  # type: ignore[arg-type]
