"""Several accounts of one server: the list, adding and removing, and the paths of each."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace as with_fields
from support.bench import eventually
from support.web import BROWSER, WANTS_PAGE, one_form, origin, revocations

from xots.accounts.directory import Directory, Glimpse
from xots.errors import StoreUnavailable
from xots.lifecycle.outlook import Need
from xots.lifecycle.schedule import State
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox, User
from xots.sandbox.person import Page, Person
from xots.sealing import new_key
from xots.secret import Secret
from xots.server import Server
from xots.testing import FakeClock
from xots.web.accounts import NEED_TEXTS, STATE_TEXTS

NewServer = Callable[..., Awaitable[Server]]
Add = Callable[..., Awaitable[Any]]

SECRET = "secret-canary-of-the-added-account"
REFUSED = r"WARNING xots\.web: "


@pytest.fixture
def add(send: Any) -> Add:
    """Adds an account as a program does."""

    async def add(server: Server, name: Any = "firm", **fields: Any) -> Any:
        body = json.dumps({"name": name} | fields)
        return await send(
            "POST", f"{server.url}/accounts", {"Content-Type": "application/json"}, body
        )

    return add


@pytest.fixture
async def firm(server: Server, add: Add) -> str:
    """The URL of an account that was added to the server, with the server's credentials."""
    assert (await add(server)).status == 201
    return f"{origin(server)}/accounts/firm"


async def listed(server: Server, get: Any) -> dict[str, Any]:
    """Return the list, by name."""
    accounts = (await get(f"{server.url}/accounts")).json["accounts"]
    return {one["name"]: one for one in accounts}


# ---------- the list


@pytest.mark.parametrize(("texts", "kinds"), [(NEED_TEXTS, Need), (STATE_TEXTS, State)])
def test_the_page_has_words_for_each_state_and_each_need(texts: Any, kinds: Any) -> None:
    """One without words would make the whole page fail."""
    assert set(texts) == set(kinds)


async def test_a_program_lists_the_accounts(logged_in: Server, add: Add, get: Any) -> None:
    """State, organisation, and when a user must log in, for each."""
    await add(logged_in, "firm", tenant_id="t")
    found = await listed(logged_in, get)
    assert list(found) == ["default", "firm"]
    assert set(found["default"]) == {
        "name",
        "source",
        "is_fixed",
        "state",
        "organisation",
        "login_needed_at",
        "attention_for",
        "problem",
        "shares_with",
    }
    assert found["default"]["state"] == "connected"
    assert found["default"]["organisation"]
    assert found["default"]["attention_for"] == "refresh-token-unused"
    assert (found["default"]["is_fixed"], found["firm"]["is_fixed"]) == (True, False)
    assert (found["firm"]["state"], found["firm"]["attention_for"]) == (
        "not-logged-in",
        "not-logged-in",
    )


async def test_the_page_of_the_list_is_in_words(
    logged_in: Server, add: Add, send: Any, clock: FakeClock
) -> None:
    """A login that is missing is needed now, not at the time of the last look at the record."""
    await add(logged_in, "firm")
    clock.advance(120)
    page = await send("GET", f"{origin(logged_in)}/accounts", BROWSER)
    cells = re.findall(r"<td>(.*?)</td>", page.text)
    assert cells[3].endswith("UTC <small>if no refresh succeeds</small>")
    assert cells[9] == "now <small>no user is logged in</small>"
    await send("POST", f"{logged_in.url}/revoke", None, "")
    page = await send("GET", f"{origin(logged_in)}/accounts", BROWSER)
    cells = re.findall(r"<td>(.*?)</td>", page.text)
    assert cells[1:4] == ["\N{EN DASH}", "login ended", "now <small>no user is logged in</small>"]


async def test_the_list_needs_neither_the_store_nor_xero(
    logged_in: Server,
    add: Add,
    get: Any,
    send: Any,
    sandbox: Sandbox,
    break_store: Callable[[Server], None],
) -> None:
    """It is there when the store is not, and a link on another site costs nothing."""
    await add(logged_in)
    before = len(sandbox.log)
    break_store(logged_in)
    assert set(await listed(logged_in, get)) == {"default", "firm"}
    page = await send(
        "GET", f"{origin(logged_in)}/accounts", BROWSER | {"Sec-Fetch-Site": "cross-site"}
    )
    assert page.status == 200
    assert len(sandbox.log) == before


async def test_an_account_without_a_record_has_the_state_that_its_settings_give_it(
    server: Server, get: Any
) -> None:
    """The settings hold the credentials, so only a login is missing."""
    await server.accounts.swept()
    assert (await listed(server, get))["default"]["state"] == "not-logged-in"


# ---------- adding


async def test_a_program_adds_an_account(server: Server, add: Add, get: Any) -> None:
    """201, with the address of its page. Its paths exist from then on."""
    response = await add(server, "firm-2", client_id="other-client", client_secret=SECRET)
    assert (response.status, response.json) == (
        201,
        {"status": "added", "account": "firm-2", "needs_login": True},
    )
    assert response.headers["Location"] == "/accounts/firm-2/home"
    status = (await get(f"{server.url}/accounts/firm-2/status")).json
    assert (status["account"], status["client_id"]) == ("firm-2", "other-client")
    assert (await get(f"{server.url}/status")).json["client_id"] == DEFAULT_CLIENT_ID


