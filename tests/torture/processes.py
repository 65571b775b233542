"""Many requests to several real servers on one store: one refresh a rotation, no expired token.

A run has three parts, on one login and without a pause between them:

storms    Tokens have a long lifetime, so that only ``GET /refresh`` causes a refresh. Each storm
          sends it to every process at once. Xero holds its response until all processes have the
          request, so that each storm costs exactly one refresh. (With faults, Xero holds nothing.)
demands   Tokens have a short lifetime, and callers demand most of it (``min_ttl``). Storms come at
          random, and Xero holds nothing. A process that receives the request of a storm after the
          refresh has ended refreshes once more, correctly.
expiry    Tokens have a short lifetime, and no caller demands any of it: the ticks refresh.

With ``--accounts``, the processes keep further accounts at the same time, which are stormed in the
second part and refreshed by their use in the third. Each of them is judged as the first one is.

With ``--grant client_credentials``, no user logs in: the processes share the access tokens of one
custom connection. A rotation is then a new access token, and a refresh the request for it.

During all three parts, callers request ``/token`` from every process, and the run checks that the
simulated Xero would accept a refresh token of the stored record. (That of a custom connection holds
an access token, and never a refresh token.)
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from support.redis_servers import RedisServer

from xots.backends import open_store
from xots.keeping.record_store import open_record
from xots.lifecycle.account import Account
from xots.lifecycle.policy import Grant
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    Client,
    Sandbox,
    SandboxOptions,
)
from xots.sandbox.accounting import default_organisations
from xots.sandbox.identity.consents import Consent
from xots.sandbox.identity.protocol import BearerRefused, Refusal
from xots.sandbox.identity.provider import Identity
from xots.sandbox.identity.switches import SiblingMode, Switches
from xots.sandbox.log import LoggedRequest, Outcome
from xots.sandbox.person import Person
from xots.sandbox.world import default_clients
from xots.sealing import Sealer, new_key
from xots.secret import Secret

LONG_LIFE_SECONDS = 1800

MIN_LIFE_TO_CHECK_EXP = 4
"""Lifetime in seconds from which on the run also checks the ``exp`` claim of served tokens. The
claim is rounded down to whole seconds, and may come a second before Xero's own expiry. xots serves
no token in the last quarter of its lifetime, which covers that second."""

DEFAULT = "default"
CLIENTS = (
    *default_clients(),
    Client(
        DEFAULT_CUSTOM_CLIENT_ID,
        redirect_uris=(),
        custom_connection_tenant_id=default_organisations()[0].tenant_id,
    ),
)
CUSTOM_CONNECTION = {
    "XOTS_GRANT": Grant.CLIENT_CREDENTIALS.value,
    "XOTS_CLIENT_ID": DEFAULT_CUSTOM_CLIENT_ID,
    "XOTS_CLIENT_SECRET": DEFAULT_CLIENT_SECRET,
    "XOTS_SCOPES": "accounting.settings",
}
"""The settings of a server without a login."""
LEASE_KEY = f"xots:lease:{DEFAULT}"

FAULTS = (
    *(
        "reset",
        "lost",
        "truncated",
        "not-json",
        "500-html",
        "503-json-after",
        "502-empty",
        "429=1",
        "403-html",
    ),
    *("delay-before=0.3", "delay-after=0.3"),
)
"""The faults of a refresh, all equally frequent: before the commit, after it, or a delay."""

DUE_AFTER_SHARE = 0.4
"""The part of a lifetime before which no tick refreshes. The tick refreshes at half of it. The
difference leaves room for two clocks and for the duration of the refresh."""

REQUEST_INTERVAL_SECONDS = 0.02
"""Average interval between two requests of one caller. It leaves the processors some time for Xero
and the servers."""


# ---------------------------------------------------------------------------------- the requests


@dataclass(frozen=True)
class Response:
    """A response. ``sent_at`` is the time just before its request, by the wall clock."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_at: datetime

    @property
    def token(self) -> str:
        return str(json.loads(self.body)["accessToken"])


