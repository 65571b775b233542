"""``Acts``: the changes of a login that callers request, a few at a time. ``LoginLimit`` bounds the
logins."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import TokenUnavailable
from ..tasks import Closed, Tasks

__all__ = ["MAX_ACTS_AT_ONCE", "MAX_CHOICES_AT_ONCE", "Acts", "stopping"]

MAX_ACTS_AT_ONCE = 8
"""Upper bound on the acts in progress. Each takes the lease for some milliseconds, and a refresh
that falls due waits behind them."""

MAX_CHOICES_AT_ONCE = 4
"""The same for a choice of an organisation, so that a flood of these leaves room to end a login."""

RETRY_SECONDS = 1.0
"""The wait demanded from a caller that is refused."""

T = TypeVar("T")


class Acts(Tasks):
    """The ends of logins and choices of an organisation in progress. They outlive their callers."""

    async def run(self, work: Coroutine[Any, Any, T], *, at_most: int = MAX_ACTS_AT_ONCE) -> T:
        """Run ``work`` to its end, even if its caller is cancelled, and return its result.

        Args:
            work: the act.
            at_most: the number of acts in progress, this one among them, up to which it may start.

        Raises:
            TokenUnavailable: too many others are in progress, or the keeper closes.
        """
        if len(self.running) >= at_most:
            work.close()
            raise TokenUnavailable("other changes of this login are in progress", RETRY_SECONDS)
        try:
            return await super().run(work)
        except Closed:
            raise stopping() from None


def stopping() -> TokenUnavailable:
    """Return the error for a caller of a keeper that closes."""
    return TokenUnavailable("the server is stopping; retry once it is back", RETRY_SECONDS)