async def test_a_user_adds_an_account_by_the_page(server: Server, person: Person, get: Any) -> None:
    """The list links to it, and its page starts its login."""
    page = await person.open(f"{origin(server)}/accounts")
    page = await person.submit(page, name="firm", scopes="granular")
    assert (page.status, page.url) == (200, f"{origin(server)}/accounts/firm/home")
    page = await person.open(f"{origin(server)}/accounts")
    assert page.link("firm") == f"{origin(server)}/accounts/firm/home"
    assert "accounting.invoices" in (await person.follow(page, "firm")).text


async def test_scopes_that_xero_needs_are_named_in_the_form_again(
    server: Server, person: Person, get: Any, expected_log: Any
) -> None:
    """The page keeps what the user entered."""
    expected_log.perhaps(REFUSED)
    page = await person.open(f"{origin(server)}/accounts")
    page = await person.submit(page, name="firm", scopes="accounting.transactions")
    assert page.status == 400
    assert "offline_access is missing" in page.text
    assert 'value="firm"' in page.text
    assert set(await listed(server, get)) == {"default"}


async def test_an_account_of_another_identity_server_can_be_added_with_any_scopes(
    new_server: NewServer, add: Add, expected_log: Any
) -> None:
    """Only a login at Xero needs ``offline_access``."""
    expected_log.perhaps("refresh failed")  # the simulated Xero does not know the client
    url = "http://127.0.0.1:1/"
    urls = {"token_url": url, "authorize_url": url, "revoke_url": "", "connections_url": ""}
    client = {"client_id": "C", "client_secret": Secret(SECRET)}
    for own in (urls, {"grant": "client_credentials", **client}):
        server = await new_server(**own)
        assert (await add(server, "firm", scopes="openid")).status == 201


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": ""}, "1 to 64"),
        ({"name": "Firm"}, "1 to 64"),
        ({"name": "a" * 65}, "1 to 64"),
        ({"name": "firm\n"}, "1 to 64"),
        ({"name": "../home"}, "1 to 64"),
        ({"name": "lease-default"}, "lease-"),
        ({"name": "firm", "client_id": "two words"}, "client id"),
        ({"name": "firm", "client_id": "i" * 513}, "client id"),
        (
            {"name": "firm", "client_id": "i", "client_secret": SECRET + "\u0007"},
            "client secret",
        ),
        ({"name": "firm", "client_secret": SECRET}, "client id is missing"),
        ({"name": "firm", "scopes": 'offline_access "quoted"'}, "scopes"),
        ({"name": "firm", "scopes": "accounting.transactions"}, "offline_access is missing"),
        ({"name": "firm", "scopes": "offline_access " + "s" * 3000}, "scopes"),
        ({"name": 7}, "each a string"),
        ({"name": "firm", "client_secret": [SECRET]}, "each a string"),
        ({"name": "firm", "token_url": "https://evil.example"}, "each a string"),
    ],
)
async def test_an_implausible_account_is_refused_with_the_reason(
    server: Server,
    add: Add,
    get: Any,
    expected_log: Any,
    fields: dict[str, Any],
    told: str,
) -> None:
    """Only name, client id, secret, tenant and scopes can be given at run time: no URL."""
    expected_log(REFUSED)
    response = await add(server, **fields)
    assert (response.status, response.json["type"]) == (400, "urn:xots:bad-request")
    assert told in response.json["detail"]
    assert SECRET not in response.text
    assert set(await listed(server, get)) == {"default"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"name": "\xff"}', b"name=%ff", b"name=a&name=b"]
)
async def test_a_body_that_is_no_account_is_refused(
    server: Server, send: Any, get: Any, expected_log: Any, body: bytes
) -> None:
    """As JSON, and as a form."""
    expected_log(REFUSED)
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        response = await send("POST", f"{server.url}/accounts", {"Content-Type": kind}, body)
        assert (response.status, response.json["type"]) == (400, "urn:xots:bad-request")
    assert set(await listed(server, get)) == {"default"}


async def test_a_form_with_a_mistake_is_shown_again_without_the_secret(
    server: Server, person: Person
) -> None:
    """The other fields keep their values."""
    page = await person.open(f"{origin(server)}/accounts")
    page = await person.submit(page, name="My Firm", client_id="abc", client_secret=SECRET)
    assert page.status == 400
    assert "1 to 64 characters" in page.text
    assert dict(page.form.fields)["client_id"] == "abc"
    assert SECRET not in page.text


async def test_a_name_is_added_once(server: Server, firm: str, add: Add, expected_log: Any) -> None:
    """The second time changes nothing. The default account has its name already."""
    expected_log(REFUSED)
    for name in ("firm", "default"):
        response = await add(server, name, client_id="other")
        assert (response.status, response.json["type"]) == (409, "urn:xots:account-exists")


async def test_no_account_is_added_above_the_bound(
    new_server: NewServer, credentials: Any, add: Add, get: Any, expected_log: Any
) -> None:
    """The page and a program are told which setting raises it."""
    expected_log(REFUSED)
    server = await new_server(**credentials, max_accounts=3)
    assert [(await add(server, f"firm-{number}")).status for number in range(4)] == [
        201,
        201,
        409,
        409,
    ]
    response = await add(server, "firm-2")
    assert response.json["type"] == "urn:xots:too-many-accounts"
    assert "max_accounts" in response.json["detail"]
    assert len(await listed(server, get)) == 3


