"""``Bench``: the options of a run, its processes, and the cores on which they run."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import TypeVar
from urllib.error import HTTPError

__all__ = ["DIRECT", "MEGABYTE", "Bench", "BenchmarkFailed", "Process"]

Result = TypeVar("Result")

READY_TIMEOUT_SECONDS = 30.0
IDLE_TIMEOUT_SECONDS = 120.0
RUN_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02

IDLE_SECONDS = 0.2
IDLE_SHARE = 0.05
"""A process is idle if it has used at most this share of a core for so long."""

MAX_OUTPUT_SHOWN = 1000
"""The characters of a failed process's output that an error shows, from its end."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Uses no proxy, whatever the environment says."""

MEGABYTE = 1 << 20

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class BenchmarkFailed(Exception):
    """A server or the load did not do its work, so there is no figure. The message says why."""


class Process:
    """A process that the run has started, with all the processes of its session.

    Args:
        popen: the process, the first of a session of its own.
        output: the file that receives its output.
    """

    def __init__(self, popen: subprocess.Popen[bytes], output: Path) -> None:
        self.popen = popen
        self.output = output

    @property
    def pid(self) -> int:
        """The id of the first process."""
        return self.popen.pid

    def cpu_seconds(self) -> float:
        """Return the processor time so far of all processes in the session, to 10 ms."""
        return sum(self._ticks(pid) for pid in self._pids()) / TICKS_PER_SECOND

    @property
    def memory(self) -> int:
        """The memory of all processes in the session, in bytes. Each shared page counts once (its
        share of each process: PSS)."""
        return sum(self._pss(pid) for pid in self._pids())

    @property
    def resident(self) -> int:
        """The memory of the first process, in bytes, with all pages that it shares (RSS)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * PAGE_BYTES

    def is_running(self) -> bool:
        """Tell if the first process runs."""
        return self.popen.poll() is None

    def wait_until_ready(self, url: str) -> None:
        """Wait until a GET of this URL gets a response with status 200.

        A status from 500 on is a server that still starts.

        Raises:
            BenchmarkFailed: the process ended, the status is another one, or the time is over.
        """
        last = ""
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running():
                raise self.failure(f"it ended with status {self.popen.returncode}")
            try:
                with DIRECT.open(url, timeout=5):
                    return
            except HTTPError as error:
                error.close()
                if error.code < 500:
                    reason = f"GET {url}: the response has the status {error.code}"
                    raise self.failure(reason) from None
                last = f"; the status was {error.code}"
            except OSError:
                pass  # it does not listen yet
            time.sleep(POLL_SECONDS)
        waited = f"for {READY_TIMEOUT_SECONDS:g} seconds"
        raise self.failure(f"{url} has not responded with 200 {waited}{last}")

    def wait_until_idle(self) -> None:
        """Wait until the processes are idle: the work of a start is done.

        Raises:
            BenchmarkFailed: the time is over.
        """
        deadline = time.monotonic() + IDLE_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            if self.cpu_seconds() - before <= IDLE_SHARE * IDLE_SECONDS:
                return
        raise self.failure(f"it has not become idle for {IDLE_TIMEOUT_SECONDS:g} seconds")

    def failure(self, reason: str) -> BenchmarkFailed:
        """Return an error that names the command, this reason and the end of the output."""
        text = self.output.read_text(encoding="utf-8", errors="replace")[-MAX_OUTPUT_SHOWN:]
        command = " ".join(map(str, self.popen.args))  # type: ignore[arg-type] # a list: see start
        return BenchmarkFailed(f"{command}: {reason}\n{text}".rstrip())

    def stop(self) -> None:
        """End the processes of the session: SIGTERM, and SIGKILL after a time."""
        for number in (SIGTERM, SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_TIMEOUT_SECONDS if number is SIGTERM else None)

    def _pids(self) -> list[int]:
        return [pid for pid in _all_pids() if _fields(pid)[3:4] == [str(self.pid)]]

    def _ticks(self, pid: int) -> int:
        return sum(map(int, _fields(pid)[11:13]))

    def _pss(self, pid: int) -> int:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                name, *values = line.split()
                if name == "Pss:":
                    return int(values[0]) * 1024
        return 0


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the third on (proc_pid_stat(5)): the session is
    the fourth of them, user and system time are the twelfth and the thirteenth."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []  # it has ended meanwhile
    return text.rpartition(")")[2].split()


@dataclass
class Bench:
    """The options of a run, and what its experiments share."""

    scratch: Path
    """A folder for the files of the run. It is deleted at the end."""
    quick: bool = False
    """True: the whole run takes less than two minutes, and its figures are rough."""
    rounds: int = 5
    """How often an experiment measures each server, in turn with the others."""
    seconds: int = 2
    """The duration of one measurement."""
    against: str | None = None
    """The command that starts another server; ``{port}`` in it stands for the port."""
    against_url: str | None = None
    """The URL of another server's token, if it runs already."""
    cores: Sequence[int] = field(default_factory=lambda: sorted(os.sched_getaffinity(0)))

    @property
    def server_core(self) -> int:
        """The core of the servers."""
        return self.cores[0]

    @property
    def load_core(self) -> int:
        """The core of the load: another one, if there are two."""
        return self.cores[-1]

    def free_port(self) -> int:
        """Return a port of 127.0.0.1 on which no program listens now."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return int(found.getsockname()[1])

    def new_folder(self, name: str) -> Path:
        """Make a private folder in ``scratch``, and return it."""
        number = sum(path.name.startswith(f"{name}-") for path in self.scratch.iterdir())
        folder = self.scratch / f"{name}-{number}"
        folder.mkdir(mode=0o700)
        return folder

    @contextmanager
    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        ready: str | None = None,
        core: int | None = None,
    ) -> Iterator[Process]:
        """Start a process, in a session of its own, and end it at the end.

        Args:
            command: the program and its arguments.
            env: variables of its environment besides those of the run. Those of xots are removed.
            ready: the URL that responds with 200 once it is ready; None: do not wait.
            core: the core on which it runs; None: the one of the servers.

        Raises:
            BenchmarkFailed: there is no such program, or it has not become ready.
        """
        output = self.new_folder("process") / "output"
        pinned = _pinned(self.server_core if core is None else core, command)
        with output.open("wb") as sink:
            popen = subprocess.Popen(
                pinned,
                env=own_environment() | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, output)
        try:
            if ready is not None:
                process.wait_until_ready(ready)
            yield process
        finally:
            process.stop()

    def run(self, command: Sequence[str | Path]) -> str:
        """Run a command on the core of the load until it ends, and return its output.

        Raises:
            BenchmarkFailed: it ended with another status than 0, or not in time.
        """
        try:
            done = subprocess.run(
                _pinned(self.load_core, command),
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=RUN_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(
                f"{command[0]} has not ended after {RUN_TIMEOUT_SECONDS:g} s"
            ) from None
        if done.returncode:
            shown = " ".join(map(str, command))
            raise BenchmarkFailed(f"{shown}:\n{done.stdout[-MAX_OUTPUT_SHOWN:]}".rstrip())
        return done.stdout

    def in_turn(self, measures: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
        """Call each of these functions once a round, in another order each time, and return their
        results by name. The results of one round have the same place in each list."""
        results: dict[str, list[Result]] = {name: [] for name in measures}
        names = list(measures)
        for number in range(self.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                results[name].append(measures[name]())
        return results


def own_environment() -> dict[str, str]:
    """Return the environment of the run, without the settings of xots."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("XOTS_") and name != "CREDENTIALS_DIRECTORY"
    }
    return kept | {"PATH": f"{kept.get('PATH', os.defpath)}:/usr/sbin"}  # where nginx is


def _pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *map(str, command)]
