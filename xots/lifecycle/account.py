"""``Account``: the one record of an account and its login. Frozen; every change makes a new one.

The record is written whole and read whole. ``transitions``, ``logins`` and ``merging`` say how it
changes, ``record_json`` is its JSON, ``keeping`` writes it. All times are aware datetimes in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import force_setattr, replace

from ..secret import Secret

__all__ = [
    "FORMAT",
    "MAX_IN_FLIGHT_FALLBACKS",
    "MAX_LOGIN_STATES",
    "MAX_NOTICES",
    "MAX_ORGANISATIONS",
    "MAX_REFRESH_NOTES",
    "MAX_SPENT_FALLBACKS",
    "MAX_TOMBSTONES",
    "AccessToken",
    "Account",
    "Entry",
    "Intent",
    "LoginState",
    "Notice",
    "Organisation",
    "Problem",
    "ProblemKind",
    "RefreshNote",
    "RefreshToken",
    "Revocation",
    "bounded",
    "valid_id",
]

FORMAT: Final = 5
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

MAX_ORGANISATIONS: Final = 100
"""Upper bound on the organisations of a login that are kept. A firm's user has some dozens."""

MAX_REFRESH_NOTES: Final = 20
"""Upper bound on the history of refreshes: ten hours of a token that is in use."""

MAX_LOGIN_STATES: Final = 8
"""Upper bound on the logins whose second callback is recognised: a browser repeats it at once."""

MAX_NOTICES: Final = 16
"""Upper bound on the notices that are not sent twice."""

MAX_NAME_LENGTH: Final = 100
"""Upper bound on the characters of an organisation's name. A longer one is cut."""

MAX_LOGIN_PROBLEM_LENGTH: Final = 300
"""Upper bound on the characters of a failed login's problem. A longer one is cut."""

VALID_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""An id of a Xero user, an authentication event or a connection. Xero's are UUIDs."""

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
    resent: bool = False
    """True if another request spent it after one that may have spent it. At an identity server that
    accepts no token twice, that was the last attempt."""

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
    EXPIRED = "expired"
    """Xero issued an access token that had expired already."""
    REVOCATION = "revocation"
    """Xero did not confirm a revocation."""


class Problem(_Record, frozen=True, kw_only=True):
    """The last failure, for the operator. It holds no secret."""

    kind: ProblemKind
    code: str | None = None
    """The OAuth error code of the response (RFC 6749 section 5.2), if there was one to act on."""
    detail: str
    at: datetime
    without_user: bool = False
    """True if the request held the client's own credentials only: no refresh token was at stake."""


class Revocation(StrEnum):
    """A login's end that Xero has not confirmed, by what happens to the client's credentials."""

    KEEP_CREDENTIALS = "revoke"
    FORGET_CREDENTIALS = "forget"
    """The client's credentials are dropped once Xero has confirmed it."""


class Entry(_Record, frozen=True, kw_only=True):
    """The settings of an account that was added at run time.

    A removed account keeps one without settings. ``added_at`` is the time of the removal then.
    """

    client_id: str | None = None
    client_secret: Secret | None = None
    tenant_id: str | None = None
    scopes: tuple[str, ...] = ()
    added_at: datetime


class Organisation(_Record, frozen=True, kw_only=True):
    """One organisation (tenant) of the login, as Xero listed it."""

    connection_id: str | None = None
    tenant_id: str
    name: str | None = None
    """Any text of up to ``MAX_NAME_LENGTH`` characters. Show it with ``safe_text``."""
    kind: str | None = None
    """Xero's ``tenantType``, such as ORGANISATION or PRACTICE."""
    auth_event_id: str | None = None
    """The login that connected it."""

    def __post_init__(self) -> None:
        """Cut the name to its bound."""
        if self.name is not None:
            force_setattr(self, "name", self.name[:MAX_NAME_LENGTH])


class RefreshNote(_Record, frozen=True, kw_only=True):
    """The outcome of one refresh, for the history."""

    at: datetime
    by: str
    """The process that made it, as in ``Intent.by``."""
    ok: bool
    kind: ProblemKind | None = None
    """The kind of failure; None if Xero issued an access token."""


class LoginState(_Record, frozen=True, kw_only=True):
    """The result of a login, by its ``state``, for a browser that calls back twice."""

    digest: str
    """The SHA-256 of the state, in hex."""
    at: datetime
    problem: str | None = None
    """Why it failed, in up to ``MAX_LOGIN_PROBLEM_LENGTH`` characters; None if it succeeded."""

    def __post_init__(self) -> None:
        """Cut the problem to its bound."""
        if self.problem is not None:
            force_setattr(self, "problem", self.problem[:MAX_LOGIN_PROBLEM_LENGTH])


class Notice(_Record, frozen=True, kw_only=True):
    """A notice that was sent, so that no process sends it again."""

    kind: str
    key: str
    """The occasion, such as the login that it concerns."""
    at: datetime


class Account(_Record, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The record of one account and its login.

    ``BOUNDS`` holds whatever makes a record: the longest lists are cut as it is made.
    """

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
    without_user: bool = False
    """True if the client's own credentials got the access token: no user is logged in."""
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

    xero_userid: str | None = None
    """The Xero user who logged in, by the claim of the access token; None if it has none."""
    auth_event_id: str | None = None
    """The login at Xero, by the claim ``authentication_event_id``; None if the token has none."""
    organisations: tuple[Organisation, ...] | None = None
    """The organisations of the login as they were listed last; None if they never were."""
    listed_at: datetime | None = None
    """When Xero first sent ``organisations`` as they are."""
    lists_without_tenant: int = 0
    """Number of lists in a row that did not hold the chosen organisation."""

    removed: bool = False
    """True if the account was removed at run time. ``entry`` then holds the time."""
    entry: Entry | None = None
    """The settings of an account that was added at run time; None for any other account."""
    refreshes: tuple[RefreshNote, ...] = ()
    """The outcomes of the last refreshes, the latest first, also those of earlier logins."""
    login_states: tuple[LoginState, ...] = ()
    """The results of the last logins, the latest first."""
    notices: tuple[Notice, ...] = ()
    """The notices that were sent, the latest first."""

    def __post_init__(self) -> None:
        """Cut each list to its bound. Every way to make a record leads here, ``replace`` too (from
        msgspec 0.21 on)."""
        for name, bound in BOUNDS.items():
            found = getattr(self, name)
            if found is not None and len(found) > bound:
                force_setattr(self, name, found[:bound])

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


BOUNDS: Final = {
    "organisations": MAX_ORGANISATIONS,
    "refreshes": MAX_REFRESH_NOTES,
    "login_states": MAX_LOGIN_STATES,
    "notices": MAX_NOTICES,
}
"""The lists of the record that are cut at their end. ``bounded`` and ``with_tombstones`` cut the
others, where the order decides what is lost."""


def valid_id(value: object) -> str | None:
    """Return the id from outside if it is a text that ``VALID_ID`` matches, else None."""
    return value if isinstance(value, str) and VALID_ID.fullmatch(value) else None


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
