"""``Usage``: whether callers use an account, and so whether its access token is kept fresh."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

__all__ = ["Fresh", "Usage"]


class Fresh(StrEnum):
    """When an account's access token is refreshed ahead of its expiry."""

    ALWAYS = "always"
    USED = "used"
    """Only while callers have requested it within the last lifetime of a token."""


class Usage:
    """The use of one account by the callers of this process, by the clock that cannot be set.

    Args:
        fresh: when the access token is refreshed ahead.
    """

    def __init__(self, fresh: Fresh = Fresh.ALWAYS) -> None:
        self.fresh = fresh
        self.until = float("-inf")
        """Until when the account counts as used, by ``Clock.elapsed``."""

    def note(self, elapsed: float, lifetime: timedelta) -> None:
        """Note a caller's request for an access token of this lifetime."""
        self.until = elapsed + lifetime.total_seconds()

    def keeps_fresh(self, elapsed: float) -> bool:
        """True if the access token is to be refreshed ahead of its expiry."""
        return self.fresh is Fresh.ALWAYS or elapsed < self.until
