"""Outages: Redis killed, hung, restored, failed over; Xero unreachable; clocks that are set.

The keepers, the stores, the redis-servers and their sentinels are real. Xero is the sandbox. In
each section, callers request the token from every keeper all the time. The state of the sandbox
shows if Xero accepts the served tokens, and if it would issue from a refresh token of the stored
record.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import redis as redis_client
from support.bench import UNLIMITED
from support.inside import context_of, operations_of, watch_of
from support.redis_servers import RedisServer, free_port

from xots.backends import TokenStore, open_store, redis_url
from xots.backends.base import Lease, Stored
from xots.backends.redis import RedisStore
from xots.clock import Clock
from xots.errors import ConsentLost, NoToken, StoreUnavailable, TokenUnavailable
from xots.events import (
    ConsentWasLost,
    Event,
    Refreshed,
    RefreshFailed,
    StoreDegraded,
    StoreLostWrites,
)
from xots.keeping import record_store as record_room
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.keeping.record_store import open_record
from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.outcomes import Outcome
from xots.lifecycle.schedule import MIN_SERVABLE, State
from xots.rotation import Rotation
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_REDIRECT_URI,
    Refusal,
    Sandbox,
    SandboxOptions,
    SiblingMode,
    Switches,
)
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.wiring import log_event
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials

from ._clock import LeapingClock
from ._closing import close_with_all

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCOPES = ("offline_access", "accounting.transactions")
CREDENTIALS = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))
GRACE = timedelta(minutes=30)

CONDITION_TIMEOUT_SECONDS = 30.0
"""Upper bound on the wait for a condition: longer than an orphan lease and a fail-over on a busy
machine."""

MAX_ATTEMPTS_PER_HOUR = 160
"""Waits are random, up to 60 s. About 120 attempts an hour are usual. 160 are six standard
deviations more."""

T = TypeVar("T")

logger = logging.getLogger("xots")


@dataclass(frozen=True)
class Options:
    """Durations and numbers. The defaults are shorter than in xots, which has 12 s and 5 s."""

    lease_seconds: float = 2.0
    """Lifetime of a lease after its holder has ended without a release."""
    response_timeout_seconds: float = 0.5
    """Timeout of a response of Redis."""
    keepers: int = 3
    sentinels: int = 1
    hours: float = 24.0
    """Duration of the long outage of Xero."""
    old_master_returns: bool = True
    """True if the old master returns after a fail-over. A sentinel notices it after 10 seconds."""


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class House:
    """A simulated Xero, and the keepers that share one account in one store.

    Args:
        url: URL of the store.
        figures: the counts.
        rng: the source of all random values.
        clock: the correct clock, which Xero and every correct host use; by default the system's.
        mode: sibling mode of Xero; drawn if it is None.
    """

    def __init__(
        self,
        url: str,
        figures: Counter[str],
        rng: random.Random,
        *,
        clock: FakeClock | None = None,
        mode: SiblingMode | None = None,
    ) -> None:
        self.url, self.figures, self.rng = url, figures, rng
        self.clock: FakeClock | LeapingClock = clock or LeapingClock()
        switches = Switches(
            sibling_mode=mode or rng.choice(list(SiblingMode)),
            late_reuse_kills_chain=rng.random() < 0.5,
        )
        self.sandbox = Sandbox(SandboxOptions(port=free_port(), switches=switches), self.clock.now)
        self.identity = self.sandbox.identity
        self.keepers: list[TokenKeeper] = []
        self.clients: list[XeroClient] = []
        self.events: list[Event] = []
        self._rotations: list[Rotation] = []
        self._sealer = Sealer.for_this_process()
        self._errors = _Errors()
        self._watcher = open_store(url)

    async def __aenter__(self) -> House:
        logger.addHandler(self._errors)
        self.sandbox.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.sandbox.faults.clear()
        self.sandbox.release()
        try:
            if kind is None:
                await self.close_keepers()
                self.count()
        finally:
            for keeper in self.keepers:
                await abandon(keeper)
            await self._watcher.close()
            await self.sandbox.stop()
            logger.removeHandler(self._errors)

    async def keeper(
        self,
        *,
        store: TokenStore | None = None,
        clock: Clock | None = None,
        xero: type[XeroClient] = XeroClient,
        ticking: bool = True,
    ) -> TokenKeeper:
        """Start the keeper of one more process, with its own connections and its own tick."""
        endpoints = IdentityServer(
            authorize_url=self.sandbox.authorize_url,
            token_url=self.sandbox.token_url,
            revoke_url=self.sandbox.revoke_url,
            connections_url=self.sandbox.connections_url,
        )
        self.clients.append(xero(endpoints, clock=clock or self.clock))
        keeper = TokenKeeper(
            store or open_store(self.url),
            self.clients[-1],
            self._sealer,
            policy=UNLIMITED,
            clock=clock or self.clock,
            rng=self.rng,
            observers=[self.events.append, log_event],
        )
        self.keepers.append(keeper)
        await keeper.start()
        if ticking:
            self._rotations.append(Rotation(keeper))
            self._rotations[-1].start()
        return keeper

    async def close_keepers(self) -> None:
        """Close every process, so that its unsaved changes are written."""
        for rotation in self._rotations:
            rotation.stop()
        keepers, self.keepers, self._rotations = self.keepers, [], []
        async with asyncio.timeout(CONDITION_TIMEOUT_SECONDS):
            await asyncio.gather(*(close_with_all(keeper) for keeper in keepers))

    async def log_in(self, keeper: TokenKeeper | None = None) -> None:
        """Log in at one of the processes, as a user does."""
        parameters = {
            "response_type": "code",
            "client_id": DEFAULT_CLIENT_ID,
            "redirect_uri": DEFAULT_REDIRECT_URI,
            "scope": " ".join(SCOPES),
            "state": "s",
        }
        request = self.identity.check_authorization(parameters)
        tenants = list(self.sandbox.world.accounting.organisations)[:1]
        code = self.identity.consent(request, self.clock.now(), tenant_ids=tenants)["code"]
        attempt = LoginAttempt(
            credentials=CREDENTIALS,
            code=Secret(code),
            verifier=None,
            redirect_uri=DEFAULT_REDIRECT_URI,
            scopes=SCOPES,
        )
        await (keeper or self.keepers[0]).login(attempt)

    async def kept(self) -> Account:
        """Read the record from the store over a separate connection."""
        stored = await self._watcher.read("default")
        return Account() if stored is None else open_record(self._sealer, stored, "default")

    async def settled(self) -> Account:
        """Wait until all keepers agree with the store, and no operation is in progress.

        Return the record.
        """

        async def agreed() -> bool:
            kept = await self.kept()
            return all(
                not operations_of(keeper)
                and keeper.store_problem is None
                and keeper.account.write_id == kept.write_id
                for keeper in self.keepers
            )

        await until(agreed)
        return await self.kept()

    async def check(self) -> None:
        """Check the invariant in the store, and the events that must not have happened."""
        kept = await self.kept()
        if kept.consent_id is not None:
            assert any(self.would_issue(token) for token in tokens_of(kept)), (
                "Xero would issue from no token of the store"
            )
        assert not self.happened(ConsentWasLost), f"the login was lost: {self._errors.lines}"
        assert not [r for r in self.sandbox.refreshes() if r.reason == Refusal.SPENT], (
            "a token was reused after its grace period"
        )
        self.figures["checks of the invariant"] += 1

    def would_issue(self, token: RefreshToken) -> bool:
        return self.identity.would_issue(token.value.reveal(), self.clock.now())

    async def works(self) -> None:
        """Check that each keeper can refresh, and that the store has the new record."""
        for keeper in self.keepers:
            before = keeper.account.access
            await keeper.refresh()
            assert keeper.account.access != before
            await self.settled()
        await self.check()

    def served(self, keeper: TokenKeeper) -> None:
        """Check that a caller gets the token at once, and that Xero's API accepts it."""
        call = keeper.token()
        try:
            call.send(None)
        except StopIteration as returned:
            self.is_live(returned.value)
        else:
            call.close()
            raise AssertionError("a caller had to wait although the keeper had a valid token")

    def is_live(self, token: AccessToken) -> None:
        """Check that Xero's API accepts a token now."""
        self.identity.check_access(token.value.reveal(), self.clock.now())  # raises BearerRefused
        self.figures["tokens served"] += 1

    async def requesting(self) -> None:
        """Request the token from all keepers all the time, as callers do."""
        while True:
            for keeper in self.keepers:
                self.served(keeper)
            await asyncio.sleep(0.01)

    async def refreshing(self, keeper: TokenKeeper) -> None:
        """Make one refresh after another. A failure is correct while the store is unreachable."""
        while True:
            with suppress(TokenUnavailable):
                await keeper.refresh()
            await asyncio.sleep(self.rng.random() * 0.05)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Let every keeper refresh and serve during the block."""
        async with meanwhile(self.requesting(), *map(self.refreshing, self.keepers)):
            yield

    def happened(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def reported(self) -> bool:
        """Tell if an event and an ERROR line of the log reported the loss of the login."""
        return bool(self.happened(ConsentWasLost)) and any(
            "a user must log in again" in e for e in self._errors.lines
        )

    def count(self) -> None:
        self.figures["refreshes"] += self.happened(Refreshed)
        self.figures["requests at Xero"] += len(self.sandbox.refreshes())
        self.figures["store outages noticed"] += self.happened(StoreDegraded)
        self.figures["lost writes reported"] += self.happened(StoreLostWrites)


def tokens_of(account: Account) -> list[RefreshToken]:
    return [token for token in (account.current, *account.fallbacks) if token is not None]


async def abandon(keeper: TokenKeeper) -> None:
    """End a process at once, without a clean close."""
    await end([task for task in (watch_of(keeper), *operations_of(keeper)) if task is not None])
    context_of(keeper).xero.close()
    await context_of(keeper).store.close()


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: in Python 3.11 redis-py may swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(
    condition: Callable[[], Awaitable[bool]], within_seconds: float = CONDITION_TIMEOUT_SECONDS
) -> None:
    """Wait until a condition is true. A store that fails counts as false."""
    give_up_at = time.monotonic() + within_seconds
    while True:
        with suppress(StoreUnavailable, redis_client.exceptions.ConnectionError):
            if await condition():
                return
        assert time.monotonic() < give_up_at, f"{condition.__qualname__} stayed false"
        await asyncio.sleep(0.02)


async def in_a_thread(work: Callable[[], T]) -> T:
    """Run ``work`` to its end, even if its caller is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[RedisServer]:
    """Run a Redis server. A thread starts it, because a start in the event loop blocks the loop.
    Meanwhile the requests to the servers of other sections would time out."""
    with ExitStack() as stack:
        yield await in_a_thread(lambda: stack.enter_context(RedisServer(*options)))


