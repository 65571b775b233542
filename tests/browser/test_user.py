"""The user's own way through the pages in a real Chromium, without a complaint in its console."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from browser.sites import Site
from playwright.async_api import BrowserContext, ConsoleMessage, Page
from support.other_server import running_other_server

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Endpoint, Sandbox
from xots.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

NewServer = Callable[..., Awaitable[Server]]


@pytest_asyncio.fixture(loop_scope="session")
async def complaints(context: BrowserContext, sandbox: Sandbox) -> AsyncIterator[list[str]]:
    """Collect the warnings and errors in the console of each tab; any that is left fails the test.

    They name blocked content (CSP, COOP), resources that failed to load, and errors of scripts.
    Those of the simulated Xero's page, which has no icon, do not count.
    """
    found: list[str] = []

    def collect(message: ConsoleMessage) -> None:
        of_xero = message.location["url"].startswith(sandbox.url)
        if message.type in ("warning", "error") and not of_xero:
            found.append(message.text)

    context.on("console", collect)
    context.on("weberror", lambda error: found.append(str(error.error)))
    yield found
    assert found == []


@pytest.fixture
def bare(complaints: list[str], new_server: NewServer) -> NewServer:
    """Start servers whose pages must not complain."""
    return new_server


async def consent(page: Page) -> None:
    """Press the button of Xero's page, and arrive at the connection."""
    await page.click("button >> text=Allow access")
    await page.wait_for_selector("text=Connected.")


def host(server: Server) -> str:
    return f"http://localhost:{server.port}"


async def connected(page: Page, server: Server) -> None:
    """Log in at a server that has credentials."""
    await page.goto(f"{host(server)}/home")
    await page.click("text=Connect to Xero")
    await consent(page)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_user_types_the_address_and_logs_in(
    context: BrowserContext, bare: NewServer, name: str
) -> None:
    """The whole way: the form, Xero's consent, and the connection, by each name of this machine."""
    server = await bare()
    page = await context.new_page()
    await page.goto(f"http://{name}:{server.port}/")
    await page.fill("[name=client_id]", DEFAULT_CLIENT_ID)
    await page.fill("[name=client_secret]", DEFAULT_CLIENT_SECRET)
    await page.click("text=Continue")
    await page.click("text=Connect to Xero")
    await consent(page)
    assert page.url == f"{host(server)}/home"
    assert await context.cookies() == []
    await page.reload()
    assert await page.is_visible("text=Connected.")


async def test_a_user_logs_in_at_a_server_that_leads_to_another_origin(
    context: BrowserContext, bare: NewServer, sandbox: Sandbox, credentials: dict[str, Any]
) -> None:
    """The authorize endpoint redirects to a login page on another origin, as it may at any server
    but Xero. Chromium holds the form to its policy on the way."""
    async with running_other_server(sandbox.authorize_url) as other:
        server = await bare(**credentials, authorize_url=other.authorize_url)
        page = await context.new_page()
        await page.goto(f"{host(server)}/home")
        await page.click("main >> button >> text=Log in")
        await consent(page)
        assert page.url == f"{host(server)}/home"


@pytest.mark.parametrize("path", ["/", "/home", "/login"])
async def test_a_user_arrives_by_a_link_from_another_site(
    context: BrowserContext,
    bare: NewServer,
    hostile: Site,
    credentials: dict[str, Any],
    path: str,
) -> None:
    """The page is shown, and its buttons work."""
    server = await bare(**credentials)
    hostile.page("/links", f'<link rel=icon href="data:,"><a href="{host(server)}{path}">xots</a>')
    page = await context.new_page()
    await page.goto(f"http://evil.test:{hostile.port}/links")
    await page.click("text=xots")
    if path == "/login":
        await page.fill("[name=client_id]", DEFAULT_CLIENT_ID)
        await page.fill("[name=client_secret]", DEFAULT_CLIENT_SECRET)
        await page.click("text=Continue")
    await page.click("text=Connect to Xero")
    await consent(page)


async def test_a_user_opens_each_page_by_a_bookmark(
    context: BrowserContext, bare: NewServer, credentials: dict[str, Any]
) -> None:
    """Each address can be typed, bookmarked and opened in a new tab; the style sheet applies."""
    server = await bare(**credentials)
    await connected(await context.new_page(), server)
    for path in ("/", "/login", "/home", "/status", "/refresh", "/revoke", "/logout"):
        page = await context.new_page()
        response = await page.goto(host(server) + path)
        assert response is not None
        assert response.status == 200, path
        width = await page.evaluate("() => getComputedStyle(document.body).maxWidth")
        assert width != "none", f"{path} has no style"
        await page.close()


async def test_a_user_reads_the_token_as_typed_address(
    context: BrowserContext, bare: NewServer, credentials: dict[str, Any]
) -> None:
    """The browser shows the JSON to its user."""
    server = await bare(**credentials)
    page = await context.new_page()
    await connected(page, server)
    await page.goto(f"{host(server)}/token")
    access = server.keeper.account.access
    assert access is not None
    assert access.value.reveal() in await page.inner_text("body")


