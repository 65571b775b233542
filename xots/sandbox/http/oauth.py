"""The identity provider's endpoints for programs: token, revocation, key set and discovery."""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import unquote_plus

import tornado.web

from ..faults import Endpoint
from ..identity.clients import Client
from ..identity.protocol import OAuthError, OAuthErrorCode, Shape, TokenResponse
from ..identity.signing import signing_key
from ..log import Outcome, fingerprint
from ..world import World
from .handlers import SandboxHandler, single_values
from .responses import Response, json_response

__all__ = ["DiscoveryHandler", "KeySetHandler", "RevocationHandler", "TokenHandler"]

_FORM = "application/x-www-form-urlencoded"


class _ClientHandler(SandboxHandler):
    """Base of the endpoints that take a form from an authenticated client."""

    form: dict[str, str]
    is_form: bool

    def prepare(self) -> None:
        content_type, _, _ = self.request.headers.get("Content-Type", "").partition(";")
        form = single_values(self.request.body_arguments)
        self.form = form or {}
        self.is_form = content_type.strip().lower() == _FORM and form is not None
        self.findings.grant_type = self.form.get("grant_type")

    async def perform_for_client(
        self, endpoint: Endpoint, action: Callable[[Client, Shape], Response]
    ) -> None:
        """Authenticate the client and carry out its request, or refuse it."""

        def checked(shape: Shape) -> Response:
            try:
                return action(self._authenticated(), shape)
            except OAuthError as error:
                self.findings.outcome = Outcome.REFUSED
                self.findings.error, self.findings.reason = error.code, str(error.reason)
                return json_response(400, {"error": error.code})

        await self.perform(endpoint, checked)

    def required(self, name: str) -> str:
        """Return a field of the form. Raises OAuthError ``invalid_request`` if it is missing."""
        value = self.form.get(name)
        if not value:
            raise OAuthError(OAuthErrorCode.INVALID_REQUEST, f"no {name}")
        return value

    def note_token(self, name: str) -> None:
        """Note the fingerprint of the refresh token in this field."""
        if name in self.form:
            self.findings.token = fingerprint(self.form[name])

    def _authenticated(self) -> Client:
        """Return the client (RFC 6749, section 2.3.1).

        Raises:
            OAuthError: ``invalid_request`` for a body that is not a form, or ``invalid_client``.
        """
        if not self.is_form:
            reason = "not a form with each field once"
            raise OAuthError(OAuthErrorCode.INVALID_REQUEST, reason)
        client_id, secret = self.form.get("client_id"), self.form.get("client_secret")
        authorization = self.request.headers.get("Authorization")
        if authorization is not None:
            basic_id, secret = _basic(authorization)
            if client_id not in (None, basic_id):
                reason = "the body names another client than the header"
                raise OAuthError(OAuthErrorCode.INVALID_CLIENT, reason)
            client_id = basic_id
        self.findings.client_id = client_id
        return self.world.identity.authenticate(client_id, secret)


class TokenHandler(_ClientHandler):
    """POST /connect/token (RFC 6749, section 3.2)."""

    async def post(self) -> None:
        self.note_token("refresh_token")
        refresh = self.form.get("grant_type") == "refresh_token"
        endpoint = Endpoint.REFRESH if refresh else Endpoint.TOKEN
        await self.perform_for_client(endpoint, self._issue)

    def _issue(self, client: Client, shape: Shape) -> Response:
        tokens = self._grant(client, shape)
        self.findings.outcome = Outcome.REPLAYED if tokens.replayed else Outcome.ISSUED
        if tokens.refresh_token is not None:
            self.findings.issued = fingerprint(tokens.refresh_token)
        return json_response(200, dict(tokens.fields))

    def _grant(self, client: Client, shape: Shape) -> TokenResponse:
        identity, now, scope = self.world.identity, self.world.clock(), self.form.get("scope")
        match self.required("grant_type"):
            case "authorization_code":
                return identity.exchange(
                    client,
                    self.required("code"),
                    redirect_uri=self.required("redirect_uri"),
                    code_verifier=self.form.get("code_verifier"),
                    now=now,
                    shape=shape,
                )
            case "refresh_token":
                token = self.required("refresh_token")
                return identity.refresh(client, token, now, scope=scope, shape=shape)
            case "client_credentials":
                return identity.client_credentials(client, now, scope=scope, shape=shape)
            case _:
                raise OAuthError(OAuthErrorCode.UNSUPPORTED_GRANT_TYPE, "grant type")


class RevocationHandler(_ClientHandler):
    """POST /connect/revocation (RFC 7009)."""

    async def post(self) -> None:
        self.note_token("token")
        await self.perform_for_client(Endpoint.REVOCATION, self._revoke)

    def _revoke(self, client: Client, shape: Shape) -> Response:
        revoked = self.world.identity.revoke(client, self.required("token"))
        self.findings.outcome = Outcome.REVOKED if revoked else Outcome.SERVED
        return Response(200, headers={"Cache-Control": "no-store"})


class KeySetHandler(SandboxHandler):
    """GET /.well-known/openid-configuration/jwks (RFC 7517)."""

    async def get(self) -> None:
        await self.perform(Endpoint.JWKS, lambda shape: json_response(200, signing_key().key_set()))


class DiscoveryHandler(tornado.web.RequestHandler):
    """GET /.well-known/openid-configuration (OpenID Connect Discovery, section 4)."""

    def initialize(self, world: World) -> None:
        self.world = world

    def get(self) -> None:
        issuer = self.world.identity.issuer
        self.finish(
            {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/.well-known/openid-configuration/jwks",
                "authorization_endpoint": f"{issuer}/identity/connect/authorize",
                "token_endpoint": f"{issuer}/connect/token",
                "revocation_endpoint": f"{issuer}/connect/revocation",
                "response_types_supported": ["code"],
                "grant_types_supported": [
                    "authorization_code",
                    "refresh_token",
                    "client_credentials",
                ],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": [
                    "client_secret_basic",
                    "client_secret_post",
                    "none",
                ],
            }
        )


def _basic(authorization: str) -> tuple[str, str]:
    """Read id and secret from HTTP Basic, where both are form-encoded (RFC 6749, section 2.3.1).

    Raises:
        OAuthError: ``invalid_client``.
    """
    scheme, _, credentials = authorization.partition(" ")
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:
        decoded = ""
    name, colon, password = decoded.partition(":")
    if scheme.lower() != "basic" or not colon:
        reason = "the Authorization header is not HTTP Basic"
        raise OAuthError(OAuthErrorCode.INVALID_CLIENT, reason)
    return unquote_plus(name), unquote_plus(password)
