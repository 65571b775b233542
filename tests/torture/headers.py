"""The header matrix: generated requests to a real server, each decision compared with an oracle.

A case is a method, a target and one value for each column of headers. The cases are

singles   each value of each column, alone beside three ordinary requests (a program's, a browser's,
          Node's), at every target, by GET and by POST
combos    every combination of the Fetch Metadata columns at some targets, by GET and by POST
pairs     every pair of values of two columns, the other columns at random
random    every column at random, for the rest of the count

``support.guard_oracle`` decides what must happen. A case that must not make the server call Xero is
sent in a block, between two readings of the simulated Xero's log. A case that must act is sent by
itself, and its effect is looked for in that log.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from support.guard_oracle import (
    ACTS,
    METHODS,
    Case,
    Decision,
    Oracle,
    Verdict,
    chosen_type,
    looks_like_browser,
)
from support.one_server import OneServer, one_server
from support.raw_http import RawResponse, exchange

from torture._cases import cases_and_seed
from xots.sandbox import Endpoint

Header = tuple[str, str]
Value = tuple[Header, ...]
"""The header lines that a column adds to a request."""

BLOCK = 400
"""Cases between two readings of Xero's log."""

PIPELINE = 20
"""Cases on one connection."""

ORDINARY_SHARE = 0.55
"""The share of a column's first values at random. Without it, the first rules refuse nearly all."""

MAX_SEARCHES = 2
"""Blocks with a request to Xero in which a run looks for the cases that caused it."""

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

FETCH_COLUMNS = ("site", "mode", "dest")

COMBO_TARGETS = (
    *("/", "/home", "/token", "/status", "/refresh", "/style.css", "/ping", "/accounts"),
    *(f"/accounts/default/{path}" for path in ("home", "status", "refresh")),
)


# ---------- the columns


def _lines(name: str, *values: str) -> list[Value]:
    return [((name, value),) for value in values]