async def test_requests_at_the_same_time_do_not_pass_the_bound(
    new_server: NewServer, add: Add, get: Any, expected_log: Any, tmp_path: Path
) -> None:
    """Each of them is counted, although the store takes a while to write."""
    expected_log(REFUSED)
    store = f"file://{tmp_path / 'store'}"
    server = await new_server(store=store, key=(new_key(),), max_accounts=3)
    added = await asyncio.gather(*(add(server, f"firm-{number}") for number in range(8)))
    assert sorted(response.status for response in added) == [201] * 2 + [409] * 6
    assert len(await listed(server, get)) == 3


async def test_a_hostile_page_adds_and_removes_no_account(
    server: Server, firm: str, send: Any, get: Any, expected_log: Any
) -> None:
    """Its form, and its script's JSON as plain text, are refused as every POST is."""
    expected_log(REFUSED)
    form = urlencode({"name": "evil", "client_id": "evil"})
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
        {"Accept": "text/html"},
    ):
        kind = {"Content-Type": "application/x-www-form-urlencoded"} | headers
        assert (await send("POST", f"{origin(server)}/accounts", kind, form)).status == 403
        assert (await send("POST", f"{firm}/remove", kind, "")).status == 403
    assert set(await listed(server, get)) == {"default", "firm"}


# ---------- removing


async def test_a_program_removes_an_account(
    server: Server, firm: str, send: Any, get: Any, expected_log: Any
) -> None:
    """By POST. Its paths are gone, and it is no longer listed."""
    expected_log(REFUSED, r"")
    response = await send("POST", f"{firm}/remove", None, "")
    assert (response.status, response.json) == (200, {"status": "removed", "account": "firm"})
    assert set(await listed(server, get)) == {"default"}
    assert (await get(f"{firm}/status")).status == 404
    assert (await send("POST", f"{firm}/remove", None, "")).status == 404


