"""Web servers of the tests: a hostile site, a server without any protection, and an old program."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from xots.listening import listen
from xots.sandbox.person import Person
from xots.server import Server
from xots.web.handler import Handler

ATTACKS = Path(__file__).with_name("attacks.js")

LEAKED = "leaked-by-the-open-server"
"""The secret of the server without any protection."""


@dataclass(frozen=True)
class Served:
    """A request and the status of its response."""

    status: int
    method: str
    uri: str
    mode: str
    """The value of Sec-Fetch-Mode."""

    @property
    def path(self) -> str:
        return urlsplit(self.uri).path

    @property
    def vector(self) -> str:
        """Return the name of the vector that sent it; empty if none did."""
        return parse_qs(urlsplit(self.uri).query).get("v", [""])[0]


def served(handler: RequestHandler) -> Served:
    """Return what a handler has responded to."""
    request = handler.request
    mode = request.headers.get("Sec-Fetch-Mode", "")
    return Served(handler.get_status(), request.method or "", request.uri or "", mode)


@contextmanager
def requests_at(port: int) -> Iterator[list[Served]]:
    """Collect the requests that an xots server on this port responds to, with their queries."""
    collected: list[Served] = []
    log_request = Application.log_request

    def collect(application: Application, handler: RequestHandler) -> None:
        if isinstance(handler, Handler) and handler.request.host.endswith(f":{port}"):
            collected.append(served(handler))
        log_request(application, handler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Application, "log_request", collect)
        yield collected


@dataclass
class Site:
    """A server of the test, with the requests that it got and the reports sent to it."""

    port: int = 0
    pages: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The content type and the body of each path."""
    served: list[Served] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)

    def page(self, path: str, body: str, content_type: str = "text/html") -> None:
        """Serve this body at the path."""
        self.pages[path] = (f"{content_type}; charset=utf-8", body)


class SiteHandler(RequestHandler):
    """Base of the handlers of a site."""

    def initialize(self, site: Site) -> None:
        self.site = site

    def check_xsrf_cookie(self) -> None:
        """Accept every request."""

    def on_finish(self) -> None:
        self.site.served.append(served(self))


class PageHandler(SiteHandler):
    """The pages of the site. Those without a body of their own are empty ones."""

    async def get(self) -> None:
        content_type, body = self.site.pages.get(self.request.path, ("text/html", "<p>empty</p>"))
        self.set_header("Content-Type", content_type)
        self.write(body)

    async def post(self) -> None:
        await self.get()


class RedirectHandler(SiteHandler):
    """A redirect to any address."""

    async def get(self) -> None:
        self.set_status(int(self.get_query_argument("status")))
        self.set_header("Location", self.get_query_argument("to"))

    async def post(self) -> None:
        await self.get()


class ReportHandler(SiteHandler):
    """What a worker has read."""

    async def post(self) -> None:
        self.site.reports.append(self.request.body.decode(errors="replace"))


class OpenHandler(SiteHandler):
    """A server that lets every page read everything, as the vectors need it to prove themselves."""

    async def respond(self) -> None:
        origin = self.request.headers.get("Origin", "*")
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header("Access-Control-Allow-Credentials", "true")
        self.set_header("Access-Control-Allow-Headers", "*, Authorization, Content-Type")
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
        self.set_header("Timing-Allow-Origin", "*")
        self.set_header("Content-Type", "text/javascript")
        self.write(f'self.leaked = "{LEAKED}"')

    get = post = put = patch = delete = head = options = respond


@asynccontextmanager
async def site(port: int = 0, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Run a site with pages of the test on both loopbacks; port 0 takes one that is free."""
    running = Site()
    running.page("/", "<!doctype html><title>hostile</title><script src=/attacks.js></script>")
    running.page("/attacks.js", ATTACKS.read_text(encoding="utf-8"), "text/javascript")
    routes = [(r"/redirect", RedirectHandler), (r"/report", ReportHandler), (r".*", PageHandler)]
    async with _serving(running, routes, port, tls):
        yield running


@asynccontextmanager
async def open_server() -> AsyncIterator[Site]:
    """Run a server without any protection."""
    running = Site()
    async with _serving(running, [(r".*", OpenHandler)], 0, None):
        yield running


async def log_in(server: Server) -> None:
    """Log the user in through the pages, without Chromium."""
    person = Person()
    page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    assert (await person.consent(page)).status == 200


@asynccontextmanager
async def _serving(
    site: Site,
    routes: list[tuple[str, type[SiteHandler]]],
    port: int,
    tls: ssl.SSLContext | None,
) -> AsyncIterator[None]:
    rules = [(pattern, handler, {"site": site}) for pattern, handler in routes]
    application = Application(rules, log_function=lambda handler: None)
    server = HTTPServer(application, ssl_options=tls)
    sockets = listen("127.0.0.1", port)
    site.port = sockets[0].getsockname()[1]
    server.add_sockets(sockets)
    try:
        yield
    finally:
        server.stop()
        await server.close_all_connections()
