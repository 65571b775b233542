"""A short run of the deterministic simulation; ``make simulate`` runs the long one."""

from __future__ import annotations

import pytest
from simulation import run_seed

from xots.sandbox import SiblingMode


@pytest.mark.parametrize("mode", SiblingMode)
@pytest.mark.parametrize("seed", [3, 25])
def test_a_simulated_day_of_trouble_loses_no_login(mode: SiblingMode, seed: int, expected_log: object) -> None:
    """Faults, crashes, pauses, clock steps and roll-backs: the store always holds a token that Xero would take."""
    figures = run_seed(seed, mode, hours=3)
    assert figures["refreshes issued"] > 0
    assert figures["logins"] > 0
