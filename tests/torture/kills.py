"""kill -9 at random moments of refreshes: no refresh token is lost, or reused too late.

There are four lanes, one for each sibling mode. Each has its own login at its own simulated Xero,
where the late reuse of a refresh token ends the whole chain. There are two kinds of processes:

forked    A process that has imported all modules forks children. A child runs the real keeper on
          the real store, and refreshes in a loop over real HTTP, until the parent kills it in its
          start or in one of its refreshes.
whole     ``python -m xots`` refreshes through ``GET /refresh`` in a loop, until it is killed in the
          same way. After each restart, ``GET /token`` must serve the token again.

Xero waits some random milliseconds before or after it commits, so that kills occur there too. After
each kill, the command opens the stored record and checks that Xero would accept one of its tokens.
The next process continues from that record.

Forked children and their Xero share one clock, which the command advances. Children advance it by
up to an hour between two refreshes. The next child starts up to 25 minutes after the kill, and
sometimes days later. While the record holds only spent tokens, the next child starts within 28
minutes of the first use, which is the documented bound. Some children start at once, mostly while
Xero still works on the request of the killed child, so that they overtake that request. These
children do not advance the clock. Whole processes use the real clock.

In Redis, the lease of a killed holder lasts up to 12 more seconds, in real time. The command
deletes it after each kill, once Redis has closed the last connection of the killed process. Other
tests cover the expiry of a lease. With the file store, the kernel releases the lock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import logging
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from support.bench import UNLIMITED
from support.redis_servers import RedisServer
from tornado.iostream import StreamClosedError

from xots.backends.base import TokenStore
from xots.backends.file import FileStore
from xots.backends.redis import LEASE, RedisStore
from xots.clock import Clock
from xots.errors import SealError, XotsError
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.keeping.record_store import open_record
from xots.lifecycle.account import Account, RefreshToken
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_REDIRECT_URI,
    Endpoint,
    Fault,
    FaultKind,
    FaultScript,
    Outcome,
    Refusal,
    Sandbox,
    SandboxOptions,
    SiblingMode,
    Switches,
    TokenResponse,
)
from xots.sandbox.identity.protocol import AuthorizationRequest, BearerRefused
from xots.sandbox.log import LoggedRequest
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials

from ._clock import SharedClock
from ._closing import close_with_all

TESTS = Path(__file__).parents[1]

SCOPES = ("offline_access",)

MAX_XERO_DELAY_SECONDS = 0.008
"""Upper bound on Xero's delay before or after the commit: about the duration of the other steps."""

MAX_SLOW_XERO_DELAY_SECONDS = 0.25
"""The same for one request in twenty: an immediate restart may then overtake that request."""

MAX_LEAP = timedelta(hours=1)
"""Upper bound on the time between two refreshes of one child: twice the grace period."""

MAX_BREAK = timedelta(minutes=25)
"""Usual upper bound on the time between a kill and the restart."""

MAX_LONG_BREAK = timedelta(days=3)
"""The same for one restart in ten without an open refresh."""

MAX_RECOVERY = timedelta(minutes=28)
"""Upper bound on the time from the first use of a token to the restart, while only spent tokens are
left: within the grace period of 30 minutes."""

OWN_CONNECTIONS = 2
"""The command's own connections to a lane's database in Redis: one reads the record, and one counts
connections."""

MIN_KILLS_FOR_ALL_PHASES = 200
"""From this number of kills on, each phase of a refresh must have had one."""

HANG_TIMEOUT_SECONDS = 60.0
"""A process that makes no progress for this time hangs."""

KILLED_IN = (0, 1, 1, 2, 2, 3)
"""The refresh in which a child is killed, drawn from these numbers; 0 is the start."""

KILLED_IN_AFTER_IMMEDIATE_START = (2, 3)
"""The same for a child that starts while Xero may still work on a request. Its first refresh may
overtake that request."""

PHASES = (
    "in the start",
    "before the intent",
    "intent written, not at Xero yet",
    "at Xero, not committed",
    "committed, no response yet",
    "response sent, not written",
    "written",
)
"""The phases of a kill, in the order of a refresh. The last one lasts until the next refresh."""


