"""Apps that users have connected, their connections to organisations, and their consents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from .protocol import Refusal

__all__ = ["ConnectedApp", "Connection", "Consent"]


@dataclass(slots=True)
class Connection:
    """One organisation that a user has opened to an app."""

    connection_id: str
    tenant_id: str
    auth_event_id: str
    """The last consent that included this organisation."""
    created_at: datetime
    updated_at: datetime


@dataclass(eq=False, slots=True)
class ConnectedApp:
    """One app as one user has connected it. Its scopes only grow until the user revokes it."""

    client_id: str
    user_id: str
    """Empty for a custom connection."""
    scopes: list[str] = field(default_factory=list)
    connections: dict[str, Connection] = field(default_factory=dict)
    """By tenant id, in the order in which they were made."""
    consents: list[Consent] = field(default_factory=list)
    """Those that have not ended."""

    def connect(
        self,
        tenant_ids: Iterable[str],
        auth_event_id: str,
        now: datetime,
        new_id: Callable[[], str],
    ) -> None:
        """Connect the organisations. An existing connection keeps its id."""
        for tenant_id in tenant_ids:
            connection = self.connections.get(tenant_id)
            if connection is None:
                connection = Connection(new_id(), tenant_id, auth_event_id, now, now)
                self.connections[tenant_id] = connection
            connection.auth_event_id, connection.updated_at = auth_event_id, now

    def add_scopes(self, scopes: Iterable[str]) -> tuple[str, ...]:
        """Add scopes and return all of them: consents are additive (Xero: scopes)."""
        self.scopes += [scope for scope in scopes if scope not in self.scopes]
        return tuple(self.scopes)

    def end(self, reason: Refusal) -> None:
        """End every consent with its tokens, and forget scopes and connections."""
        for consent in list(self.consents):
            consent.end(reason)
        self.connections.clear()
        self.scopes.clear()


@dataclass(eq=False, slots=True)
class Consent:
    """One consent of a user. All tokens that stem from it form a chain."""

    app: ConnectedApp
    auth_event_id: str
    session_id: str
    scopes: tuple[str, ...]
    at: datetime
    nonce: str | None = None
    ended: Refusal | None = None
    """The reason, if it has ended."""

    def end(self, reason: Refusal) -> None:
        """End this consent, and with it all of its tokens."""
        self.ended = reason
        self.app.consents.remove(self)