async def test_the_log_names_each_account_that_is_added_or_removed(
    server: Server, add: Add, send: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A line of the access log does not name the account that was added."""
    caplog.set_level("INFO")
    await add(server)
    await send("POST", f"{origin(server)}/accounts/firm/remove", None, "")
    assert "firm: the account was added" in caplog.messages
    assert "firm: the account was removed" in caplog.messages


async def test_a_get_removes_nothing(
    server: Server, firm: str, get: Any, send: Any, expected_log: Any
) -> None:
    """A browser gets a button; a program is told to use POST, and HEAD is not supported."""
    expected_log(REFUSED)
    for response in (
        await get(f"{firm}/remove"),
        await get(f"{firm}/remove", Accept_Language="en"),
        await send("HEAD", f"{firm}/remove"),
    ):
        assert response.status == 405
        assert response.headers["Allow"] in ("GET, POST", "POST")
    page = await send("GET", f"{firm}/remove", BROWSER)
    assert page.status == 200
    assert re.search(
        r'<form method="post" action="/accounts/firm/remove">\s*<button type="submit">', page.text
    )
    assert set(await listed(server, get)) == {"default", "firm"}


async def test_a_user_removes_an_account_by_the_page(
    server: Server, firm: str, person: Person, get: Any
) -> None:
    """The list has a link to the page with the button, and shows the rest afterwards."""
    page = await person.follow(await person.open(f"{origin(server)}/accounts"), "Remove")
    page = await person.submit(page)
    assert (page.status, page.url) == (200, f"{origin(server)}/accounts")
    assert set(await listed(server, get)) == {"default"}


async def test_an_account_of_the_settings_is_not_removed(
    server: Server, send: Any, get: Any, expected_log: Any
) -> None:
    """The response names the place. The list offers no button for it."""
    expected_log(REFUSED)
    response = await send("POST", f"{server.url}/accounts/default/remove", None, "")
    assert (response.status, response.json["type"]) == (409, "urn:xots:account-fixed")
    assert "default" in response.json["detail"]
    page = await send("GET", f"{origin(server)}/accounts", BROWSER)
    assert "/accounts/default/remove" not in page.text
    assert set(await listed(server, get)) == {"default"}


@pytest.mark.safeguard(
    file="web/accounts.py",
    old="await asyncio.wait_for(self.accounts.swept(), MAX_SWEEP_WAIT_SECONDS)",
    new="pass",
    protects_from="removed accounts in the list after a start",
)
async def test_a_removed_account_stays_removed_after_a_start(
    new_server: NewServer, add: Add, send: Any, get: Any, expected_log: Any, tmp_path: Path
) -> None:
    """From the first request on: it is not listed, has no paths, leaves its place to another, and
    can be added again."""
    expected_log(REFUSED)
    shared: dict[str, Any] = {"store": f"file://{tmp_path / 'store'}", "key": (new_key(),)}
    before = await new_server(**shared)
    for name in ("one", "two", "three"):
        await add(before, name)
        await send("POST", f"{before.url}/accounts/{name}/remove", None, "")
    await before.stop()
    server = await new_server(**shared)
    assert set(await listed(server, get)) == {"default"}
    await server.stop()
    server = await new_server(**shared)
    assert (await get(f"{server.url}/accounts/one/status")).status == 404
    await server.stop()
    server = await new_server(**shared, max_accounts=3)
    assert [(await add(server, name)).status for name in ("two", "four")] == [201, 201]


# ---------- settings and logins of different clients and scopes


@pytest.fixture
def other_client(sandbox: Sandbox) -> str:
    """A second client at Xero, with the same secret."""
    app = sandbox.identity.clients[DEFAULT_CLIENT_ID]
    sandbox.identity.register(replace(app, client_id="other"))
    return "other"


@pytest.mark.parametrize("own", [{}, {"client_id": DEFAULT_CLIENT_ID}])
async def test_the_form_of_an_account_takes_no_other_client_than_its_settings_name(
    new_server: NewServer,
    credentials: Any,
    add: Add,
    person: Person,
    other_client: str,
    own: dict[str, str],
) -> None:
    """Such a login would make the account unusable once its keeper is opened again."""
    server = await new_server(**credentials)
    await add(server, **own)
    firm = f"{origin(server)}/accounts/firm"
    page = await person.submit(
        await person.open(f"{firm}/login"),
        client_id=other_client,
        client_secret=DEFAULT_CLIENT_SECRET,
    )
    assert page.status == 400
    assert "name another client" in page.text
    assert not person.cookies


async def test_an_account_that_is_added_again_has_the_new_settings_at_once(
    server: Server, firm: str, add: Add, person: Person, send: Any, get: Any, other_client: str
) -> None:
    """Its keeper may still be open with the old ones."""
    assert (await get(f"{firm}/status")).json["client_id"] == DEFAULT_CLIENT_ID
    await send("POST", f"{firm}/remove", None, "")
    added = await add(server, client_id=other_client, client_secret=DEFAULT_CLIENT_SECRET)
    assert added.status == 201
    assert (await get(f"{firm}/status")).json["client_id"] == other_client
    page = await person.consent(await person.submit(await person.open(f"{firm}/home")))
    assert (page.status, page.url) == (200, f"{firm}/home")
    assert (await get(f"{firm}/status")).json["client_id"] == other_client


@pytest.mark.safeguard(
    file="web/callback.py",
    old="        if self.is_other_client(login.credentials.client_id):\n",
    new="        if False:\n",
    protects_from="a login of another client than the account's, which makes it unusable",
)
async def test_a_login_does_not_enter_an_account_that_was_added_again_with_another_client(
    server: Server,
    firm: str,
    add: Add,
    person: Person,
    send: Any,
    get: Any,
    other_client: str,
    expected_log: Any,
) -> None:
    """It was started for the account that was removed."""
    expected_log(REFUSED)
    consent = await person.submit(await person.open(f"{firm}/home"))
    await send("POST", f"{firm}/remove", None, "")
    await add(server, client_id=other_client, client_secret=DEFAULT_CLIENT_SECRET)
    page = await person.consent(consent)
    assert page.status == 400
    status = (await get(f"{firm}/status")).json
    assert (status["state"], status["client_id"]) == ("not-logged-in", other_client)


@pytest.fixture
async def mismatched(
    request: pytest.FixtureRequest,
    new_server: NewServer,
    credentials: Any,
    add: Add,
    person: Person,
    tmp_path: Path,
    expected_log: Any,
) -> Server:
    """A server whose settings (the parameter) describe another login than its account ``firm``
    has."""
    expected_log.perhaps(r"WARNING xots\.(web|accounts): ")
    shared: dict[str, Any] = {"store": f"file://{tmp_path / 'store'}", "key": (new_key(),)}
    before = await new_server(**shared, **credentials)
    await add(before)
    firm = f"{origin(before)}/accounts/firm"
    page = await person.consent(await person.submit(await person.open(f"{firm}/home")))
    assert page.status == 200
    await before.stop()
    return await new_server(**shared, **credentials | request.param)


OTHER_SCOPES = {
    "scopes": ("offline_access", "accounting.settings"),
    "sources": {"scopes": "--scopes"},
}
OTHER_CLIENT = {"client_id": "other", "sources": {"client_id": "--client-id"}}


@pytest.mark.parametrize("mismatched", [OTHER_SCOPES, OTHER_CLIENT], indirect=True)
@pytest.mark.parametrize("act", ["revoke", "revoke?all=true", "logout", "remove"])
async def test_the_login_of_an_account_with_other_settings_can_be_ended(
    mismatched: Server, send: Any, get: Any, sandbox: Sandbox, act: str
) -> None:
    """It serves nothing. Its problem names that remedy, which needs no restart: the revocation
    reaches Xero in the name of the login's own client."""
    firm = f"{origin(mismatched)}/accounts/firm"
    assert (await get(f"{firm}/token")).status == 503
    response = await send("POST", f"{firm}/{act}", None, "")
    assert response.status in (200, 303), response.text
    assert [one.client_id for one in revocations(sandbox)] == [DEFAULT_CLIENT_ID]
    assert (await get(f"{firm}/token")).status == (404 if act == "remove" else 401)
    assert not (await listed(mismatched, get)).get("firm", {}).get("problem")


@pytest.mark.parametrize("mismatched", [{"token_url": "https://other.example/t"}], indirect=True)
@pytest.mark.parametrize("act", ["revoke", "logout", "remove"])
async def test_no_token_of_an_account_is_sent_to_another_identity_server(
    mismatched: Server, send: Any, get: Any, sandbox: Sandbox, act: str
) -> None:
    """The settings must be corrected first."""
    firm = f"{origin(mismatched)}/accounts/firm"
    response = await send("POST", f"{firm}/{act}", None, "")
    assert (response.status, response.json["type"]) == (503, "urn:xots:account-unusable")
    assert revocations(sandbox) == []


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="if account.client_id is None or self.is_foreign:",
    new="if account.client_id is None:",
    protects_from="a client secret in the record that another identity server receives",
)
@pytest.mark.parametrize("base", ["", "/accounts/firm"])
async def test_a_kept_secret_is_not_for_another_identity_server(
    new_server: NewServer, add: Add, person: Person, send: Any, get: Any, tmp_path: Path, base: str
) -> None:
    """The login was revoked, and the settings name another server since. The user is asked for
    its credentials."""
    shared: dict[str, Any] = {"store": f"file://{tmp_path / 'store'}", "key": (new_key(),)}
    before = await new_server(**shared)
    await add(before)
    page = await person.log_in(origin(before) + base, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    assert page.status == 200
    assert (await send("POST", f"{origin(before)}{base}/revoke", None, "")).status == 200
    assert (await get(f"{origin(before)}{base}/status")).json["client_id"] == DEFAULT_CLIENT_ID
    await before.stop()
    server = await new_server(**shared, token_url="https://other.example/t")
    assert (await get(f"{origin(server)}{base}/status")).json["client_id"] is None
    home = await get(f"{origin(server)}{base}/home")
    assert (home.status, home.headers["Location"]) == (303, f"{base}/")


# ---------- names that are none


async def test_an_unknown_account_is_404_and_costs_no_request_to_the_store(
    server: Server,
    firm: str,
    get: Any,
    send: Any,
    expected_log: Any,
    break_store: Callable[[Server], None],
) -> None:
    """A flood of invented names reaches nothing. The page leads to the list."""
    expected_log(REFUSED)
    break_store(server)
    for path in ("/", "/home", "/token", "/status", "/livez", "/refresh", "/remove"):
        url = f"{origin(server)}/accounts/unknown{path}"
        headers = None if path != "/remove" else {"Accept": "text/html"}
        response = await send("GET", url, headers)
        assert response.status == 404
        if headers is None:
            assert response.json["type"] == "urn:xots:unknown-account"
    page = await send("GET", f"{origin(server)}/accounts/unknown/home", BROWSER)
    assert page.status == 404
    assert 'href="/accounts"' in page.text
    assert "/accounts/unknown" not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/accounts/",
        "/accounts/firm",
        "/accounts/Firm/home",
        "/accounts/fi%72m/home",
        "/accounts/firm%0a/home",
        "/accounts//home",
        "/accounts/firm//home",
        "/accounts/firm/code",
        "/accounts/firm/ping",
        "/accounts/firm/ready",
        "/accounts/firm/accounts",
        "/accounts/firm/style.css",
        "/accounts/firm/home/",
        f"/accounts/{65 * 'a'}/home",
    ],
)
async def test_a_path_that_resembles_an_accounts_does_not_exist(
    server: Server, firm: str, get: Any, expected_log: Any, path: str
) -> None:
    """Only the exact path names an account."""
    expected_log(REFUSED)
    response = await get(origin(server) + path)
    assert (response.status, response.json["type"]) == (404, "urn:xots:not-found")