@dataclass(frozen=True)
class Columns:
    """The values of each column for a server on a port. Those without an effect come first."""

    port: int

    def targets(self) -> list[str]:
        return [
            *METHODS,
            "/code?code=invented&state=invented",
            "/tenants?x=%00",
            "/nothing",
            "/accounts/default",
            "/accounts/default/code",
            "/accounts/unknown/home",
            "/accounts/Default/home",
            "//evil.example/token",
            f"http://localhost:{self.port}/token",
            "http://evil.example/refresh",
            "*",
        ]

    def methods(self) -> list[str]:
        return ["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"]

    def headers(self) -> dict[str, list[Value]]:
        """Return the values by column. The first ``ordinary()`` of them are ordinary."""
        port = self.port
        own = f"http://localhost:{port}"
        nothing: list[Value] = [()]
        return {
            "host": [
                *_lines(
                    "Host",
                    f"localhost:{port}",
                    f"127.0.0.1:{port}",
                    f"[::1]:{port}",
                    f"LOCALHOST:{port}",
                    f"evil.example:{port}",
                    "evil.example",
                    "localhost",
                    "127.0.0.1",
                    f"localhost:{port - 1}",
                    f"0.0.0.0:{port}",
                    f"[::]:{port}",
                    f"localhost.:{port}",
                    f"localhost.evil.example:{port}",
                    f"evil.localhost:{port}",
                    f"user@localhost:{port}",
                    f"127.1:{port}",
                    f"2130706433:{port}",
                    f"[::ffff:127.0.0.1]:{port}",
                    f"localhost:0{port}",
                    f"localhost:{port}, evil.example",
                    f"10.1.2.3:{port}",
                    "",
                ),
                (),
                (("Host", f"localhost:{port}"), ("Host", "evil.example")),
                (("Host", f"localhost:{port}"), ("Host", f"localhost:{port}")),
            ],
            "origin": nothing
            + _lines(
                "Origin",
                own,
                f"http://127.0.0.1:{port}",
                "null",
                "http://evil.example",
                f"http://evil.example:{port}",
                "http://localhost",
                f"http://localhost:{port - 1}",
                f"https://localhost:{port}",
                f"{own} http://evil.example",
                f"{own}, http://evil.example",
                f"{own}.evil.example",
                "file://",
                "chrome-extension://aaaabbbb",
                "http://[",
                "",
            )
            + [(("Origin", own), ("Origin", "http://evil.example"))],
            "site": nothing
            + _lines(
                "Sec-Fetch-Site",
                "none",
                "same-origin",
                "same-site",
                "cross-site",
                "bogus",
                "same-origin, cross-site",
                "",
            ),
            "mode": nothing
            + _lines(
                "Sec-Fetch-Mode", "navigate", "cors", "no-cors", "same-origin", "websocket", "bogus"
            ),
            "dest": nothing
            + _lines(
                "Sec-Fetch-Dest",
                "document",
                "empty",
                "iframe",
                "frame",
                "embed",
                "object",
                "image",
                "script",
                "style",
                "serviceworker",
            ),
            "referer": nothing
            + _lines(
                "Referer",
                f"{own}/status",
                f"http://127.0.0.1:{port}/home",
                "",
                "http://evil.example/page",
                "https://evil.example/",
                f"http://localhost:{port - 1}/",
                f"https://localhost:{port}/",
                f"http://localhost:{port}@evil.example/",
                f"http://localhost:{port}.evil.example/",
                f"http://evil.example/?{own}/",
                "http://[",
                "nonsense",
            ),
            "purpose": [
                (),
                *_lines("Sec-Purpose", "prefetch", "prefetch;prerender", "anything"),
                *_lines("Purpose", "prefetch", "Prefetch"),
                *_lines("X-Purpose", "preview", "prefetch"),
                *_lines("X-Moz", "prefetch"),
            ],
            "accept": nothing
            + _lines(
                "Accept",
                "*/*",
                PAGE,
                "application/json",
                "text/html",
                "text/plain",
                "text/html;q=0",
                "text/html;q=0.0, */*",
                "text/plain;q=0",
                "TEXT/HTML",
                "text/*",
                "application/json, text/html;q=0.5",
                "text/html;q=0.5, application/json",
                "text/plain;q=0.2, text/html;q=0.3",
                "application/xhtml+xml, */*;q=0.8",
            ),
            "upgrade": [
                (),
                (
                    ("Connection", "Upgrade, HTTP2-Settings"),
                    ("Upgrade", "h2c"),
                    ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
                ),
                *(
                    (
                        ("Connection", "Upgrade"),
                        ("Upgrade", value),
                        ("Sec-WebSocket-Version", "13"),
                        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
                    )
                    for value in ("websocket", "WebSocket", "h2c, websocket")
                ),
                (("Upgrade", "websocket"),),
            ],
            "worker": [
                (),
                *_lines("Service-Worker", "script"),
                *_lines("Service-Worker-Navigation-Preload", "true", "0", ""),
            ],
            "signs": [
                (),
                (("User-Agent", "curl/8.5.0"), ("Accept-Encoding", "gzip")),
                (("User-Agent", "python-requests/2.32.3"), ("Connection", "keep-alive")),
                (("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0"),),
                (("User-Agent", "Client (like Mozilla/4.0)"),),
                (("Cookie", "theme=dark"),),
                (("Cookie", ""),),
                (("Accept-Language", "*"), ("User-Agent", "node")),
                (("Accept-Language", "en-NZ,en;q=0.5"),),
                (("Sec-CH-UA", '"Chromium";v="156"'),),
                (("Sec-GPC", "1"),),
                (("X-Requested-With", "XMLHttpRequest"), ("Authorization", "Bearer nonsense")),
            ],
        }


ORDINARY = {"host": 4, "site": 3, "mode": 2, "dest": 2, "referer": 2, "accept": 4, "signs": 3}
"""The number of ordinary values of a column; 1 if it is not named. Origin counts two."""


BASES: tuple[dict[str, Value], ...] = (
    {},
    {
        "site": (("Sec-Fetch-Site", "same-origin"),),
        "mode": (("Sec-Fetch-Mode", "navigate"),),
        "dest": (("Sec-Fetch-Dest", "document"),),
        "accept": (("Accept", PAGE),),
        "signs": (("Accept-Language", "en"), ("User-Agent", "Mozilla/5.0 (X11) Firefox/144.0")),
    },
    {
        "mode": (("Sec-Fetch-Mode", "cors"),),
        "accept": (("Accept", "*/*"),),
        "signs": (("Accept-Language", "*"), ("User-Agent", "node")),
    },
)
"""The ordinary requests: a program's, a browser's on a page of this server, and Node's."""


