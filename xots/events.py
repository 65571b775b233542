"""Events: small frozen types for the log and other observers. The keeper emits them.

``str(event)`` is a sentence for the log. No event holds a secret: tokens appear as fingerprints.
All times are aware UTC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ClassVar

import msgspec

from .advice import XERO, capitalised
from .lifecycle.account import Problem, ProblemKind
from .lifecycle.outlook import Need
from .wording import counted, lost_text, problem_text, span_text, time_text

__all__ = [
    "AccountsChanged",
    "ClockSkewed",
    "ConsentWasLost",
    "Event",
    "LoggedIn",
    "LoginRefused",
    "Observer",
    "RecordFollowed",
    "RefreshFailed",
    "RefreshResumed",
    "RefreshTokenMissing",
    "Refreshed",
    "StoreDegraded",
    "StoreLostWrites",
    "StoreRecovered",
    "TenantChosen",
    "TokenRead",
    "next_attempt_text",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to one account."""

    level: ClassVar[int] = logging.INFO
    account: str
    at: datetime
    server: str = XERO
    """The name of the account's identity server in a sentence. The keeper sets it."""


Observer = Callable[[Event], None]
"""Receives every event, at once and in order. It must not raise and must not wait."""


class AccountsChanged(Event, frozen=True, kw_only=True):
    """The account was added or removed at run time."""

    removed: bool

    def __str__(self) -> str:
        return "the account was removed" if self.removed else "the account was added"


def next_attempt_text(at: datetime | None, now: datetime) -> str:
    """Return the time of the next attempt in words."""
    if at is None or at <= now:
        return "next attempt at once"
    return f"next attempt at {time_text(at, now)} or later"


class LoggedIn(Event, frozen=True, kw_only=True):
    """A code exchange succeeded, and its tokens are kept."""

    client_id: str
    scopes: tuple[str, ...]
    token: str
    """Fingerprint of the refresh token."""

    def __str__(self) -> str:
        scopes = " ".join(self.scopes)
        return f"logged in: client {self.client_id}, scopes {scopes}, refresh token #{self.token}"


class LoginRefused(Event, frozen=True, kw_only=True):
    """A login did not succeed. It ended no earlier login."""

    level: ClassVar[int] = logging.WARNING
    reason: str

    def __str__(self) -> str:
        return f"login failed: {self.reason}"


class RecordFollowed(Event, frozen=True, kw_only=True):
    """Another process wrote the record, and this one read it."""

    level: ClassVar[int] = logging.DEBUG
    generation: int
    refreshed_at: datetime | None
    refreshed_by: str | None

    def __str__(self) -> str:
        text = f"another process wrote the record, generation {self.generation}"
        if self.refreshed_by and self.refreshed_at:
            at = time_text(self.refreshed_at, self.at)
            text += f"; last refreshed by {self.refreshed_by} at {at}"
        return text


class Refreshed(Event, frozen=True, kw_only=True):
    """Xero issued a new access token, and the response is kept."""

    spent: str | None
    """Fingerprint of the refresh token that was spent; None for an account without one."""
    issued: str | None
    """Fingerprint of its successor; None if the response held none."""
    expires_at: datetime
    seconds: float
    """Duration of the request."""
    failed_attempts: int
    """Failed attempts before it."""
    due_at: datetime | None
    """The scheduled time of the refresh; None if it is not known."""

    def __str__(self) -> str:
        successor = "no new refresh token"
        if self.spent is None:
            successor = "the client has a new access token"
        if self.issued:
            successor = f"refresh token #{self.issued} follows #{self.spent}"
        expiry = f"the access token expires at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        if self.expires_at <= self.at:
            expiry = (
                "the access token counts as expired, since the response may be one that was lost "
                "before; another refresh follows"
            )
        return f"refreshed{self._delay()}: {successor}; {expiry}"

    def _delay(self) -> str:
        if not self.failed_attempts:
            return ""
        attempts = f" after {counted(self.failed_attempts, 'failed attempt')}"
        if self.due_at is None or self.due_at >= self.at:
            return attempts
        return f"{attempts}, {span_text(self.at - self.due_at)} after it was due"


class RefreshTokenMissing(Event, frozen=True, kw_only=True):
    """Xero's response held no refresh token. It may have been lost on the way: the same one is
    spent again."""

    level: ClassVar[int] = logging.WARNING
    token: str
    """Fingerprint of the refresh token that is spent again."""
    next_attempt_at: datetime | None
    grace_ends_at: datetime | None
    """Until when Xero surely accepts it again."""

    def __str__(self) -> str:
        text = f"{self.server}'s response held no refresh token; #{self.token} is spent again, "
        text += next_attempt_text(self.next_attempt_at, self.at)
        if self.grace_ends_at is not None:
            until = time_text(self.grace_ends_at, self.at)
            text += f". {capitalised(self.server)} accepts it again until {until}"
        return text


class RefreshResumed(Event, frozen=True, kw_only=True):
    """A refresh without an outcome is resumed: its process was cut off, or slept past its lease."""

    by: str
    """The process that started it."""
    began_at: datetime
    same: bool
    """Is the same refresh token spent again?"""

    def __str__(self) -> str:
        which = "the same refresh token again" if self.same else "another refresh token"
        began = time_text(self.began_at, self.at)
        return f"{self.by} started a refresh at {began} and recorded no outcome; spending {which}"


LIFETIME_UNKNOWN = (
    "if nothing improves, a user may have to log in: an unused refresh token may expire"
)
"""The need for a login while an unspent refresh token is left, at a server of which its lifetime is
not known."""


