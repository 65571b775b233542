"""The world that the simulated processes share: its faults and its invariants."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support.inside import operations_of, watch_of

from xots.backends.base import Stored
from xots.errors import XotsError
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.account import Account, decode
from xots.sandbox import Client, Identity, SiblingMode, Switches
from xots.secret import Secret
from xots.xero.protocol import Credentials

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access", "accounting.transactions")
GRACE = timedelta(minutes=30)

NAPS = (5, 30, 240)
"""How long a process sleeps, in seconds: within its lease, past it, and well inside the grace."""

LONG_SLEEP = 4000
"""In seconds: far past the grace."""

KINDS = (
    "not-sent",
    "before",
    "after",
    "503-before",
    "503-after",
    "429",
    "client",
    "bare",
    "slow",
    "twice",
)
"""What may go wrong with one request to Xero."""

UNNOTICED = ("bare", "twice")
"""After these the newest refresh token may be dead or unknown, and no process knows it."""

HEARD = ("not-sent", "before", "503-before", "429", "client", "slow")
"""After these it is known what Xero issued, as soon as it answers again."""

LONGEST_OUTAGE_SECONDS = 1200
"""Of what an answer may be lost before: with the tries around it, well inside Xero's 30 minutes."""

LONGEST_HEARD_OUTAGE_SECONDS = 3 * 3600
"""Where no answer is ever lost."""


class BrokenInvariantError(AssertionError):
    """What must never happen has happened; the message says what."""


@dataclass(frozen=True)
class Climate:
    """What a seed has trouble with, and how much."""

    processes: int = 1
    life_seconds: int = 1800
    ahead_seconds: int = 300
    every_seconds: float = 60
    """Average interval between acts of users and callers. If it is long, ticks do the work."""
    xero: float = 0.0
    """The part of the requests to Xero that go wrong."""
    kinds: tuple[str, ...] = KINDS
    store: float = 0.0
    """The part of the words with the store that go wrong."""
    deaths: float = 0.0
    """The chance of dying at one word with the outside."""
    pauses: float = 0.0
    outages: bool = False
    """Of Xero, of the store, and of one process's connection to it."""
    longest_outage_seconds: float = LONGEST_OUTAGE_SECONDS
    roll_backs: bool = False
    steps: bool = False
    """Do clocks step?"""
    kernel_locks: bool = False
    """True if only the death of its holder frees a lease; False if it expires without a renewal."""

    @classmethod
    def drawn(cls, chance: random.Random) -> Climate:
        """Draw the faults of a seed: each kind is absent, rare or frequent."""
        heard = chance.random() < 0.2
        outages = heard or chance.random() < 0.3
        kinds = tuple(kind for kind in KINDS if chance.random() < 0.6) or KINDS
        # After some of them a token is dead and no process knows it. The next refresh has to
        # follow well within the grace period.
        seldom = chance.random() < 0.6
        unwanted = UNNOTICED if outages or seldom else ()
        return cls(
            processes=chance.randint(1, 4),
            life_seconds=chance.choice((180, 600, 1800, 7200) if seldom else (180, 600, 1800)),
            ahead_seconds=chance.choice((0, 60, 300)) if seldom else 300,
            every_seconds=chance.choice((60, 600, 3600)) if seldom else 60,
            xero=chance.choice((0.0, 0.02, 0.1, 0.3)),
            kinds=HEARD if heard else tuple(kind for kind in kinds if kind not in unwanted),
            store=chance.choice((0.0, 0.01, 0.05)),
            deaths=0.0 if heard else chance.choice((0.0, 0.0005, 0.004)),
            pauses=0.0 if heard else chance.choice((0.0, 0.0005, 0.004)),
            outages=outages,
            longest_outage_seconds=LONGEST_HEARD_OUTAGE_SECONDS
            if heard
            else LONGEST_OUTAGE_SECONDS,
            roll_backs=chance.random() < 0.5,
            steps=chance.random() < 0.5,
            kernel_locks=chance.random() < 0.3,
        )