# ------------------------------------------------------------------------------------- the children


def forker() -> None:
    """Fork and kill one child for each line on stdin, and then print a line with its end.

    This process has imported all modules, and has neither threads nor an event loop.
    """
    # The first refresh imports these.
    for name in ("encodings.idna", "tornado.simple_httpclient"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    typical = {"start": 0.03, "refresh": 0.03}
    for line in sys.stdin:
        print(json.dumps(_fork_and_kill(json.loads(line), typical)), flush=True)


def _fork_and_kill(order: dict[str, Any], typical: dict[str, float]) -> dict[str, Any]:
    """Fork a child, kill it at a random moment, and return its last phase.

    ``typical`` holds average durations, which this function updates.
    """
    clock, rng = SharedClock(Path(order["clock"])), random.Random(order["seed"])  # noqa: S311
    reading, writing = os.pipe()
    forked_at = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _refresh_until_killed(order, clock, writing)
    os.close(writing)
    output = b""
    try:
        nth = rng.choice(KILLED_IN if order["leaps"] else KILLED_IN_AFTER_IMMEDIATE_START)
        while output.count(b"began") < nth:
            if not select.select([reading], [], [], HANG_TIMEOUT_SECONDS)[0]:
                output += b"error it hangs\n"
                break
            if not (more := os.read(reading, 4096)):
                break
            output += more
        time.sleep(rng.uniform(0, typical["refresh" if nth else "start"] * 1.3))
    finally:
        os.kill(pid, signal.SIGKILL)
        killed_at = clock.now()
        os.waitpid(pid, 0)
        while more := os.read(reading, 4096):
            output += more
        os.close(reading)
    began: str | None = None
    before = forked_at
    for word, rest in (line.split(" ", 1) for line in output.decode().splitlines()):
        if word == "error":
            return {
                "began": began,
                "killed_at": killed_at.isoformat(),
                "error": rest,
            }
        at, wall = rest.split()
        kind = "refresh" if word == "ended" else "start" if began is None else None
        if kind:
            typical[kind] += 0.1 * (float(at) - before - typical[kind])
        before = float(at)
        began = wall if word == "began" else began
    return {"began": began, "killed_at": killed_at.isoformat(), "error": ""}


def _refresh_until_killed(order: dict[str, Any], clock: SharedClock, writing: int) -> NoReturn:
    """Run the child: report the start and the end of each refresh, by the clocks of machine and
    lane."""
    rng = random.Random(order["seed"] + 1)  # noqa: S311

    def report(word: str, text: str = "") -> None:
        # If the parent has ended, this fails, and ends the child.
        os.write(
            writing, f"{word} {text or f'{time.monotonic()} {clock.now().isoformat()}'}\n".encode()
        )

    async def refresh() -> None:
        keeper = new_keeper(
            new_store(order["url"]), order["key"], order["token_url"], order["name"], clock
        )
        await keeper.start()
        while True:
            report("began")
            await keeper.refresh()
            report("ended")
            if order["leaps"]:
                clock.advance(MAX_LEAP.total_seconds() * rng.random())

    try:
        asyncio.run(refresh())
    except BaseException as failure:  # noqa: BLE001 - the code of the parent must not run here
        with suppress(OSError):
            report("error", f"{type(failure).__name__}: {failure}".replace("\n", " "))
    finally:
        os._exit(1)


def new_store(url: str) -> TokenStore:
    """Return the store without the slow search for installed stores."""
    return FileStore.from_url(url) if url.startswith("file:") else RedisStore.from_url(url)


def new_keeper(store: TokenStore, key: str, token_url: str, name: str, clock: Clock) -> TokenKeeper:
    """Return a keeper as the server makes it."""
    xero = XeroClient(IdentityServer(token_url=token_url, connections_url=""), clock=clock)
    sealer = Sealer([Secret(key)])
    return TokenKeeper(store, xero, sealer, policy=UNLIMITED, name=name, clock=clock)


# ------------------------------------------------------------------------------------------ Xero


@dataclass
class Refresh:
    """One refresh at Xero: the times of its request, its commit and its response."""

    arrived_at: datetime
    committed_at: datetime | None = None
    responded_at: datetime | None = None


class Witness(FaultScript):
    """Delays Xero before or after the commit of a refresh, and records the times of each one."""

    def __init__(self, sandbox: Sandbox, rng: random.Random) -> None:
        super().__init__()
        self.last: Refresh | None = None
        self._now, self._rng = sandbox.clock, rng
        self._refreshes: dict[object, Refresh] = {}
        """The keys are the tasks that serve the requests."""
        self._refresh = sandbox.identity.refresh
        sandbox.world.faults = self
        sandbox.world.on_logged = self._responded
        sandbox.identity.refresh = self._committed  # type: ignore[method-assign]

    def next(self, endpoint: Endpoint) -> Fault | None:
        """Return the delay of the refresh that has arrived."""
        if endpoint is not Endpoint.REFRESH:
            return None
        self.last = self._refreshes[asyncio.current_task()] = Refresh(self._now())
        kind = self._rng.choice((FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER))
        longest = (
            MAX_SLOW_XERO_DELAY_SECONDS if self._rng.random() < 0.05 else MAX_XERO_DELAY_SECONDS
        )
        return Fault(kind, self._rng.uniform(0, longest))

    def _committed(self, *arguments: Any, **options: Any) -> TokenResponse:
        response = self._refresh(*arguments, **options)
        self._refreshes[asyncio.current_task()].committed_at = self._now()
        return response

    def _responded(self, request: LoggedRequest) -> None:
        if last_refresh := self._refreshes.pop(asyncio.current_task(), None):
            last_refresh.responded_at = self._now()


# ----------------------------------------------------------------------------------------- a lane


@dataclass(frozen=True)
class Death:
    """One kill, by the lane's clock."""

    killed_at: datetime
    began: datetime | None = None
    """Start of the last refresh; None during the start of the process."""
    error: str = ""
    """The error before the kill; an empty text if there was none."""


@dataclass
class Figures:
    """The counts and the errors of a run."""

    kills: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    left_open: int = 0
    """Kills that left an intent."""
    unfinished_files: int = 0
    """Kills that left a file that was not complete or not renamed."""
    leases: int = 0
    """Kills that left a lease in Redis."""
    overtaken: int = 0
    """Kills that left a current token that Xero refuses, since an older request committed later."""
    served: int = 0
    """Restarts of the whole process after which the token was served."""
    refreshes: int = 0
    replays: int = 0
    undelivered: int = 0
    """Responses that Xero could not deliver."""
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    reused: int = 0
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add the figures of another lane."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "seconds" else mine + value)

    def lines(self, title: str) -> str:
        """Return the figures as text."""
        phases = "; ".join(f"{phase}: {self.phases[phase]}" for phase in PHASES)
        refused = (
            ", ".join(f"{count} as {reason}" for reason, count in self.refused.items()) or "none"
        )
        served = f", {self.served} restarts served the token" if self.served else ""
        return (
            f"{title}: {self.kills} kills in {self.seconds:.1f} s "
            f"({self.kills / max(self.seconds, 0.01):.1f} a second){served}\n"
            f"  phases of the kills: {phases}\n"
            f"  left by the kills: {self.left_open} open refreshes, "
            f"{self.unfinished_files} unfinished files, {self.leases} leases in Redis, "
            f"{self.overtaken} tokens overtaken by an older request\n"
            f"  at Xero: {self.refreshes} refreshes, {self.replays} replays, "
            f"{self.undelivered} undelivered responses, refused: {refused}\n"
            f"  lost refresh tokens: {self.lost}; uses after the grace period: {self.reused}"
        )


class Lane:
    """One login, refreshed by processes that are killed one after another."""

    def __init__(
        self,
        sandbox: Sandbox,
        clock: Path,
        url: str,
        key: Path,
        mode: SiblingMode,
        rng: random.Random,
        admin: Any,
    ) -> None:
        self.sandbox, self.clock, self.url, self.key, self.rng = (
            sandbox,
            SharedClock(clock),
            url,
            key,
            rng,
        )
        self.clock_file = clock
        self.name = f"lane-{mode}"
        self.figures = Figures()
        self.leaps = True
        """True if the next process may advance the clock."""
        self._mode = mode
        self._witness = Witness(sandbox, rng)
        self.store = new_store(url)
        self._sealer = Sealer([Secret(key.read_text())])
        self._admin = admin
        self._database = url.partition("db=")[2]

    def keeper(self) -> TokenKeeper:
        """Make a keeper in this process, which is not killed."""
        store = new_store(self.url)
        store.shared = False  # no other process writes, so it needs no watch
        return new_keeper(
            store, self.key.read_text(), self.sandbox.token_url, self.name, self.clock
        )

    async def log_in(self) -> None:
        request = AuthorizationRequest(DEFAULT_CLIENT_ID, DEFAULT_REDIRECT_URI, SCOPES)
        code = self.sandbox.identity.consent(request, self.clock.now(), tenant_ids=())["code"]
        keeper = self.keeper()
        await keeper.login(
            LoginAttempt(
                credentials=Credentials(
                    client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET)
                ),
                code=Secret(code),
                verifier=None,
                redirect_uri=DEFAULT_REDIRECT_URI,
                scopes=SCOPES,
            )
        )
        await close_with_all(keeper)
        await self.kept()  # opens the connection of this store

    async def run(
        self, kill: Callable[[Lane], Awaitable[Death]], kills: int, *, breaks: bool
    ) -> Figures:
        """Make the kills, check each, and make a last refresh without one. Stop at an error.

        ``breaks``: the clock may advance between two kills.
        """
        began = time.monotonic()
        while self.figures.kills < kills and not self.figures.wrong:
            death = await kill(self)
            waits = self._witness.last is not None and self._witness.last.committed_at is None
            await self.check(
                death, at_once=self.rng.random() < (0.8 if waits else 0.1), breaks=breaks
            )
        if not self.figures.wrong:
            await self.prove()
        self.count()
        self.figures.seconds = time.monotonic() - began
        await self.store.close()
        return self.figures

    async def check(self, death: Death, *, at_once: bool = False, breaks: bool = False) -> None:
        """Check the record that a killed process has left, and advance the clock to the next start.

        ``at_once``: the next process starts while Xero may still work on the last request.
        """
        figures = self.figures
        figures.kills += 1
        if death.error:
            self.wrong(f"a process failed before its kill: {death.error}")
        await self.clean_up()
        try:
            account = await self.kept()
        except SealError as error:
            figures.lost += 1
            self.wrong(f"the record is lost: {error}")
            return
        figures.phases[self.phase(account, death)] += 1
        figures.left_open += account.intent is not None
        self.check_login(account)
        self.leaps = breaks and not at_once
        if at_once:
            return
        # The last request was in the socket before the kill. Xero reads it within some turns.
        for _ in range(20):
            await asyncio.sleep(0)
        while self.sandbox.world.running:
            await asyncio.sleep(0.001)
        current = account.current
        figures.overtaken += current is not None and self.refusal(current) is Refusal.SIBLING
        if breaks:
            self.clock.advance(self.break_before_restart(account).total_seconds())
        self.check_login(account)

    def break_before_restart(self, account: Account) -> timedelta:
        """Return the time until the restart. It is bounded while only spent tokens are left."""
        live = [token for token in tokens(account) if self.refusal(token) is None]
        if any(token.first_spent_at is None for token in live):
            return self.rng.random() * (MAX_LONG_BREAK if self.rng.random() < 0.1 else MAX_BREAK)
        ends_at = max(
            (t.first_spent_at + MAX_RECOVERY for t in live if t.first_spent_at),
            default=self.clock.now(),
        )
        return min(self.rng.random() * MAX_BREAK, max(ends_at - self.clock.now(), timedelta(0)))

    def phase(self, account: Account, death: Death) -> str:
        """Return the phase of a kill, from the record and from the requests at Xero."""
        intent, last_refresh = account.intent, self._witness.last
        if death.began is None:
            return "in the start"
        if intent is None or intent.began_at < death.began:
            written = account.refreshed_at is not None and account.refreshed_at >= death.began
            return "written" if written else "before the intent"
        if (
            last_refresh is None
            or not intent.began_at <= last_refresh.arrived_at <= death.killed_at
        ):
            return "intent written, not at Xero yet"
        if last_refresh.committed_at is None or last_refresh.committed_at > death.killed_at:
            return "at Xero, not committed"
        if last_refresh.responded_at is None or last_refresh.responded_at > death.killed_at:
            return "committed, no response yet"
        return "response sent, not written"

    def refusal(self, token: RefreshToken) -> Refusal | None:
        return self.sandbox.identity.refusal_of(token.value.reveal(), self.clock.now())

    def check_login(self, account: Account) -> None:
        """Check the invariant: the record holds a token from which Xero would issue."""
        found = {token.value.fingerprint: self.refusal(token) for token in tokens(account)}
        if None not in found.values() and not self.figures.lost:
            self.figures.lost += 1
            self.wrong(f"the login is lost; Xero's refusals of the stored refresh tokens: {found}")

    def wrong(self, message: str) -> None:
        self.figures.wrong.append(f"{self.name}, kill {self.figures.kills}: {message}")

    async def kept(self) -> Account:
        """Return the record of the store."""
        stored = await self.store.read(self.name)
        assert stored is not None
        return open_record(self._sealer, stored, self.name)

    async def clean_up(self) -> None:
        """Count the files of a killed process, and remove its lease in Redis."""
        if self._admin is None:
            self.figures.unfinished_files += unfinished_files(
                Path(self.url.removeprefix("file://")), self.name
            )
            return
        # Redis runs all commands of the killed process before it closes the connection.
        give_up_at = time.monotonic() + HANG_TIMEOUT_SECONDS
        while (
            sum(client["db"] == self._database for client in self._admin.client_list())
            > OWN_CONNECTIONS
        ):
            assert time.monotonic() < give_up_at, "Redis still has a connection of a killed process"
            await asyncio.sleep(0.0005)
        self.figures.leases += self._admin.delete(LEASE + self.name)

    async def prove(self) -> None:
        """Refresh without a kill, to check that the login is alive."""
        keeper = self.keeper()
        try:
            await keeper.start()
            await keeper.refresh()
        except XotsError as error:
            self.wrong(f"the last refresh failed: {type(error).__name__}: {error}")
        finally:
            await close_with_all(keeper)
        self.check_login(await self.kept())

    def count(self) -> None:
        """Add the requests at Xero to the figures."""
        figures, counts, log = self.figures, self.sandbox.identity.counts, self.sandbox.refreshes()
        figures.refreshes, figures.replays = counts.refreshes, counts.replays
        figures.undelivered = sum(request.outcome is Outcome.LOST for request in log)
        figures.refused.update(
            request.reason or "" for request in log if request.outcome is Outcome.REFUSED
        )
        figures.reused = figures.refused[Refusal.SPENT]
        # In some modes, a retry ends the tokens of an earlier attempt. Nothing else explains a
        # refusal.
        overtakes = self._mode in (SiblingMode.LAST_VALID, SiblingMode.LAST_VALID_WITH_DESCENDANTS)
        explained = {Refusal.SIBLING} if overtakes else set()
        if bad := {
            reason: count for reason, count in figures.refused.items() if reason not in explained
        }:
            self.wrong(f"Xero refused refreshes without an allowed reason: {bad}")


