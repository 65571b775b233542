"""What happened, as small frozen types. The keeper emits them; the log, metrics and notices observe them.

``str(event)`` is a sentence for the log; no event holds a secret, tokens appear as fingerprints. All times are
aware UTC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

__all__ = [
    "ConsentWasLost",
    "Ended",
    "Event",
    "Followed",
    "LoggedIn",
    "LoginRefused",
    "Observer",
    "RefreshFailed",
    "Refreshed",
    "RevocationFailed",
    "Revoked",
    "StoreDegraded",
    "StoreLostWrites",
    "StoreRecovered",
    "TenantChosen",
    "TokenRead",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to one account."""

    level: ClassVar[int] = logging.INFO
    account: str
    at: datetime


Observer = Callable[[Event], None]
"""What is told of every event, at once and in order. It must not raise and must not wait."""


def _next_try(not_before: datetime | None) -> str:
    return f"the next try is {f'at {not_before:%H:%M:%S} UTC or after' if not_before else 'at once'}"


@dataclass(frozen=True, kw_only=True)
class LoggedIn(Event):
    """A code exchange succeeded, and its tokens are kept."""

    client_id: str
    scopes: tuple[str, ...]
    token: str
    """Fingerprint of the refresh token."""

    def __str__(self) -> str:
        return f"logged in: client {self.client_id}, scopes {' '.join(self.scopes)}, refresh token #{self.token}"


@dataclass(frozen=True, kw_only=True)
class Followed(Event):
    """Another process wrote the record, and it was read."""

    level: ClassVar[int] = logging.DEBUG
    generation: int

    def __str__(self) -> str:
        return f"another process wrote the record, generation {self.generation}"


@dataclass(frozen=True, kw_only=True)
class LoginRefused(Event):
    """A login did not succeed; whatever was live before still is."""

    level: ClassVar[int] = logging.WARNING
    reason: str

    def __str__(self) -> str:
        return f"login failed, nothing was changed: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Refreshed(Event):
    """Xero issued a new access token, and what it issued is kept."""

    spent: str
    """Fingerprint of the refresh token that was spent."""
    issued: str | None
    """Fingerprint of its successor; None when the answer held none."""
    expires_at: datetime
    seconds: float
    """How long Xero took to answer."""

    def __str__(self) -> str:
        successor = f"refresh token #{self.issued} follows #{self.spent}" if self.issued else "no new refresh token"
        return f"refreshed: {successor}; the access token expires at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, kw_only=True)
class RefreshFailed(Event):
    """A refresh did not succeed. Nothing was lost; it is tried again at ``retry_not_before``."""

    level: ClassVar[int] = logging.WARNING
    kind: str
    detail: str
    tries: int
    retry_not_before: datetime | None

    def __str__(self) -> str:
        return f"refresh failed (try {self.tries}, {self.kind}): {self.detail}; {_next_try(self.retry_not_before)}"


@dataclass(frozen=True, kw_only=True)
class ConsentWasLost(Event):
    """Xero refused every refresh token that the record holds: a person must log in again."""

    level: ClassVar[int] = logging.ERROR
    reason: str

    def __str__(self) -> str:
        return f"the login is lost, a person must log in again: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """A login was ended here: nothing is served from it any more."""

    forgotten: bool
    """Were the credentials dropped too?"""

    def __str__(self) -> str:
        what = "; the credentials are forgotten once Xero has been told" if self.forgotten else ""
        return f"the login was ended, nothing is served from it any more{what}"


@dataclass(frozen=True, kw_only=True)
class Revoked(Event):
    """Xero has revoked the tokens of a login that was ended here."""

    def __str__(self) -> str:
        return "Xero has revoked the login's tokens"


@dataclass(frozen=True, kw_only=True)
class RevocationFailed(Event):
    """Xero could not be told that the login was ended. It is tried again at ``retry_not_before``."""

    level: ClassVar[int] = logging.WARNING
    detail: str
    retry_not_before: datetime | None

    def __str__(self) -> str:
        return f"Xero could not be told to revoke the tokens: {self.detail}; {_next_try(self.retry_not_before)}"


@dataclass(frozen=True, kw_only=True)
class TenantChosen(Event):
    """The organisation to use was chosen among those that are connected."""

    tenant_id: str

    def __str__(self) -> str:
        return f"the organisation to use is now {self.tenant_id}"


@dataclass(frozen=True, kw_only=True)
class StoreDegraded(Event):
    """The store can't be read or written; access tokens are served from memory meanwhile."""

    level: ClassVar[int] = logging.ERROR
    reason: str

    def __str__(self) -> str:
        return f"the token store fails, serving from memory: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StoreLostWrites(Event):
    """The store holds less than it acknowledged, such as after it was restored from an old dump. What memory knows is
    united with it, and written again."""

    level: ClassVar[int] = logging.WARNING
    generation: int
    """Of the record that memory knows."""

    def __str__(self) -> str:
        return f"the token store has lost writes; what is known here (generation {self.generation}) is written again"


@dataclass(frozen=True, kw_only=True)
class StoreRecovered(Event):
    """The store works again, and all that was held in memory is written."""

    def __str__(self) -> str:
        return "the token store works again"


@dataclass(frozen=True, kw_only=True)
class TokenRead(Event):
    """A caller was given the access token."""

    level: ClassVar[int] = logging.DEBUG
    token: str
    """Fingerprint of the access token."""

    def __str__(self) -> str:
        return f"access token #{self.token} was read"
