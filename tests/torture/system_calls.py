"""Faults in each system call of a refresh on the file store: SIGKILL, EIO, ENOSPC (``strace``).

A child process keeps a login with the real ``TokenKeeper`` on the real ``FileStore``. This process
plays Xero, and so outlives the child. A first run under strace lists every system call of one
refresh on the store's folder, in all threads: the refresh reads, saves the intent, and saves the
response. Then the command makes one run for each of these calls with each treatment. The checks:

- After SIGKILL the child has ended. After an error it has reported the error, or the error was
  harmless. An error in a write or a sync of the record is never harmless. The child has served the
  access token all the time, refreshed at the next attempt, and stopped without unsaved changes. No
  process has printed a traceback.
- At each request to Xero, the folder held the intent to spend the token of that request.
- The next start on the folder finds the login and refreshes it twice, and Xero refuses no token.
  No temporary file is left.

strace counts the calls of each thread separately. It is attached to the thread of the call, and
only during the refresh.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.bench import UNLIMITED
from support.inside import replica_of

from xots.backends.file import FileStore
from xots.clock import Clock, SystemClock
from xots.errors import TokenUnavailable, XotsError
from xots.events import Event
from xots.keeping.keeper import TokenKeeper
from xots.keeping.record_store import open_record
from xots.lifecycle.account import Account
from xots.lifecycle.logins import after_login
from xots.lifecycle.outcomes import Failure, Issued, Outcome
from xots.sandbox import Client, Identity, OAuthError
from xots.sandbox.identity.protocol import BearerRefused
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials, Response, read_token_response

__all__ = [
    "CLIENT",
    "NAME",
    "TREATMENTS",
    "Call",
    "Point",
    "Result",
    "Stage",
    "Trace",
    "each",
    "list_calls",
    "main",
    "new_stage",
    "refresh_under_strace",
    "run_point",
]

TREATMENTS = ("SIGKILL", "EIO", "ENOSPC")
THREADS = ("main", "store")
"""The threads of the child. The store works in the second one."""

NAME = "default"
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access", "accounting.transactions")
RUN_TIMEOUT_SECONDS = 120
"""Longer than each wait for a lock inside the store, so that the store reports its own timeout."""

MAX_ATTEMPTS = 3
"""Upper bound on the child's attempts to refresh. A single error costs one attempt."""

ANY_PROCESS = -1
PR_SET_PTRACER = 0x59616D61
"""prctl(2): sets the processes that may attach to this one under the Yama module."""

Item = TypeVar("Item")
Output = TypeVar("Output")


class Xero:
    """Replaces ``XeroClient``. ``send`` takes a refresh token, and returns a status and a body."""

    identity_server = IdentityServer(connections_url="")

    def __init__(
        self, send: Callable[[str], tuple[int, str]], clock: Clock = SystemClock()
    ) -> None:
        self._send, self._clock = send, clock

    def slot(self) -> AbstractAsyncContextManager[bool]:
        return nullcontext(True)

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        status, body = self._send(token.reveal())
        return read_token_response(Response(status, {}, body.encode()), self._clock.now())

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        raise NotImplementedError

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------- the child


async def child(line: socket.socket) -> None:
    """Keep a login, and report all events over ``line``, one JSON object a line.

    The requests to Xero use it too. It is a socket, since calls on sockets differ from calls on
    files.
    """
    stream = line.makefile("rw")

    def report(**words: Any) -> None:
        print(json.dumps(words), file=stream, flush=True)

    def send(token: str) -> tuple[int, str]:
        report(spend=token)
        status, body = json.loads(stream.readline())
        return status, body

    def observe(event: Event) -> None:
        report(event=type(event).__name__, reason=str(getattr(event, "reason", "")))

    order = json.loads(stream.readline())
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    store = FileStore(Path(order["folder"]))
    store.shared = False  # no other process writes, so no watch reads at a random time
    sealer = Sealer([Secret(order["key"])])
    xero: Any = Xero(send)
    keeper = TokenKeeper(store, xero, sealer, policy=UNLIMITED, observers=[observe])
    await keeper.start()
    _close_as_the_kernel_does()
    _allow_tracing()
    report(
        ready={
            "main": threading.get_native_id(),
            "store": await asyncio.to_thread(threading.get_native_id),
        }
    )
    stream.readline()
    try:
        for _ in range(MAX_ATTEMPTS):
            try:
                await keeper.refresh()
                report(refreshed=True)
                break
            except TokenUnavailable as error:
                report(failed=str(error))
            finally:
                await keeper.token()  # raises if it can serve none
                await keeper.maintain()
        await keeper.maintain()
        await keeper.close()
        report(stopped=True)
    except (XotsError, OSError) as error:
        report(error=f"{type(error).__name__}: {error}")


