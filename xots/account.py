"""``Account``: the one record that is kept for a login. Frozen, pure data; every change makes a new one.

The record is written whole and read whole. What may change in it, and when, is ``lifecycle``'s business; how it
is written is ``keeper``'s. All times are aware datetimes in UTC.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Any

import msgspec

__all__ = [
    "AccessToken",
    "Account",
    "Intent",
    "Problem",
    "RefreshToken",
    "Secret",
    "decode",
    "encode",
]


class Secret:
    """A string that must not be shown: its ``repr`` and ``str`` are masked, so no log or traceback prints it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Call it where it is sent or sealed, and nowhere else."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """12 hex digits of its SHA-256: enough to tell two tokens apart, useless to anybody else."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled: seal it instead")


class _Record(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What the parts of the record have in common: frozen, named arguments only, defaults left out of the JSON."""


class AccessToken(_Record, frozen=True, kw_only=True):
    """The bearer token that callers get."""

    value: Secret
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's name of the scheme
    issued_at: datetime
    """When its life began, at the latest: when the request for it was first sent."""
    expires_at: datetime

    @property
    def life_seconds(self) -> float:
        """How long it lives from its issue to its expiry."""
        return (self.expires_at - self.issued_at).total_seconds()


class RefreshToken(_Record, frozen=True, kw_only=True):
    """One refresh token, and what is known of its life."""

    value: Secret
    obtained_at: datetime
    first_spent_at: datetime | None = None
    """When a request that spends it may first have reached Xero. Never moved later: Xero's grace counts from it."""
    refused_at: datetime | None = None
    """When Xero said ``invalid_grant`` to it. Only that condemns a token."""


class Intent(_Record, frozen=True, kw_only=True):
    """A refresh begun and not yet concluded."""

    by: str
    """Which process began it, for the operator's eyes."""
    began_at: datetime
    fingerprint: str
    """Of the refresh token being spent."""
    stamped: bool
    """Did this intent set the token's ``first_spent_at``? Then an answer which shows that it was not spent undoes it.
    False on a retry: an earlier try may have spent it, whatever becomes of this one."""
    doubted: str | None = None
    """The fingerprint of another token whose refresh was still open: it may have killed the one that is spent now."""


class Problem(_Record, frozen=True, kw_only=True):
    """What last went wrong, in words for the operator. Never holds a secret."""

    kind: str
    detail: str
    at: datetime


class Account(_Record, frozen=True, kw_only=True):
    """Everything that is kept about one login."""

    generation: int = 0
    """Rises by one with every write; never restarts, not even when the account is forgotten."""
    write_id: str = ""
    """Random, new with every write: tells one's own write from somebody else's when the reply was lost."""

    client_id: str | None = None
    client_secret: Secret | None = None
    """None for a PKCE app."""
    token_url: str | None = None
    """The token endpoint that these tokens belong to."""
    tenant_id: str | None = None

    consent_id: str | None = None
    """Random, new at every code exchange; None when nobody is logged in."""
    consented_at: datetime | None = None
    ended_at: datetime | None = None
    """When the last login was revoked or logged out, if it was."""
    revocation: str | None = None
    """What is still to be done at Xero after the login's end: "revoke", or "forget" to drop the credentials then."""
    scopes_asked: tuple[str, ...] = ()
    scopes_granted: tuple[str, ...] = ()
    scopes_set: tuple[str, ...] = ()
    """What the settings named at the consent, where the person chose another set on the page."""

    access: AccessToken | None = None
    current: RefreshToken | None = None
    rivals: tuple[RefreshToken, ...] = ()
    """Other refresh tokens of the same consent that Xero may still take."""
    dropped: tuple[str, ...] = ()
    """Fingerprints of those that are kept no longer, the last first, and no more than some: so it is known, without a
    clock, whether another record of this consent goes on from this one, or this from that."""
    dropped_ever: int = 0
    """How many there were since the login."""

    intent: Intent | None = None
    retry_not_before: datetime | None = None
    tries: int = 0
    """Failed tries since the last success."""
    unrotated: int = 0
    """Answers in a row that held no refresh token."""
    problem: Problem | None = None
    refreshed_at: datetime | None = None
    refreshed_by: str | None = None
    notices_sent: tuple[str, ...] = ()


def encode(account: Account) -> bytes:
    """The record as JSON, secrets in clear: for sealing, and for nothing else."""
    return msgspec.json.encode(account, enc_hook=_reveal)


def decode(data: bytes) -> Account:
    """The record from its JSON.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: it isn't one. A field that is not known is refused too,
            since dropping it at the next write would lose what a newer version kept in it.
    """
    return msgspec.json.decode(data, type=Account, dec_hook=_conceal)


def _reveal(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"{type(value).__name__} does not belong in a record")


def _conceal(kind: type, value: object) -> Secret:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError(f"{kind.__name__} does not belong in a record")
