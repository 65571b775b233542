"""Many accounts: each used one is fresh, each due refresh is made once, and idle ones are cheap.

Short runs of ``torture accounts``. The processes are those of ``--processes``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from torture import accounts
from torture._account_processes import run_processes
from torture._account_world import World, new_world
from torture.accounts import Options, rare_sweeps

FEW, MANY = 30, 300


@pytest.mark.parametrize(
    "options",
    [
        Options(store="redis", managers=3, accounts=150, hours=1.5, used=0.2),
        Options(store="file", managers=1, accounts=60, hours=1.5, used=0.2),
    ],
    ids=lambda options: options.store,
)
async def test_used_accounts_are_fresh_and_each_due_refresh_is_made_once(options: Options) -> None:
    """The requests at Xero are those that the policy demands, account by account."""
    assert await accounts.run(options, costs=False) == []


@pytest.fixture
async def worlds() -> AsyncIterator[tuple[World, World]]:
    """A few accounts and ten times as many, each in a Redis of its own."""
    async with new_world("redis", MANY) as many, new_world("redis", FEW, beside=many) as few:
        with rare_sweeps():
            yield few, many


async def test_the_cost_of_a_tick_follows_what_is_due(worlds: tuple[World, World]) -> None:
    """With the same ten accounts due, it makes the same requests among few and among many."""
    assert await accounts.tick_costs(*worlds, rounds=3) == []


async def test_an_account_that_is_not_in_use_costs_little_memory(
    worlds: tuple[World, World],
) -> None:
    """Nor does one that was used leave anything behind."""
    assert await accounts.memory_cost(*worlds) == []


async def test_the_connections_to_redis_do_not_grow(worlds: tuple[World, World]) -> None:
    """Neither with the number of accounts nor with that of the open ones."""
    assert await accounts.connections(*worlds, used=MANY) == []


async def test_after_an_outage_every_account_is_fresh_soon(worlds: tuple[World, World]) -> None:
    """Those that are always fresh are refreshed once, and then at staggered times."""
    _, many = worlds
    assert await accounts.after_outage(many, 2, always=50, hours=1) == []


def test_processes_share_the_accounts_through_the_death_of_one() -> None:
    """With tokens of eight seconds and HTTP."""
    wrong = run_processes(processes=2, accounts=30, used=0.2, life=8, seconds=8, seed=1)
    assert asyncio.run(wrong) == []
