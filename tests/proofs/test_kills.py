"""kill -9 during refreshes: a short run of ``torture.kills``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from support.redis_servers import RedisServer
from torture import kills
from torture._closing import close_with_all
from torture.kills import Death, Lane

from xots.backends.redis import LEASE, RedisStore
from xots.backends.redis_stream import CHANGES
from xots.clock import SystemClock
from xots.keeping.keeper import TokenKeeper
from xots.sandbox import Refusal
from xots.sealing import Sealer
from xots.xero.http import XeroClient

STORES = pytest.mark.parametrize("store", ["file", "redis"])


@STORES
async def test_children_that_are_killed_in_refreshes_lose_nothing(store: str) -> None:
    """After each of 15 kills, the record holds a live token and the login continues."""
    figures = await kills.forked(store, 15, seed=1, forkers=1)
    assert figures.wrong == []
    assert (figures.lost, figures.reused) == (0, 0)
    assert figures.kills == sum(figures.phases.values()) == 15
    assert figures.refreshes >= 4, "each lane ends in a refresh that is left alone"


@STORES
async def test_servers_that_are_killed_in_refreshes_lose_nothing(store: str) -> None:
    """After each of 5 kills of the real process, the next one serves the token."""
    figures = await kills.whole(store, 5, seed=1)
    assert figures.wrong == []
    assert (figures.lost, figures.reused) == (0, 0)
    assert figures.kills == sum(figures.phases.values()) == 5


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    async with kills.lanes("file", 1) as lanes:
        yield lanes[0]


async def a_refresh(lane: Lane) -> Death:
    """A refresh that is not killed."""
    began = lane.clock.now()
    await lane.prove()
    return Death(lane.clock.now(), began)


async def test_a_lost_login_is_reported(lane: Lane) -> None:
    """If Xero accepts no token of the record, the run reports it and stops."""
    await lane.check(await a_refresh(lane))
    assert (lane.figures.lost, lane.figures.wrong) == (0, [])
    lane.sandbox.identity.forget()
    figures = await lane.run(
        lambda lane: asyncio.sleep(0, Death(lane.clock.now())), 5, breaks=False
    )
    assert (figures.kills, figures.lost) == (2, 1)
    assert "the login is lost" in figures.wrong[0]


async def test_a_use_outside_the_grace_is_reported(lane: Lane) -> None:
    """A process that finds a record of two refreshes ago spends a token after its grace period."""
    old = await lane.store.read(lane.name)
    await a_refresh(lane)
    new = await lane.store.read(lane.name)
    assert old is not None
    assert new is not None
    await lane.store.swap(lane.name, old.value, expected=new.version)
    lane.clock.advance(3600)
    await lane.prove()
    lane.count()
    assert (lane.figures.lost, lane.figures.reused) == (1, 1)
    assert any(str(Refusal.SPENT) in wrong for wrong in lane.figures.wrong)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


# In Python 3.11 asyncio.wait_for, with which redis-py sends its commands, drops a cancellation that
# comes when the command has just been sent. Code that stops a task which uses Redis has to cancel
# it until it ends.


async def test_a_keeper_closes_although_a_notice_has_just_come(redis_server: RedisServer) -> None:
    """It closes in each of the first turns of the event loop after the notice."""
    sealer, hung = Sealer.for_this_process(), []
    for turns in range(12):
        keeper = TokenKeeper(
            RedisStore.from_url(redis_server.unix_url), XeroClient(clock=SystemClock()), sealer
        )
        await keeper.start()
        while not redis_server.admin.pubsub_numpat():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)  # the watch looks once, and then waits for a notice
        redis_server.admin.publish(CHANGES + keeper.name, "")
        await some_turns(turns)
        if not await ends(asyncio.create_task(close_with_all(keeper))):
            hung.append(turns)
    assert not hung


async def test_a_lease_is_given_back_although_it_is_just_being_renewed(
    redis_server: RedisServer,
) -> None:
    """The holder stops in each of the first turns of the loop after a renewal begins."""
    store, hung = RedisStore.from_url(redis_server.unix_url), []

    async def hold(turns: int) -> None:
        async with store.lease("default", 0.4):
            await asyncio.sleep(0.4 / 4)  # until its renewal
            await some_turns(turns)

    for turns in range(8):
        if not await ends(asyncio.create_task(hold(turns))):
            hung.append((turns, redis_server.admin.pttl(LEASE + "default")))
    await store.close()
    assert not hung


async def some_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ends(task: asyncio.Task[None]) -> bool:
    """Tell if a task ends by itself. If it does not, cancel it again."""
    await asyncio.wait([task], timeout=1)
    if hangs := not task.done():
        for other in asyncio.all_tasks() - {task, asyncio.current_task()}:
            other.cancel()
    await task
    return not hangs
