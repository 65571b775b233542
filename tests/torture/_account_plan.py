"""The callers of many accounts, and the refreshes that the policy demands for them.

The refreshes are computed from the policy alone, without the code under test. All times are whole
seconds since the start of the run.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

TICK_SECONDS = 15
LIFE_SECONDS = 1800
MIN_TTL_SECONDS = 60

READ_SECONDS = (60, 360)
"""Bounds of the interval between two requests of a caller."""

PAUSE_SECONDS = 3 * 3600
"""Average time between two periods of use: longer than an account stays fresh after a request."""

PERIOD_SECONDS = 4 * 3600
"""Average duration of a period of use, of the accounts that are not used all the time."""

ALL_THE_TIME = 0.5
"""The part of the used accounts that is used from the start to the end."""


@dataclass(frozen=True)
class Call:
    """A request for the token of an account, at one of the managers."""

    at: int
    name: str
    manager: int
    may_wait: bool
    """True if no caller has requested the token within its last lifetime."""


@dataclass(frozen=True)
class Plan:
    """The requests of a run."""

    calls: Mapping[int, list[Call]]
    """By their time."""
    in_use: Mapping[str, list[tuple[int, int]]]
    """The periods in which each used account counts as used."""

    @property
    def number_of_calls(self) -> int:
        return sum(map(len, self.calls.values()))


def plan(
    names: Iterable[str],
    *,
    seconds: int,
    managers: int,
    rng: random.Random,
    always: Iterable[str] = (),
) -> Plan:
    """Return the requests for the accounts ``names``, each at one or two managers."""
    calls: defaultdict[int, list[Call]] = defaultdict(list)
    in_use: dict[str, list[tuple[int, int]]] = {}
    kept_fresh = set(always)
    for name in names:
        chosen = rng.sample(range(managers), min(managers, rng.choice((1, 2))))
        all_the_time = rng.random() < ALL_THE_TIME
        until, uses = -1, []
        for at, manager in _requests(seconds, chosen, all_the_time, rng):
            may_wait = at >= until and name not in kept_fresh
            calls[at].append(Call(at, name, manager, may_wait))
            if at >= until:
                uses.append((at, at))
            until = at + LIFE_SECONDS
            uses[-1] = (uses[-1][0], until)
        in_use[name] = [(began, min(ended, seconds)) for began, ended in uses]
    return Plan(calls, in_use)


def _requests(
    seconds: int, managers: list[int], all_the_time: bool, rng: random.Random
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for began, ended in _periods(seconds, all_the_time, rng):
        for manager in managers:
            at = began + rng.uniform(0, READ_SECONDS[1])
            while at < ended:
                found.append((_on_tick(at), manager))
                at += rng.uniform(*READ_SECONDS)
    return sorted(found)


def _periods(seconds: int, all_the_time: bool, rng: random.Random) -> Iterator[tuple[float, float]]:
    if all_the_time:
        yield 0, seconds
        return
    at = rng.uniform(0, PAUSE_SECONDS)
    while at < seconds:
        ended = at + rng.uniform(0.1, 1.9) * PERIOD_SECONDS
        yield at, min(ended, seconds)
        at = ended + LIFE_SECONDS + rng.uniform(0, 2) * PAUSE_SECONDS


def _on_tick(at: float) -> int:
    return int(at // TICK_SECONDS + 1) * TICK_SECONDS


def demanded_refreshes(
    *,
    issued_at: float,
    calls: Iterable[int],
    ahead: float,
    rotation: float,
    seconds: int,
    always: bool = False,
) -> list[int]:
    """Return the times of the refreshes of one account.

    Args:
        issued_at: when its login was.
        calls: the times of the requests for its token.
        ahead: the seconds before the expiry of an access token from which it is refreshed.
        rotation: the age in seconds at which a refresh token is rotated.
        seconds: the duration of the run.
        always: True if it is kept fresh without callers.
    """
    requested, until, found = set(calls), float("inf") if always else -1.0, []
    for now in range(TICK_SECONDS, seconds + 1, TICK_SECONDS):
        is_due_ahead = now < until and now >= issued_at + LIFE_SECONDS - ahead
        if is_due_ahead or now >= issued_at + rotation:
            found.append(now)
            issued_at = now
        if now in requested:
            if issued_at + LIFE_SECONDS - now < MIN_TTL_SECONDS:
                found.append(now)
                issued_at = now
            until = max(until, now + LIFE_SECONDS)
    return found
