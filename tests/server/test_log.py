"""The events in the log: one line each, for an operator who reads nothing else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import force_setattr
from support import inside

from xots.sandbox import Sandbox
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return the log lines of the events."""
    return [
        one.getMessage() for one in caplog.records if one.name == "xots" and one.levelno >= level
    ]


async def test_a_refresh_after_failures_logs_their_number_and_the_delay(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """One line for each failed attempt, and one for the success."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:first=4:503-html")
    caplog.set_level(logging.INFO)
    clock.advance(XERO_LIFE - 300)
    for _ in range(5):
        await logged_in.rotation.tick()
        clock.advance(60)
    told = lines(caplog)
    assert [line.split(":")[1] for line in told[-5:]] == [
        *(f" refresh failed (attempt {number})" for number in (1, 2, 3, 4)),
        " refreshed after 4 failed attempts, 4 minutes after it was due",
    ]


async def test_an_outage_of_hours_is_one_short_line_for_each_attempt(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """Ticks that wait log nothing."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE - 300)
    caplog.set_level(logging.INFO)
    caplog.clear()
    for _ in range(2 * 60 * 4):
        await logged_in.rotation.tick()
        clock.advance(15)
    told = lines(caplog)
    assert len(told) == len(sandbox.refreshes())
    assert max(len(line) for line in told) < 400


async def test_each_process_logs_at_debug_which_process_has_refreshed(
    new_server: NewServer,
    credentials: Any,
    log_in: LogIn,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """A process that follows the record names the writer."""
    store = {"store": f"file://{tmp_path}/store", **credentials}
    one, other = await new_server(**store), await new_server(**store)
    await log_in(one)
    force_setattr(inside.context_of(other.keeper), "process", "elsewhere:77")
    caplog.set_level(logging.DEBUG, "xots")
    await other.keeper.follow()
    await other.keeper.refresh()
    await one.keeper.follow()
    followed = [
        line for line in lines(caplog, logging.DEBUG) if "another process wrote the record" in line
    ]
    assert any(
        line.endswith("; last refreshed by elsewhere:77 at 09:00:00 UTC") for line in followed
    )
