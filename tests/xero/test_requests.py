"""The requests: each one as the RFCs define it."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import pytest
from msgspec.structs import replace

from xots.secret import Secret
from xots.xero.connections import connections_request
from xots.xero.identity_server import ClientAuth, IdentityServer
from xots.xero.protocol import Credentials, Request
from xots.xero.requests import (
    authorize_url,
    client_credentials_request,
    code_challenge,
    exchange_request,
    new_code_verifier,
    refresh_request,
    revocation_request,
)

SERVER = IdentityServer(
    authorize_url="https://id.example/authorize",
    token_url="https://id.example/token",
    revoke_url="https://id.example/revoke",
)
WEB_APP = Credentials(client_id="id", client_secret=Secret("a:b c"))
PKCE_APP = Credentials(client_id="id")
ALWAYS = {"response_type", "client_id", "redirect_uri", "state"}
"""The parameters of every login."""


def form_of(request: Request) -> dict[str, str]:
    """The fields of a form request."""
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


def test_pkce_matches_the_example_of_the_rfc() -> None:
    """RFC 7636 appendix B; a verifier has a length and characters that the RFC permits."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )
    verifier = new_code_verifier()
    assert 43 <= len(verifier) <= 128
    assert all(c.isascii() and (c.isalnum() or c in "-._~") for c in verifier)


def query_of(server: IdentityServer, scopes: tuple[str, ...] = (), verifier: str = "") -> str:
    """The query of the URL of a login there."""
    url = authorize_url(
        server,
        client_id="c d",
        redirect_uri="http://localhost:5001/code",
        scopes=scopes,
        state="s",
        verifier=verifier or None,
    )
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "id.example", "/authorize")
    return parts.query


def test_the_authorize_url_holds_what_the_rfcs_require() -> None:
    """Response type, client, redirect, scopes, state and an S256 challenge, but no verifier."""
    verifier = new_code_verifier()
    query = query_of(SERVER, ("offline_access", "openid"), verifier)
    assert dict(parse_qsl(query, strict_parsing=True)) == {
        "response_type": "code",
        "client_id": "c d",
        "redirect_uri": "http://localhost:5001/code",
        "scope": "offline_access openid",
        "state": "s",
        "code_challenge": code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    assert verifier not in query


def test_without_scopes_or_pkce_their_parameters_are_left_out() -> None:
    """RFC 6749 section 3.3: the server chooses the scopes, and an empty ``scope`` is malformed."""
    assert {name for name, _ in parse_qsl(query_of(SERVER), keep_blank_values=True)} == ALWAYS


@pytest.mark.parametrize(
    ("query", "params", "expected"),
    [
        ("", (("prompt", "consent"),), ["prompt=consent"]),
        ("", (("a", "x y&z=1"), ("b", "")), ["a=x+y%26z%3D1", "b="]),
        ("p=B2C%5F1", (), ["p=B2C%5F1"]),
        ("p=1&flag&&q=%20", (("a", "1"),), ["p=1", "flag", "q=%20", "a=1"]),
        ("prompt=none&p=1", (("prompt", "consent"),), ["p=1", "prompt=consent"]),
        ("state=x&st%61te=y&p=1", (("state", "z"), ("a", "1")), ["p=1", "a=1"]),
        ("scope=x", (("scope", "y"),), []),
        ("response_mode=form_post", (("code_challenge", "x"),), []),
    ],
)
def test_the_query_and_the_parameters_of_the_settings_are_kept(
    query: str, params: tuple[tuple[str, str], ...], expected: list[str]
) -> None:
    """RFC 6749 section 3.1: the query is kept as it is written, and no parameter occurs twice."""
    url = f"https://id.example/authorize?{query}"
    found = query_of(replace(SERVER, authorize_url=url, authorize_params=params)).split("&")
    names = [unquote_plus(pair.partition("=")[0]) for pair in found]
    assert len(set(names)) == len(names)
    assert [pair for pair, name in zip(found, names, strict=True) if name not in ALWAYS] == expected
    assert dict(parse_qsl("&".join(found)))["state"] == "s"


def test_each_form_request_holds_the_fields_of_its_rfc() -> None:
    """RFC 6749 sections 6, 4.1.3 and 4.4.2, RFC 7636 section 4.5, RFC 7009 section 2.1."""
    refresh = refresh_request(SERVER, WEB_APP, Secret("r"))
    exchange = exchange_request(
        SERVER, WEB_APP, code=Secret("c"), redirect_uri="http://x/code", verifier=Secret("v")
    )
    own_token = client_credentials_request(SERVER, WEB_APP, ("a", "b"))
    revocation = revocation_request(SERVER, WEB_APP, Secret("r"))
    for one, url in (
        (refresh, SERVER.token_url),
        (exchange, SERVER.token_url),
        (own_token, SERVER.token_url),
        (revocation, SERVER.revoke_url),
    ):
        assert (one.method, one.url) == ("POST", url)
        assert one.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form_of(refresh) == {"grant_type": "refresh_token", "refresh_token": "r"}
    assert form_of(exchange) == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "http://x/code",
        "code_verifier": "v",
    }
    assert form_of(own_token) == {"grant_type": "client_credentials", "scope": "a b"}
    assert form_of(revocation) == {"token": "r", "token_type_hint": "refresh_token"}


