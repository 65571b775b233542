"""Xero's rate limits for each app and tenant (Xero: OAuth 2.0 API limits)."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

__all__ = ["Limits", "RateLimiter", "Throttled"]

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds on calls to the accounting API. The defaults are Xero's."""

    concurrent: int = 5
    per_minute: int = 60
    per_day: int = 5000
    app_per_minute: int = 10000
    """For all tenants of an app together."""


class Throttled(Exception):
    """A call exceeds a limit. ``problem`` is the value of ``X-Rate-Limit-Problem``."""

    def __init__(self, problem: str, retry_after_seconds: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True)
class _Usage:
    running: int = 0
    calls: deque[datetime] = field(default_factory=deque)
    """Those of the last day, oldest first."""


class RateLimiter:
    """Counts the calls of the last minute and the last day.

    Each `enter` that admits a call needs one `leave` after it.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tenants: defaultdict[tuple[str, str], _Usage] = defaultdict(_Usage)
        self._apps: defaultdict[str, deque[datetime]] = defaultdict(deque)

    def enter(self, client_id: str, tenant_id: str, now: datetime) -> dict[str, str]:
        """Admit one call, and return the headers with the remaining numbers.

        Raises:
            Throttled: a limit is reached.
        """
        usage, app = self._tenants[client_id, tenant_id], self._apps[client_id]
        _drop(usage.calls, now, _DAY)
        _drop(app, now, _MINUTE)
        minute = [at for at in usage.calls if now - at < _MINUTE]
        limits = self.limits
        if usage.running >= limits.concurrent:
            raise Throttled("concurrent", 1)
        if len(usage.calls) >= limits.per_day:
            raise Throttled("day", _seconds_until(usage.calls[0] + _DAY, now))
        if len(minute) >= limits.per_minute:
            raise Throttled("minute", _seconds_until(minute[0] + _MINUTE, now))
        if len(app) >= limits.app_per_minute:
            raise Throttled("appminute", _seconds_until(app[0] + _MINUTE, now))
        usage.running += 1
        usage.calls.append(now)
        app.append(now)
        return {
            "X-DayLimit-Remaining": str(limits.per_day - len(usage.calls)),
            "X-MinLimit-Remaining": str(limits.per_minute - len(minute) - 1),
            "X-AppMinLimit-Remaining": str(limits.app_per_minute - len(app)),
        }

    def leave(self, client_id: str, tenant_id: str) -> None:
        """Record the end of an admitted call."""
        self._tenants[client_id, tenant_id].running -= 1


def _drop(calls: deque[datetime], now: datetime, window: timedelta) -> None:
    while calls and now - calls[0] >= window:
        calls.popleft()


def _seconds_until(then: datetime, now: datetime) -> int:
    return max(1, math.ceil((then - now).total_seconds()))
