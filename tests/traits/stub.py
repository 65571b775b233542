"""A small identity server whose deviations from the common behaviour are one ``Trait``.

It is strict where RFC 6749 is: it checks each request and notes a violation of the client's rules.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus, urlencode

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.testing import bind_unused_port

__all__ = [
    "MISSING",
    "TENANT",
    "Reply",
    "Shape",
    "Stub",
    "Trait",
    "error",
    "json_reply",
    "plain",
]

MISSING: Final = object()
"""Stands for a member or a parameter that is left out."""

TENANT = "7c4e1f2a-0d3b-4f5c-8a6e-9b1c2d3e4f50"
"""The tenant id of the common organisation."""

Members = Mapping[str, object]


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Shape = Callable[[bytes], Reply]
"""Makes the response of the token endpoint from the JSON with the tokens."""


def json_reply(content: object, status: int = 200, **headers: str) -> Reply:
    """Return a JSON response. Underscores in the names of headers become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(content).encode()
    return Reply(body, status, {"Content-Type": "application/json", **named})


def plain(tokens: bytes) -> Reply:
    """Return the common response with tokens (RFC 6749 section 5.1)."""
    return Reply(tokens, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


def error(code: object, status: int = 400, **headers: str) -> Shape:
    """Return a shape that holds an error instead of tokens (RFC 6749 section 5.2)."""
    return lambda tokens: json_reply({"error": code}, status, **headers)


@dataclass(frozen=True, kw_only=True)
class Trait:
    """The deviations of one identity server from the common behaviour. Each default is common."""

    auth: str = "basic"
    """The client authentication that it demands: basic, post, or none for a public client."""
    client_id: str = "client"
    client_secret: str = "secret-canary"
    own_query: Members = field(default_factory=dict)
    """The parameters in the query of its endpoints, which each request must retain."""
    scope: str | None = "offline_access books"
    """The scope that the authorization request must name; None if it must name none."""
    pkce: bool = True
    """It demands PKCE (RFC 7636); if not, it permits none."""
    login_elsewhere: bool = False
    """The authorization endpoint leads to a login page on another origin."""
    code: str = "code-1"
    callback: Members = field(default_factory=dict)
    """Changes to the parameters of the authorization response."""
    tokens: Members = field(default_factory=dict)
    """Changes to the members of each token response."""
    refreshed: Members = field(default_factory=dict)
    """Further changes to those of a refresh."""
    exchange: Shape = plain
    """The response to the first request for tokens: a code's, or the client's own."""
    refreshes: tuple[Shape, ...] = ()
    """The responses to the first refreshes; later ones are plain."""
    strict: bool = False
    """A spent refresh token is refused from then on."""
    lists: tuple[Reply, ...] = (json_reply([{"id": "c1", "tenantId": TENANT}]),)
    """The responses of the connections endpoint; the last one repeats."""
    revocation: Reply = field(default_factory=Reply)
    """The response of the revocation endpoint."""


class Stub:
    """The identity server, on a free port of loopback.

    Args:
        trait: its deviations.
    """

    def __init__(self, trait: Trait) -> None:
        self.trait = trait
        self.violations: list[str] = []
        """What the client did against its rules. A value from a request is never among them."""
        self.authorizations: list[dict[str, str]] = []
        """The parameters of the authorization requests."""
        self.grants: list[dict[str, str]] = []
        """Those of the token requests with the right client authentication."""
        self.revoked: list[str] = []
        """The tokens that were to be revoked."""
        self.issued = 0
        """The number of token responses."""
        self._lists = 0
        self._usable: set[str] = set()
        """The refresh tokens that it accepts."""
        listening, self.port = bind_unused_port()
        self._server = HTTPServer(self._serve)
        self._server.add_socket(listening)

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def elsewhere(self) -> str:
        """The origin of its login page, if that is another one."""
        return f"http://localhost:{self.port}"

    async def stop(self) -> None:
        """Close all sockets."""
        self._server.stop()
        await self._server.close_all_connections()

    @property
    def spent(self) -> list[str]:
        """The refresh tokens that were sent, in order."""
        return [form["refresh_token"] for form in self.grants if "refresh_token" in form]

    # ---------- requests

    def _serve(self, request: HTTPServerRequest) -> None:
        reply = self._reply(request)
        headers = HTTPHeaders(dict(reply.headers))
        if reply.status != HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(reply.body))
        line = ResponseStartLine("HTTP/1.1", reply.status, HTTPStatus(reply.status).phrase)
        assert request.connection is not None
        request.connection.write_headers(line, headers, reply.body)
        request.connection.finish()

    def _reply(self, request: HTTPServerRequest) -> Reply:
        query = self._parameters(request.query)
        routes: dict[tuple[str | None, str], Callable[[], Reply]] = {
            ("GET", "/authorize"): lambda: self._authorize(query),
            ("GET", "/login"): lambda: self._call_back(query),
            ("POST", "/token"): lambda: self._token(request, query),
            ("POST", "/revoke"): lambda: self._revoke(request, query),
            ("GET", "/connections"): lambda: self._connections(request),
        }
        route = routes.get((request.method, request.path))
        if route is None:
            self.violations.append(f"{request.method} {request.path}: there is no such endpoint")
            return Reply(status=404)
        return route()

    def _parameters(self, text: str) -> dict[str, str]:
        pairs = parse_qsl(text, keep_blank_values=True)
        self._demand(len(dict(pairs)) == len(pairs), "a parameter occurs twice (section 3.1)")
        self._demand(all(value for _, value in pairs), "a parameter has no value (section 3.1)")
        return dict(pairs)

    def _demand(self, is_met: bool, rule: str) -> None:
        if not is_met:
            self.violations.append(rule)

    def _demand_own(self, query: Mapping[str, str]) -> None:
        kept = self.trait.own_query.items() <= query.items()
        self._demand(kept, "the query of the endpoint is not retained (sections 3.1 and 3.2)")

    # ---------- the authorization endpoint

    def _authorize(self, query: dict[str, str]) -> Reply:
        """Section 4.1.1; the user agrees at once."""
        self.authorizations.append(query)
        trait = self.trait
        self._demand_own(query)
        self._demand(query.get("response_type") == "code", "response_type is not code")
        self._demand(query.get("client_id") == trait.client_id, "another client_id")
        self._demand(query.get("scope") == trait.scope, "another scope than the settings name")
        self._demand(len(query.get("state", "")) >= 20, "no state that cannot be guessed")
        challenge, method = query.get("code_challenge"), query.get("code_challenge_method")
        self._demand((method == "S256") == trait.pkce == bool(challenge), "PKCE, or its absence")
        if trait.login_elsewhere:
            location = f"{self.elsewhere}/login?{urlencode(query)}"
            return Reply(status=302, headers={"Location": location})
        return self._call_back(query)

    def _call_back(self, query: dict[str, str]) -> Reply:
        """Section 4.1.2: redirect to the client, with each value form-encoded once."""
        parameters = _changed(
            {"code": self.trait.code, "state": query.get("state", "")}, self.trait.callback
        )
        named = {name: str(value).replace("STUB", self.url) for name, value in parameters.items()}
        location = f"{query.get('redirect_uri')}?{urlencode(named)}"
        return Reply(status=302, headers={"Location": location})

    # ---------- the token endpoint

    def _token(self, request: HTTPServerRequest, query: dict[str, str]) -> Reply:
        """Sections 4.1.3, 4.4.2 and 6."""
        form = self._form(request)
        self._demand_own(query)
        if not self._is_authenticated(request, form):
            return json_reply({"error": "invalid_client"}, 401, WWW_Authenticate='Basic realm="x"')
        self.grants.append(form)
        match form.get("grant_type"):
            case "authorization_code":
                return self._exchange(form)
            case "refresh_token":
                return self._refresh(form)
            case "client_credentials":
                self._demand(form.get("scope") == self.trait.scope, "another scope (section 4.4.2)")
                return self._issue({}, self.trait.exchange if self.issued == 0 else plain)
        return json_reply({"error": "unsupported_grant_type"}, 400)

    def _form(self, request: HTTPServerRequest) -> dict[str, str]:
        is_form = request.headers.get("Content-Type") == "application/x-www-form-urlencoded"
        self._demand(is_form, "the body is not a form (section 3.2)")
        accepted = request.headers.get("Accept-Encoding")
        self._demand(accepted in (None, "identity"), "a coding that the client did not mean")
        return self._parameters(request.body.decode())

    def _is_authenticated(self, request: HTTPServerRequest, form: Mapping[str, str]) -> bool:
        """Section 2.3.1; section 2.3 permits one way in each request."""
        trait, header = self.trait, request.headers.get("Authorization", "")
        in_form = (form.get("client_id"), form.get("client_secret"))
        if trait.auth == "basic":
            scheme, _, value = header.partition(" ")
            pair = base64.b64decode(value).decode().split(":")
            sent = [unquote_plus(part) for part in pair]
            right = scheme == "Basic" and sent == [trait.client_id, trait.client_secret]
            return right and in_form[1] is None
        secret = trait.client_secret if trait.auth == "post" else None
        return not header and in_form == (trait.client_id, secret)

    def _exchange(self, form: Mapping[str, str]) -> Reply:
        started = self.authorizations[-1]
        self._demand(form.get("code") == self.trait.code, "another code than it was issued")
        same_uri = form.get("redirect_uri") == started.get("redirect_uri")
        self._demand(same_uri, "another redirect_uri (section 4.1.3)")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        verified = not self.trait.pkce or challenge == started.get("code_challenge")
        self._demand(verified, "another code_verifier (RFC 7636 section 4.6)")
        return self._issue({}, self.trait.exchange)

    def _refresh(self, form: Mapping[str, str]) -> Reply:
        token = form["refresh_token"]
        if token not in self._usable:
            return json_reply({"error": "invalid_grant"}, 400)
        shapes = [*self.trait.refreshes, *[plain] * len(self.spent)]
        reply = self._issue(self.trait.refreshed, shapes[len(self.spent) - 1])
        if self.trait.strict:
            self._usable.discard(token)
        return reply

    def _issue(self, changes: Members, shape: Shape) -> Reply:
        """Return a token response (section 5.1). Its tokens are numbered."""
        number = self.issued + 1
        members = {
            "access_token": f"access-{number}",
            "token_type": "Bearer",
            "expires_in": 1800,
            "refresh_token": f"refresh-{number}",
            "scope": self.trait.scope or MISSING,
        }
        content = _changed(_changed(members, self.trait.tokens), changes)
        reply = shape(json.dumps(content).encode())
        if reply.status < 300:
            self.issued = number
            self._usable.add(str(content.get("refresh_token")))
        return reply

    # ---------- the others

    def _revoke(self, request: HTTPServerRequest, query: dict[str, str]) -> Reply:
        """RFC 7009 section 2.1."""
        form = self._form(request)
        self._demand_own(query)
        self._demand(self._is_authenticated(request, form), "no client authentication")
        self.revoked.append(form.get("token", ""))
        return self.trait.revocation

    def _connections(self, request: HTTPServerRequest) -> Reply:
        bearer = request.headers.get("Authorization")
        self._demand(bearer == f"Bearer access-{self.issued}", "another token (RFC 6750)")
        self._lists += 1
        lists = self.trait.lists
        return lists[min(self._lists, len(lists)) - 1]


def _changed(members: Members, changes: Members) -> dict[str, Any]:
    merged = {**members, **changes}
    return {name: value for name, value in merged.items() if value is not MISSING}
