"""The events of a login's end: see ``events``."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import ClassVar

from .events import Event, next_attempt_text
from .wording import FORGOTTEN_TEXT, counted, remaining_text, shared_text

__all__ = [
    "ConnectionsRemain",
    "Disconnected",
    "Forgotten",
    "LoginEnded",
    "RevocationFailed",
    "Revoked",
]


class LoginEnded(Event, frozen=True, kw_only=True):
    """A login was ended here: nothing is served from it any more."""

    forgotten: bool
    """Are the credentials dropped too?"""

    def __str__(self) -> str:
        rest = "; the credentials are forgotten once the end is complete" if self.forgotten else ""
        return f"the login was ended, nothing is served from it any more{rest}"


class Revoked(Event, frozen=True, kw_only=True):
    """The identity server has revoked the tokens of a login that was ended here."""

    def __str__(self) -> str:
        return f"{self.server} has revoked the login's tokens"


class Forgotten(Event, frozen=True, kw_only=True):
    """A login was ended here, at an identity server that revokes no tokens."""

    def __str__(self) -> str:
        return f"the login's tokens are {FORGOTTEN_TEXT}"


class Disconnected(Event, frozen=True, kw_only=True):
    """A login that was ended here shares its Xero user with others: its own connections were
    deleted, and its tokens forgotten instead of revoked."""

    shared_with: tuple[str, ...]
    """The names of the accounts that a revocation would have ended too."""
    user_unknown: tuple[str, ...]
    """Those of them that may have another Xero user."""
    deleted: int
    """Number of connections that Xero has deleted."""

    def __str__(self) -> str:
        return (
            f"the login's tokens are forgotten, and {counted(self.deleted, 'connection')} of its "
            f"own deleted at {self.server}. "
            f"{shared_text(self.shared_with, self.user_unknown, self.server)}"
        )


class ConnectionsRemain(Event, frozen=True, kw_only=True):
    """A login was ended by ``Disconnected``, and connections of its own may remain at Xero."""

    level: ClassVar[int] = logging.WARNING
    organisations: tuple[str, ...]
    """Their organisations, as text to show; empty if they are not known."""
    reason: str

    def __str__(self) -> str:
        return remaining_text(self.organisations, self.reason, self.server)


class RevocationFailed(Event, frozen=True, kw_only=True):
    """Xero did not confirm a revocation. The next request follows at ``retry_not_before``."""

    level: ClassVar[int] = logging.WARNING
    detail: str
    retry_not_before: datetime | None

    def __str__(self) -> str:
        next_attempt = next_attempt_text(self.retry_not_before, self.at)
        return (
            f"{self.server} did not confirm the revocation of the tokens: {self.detail}; "
            f"{next_attempt}"
        )
