"""The requests: each one as the RFCs define it."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlsplit

from xots.secret import Secret
from xots.xero.connections import connections_request
from xots.xero.protocol import Credentials, Request
from xots.xero.requests import (
    authorize_url,
    code_challenge,
    exchange_request,
    new_code_verifier,
    refresh_request,
    revocation_request,
)

URL = "https://id.example/endpoint"
WEB_APP = Credentials(client_id="id", client_secret=Secret("a:b c"))
PKCE_APP = Credentials(client_id="id")


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


def test_the_authorize_url_holds_what_the_rfcs_require() -> None:
    """Response type, client, redirect, scopes, state and an S256 challenge, but no verifier."""
    verifier = new_code_verifier()
    url = authorize_url(
        "https://id.example/authorize",
        client_id="c d",
        redirect_uri="http://localhost:5001/code",
        scopes=("offline_access", "openid"),
        state="s",
        verifier=verifier,
    )
    assert {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()} == {
        "response_type": "code",
        "client_id": "c d",
        "redirect_uri": "http://localhost:5001/code",
        "scope": "offline_access openid",
        "state": "s",
        "code_challenge": code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    assert verifier not in url


def test_each_form_request_holds_the_fields_of_its_rfc() -> None:
    """RFC 6749 sections 6 and 4.1.3, RFC 7636 section 4.5, RFC 7009 section 2.1."""
    refresh = refresh_request(URL, WEB_APP, Secret("r"))
    exchange = exchange_request(
        URL, WEB_APP, code=Secret("c"), redirect_uri="http://x/code", verifier=Secret("v")
    )
    revocation = revocation_request(URL, WEB_APP, Secret("r"))
    assert {(one.method, one.url) for one in (refresh, exchange, revocation)} == {("POST", URL)}
    assert form_of(refresh) == {"grant_type": "refresh_token", "refresh_token": "r"}
    assert form_of(exchange) == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "http://x/code",
        "code_verifier": "v",
    }
    assert form_of(revocation) == {"token": "r", "token_type_hint": "refresh_token"}


def test_a_web_app_authenticates_by_http_basic_and_a_pkce_app_by_its_id() -> None:
    """RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined."""
    header = refresh_request(URL, WEB_APP, Secret("r")).headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")) == b"id:a%3Ab+c"
    without_secret = refresh_request(URL, PKCE_APP, Secret("r"))
    assert "Authorization" not in without_secret.headers
    assert form_of(without_secret)["client_id"] == "id"


def test_no_request_shows_a_secret_in_its_repr() -> None:
    """A request in a log or a traceback gives nothing away."""
    requests = (
        refresh_request(URL, WEB_APP, Secret("canary")),
        connections_request(URL, Secret("canary")),
    )
    assert "canary" not in repr(requests)
