"""The token and revocation endpoints."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from support.sandbox_caller import (
    CHALLENGE,
    CUSTOM_CLIENT,
    NEW_CLIENT,
    ORGANISATIONS,
    VERIFIER,
    Caller,
)

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_PKCE_CLIENT_ID,
    Client,
    Outcome,
    Sandbox,
    Switches,
    fingerprint,
)

PUBLIC = Client(DEFAULT_PKCE_CLIENT_ID, None)
PKCE = {
    "client_id": DEFAULT_PKCE_CLIENT_ID,
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


async def test_the_response_has_xeros_fields_in_xeros_order(caller: Caller) -> None:
    """``scope`` is one string, and the response must not be cached."""
    response = await caller.log_in(scope="openid profile email offline_access accounting.contacts")
    assert response.status == 200
    assert list(response.json) == [
        "id_token",
        "access_token",
        "expires_in",
        "token_type",
        "refresh_token",
        "scope",
    ]
    assert response.json["expires_in"] == 1800
    assert response.json["token_type"] == "Bearer"
    assert response.json["scope"] == "openid profile email offline_access accounting.contacts"
    assert response.headers["cache-control"] == "no-store"


async def test_without_offline_access_and_openid_there_is_only_an_access_token(
    caller: Caller,
) -> None:
    """The first gives a refresh token, the second an ID token."""
    assert list((await caller.log_in(scope="accounting.contacts")).json) == [
        "access_token",
        "expires_in",
        "token_type",
        "scope",
    ]


async def test_the_access_token_has_xeros_claims_and_size(caller: Caller, sandbox: Sandbox) -> None:
    """It has 1.2 to 2.2 kB, and ``scope`` is a list."""
    token = (await caller.log_in()).json["access_token"]
    claims = claims_of(token)
    now = int(sandbox.clock().timestamp())
    assert 1200 <= len(token) <= 2200
    assert claims["exp"] == now + 1800
    assert claims["nbf"] == now
    assert claims["scope"] == ["offline_access", "accounting.transactions"]
    assert claims["client_id"] == DEFAULT_CLIENT_ID
    assert claims["iss"] == sandbox.url
    needed = {
        "aud",
        "sub",
        "auth_time",
        "xero_userid",
        "global_session_id",
        "jti",
        "authentication_event_id",
    }
    assert needed <= claims.keys()


async def test_switches_change_the_lifetime_omit_the_event_and_skew_the_clock(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A skewed clock writes other times, and the real lifetime stays the same."""
    sandbox.identity.switches = Switches(
        access_token_life_seconds=60, omit_authentication_event_id=True, clock_skew_seconds=-600
    )
    response = await caller.log_in()
    claims = claims_of(response.json["access_token"])
    assert response.json["expires_in"] == 60
    assert claims["exp"] == int(sandbox.clock().timestamp()) - 540
    assert "authentication_event_id" not in claims
    assert (await caller.api("/connections", response.json["access_token"])).status == 200


async def test_a_code_is_used_once(caller: Caller, sandbox: Sandbox) -> None:
    """The tokens of the first exchange stay valid."""
    code = (await caller.consent()).callback["code"]
    first, second = await caller.exchange(code), await caller.exchange(code)
    assert (first.status, second.status, second.json) == (200, 400, {"error": "invalid_grant"})
    assert sandbox.identity.would_issue(first.json["refresh_token"], sandbox.clock())


async def test_a_code_lives_five_minutes(caller: Caller, sandbox: Sandbox) -> None:
    """It is valid in its last second."""
    young, old = [(await caller.consent()).callback["code"] for _ in range(2)]
    sandbox.clock.advance(299)
    assert (await caller.exchange(young)).status == 200
    sandbox.clock.advance(1)
    assert (await caller.exchange(old)).json == {"error": "invalid_grant"}