async def test_a_user_follows_the_pages_own_links_and_goes_back(
    context: BrowserContext, bare: NewServer, credentials: dict[str, Any]
) -> None:
    """The footer's links and the back button work."""
    server = await bare(**credentials)
    page = await context.new_page()
    await connected(page, server)
    await page.click("footer >> text=Status")
    assert await page.is_visible("text=Tokens are shown by their fingerprints.")
    await page.click("footer >> text=Credentials")
    assert await page.is_visible("[name=client_secret]")
    await page.go_back()
    assert page.url == f"{host(server)}/status"
    await page.go_back()
    assert await page.is_visible("text=Connected.")
    await page.go_forward()
    assert page.url == f"{host(server)}/status"


async def test_a_user_chooses_among_two_organisations(
    context: BrowserContext, bare: NewServer, sandbox: Sandbox, credentials: dict[str, Any]
) -> None:
    """After a consent to several organisations, the page offers them and keeps the choice."""
    server = await bare(**credentials)
    page = await context.new_page()
    await page.goto(f"{host(server)}/home")
    await page.click("text=Connect to Xero")
    for box in await page.query_selector_all("[type=checkbox]"):
        await box.check()
    await consent(page)
    # The way from Xero counts as one from another site: the list is that of the login.
    await page.check("[name=tenant_id] >> nth=1")
    await page.click("text=Use this organisation")
    await page.wait_for_selector("[name=tenant_id]", state="detached")
    assert server.keeper.account.tenant_id in sandbox.world.accounting.organisations


async def test_a_user_refreshes_and_revokes_by_the_buttons(
    context: BrowserContext, bare: NewServer, sandbox: Sandbox, credentials: dict[str, Any]
) -> None:
    """A link leads to the question, and only its button acts."""
    server = await bare(**credentials)
    page = await context.new_page()
    await connected(page, server)
    before = len(sandbox.log)
    await page.click("main a >> text=Revoke")
    assert len(sandbox.log) == before
    async with page.expect_navigation():
        await page.click("main button")
    assert await page.is_visible("text=Xero has revoked the login")
    assert [one.endpoint for one in sandbox.log[before:]] == [Endpoint.REVOCATION]
    await page.click("text=Back to the connection")
    assert await page.is_visible("text=The login was ended here.")


async def test_a_user_logs_in_in_two_tabs_at_once(
    context: BrowserContext, bare: NewServer, credentials: dict[str, Any]
) -> None:
    """Each tab finishes the login that it has started."""
    server = await bare(**credentials)
    first, second = await context.new_page(), await context.new_page()
    for page in (first, second):
        await page.goto(f"{host(server)}/home")
        await page.click("#connect button")
    await consent(first)
    await consent(second)
    assert await first.is_visible("text=Connected.")


async def test_a_user_logs_in_at_two_servers_with_two_accounts_each_at_once(
    context: BrowserContext, bare: NewServer, sandbox: Sandbox
) -> None:
    """Chromium sends the cookies of both ports of localhost to both servers. Each tab finishes the
    login that it has started, with the credentials that were entered in it."""
    app = sandbox.identity.clients[DEFAULT_CLIENT_ID]
    servers = [await bare(), await bare()]
    tabs: dict[str, tuple[Page, str]] = {}
    for server in servers:
        page = await context.new_page()
        await page.goto(f"{host(server)}/accounts")
        await page.fill("[name=name]", "firm")
        async with page.expect_navigation():
            await page.click("main button")
        await page.close()
        for base in (host(server), f"{host(server)}/accounts/firm"):
            client_id = f"client-{len(tabs)}"
            redirect_uris = tuple(one.redirect_uri for one in servers)
            known = replace(app, client_id=client_id, redirect_uris=redirect_uris)
            sandbox.identity.register(known)
            tabs[base] = (await context.new_page(), client_id)
    for base, (page, client_id) in tabs.items():
        await page.goto(f"{base}/login")
        await page.fill("[name=client_id]", client_id)
        await page.fill("[name=client_secret]", DEFAULT_CLIENT_SECRET)
        await page.click("text=Continue")
    assert len(await context.cookies()) == 4
    for page, _ in reversed(tabs.values()):
        await page.click("#connect button")
        await page.wait_for_selector("button >> text=Allow access")
    assert len(await context.cookies()) == 8
    for base, (page, client_id) in reversed(tabs.items()):
        await consent(page)
        assert page.url == f"{base}/home"
        assert await page.is_visible(f"main >> text={client_id}")
    assert await context.cookies() == []


async def test_the_console_of_a_blocked_script_is_seen(
    context: BrowserContext, new_server: NewServer
) -> None:
    """These tests would see a violation: a page of xots blocks a script that is put into it."""
    server = await new_server()
    page = await context.new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    await page.goto(f"{host(server)}/")
    await page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.text = "1";
          document.body.append(script);
        }"""
    )
    assert any("Content Security Policy" in text for text in seen)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_user_adds_an_account_logs_it_in_and_removes_it(
    context: BrowserContext, bare: NewServer, credentials: dict[str, Any], name: str
) -> None:
    """The whole way through the list, by each name of this machine."""
    server = await bare(**credentials)
    page = await context.new_page()
    await page.goto(f"http://{name}:{server.port}/accounts")
    await page.fill("[name=name]", "firm")
    await page.click("button >> text=Add")
    await page.click("text=Connect to Xero")
    await consent(page)
    assert page.url == f"{host(server)}/accounts/firm/home"
    await page.goto(f"http://{name}:{server.port}/accounts")
    await page.click("text=Remove")
    await page.click("button >> text=Remove")
    await page.wait_for_url("**/accounts")
    assert not await page.is_visible("text=firm")
