"""``StoreClock``: the comparison of this host's clock with the store's, one for all accounts."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta

from ..backends.base import TokenStore
from ..clock import Clock
from ..errors import StoreUnavailable

__all__ = ["SKEW_KEPT_SECONDS", "StoreClock"]

logger = logging.getLogger("xots.keeper")

CLOCK_CHECK_INTERVAL_SECONDS = 300.0
"""Interval between comparisons of this host's clock with the store's."""

SKEW_KEPT_SECONDS = 3600.0
"""Time for which a difference of clocks stays known. A record shows one only until its date has
passed, and the other host writes the next one some 25 minutes later."""


class StoreClock:
    """Compares clocks from time to time, and tells which differences were reported already.

    Args:
        store: the store whose clock is compared.
        clock: this host's clock.
    """

    def __init__(self, store: TokenStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._next_comparison_at = float("-inf")
        self.skew: tuple[str, timedelta] | None = None
        """The result of ``TokenStore.clock_skew`` that was found last."""
        self._reported: dict[str, float] = {}

    async def compare(self, name: str) -> None:
        """Compare the clocks, unless that was done just before.

        Args:
            name: the account whose lease may show the clock of another host.
        """
        elapsed = self._clock.elapsed()
        if elapsed < self._next_comparison_at:
            return
        self._next_comparison_at = elapsed + CLOCK_CHECK_INTERVAL_SECONDS
        try:
            with suppress(StoreUnavailable):  # other operations report it
                self.skew = await self._store.clock_skew(name)
        except Exception:  # no comparison is worth a refresh, whatever a store raises
            logger.exception("comparing clocks with the store failed")

    def is_news(self, host: str) -> bool:
        """Tell if no account has reported the clock of this host within ``SKEW_KEPT_SECONDS``, and
        count it as reported."""
        elapsed = self._clock.elapsed()
        self._reported = {host: until for host, until in self._reported.items() if until > elapsed}
        is_news = host not in self._reported
        self._reported[host] = elapsed + SKEW_KEPT_SECONDS
        return is_news
