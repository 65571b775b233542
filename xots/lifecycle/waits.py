"""The waits before the next attempt: how long each is, and when it ends.

Every function is pure: ``now`` and ``jitter``, a number in [0, 1), are arguments.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ..clock import MAX_CLOCK_SKEW
from .account import Account
from .outcomes import Throttled, Unknown
from .policy import Policy

__all__ = [
    "CUT_OFF_WAIT",
    "backoff_wait",
    "cut_off_wait_ends_at",
    "demanded_wait",
    "doubled_wait",
    "longest_wait",
    "pause_ends_at",
    "slow_wait",
    "wait_ends_at",
]

MAX_DOUBLINGS = 20
"""Upper bound on the doublings of a wait. It keeps the arithmetic in range; the caps are lower."""


CUT_OFF_WAIT = timedelta(seconds=60)
"""Time in which the outcome of an open refresh may still be written, at a server that accepts no
token twice: the request may be on its way, or the store did not take the outcome, which its process
tries to write at each tick."""


def backoff_wait(account: Account, policy: Policy, jitter: float) -> timedelta:
    """Return a random part of a wait that doubles with every attempt ("full jitter")."""
    return doubled_wait(policy, account.failed_attempts) * jitter


def doubled_wait(policy: Policy, times: int) -> timedelta:
    """Return the first wait, doubled ``times`` times, up to ``max_backoff``."""
    wait: timedelta = policy.first_backoff * 2 ** min(times, MAX_DOUBLINGS)
    return min(wait, policy.max_backoff)


def demanded_wait(
    account: Account, failure: Throttled | Unknown, policy: Policy, jitter: float
) -> timedelta:
    """Return the wait that a ``Retry-After`` demands, with jitter on top: clients that were sent
    away together do not return together."""
    if failure.retry_after is None:
        return timedelta(0)
    longest = longest_wait(account, policy)
    return min(failure.retry_after, longest) + jitter * policy.first_backoff


def slow_wait(policy: Policy, jitter: float) -> timedelta:
    """Return the wait after a failure that only an operator can resolve."""
    return policy.slow_wait * (0.5 + jitter / 2)


def wait_ends_at(account: Account, now: datetime, policy: Policy) -> datetime | None:
    """Return the end of the wait before the next attempt; None if there is none. An end later than
    the longest possible wait shows that the clock was set back: that wait counts as over."""
    until = account.retry_not_before
    if until is None or until <= now:
        return None
    longest = longest_wait(account, policy) + policy.first_backoff + MAX_CLOCK_SKEW
    return until if until - now <= longest else None


def longest_wait(account: Account, policy: Policy) -> timedelta:
    """Return the longest wait between attempts. Several attempts must fit into the grace period
    while a refresh is open."""
    return policy.slow_wait if account.intent else policy.max_wait


def pause_ends_at(at: datetime | None, now: datetime, policy: Policy) -> datetime | None:
    """Return until when callers can force no request after one at ``at``; None if they can."""
    return _ends_at(at, now, policy.refresh_interval)


def cut_off_wait_ends_at(account: Account, now: datetime) -> datetime | None:
    """Return until when the outcome of the open refresh may still be written; None if that time is
    over."""
    return _ends_at(account.intent.began_at if account.intent else None, now, CUT_OFF_WAIT)


def _ends_at(at: datetime | None, now: datetime, wait: timedelta) -> datetime | None:
    """Return the end of a wait that began at ``at``; None if it is over.

    A time far in the future, which a clock that was set back leaves behind, begins no wait: that
    would last for long.
    """
    if at is None or not wait or not -MAX_CLOCK_SKEW <= now - at < wait:
        return None
    return at + wait
