"""``InFlight``: the requests without a response yet, in all and for each account."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

__all__ = ["InFlight"]


class InFlight:
    """The requests without a response yet, so that a stopping server can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._by_account: Counter[str] = Counter()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def count(self) -> int:
        """Their number. Most are requests that wait for Xero or the store, since the others have
        their response at once."""
        return self._count

    def of_account(self, name: str) -> int:
        """Return the number of those for one account."""
        return self._by_account[name]

    def enter(self) -> None:
        """Count a request that has arrived."""
        self._count += 1
        self._none.clear()

    def enter_account(self, name: str) -> None:
        """Count a request for this account."""
        self._by_account[name] += 1

    def leave_account(self, name: str) -> None:
        """Count a request for this account no longer."""
        self._by_account[name] -= 1
        if self._by_account[name] == 0:
            del self._by_account[name]

    def leave(self) -> None:
        """Count a response that was written."""
        self._count -= 1
        if self._count == 0:
            self._none.set()

    async def none(self, within_seconds: float) -> None:
        """Wait until no request is in flight, but no longer than ``within_seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within_seconds)
