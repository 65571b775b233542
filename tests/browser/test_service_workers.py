"""What another program, which had the port before, has left in the browser: workers and tabs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from browser.sites import LEAKED, Site, log_in, site
from playwright.async_api import BrowserContext, Page
from support.bench import eventually

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = Path(__file__).with_name("workers.js")

WORKERS = ["passing", "greedy", "rebuilding", "omitting", "lurking", "preloading", "racing"]

KEPT = {"omitting"}
"""The workers that a plain reload does not remove: the user reloads with the Shift key, or waits
half a minute for the browser's check for an update."""

READING = [
    "fetch-cors-GET-include",
    "fetch-accept-page",
    "fetch-accept-text",
    "xhr-get",
    "script",
    "import",
    "worker-import",
    "worker-fetch",
    "shared-worker",
    "eventsource",
    "websocket",
    "object-page",
    "embed",
    "iframe",
    "frame",
    "form-get",
    "popup",
]
"""The vectors by which a page can read a response of its own origin."""

FORM = """<!doctype html><title>form</title>
<form method="post" action="/login"><input name="client_secret" type="password">
<button>Continue</button></form>"""


async def register(context: BrowserContext, port: int) -> Page:
    """Let the program that has the port now register its worker, and return its tab."""
    page = await context.new_page()
    await page.goto(f"http://localhost:{port}/")
    await page.evaluate("navigator.serviceWorker.register('/sw.js')")
    await page.wait_for_function("() => navigator.serviceWorker.controller")
    return page


async def left_worker(context: BrowserContext, name: str, hostile: Site) -> int:
    """Leave a worker in the browser, and return the port of the program that has ended."""
    async with site() as program:
        address = f"http://127.0.0.1:{hostile.port}"
        start = f"const NAME = {json.dumps(name)}, SITE = {json.dumps(address)};\n"
        program.page("/sw.js", start + SCRIPT.read_text(encoding="utf-8"), "text/javascript")
        page = await register(context, program.port)
        await page.close()
    hostile.reports.clear()
    return program.port


async def workers_of(page: Page) -> int:
    """Return the number of workers registered for the page's origin."""
    return int(
        await page.evaluate(
            "() => navigator.serviceWorker.getRegistrations().then((found) => found.length)"
        )
    )


@pytest.mark.parametrize("name", WORKERS)
async def test_a_worker_reads_what_a_server_without_protection_sends_and_gets(
    context: BrowserContext, hostile: Site, name: str
) -> None:
    """The workers of these tests can do harm: each reads the secret that the user types."""
    port = await left_worker(context, name, hostile)
    async with site(port) as program:
        program.page("/", FORM)
        program.page("/token", LEAKED)
        page = await context.new_page()
        await page.goto(f"http://localhost:{port}/")
        await page.fill("[name=client_secret]", "typed-secret")
        await page.click("button")
        await page.wait_for_url("**/login")
        await eventually(lambda: any("typed-secret" in one for one in hostile.reports))
        await page.goto(f"http://localhost:{port}/token")
        if name != "lurking":
            await eventually(lambda: any(LEAKED in one for one in hostile.reports))


@pytest.mark.parametrize("name", WORKERS)
async def test_a_worker_that_was_left_reads_no_secret_and_is_gone_after_the_login(
    context: BrowserContext,
    hostile: Site,
    new_server: Callable[..., Awaitable[Server]],
    name: str,
) -> None:
    """The user types the secret and logs in, after one reload at most. The worker reads neither the
    secret nor a token, and the browser has removed it."""
    port = await left_worker(context, name, hostile)
    server = await new_server(port=port)
    page = await context.new_page()
    response = await page.goto(f"http://localhost:{port}/")
    assert response is not None
    if response.status == 403:
        await reload(page, past_the_worker=name in KEPT)
    await page.fill("[name=client_id]", DEFAULT_CLIENT_ID)
    await page.fill("[name=client_secret]", DEFAULT_CLIENT_SECRET)
    await page.click("text=Continue")
    await page.click("text=Connect to Xero")
    await page.click("button >> text=Allow access")
    await page.wait_for_selector("text=Connected.")
    assert await workers_of(page) == 0
    for path in ("/", "/status", "/token"):
        await page.goto(f"http://localhost:{port}{path}")
    access = server.keeper.account.access
    assert access is not None
    secrets = (DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, access.value.reveal())
    assert [one for one in hostile.reports if any(secret in one for secret in secrets)] == []
    if name != "lurking":
        assert any(one.startswith("sees GET /:") for one in hostile.reports), "it was not asked"


async def reload(page: Page, *, past_the_worker: bool) -> None:
    """Reload as the user does, with or without the Shift key."""
    if not past_the_worker:
        await page.reload()
        return
    devtools = await page.context.new_cdp_session(page)
    async with page.expect_navigation():
        await devtools.send("Page.reload", {"ignoreCache": True})


@pytest.mark.parametrize("name", [one for one in WORKERS if one != "racing"])
async def test_a_worker_that_was_left_cannot_read_a_token_of_a_live_login(
    context: BrowserContext,
    hostile: Site,
    new_server: Callable[..., Awaitable[Server]],
    credentials: dict[str, Any],
    name: str,
) -> None:
    """The user opens the token's address, and pages of a server that is logged in already.

    A racing worker is left out: Chromium gives it the response to the first address that the user
    types, and the request looks as without a worker.
    """
    port = await left_worker(context, name, hostile)
    server = await new_server(port=port, **credentials)
    await log_in(server)
    page = await context.new_page()
    for path in ("/token", "/", "/home", "/status"):
        await page.goto(f"http://localhost:{port}{path}")
    access = server.keeper.account.access
    assert access is not None
    assert [one for one in hostile.reports if access.value.reveal() in one] == []


@pytest.mark.parametrize("name", [None, "omitting", "racing"])
async def test_a_tab_that_was_left_cannot_read_a_token(
    context: BrowserContext,
    hostile: Site,
    new_server: Callable[..., Awaitable[Server]],
    credentials: dict[str, Any],
    name: str | None,
) -> None:
    """A page of the other program stays open, with or without a worker. It is of the same origin as
    xots, and reads no token by a request, a frame, a window or a navigation."""
    port = 0 if name is None else await left_worker(context, name, hostile)
    tab = await context.new_page()
    async with site(port) as program:
        await tab.goto(f"http://localhost:{program.port}/")
    server = await new_server(port=program.port, **credentials)
    await log_in(server)
    paths = ["/token", "/tenants"]
    call = "([target, paths, names]) => attack(target, paths, names)"
    reads = await tab.evaluate(call, [f"http://localhost:{program.port}", paths, READING])
    assert reads, "it is of the same origin, and reads at least the refusals"
    await tab.evaluate("() => { location = '/token' }")
    await tab.wait_for_url("**/token")
    access = server.keeper.account.access
    assert access is not None
    value = access.value.reveal()
    assert [one for one in reads if value in one["value"]] == []
    assert [one for one in hostile.reports if value in one] == []
