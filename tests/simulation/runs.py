"""The kinds of run: faults within the bound of the invariant, faults beyond it, and years."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from xots.keeping.usage import Fresh
from xots.sandbox import SiblingMode

from .ledger import BrokenInvariantError
from .story import Story, in_jumping_time
from .world import KINDS, SILENT_FAULTS, Climate, World


def run_seed(
    seed: int,
    mode: SiblingMode,
    *,
    hours: float = 12,
    grace_seconds: float | None = None,
    trace: bool = False,
) -> Counter[str]:
    """Simulate some hours with the faults of this seed, then a time without. Return the figures.

    ``grace_seconds``: the grace period, instead of Xero's, of a server that ends the login if a
    token is used again later.

    Raises:
        BrokenInvariantError: an invariant does not hold.
    """

    async def run() -> Counter[str]:
        climate = Climate.drawn(random.Random(seed))  # noqa: S311
        if grace_seconds is not None:
            climate = climate.with_short_grace(grace_seconds)
        world = World(seed, mode, climate, trace=trace)
        world.say(world.climate)
        story = Story(world)
        try:
            await story.run(hours)
            await story.settle()
            await story.check_connected()
        finally:
            await story.leave()
        return _figures(world)

    return in_jumping_time(run())


def run_years(
    seed: int, mode: SiblingMode, years: float, *, accounts: int = 0, trace: bool = False
) -> Counter[str]:
    """Simulate years of one process in which one call in twenty fails. Return the figures.

    With ``accounts`` more that no caller uses, no fault is silent: their next refresh is far away.

    Raises:
        BrokenInvariantError: an invariant does not hold, or the login was lost.
    """

    async def run() -> Counter[str]:
        kinds = tuple(kind for kind in KINDS if not accounts or kind not in SILENT_FAULTS)
        unused = (Fresh.USED,) * accounts
        climate = Climate(xero=0.05, store=0.05, kinds=kinds, accounts=unused)
        world = World(seed, mode, climate, trace=trace)
        story = Story(world, patient=True)
        try:
            story.start()
            for name in world.names:
                await story.log_in(name)
            for _ in range(round(years * 365)):
                await asyncio.sleep(86400)
                world.identity.prune(world.now())
                world.check()
            await story.settle()
            await story.check_connected()
        finally:
            await story.leave()
        return _figures(world)

    return in_jumping_time(run())


def run_beyond(seed: int, mode: SiblingMode, *, trace: bool = False) -> Counter[str]:
    """Simulate a fault beyond the bound of the invariant, after which the login may be lost.

    Raises:
        BrokenInvariantError: the login was lost without a report, or a new one did not work.
    """

    async def run() -> Counter[str]:
        rng = random.Random(seed)  # noqa: S311
        climate = Climate(
            processes=rng.randint(1, 3), kernel_locks=rng.random() < 0.3, every_seconds=300
        )
        world = World(seed, mode, climate, trace=trace, within_bound=False)
        story = Story(world)
        fault = rng.choice(list(FAULTS_BEYOND))
        world.say(fault)
        try:
            await story.run(hours=1)
            await asyncio.sleep(60)
            await FAULTS_BEYOND[fault](story)
            await story.settle()
            lost = await story.check_reported()
        finally:
            await story.leave()
        figures = _figures(world)
        figures[f"{fault}: {'lost, and reported' if lost else 'not lost'}"] += 1
        return figures

    return in_jumping_time(run())


def _figures(world: World) -> Counter[str]:
    if world.broken:
        raise world.broken
    world.figures["replays"] = world.identity.counts.replays
    return world.figures


# ---------- beyond the bound


async def response_lost_and_xero_away(story: Story) -> None:
    """Lose an issued response, in an outage that is longer than the grace period."""
    world = story.world
    world.climate = Climate(processes=world.climate.processes, xero=1.0, kinds=("after",))
    story.processes[0].spawn(story.processes[0].keeper.refresh())
    await asyncio.sleep(2)
    world.xero_away = world.loop.time() + 2400, "not-sent"
    world.climate = Climate(processes=world.climate.processes)
    await asyncio.sleep(2400)


async def store_away_and_death(story: Story) -> None:
    """Fail the store in a refresh, end the process that holds the response, and repair it late."""
    world, process = story.world, story.processes[0]
    process.spawn(process.keeper.refresh())
    before = world.figures["refreshes issued"]
    while world.figures["refreshes issued"] == before:
        await asyncio.sleep(0.05)
    world.store_away_until = world.loop.time() + 2400
    await asyncio.sleep(30)
    for each in list(story.processes):
        each.die()
    await asyncio.sleep(2400)


async def roll_back_with_no_process_alive(story: Story) -> None:
    """End every process, and restore the store from a dump that is hours old."""
    world = story.world
    dump = dict(world.kept)
    for _ in range(3):
        await asyncio.sleep(3600)
    await asyncio.wait([story.processes[0].spawn(story.processes[0].keeper.refresh())])
    await asyncio.sleep(2400)
    world.kept = dump
    for each in list(story.processes):
        each.die()
    await asyncio.sleep(300)


async def slept_past_the_grace(story: Story) -> None:
    """Let a process sleep for 40 minutes between its check of the lease and the request."""
    world, process = story.world, story.processes[0]
    process.spawn(process.keeper.refresh())
    while world.account().intent is None:
        await asyncio.sleep(0.001)
    process.sleep(2400)
    await asyncio.sleep(2500)


async def revocation_slept_past_a_login(story: Story) -> None:
    """Let a process sleep between its check of the lease and a revocation, while a user logs in."""
    world = story.world
    story.start()
    await asyncio.sleep(20)
    world.sleep_before_revoking = 600
    process = story.processes[0]
    ending = asyncio.ensure_future(story.end(process, forget=False))
    while process.awake.is_set():
        await asyncio.sleep(0.001)
    world.sleep_before_revoking = 0
    await asyncio.sleep(60)
    await story.log_in()
    await ending
    await asyncio.sleep(3600)


FAULTS_BEYOND = {
    "response lost, then Xero unreachable for 40 minutes": response_lost_and_xero_away,
    "store unreachable for 40 minutes, and the holder of the response dies": store_away_and_death,
    "old dump restored, with no process alive": roll_back_with_no_process_alive,
    "asleep for 40 minutes between lease and request": slept_past_the_grace,
    "revocation sent after a sleep, into a new login": revocation_slept_past_a_login,
}

__all__ = ["FAULTS_BEYOND", "KINDS", "BrokenInvariantError", "run_beyond", "run_seed", "run_years"]
