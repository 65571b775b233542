"""The bench that the tests of the keeper share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.bench import START, Bench

from xots.sandbox import Sandbox, SandboxOptions
from xots.testing import FakeClock


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = FakeClock(START)
    async with Sandbox(SandboxOptions(port=0), clock.now) as sandbox:
        bench = Bench(sandbox, clock)
        yield bench
        bench.store.repair()
        sandbox.release()
        for keeper in bench.keepers:
            await keeper.close()