# ---------- the cases


class Matrix:
    """Generates the cases for a server.

    Args:
        port: the server's port.
        seed: the seed of the choices.
    """

    def __init__(self, port: int, seed: int) -> None:
        columns = Columns(port)
        self.targets, self.methods = columns.targets(), columns.methods()
        self.columns = columns.headers()
        self._rng = random.Random(seed)  # noqa: S311 - a reproducible choice

    def cases(self, count: int) -> list[Case]:
        """Return so many different cases, in random order."""
        systematic = list(dict.fromkeys([*self._combos(), *self._singles(), *self._pairs()]))
        found = dict.fromkeys(self._rng.sample(systematic, min(count, len(systematic))))
        while len(found) < count:
            found[self._at_random({})] = None
        return list(found)

    def _singles(self) -> Iterator[Case]:
        for base, target, method in product(BASES, self.targets, ("GET", "POST")):
            for name, values in self.columns.items():
                for value in values:
                    yield self._case(method, target, base | {name: value})
        for base, target, method in product(BASES, self.targets, self.methods):
            yield self._case(method, target, base)

    def _combos(self) -> Iterator[Case]:
        choices = [self.columns[name] for name in FETCH_COLUMNS]
        for target, method in product(COMBO_TARGETS, ("GET", "POST")):
            for values in product(*choices):
                yield self._case(method, target, dict(zip(FETCH_COLUMNS, values, strict=True)))

    def _pairs(self) -> Iterator[Case]:
        for one, other in combinations(self.columns, 2):
            for pair in product(self.columns[one], self.columns[other]):
                yield self._at_random(dict(zip((one, other), pair, strict=True)))

    def _at_random(self, fixed: dict[str, Value]) -> Case:
        chosen = {}
        for name, values in self.columns.items():
            ordinary = values[: ORDINARY.get(name, 2 if name == "origin" else 1)]
            is_ordinary = self._rng.random() < ORDINARY_SHARE
            chosen[name] = self._rng.choice(ordinary if is_ordinary else values)
        method, target = self._rng.choice(self.methods), self._rng.choice(self.targets)
        version = "1.0" if self._rng.random() < 0.02 else "1.1"
        return self._case(method, target, chosen | fixed, version)

    def _case(
        self, method: str, target: str, chosen: dict[str, Value], version: str = "1.1"
    ) -> Case:
        given = {"host": self.columns["host"][0]} | chosen
        headers = tuple(line for name in self.columns for line in given.get(name, ()))
        return Case(method, target, headers, version)


# ---------- a run


