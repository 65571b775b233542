"""A sandbox on a free port. Its clock moves only when a test moves it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.sandbox_caller import CUSTOM_CLIENT, NEW_CLIENT, ORGANISATIONS, START, Caller

from xots.sandbox import DEFAULT_PKCE_CLIENT_ID, Client, Sandbox, SandboxOptions


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    options = SandboxOptions(
        port=0,
        clients=(Client(), Client(DEFAULT_PKCE_CLIENT_ID, None), NEW_CLIENT, CUSTOM_CLIENT),
        organisations=ORGANISATIONS,
        seed=1,
    )
    async with Sandbox(options, clock=lambda: START) as running:
        yield running


@pytest.fixture
def caller(sandbox: Sandbox) -> Caller:
    return Caller(sandbox)
