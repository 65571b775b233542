"""``Account``: the one record of a login. Frozen, pure data; every change makes a new one.

The record is written whole and read whole. ``transitions``, ``logins`` and ``merging`` say how it
changes, ``record_json`` is its JSON, ``keeping`` writes it. All times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from ..secret import Secret

__all__ = [
    "FORMAT",
    "MAX_IN_FLIGHT_FALLBACKS",
    "MAX_SPENT_FALLBACKS",
    "MAX_TOMBSTONES",
    "AccessToken",
    "Account",
    "Intent",
    "Problem",
    "ProblemKind",
    "RefreshToken",
    "Revocation",
    "bounded",
]

FORMAT: Final = 3
"""The format that this version writes."""

MAX_TOMBSTONES: Final = 100
"""Upper bound on tombstones: about two days of Xero rotations."""

MAX_SPENT_FALLBACKS: Final = 8
"""Upper bound on spent fallbacks whose requests all have a known outcome. Such a token is needed
only if Xero has invalidated its successor without a sign, such as for a request that was delivered
twice. The next refresh, or the one after it, shows that. Normal rotations keep two."""

MAX_IN_FLIGHT_FALLBACKS: Final = 24
"""Upper bound on fallbacks that a request may still spend (``RefreshToken.may_be_in_flight``). Each
one follows a lost response or a process that was cut off, so even a bad half hour has fewer."""

BEFORE_ALL_LOGINS: Final = datetime.fromtimestamp(0, UTC)


class _Record(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The base of the record's parts: named arguments only, defaults left out of the JSON."""


class AccessToken(_Record, frozen=True, kw_only=True):
    """The bearer token that callers receive."""

    value: Secret
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's name of the scheme
    issued_at: datetime
    """When the first request that may have issued it was sent: the earliest possible start of its
    lifetime."""
    expires_at: datetime

    @property
    def lifetime(self) -> timedelta:
        """The time from its issue to its expiry."""
        return self.expires_at - self.issued_at


class RefreshToken(_Record, frozen=True, kw_only=True):
    """One refresh token and the known events of its life."""

    value: Secret
    obtained_at: datetime
    first_spent_at: datetime | None = None
    """When a request that spends it may first have reached Xero. Xero's grace period counts from
    it, so it is never moved later; it is cleared once the token is known to be unspent."""
    refused_at: datetime | None = None
    """When Xero responded ``invalid_grant`` to it. Only that condemns a token."""
    may_be_in_flight: bool = False
    """True if a request that spends it had no known outcome when the next one was sent. Xero may
    carry that request out later, and invalidate the newer tokens then. This token is the way back,
    so it stays until its grace period is over, however many refreshes follow."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its value."""
        return self.value.fingerprint

    @property
    def is_fresh(self) -> bool:
        """True if it was neither spent nor refused."""
        return self.first_spent_at is None and self.refused_at is None


class Intent(_Record, frozen=True, kw_only=True):
    """A refresh that was started and has no outcome yet."""

    by: str
    """The process that started it, for the operator: host name and process id."""
    began_at: datetime
    fingerprint: str
    """The fingerprint of the refresh token being spent."""
    set_first_spent: bool
    """True if this intent set the token's ``first_spent_at``: an outcome that proves the token
    unspent clears it again. False on a retry, since an earlier attempt may have spent the token."""
    also_open: str | None = None
    """The fingerprint of another token whose own refresh has no outcome yet. That refresh may have
    invalidated the token being spent now."""


class ProblemKind(StrEnum):
    """The kinds of failure that the record remembers."""

    UNKNOWN = "unknown"
    """The request may have been carried out."""
    NOT_SENT = "not-sent"
    THROTTLED = "throttled"
    CLIENT_REFUSED = "client-refused"
    """Xero refused the client or its request. Retries do not help."""
    REFUSED = "refused"
    """Xero refused one refresh token."""
    REVOCATION = "revocation"
    """Xero did not confirm a revocation."""


class Problem(_Record, frozen=True, kw_only=True):
    """The last failure, for the operator. It holds no secret."""

    kind: ProblemKind
    detail: str
    at: datetime


class Revocation(StrEnum):
    """A login's end that Xero has not confirmed, by what happens to the client's credentials."""

    KEEP_CREDENTIALS = "revoke"
    FORGET_CREDENTIALS = "forget"
    """The client's credentials are dropped once Xero has confirmed it."""