def _close_as_the_kernel_does() -> None:
    """Close the descriptor after an injected error, and raise the error.

    Linux frees the descriptor and its lock even if close(2) fails. strace injects the error instead
    of the call.
    """
    close = os.close

    def close_always(fd: int) -> None:
        try:
            close(fd)
        except OSError:
            close(fd)
            raise

    os.close = close_always


def _allow_tracing() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY_PROCESS), 0, 0, 0)


# ------------------------------------------------------------------------------------- the stage


class Stage:
    """A folder with one login, and the Xero of that login.

    Args:
        folder: the folder of the store, which creates it.
    """

    def __init__(
        self, folder: Path, identity: Identity | None = None, key: Secret | None = None
    ) -> None:
        self.folder = folder
        self.key = key or new_key()
        self.identity = identity or Identity([CLIENT])
        self.clock: Clock = SystemClock()
        self.requests = 0
        self.problems: list[str] = []
        self._sealer = Sealer([self.key])

    async def log_in(self) -> None:
        """Write the record of a new login into the store, as the keeper does."""
        now = self.clock.now()
        fields = self.identity.log_in(CLIENT.client_id, now, scopes=SCOPES).fields
        issued = read_token_response(Response(200, {}, json.dumps(fields).encode()), now)
        assert isinstance(issued, Issued)
        keeper = self.keeper()
        await keeper.start()
        account = after_login(
            keeper.account,
            issued,
            consent_id="a-consent",
            client_id=CLIENT.client_id,
            client_secret=CREDENTIALS.client_secret,
            token_url=Xero.identity_server.token_url,
            tenant_id=None,
            scopes_requested=SCOPES,
            began_at=now,
        )
        await replica_of(keeper).compare_and_set(account)
        await keeper.close()

    def keeper(self) -> TokenKeeper:
        return TokenKeeper(
            FileStore(self.folder),
            Xero(self.respond, self.clock),  # type: ignore[arg-type]
            self._sealer,
            policy=UNLIMITED,
            clock=self.clock,
        )

    async def stored(self) -> Account:
        """Return the record as the folder holds it."""
        found = await FileStore(self.folder).read(NAME)
        return Account() if found is None else open_record(self._sealer, found, NAME)

    def respond(self, token: str) -> tuple[int, str]:
        """Return Xero's response to a refresh."""
        self.requests += 1
        try:
            return 200, json.dumps(self.identity.refresh(CLIENT, token, self.clock.now()).fields)
        except OAuthError as error:
            self.problems.append(f"Xero refused a token: {error}")
            return 400, json.dumps({"error": "invalid_grant"})

    async def check_intent(self, token: str) -> None:
        """Check that no token is spent without a durable intent."""
        intent = (await self.stored()).intent
        if intent is None or intent.fingerprint != Secret(token).fingerprint:
            self.problems.append(
                "at a request to Xero, the folder held no intent to spend that token"
            )

    async def check_recovery(self) -> None:
        """Check that the next start, without faults, finds the login and continues it."""
        keeper = self.keeper()
        try:
            await keeper.start()
            tokens = [
                t for t in (keeper.account.current, *keeper.account.fallbacks) if t is not None
            ]
            if not any(
                self.identity.would_issue(t.value.reveal(), self.clock.now()) for t in tokens
            ):
                self.problems.append("the record holds no token from which Xero would issue")
            await keeper.maintain()  # concludes a refresh that was cut off
            await keeper.refresh()
            access = await keeper.token()
            self.identity.check_access(access.value.reveal(), self.clock.now())
            await self.check_written()
        except (XotsError, BearerRefused) as error:
            self.problems.append(f"the next start failed: {type(error).__name__}: {error}")
        finally:
            with suppress(XotsError):
                await keeper.close()
        if left := sorted(path.name for path in self.folder.glob("*.new")):
            self.problems.append(f"temporary files are left: {' '.join(left)}")

    async def check_written(self) -> None:
        """Check that the refresh is complete: the current token is unspent, and Xero accepts it."""
        account = await self.stored()
        if account.intent is not None:
            self.problems.append("the record still holds an intent")
        current = account.current
        if (
            current is None
            or current.first_spent_at
            or current.refused_at
            or account.consent_id != "a-consent"
        ):
            self.problems.append("the record does not hold the newest token of the login")
        elif not self.identity.would_issue(current.value.reveal(), self.clock.now()):
            self.problems.append("Xero would refuse the record's current token")


