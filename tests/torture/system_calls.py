"""Every system call of a refresh over the file store, each with {SIGKILL, EIO, ENOSPC}, by ``strace -e inject``.

A child process keeps a login with the real ``TokenKeeper`` on the real ``FileStore``; this process is its Xero, and so
outlives it. A first run under strace lists every system call that leads into the store's folder during one refresh
(which reads, saves the intent, and saves the answer), in whichever thread. Then there is one run for each of these
calls and each treatment. Afterwards:

- A child that was killed is gone. One that met an error has told of it, or took no harm (never so where a record was
  written or synced); it served the access token all along, refreshed when asked again, and stopped with everything
  written. No process printed a traceback.
- Whenever Xero was asked, the folder held the intent to spend that very token.
- The next start on the folder finds the login, refreshes it twice, and is never refused; no temporary file stays.

Strace is attached to the one thread that the call is of, for the time of the refresh only, since it counts the calls
of each thread for itself.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.inside import replica_of

from xots.backends.file import FileStore
from xots.clock import Clock, SystemClock
from xots.errors import TokenUnavailable, XotsError
from xots.events import Event
from xots.keeping.keeper import TokenKeeper
from xots.keeping.replica import open_record
from xots.lifecycle.account import Account
from xots.lifecycle.outcomes import Failure, Issued, Outcome
from xots.lifecycle.transitions import after_login
from xots.sandbox import Client, Identity, OAuthError
from xots.sandbox.identity.protocol import BearerRefused
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.xero.protocol import Credentials, Endpoints, Response, read_token_response

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
    "try_point",
]

TREATMENTS = ("SIGKILL", "EIO", "ENOSPC")
THREADS = ("main", "store")
"""Of the child; the store works in the second."""

NAME = "default"
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access", "accounting.transactions")
LONGEST_RUN_SECONDS = 120
"""Longer than any wait for a lock inside the store, so that what hangs there tells why by itself."""

TRIES = 3
"""How often the child asks for a refresh until one succeeds; an error that strikes once costs it one try."""

ANY_PROCESS = -1
PR_SET_PTRACER = 0x59616D61
"""See prctl(2): the processes that may attach to this one under the Yama module."""

Item = TypeVar("Item")
Came = TypeVar("Came")


class Xero:
    """Stands in for ``XeroClient``; ``ask`` is given a refresh token, and answers with a status and a body."""

    endpoints = Endpoints(connections_url="")

    def __init__(self, ask: Callable[[str], tuple[int, str]], clock: Clock = SystemClock()) -> None:
        self._ask, self._clock = ask, clock

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        status, body = self._ask(token.reveal())
        return read_token_response(Response(status, {}, body.encode()), self._clock.now())

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        raise NotImplementedError

    def close(self) -> None:
        pass


# ----------------------------------------------------------------------------------------------- the child


async def child(line: socket.socket) -> None:
    """Keep a login; tell all that happens over ``line``, one JSON object a line, and ask Xero over it too.

    A socket, since its calls are other ones than those on files.
    """
    stream = line.makefile("rw")

    def say(**words: Any) -> None:
        print(json.dumps(words), file=stream, flush=True)

    def ask(token: str) -> tuple[int, str]:
        say(spend=token)
        status, body = json.loads(stream.readline())
        return status, body

    def observe(event: Event) -> None:
        say(event=type(event).__name__, reason=str(getattr(event, "reason", "")))

    told = json.loads(stream.readline())
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    store = FileStore(Path(told["folder"]))
    store.shared = False  # no other process writes, so no watch reads at a random time
    keeper = TokenKeeper(store, Xero(ask), Sealer([Secret(told["key"])]), observers=[observe])  # type: ignore[arg-type]
    await keeper.start()
    _close_as_the_kernel_does()
    _allow_tracing()
    say(
        ready={
            "main": threading.get_native_id(),
            "store": await asyncio.to_thread(threading.get_native_id),
        }
    )
    stream.readline()
    try:
        for _ in range(TRIES):
            try:
                await keeper.refresh()
                say(refreshed=True)
                break
            except TokenUnavailable as error:
                say(failed=str(error))
            finally:
                await keeper.token()  # raises if there is none to serve
                await keeper.maintain()
        await keeper.maintain()
        await keeper.close()
        say(stopped=True)
    except (XotsError, OSError) as error:
        say(broke=f"{type(error).__name__}: {error}")


def _close_as_the_kernel_does() -> None:
    """Linux gives a descriptor back whatever close(2) answers, and the lock on it; strace's error is given in the
    place of the call, so the call is made after it."""
    close = os.close

    def close_whatever_it_answers(fd: int) -> None:
        try:
            close(fd)
        except OSError:
            close(fd)
            raise

    os.close = close_whatever_it_answers


def _allow_tracing() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY_PROCESS), 0, 0, 0)


# ------------------------------------------------------------------------------------------------ the stage


class Stage:
    """A folder with one login in it, and the Xero that the login is at.

    Args:
        folder: for the store; made here.
    """

    def __init__(
        self, folder: Path, identity: Identity | None = None, key: Secret | None = None
    ) -> None:
        self.folder = folder
        self.key = key or new_key()
        self.identity = identity or Identity([CLIENT])
        self.clock: Clock = SystemClock()
        self.asked = 0
        self.problems: list[str] = []
        self._sealer = Sealer([self.key])

    async def log_in(self) -> None:
        """Write the record of a fresh login into the store, as the keeper writes it."""
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
            token_url=Xero.endpoints.token_url,
            tenant_id=None,
            scopes_requested=SCOPES,
            began_at=now,
        )
        await replica_of(keeper).compare_and_set(account)
        await keeper.close()

    def keeper(self) -> TokenKeeper:
        return TokenKeeper(
            FileStore(self.folder),
            Xero(self.answer, self.clock),  # type: ignore[arg-type]
            self._sealer,
            clock=self.clock,
        )

    async def stored(self) -> Account:
        """Return the record as the folder holds it."""
        found = await FileStore(self.folder).read(NAME)
        return Account() if found is None else open_record(self._sealer, found, NAME)

    def answer(self, token: str) -> tuple[int, str]:
        """Return Xero's response to a refresh."""
        self.asked += 1
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
                "Xero was asked, and the folder held no intent to spend that token"
            )

    async def check_recovery(self) -> None:
        """Check that the next start, without faults, has the login and continues it."""
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
            self.problems.append(f"the next start did not go on: {type(error).__name__}: {error}")
        finally:
            with suppress(XotsError):
                await keeper.close()
        if left := sorted(path.name for path in self.folder.glob("*.new")):
            self.problems.append(f"left behind: {' '.join(left)}")

    async def check_written(self) -> None:
        """Check that the refresh is concluded: its current token is unspent, and Xero accepts
        it."""
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
            self.problems.append("Xero would not take the record's current token")


