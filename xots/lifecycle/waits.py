"""The waits before the next attempt after a failure. Pure: ``jitter`` is an argument in [0, 1)."""

from __future__ import annotations

from datetime import timedelta

from .account import Account
from .outcomes import Throttled
from .schedule import Policy, longest_wait

__all__ = ["backoff_wait", "demanded_wait", "doubled_wait", "slow_wait"]

MAX_DOUBLINGS = 20
"""Upper bound on the doublings of a wait. It keeps the arithmetic in range; the caps are lower."""


def backoff_wait(account: Account, policy: Policy, jitter: float) -> timedelta:
    """Return a random part of a wait that doubles with every attempt ("full jitter")."""
    return doubled_wait(policy, account.failed_attempts) * jitter


def doubled_wait(policy: Policy, times: int) -> timedelta:
    """Return the first wait, doubled ``times`` times, up to ``max_backoff``."""
    wait: timedelta = policy.first_backoff * 2 ** min(times, MAX_DOUBLINGS)
    return min(wait, policy.max_backoff)


def demanded_wait(
    account: Account, throttled: Throttled, policy: Policy, jitter: float
) -> timedelta:
    """Return the wait that a 429 demands, with jitter on top: clients that were sent away together
    do not return together."""
    if throttled.retry_after is None:
        return timedelta(0)
    longest = longest_wait(account, policy)
    return min(throttled.retry_after, longest) + jitter * policy.first_backoff


def slow_wait(policy: Policy, jitter: float) -> timedelta:
    """Return the wait after a failure that only an operator can resolve."""
    return policy.slow_wait * (0.5 + jitter / 2)
