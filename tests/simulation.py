"""A deterministic simulation: the real keepers, in several simulated processes, on a simulated store, Xero and clock.

``python tests/simulation.py --seeds 1..1000`` prints its figures; a broken invariant prints the seed that replays it,
and ``--trace`` tells what happened in that seed, step by step. Nothing here waits in real time: the event loop's time
jumps to whatever is due next, and everything random comes from the seed.

What is injected, at every word with the store or with Xero: answers lost before and after the commit, 5xx, 429,
``invalid_client``, answers without a refresh token, delays; store failures before and after the write, roll-backs to an
old dump; crashes, pauses beyond the lease, clock steps. Login, revoke and logout happen among the refreshes.

The invariant: while somebody is logged in, the store holds a token from which Xero would issue.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import selectors
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from xots import keeper as keeper_room
from xots.account import Account, Secret, decode
from xots.backends.base import Lease, Stored, TokenStore
from xots.errors import StaleWrite, StoreUnavailable, XotsError
from xots.events import Event
from xots.keeper import LoginAttempt, TokenKeeper
from xots.lifecycle import Failure, NotSent, Outcome, State, Unknown
from xots.sandbox import Client, Identity, OAuthError, SiblingMode, Switches
from xots.xero import Answer, Credentials, Endpoints, read_token_answer

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access", "accounting.transactions")
GRACE = timedelta(minutes=30)


class BrokenInvariantError(AssertionError):
    """What must never happen has happened; the message says what, and when."""


class Killed(BaseException):
    """The process that asked is dead: nothing that it does reaches anybody any more."""


# -------------------------------------------------------------------------------------- time that jumps


class _Jumping(selectors.SelectSelector):
    """A selector that never waits: it moves the loop's time on by as long as it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise BrokenInvariantError("a deadlock: nobody waits for anything that will ever happen")
        self.now += max(timeout, 0)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


# ------------------------------------------------------------------------------------------------ world