# --------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Call:
    """A listed system call: the ``nth`` of its kind in its thread, and the names of its files."""

    thread: str
    """One of ``THREADS``."""
    kind: str
    nth: int
    about: str


@dataclass(frozen=True)
class Point:
    """A call and its treatment."""

    call: Call
    treatment: str

    @property
    def strace(self) -> list[str]:
        """Return the options of strace for this fault."""
        how = "signal=KILL" if self.treatment == "SIGKILL" else f"error={self.treatment}"
        return [
            "-e",
            f"trace={self.call.kind}",
            "-e",
            f"inject={self.call.kind}:{how}:when={self.call.nth}",
        ]

    def __str__(self) -> str:
        return f"{self.call.thread}:{self.call.kind}:{self.call.nth}:{self.treatment}"


@dataclass
class Trace:
    """The end of one child, with its events and its system calls."""

    status: int
    events: list[dict[str, Any]]
    calls: dict[str, list[str]]
    """Strace's lines, by thread."""
    errors: str
    """Its output on stderr."""

    def has(self, word: str) -> bool:
        """Tell if the child reported this key or this event."""
        return any(word in line or line.get("event") == word for line in self.events)


async def refresh_under_strace(
    stage: Stage, threads: Iterable[str], options: Iterable[str]
) -> Trace:
    """Make one refresh in a new child on the stage, with strace attached to some of its threads."""
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(theirs.fileno()),
        pass_fds=[theirs.fileno()],
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    tracers: list[asyncio.subprocess.Process] = []
    events: list[dict[str, Any]] = []
    log = stage.folder.with_name("trace")

    async def send_line(words: Any) -> None:
        writer.write(json.dumps(words).encode() + b"\n")
        with suppress(ConnectionError):
            await writer.drain()

    try:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            await send_line({"folder": str(stage.folder), "key": stage.key.reveal()})
            while line := await _line(reader):
                words = json.loads(line)
                events.append(words)
                if "ready" in words:
                    for thread in threads:
                        tracers.append(
                            await _start_tracer(words["ready"][thread], f"{log}.{thread}", options)
                        )
                    await send_line("go")
                elif "spend" in words:
                    await stage.check_intent(words["spend"])
                    await send_line(stage.respond(words["spend"]))
            assert process.stderr is not None
            errors = (await process.stderr.read()).decode()
            status = await process.wait()
            for tracer in tracers:
                await tracer.communicate()
    finally:
        writer.close()
        for one in (process, *tracers):
            if one.returncode is None:
                one.kill()
                await one.communicate()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return Trace(status, events, {thread: _lines(f"{log}.{thread}") for thread in threads}, errors)