def unfinished_files(folder: Path, name: str) -> int:
    """Return the number of temporary files of killed writers of this record."""
    return len(list(folder.glob(f"{name}.new")))


def tokens(account: Account) -> list[RefreshToken]:
    """Return the refresh tokens of a record."""
    return [token for token in (account.current, *account.fallbacks) if token is not None]


# ---------- the killed processes


class Forkers:
    """Processes that fork children for all lanes."""

    def __init__(self) -> None:
        self._idle: asyncio.Queue[Process] = asyncio.Queue()

    @asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[Callable[[Lane], Awaitable[Death]]]:
        """Start the forkers. Yield the function that makes and kills a child for a lane."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        }
        processes = []
        try:
            for _ in range(count):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", "from torture.kills import forker; forker()"),
                    env=environment,
                    stdin=PIPE,
                    stdout=PIPE,
                    # Ctrl-C reaches the command only, which ends these by closing their stdin.
                    start_new_session=True,
                )
                processes.append(process)
                self._idle.put_nowait(process)
            yield self.kill
        finally:
            for process in processes:
                if process.stdin is not None:
                    process.stdin.close()
            await asyncio.gather(*(process.wait() for process in processes))

    async def kill(self, lane: Lane) -> Death:
        process = await self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        order = {
            "url": lane.url,
            "name": lane.name,
            "key": lane.key.read_text(),
            "token_url": lane.sandbox.token_url,
            "clock": str(lane.clock_file),
            "leaps": lane.leaps,
            "seed": lane.rng.getrandbits(32),
        }
        process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await process.stdout.readline()
        assert line, "a forker has ended"
        self._idle.put_nowait(process)
        end = json.loads(line)
        began = datetime.fromisoformat(end["began"]) if end["began"] else None
        return Death(datetime.fromisoformat(end["killed_at"]), began, end["error"])


class Servers:
    """Real server processes."""

    def __init__(self) -> None:
        self._start_seconds, self._refresh_seconds = 1.0, 0.05
        """Average durations of a start and of a refresh."""

    async def kill(self, lane: Lane) -> Death:
        """Start a server on the lane's store, and kill it in its start or in a refresh."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "xots"), env=environment_of(lane), stdout=DEVNULL, stderr=PIPE
        )
        spawned_at = time.monotonic()
        began: list[datetime] = []
        error = ""
        refreshing: asyncio.Task[str] | None = None
        try:
            if lane.rng.random() < 0.2:
                await asyncio.sleep(lane.rng.random() * self._start_seconds)
            else:
                port = await serving(process)
                self._start_seconds += 0.2 * (time.monotonic() - spawned_at - self._start_seconds)
                error = await self.served(port, lane)
                refreshing = asyncio.create_task(self.refresh(port, lane, began))
                await asyncio.wait(
                    [refreshing], timeout=lane.rng.random() * 3 * self._refresh_seconds
                )
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            killed_at = lane.clock.now()
            assert process.stderr is not None
            output = (await process.stderr.read()).decode()
            await process.wait()
            error = error or (await refreshing if refreshing else "")
        if process.returncode != -signal.SIGKILL:
            error = f"it ended by itself with status {process.returncode}: {output[-2000:]}"
        return Death(killed_at, began[-1] if began else None, error)

    async def served(self, port: int, lane: Lane) -> str:
        """Check that the server serves a token that Xero accepts. Return the error."""
        status, body = await get(port, "/token")
        if status != 200:
            return f"/token responded with {status}: {body.decode()}"
        try:
            lane.sandbox.identity.check_access(json.loads(body)["accessToken"], lane.clock.now())
        except BearerRefused as error:
            return f"/token served a token that Xero refuses: {error}"
        lane.figures.served += 1
        return ""

    async def refresh(self, port: int, lane: Lane, began: list[datetime]) -> str:
        """Refresh in a loop until the server has ended. Return the error before that."""
        while True:
            at = time.monotonic()
            began.append(lane.clock.now())
            try:
                status, body = await get(port, "/refresh")
            except (OSError, EOFError):
                return ""
            if status != 303:
                return f"/refresh responded with {status}: {body.decode()}"
            self._refresh_seconds += 0.1 * (time.monotonic() - at - self._refresh_seconds)


