"""The authorization endpoint: the consent page, the callbacks and Xero's error page."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator

import pytest
from support.sandbox_caller import (
    CHALLENGE,
    CUSTOM_CLIENT,
    NEW_CLIENT,
    ORGANISATIONS,
    START,
    Caller,
)

from xots.sandbox import (
    BROAD_SCOPES,
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_PKCE_CLIENT_ID,
    DEFAULT_REDIRECT_URI,
    GRANULAR_SCOPES,
    Client,
    Outcome,
    Sandbox,
    SandboxOptions,
    Switches,
    User,
)
from xots.sandbox.person import Page, Person

BAD_REDIRECTS = [
    "http://localhost:5001/code/",
    "http://127.0.0.1:5001/code",
    "https://localhost:5001/code",
    "http://LOCALHOST:5001/code",
    "http://localhost:5001/code?x=1",
    None,
]


async def error_text(caller: Caller, path: str) -> str:
    """Follow the redirect to Xero's own error page, and return its message."""
    response = await caller.send("GET", path)
    assert response.status == 302
    location = response.headers["location"]
    assert location.startswith("/identity/error?"), "there must be no callback"
    page = await caller.send("GET", location)
    assert page.status == 500
    assert b"Error code: 500" in page.body
    found = re.search(r"<p>Error: (.*)</p>", page.body.decode())
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("redirect_uri", BAD_REDIRECTS)
async def test_a_redirect_uri_that_is_not_registered_byte_for_byte_has_no_callback(
    caller: Caller, redirect_uri: str | None
) -> None:
    """Xero shows its own error page instead."""
    text = await error_text(caller, caller.authorize_path(redirect_uri=redirect_uri))
    assert text == "unauthorized_client : Invalid redirect_uri"


@pytest.mark.parametrize("client_id", ["UNKNOWN", None, DEFAULT_CLIENT_ID.lower()])
async def test_an_unknown_client_has_no_callback(caller: Caller, client_id: str | None) -> None:
    """Client ids are case-sensitive."""
    text = await error_text(caller, caller.authorize_path(client_id=client_id))
    assert text == "unauthorized_client : Unknown client or client not enabled"


async def test_a_disabled_client_has_no_callback(caller: Caller, sandbox: Sandbox) -> None:
    """The message is the same as for an unknown client."""
    sandbox.identity.register(Client(enabled=False))
    assert "not enabled" in await error_text(caller, caller.authorize_path())


@pytest.mark.parametrize(
    "scope", ["accounting.nonsense", "openid accounting.transaction", "", None, "finance."]
)
async def test_a_scope_that_is_not_allowed_has_no_callback(
    caller: Caller, scope: str | None
) -> None:
    """An unknown, an incomplete and a missing scope lead to the error page."""
    text = await error_text(caller, caller.authorize_path(scope=scope))
    assert text == "invalid_scope : Invalid scope for client"


@pytest.mark.parametrize("scope", sorted(BROAD_SCOPES))
async def test_an_app_made_since_march_2026_is_refused_the_broad_scopes(
    caller: Caller, scope: str
) -> None:
    """An older app may request them."""
    path = caller.authorize_path(client_id=NEW_CLIENT.client_id, scope=f"offline_access {scope}")
    assert "Invalid scope for client" in await error_text(caller, path)
    assert (await caller.send("GET", caller.authorize_path(scope=scope))).status == 200


async def test_old_and_new_apps_may_request_every_granular_scope(caller: Caller) -> None:
    """Older apps may mix them with the broad scopes."""
    granular = " ".join(sorted(GRANULAR_SCOPES))
    new = caller.authorize_path(client_id=NEW_CLIENT.client_id, scope=granular)
    mixed = caller.authorize_path(
        scope=f"{granular} accounting.transactions finance.bankstatementsplus.read"
    )
    assert [(await caller.send("GET", path)).status for path in (new, mixed)] == [200, 200]


