"""One server whose requests go through the express lane or past it, and the comparison of both.

The server has a second accept loop and application, without the lane, for the same accounts. So a
difference between the responses is a difference that the lane makes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import tempfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from support.inside import acceptor_without_lane, express_of, in_flight_of
from support.one_server import OneServer, one_server
from support.raw_http import reset_at_close
from tornado.httputil import format_timestamp

from xots.access import Caller, Peer
from xots.listening import listen
from xots.web.tokens import TokenHandler

__all__ = ["Act", "Figures", "Pair", "Step", "World", "world"]

QUIET_TURNS = 8
"""Turns of the event loop without a byte after which a server has no more to say, if it has no
request in progress. A response takes less than half of them."""

PATIENT_TURNS = 400
"""The same when a difference is looked at again: a busy machine may deliver a byte late."""

ENDLESS: dict[str, Any] = dict.fromkeys(
    ("head_timeout", "body_timeout", "idle_timeout", "write_timeout"), 1e9
)
"""Settings without a limit of time on connections, since the clock passes at once."""

DATE = re.compile(rb"(?<=\r\nDate: )[^\r]+")

STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")

READS = re.compile(rb'"(count|first_at|last_at)":("[^"]*"|[0-9]+)')
"""What ``/status`` tells of the reads: the other way has made some in the meantime."""


class Act(Enum):
    """A step that sends no bytes."""

    END = auto()
    """End the half of the connection on which the client sends."""
    RESET = auto()
    """Close with a reset."""


Step = bytes | Act

Heard = list[tuple[bytes, bool]]
"""After each step the bytes that arrived, and whether the connection is still open."""


@contextmanager
def held_handler() -> Iterator[Callable[[], None]]:
    """Let the handler of tokens wait with each request that names ``slow``, until the function that
    is yielded is called."""
    gate, get = asyncio.Event(), TokenHandler.get

    async def held(self: TokenHandler) -> None:
        if "slow" in (self.request.query or ""):
            await gate.wait()
        await get(self)

    TokenHandler.get = held  # type: ignore[method-assign]
    try:
        yield gate.set
    finally:
        TokenHandler.get = get  # type: ignore[method-assign]


class Client:
    """A connection whose bytes leave at once, one step in one segment."""

    def __init__(self, address: int | Path) -> None:
        is_unix = isinstance(address, Path)
        family = socket.AF_UNIX if is_unix else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.connect(str(address) if is_unix else ("127.0.0.1", address))
        self._socket.setblocking(False)
        if not is_unix:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True

    async def do(self, step: Step) -> None:
        """Do a step. A server that has closed the connection may not take it."""
        with suppress(ConnectionError, OSError):
            match step:
                case Act.END:
                    self._socket.shutdown(socket.SHUT_WR)
                case Act.RESET:
                    reset_at_close(self._socket)
                    self.close()
                case _:
                    async with asyncio.timeout(5):
                        await asyncio.get_running_loop().sock_sendall(self._socket, step)

    def receive(self) -> bytes:
        """Return the bytes that have arrived."""
        if not self.is_open:
            return b""
        try:
            received = self._socket.recv(1 << 20)
        except BlockingIOError:
            return b""
        except ConnectionError:
            received = b""
        if not received:
            self.close()
        return received

    def close(self) -> None:
        """Close."""
        self.is_open = False
        self._socket.close()


@dataclass
class Figures:
    """The results of a run, by the class of the cases."""

    cases: Counter[str] = field(default_factory=Counter)
    by_head: Counter[str] = field(default_factory=Counter)
    """The responses of the lane to known heads."""
    by_target: Counter[str] = field(default_factory=Counter)
    """Those to known targets, once Tornado had parsed the request."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, further: Figures) -> None:
        """Add the results of a further run."""
        self.cases += further.cases
        self.by_head += further.by_head
        self.by_target += further.by_target
        self.wrong += further.wrong

    def __str__(self) -> str:
        lines = [
            f"{kind:>16} {count:7} cases {self.by_head[kind]:7} responses of the lane to known "
            f"heads {self.by_target[kind]:7} to known targets"
            for kind, count in self.cases.items()
        ]
        return "\n".join([*lines, f"{self.seconds:.1f} s, {len(self.wrong)} differences"])