async def test_a_refused_exchange_does_not_consume_the_code(caller: Caller) -> None:
    """Wrong case, client, redirect URI or verifier are refused. The right request succeeds then."""
    code = (await caller.consent()).callback["code"]
    assert (await caller.exchange(code.swapcase())).json == {"error": "invalid_grant"}
    assert (await caller.exchange(f" {code}")).json == {"error": "invalid_grant"}
    assert (await caller.exchange(code, NEW_CLIENT)).json == {"error": "invalid_grant"}
    assert (await caller.exchange(code, redirect_uri="http://localhost:5001/")).json == {
        "error": "invalid_grant"
    }
    assert (await caller.exchange(code, code_verifier=VERIFIER)).json == {"error": "invalid_grant"}
    assert (await caller.exchange(code)).status == 200


async def test_a_public_client_needs_the_verifier_of_its_challenge(caller: Caller) -> None:
    """A missing, wrong or malformed one is refused, and does not consume the code."""
    code = (await caller.consent(**PKCE)).callback["code"]
    assert (await caller.exchange(code, PUBLIC)).json == {"error": "invalid_grant"}
    for wrong in ("w" * 43, VERIFIER[:42], VERIFIER * 3, "é" * 43):
        assert (await caller.exchange(code, PUBLIC, code_verifier=wrong)).json == {
            "error": "invalid_grant"
        }
    response = await caller.exchange(code, PUBLIC, code_verifier=VERIFIER)
    assert response.status == 200
    assert (await caller.refresh(response.json["refresh_token"], PUBLIC)).status == 200


async def test_a_web_app_may_add_pkce_and_still_sends_its_secret(caller: Caller) -> None:
    """With a challenge, it must send the verifier too."""
    code = (await caller.consent(code_challenge=CHALLENGE, code_challenge_method="S256")).callback[
        "code"
    ]
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}
    assert (await caller.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_scopes_are_additive_until_revocation(caller: Caller) -> None:
    """A later consent has the earlier scopes too. Only a revocation removes them."""
    await caller.log_in(scope="offline_access accounting.contacts")
    second = await caller.log_in(scope="accounting.settings.read")
    assert second.json["scope"] == "offline_access accounting.contacts accounting.settings.read"
    await caller.revoke(second.json["refresh_token"])
    third = await caller.log_in(scope="accounting.settings.read")
    assert third.json["scope"] == "accounting.settings.read"


CREDENTIALS = [
    ({}, None),
    ({"client_id": DEFAULT_CLIENT_ID}, None),
    ({"client_id": DEFAULT_CLIENT_ID, "client_secret": "wrong"}, None),
    ({}, (DEFAULT_CLIENT_ID, "wrong")),
    ({}, (DEFAULT_CLIENT_ID, "")),
    ({}, ("unknown", "sandbox-secret-opens-nothing")),
    ({"client_id": "another"}, (DEFAULT_CLIENT_ID, "sandbox-secret-opens-nothing")),
    ({"client_id": DEFAULT_PKCE_CLIENT_ID, "client_secret": "some"}, None),
    ({}, (DEFAULT_PKCE_CLIENT_ID, "")),
]


@pytest.mark.parametrize(("form", "basic"), CREDENTIALS)
@pytest.mark.parametrize("path", ["/connect/token", "/connect/revocation"])
async def test_an_unauthenticated_client_is_invalid_client_before_any_other_error(
    caller: Caller, path: str, form: dict[str, str], basic: tuple[str, str] | None
) -> None:
    """The rest of the request is not even read."""
    response = await caller.post(path, {"grant_type": "nonsense", **form}, basic=basic)
    assert (response.status, response.json) == (400, {"error": "invalid_client"})


async def test_a_refused_client_spends_nothing(caller: Caller, sandbox: Sandbox) -> None:
    """With the new secret the same token works, also after the grace period."""
    token = sandbox.log_in().refresh_token
    sandbox.identity.register(Client(secret="renewed"))
    assert (await caller.refresh(token)).json == {"error": "invalid_client"}
    sandbox.clock.advance(3600)
    assert (await caller.refresh(token, Client(secret="renewed"))).status == 200


async def test_the_body_may_have_id_and_secret(caller: Caller, sandbox: Sandbox) -> None:
    """This is the alternative to HTTP Basic."""
    client = Client()
    form = {"client_id": client.client_id, "client_secret": client.secret or ""}
    form |= {"grant_type": "refresh_token", "refresh_token": sandbox.log_in().refresh_token or ""}
    assert (await caller.post("/connect/token", form)).status == 200


async def test_basic_credentials_are_form_encoded_in_the_header(
    caller: Caller, sandbox: Sandbox
) -> None:
    """RFC 6749, section 2.3.1, says so."""
    sandbox.identity.register(Client("odd", "a:b%/+ c"))
    token = sandbox.log_in(client_id="odd").refresh_token or ""
    form = {"grant_type": "refresh_token", "refresh_token": token}
    assert (
        await caller.post("/connect/token", form, basic=("odd", "a%3Ab%25%2F%2B+c"))
    ).status == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer abc", "Basic gYGB"]
)
async def test_a_malformed_authorization_header_is_invalid_client(
    caller: Caller, header: str
) -> None:
    """It is not a server error."""
    headers = {"Authorization": header, "Content-Type": "application/x-www-form-urlencoded"}
    response = await caller.send(
        "POST", "/connect/token", headers=headers, body=b"grant_type=refresh_token"
    )
    assert (response.status, response.json) == (400, {"error": "invalid_client"})


