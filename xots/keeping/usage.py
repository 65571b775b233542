"""``Usage``: whether callers use an account, and so whether its access token is kept fresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = ["Fresh", "Usage"]

NEVER = datetime.min.replace(tzinfo=UTC)


class Fresh(StrEnum):
    """When an account's access token is refreshed ahead of its expiry."""

    ALWAYS = "always"
    USED = "used"
    """Only while callers have requested it within the last lifetime of a token."""


class Usage:
    """The use of one account by the callers of this process.

    Args:
        fresh: when the access token is refreshed ahead.
    """

    def __init__(self, fresh: Fresh = Fresh.ALWAYS) -> None:
        self.fresh = fresh
        self.until = NEVER
        """Until when the account counts as used."""

    def note(self, now: datetime, lifetime: timedelta) -> None:
        """Note a caller's request for an access token of this lifetime."""
        self.until = now + lifetime

    def is_recent(self, now: datetime) -> bool:
        """True if a caller has requested the token within its last lifetime."""
        return now < self.until

    def keeps_fresh(self, now: datetime) -> bool:
        """True if the access token is to be refreshed ahead of its expiry."""
        return self.fresh is Fresh.ALWAYS or self.is_recent(now)
