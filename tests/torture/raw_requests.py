"""Mutated raw requests to a real server: no failure, no traceback, no hang, no open connection.

Each connection carries one request or a pipeline of some, in which bytes, lengths, line ends,
header lines, chunks, numbers, escapes or encodings are wrong. The client ends its half of the
connection after the responses, or after a while without one. The server must then close its half.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.bench import eventually
from support.one_server import OneServer, one_server
from support.raw_http import exchange

from torture._mutated_requests import CANARY, LABELLED_CANARY, mutated

STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [A-Z]")

DOCUMENTED_FAILURES = (502, 503)

QUIET_SECONDS = 0.15
"""Time without a byte from the server after which the client ends its half of the connection."""

END_TIMEOUT_SECONDS = 10
"""Upper bound on the time that the server then takes to close the connection."""

CONNECTIONS = 50
"""Connections at once."""

DESCRIPTORS = Path("/proc/self/fd")

WATCHED_LOGGERS = ("xots", "tornado", "asyncio")


@dataclass
class Figures:
    """The results of a run."""

    by_status: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_end: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{status:>22} {count:6}" for status, count in sorted(self.by_status.items())]
        lines.append(f"{self.seconds:.1f} s; longest time to the end: {self.longest_end:.2f} s")
        return "\n".join(lines)


class _Errors(logging.Handler):
    """Keeps the lines of errors and of tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.Formatter("%(levelname)s %(name)s: %(message)s").format(record)
        if record.levelno >= logging.ERROR or "Traceback" in line:
            self.lines.append(line)


@contextmanager
def errors_of_the_log() -> Iterator[list[str]]:
    """Collect the lines of errors and of tracebacks in the log."""
    handler = _Errors()
    loggers = [logging.getLogger(name) for name in WATCHED_LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class Run:
    """Sends mutated requests to a server.

    Args:
        running: the server.
        seed: the seed of the mutations.
    """

    def __init__(self, running: OneServer, seed: int) -> None:
        self._running, self._seed = running, seed
        self.figures = Figures()

    async def go(self, count: int) -> Figures:
        """Send so many, then check that the server still serves and has closed all connections."""
        began = time.monotonic()
        open_before = _open_descriptors()
        numbers = iter(range(count))
        with errors_of_the_log() as errors:
            await asyncio.gather(*(self._send_some(numbers) for _ in range(CONNECTIONS)))
            await self._check_still_serves()
            try:
                # The server keeps a connection or two to Xero.
                await eventually(lambda: _open_descriptors() <= open_before + 4)
            except TimeoutError:
                self.figures.wrong.append(f"{_open_descriptors() - open_before} stay open")
        self.figures.wrong += [f"the log has: {line}" for line in errors]
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _send_some(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            # Each has a seed of its own: it stays the same whatever the others are.
            rng = random.Random(f"{self._seed}/{number}")  # noqa: S311 - a reproducible choice
            await self._send(number, mutated(rng, self._running.port))

    async def _send(self, number: int, request: bytes) -> None:
        try:
            received, end_seconds = await self._received(request)
        except TimeoutError:
            self._wrong(number, request, "hangs")
            return
        self.figures.longest_end = max(self.figures.longest_end, end_seconds)
        statuses = [int(found) for found in STATUS.findall(received)]
        shown = [str(one) for one in statuses] or ["closed, no response"]
        self.figures.by_status.update(shown)
        if received and not received.startswith(b"HTTP/1."):
            self._wrong(number, request, f"the response starts with {received[:40]!r}")
        if failures := [one for one in statuses if one >= 500 and one not in DOCUMENTED_FAILURES]:
            self._wrong(number, request, f"statuses {failures}")
        if CANARY in received and CANARY not in LABELLED_CANARY.sub(b"", request):
            self._wrong(number, request, "the response shows the secret of the form")

    async def _received(self, request: bytes) -> tuple[bytes, float]:
        """Return all that the server sends, and the seconds that it took to close.

        Raises:
            TimeoutError: the server did not close the connection.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._running.port)
        received = b""
        try:
            with suppress(ConnectionError):
                writer.write(request)
                with suppress(TimeoutError):
                    while part := await asyncio.wait_for(reader.read(1 << 16), QUIET_SECONDS):
                        received += part
                ended = time.monotonic()
                if not writer.is_closing():
                    writer.write_eof()
                async with asyncio.timeout(END_TIMEOUT_SECONDS):
                    while part := await reader.read(1 << 16):
                        received += part
                return received, time.monotonic() - ended
        finally:
            writer.close()
        return received, 0.0

    async def _check_still_serves(self) -> None:
        head = f"GET /token HTTP/1.1\r\nHost: localhost:{self._running.port}\r\n\r\n"
        (response,) = await exchange(self._running.port, [(head.encode(), False)])
        if response.status != 200:
            self.figures.wrong.append(f"/token is {response.status} afterwards")

    def _wrong(self, number: int, request: bytes, fault: str) -> None:
        self.figures.wrong.append(
            f"seed {self._seed}, request {number}: {fault}: {request[:600]!r}"
        )


def _open_descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir()))


async def measure(count: int, seed: int) -> Figures:
    """Run on a server of its own."""
    async with one_server() as running:
        return await Run(running, seed).go(count)


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture raw_requests", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--count", type=int, default=10_000, help="number of connections (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    for name in WATCHED_LOGGERS:
        logging.getLogger(name).propagate = False
    figures = asyncio.run(measure(options.count, options.seed))
    print(figures)
    for one in figures.wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if figures.wrong else 0