class Line:
    """One connection of a program to a server, open for many requests."""

    def __init__(self, port: int, clock: Callable[[], datetime]) -> None:
        self._port, self._clock = port, clock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> Response:
        return await self.request("GET", path)

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        sent_at = self._clock()
        sent = {"Host": f"127.0.0.1:{self._port}"} | headers
        if body:
            sent["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {sent[name]}" for name in sent)]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        received = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
        }
        content = await reader.readexactly(int(received.get("content-length", 0)))
        return Response(int(first.split()[1]), received, content, sent_at)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def exp(token: str) -> float:
    """Return a JWT's ``exp`` claim, as a timestamp."""
    claims = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])


async def until(
    condition: Callable[[], Awaitable[bool] | bool], within_seconds: float = 30
) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(within_seconds):
        while not (found if isinstance(found := condition(), bool) else await found):
            await asyncio.sleep(0.01)


def path_of(name: str, path: str) -> str:
    """Return the path of an account."""
    return path if name == DEFAULT else f"/accounts/{name}{path}"


# --------------------------------------------------------------------------------- the processes


@dataclass
class Process:
    """One ``python -m xots``."""

    process: asyncio.subprocess.Process
    log: Path
    port: int = 0

    def log_matches(self, pattern: str) -> list[str]:
        """Return the matches in its log."""
        return re.findall(pattern, self.log.read_text())

    def has_started_or_ended(self) -> bool:
        """Tell if it serves, or has ended before that."""
        return bool(self.log_matches(r"serving on ")) or self.process.returncode is not None

    async def serves(self) -> None:
        """Wait until it serves, and note its port."""
        await until(self.has_started_or_ended)
        assert self.process.returncode is None, self.log.read_text()
        self.port = int(self.log_matches(r"serving on http://127\.0\.0\.1:(\d+)")[0])

    @property
    def refreshes(self) -> int:
        """Return the number of its refreshes that issued tokens."""
        return len(self.log_matches(r"(?m)^.*: refreshed"))