# ------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Call:
    """A system call of the listing: the ``nth`` of its kind in its thread, and what it is about."""

    thread: str
    """One of ``THREADS``."""
    kind: str
    nth: int
    about: str


@dataclass(frozen=True)
class Point:
    """A call and what is done to it."""

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
    """What became of one child."""

    status: int
    story: list[dict[str, Any]]
    calls: dict[str, list[str]]
    """Strace's lines, by thread."""
    errors: str
    """What it printed on stderr."""

    def said(self, word: str) -> bool:
        return any(word in line or line.get("event") == word for line in self.story)


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
    story: list[dict[str, Any]] = []
    log = stage.folder.with_name("trace")

    async def tell(words: Any) -> None:
        writer.write(json.dumps(words).encode() + b"\n")
        with suppress(ConnectionError):
            await writer.drain()

    try:
        async with asyncio.timeout(LONGEST_RUN_SECONDS):
            await tell({"folder": str(stage.folder), "key": stage.key.reveal()})
            while line := await _line(reader):
                words = json.loads(line)
                story.append(words)
                if "ready" in words:
                    for thread in threads:
                        tracers.append(
                            await _start_tracer(words["ready"][thread], f"{log}.{thread}", options)
                        )
                    await tell("go")
                elif "spend" in words:
                    await stage.check_intent(words["spend"])
                    await tell(stage.answer(words["spend"]))
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
    return Trace(status, story, {thread: _lines(f"{log}.{thread}") for thread in threads}, errors)


