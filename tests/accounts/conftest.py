"""Accounts on a simulated Xero."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.bench import START
from support.several import Several

from xots.sandbox import Sandbox, SandboxOptions
from xots.testing import FakeClock, FlakyStore


@pytest.fixture
async def several() -> AsyncIterator[Several]:
    clock = FakeClock(START)
    async with Sandbox(SandboxOptions(port=0), clock.now) as sandbox:
        several = Several(sandbox, clock, FlakyStore())
        yield several
        sandbox.release()
        await several.close()
