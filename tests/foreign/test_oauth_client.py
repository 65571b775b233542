"""A client from another project (Authlib) logs in, refreshes, verifies and revokes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.jwk import KeySet
from support.sandbox_caller import ORGANISATIONS, START

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_PKCE_CLIENT_ID,
    DEFAULT_REDIRECT_URI,
    Client,
    Outcome,
    Sandbox,
    SandboxOptions,
)

SCOPE = "openid profile email offline_access accounting.transactions accounting.settings"


def press_allow(authorize_url: str) -> str:
    """Submit the consent page's form unchanged, and return the callback's address."""
    page = requests.get(authorize_url, timeout=5)
    assert page.status_code == 200
    tenants = re.findall(r'name="tenant" value="([^"]+)" checked', page.text)
    form = {"tenant": tenants, "action": "allow"}
    response = requests.post(page.url, form, allow_redirects=False, timeout=5)
    assert response.status_code == 302
    return response.headers["Location"]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    clients = (Client(), Client(DEFAULT_PKCE_CLIENT_ID, None))
    options = SandboxOptions(port=0, clients=clients, organisations=ORGANISATIONS)
    async with Sandbox(options, clock=lambda: START) as running:
        yield running


@pytest.fixture
def insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


async def blocking(call: Callable[[], None]) -> None:
    await asyncio.to_thread(call)


@pytest.mark.usefixtures("insecure")
@pytest.mark.parametrize("public", [True, False])
async def test_authlib_logs_in_with_pkce_refreshes_and_revokes(
    sandbox: Sandbox, public: bool
) -> None:
    """A public client and a web app with PKCE do so, and verify tokens with the key set."""
    verifier = "0123456789-verifier-0123456789-verifier-0123456789"

    def session() -> None:
        with OAuth2Session(
            DEFAULT_PKCE_CLIENT_ID if public else DEFAULT_CLIENT_ID,
            None if public else DEFAULT_CLIENT_SECRET,
            token_endpoint_auth_method="none" if public else "client_secret_basic",
            revocation_endpoint_auth_method="none" if public else "client_secret_basic",
            scope=SCOPE,
            redirect_uri=DEFAULT_REDIRECT_URI,
            code_challenge_method="S256",
        ) as client:
            url, state = client.create_authorization_url(
                sandbox.authorize_url, code_verifier=verifier
            )
            callback = press_allow(url)
            assert parse_qs(urlsplit(callback).query)["state"] == [state]
            first = dict(
                client.fetch_token(
                    sandbox.token_url, authorization_response=callback, code_verifier=verifier
                )
            )
            assert first["scope"] == SCOPE

            keys = KeySet.import_key_set(requests.get(sandbox.jwks_url, timeout=5).json())
            for name, audience in (
                ("access_token", f"{sandbox.url}/resources"),
                ("id_token", client.client_id),
            ):
                claims = jwt.decode(first[name], keys, algorithms=["RS256"]).claims
                assert claims["iss"] == sandbox.url
                assert claims["aud"] == audience
                assert claims["exp"] > START.timestamp()

            second = dict(
                client.refresh_token(sandbox.token_url, refresh_token=first["refresh_token"])
            )
            assert second["refresh_token"] != first["refresh_token"]
            headers = {"Authorization": f"Bearer {second['access_token']}"}
            [connection] = requests.get(sandbox.connections_url, headers=headers, timeout=5).json()
            headers["xero-tenant-id"] = connection["tenantId"]
            found = requests.get(
                f"{sandbox.api_url}/Organisation", headers=headers, timeout=5
            ).json()
            assert found["Organisations"][0]["Name"] == connection["tenantName"] == "One Ltd"

            response = client.revoke_token(
                sandbox.revoke_url, token=second["refresh_token"], token_type_hint="refresh_token"
            )
            assert response.status_code == 200
            with pytest.raises(OAuthError, match="invalid_grant"):
                client.refresh_token(sandbox.token_url, refresh_token=second["refresh_token"])

    await blocking(session)
    assert [request.outcome for request in sandbox.refreshes()] == [Outcome.ISSUED, Outcome.REFUSED]


async def test_discovery_names_the_existing_endpoints(sandbox: Sandbox) -> None:
    """No address in the document is a 404."""

    def read() -> None:
        document = requests.get(f"{sandbox.url}/.well-known/openid-configuration", timeout=5).json()
        assert document["issuer"] == sandbox.url
        named = {
            name: url for name, url in document.items() if name.endswith(("_endpoint", "_uri"))
        }
        assert named == {
            "jwks_uri": sandbox.jwks_url,
            "authorization_endpoint": sandbox.authorize_url,
            "token_endpoint": sandbox.token_url,
            "revocation_endpoint": sandbox.revoke_url,
        }
        assert all(requests.get(url, timeout=5).status_code != 404 for url in named.values())

    await blocking(read)


async def test_the_signature_of_a_changed_token_is_refused(sandbox: Sandbox) -> None:
    """The key set verifies the tokens of this sandbox, unchanged."""
    from joserfc.errors import BadSignatureError

    from xots.sandbox.identity.signing import signing_key

    keys = KeySet.import_key_set(signing_key().key_set())  # type: ignore[arg-type]
    head, payload, signature = sandbox.log_in().access_token.split(".")
    other = sandbox.log_in().access_token.split(".")[1]
    jwt.decode(f"{head}.{payload}.{signature}", keys, algorithms=["RS256"])
    with pytest.raises(BadSignatureError):
        jwt.decode(f"{head}.{other}.{signature}", keys, algorithms=["RS256"])


async def test_the_key_set_is_stable_and_has_no_private_part(sandbox: Sandbox) -> None:
    """Clients may cache it."""

    def read() -> None:
        sets = [requests.get(sandbox.jwks_url, timeout=5).json() for _ in range(2)]
        assert sets[0] == sets[1]
        assert "d" not in sets[0]["keys"][0]

    await blocking(read)