async def test_with_the_switch_a_refused_scope_calls_back_with_access_denied(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Some have done so since the middle of 2026."""
    sandbox.identity.switches = Switches(refused_scopes_come_back=True)
    response = await caller.send("GET", caller.authorize_path(scope="accounting.nonsense"))
    assert response.callback == {
        "error": "access_denied",
        "error_description": "Requested wrong apps scopes",
        "state": "st&te",
    }


@pytest.mark.parametrize(
    ("challenge", "method"),
    [(None, None), (None, "S256"), (CHALLENGE, "plain"), (CHALLENGE, None), ("short", "S256")],
)
async def test_a_public_client_without_s256_has_no_callback(
    caller: Caller, challenge: str | None, method: str | None
) -> None:
    """Xero accepts no other method of PKCE."""
    path = caller.authorize_path(
        client_id=DEFAULT_PKCE_CLIENT_ID, code_challenge=challenge, code_challenge_method=method
    )
    assert (await error_text(caller, path)).startswith("invalid_request : ")


async def test_another_response_type_or_a_repeated_parameter_has_no_callback(
    caller: Caller,
) -> None:
    """Only the code flow exists."""
    assert "response_type" in await error_text(caller, caller.authorize_path(response_type="token"))
    await error_text(caller, caller.authorize_path() + "&scope=openid")


async def test_a_custom_connection_has_no_consent_page(caller: Caller) -> None:
    """It uses client credentials only."""
    assert "Grant type not allowed" in await error_text(
        caller, caller.authorize_path(client_id="CAFE")
    )


async def test_the_error_page_repeats_nothing_from_its_address(caller: Caller) -> None:
    """It shows known messages only."""
    page = await caller.send("GET", "/identity/error?errorId=%3Cscript%3E")
    assert page.status == 500
    assert b"<script" not in page.body


async def test_the_consent_page_shows_scopes_and_organisations_escaped(caller: Caller) -> None:
    """A name with markup and a missing name are shown as text."""
    page = await caller.send("GET", caller.authorize_path())
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    assert "Two &amp; &lt;Sons&gt;" in text
    assert "(no name)" in text
    assert "accounting.transactions" in text
    assert text.count('type="checkbox"') == len(ORGANISATIONS)
    assert 'value="allow"' in text
    assert 'value="cancel"' in text


async def test_allow_calls_back_with_code_state_scope_and_session_state(
    caller: Caller, sandbox: Sandbox
) -> None:
    """It also connects the ticked organisations."""
    ticked = [ORGANISATIONS[1].tenant_id, ORGANISATIONS[2].tenant_id]
    response = await caller.consent(ticked)
    assert response.status == 302
    assert response.headers["location"].startswith(f"{DEFAULT_REDIRECT_URI}?code=")
    assert list(response.callback) == ["code", "scope", "state", "session_state"]
    assert response.callback["state"] == "st&te"
    app = sandbox.identity.app(DEFAULT_CLIENT_ID)
    assert app is not None
    assert list(app.connections) == ticked
    assert sandbox.log[-1].outcome is Outcome.CONSENTED


async def test_allow_without_an_organisation_shows_the_page_again(
    caller: Caller, sandbox: Sandbox
) -> None:
    """There is no consent. An unknown organisation does not count."""
    for ticked in ([], ["nonsense"]):
        response = await caller.consent(ticked)
        assert response.status == 400
        assert b"at least one organisation" in response.body
    assert sandbox.identity.counts.consents == 0


async def test_cancel_calls_back_with_access_denied(caller: Caller, sandbox: Sandbox) -> None:
    """The callback has Xero's own description."""
    response = await caller.post(caller.authorize_path(), {"action": "cancel"})
    assert response.status == 302
    assert response.callback == {
        "error": "access_denied",
        "error_description": "TenantConsent status DENIED",
        "state": "st&te",
    }
    assert sandbox.log[-1].outcome is Outcome.DENIED


async def test_switches_add_iss_and_remove_scope_and_session_state(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Other servers send ``iss``. Xero does not always send ``scope`` and ``session_state``."""
    sandbox.identity.switches = Switches(add_iss=True, add_scope=False, add_session_state=False)
    callback = (await caller.consent()).callback
    assert callback.keys() == {"code", "state", "iss"}
    assert callback["iss"] == sandbox.url


async def test_the_callback_has_no_state_without_one_and_keeps_the_query_of_its_uri(
    caller: Caller, sandbox: Sandbox
) -> None:
    """RFC 6749, section 3.1.2, requires the latter."""
    sandbox.identity.register(Client(redirect_uris=("http://localhost:5001/code?to=home",)))
    response = await caller.consent(state=None, redirect_uri="http://localhost:5001/code?to=home")
    assert response.callback.keys() == {"to", "code", "scope", "session_state"}


async def test_auto_consent_connects_everything_without_a_page() -> None:
    """Scripts without a browser use it."""
    async with Sandbox(SandboxOptions(port=0, auto_consent=True), clock=lambda: START) as sandbox:
        caller = Caller(sandbox)
        response = await caller.send("GET", caller.authorize_path())
        assert "code" in response.callback
        app = sandbox.identity.app(DEFAULT_CLIENT_ID)
        assert app is not None
        assert len(app.connections) == 2


# ---------- several users


BO = User("00000000-0000-4000-8000-000000000002", "Bo", "<Other>", "bo@sandbox.example")


@pytest.fixture
async def shared() -> AsyncIterator[Sandbox]:
    """A sandbox with two users and two organisations."""
    options = SandboxOptions(port=0, users=(User(), BO), organisations=ORGANISATIONS[1:3])
    async with Sandbox(options, clock=lambda: START) as running:
        yield running


async def test_each_user_has_own_scopes_and_connections(shared: Sandbox) -> None:
    """The page offers the choice of the user."""
    caller = Caller(shared)
    assert b"Bo &lt;Other&gt;" in (await caller.send("GET", caller.authorize_path())).body
    tenant_id = shared.options.organisations[0].tenant_id
    form = {"action": "allow", "tenant": tenant_id, "user": BO.user_id}
    assert "code" in (await caller.post(caller.authorize_path(), form)).callback
    assert shared.identity.app(DEFAULT_CLIENT_ID) is None
    bo = shared.identity.app(DEFAULT_CLIENT_ID, BO.user_id)
    assert bo is not None
    assert list(bo.connections) == [tenant_id]


async def test_an_unknown_user_is_refused(shared: Sandbox) -> None:
    """The page asks again, and no consent is recorded."""
    caller = Caller(shared)
    tenant_id = shared.options.organisations[0].tenant_id
    form = {"action": "allow", "tenant": tenant_id, "user": "unknown"}
    page = await caller.post(caller.authorize_path(), form)
    assert page.status == 400
    assert b"Please choose one of the users." in page.body
    assert shared.identity.counts.consents == 0


async def test_the_page_keeps_the_chosen_user_after_an_error(shared: Sandbox) -> None:
    """A user who forgot to tick an organisation does not consent as another user then."""
    caller, person = Caller(shared), Person()
    form = {"action": "allow", "user": BO.user_id}
    page = await caller.post(caller.authorize_path(), form)
    assert page.status == 400
    url = f"{shared.url}{caller.authorize_path()}"
    fields = Page(url, page.status, page.body.decode()).form.fields
    assert fields == [("user", BO.user_id)]
    assert (await person.open(url)).form.fields[0] == ("user", User().user_id)


async def test_with_one_user_the_page_offers_no_choice(caller: Caller) -> None:
    """Programs that post the form without a user go on working."""
    assert b"<select" not in (await caller.send("GET", caller.authorize_path())).body


# ---------- the start page


NO_APP = "No app is connected."


async def listed(sandbox: Sandbox) -> list[str]:
    """Return the text of the start page for each user, which begins with the user's name."""
    page = await Caller(sandbox).send("GET", "/")
    assert page.status == 200
    _, *sections = page.body.decode().split("<h2>")
    return [html.unescape(" ".join(re.sub("<[^>]*>", " ", one).split())) for one in sections]


async def test_the_start_page_lists_the_connections_of_each_user(shared: Sandbox) -> None:
    """The names are shown as they are, and an organisation can have none."""
    assert await listed(shared) == [f"Ada Sandbox {NO_APP}", f"Bo <Other> {NO_APP}"]
    shared.log_in()
    shared.log_in(tenant_ids=[ORGANISATIONS[1].tenant_id], user_id=BO.user_id)
    app = f"The app {DEFAULT_CLIENT_ID} :"
    assert await listed(shared) == [
        f"Ada Sandbox {app} Two & <Sons> (no name)",
        f"Bo <Other> {app} Two & <Sons>",
    ]
    shared.log_in(client_id=DEFAULT_PKCE_CLIENT_ID)
    ada, _ = await listed(shared)
    assert ada.endswith(f"The app {DEFAULT_PKCE_CLIENT_ID} : Two & <Sons> (no name)")


async def test_the_start_page_shows_the_connections_that_remain_after_an_end(
    shared: Sandbox,
) -> None:
    """A deleted connection is gone; a revocation removes the app of that user only."""
    ada = shared.log_in()
    bo = shared.log_in(user_id=BO.user_id)
    caller, app = Caller(shared), f"The app {DEFAULT_CLIENT_ID} :"
    connections = (await caller.api("/connections", bo.access_token)).json
    paths = [f"/connections/{one['id']}" for one in connections]
    await caller.api(paths[0], bo.access_token, method="DELETE")
    assert (await listed(shared))[1] == f"Bo <Other> {app} (no name)"
    await caller.api(paths[1], bo.access_token, method="DELETE")
    assert (await listed(shared))[1] == f"Bo <Other> {app} no organisation"
    await caller.revoke(ada.refresh_token)
    assert await listed(shared) == [
        f"Ada Sandbox {NO_APP}",
        f"Bo <Other> {app} no organisation",
    ]


async def test_the_start_page_shows_no_token_and_no_secret(sandbox: Sandbox) -> None:
    """A web page can read it by a host name of its own that resolves to this machine."""
    tokens = sandbox.log_in()
    page = (await Caller(sandbox).send("GET", "/")).body.decode()
    secrets = [tokens.access_token, tokens.refresh_token or "", DEFAULT_CLIENT_SECRET]
    secrets.append(CUSTOM_CLIENT.secret or "")
    assert [secret for secret in secrets if secret in page] == []