@dataclass
class Figures:
    """The results of a run."""

    cases: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The cases with a wrong decision, by the kind of fault."""
    seconds: float = 0.0

    def __str__(self) -> str:
        wrong = sum(map(len, self.wrong.values()))
        lines = [f"{self.cases} cases in {self.seconds:.1f} s, {wrong} wrong decisions"]
        lines += [f"  {count:6} {rule}" for rule, count in sorted(self.by_rule.items())]
        statuses = ", ".join(f"{status}: {n}" for status, n in sorted(self.by_status.items()))
        return "\n".join([*lines, f"  statuses {statuses}"])

    def report(self) -> str:
        """Return each kind of fault with its number and an example; empty if there is none."""
        return "\n".join(
            f"WRONG {len(cases):5} {kind}, such as {min(cases, key=len)}"
            for kind, cases in self.wrong.items()
        )


class Run:
    """Sends cases to a server and compares each decision with the oracle's.

    Args:
        running: the server, logged in.
        seed: the seed of the cases.
    """

    def __init__(self, running: OneServer, seed: int) -> None:
        self._running = running
        self._matrix = Matrix(running.port, seed)
        self._oracle = Oracle(running.port)
        self._searches = MAX_SEARCHES
        self.figures = Figures()

    async def go(self, count: int) -> Figures:
        """Send about ``count`` cases; of those that act, only a part."""
        began = time.monotonic()
        decided = [(case, self._oracle.decide(case)) for case in self._matrix.cases(count)]
        quiet = [one for one in decided if not one[1].may_call_xero]
        calling = [one for one in decided if one[1].verdict is Verdict.SERVED]
        calling = [one for one in calling if one[1].may_call_xero]
        acting = [one for one in decided if one[1].verdict is Verdict.ACTED]
        await self._check_that_a_page_can_call()
        for start in range(0, len(quiet), BLOCK):
            await self._send_quiet(quiet[start : start + BLOCK])
        await self._prepare()
        await self._send(calling)
        # An act costs more time than a hundred refusals, so only some are sent.
        await self._send_refreshes(
            [one for one in acting if one[0].own_path == "/refresh"][: count // 50]
        )
        for path in sorted(ACTS - {"/refresh"}):
            await self._send_ends(
                [one for one in acting if one[0].own_path == path][: 4 + count // 2000]
            )
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _prepare(self) -> None:
        """Let every list that the server keeps expire, and the token age so far that a demand for
        a longer life makes the server call Xero. No refresh is due."""
        self._running.clock.advance(minutes=1)
        plain = Case("POST", "/refresh", (("Host", f"localhost:{self._running.port}"),))
        (response,) = await exchange(self._running.port, [(plain.encoded(), False)])
        if response.status != 303:
            self.figures.wrong["the login has ended before"].append(str(plain))
            await self._running.log_in()
        self._running.clock.advance(minutes=5)

    async def _check_that_a_page_can_call(self) -> None:
        """Check that ``/home`` calls Xero for its own user. Otherwise no block would show that it
        does so for a foreign page."""
        await self._prepare()
        before = len(self._running.sandbox.log)
        headers = (("Host", f"localhost:{self._running.port}"), ("Sec-Fetch-Site", "none"))
        home = Case("GET", "/home", headers)
        await exchange(self._running.port, [(home.encoded(), False)])
        if len(self._running.sandbox.log) == before:
            self.figures.wrong["calls Xero for no user, so the run is blind"].append(str(home))

    async def _send_quiet(self, block: Sequence[tuple[Case, Decision]]) -> None:
        """Send cases that must not make the server call Xero."""
        await self._prepare()
        log, before = self._running.sandbox.log, len(self._running.sandbox.log)
        await self._send(block)
        if len(log) == before:
            return
        self.figures.wrong["a request to Xero"] += map(str, log[before:])
        for case, decision in block if self._searches > 0 else ():  # find those that did
            await self._prepare()
            before = len(log)
            await exchange(self._running.port, [(case.encoded(), case.method == "HEAD")])
            if len(log) > before:
                kind = f"{decision.verdict} ({decision.rule}) that calls Xero"
                self.figures.wrong[kind].append(str(case))
        self._searches -= 1

    async def _send(self, block: Sequence[tuple[Case, Decision]]) -> None:
        secrets = self._running.secrets()
        pipelines = [block[start : start + PIPELINE] for start in range(0, len(block), PIPELINE)]
        for pipeline in pipelines:
            requests = [(case.encoded(), case.method == "HEAD") for case, _ in pipeline]
            responses = await exchange(self._running.port, requests)
            for (case, decision), response in zip(pipeline, responses, strict=True):
                self._check(case, decision, response, secrets)

    async def _send_refreshes(self, acting: Sequence[tuple[Case, Decision]]) -> None:
        """Send each act after the shortest interval between two refreshes."""
        for one in acting:
            self._running.clock.advance(minutes=1)
            before = len(self._running.sandbox.refreshes())
            await self._send([one])
            if len(self._running.sandbox.refreshes()) != before + 1:
                self.figures.wrong["acted, but refreshed nothing"].append(str(one[0]))

    async def _send_ends(self, acting: Sequence[tuple[Case, Decision]]) -> None:
        """Send each act to a login of its own."""
        for one in acting:
            before = self._revocations()
            await self._send([one])
            if self._revocations() == before or self._running.is_logged_in:
                self.figures.wrong["acted, but ended no login"].append(str(one[0]))
            await self._running.log_in()

    def _revocations(self) -> int:
        return sum(one.endpoint is Endpoint.REVOCATION for one in self._running.sandbox.log)

    def _check(
        self, case: Case, decision: Decision, response: RawResponse, secrets: Sequence[str]
    ) -> None:
        self.figures.cases += 1
        self.figures.by_rule[f"{decision.verdict}: {decision.rule}"] += 1
        self.figures.by_status[response.status] += 1
        for fault in faults_of(case, decision, response, secrets):
            kind = f"{decision.verdict} ({decision.rule}): {fault}"
            self.figures.wrong[kind].append(str(case))


def faults_of(
    case: Case, decision: Decision, response: RawResponse, secrets: Sequence[str]
) -> Iterator[str]:
    """Return the differences between a response and the decision on its request."""
    if response.status not in decision.statuses:
        yield f"status {response.status}"
        return
    yield from _header_faults(case, response)
    # A request that is no valid HTTP is refused before its headers are known.
    is_malformed = response.status == 400 and response.value("connection") == "close"
    if not is_malformed:
        yield from _faults_for_browsers(case, response)
    if decision.verdict not in (Verdict.SERVED, Verdict.ACTED):
        yield from (f"shows {text[:6]}..." for text in secrets if response.shows(text))
        if response.value("set-cookie") or response.value("location"):
            yield "sets a cookie or redirects"
    if decision.verdict is Verdict.ACTED and case.own_path == "/refresh":
        yield from _redirect_faults(case, response)
    if case.method != "HEAD" and not is_malformed:
        yield from _body_faults(case, decision, response)


def _header_faults(case: Case, response: RawResponse) -> Iterator[str]:
    for name, value in SECURITY_HEADERS.items():
        if response.value(name) != value:
            yield f"{name} is {response.value(name)}"
    policy = response.value("content-security-policy") or ""
    if "frame-ancestors 'none'" not in [one.strip() for one in policy.split(";")]:
        yield f"content-security-policy is {policy}"
    for name, _ in response.headers:
        if name == "server" or name.startswith("access-control-"):
            yield f"has {name}"


def _faults_for_browsers(case: Case, response: RawResponse) -> Iterator[str]:
    # A service worker of another program may have passed the request on: the response ends it.
    ends_worker = response.media_type == "text/html" or looks_like_browser(case)
    clears = response.value("clear-site-data")
    if clears != ('"storage"' if ends_worker else None):
        yield f"clear-site-data is {clears} beside {response.media_type}"


def _redirect_faults(case: Case, response: RawResponse) -> Iterator[str]:
    """A refresh leads to the account's ``/home`` if the client prefers a page; otherwise to its
    ``/token``."""
    location = response.value("location")
    target = "/home" if chosen_type(case) == "text/html" else "/token"
    if location != case.path.removesuffix("/refresh") + target:
        yield f"redirects to {location}"


def _body_faults(case: Case, decision: Decision, response: RawResponse) -> Iterator[str]:
    """Check the format, and the body that the decision demands."""
    match decision.verdict:
        case Verdict.WORKER:
            if "javascript" not in response.media_type or b"unregister" not in response.body:
                yield f"no worker that unregisters itself but {response.media_type}"
        case Verdict.BUTTON:
            if response.media_type != "text/html" or b"<button" not in response.body:
                yield f"no page with a button but {response.media_type}"
        case Verdict.REFUSED | Verdict.WRONG_METHOD | Verdict.NOT_FOUND:
            page = chosen_type(case) == "text/html"
            if response.media_type != ("text/html" if page else "application/problem+json"):
                yield f"an error in {response.media_type}"
            if decision.rule == "foreign host" and b"allowed_hosts" not in response.body:
                yield "does not name the setting"
    if decision.verdict is Verdict.WRONG_METHOD:
        allowed = {one.strip() for one in (response.value("allow") or "").split(",")}
        if not allowed & METHODS.get(case.path, frozenset()) or (
            case.method == "GET" and b"POST" not in response.body
        ):
            yield f"allow is {allowed}"


async def measure(count: int, seed: int) -> Figures:
    """Run the matrix on a server of its own."""
    async with one_server() as running:
        return await Run(running, seed).go(count)


def main(arguments: list[str]) -> int:
    """Run the command."""
    cases, seed = cases_and_seed("headers", __doc__, arguments, cases=30_000)
    figures = asyncio.run(measure(cases, seed))
    print(figures)
    print(figures.report())
    return 1 if figures.wrong else 0
