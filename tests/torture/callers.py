"""Many callers at the moment when a token is too old to be served: one refresh, and their waits.

Real server processes on one store, with a simulated Xero that is slow. Two cases are measured:

expiry    No tick refreshes ahead (``refresh_ahead`` 0). All callers send a request to all processes
          at once, when the token has less than the promised lifetime. Each waits for the refresh.
ahead     The default: the tick's refresh is in progress at Xero, which holds it until all callers
          have got a response with the old token.

Waits are multiples of Xero's own response time, which is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from torture.processes import Fleet, Line, fleet

LIFE = 6
"""Of an access token, in seconds: its last quarter is not given away, and half of it is refreshed ahead."""


async def asked(fleet: Fleet, callers: int) -> tuple[set[str], float, list[str]]:
    """Request the token many times at once. Return the tokens, the longest wait in seconds, and
    the responses without a token."""
    lines = [
        fleet.line(fleet.processes[number % len(fleet.processes)]) for number in range(callers)
    ]
    await asyncio.gather(
        *(line.get("/ping") for line in lines)
    )  # the connections are open before it counts

    async def ask(line: Line) -> tuple[str | None, float, str]:
        began = time.monotonic()
        answer = await line.get("/token")
        took = time.monotonic() - began
        if answer.status != 200:
            return None, took, f"{answer.status} {answer.body.decode()}"
        fleet.sandbox.identity.check_access(
            answer.token, answer.asked_at
        )  # raises if it was dead already
        return answer.token, took, ""

    answers = await asyncio.gather(*(ask(line) for line in lines))
    for line in lines:
        line.close()
    return (
        {t for t, _, _ in answers if t},
        max(took for _, took, _ in answers),
        [why for t, _, why in answers if not t],
    )


async def xeros_answer(fleet: Fleet, seconds: float) -> float:
    """Return the seconds that Xero takes for a plain response with the delay of its refreshes."""
    rule = fleet.sandbox.add_fault(f"connections:every:delay-before={seconds}")
    line, began = Line(fleet.sandbox.port, fleet.sandbox.clock), time.monotonic()
    await line.get("/connections")
    line.close()
    fleet.sandbox.faults.remove(rule)
    return time.monotonic() - began


async def fresh(fleet: Fleet) -> str:
    """Return a token that was just issued, once all processes have it."""
    line = fleet.line(fleet.processes[0])
    assert (await line.get("/refresh")).status == 303
    return await fleet.settled()


async def at_expiry(fleet: Fleet, callers: int, answer_seconds: float) -> tuple[list[str], float]:
    """Run a round of the first kind. Return the errors, and the longest wait as a multiple of
    Xero's response time."""
    old, issued_at = await fresh(fleet), time.monotonic()
    before = len(fleet.sandbox.refreshes())
    fleet.sandbox.add_fault(f"refresh:every:delay-before={answer_seconds}")
    await asyncio.sleep(issued_at + LIFE * 0.8 - time.monotonic())
    (tokens, longest, wrong), answer = await asyncio.gather(
        asked(fleet, callers), xeros_answer(fleet, answer_seconds)
    )
    if (made := len(fleet.sandbox.refreshes()) - before) != 1:
        wrong.append(f"{callers} callers at the token's end cost {made} refreshes")
    if len(tokens) != 1 or old in tokens:
        wrong.append(f"{len(tokens)} tokens were given, the old one among them: {old in tokens}")
    fleet.sandbox.faults.clear()
    return wrong, longest / answer


async def ahead(fleet: Fleet, callers: int, answer_seconds: float) -> tuple[list[str], float]:
    """Run a round of the second kind; return the same as ``at_expiry``."""
    old, before = await fresh(fleet), len(fleet.sandbox.refreshes())
    fleet.sandbox.add_fault("refresh:nth=1:hold-before")
    async with asyncio.timeout(LIFE):
        await fleet.sandbox.held()
    (tokens, longest, wrong), answer = await asyncio.gather(
        asked(fleet, callers), xeros_answer(fleet, answer_seconds)
    )
    if len(fleet.sandbox.refreshes()) != before:
        wrong.append("the refresh was over before all callers were answered")
    if tokens != {old}:
        wrong.append(
            f"{len(tokens)} tokens were given, the one that was there among them: {old in tokens}"
        )
    fleet.sandbox.faults.clear()
    fleet.sandbox.release()
    return wrong, longest / answer


async def measure(options: argparse.Namespace) -> list[str]:
    wrong: list[str] = []
    for name, part, refresh_ahead in (("expiry", at_expiry, "0"), ("ahead", ahead, "300")):
        waits = []
        async with fleet(
            options.store, options.processes, life=LIFE, XOTS_REFRESH_AHEAD=refresh_ahead
        ) as them:
            for _ in range(options.rounds):
                found, wait = await part(them, options.callers, options.answer)
                wrong += found
                waits.append(wait)
            print(
                f"{name}: {options.rounds} rounds of {options.callers} callers at {options.processes} processes on "
                f"{options.store}, Xero answering in {options.answer * 1000:.0f} ms: longest wait of a caller "
                f"{max(waits):.2f} times Xero's answer ({', '.join(f'{wait:.2f}' for wait in waits)}); "
                f"wrong so far {len(wrong)}",
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
        help="what they share (default redis)",
    )
    parser.add_argument("--processes", type=int, default=4, help="how many servers (default 4)")
    parser.add_argument("--callers", type=int, default=64, help="how many ask at once (default 64)")
    parser.add_argument(
        "--answer", type=float, default=0.3, help="Xero's answer time, in seconds (default 0.3)"
    )
    parser.add_argument("--rounds", type=int, default=4, help="of each kind (default 4)")
    wrong = asyncio.run(measure(parser.parse_args(arguments)))
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    return 1 if wrong else 0
