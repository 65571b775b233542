"""A server whose requests need keys, in a real Chromium: its user, and a hostile page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.sites import Site, requests_at
from browser.test_hostile_pages import attacked, state, wrongly_served
from playwright.async_api import Browser, BrowserContext, Page
from support.readers import key_of, line

from xots.sandbox import Sandbox
from xots.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

NewServer = Callable[..., Awaitable[Server]]


@pytest_asyncio.fixture(loop_scope="session")
async def locked(
    new_server: NewServer, credentials: dict[str, Any], tmp_path: Path
) -> AsyncIterator[Server]:
    """A server with an administrator's key, without a login."""
    readers = tmp_path / "readers"
    readers.write_text(line("owner"))
    yield await new_server(readers=readers, **credentials)


@pytest_asyncio.fixture(loop_scope="session")
async def key_holder(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A browser whose user enters the reader's name and key when it asks for them."""
    context = await chromium.new_context(
        http_credentials={"username": "owner", "password": key_of("owner")}
    )
    context.set_default_timeout(8_000)
    yield context
    await context.close()


async def connected(context: BrowserContext, server: Server) -> Page:
    """Log in through the pages, with a key for each."""
    page = await context.new_page()
    await page.goto(f"http://localhost:{server.port}/home")
    await page.click("text=Connect to Xero")
    await page.click("button >> text=Allow access")
    await page.wait_for_selector("text=Connected.")
    return page


async def test_a_user_with_a_key_logs_in(key_holder: BrowserContext, locked: Server) -> None:
    """The browser sends the key with the form, the return from Xero, and the style sheet."""
    page = await connected(key_holder, locked)
    assert page.url == f"http://localhost:{locked.port}/home"
    response = await page.goto(f"http://localhost:{locked.port}/status")
    assert response is not None
    assert response.status == 200


async def test_a_hostile_page_gets_nothing_from_a_browser_that_has_the_key(
    key_holder: BrowserContext, hostile: Site, locked: Server, sandbox: Sandbox
) -> None:
    """The browser adds the key to the page's requests by itself. The guard refuses them."""
    await connected(key_holder, locked)
    before = state(locked, sandbox)
    target, paths = f"http://localhost:{locked.port}", ["/token", "/refresh", "/logout", "/status"]
    with requests_at(locked.port) as served:
        reads = await attacked(
            key_holder,
            f"http://evil.test:{hostile.port}",
            target,
            served,
            light=paths,
            documents=paths[:2],
        )
    assert reads == []
    assert state(locked, sandbox) == before
    assert wrongly_served(served) == []
