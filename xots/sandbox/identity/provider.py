"""The simulated identity provider as a state machine: no sockets, no files, no clock of its own.

Every method is told the time (an aware UTC datetime); randomness and the minting of tokens are passed in. So a
simulation can drive it through years, deterministically, at thousands of steps a second.
"""

from __future__ import annotations

import random as random_module
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from .authorization import denial, proves, read_authorization
from .claims import access_claims, id_claims
from .clients import Client, User
from .consents import AccessToken, Code, ConnectedApp, Connection, Consent, Counts, RefreshToken
from .protocol import (
    AuthorizationRequest,
    BearerProblem,
    BearerRefused,
    Mint,
    OAuthError,
    OAuthErrorCode,
    Refusal,
    Shape,
    TokenAnswer,
    random_text,
)
from .switches import SiblingMode, Switches

__all__ = ["Identity"]

_PLAIN = Shape()


class Identity:
    """Who may do what: authorization, tokens, revocation and connections of the simulated Xero.

    ``switches`` may be replaced at any time. ``mint`` makes a token's text from its claims; the default is the bare
    ``jti``, which is all that a simulation needs. ``random`` is a seeded `random.Random` for a deterministic run.
    """

    def __init__(
        self,
        clients: Iterable[Client] = (Client(),),
        *,
        users: Iterable[User] = (User(),),
        switches: Switches | None = None,
        mint: Mint | None = None,
        random: random_module.Random | None = None,
        issuer: str = "https://identity.xero.com",
    ) -> None:
        self.clients = {client.client_id: client for client in clients}
        self.users = {user.user_id: user for user in users}
        self.switches = switches or Switches()
        self.issuer = issuer
        self.counts = Counts()
        self._mint: Mint = mint or (lambda claims: str(claims["jti"]))
        self._random = random or random_module.SystemRandom()
        self._apps: dict[tuple[str, str], ConnectedApp] = {}
        self._codes: dict[str, Code] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._listings = 0

    # Clients

    def register(self, client: Client) -> None:
        """Add an app, or replace the one of the same client id (to change its secret, say)."""
        self.clients[client.client_id] = client

    def authenticate(self, client_id: str | None, secret: str | None) -> Client:
        """Return the client; ``secret`` is None if none was presented. Raises OAuthError ``invalid_client``.

        A public client presents its id alone, and is refused if it presents a secret.
        """
        client = self.clients.get(client_id or "")
        if client is None or not client.enabled:
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "unknown client, or not enabled")
        if client.secret != secret:
            raise OAuthError(
                OAuthErrorCode.INVALID_CLIENT, "wrong secret" if client.secret else "public client"
            )
        return client

    # Authorization

    def check_authorization(self, parameters: Mapping[str, str]) -> AuthorizationRequest:
        """Read the query of an authorization request (RFC 6749, section 4.1.1; RFC 7636).

        Raises ErrorPage, or CallbackError for refused scopes if the switch says that they come back.
        """
        return read_authorization(parameters, self.clients, self.switches)

    def consent(
        self,
        request: AuthorizationRequest,
        now: datetime,
        *,
        tenant_ids: Iterable[str],
        user_id: str | None = None,
    ) -> dict[str, str]:
        """The user says yes: connect the organisations and return the callback's parameters.

        Raises KeyError for an unknown user. The first user is the default.
        """
        user = self.users[user_id] if user_id is not None else next(iter(self.users.values()))
        consent = self._open_consent(
            request.client_id, user.user_id, request.scopes, tenant_ids, now
        )
        consent.nonce = request.nonce
        code = random_text(self._random, 43)
        self._codes[code] = Code(request, consent, now)
        parameters = {"code": code}
        if self.switches.add_scope:
            parameters["scope"] = " ".join(consent.scopes)
        if request.state is not None:
            parameters["state"] = request.state
        if self.switches.add_session_state:
            parameters["session_state"] = f"{random_text(self._random, 43)}.{consent.session_id}"
        if self.switches.add_iss:
            parameters["iss"] = self.issuer
        return parameters

    def deny(self, request: AuthorizationRequest) -> dict[str, str]:
        """The user says no: return the callback's parameters."""
        return denial(request.state, "TenantConsent status DENIED")

    def log_in(
        self,
        client_id: str,
        now: datetime,
        *,
        scopes: Iterable[str] = ("offline_access",),
        tenant_ids: Iterable[str] = (),
        user_id: str | None = None,
        shape: Shape = _PLAIN,
    ) -> TokenAnswer:
        """Consent and exchange in one step, without any redirect; for tests and simulations."""
        client = self.clients[client_id]
        request = AuthorizationRequest(client_id, "", tuple(scopes))
        code = self.consent(request, now, tenant_ids=tenant_ids, user_id=user_id)["code"]
        return self.exchange(
            client, code, redirect_uri="", code_verifier=None, now=now, shape=shape
        )

    # Tokens

    def exchange(
        self,
        client: Client,
        code: str,
        *,
        redirect_uri: str,
        code_verifier: str | None,
        now: datetime,
        shape: Shape = _PLAIN,
    ) -> TokenAnswer:
        """Take an authorization code for tokens. Raises OAuthError ``invalid_grant`` or ``unauthorized_client``.

        The first valid use consumes the code; a refused one doesn't.
        """
        self._forbid_custom_connection(client)
        issued = self._codes.get(code)
        if issued is None or issued.request.client_id != client.client_id:
            raise self._refused("unknown code")
        if issued.used:
            raise self._refused("code already used")
        if now - issued.issued_at >= timedelta(seconds=self.switches.code_life_seconds):
            raise self._refused("code expired")
        if issued.request.redirect_uri != redirect_uri:
            raise self._refused("another redirect_uri than the authorization request's")
        if not proves(code_verifier, issued.request.code_challenge):
            raise self._refused("code_verifier")
        if issued.consent.ended is not None:
            raise self._refused(issued.consent.ended)
        issued.used = True
        self.counts.exchanges += 1
        return self._issue(issued.consent, now, shape)[0]

    def refresh(
        self,
        client: Client,
        refresh_token: str,
        now: datetime,
        *,
        scope: str | None = None,
        shape: Shape = _PLAIN,
    ) -> TokenAnswer:
        """Take a refresh token for the next tokens (RFC 6749, section 6; Xero's 30 minutes of grace).

        Raises OAuthError ``invalid_grant`` (its ``reason`` is a Refusal), ``invalid_scope`` or ``unauthorized_client``.
        """
        self._forbid_custom_connection(client)
        token = self._refresh_tokens.get(refresh_token)
        if token is None:
            raise self._refused(Refusal.UNKNOWN)
        consent = token.consent
        if consent.app.client_id != client.client_id:
            raise self._refused(Refusal.FOREIGN)
        refusal = token.refusal(now, self.switches)
        if refusal is not None:
            if refusal is Refusal.SPENT and self.switches.late_reuse_kills_chain:
                consent.ended = Refusal.CHAIN_KILLED
                consent.app.consents.remove(consent)
            raise self._refused(refusal)
        if not set((scope or "").split()) <= set(consent.scopes):
            raise OAuthError(OAuthErrorCode.INVALID_SCOPE, "more than was consented to")
        if token.answer is not None and self.switches.sibling_mode is SiblingMode.SAME_ANSWER:
            self.counts.replays += 1
            return TokenAnswer(token.answer.fields, replayed=True)
        self.counts.refreshes += 1
        if not self.switches.rotate:
            token.idle_since = now
            return self._issue(consent, now, shape, rotate=False)[0]
        token.kill_successors(self.switches.sibling_mode)
        answer, successor = self._issue(consent, now, shape)
        if token.first_used_at is None:
            token.first_used_at = now
        token.answer = answer
        if successor is not None:
            token.successors.append(successor)
        return answer

    def client_credentials(
        self, client: Client, now: datetime, *, scope: str | None = None, shape: Shape = _PLAIN
    ) -> TokenAnswer:
        """Issue an access token of a custom connection: no refresh token, one organisation.

        Raises OAuthError ``unauthorized_client`` or ``invalid_scope``.
        """
        if client.custom_connection_tenant_id is None or client.secret is None:
            raise OAuthError(OAuthErrorCode.UNAUTHORIZED_CLIENT, "not a custom connection")
        scopes = tuple(dict.fromkeys((scope or "").split()))
        if (
            not scopes
            or client.refused_scopes(scopes)
            or "offline_access" in scopes
            or "openid" in scopes
        ):
            raise OAuthError(
                OAuthErrorCode.INVALID_SCOPE, "none, or not allowed for a custom connection"
            )
        tenant_ids = (client.custom_connection_tenant_id,)
        consent = self._open_consent(client.client_id, "", scopes, tenant_ids, now, additive=False)
        self.counts.exchanges += 1
        return self._issue(consent, now, shape)[0]

    def revoke(self, client: Client, refresh_token: str) -> bool:
        """Revoke (RFC 7009): end all of the user's tokens and connections of this app, and forget its scopes.

        Return whether anything was revoked. An unknown token, another client's, or one whose consent has ended
        already changes nothing; a spent one of a living consent revokes it.
        """
        token = self._refresh_tokens.get(refresh_token)
        if (
            token is None
            or token.consent.app.client_id != client.client_id
            or token.consent.ended is not None
        ):
            return False
        token.consent.app.end(Refusal.REVOKED)
        self.counts.revocations += 1
        return True

    # The API's side

    def check_access(self, access_token: str, now: datetime) -> AccessToken:
        """Return what an access token stands for. Raises BearerRefused."""
        access = self._access_tokens.get(access_token)
        if access is None:
            raise BearerRefused(BearerProblem.UNKNOWN)
        if now >= access.expires_at:
            raise BearerRefused(BearerProblem.EXPIRED, access.expires_at)
        if access.consent.ended is Refusal.REVOKED and self.switches.access_tokens_die_on_revoke:
            raise BearerRefused(BearerProblem.UNKNOWN)
        return access

    def connections(
        self, access: AccessToken, auth_event_id: str | None = None
    ) -> list[Connection]:
        """Return the connections that the token's app has to the token's user, or those of one consent."""
        found = list(access.app.connections.values())
        if self.switches.shuffle_connections and found:
            self._listings += 1
            first = self._listings % len(found)
            found = found[first:] + found[:first]
        return [one for one in found if auth_event_id is None or one.auth_event_id == auth_event_id]

    def disconnect(self, access: AccessToken, connection_id: str) -> bool:
        """Remove one connection; return whether it was there. Tokens live on."""
        for tenant_id, connection in access.app.connections.items():
            if connection.connection_id == connection_id:
                del access.app.connections[tenant_id]
                return True
        return False

    # For assertions and simulations

    def refusal_of(self, refresh_token: str, now: datetime) -> Refusal | None:
        """Return why a refresh token would be refused now, or None if it would be taken. Changes nothing."""
        token = self._refresh_tokens.get(refresh_token)
        return Refusal.UNKNOWN if token is None else token.refusal(now, self.switches)

    def would_issue(self, refresh_token: str, now: datetime) -> bool:
        """Return whether a refresh with this token would succeed now. Changes nothing."""
        return self.refusal_of(refresh_token, now) is None

    def usable_refresh_tokens(self, now: datetime) -> list[str]:
        """Return every refresh token that would be taken now, oldest first."""
        return [
            text
            for text, token in self._refresh_tokens.items()
            if token.refusal(now, self.switches) is None
        ]

    def app(self, client_id: str, user_id: str | None = None) -> ConnectedApp | None:
        """Return an app as a user (the first one by default) has connected it, or None if he never did."""
        return self._apps.get((client_id, next(iter(self.users)) if user_id is None else user_id))

    def forget(self, client_id: str | None = None) -> int:
        """End every consent (of one client, or of all) as if Xero had lost them; return how many ended."""
        apps = [
            app for app in self._apps.values() if client_id is None or app.client_id == client_id
        ]
        ended = sum(len(app.consents) for app in apps)
        for app in apps:
            app.end(Refusal.FORGOTTEN)
        return ended

    def prune(self, now: datetime) -> None:
        """Drop what can't matter any more, so that a long simulation stays small. The clock must not go back.

        A dropped refresh token is refused as unknown (so its late reuse kills no chain), a dropped access token is
        unknown instead of expired.
        """
        grace = timedelta(seconds=self.switches.grace_seconds)
        life = timedelta(seconds=self.switches.code_life_seconds)
        self._codes = {
            text: code for text, code in self._codes.items() if now - code.issued_at < life
        }
        self._access_tokens = {
            text: one for text, one in self._access_tokens.items() if now < one.expires_at
        }
        kept = {}
        for text, token in self._refresh_tokens.items():
            spent = token.first_used_at is not None and now - token.first_used_at > grace
            if spent or token.killed or token.consent.ended is not None:
                token.successors.clear()
            else:
                kept[text] = token
        self._refresh_tokens = kept

    # Within

    def _forbid_custom_connection(self, client: Client) -> None:
        if client.custom_connection_tenant_id is not None:
            raise OAuthError(OAuthErrorCode.UNAUTHORIZED_CLIENT, "a custom connection")

    def _refused(self, reason: Refusal | str) -> OAuthError:
        self.counts.refusals += 1
        return OAuthError(OAuthErrorCode.INVALID_GRANT, reason)

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _open_consent(
        self,
        client_id: str,
        user_id: str,
        scopes: tuple[str, ...],
        tenant_ids: Iterable[str],
        now: datetime,
        *,
        additive: bool = True,
    ) -> Consent:
        """Connect the organisations. What was consented to earlier comes back too (Xero: scopes are additive)."""
        app = self._apps.setdefault((client_id, user_id), ConnectedApp(client_id, user_id))
        event = self._uuid()
        for tenant_id in tenant_ids:
            connection = app.connections.get(tenant_id)
            if connection is None:
                app.connections[tenant_id] = Connection(self._uuid(), tenant_id, event, now, now)
            else:
                connection.auth_event_id, connection.updated_at = event, now
        if additive:
            app.scopes += [scope for scope in scopes if scope not in app.scopes]
            scopes = tuple(app.scopes)
        consent = Consent(app, event, random_text(self._random, 32), scopes, now)
        if additive:
            app.consents.append(consent)
        self.counts.consents += 1
        return consent

    def _issue(
        self, consent: Consent, now: datetime, shape: Shape, *, rotate: bool = True
    ) -> tuple[TokenAnswer, RefreshToken | None]:
        life = self.switches.access_token_life_seconds
        claims = access_claims(consent, now, self.switches, self.issuer, self._uuid())
        access_token = (shape.mint or self._mint)(claims)
        self._access_tokens[access_token] = AccessToken(
            consent.app.client_id,
            consent.app,
            consent.auth_event_id,
            frozenset(consent.scopes),
            now + timedelta(seconds=life),
            consent,
        )
        fields: dict[str, object] = {}
        if "openid" in consent.scopes:
            user = self.users[consent.app.user_id]
            identity = id_claims(
                consent,
                now,
                self.switches,
                self.issuer,
                self._uuid(),
                user=user,
                access_token=access_token,
            )
            fields["id_token"] = self._mint(identity)
        fields |= {"access_token": access_token, "expires_in": life, "token_type": "Bearer"}
        successor = None
        if rotate and "offline_access" in consent.scopes:
            refresh_token = random_text(self._random, shape.refresh_token_length)
            successor = self._refresh_tokens[refresh_token] = RefreshToken(consent, now)
            fields["refresh_token"] = refresh_token
        fields["scope"] = " ".join(consent.scopes)
        return TokenAnswer(fields), successor
