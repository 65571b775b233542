"""What the identity provider remembers: apps as people connected them, consents, and the tokens that came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .protocol import AuthorizationRequest, Refusal, TokenAnswer
from .switches import SiblingMode, Switches

__all__ = ["AccessToken", "Code", "ConnectedApp", "Connection", "Consent", "Counts", "RefreshToken"]


@dataclass(slots=True)
class Connection:
    """One organisation that a user has opened to an app."""

    connection_id: str
    tenant_id: str
    auth_event_id: str
    created_at: datetime
    updated_at: datetime


@dataclass(eq=False, slots=True)
class ConnectedApp:
    """One app as one user has connected it. Its scopes only ever grow, until it is revoked."""

    client_id: str
    user_id: str
    scopes: list[str] = field(default_factory=list)
    connections: dict[str, Connection] = field(default_factory=dict)
    """By tenant id, in the order in which they were made."""
    consents: list[Consent] = field(default_factory=list)
    """Those that still live."""

    def end(self, reason: Refusal) -> None:
        """End every consent, and with them every token, and forget scopes and connections."""
        for consent in self.consents:
            consent.ended = reason
        self.consents.clear()
        self.connections.clear()
        self.scopes.clear()


@dataclass(eq=False, slots=True)
class Consent:
    """One time that the user said yes. All tokens that stem from it form a chain."""

    app: ConnectedApp
    auth_event_id: str
    session_id: str
    scopes: tuple[str, ...]
    at: datetime
    nonce: str | None = None
    ended: Refusal | None = None


@dataclass(slots=True)
class Code:
    """An authorization code, good for one exchange."""

    request: AuthorizationRequest
    consent: Consent
    issued_at: datetime
    used: bool = False


@dataclass(slots=True)
class AccessToken:
    """An access token, as the API sees it."""

    client_id: str
    app: ConnectedApp
    auth_event_id: str
    scopes: frozenset[str]
    expires_at: datetime
    consent: Consent


@dataclass(eq=False, slots=True)
class RefreshToken:
    """A refresh token, and what became of it. ``idle_since`` is its issue, or its last use where nothing rotates."""

    consent: Consent
    idle_since: datetime
    first_used_at: datetime | None = None
    killed: bool = False
    successors: list[RefreshToken] = field(default_factory=list, repr=False)
    answer: TokenAnswer | None = field(default=None, repr=False)

    def refusal(self, now: datetime, switches: Switches) -> Refusal | None:
        """Return why this token can't be used now, or None if it can."""
        if self.consent.ended is not None:
            return self.consent.ended
        if self.killed:
            return Refusal.SIBLING
        if self.first_used_at is not None:
            over = now - self.first_used_at > timedelta(seconds=switches.grace_seconds)
            return Refusal.SPENT if over else None
        idle = now - self.idle_since >= timedelta(seconds=switches.refresh_token_life_seconds)
        return Refusal.IDLE if idle else None

    def kill_successors(self, mode: SiblingMode) -> None:
        """Kill what was issued for this token before, as the mode says."""
        if mode is SiblingMode.LAST_VALID:
            for successor in self.successors:
                successor.killed = True
        elif mode is SiblingMode.LAST_VALID_WITH_DESCENDANTS:
            doomed = list(self.successors)
            while doomed:
                successor = doomed.pop()
                successor.killed = True
                doomed += successor.successors


@dataclass(slots=True)
class Counts:
    """How often each thing has happened."""

    consents: int = 0
    exchanges: int = 0
    refreshes: int = 0
    """Refreshes that issued something new."""
    replays: int = 0
    refusals: int = 0
    revocations: int = 0
