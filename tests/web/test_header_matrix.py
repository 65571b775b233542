"""The decisions of the guard on generated requests: a short run of ``torture headers``."""

from __future__ import annotations

from typing import Any

import pytest
from support.one_server import one_server
from torture.headers import Figures, Run

CASES, SEED = 14_000, 12


async def test_every_decision_is_that_of_the_oracle(
    expected_log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """No refused request reaches Xero, shows a secret or lacks a security header."""
    expected_log.perhaps(r"^WARNING ")
    async with one_server() as running:
        figures = await Run(running, SEED).go(CASES)
    with capsys.disabled():
        print(f"\nheader matrix: {str(figures).partition(chr(10))[0]}")
    assert figures.report() == ""
    _assert_reaches_every_rule(figures)


def _assert_reaches_every_rule(figures: Figures) -> None:
    """Each rule of the oracle has decided some cases."""
    rare = {rule: count for rule, count in figures.by_rule.items() if count < 5}
    assert not rare
    assert len(figures.by_rule) == 21
    assert figures.cases > CASES * 0.8
