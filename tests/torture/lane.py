"""The express lane: each response is the same with it and without it.

One server serves the same accounts in two ways: with the express lane, and without it. Each case
takes the same steps in both ways, and where the lane is on once more, so that it can repeat what it
has just learned. Between two changes, each request comes with a number of its own in its head too.
Of the responses, only these times may differ: the ``Date`` that Tornado takes from the machine, and
the reads that ``/status`` counts. The classes of cases:

matrix     the header matrix of ``torture headers``, most of it at ``/token``
fuzzed     requests for a token with mutated bytes
mutated    the requests of ``torture raw_requests``; some act, so only the status is compared
splits     every split of a known head in two writes, some in three, and each byte by itself
pipelines  requests of 14 kinds in each order, in one write, one after the other, and cut anywhere
ends       half-closed connections and resets
followers  what arrives while a request of the same connection waits for its handler
embedded   known heads as bodies and in headers of other requests, and near misses of a known head
times      the clock passes, and is set, by up to days; the token is refreshed and expires
login      an organisation is chosen; a login is ended, and begins again; an account is removed
rights     keys are added, changed and removed; users are permitted and not; a second user connects
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from support.other_user import OTHER_UID, raw_get
from support.raw_http import exchange
from support.readers import key_of, reader
from support.store_programs import AM_ROOT

from torture import _lane_requests as requests
from torture._cases import cases_and_seed
from torture._lane_requests import known_heads, request
from torture._lane_world import Figures, Pair, Step, World, world
from xots.access import Scope
from xots.reader_file import add_reader, remove_reader
from xots.reread import Reread
from xots.sandbox.person import Person

SPANS = (0.3, 0.9, 1, 5, 59, 299, 600, 1199, 1500, 1795, 1801, 3600)
"""Seconds that pass, or by which the clock is set forward or back. The lane notices that it was set
by less than a second in the next second."""


class Run:
    """Compares the two ways of a server.

    Args:
        here: the server.
        seed: the seed of all choices.
    """

    def __init__(self, here: World, seed: int) -> None:
        self._here, self._seed = here, seed
        self._port = here.running.port
        self._rng = random.Random(seed)  # noqa: S311 - a reproducible choice

    async def send(self, count: int) -> None:
        """Send requests of each class, so many of those that are generated."""
        port, seed, rng = self._port, self._seed, self._rng
        await self._all("matrix", ([one] for one in requests.matrix(port, seed, count)))
        for number, one in enumerate(requests.fuzzed(port, seed, count)):
            acts = b"POST" in one  # the state of a login is random
            by_unix = number % 4 == 3
            await self._here.compare("fuzzed", [one], by_unix=by_unix, by_status=acts)
        for one in requests.mutated_requests(port, seed, count):
            await self._here.compare("mutated", [one], by_status=True)
        for head in known_heads(port)[: 1 + count // 500]:
            await self._all("splits", requests.splits(head, rng, in_three=count // 10))
        pipelines = list(requests.pipelines(port, rng, cuts=1 + count // 500))
        await self._all("pipelines", rng.sample(pipelines, min(2 * count, len(pipelines))))
        ends = list(requests.ends(port, rng, 1 + count // 500))
        await self._all("ends", ends, times=1)
        slow = request(port, "/token?slow")
        followers = list(requests.followers(port, rng, count // 10))
        for steps in rng.sample(followers, min(2 * count, len(followers))):
            await self._here.compare_after("followers", slow, steps)
        embedded = list(requests.embedded(port))
        await self._all("embedded", rng.sample(embedded, min(2 * count, len(embedded))))

    async def _all(self, kind: str, cases: Iterable[list[Step]], *, times: int = 2) -> None:
        for number, steps in enumerate(cases):
            await self._here.compare(kind, steps, times=times, by_unix=number % 4 == 3)

    # ---------- changes between two requests

    async def pass_time(self, count: int) -> None:
        """Let time pass and set the clock, and let the server refresh, before each request."""
        rng, here = self._rng, self._here
        clock, server = here.running.clock, here.running.server
        pairs = [Pair(here, "times"), Pair(here, "times", by_unix=True)]
        heads = [*known_heads(self._port), request(self._port, "/token?min_ttl=1000")]
        for _ in range(count):
            seconds = rng.choice(SPANS)
            match rng.randrange(7):
                case 0:
                    clock.step(math.ceil(seconds))
                case 1:
                    clock.step(-math.ceil(seconds))
                case 2:
                    clock.step(days=rng.choice((-1, 1)))
                case 3:
                    clock.advance(seconds)
                    clock.step(-math.floor(seconds))
                case 4:
                    await server.rotation.tick()
                case _:
                    clock.advance(seconds)
            for pair in pairs:
                await pair.same(rng.choice(heads))
        for pair in pairs:
            pair.close()

    async def change_logins(self) -> None:
        """Choose organisations, end logins and begin them again, and remove an account."""
        here, port = self._here, self._port
        running, keeper = here.running, here.running.server.keeper
        organisations = list(running.sandbox.world.accounting.organisations)
        by_id = request(port, f"/token?tenant={organisations[0]}")
        by_other_id = request(port, f"/token?tenant={organisations[1]}")
        pair = Pair(here, "login")
        for _ in range(2):
            for head in (request(port), by_id, by_other_id, *known_heads(port)):
                await pair.same(head)
            for tenant_id in organisations:
                await keeper.choose_tenant(tenant_id)
                for head in (request(port), by_id, by_other_id):
                    await pair.same(head)
            for act in ("/revoke", "/logout"):
                await self._post(act)
                for head in (request(port), by_id):
                    assert b"accessToken" not in await pair.same(head)
                await self._log_in("/home")
                for head in (request(port), by_id):
                    assert b"accessToken" in await pair.same(head)
        for _ in range(2):
            await self._change_account(pair)
        pair.close()

    async def _change_account(self, pair: Pair) -> None:
        """Add an account, log in to it, and remove it."""
        head = request(self._port, "/accounts/firm/token")
        await pair.same(head)
        await self._post("/accounts", b'{"name": "firm"}')
        await pair.same(head)
        await self._log_in("/accounts/firm/home")
        assert b"accessToken" in await pair.same(head)
        for _ in range(3):
            self._here.running.clock.advance(minutes=15)
            await self._here.running.server.rotation.tick()
            await pair.same(head)
        await self._post("/accounts/firm/remove")
        assert b"accessToken" not in await pair.same(head)

    async def _log_in(self, path: str) -> None:
        """Log in through the pages of an account, for all organisations."""
        self._here.running.clock.advance(minutes=1)
        person = Person()
        page = await person.submit(await person.open(f"http://localhost:{self._port}{path}"))
        page = replace(page, text=page.text.replace('type="checkbox"', 'type="hidden"'))
        page = await person.consent(page)
        assert page.status == 200, page.text

    async def _post(self, target: str, body: bytes = b"") -> None:
        kind = ("Content-Type: application/json",) if body else ()
        length = f"Content-Length: {len(body)}"
        head = request(self._port, target, length, *kind, method="POST")
        (response,) = await exchange(self._port, [(head + body, False)])
        assert response.status in (200, 201, 303), response


class Rights:
    """Compares the two ways of a server while its files of readers and users change.

    Args:
        here: the server.
        readers: the file of readers.
        users: the file with the ids of the permitted users.
    """

    def __init__(self, here: World, readers: Path, users: Path) -> None:
        self._here, self._readers, self._users = here, readers, users
        self.figures = here.figures

    async def change(self) -> None:
        """Change keys and users, and send each request before and after."""
        pairs = [Pair(self._here, "rights"), Pair(self._here, "rights", by_unix=True)]
        await self._same(pairs, "one")
        self._add("two", Scope.TOKEN)
        await self._same(pairs, "one", "two")
        remove_reader(self._readers, "one")
        await self._same(pairs, "two")
        self._add("one", Scope.METRICS)  # the same key with another right
        await self._same(pairs, "two")
        text = self._readers.read_text()
        self._readers.write_text(text + "no reader\n")
        await self._same(pairs)
        self._readers.write_text(text)
        await self._same(pairs, "two")
        remove_reader(self._readers, "one")
        self._add("one", Scope.ADMIN, accounts=frozenset({"firm"}))
        await self._same(pairs, "two")
        own = os.geteuid()
        for permitted in ((OTHER_UID,), (OTHER_UID, own), (OTHER_UID,), (own,)):
            self._permit(*permitted)
            await self._same(pairs, *(("two",) if own in permitted else ()))
        for pair in pairs:
            pair.close()

    def _add(self, name: str, scope: Scope, accounts: frozenset[str] | None = None) -> None:
        add_reader(self._readers, reader(name, scope, accounts=accounts))

    async def _same(self, pairs: list[Pair], *valid: str) -> None:
        """Send the requests of each reader, and demand that over TCP exactly these are served."""
        port = self._here.running.port
        for name in ("one", "two", "three", None):
            line = () if name is None else (f"Authorization: Bearer {key_of(name)}",)
            for target in ("/token", "/accounts/default/token"):
                head = request(port, target, *line)
                by_tcp, _ = [await pair.same(head) for pair in pairs]
                if (b"accessToken" in by_tcp) is not (name in valid):
                    self._here.note("rights", head, sorted(valid), by_tcp)

    async def connect_as_other(self) -> None:
        """Send a head as another user that the lane repeats for this one, without keys. Only root
        can."""
        own, port = os.geteuid(), self._here.running.port
        head = request(port, "/token", "Connection: close")
        for permitted in ((own, OTHER_UID), (own,), (OTHER_UID,), (OTHER_UID, own)):
            self._permit(*permitted)
            await self._here.compare("rights", [head])
            for address in (self._here.without[0], self._here.with_lane[0]) * 2:
                response = await raw_get(address, "/token", host=f"localhost:{port}")
                if (b"accessToken" in response) is not (OTHER_UID in permitted):
                    self._here.note("rights", f"user {OTHER_UID}", permitted, response)

    def _permit(self, *users: int) -> None:
        self._users.write_text(" ".join(map(str, users)))


@asynccontextmanager
async def with_files(*, keys: bool) -> AsyncIterator[Rights]:
    """Run a server with a file of users, and one of readers if keys are needed."""
    with tempfile.TemporaryDirectory() as folder:
        readers, users = Path(folder, "readers"), Path(folder, "users")
        add_reader(readers, reader("owner", Scope.ADMIN))
        add_reader(readers, reader("one", Scope.TOKEN))
        users.write_text(str(os.geteuid()))  # noqa: ASYNC240 - one line
        read = Reread([users], lambda: tuple(map(int, users.read_text().split())))
        rules = {"readers": readers, "holder": "owner"} if keys else {}
        async with world(users=read, **rules) as here:
            yield Rights(here, readers, users)


async def measure(count: int, seed: int) -> Figures:
    """Run all classes on servers of their own."""
    began = time.monotonic()
    async with world() as here:
        run = Run(here, seed)
        await run.send(count)
        await run.pass_time(count // 5)
        await run.change_logins()
    figures = here.figures
    for keys in (True, False) if AM_ROOT else (True,):
        async with with_files(keys=keys) as rights:
            await (rights.change() if keys else rights.connect_as_other())
        figures.add(rights.figures)
    figures.seconds = time.monotonic() - began
    return figures


def main(arguments: list[str]) -> int:
    """Run the command."""
    cases, seed = cases_and_seed("lane", __doc__, arguments, cases=5_000)
    figures = asyncio.run(measure(cases, seed))
    print(figures)
    for one in figures.wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if figures.wrong else 0
