"""The world that the simulated processes share: its faults and its invariants."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from support.inside import open_keepers_of

from xots.accounts.accounts import Accounts
from xots.backends.base import Stored
from xots.backends.due_index import DueIndex
from xots.errors import XotsError
from xots.keeping.keeper import TokenKeeper
from xots.keeping.usage import Fresh
from xots.lifecycle.account import Account
from xots.lifecycle.record_json import decode
from xots.sandbox import Client, Identity, SiblingMode, Switches
from xots.sandbox.identity.clients import User
from xots.sandbox.identity.consents import Consent
from xots.secret import Secret
from xots.xero.protocol import Credentials

from .attempts import PAUSE_SECONDS, Attempts
from .ledger import BrokenInvariantError, Ledger

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access", "accounting.transactions")
XERO_GRACE_SECONDS = 1800.0

DEFAULT = "default"
MAX_OTHER_ACCOUNTS = 4
"""Upper bound on the accounts of a seed beside the default one."""

LONG_PAUSE_SECONDS = 4000
"""Far longer than the grace period."""

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
"""The faults of a request to Xero."""

SILENT_FAULTS = ("bare", "twice")
"""After these faults the newest refresh token may be dead or unknown, and no process knows that."""

LOSSLESS_FAULTS = ("not-sent", "before", "503-before", "429", "client", "slow")
"""After these faults the outcome is known as soon as Xero responds again: no response is lost."""

MAX_OUTAGE_SECONDS = 1200
"""Upper bound on an outage after a possible loss of a response. With the attempts before and after
it, it is well within the grace period of 30 minutes."""

MAX_LOSSLESS_OUTAGE_SECONDS = 3 * 3600
"""Upper bound on an outage if no response can be lost."""


@dataclass(frozen=True)
class Climate:
    """The faults of a seed, and their frequencies."""

    processes: int = 1
    life_seconds: int = 1800
    ahead_seconds: int = 300
    every_seconds: float = 60
    """Average interval between actions of users and callers. If it is long, ticks do the work."""
    xero: float = 0.0
    """The share of faulty requests to Xero."""
    kinds: tuple[str, ...] = KINDS
    store: float = 0.0
    """The share of failed calls of the store."""
    deaths: float = 0.0
    """The probability of a death at one call of Xero or of the store."""
    pauses: float = 0.0
    outages: bool = False
    """True if Xero, the store, or the connection of one process to it fails for a time."""
    max_outage_seconds: float = MAX_OUTAGE_SECONDS
    roll_backs: bool = False
    steps: bool = False
    """True if clocks are set."""
    step_seconds: tuple[int, ...] = (-86400, -60, 60, 86400)
    kernel_locks: bool = False
    """True if only the death of its holder frees a lease; False if it expires without a renewal."""
    accounts: tuple[Fresh, ...] = ()
    """The accounts beside the default one: when each is kept fresh."""
    shares_user: bool = False
    """True if one Xero user has logged in to all accounts."""
    shares_index: bool = True
    """True if the store keeps the index of due accounts; False if each process has its own."""
    rotation_hours: float = 1200
    """The age at which the refresh token of an unused account is rotated."""
    grace_seconds: float = XERO_GRACE_SECONDS
    """The grace period of the server, which is also that of the processes' settings."""

    @classmethod
    def drawn(cls, rng: random.Random) -> Climate:
        """Draw the faults of a seed: each kind is absent, rare or frequent."""
        lossless = rng.random() < 0.2
        outages = lossless or rng.random() < 0.3
        kinds = tuple(kind for kind in KINDS if rng.random() < 0.6) or KINDS
        # After a silent fault, the next refresh has to follow well within the grace period.
        seldom = rng.random() < 0.6
        unwanted = SILENT_FAULTS if outages or seldom else ()
        climate = cls(
            processes=rng.randint(1, 4),
            life_seconds=rng.choice((180, 600, 1800, 7200) if seldom else (180, 600, 1800)),
            ahead_seconds=rng.choice((0, 60, 300)) if seldom else 300,
            every_seconds=rng.choice((60, 600, 3600)) if seldom else 60,
            xero=rng.choice((0.0, 0.02, 0.1, 0.3)),
            kinds=LOSSLESS_FAULTS
            if lossless
            else tuple(kind for kind in kinds if kind not in unwanted),
            store=rng.choice((0.0, 0.01, 0.05)),
            deaths=0.0 if lossless else rng.choice((0.0, 0.0005, 0.004)),
            pauses=0.0 if lossless else rng.choice((0.0, 0.0005, 0.004)),
            outages=outages,
            max_outage_seconds=MAX_LOSSLESS_OUTAGE_SECONDS if lossless else MAX_OUTAGE_SECONDS,
            roll_backs=rng.random() < 0.5,
            steps=rng.random() < 0.5,
            kernel_locks=rng.random() < 0.3,
        )
        return climate.with_accounts(rng)

    def with_accounts(self, rng: random.Random) -> Climate:
        """Draw the accounts of a seed: a part of all seeds has the default one only."""
        count = rng.choice((0, 0, 1, 2, 3, MAX_OTHER_ACCOUNTS))
        # After a silent fault, only a refresh well within the grace period finds the live token.
        often = set(SILENT_FAULTS) & set(self.kinds) and self.xero
        choices = (Fresh.ALWAYS,) if often else tuple(Fresh)
        return replace(
            self,
            accounts=tuple(rng.choice(choices) for _ in range(count)),
            shares_user=rng.random() < 0.3 and count > 0,
            shares_index=rng.random() < 0.6,
            rotation_hours=rng.choice((2, 1200)),
        )

    def with_short_grace(self, seconds: float) -> Climate:
        """Return the climate at a server with this grace period, which ends a login if a token is
        used again later.

        These faults are left out, since no process can know then what a reuse costs:

        - a restored old dump holds spent tokens that look unspent;
        - a request that arrives twice is a reuse of its own;
        - a response without a refresh token says that the old one stays valid (RFC 6749 section 6);
        - clocks that differ by more than ``MAX_CLOCK_SKEW`` tell nothing about the expiry of the
          access token, which permits a reuse.

        A process pauses at any call, but not between its check of the lease and the request: see
        ``SimulatedXero.refresh``.
        """
        kinds = tuple(kind for kind in self.kinds if kind not in SILENT_FAULTS) or LOSSLESS_FAULTS
        return replace(
            self, kinds=kinds, roll_backs=False, step_seconds=(-4, 4), grace_seconds=seconds
        )

    @property
    def has_short_grace(self) -> bool:
        """True if a lost response can cost the login: see ``Attempts``."""
        return self.grace_seconds < XERO_GRACE_SECONDS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all accounts."""
        return (DEFAULT, *(f"account-{number}" for number in range(1, len(self.accounts) + 1)))

    def fresh(self, name: str) -> Fresh:
        """Return when an account is kept fresh."""
        return dict(zip(self.names, (Fresh.ALWAYS, *self.accounts), strict=True))[name]

    def user_id(self, name: str) -> str:
        """Return the Xero user who logs in to an account."""
        return f"user-of-{DEFAULT if self.shares_user else name}"

    def without_faults(self) -> Climate:
        """Return the same processes and accounts, with no fault from now on."""
        return Climate(
            processes=self.processes,
            life_seconds=self.life_seconds,
            kernel_locks=self.kernel_locks,
            accounts=self.accounts,
            shares_user=self.shares_user,
            shares_index=self.shares_index,
            rotation_hours=self.rotation_hours,
            grace_seconds=self.grace_seconds,
        )


class ProcessClock:
    """A process's clock: the world's time of day with the skew of the process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> datetime:
        return self._process.world.now() + self._process.skew

    def elapsed(self) -> float:
        return self._process.world.loop.time()