class Account(_Record, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The record of one login."""

    generation: int = 0
    """Increases with every write. It never restarts, even for a forgotten account."""
    write_id: str = ""
    """Random, new with every write. After a lost response it identifies the process's own write."""

    client_id: str | None = None
    client_secret: Secret | None = None
    """None for a PKCE app."""
    token_url: str | None = None
    """The token endpoint that issued these tokens."""
    tenant_id: str | None = None

    consent_id: str | None = None
    """Random, new with every code exchange. None while no user is logged in."""
    consented_at: datetime | None = None
    ended_at: datetime | None = None
    """When a login was last revoked or logged out, if one ever was. A new login keeps it."""
    revocation: Revocation | None = None
    """Set from a login's end until Xero has confirmed the revocation."""
    scopes_requested: tuple[str, ...] = ()
    scopes_granted: tuple[str, ...] = ()
    scopes_configured: tuple[str, ...] = ()
    """The scopes in the settings at the consent, if the user chose another set on the page."""

    access: AccessToken | None = None
    current: RefreshToken | None = None
    """The newest successor: the token to spend next, as a rule (``schedule.candidates``)."""
    fallbacks: tuple[RefreshToken, ...] = ()
    """Other refresh tokens of the same consent that Xero may still accept, in the order in which
    to try them."""
    tombstones: tuple[str, ...] = ()
    """Fingerprints of tokens that this record held and dropped, the latest first. They tell without
    a clock whether another record of the same consent is older or newer than this one."""
    tombstones_ever: int = 0
    """Number of tombstones since the login. ``tombstones`` keeps the latest of them only."""

    intent: Intent | None = None
    retry_not_before: datetime | None = None
    failed_attempts: int = 0
    """Failed attempts since the last success."""
    responses_without_token: int = 0
    """Responses to the open refresh that held no refresh token."""
    rotates: bool = True
    """False once the identity server is known to issue no new refresh token at a refresh."""
    problem: Problem | None = None
    refreshed_at: datetime | None = None
    refreshed_by: str | None = None

    @property
    def epoch(self) -> datetime:
        """When the last login, or its end, was recorded. The newer epoch wins a merge."""
        moments = filter(None, (self.consented_at, self.ended_at))
        return max(moments, default=BEFORE_ALL_LOGINS)

    @property
    def tokens(self) -> tuple[RefreshToken, ...]:
        """All refresh tokens of the record: the current one first, then the fallbacks."""
        return (self.current, *self.fallbacks) if self.current else self.fallbacks

    @property
    def spending(self) -> RefreshToken | None:
        """The refresh token of the open refresh, if there is one."""
        return self.token(self.intent.fingerprint) if self.intent else None

    def token(self, fingerprint: str | None) -> RefreshToken | None:
        """Return the refresh token with this fingerprint, if the record holds it."""
        return next((t for t in self.tokens if t.fingerprint == fingerprint), None)

    def with_token(self, token: RefreshToken) -> Account:
        """Return the account with ``token`` in place of the one of the same value."""
        current, *fallbacks = [token if t.value == token.value else t for t in self.tokens]
        if self.current is None:
            return replace(self, fallbacks=(current, *fallbacks))
        return replace(self, current=current, fallbacks=tuple(fallbacks))

    def with_tombstones(self, fingerprints: Iterable[str]) -> Account:
        """Return the account with tombstones for these fingerprints. Tokens it holds get none."""
        held = {token.fingerprint for token in self.tokens}
        known = held.union(self.tombstones)
        new = [fingerprint for fingerprint in fingerprints if fingerprint not in known]
        old = [fingerprint for fingerprint in self.tombstones if fingerprint not in held]
        return replace(
            self,
            tombstones=tuple([*new, *old][:MAX_TOMBSTONES]),
            tombstones_ever=self.tombstones_ever + len(new),
        )


def bounded(fallbacks: Iterable[RefreshToken]) -> tuple[RefreshToken, ...]:
    """Return the fallbacks without the spent ones that exceed the bounds: the last ones in the
    record's order, which needs no clock."""
    limits = {False: MAX_SPENT_FALLBACKS, True: MAX_IN_FLIGHT_FALLBACKS}
    kept, spent = list[RefreshToken](), dict.fromkeys(limits, 0)
    for token in fallbacks:
        kind = token.may_be_in_flight
        spent[kind] += token.first_spent_at is not None
        if token.first_spent_at is None or spent[kind] <= limits[kind]:
            kept.append(token)
    return tuple(kept)