# ---------- the paths of one account


LINK = re.compile(r'(?:href|action)="([^"]*)"')
COMMON = {"/style.css", "/accounts"}


def leads_elsewhere(page: str, base: str) -> set[str]:
    """Return the targets of a page's links and forms that are not the account's."""
    targets = {target.partition("?")[0] for target in LINK.findall(page)}
    return {target for target in targets - COMMON if not target.startswith(f"{base}/")}


PAGES = ("/", "/login", "/home", "/status", "/token", "/tenants", "/refresh", "/revoke", "/logout")


@pytest.mark.safeguard(
    file="web/responses.py",
    old='return f"/accounts/{self.named_account}{path}" if self.named_account else path',
    new="return path",
    protects_from="a button of one account that acts on another one",
)
@pytest.mark.parametrize("state", ["no credentials", "not logged in", "connected", "failing"])
async def test_every_link_redirect_and_message_of_an_account_leads_to_it(
    new_server: NewServer,
    credentials: Any,
    add: Add,
    person: Person,
    send: Any,
    sandbox: Sandbox,
    clock: Any,
    expected_log: Any,
    state: str,
) -> None:
    """A button of one account must never act on another one."""
    expected_log.perhaps(r"^WARNING ")
    server = await new_server(**({} if state == "no credentials" else credentials))
    await add(server)
    base = "/accounts/firm"
    if state in ("connected", "failing"):
        page = await person.submit(await person.open(origin(server) + base + "/home"))
        page = await person.consent(page)
        assert page.url == f"{origin(server)}{base}/home"
    if state == "failing":
        clock.advance(1800)
        sandbox.add_fault("refresh:every:503-html")
    seen = []
    for path in PAGES:
        for headers in (BROWSER, None):
            response = await send("GET", origin(server) + base + path, headers)
            location = response.headers.get("Location", f"{base}/")
            assert location.startswith(f"{base}/"), (path, location)
            text = response.text
            if response.headers.get("Content-Type", "").startswith("text/html"):
                assert leads_elsewhere(text, base) == set(), path
            seen.append(text)
            for words in (" /home", " /login", "open / ", f"{origin(server)}/ "):
                assert words not in text, (path, words)
    for method, path in (("POST", "/refresh"), ("POST", "/home"), ("POST", "/logout")):
        response = await send(method, origin(server) + base + path, None, "")
        location = response.headers.get("Location", f"{base}/")
        assert location.startswith((f"{base}/", sandbox.url)), (path, location)


