"""The story of one seed: some hours with faults, and a time without them at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta

from support.inside import open_keepers_of

from xots.accounts.accounts import Accounts
from xots.accounts.config import AccountConfig
from xots.accounts.keepers import Shared
from xots.backends.base import Stored
from xots.errors import AccountExists, ConsentLost, StoreUnavailable, XotsError
from xots.events import ConsentWasLost, Event
from xots.keeping.changes import Changes
from xots.keeping.login import LoginAttempt
from xots.keeping.store_clock import StoreClock
from xots.keeping.usage import Fresh
from xots.lifecycle.account import Entry
from xots.lifecycle.attention import attention_at
from xots.lifecycle.policy import Policy, staggered
from xots.lifecycle.schedule import (
    Idle,
    State,
    Wait,
    next_step,
    state_of,
)
from xots.secret import Secret

from .attempts import PAUSE_SECONDS
from .ledger import BrokenInvariantError
from .loop import JumpingLoop
from .outside import PlainSealer, SimulatedStore, SimulatedXero
from .world import (
    CREDENTIALS,
    DEFAULT,
    MAX_LOSSLESS_OUTAGE_SECONDS,
    MAX_OUTAGE_SECONDS,
    SCOPES,
    Process,
    World,
    outside_of_processes,
)

ATTEMPT = LoginAttempt(
    credentials=CREDENTIALS,
    code=Secret("c"),
    verifier=None,
    redirect_uri="http://x/code",
    scopes=SCOPES,
)
TICK_SECONDS = Policy().tick.total_seconds()
DUE_WITHIN = timedelta(seconds=TICK_SECONDS + 8)
"""Upper bound on the delay of a due refresh while all is well: a tick, and the requests."""
NEW_LOGIN_SECONDS = 45.0
"""Time in which all processes know a new login, and before its first refresh is due."""
MAX_IDLE_SECONDS = 3600.0
"""Upper bound on the time without a tick in a patient run."""
MAX_CORRECT_SKEW = timedelta(seconds=2)
"""A clock with a smaller error counts as correct."""


class Story:
    """The processes of a world, and the events of their lives."""

    def __init__(self, world: World, *, patient: bool = False) -> None:
        self.world = world
        self.patient = patient
        """True to skip the ticks at which no step can be due, which dominate a run of years."""
        self.processes = world.processes
        self.lost: set[str] = set()
        """The accounts for which a process reported the loss of the login."""
        self.dumps: list[dict[str, Stored]] = []
        self.policy = Policy(
            refresh_ahead=timedelta(seconds=world.climate.ahead_seconds),
            refresh_interval=timedelta(0),
            refresh_lifetime=timedelta(hours=world.climate.rotation_hours),
            grace=timedelta(seconds=world.climate.grace_seconds),
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
        process.accounts = self._new_accounts(process)
        self.processes.append(process)
        world.say(f"p{process.number} starts")
        process.spawn(self._live(process))
        return process

    @property
    def started(self) -> list[Process]:
        """The living processes that have read the store."""
        return [process for process in self.processes if process.has_started]

    def policy_of(self, name: str) -> Policy:
        """Return the policy of an account, as the program makes it."""
        return self.policy if name == DEFAULT else staggered(self.policy, name)

    def _new_accounts(self, process: Process) -> Accounts:
        store = SimulatedStore(process)
        shared = Shared(
            store=store,
            sealer=PlainSealer(),  # type: ignore[arg-type]
            clock=process.clock,
            rng=self.world.rng,
            observers=[lambda event: self._seen(process, event)],
            changes=Changes(store),
            store_clock=StoreClock(store, process.clock),
        )

        def configured(name: str, entry: Entry | None) -> AccountConfig:
            return AccountConfig(
                name=name,
                source="the simulation",
                is_fixed=name == DEFAULT,
                credentials=CREDENTIALS,
                scopes=SCOPES,
                tenant_id=None,
                pkce=False,
                policy=self.policy_of(name),
                fresh=self.world.climate.fresh(name),
                xero=SimulatedXero(process, name),  # type: ignore[arg-type]
                entry=entry,
                problems=lambda _: [],
            )

        return Accounts(shared, configured)

    async def _live(self, process: Process) -> None:
        while True:
            try:
                await process.accounts.start()
                break
            except StoreUnavailable:
                await process.accounts.close()
                await asyncio.sleep(2)
                process.accounts = self._new_accounts(process)
        process.has_started = True
        while True:
            await process.accounts.maintain()
            ticks = 1 + self._idle_ticks(process) if self.patient else 1
            await asyncio.sleep(TICK_SECONDS * ticks + self.world.rng.random())
            await process.step()

    def _idle_ticks(self, process: Process) -> int:
        """Return the number of ticks at which no account can be due."""
        now = process.clock.now()
        idle = [self._idle_seconds(process, name, now) for name in self.world.names]
        return max(int(min(idle) / TICK_SECONDS), 0)

    def _idle_seconds(self, process: Process, name: str, now: datetime) -> float:
        keeper = process.keepers().get(name)
        if keeper is not None and keeper.store_problem:
            return 0.0
        due_at = self._attention_at(name, now)
        if keeper is not None and name != DEFAULT:  # it is to be closed soon
            return 0.0
        return MAX_IDLE_SECONDS if due_at is None else (due_at - now).total_seconds()

    def _attention_at(self, name: str, now: datetime) -> datetime | None:
        """Return when an account's record needs attention, whether callers use it or not."""
        ahead = self.world.climate.fresh(name) is Fresh.ALWAYS
        return attention_at(self.world.account(name), now, self.policy_of(name), ahead=ahead)

    def _seen(self, process: Process, event: Event) -> None:
        self.world.figures[type(event).__name__] += 1
        self.world.say(f"p{process.number}: {event}")
        # With a wrong clock, a process may misjudge the candidates. The final check decides.
        if isinstance(event, ConsentWasLost) and (
            abs(process.skew) < MAX_CORRECT_SKEW or not self.world.within_bound
        ):
            self.lost.add(event.account)
            if self.world.climate.has_short_grace:
                account = process.keepers()[event.account].account
                self.world.attempts.check_lost(event.account, account)

    def _died(self, process: Process) -> None:
        if process in self.processes:
            self.processes.remove(process)
            self._restarts.add(restart := outside_of_processes(self._restart()))
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
        for name in world.names:
            await self.log_in(name)
        end = world.loop.time() + hours * 3600
        while world.loop.time() < end:
            await asyncio.sleep(world.rng.expovariate(1 / world.climate.every_seconds))
            await self._next_event()
            world.check()
            if world.climate.has_short_grace and world.rng.random() < 0.3:
                await self._log_in_again()

    async def _next_event(self) -> None:
        world, climate = self.world, self.world.climate
        if not self.started:
            return
        rng, process, name = (
            world.rng,
            world.rng.choice(self.started),
            world.rng.choice(world.names),
        )
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
            "remove": 0.5 if climate.accounts else 0,
            "outage": 1 if climate.outages else 0,
            "cut": 1 if climate.outages else 0,
            "dump": 2 if climate.roll_backs else 0,
            "roll back": 0.7 if climate.roll_backs else 0,
        }
        match rng.choices(list(weights), list(weights.values()))[0]:
            case "token":
                process.spawn(self.token(process, name))
            case "refresh":
                process.spawn(self.refresh(process, name))
            case "refresh everywhere":
                for other in self.started:
                    other.spawn(self.refresh(other, name))
            case "refresh in a row":
                process.spawn(self.refresh(process, name, count=rng.randint(2, 20)))
            case "death" if world.loop.time() >= process.safe_until:
                process.die()
            case "pause" if world.loop.time() >= process.safe_until:
                process.sleep(rng.choice(PAUSE_SECONDS))
            case "step":
                process.skew = timedelta(seconds=rng.choice(climate.step_seconds))
                world.widest_skew = max(world.widest_skew, abs(process.skew))
                world.say(f"p{process.number}'s clock is off by {process.skew}")
                world.figures["clock steps"] += 1
                process.spawn(self._mend_clock(process))
            case "log in":
                await self.log_in(name)
            case "log in twice":
                await asyncio.gather(self.log_in(name), self.log_in(name))
            case "end":
                await self.end(process, name, forget=rng.random() < 0.5)
                await asyncio.sleep(60)
                await self.log_in(name)
            case "remove" if name != DEFAULT:
                await self.remove(process, name)
                await asyncio.sleep(rng.choice((0, 60)))
                await self.log_in(name)
            case "outage" if world.loop.time() >= self._calm_until:
                self._outage()
            case "cut":
                process.cut_off_until = world.loop.time() + rng.uniform(30, MAX_OUTAGE_SECONDS)
                world.attempts.interrupt(process, "a lost connection to the store")
                until = f"{process.cut_off_until:.0f} s"
                world.say(f"p{process.number} has no connection to the store until {until}")
                world.figures["cut off from the store"] += 1
            case "dump":
                self.dumps = [*self.dumps[-3:], dict(world.kept)]
            case "roll back":
                await self._roll_back()

    async def _log_in_again(self) -> None:
        """Log in to each account whose login is lost, as a user does who learns of that."""
        world = self.world
        for name in world.names:
            account, policy = world.account(name), self.policy_of(name)
            if state_of(account, world.now(), policy) is State.CONSENT_LOST:
                world.figures["logins after a loss"] += 1
                await self.log_in(name)
                self.lost.discard(name)

    async def token(self, process: Process, name: str = DEFAULT) -> None:
        """Request the token, as a caller does."""
        await process.step()
        async with process.accounts.opened(name) as found:
            token = await found.keeper.token()
        self.world.check_served(token.value.reveal(), process, name)

    async def refresh(self, process: Process, name: str = DEFAULT, *, count: int = 1) -> None:
        """Force a refresh, or many one after the other, as a program in a loop does."""
        for _ in range(count):
            await process.step()
            async with process.accounts.opened(name) as found:
                # Only a short grace forbids what a user may demand.
                by_user = self.world.climate.has_short_grace and self.world.rng.random() < 0.5
                with self.world.attempts.demanded(name) if by_user else nullcontext():
                    await found.keeper.refresh(by_user=by_user)

    async def log_in(self, name: str = DEFAULT) -> None:
        """Log in as a user does, and retry for longer than any outage lasts."""
        give_up_at = self.world.loop.time() + MAX_LOSSLESS_OUTAGE_SECONDS + 3600
        while self.world.loop.time() < give_up_at:
            self.world.check()
            process = self.world.rng.choice([p for p in self.started if p.awake.is_set()] or [None])
            if process is None:
                await asyncio.sleep(5)
                continue
            done = await self._log_in_at(process, name)
            if done:
                self.world.figures["logins"] += 1
                return
            await asyncio.sleep(10)
        raise BrokenInvariantError(f"no login of {name} succeeded")

    async def _log_in_at(self, process: Process, name: str) -> bool:
        """Log in at one process. An account that is unknown or was removed is added first."""
        ledger = self.world.ledgers[name]
        action = ledger.begins(login=True, by=process)

        async def log_in() -> None:
            accounts = process.accounts
            try:
                if name not in accounts.names():
                    with suppress(AccountExists):
                        await accounts.add(name, Entry(added_at=process.clock.now()))
                        self.world.figures["accounts added"] += 1
                async with accounts.opened(name) as found:
                    await found.keeper.login(ATTEMPT)
                    ledger.confirmed(action, process, found.keeper.account.consent_id)
            except XotsError:
                ledger.refused(action)
                raise

        await asyncio.wait([process.spawn(log_in())])
        return action.confirmed or action.held

    async def end(self, process: Process, name: str = DEFAULT, *, forget: bool) -> None:
        """Revoke or log out, as a user does."""
        ledger = self.world.ledgers[name]
        action = ledger.begins(login=False, by=process)

        async def end() -> None:
            try:
                async with process.accounts.opened(name) as found:
                    await found.keeper.end(forget=forget)
                    ledger.confirmed(action, process, None)
            except XotsError:
                ledger.refused(action)
                raise

        await asyncio.wait([process.spawn(end())])

    async def remove(self, process: Process, name: str) -> None:
        """Remove an account, as a user does."""
        ledger = self.world.ledgers[name]
        action = ledger.begins(login=False, by=process)

        async def remove() -> None:
            try:
                await process.accounts.remove(name)
            except XotsError:  # the login may be ended, and the account still there
                ledger.cut_short(action, process)
                raise
            ledger.confirmed(action, process, None)
            self.world.figures["accounts removed"] += 1

        await asyncio.wait([process.spawn(remove())])

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
        awake = all(p.awake.is_set() and p.has_started for p in self.processes)
        away_until = max(
            (world.store_away_until, *(p.cut_off_until for p in self.processes)), default=0
        )
        names = [name for name in world.names if self._is_in_memory(name)]
        if not (self.dumps and names and awake) or world.loop.time() < away_until:
            return
        world.figures["roll-backs"] += 1
        world.say("the store is rolled back:", *names)
        dump = world.rng.choice(self.dumps)
        world.kept = {name: record for name, record in world.kept.items() if name not in names} | {
            name: record for name, record in dump.items() if name in names
        }
        world.excused_until = world.loop.time() + 180
        for process in self.processes:
            process.safe_until = world.excused_until
        world.notify(None)
        await asyncio.sleep(181)

    def _is_in_memory(self, name: str) -> bool:
        """Tell if a process has the newest record of an account in memory, and keeps it there."""
        best = self.world.account(name).generation
        for process in self.started:
            found = open_keepers_of(process.accounts).get(name)
            soon = process.clock.elapsed() + 200
            stays = found is not None and (name == DEFAULT or not found.is_idle(soon))
            if found is not None and stays and found.keeper.account.generation >= best:
                return True
        return False

    # The end

    async def settle(self) -> None:
        """Stop all faults, and check the processes after the longest wait of a 429.

        Raises:
            BrokenInvariantError: a process has an unsaved record, or another one than the store.
        """
        world = self.world
        world.climate = world.climate.without_faults()
        world.xero_away, world.store_away_until = (0.0, ""), 0.0
        for process in self.processes:
            process.wake()
            process.skew, process.cut_off_until = timedelta(0), 0.0
        await asyncio.sleep(4500)
        world.check()
        if world.climate.has_short_grace:
            await self._log_in_again()
            await asyncio.sleep(NEW_LOGIN_SECONDS)
            world.check()
        listed = [name for name in world.names if name in world.kept]
        listed = [name for name in listed if not world.account(name).removed]
        for process in self.processes:
            for name, keeper in process.keepers().items():
                if keeper.unsaved or keeper.store_problem:
                    raise BrokenInvariantError(
                        f"at the end, p{process.number} has an unsaved record of {name}"
                    )
                if keeper.account.write_id != world.account(name).write_id:
                    raise BrokenInvariantError(
                        f"at the end, p{process.number} has another record of {name} than the store"
                    )
            if process.accounts.names() != sorted({DEFAULT, *listed}):
                raise BrokenInvariantError(
                    f"at the end, p{process.number} lists {process.accounts.names()}"
                )
        await self.check_none_forgotten()

    async def check_none_forgotten(self) -> None:
        """Check that no account stays due for longer than a tick and a request's time.

        Raises:
            BrokenInvariantError: one does.
        """
        due = {name: self.world.account(name).write_id for name in self._due_now()}
        await asyncio.sleep(DUE_WITHIN.total_seconds())
        for name in self._due_now():
            if due.get(name) == self.world.account(name).write_id:
                raise BrokenInvariantError(f"{name} is due, and no process refreshes it")

    def _due_now(self) -> list[str]:
        now = self.world.now()
        times = {name: self._attention_at(name, now) for name in self.world.names}
        return [name for name, due_at in times.items() if due_at is not None and due_at <= now]

    async def check_connected(self) -> None:
        """Check that every process serves a token, unless a user has ended the login.

        Raises:
            BrokenInvariantError: one does not.
        """
        if self.lost and self.world.within_bound and not self.world.climate.has_short_grace:
            raise BrokenInvariantError(f"a login was reported lost: {sorted(self.lost)}")
        for name in self.world.names:
            if self.world.account(name).consent_id is not None:
                for process in self.processes:
                    await self._check_connected(process, name)
        if self.world.broken:
            raise self.world.broken

    async def _check_connected(self, process: Process, name: str) -> None:
        async with process.accounts.opened(name) as found:
            try:
                await self.token(process, name)
            except ConsentLost:  # a caller is the first who needs a token since a reuse
                if not self.world.climate.has_short_grace:
                    raise
                await self._log_in_again()
                await asyncio.sleep(NEW_LOGIN_SECONDS)
                await self.token(process, name)
            keeper, now = found.keeper, process.clock.now()
            # A refresh ahead that failed and left no open refresh waits for the next due time.
            ahead = keeper.usage.keeps_fresh(process.clock.elapsed())
            step = next_step(keeper.account, now, keeper.policy, ahead=ahead)
            # With a short grace, the last attempt waits for the expiry of the access token.
            rests = (Idle, Wait) if self.world.climate.has_short_grace else (Idle,)
            is_waiting = keeper.state is State.REFRESH_FAILING and isinstance(step, rests)
            if keeper.state is not State.CONNECTED and not is_waiting:
                raise BrokenInvariantError(
                    f"at the end, {name} is {keeper.state} at p{process.number}"
                )

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
