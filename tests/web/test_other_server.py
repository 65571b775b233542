"""The pages, problems and log lines at an identity server other than Xero."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.other_server import OtherServer, facts_of_xero, running_other_server
from support.web import BROWSER, begin, origin

from xots.sandbox import DEFAULT_CLIENT_ID, Endpoint, Sandbox
from xots.sandbox.person import Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

FAILED = r"WARNING xots\.web: GET /code: "
REFUSED = r"WARNING xots: default: login failed: "
XERO_LIFE = 1800


@pytest.fixture
async def other(sandbox: Sandbox) -> AsyncIterator[OtherServer]:
    async with running_other_server(sandbox.authorize_url) as running:
        yield running


@pytest.fixture
def elsewhere(
    new_server: NewServer, credentials: dict[str, Any], other: OtherServer
) -> Callable[..., Awaitable[Server]]:
    """Start a server whose identity server is not Xero, and has no organisations."""

    async def start(**settings: Any) -> Server:
        urls = {"authorize_url": other.authorize_url, "connections_url": ""}
        return await new_server(**(credentials | urls | settings))

    return start


def words_of(text: str) -> str:
    """Return the words of a page on one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", text)))


async def read(send: Any, server: Server) -> str:
    """Return the words of each page, and of each response to a program that acts on nothing."""
    found = []
    for path in ("/login", "/home", "/status", "/refresh", "/revoke", "/logout", "/accounts"):
        found.append(words_of((await send("GET", origin(server) + path, BROWSER)).text))
    for path in ("/status", "/livez", "/tenants", "/accounts"):
        found.append((await send("GET", f"{server.url}{path}")).text)
    return "\n".join(found)


# ---------- words about Xero


@pytest.mark.parametrize("has_list", [True, False])
async def test_the_form_asks_for_an_organisation_where_there_are_some(
    new_server: NewServer, sandbox: Sandbox, person: Person, has_list: bool
) -> None:
    """The field would be a riddle elsewhere. The form works without it."""
    urls = {} if has_list else {"connections_url": ""}
    server = await new_server(**urls)
    page = await person.open(f"{origin(server)}/")
    assert ("tenant_id" in dict(page.form.fields)) is has_list
    home = await person.submit(page, client_id=DEFAULT_CLIENT_ID, client_secret="s")
    assert home.url.endswith("/home")


