"""What happened, as small frozen types. The keeper emits them; the log, metrics and notices observe them.

``str(event)`` is a sentence for the log; no event holds a secret, tokens appear as fingerprints. All times are
aware UTC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
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
    "SuccessorMissing",
    "TakenOver",
    "TenantChosen",
    "TokenRead",
    "problem_in_words",
    "span_text",
    "time_text",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to one account."""

    level: ClassVar[int] = logging.INFO
    account: str
    at: datetime


Observer = Callable[[Event], None]
"""What is told of every event, at once and in order. It must not raise and must not wait."""


PROBLEMS = {
    "unknown": "no usable answer came from Xero, the refresh token may be spent ({})",
    "not-sent": "Xero could not be reached, the refresh token is not spent ({})",
    "throttled": "Xero asks for a pause, the refresh token is not spent ({})",
    "client-refused": "Xero does not accept the client, the refresh token is not spent ({}): mend the client id or "
    "secret in the settings, or enter the right ones at /login and log in again",
    "refused": "Xero refused a refresh token ({})",
    "revocation": "Xero could not be told that the login was ended ({})",
}


def problem_in_words(kind: str, detail: str) -> str:
    """What went wrong, as an operator understands it."""
    return PROBLEMS.get(kind, f"{kind} ({{}})").format(detail)


def time_text(moment: datetime, now: datetime) -> str:
    """A time as a person reads it, without the day if that is today."""
    return (
        f"{moment:%H:%M:%S} UTC"
        if moment.date() == now.date()
        else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    )


def span_text(span: timedelta) -> str:
    """A duration as a person reads it, rounded down: seconds, minutes, hours or days."""
    seconds = max(int(span.total_seconds()), 0)
    units = ((86400, "day"), (3600, "hour"), (60, "minute"))
    size, unit = next((unit for unit in units if seconds >= unit[0]), (1, "second"))
    return f"{seconds // size} {unit}{'' if seconds // size == 1 else 's'}"


def _next_try(at: datetime | None, now: datetime) -> str:
    return f"the next try is {'at once' if at is None or at <= now else f'at {time_text(at, now)} or after'}"


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
    refreshed_at: datetime | None
    refreshed_by: str | None

    def __str__(self) -> str:
        told = f"another process wrote the record, generation {self.generation}"
        if self.refreshed_by and self.refreshed_at:
            told += f"; last refreshed by {self.refreshed_by} at {time_text(self.refreshed_at, self.at)}"
        return told


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
    tries: int
    """Failed tries before it."""
    due_at: datetime | None
    """When it was due; None if that is not known."""

    def __str__(self) -> str:
        successor = (
            f"refresh token #{self.issued} follows #{self.spent}"
            if self.issued
            else "no new refresh token"
        )
        after = (
            f" after {self.tries} failed {'try' if self.tries == 1 else 'tries'}"
            if self.tries
            else ""
        )
        if self.tries and self.due_at and self.due_at < self.at:
            after += f", {span_text(self.at - self.due_at)} after it was due"
        life = f"the access token expires at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        if self.expires_at <= self.at:
            life = "the access token counts as over, since its answer may be one that was lost before; the next follows"
        return f"refreshed{after}: {successor}; {life}"


@dataclass(frozen=True, kw_only=True)
class SuccessorMissing(Event):
    """Xero's answer held no refresh token: it may have been lost on the way, so the same one is tried again."""

    level: ClassVar[int] = logging.WARNING
    token: str
    """Fingerprint of the refresh token that is tried again."""
    next_try_at: datetime | None
    grace_ends_at: datetime | None
    """Until when Xero surely takes it again."""

    def __str__(self) -> str:
        told = f"Xero's answer held no refresh token, so #{self.token} is tried again; "
        told += _next_try(self.next_try_at, self.at)
        if self.grace_ends_at is not None:
            told += f"; Xero takes it again until {time_text(self.grace_ends_at, self.at)}"
        return told


@dataclass(frozen=True, kw_only=True)
class TakenOver(Event):
    """A refresh that was begun and never concluded is taken up: its process was cut off, or slept past its lease."""

    by: str
    """The process that began it."""
    began_at: datetime
    same: bool
    """Is the same refresh token tried again?"""

    def __str__(self) -> str:
        which = "the same refresh token again" if self.same else "another refresh token"
        began = time_text(self.began_at, self.at)
        return f"{self.by} began a refresh at {began} and did not conclude it; trying {which}"


@dataclass(frozen=True, kw_only=True)
class RefreshFailed(Event):
    """A refresh did not succeed. Nothing was lost; it is tried again at ``next_try_at``."""

    level: ClassVar[int] = logging.WARNING
    kind: str
    detail: str
    tries: int
    next_try_at: datetime | None
    grace_ends_at: datetime | None
    """Until when Xero surely takes the same refresh token again, if it may be spent."""
    person_needed_at: datetime
    """When a person must log in if nothing improves."""

    def __str__(self) -> str:
        told = [problem_in_words(self.kind, self.detail), _next_try(self.next_try_at, self.at)]
        ends_at, needed_at = self.grace_ends_at, self.person_needed_at
        if ends_at is not None:
            until = "until" if ends_at > self.at else "no longer for certain than until"
            told.append(
                f"Xero takes the same refresh token again {until} {time_text(ends_at, self.at)}"
            )
        # Whether a token was really spent is not known: Xero may issue from it even after the grace.
        must = (
            "may have to" if ends_at is not None and needed_at <= max(ends_at, self.at) else "must"
        )
        after = "now" if needed_at <= self.at else f"after {time_text(needed_at, self.at)}"
        mends = self.kind == "client-refused"
        told.append(
            "a person is needed now"
            if mends
            else f"if nothing improves, a person {must} log in {after}"
        )
        return f"refresh failed (try {self.tries}): {'; '.join(told)}"


@dataclass(frozen=True, kw_only=True)
class ConsentWasLost(Event):
    """Xero refused every refresh token that the record holds: a person must log in again."""

    level: ClassVar[int] = logging.ERROR
    detail: str
    """What Xero answered."""
    refused: str
    """Fingerprint of the refresh token that it refused last."""
    reason: str
    """Why, as far as that is known."""
    served_until: datetime | None
    """The end of the access token that is still served."""

    def __str__(self) -> str:
        told = (
            "the login is lost, a person must log in again: open /home and log in. Xero refused every refresh token, "
            f"#{self.refused} last ({self.detail}): {self.reason}"
        )
        if self.served_until is not None:
            told += (
                f"; programs get the old access token until {time_text(self.served_until, self.at)}"
            )
        return told


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
        next_try = _next_try(self.retry_not_before, self.at)
        return f"Xero could not be told to revoke the tokens: {self.detail}; {next_try}"


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
    unwritten: bool
    """Does memory hold what the store could not take?"""
    grace_ends_at: datetime | None
    """Until when the refresh before it can be repeated, should this process end with what it holds."""

    def __str__(self) -> str:
        told = f"the token store fails, serving from memory: {self.reason}"
        if self.unwritten:
            told += "; what happened last is known to this process only: don't end it before the store works again"
        if self.unwritten and self.grace_ends_at is not None:
            told += f" (if it ends, the refresh can be repeated until {time_text(self.grace_ends_at, self.at)})"
        return told


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