class World:
    """A server with both ways, and the comparison.

    Args:
        running: the server, logged in, with the lane.
        without: the addresses of its accept loop without the lane: a port and a path.
    """

    def __init__(self, running: OneServer, without: tuple[int, Path]) -> None:
        self.running, self.figures = running, Figures()
        path = running.server.settings.unix_socket
        assert path is not None
        self.with_lane: tuple[int, Path] = (running.port, path)
        self.without = without
        self._in_flight = in_flight_of(running.server)
        self.by_head = self.by_target = 0
        """The responses of the lane to known heads, and to known targets."""
        self._count_responses()

    def _count_responses(self) -> None:
        express = express_of(self.running.server)
        find = express.find

        def counted(sender: Any, request: Any) -> Any:
            found = find(sender, request)
            self.by_head += found is not None and isinstance(sender, Peer)
            self.by_target += found is not None and isinstance(sender, Caller)
            return found

        express.find = counted  # type: ignore[method-assign]
        is_recurring = express.is_recurring

        def comes_again(sender: Any, request: Any) -> bool:
            """True also for each target, and for every second head, at the first time. Otherwise,
            few would be known."""
            has_come = is_recurring(sender, request)
            return has_come or isinstance(sender, Caller) or zlib.crc32(request) % 2 == 0

        express.is_recurring = comes_again  # type: ignore[method-assign]

    # ---------- cases

    async def compare(
        self,
        kind: str,
        steps: Sequence[Step],
        *,
        times: int = 2,
        by_unix: bool = False,
        by_status: bool = False,
    ) -> None:
        """Take the same steps on a connection past the lane, and on two, one after the other,
        that meet it. Note each difference.

        Args:
            kind: the class of the case.
            steps: the steps.
            times: how often they are taken on each connection, while it is open.
            by_unix: go by the Unix socket.
            by_status: compare only the status of each response.
        """
        steps_of_all = [*steps] * times
        before = self.by_head, self.by_target
        expected = await self._play(self.without[by_unix], steps_of_all)
        for _ in range(2):
            found = await self._play(self.with_lane[by_unix], steps_of_all)
            if _shown(found, by_status) != _shown(expected, by_status):
                await self._look_again(kind, steps_of_all, by_unix, by_status)
        self.count(kind, before)

    async def compare_after(self, kind: str, slow: bytes, steps: Sequence[Step]) -> None:
        """Take steps while a request of the connection waits for its handler. Note each difference
        between the responses, the first of which is that of the slow request.

        Args:
            kind: the class of the case.
            slow: the request, whose target has a query with ``slow``.
            steps: the steps.
        """
        before, heard = (self.by_head, self.by_target), []
        for address in (self.without[0], self.with_lane[0], self.with_lane[0]):
            heard.append(await self._play_after(address, slow, steps))
        for found in heard[1:]:
            if found != heard[0]:
                again = [
                    await self._play_after(address, slow, steps, PATIENT_TURNS)
                    for address in (self.without[0], self.with_lane[0])
                ]
                if again[0] != again[1]:
                    self.note(kind, steps, *again)
        self.count(kind, before)

    def count(self, kind: str, before: tuple[int, int]) -> None:
        """Count a case, and the responses of the lane since it began."""
        self.figures.cases[kind] += 1
        self.figures.by_head[kind] += self.by_head - before[0]
        self.figures.by_target[kind] += self.by_target - before[1]

    async def _play_after(
        self, address: int | Path, slow: bytes, steps: Sequence[Step], turns: int = QUIET_TURNS
    ) -> Heard:
        client = Client(address)
        with held_handler() as release:
            for step in (slow, *steps):
                await client.do(step)
                for _ in range(2 * turns):
                    await asyncio.sleep(0)
            release()
            heard = [(await self.quiet(client, turns), client.is_open)]
        client.close()
        return heard

    async def _look_again(
        self, kind: str, steps: Sequence[Step], by_unix: bool, by_status: bool
    ) -> None:
        expected = await self._play(self.without[by_unix], steps, PATIENT_TURNS)
        found = await self._play(self.with_lane[by_unix], steps, PATIENT_TURNS)
        if _shown(found, by_status) != _shown(expected, by_status):
            self.note(kind, steps, expected, found)

    def note(self, kind: str, case: object, expected: object, found: object) -> None:
        """Note a difference."""
        shown = [str(expected), str(found)]
        differ = (at for at, (one, other) in enumerate(zip(*shown, strict=False)) if one != other)
        start = max(0, next(differ, 0) - 100)
        without, with_lane = (one[start : start + 600] for one in shown)
        self.figures.wrong.append(
            f"{kind}: {str(case)[:600]}\n  without: {without}\n  with:    {with_lane}"
        )

    async def _play(
        self, address: int | Path, steps: Sequence[Step], turns: int = QUIET_TURNS
    ) -> Heard:
        client, heard = Client(address), []
        for step in steps:
            await client.do(step)
            heard.append((await self.quiet(client, turns), client.is_open))
            if not client.is_open:
                break
        client.close()
        return heard

    async def quiet(self, client: Client, turns: int = QUIET_TURNS) -> bytes:
        """Return what the server says until it has no more to say."""
        received, silent = b"", 0
        while silent < turns or self._in_flight.count:
            await asyncio.sleep(0)
            part = client.receive()
            received += part
            silent = 0 if part else silent + 1
        return self._without_other_times(received)

    def _without_other_times(self, received: bytes) -> bytes:
        """Mask what differs for another reason: the times that Tornado takes from this machine,
        and the reads that ``/status`` counts."""
        now = format_timestamp(self.running.clock.now()).encode()
        masked = DATE.sub(lambda found: found[0] if found[0] == now else b"-", received)
        return READS.sub(rb'"\1":0', masked)


