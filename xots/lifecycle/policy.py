"""``Policy``: the settings that the decisions about an account depend on."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from zlib import crc32

import msgspec
from msgspec.structs import replace

__all__ = ["Grant", "Policy", "staggered"]

STAGGER = 0.2
"""Upper bound on the part by which an account's refreshes come earlier than the policy demands."""


class Grant(StrEnum):
    """The ways in which an account gets its tokens, by their OAuth names (RFC 6749 section 1.3)."""

    AUTHORIZATION_CODE = "authorization_code"
    """A user logs in, and a refresh token continues the login."""
    CLIENT_CREDENTIALS = "client_credentials"
    """The client's own credentials: no login and no refresh token. Xero calls such a client a
    custom connection."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the decisions depend on."""

    grant: Grant = Grant.AUTHORIZATION_CODE
    refresh_ahead: timedelta = timedelta(seconds=300)
    """Refresh this long before the access token expires (at most half its lifetime before), so that
    no caller waits."""
    min_ttl: timedelta = timedelta(seconds=60)
    """Callers are promised a token that lives at least this long."""
    refresh_lifetime: timedelta = timedelta(minutes=72000)
    """Rotate a refresh token before it reaches this age: 50 days, since Xero's die after 60."""
    tick: timedelta = timedelta(seconds=15)
    """Interval between checks for a due refresh. A retry waits for such a check too."""
    grace: timedelta = timedelta(minutes=30)
    """Time in which the identity server accepts a spent refresh token again (Xero: "Token types").
    Zero: never. Such a server may end the login at a second use of a token."""
    first_backoff: timedelta = timedelta(seconds=1)
    """Upper bound of the first retry's wait. It doubles with each failed attempt."""
    max_backoff: timedelta = timedelta(seconds=60)
    """Upper bound of the back-off: some 30 attempts fit into the grace period, and the service
    recovers within this time and a tick of Xero's return."""
    slow_wait: timedelta = timedelta(minutes=5)
    """Wait after ``invalid_client``, which only an operator can resolve. Also the longest wait that
    a 429 can demand during an open refresh: several attempts must fit into the grace period."""
    max_wait: timedelta = timedelta(hours=1)
    """The longest wait that a 429 can demand while no refresh is open."""
    proving_wait: timedelta = timedelta(minutes=5)
    """A fresh fallback makes a refresh due this long after it was obtained, well within the grace
    period. The refresh shows which token is live."""
    refresh_interval: timedelta = timedelta(seconds=5)
    """Shortest interval between refreshes that callers force, and between their attempts that fail.
    Zero: no limit. A refresh that is due by itself does not wait for it."""


def staggered(policy: Policy, name: str) -> Policy:
    """Return the policy of one account among many: it refreshes up to a fifth of ``refresh_ahead``
    earlier, by its name.

    Accounts that were refreshed together, such as after an outage, fall due at different times from
    then on, and drift apart with each refresh.
    """
    part = crc32(name.encode()) / 2**32
    return replace(policy, refresh_ahead=policy.refresh_ahead * (1 + STAGGER * part))
