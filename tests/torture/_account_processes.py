"""Many accounts in several real server processes on one Redis, with real clocks.

A few percent of the accounts have callers over HTTP. The others only need the rotation by age,
which is once a minute here. In the middle one process is killed and started again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from torture._account_world import names_of, new_record
from torture.processes import SPENT, Figures, Fleet, Line, fleet, until
from xots.backends import open_store
from xots.keeping.record_store import LEASE_SECONDS, RecordStore, open_record
from xots.lifecycle.account import Account
from xots.sandbox import User
from xots.sealing import Sealer
from xots.secret import Secret

ROTATION_SECONDS = 60
"""The age at which the refresh tokens are rotated: the shortest that the settings permit."""

CALL_SECONDS = (0.5, 2)
"""Bounds of the interval between two requests of a caller."""

MAX_LATENESS_SECONDS = 8.0
"""Upper bound on the lateness of a refresh on a busy machine. The interval between two checks is an
eighth of a token's lifetime, at most a fifth longer by its jitter."""

MAX_EXCESS = 1.1
"""Upper bound on the requests at Xero, as a multiple of the ideal number. Each account has one more
at the start."""


@dataclass
class Caller:
    """A caller of one account at one process, which it finds again after a restart."""

    fleet: Fleet
    name: str
    number: int
    """The place of the process in the fleet."""
    refused: int = 0
    """Requests without a response, because the process had been killed."""
    line: Line | None = None

    async def request(self, figures: Figures, life: int, *, faulty: bool) -> None:
        """Request the token, and judge the response."""
        if self.line is None:
            self.line = self.fleet.line(self.fleet.processes[self.number])
        path, identity = f"/accounts/{self.name}/token", self.fleet.sandbox.identity
        try:
            response = await self.line.get(path)
        except (OSError, asyncio.IncompleteReadError):
            self.line.close()
            self.line = None
            self.refused += 1
            return
        figures.check(response, path, life, identity, faulty)