async def test_no_page_response_or_log_line_says_anything_about_xero(
    elsewhere: Any,
    sandbox: Sandbox,
    person: Person,
    clock: Any,
    send: Any,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In each state, from a login that does not return to its end."""
    caplog.set_level(logging.DEBUG, "xots")
    expected_log.perhaps(r"WARNING xots", r"ERROR xots: default: the login is lost")
    server = await elsewhere()
    told = [await read(send, server)]
    page = await begin(person, server)  # it waits for the consent
    told.append(words_of((await person.open(f"{origin(server)}/home")).text))
    told.append(await read(send, server))
    told.append(words_of((await person.consent(page)).text))
    told.append(await read(send, server))
    for fault in ("lost", "429=20", "no-refresh-token", "invalid-client", "503-html"):
        sandbox.add_fault(f"refresh:nth=1:{fault}")
        clock.advance(XERO_LIFE - 300)
        await server.rotation.tick()
        told.append(await read(send, server))
        told.append((await send("GET", f"{server.url}/token")).text)
        sandbox.faults.clear()
        clock.advance(400)
        await server.rotation.tick()
    sandbox.add_fault("revocation:nth=1:503-html")
    told.append((await send("POST", f"{server.url}/revoke", None, "")).text)
    told.append(await read(send, server))
    told.append((await send("POST", f"{server.url}/revoke", None, "")).text)
    clock.advance(400)
    await server.rotation.tick()
    told.append(await read(send, server))
    await person.consent(await begin(person, server))
    sandbox.identity.forget()
    clock.advance(XERO_LIFE)
    await server.rotation.tick()
    told.append(await read(send, server))
    told.append((await send("GET", f"{server.url}/token")).text)
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("xots")]
    text = "\n".join(told + lines)
    assert facts_of_xero(text) == []
    for known in (
        "has not returned from the identity server",
        "The identity server accepts the same refresh token again until",
        "the identity server demands a pause",
        "The identity server's last response held no refresh token",
        "an unused refresh token may expire",
        "the identity server did not confirm the revocation",
        "the identity server has revoked the login's tokens",
        "The identity server refused every refresh token (invalid_grant)",
        "Get a new access token from the identity server now?",
        "The identity server revokes its tokens.",
    ):
        assert known in text, known


# ---------- errors of a login


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("access_denied", r"cancelled at the identity server, or not given \(access_denied: no"),
        ("invalid_scope", r"\(invalid_scope: no.*\): .*the setting scopes"),
        ("invalid_request", r"malformed \(invalid_request: no.*\): .*pkce, authorize_params"),
        ("unauthorized_client", r"does not permit this client .*the type of the app"),
        ("unsupported_response_type", r"issues no authorization codes .*registration"),
        ("server_error", r"could not carry out the request \(server_error: no.*\): retry later"),
        ("temporarily_unavailable", r"is overloaded .*retry later"),
        ("login_required", r"\(login_required: no.*\): remove prompt=none"),
        ("of.its-own_1", r"responded with an error \(of\.its-own_1: no.*\): if that happens again"),
        ("<b>&", r"responded with an error \(no readable error code: no.*\): "),
    ],
)
async def test_an_error_at_the_callback_is_named_with_its_advice(
    elsewhere: Any,
    other: OtherServer,
    person: Person,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
    error: str,
    says: str,
) -> None:
    """The page and the log have the code and the description of the server."""
    expected_log(FAILED)
    server = await elsewhere()
    other.callback = {"error": error, "error_description": "no\u202e scope <i>"}
    page = await begin(person, server)
    assert page.status == 400
    shown = unescape(page.text.partition("<main>")[2])
    assert re.search(says, shown)
    assert "no\\u202e scope <i>" in shown
    assert "start again at /home" in shown
    assert "<b>" not in page.text
    assert "<i>" not in page.text
    assert facts_of_xero(shown + caplog.text) == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("invalid_client", r"does not accept the client id and secret \(invalid_client\): .*auth"),
        ("invalid_scope", r"\(invalid_scope\): "),
        ("invalid_request", r"\(invalid_request\): .*client_auth"),
        ("unauthorized_client", r"\(unauthorized_client\): "),
        ("unsupported_grant_type", r"\(unsupported_grant_type\): "),
        ("invalid_grant", r"the code \(invalid_grant\): it was used before, or has expired"),
    ],
)
async def test_an_error_of_the_token_endpoint_is_named_with_its_advice(
    elsewhere: Any,
    other: OtherServer,
    person: Person,
    expected_log: Any,
    error: str,
    says: str,
) -> None:
    """The secret is suspected for one code only."""
    expected_log(FAILED, REFUSED)
    server = await elsewhere(token_url=other.token_url)
    other.token_error, other.callback = error, {"code": "c"}
    page = await begin(person, server)
    assert page.status == 400
    shown = words_of(page.text.partition("<main>")[2])
    assert re.search(f"The identity server .*{says}.*log in again", shown)
    assert facts_of_xero(shown) == []


@pytest.mark.safeguard(
    file="web/callback.py",
    old="            is_ours = issuer == ours.issuer\n",
    new="            is_ours = True\n",
    protects_from="a code of another identity server that is sent to this one's token endpoint",
)
@pytest.mark.parametrize(
    ("issuer", "named", "is_ours"),
    [
        ("https://id.example/a", "https://id.example/a", True),
        ("https://id.example/a", "https://id.example/a/", False),
        ("https://id.example/a", "https://ID.example/a", False),
        ("https://id.example/a", None, True),
        (None, None, True),
        (None, "OTHER/elsewhere", True),
        (None, "https://id.example/a", False),
    ],
)
async def test_an_issuer_in_the_callback_must_be_the_one_that_is_set(
    elsewhere: Any,
    other: OtherServer,
    person: Person,
    expected_log: Any,
    issuer: str | None,
    named: str | None,
    is_ours: bool,
) -> None:
    """Byte for byte (RFC 9207 section 2.4). Without the setting, its origin must be the server's.
    A response need not name it."""
    expected_log(FAILED)
    expected_log.perhaps(REFUSED)
    server = await elsewhere(token_url=other.token_url, issuer=issuer)
    other.callback = {"code": "c"}
    if named is not None:
        other.callback["iss"] = named.replace("OTHER", other.url)
    page = await begin(person, server)
    assert ("names an issuer that is not the identity server" in page.text) is not is_ours
    assert ("invalid_client" in page.text) is is_ours


# ---------- an end without a revocation


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_an_end_without_a_revocation_says_forgotten_here_only(
    elsewhere: Any,
    person: Person,
    send: Any,
    get: Any,
    caplog: pytest.LogCaptureFixture,
    act: str,
) -> None:
    """The response, the page, the log and the status say so, and none that it was revoked."""
    caplog.set_level(logging.INFO, "xots")
    server = await elsewhere(revoke_url="")
    for wants in (None, BROWSER):
        await person.consent(await begin(person, server))
        question = await send("GET", f"{origin(server)}/{act}", BROWSER)
        assert "forgotten here only" in question.text
        caplog.clear()
        # A form of this server's own page.
        headers = {"Origin": origin(server)} | (wants or {})
        ended = await send("POST", f"{origin(server)}/{act}", headers, "")
        assert ended.status == 200
        assert "forgotten here only: the identity server revokes no tokens" in ended.text
        assert "stay valid there until they expire" in ended.text
        if wants is None:
            assert ended.json["status"] == "ended"
        assert "the login's tokens are forgotten here only" in caplog.text
        assert "revoked" not in caplog.text
        if act == "revoke":
            status = (await get(f"{server.url}/status")).json
            assert "forgotten here only" in " ".join(status["explanation"])
            assert "forgotten here only" in (await person.open(f"{origin(server)}/home")).text
        else:
            page = await person.open(f"{origin(server)}/status")
            assert "revoked" not in page.text.replace("is_revoked", "")
    again = await send("POST", f"{server.url}/{act}", None, "")
    assert again.status == (200 if act == "revoke" else 303)


async def test_accounts_of_one_client_share_no_fate_without_organisations(
    elsewhere: Any, person: Person, send: Any
) -> None:
    """One revocation ends one login there, so the page of an end offers no end of all."""
    server = await elsewhere()
    added = await send("POST", f"{server.url}/accounts", None, "name=firm")
    assert added.status == 201
    for path in ("", "/accounts/firm"):
        page = await person.submit(await person.open(f"{origin(server)}{path}/home"))
        assert (await person.consent(page)).status == 200
    accounts = (await send("GET", f"{server.url}/accounts")).json["accounts"]
    assert [(one["state"], one["shares_with"]) for one in accounts] == [("connected", [])] * 2
    page = await person.open(f"{origin(server)}/revoke")
    assert "End all of" not in page.text
    assert "The identity server revokes its tokens." in page.text


# ---------- the places to which forms lead


def form_action(response: Any) -> list[str]:
    [directive] = [
        one.split()[1:]
        for one in response.headers["Content-Security-Policy"].split(";")
        if one.strip().startswith("form-action")
    ]
    return sorted(directive)


async def test_only_the_page_that_starts_a_login_has_forms_that_lead_elsewhere(
    elsewhere: Any, send: Any
) -> None:
    """A login at another server than Xero may go on at any origin, so its scheme is allowed."""
    server = await elsewhere()
    assert form_action(await send("GET", f"{origin(server)}/home", BROWSER)) == [
        "'self'",
        "http:",
        "https:",
    ]
    for path in ("/login", "/status", "/revoke", "/logout", "/refresh", "/accounts"):
        response = await send("GET", origin(server) + path, BROWSER)
        assert form_action(response) == ["'self'"], path
    secure = await elsewhere(authorize_url="https://id.example/authorize")
    home = await send("GET", f"{origin(secure)}/home", BROWSER)
    assert form_action(home) == ["'self'", "https:"]


@pytest.mark.safeguard(
    file="web/callback.py",
    old="        if login.token_url != self.account_config.identity_server.token_url:\n",
    new="        if False:\n",
    protects_from="a code and a secret of one identity server that are sent to another",
)
async def test_a_login_of_another_identity_server_is_not_finished(
    new_server: Any,
    credentials: Any,
    sandbox: Sandbox,
    person: Person,
    expected_log: Any,
    tmp_path: Path,
) -> None:
    """The operator has changed the settings since it was started. Nothing is sent."""
    expected_log("the settings of this account name another identity server")
    store = (tmp_path / "state").as_uri()
    first = await new_server(store=store)
    page = await person.open(f"http://localhost:{first.port}/")
    page = await person.submit(page, client_id="X", client_secret="secret-of-the-first")
    sandbox.identity.register(replace(next(iter(sandbox.identity.clients.values())), client_id="X"))
    page = await person.submit(page)
    await first.stop()
    elsewhere = sandbox.token_url.replace("127.0.0.1", "localhost")
    second = await new_server(store=store, port=first.port, token_url=elsewhere)
    page = await person.consent(page)
    assert page.status == 400
    assert "another identity server" in page.text
    assert [one for one in sandbox.log if one.endpoint is Endpoint.TOKEN] == []
    home = await person.open(f"http://localhost:{second.port}/home")
    assert home.url.endswith("/"), "the form's secret is not for this server"