class ProcessClock:
    """A process's clock: the world's time of day with the skew of the process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> datetime:
        return self._process.world.now() + self._process.skew

    def elapsed(self) -> float:
        return self._process.world.loop.time()


@dataclass(eq=False)
class Process:
    """One process: it may be paused, its clock may be off, and once it is dead it stays dead."""

    number: int
    world: World
    skew: timedelta = timedelta(0)
    dead: bool = False
    gone_since: float | None = None
    """Since when it has been dead or paused."""
    safe_until: float = 0.0
    """Until then it neither dies nor sleeps."""
    cut_off_until: float = 0.0
    """Until then it does not reach the store."""
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    keeper: TokenKeeper = field(init=False)
    clock: ProcessClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = ProcessClock(self)
        self.awake.set()

    async def step(self, *, may_pause: bool = True, long: bool = False) -> None:
        """Let the process die or pause at a call of the store or of Xero.

        ``long``: it may sleep longer than the grace period, since it checks its lease afterwards.
        """
        world, climate = self.world, self.world.climate
        if not self.dead and world.loop.time() >= self.safe_until:
            if climate.deaths and world.chance.random() < climate.deaths:
                self.die()
            elif may_pause and climate.pauses and world.chance.random() < climate.pauses:
                self.sleep(world.chance.choice(NAPS))
            elif long and climate.pauses and world.chance.random() < 0.02 and self._others_go_on():
                self.sleep(LONG_SLEEP)
        await self.awake.wait()
        if self.dead:
            await (
                self.world.loop.create_future()
            )  # for ever: whatever a dead process had begun is cancelled

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run ``work`` in this process, until the process dies."""
        task = asyncio.ensure_future(self._quietly(work))
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
        task.add_done_callback(lambda done: work.close())  # it may have died before it began
        return task

    async def _quietly(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except XotsError:
            pass
        except BrokenInvariantError as error:
            self.world.breaks(error)
        except Exception as error:  # noqa: BLE001 - whatever else the program raises is a bug of it
            self.world.breaks(BrokenInvariantError(f"p{self.number} crashed: {error!r}"))

    def _others_go_on(self) -> bool:
        """Tell if another process can conclude this one's open refresh within the grace period."""
        processes, climate = self.world.processes, self.world.climate
        hinders = climate.kernel_locks or climate.outages or climate.roll_backs
        return (
            len(processes) > 1
            and not hinders
            and all(process.awake.is_set() for process in processes)
        )

    def sleep(self, seconds: float) -> None:
        """Stop, as after SIGSTOP, and continue after ``seconds``."""
        if self.awake.is_set():
            self.world.say(f"p{self.number} sleeps for {seconds} s")
            self.world.figures["long sleeps" if seconds == LONG_SLEEP else "pauses"] += 1
            self.awake.clear()
            self.gone_since = self.world.loop.time()
            self.world.loop.call_later(seconds, self.wake)

    def wake(self) -> None:
        if not self.dead and not self.awake.is_set():
            self.world.leases_slept_past(self)
            self.gone_since = None
            self.awake.set()

    def die(self) -> None:
        """End the process as SIGKILL does: it concludes and reports nothing."""
        if self.dead:
            return
        self.world.say(f"p{self.number} dies")
        self.world.figures["deaths"] += 1
        if self.keeper.unsaved:
            self.world.figures["deaths with something unsaved"] += 1
        self.dead, self.gone_since = True, self.world.loop.time()
        self.world.ledger.died(self)
        self.awake.set()
        watch = watch_of(self.keeper)
        watching = [watch] if watch else []
        # In the order of their making: a set has none, and a seed must replay.
        for task in sorted(
            {*self.tasks, *operations_of(self.keeper), *watching},
            key=lambda t: (len(t.get_name()), t.get_name()),
        ):
            task.cancel()
        self.world.on_death(self)


@dataclass(eq=False)
class Held:
    """A lease that is held."""

    holder: Process
    ttl_seconds: float
    over: bool = False
    """Did its holder sleep past its end?"""


@dataclass(eq=False)
class Act:
    """A login, or the end of one, as its user saw it."""

    login: bool
    by: Process | None
    began_at: float
    over_at: float | None = None
    """When it was acknowledged, or its process died."""
    acknowledged: bool = False
    held: bool = False
    """Was it acknowledged while the store failed? Then it counts once it is written."""
    consent_id: str | None = None


class Ledger:
    """The confirmations that users received: only a later login or end undoes a confirmed one.

    Acts that overlap in time may count in either order. A refused act must have changed nothing.
    The act of a process that died may have been carried out or not.
    """

    def __init__(self) -> None:
        self._acts = [Act(login=False, by=None, began_at=-1, over_at=-1, acknowledged=True)]

    def begins(self, *, login: bool, by: Process) -> Act:
        act = Act(login=login, by=by, began_at=by.world.loop.time())
        self._acts.append(act)
        return act

    def refused(self, act: Act) -> None:
        self._acts.remove(act)

    def written(self, consent_id: str | None, by: Process) -> None:
        """Note a record with this consent. A new consent belongs to a login of this process."""
        if consent_id is not None and all(act.consent_id != consent_id for act in self._acts):
            unknown = (
                a
                for a in self._acts
                if a.login and a.by is by and a.over_at is None and a.consent_id is None
            )
            if (act := next(unknown, None)) is not None:
                act.consent_id = consent_id

    def acknowledged(self, act: Act, by: Process) -> None:
        if act.login and (consent_id := by.keeper.account.consent_id) != act.consent_id:
            for (
                other
            ) in self._acts:  # of two logins at one process, it is learnt here which is which
                if other.consent_id == consent_id and not other.acknowledged:
                    other.consent_id = act.consent_id
            act.consent_id = consent_id
        act.held = by.keeper.unsaved
        if not act.held:
            act.acknowledged, act.over_at = True, by.world.loop.time()

    def died(self, process: Process) -> None:
        for act in self._acts:
            if act.by is process and act.over_at is None:
                act.over_at = process.world.loop.time()

    def check(self, consent_id: str | None, now: float) -> None:
        """Check that the record of the store agrees with the confirmations that users received."""
        for act in self._acts:
            if (
                act.held
                and act.over_at is None
                and act.by is not None
                and not act.by.keeper.unsaved
            ):
                act.acknowledged, act.over_at = True, now
        told = [act for act in self._acts if act.acknowledged]
        last = max(act.began_at for act in told)
        self._acts = [act for act in self._acts if act.over_at is None or act.over_at >= last]
        if any(
            act.consent_id == consent_id and act.login == (consent_id is not None)
            for act in self._acts
        ):
            return
        raise BrokenInvariantError(
            f"the store holds the consent {consent_id}, and what people were told is "
            + ", ".join(f"{'login ' + str(a.consent_id) if a.login else 'end'}" for a in self._acts)
        )


class World:
    """Everything that the processes share, and the seed that everything comes from."""

    def __init__(
        self,
        seed: int,
        mode: SiblingMode,
        climate: Climate,
        *,
        trace: bool = False,
        within_bound: bool = True,
    ) -> None:
        self.trace = trace
        self.within_bound = within_bound
        """True while every event is within the bound of the invariant, which is checked only then."""
        self.chance = random.Random(seed)  # noqa: S311 - a simulation
        self.climate = climate
        self.loop = asyncio.get_running_loop()
        self.identity = Identity(
            [CLIENT],
            switches=Switches(
                sibling_mode=mode,
                late_reuse_kills_chain=self.chance.random() < 0.5,
                access_token_life_seconds=climate.life_seconds,
            ),
            random=self.chance,
        )
        self.processes: list[Process] = []
        """Those that live."""
        self.kept: dict[str, Stored] = {}
        self.wakers: dict[asyncio.Event, None] = {}
        """Return the processes that follow the store's changes."""
        self.leases: dict[str, Held] = {}
        self.ledger = Ledger()
        self.figures: Counter[str] = Counter()
        self.broken: BrokenInvariantError | None = None
        self.excused_until = 0.0
        self.xero_away: tuple[float, str] = (0.0, "")
        """Until when, and what becomes of a request meanwhile."""
        self.store_away_until = 0.0
        self.sleep_before_revoking = 0.0
        """For so many seconds, between the last look at the lease and the sending."""
        self.on_death: Any = lambda process: None

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    def say(self, *words: object) -> None:
        if self.trace:
            print(f"{self.now():%d %H:%M:%S.%f}", *words)

    def account(self) -> Account:
        """Return the record of the store."""
        stored = self.kept.get("default")
        return Account() if stored is None else decode(stored.value)

    def write(self, name: str, stored: Stored, by: Process) -> None:
        """Write a record for a process."""
        self.kept[name] = stored
        self.ledger.written(self.account().consent_id, by)
        self.tell()
        self.check()

    def tell(self) -> None:
        """Notify each follower that the store may have changed."""
        for waker in self.wakers:
            waker.set()

    def leases_slept_past(self, process: Process) -> None:
        for held in self.leases.values():
            if held.holder is process and self.run_out(held):
                held.over = True

    def run_out(self, held: Held) -> bool:
        """Tell if another process may take this lease."""
        if held.over or self.climate.kernel_locks:
            return held.over or held.holder.dead
        gone = held.holder.gone_since
        return gone is not None and self.loop.time() - gone > held.ttl_seconds

    def check(self) -> None:
        """Check the invariants.

        Raises:
            BrokenInvariantError: one does not hold, now or earlier. It names the first one.
        """
        if self.broken:
            raise self.broken
        if not self.within_bound or self.loop.time() < self.excused_until:
            return
        try:
            account = self.account()
            self.ledger.check(account.consent_id, self.loop.time())
            self._check_tokens(account)
        except BrokenInvariantError as error:
            self.breaks(error)
            raise

    def breaks(self, error: BrokenInvariantError) -> None:
        """Remember the first broken invariant, which the next ``check`` raises."""
        if self.broken is None:
            self.broken = error
            self.say("BROKEN:", error)

    def _check_tokens(self, account: Account) -> None:
        if account.consent_id is None:
            return
        tokens = [t for t in (account.current, *account.fallbacks) if t is not None]
        if any(self.identity.would_issue(t.value.reveal(), self.now()) for t in tokens):
            return
        why = [
            (t.value.fingerprint, self.identity.refusal_of(t.value.reveal(), self.now()))
            for t in tokens
        ]
        raise BrokenInvariantError(
            f"Xero would issue from no token of generation {account.generation}: {why}"
        )

    def check_use(self, token: str) -> None:
        """Check that a refresh token is used within 30 minutes of its first use."""
        known = self.identity.tokens.refresh_tokens.get(token)
        if known is None or known.first_used_at is None:
            return
        self.figures["spent tokens used again"] += 1
        if self.within_bound and self.now() - known.first_used_at > GRACE:
            after = self.now() - known.first_used_at
            self.breaks(
                BrokenInvariantError(f"a refresh token was used again {after} after its first use")
            )

    def check_served(self, access_token: str, process: Process) -> None:
        """Check that Xero accepts an access token that a process has just served."""
        self.figures["tokens served"] += 1
        known = self.identity.tokens.access_tokens.get(access_token)
        # A process that starts cannot know that the clock was a minute ahead at the refresh.
        late = timedelta(minutes=1 if self.climate.steps else 0)
        if known is None or (
            known.expires_at + late <= self.now() and abs(process.skew) < timedelta(seconds=2)
        ):
            self.breaks(BrokenInvariantError(f"p{process.number} served a token that Xero refuses"))