class RefreshFailed(Event, frozen=True, kw_only=True):
    """A refresh did not succeed. Nothing was lost; ``next_attempt_at`` is the next attempt."""

    level: ClassVar[int] = logging.WARNING
    problem: Problem
    failed_attempts: int
    next_attempt_at: datetime | None
    grace_ends_at: datetime | None
    """Until when Xero surely accepts the same refresh token again, if it may be spent."""
    login_needed_at: datetime | None
    """When a user must log in if nothing improves; None for an account without a login."""
    attention_for: Need | None
    """Why."""

    def __str__(self) -> str:
        attempt = f"refresh failed (attempt {self.failed_attempts})"
        next_attempt = next_attempt_text(self.next_attempt_at, self.at)
        text = f"{attempt}: {problem_text(self.problem, self.server)}; {next_attempt}"
        return "; ".join(filter(None, (text, self._grace(), self._need())))

    def _grace(self) -> str:
        if self.attention_for is Need.LAST_ATTEMPT:
            return (
                f"{self.server} accepts no refresh token twice, so this one is not sent again "
                "before the access token has expired, and then once"
            )
        if self.grace_ends_at is None:
            return ""
        until = time_text(self.grace_ends_at, self.at)
        if self.grace_ends_at > self.at:
            return f"{self.server} accepts the same refresh token again until {until}"
        return f"{self.server} may no longer accept the same refresh token since {until}"

    def _need(self) -> str:
        if self.problem.kind is ProblemKind.CLIENT_REFUSED:
            return "an operator is needed now"
        if self.login_needed_at is None:
            return ""
        if self.attention_for is Need.LAST_ATTEMPT:
            after = time_text(self.login_needed_at, self.at)
            return f"a user must probably log in after {after}"
        if self.attention_for is Need.TOKEN_DIES and self.server != XERO:
            return LIFETIME_UNKNOWN
        # A request may have spent the token or not: after the grace period Xero may still issue.
        grace_ends_at = self.grace_ends_at
        is_certain = grace_ends_at is None or self.login_needed_at > max(grace_ends_at, self.at)
        must = "must" if is_certain else "may have to"
        now = self.login_needed_at <= self.at
        after = "now" if now else f"after {time_text(self.login_needed_at, self.at)}"
        return f"if nothing improves, a user {must} log in {after}"


class ConsentWasLost(Event, frozen=True, kw_only=True):
    """No refresh token is left that Xero surely accepts: a user must log in again.

    The process whose request failed last emits this once. Others follow the record.
    """

    level: ClassVar[int] = logging.ERROR
    detail: str
    """Xero's response, or why there was none."""
    token: str
    """Fingerprint of the refresh token that was sent last."""
    is_refused: bool
    """True if Xero refused it."""
    reason: str
    """The likely cause."""
    served_until: datetime | None
    """The expiry of the access token that is still served."""

    def __str__(self) -> str:
        text = (
            f"the login is lost, a user must log in again: open /accounts/{self.account}/home and "
            f"log in. {lost_text(self.server, is_refused=self.is_refused)}, #{self.token} last "
            f"({self.detail}): {self.reason}"
        )
        if self.served_until is not None:
            until = time_text(self.served_until, self.at)
            text += f"; programs receive the old access token until {until}"
        return text


class TenantChosen(Event, frozen=True, kw_only=True):
    """A user has chosen an organisation among the connected ones, or a list has verified it."""

    tenant_id: str

    def __str__(self) -> str:
        return f"the organisation to use is now {self.tenant_id}"


class StoreDegraded(Event, frozen=True, kw_only=True):
    """The store cannot be read or written. Access tokens are served from memory meanwhile."""

    level: ClassVar[int] = logging.ERROR
    reason: str
    unsaved: bool
    """Does memory hold a change that the store has not acknowledged?"""
    grace_ends_at: datetime | None
    """Until when the last refresh can be repeated, if this process ends with the change."""

    def __str__(self) -> str:
        text = f"the token store fails, serving from memory: {self.reason}"
        if self.unsaved:
            text += (
                "; the last change exists in this process only: do not stop this process before "
                "the store works again"
            )
        if self.unsaved and self.grace_ends_at is not None:
            until = time_text(self.grace_ends_at, self.at)
            text += f" (if it stops, the refresh can be repeated until {until})"
        return text


class StoreLostWrites(Event, frozen=True, kw_only=True):
    """The store holds less than it acknowledged, such as after a restore of an old dump. The record
    in memory is united with it and written again."""

    level: ClassVar[int] = logging.WARNING
    generation: int
    """The generation of the record in memory."""

    def __str__(self) -> str:
        return (
            "the token store has lost writes; the record in memory (generation "
            f"{self.generation}) is written again"
        )


class StoreRecovered(Event, frozen=True, kw_only=True):
    """The store works again, and every change in memory is written."""

    def __str__(self) -> str:
        return "the token store works again"


class ClockSkewed(Event, frozen=True, kw_only=True):
    """This host's clock and another one differ by more than ten seconds, or it was set back."""

    level: ClassVar[int] = logging.WARNING
    host: str
    """The host or server whose clock differs from this host's."""
    ahead: timedelta
    """How far its clock is ahead of this host's; negative if it is behind."""

    def __str__(self) -> str:
        side = "behind" if self.ahead > timedelta(0) else "ahead of"
        return (
            f"this host's clock is at least {span_text(abs(self.ahead))} {side} that of "
            f"{self.host}. No refresh token is lost, but extra refreshes and 503 responses may "
            "follow: synchronise the clocks"
        )


class TokenRead(Event, frozen=True, kw_only=True):
    """Callers received the access token."""

    level: ClassVar[int] = logging.DEBUG
    token: str
    """Fingerprint of the access token."""
    count: int = 1
    """How many times. Repeated responses are reported once a second, together."""

    def __str__(self) -> str:
        times = f" {self.count} times" if self.count > 1 else ""
        return f"access token #{self.token} was read{times}"
