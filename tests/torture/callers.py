"""Many callers at the expiry of a token: one refresh, and the waits of the callers.

Real server processes on one store, with a simulated Xero that is slow. Two cases are measured:

expiry    No tick refreshes ahead (``refresh_ahead`` 0). All callers send a request to all processes
          at once, when the token has less than the promised lifetime left. Each waits for the
          refresh.
ahead     The default: the tick's refresh is in progress at Xero, which holds it until all callers
          have got a response with the old token.

Waits are multiples of Xero's own response time, which is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from torture.processes import Fleet, Line, fleet

LIFE_SECONDS = 6
"""Lifetime of an access token in seconds. xots serves no token in its last quarter, and refreshes
ahead after half of it."""


async def request_at_once(fleet: Fleet, callers: int) -> tuple[set[str], float, list[str]]:
    """Request the token many times at once. Return the tokens, the longest wait in seconds, and
    the responses without a token."""
    lines = [
        fleet.line(fleet.processes[number % len(fleet.processes)]) for number in range(callers)
    ]
    # The connections are open before the measurement.
    await asyncio.gather(*(line.get("/ping") for line in lines))

    async def request(line: Line) -> tuple[str | None, float, str]:
        began = time.monotonic()
        response = await line.get("/token")
        took = time.monotonic() - began
        if response.status != 200:
            return None, took, f"{response.status} {response.body.decode()}"
        # Raises if the token had expired already.
        fleet.sandbox.identity.check_access(response.token, response.sent_at)
        return response.token, took, ""

    responses = await asyncio.gather(*(request(line) for line in lines))
    for line in lines:
        line.close()
    return (
        {token for token, _, _ in responses if token},
        max(took for _, took, _ in responses),
        [error for token, _, error in responses if not token],
    )


async def xero_response_seconds(fleet: Fleet, seconds: float) -> float:
    """Return the seconds that Xero takes for a plain response with the delay of its refreshes."""
    rule = fleet.sandbox.add_fault(f"connections:every:delay-before={seconds}")
    line, began = Line(fleet.sandbox.port, fleet.sandbox.clock), time.monotonic()
    await line.get("/connections")
    line.close()
    fleet.sandbox.faults.remove(rule)
    return time.monotonic() - began


async def new_token(fleet: Fleet) -> str:
    """Refresh. Return the new token once all processes have it."""
    line = fleet.line(fleet.processes[0])
    assert (await line.get("/refresh")).status == 303
    return await fleet.settled()


async def at_expiry(fleet: Fleet, callers: int, response_seconds: float) -> tuple[list[str], float]:
    """Run a round of the first kind. Return the errors, and the longest wait as a multiple of
    Xero's response time."""
    old, issued_at = await new_token(fleet), time.monotonic()
    before = len(fleet.sandbox.refreshes())
    fleet.sandbox.add_fault(f"refresh:every:delay-before={response_seconds}")
    await asyncio.sleep(issued_at + LIFE_SECONDS * 0.8 - time.monotonic())
    (tokens, longest, wrong), xero_seconds = await asyncio.gather(
        request_at_once(fleet, callers), xero_response_seconds(fleet, response_seconds)
    )
    if (made := len(fleet.sandbox.refreshes()) - before) != 1:
        wrong.append(f"{callers} callers at the token's expiry cost {made} refreshes")
    if len(tokens) != 1 or old in tokens:
        wrong.append(f"{len(tokens)} tokens were served, the old one among them: {old in tokens}")
    fleet.sandbox.faults.clear()
    return wrong, longest / xero_seconds


async def ahead(fleet: Fleet, callers: int, response_seconds: float) -> tuple[list[str], float]:
    """Run a round of the second kind; return the same as ``at_expiry``."""
    old, before = await new_token(fleet), len(fleet.sandbox.refreshes())
    fleet.sandbox.add_fault("refresh:nth=1:hold-before")
    async with asyncio.timeout(LIFE_SECONDS):
        await fleet.sandbox.held()
    (tokens, longest, wrong), xero_seconds = await asyncio.gather(
        request_at_once(fleet, callers), xero_response_seconds(fleet, response_seconds)
    )
    if len(fleet.sandbox.refreshes()) != before:
        wrong.append("the refresh ended before all callers had a response")
    if tokens != {old}:
        wrong.append(
            f"{len(tokens)} tokens were served, the current one among them: {old in tokens}"
        )
    fleet.sandbox.faults.clear()
    fleet.sandbox.release()
    return wrong, longest / xero_seconds


async def measure(options: argparse.Namespace) -> list[str]:
    """Run and print both cases. Return the errors."""
    wrong: list[str] = []
    for name, part, refresh_ahead in (("expiry", at_expiry, "0"), ("ahead", ahead, "300")):
        waits = []
        async with fleet(
            options.store, options.processes, life=LIFE_SECONDS, XOTS_REFRESH_AHEAD=refresh_ahead
        ) as servers:
            for _ in range(options.rounds):
                found, wait = await part(servers, options.callers, options.response_seconds)
                wrong += found
                waits.append(wait)
            print(
                f"{name}: {options.rounds} rounds of {options.callers} callers at "
                f"{options.processes} processes on {options.store}, with a response time of Xero "
                f"of {options.response_seconds * 1000:.0f} ms: longest wait of a caller "
                f"{max(waits):.2f} times Xero's response time "
                f"({', '.join(f'{wait:.2f}' for wait in waits)}); errors so far {len(wrong)}",
                flush=True,
            )
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture callers", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--store",
        choices=("redis", "file"),
        default="redis",
        help="the shared store (default: %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, default=4, help="number of servers (default: %(default)s)"
    )
    parser.add_argument(
        "--callers", type=int, default=64, help="number of requests at once (default: %(default)s)"
    )
    parser.add_argument(
        "--response-seconds",
        type=float,
        default=0.3,
        help="response time of Xero (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=4, help="rounds of each case (default: %(default)s)"
    )
    wrong = asyncio.run(measure(parser.parse_args(arguments)))
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