async def test_only_a_posted_form_is_accepted(caller: Caller) -> None:
    """GET is 405; JSON and a repeated field are 400."""
    for path in ("/connect/token", "/connect/revocation"):
        assert (await caller.send("GET", path)).status == 405
        for content_type, body in (
            ("application/json", b'{"grant_type":"refresh_token"}'),
            ("application/x-www-form-urlencoded", b"token=a&token=b&grant_type=x&grant_type=y"),
        ):
            response = await caller.send(
                "POST", path, headers={"Content-Type": content_type}, body=body
            )
            assert (response.status, response.json) == (400, {"error": "invalid_request"})


async def test_each_error_has_its_code(caller: Caller, sandbox: Sandbox) -> None:
    """Each is a 400 with JSON (RFC 6749, section 5.2)."""
    token = sandbox.log_in().refresh_token or ""
    refused = [
        ({"grant_type": "password"}, None, "unsupported_grant_type"),
        ({}, None, "invalid_request"),
        ({"grant_type": "refresh_token"}, None, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "nonsense"}, None, "invalid_grant"),
        (
            {"grant_type": "authorization_code", "code": "x", "redirect_uri": "y"},
            None,
            "invalid_grant",
        ),
        (
            {"grant_type": "refresh_token", "refresh_token": token, "scope": "openid"},
            None,
            "invalid_scope",
        ),
        (
            {"grant_type": "client_credentials", "scope": "accounting.contacts"},
            None,
            "unauthorized_client",
        ),
        (
            {"grant_type": "client_credentials", "scope": "offline_access"},
            CUSTOM_CLIENT,
            "invalid_scope",
        ),
        ({"grant_type": "client_credentials"}, CUSTOM_CLIENT, "invalid_scope"),
        (
            {"grant_type": "refresh_token", "refresh_token": token},
            CUSTOM_CLIENT,
            "unauthorized_client",
        ),
    ]
    for form, client, error in refused:
        response = await caller.token(client, **form)
        assert (response.status, response.json) == (400, {"error": error})
        assert sandbox.log[-1].outcome is Outcome.REFUSED
        assert sandbox.log[-1].error == error
    assert sandbox.identity.would_issue(token, sandbox.clock())


