"""Fixtures of all tests: a clock that only tests move, a simulated Xero, servers on it, and a user.

A line in the log of xots, Tornado or asyncio at WARNING or above fails a test that does not expect
it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.described import faults_of
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_PKCE_CLIENT_ID,
    Client,
    Sandbox,
    SandboxOptions,
)
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings
from xots.testing import FakeClock
from xots.web.responses import Responses

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks, behind an installed xots

WATCHED_LOGGERS = ("xots", "tornado", "asyncio")


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class ExpectedLog:
    """The log lines that a test expects. Call it with a pattern for each; none may be missing."""

    def __init__(self) -> None:
        self.patterns: dict[str, bool] = {}

    def __call__(self, *patterns: str) -> None:
        self.patterns |= dict.fromkeys(patterns, True)

    def perhaps(self, *patterns: str) -> None:
        """Accept these lines, without a demand for them."""
        self.patterns |= dict.fromkeys(patterns, False)


@pytest.fixture
def expected_log() -> ExpectedLog:
    return ExpectedLog()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured output: reports travel between processes as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def unexpected_log_output_fails(
    expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Check that the test logged the expected lines at WARNING or above, and no others."""
    yield
    records = [
        record for phase in ("setup", "call", "teardown") for record in caplog.get_records(phase)
    ]
    lines = [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for record in records
        if record.levelno >= logging.WARNING and record.name.partition(".")[0] in WATCHED_LOGGERS
    ]
    unexpected = [
        line
        for line in lines
        if not any(re.search(pattern, line) for pattern in expected_log.patterns)
    ]
    assert not unexpected, "unexpected log output"
    missing = [
        pattern
        for pattern, must_come in expected_log.patterns.items()
        if must_come and not any(re.search(pattern, line) for line in lines)
    ]
    assert not missing, "expected log output never came"


@pytest.fixture(autouse=True)
def nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the state and the keys of every test out of the user's own folders."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")):
            patch.setenv(name, str(home / folder))
        for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def every_response_is_described() -> Iterator[None]:
    """Check that ``/openapi.json`` describes each response of a server in this process."""
    faults: list[str] = []
    flush = Responses.flush

    def checked(self: Responses, include_footers: bool = False) -> Any:
        request, body = self.request, b"".join(self._write_buffer)
        method, status = request.method or "", self.get_status()
        faults.extend(faults_of(method, request.path, status, self._headers, body))
        return flush(self, include_footers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Responses, "flush", checked)
        yield
    assert not faults, "/openapi.json does not describe a response"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def sandbox(clock: FakeClock) -> AsyncIterator[Sandbox]:
    """A simulated Xero on a free port, with the clock of the test, a web app and a PKCE app."""
    clients = (Client(redirect_uris=()), Client(DEFAULT_PKCE_CLIENT_ID, None, ()))
    async with Sandbox(SandboxOptions(port=0, clients=clients), clock=clock.now) as running:
        yield running


@pytest.fixture
async def new_server(
    sandbox: Sandbox, clock: FakeClock
) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start servers that use the sandbox and are registered there; the arguments are settings.

    Programs can force refreshes without an interval, since most tests stop the clock.
    """
    servers: list[Server] = []

    async def start(**settings: Any) -> Server:
        wired: dict[str, Any] = {
            "port": 0,
            "store": "memory:",
            "refresh_interval": 0,
            "authorize_url": sandbox.authorize_url,
            "token_url": sandbox.token_url,
            "revoke_url": sandbox.revoke_url,
            "connections_url": sandbox.connections_url,
        }
        server = Server(Settings(**(wired | settings)), clock=clock)
        await server.start()
        servers.append(server)
        for client in list(sandbox.identity.clients.values()):
            redirect_uris = (*client.redirect_uris, server.redirect_uri)
            sandbox.identity.register(replace(client, redirect_uris=redirect_uris))
        return server

    yield start
    sandbox.faults.clear()
    sandbox.release()
    for server in servers:
        await server.stop()


@pytest.fixture
def credentials() -> dict[str, Any]:
    """Return the web app's credentials, as settings."""
    return {"client_id": DEFAULT_CLIENT_ID, "client_secret": Secret(DEFAULT_CLIENT_SECRET)}


@pytest.fixture
async def server(
    new_server: Callable[..., Awaitable[Server]], credentials: dict[str, Any]
) -> Server:
    """A server on a free port with the web app's credentials in its settings, without a login."""
    return await new_server(**credentials)


@pytest.fixture
async def person() -> Person:  # inside the loop that its HTTP client belongs to
    return Person()


@pytest.fixture
def log_in(person: Person) -> Callable[[Server], Awaitable[None]]:
    """Log the user in at a server that has credentials."""

    async def log_in(server: Server) -> None:
        page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
        page = await person.consent(page)
        assert page.status == 200, page.text

    return log_in


@pytest.fixture
async def logged_in(server: Server, log_in: Callable[[Server], Awaitable[None]]) -> Server:
    """The server after a login through its pages."""
    await log_in(server)
    return server


@pytest.fixture
async def send() -> AsyncIterator[Callable[..., Awaitable[Response]]]:
    """Send one request as a program does, without a browser's headers. Follow no redirect."""
    http = SimpleAsyncHTTPClient(force_instance=True, max_clients=200)

    async def send(
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: str | bytes | None = None,
    ) -> Response:
        request = HTTPRequest(
            url,
            method=method,
            headers=headers,
            body=body,
            follow_redirects=False,
            decompress_response=False,
            allow_nonstandard_methods=True,
        )
        response: HTTPResponse = await http.fetch(request, raise_error=False)
        assert response.code != 599, response.error
        return Response(response.code, response.headers, response.body or b"")

    yield send
    http.close()


@pytest.fixture
def get(send: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Send ``get(url, **headers)`` as a program does. Underscores in names become hyphens."""

    async def get(url: str, **headers: str) -> Response:
        return await send(
            "GET", url, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    return get


@pytest.fixture
def canaries(sandbox: Sandbox, clock: FakeClock) -> Callable[[Server], list[str]]:
    """Return the client's secret and all tokens that a server and Xero hold now."""

    def collect(server: Server) -> list[str]:
        access = server.keeper.account.access
        found = [DEFAULT_CLIENT_SECRET, *sandbox.identity.usable_refresh_tokens(clock.now())]
        return [*found, access.value.reveal()] if access else found

    return collect
