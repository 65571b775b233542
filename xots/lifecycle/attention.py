"""When an account needs attention next: a refresh, an attempt after a failure, or a revocation.

The store keeps these times for all accounts in an index, so that nothing has to be scanned.
"""

from __future__ import annotations

from datetime import datetime

from .account import Account
from .policy import Policy
from .schedule import Wait, is_work, next_step, refresh_due, revocation_due

__all__ = ["attention_at"]


def attention_at(
    account: Account, now: datetime, policy: Policy, *, ahead: bool = True
) -> datetime | None:
    """Return the earliest time of the next attempt or refresh; None if none will be made.

    Args:
        account: the record.
        now: the current time.
        policy: the durations to decide by.
        ahead: False for an account that is not in use: see ``schedule.refresh_due``.
    """
    if account.revocation is not None:
        return now if revocation_due(account, now, policy) else account.retry_not_before
    due = refresh_due(account, now, policy, ahead=ahead)
    at = max(due, now) if isinstance(due, datetime) else now
    step = next_step(account, at, policy, ahead=ahead)
    if isinstance(step, Wait):
        return step.until
    return at if is_work(step) else None
