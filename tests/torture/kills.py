"""kill -9 at random instants of refreshes: no refresh token is lost, and none is used again outside Xero's grace.

Four lanes, one for each sibling mode, each with a login of its own at a simulated Xero of its own, where the late reuse
of a refresh token ends the whole chain. There are two ways to be killed:

forked    A process that has imported everything forks children. A child runs the real keeper on the real store and
          refreshes again and again, over real HTTP, until it is killed in the start or in one of its refreshes.
whole     ``python -m xots`` itself, told to refresh by ``GET /refresh`` in a loop, and killed likewise. After each
          restart the token must be served again by ``GET /token``.

Xero waits some random milliseconds before or after it commits, so that kills fall there too. After each kill the record
in the store is opened and its tokens are tried, in thought, at Xero; then the next process goes on from it.

Forked children and their Xero go by one clock, which is moved: children leap up to an hour between two refreshes, and
the next one starts up to 25 minutes after the kill, now and then days later. While all that the record holds are
spent tokens, no restart comes later than 28 minutes after the first use: that is the bound of what is promised. Some
restarts come at once, most of them while Xero is still at work on what the dead one asked, so that it is overtaken:
these children do not leap. Whole processes go by the real clock.

In Redis a killed holder's lease lives up to 12 seconds longer, in real time. It is deleted after each kill, once Redis
has seen the last of the dead one's connections: that a lease runs out by itself is tested elsewhere. For the file store
the kernel gives the lock back.
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

import redis
from support.redis_servers import RedisServer
from tornado.iostream import StreamClosedError

from xots.backends.base import TokenStore
from xots.backends.file import FileStore
from xots.backends.redis import LEASE, RedisStore
from xots.clock import Clock
from xots.errors import SealError, XotsError
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.keeping.replica import open_record
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
from xots.xero.protocol import Credentials, Endpoints

from ._clock import SharedClock
from ._closing import close_with_all

TESTS = Path(__file__).parents[1]

SCOPES = ("offline_access",)

XERO_WAITS_SECONDS = 0.008
"""At most, before or after the commit: about as long as the rest of a refresh takes."""

XERO_IS_SLOW_SECONDS = 0.25
"""At most, one time in twenty: a restart at once may then overtake what the dead one asked."""

LONGEST_LEAP = timedelta(hours=1)
"""Between two refreshes of one child: twice the grace."""

LONGEST_BREAK = timedelta(minutes=25)
"""Between a kill and the restart, as a rule."""

LONG_BREAK = timedelta(days=3)
"""Now and then, when nothing is open."""

RECOVERED_WITHIN = timedelta(minutes=28)
"""How soon after a token was first spent there is a restart, while nothing better is left: inside the grace of 30."""

OUR_CONNECTIONS = 2
"""To a lane's database in Redis: the one that looks at the record, and the one that looks for connections."""

ENOUGH = 200
"""So many kills must have landed everywhere in a refresh, or they show too little."""

HANG_SECONDS = 60.0
"""A process that does not come to the point in so long hangs."""

KILLED_IN = (0, 1, 1, 2, 2, 3)
"""In which of its refreshes a child is killed, each as often as it stands here; 0 is the start."""

AT_ONCE_KILLED_IN = (2, 3)
"""Likewise, for one that was started while Xero may still have been at work: its first refresh may overtake that."""

LANDINGS = (
    "in the start",
    "before the intent",
    "intent written, not at Xero yet",
    "at Xero, not committed",
    "committed, not answered",
    "answered, not written",
    "written",
)
"""Where a kill may land, in the order of a refresh. What comes after its write, until the next begins, is in the
last."""


# ------------------------------------------------------------------------------- what a child does


