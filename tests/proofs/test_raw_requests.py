"""Mutated raw requests to a real server: a short run of ``torture raw_requests``."""

from __future__ import annotations

from typing import Any

from support.one_server import one_server
from torture.raw_requests import Run

REQUESTS, SEED = 600, 3


async def test_no_malformed_request_fails_or_stays_open(expected_log: Any) -> None:
    """Each connection ends, with a refusal or without a response, and the server serves on."""
    expected_log.perhaps(r"WARNING xots\.web: ", r"WARNING tornado\.general: ")
    async with one_server() as running:
        figures = await Run(running, SEED).go(REQUESTS)
    assert figures.wrong == []
    assert {"200", "400", "404"} <= set(figures.by_status)
