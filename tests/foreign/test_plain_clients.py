"""HTTP clients of other projects on every route: served as programs, and never told of an act that
did not happen."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from support.guard_oracle import ACTS, REMOVAL, STATUSES
from support.one_server import OneServer, one_server
from support.thread_servers import Loop

from xots.sandbox import Endpoint

TIMEOUT_SECONDS = 20

POWERSHELL = "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-NZ) WindowsPowerShell/5.1.19041.5247"
WINHTTP = "Mozilla/4.0 (compatible; Win32; WinHttp.WinHttpRequest.5)"

FETCH = """
fetch(process.argv[2], {method: process.argv[1]}).then(async response => {
  process.stdout.write(response.status + "\\n" + await response.text());
});
"""

PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Told:
    """The response that a client shows to its user, after the redirects that it follows."""

    status: int
    text: str


Send = Callable[[str, str], Told]
"""Sends a request with this method to this URL."""


@dataclass(frozen=True)
class Client:
    """A client."""

    send: Send
    looks_like_browser: bool = False
    """True if its headers cannot be told from those of a browser: its GET does not act."""


# ---------- programs


def _output(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in os.environ if name not in PROXY_VARIABLES}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def _curl(*options: str, post: tuple[str, ...] = ("-X", "POST")) -> Send:
    ways = {"GET": (), "POST": post, "HEAD": ("-I",)}

    def send(method: str, url: str) -> Told:
        done = _output("curl", "-sS", "-w", "\n%{http_code}", *options, *ways[method], url)
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return Told(int(status), text)

    return send


def _wget(method: str, url: str) -> Told:
    ways = {"GET": (), "POST": ("--post-data=",), "HEAD": ("--spider",)}
    options = ("-S", "-O", "-", "--content-on-error", "--tries=1")
    done = _output("wget", *options, *ways[method], url)
    statuses = re.findall(r"^ +HTTP/1\.[01] ([0-9]{3})", done.stderr, re.MULTILINE)
    assert statuses, done.stderr
    return Told(int(statuses[-1]), done.stdout)


def _program(*command: str | Path) -> Send:
    def send(method: str, url: str) -> Told:
        done = _output(*command, method, url)
        assert done.returncode == 0, done.stderr
        status, _, text = done.stdout.partition("\n")
        return Told(int(status), text)

    return send


# ---------- libraries


def _requests(method: str, url: str) -> Told:
    response = requests.request(method, url, timeout=TIMEOUT_SECONDS)
    return Told(response.status_code, response.text)


def _requests_with_cookies(method: str, url: str) -> Told:
    with requests.Session() as session:
        session.cookies.set("theme", "dark")
        response = session.request(method, url, timeout=TIMEOUT_SECONDS)
        return Told(response.status_code, response.text)


def _httpx(method: str, url: str) -> Told:
    response = httpx.request(method, url, timeout=TIMEOUT_SECONDS)
    return Told(int(response.status_code), str(response.text))


def _aiohttp(method: str, url: str) -> Told:
    async def send() -> Told:
        async with aiohttp.ClientSession() as session, session.request(method, url) as response:
            return Told(int(response.status), str(await response.text()))

    return asyncio.run(send())


def _urllib(method: str, url: str) -> Told:
    data = b"" if method == "POST" else None
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, method=method), timeout=TIMEOUT_SECONDS
        ) as response:
            return Told(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Told(error.code, error.read().decode())


CLIENTS = {
    "curl": Client(_curl()),
    "curl-http1.0": Client(_curl("--http1.0")),
    "curl-http2": Client(_curl("--http2")),
    "curl-location": Client(_curl("-L", post=("-d", ""))),
    "powershell": Client(_curl("-A", POWERSHELL), looks_like_browser=True),
    "winhttp": Client(_curl("-A", WINHTTP), looks_like_browser=True),
    "wget": Client(_wget),
    "requests": Client(_requests),
    "requests-cookies": Client(_requests_with_cookies, looks_like_browser=True),
    "httpx": Client(_httpx),
    "aiohttp": Client(_aiohttp),
    "urllib": Client(_urllib),
    "node": Client(_program("node", "-e", FETCH, "--"), looks_like_browser=True),
    "go": Client(lambda method, url: pytest.fail("the fixture replaces it")),
}


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Send:
    """Build the Go program, without any module from elsewhere."""
    folder = tmp_path_factory.mktemp("go")
    environment = {
        **os.environ,
        "GOCACHE": str(folder / "cache"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
    }
    source = Path(__file__).with_name("plain_client.go")
    command = ["go", "build", "-o", str(folder / "plain_client"), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _program(folder / "plain_client")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "go":
        return Client(request.getfixturevalue("go_client"))
    return CLIENTS[request.param]


# ---------- the server


@dataclass(frozen=True)
class Running:
    """A server with a login, in a thread beside the test."""

    loop: Loop
    inside: OneServer

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.inside.port}{path}"

    def done(self, path: str) -> int:
        """Return how often the act of this path has happened at Xero."""
        endpoint = Endpoint.REFRESH if path.endswith("/refresh") else Endpoint.REVOCATION
        return sum(one.endpoint is endpoint for one in self.inside.sandbox.log)


@pytest.fixture(scope="module")
def module_server() -> Iterator[Running]:
    with Loop() as loop:
        stack = AsyncExitStack()
        inside = loop.run(stack.enter_async_context(one_server()))
        yield Running(loop, inside)
        loop.run(stack.aclose())


@pytest.fixture
def running(module_server: Running, expected_log: Any, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The server, logged in, after the shortest interval between two refreshes."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    expected_log.perhaps(r"^WARNING ")
    module_server.inside.clock.advance(minutes=1)
    if not module_server.inside.is_logged_in:
        module_server.loop.run(module_server.inside.log_in())
    return module_server


# ---------- the claims

ALL_ACTS = ACTS | {f"/accounts/default{path}" for path in ACTS}
"""The acts at the paths of the Go server, and at those of an account."""


def test_requests_and_curl_get_the_token_without_an_option(running: Running) -> None:
    """The example of the Go server's users works untouched."""
    token = requests.get(running.url("/token"), timeout=TIMEOUT_SECONDS).json()["accessToken"]
    assert token.startswith("eyJ")
    assert f'"accessToken":"{token}"' in _output("curl", "-s", running.url("/token")).stdout


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_no_client_is_refused_where_it_only_reads(
    running: Running, client: Client, method: str
) -> None:
    """Each route returns the status that the documents name, for all clients alike."""
    for path in sorted(STATUSES.keys() - ALL_ACTS - {REMOVAL}):
        told = client.send(method, running.url(path))
        expected = STATUSES[path].get(method, {405})
        if 303 in expected:
            expected = expected | {200}  # for a client that follows redirects
        assert (path, told.status in expected) == (path, True), told


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("path", sorted(ALL_ACTS))
def test_a_client_is_told_of_success_exactly_if_the_act_happened(
    running: Running, client: Client, path: str, method: str, request: pytest.FixtureRequest
) -> None:
    """A POST acts for every client, a GET for those that are no browser, and HEAD for none."""
    before = running.done(path)
    told = client.send(method, running.url(path))
    happened = running.done(path) > before
    assert happened == (told.status < 400), told
    assert running.inside.is_logged_in == (not happened or path.endswith("/refresh"))
    if method == "HEAD" and client.send is _wget:
        return  # wget --spider repeats as GET what is refused as HEAD
    acts = {"POST": True, "GET": not client.looks_like_browser, "HEAD": False}
    assert happened == acts[method]
    if not happened:
        assert told.status == 405
        assert method == "HEAD" or "POST" in told.text
