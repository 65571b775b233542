"""Floods of calls to a real server: the requests at Xero are counted against their bounds.

A server with the default settings gets many calls one after the other, and many at once: forced
refreshes, lists of organisations, and logins with invented codes. A program can replay the cookie
of a login that it has started. Then invented codes arrive while a refresh falls due, at a second
server whose tokens have a short lifetime. At the end, one ``/revoke`` ends the login.

The bounds are those of docs/guarantees.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import parse_qsl, urlsplit

from torture.processes import Fleet, Line, Response, fleet, until
from xots.backends import open_store
from xots.keeping.login_limit import LOGIN_INTERVAL_SECONDS, MAX_LOGINS_IN_A_ROW
from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.logins import MAX_TOKENS_TO_REVOKE
from xots.lifecycle.policy import Policy
from xots.sandbox import Endpoint

REFRESH_INTERVAL_SECONDS = Policy().refresh_interval.total_seconds()

MAX_RECORD_BYTES = 16_000
"""Upper bound on the stored record: some ten times its size with one fallback and no tombstones."""

MAX_LATENESS_SECONDS = 1.0
"""Upper bound on the lateness of a due refresh, beyond the interval between checks."""

LIFE_SECONDS = 8
"""Lifetime of an access token of the second server. Half of it before the expiry, a refresh is
due, and an eighth of it is the interval between checks, at most a fifth longer by its jitter."""

CHECK_SECONDS = LIFE_SECONDS / 8 * 1.2


@dataclass(frozen=True)
class Flood:
    """One kind of call."""

    name: str
    path: str
    bounds: dict[Endpoint, Callable[[float], float]]
    """The upper bound on the requests at each endpoint, for a duration in seconds."""
    cookie: str = ""
    form: str = ""
    """The body of a POST. Without it, the call is a GET."""


async def started_login(fleet: Fleet) -> tuple[str, str]:
    """Start a login as a program does. Return the callback with an invented code, and the
    cookie."""
    line = fleet.line(fleet.processes[0])
    response = await line.request("POST", "/home", b"", **{"Content-Length": "0"})
    assert response.status == 303, response
    state = dict(parse_qsl(urlsplit(response.headers["location"]).query))["state"]
    return f"/code?state={state}&code=invented", response.headers["set-cookie"].partition(";")[0]


async def floods(fleet: Fleet) -> list[Flood]:
    """Return the floods of the first server."""
    path, cookie = await started_login(fleet)
    return [
        Flood(
            "refreshes",
            "/refresh",
            {Endpoint.REFRESH: lambda seconds: 2 + seconds / REFRESH_INTERVAL_SECONDS},
        ),
        Flood(
            "lists of organisations",
            "/tenants",
            {Endpoint.CONNECTIONS: lambda seconds: 2 + seconds / LIST_KEPT_SECONDS},
        ),
        Flood(
            "invented codes",
            path,
            {Endpoint.TOKEN: lambda s: MAX_LOGINS_IN_A_ROW + 1 + s / LOGIN_INTERVAL_SECONDS},
            cookie,
        ),
        Flood(
            "choices of an organisation",
            "/home",
            {Endpoint.CONNECTIONS: lambda seconds: 2 + seconds / LIST_KEPT_SECONDS},
            form=f"tenant_id={await chosen_tenant(fleet)}",
        ),
    ]


async def chosen_tenant(fleet: Fleet) -> str:
    """Return the id of the organisation that the login uses."""
    response = await fleet.line(fleet.processes[0]).request("GET", "/status")
    return str(json.loads(response.body)["tenant_id"])


async def send(line: Line, flood: Flood) -> Response:
    """Send one call."""
    headers = {"Cookie": flood.cookie} if flood.cookie else {}
    if not flood.form:
        return await line.request("GET", flood.path, b"", **headers)
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return await line.request("POST", flood.path, flood.form.encode(), **headers)


async def record_bytes(fleet: Fleet) -> int:
    """Return the size of the stored record."""
    store = open_store(fleet.url)
    try:
        stored = await store.read("default")
    finally:
        await store.close()
    return 0 if stored is None else len(stored.value)


async def flood_one(fleet: Fleet, flood: Flood, calls: int, parallel: int) -> list[str]:
    """Send the calls of one flood, and print its figures. Return the errors."""
    log, before, size = fleet.sandbox.log, len(fleet.sandbox.log), await record_bytes(fleet)
    statuses: Counter[int] = Counter()
    began, line = time.monotonic(), fleet.line(fleet.processes[0])
    for _ in range(calls):
        statuses[(await send(line, flood)).status] += 1
    lines = [fleet.line(fleet.processes[0]) for _ in range(parallel)]
    responses = await asyncio.gather(*(send(line, flood) for line in lines))
    statuses.update(response.status for response in responses)
    for line in lines:
        line.close()
    seconds, wrong = time.monotonic() - began, []
    counts = Counter(request.endpoint for request in list(log)[before:])
    bounds = {endpoint: int(bound(seconds)) for endpoint, bound in flood.bounds.items()}
    for endpoint, made in counts.items():
        if made > bounds.get(endpoint, 1):  # one refresh may fall due by itself
            wrong.append(f"{flood.name}: {made} requests to {endpoint}, bound {bounds}")
    if unexpected := set(statuses) - {200, 303, 400, 429, 503}:
        wrong.append(f"{flood.name}: unexpected statuses {unexpected}")
    if (size_after := await record_bytes(fleet)) > MAX_RECORD_BYTES:
        wrong.append(f"{flood.name}: the record has {size_after} bytes")
    if not await fleet.is_safe():
        wrong.append(f"{flood.name}: the store holds no token from which Xero would issue")
    print(
        f"{flood.name}: {calls} calls in turn and {parallel} at once in {seconds:.1f} s; "
        f"responses {_shown(statuses)}; requests at Xero {_shown(counts) or 'none'}; "
        f"bound {_shown(bounds)}; record {size} bytes before, {size_after} after",
        flush=True,
    )
    return wrong


def _shown(counts: Counter[int] | Counter[Endpoint] | dict[Endpoint, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


async def revoke(fleet: Fleet) -> list[str]:
    """End the login, and print the number of requests. Return the errors."""
    before = len(fleet.sandbox.log)
    response = await fleet.line(fleet.processes[0]).request("GET", "/revoke")
    made = Counter(request.endpoint for request in list(fleet.sandbox.log)[before:])
    live = fleet.sandbox.identity.usable_refresh_tokens(fleet.sandbox.clock())
    print(
        f"revoke: status {response.status}; requests at Xero {_shown(made)}, bound "
        f"{MAX_TOKENS_TO_REVOKE}; live refresh tokens afterwards {len(live)}",
        flush=True,
    )
    wrong = [] if response.status == 200 else [f"/revoke responded with {response.status}"]
    if not 1 <= made[Endpoint.REVOCATION] <= MAX_TOKENS_TO_REVOKE:
        wrong.append(f"/revoke made {made[Endpoint.REVOCATION]} requests")
    return wrong + ["a refresh token is live after /revoke"] * bool(live)


async def codes_while_due(fleet: Fleet, codes: int, rotations: int) -> list[str]:
    """Send invented codes, which Xero refuses slowly, until some refreshes have fallen due. Print
    the lateness of these. Return the errors."""
    sandbox, (path, cookie) = fleet.sandbox, await started_login(fleet)
    sandbox.add_fault("token:every:delay-before=1")
    sent, statuses = 0, Counter[int]()
    flood, before = Flood("codes", path, {}, cookie), len(sandbox.refreshes())

    async def send_many(line: Line) -> None:
        nonlocal sent
        while sent < codes or len(sandbox.refreshes()) < before + rotations:
            sent += 1
            statuses[(await send(line, flood)).status] += 1
            await asyncio.sleep(0.02)

    lines = [fleet.line(fleet.processes[0]) for _ in range(8)]
    async with asyncio.timeout(60 + rotations * LIFE_SECONDS):
        await asyncio.gather(*(send_many(line) for line in lines))
        await until(lambda: len(sandbox.refreshes()) > before + rotations)
    sandbox.faults.clear()
    times = [refresh.at for refresh in sandbox.refreshes()[before:]]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    late = max(gaps) - LIFE_SECONDS / 2 - CHECK_SECONDS
    print(
        f"invented codes while refreshes fall due: {sent} codes, responses {_shown(statuses)}; "
        f"{len(gaps)} refreshes, the latest {max(late, 0):.2f} s after the check that finds it "
        f"due; bound {MAX_LATENESS_SECONDS} s",
        flush=True,
    )
    return [f"a due refresh was {late:.2f} s late"] if late > MAX_LATENESS_SECONDS else []


async def run(calls: int, parallel: int, codes: int, *, rotations: int = 3) -> list[str]:
    """Run all floods. Return the errors."""
    wrong: list[str] = []
    async with fleet("file", 1, XOTS_REFRESH_INTERVAL="") as servers:
        for flood in await floods(servers):
            wrong += await flood_one(servers, flood, calls, parallel)
        wrong += await revoke(servers)
    async with fleet("file", 1, life=LIFE_SECONDS, XOTS_REFRESH_INTERVAL="") as servers:
        wrong += await codes_while_due(servers, codes, rotations)
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture floods", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--calls", type=int, default=10_000, help="calls in turn, of each kind (default 10000)"
    )
    parser.add_argument(
        "--parallel", type=int, default=300, help="calls at once, of each kind (default 300)"
    )
    parser.add_argument(
        "--codes",
        type=int,
        default=200,
        help="invented codes while refreshes fall due (default 200)",
    )
    options = parser.parse_args(arguments)
    wrong = asyncio.run(run(options.calls, options.parallel, options.codes))
    for one in wrong:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
