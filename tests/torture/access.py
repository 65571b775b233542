"""The table of access: generated requests to a real server, each decision compared with an oracle.

Every route, of the default account and of four accounts in the path (one of which does not exist),
by each method, with each key, in each way: TCP, TLS, the Unix socket, and both of the plain ones
with the header of a proxy. ``support.access_oracle`` decides what must happen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import random
import ssl
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from support.access_oracle import Case, Key, Verdict, Way, verdict
from support.certificates import make_certificates
from support.raw_http import RawResponse, exchange
from support.readers import READERS, basic, key_of, line

from xots.server import Server
from xots.settings import Settings
from xots.settings.accounts import Layer
from xots.web.app import PATHS_OF_ACCOUNT, ROUTES

PIPELINE = 20
"""Requests on one connection."""

METHODS = ("GET", "HEAD", "POST", "PUT", "BREW")
ACCOUNTS = ("default", "firm", "smith", "unknown")


def _valid(name: str, header: str) -> Key:
    scopes, accounts = READERS[name]
    limit = None if accounts == "*" else frozenset(accounts.split(","))
    return Key(f"{name}: {header[:12]}", header, True, frozenset(scopes.split(",")), limit)


def keys() -> list[Key]:
    """Return no key, each valid one by Bearer and Basic, and all kinds of keys that are wrong."""
    names = [name for name in READERS if name != "gone"]
    owner = key_of("owner")
    wrong = {
        "no key": None,
        "empty": "",
        "no scheme": owner,
        "empty key": "Bearer",
        "unknown key": "Bearer xots_invented",
        "the digest of a key": f"Bearer {hashlib.sha256(owner.encode()).hexdigest()}",
        "revoked": f"Bearer {key_of('gone')}",
        "revoked, Basic": basic("gone")["Authorization"],
        "another's name": basic("script", "owner")["Authorization"],
        "no name": basic("", "owner")["Authorization"],
        "not base64": "Basic !!!",
        "not UTF-8": f"Basic {b64encode(bytes([255, 58, 255])).decode()}",
        "unknown scheme": f"Digest {owner}",
        "key in upper case": f"Bearer {owner.upper()}",
        "two keys in one": f"Bearer {owner}, Bearer {owner}",
    }
    return [
        *(Key(name, header, is_valid=False) for name, header in wrong.items()),
        *(_valid(name, f"Bearer {key_of(name)}") for name in names),
        *(_valid(name, basic(name)["Authorization"]) for name in names),
        _valid("owner", f"bEaReR   {owner}"),
    ]


def targets() -> list[tuple[str, str | None]]:
    """Return each path, with the account in front of it or None."""
    once = [path.replace("\\", "") for path, _ in ROUTES]
    of_account = [path.replace("\\", "") for path, _ in PATHS_OF_ACCOUNT]
    return [
        *((path, None) for path in (*once, "/style.css", "/nothing")),
        *((path, account) for path in of_account for account in ACCOUNTS),
    ]


def cases() -> list[Case]:
    """Return the whole table."""
    return [
        Case(way, method, path, account, key)
        for way, method, (path, account), key in product(Way, METHODS, targets(), keys())
    ]


# ---------- the server


@dataclass(frozen=True)
class Running:
    """Two servers with the same readers: plain with a Unix socket, and TLS."""

    plain: Server
    tls: Server
    context: ssl.SSLContext

    async def exchange(self, way: Way, requests: Sequence[tuple[bytes, bool]]) -> list[RawResponse]:
        match way:
            case Way.TLS:
                return await exchange(self.tls.port, requests, self.context)
            case Way.SOCKET | Way.PROXY_SOCKET:
                path = self.plain.settings.unix_socket
                assert path is not None
                return await exchange(path, requests)
            case _:
                return await exchange(self.plain.port, requests)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """Run the servers, without credentials, so that no permitted request changes anything. The
    reader ``gone`` is removed once they run."""
    with TemporaryDirectory(prefix="xots-access-") as name:
        folder = Path(name)
        certificates = make_certificates(folder)
        readers = folder / "readers"
        readers.write_text("".join(map(line, READERS)))
        common: dict[str, Any] = {
            "port": 0,
            "store": "memory:",
            "readers": readers,
            "accounts": {"firm": Layer(), "smith": Layer()},
        }
        plain = Server(Settings(unix_socket=folder / "socket", **common))
        tls = Server(
            Settings(tls_certificate=certificates.server, tls_key=certificates.server_key, **common)
        )
        context = ssl.create_default_context(cafile=str(certificates.ca))
        await plain.start()
        await tls.start()
        try:
            found = Running(plain, tls, context)
            [before] = await found.exchange(Way.TCP, [_request(_proof("gone"), plain.port)])
            assert before.status == 200
            readers.write_text("".join(line(name) for name in READERS if name != "gone"))
            yield found
        finally:
            await plain.stop()
            await tls.stop()


def _proof(name: str) -> Case:
    """Return a request that this reader is permitted."""
    return Case(Way.TCP, "GET", "/status", None, _valid(name, f"Bearer {key_of(name)}"))


def _request(case: Case, port: int) -> tuple[bytes, bool]:
    lines = [f"{case.method} {case.target} HTTP/1.1"]
    lines.append("Host: localhost" if case.way is Way.SOCKET else f"Host: localhost:{port}")
    if case.key.header is not None:
        lines.append(f"Authorization: {case.key.header}")
    if case.way in (Way.PROXY, Way.PROXY_SOCKET):
        lines.append("X-Forwarded-For: 192.0.2.7")
    if case.method not in ("GET", "HEAD"):
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode(), case.method == "HEAD"


# ---------- the run


def _decision(case: Case, response: RawResponse) -> Verdict | str:
    """Return the decision that a response shows."""
    if case.method == "HEAD":  # without a body: the challenge tells a missing key
        if response.status == 401 and response.shows("Basic realm="):
            return Verdict.KEY_NEEDED
        return Verdict.DENIED if response.status == 403 else Verdict.PERMITTED
    if response.media_type != "application/problem+json":
        return Verdict.PERMITTED if response.status < 500 else str(response.status)
    kind = str(msgspec.json.decode(response.body)["type"]).rpartition(":")[2]
    if kind in (Verdict.KEY_NEEDED, Verdict.DENIED):
        return Verdict(kind)
    return kind if response.status >= 500 else Verdict.PERMITTED


@dataclass
class Figures:
    """The outcome of a run."""

    cases: int = 0
    by_verdict: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, case: Case, response: RawResponse) -> None:
        wanted, found = verdict(case), _decision(case, response)
        self.cases += 1
        self.by_verdict[f"{case.way}: {wanted}"] += 1
        if found != wanted or (found is not Verdict.PERMITTED and response.status < 400):
            self.wrong.append(
                f"{case.way} {case.method} {case.target} ({case.key.name}): {found} "
                f"(status {response.status}) instead of {wanted}"
            )

    def __str__(self) -> str:
        return f"{self.cases:,} requests, {len(self.wrong)} wrong decisions"


async def go(found: Running, chosen: Sequence[Case]) -> Figures:
    """Send the cases and compare."""
    figures = Figures()
    by_way: defaultdict[Way, list[Case]] = defaultdict(list)
    for case in chosen:
        by_way[case.way].append(case)
    for way, its in by_way.items():
        port = (found.tls if way is Way.TLS else found.plain).port
        for start in range(0, len(its), PIPELINE):
            block = its[start : start + PIPELINE]
            responses = await found.exchange(way, [_request(case, port) for case in block])
            for case, response in zip(block, responses, strict=True):
                figures.note(case, response)
    return figures


def main(argv: Sequence[str]) -> int:
    """Send the whole table, or a part of it."""
    parser = argparse.ArgumentParser(prog="make torture ARGS=access", description=__doc__)
    parser.add_argument("--cases", type=int, default=0, help="that many at random; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    chosen = cases()
    random.Random(options.seed).shuffle(chosen)  # noqa: S311 - no secret
    began = time.monotonic()

    async def run() -> Figures:
        async with running() as found:
            return await go(found, chosen[: options.cases or None])

    figures = asyncio.run(run())
    print(f"{figures} in {time.monotonic() - began:.0f} s")
    for kind, count in sorted(figures.by_verdict.items()):
        print(f"  {count:7,}  {kind}")
    for wrong in figures.wrong[:20]:
        print(wrong)
    return 1 if figures.wrong else 0
