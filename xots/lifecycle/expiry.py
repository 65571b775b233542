"""``Expiry``: ends an access token and a wait at the right time although the wall clock may be set.

An access token expires, and a wait ends, at a moment of the wall clock. That clock may be set at
any time, forward or back. ``Expiry`` remembers when each of them ends by the clock that cannot be
set, and moves the record's dates to agree with it:

- an access token's dates move earlier only: setting the clock back never lengthens its lifetime;
- the end of a wait moves either way: setting the clock forward never shortens a wait that Xero
  demanded, and setting it back never prolongs it.

All of it is pure: ``now`` is the wall clock (aware UTC), ``elapsed`` the other one, in seconds from
any fixed moment.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from msgspec import structs
from msgspec.structs import replace

from .account import AccessToken, Account
from .schedule import good_for

__all__ = ["Expiry", "capped_to"]

MAX_CLOCK_DRIFT = timedelta(seconds=1)
"""Upper bound on the drift of the two clocks of one machine while a token lives. A smaller
difference is ignored: a time daemon may adjust the wall clock gradually."""


def capped_to(account: Account, left: timedelta, now: datetime) -> Account:
    """Move the access token's dates earlier so that it expires within ``left``. Its lifetime stays
    the same."""
    access = account.access
    if access is None:
        return account
    excess = access.expires_at - now - left
    if excess < MAX_CLOCK_DRIFT:
        return account
    earlier = structs.replace(
        access, issued_at=access.issued_at - excess, expires_at=access.expires_at - excess
    )
    return structs.replace(account, access=earlier)


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """When the access token and the wait of one record end by the clock that cannot be set."""

    access: AccessToken | None = None
    access_ends_at: float = 0.0
    wait: datetime | None = None
    wait_ends_at: float = 0.0
    spent: str = ""
    """The fingerprint of the refresh token that this process spent last."""
    first_sent_at: float = 0.0
    """When it sent that token first."""

    def seen(self, account: Account, now: datetime, elapsed: float) -> Expiry:
        """Return the expiry of ``account``. Dates that have not changed keep their ends."""
        expiry = self
        if account.access != self.access:
            left = good_for(account, now).total_seconds()
            expiry = replace(expiry, access=account.access, access_ends_at=elapsed + left)
        if account.retry_not_before != self.wait:
            wait = account.retry_not_before
            left = (wait - now).total_seconds() if wait else 0.0
            expiry = replace(expiry, wait=wait, wait_ends_at=elapsed + left)
        return expiry

    def dated(self, account: Account, now: datetime, elapsed: float) -> Account:
        """Return ``account`` with the dates of its access token and wait corrected for changes of
        the wall clock."""
        account = capped_to(account, timedelta(seconds=self.access_ends_at - elapsed), now)
        if account.retry_not_before is None:
            return account
        ends_at = now + timedelta(seconds=self.wait_ends_at - elapsed)
        if abs(ends_at - account.retry_not_before) < MAX_CLOCK_DRIFT:
            return account
        return structs.replace(account, retry_not_before=ends_at)

    def sending(self, fingerprint: str, *, retry: bool, elapsed: float) -> Expiry:
        """Note that a request spends this refresh token now. A retry keeps the time of the first
        request, if this process sent that one."""
        if retry and fingerprint == self.spent:
            return self
        return replace(self, spent=fingerprint, first_sent_at=elapsed)

    def issued(self, account: Account, now: datetime, elapsed: float) -> Account:
        """Cap the access token that the response brought: its lifetime counts from the first
        request of this process, also if the clock was set since. Earlier requests of others are
        dated by the token's ``first_spent_at``."""
        if account.access is None:
            return account
        age = timedelta(seconds=elapsed - self.first_sent_at)
        return capped_to(account, account.access.lifetime - age, now)
