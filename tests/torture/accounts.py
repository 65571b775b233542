"""Thousands of accounts in one deployment: every used one fresh, each due refresh made once.

managers   Several managers of accounts in one process, each with its own opening of one store. One
           clock is set, so that a day takes minutes. A few percent of the accounts have callers, at
           one or two of the managers; some are kept fresh always; the others only need the rotation
           by age. The requests at the simulated Xero are compared with the refreshes that the
           policy demands, account by account. Then the costs are measured: of a tick, of an account
           that is not in use, and of the hours after an outage of all processes.
processes  Several real server processes on one Redis, with tokens of some seconds. One of them is
           killed and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median

from support.inside import sweep_of

from torture._account_plan import (
    LIFE_SECONDS,
    MIN_TTL_SECONDS,
    TICK_SECONDS,
    Call,
    Plan,
    demanded_refreshes,
    plan,
)
from torture._account_processes import run_processes
from torture._account_world import World, names_of, new_world
from xots.accounts import survey
from xots.accounts.accounts import Accounts
from xots.errors import XotsError
from xots.lifecycle.policy import Policy
from xots.safe_text import safe_text
from xots.sandbox.identity.protocol import BearerRefused

ALL_AT_ONCE = 0.125
"""The part of the ticks that all managers make at the same moment. At the others, one manager after
the other finds what the ones before it have left."""

ALWAYS = 0.1
"""The part of the used accounts that is kept fresh always."""

AHEAD_SECONDS = Policy().refresh_ahead.total_seconds()

MAX_TICK_RATIO = 2.0
"""Upper bound on the cost of a tick among many accounts, as a multiple of that among few."""

MAX_IDLE_BYTES = 1500
"""Upper bound on the memory of an account that is not in use."""

MAX_CONNECTIONS = 30
"""Upper bound on the connections of a process to Redis."""

MAX_EXCESS = 1.05
"""Upper bound on the requests at Xero, as a multiple of the ideal number."""


@dataclass
class Figures:
    """The counts and the errors of a day."""

    calls: int = 0
    least_left: float = LIFE_SECONDS
    """The least remaining lifetime of a served token at Xero, in seconds."""
    refreshes: int = 0
    ideal: float = 0
    """The periods of use, the time in use divided by the interval between two refreshes, and the
    rotations."""
    rotations: int = 0
    wrong: list[str] = field(default_factory=list)


class Day:
    """Some hours of many accounts."""

    def __init__(self, accounts: World, plan: Plan, seconds: int, seed: int) -> None:
        self.world, self.plan, self.seconds = accounts, plan, seconds
        self.began = accounts.clock.now()
        self.rng = random.Random(seed)  # noqa: S311 - repeatable
        self.figures = Figures()

    async def go(self) -> Figures:
        """Let the time pass, and judge the requests of the callers and those at Xero."""
        world, managers = self.world, self.world.managers
        for now in range(TICK_SECONDS, self.seconds + 1, TICK_SECONDS):
            world.clock.advance(TICK_SECONDS)
            if self.rng.random() < ALL_AT_ONCE:
                await world.tick(managers)
            else:
                for accounts in self.rng.sample(managers, len(managers)):
                    await world.tick([accounts])
            for call in self.plan.calls.get(now, ()):
                await self.call(call)
        self.judge()
        await self.check_records()
        return self.figures

    async def call(self, call: Call) -> None:
        """Request a token, and check it at Xero."""
        figures, world, now = self.figures, self.world, self.world.clock.now()
        figures.calls += 1
        try:
            async with world.managers[call.manager].opened(call.name) as found:
                access = await found.keeper.token(may_wait=call.may_wait)
            end = world.sandbox.identity.check_access(access.value.reveal(), now).expires_at
        except (XotsError, BearerRefused) as error:
            figures.wrong.append(f"{call}: {type(error).__name__}: {error}")
            return
        left = (end - now).total_seconds()
        figures.least_left = min(figures.least_left, left)
        if left < MIN_TTL_SECONDS:
            figures.wrong.append(f"{call}: a token with {left:g} s left was served")

    def judge(self) -> None:
        """Compare the requests at Xero with those that the policy demands."""
        figures, refreshes = self.figures, self.world.sandbox.refreshes()
        figures.refreshes = len(refreshes)
        if bad := [request for request in refreshes if request.outcome != "issued"]:
            figures.wrong.append(f"{len(bad)} refreshes issued nothing, such as {bad[0]}")
        spent = Counter(request.token for request in refreshes)
        if twice := [token for token, times in spent.items() if times > 1]:
            figures.wrong.append(f"{len(twice)} refresh tokens were spent twice")
        made: defaultdict[str, list[float]] = defaultdict(list)
        owners = dict(self.world.owners)
        for request in refreshes:
            owner = owners.get(request.token or "", "an unknown account")
            owners[request.issued or ""] = owner
            made[owner].append((request.at - self.began).total_seconds())
        self._compare(made)
        if figures.refreshes > MAX_EXCESS * figures.ideal:
            figures.wrong.append(f"{figures.refreshes} requests, ideal {figures.ideal:.0f}")

    def _compare(self, made: dict[str, list[float]]) -> None:
        figures, world = self.figures, self.world
        calls: defaultdict[str, list[int]] = defaultdict(list)
        for now, found in self.plan.calls.items():
            for call in found:
                calls[call.name].append(now)
        for name in {*world.logged_in_at, *made}:
            if name not in world.logged_in_at:
                figures.wrong.append(f"{len(made[name])} requests of {name}")
                continue
            policy = world.policy_of(name)
            issued_at = (world.logged_in_at[name] - self.began).total_seconds()
            rotation = policy.refresh_lifetime.total_seconds()
            ahead = min(policy.refresh_ahead.total_seconds(), LIFE_SECONDS / 2)
            demanded = demanded_refreshes(
                issued_at=issued_at,
                calls=calls[name],
                ahead=ahead,
                rotation=rotation,
                seconds=self.seconds,
                always=name in world.always,
            )
            if made[name] != demanded:
                figures.wrong.append(
                    f"{name}: refreshed at {made[name][:9]}, demanded {demanded[:9]}"
                )
            uses = self.plan.in_use.get(name, [])
            if name in world.always:
                uses = [(0, self.seconds)]
            if uses:
                in_use = sum(ended - began for began, ended in uses)
                figures.ideal += len(uses) + in_use / (LIFE_SECONDS - ahead)
            elif issued_at + rotation <= self.seconds:
                figures.rotations += 1
                figures.ideal += 1

    async def check_records(self) -> None:
        """Check that the record of every account holds a token from which Xero would issue."""
        world, now = self.world, self.world.clock.now()
        store = world.place.open()
        for name in world.logged_in_at:
            account = await world.record(store, name)
            token = account.current
            if token is None or not world.sandbox.identity.would_issue(token.value.reveal(), now):
                self.figures.wrong.append(f"{name}: Xero would not take the record's token")
            if account.intent is not None:
                self.figures.wrong.append(f"{name}: a refresh was left open")
        await store.close()


@contextmanager
def rare_sweeps() -> Iterator[None]:
    """Make fewer sweeps inside the block. They pause in real time, so that those of each hour would
    overlap on a clock that is hundreds of times as fast. The first one is made as ever."""
    interval, pause = survey.SWEEP_INTERVAL_SECONDS, survey.SWEEP_PAUSE_SECONDS
    survey.SWEEP_INTERVAL_SECONDS, survey.SWEEP_PAUSE_SECONDS = 1e9, 1.0
    try:
        yield
    finally:
        survey.SWEEP_INTERVAL_SECONDS, survey.SWEEP_PAUSE_SECONDS = interval, pause


# -------------------------------------------------------------------------------------- the costs


@dataclass
class Ticks:
    """The costs of the ticks of one manager, in processor time and in requests to the store."""

    world: World
    accounts: Accounts
    milliseconds: list[float] = field(default_factory=list)
    """Of this process, which is the simulated Xero too, and of Redis."""
    requests: list[int] = field(default_factory=list)

    async def tick(self) -> int:
        """Tick, and return the number of requests at Xero."""
        place, log = self.world.place, self.world.sandbox.log
        before, requests = len(log), place.requests()
        began = time.process_time() + place.cpu_seconds()
        await self.world.tick([self.accounts])
        seconds = time.process_time() + place.cpu_seconds() - began
        self.milliseconds.append(1000 * seconds)
        self.requests.append(place.requests() - requests)
        return len(log) - before

    def __str__(self) -> str:
        return (
            f"{median(self.milliseconds):.2f} ms of processor time and {median(self.requests):g} "
            f"requests to the store among {len(self.world.logged_in_at)} accounts"
        )


async def tick_costs(small: World, large: World, *, due: int = 10, rounds: int = 20) -> list[str]:
    """Compare a tick with ``due`` accounts among few with one among many. Return the errors."""
    clock, worlds, wrong = small.clock, (small, large), list[str]()
    for world in worlds:  # the newest logins: none of them is rotated by age meanwhile
        world.always = set(sorted(world.logged_in_at, key=world.logged_in_at.__getitem__)[-due:])
    managers = [await started(world) for world in worlds]
    clock.advance(2 * LIFE_SECONDS)  # so that one tick refreshes them all, and the next ones too
    for world, accounts in zip(worlds, managers, strict=True):
        await world.tick([accounts])
        if (sweep := sweep_of(accounts)) is not None:
            await asyncio.wait([sweep])  # it follows the start, and is no part of a later tick
    busy, idle = (
        [Ticks(world, accounts) for world, accounts in zip(worlds, managers, strict=True)]
        for _ in range(2)
    )
    for _ in range(rounds):
        # Before the refreshes fall due, the rotations of the other accounts are made.
        clock.advance(LIFE_SECONDS - 1.5 * AHEAD_SECONDS)
        for ticks in busy:
            await ticks.world.tick([ticks.accounts])
        clock.advance(0.5 * AHEAD_SECONDS + TICK_SECONDS)
        for ticks in busy:
            made = await ticks.tick()
            if made < due:
                wrong.append(f"a tick made {made} refreshes instead of {due}")
        clock.advance(TICK_SECONDS)
        for ticks in idle:
            await ticks.tick()
    for what, (few, many) in (("that has nothing to do", idle), (f"with {due} due", busy)):
        ratio = median(many.milliseconds) / median(few.milliseconds)
        print(f"a tick {what} costs {few}, {many}: ratio {ratio:.2f}", flush=True)
        if median(many.requests) > MAX_TICK_RATIO * median(few.requests):
            wrong.append(f"a tick {what} makes more requests among many accounts")
    if ratio > MAX_TICK_RATIO:
        wrong.append(f"a tick costs {ratio:.2f} times as much among many accounts")
    for world, accounts in zip(worlds, managers, strict=True):
        await world.close(accounts)
    return wrong


async def started(world: World) -> Accounts:
    """Start a manager that has read every record."""
    accounts = await world.manager()
    await accounts.swept()
    return accounts


def traced_bytes() -> int:
    """Return the memory in use, once all that has ended is forgotten."""
    gc.collect()
    safe_text("a search for secrets forgets those that have ended")
    return tracemalloc.get_traced_memory()[0]


async def use_and_close(world: World, accounts: Accounts, names: list[str]) -> None:
    """Open accounts, and let time pass until they are closed again."""
    for name in names:
        async with accounts.opened(name):
            pass
    while len(accounts.open_now) > 1:
        world.clock.advance(minutes=10)
        await world.tick([accounts])


async def memory_of(world: World) -> tuple[int, float]:
    """Return the memory of a manager that has read every record, and what an account that was
    used and closed leaves behind, in bytes."""
    before, names = traced_bytes(), sorted(world.logged_in_at)
    accounts = await started(world)
    read = traced_bytes() - before
    half = len(names[:200]) // 2
    await use_and_close(world, accounts, names[:half])
    before = traced_bytes()
    await use_and_close(world, accounts, names[half : 2 * half])
    left = traced_bytes() - before
    await world.close(accounts)
    return read, left / half


async def memory_cost(small: World, large: World) -> list[str]:
    """Measure the memory of an account that is not in use. Return the errors."""
    for world in (small, large):
        world.always = set()  # no refresh adds to what the simulated Xero keeps
    tracemalloc.start()
    await memory_of(small)  # what the first manager loads stays loaded
    of_few, _ = await memory_of(small)
    of_many, left = await memory_of(large)
    tracemalloc.stop()
    each = (of_many - of_few) / (len(large.logged_in_at) - len(small.logged_in_at))
    print(
        f"memory of an account that is not in use: {each:.0f} bytes (a manager of "
        f"{len(small.logged_in_at)}: {of_few / 1e6:.2f} MB, of {len(large.logged_in_at)}: "
        f"{of_many / 1e6:.2f} MB); one that was used and closed: {left:.0f} bytes more",
        flush=True,
    )
    return [
        f"an account {what} costs {cost:.0f} bytes"
        for what, cost in (("that is not in use", each), ("that was used", left))
        if cost > MAX_IDLE_BYTES
    ]


async def connections(small: World, large: World, *, used: int = 500) -> list[str]:
    """Count the connections to Redis of a manager. Return the errors."""
    counts = {}
    for world in (small, large):
        before, names = world.place.connections(), sorted(world.logged_in_at)[:used]
        accounts = await started(world)
        await world.tick([accounts])
        counts[f"{len(world.logged_in_at)} accounts"] = world.place.connections() - before
        for name in names:
            async with accounts.opened(name) as found:
                await found.keeper.token()
        await world.tick([accounts])
        assert len(accounts.open_now) > len(names)
        counts[f"{len(names)} of them open"] = world.place.connections() - before
        await world.close(accounts)
        accounts = await started(world)

        async def use(name: str, accounts: Accounts = accounts) -> None:
            async with accounts.opened(name) as found:
                await found.keeper.token()

        await asyncio.gather(*map(use, names))
        counts[f"{len(names)} opened at one moment"] = world.place.connections() - before
        await world.close(accounts)
    shown = ", ".join(f"{what}: {count}" for what, count in counts.items())
    print(f"connections of a process to Redis: {shown}", flush=True)
    most = max(counts.values())
    return [f"a process has {most} connections to Redis"] if most > MAX_CONNECTIONS else []


# ------------------------------------------------------------------------------ after an outage


async def after_outage(world: World, managers: int, *, always: int, hours: float) -> list[str]:
    """Stop all processes for two hours, and count the refreshes in each minute after that.

    Args:
        world: the accounts.
        managers: the number of managers that start again.
        always: so many accounts are kept fresh without callers.
        hours: the time after the outage.
    """
    world.always = set(sorted(world.logged_in_at)[:always])
    await world.close()
    for number in range(managers):
        accounts = await world.manager(number)
        if number == 0:
            await accounts.swept()  # the index knows now which accounts are kept fresh
    await world.close()
    world.clock.advance(hours=2)
    before, began = len(world.sandbox.refreshes()), world.clock.now()
    for number in range(managers):
        await world.manager(number)
    rng = random.Random(managers)  # noqa: S311 - repeatable
    for _ in range(round(hours * 3600 / TICK_SECONDS)):
        world.clock.advance(TICK_SECONDS * rng.uniform(0.9, 1.1))  # as ``Rotation`` ticks
        for accounts in world.managers:
            await world.tick([accounts])
    refreshes = world.sandbox.refreshes()[before:]
    rounds: Counter[tuple[int, int]] = Counter()
    seen: Counter[str] = Counter()
    owners = dict(world.owners)
    for request in world.sandbox.refreshes():
        owners[request.issued or ""] = owners.get(request.token or "", "")
    for request in refreshes:
        name = owners[request.issued or ""]
        seen[name] += 1
        minute = int((request.at - began) / timedelta(minutes=1))
        rounds[seen[name], minute] += 1
    largest = [
        max(count for (number, _), count in rounds.items() if number == round_)
        for round_ in range(1, max(seen.values()) + 1)
    ]
    print(
        f"after an outage of two hours, {always} accounts that are always fresh: the most "
        f"refreshes within a minute in each round: {largest}",
        flush=True,
    )
    spent = Counter(request.token for request in refreshes)
    wrong = []
    if len(spent) != len(refreshes):
        wrong.append("a refresh token was spent twice after the outage")
    if missed := world.always - seen.keys():
        wrong.append(f"{len(missed)} accounts were not refreshed after the outage")
    await world.close()
    return wrong


# ------------------------------------------------------------------------------------- the command


@dataclass(frozen=True, kw_only=True)
class Options:
    """The size of a run."""

    store: str = "redis"
    managers: int = 4
    accounts: int = 10_000
    few: int = 100
    """The accounts that many are compared with."""
    hours: float = 24
    used: float = 0.05
    seed: int = 1


async def run_day(options: Options, many: World, used: list[str]) -> list[str]:
    """Let the time of a run pass, and print its figures. Return the errors."""
    began, seconds = time.monotonic(), int(options.hours * 3600)
    rng = random.Random(options.seed)  # noqa: S311 - repeatable
    requests = plan(used, seconds=seconds, managers=options.managers, rng=rng, always=many.always)
    for number in range(options.managers):
        accounts = await many.manager(number)
        if number == 0:
            await accounts.swept()
    day = Day(many, requests, seconds, options.seed)
    figures = await day.go()
    print(
        f"{options.accounts} accounts on {options.store}, {len(used)} used (of which "
        f"{len(many.always)} are always fresh), {options.managers} managers, {options.hours:g} "
        f"simulated hours, seed {options.seed}: {figures.calls} token requests, least remaining "
        f"lifetime {figures.least_left:g} s; {figures.refreshes} refresh requests at Xero, ideal "
        f"{figures.ideal:.0f}, of which rotations of accounts that are not used "
        f"{figures.rotations}; errors {len(figures.wrong)}; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    await many.close()
    return figures.wrong


async def run(options: Options, *, costs: bool = True) -> list[str]:
    """Make a run, and measure the costs. Print the figures, and return the errors."""
    rng = random.Random(options.seed)  # noqa: S311 - repeatable
    used = rng.sample(names_of(options.accounts), round(options.accounts * options.used))
    always = {name for name in used if rng.random() < ALWAYS}
    wrong: list[str] = []
    async with AsyncExitStack() as opened:
        many = await opened.enter_async_context(
            new_world(
                options.store,
                options.accounts,
                hours=options.hours,
                seed=options.seed,
                always=always.__contains__,
            )
        )
        wrong += await run_day(options, many, used)
        if not costs:
            return wrong
        few = await opened.enter_async_context(
            new_world(options.store, options.few, seed=options.seed, beside=many)
        )
        wrong += await tick_costs(few, many)
        wrong += await memory_cost(few, many)
        if many.place.redis is not None:
            wrong += await connections(few, many, used=min(500, options.accounts))
        hours = 4 if options.hours > 4 else options.hours
        wrong += await after_outage(
            many, options.managers, always=min(500, options.accounts // 4), hours=hours
        )
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture accounts", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--store",
        choices=("redis", "file"),
        default="redis",
        help="the shared store (default: %(default)s)",
    )
    parser.add_argument(
        "--managers", type=int, help="number of managers (default: 4 on redis, 1 on file)"
    )
    parser.add_argument(
        "--accounts", type=int, help="number of accounts (default: 10000 on redis, 2000 on file)"
    )
    parser.add_argument(
        "--hours", type=float, default=24, help="simulated hours (default: %(default)s)"
    )
    parser.add_argument(
        "--used",
        type=float,
        default=0.05,
        help="the part of the accounts that has callers (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of logins and callers (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="instead: so many real server processes on one Redis, one of them killed",
    )
    parser.add_argument(
        "--life",
        type=int,
        default=20,
        help="with --processes: lifetime of an access token in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3,
        help="with --processes: duration in minutes (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    if given.processes:
        wrong = asyncio.run(
            run_processes(
                processes=given.processes,
                accounts=given.accounts or 500,
                used=given.used,
                life=given.life,
                seconds=given.minutes * 60,
                seed=given.seed,
            )
        )
    else:
        with rare_sweeps():
            wrong = asyncio.run(run(_options(given)))
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if wrong else 0


def _options(given: argparse.Namespace) -> Options:
    is_redis = given.store == "redis"
    return Options(
        store=given.store,
        managers=given.managers or (4 if is_redis else 1),
        accounts=given.accounts or (10_000 if is_redis else 2000),
        hours=given.hours,
        used=given.used,
        seed=given.seed,
    )
