"""The identity provider's endpoints over HTTP: token, revocation, key set and discovery."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_plus

import tornado.web

from ..faults import Endpoint
from ..identity.clients import Client
from ..identity.protocol import OAuthError, OAuthErrorCode, Shape, TokenResponse
from ..identity.signing import signing_key
from ..log import Outcome, fingerprint
from ..world import World
from .handlers import SandboxHandler, single_values
from .responses import Reply, json_reply

__all__ = ["DiscoveryHandler", "KeySetHandler", "RevocationHandler", "TokenHandler"]


class _ClientHandler(SandboxHandler):
    """Base of the endpoints that take a form from an authenticated client."""

    form: dict[str, str]

    def reading_form(self) -> bool:
        """Read the form into ``form``; return whether it was one."""
        content_type = (
            self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        )
        form = single_values(self.request.body_arguments)
        self.form = form or {}
        self.findings.grant_type = self.form.get("grant_type")
        return content_type == "application/x-www-form-urlencoded" and form is not None

    def authenticated(self) -> Client:
        """Return the client that is asking (RFC 6749, section 2.3.1). Raises OAuthError ``invalid_client``."""
        client_id, secret = self.form.get("client_id"), self.form.get("client_secret")
        authorization = self.request.headers.get("Authorization")
        if authorization is not None:
            basic_id, secret = _basic(authorization)
            if client_id not in (None, basic_id):
                raise OAuthError(
                    OAuthErrorCode.INVALID_CLIENT, "the body names another client than the header"
                )
            client_id = basic_id
        self.findings.client_id = client_id
        return self.world.identity.authenticate(client_id, secret)

    def needed(self, name: str) -> str:
        """Return a field of the form. Raises OAuthError ``invalid_request``."""
        value = self.form.get(name)
        if not value:
            raise OAuthError(OAuthErrorCode.INVALID_REQUEST, f"no {name}")
        return value

    def refused(self, error: OAuthError) -> Reply:
        """Note the refusal, and return its answer."""
        self.findings.outcome = Outcome.REFUSED
        self.findings.error, self.findings.reason = error.code, str(error.reason)
        return json_reply(400, {"error": error.code})


class TokenHandler(_ClientHandler):
    """POST /connect/token (RFC 6749, section 3.2)."""

    async def post(self) -> None:
        is_form = self.reading_form()
        presented = self.form.get("refresh_token")
        if presented is not None:
            self.findings.token = fingerprint(presented)

        def act(shape: Shape) -> Reply:
            try:
                if not is_form:
                    raise OAuthError(  # noqa: TRY301
                        OAuthErrorCode.INVALID_REQUEST, "not a form with each field once"
                    )
                answer = self._grant(self.authenticated(), shape)
            except OAuthError as error:
                return self.refused(error)
            self.findings.outcome = Outcome.REPLAYED if answer.replayed else Outcome.ISSUED
            if answer.refresh_token is not None:
                self.findings.issued = fingerprint(answer.refresh_token)
            return json_reply(200, dict(answer.fields))

        refreshing = self.findings.grant_type == "refresh_token"
        await self.perform(Endpoint.REFRESH if refreshing else Endpoint.TOKEN, act)

    def _grant(self, client: Client, shape: Shape) -> TokenResponse:
        identity, now, form = self.world.identity, self.world.clock(), self.form
        match self.needed("grant_type"):
            case "authorization_code":
                return identity.exchange(
                    client,
                    self.needed("code"),
                    redirect_uri=self.needed("redirect_uri"),
                    code_verifier=form.get("code_verifier"),
                    now=now,
                    shape=shape,
                )
            case "refresh_token":
                token = self.needed("refresh_token")
                return identity.refresh(client, token, now, scope=form.get("scope"), shape=shape)
            case "client_credentials":
                return identity.client_credentials(
                    client, now, scope=form.get("scope"), shape=shape
                )
            case _:
                raise OAuthError(OAuthErrorCode.UNSUPPORTED_GRANT_TYPE, "grant type")


class RevocationHandler(_ClientHandler):
    """POST /connect/revocation (RFC 7009)."""

    async def post(self) -> None:
        is_form = self.reading_form()
        presented = self.form.get("token")
        if presented is not None:
            self.findings.token = fingerprint(presented)

        def act(shape: Shape) -> Reply:
            try:
                if not is_form:
                    raise OAuthError(  # noqa: TRY301
                        OAuthErrorCode.INVALID_REQUEST, "not a form with each field once"
                    )
                revoked = self.world.identity.revoke(self.authenticated(), self.needed("token"))
            except OAuthError as error:
                return self.refused(error)
            self.findings.outcome = Outcome.REVOKED if revoked else Outcome.SERVED
            return Reply(200, headers={"Cache-Control": "no-store"})

        await self.perform(Endpoint.REVOCATION, act)


class KeySetHandler(SandboxHandler):
    """GET /.well-known/openid-configuration/jwks (RFC 7517)."""

    async def get(self) -> None:
        await self.perform(Endpoint.JWKS, lambda shape: json_reply(200, signing_key().key_set()))


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
    """Read HTTP Basic; id and secret are form-encoded in it (RFC 6749, section 2.3.1)."""
    kind, _, credentials = authorization.partition(" ")
    try:
        if kind.lower() != "basic":
            raise ValueError(kind)  # noqa: TRY301
        name, colon, password = (
            base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
        )
        if not colon:
            raise ValueError(name)  # noqa: TRY301
    except (binascii.Error, ValueError):
        raise OAuthError(
            OAuthErrorCode.INVALID_CLIENT, "the Authorization header isn't HTTP Basic"
        ) from None
    return unquote_plus(name), unquote_plus(password)