@pytest.mark.parametrize("path", ["/home", "/revoke", "/logout", "/remove"])
async def test_the_page_of_a_refused_request_leads_back_to_its_account(
    server: Server, firm: str, send: Any, expected_log: Any, path: str
) -> None:
    """The user tries again there, not at the default account."""
    expected_log(REFUSED)
    page = await send("POST", f"{firm}{path}", WANTS_PAGE, "")
    assert page.status == 403
    assert leads_elsewhere(page.text, "/accounts/firm") == set()


@pytest.mark.safeguard(
    file="web/callback.py",
    old="        await self.use_account(account)\n",
    new="",
    protects_from="a login of one account that becomes the default account's",
)
async def test_a_login_of_an_account_connects_only_that_account(
    server: Server, firm: str, person: Person, get: Any
) -> None:
    """From its form through Xero and the one redirect URI, back to its page."""
    page = await person.log_in(firm, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    assert (page.status, page.url) == (200, f"{firm}/home")
    assert (await get(f"{firm}/token")).status == 200
    assert (await get(f"{server.url}/token")).status == 401
    assert (await get(f"{firm}/livez")).json["state"] == "connected"
    assert person.cookies["localhost"] == {}


@pytest.mark.parametrize("act", ["refresh", "revoke", "logout"])
async def test_an_act_of_an_account_acts_only_on_that_account(
    logged_in: Server, add: Add, person: Person, send: Any, get: Any, act: str
) -> None:
    """The other login stays as it is."""
    await add(logged_in)
    firm = f"{origin(logged_in)}/accounts/firm"
    await person.consent(await person.submit(await person.open(f"{firm}/home")))
    before = logged_in.keeper.account
    token = (await get(f"{firm}/token")).json["accessToken"]
    response = await send("POST", f"{firm}/{act}", None, "")
    assert response.status in (200, 303)
    assert logged_in.keeper.account == before
    after = await get(f"{firm}/token")
    assert after.json.get("accessToken") != token


async def test_a_problem_names_the_accounts_own_page(server: Server, firm: str, get: Any) -> None:
    """A program that is told to log in must not log the default account in."""
    problem = (await get(f"{firm}/token")).json
    assert f"open {firm}/home in a browser" in problem["detail"]
    [sentence] = (await get(f"{firm}/status")).json["explanation"]
    assert sentence == f"No user is logged in. Open {firm}/home and log in."


# ---------- logins of several accounts and servers in one browser


async def test_servers_and_accounts_in_one_browser_never_cross(
    new_server: NewServer, add: Add, person: Person, sandbox: Sandbox, get: Any, decide: Any
) -> None:
    """Two servers on localhost, two accounts each: all forms are sent before the first login
    starts, all logins start before the first returns, and they return in another order. Each ends
    at the account that it was started for, and so does each choice of an organisation."""
    bases = []
    for _ in range(2):
        server = await new_server()
        await add(server)
        bases += [origin(server), f"{origin(server)}/accounts/firm"]
    clients = dict(zip(bases, ("one", "two", "three", "four"), strict=True))
    app = sandbox.identity.clients[DEFAULT_CLIENT_ID]
    for client_id in clients.values():
        sandbox.identity.register(replace(app, client_id=client_id))
    pages: dict[str, Page] = {}
    for base in bases:
        form = await person.open(f"{base}/login")
        pages[base] = await person.submit(
            form, client_id=clients[base], client_secret=DEFAULT_CLIENT_SECRET
        )
        assert pages[base].url == f"{base}/home"
    assert len(person.cookies["localhost"]) == 4
    for base in reversed(bases):
        pages[base] = await person.submit(pages[base])
    assert len(person.cookies["localhost"]) == 8
    organisations = tuple(sandbox.world.accounting.organisations)
    for base in (bases[2], bases[0], bases[3], bases[1]):
        pages[base] = await person.open(await decide(pages[base], tenants=organisations))
        assert (pages[base].status, pages[base].url) == (200, f"{base}/home")
    assert person.cookies["localhost"] == {}
    for number, base in enumerate(bases):
        home = await person.open(f"{base}/home")
        await person.submit(one_form(home, 'type="radio"'), tenant_id=organisations[number % 2])
    for number, base in enumerate(bases):
        status = (await get(f"{base}/status")).json
        assert (status["state"], status["client_id"]) == ("connected", clients[base])
        assert status["tenant_id"] == organisations[number % 2]


async def test_the_login_of_a_removed_account_ends_at_the_list(
    server: Server, firm: str, person: Person, send: Any, expected_log: Any
) -> None:
    """It must not become the default account's login."""
    expected_log(REFUSED)
    consent = await person.submit(await person.open(f"{firm}/home"))
    await send("POST", f"{firm}/remove", None, "")
    page = await person.consent(consent)
    assert page.status == 404
    assert page.link("Show the accounts") == f"{origin(server)}/accounts"
    assert server.keeper.account.consent_id is None


# ---------- one account in trouble


@pytest.mark.safeguard(
    file="web/handler.py",
    old="return left < 0 or (left < own and len(self.accounts.names()) > 1)",
    new="return left < 0",
    protects_from="one account whose waiting requests stop all others",
)
async def test_the_waiting_requests_of_one_account_leave_room_to_the_others(
    new_server: NewServer,
    credentials: Any,
    add: Add,
    log_in: Any,
    person: Person,
    sandbox: Sandbox,
    get: Any,
    clock: FakeClock,
    expected_log: Any,
) -> None:
    """Xero does not respond to the refresh of one account. Another account's refresh is waited
    for, however many callers the first one has."""
    expected_log(REFUSED)
    server = await new_server(max_connections=20, **credentials)
    await log_in(server)
    await add(server)
    firm = f"{origin(server)}/accounts/firm"
    await person.consent(await person.submit(await person.open(f"{firm}/home")))
    clock.advance(600)
    sandbox.add_fault("refresh:nth=1:hold-before")
    async with asyncio.TaskGroup() as callers:
        waiting = [callers.create_task(get(f"{firm}/token?min_ttl=1700")) for _ in range(12)]
        await sandbox.held()
        await eventually(lambda: sum(task.done() for task in waiting) == 7)
        assert (await get(f"{server.url}/token?min_ttl=1700")).status == 200
        sandbox.release()
    statuses = [task.result().status for task in waiting]
    assert sorted(statuses) == [200] * 5 + [503] * 7


# ---------- accounts of one client and one Xero user


@pytest.fixture
async def three(server: Server, add: Add, person: Person, get: Any) -> list[str]:
    """The URLs of three accounts with a login each, of one client and one Xero user."""
    bases = [origin(server)]
    for name in ("firm", "shop"):
        await add(server, name)
        bases.append(f"{origin(server)}/accounts/{name}")
    for base in bases:
        page = await person.consent(await person.submit(await person.open(f"{base}/home")))
        assert page.url == f"{base}/home"
    return bases


async def test_the_list_names_the_accounts_that_share_a_user(
    server: Server, three: list[str], get: Any, send: Any
) -> None:
    """One revocation at Xero would end all of them."""
    found = await listed(server, get)
    assert found["firm"]["shares_with"] == ["default", "shop"]
    page = await send("GET", f"{origin(server)}/accounts", BROWSER)
    assert "shares its user with default, shop" in page.text


def test_a_list_of_many_accounts_of_one_user_stays_small() -> None:
    """Each names some of the others: a thousand that share one user would name a million."""
    directory = Directory({})
    glimpse = Glimpse(source="", is_live=True, client_id="client", user_id="user")
    for number in range(1000):
        directory.note(f"firm-{number:03}", glimpse)
    directory.note("unknown", with_fields(glimpse, user_id=None))
    found = {one.name: one.shares_with for one in directory.summaries()}
    assert found["firm-001"][:2] == (*found["unknown"][:1], "firm-002")
    assert sum(map(len, found.values())) <= 20 * 1001


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_ending_one_login_leaves_those_of_the_same_user_alive(
    server: Server, three: list[str], send: Any, get: Any, clock: FakeClock, act: str
) -> None:
    """Their refreshes at Xero succeed afterwards. A program is told which logins stay."""
    ended = await send("POST", f"{three[1]}/{act}", None, "")
    assert ended.status == 200
    assert ended.json["status"] == "disconnected"
    assert ended.json["shared_with"] == ["default", "shop"]
    assert "Nothing was revoked at Xero" in ended.json["detail"]
    assert (await get(f"{three[1]}/token")).status == 401
    clock.advance(60)
    for base in (three[0], three[2]):
        assert (await send("POST", f"{base}/refresh", None, "")).status == 303


@pytest.mark.parametrize("act", ["revoke", "logout", "remove"])
async def test_a_user_reads_what_an_end_leaves_at_xero(
    server: Server, three: list[str], person: Person, get: Any, act: str
) -> None:
    """The page names the logins that stay."""
    page = await person.open(f"{three[1]}/{act}")
    page = await person.submit(page if act == "remove" else one_form(page, "End this login only"))
    assert page.status == 200
    assert "Nothing was revoked at Xero" in page.text
    assert "default, shop" in page.text
    assert [(await get(f"{base}/token")).status for base in (three[0], three[2])] == [200, 200]


async def test_a_removal_tells_which_logins_stay(
    server: Server, three: list[str], send: Any, get: Any
) -> None:
    """Nothing was revoked, since that would end these too."""
    response = await send("POST", f"{three[1]}/remove", None, "")
    assert response.json["status"] == "removed"
    assert "Nothing was revoked at Xero" in response.json["detail"]
    assert "default, shop" in response.json["detail"]
    assert set(await listed(server, get)) == {"default", "shop"}


async def test_a_removal_tells_that_xero_has_not_confirmed_it(
    server: Server,
    firm: str,
    person: Person,
    send: Any,
    sandbox: Sandbox,
    expected_log: Any,
) -> None:
    """The server repeats the request for the removed account."""
    expected_log(r"WARNING xots: firm: Xero did not confirm the revocation")
    await person.consent(await person.submit(await person.open(f"{firm}/home")))
    sandbox.add_fault("revocation:every:503-html")
    response = await send("POST", f"{firm}/remove", None, "")
    assert "has not confirmed the revocation" in response.json["detail"]


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_a_user_ends_one_or_all_logins_by_the_buttons(
    server: Server, three: list[str], person: Person, send: Any, get: Any, act: str
) -> None:
    """The page says which accounts the second button ends, and the first one ends only its own."""
    page = await person.open(f"{three[1]}/{act}")
    assert "The accounts default, shop log in with the same client" in page.text
    assert "nothing is revoked" in page.text
    assert '<button type="submit">End this login only</button>' in page.text
    everything = one_form(page, 'name="all"')
    assert "End all of: firm, default, shop" in everything.text
    page = await person.submit(everything)
    assert page.status == 200
    assert {(await get(f"{base}/token")).status for base in three} == {401}
    if act == "revoke":
        assert "default, shop, firm" in page.text
    else:
        assert page.url == f"{origin(server)}/accounts"


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_a_program_ends_all_logins_of_a_user(
    server: Server, three: list[str], send: Any, sandbox: Sandbox, clock: FakeClock, act: str
) -> None:
    """Each account's status is in the response, and Xero issues from no token any more."""
    response = await send("POST", f"{three[1]}/{act}?all=true", None, "")
    assert (response.status, response.json) == (
        200,
        {
            "status": "revoked",
            "accounts": {"default": "revoked", "shop": "revoked", "firm": "revoked"},
        },
    )
    assert sandbox.identity.usable_refresh_tokens(clock.now()) == []


async def test_a_login_that_cannot_be_ended_stops_no_other_end(
    server: Server,
    three: list[str],
    send: Any,
    get: Any,
    expected_log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The response names it, and those that were ended."""
    expected_log(REFUSED)
    async with server.accounts.opened("shop") as found:
        keeper = found.keeper

    async def fail(**_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(keeper, "end", fail)
    response = await send("POST", f"{three[1]}/revoke?all=true", None, "")
    assert (response.status, response.json["type"]) == (503, "urn:xots:account-unusable")
    assert "shop: the disk is full" in response.json["detail"]
    assert "default, firm were ended" in response.json["detail"]
    assert [(await get(f"{base}/livez")).json["state"] for base in three[:2]] == [
        "revoked",
        "revoked",
    ]


@pytest.mark.parametrize("value", ["false", "", "TRUE", "1", "true&all=true"])
async def test_an_unclear_all_ends_nothing(
    server: Server, three: list[str], send: Any, get: Any, expected_log: Any, value: str
) -> None:
    """A caller that means one login must not end all, and the other way round."""
    expected_log(REFUSED)
    for act in ("revoke", "logout"):
        assert (await send("POST", f"{three[1]}/{act}?all={value}", None, "")).status == 400
    assert {(await get(f"{base}/token")).status for base in three} == {200}


@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_ending_a_login_of_another_xero_user_revokes_only_that_one(
    server: Server,
    add: Add,
    person: Person,
    sandbox: Sandbox,
    get: Any,
    send: Any,
    clock: FakeClock,
    act: str,
) -> None:
    """Two accounts of one app, each of a user of its own, share nothing. The end is a revocation at
    Xero, which leaves the other user's connection and tokens."""
    bo = User("00000000-0000-4000-8000-000000000002", "Bo")
    sandbox.identity.users[bo.user_id] = bo
    await add(server)
    default, firm = origin(server), f"{origin(server)}/accounts/firm"
    for base, user_id in ((default, None), (firm, bo.user_id)):
        page = await person.submit(await person.open(f"{base}/home"))
        assert (await person.consent(page, user_id)).url == f"{base}/home"
    found = await listed(server, get)
    assert [one["shares_with"] for one in found.values()] == [[], []]
    assert "shares its user" not in (await person.open(f"{default}/accounts")).text
    assert 'name="all"' not in (await person.open(f"{firm}/{act}")).text
    ended = await send("POST", f"{firm}/{act}", None, "")
    if act == "revoke":
        assert (ended.status, ended.json) == (200, {"status": "revoked"})
    assert sandbox.identity.counts.revocations == 1
    assert connected(sandbox, bo) == 0
    assert connected(sandbox, User()) == 1
    clock.advance(60)
    assert (await send("POST", f"{default}/refresh", None, "")).status == 303
    assert (await get(f"{firm}/token")).status == 401


def connected(sandbox: Sandbox, user: User) -> int:
    """Return the number of organisations that the user has connected at Xero."""
    app = sandbox.identity.app(DEFAULT_CLIENT_ID, user.user_id)
    return 0 if app is None else len(app.connections)
