"""Outages of the store and of Xero, one short round of each (``torture.outages``)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.redis_servers import RedisServer
from torture import outages
from torture.outages import House, Options

from xots.errors import NotLoggedIn
from xots.sandbox import SiblingMode
from xots.testing import FakeClock

SHORT = Options(hours=1, old_master_returns=False, response_timeout_seconds=1.0)
SEED = 1


@pytest.fixture(autouse=True)
def outages_are_logged(expected_log: Any) -> None:
    expected_log.perhaps(
        "the token store (fails|has lost writes)",
        "refresh failed",
        "the login is lost, a user must log in again",
        "did not confirm the revocation",
        "this host's clock is",
    )


@pytest.fixture(scope="module")
def rounds() -> dict[str, Counter[str] | Exception]:
    """Run one round of each section concurrently; return its figures or its error."""

    async def run(name: str) -> Counter[str] | Exception:
        figures: Counter[str] = Counter()
        try:
            rng = random.Random(SEED)  # noqa: S311 - repeatable
            await outages.SECTIONS[name](figures, rng, SHORT)
        except Exception as error:  # noqa: BLE001 - its own test raises it
            return error
        return figures

    async def run_all() -> list[Counter[str] | Exception]:
        return await asyncio.gather(*map(run, outages.SECTIONS))

    with outages.hastened(SHORT):
        return dict(zip(outages.SECTIONS, asyncio.run(run_all()), strict=True))


CLAIMS = {
    "killed": {"kills": 3, "checks of the invariant": 2},
    "restored": {
        "restored, processes alive": 4,
        "restored, no process alive: works": 3,
        "restored, no process alive: loss reported": 5,
    },
    "failover": {"fail-overs": 1},
    "hung": {"hangs": 18, "checks of the invariant": 36},
    "down": {
        "hours down": 3,
        "response lost before a short outage: recovered": 4,
        **{
            f"response lost before a day's outage, {mode}: loss reported": 1 for mode in SiblingMode
        },
    },
    "lost": {"responses lost": 60, "recovered": 20},
    "clocks": {"clock steps": 32, "suspends": 12},
}


@pytest.mark.parametrize("section", outages.SECTIONS)
def test_an_outage_loses_no_login(
    section: str, rounds: dict[str, Counter[str] | Exception]
) -> None:
    """Served tokens are live, the store holds a live token, and any other loss is reported."""
    figures = rounds[section]
    if isinstance(figures, Exception):
        raise figures
    for figure, count in CLAIMS[section].items():
        assert figures[figure] == count


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def house_on(
    redis: RedisServer, clock: FakeClock, mode: SiblingMode = SiblingMode.ALL_VALID
) -> House:
    """A house with this clock, on an empty Redis."""
    redis.admin.flushall()
    rng = random.Random(SEED)  # noqa: S311 - repeatable
    return House(redis.unix_url, Counter(), rng, clock=clock, mode=mode)


async def request_by_clocks(
    redis: RedisServer, age: float, step: float, minutes: int, *, both: bool
) -> int:
    """Set the clock of one keeper or of both when the token is ``age`` seconds old, then call both
    every 15 seconds. Return the number of refreshes."""
    clock = FakeClock(outages.START)
    wall = clock.beside()
    async with house_on(redis, clock) as house:
        await house.log_in(await house.keeper(clock=wall, ticking=False))
        await house.keeper(clock=wall if both else clock, ticking=False)
        clock.advance(age)
        wall.step(step)
        for _ in range(4 * minutes):
            await outages.tick(house)
            for keeper in house.keepers:
                await outages.request_token(house, keeper)
                await house.settled()
        return len(house.sandbox.refreshes())


async def test_a_clock_that_steps_back_by_minutes_serves_nothing_dead(redis: RedisServer) -> None:
    """After a step of 20 minutes back, a token of 24 minutes still expires in six minutes."""
    await request_by_clocks(redis, 24 * 60, -20 * 60, minutes=10, both=True)


async def test_a_step_during_a_refresh_follows_another_keepers_refresh() -> None:
    """The first keeper has not seen the last refresh yet, and still sends a request of its own."""
    async with outages.house_in_folder(Counter(), random.Random(SEED)) as house:  # noqa: S311
        await house.keepers[1].refresh()
        async with asyncio.timeout(outages.CONDITION_TIMEOUT_SECONDS):
            await outages.stepped(house, house.clock.advance, 60, under_way=True)
        assert len(house.sandbox.refreshes()) == 2


async def test_a_step_during_a_refresh_that_sends_no_request_raises_its_error() -> None:
    """The torture by outages does not wait for a request that never comes."""
    async with outages.house_in_folder(Counter(), random.Random(SEED)) as house:  # noqa: S311
        await house.keepers[0].end(forget=False)
        async with asyncio.timeout(outages.CONDITION_TIMEOUT_SECONDS):
            with pytest.raises(NotLoggedIn):
                await outages.stepped(house, house.clock.advance, 60, under_way=True)