@dataclass
class Fleet:
    """A simulated Xero, and processes that share the logins of some accounts through one store."""

    sandbox: Sandbox
    url: str
    key: str
    processes: list[Process]
    redis: RedisServer | None
    folder: Path
    environment: dict[str, str]
    command: Sequence[str]
    names: tuple[str, ...] = (DEFAULT,)
    """The accounts."""
    grant: Grant = Grant.AUTHORIZATION_CODE
    """How they get their tokens."""
    consents: dict[str, Consent] = field(default_factory=dict)
    """The consent of each account at Xero."""
    lines: list[Line] = field(default_factory=list)

    async def start(self) -> Process:
        """Start one more process."""
        path = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        with path.open("wb") as log:
            started = await asyncio.create_subprocess_exec(
                *self.command, env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(Process(started, path))
        return self.processes[-1]

    def line(self, process: Process) -> Line:
        line = Line(process.port, self.sandbox.clock)
        self.lines.append(line)
        return line

    @property
    def by_client(self) -> bool:
        """True if the account is a custom connection."""
        return self.grant is Grant.CLIENT_CREDENTIALS

    @property
    def endpoint(self) -> str:
        """The endpoint of the rotations, for faults."""
        return "token" if self.by_client else "refresh"

    async def log_in(self, name: str = DEFAULT) -> None:
        url = f"http://localhost:{self.processes[0].port}{path_of(name, '')}"
        page = await Person().log_in(url, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
        assert page.status == 200, page.text
        await self.settled(name)
        current = (await self.kept(name)).current
        assert current is not None
        known = self.sandbox.identity.tokens.refresh_tokens[current.value.reveal()]
        self.consents[name] = known.consent

    def issued(self, name: str) -> set[str]:
        """Return the fingerprints of all refresh tokens of an account's login."""
        known = self.sandbox.identity.tokens.refresh_tokens
        consent = self.consents[name]
        return {
            Secret(text).fingerprint for text, token in known.items() if token.consent is consent
        }

    def rotations(self, name: str = DEFAULT) -> int:
        """Return the number of rotations of an account at Xero."""
        if self.by_client:
            issued = (Outcome.ISSUED, Outcome.LOST)
            return sum(request.outcome in issued for request in self.refreshes())
        return len(self.issued(name)) - 1

    def refreshes(self, name: str = DEFAULT) -> list[LoggedRequest]:
        """Return the refresh requests of an account at Xero; those of a custom connection without
        the one for its first token."""
        if self.by_client:
            return self.sandbox.requests(self.grant)[1:]
        own = self.issued(name)
        return [request for request in self.sandbox.refreshes() if request.token in own]

    async def tokens(self, name: str = DEFAULT) -> list[str | None]:
        """Return the token of each process."""
        lines = [self.line(p) for p in self.processes]
        path = path_of(name, "/token")
        responses = await asyncio.gather(*(line.get(path) for line in lines))
        for line in lines:
            line.close()
        return [response.token if response.status == 200 else None for response in responses]

    async def settled(self, name: str = DEFAULT) -> str:
        """Wait until all processes serve the same token. Return that token."""
        tokens: list[str | None] = []

        async def same() -> bool:
            tokens[:] = await self.tokens(name)
            return None not in tokens and len(set(tokens)) == 1

        await until(same)
        return str(tokens[0])

    async def kept(self, name: str = DEFAULT) -> Account:
        """Read the record from the store, without the processes."""
        store = open_store(self.url)
        try:
            stored = await store.read(name)
        finally:
            await store.close()
        assert stored is not None
        return open_record(Sealer([Secret(self.key)]), stored, name)

    async def is_safe(self, name: str = DEFAULT) -> bool:
        """Check the invariant: tell if the store holds a token from which Xero would issue, or the
        access token of a custom connection and no other."""
        account = await self.kept(name)
        if self.by_client:
            return account.access is not None and account.tokens == ()
        tokens = [t for t in (account.current, *account.fallbacks) if t is not None]
        identity, now = self.sandbox.identity, self.sandbox.clock()
        return account.consent_id is not None and any(
            identity.would_issue(t.value.reveal(), now) for t in tokens
        )

    async def end_all(self) -> None:
        """Kill all processes, stopped or not."""
        for one in self.processes:
            await ended(one.process)

    def live(self, seconds: int) -> None:
        """Set the lifetime of the tokens that Xero issues from now on."""
        switches = self.sandbox.identity.switches
        self.sandbox.identity.switches = replace(switches, access_token_life_seconds=seconds)


@asynccontextmanager
async def fleet(
    store: str,
    count: int,
    *,
    life: int = LONG_LIFE_SECONDS,
    seed: int | None = None,
    siblings: SiblingMode = SiblingMode.ALL_VALID,
    command: Sequence[str] = (sys.executable, "-m", "xots"),
    accounts: int = 0,
    grant: Grant = Grant.AUTHORIZATION_CODE,
    **settings: str,
) -> AsyncIterator[Fleet]:
    """Start ``count`` processes on one Redis or one folder, with a login of the default account and
    of each of ``accounts`` more, or with a custom connection. End all afterwards."""
    async with AsyncExitStack() as running:
        folder = Path(tempfile.mkdtemp(prefix="xots-processes-"))
        running.callback(shutil.rmtree, folder)
        redis = RedisServer("appendonly yes") if store == "redis" else None
        if redis is not None:
            running.callback(redis.__exit__)
            await asyncio.to_thread(redis.start)
        switches = Switches(access_token_life_seconds=life, sibling_mode=siblings)
        sandbox = await running.enter_async_context(
            Sandbox(SandboxOptions(port=0, clients=CLIENTS, switches=switches, seed=seed))
        )
        key = folder / "key"
        key.write_text(new_key().reveal())
        key.chmod(0o600)
        url = redis.unix_url if redis is not None else (folder / "state").as_uri()
        environment = environment_for(sandbox, url, key) | settings
        if grant is Grant.CLIENT_CREDENTIALS:
            environment |= CUSTOM_CONNECTION
        others = [f"account-{number}" for number in range(1, accounts + 1)]
        if others:
            config = folder / "xots.yaml"
            config.write_text("accounts:\n" + "".join(f"  {name}:\n" for name in others))
            environment["XOTS_CONFIG"] = str(config)
        servers = Fleet(
            sandbox,
            url,
            key.read_text(),
            [],
            redis,
            folder,
            environment,
            command,
            (DEFAULT, *others),
            grant,
        )
        running.push_async_callback(servers.end_all)
        for _ in range(count):
            await servers.start()
        for one in servers.processes:
            await one.serves()
        client = sandbox.options.clients[0]
        redirect_uris = tuple(f"http://localhost:{one.port}/code" for one in servers.processes)
        sandbox.identity.register(replace(client, redirect_uris=redirect_uris))
        try:
            if servers.by_client:
                await servers.settled()
            else:
                for name in servers.names:
                    await servers.log_in(name)
            yield servers
        finally:
            sandbox.faults.clear()
            sandbox.release()
            for line in servers.lines:
                line.close()


def environment_for(sandbox: Sandbox, store_url: str, key: Path) -> dict[str, str]:
    """Return the environment of a server: a free port, this store, this key, this Xero."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")}
    return kept | {
        "XOTS_PORT": "0",
        "XOTS_STORE": store_url,
        "XOTS_KEY_FILE": str(key),
        "XOTS_AUTHORIZE_URL": sandbox.authorize_url,
        "XOTS_TOKEN_URL": sandbox.token_url,
        "XOTS_REVOKE_URL": sandbox.revoke_url,
        "XOTS_CONNECTIONS_URL": sandbox.connections_url,
        "XOTS_REFRESH_INTERVAL": "0",
    }


async def ended(process: asyncio.subprocess.Process) -> None:
    """Kill a process, stopped or not."""
    if process.returncode is None:
        process.kill()
    await process.wait()


# ----------------------------------------------------------------------------------- the figures


@dataclass
class Figures:
    """The counts and the errors of a run."""

    polls: int = 0
    unavailable: int = 0
    """503s, all with Retry-After."""
    least_left: float = LONG_LIFE_SECONDS
    """The least remaining lifetime of a served token, from its request to its expiry at Xero, in
    seconds."""
    least_exp: float = LONG_LIFE_SECONDS
    """The same to its ``exp`` claim."""
    storms: Counter[int] = field(default_factory=Counter)
    """Storms without a hold, by the number of refreshes during each."""
    checks: int = 0
    """Number of checks of the stored record."""
    soonest: float | None = None
    """The least time between two refreshes without a demand of a caller, in seconds."""
    wrong: list[str] = field(default_factory=list)

    def check(
        self, response: Response, where: str, life: int, identity: Identity, faulty: bool
    ) -> None:
        """Judge a response to ``/token`` or ``/refresh``."""
        if (
            response.status == 503
            and faulty
            and response.headers.get("retry-after", "").isdecimal()
        ):
            self.unavailable += 1
        elif response.status == 303 and where.endswith("/refresh"):
            pass
        elif response.status == 200 and not where.endswith("/refresh"):
            self.polls += 1
            try:
                end = identity.check_access(response.token, response.sent_at).expires_at
            except BearerRefused as error:
                self.wrong.append(f"a token that Xero refuses was served: {error}")
                return
            self.least_left = min(self.least_left, (end - response.sent_at).total_seconds())
            left = exp(response.token) - response.sent_at.timestamp()
            self.least_exp = min(self.least_exp, left)
            if left <= 0 and life >= MIN_LIFE_TO_CHECK_EXP:
                self.wrong.append(f"a token was served {-left:.3f} s after its exp")
        else:
            body = response.body.decode()[:300]
            self.wrong.append(f"{where} responded with {response.status} {body}")

    def count(self, fleet: Fleet, name: str, faulty: bool) -> None:
        """Judge the requests of an account that Xero saw."""
        refreshes = fleet.refreshes(name)
        if fleet.by_client:
            bad = [r for r in refreshes if r.outcome is not Outcome.ISSUED]
            if bad and not faulty:
                self.wrong.append(f"{len(bad)} requests issued nothing, such as: {bad[0]}")
            return
        if SPENT in (r.reason for r in refreshes):
            self.wrong.append(f"{name}: a refresh token was used again after its grace")
        if faulty:
            return
        if bad := [r for r in refreshes if r.outcome != "issued"]:
            self.wrong.append(f"{name}: {len(bad)} refreshes issued nothing, such as: {bad[0]}")
        if not len(refreshes) == fleet.rotations(name) == len({r.token for r in refreshes}):
            self.wrong.append(f"{name}: a refresh token was spent twice")
        for earlier, later in pairwise(refreshes):
            if later.token != earlier.issued:
                self.wrong.append(f"{name}: the chain breaks: {later} does not follow {earlier}")


SPENT = str(Refusal.SPENT)


# --------------------------------------------------------------------------------------- the run


class Run:
    """One run on a fleet: the parts one after another, with callers all the time."""

    def __init__(
        self, fleet: Fleet, *, faults_percent: float = 0, life: int = 2, seed: int = 0
    ) -> None:
        self.fleet, self.life = fleet, life
        self.faulty = faults_percent > 0
        self.probability = faults_percent / 100 / len(FAULTS)
        self.figures = Figures()
        self.rng = random.Random(seed)  # noqa: S311
        self.pings = [fleet.line(process) for process in fleet.processes]
        self.over = False
        self.min_ttl: int | None = None
        """The remaining lifetime that the callers demand, in seconds."""

    @property
    def rotations(self) -> int:
        """Return the number of rotations of the default account at Xero."""
        return self.fleet.rotations()

    async def go(self, *, storms: int, demands: int, expiries: int) -> Figures:
        """Run the three parts, with the number of rotations for each."""
        tasks = [asyncio.create_task(self.parts(storms, demands, expiries))]
        tasks += [
            asyncio.create_task(self.call(process, name))
            for process in self.fleet.processes
            for name in self.fleet.names
        ]
        tasks.append(asyncio.create_task(self.check_record()))
        try:
            # A caller ends only by an error.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # Without a cancellation: Python 3.11 may lose it inside a call to Redis.
            self.over = True
            tasks[0].cancel()
            await asyncio.wait(tasks, timeout=30)
        await self.end()
        return self.figures

    async def parts(self, storms: int, demands: int, expiries: int) -> None:
        goal = self.rotations + storms
        for kind in FAULTS if self.faulty else ():
            self.fleet.sandbox.add_fault(f"{self.fleet.endpoint}:p={self.probability}:{kind}")
        while self.rotations < goal:
            await (self.storm() if self.faulty else self.held_storm())
        self.fleet.live(self.life)
        for name in self.fleet.names:
            await self.storm(name)
        self.min_ttl = self.life
        goal = self.rotations + demands
        while self.rotations < goal:
            await asyncio.sleep(self.rng.uniform(0, 0.3))
            if self.rng.random() < 0.5:
                name = self.rng.choice(self.fleet.names)
                before = len(self.fleet.refreshes(name))
                await self.storm(name)
                self.figures.storms[len(self.fleet.refreshes(name)) - before] += 1
        self.min_ttl = None
        goal = self.rotations + expiries
        made = {name: len(self.fleet.refreshes(name)) for name in self.fleet.names}
        await until(lambda: self.rotations >= goal, 60 + expiries * self.life * 10)
        if not self.faulty:
            for name, before in made.items():
                self.check_intervals(name, before)

    def check_intervals(self, name: str, before: int) -> None:
        """Check that no refresh of an account came early, but for its first ``before``."""
        # The first one may follow soon after a refresh that a caller demanded.
        times = [refresh.at for refresh in self.fleet.refreshes(name)[before:]]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
        soonest = min(gaps, default=None)
        if soonest is None:
            return
        self.figures.soonest = min(self.figures.soonest or soonest, soonest)
        if soonest < self.life * DUE_AFTER_SHARE:
            self.figures.wrong.append(
                f"a token of {name} was refreshed {soonest:.2f} s after it was issued"
            )

    async def call(self, process: Process, name: str) -> None:
        """Request the token of an account at one process again and again."""
        line, identity = self.fleet.line(process), self.fleet.sandbox.identity
        while not self.over:
            where = path_of(name, "/token")
            path = where if self.min_ttl is None else f"{where}?min_ttl={self.min_ttl}"
            self.figures.check(await line.get(path), where, self.life, identity, self.faulty)
            interval = REQUEST_INTERVAL_SECONDS * len(self.fleet.names)
            await asyncio.sleep(interval * self.rng.uniform(0.5, 1.5))

    async def check_record(self) -> None:
        """Check the stored record again and again."""
        while not self.over:
            for name in self.fleet.names:
                if not await self.fleet.is_safe(name):
                    self.figures.wrong.append(
                        f"the store held no token of {name} from which Xero would issue"
                    )
                self.figures.checks += 1
            await asyncio.sleep(0.1)

    async def storm(self, name: str = DEFAULT) -> None:
        """Send ``GET /refresh`` for an account to all processes at once."""
        await asyncio.gather(*(self.refresh(process, name) for process in self.fleet.processes))

    async def refresh(self, process: Process, name: str) -> None:
        line, path = self.fleet.line(process), path_of(name, "/refresh")
        response = await line.get(path)
        line.close()
        self.figures.check(response, path, self.life, self.fleet.sandbox.identity, self.faulty)

    async def held_storm(self) -> None:
        """Send a storm whose refresh Xero holds until every process has received it."""
        sandbox, before = self.fleet.sandbox, len(self.fleet.refreshes())
        sandbox.add_fault(f"{self.fleet.endpoint}:nth=1:hold-before")
        storm = asyncio.create_task(self.storm())
        try:
            async with asyncio.timeout(60):
                await sandbox.held()
                for _ in range(2):  # then all earlier requests are in progress
                    for line in self.pings:
                        await line.get("/ping")
                sandbox.release()
                await storm
        finally:
            storm.cancel()
            sandbox.faults.clear()
        made = len(self.fleet.refreshes()) - before
        if made != 1:
            self.figures.wrong.append(
                f"a storm at {len(self.fleet.processes)} processes cost {made} refreshes"
            )
        if self.fleet.by_client:
            await self.fleet.settled()

    async def end(self) -> None:
        """Check that in the end every process serves the same token of each account, and that Xero
        accepts the record's."""
        self.fleet.sandbox.faults.clear()
        self.fleet.live(LONG_LIFE_SECONDS)
        for name in self.fleet.names:
            await self.end_of(name)

    async def end_of(self, name: str) -> None:
        """Check one account in the end."""
        line = self.fleet.line(self.fleet.processes[0])

        async def fresh() -> bool:
            await line.get(path_of(name, "/refresh"))
            token = (await self.fleet.tokens(name))[0]
            return token is not None and exp(token) - time.time() > LONG_LIFE_SECONDS / 2

        await until(fresh, 90)  # a back-off may still run
        await self.fleet.settled(name)
        if not await self.fleet.is_safe(name):
            self.figures.wrong.append(
                f"the record of {name} at the end holds no token from which Xero would issue"
            )
        account, identity, now = (
            await self.fleet.kept(name),
            self.fleet.sandbox.identity,
            self.fleet.sandbox.clock(),
        )
        if self.fleet.by_client:
            if account.access is None:
                self.figures.wrong.append("the record at the end holds no access token")
            else:
                identity.check_access(account.access.value.reveal(), now)
        elif account.current is None or not identity.would_issue(
            account.current.value.reveal(), now
        ):
            self.figures.wrong.append(f"Xero would not take the current token of {name}")
        self.figures.count(self.fleet, name, self.faulty)

    def report(self) -> list[str]:
        """Return the figures as lines."""
        by_client, seen = self.fleet.by_client, self.figures
        refreshes = self.fleet.refreshes() if by_client else self.fleet.sandbox.refreshes()
        spent = len({r.token for r in refreshes})
        reused = sum(r.reason == SPENT for r in refreshes)
        outcomes = Counter(f"{r.outcome}" + (f" ({r.fault})" if r.fault else "") for r in refreshes)
        shares = [process.refreshes for process in self.fleet.processes]
        unheld = (
            ", ".join(f"{made}: {times}" for made, times in sorted(seen.storms.items())) or "none"
        )
        others = {name: self.fleet.rotations(name) for name in self.fleet.names[1:]}
        return [
            *([f"rotations of the other accounts: {others}"] if others else []),
            f"rotations {self.rotations}, requests for access tokens {len(refreshes)}, "
            "and one for the first"
            if by_client
            else f"rotations {self.rotations}, refresh requests {len(refreshes)}, "
            f"distinct refresh tokens spent {spent}, retries {len(refreshes) - spent}, "
            f"reused after the grace period {reused}",
            f"token requests {seen.polls}, 503s with Retry-After {seen.unavailable}, "
            f"errors {len(seen.wrong)}; least remaining lifetime of a served token "
            f"{seen.least_left:.3f} s (to its exp, in whole seconds: {seen.least_exp:.3f} s)",
            f"checks of the stored record {seen.checks}; refreshes of each process: {shares}; "
            f"storms without a hold, by the refreshes during each: {unheld}",
            f"at Xero: {', '.join(f'{name}: {times}' for name, times in outcomes.most_common())}"
            + (
                ""
                if seen.soonest is None
                else f"; least time between two refreshes of the ticks {seen.soonest:.2f} s"
            ),
        ]


# ------------------------------------------------------------------------- a stopped lease holder


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Stop the process inside the block."""
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.process.send_signal(signal.SIGCONT)


async def stop_the_holder(
    fleet: Fleet, mode: SiblingMode, hold: str, *, seconds: float = 0, further: int = 2
) -> str:
    """Stop the lease holder during a refresh, let the other process take over, continue the first.

    The refresh is held at Xero before or after its commit (``hold``). On Redis the lease expires:
    the other process finds the intent, refreshes with the same token, and continues from there, so
    that the first one's response comes very late. In a folder the lease never expires: the other
    process serves its token, and spends none.

    Args:
        seconds: the time for which the holder is stopped. 0 means a minimum: the lease in Redis is
            made to expire.
        further: number of refreshes of the other process after that, before the first continues.
    """
    sandbox, (first, second) = fleet.sandbox, fleet.processes
    sandbox.identity.switches = replace(sandbox.identity.switches, sibling_mode=mode)
    old, before = await fleet.settled(), len(sandbox.refreshes())
    stopped_line, other_line = fleet.line(first), fleet.line(second)
    sandbox.add_fault(f"refresh:nth=1:{hold}")
    first_refresh = asyncio.create_task(stopped_line.get("/refresh"))
    await sandbox.held()
    with stopped(first):
        began = time.monotonic()
        second_refresh = asyncio.create_task(fleet.line(second).get("/refresh"))
        for _ in range(2):  # after the second response, the process waits for the lease
            assert (await other_line.get("/token")).token == old, (
                "the other process does not serve its token"
            )
        if fleet.redis is not None:
            if not seconds:
                assert fleet.redis.admin.pexpire(LEASE_KEY, 1)
            assert (await second_refresh).status == 303
            for _ in range(further):
                assert (await other_line.get("/refresh")).status == 303
            assert (await other_line.get("/token")).token != old
        await asyncio.sleep(max(0, began + seconds - time.monotonic()))
        assert second_refresh.done() == (fleet.redis is not None)
        assert len(sandbox.world.holds) == 1
        assert await fleet.is_safe()
        taken = sandbox.refreshes()[before:]
        assert (
            len(taken)
            == len({r.token for r in taken})
            == (1 + further if fleet.redis is not None else 0)
        ), taken
        assert all(r.outcome in ("issued", "replayed") for r in taken), taken
        sandbox.release()
        await until(lambda: len(sandbox.refreshes()) > before + len(taken))
        assert await fleet.is_safe(), "the login is not safe while the response is held back"
    late = await first_refresh
    assert late.status == 303 or (late.status == 503 and "retry-after" in late.headers), late
    assert (await second_refresh).status == 303
    for process in (first, second, first):
        line = fleet.line(process)
        assert (await line.get("/refresh")).status == 303
        sandbox.identity.check_access((await line.get("/token")).token, sandbox.clock())
        assert await fleet.is_safe()
    await fleet.settled()
    made, account = sandbox.refreshes()[before:], await fleet.kept()
    reasons = Counter(r.reason for r in made if r.reason)
    assert SPENT not in reasons, made
    assert sandbox.identity.counts.consents == 1
    kept = 1 + len(account.fallbacks)
    refusals = (
        ", ".join(f"{times} refused ({reason})" for reason, times in reasons.items())
        or "none refused"
    )
    return f"{mode} {hold}: {len(made)} refreshes, {refusals}, {kept} tokens kept"


# ----------------------------------------------------------------------------------- the command


async def rotate(options: argparse.Namespace) -> list[str]:
    """Make a run, and print its figures. Return the errors."""
    began = time.monotonic()
    async with fleet(
        options.store,
        options.processes,
        seed=options.seed,
        siblings=options.siblings,
        accounts=options.accounts,
        grant=options.grant,
    ) as servers:
        run = Run(servers, faults_percent=options.faults, life=options.life, seed=options.seed)
        storms, demands = options.rotations // 4, options.rotations // 4
        try:
            await run.go(
                storms=storms, demands=demands, expiries=options.rotations - storms - demands
            )
        finally:
            for line in run.report():
                print(line, flush=True)
            print(
                f"{options.processes} processes on {options.store}, {options.grant}, "
                f"faults {options.faults:g}%, life {options.life} s, siblings {options.siblings}, "
                f"seed {options.seed}: {time.monotonic() - began:.0f} s",
                flush=True,
            )
        return run.figures.wrong


async def stop_holders(options: argparse.Namespace) -> list[str]:
    """Stop a lease holder in each mode, and print the outcomes. Return the errors."""
    wrong = []
    cases = [(mode, hold) for mode in SiblingMode for hold in ("hold-before", "hold-after")]
    for mode, hold in cases:
        async with fleet(options.store, 2) as servers:
            try:
                print(
                    await stop_the_holder(servers, mode, hold, seconds=options.seconds), flush=True
                )
            except AssertionError as error:
                wrong.append(f"{mode} {hold}: {error}")
    print(
        f"the lease holder was stopped in {len(cases)} refreshes on {options.store}; "
        f"errors: {len(wrong)}"
    )
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture processes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--store",
        choices=("redis", "file"),
        default="redis",
        help="the shared store (default: %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, help="number of servers (default: 8 on redis, 4 on file)"
    )
    parser.add_argument(
        "--rotations",
        type=int,
        default=100,
        help="number of rotations at Xero (default: %(default)s)",
    )
    parser.add_argument(
        "--faults",
        type=float,
        default=0,
        help="faulty refreshes in percent (default: %(default)s)",
    )
    parser.add_argument(
        "--life",
        type=int,
        default=4,
        help="lifetime of an access token in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--siblings",
        type=SiblingMode,
        choices=list(SiblingMode),
        default=SiblingMode.ALL_VALID,
        help="sibling mode of Xero (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of the faults and the storms (default: %(default)s)",
    )
    parser.add_argument(
        "--accounts",
        type=int,
        default=0,
        help="number of accounts beside the default one (default: %(default)s)",
    )
    parser.add_argument(
        "--grant",
        type=Grant,
        choices=list(Grant),
        default=Grant.AUTHORIZATION_CODE,
        help="how the processes get their tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--stop",
        action="store_true",
        help="instead: stop (SIGSTOP) the lease holder during a refresh, in all modes",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="with --stop: duration of the stop; from 13 the lease expires by itself, from 21 the "
        "deadline of the request has passed too (default 0: the lease in Redis is made to expire)",
    )
    options = parser.parse_args(arguments)
    if options.grant is Grant.CLIENT_CREDENTIALS and (options.stop or options.accounts):
        parser.error("--stop and --accounts are for logins: they need no other --grant")
    options.processes = options.processes or (8 if options.store == "redis" else 4)
    wrong = asyncio.run((stop_holders if options.stop else rotate)(options))
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