def environment_of(lane: Lane) -> dict[str, str]:
    """Return the environment of a server, without the settings of this process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")} | {
        "XOTS_PORT": "0",
        "XOTS_ACCOUNT": lane.name,
        "XOTS_STORE": lane.url,
        "XOTS_KEY_FILE": str(lane.key),
        "XOTS_AUTHORIZE_URL": lane.sandbox.authorize_url,
        "XOTS_TOKEN_URL": lane.sandbox.token_url,
        "XOTS_CONNECTIONS_URL": "",
        "XOTS_REFRESH_INTERVAL": "0",
    }


async def serving(process: Process) -> int:
    """Wait until the server serves. Return its port."""
    output = b""
    assert process.stderr is not None
    async with asyncio.timeout(HANG_TIMEOUT_SECONDS):
        while line := await process.stderr.readline():
            output += line
            if found := re.search(rb"serving on http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
    raise AssertionError(f"the server did not start: {output.decode()}")


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Send GET as a program does. Return status and body.

    Raises:
        OSError, EOFError: the server has ended before the end of the response.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        return int(head.split()[1]), await reader.readexactly(int(length[1]) if length else 0)
    finally:
        writer.close()


# --------------------------------------------------------------------------------------- the runs


@asynccontextmanager
async def lanes(store: str, seed: int) -> AsyncIterator[list[Lane]]:
    """Make a lane for each sibling mode, on one folder or one Redis. Remove all afterwards."""
    async with AsyncExitStack() as running:
        folder = Path(tempfile.mkdtemp(prefix="xots-kills-"))
        running.callback(shutil.rmtree, folder)
        redis_server = (
            running.enter_context(RedisServer("appendonly yes")) if store == "redis" else None
        )
        key = folder / "key"
        key.write_text(new_key().reveal())
        key.chmod(0o600)
        running.enter_context(undelivered_responses_unlogged())
        made = []
        for number, mode in enumerate(SiblingMode, start=1):
            clock = folder / f"clock-{number}"
            switches = Switches(sibling_mode=mode, late_reuse_kills_chain=True)
            options = SandboxOptions(port=0, switches=switches)
            sandbox = await running.enter_async_context(
                Sandbox(options, clock=SharedClock(clock).now)
            )
            admin, url = None, (folder / "state").as_uri()
            if redis_server is not None:
                url = f"{redis_server.unix_url}?db={number}"
                admin = redis_server.client(number)
                running.callback(admin.close)
            rng = random.Random(seed * 100 + number)  # noqa: S311
            made.append(Lane(sandbox, clock, url, key, mode, rng, admin))
        for lane in made:
            await lane.log_in()
        yield made


@contextmanager
def undelivered_responses_unlogged() -> Iterator[None]:
    """Keep Tornado from logging undelivered responses, which the kills cause on purpose."""

    def is_delivered(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], StreamClosedError))

    logger = logging.getLogger("tornado.application")
    logger.addFilter(is_delivered)
    try:
        yield
    finally:
        logger.removeFilter(is_delivered)


async def forked(store: str, kills: int, seed: int, *, forkers: int = 3) -> Figures:
    """Kill forked children."""
    async with lanes(store, seed) as all_lanes, Forkers().running(forkers) as kill:
        return await together(
            all_lanes, kills, lambda lane, share: lane.run(kill, share, breaks=True)
        )


async def whole(store: str, kills: int, seed: int) -> Figures:
    """Kill real server processes."""
    servers = Servers()
    async with lanes(store, seed) as all_lanes:
        return await together(
            all_lanes, kills, lambda lane, share: lane.run(servers.kill, share, breaks=False)
        )


async def together(
    all_lanes: list[Lane], kills: int, run: Callable[[Lane, int], Coroutine[Any, Any, Figures]]
) -> Figures:
    """Run all lanes at once, each with its share of the kills."""
    figures = Figures()
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(run(lane, (kills + number) // len(all_lanes)))
            for number, lane in enumerate(all_lanes)
        ]
    for one in runs:
        figures.add(one.result())
    return figures


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture kills", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--store", choices=("file", "redis"), help="the store (default: both, one after another)"
    )
    parser.add_argument(
        "--forked",
        type=int,
        default=1000,
        help="kills of forked children for each store (default: %(default)s)",
    )
    parser.add_argument(
        "--whole",
        type=int,
        default=16,
        help="kills of whole processes for each store (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of the phases and the delays (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    wrong = []
    for store in [options.store] if options.store else ["file", "redis"]:
        for way, kills, run in (
            ("forked", options.forked, forked),
            ("whole", options.whole, whole),
        ):
            if kills:
                figures = asyncio.run(run(store, kills, options.seed))
                print(figures.lines(f"{store}, {way}, seed {options.seed}"), flush=True)
                wrong += figures.wrong
                missed = [where for where in PHASES if not figures.phases[where]]
                if missed and kills >= MIN_KILLS_FOR_ALL_PHASES:
                    wrong.append(f"{store}, {way}: no kill in these phases: {', '.join(missed)}")
    for one in wrong:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