def _lines(log: str) -> list[str]:
    return Path(log).read_text().splitlines()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Read a whole line; None once the child is gone."""
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
    said = (await tracer.stderr.readline()).decode()
    if "attached" not in said:
        await tracer.communicate()  # it has ended, having said why
        raise OSError(f"strace could not be attached: {said}")
    return tracer


async def new_stage(above: Path, identity: Identity | None = None) -> Stage:
    """Make a stage with a login and with the files of a killed writer, which a write removes
    too."""
    stage = Stage(above / "store", identity)
    await stage.log_in()
    left = stage.folder / f"{NAME}.0123456789abcdef.new"
    left.write_bytes(b"left behind")
    left.chmod(0o600)
    return stage


# ------------------------------------------------------------------------------------------------- all runs


async def list_calls() -> list[Call]:
    """The system calls that lead into the folder during one refresh in which nothing goes wrong.

    Raises:
        AssertionError: something did go wrong.
    """
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as above:
        stage = await new_stage(Path(above))
        trace = await refresh_under_strace(stage, THREADS, [])
        assert (trace.status, trace.said("stopped"), stage.problems) == (0, True, []), trace
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
    """Return the names of the files that a line of strace is about."""
    arguments = line.partition(" = ")[0]
    names = re.findall(
        rf"{re.escape(str(folder))}(?:/([^>\"]*))?[>\"]|\"({NAME}\.[^\"]*)\"", arguments
    )
    words = ["".join(one) or "the folder" for one in names]
    return " ".join(dict.fromkeys(re.sub(r"\.[0-9a-f]{16}\.", ".*.", word) for word in words))


@dataclass(frozen=True)
class Result:
    """What came of one point."""

    point: Point
    outcome: str
    problems: list[str]
    trace: Trace


async def try_point(point: Point) -> Result:
    """Make one refresh with one system call killed or failed, and the next start after it."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as above:
        stage = await new_stage(Path(above))
        trace = await refresh_under_strace(stage, [point.call.thread], point.strace)
        struck = [
            line
            for line in trace.calls[point.call.thread]
            if "INJECTED" in line or line.endswith("= ?")
        ]
        if not struck or _about(struck[0], stage.folder) != point.call.about:
            stage.problems.append(f"strace struck another call than the listed one: {struck}")
        if "Traceback" in trace.errors:
            stage.problems.append(f"a traceback: {trace.errors}")
        if point.treatment == "SIGKILL":
            outcome = "killed"
            if trace.status != -signal.SIGKILL:
                stage.problems.append(f"the child was not killed: it ended with {trace.status}")
        else:
            outcome = "told" if trace.said("failed") or trace.said("StoreDegraded") else "harmless"
            if (
                outcome == "harmless"
                and point.call.about.endswith(".new")
                and point.call.kind in ("write", "fsync")
            ):
                stage.problems.append("a record that may not be on the disk was taken for kept")
            if trace.status != 0 or not (trace.said("refreshed") and trace.said("stopped")):
                stage.problems.append(f"the child did not go on to its end: {trace.story[1:]}")
            await stage.check_written()
        await stage.check_recovery()
        return Result(point, outcome, stage.problems, trace)


async def each(
    work: Callable[[Item], Awaitable[Came]], items: Iterable[Item], jobs: int
) -> list[Came]:
    """Return the results of the work on each item, with a number of them in progress at a time."""
    turn = asyncio.Semaphore(jobs)

    async def in_turn(item: Item) -> Came:
        async with turn:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_turn(item)) for item in items]
    return [task.result() for task in tasks]


async def _run(options: argparse.Namespace) -> int:
    calls = await list_calls()
    points = [Point(call, treatment) for call in calls for treatment in TREATMENTS]
    if options.point:
        points = [point for point in points if str(point) in options.point]
    if not points:
        print(
            "there is no such point; the calls are:",
            *(f"{c.thread}:{c.kind}:{c.nth}" for c in calls),
        )
        return 2
    results = await each(try_point, points, options.jobs)
    if options.point:
        for result in results:
            print(f"{result.point} ({result.point.call.about}): {result.outcome}")
            print(*result.trace.story, *result.trace.calls[result.point.call.thread], sep="\n")
    kinds = Counter(
        result.point.call.kind
        for result in results
        if result.point.treatment == results[0].point.treatment
    )
    tried = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    outcomes = Counter(result.outcome for result in results)
    failed = [result for result in results if result.problems]
    recovered = len(results) - len(failed)
    print(
        f"system calls of one refresh that lead into the folder: {len(calls)}; points tried: {len(results)}"
    )
    if not options.point:
        print(f"  ({tried}), each with {', '.join(TREATMENTS)}")
    print(f"  {', '.join(f'{outcome} {count}' for outcome, count in sorted(outcomes.items()))}")
    print(f"recovered: {recovered} of {len(results)} ({100 * recovered / len(results):.4g}%)")
    for result in failed:
        point = result.point
        print(f"NOT RECOVERED {point} ({point.call.about}): {'; '.join(result.problems)}")
        print(
            f"  strace {' '.join(point.strace)} on the {point.call.thread} thread; again: --point {point}"
        )
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture system_calls", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="how many children at a time (default 2)"
    )
    parser.add_argument(
        "--point",
        action="append",
        help="only this point, with its story: THREAD:CALL:NTH:TREATMENT, as a failure names it; may be given again",
    )
    return asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    asyncio.run(child(socket.socket(fileno=int(sys.argv[1]))))
