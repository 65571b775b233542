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
    xero = FakeClock(START)
    async with Sandbox(SandboxOptions(port=0), xero.now) as sandbox:
        several = Several(sandbox, xero.beside(), FlakyStore())
        yield several
        sandbox.release()
        await several.close()
