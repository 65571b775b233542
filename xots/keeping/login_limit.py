"""``LoginLimit``: the upper bounds on code exchanges.

Any program can start a login and return with an invented code. Only Xero can tell that it is
invented, so each one costs a request there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TooManyLogins

__all__ = ["LOGIN_INTERVAL_SECONDS", "MAX_LOGINS_AT_ONCE", "MAX_LOGINS_IN_A_ROW", "LoginLimit"]

MAX_LOGINS_AT_ONCE = 2
"""Upper bound on the code exchanges in progress: two users, or two tabs of one."""

MAX_LOGINS_IN_A_ROW = 10
"""Upper bound on the code exchanges without a pause: more than users make who try settings."""

LOGIN_INTERVAL_SECONDS = 6.0
"""Interval between further ones: ten a minute, which no limit of Xero's comes near."""

RETRY_SECONDS = 1.0
"""The wait demanded while other exchanges are in progress. One takes about that long."""


class LoginLimit:
    """Admits a login, or refuses it before any request. It is a token bucket: see the constants."""

    def __init__(self) -> None:
        self._in_progress = 0
        self._rested_at = float("-inf")
        """When the limit has forgotten all exchanges so far, by ``Clock.elapsed``."""

    @contextmanager
    def admitted(self, elapsed: float) -> Iterator[None]:
        """Count one login as in progress.

        Args:
            elapsed: the time by the clock that cannot be set, in seconds.

        Raises:
            TooManyLogins: there were too many before it.
        """
        rested_at = max(self._rested_at, elapsed) + LOGIN_INTERVAL_SECONDS
        wait = rested_at - elapsed - MAX_LOGINS_IN_A_ROW * LOGIN_INTERVAL_SECONDS
        if self._in_progress >= MAX_LOGINS_AT_ONCE:
            wait = max(wait, RETRY_SECONDS)
        if wait > 0:
            raise TooManyLogins(
                "too many logins were attempted just now; reload this page to finish the login",
                wait,
            )
        self._rested_at = rested_at
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