@asynccontextmanager
async def meanwhile(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``works`` during the block. Raise the error of any of them afterwards."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        await end(tasks)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


@contextmanager
def hastened(options: Options) -> Iterator[None]:
    """Set the lifetime of leases and the response timeout of Redis to those of the options."""
    before = record_room.LEASE_SECONDS, redis_url.RESPONSE_TIMEOUT_SECONDS
    record_room.LEASE_SECONDS, redis_url.RESPONSE_TIMEOUT_SECONDS = (
        options.lease_seconds,
        options.response_timeout_seconds,
    )
    try:
        yield
    finally:
        record_room.LEASE_SECONDS, redis_url.RESPONSE_TIMEOUT_SECONDS = before


# ------------------------------------------------------------------------- outages of the store


async def killed(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Kill Redis (appendonly yes) at random moments of refreshes, and start it again."""
    async with running("appendonly yes") as redis, House(redis.unix_url, figures, rng) as house:
        for _ in range(options.keepers):
            await house.keeper()
        await house.log_in()
        await house.settled()
        async with house.busy():
            for _ in range(3):
                await asyncio.sleep(rng.random() * 0.5)
                redis.kill()
                figures["kills"] += 1
                await asyncio.sleep(rng.random() * 0.5)
                await in_a_thread(redis.start)
            await asyncio.sleep(rng.random() * 0.5)
        await timed(house.settled(), figures, "longest recovery, ms")
        await house.check()
        await house.works()


async def timed(work: Awaitable[object], figures: Counter[str], name: str) -> None:
    """Await ``work``. Keep its duration in this figure if it is the longest one."""
    began = time.monotonic()
    await work
    figures[name] = max(figures[name], round(1000 * (time.monotonic() - began)))


PHASES = ("lease", "read", "intent", "request", "conclusion", "release")
"""The phases of a refresh. Redis stops at the beginning of each."""


async def hung(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Stop Redis (SIGSTOP) in each phase of a refresh, for three durations.

    The first is shorter than the response timeout. After the second, the response is lost, and the
    keeper can read the outcome. After the third, it can not.
    """
    works = []
    for phase, times in itertools.product(PHASES, (0.5, 1.5, 3)):
        own = random.Random(rng.random())  # noqa: S311
        works.append(hung_in(phase, options.response_timeout_seconds * times, figures, own))
    await together(works)


async def hung_in(phase: str, seconds: float, figures: Counter[str], rng: random.Random) -> None:
    """Stop Redis for some seconds, from this phase of one refresh on."""
    pending: list[asyncio.Task[None]] = []

    async def hang() -> None:
        redis.signal(signal.SIGSTOP)
        figures["hangs"] += 1
        pending.append(asyncio.create_task(resume()))

    async def resume() -> None:
        await asyncio.sleep(seconds)
        redis.signal(signal.SIGCONT)

    async with running("appendonly yes") as redis, House(redis.unix_url, figures, rng) as house:
        phases = Phases(phase, hang)
        watched = await house.keeper(store=phases.of(redis.unix_url), xero=phases.client)
        await house.keeper()
        await house.log_in()
        await house.settled()
        async with meanwhile(house.requesting()):
            phases.armed = True
            with suppress(TokenUnavailable):
                await watched.refresh()
            await asyncio.gather(*pending)
            await timed(house.settled(), figures, "longest recovery, ms")
        assert pending, f"a refresh has no phase {phase}"
        await house.check()
        await house.works()


class Phases:
    """Follows the phases of a keeper's refresh, and calls ``act`` once, at the beginning of one."""

    def __init__(self, phase: str, act: Callable[[], Awaitable[None]]) -> None:
        self.armed = False
        self._phase, self._act = phase, act
        self._swaps = 0
        phases = self

        class Client(XeroClient):
            async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
                await phases.begins("request")
                return await super().refresh(credentials, token)

        self.client = Client

    def of(self, url: str) -> TokenStore:
        """Return a store that reports the phases from its calls."""
        phases = self

        class Store(RedisStore):
            async def read(self, name: str) -> Stored | None:
                await phases.begins("read")
                return await super().read(name)

            async def swap(
                self,
                name: str,
                value: bytes,
                *,
                expected: str | None,
                due_at: datetime | None = None,
            ) -> str:
                await phases.begins(("intent", "conclusion")[min(phases._swaps, 1)])
                phases._swaps += phases.armed
                return await super().swap(name, value, expected=expected, due_at=due_at)

            @asynccontextmanager
            async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
                await phases.begins("lease")
                async with super().lease(name, ttl_seconds) as lease:
                    yield lease
                    await phases.begins("release")

        return Store.from_url(url)

    async def begins(self, phase: str) -> None:
        if self.armed and phase == self._phase:
            self._phase = ""
            await self._act()


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run ``works`` concurrently. The first error ends all of them."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        for task in tasks:
            await task
    finally:
        await end(tasks)


HISTORIES = ("refreshes", "login", "logout", "everything")
"""The changes that the old dump lacks. With "everything", the dump is empty."""


async def restored(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Restore an old dump of Redis, with all processes alive and with none."""
    works = [
        restored_alive(history, figures, random.Random(rng.random()))  # noqa: S311
        for history in HISTORIES
    ]
    works += [
        restored_to_none(history, minutes, figures, random.Random(rng.random()))  # noqa: S311
        for history, minutes in itertools.product(HISTORIES, (5, 40))
    ]
    await together(works)


async def restore_dump(redis: RedisServer, dump: bytes | None) -> None:
    """Stop the server, and start it with this dump, or empty."""
    redis.kill()
    path = redis.folder / "dump.rdb"
    path.unlink(missing_ok=True)
    if dump is not None:
        path.write_bytes(dump)
    await in_a_thread(redis.start)


async def pass_time(house: House, redis: RedisServer, history: str) -> bytes | None:
    """Log in, make a dump, and make later changes that it lacks."""
    await house.log_in()
    await house.settled()
    redis.admin.save()
    dump = None if history == "everything" else (redis.folder / "dump.rdb").read_bytes()
    if history == "login":
        await house.log_in(house.keepers[-1])
    for _ in range(house.rng.randint(1, 4)):
        await house.settled()
        await house.rng.choice(house.keepers).refresh()
    await house.settled()
    if history == "logout":
        await house.keepers[0].end(forget=house.rng.random() < 0.5)
        await house.settled()
    return dump


async def restored_alive(history: str, figures: Counter[str], rng: random.Random) -> None:
    """The running processes merge and write: the newest consent wins, and a logout persists."""
    async with running() as redis, House(redis.unix_url, figures, rng) as house:
        for _ in range(3):
            await house.keeper()
        dump = await pass_time(house, redis, history)
        known = house.keepers[0].account
        await restore_dump(redis, dump)
        kept = await house.settled()
        figures["restored, processes alive"] += 1
        assert house.happened(StoreLostWrites), "the lost writes of the store were not reported"
        assert kept.generation > known.generation
        assert (kept.consent_id, kept.ended_at) == (known.consent_id, known.ended_at)
        await house.check()
        if history == "logout":
            assert not house.identity.usable_refresh_tokens(house.clock.now()), (
                "Xero still issues after the logout"
            )
            for keeper in house.keepers:
                with suppress(NoToken):
                    await keeper.token()
                    raise AssertionError("a token is served after the logout")
            return
        assert kept.current == known.current
        await house.works()
        async with house.busy():  # the same while they refresh
            await asyncio.sleep(rng.random() * 0.2)
            await restore_dump(redis, dump)
            await asyncio.sleep(rng.random() * 0.2)
        assert (await house.settled()).consent_id == known.consent_id
        await house.works()
        assert house.identity.counts.exchanges == (2 if history == "login" else 1)


async def restored_to_none(
    history: str, minutes: float, figures: Counter[str], rng: random.Random
) -> None:
    """No process with a newer record is alive. The old record works, or the loss is reported."""
    async with running() as redis, House(redis.unix_url, figures, rng) as house:
        await house.keeper()
        dump = await pass_time(house, redis, history)
        await house.close_keepers()
        await restore_dump(redis, dump)
        house.clock.advance(60 * minutes)
        keeper = await house.keeper()
        error: NoToken | None = None
        try:
            await keeper.refresh()
        except NoToken as refused:
            error = refused
        # With an empty store, a loss looks like a first start.
        if error is not None and history != "everything":
            assert isinstance(error, ConsentLost)
            assert house.reported(), "the loss was not reported"
        live = [token for token in tokens_of(await house.settled()) if house.would_issue(token)]
        # The dump works if its token is within the grace period, or of an older valid login.
        works = history == "login" or (history == "refreshes" and minutes < 30)
        assert (error is None) is works, (
            f"{history}, {minutes} minutes later: {error or 'it works'}"
        )
        assert bool(live) is works
        if works:
            house.is_live(await keeper.token())
            await keeper.refresh()
        figures[
            "restored, no process alive: works"
            if works
            else "restored, no process alive: loss reported"
        ] += 1


class Trio:
    """A real master, its replica, and the sentinels that watch them."""

    def __init__(self, stack: ExitStack, sentinels: int) -> None:
        def start(*options: str, command: str = "redis-server") -> RedisServer:
            return stack.enter_context(RedisServer(*options, command=command, password="secret"))

        own = ("masterauth secret", "repl-diskless-sync-delay 0", "appendonly yes")
        self.master = start(*own)
        self.replica = start(*own, f"replicaof 127.0.0.1 {self.master.port}")
        watch = [
            f"sentinel monitor books 127.0.0.1 {self.master.port} {sentinels // 2 + 1}",
            "sentinel auth-pass books secret",
            "sentinel down-after-milliseconds books 500",
            "sentinel failover-timeout books 5000",
        ]
        self.sentinels = [start(*watch, command="redis-sentinel") for _ in range(sentinels)]
        password = self.master.folder / "password"
        password.write_text("secret\n")
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = (
            f"sentinel://{hosts}/books/0?password_file={password}&sentinel_password_file={password}"
        )

    async def is_whole(self) -> bool:
        """Tell if the replica is in sync, and if every sentinel sees all servers."""
        followed = self.replica.admin.info("replication")
        if followed["role"] != "slave" or followed["master_link_status"] != "up":
            return False
        for sentinel in self.sentinels:
            master = sentinel.admin.sentinel_master("books")
            slaves = sentinel.admin.sentinel_slaves("books")
            if (
                master["port"] != self.master.port
                or master["num-other-sentinels"] != len(self.sentinels) - 1
            ):
                return False
            live = [
                slave["port"]
                for slave in slaves
                if slave["is_slave"] and not slave["is_disconnected"]
            ]
            if self.replica.port not in live:
                return False
        return True

    async def replica_lags(self) -> None:
        """Disconnect the replica, while the master still acknowledges writes."""
        self.replica.admin.config_set("masterauth", "wrong")
        self.replica.admin.client_kill_filter(_type="master")

        async def is_cut() -> bool:
            return bool(self.replica.admin.info("replication")["master_link_status"] == "down")

        await until(is_cut)

    async def is_promoted(self) -> bool:
        return bool(self.replica.admin.info("replication")["role"] == "master")

    async def old_master_returns(self) -> None:
        """Start the old master. The sentinels make it a replica of the new one."""
        self.master, self.replica = self.replica, self.master
        if self.replica.process is None:
            await in_a_thread(self.replica.start)
        else:
            self.replica.signal(signal.SIGCONT)
        # The sentinels have saved the wrong password in the configuration of a server.
        for server in (self.master, self.replica):
            server.admin.config_set("masterauth", "secret")
        await until(self.is_whole, 60)


async def failover(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """A sentinel promotes a replica without acknowledged writes, and the old master returns."""
    with ExitStack() as stack:
        trio = await in_a_thread(lambda: Trio(stack, options.sentinels))
        await until(trio.is_whole)
        async with House(trio.url, figures, rng) as house:
            for _ in range(options.keepers):
                await house.keeper()
            await house.log_in()
            histories = HISTORIES[:3] if options.old_master_returns else [rng.choice(HISTORIES[:2])]
            for history in histories:
                await failed_over(trio, house, history, options)


async def failed_over(trio: Trio, house: House, history: str, options: Options) -> None:
    """Make one fail-over, and check the record after it and after the return of the old master."""
    await house.settled()
    await trio.replica_lags()
    if history == "login":
        await house.log_in(house.keepers[-1])
    async with house.busy():
        await asyncio.sleep(0.2)
    if history == "logout":
        await house.keepers[0].end(forget=False)
    known = await house.settled()
    lost_before = house.happened(StoreLostWrites)
    # A stopped master has no connections. After its return, it still acts as the master.
    stops = options.old_master_returns and house.rng.random() < 0.5
    async with AsyncExitStack() as meanwhile_busy:
        if history != "logout":
            await meanwhile_busy.enter_async_context(house.busy())
        if stops:
            trio.master.signal(signal.SIGSTOP)
        else:
            trio.master.kill()
        house.figures["masters stopped" if stops else "masters killed"] += 1
        await until(trio.is_promoted)
    await timed(house.settled(), house.figures, "longest recovery, ms")
    house.figures["fail-overs"] += 1
    assert house.happened(StoreLostWrites) > lost_before, (
        "the loss of acknowledged writes was not reported"
    )
    await check_nothing_lost(house, known, history)
    if options.old_master_returns:
        await trio.old_master_returns()
        await check_nothing_lost(house, known, history)
        house.figures["old masters returned"] += 1


async def check_nothing_lost(house: House, known: Account, history: str) -> None:
    """Check that the store has the login or the logout of before, and that refreshes work."""
    kept = await house.settled()
    assert (kept.consent_id, kept.ended_at) == (known.consent_id, known.ended_at), (
        "the store does not have the newest login"
    )
    assert kept.generation >= known.generation
    await house.check()
    if history == "logout":
        assert all(keeper.state is State.REVOKED for keeper in house.keepers)
        return
    await house.works()


# ------------------------------------------------------------------------------- outages of Xero


FORMS = ("refused", "503", "hangs")
"""Xero refuses connections, responds that it is down, or takes requests and never responds."""


@asynccontextmanager
async def away(house: House, form: str) -> AsyncIterator[None]:
    """Let Xero fail in this form during the block."""
    if form == "503":
        house.sandbox.add_fault("any:every:503-html")
        yield
        house.sandbox.faults.clear()
        return
    await house.sandbox.stop()
    async with AsyncExitStack() as stack:
        if form == "hangs":

            async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(-1)  # until the timeout of the client
                writer.close()

            server = await asyncio.start_server(hang, "127.0.0.1", house.sandbox.port)
            await stack.enter_async_context(server)
            for client in house.clients:
                client.deadline_seconds = 0.02  # the usual one is too long for a test
        yield
    for client in house.clients:
        client.deadline_seconds = 20
    house.sandbox.start()


@asynccontextmanager
async def house_in_folder(
    figures: Counter[str],
    rng: random.Random,
    *,
    keepers: int = 2,
    mode: SiblingMode | None = None,
) -> AsyncIterator[House]:
    """Yield a house with keepers on one folder and a clock that is set, after a login."""
    with tempfile.TemporaryDirectory(prefix="xots-outages-") as folder:
        clock = FakeClock(START)
        async with House(Path(folder).as_uri(), figures, rng, clock=clock, mode=mode) as house:
            await house.log_in(await house.keeper(ticking=False))
            for _ in range(keepers - 1):  # they read the record at their start
                await house.keeper(ticking=False)
            yield house


async def tick(house: House, seconds: float = 15) -> None:
    """Advance the clock, and let every keeper tick."""
    house.clock.advance(seconds)
    for keeper in house.keepers:
        await keeper.maintain()


async def request_token(house: House, keeper: TokenKeeper) -> bool:
    """Request the token as a caller does. Tell if the keeper served one, which must be live."""
    try:
        token = await keeper.token()
    except TokenUnavailable:
        return False
    house.is_live(token)
    return True


async def down(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Let Xero fail for a day in three forms, and for a day right after a lost response."""
    for form in FORMS:
        await down_for_hours(form, options.hours, figures, rng)
    for mode in SiblingMode:
        await down_after_a_lost_response(mode, figures, rng)


async def down_for_hours(
    form: str, hours: float, figures: Counter[str], rng: random.Random
) -> None:
    """Retries continue at a limited rate, no expired token is served, and recovery is quick."""
    async with house_in_folder(figures, rng) as house:
        before = await house.kept()
        assert before.access is not None
        served_until = before.access.expires_at - MIN_SERVABLE
        async with away(house, form):
            for second in range(0, round(3600 * hours), 5):
                house.clock.advance(5)
                if second % 15 == 0:
                    await tick(house, 0)
                for keeper in house.keepers:
                    got = await request_token(house, keeper)
                    assert got is (house.clock.now() <= served_until), (
                        f"served: {got}, at {house.clock.now()}"
                    )
        failures = [event.at for event in house.events if isinstance(event, RefreshFailed)]
        by_hour = Counter(int((at - START).total_seconds() // 3600) for at in failures)
        assert max(by_hour.values()) <= MAX_ATTEMPTS_PER_HOUR, f"too many attempts: {by_hour}"
        assert min(by_hour[hour] for hour in range(int(hours))) >= 30, (
            f"too few attempts: {by_hour}"
        )
        waits = Counter(later - earlier for earlier, later in itertools.pairwise(failures))
        assert len(waits) > 5, "the waits have no jitter"
        kept = await house.kept()
        assert {t.value for t in tokens_of(kept)} == {t.value for t in tokens_of(before)}, (
            "the record has lost or gained a refresh token"
        )
        restored_at = house.clock.now()
        while not all([await request_token(house, keeper) for keeper in house.keepers]):
            await tick(house, 5)
            assert house.clock.now() - restored_at <= timedelta(minutes=2), (
                "no recovery within two minutes"
            )
        await house.check()
        assert house.identity.counts.exchanges == 1
        figures["hours down"] += round(hours)
        figures["attempts"] += len(failures)
        most = max(figures["most attempts in an hour"], *by_hour.values())
        figures["most attempts in an hour"] = most
        seconds = round((house.clock.now() - restored_at).total_seconds())
        figures["longest recovery, simulated s"] = max(
            figures["longest recovery, simulated s"], seconds
        )


async def down_after_a_lost_response(
    mode: SiblingMode, figures: Counter[str], rng: random.Random
) -> None:
    """The grace period lasts longer than a short outage, and the login survives.

    It ends during an outage of a day. Then the login is lost, and the keepers report that. This is
    the documented limit.
    """
    for hours in (27 / 60, 24):
        async with house_in_folder(figures, rng, mode=mode) as house:
            house.sandbox.add_fault("refresh:nth=1:lost")
            house.clock.advance(25 * 60)
            await house.keepers[0].maintain()
            assert [r.outcome for r in house.sandbox.refreshes()] == ["lost"]
            async with away(house, rng.choice(FORMS)):
                restored_at = house.clock.now() + timedelta(hours=hours)
                while house.clock.now() < restored_at:
                    await tick(house, 30 if hours < 1 else 3600)
            with suppress(ConsentLost):
                for _ in range(8):
                    await tick(house)
                    await asyncio.gather(
                        *(request_token(house, keeper) for keeper in house.keepers)
                    )
            if hours < 1:
                for _ in range(60):  # no replayed token is served after its expiry
                    await tick(house, 60)
                    assert all([await request_token(house, keeper) for keeper in house.keepers])
                await house.check()
                figures["response lost before a short outage: recovered"] += 1
                continue
            assert house.reported(), "the loss was not reported"
            kept = await house.kept()
            assert kept.current is not None, "the record is not kept as evidence"
            assert kept.current.refused_at is not None
            for keeper in house.keepers:
                assert keeper.state is State.CONSENT_LOST
                with suppress(ConsentLost):
                    await keeper.token()
                    raise AssertionError("a token is served from a lost login")
            figures[f"response lost before a day's outage, {mode}: loss reported"] += 1


LOSSES = ("lost", "truncated", "not-json", "500-empty-after", "502-html-after", "503-json-after")
"""The losses of a response after Xero's commit."""


async def lost(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Up to five responses in a row are lost after the commit, in each sibling mode of Xero."""
    for mode, count in itertools.product(SiblingMode, range(1, 6)):
        async with house_in_folder(figures, rng, mode=mode) as house:
            rules = [f"refresh:nth={number}:{rng.choice(LOSSES)}" for number in range(1, count + 1)]
            for rule in rules:
                house.sandbox.add_fault(rule)
            await tick(house, 25 * 60)
            while any(keeper.account.intent for keeper in house.keepers):
                await tick(house)
                assert house.clock.now() - START < timedelta(minutes=25) + GRACE, (
                    f"{mode}, {rules}: no recovery within the grace period"
                )
            await house.check()
            assert len(house.sandbox.refreshes()) == count + 1
            for keeper in house.keepers:
                assert await request_token(house, keeper)
            for _ in range(80):  # the new token is live, and so are its next three successors
                await tick(house, 60)
                assert all([await request_token(house, keeper) for keeper in house.keepers])
            await house.check()
            assert house.identity.counts.exchanges == 1
            figures["responses lost"] += count
            figures["recovered"] += 1


# ---------------------------------------------------------------------------------------- clocks


DAY = 86400.0


async def clocks(figures: Counter[str], rng: random.Random, options: Options) -> None:
    """Set the clock by a day and back, and suspend the machine: on a folder and on Redis."""
    async with running("appendonly yes") as redis:
        with tempfile.TemporaryDirectory(prefix="xots-outages-") as folder:
            for url in (Path(folder).as_uri(), redis.unix_url):
                clock = FakeClock(START)
                # The machine's clock, which may be wrong. The house has the correct one.
                wall = clock.beside()
                async with House(url, figures, rng, clock=clock) as house:
                    await house.log_in(await house.keeper(clock=wall, ticking=False))
                    await house.keeper(clock=wall, ticking=False)
                    steps = [DAY, -DAY, -DAY, DAY, *(rng.choice((DAY, -DAY)) for _ in range(4))]
                    for step, under_way in itertools.product(steps, (False, True)):
                        await stepped(house, wall.step, step, under_way)
                        figures["clock steps"] += 1
                    for hours, under_way in itertools.product((0.5, 8, 100), (False, True)):
                        await stepped(house, clock.advance, 3600 * hours, under_way)
                        figures["suspends"] += 1
                    await an_hour(house)


async def stepped(
    house: House, move: Callable[[float], None], seconds: float, under_way: bool
) -> None:
    """Set the clock, with ``under_way`` during a refresh at Xero.

    Check that served tokens are live, and that few requests follow.
    """
    before = len(house.sandbox.refreshes())
    if under_way:
        refresh = await held_refresh(house)
        move(seconds)
        house.sandbox.release()
        with suppress(TokenUnavailable):
            await refresh
        house.sandbox.faults.clear()
    else:
        move(seconds)
    for _ in range(20):
        await tick(house)
        assert all([await request_token(house, keeper) for keeper in house.keepers]), (
            "nothing is served"
        )
    requests = len(house.sandbox.refreshes()) - before
    house.figures["most requests for one step"] = max(
        house.figures["most requests for one step"], requests
    )
    assert requests <= 2 + under_way, f"{requests} requests for one step"
    await house.check()


async def held_refresh(house: House) -> asyncio.Task[None]:
    """Start a refresh at the first keeper. Return it once Xero has issued and holds the response.

    The keeper reads the record first. Another keeper may have refreshed last: then the first one
    would find that keeper's token under the lease, and send no request.

    Raises:
        XotsError: the refresh failed before its request.
    """
    await house.keepers[0].follow()
    house.sandbox.add_fault("refresh:nth=1:hold-after")
    refresh = asyncio.create_task(house.keepers[0].refresh())
    held = asyncio.create_task(house.sandbox.held())
    await asyncio.wait([refresh, held], return_when=asyncio.FIRST_COMPLETED)
    if not held.done():
        await end([held])
        await refresh
        raise AssertionError("a refresh ended without a request to Xero")
    return refresh


async def an_hour(house: House) -> None:
    """Check an ordinary hour: a refresh every 25 minutes."""
    before = len(house.sandbox.refreshes())
    for _ in range(240):
        await tick(house)
        assert all([await request_token(house, keeper) for keeper in house.keepers])
    assert 2 <= len(house.sandbox.refreshes()) - before <= 3


# ----------------------------------------------------------------------------------- the command


Section = Callable[[Counter[str], random.Random, Options], Awaitable[None]]

SECTIONS: dict[str, Section] = {
    "killed": killed,
    "restored": restored,
    "failover": failover,
    "hung": hung,
    "down": down,
    "lost": lost,
    "clocks": clocks,
}


async def run(name: str, seed: int, options: Options) -> Counter[str]:
    """Run one round of a section. Return its figures.

    Raises:
        Exception: a check failed.
    """
    figures: Counter[str] = Counter()
    with hastened(options):
        await SECTIONS[name](figures, random.Random(seed), options)  # noqa: S311 - repeatable
    return figures


def main(arguments: list[str]) -> int:
    """Run the command; return 1 if a round failed."""
    parser = argparse.ArgumentParser(
        prog="torture outages", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="only this section; can be repeated"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of each section (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of the first round; each next round adds 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--lease",
        type=float,
        default=Options.lease_seconds,
        help="lifetime of an abandoned lease in seconds (default: %(default)s; in xots 12)",
    )
    parser.add_argument(
        "--response-timeout",
        type=float,
        default=Options.response_timeout_seconds,
        help="response timeout of Redis in seconds (default: %(default)s; in xots 5)",
    )
    parser.add_argument(
        "--keepers",
        type=int,
        default=Options.keepers,
        help="number of keepers that share the account (default: %(default)s)",
    )
    parser.add_argument(
        "--sentinels",
        type=int,
        choices=(1, 3),
        default=3,
        help="number of sentinels (default: %(default)s)",
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=Options.hours,
        help="duration of the long outage of Xero in hours (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    options = replace(
        Options(),
        lease_seconds=given.lease,
        response_timeout_seconds=given.response_timeout,
        keepers=given.keepers,
        sentinels=given.sentinels,
        hours=given.hours,
    )
    logger.addHandler(logging.NullHandler())  # drops the expected log lines
    failed = False
    for name in given.only or SECTIONS:
        total: Counter[str] = Counter()
        began = time.monotonic()
        for seed in range(given.seed, given.seed + given.rounds):
            try:
                figures = asyncio.run(run(name, seed, options))
            except Exception as error:  # noqa: BLE001 - the next rounds and sections still run
                failed = True
                reason = f"{type(error).__name__}: {error}"
                traceback.print_exc()
                print(
                    f"{name}: FAILED, {reason}; replay: --only {name} --seed {seed}",
                    file=sys.stderr,
                )
            else:
                total["rounds"] += 1
                for figure, value in figures.items():
                    most = figure.startswith(("longest", "most"))
                    total[figure] = max(total[figure], value) if most else total[figure] + value
        text = ", ".join(f"{figure} {value}" for figure, value in total.items())
        print(f"{name}: {text} ({time.monotonic() - began:.0f} s)", flush=True)
    return int(failed)
