"""Trouble in some accounts: it delays no refresh and no caller of the others.

Nothing else goes wrong in these runs, so the bounds are exact: a due refresh of an account without
trouble is made within a tick and the time of its requests, whatever happens to the others.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import datetime

from xots.backends.base import Stored
from xots.keeping.usage import Fresh
from xots.lifecycle.schedule import refresh_due
from xots.sandbox import Refusal, SiblingMode

from .ledger import BrokenInvariantError
from .outside import DAMAGED
from .story import DUE_WITHIN, Story, in_jumping_time
from .world import DEFAULT, Climate, Held, Process, World

AT_XERO = ("429", "503-before", "client", "before", "not-sent", "slow")
"""Troubles at Xero: each request of the account fails in this way."""

TROUBLES = (
    *AT_XERO,
    "consent lost",
    "unreadable record",
    "stuck lease",
    "slow record",
    "logins and ends",
)

TROUBLE_SECONDS = (60, 1200)
"""Shortest and longest trouble: well within the grace period."""

SLOW_RECORD_SECONDS = 8.0

ROTATION_HOURS, DEATH_HOURS = 5.0, 6.0
"""The age of a refresh token at its rotation and at its death, instead of 50 and 60 days."""

CHECK_INTERVAL_SECONDS = 2.0

MAX_WAIT_SECONDS = 0.5
"""Upper bound on the wait of a caller whose account is in use: it is served from memory."""
MAX_REQUEST_SECONDS = 6.0
"""Upper bound on the wait of a caller for whom the account is opened and refreshed."""

LATE_SECONDS = (1, 5, 10, 16, DUE_WITHIN.total_seconds())
"""The bounds of the figures about the delays of due refreshes."""


def run_trouble(
    seed: int, mode: SiblingMode, *, hours: float = 12, trace: bool = False
) -> Counter[str]:
    """Simulate some hours in which some accounts are in trouble. Return the figures.

    Raises:
        BrokenInvariantError: an account without trouble waited, or an invariant does not hold.
    """

    async def run() -> Counter[str]:
        rng = random.Random(seed)  # noqa: S311
        climate = Climate(
            processes=rng.randint(1, 3),
            life_seconds=rng.choice((180, 600, 1800)),
            ahead_seconds=rng.choice((120, 300)),
            accounts=tuple(rng.choice(tuple(Fresh)) for _ in range(rng.randint(3, 6))),
            kernel_locks=rng.random() < 0.3,
            shares_index=rng.random() < 0.6,
            shares_user=rng.random() < 0.3,
            rotation_hours=ROTATION_HOURS,
        )
        world = World(seed, mode, climate, trace=trace)
        world.identity.switches = replace(
            world.identity.switches, refresh_token_life_seconds=DEATH_HOURS * 3600
        )
        world.say(climate)
        story = TroubledStory(world)
        try:
            await story.run(hours)
            await story.settle()
            await story.check_connected()
        finally:
            await story.leave()
        if world.broken:
            raise world.broken
        return world.figures

    return in_jumping_time(run())


class TroubledStory(Story):
    """Some accounts in trouble, and the others, whose callers must not notice."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        rng, others = world.rng, [name for name in world.names if name != DEFAULT]
        self._troubled = rng.sample(others, rng.randint(1, len(others) - 1))
        self._well = [name for name in world.names if name not in self._troubled]
        self._in_use = {DEFAULT, *(name for name in self._well if rng.random() < 0.5)}
        self._due_since: dict[str, datetime] = {}

    async def run(self, hours: float) -> None:
        """Simulate some hours.

        Raises:
            BrokenInvariantError: an account without trouble waited.
        """
        world = self.world
        for _ in range(world.climate.processes):
            self.start()
        for name in world.names:
            await self.log_in(name)
        process = self.processes[0]
        for name in world.names:
            await asyncio.wait([process.spawn(self.token(process, name))])
        await asyncio.sleep(120)
        tasks = [asyncio.create_task(self._watch())]
        tasks += [asyncio.create_task(self._bring_trouble(name)) for name in self._troubled]
        tasks += [asyncio.create_task(self._call(name)) for name in world.names]
        try:
            end = world.loop.time() + hours * 3600
            while world.loop.time() < end:
                await asyncio.sleep(60)
                world.check()
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
        world.troubles.clear()
        for name in self._troubled:
            await self._relieve(name)

    # The accounts without trouble

    async def _watch(self) -> None:
        """Check again and again that no account without trouble stays due."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
            now = self.world.now()
            for name in self._well:
                self._check_due(name, now)

    def _check_due(self, name: str, now: datetime) -> None:
        ahead = name in self._in_use or self.world.climate.fresh(name) is Fresh.ALWAYS
        due = refresh_due(self.world.account(name), now, self.policy_of(name), ahead=ahead)
        if isinstance(due, datetime) and due > now:
            if (since := self._due_since.pop(name, None)) is not None:
                late = next(s for s in LATE_SECONDS if (now - since).total_seconds() <= s + 2)
                self.world.figures[f"due refreshes made within {late:.0f} s"] += 1
            return
        since = self._due_since.setdefault(name, due if isinstance(due, datetime) else now)
        if now - since > DUE_WITHIN:
            raise BrokenInvariantError(f"{name} has been due since {since}: {due}, and it is {now}")

    async def _call(self, name: str) -> None:
        """Request the token of an account, often if it is in use, and force some refreshes."""
        world, rng = self.world, self.world.rng
        process = rng.choice(self.processes)
        life = world.climate.life_seconds
        while True:
            is_used = name in self._in_use
            await asyncio.sleep(rng.uniform(10, life / 2) if is_used else rng.expovariate(1 / 5400))
            began = world.loop.time()
            forced = rng.random() < 0.02
            work = self.refresh(process, name) if forced else self.token(process, name)
            await asyncio.wait([process.spawn(self._completed(work, name))])
            waited = world.loop.time() - began
            bound = MAX_WAIT_SECONDS if is_used and not forced else MAX_REQUEST_SECONDS
            if name in self._well and waited > bound:
                raise BrokenInvariantError(f"a caller of {name} waited for {waited:.1f} s")

    async def _completed(self, work: object, name: str) -> None:
        try:
            await work  # type: ignore[misc]
        except Exception as error:
            if name in self._well and not isinstance(error, BrokenInvariantError):
                raise BrokenInvariantError(f"a caller of {name} got {error!r}") from error
            raise
        if name in self._well:
            self.world.figures["requests of callers without trouble"] += 1

    # The others

    async def _bring_trouble(self, name: str) -> None:
        """Bring one trouble after the other to an account."""
        world = self.world
        while True:
            await asyncio.sleep(world.rng.expovariate(1 / 900))
            kind, seconds = world.rng.choice(TROUBLES), world.rng.uniform(*TROUBLE_SECONDS)
            world.figures[f"trouble: {kind}"] += 1
            world.say(f"{name}: {kind} for {seconds:.0f} s")
            process = world.rng.choice(self.processes)
            if kind in AT_XERO:
                world.troubles[name] = kind
                process.spawn(self.refresh(process, name))
            elif kind == "slow record":
                world.slow_records[name] = SLOW_RECORD_SECONDS
            elif kind == "stuck lease":
                await self._hold_lease(name, seconds)
            elif kind == "unreadable record":
                await self._damage(name, seconds)
            elif kind == "consent lost":
                self._lose_consent(name)
            else:
                await self._log_in_and_end(name, process)
                continue
            await asyncio.sleep(seconds)
            await self._relieve(name)

    async def _relieve(self, name: str) -> None:
        """End the trouble that lasts, and log in to an account whose consent was lost."""
        world = self.world
        world.troubles.pop(name, None)
        world.slow_records.pop(name, None)
        if name in world.stuck:
            await self.log_in(name)
            world.stuck.discard(name)
            self.lost.discard(name)

    async def _hold_lease(self, name: str, seconds: float) -> None:
        """Hold the lease as a process does that hangs, and is not dead."""
        world = self.world
        while world.leases.get(name) is not None:
            await asyncio.sleep(0.1)
        world.leases[name] = Held(Process(0, world), ttl_seconds=seconds)
        try:
            await asyncio.sleep(seconds)
        finally:
            del world.leases[name]

    async def _damage(self, name: str, seconds: float) -> None:
        """Damage the record, and restore it as an operator does."""
        world = self.world
        while world.leases.get(name) is not None:
            await asyncio.sleep(0.1)
        whole = world.kept[name]
        world.stuck.add(name)
        world.kept[name] = Stored(DAMAGED, "damaged")
        world.notify(name)
        try:
            await asyncio.sleep(seconds)
        finally:
            world.kept[name] = whole
            world.stuck.discard(name)
            world.notify(name)

    def _lose_consent(self, name: str) -> None:
        """End the consent at Xero, as a user does who disconnects the app there."""
        world = self.world
        current = world.account(name).current
        known = current and world.identity.tokens.refresh_tokens.get(current.value.reveal())
        if known and known.consent.ended is None:
            world.stuck.add(name)
            known.consent.end(Refusal.REVOKED)

    async def _log_in_and_end(self, name: str, process: Process) -> None:
        await self.log_in(name)
        if self.world.rng.random() < 0.5:
            await self.end(process, name, forget=self.world.rng.random() < 0.5)
        else:
            await self.remove(process, name)
        await asyncio.sleep(30)
        await self.log_in(name)
