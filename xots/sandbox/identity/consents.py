"""Apps that users have connected, their connections to organisations, and their consents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from .protocol import AuthorizationRequest, Refusal
from .randomness import RandomTexts

__all__ = ["ConnectedApp", "Connection", "Consent", "ConsentRegistry"]


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

    def disconnect(self, connection_id: str) -> bool:
        """Delete a connection, which all consents share. Return False if it is unknown."""
        for tenant_id, connection in self.connections.items():
            if connection.connection_id == connection_id:
                del self.connections[tenant_id]
                return True
        return False

    def end_unconnected(self, reason: Refusal) -> None:
        """End every consent that included organisations and has a connection to none of them."""
        for consent in list(self.consents):
            if consent.tenant_ids and consent.tenant_ids.isdisjoint(self.connections):
                consent.end(reason)

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
    tenant_ids: frozenset[str] = frozenset()
    """The organisations that it included."""
    nonce: str | None = None
    ended: Refusal | None = None
    """The reason, if it has ended."""

    def end(self, reason: Refusal) -> None:
        """End this consent, and with it all of its tokens."""
        self.ended = reason
        self.app.consents.remove(self)


class ConsentRegistry:
    """Every app that a user has connected, with its consents."""

    def __init__(self, texts: RandomTexts) -> None:
        self._texts = texts
        self._apps: dict[tuple[str, str], ConnectedApp] = {}

    def app(self, client_id: str, user_id: str) -> ConnectedApp | None:
        """Return an app as this user has connected it, or None."""
        return self._apps.get((client_id, user_id))

    def apps(self, user_id: str) -> list[ConnectedApp]:
        """Return the apps to which this user has consents or connections, oldest first."""
        of_user = [app for app in self._apps.values() if app.user_id == user_id]
        return [app for app in of_user if app.consents or app.connections]

    def add(
        self,
        request: AuthorizationRequest,
        user_id: str,
        tenant_ids: Iterable[str],
        now: datetime,
    ) -> Consent:
        """Connect the organisations, and return the consent to all scopes so far."""
        app = self._connected(request.client_id, user_id)
        scopes = app.add_scopes(request.scopes)
        consent = self._consent(app, scopes, tenant_ids, now)
        consent.nonce = request.nonce
        app.consents.append(consent)
        return consent

    def add_custom(
        self, client_id: str, tenant_id: str, scopes: tuple[str, ...], now: datetime
    ) -> Consent:
        """Return a consent without a user to the organisation of a custom connection.

        It is for one access token only, so the app does not keep it. The first one connects the
        organisation. The others leave this connection, with its event, as it is.
        """
        app = self._connected(client_id, "")
        connection = app.connections.get(tenant_id)
        if connection is None:
            return self._consent(app, scopes, (tenant_id,), now)
        event, session_id = connection.auth_event_id, self._texts.text(32)
        return Consent(app, event, session_id, scopes, now, frozenset({tenant_id}))

    def end(self, reason: Refusal, client_id: str | None = None) -> int:
        """End every consent of one client, or of all. Return their number."""
        apps = [app for app in self._apps.values() if client_id in (None, app.client_id)]
        ended = sum(len(app.consents) for app in apps)
        for app in apps:
            app.end(reason)
        return ended

    def _connected(self, client_id: str, user_id: str) -> ConnectedApp:
        return self._apps.setdefault((client_id, user_id), ConnectedApp(client_id, user_id))

    def _consent(
        self, app: ConnectedApp, scopes: tuple[str, ...], tenant_ids: Iterable[str], now: datetime
    ) -> Consent:
        auth_event_id, included = self._texts.uuid(), tuple(tenant_ids)
        app.connect(included, auth_event_id, now, self._texts.uuid)
        session_id = self._texts.text(32)
        return Consent(app, auth_event_id, session_id, scopes, now, frozenset(included))
