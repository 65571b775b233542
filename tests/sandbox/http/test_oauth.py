"""The token and revocation endpoints over HTTP."""

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


async def test_the_answer_has_xeros_fields_in_xeros_order(caller: Caller) -> None:
    """``scope`` is one string, and nothing may be cached."""
    answer = await caller.log_in(scope="openid profile email offline_access accounting.contacts")
    assert answer.status == 200
    assert list(answer.json) == [
        "id_token",
        "access_token",
        "expires_in",
        "token_type",
        "refresh_token",
        "scope",
    ]
    assert answer.json["expires_in"] == 1800
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["scope"] == "openid profile email offline_access accounting.contacts"
    assert answer.headers["cache-control"] == "no-store"


async def test_without_offline_access_or_openid_their_tokens_are_left_out(caller: Caller) -> None:
    """A refresh token only with the one, an ID token only with the other."""
    assert list((await caller.log_in(scope="accounting.contacts")).json) == [
        "access_token",
        "expires_in",
        "token_type",
        "scope",
    ]


async def test_the_access_token_has_xeros_claims_and_size(caller: Caller, sandbox: Sandbox) -> None:
    """1.2 to 2.2 kB, and ``scope`` is a list."""
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


async def test_switches_change_lives_leave_out_the_event_and_skew_the_clock(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A skewed clock writes other times, and the token lives as long as ever."""
    sandbox.identity.switches = Switches(
        access_token_life_seconds=60, omit_authentication_event_id=True, clock_skew_seconds=-600
    )
    answer = await caller.log_in()
    claims = claims_of(answer.json["access_token"])
    assert answer.json["expires_in"] == 60
    assert claims["exp"] == int(sandbox.clock().timestamp()) - 540
    assert "authentication_event_id" not in claims
    assert (await caller.api("/connections", answer.json["access_token"])).status == 200


async def test_a_code_is_used_once(caller: Caller, sandbox: Sandbox) -> None:
    """And the first exchange's tokens live on."""
    code = (await caller.consent()).callback["code"]
    first, second = await caller.exchange(code), await caller.exchange(code)
    assert (first.status, second.status, second.json) == (200, 400, {"error": "invalid_grant"})
    assert sandbox.identity.would_issue(first.json["refresh_token"], sandbox.clock())


async def test_a_code_lives_five_minutes(caller: Caller, sandbox: Sandbox) -> None:
    """The last second counts."""
    young, old = [(await caller.consent()).callback["code"] for _ in range(2)]
    sandbox.clock.advance(299)
    assert (await caller.exchange(young)).status == 200
    sandbox.clock.advance(1)
    assert (await caller.exchange(old)).json == {"error": "invalid_grant"}


async def test_a_refused_exchange_does_not_consume_the_code(caller: Caller) -> None:
    """Changed case, another client, another redirect URI, a verifier too many: refused; then the right one works."""
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
    """A missing, a wrong or a malformed one is refused, and doesn't consume the code."""
    code = (await caller.consent(**PKCE)).callback["code"]
    assert (await caller.exchange(code, PUBLIC)).json == {"error": "invalid_grant"}
    for wrong in ("w" * 43, VERIFIER[:42], VERIFIER * 3, "é" * 43):
        assert (await caller.exchange(code, PUBLIC, code_verifier=wrong)).json == {
            "error": "invalid_grant"
        }
    answer = await caller.exchange(code, PUBLIC, code_verifier=VERIFIER)
    assert answer.status == 200
    assert (await caller.refresh(answer.json["refresh_token"], PUBLIC)).status == 200


async def test_a_web_app_may_add_pkce_and_still_sends_its_secret(caller: Caller) -> None:
    """Then the verifier is demanded of it too."""
    code = (await caller.consent(code_challenge=CHALLENGE, code_challenge_method="S256")).callback[
        "code"
    ]
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}
    assert (await caller.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_scopes_are_additive_until_revocation(caller: Caller) -> None:
    """What was consented to earlier comes back too, whatever was asked; only revocation reduces it."""
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
    ({}, ("nobody", "sandbox-secret-opens-nothing")),
    ({"client_id": "another"}, (DEFAULT_CLIENT_ID, "sandbox-secret-opens-nothing")),
    ({"client_id": DEFAULT_PKCE_CLIENT_ID, "client_secret": "some"}, None),
    ({}, (DEFAULT_PKCE_CLIENT_ID, "")),
]


@pytest.mark.parametrize(("form", "basic"), CREDENTIALS)
@pytest.mark.parametrize("path", ["/connect/token", "/connect/revocation"])
async def test_a_client_that_is_not_authenticated_is_invalid_client_before_anything_else(
    caller: Caller, path: str, form: dict[str, str], basic: tuple[str, str] | None
) -> None:
    """Even when nothing else in the request makes sense."""
    answer = await caller.post(path, {"grant_type": "nonsense", **form}, basic=basic)
    assert (answer.status, answer.json) == (400, {"error": "invalid_client"})