@dataclass
class Process:
    """One process: it may be paused, its clock may be off, and once it is dead it stays dead."""

    number: int
    world: World
    skew: timedelta = timedelta(0)
    dead: bool = False
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: TokenKeeper | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def clock(self) -> datetime:
        return self.world.now() + self.skew

    async def step(self) -> None:
        """Every word with the outside passes here: the place where a process is paused or found dead."""
        await self.awake.wait()
        if self.dead:
            raise Killed

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(self._quietly(work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _quietly(self, work: Any) -> None:
        with suppress(XotsError, Killed):
            await work


class World:
    """Everything that the processes share, and the seed that everything comes from."""

    def __init__(self, seed: int, mode: SiblingMode, faults: float, trace: bool) -> None:
        self.seed, self.trace = seed, trace
        self.chance = random.Random(seed)  # noqa: S311 - a simulation
        self.faults = faults
        self.loop = asyncio.get_running_loop()
        self.identity = Identity(
            [CLIENT],
            switches=replace(Switches(), sibling_mode=mode, late_reuse_kills_chain=self.chance.random() < 0.5),
            random=self.chance,
        )
        self.kept: dict[str, Stored] = {}
        self.dumps: list[dict[str, Stored]] = []
        self.holders: dict[str, tuple[Process, object, float]] = {}
        self.figures: Counter[str] = Counter()
        self.excused_until: datetime | None = None

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    def say(self, *words: object) -> None:
        if self.trace:
            print(f"{self.now():%d %H:%M:%S.%f}", *words)

    def goes_wrong(self, part: float = 1.0) -> bool:
        return self.chance.random() < self.faults * part

    def account(self) -> Account:
        stored = self.kept.get("default")
        return Account() if stored is None else decode(stored.value)

    def check(self) -> None:
        """The invariant, at this instant."""
        account = self.account()
        if account.consent_id is None or (self.excused_until and self.now() < self.excused_until):
            return
        tokens = [t for t in (account.current, *account.rivals) if t is not None]
        if any(self.identity.would_issue(t.value.reveal(), self.now()) for t in tokens):
            return
        why = [(t.value.fingerprint, self.identity.refusal_of(t.value.reveal(), self.now())) for t in tokens]
        raise BrokenInvariantError(f"Xero would issue from no token of generation {account.generation}: {why}")


class PlainSealer:
    """Seals nothing: whether the seal holds is tested elsewhere, and here it would cost most of the time."""

    def seal(self, body: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        return body

    def open(self, sealed: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        return sealed


class SimulatedLease(Lease):
    """Renewed by its holder while that runs; lost once somebody else has taken it."""

    def __init__(self, store: SimulatedStore, name: str, mark: object) -> None:
        super().__init__()
        self._store, self._name, self._mark = store, name, mark

    @property
    def lost(self) -> bool:
        holder = self._store.world.holders.get(self._name)
        return holder is None or holder[1] is not self._mark


class SimulatedStore(TokenStore):
    """One process's connection to the store, with whatever goes wrong on the way."""

    shared = durable = True

    def __init__(self, process: Process) -> None:
        self.process, self.world = process, process.world

    @classmethod
    def from_url(cls, url: str) -> SimulatedStore:
        raise ValueError(url)

    async def _way(self) -> None:
        await self.process.step()
        await asyncio.sleep(self.world.chance.random() * 0.01)
        await self.process.step()

    async def read(self, name: str) -> Stored | None:
        await self._way()
        if self.world.goes_wrong(0.5):
            self.world.figures["store: read failed"] += 1
            raise StoreUnavailable("the store is away")
        found = self.world.kept.get(name)
        await self._way()
        return found

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        await self._way()
        if self.world.goes_wrong(0.5):
            self.world.figures["store: write failed"] += 1
            raise StoreUnavailable("the store is away")
        kept = self.world.kept.get(name)
        if (kept.version if kept else None) != expected:
            self.world.figures["store: stale write"] += 1
            raise StaleWrite(name)
        version = hashlib.sha256(value).hexdigest()
        self.world.kept[name] = Stored(value, version)
        account = decode(value)
        self.world.say(f"p{self.process.number} wrote {_shown(account)}")
        self.world.check()
        lost = self.world.goes_wrong(0.5)
        await self._way()
        if lost:
            self.world.figures["store: reply lost"] += 1
            raise StoreUnavailable("the reply was lost")
        return version

    async def names(self) -> list[str]:
        return sorted(self.world.kept)

    async def check(self) -> None:
        await self._way()

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        await self._way()
        mark = object()
        give_up_at = self.world.loop.time() + 60
        while (held := self.world.holders.get(name)) is not None and not self._free(held):
            if self.world.loop.time() > give_up_at:
                raise StoreUnavailable("somebody has held the lease for too long")
            await asyncio.sleep(0.5)
            await self.process.step()
        self.world.holders[name] = (self.process, mark, ttl_seconds)
        try:
            yield SimulatedLease(self, name, mark)
        finally:
            if not self.process.dead and self.world.holders.get(name, (None, None))[1] is mark:
                del self.world.holders[name]

    def _free(self, held: tuple[Process, object, float]) -> bool:
        """A dead or paused holder's lease runs out. A paused one's only once it is paused for longer."""
        holder = held[0]
        return holder.dead or (not holder.awake.is_set() and self.world.chance.random() < 0.2)

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        known = self.world.kept.get(name)
        while True:
            await asyncio.sleep(every_seconds)
            await self.process.step()
            if (found := self.world.kept.get(name)) != known:
                known = found
                yield


class SimulatedXero:
    """One process's connection to Xero, with whatever goes wrong on the way."""

    endpoints = Endpoints(connections_url="")

    def __init__(self, process: Process) -> None:
        self.process, self.world = process, process.world

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        world = self.world
        world.figures["refreshes asked"] += 1

        def commit() -> dict[str, Any]:
            spent = world.identity._refresh_tokens.get(token.reveal())
            used = spent.first_used_at if spent else None
            if used is not None and world.now() - used > GRACE:
                raise BrokenInvariantError(
                    f"#{token.fingerprint} was used again {world.now() - used} after its first use"
                )
            answer = world.identity.refresh(CLIENT, token.reveal(), world.now())
            world.figures["refreshes issued"] += 1
            world.say(f"  Xero: p{self.process.number} spent #{token.fingerprint}, got #{_mark(answer.refresh_token)}")
            return dict(answer.fields)

        return await self._post(commit)

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        world = self.world

        def commit() -> dict[str, Any]:
            answer = world.identity.log_in(CLIENT.client_id, world.now(), scopes=SCOPES, tenant_ids=("t",))
            return dict(answer.fields)

        return await self._post(commit)

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        await self.process.step()
        if self.world.goes_wrong():
            return Unknown(detail="503")
        self.world.identity.revoke(CLIENT, token.reveal())
        self.world.say(f"  Xero: p{self.process.number} revoked by #{token.fingerprint}")
        self.world.figures["revocations"] += 1
        await self.process.step()
        return Unknown(detail="reset") if self.world.goes_wrong() else None

    def close(self) -> None:
        pass

    async def _post(self, commit: Any) -> Outcome:
        world, kind = self.world, ""
        if world.goes_wrong():
            kinds = ("not-sent", "before", "after", "503-before", "503-after", "429", "client", "bare", "slow")
            kind = world.chance.choice(kinds)
            world.figures[f"xero: {kind}"] += 1
            world.say(f"  Xero: {kind}")
        await self.process.step()
        if kind == "not-sent":
            return NotSent(detail="no route")
        await asyncio.sleep(world.chance.random() * 0.5)
        # From here on the request is on its way, whatever becomes of the process.
        if kind == "before":
            answer = None
        elif kind == "503-before":
            answer = Answer(503, {}, b"<html>")
        elif kind == "429":
            answer = Answer(429, {"Retry-After": str(world.chance.choice((0, 5, 60, 4000)))}, b"")
        elif kind == "client":
            answer = Answer(400, {}, b'{"error": "invalid_client"}')
        else:
            try:
                fields = commit()
                if kind == "bare":
                    del fields["refresh_token"]
                answer = Answer(200, {}, _json(fields))
            except OAuthError as error:
                answer = Answer(400, {}, _json({"error": error.code.value}))
            world.check()
            if kind == "after":
                answer = None
            elif kind == "503-after":
                answer = Answer(503, {}, b"")
        await asyncio.sleep(world.chance.random() * (30 if kind == "slow" else 0.5))
        await self.process.step()
        return Unknown(detail="no answer") if answer is None else read_token_answer(answer, self.process.clock())


def _json(fields: Mapping[str, Any]) -> bytes:
    import msgspec

    return msgspec.json.encode(fields)


def _mark(token: str | None) -> str | None:
    return Secret(token).fingerprint if token else None


def _shown(account: Account) -> str:
    def mark(t: Any) -> str:
        return f"#{t.value.fingerprint[:6]}{'*' if t.first_spent_at else ''}{'!' if t.refused_at else ''}"

    current = mark(account.current) if account.current else "-"
    return (
        f"g{account.generation} {str(account.consent_id)[:4]} current {current} rivals "
        f"[{' '.join(mark(r) for r in account.rivals)}] intent {account.intent is not None} tries {account.tries} "
        f"revocation {account.revocation}"
    )


# ------------------------------------------------------------------------------------------ what happens


class Simulation:
    """One seed's story: some hours, with everything that goes wrong in them."""

    def __init__(self, world: World, processes: int, hours: float) -> None:
        self.world, self.hours = world, hours
        self.processes: list[Process] = []
        self.wanted = processes
        self.count = 0

    async def run(self) -> None:
        world = self.world
        for _ in range(self.wanted):
            await self._start()
        await self._log_in()
        end = world.loop.time() + self.hours * 3600
        while world.loop.time() < end:
            await asyncio.sleep(world.chance.expovariate(1 / 240))
            await self._happen()
            world.check()
        await self._come_to_rest()

    async def _start(self) -> None:
        world = self.world
        self.count += 1
        process = Process(self.count, world, skew=timedelta(seconds=world.chance.uniform(-1, 1)))
        process.awake.set()
        process.keeper = TokenKeeper(
            SimulatedStore(process),
            SimulatedXero(process),  # type: ignore[arg-type]
            PlainSealer(),  # type: ignore[arg-type]
            configured=CREDENTIALS,
            observers=[lambda event: self._seen(process, event)],
            clock=process.clock,
            chance=world.chance,
        )
        self.processes.append(process)
        world.say(f"p{process.number} starts")
        process.spawn(self._live(process))

    async def _live(self, process: Process) -> None:
        assert process.keeper is not None
        while True:
            try:
                await process.keeper.start()
                break
            except StoreUnavailable:
                await asyncio.sleep(2)
        while True:
            await process.keeper.tend()
            await asyncio.sleep(15 + self.world.chance.random())
            await process.step()

    def _seen(self, process: Process, event: Event) -> None:
        self.world.figures[type(event).__name__] += 1
        self.world.say(f"p{process.number}: {event}")

    async def _happen(self) -> None:
        chance, process = self.world.chance, self.world.chance.choice(self.processes)
        act = chance.choices(
            ("token", "refresh", "crash", "pause", "step", "log in", "revoke", "log out", "roll back", "dump"),
            (40, 30, 6, 5, 3, 2, 1, 1, 1, 6),
        )[0]
        keeper = process.keeper
        assert keeper is not None
        match act:
            case "token":
                process.spawn(self._token(process))
            case "refresh":
                process.spawn(keeper.refresh())
            case "crash":
                self._crash(process)
                await asyncio.sleep(chance.random() * 120)
                await self._start()
            case "pause":
                process.spawn(self._pause(process, chance.choice((5, 30, 120))))
            case "step":
                process.skew = timedelta(seconds=chance.choice((-86400, -60, 0, 0, 60, 86400)))
                self.world.say(f"p{process.number}'s clock is off by {process.skew}")
                process.spawn(self._mend_clock(process))
            case "log in":
                await self._log_in()
            case "revoke" | "log out":
                self.world.say(f"p{process.number}: {act}")
                process.spawn(self._end(process, forget=act == "log out"))
            case "dump":
                self.world.dumps = [*self.world.dumps[-3:], dict(self.world.kept)]
            case "roll back":
                await self._roll_back()

    async def _token(self, process: Process) -> None:
        assert process.keeper is not None
        token = await process.keeper.token()
        self.world.figures["tokens served"] += 1
        if process.skew < timedelta(seconds=2) and token.expires_at < process.clock():
            raise BrokenInvariantError(f"p{process.number} served a token that died at {token.expires_at}")

    async def _pause(self, process: Process, seconds: float) -> None:
        self.world.say(f"p{process.number} sleeps for {seconds} s")
        process.awake.clear()
        await asyncio.sleep(seconds)
        process.awake.set()

    async def _mend_clock(self, process: Process) -> None:
        await asyncio.sleep(self.world.chance.random() * 600)
        process.skew = timedelta(0)

    async def _end(self, process: Process, *, forget: bool) -> None:
        assert process.keeper is not None
        await process.keeper.end(forget=forget)
        await asyncio.sleep(60)
        await self._log_in()

    def _crash(self, process: Process) -> None:
        self.world.say(f"p{process.number} dies")
        self.world.figures["crashes"] += 1
        process.dead = True
        process.awake.set()
        self.processes.remove(process)
        assert process.keeper is not None
        if process.keeper._record.unwritten:
            self.world.figures["crashes with something unwritten"] += 1
        watching = [process.keeper._watching] if process.keeper._watching else []
        for task in [*process.tasks, *process.keeper._tasks, *watching]:
            task.cancel()

    async def _log_in(self) -> None:
        """A person logs in, and tries again until it works: clocks are right in his presence."""
        for _ in range(50):
            process = self.world.chance.choice([p for p in self.processes if p.awake.is_set()] or self.processes)
            assert process.keeper is not None
            process.skew = timedelta(0)
            attempt = LoginAttempt(
                credentials=CREDENTIALS, code=Secret("c"), verifier=None, redirect_uri="http://x/code", scopes=SCOPES
            )
            try:
                await process.keeper.login(attempt)
            except (XotsError, Killed):
                await asyncio.sleep(5)
                continue
            self.world.figures["logins"] += 1
            return
        raise BrokenInvariantError("no login succeeded")

    async def _roll_back(self) -> None:
        """The store is restored from an old dump. Somebody alive knows better, and tells it within a moment."""
        knows = [p for p in self.processes if p.awake.is_set() and p.keeper and p.keeper.account.generation]
        if not self.world.dumps or not knows:
            return
        best = self.world.account().generation
        if not any(p.keeper.account.generation >= best for p in knows if p.keeper):
            return
        self.world.figures["roll-backs"] += 1
        self.world.say("the store is rolled back")
        self.world.kept = dict(self.world.chance.choice(self.world.dumps))
        self.world.excused_until = self.world.now() + timedelta(minutes=3)
        await asyncio.sleep(180)

    async def _come_to_rest(self) -> None:
        """Nothing goes wrong any more: once the longest wait that a 429 may ask for is over, all are connected."""
        world = self.world
        world.faults = 0.0
        for process in self.processes:
            process.awake.set()
            process.skew = timedelta(0)
        await asyncio.sleep(4500)
        world.check()
        states = {p.keeper.state for p in self.processes if p.keeper}
        if world.account().consent_id is not None and states != {State.CONNECTED}:
            raise BrokenInvariantError(f"at rest, the processes are {', '.join(sorted(states))}")
        if world.identity.counts.refusals and world.figures["ConsentWasLost"]:
            raise BrokenInvariantError("a consent was lost, though Xero would have issued all the time")


async def simulate(seed: int, mode: SiblingMode, *, hours: float, trace: bool = False) -> Counter[str]:
    """One seed, in one sibling mode: its figures.

    Raises:
        BrokenInvariantError: with what broke.
    """
    chance = random.Random(seed)  # noqa: S311 - a simulation
    world = World(seed, mode, faults=chance.choice((0.0, 0.02, 0.05, 0.15)), trace=trace)
    simulation = Simulation(world, processes=chance.randint(1, 4), hours=hours)
    try:
        await simulation.run()
    finally:
        for process in list(simulation.processes):
            simulation._crash(process)
        await asyncio.sleep(1)
    return world.figures


def run_seed(seed: int, mode: SiblingMode, *, hours: float = 12, trace: bool = False) -> Counter[str]:
    """``simulate`` in a loop of its own."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(simulate(seed, mode, hours=hours, trace=trace))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1..100", help="A..B (default: %(default)s)")
    parser.add_argument(
        "--mode", choices=[m.value for m in SiblingMode], help="one sibling mode; all of them if not given"
    )
    parser.add_argument("--hours", type=float, default=12, help="simulated hours a seed (default: %(default)s)")
    parser.add_argument("--refreshes", type=int, help="stop each mode once so many refreshes were asked for")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    keeper_room.logger.disabled = True
    broken = 0
    for mode in [SiblingMode(options.mode)] if options.mode else list(SiblingMode):
        figures: Counter[str] = Counter()
        seed = int(first)
        for seed in range(int(first), int(last or first) + 1):
            try:
                figures += run_seed(seed, mode, hours=options.hours, trace=options.trace)
            except BrokenInvariantError as error:
                broken += 1
                print(f"BROKEN: {error}\n  replay: python {sys.argv[0]} --seeds {seed} --mode {mode} --trace")
            if options.refreshes and figures["refreshes asked"] >= options.refreshes:
                break
        print(f"{mode}: seeds {first}..{seed}, {figures['refreshes asked']} refreshes, {broken} broken invariants")
        print("   " + ", ".join(f"{name} {count}" for name, count in sorted(figures.items())))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