PROCESS: ContextVar[Process] = ContextVar("process")
"""The process that runs the current task. A task that it starts belongs to it too."""


def new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Return a task of the process that starts it. This is the loop's task factory."""
    task = asyncio.Task(work, loop=loop, **options)
    context: Context | None = options.get("context")
    process = PROCESS.get(None) if context is None else context.get(PROCESS)
    if process is not None:
        process.owns(task)
    return task


def outside_of_processes(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task that belongs to no process."""
    return asyncio.get_running_loop().create_task(work, context=Context())


@dataclass(eq=False)
class Process:
    """One process: it can pause, its clock can be wrong, and its death is final."""

    number: int
    world: World
    skew: timedelta = timedelta(0)
    dead: bool = False
    gone_since: float | None = None
    """The time of its death or of its pause."""
    safe_until: float = 0.0
    """Until this time it neither dies nor pauses."""
    cut_off_until: float = 0.0
    """Until this time it can not reach the store."""
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    accounts: Accounts = field(init=False)
    has_started: bool = False
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
            if climate.deaths and world.rng.random() < climate.deaths:
                self.die()
            elif may_pause and climate.pauses and world.rng.random() < climate.pauses:
                self.sleep(world.rng.choice(PAUSE_SECONDS))
            elif long and climate.pauses and world.rng.random() < 0.02 and self._others_go_on():
                self.sleep(LONG_PAUSE_SECONDS)
        await self.awake.wait()
        if self.dead:
            # Wait for ever: all tasks of a dead process are cancelled.
            await self.world.loop.create_future()

    @property
    def keeper(self) -> TokenKeeper:
        """The keeper of the default account."""
        return self.accounts.default

    def keepers(self) -> dict[str, TokenKeeper]:
        """Return the open keepers, by account."""
        return {name: found.keeper for name, found in open_keepers_of(self.accounts).items()}

    def is_unsaved(self, name: str) -> bool:
        """Tell if memory holds a change of an account that the store could not take."""
        keeper = self.keepers().get(name)
        return keeper is not None and keeper.unsaved

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run ``work`` in this process, until the process dies."""
        context = Context()
        context.run(PROCESS.set, self)
        task = self.world.loop.create_task(self._quietly(work), context=context)
        task.add_done_callback(
            lambda done: work.close()
        )  # the process may have died before the start
        return task

    def owns(self, task: asyncio.Task[Any]) -> None:
        """Note a task of this process. One that a dead process starts does nothing."""
        if self.dead:
            task.cancel()
            return
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))

    async def _quietly(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except XotsError:
            pass
        except BrokenInvariantError as error:
            self.world.breaks(error)
        except Exception as error:  # noqa: BLE001 - any other error is a bug
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
            self.world.figures["long sleeps" if seconds == LONG_PAUSE_SECONDS else "pauses"] += 1
            self.awake.clear()
            self.world.attempts.interrupt(self, "a pause")
            self.gone_since = self.world.loop.time()
            self.world.loop.call_later(seconds, self.wake)

    def wake(self) -> None:
        if not self.dead and not self.awake.is_set():
            self.world.leases_slept_past(self)
            self.gone_since = None
            self.awake.set()

    def die(self) -> None:
        """End the process as SIGKILL does, without a conclusion or a report."""
        if self.dead:
            return
        self.world.say(f"p{self.number} dies")
        self.world.figures["deaths"] += 1
        if any(keeper.unsaved for keeper in self.keepers().values()):
            self.world.figures["deaths with something unsaved"] += 1
        self.dead, self.gone_since = True, self.world.loop.time()
        self.world.attempts.interrupt(self, "a death")
        for ledger in self.world.ledgers.values():
            ledger.died(self)
        self.awake.set()
        for task in list(self.tasks):
            task.cancel()
        self.world.on_death(self)


@dataclass(eq=False)
class Held:
    """A lease that is held."""

    holder: Process
    ttl_seconds: float
    over: bool = False
    """True if its holder slept past its expiry."""


class World:
    """The shared state of the processes, all drawn from one seed."""

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
        """True if every event is within the bound. The invariant is checked only then."""
        self.rng = random.Random(seed)  # noqa: S311 - a simulation
        self.climate = climate
        self.loop = asyncio.get_running_loop()
        self.loop.set_task_factory(new_task)  # type: ignore[arg-type]
        self.names = climate.names
        may_kill = self.rng.random() < 0.5
        users = dict.fromkeys(climate.user_id(name) for name in self.names)
        self.identity = Identity(
            [CLIENT],
            users=[User(user_id=user_id) for user_id in users],
            mint=_unsigned,
            switches=Switches(
                sibling_mode=mode,
                late_reuse_kills_chain=may_kill or climate.has_short_grace,
                grace_seconds=climate.grace_seconds,
                access_token_life_seconds=climate.life_seconds,
            ),
            random=self.rng,
        )
        self.processes: list[Process] = []
        """The living processes."""
        self.kept: dict[str, Stored] = {}
        self.index = DueIndex()
        """The store's index of due accounts, if the processes share it."""
        self.followers: dict[Follower, None] = {}
        self.leases: dict[str, Held] = {}
        self.ledgers = {name: Ledger(name) for name in self.names}
        self.attempts = Attempts(self)
        self.widest_skew = timedelta(0)
        """The largest error that a clock has had."""
        self.owners: dict[Consent, str] = {}
        """The account whose login made each consent at Xero."""
        self.stuck: set[str] = set()
        """The accounts whose invariants are not checked now, since an operator damaged them."""
        self.troubles: dict[str, str] = {}
        """The accounts whose requests to Xero fail, and the fault of each."""
        self.slow_records: dict[str, float] = {}
        """The accounts whose record takes long to read and to write, in seconds."""
        self._decoded: dict[str, tuple[Stored, Account]] = {}
        self.figures: Counter[str] = Counter()
        self.broken: BrokenInvariantError | None = None
        self.excused_until = 0.0
        self.xero_away: tuple[float, str] = (0.0, "")
        """The end of Xero's outage, and the fault of each request until then."""
        self.store_away_until = 0.0
        self.sleep_before_revoking = 0.0
        """Length of a sleep between the last check of the lease and a revocation, in seconds."""
        self.on_death: Any = lambda process: None

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    def say(self, *words: object) -> None:
        if self.trace:
            print(f"{self.now():%d %H:%M:%S.%f}", *words)

    def account(self, name: str = DEFAULT) -> Account:
        """Return an account's record in the store."""
        stored = self.kept.get(name)
        if stored is None:
            return Account()
        known = self._decoded.get(name)
        if known is None or known[0] is not stored:
            known = self._decoded[name] = stored, decode(stored.value)
        return known[1]

    def write(self, name: str, stored: Stored, by: Process) -> None:
        """Write a record for a process."""
        self.kept[name] = stored
        account = self.account(name)
        self.ledgers[name].written(account.consent_id, by)
        self.attempts.written(name, account, by)
        self.notify(name)
        self.check()

    def notify(self, name: str | None) -> None:
        """Notify each follower that a record has changed; None: any may have."""
        for follower in self.followers:
            follower.names[name] = None
            follower.wake.set()

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
            for name in self.names:
                if name not in self.stuck:
                    account = self.account(name)
                    self.ledgers[name].check(account.consent_id, self.loop.time())
                    self._check_tokens(name, account)
        except BrokenInvariantError as error:
            self.breaks(error)
            raise

    def breaks(self, error: BrokenInvariantError) -> None:
        """Remember the first broken invariant, which the next ``check`` raises."""
        if self.broken is None:
            self.broken = error
            self.say("BROKEN:", error)

    def owner_of(self, refresh_token: str) -> str | None:
        """Return the account whose login a refresh token belongs to."""
        known = self.identity.tokens.refresh_tokens.get(refresh_token)
        return None if known is None else self.owners[known.consent]

    def _check_tokens(self, name: str, account: Account) -> None:
        tokens = [t for t in (account.current, *account.fallbacks) if t is not None]
        for token in tokens:
            if self.owner_of(token.value.reveal()) not in (None, name):
                raise BrokenInvariantError(f"{name} holds a token of another account")
        if account.consent_id is None:
            return
        app = self.identity.app(CLIENT.client_id, self.climate.user_id(name))
        if account.tenant_id and app and account.tenant_id not in app.connections:
            raise BrokenInvariantError(f"{name}: its organisation is disconnected at Xero")
        if self.climate.has_short_grace:
            self.attempts.check_record(name, account)
            return
        if any(self.identity.would_issue(t.value.reveal(), self.now()) for t in tokens):
            return
        why = [
            (t.value.fingerprint, self.identity.refusal_of(t.value.reveal(), self.now()))
            for t in tokens
        ]
        raise BrokenInvariantError(
            f"{name}: Xero would issue from no token of generation {account.generation}: {why}"
        )

    def check_use(self, token: str) -> None:
        """Check that a refresh token is used within 30 minutes of its first use."""
        known = self.identity.tokens.refresh_tokens.get(token)
        if known is None or known.first_used_at is None or self.owners[known.consent] in self.stuck:
            return  # after the end of a consent at Xero, a late reuse can end nothing more
        self.figures["reuses of spent tokens"] += 1
        grace = timedelta(seconds=XERO_GRACE_SECONDS)
        if self.within_bound and self.now() - known.first_used_at > grace:
            after = self.now() - known.first_used_at
            self.breaks(
                BrokenInvariantError(f"a refresh token was used again {after} after its first use")
            )

    def check_served(self, access_token: str, process: Process, name: str) -> None:
        """Check that Xero accepts an access token that a process has just served, and that it
        belongs to this account."""
        self.figures["tokens served"] += 1
        known = self.identity.tokens.access_tokens.get(access_token)
        # A process can not know at its start that the clock was a minute ahead at the refresh.
        late = timedelta(minutes=1 if self.climate.steps else 0)
        if known is None or (
            known.expires_at + late <= self.now() and abs(process.skew) < timedelta(seconds=2)
        ):
            self.breaks(BrokenInvariantError(f"p{process.number} served a token that Xero refuses"))
        elif self.owners[known.consent] != name:
            self.breaks(BrokenInvariantError(f"p{process.number} served another account's token"))


@dataclass(eq=False)
class Follower:
    """One process's subscription to the changes of the store."""

    names: dict[str | None, None] = field(default_factory=lambda: {None: None})
    wake: asyncio.Event = field(default_factory=asyncio.Event)


def _unsigned(claims: Mapping[str, object]) -> str:
    """Return a JWT without a signature, which costs less."""
    return f"e30.{base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b'=').decode()}.s"
