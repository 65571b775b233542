"""The bench that the tests of the keeper share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.bench import Bench, running_bench

from xots.sandbox import SandboxOptions


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_bench(SandboxOptions(port=0)) as bench:
        yield bench