def forker() -> None:
    """The process that forks: it has imported everything, and has neither threads nor a loop. Each line on stdin
    orders one child, and is answered by one on stdout when that is dead."""
    # What a first refresh imports.
    for name in ("encodings.idna", "tornado.simple_httpclient"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    typical = {"start": 0.03, "refresh": 0.03}
    for line in sys.stdin:
        print(json.dumps(_fork_and_kill(json.loads(line), typical)), flush=True)


def _fork_and_kill(order: dict[str, Any], typical: dict[str, float]) -> dict[str, Any]:
    """Fork a child, kill it at a random instant, and tell what it was at. ``typical`` learns how long things take."""
    clock, chance = SharedClock(Path(order["clock"])), random.Random(order["seed"])  # noqa: S311
    reading, writing = os.pipe()
    forked_at = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _refresh_until_killed(order, clock, writing)
    os.close(writing)
    said = b""
    try:
        nth = chance.choice(KILLED_IN if order["leaps"] else AT_ONCE_KILLED_IN)
        while said.count(b"began") < nth:
            if not select.select([reading], [], [], HANG_SECONDS)[0]:
                said += b"trouble it hangs\n"
                break
            if not (more := os.read(reading, 4096)):
                break
            said += more
        time.sleep(chance.uniform(0, typical["refresh" if nth else "start"] * 1.3))
    finally:
        os.kill(pid, signal.SIGKILL)
        killed_at = clock.now()
        os.waitpid(pid, 0)
        while more := os.read(reading, 4096):
            said += more
        os.close(reading)
    began: str | None = None
    before = forked_at
    for word, rest in (line.split(" ", 1) for line in said.decode().splitlines()):
        if word == "trouble":
            return {"began": began, "killed_at": killed_at.isoformat(), "trouble": rest}
        at, wall = rest.split()
        kind = "refresh" if word == "ended" else "start" if began is None else None
        if kind:
            typical[kind] += 0.1 * (float(at) - before - typical[kind])
        before = float(at)
        began = wall if word == "began" else began
    return {"began": began, "killed_at": killed_at.isoformat(), "trouble": ""}


def _refresh_until_killed(order: dict[str, Any], clock: SharedClock, writing: int) -> NoReturn:
    """Run the child: report the start and the end of each refresh, by the clocks of machine and
    lane."""
    chance = random.Random(order["seed"] + 1)  # noqa: S311

    def say(word: str, text: str = "") -> None:
        # When the one that forked is gone, this fails, and ends the child.
        os.write(
            writing, f"{word} {text or f'{time.monotonic()} {clock.now().isoformat()}'}\n".encode()
        )

    async def refresh() -> None:
        keeper = new_keeper(
            new_store(order["url"]), order["key"], order["token_url"], order["name"], clock
        )
        await keeper.start()
        while True:
            say("began")
            await keeper.refresh()
            say("ended")
            if order["leaps"]:
                clock.advance(LONGEST_LEAP.total_seconds() * chance.random())

    try:
        asyncio.run(refresh())
    except BaseException as error:  # noqa: BLE001 - whatever it was, nothing of the parent's may run here
        with suppress(OSError):
            say("trouble", f"{type(error).__name__}: {error}".replace("\n", " "))
    finally:
        os._exit(1)


def new_store(url: str) -> TokenStore:
    """Return the store without the search for installed ones, which would take most of a
    child's life."""
    return FileStore.from_url(url) if url.startswith("file:") else RedisStore.from_url(url)


def new_keeper(store: TokenStore, key: str, token_url: str, name: str, clock: Clock) -> TokenKeeper:
    """Return a keeper as the server makes it."""
    xero = XeroClient(Endpoints(token_url=token_url, connections_url=""), clock=clock)
    return TokenKeeper(store, xero, Sealer([Secret(key)]), name=name, clock=clock)


# ------------------------------------------------------------------------------------------ Xero


@dataclass
class Visit:
    """One refresh at Xero: when it came, was committed, and was answered."""

    came_at: datetime
    committed_at: datetime | None = None
    answered_at: datetime | None = None


class Witness(FaultScript):
    """Makes Xero wait before or after it commits a refresh, and notes the moments of each."""

    def __init__(self, sandbox: Sandbox, chance: random.Random) -> None:
        super().__init__()
        self.last: Visit | None = None
        self._now, self._chance = sandbox.clock, chance
        self._visits: dict[object, Visit] = {}
        """By the task that serves each."""
        self._refresh = sandbox.identity.refresh
        sandbox.world.faults = self
        sandbox.world.on_logged = self._answered
        sandbox.identity.refresh = self._committed  # type: ignore[method-assign]

    def next(self, endpoint: Endpoint) -> Fault | None:
        """Return how to slow down the refresh that has arrived."""
        if endpoint is not Endpoint.REFRESH:
            return None
        self.last = self._visits[asyncio.current_task()] = Visit(self._now())
        kind = self._chance.choice((FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER))
        longest = XERO_IS_SLOW_SECONDS if self._chance.random() < 0.05 else XERO_WAITS_SECONDS
        return Fault(kind, self._chance.uniform(0, longest))

    def _committed(self, *arguments: Any, **options: Any) -> TokenResponse:
        answer = self._refresh(*arguments, **options)
        self._visits[asyncio.current_task()].committed_at = self._now()
        return answer

    def _answered(self, request: LoggedRequest) -> None:
        if visit := self._visits.pop(asyncio.current_task(), None):
            visit.answered_at = self._now()


# ----------------------------------------------------------------------------------------- a lane


@dataclass(frozen=True)
class Death:
    """One kill, by the lane's clock."""

    killed_at: datetime
    began: datetime | None = None
    """When the last refresh began that the process was told to make; None if it was still starting."""
    trouble: str = ""
    """What went wrong before the kill, in words. Nothing should."""


@dataclass
class Figures:
    """What was done, and what of it must not be."""

    kills: int = 0
    landed: Counter[str] = field(default_factory=Counter)
    left_open: int = 0
    """Kills that left an intent behind."""
    half_written: int = 0
    """Kills that left a file half-written, or not renamed yet."""
    leases: int = 0
    """Kills that left a lease in Redis."""
    overtaken: int = 0
    """Kills that left a current token which Xero refuses, since an older request was committed after a newer one."""
    served: int = 0
    """Restarts of the whole process after which the token was served."""
    refreshes: int = 0
    replays: int = 0
    unheard: int = 0
    """Answers that Xero could not deliver."""
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
        landed = ", ".join(f"{where} {self.landed[where]}" for where in LANDINGS)
        refused = (
            ", ".join(f"{count} as {reason}" for reason, count in self.refused.items()) or "none"
        )
        served = f", {self.served} restarts served the token" if self.served else ""
        return (
            f"{title}: {self.kills} kills in {self.seconds:.1f} s ({self.kills / max(self.seconds, 0.01):.1f} a second)"
            f"{served}\n"
            f"  landed: {landed}\n"
            f"  left behind: {self.left_open} open refreshes, {self.half_written} unfinished files, "
            f"{self.leases} leases in Redis, {self.overtaken} tokens overtaken by an older request\n"
            f"  at Xero: {self.refreshes} refreshes, {self.replays} replays, {self.unheard} answers not heard, "
            f"refused: {refused}\n"
            f"  lost refresh tokens: {self.lost}; uses outside the grace: {self.reused}"
        )


class Lane:
    """One login that is refreshed by processes which are killed, one after another."""

    def __init__(
        self,
        sandbox: Sandbox,
        clock: Path,
        url: str,
        key: Path,
        mode: SiblingMode,
        chance: random.Random,
        admin: Any,
    ) -> None:
        self.sandbox, self.clock, self.url, self.key, self.chance = (
            sandbox,
            SharedClock(clock),
            url,
            key,
            chance,
        )
        self.clock_file = clock
        self.name = f"lane-{mode}"
        self.figures = Figures()
        self.leaps = True
        """May the next process move the clock in its life?"""
        self._mode = mode
        self._witness = Witness(sandbox, chance)
        self.store = new_store(url)
        self._sealer = Sealer([Secret(key.read_text())])
        self._admin = admin
        self._database = url.partition("db=")[2]

    def keeper(self) -> TokenKeeper:
        """Start a keeper in this process, which is not killed."""
        store = new_store(self.url)
        store.shared = False  # no other process writes: it need not follow the store
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
        await self.kept()  # from here on, this store has its connection

    async def run(
        self, kill: Callable[[Lane], Awaitable[Death]], kills: int, *, breaks: bool
    ) -> Figures:
        """Make the kills, judge each, and make a last refresh without one. Stop early at an
        error. ``breaks``: the clock may be advanced between two kills."""
        began = time.monotonic()
        while self.figures.kills < kills and not self.figures.wrong:
            death = await kill(self)
            waits = self._witness.last is not None and self._witness.last.committed_at is None
            await self.judge(
                death, at_once=self.chance.random() < (0.8 if waits else 0.1), breaks=breaks
            )
        if not self.figures.wrong:
            await self.prove()
        self.count()
        self.figures.seconds = time.monotonic() - began
        await self.store.close()
        return self.figures

    async def judge(self, death: Death, *, at_once: bool = False, breaks: bool = False) -> None:
        """Look at what a killed process has left, and let the clock go on to the next start. ``at_once``: that comes
        while Xero may still be at work."""
        figures = self.figures
        figures.kills += 1
        if death.trouble:
            self.wrong(f"before it was killed, a process told: {death.trouble}")
        await self.bury()
        try:
            account = await self.kept()
        except SealError as error:
            figures.lost += 1
            self.wrong(f"the record is lost: {error}")
            return
        figures.landed[self.landing(account, death)] += 1
        figures.left_open += account.intent is not None
        self.must_live(account)
        self.leaps = breaks and not at_once
        if at_once:
            return
        # The dead one's last request was in the socket before the kill: some turns of the loop bring it to Xero.
        for _ in range(20):
            await asyncio.sleep(0)
        while self.sandbox.world.running:
            await asyncio.sleep(0.001)
        current = account.current
        figures.overtaken += current is not None and self.refusal(current) is Refusal.SIBLING
        if breaks:
            self.clock.advance(self.rest(account).total_seconds())
        self.must_live(account)

    def rest(self, account: Account) -> timedelta:
        """Return the time until the restart: within the bound, while only spent tokens are left."""
        live = [token for token in tokens(account) if self.refusal(token) is None]
        if any(token.first_spent_at is None for token in live):
            return self.chance.random() * (
                LONG_BREAK if self.chance.random() < 0.1 else LONGEST_BREAK
            )
        ends_at = max(
            (t.first_spent_at + RECOVERED_WITHIN for t in live if t.first_spent_at),
            default=self.clock.now(),
        )
        return min(
            self.chance.random() * LONGEST_BREAK, max(ends_at - self.clock.now(), timedelta(0))
        )

    def landing(self, account: Account, death: Death) -> str:
        """Return the phase in which a kill landed, by the record and by the requests that Xero
        saw."""
        intent, visit = account.intent, self._witness.last
        if death.began is None:
            return "in the start"
        if intent is None or intent.began_at < death.began:
            written = account.refreshed_at is not None and account.refreshed_at >= death.began
            return "written" if written else "before the intent"
        if visit is None or not intent.began_at <= visit.came_at <= death.killed_at:
            return "intent written, not at Xero yet"
        if visit.committed_at is None or visit.committed_at > death.killed_at:
            return "at Xero, not committed"
        if visit.answered_at is None or visit.answered_at > death.killed_at:
            return "committed, not answered"
        return "answered, not written"

    def refusal(self, token: RefreshToken) -> Refusal | None:
        return self.sandbox.identity.refusal_of(token.value.reveal(), self.clock.now())

    def must_live(self, account: Account) -> None:
        """Check the invariant: the record holds a token from which Xero would issue."""
        found = {token.value.fingerprint: self.refusal(token) for token in tokens(account)}
        if None not in found.values() and not self.figures.lost:
            self.figures.lost += 1
            self.wrong(
                f"the login is lost; of the refresh tokens that are kept, Xero says: {found}"
            )

    def wrong(self, what: str) -> None:
        self.figures.wrong.append(f"{self.name}, kill {self.figures.kills}: {what}")

    async def kept(self) -> Account:
        """Return the record of the store."""
        stored = await self.store.read(self.name)
        assert stored is not None
        return open_record(self._sealer, stored, self.name)

    async def bury(self) -> None:
        """Count the files of a killed process, and remove its lease in Redis, which would last
        for 12 s."""
        if self._admin is None:
            self.figures.half_written += unfinished(
                Path(self.url.removeprefix("file://")), self.name
            )
            return
        # What the dead one had sent is carried out before its connection is seen to have ended.
        give_up_at = time.monotonic() + HANG_SECONDS
        while (
            sum(client["db"] == self._database for client in self._admin.client_list())
            > OUR_CONNECTIONS
        ):
            assert time.monotonic() < give_up_at, "Redis still holds a dead process's connection"
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
        self.must_live(await self.kept())

    def count(self) -> None:
        """Add the requests that Xero saw to the figures."""
        figures, counts, log = self.figures, self.sandbox.identity.counts, self.sandbox.refreshes()
        figures.refreshes, figures.replays = counts.refreshes, counts.replays
        figures.unheard = sum(request.outcome is Outcome.LOST for request in log)
        figures.refused.update(
            request.reason or "" for request in log if request.outcome is Outcome.REFUSED
        )
        figures.reused = figures.refused[Refusal.SPENT]
        # A retry may end what an earlier try was given, where Xero works so. Nothing else explains a refusal.
        overtakes = self._mode in (SiblingMode.LAST_VALID, SiblingMode.LAST_VALID_WITH_DESCENDANTS)
        explained = {Refusal.SIBLING} if overtakes else set()
        if bad := {
            reason: count for reason, count in figures.refused.items() if reason not in explained
        }:
            self.wrong(f"Xero refused refreshes that it should not have been asked for: {bad}")


def unfinished(folder: Path, name: str) -> int:
    """Return the number of files that a killed writer of this record has left."""
    return len(list(folder.glob(f"{name}.*.new")))


def tokens(account: Account) -> list[RefreshToken]:
    """Return the refresh tokens of a record."""
    return [token for token in (account.current, *account.fallbacks) if token is not None]


# ---------- the processes that are killed


class Forkers:
    """Processes that fork children, for as many lanes as there are."""

    def __init__(self) -> None:
        self._idle: asyncio.Queue[Process] = asyncio.Queue()

    @asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[Callable[[Lane], Awaitable[Death]]]:
        """Start the forkers. Return the function that has a child killed for a lane."""
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
                    start_new_session=True,  # Ctrl-C is for the command: it ends these by closing their stdin
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
            "seed": lane.chance.getrandbits(32),
        }
        process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await process.stdout.readline()
        assert line, "the process that forks has ended"
        self._idle.put_nowait(process)
        told = json.loads(line)
        began = datetime.fromisoformat(told["began"]) if told["began"] else None
        return Death(datetime.fromisoformat(told["killed_at"]), began, told["trouble"])