@dataclass
class Shift:
    """Some minutes of many accounts in several processes."""

    fleet: Fleet
    names: list[str]
    used: list[str]
    life: int
    rng: random.Random
    figures: Figures = field(default_factory=Figures)
    callers: list[Caller] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    """The account of each refresh token that a login issued, by the token's fingerprint."""
    filled_at: datetime | None = None
    killed_at: datetime | None = None
    ideal: float = 0
    over: bool = False

    async def fill(self) -> None:
        """Log in to each account while the processes run, and wait until all of them know it."""
        sandbox, store = self.fleet.sandbox, open_store(self.fleet.url)
        sealer = Sealer([Secret(self.fleet.key)])
        for name in self.names:
            sandbox.identity.users[name] = User(name)
            # The rotations are spread over a minute.
            began_at = sandbox.clock() - timedelta(seconds=self.rng.uniform(0, ROTATION_SECONDS))
            account, token = new_record(sandbox, name, began_at)
            due_at = began_at + timedelta(seconds=ROTATION_SECONDS)
            self.owners[token] = name

            def due(_: Account, due_at: datetime = due_at) -> datetime:
                return due_at

            await RecordStore(store, sealer, name, due).swap(account, None)
        await store.close()
        self.filled_at = sandbox.clock()
        for process in self.fleet.processes:
            line = self.fleet.line(process)

            async def knows_all(line: Line = line) -> bool:
                listed = json.loads((await line.get("/accounts")).body)["accounts"]
                return len(listed) == len(self.names) + 1

            await until(knows_all)

    async def go(self, seconds: float) -> None:
        """Let the callers call, and kill a process in the middle."""
        places = range(len(self.fleet.processes))
        self.callers = [
            Caller(self.fleet, name, number)
            for name in self.used
            for number in self.rng.sample(places, self.rng.choice((1, 2)))
        ]
        async with asyncio.TaskGroup() as group:
            for caller in self.callers:
                group.create_task(self._call(caller))
            await asyncio.sleep(seconds / 2)
            await self._kill(1)
            await asyncio.sleep(seconds / 2)
            self.over = True
        self.judge(self.fleet.sandbox.clock())
        await self._check_records()

    async def _call(self, caller: Caller) -> None:
        await asyncio.sleep(self.rng.uniform(0, CALL_SECONDS[1]))
        while not self.over:
            faulty = self._is_after_kill(self.fleet.sandbox.clock())
            await caller.request(self.figures, self.life, faulty=faulty)
            await asyncio.sleep(self.rng.uniform(*CALL_SECONDS))

    def _is_after_kill(self, at: datetime) -> bool:
        """Tell if leases of the killed process may still have been held shortly before."""
        seconds = LEASE_SECONDS + MAX_LATENESS_SECONDS
        return self.killed_at is not None and timedelta(0) <= at - self.killed_at <= timedelta(
            seconds=seconds
        )

    async def _kill(self, number: int) -> None:
        """Kill a process, and start it again."""
        killed = self.fleet.processes[number]
        self.killed_at = self.fleet.sandbox.clock()
        killed.process.kill()
        await killed.process.wait()
        started = await self.fleet.start()
        await started.serves()
        self.fleet.processes[number] = self.fleet.processes.pop()

    def judge(self, ended_at: datetime) -> None:
        """Judge the requests at Xero."""
        wrong, refreshes = self.figures.wrong, self.fleet.sandbox.refreshes()
        assert self.filled_at is not None
        assert self.killed_at is not None
        if SPENT in (request.reason for request in refreshes):
            wrong.append("a refresh token was used again after its grace")
        times: defaultdict[str, list[datetime]] = defaultdict(list)
        spent_at: dict[str | None, datetime] = {}
        owners = dict(self.owners)
        for request in refreshes:
            if request.token in owners:
                name = owners[request.token or ""]
                times[name].append(request.at)
                owners[request.issued or ""] = name
            first = spent_at.setdefault(request.token, request.at)
            was_cut_off = first <= self.killed_at <= request.at
            if request.at != first and not was_cut_off:
                wrong.append(f"a refresh token was spent at {first}, and again: {request}")
        seconds = (ended_at - self.filled_at).total_seconds()
        for name in self.names:
            for earlier, later in pairwise([self.filled_at, *times[name], ended_at]):
                late = (later - earlier).total_seconds() - ROTATION_SECONDS
                allowed = MAX_LATENESS_SECONDS
                if earlier <= self.killed_at <= later:
                    allowed += LEASE_SECONDS
                if late > allowed:
                    wrong.append(f"{name} was refreshed {late:.1f} s late, at {later}")
        unused = len(self.names) - len(self.used)
        self.ideal = ideal = (
            len(self.used) * seconds / (self.life / 2) + unused * seconds / ROTATION_SECONDS
        )
        if len(refreshes) > MAX_EXCESS * ideal + len(self.names):
            wrong.append(f"{len(refreshes)} refresh requests, ideal {ideal:.0f}")

    async def _check_records(self) -> None:
        """Check that each record holds a token from which Xero would issue."""
        store, sealer = open_store(self.fleet.url), Sealer([Secret(self.fleet.key)])
        identity, now = self.fleet.sandbox.identity, self.fleet.sandbox.clock()
        for name in self.names:
            stored = await store.read(name)
            assert stored is not None
            account = open_record(sealer, stored, name)
            tokens = [token for token in (account.current, *account.fallbacks) if token is not None]
            if not any(identity.would_issue(token.value.reveal(), now) for token in tokens):
                self.figures.wrong.append(f"{name}: Xero would take none of the record's tokens")
        await store.close()

    def report(self) -> list[str]:
        """Return the figures as lines."""
        figures, refreshes = self.figures, self.fleet.sandbox.refreshes()
        spent = Counter(request.token for request in refreshes)
        return [
            f"token requests {figures.polls} of {len(self.callers)} callers, 503s with Retry-After "
            f"after the kill {figures.unavailable}, without a response "
            f"{sum(caller.refused for caller in self.callers)}, errors {len(figures.wrong)}; least "
            f"remaining lifetime of a served token {figures.least_left:.3f} s",
            f"refresh requests at Xero {len(refreshes)}, ideal {self.ideal:.0f}, tokens spent "
            f"twice because of the kill {sum(times > 1 for times in spent.values())}; refreshes of "
            f"each process: {[process.refreshes for process in self.fleet.processes]}",
        ]


async def run_processes(
    *, processes: int, accounts: int, used: float, life: int, seconds: float, seed: int
) -> list[str]:
    """Make a run, and print its figures. Return the errors."""
    began, rng = time.monotonic(), random.Random(seed)  # noqa: S311 - repeatable
    names = names_of(accounts)
    async with fleet("redis", processes, life=life, XOTS_REFRESHMINS="1") as servers:
        shift = Shift(servers, names, rng.sample(names, max(1, round(accounts * used))), life, rng)
        await shift.fill()
        await shift.go(seconds)
        for line in shift.report():
            print(line, flush=True)
        print(
            f"{accounts} accounts in {processes} processes, life {life} s, {seconds:g} s, seed "
            f"{seed}: {time.monotonic() - began:.0f} s",
            flush=True,
        )
        return shift.figures.wrong
