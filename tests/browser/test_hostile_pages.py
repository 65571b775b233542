"""Hostile pages in a real Chromium: they read nothing, change nothing, and nothing reaches Xero."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from browser.sites import LEAKED, Served, Site, log_in, requests_at, site
from playwright.async_api import BrowserContext
from support.bench import eventually

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox
from xots.server import Server
from xots.web.app import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUERIES = {"/token": "?min_ttl=999999", "/code": "?code=evil&state=evil"}
OF_ACCOUNT = [f"/accounts/default{path}" for path in ("/home", "/token?min_ttl=999999", "/logout")]
"""Some paths of an account: those that show a page, serve its token, and act."""

PATHS = [path.replace("\\", "") + QUERIES.get(path, "") for path, _ in ROUTES]
PATHS += [*OF_ACCOUNT, "/style.css", "/no-such-path"]

DOCUMENT_PATHS = [f"/token{QUERIES['/token']}", "/home", "/refresh", "/revoke", "/login"]
"""The paths that are also attacked as documents, in frames and windows: these cost much time."""

DOCUMENT = re.compile("popup|form|i?frame|embed|object")

LANDING_PATHS = {"/", "/login", "/home", "/code", "/accounts", "/accounts/default/home"}
"""The paths at which a link from another site may arrive."""

PROBE_PATHS = {"/ping", "/ready"}
"""The paths that are served for every host name. They tell only whether the server is ready."""

POPUPS = {"popup", "popup-no-opener", "popup-no-referrer"}
"""The vectors that open a page of its own, as a link does. Browsers speculate only on pages that
are seen, so these vectors come last."""

SENDS_NOTHING = {
    "worker-script",
    "link-prerender",
    "link-preconnect",
    "link-dns-prefetch",
    "speculate-prefetch-anonymous",
    "popup-source",
    "link-manifest",
}
"""The vectors for which Chromium sends no request: it refuses them, or it no longer knows them."""

READS = {"fetch-cors-GET-include", "xhr-credentials", "script", "worker-fetch", "timings"}
"""Some of the vectors by which a page reads a server without protection."""


async def attacked(
    context: BrowserContext,
    origin: str,
    target: str,
    served: list[Served],
    *,
    light: Sequence[str] = PATHS,
    documents: Sequence[str] = DOCUMENT_PATHS,
) -> list[dict[str, str]]:
    """Return what pages of ``origin`` can read of ``target``, after each vector has arrived."""
    page = await context.new_page()
    await page.goto(f"{origin}/")
    names = await page.evaluate("Object.keys(VECTORS)")
    assert len(names) > 90
    popups = [name for name in names if name.startswith("popup")]
    framed = [name for name in names if DOCUMENT.match(name) and name not in popups]
    reads: list[dict[str, str]] = []
    for chosen, paths in [
        ([name for name in names if name not in (*popups, *framed)], light),
        (framed, documents),
        (popups, documents),
    ]:
        call = "([target, paths, names]) => attack(target, paths, names)"
        reads += await page.evaluate(call, [target, list(paths), chosen])
        await arrive(set(chosen) - SENDS_NOTHING - not_by(origin), served)
    return reads


def not_by(origin: str) -> set[str]:
    """Return the vectors that Chromium blocks on a page of this origin."""
    return {"img-redirected"} if origin.startswith("https:") else set()


async def arrive(names: set[str], served: list[Served]) -> None:
    """Wait until each of these vectors has sent a request."""

    def missing() -> set[str]:
        return names - {one.vector for one in served}

    try:
        await eventually(lambda: not missing())
    except TimeoutError:
        pytest.fail(f"no request has arrived from {missing()}")


async def test_every_vector_gets_through_to_a_server_without_protection(
    context: BrowserContext, hostile: Site, unprotected: Site
) -> None:
    """The pages of these tests can attack: they send each request, and read what is open."""
    target = f"http://localhost:{unprotected.port}"
    origin = f"http://evil.test:{hostile.port}"
    reads = await attacked(
        context, origin, target, unprotected.served, light=["/token"], documents=["/token"]
    )
    assert {one["vector"] for one in reads} >= READS
    assert any(LEAKED in one["value"] for one in reads)


@pytest.mark.parametrize(
    ("origin", "target", "paths"),
    [
        ("http://evil.test:{http}", "http://localhost:{xots}", PATHS),
        ("http://localhost:{http}", "http://localhost:{xots}", DOCUMENT_PATHS),
        ("http://127.0.0.1:{http}", "http://127.0.0.1:{xots}", DOCUMENT_PATHS[:2]),
        ("https://shop.example:{https}", "http://localhost:{xots}", DOCUMENT_PATHS),
    ],
    ids=["another origin", "another port", "another port by address", "https"],
)
async def test_a_page_of_another_origin_gets_nothing_by_any_vector(
    context: BrowserContext,
    hostile: Site,
    hostile_tls: Site,
    sandbox: Sandbox,
    logged_in: Server,
    origin: str,
    target: str,
    paths: list[str],
) -> None:
    """It reads nothing, changes nothing, causes no request to Xero, and gets no response but
    refusals, except for a page that it opens at a landing path."""
    ports = {"http": hostile.port, "https": hostile_tls.port, "xots": logged_in.port}
    before = state(logged_in, sandbox)
    with requests_at(logged_in.port) as served:
        reads = await attacked(
            context,
            origin.format(**ports),
            target.format(**ports),
            served,
            light=paths,
            documents=DOCUMENT_PATHS if paths is PATHS else DOCUMENT_PATHS[:2],
        )
    assert reads == []
    assert state(logged_in, sandbox) == before
    assert wrongly_served(served) == []


# ---------- pages that navigate away


NAVIGATIONS = Path(__file__).with_name("leaving.html")

GETS = {"location", "replaced", "link", "refresh", "redirect"}
"""The ways that end in a GET."""


@pytest.mark.parametrize(
    ("origin", "ways", "paths"),
    [
        ("http://evil.test:{http}", ("location", "post"), PATHS),
        ("http://evil.test:{http}", ("replaced", "link", "refresh", "redirect"), DOCUMENT_PATHS),
        ("http://evil.test:{http}", ("text", "moved"), DOCUMENT_PATHS),
        ("http://localhost:{http}", ("location", "post"), DOCUMENT_PATHS),
    ],
    ids=["every path", "gets", "posts", "another port"],
)
async def test_a_page_that_navigates_to_xots_changes_nothing(
    context: BrowserContext,
    hostile: Site,
    sandbox: Sandbox,
    logged_in: Server,
    origin: str,
    ways: tuple[str, ...],
    paths: list[str],
) -> None:
    """Its links, redirects and forms are refused at every path, except for GETs of a landing path;
    these show a page and cause no request to Xero."""
    hostile.page("/leaving", NAVIGATIONS.read_text(encoding="utf-8"))
    start = origin.format(http=hostile.port) + "/leaving"
    page = await context.new_page()
    before = state(logged_in, sandbox)
    with requests_at(logged_in.port) as served:
        for way, path in ((way, path) for way in ways for path in paths):
            await page.goto(start, wait_until="domcontentloaded")
            to = f"http://localhost:{logged_in.port}{path}{'&' if '?' in path else '?'}v={way}"
            async with page.expect_navigation(
                url=lambda url: not url.startswith(start), wait_until="commit"
            ):
                await page.evaluate("([way, to]) => WAYS[way](to)", [way, to])
    arrived = {(one.vector, one.path) for one in served}
    assert arrived >= {(way, path.partition("?")[0]) for way in ways for path in paths}
    assert state(logged_in, sandbox) == before
    assert wrongly_served(served, GETS) == []


# ---------- a host name that leads to this machine after the page was loaded


async def test_a_rebinding_host_name_gets_nothing(
    context: BrowserContext,
    sandbox: Sandbox,
    new_server: Callable[..., Awaitable[Server]],
    credentials: dict[str, Any],
) -> None:
    """A page whose host name later leads to xots is of the same origin for the browser. It can read
    the refusals, and nothing else."""
    page = await context.new_page()
    async with site() as first:
        origin = f"http://evil.test:{first.port}"
        await page.goto(f"{origin}/")
    server = await new_server(port=first.port, **credentials)
    await log_in(server)
    before = state(server, sandbox)
    with requests_at(server.port) as served:
        names = await page.evaluate("Object.keys(VECTORS)")
        chosen = [name for name in names if not DOCUMENT.match(name)]
        call = "([target, paths, names]) => attack(target, paths, names)"
        reads = await page.evaluate(call, [origin, DOCUMENT_PATHS, chosen])
        reads += await page.evaluate(
            call, [origin, DOCUMENT_PATHS, ["iframe", "form-post", "popup"]]
        )
        page = await context.new_page()
        for path in PATHS:
            await page.goto(origin + path)
    assert any(one["what"] == "status" for one in reads), "the page is of the same origin"
    assert not [one for one in reads if discloses(one["value"], server)]
    assert {one.status for one in served if one.path not in PROBE_PATHS} == {421}
    assert state(server, sandbox) == before


def discloses(text: str, server: Server) -> bool:
    """True if the text holds anything that only the user and their programs may know."""
    access = server.keeper.account.access
    assert access is not None
    secrets = (access.value.reveal(), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    return any(secret in text for secret in secrets)


# ---------- what a hostile page must not change


def state(server: Server, sandbox: Sandbox) -> tuple[Any, ...]:
    """Return all that an attack could change: the record, the credentials, and Xero's log."""
    return server.keeper.account, server.keeper.credentials, len(sandbox.log)


def wrongly_served(served: list[Served], top_level: Iterable[str] = POPUPS) -> list[Served]:
    """Return the requests that were not refused and are no page opened at a landing path."""

    def landing(one: Served) -> bool:
        if one.path == "/style.css" and not one.vector:
            return True  # of a page that was opened
        opened = one.method == "GET" and one.mode == "navigate"
        # A redirect of / to /home loses the query.
        return opened and one.path in LANDING_PATHS and one.vector in ("", *top_level)

    return [one for one in served if one.status < 400 and not landing(one)]