def _shown(heard: Heard, by_status: bool) -> Sequence[object]:
    return [STATUS.findall(received) for received, _ in heard] if by_status else heard


class Pair:
    """A kept-open connection each way, for requests between which the world changes.

    Args:
        world: the server.
        kind: the class of the cases.
        by_unix: go by the Unix socket.
    """

    def __init__(self, world: World, kind: str, *, by_unix: bool = False) -> None:
        self._world, self._kind, self._by_unix = world, kind, by_unix
        self._clients: list[Client | None] = [None, None]
        self._number = 0
        self._order = [0, 1]
        """The way without the lane, and that with it. After a change, each is the first in turn."""

    async def same(self, head: bytes) -> bytes:
        """Send a request both ways, three times each, and return the response. The second time,
        its head has a number of its own."""
        world, before = self._world, (self._world.by_head, self._world.by_target)
        heard: tuple[list[bytes], list[bytes]] = ([], [])
        self._order.reverse()
        self._number += 1
        numbered = b"%sX-Number: %d\r\n\r\n" % (head.removesuffix(b"\r\n"), self._number)
        sent = [head, head, numbered, numbered, head, head]
        for number, one in zip(3 * self._order, sent, strict=True):
            addresses = (world.without, world.with_lane)[number]
            client = self._clients[number]
            if client is None or not client.is_open:
                client = self._clients[number] = Client(addresses[self._by_unix])
            await client.do(one)
            heard[number].append(await world.quiet(client))
        if len({*heard[0], *heard[1]}) > 1:
            await world.compare(self._kind, [head], by_unix=self._by_unix)
        world.count(self._kind, before)
        return heard[0][0]

    def close(self) -> None:
        """Close both connections."""
        for client in filter(None, self._clients):
            client.close()


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """Run a server with both ways. The arguments are those of ``one_server``."""
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder, "with"), Path(folder, "without")
        async with one_server(unix_socket=path, **ENDLESS, **settings) as running:
            tcp = listen("127.0.0.1", 0)
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unix.bind(str(other))
            unix.listen()
            unix.setblocking(False)
            acceptor = acceptor_without_lane(running.server, (*tcp, unix))
            acceptor.start()
            running.clock.advance(0.4)  # at a whole second, ``expiresIn`` changes at once
            try:
                yield World(running, (tcp[0].getsockname()[1], other))
            finally:
                acceptor.stop()
                await acceptor.close()