async def test_a_refused_client_spends_nothing(caller: Caller, sandbox: Sandbox) -> None:
    """With the new secret the same token works, however much later."""
    token = sandbox.log_in().refresh_token
    sandbox.identity.register(Client(secret="renewed"))
    assert (await caller.refresh(token)).json == {"error": "invalid_client"}
    sandbox.clock.advance(3600)
    assert (await caller.refresh(token, Client(secret="renewed"))).status == 200


async def test_id_and_secret_may_stand_in_the_body(caller: Caller, sandbox: Sandbox) -> None:
    """As an alternative to HTTP Basic."""
    client = Client()
    form = {"client_id": client.client_id, "client_secret": client.secret or ""}
    form |= {"grant_type": "refresh_token", "refresh_token": sandbox.log_in().refresh_token or ""}
    assert (await caller.post("/connect/token", form)).status == 200


async def test_basic_credentials_are_form_encoded_in_the_header(
    caller: Caller, sandbox: Sandbox
) -> None:
    """RFC 6749, section 2.3.1."""
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
    """It never is a server error."""
    headers = {"Authorization": header, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await caller.send(
        "POST", "/connect/token", headers=headers, body=b"grant_type=refresh_token"
    )
    assert (answer.status, answer.json) == (400, {"error": "invalid_client"})


async def test_only_a_posted_form_is_taken(caller: Caller) -> None:
    """GET is 405, JSON or a field given twice is 400."""
    for path in ("/connect/token", "/connect/revocation"):
        assert (await caller.send("GET", path)).status == 405
        for content_type, body in (
            ("application/json", b'{"grant_type":"refresh_token"}'),
            ("application/x-www-form-urlencoded", b"token=a&token=b&grant_type=x&grant_type=y"),
        ):
            answer = await caller.send(
                "POST", path, headers={"Content-Type": content_type}, body=body
            )
            assert (answer.status, answer.json) == (400, {"error": "invalid_request"})


async def test_each_error_has_its_code(caller: Caller, sandbox: Sandbox) -> None:
    """400 with JSON, as RFC 6749, section 5.2 lists them."""
    token = sandbox.log_in().refresh_token or ""
    asked = [
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
    for form, client, error in asked:
        answer = await caller.token(client, **form)
        assert (answer.status, answer.json) == (400, {"error": error})
        assert sandbox.log[-1].outcome is Outcome.REFUSED
        assert sandbox.log[-1].error == error
    assert sandbox.identity.would_issue(token, sandbox.clock())


async def test_every_refresh_gives_a_new_refresh_token_and_a_new_access_token(
    caller: Caller, sandbox: Sandbox
) -> None:
    """And the log tells by fingerprint which was spent for which."""
    first = sandbox.log_in()
    answer = await caller.refresh(first.refresh_token)
    assert answer.json["refresh_token"] != first.refresh_token
    assert answer.json["access_token"] != first.access_token
    [logged] = sandbox.refreshes()
    assert logged.outcome is Outcome.ISSUED
    assert (logged.token, logged.issued) == (
        fingerprint(first.refresh_token or ""),
        fingerprint(answer.json["refresh_token"]),
    )


async def test_a_custom_connection_gets_an_access_token_and_nothing_else(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Thirty minutes, one organisation, and no tenant header is needed."""
    answer = await caller.token(
        CUSTOM_CLIENT, grant_type="client_credentials", scope="accounting.settings"
    )
    assert list(answer.json) == ["access_token", "expires_in", "token_type", "scope"]
    assert answer.json["expires_in"] == 1800
    assert "xero_userid" not in claims_of(answer.json["access_token"])
    found = await caller.api("/api.xro/2.0/Organisation", answer.json["access_token"])
    assert found.json["Organisations"][0]["Name"] == "One Ltd"
    sandbox.clock.advance(1800)
    assert (await caller.api("/connections", answer.json["access_token"])).status == 401


async def test_revocation_ends_tokens_connections_and_scopes(
    caller: Caller, sandbox: Sandbox
) -> None:
    """All of the user's tokens of this app, of other consents too; the access token lives on without connections."""
    first, second = sandbox.log_in(), sandbox.log_in()
    answer = await caller.revoke(first.refresh_token)
    assert (answer.status, answer.body) == (200, b"")
    assert sandbox.log[-1].outcome is Outcome.REVOKED
    for one in (first, second):
        assert (await caller.refresh(one.refresh_token)).json == {"error": "invalid_grant"}
        listed = await caller.api("/connections", one.access_token)
        assert (listed.status, listed.json) == (200, [])


async def test_by_switch_access_tokens_die_with_a_revocation(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Nobody knows which Xero does."""
    sandbox.identity.switches = Switches(access_tokens_die_on_revoke=True)
    tokens = sandbox.log_in()
    await caller.revoke(tokens.refresh_token)
    assert (await caller.api("/connections", tokens.access_token)).status == 401


async def test_revoking_an_unknown_another_clients_or_an_ended_token_changes_nothing(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Known and unknown alike are answered with 200 (RFC 7009, section 2.2)."""
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
    """Revocation ends what was not yet exchanged too."""
    code = (await caller.consent([ORGANISATIONS[0].tenant_id])).callback["code"]
    await caller.revoke(sandbox.log_in().refresh_token)
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}
