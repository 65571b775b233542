"""One Chromium for all tests of this folder, and xots servers with the simulated Xero behind.

They run in one event loop for the whole folder. Each test gets a browser context of its own, which
shares no cookies, cache or workers with the others.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.sites import Site, log_in, open_server, site
from playwright.async_api import Browser, BrowserContext, async_playwright
from support.certificates import make_certificates
from support.sandbox_caller import ORGANISATIONS
from support.thread_servers import started_server

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Client, Sandbox, SandboxOptions
from xots.secret import Secret
from xots.server import Server

HOSTILE_HOSTS = ("evil.test", "shop.example")
"""Host names that lead to this machine. Chromium finds no other names."""

RESOLVER_RULES = " , ".join(
    [
        *(f"MAP {host} 127.0.0.1" for host in HOSTILE_HOSTS),
        "MAP * ~NOTFOUND",
        *(f"EXCLUDE {host}" for host in ("localhost", "127.0.0.1", "[::1]", "0.0.0.0")),  # noqa: S104
    ]
)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules={RESOLVER_RULES}",
]


@pytest.fixture(autouse=True)
def refusals_are_logged(expected_log: Any) -> None:
    """Accept the log lines of refused requests."""
    expected_log.perhaps(r"^WARNING xots\.web: ", r"^WARNING tornado\.general: SSL Error on")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "install the Debian package chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh profile of the browser."""
    fresh = await chromium.new_context(ignore_https_errors=True)
    fresh.set_default_timeout(8_000)
    yield fresh
    await fresh.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A simulated Xero by the real clock."""
    clients = (Client(redirect_uris=()),)
    options = SandboxOptions(port=0, clients=clients, organisations=ORGANISATIONS)
    async with Sandbox(options) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def new_server(sandbox: Sandbox) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start servers that are registered at the sandbox; the arguments are settings."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            server = await started_server(sandbox, **settings)
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
def credentials() -> dict[str, Any]:
    return {"client_id": DEFAULT_CLIENT_ID, "client_secret": Secret(DEFAULT_CLIENT_SECRET)}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def logged_in(sandbox: Sandbox) -> AsyncIterator[Server]:
    """A server after a login, for the tests that change nothing in it."""
    credentials = {"client_id": DEFAULT_CLIENT_ID, "client_secret": Secret(DEFAULT_CLIENT_SECRET)}
    server = await started_server(sandbox, **credentials)
    await log_in(server)
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hostile() -> AsyncIterator[Site]:
    """A hostile site by HTTP."""
    async with site() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hostile_tls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A hostile site by HTTPS."""
    certificates = make_certificates(Path(tmp_path_factory.mktemp("certificates")))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.server, certificates.server_key)
    async with site(tls=tls) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def unprotected() -> AsyncIterator[Site]:
    """A server without any protection, in place of xots."""
    async with open_server() as running:
        yield running