def _lines(log: str) -> list[str]:
    return Path(log).read_text().splitlines()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Read a whole line. Return nothing once the child has ended."""
    try:
        return await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _start_tracer(
    thread: int, log: str, options: Iterable[str]
) -> asyncio.subprocess.Process:
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-y", "-o", log, *options, "-p", str(thread)), stderr=asyncio.subprocess.PIPE
    )
    assert tracer.stderr is not None
    first_line = (await tracer.stderr.readline()).decode()
    if "attached" not in first_line:
        await tracer.communicate()
        raise OSError(f"strace is not attached: {first_line}")
    return tracer


async def new_stage(parent: Path, identity: Identity | None = None) -> Stage:
    """Make a stage with a login, and with the file of a killed writer, which a write removes."""
    stage = Stage(parent / "store", identity)
    await stage.log_in()
    left = stage.folder / f"{NAME}.new"
    left.write_bytes(b"left behind")
    left.chmod(0o600)
    return stage


# -------------------------------------------------------------------------------------- all runs


async def list_calls() -> list[Call]:
    """Return the system calls of one refresh without faults on the folder.

    Raises:
        AssertionError: the refresh failed.
    """
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as parent:
        stage = await new_stage(Path(parent))
        trace = await refresh_under_strace(stage, THREADS, [])
        assert (trace.status, trace.has("stopped"), stage.problems) == (0, True, []), trace
    calls, seen = [], Counter[tuple[str, str]]()
    for thread in THREADS:
        for line in trace.calls[thread]:
            if found := re.match(r"(\w+)\(", line):
                kind = found[1]
                seen[thread, kind] += 1
                if about := _about(line, stage.folder):
                    calls.append(Call(thread, kind, seen[thread, kind], about))
    return calls


def _about(line: str, folder: Path) -> str:
    """Return the names of the files in a line of strace."""
    arguments = line.partition(" = ")[0]
    names = re.findall(
        rf"{re.escape(str(folder))}(?:/([^>\"]*))?[>\"]|\"({NAME}\.[^\"]*)\"", arguments
    )
    words = ["".join(one) or "the folder" for one in names]
    return " ".join(dict.fromkeys(re.sub(r"\.[0-9a-f]{16}\.", ".*.", word) for word in words))


@dataclass(frozen=True)
class Result:
    """The outcome of one point."""

    point: Point
    outcome: str
    problems: list[str]
    trace: Trace


async def run_point(point: Point) -> Result:
    """Make one refresh with one fault in a system call, and the next start after it."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as parent:
        stage = await new_stage(Path(parent))
        trace = await refresh_under_strace(stage, [point.call.thread], point.strace)
        changed = [
            line
            for line in trace.calls[point.call.thread]
            if "INJECTED" in line or line.endswith("= ?")
        ]
        if not changed or _about(changed[0], stage.folder) != point.call.about:
            stage.problems.append(f"strace changed another call than the listed one: {changed}")
        if "Traceback" in trace.errors:
            stage.problems.append(f"a traceback: {trace.errors}")
        if point.treatment == "SIGKILL":
            outcome = "killed"
            if trace.status != -signal.SIGKILL:
                stage.problems.append(
                    f"the child was not killed, and ended with status {trace.status}"
                )
        else:
            reported = trace.has("failed") or trace.has("StoreDegraded")
            outcome = "reported" if reported else "harmless"
            if (
                outcome == "harmless"
                and point.call.about.endswith(".new")
                and point.call.kind in ("write", "fsync")
            ):
                stage.problems.append(
                    "the store confirmed a record that may be missing on the disk"
                )
            if trace.status != 0 or not (trace.has("refreshed") and trace.has("stopped")):
                stage.problems.append(f"the child did not complete its refresh: {trace.events[1:]}")
            await stage.check_written()
        await stage.check_recovery()
        return Result(point, outcome, stage.problems, trace)


async def each(
    work: Callable[[Item], Awaitable[Output]], items: Iterable[Item], jobs: int
) -> list[Output]:
    """Return the results of the work on each item. At most ``jobs`` are in progress at a time."""
    turn = asyncio.Semaphore(jobs)

    async def in_turn(item: Item) -> Output:
        async with turn:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_turn(item)) for item in items]
    return [task.result() for task in tasks]


async def _run(options: argparse.Namespace) -> int:
    """Try all points, and print the figures. Return the exit status."""
    calls = await list_calls()
    points = [Point(call, treatment) for call in calls for treatment in TREATMENTS]
    if options.point:
        points = [point for point in points if str(point) in options.point]
    if not points:
        print(
            "no such point; the calls are:",
            *(f"{c.thread}:{c.kind}:{c.nth}" for c in calls),
        )
        return 2
    results = await each(run_point, points, options.jobs)
    if options.point:
        for result in results:
            print(f"{result.point} ({result.point.call.about}): {result.outcome}")
            print(*result.trace.events, *result.trace.calls[result.point.call.thread], sep="\n")
    kinds = Counter(
        result.point.call.kind
        for result in results
        if result.point.treatment == results[0].point.treatment
    )
    by_kind = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    outcomes = Counter(result.outcome for result in results)
    failed = [result for result in results if result.problems]
    recovered = len(results) - len(failed)
    print(f"system calls of one refresh on the folder: {len(calls)}; points tested: {len(results)}")
    if not options.point:
        print(f"  ({by_kind}), each with {', '.join(TREATMENTS)}")
    print(f"  {', '.join(f'{outcome} {count}' for outcome, count in sorted(outcomes.items()))}")
    print(f"recovered: {recovered} of {len(results)} ({100 * recovered / len(results):.4g}%)")
    for result in failed:
        point = result.point
        print(f"NOT RECOVERED {point} ({point.call.about}): {'; '.join(result.problems)}")
        print(
            f"  strace {' '.join(point.strace)} on the {point.call.thread} thread; "
            f"repeat: --point {point}"
        )
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture system_calls", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of children at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--point",
        action="append",
        metavar="THREAD:CALL:NTH:TREATMENT",
        help="only this point of a failure, with all its events; can be repeated",
    )
    return asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    asyncio.run(child(socket.socket(fileno=int(sys.argv[1]))))