def test_a_request_of_the_client_itself_names_scopes_only_if_there_are_any() -> None:
    """RFC 6749 section 4.4.2: ``scope`` is optional, and it must not be empty (section 3.3)."""
    request = client_credentials_request(SERVER, WEB_APP, ())
    assert form_of(request) == {"grant_type": "client_credentials"}


BASIC = "Basic " + base64.b64encode(b"id:a%3Ab+c").decode()


@pytest.mark.parametrize(
    ("client_auth", "client", "header", "fields"),
    [
        (ClientAuth.BASIC, WEB_APP, BASIC, {}),
        (ClientAuth.BASIC, PKCE_APP, None, {"client_id": "id"}),
        (ClientAuth.POST, WEB_APP, None, {"client_id": "id", "client_secret": "a:b c"}),
        (ClientAuth.POST, PKCE_APP, None, {"client_id": "id"}),
        (ClientAuth.NONE, WEB_APP, None, {"client_id": "id"}),
        (ClientAuth.NONE, PKCE_APP, None, {"client_id": "id"}),
    ],
)
def test_the_client_authenticates_as_the_server_demands(
    client_auth: ClientAuth, client: Credentials, header: str | None, fields: dict[str, str]
) -> None:
    """RFC 6749 sections 2.3.1 and 3.2.1: in one way only, with each request, and never in the URL.
    For the header, id and secret are form-encoded before they are joined."""
    server = replace(SERVER, client_auth=client_auth)
    for request in (
        refresh_request(server, client, Secret("r")),
        exchange_request(server, client, code=Secret("c"), redirect_uri="u", verifier=None),
        client_credentials_request(server, client, ()),
        revocation_request(server, client, Secret("r")),
    ):
        assert request.headers.get("Authorization") == header
        form = form_of(request)
        assert {name: form[name] for name in form if name.startswith("client_")} == fields
        assert "?" not in request.url


@pytest.mark.parametrize("client_auth", ClientAuth)
def test_no_request_shows_a_secret_in_its_repr(client_auth: ClientAuth) -> None:
    """A request in a log or a traceback gives nothing away."""
    server = replace(SERVER, client_auth=client_auth)
    client = Credentials(client_id="id", client_secret=Secret("canary"))
    requests = (
        refresh_request(server, client, Secret("canary")),
        exchange_request(
            server, client, code=Secret("canary"), redirect_uri="u", verifier=Secret("canary")
        ),
        client_credentials_request(server, client, ()),
        revocation_request(server, client, Secret("canary")),
        connections_request(server.connections_url, Secret("canary")),
    )
    assert "canary" not in repr(requests)