class Servers:
    """Real server processes."""

    def __init__(self) -> None:
        self._start_seconds, self._refresh_seconds = 1.0, 0.05
        """How long a start and a refresh take, as learnt."""

    async def kill(self, lane: Lane) -> Death:
        """Start a server on the lane's store, and kill it in its start or at one of its
        refreshes."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "xots"), env=environment_of(lane), stdout=DEVNULL, stderr=PIPE
        )
        spawned_at = time.monotonic()
        began: list[datetime] = []
        trouble = ""
        refreshing: asyncio.Task[str] | None = None
        try:
            if lane.chance.random() < 0.2:
                await asyncio.sleep(lane.chance.random() * self._start_seconds)
            else:
                port = await serving(process)
                self._start_seconds += 0.2 * (time.monotonic() - spawned_at - self._start_seconds)
                trouble = await self.served(port, lane)
                refreshing = asyncio.create_task(self.refresh(port, lane, began))
                await asyncio.wait(
                    [refreshing], timeout=lane.chance.random() * 3 * self._refresh_seconds
                )
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            killed_at = lane.clock.now()
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
            await process.wait()
            trouble = trouble or (await refreshing if refreshing else "")
        if process.returncode != -signal.SIGKILL:
            trouble = f"it ended by itself, with {process.returncode}: {said[-2000:]}"
        return Death(killed_at, began[-1] if began else None, trouble)

    async def served(self, port: int, lane: Lane) -> str:
        """Check that the token is served and that Xero accepts it; return the error."""
        status, body = await get(port, "/token")
        if status != 200:
            return f"/token answered {status}: {body.decode()}"
        try:
            lane.sandbox.identity.check_access(json.loads(body)["accessToken"], lane.clock.now())
        except BearerRefused as error:
            return f"/token gave a token that Xero refuses: {error}"
        lane.figures.served += 1
        return ""

    async def refresh(self, port: int, lane: Lane, began: list[datetime]) -> str:
        """Refresh until the server is gone; return the errors before that."""
        while True:
            at = time.monotonic()
            began.append(lane.clock.now())
            try:
                status, body = await get(port, "/refresh")
            except (OSError, EOFError):
                return ""
            if status != 303:
                return f"/refresh answered {status}: {body.decode()}"
            self._refresh_seconds += 0.1 * (time.monotonic() - at - self._refresh_seconds)


def environment_of(lane: Lane) -> dict[str, str]:
    """Return the environment of a server, without the settings of this process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")} | {
        "XOTS_PORT": "0",
        "XOTS_ACCOUNT": lane.name,
        "XOTS_STORE": lane.url,
        "XOTS_KEY_FILE": str(lane.key),
        "XOTS_TOKEN_URL": lane.sandbox.token_url,
        "XOTS_CONNECTIONS_URL": "",
    }


