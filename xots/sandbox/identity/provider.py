"""`Identity`: the identity provider of the simulated Xero."""

from __future__ import annotations

import random as random_module
from collections.abc import Iterable, Mapping
from datetime import datetime

from .authorization import denial, read_authorization
from .claims import Issue
from .clients import Client, User
from .consents import ConnectedApp, Connection, Consent, ConsentRegistry
from .counts import Counts
from .issuing import TokenIssuer
from .protocol import (
    AuthorizationRequest,
    BearerProblem,
    BearerRefused,
    Mint,
    OAuthError,
    OAuthErrorCode,
    Refusal,
    Shape,
    TokenResponse,
)
from .randomness import RandomTexts
from .switches import SiblingMode, Switches
from .tokens import AccessToken, Code, RefreshToken, TokenRegistry

__all__ = ["Identity"]

_PLAIN = Shape()


def _bare_jti(claims: Mapping[str, object]) -> str:
    return str(claims["jti"])


class Identity:
    """Authorization, tokens, revocation and connections of the simulated Xero.

    Args:
        clients: the registered apps.
        users: the users. The first one is the default.
        switches: the behaviour. The attribute may be replaced at any time.
        mint: makes a token's text from its claims. The default is the bare ``jti``, which is enough
            for a simulation.
        random: a seeded source makes a run repeatable.
        issuer: the ``iss`` of tokens and callbacks. The attribute may be replaced.
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
        self.tokens = TokenRegistry()
        self._texts = RandomTexts(random or random_module.SystemRandom())
        self._consents = ConsentRegistry(self._texts)
        self._token_issuer = TokenIssuer(self.tokens, self.users, self._texts, mint or _bare_jti)

    # ---------- clients

    def register(self, client: Client) -> None:
        """Add an app, or replace the one with the same client id."""
        self.clients[client.client_id] = client

    def authenticate(self, client_id: str | None, secret: str | None) -> Client:
        """Return the client with this id and secret. A public client must not send a secret.

        Raises:
            OAuthError: ``invalid_client``.
        """
        client = self.clients.get(client_id or "")
        if client is None or not client.enabled:
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "unknown client, or not enabled")
        if client.secret != secret:
            reason = "wrong secret" if client.secret else "public client"
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, reason)
        return client

    # ---------- authorization

    def check_authorization(self, parameters: Mapping[str, str]) -> AuthorizationRequest:
        """Read the query of an authorization request. See `read_authorization`.

        Raises:
            ErrorPage: the request is not valid.
            CallbackError: a scope is refused, and the switch says that the callback reports it.
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
        """Record that the user allows the request, and return the callback's parameters.

        Args:
            request: the authorization request.
            now: the current time.
            tenant_ids: the organisations to connect.
            user_id: the user; None is the first one.

        Raises:
            KeyError: the user is unknown.
        """
        user = next(iter(self.users.values())) if user_id is None else self.users[user_id]
        consent = self._consents.add(request, user.user_id, tenant_ids, now)
        self.counts.consents += 1
        code = self._texts.text(43)
        self.tokens.codes[code] = Code(request, consent, now)
        return self._callback(request, consent, code)

    def deny(self, request: AuthorizationRequest) -> dict[str, str]:
        """Return the callback's parameters when the user cancels."""
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
    ) -> TokenResponse:
        """Consent and exchange in one step, without a redirect. This is for tests."""
        client = self.clients[client_id]
        request = AuthorizationRequest(client_id, "", tuple(scopes))
        code = self.consent(request, now, tenant_ids=tenant_ids, user_id=user_id)["code"]
        return self.exchange(
            client, code, redirect_uri="", code_verifier=None, now=now, shape=shape
        )

    # ---------- tokens

    def exchange(
        self,
        client: Client,
        code: str,
        *,
        redirect_uri: str,
        code_verifier: str | None,
        now: datetime,
        shape: Shape = _PLAIN,
    ) -> TokenResponse:
        """Exchange an authorization code for tokens (RFC 6749, section 4.1.3).

        The first valid request consumes the code. A refused one does not.

        Raises:
            OAuthError: ``invalid_grant`` or ``unauthorized_client``.
        """
        _forbid_custom_connection(client)
        issued = self.tokens.codes.get(code)
        if issued is None or issued.request.client_id != client.client_id:
            raise self._refused("unknown code")
        refusal = issued.refusal(redirect_uri, code_verifier, now, self.switches)
        if refusal is not None:
            raise self._refused(refusal)
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
    ) -> TokenResponse:
        """Refresh (RFC 6749, section 6). Xero accepts a used token for 30 minutes more.

        Raises:
            OAuthError: ``invalid_grant`` (its ``reason`` is a Refusal), ``invalid_scope`` or
                ``unauthorized_client``.
        """
        _forbid_custom_connection(client)
        token = self._accepted(client, refresh_token, now)
        if not set((scope or "").split()) <= set(token.consent.scopes):
            raise OAuthError(OAuthErrorCode.INVALID_SCOPE, "more than was consented to")
        if token.response is not None and self.switches.sibling_mode is SiblingMode.SAME_RESPONSE:
            self.counts.replays += 1
            return TokenResponse(token.response.fields, replayed=True)
        self.counts.refreshes += 1
        if not self.switches.rotate:
            token.idle_since = now
            return self._issue(token.consent, now, shape, rotate=False)[0]
        return self._rotate(token, now, shape)

    def client_credentials(
        self, client: Client, now: datetime, *, scope: str | None = None, shape: Shape = _PLAIN
    ) -> TokenResponse:
        """Issue an access token of a custom connection: one organisation and no refresh token.

        Raises:
            OAuthError: ``unauthorized_client``, ``invalid_scope``, or the error of the switch
                ``custom_connections_refused``.
        """
        if client.custom_connection_tenant_id is None or client.secret is None:
            raise OAuthError(OAuthErrorCode.UNAUTHORIZED_CLIENT, "not a custom connection")
        if self.switches.custom_connections_refused is not None:
            raise OAuthError(self.switches.custom_connections_refused, "deactivated")
        scopes = tuple(dict.fromkeys((scope or "").split()))
        of_users = {"offline_access", "openid"}.intersection(scopes)
        if not scopes or of_users or client.refused_scopes(scopes):
            reason = "no scope, or one that a custom connection may not request"
            raise OAuthError(OAuthErrorCode.INVALID_SCOPE, reason)
        tenant_id = client.custom_connection_tenant_id
        consent = self._consents.add_custom(client.client_id, tenant_id, scopes, now)
        self.counts.exchanges += 1
        return self._issue(consent, now, shape)[0]

    def revoke(self, client: Client, refresh_token: str) -> bool:
        """Revoke (RFC 7009): end all tokens, connections and scopes that the user gave this app.

        A spent token works too, if its consent has not ended. An unknown token, a token of
        another client and a token of an ended consent have no effect.

        Returns:
            True if the request had an effect.
        """
        token = self.tokens.refresh_tokens.get(refresh_token)
        if token is None or token.consent.app.client_id != client.client_id:
            return False
        if token.consent.ended is not None:
            return False
        token.consent.app.end(Refusal.REVOKED)
        self.counts.revocations += 1
        return True

    # ---------- the API's side

    def check_access(self, access_token: str, now: datetime) -> AccessToken:
        """Return the record of a valid access token.

        Raises:
            BearerRefused: it is unknown or has expired.
        """
        access = self.tokens.access_tokens.get(access_token)
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
        """Return the user's connections to the token's app, or only those of one consent."""
        found = list(access.app.connections.values())
        if self.switches.shuffle_connections and found:
            self.counts.shuffles += 1
            first = self.counts.shuffles % len(found)
            found = found[first:] + found[:first]
        return [c for c in found if auth_event_id in (None, c.auth_event_id)]

    def disconnect(self, access: AccessToken, connection_id: str) -> bool:
        """Delete one of the user's connections to the token's app, whichever consent made it.

        Tokens stay valid, unless a switch says otherwise. Return False if it is unknown.
        """
        if not access.app.disconnect(connection_id):
            return False
        self.counts.disconnections += 1
        if self.switches.consents_end_without_connections:
            access.app.end_unconnected(Refusal.DISCONNECTED)
        return True

    # ---------- for assertions and simulations

    def refusal_of(self, refresh_token: str, now: datetime) -> Refusal | None:
        """Return the reason why a refresh with this token would be refused now, or None."""
        token = self.tokens.refresh_tokens.get(refresh_token)
        return Refusal.UNKNOWN if token is None else token.refusal(now, self.switches)

    def would_issue(self, refresh_token: str, now: datetime) -> bool:
        """Return True if a refresh with this token would succeed now."""
        return self.refusal_of(refresh_token, now) is None

    def usable_refresh_tokens(self, now: datetime) -> list[str]:
        """Return every refresh token that is valid now, oldest first."""
        return [text for text in self.tokens.refresh_tokens if self.would_issue(text, now)]

    def app(self, client_id: str, user_id: str | None = None) -> ConnectedApp | None:
        """Return an app as a user (by default the first) has connected it, or None."""
        return self._consents.app(client_id, next(iter(self.users)) if user_id is None else user_id)

    def apps(self, user_id: str) -> list[ConnectedApp]:
        """Return the apps to which a user has consents or connections, oldest first."""
        return self._consents.apps(user_id)

    def forget(self, client_id: str | None = None) -> int:
        """End every consent of one client, or of all, as if Xero had lost them.

        Returns:
            The number of ended consents.
        """
        return self._consents.end(Refusal.FORGOTTEN, client_id)

    def prune(self, now: datetime) -> None:
        """Drop codes and tokens that can have no effect any more. Long simulations stay
        small.

        The clock must not go back afterwards. A dropped token is unknown: reuse of such a refresh
        token no longer ends its chain, and such an access token is no longer "expired".
        """
        self.tokens.prune(now, self.switches)

    # ---------- private

    def _refused(self, reason: Refusal | str) -> OAuthError:
        self.counts.refusals += 1
        return OAuthError(OAuthErrorCode.INVALID_GRANT, reason)

    def _callback(
        self, request: AuthorizationRequest, consent: Consent, code: str
    ) -> dict[str, str]:
        switches = self.switches
        parameters = {"code": code}
        if switches.add_scope:
            parameters["scope"] = " ".join(consent.scopes)
        if request.state is not None:
            parameters["state"] = request.state
        if switches.add_session_state:
            parameters["session_state"] = f"{self._texts.text(43)}.{consent.session_id}"
        if switches.add_iss:
            parameters["iss"] = self.issuer
        return parameters

    def _accepted(self, client: Client, refresh_token: str, now: datetime) -> RefreshToken:
        """Return the record of a refresh token that this client may use now.

        Raises:
            OAuthError: ``invalid_grant``.
        """
        token = self.tokens.refresh_tokens.get(refresh_token)
        if token is None:
            raise self._refused(Refusal.UNKNOWN)
        if token.consent.app.client_id != client.client_id:
            raise self._refused(Refusal.FOREIGN)
        refusal = token.refusal(now, self.switches)
        if refusal is Refusal.SPENT and self.switches.late_reuse_kills_chain:
            token.consent.end(Refusal.CHAIN_KILLED)
        if refusal is not None:
            raise self._refused(refusal)
        return token

    def _rotate(self, token: RefreshToken, now: datetime, shape: Shape) -> TokenResponse:
        """Issue new tokens for a refresh token, and mark it as used."""
        token.kill_successors(self.switches.sibling_mode)
        token.response, successor = self._issue(token.consent, now, shape)
        token.first_used_at = token.first_used_at or now
        if successor is not None:
            token.successors.append(successor)
        return token.response

    def _issue(
        self, consent: Consent, now: datetime, shape: Shape, *, rotate: bool = True
    ) -> tuple[TokenResponse, RefreshToken | None]:
        issue = Issue(consent, now, self.switches, self.issuer)
        return self._token_issuer.issue(issue, shape, rotate=rotate)


def _forbid_custom_connection(client: Client) -> None:
    if client.custom_connection_tenant_id is not None:
        raise OAuthError(OAuthErrorCode.UNAUTHORIZED_CLIENT, "a custom connection")