async def test_every_refresh_issues_a_new_refresh_token_and_a_new_access_token(
    caller: Caller, sandbox: Sandbox
) -> None:
    """The log has the fingerprints of both refresh tokens."""
    first = sandbox.log_in()
    response = await caller.refresh(first.refresh_token)
    assert response.json["refresh_token"] != first.refresh_token
    assert response.json["access_token"] != first.access_token
    [logged] = sandbox.refreshes()
    assert logged.outcome is Outcome.ISSUED
    assert (logged.token, logged.issued) == (
        fingerprint(first.refresh_token or ""),
        fingerprint(response.json["refresh_token"]),
    )


async def test_a_custom_connection_gets_only_an_access_token(
    caller: Caller, sandbox: Sandbox
) -> None:
    """It is valid for 30 minutes and one organisation, which no header need name."""
    response = await caller.token(
        CUSTOM_CLIENT, grant_type="client_credentials", scope="accounting.settings"
    )
    assert list(response.json) == ["access_token", "expires_in", "token_type", "scope"]
    assert response.json["expires_in"] == 1800
    assert "xero_userid" not in claims_of(response.json["access_token"])
    found = await caller.api("/api.xro/2.0/Organisation", response.json["access_token"])
    assert found.json["Organisations"][0]["Name"] == "One Ltd"
    sandbox.clock.advance(1800)
    assert (await caller.api("/connections", response.json["access_token"])).status == 401


async def test_all_tokens_of_a_custom_connection_share_one_connection(
    caller: Caller, sandbox: Sandbox
) -> None:
    """It is authorised once, so its event and its times stay the same. No user consents."""
    form = {"grant_type": "client_credentials", "scope": "accounting.settings"}
    tokens, lists = [], []
    for _ in range(2):
        tokens.append((await caller.token(CUSTOM_CLIENT, **form)).json["access_token"])
        lists.append((await caller.api("/connections", tokens[-1])).json)
        sandbox.clock.advance(60)
    [connection] = lists[0]
    assert lists[1] == lists[0]
    assert connection["tenantId"] == CUSTOM_CLIENT.custom_connection_tenant_id
    assert {claims_of(token)["authentication_event_id"] for token in tokens} == {
        connection["authEventId"]
    }
    assert sandbox.identity.counts.consents == 0


async def test_revocation_ends_tokens_connections_and_scopes(
    caller: Caller, sandbox: Sandbox
) -> None:
    """It ends all consents of the user to the app. Access tokens only lose their connections."""
    first, second = sandbox.log_in(), sandbox.log_in()
    response = await caller.revoke(first.refresh_token)
    assert (response.status, response.body) == (200, b"")
    assert sandbox.log[-1].outcome is Outcome.REVOKED
    for one in (first, second):
        assert (await caller.refresh(one.refresh_token)).json == {"error": "invalid_grant"}
        listed = await caller.api("/connections", one.access_token)
        assert (listed.status, listed.json) == (200, [])


async def test_with_the_switch_a_revocation_ends_access_tokens_too(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Xero does not document it."""
    sandbox.identity.switches = Switches(access_tokens_die_on_revoke=True)
    tokens = sandbox.log_in()
    await caller.revoke(tokens.refresh_token)
    assert (await caller.api("/connections", tokens.access_token)).status == 401


async def test_revoking_an_unknown_a_foreign_or_an_ended_token_changes_nothing(
    caller: Caller, sandbox: Sandbox
) -> None:
    """The status is 200 all the same (RFC 7009, section 2.2)."""
    old = sandbox.log_in()
    await caller.revoke(old.refresh_token)
    tokens = sandbox.log_in()
    for token, client in (
        ("nonsense", None),
        (tokens.refresh_token, NEW_CLIENT),
        (old.refresh_token, None),
    ):
        assert (await caller.revoke(token, client)).status == 200
    assert sandbox.identity.would_issue(tokens.refresh_token or "", sandbox.clock())
    assert sandbox.identity.counts.revocations == 1


async def test_a_code_whose_consent_was_revoked_is_invalid_grant(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A revocation ends pending logins too."""
    code = (await caller.consent([ORGANISATIONS[0].tenant_id])).callback["code"]
    await caller.revoke(sandbox.log_in().refresh_token)
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}
