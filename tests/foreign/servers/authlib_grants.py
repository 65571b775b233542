"""A foreign identity server for the tests: Authlib's grants, served by Tornado.

It issues refresh tokens without ``offline_access``, accepts ``client_secret_post`` only, demands
PKCE, rotates refresh tokens, and revokes none. It listens on a free port, prints its URL, and
serves until its process is ended. Its user is "ada" with the password "lovelace"; the command line
gives its client.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from dataclasses import dataclass
from typing import Any

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # http on loopback

from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    AuthorizationServer,
    ClientMixin,
    OAuth2Error,
    OAuth2Request,
    TokenMixin,
    grants,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

USER, PASSWORD = "ada", "lovelace"
METHOD = "client_secret_post"
SCOPES = frozenset({"books"})
LIFETIME_SECONDS = 1800

FORM = '<form method="post"><input name="username"><input name="password" type="password"></form>'


# ---------- what the server knows


@dataclass(frozen=True)
class Client(ClientMixin):  # type: ignore[misc]
    client_id: str
    client_secret: str
    redirect_uri: str

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(name for name in (scope or "").split() if name in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(client_secret, self.client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == METHOD

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")


@dataclass(frozen=True)
class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    redirect_uri: str
    scope: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass(frozen=True)
class Token(TokenMixin):  # type: ignore[misc]
    refresh_token: str
    scope: str

    def check_client(self, client: Client) -> bool:
        return client == CLIENT

    def get_scope(self) -> str:
        return self.scope


CLIENT = Client(*sys.argv[1:4])
CODES: dict[str, Code] = {}
TOKENS: dict[str, Token] = {}
"""The live refresh tokens."""


# ---------- the grants


class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = [METHOD]

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        data = request.payload.data
        CODES[code] = Code(
            redirect_uri=data["redirect_uri"],
            scope=CLIENT.get_allowed_scope(data.get("scope")),
            code_challenge=data["code_challenge"],
            code_challenge_method=data["code_challenge_method"],
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return CODES.pop(code, None)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        pass  # its query has removed it

    def authenticate_user(self, authorization_code: Code) -> str:
        return USER


class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = [METHOD]
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        return TOKENS.get(refresh_token)

    def authenticate_user(self, refresh_token: Token) -> str:
        return USER

    def revoke_old_credential(self, refresh_token: Token) -> None:
        del TOKENS[refresh_token.refresh_token]


# ---------- Authlib on Tornado


class Request(OAuth2Request):  # type: ignore[misc]
    """A request of Tornado, as Authlib reads it. No parameter occurs twice."""

    def __init__(self, request: HTTPServerRequest) -> None:
        super().__init__(request.method, request.full_url(), headers=request.headers)
        self.payload = BasicOAuth2Payload(_texts(request.arguments))
        self._form = _texts(request.body_arguments)
        self._args = _texts(request.query_arguments)

    @property
    def form(self) -> dict[str, str]:
        return self._form

    @property
    def args(self) -> dict[str, str]:
        return self._args


def _texts(arguments: dict[str, list[bytes]]) -> dict[str, str]:
    return {name: values[-1].decode() for name, values in arguments.items()}


class Grants(AuthorizationServer):  # type: ignore[misc]
    """Its responses are triples of status, body and headers."""

    def query_client(self, client_id: str) -> Client | None:
        return CLIENT if client_id == CLIENT.client_id else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        TOKENS[token["refresh_token"]] = Token(token["refresh_token"], token.get("scope", ""))

    def create_oauth2_request(self, request: HTTPServerRequest) -> Request:
        return Request(request)

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, Any]:
        return status, body, headers

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        pass


def new_token(*_: object, **__: object) -> str:
    return secrets.token_urlsafe(32)


GRANTS = Grants()
GRANTS.register_grant(CodeGrant, [CodeChallenge(required=True)])
GRANTS.register_grant(RefreshGrant)
GRANTS.register_token_generator(
    "default", BearerTokenGenerator(new_token, new_token, lambda *_: LIFETIME_SECONDS)
)


# ---------- HTTP


class Handler(RequestHandler):
    def respond(self, response: tuple[int, Any, Any]) -> None:
        status, body, headers = response
        self.set_status(status)
        for name, value in headers:
            self.set_header(name, value)
        self.finish(body or None)


class Authorize(Handler):
    """The login is the consent too."""

    def get(self) -> None:
        try:
            GRANTS.get_consent_grant(self.request)
        except OAuth2Error as error:
            self.respond(error())
        else:
            self.finish(FORM)

    def post(self) -> None:
        given = self.get_body_argument("username"), self.get_body_argument("password")
        if given != (USER, PASSWORD):
            self.finish(FORM)
            return
        try:
            grant = GRANTS.get_consent_grant(self.request)
        except OAuth2Error as error:
            self.respond(error())
        else:
            self.respond(grant.create_authorization_response(CLIENT.redirect_uri, USER))


class TokenEndpoint(Handler):
    def post(self) -> None:
        self.respond(GRANTS.create_token_response(self.request))


async def main() -> None:
    [socket] = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/authorize", Authorize), ("/token", TokenEndpoint)]))
    server.add_sockets([socket])
    print(f"http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
