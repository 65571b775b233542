"""Slow, broken and greedy clients: a short run of ``torture.slow_clients``."""

from __future__ import annotations

import pytest
from torture.slow_clients import MAX_LOG_BYTES, Figures, run

SLOW = ("half_head=400@400",)

KINDS = (
    *("half_head=60@60", "half_body=60@60", "no_byte=20@20", "idle=20@20", "drip=20@20"),
    *("idle_token=20@20", "half_token=20@20", "tokens=5@20", "tokens_not_reading=2@5"),
    *("tls=5@20", "not_reading=2@5", "connection=5@50", "long_path=2@10", "long_head=2@5"),
    *("foreign_host=5@10", "foreign_page=5@10", "nonsense=5@20"),
)
"""Each kind of client that the command knows."""

DESCRIPTORS = 256
"""The cap on connections follows: it is reached in a second."""


def assert_served(load: Figures) -> None:
    """Check that each request got a live token, and that the refreshes went on."""
    assert load.failed == []
    assert len(load.waits) >= 10
    assert load.refreshes >= 1
    assert load.most_connections <= DESCRIPTORS


@pytest.mark.parametrize("specs", [SLOW, KINDS], ids=["half heads", "every kind"])
async def test_every_token_is_answered_beside_slow_and_broken_clients(
    specs: tuple[str, ...],
) -> None:
    """The access tokens live two seconds, so that they must be refreshed meanwhile."""
    _, load = await run(specs, seconds=3, idle_seconds=0.5, life_seconds=2, descriptors=DESCRIPTORS)
    assert_served(load)
    assert "half_head=0" not in load.flood
    assert load.log_bytes < MAX_LOG_BYTES
