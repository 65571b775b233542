"""The story of one seed: some hours with faults, and a time without them at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from xots.backends.base import Stored
from xots.errors import ConsentLost, StoreUnavailable, XotsError
from xots.events import ConsentWasLost, Event
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import (
    Idle,
    State,
    Wait,
    next_step,
    scheduled_refresh_at,
)
from xots.secret import Secret

from .ledger import BrokenInvariantError
from .loop import JumpingLoop
from .outside import PlainSealer, SimulatedStore, SimulatedXero
from .world import (
    CREDENTIALS,
    MAX_LOSSLESS_OUTAGE_SECONDS,
    MAX_OUTAGE_SECONDS,
    PAUSE_SECONDS,
    SCOPES,
    Climate,
    Process,
    World,
)

ATTEMPT = LoginAttempt(
    credentials=CREDENTIALS,
    code=Secret("c"),
    verifier=None,
    redirect_uri="http://x/code",
    scopes=SCOPES,
)
TICK_SECONDS = Policy().tick.total_seconds()
MAX_CORRECT_SKEW = timedelta(seconds=2)
"""A clock with a smaller error counts as correct."""


class Story:
    """The processes of a world, and the events of their lives."""

    def __init__(self, world: World, *, patient: bool = False) -> None:
        self.world = world
        self.patient = patient
        """True to skip the ticks at which no step can be due, which dominate a run of years."""
        self.processes = world.processes
        self.lost: set[int] = set()
        """The processes that reported the loss of the login."""
        self.dumps: list[dict[str, Stored]] = []
        self.policy = Policy(
            refresh_ahead=timedelta(seconds=world.climate.ahead_seconds),
            refresh_interval=timedelta(0),
        )
        self._count = 0
        self._calm_until = 0.0
        self._restarts: set[asyncio.Task[None]] = set()
        world.on_death = self._died

    # Processes

    def start(self) -> Process:
        """Start a process."""
        world = self.world
        self._count += 1
        process = Process(self._count, world, skew=timedelta(seconds=world.rng.uniform(-1, 1)))
        process.keeper = TokenKeeper(
            SimulatedStore(process),
            SimulatedXero(process),  # type: ignore[arg-type]
            PlainSealer(),  # type: ignore[arg-type]
            policy=self.policy,
            configured=CREDENTIALS,
            observers=[lambda event: self._seen(process, event)],
            clock=process.clock,
            rng=world.rng,
        )
        self.processes.append(process)
        world.say(f"p{process.number} starts")
        process.spawn(self._live(process))
        return process

    async def _live(self, process: Process) -> None:
        keeper = process.keeper
        while True:
            try:
                await keeper.start()
                break
            except StoreUnavailable:
                await asyncio.sleep(2)
        while True:
            await keeper.maintain()
            ticks = 1 + self._idle_ticks(process) if self.patient else 1
            await asyncio.sleep(TICK_SECONDS * ticks + self.world.rng.random())
            await process.step()

    def _idle_ticks(self, process: Process) -> int:
        due_at = scheduled_refresh_at(process.keeper.account, self.policy)
        step = next_step(process.keeper.account, process.clock.now(), self.policy)
        if due_at is None or isinstance(step, Wait) or process.keeper.store_problem:
            return 0
        return max(int((due_at - process.clock.now()).total_seconds() / TICK_SECONDS), 0)

    def _seen(self, process: Process, event: Event) -> None:
        self.world.figures[type(event).__name__] += 1
        self.world.say(f"p{process.number}: {event}")
        # With a wrong clock, a process may misjudge the candidates. The final check decides.
        if isinstance(event, ConsentWasLost) and (
            abs(process.skew) < MAX_CORRECT_SKEW or not self.world.within_bound
        ):
            self.lost.add(process.number)

    def _died(self, process: Process) -> None:
        if process in self.processes:
            self.processes.remove(process)
            self._restarts.add(restart := asyncio.ensure_future(self._restart()))
            restart.add_done_callback(self._restarts.discard)

    async def _restart(self) -> None:
        await asyncio.sleep(self.world.rng.random() * self.world.rng.choice((2, 120)))
        # A process that starts on a rolled-back store gets the newer record from the others.
        await asyncio.sleep(max(self.world.excused_until - self.world.loop.time(), 0))
        self.start()

    # Events

    async def run(self, hours: float) -> None:
        """Simulate some hours with faults.

        Raises:
            BrokenInvariantError: an invariant does not hold.
        """
        world = self.world
        for _ in range(world.climate.processes):
            self.start()
        await self.log_in()
        end = world.loop.time() + hours * 3600
        while world.loop.time() < end:
            await asyncio.sleep(world.rng.expovariate(1 / world.climate.every_seconds))
            await self._next_event()
            world.check()

    async def _next_event(self) -> None:
        world, climate = self.world, self.world.climate
        if not self.processes:
            return
        rng, process = world.rng, world.rng.choice(self.processes)
        weights = {
            "token": 30,
            "refresh": 40,
            "refresh everywhere": 6,
            "refresh in a row": 2,
            "death": 3 if climate.deaths else 0,
            "pause": 3 if climate.pauses else 0,
            "step": 2 if climate.steps else 0,
            "log in": 1,
            "log in twice": 0.3,
            "end": 0.5,
            "outage": 1 if climate.outages else 0,
            "cut": 1 if climate.outages else 0,
            "dump": 2 if climate.roll_backs else 0,
            "roll back": 0.7 if climate.roll_backs else 0,
        }
        match rng.choices(list(weights), list(weights.values()))[0]:
            case "token":
                process.spawn(self.token(process))
            case "refresh":
                process.spawn(process.keeper.refresh())
            case "refresh everywhere":
                for other in self.processes:
                    other.spawn(other.keeper.refresh())
            case "refresh in a row":
                process.spawn(self.refresh_in_a_row(process, rng.randint(2, 20)))
            case "death" if world.loop.time() >= process.safe_until:
                process.die()
            case "pause" if world.loop.time() >= process.safe_until:
                process.sleep(rng.choice(PAUSE_SECONDS))
            case "step":
                process.skew = timedelta(seconds=rng.choice((-86400, -60, 60, 86400)))
                world.say(f"p{process.number}'s clock is off by {process.skew}")
                world.figures["clock steps"] += 1
                process.spawn(self._mend_clock(process))
            case "log in":
                await self.log_in()
            case "log in twice":
                await asyncio.gather(self.log_in(), self.log_in())
            case "end":
                await self.end(process, forget=rng.random() < 0.5)
                await asyncio.sleep(60)
                await self.log_in()
            case "outage" if world.loop.time() >= self._calm_until:
                self._outage()
            case "cut":
                process.cut_off_until = world.loop.time() + rng.uniform(30, MAX_OUTAGE_SECONDS)
                until = f"{process.cut_off_until:.0f} s"
                world.say(f"p{process.number} has no connection to the store until {until}")
                world.figures["cut off from the store"] += 1
            case "dump":
                self.dumps = [*self.dumps[-3:], dict(world.kept)]
            case "roll back":
                await self._roll_back()

    async def token(self, process: Process) -> None:
        """Request the token, as a caller does."""
        await process.step()
        token = await process.keeper.token()
        self.world.check_served(token.value.reveal(), process)

    async def refresh_in_a_row(self, process: Process, count: int) -> None:
        """Force many refreshes one after the other, as a program in a loop does."""
        for _ in range(count):
            await process.step()
            await process.keeper.refresh()

    async def log_in(self) -> None:
        """Log in as a user does, and retry for longer than any outage lasts."""
        give_up_at = self.world.loop.time() + MAX_LOSSLESS_OUTAGE_SECONDS + 3600
        while self.world.loop.time() < give_up_at:
            self.world.check()
            process = self.world.rng.choice(
                [p for p in self.processes if p.awake.is_set()] or [None]
            )
            if process is None:
                await asyncio.sleep(5)
                continue
            done = await self._log_in_at(process)
            if done:
                self.world.figures["logins"] += 1
                return
            await asyncio.sleep(10)
        raise BrokenInvariantError("no login succeeded")

    async def _log_in_at(self, process: Process) -> bool:
        ledger = self.world.ledger
        action = ledger.begins(login=True, by=process)

        async def log_in() -> None:
            try:
                await process.keeper.login(ATTEMPT)
            except XotsError:
                ledger.refused(action)
                raise
            ledger.confirmed(action, process)

        await asyncio.wait([process.spawn(log_in())])
        return action.confirmed or action.held

    async def end(self, process: Process, *, forget: bool) -> None:
        """Revoke or log out, as a user does."""
        ledger = self.world.ledger
        action = ledger.begins(login=False, by=process)

        async def end() -> None:
            try:
                await process.keeper.end(forget=forget)
            except XotsError:
                ledger.refused(action)
                raise
            ledger.confirmed(action, process)

        await asyncio.wait([process.spawn(end())])

    async def _mend_clock(self, process: Process) -> None:
        await asyncio.sleep(self.world.rng.random() * 600)
        process.skew = timedelta(0)

    def _outage(self) -> None:
        """Let Xero or the store fail for a while. Leave time to recover before the next one."""
        world = self.world
        if world.rng.random() < 0.5:
            seconds = world.rng.uniform(30, MAX_OUTAGE_SECONDS)
            world.store_away_until = until = world.loop.time() + seconds
            world.say(f"the store is unreachable for {seconds:.0f} s")
        else:
            seconds = world.rng.uniform(30, world.climate.max_outage_seconds)
            until = world.loop.time() + seconds
            world.xero_away = until, world.rng.choice(("not-sent", "503-before", "before"))
            world.say(f"Xero is unreachable for {seconds:.0f} s")
        self._calm_until = until + 2400
        world.figures["outages"] += 1

    async def _roll_back(self) -> None:
        """Restore the store from an old dump. A running process writes its newer record soon."""
        world = self.world
        best = world.account().generation
        knows = any(p.keeper.account.generation >= best for p in self.processes)
        awake = all(p.awake.is_set() for p in self.processes)
        away_until = max(world.store_away_until, *(p.cut_off_until for p in self.processes))
        if not (self.dumps and knows and awake) or world.loop.time() < away_until:
            return
        world.figures["roll-backs"] += 1
        world.say("the store is rolled back")
        world.kept = dict(world.rng.choice(self.dumps))
        world.excused_until = world.loop.time() + 180
        for process in self.processes:
            process.safe_until = world.excused_until
        world.wake_followers()
        await asyncio.sleep(181)

    # The end

    async def settle(self) -> None:
        """Stop all faults, and check the processes after the longest wait of a 429.

        Raises:
            BrokenInvariantError: a process has an unsaved record, or another one than the store.
        """
        world = self.world
        world.climate = Climate(
            processes=world.climate.processes,
            life_seconds=world.climate.life_seconds,
            kernel_locks=world.climate.kernel_locks,
        )
        world.xero_away, world.store_away_until = (0.0, ""), 0.0
        for process in self.processes:
            process.wake()
            process.skew, process.cut_off_until = timedelta(0), 0.0
        await asyncio.sleep(4500)
        world.check()
        for process in self.processes:
            if process.keeper.unsaved or process.keeper.store_problem:
                raise BrokenInvariantError(f"at the end, p{process.number} has an unsaved record")
            if process.keeper.account.write_id != world.account().write_id:
                raise BrokenInvariantError(
                    f"at the end, p{process.number} has another record than the store"
                )

    async def check_connected(self) -> None:
        """Check that every process serves a token, unless a user has ended the login.

        Raises:
            BrokenInvariantError: one does not.
        """
        if self.lost and self.world.within_bound:
            raise BrokenInvariantError("a login was reported lost")
        if self.world.account().consent_id is None:
            return
        for process in self.processes:
            state, account = process.keeper.state, process.keeper.account
            # A refresh ahead that failed and left no open refresh waits for the next due time.
            idle = isinstance(next_step(account, process.clock.now(), self.policy), Idle)
            if state is not State.CONNECTED and not (state is State.REFRESH_FAILING and idle):
                raise BrokenInvariantError(f"at the end, p{process.number} is {state}")
            await self.token(process)
        if self.world.broken:
            raise self.world.broken

    async def check_reported(self) -> bool:
        """If the login was lost, check that every process reports it, and that a new login works.

        Raises:
            BrokenInvariantError: the login was lost without a report, or a new one does not work.
        """
        lost = bool(self.world.account().consent_id) and all(
            p.keeper.state is State.CONSENT_LOST for p in self.processes
        )
        if lost:
            if not self.lost:
                raise BrokenInvariantError("the login was lost, and no process reported it")
            for process in self.processes:
                try:
                    await process.keeper.token()
                except ConsentLost:
                    continue
                raise BrokenInvariantError(
                    f"p{process.number} serves a token although the login is lost"
                )
            await self.log_in()
            await asyncio.sleep(60)
        await self.check_connected()
        return lost

    async def leave(self) -> None:
        """End every process, so that the loop can close."""
        self.world.on_death = lambda process: None
        for process in list(self.processes):
            process.die()
        for restart in list(self._restarts):
            restart.cancel()
        await asyncio.sleep(60)


def in_jumping_time(coroutine: object) -> Counter[str]:
    """Run one simulation in its own event loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)  # type: ignore[arg-type]