async def serving(process: Process) -> int:
    """Return the server's port, once it serves."""
    said = b""
    assert process.stderr is not None
    async with asyncio.timeout(HANG_SECONDS):
        while line := await process.stderr.readline():
            said += line
            if found := re.search(rb"serving on http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
    raise AssertionError(f"the server did not start: {said.decode()}")


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Send a program's GET; return status and body. Raise OSError or EOFError without a whole
    response."""
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


# ------------------------------------------------------------------------------------------ the runs


@asynccontextmanager
async def lanes(store: str, seed: int) -> AsyncIterator[list[Lane]]:
    """Make a lane for each sibling mode, on one folder or one Redis. Remove all of them at the
    end."""
    async with AsyncExitStack() as running:
        folder = Path(tempfile.mkdtemp(prefix="xots-kills-"))
        running.callback(shutil.rmtree, folder)
        redis_server = (
            running.enter_context(RedisServer("appendonly yes")) if store == "redis" else None
        )
        key = folder / "key"
        key.write_text(new_key().reveal())
        key.chmod(0o600)
        running.enter_context(unheard_answers_unlogged())
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
                admin = redis.Redis(
                    unix_socket_path=str(redis_server.socket),
                    password=redis_server.password,
                    db=number,
                )
                running.callback(admin.close)
            made.append(
                Lane(sandbox, clock, url, key, mode, random.Random(seed * 100 + number), admin)  # noqa: S311
            )
        for lane in made:
            await lane.log_in()
        yield made


@contextmanager
def unheard_answers_unlogged() -> Iterator[None]:
    """Keep Tornado from logging a response whose caller is gone: the kills cause that on
    purpose."""

    def heard(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], StreamClosedError))

    logger = logging.getLogger("tornado.application")
    logger.addFilter(heard)
    try:
        yield
    finally:
        logger.removeFilter(heard)


async def forked(store: str, kills: int, seed: int, *, forkers: int = 3) -> Figures:
    """Kill forked children."""
    async with lanes(store, seed) as them, Forkers().running(forkers) as kill:
        return await together(them, kills, lambda lane, share: lane.run(kill, share, breaks=True))


async def whole(store: str, kills: int, seed: int) -> Figures:
    """Kill real server processes."""
    servers = Servers()
    async with lanes(store, seed) as them:
        return await together(
            them, kills, lambda lane, share: lane.run(servers.kill, share, breaks=False)
        )


async def together(
    them: list[Lane], kills: int, run: Callable[[Lane, int], Coroutine[Any, Any, Figures]]
) -> Figures:
    """Run all lanes at once, each with its share of the kills."""
    figures = Figures()
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(run(lane, (kills + number) // len(them)))
            for number, lane in enumerate(them)
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
        "--store", choices=("file", "redis"), help="the store (default: one after the other)"
    )
    parser.add_argument(
        "--forked",
        type=int,
        default=1000,
        help="kills of forked children, per store (default 1000)",
    )
    parser.add_argument(
        "--whole", type=int, default=16, help="kills of the whole process, per store (default 16)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of what is drawn: where to kill, how long to wait"
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
                missed = [where for where in LANDINGS if not figures.landed[where]]
                if missed and kills >= ENOUGH:
                    wrong.append(
                        f"{store}, {way}: of so many kills, none landed {' or '.join(missed)}"
                    )
    for one in wrong:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
