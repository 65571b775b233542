"""The guard: Host, request target, Fetch Metadata and Origin, sent over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from xots.sandbox import DEFAULT_CLIENT_ID
from xots.server import Server
from xots.web.guard import allowed_hosts, is_loopback_name, looks_like_browser, refusal

PATHS = (
    "/",
    "/login",
    "/home",
    "/code",
    "/livez",
    "/status",
    "/token",
    "/refresh",
    "/tenants",
    "/revoke",
    "/logout",
    "/ping",
    "/ready",
    "/metrics",
    "/style.css",
    "/nowhere",
    "/token?min_ttl=5",
)
LANDING = ("/", "/login", "/home", "/code")
REFUSED = r"WARNING xots\.web: "


@dataclass(frozen=True)
class Raw:
    """An response as it came: status 0 if the connection was closed without one."""

    status: int
    head: str
    body: bytes


async def speak(port: int, data: bytes, address: str = "127.0.0.1") -> Raw:
    """Send the bytes as they are, and read until the connection is closed."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(data)
        received = await reader.read()
    except ConnectionResetError:
        return Raw(0, "", b"")
    finally:
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    return Raw(int(head.split()[1]) if head else 0, head.decode(), body)


def request(
    target: str,
    lines: Iterable[str],
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    body: bytes = b"",
) -> bytes:
    """Return a request with these header lines, and those that end the connection."""
    length = [f"Content-Length: {len(body)}"] if body or method == "POST" else []
    head = [f"{method} {target} {version}", *lines, *length, "Connection: close", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


@pytest.fixture
def unserved(logged_in: Server, canaries: Callable[[Server], list[str]]) -> Callable[[Raw], None]:
    """Checks that a response is a refusal and reveals nothing."""

    def check(response: Raw) -> None:
        shown = response.head + response.body.decode()
        assert response.status in (0, 400, 403, 421), shown
        secret = canaries(logged_in)
        assert len(secret) == 3
        for one in [*secret, DEFAULT_CLIENT_ID, "accounting.", "Set-Cookie", "Location"]:
            assert one not in shown

    return check


# ---------- Host


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "LocalHost"])
async def test_loopbacks_own_names_are_served_in_any_case(logged_in: Server, name: str) -> None:
    """Each name with the server's port; host names have no case (RFC 9110 section 4.2.3)."""
    response = await speak(logged_in.port, request("/token", [f"Host: {name}:{logged_in.port}"]))
    assert response.status == 200
    assert b"eyJ" in response.body


async def test_the_server_listens_on_the_ipv6_loopback_too(logged_in: Server) -> None:
    """``localhost`` may mean ``::1``: no other program can take that port."""
    response = await speak(
        logged_in.port, request("/livez", [f"Host: localhost:{logged_in.port}"]), "::1"
    )
    assert response.status == 200


HOSTS: dict[str, Callable[[int], list[str]]] = {
    "a rebound name": lambda port: [f"Host: evil.example:{port}"],
    "a rebound name without port": lambda port: ["Host: evil.example"],
    "a name under localhost": lambda port: [f"Host: evil.localhost:{port}"],
    "a name that starts with localhost": lambda port: [f"Host: localhost.evil.example:{port}"],
    "an address as a label": lambda port: [f"Host: 127.0.0.1.evil.example:{port}"],
    "no port": lambda port: ["Host: localhost"],
    "empty port": lambda port: ["Host: localhost:"],
    "wrong port": lambda port: [f"Host: localhost:{port + 1 if port < 65535 else 1}"],
    "port 80": lambda port: ["Host: localhost:80"],
    "zeros before the port": lambda port: [f"Host: localhost:0{port}"],
    "two ports": lambda port: [f"Host: localhost:{port}:{port}"],
    "trailing dot": lambda port: [f"Host: localhost.:{port}"],
    "address with a trailing dot": lambda port: [f"Host: 127.0.0.1.:{port}"],
    "user before the host": lambda port: [f"Host: user@localhost:{port}"],
    "the allowed host as user": lambda port: [f"Host: localhost:{port}@evil.example"],
    "wildcard address": lambda port: [f"Host: 0.0.0.0:{port}"],
    "wildcard IPv6": lambda port: [f"Host: [::]:{port}"],
    "another loopback address": lambda port: [f"Host: 127.0.0.2:{port}"],
    "short address": lambda port: [f"Host: 127.1:{port}"],
    "decimal address": lambda port: [f"Host: 2130706433:{port}"],
    "hexadecimal address": lambda port: [f"Host: 0x7f000001:{port}"],
    "mapped address": lambda port: [f"Host: [::ffff:127.0.0.1]:{port}"],
    "long form of IPv6": lambda port: [f"Host: [0:0:0:0:0:0:0:1]:{port}"],
    "IPv6 without brackets": lambda port: [f"Host: ::1:{port}"],
    "IPv6 with a zone": lambda port: [f"Host: [::1%25lo]:{port}"],
    "a path": lambda port: [f"Host: localhost:{port}/"],
    "a query": lambda port: [f"Host: localhost:{port}?"],
    "a scheme": lambda port: [f"Host: http://localhost:{port}"],
    "not ASCII": lambda port: [f"Host: l\u00f6calhost:{port}"],
    "a list": lambda port: [f"Host: localhost:{port}, evil.example"],
    "empty": lambda port: ["Host: "],
    "only a port": lambda port: [f"Host: :{port}"],
    "missing": lambda port: [],
    "twice the same": lambda port: [f"Host: localhost:{port}"] * 2,
    "ours then another": lambda port: [f"Host: localhost:{port}", "Host: evil.example"],
    "another then ours": lambda port: ["Host: evil.example", f"Host: localhost:{port}"],
    "continued on the next line": lambda port: ["Host: evil.example", f" localhost:{port}"],
    "space before the colon": lambda port: [f"Host : localhost:{port}"],
    "a proxy's own header": lambda port: [
        "Host: evil.example",
        f"X-Forwarded-Host: localhost:{port}",
    ],
    "a proxy's standard header": lambda port: [
        "Host: evil.example",
        f"Forwarded: host=localhost:{port}",
    ],
}


@pytest.mark.parametrize("lines", HOSTS.values(), ids=HOSTS.keys())
async def test_another_host_is_refused_on_every_path(
    logged_in: Server, unserved: Any, expected_log: Any, lines: Callable[[int], list[str]]
) -> None:
    """By GET and by POST. The refusal reveals nothing."""
    expected_log.perhaps(REFUSED)
    port = logged_in.port
    for path, method in product(PATHS, ("GET", "POST")):
        unserved(await speak(port, request(path, lines(port), method=method)))


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("lines", [[], ["Host:"], ["Host: \t "]], ids=["missing", "empty", "blank"])
async def test_a_request_without_host_is_refused_in_every_version(
    logged_in: Server, unserved: Any, expected_log: Any, version: str, lines: list[str]
) -> None:
    """HTTP/1.0 permits it. It does not count as a request to loopback."""
    expected_log.perhaps(REFUSED)
    for path in PATHS:
        unserved(await speak(logged_in.port, request(path, lines, version=version)))


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost:{port}/token",
        "http://127.0.0.1:{port}/token",
        "http://evil.example/token",
        "HTTP://LOCALHOST:{port}/token",
        "localhost:{port}",
        "*",
        "token",
        "@localhost:{port}/token",
    ],
)
async def test_a_target_that_is_no_path_is_refused(
    logged_in: Server, unserved: Any, expected_log: Any, target: str
) -> None:
    """Absolute-form targets are for proxies. A permitted Host beside them does not help."""
    expected_log.perhaps(REFUSED)
    port = logged_in.port
    for method in ("GET", "POST"):
        response = await speak(
            port, request(target.format(port=port), [f"Host: localhost:{port}"], method=method)
        )
        unserved(response)


async def test_a_refusal_does_not_repeat_the_host(logged_in: Server, expected_log: Any) -> None:
    """421 for a foreign name, as a problem in JSON."""
    expected_log(REFUSED)
    response = await speak(logged_in.port, request("/token", ["Host: <script>.example"]))
    assert response.status in (400, 421)
    response = await speak(logged_in.port, request("/token", ["Host: evil.example"]))
    assert response.status == 421
    assert b"application/problem+json" in response.head.encode()
    assert b"evil.example" not in response.body


# ---------- Fetch Metadata

SITES = ("cross-site", "same-site", "unheard-of", "", "none, cross-site")
MODES = ("navigate", "no-cors", "cors", "same-origin", "websocket")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


def permitted(path: str, method: str, mode: str, destination: str) -> bool:
    """True for a top-level navigation to a path at which a user may arrive from elsewhere."""
    landing = path.partition("?")[0] in LANDING
    return (
        landing and method in ("GET", "HEAD") and mode == "navigate" and destination == "document"
    )


@pytest.mark.parametrize("site", SITES)
async def test_pages_of_other_sites_reach_only_the_landing_paths(
    logged_in: Server, unserved: Any, expected_log: Any, site: str
) -> None:
    """Every route, method and mode. Another port of localhost is same-site, and foreign too."""
    expected_log(REFUSED)
    port = logged_in.port
    for path, method, mode in product(PATHS, METHODS, MODES):
        destination = "document" if mode == "navigate" else "empty"
        lines = [
            f"Host: localhost:{port}",
            f"Sec-Fetch-Site: {site}",
            f"Sec-Fetch-Mode: {mode}",
            f"Sec-Fetch-Dest: {destination}",
        ]
        response = await speak(port, request(path, lines, method=method))
        if not permitted(path, method, mode, destination):
            unserved(response)
        elif path != "/code":  # which refuses for want of a login
            assert response.status in (200, 303)


@pytest.mark.parametrize("destination", ["iframe", "frame", "embed", "object", "fencedframe"])
async def test_frames_of_other_sites_reach_no_landing_path(
    logged_in: Server, unserved: Any, expected_log: Any, destination: str
) -> None:
    """Only a top-level navigation is the user's own."""
    expected_log(REFUSED)
    port = logged_in.port
    for path, site in product(LANDING, ("cross-site", "same-site")):
        lines = [
            f"Host: localhost:{port}",
            f"Sec-Fetch-Site: {site}",
            "Sec-Fetch-Mode: navigate",
            f"Sec-Fetch-Dest: {destination}",
        ]
        unserved(await speak(port, request(path, lines)))


async def test_a_foreign_request_without_a_mode_reaches_no_landing_path(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """Without Sec-Fetch-Mode it does not count as a navigation."""
    expected_log(REFUSED)
    port = logged_in.port
    for path in PATHS:
        unserved(
            await speak(
                port, request(path, [f"Host: localhost:{port}", "Sec-Fetch-Site: cross-site"])
            )
        )


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_the_servers_own_pages_and_the_address_bar_are_served(
    logged_in: Server, site: str
) -> None:
    """A click on a page of this server, and a typed address."""
    port = logged_in.port
    for path in ("/home", "/login", "/status", "/livez", "/style.css"):
        lines = [f"Host: localhost:{port}", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate"]
        assert (await speak(port, request(path, lines))).status == 200


# ---------- Origin

ORIGINS: dict[str, Callable[[int], str]] = {
    "another site": lambda port: "http://evil.example",
    "null": lambda port: "null",
    "another port": lambda port: f"http://localhost:{port + 1}",
    "another name of loopback": lambda port: f"http://127.0.0.1:{port}",
    "another scheme": lambda port: f"https://localhost:{port}",
    "no port": lambda port: "http://localhost",
    "ours within another": lambda port: f"http://localhost:{port}.evil.example",
    "empty": lambda port: "",
    "a list": lambda port: f"http://localhost:{port} http://evil.example",
}


@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
@pytest.mark.parametrize("path", ["/login", "/home"])
async def test_a_post_of_another_origin_changes_nothing(
    logged_in: Server, unserved: Any, expected_log: Any, path: str, origin: Callable[[int], str]
) -> None:
    """A browser without Fetch Metadata sends Origin. It must be exactly this server's own."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        f"Origin: {origin(port)}",
        "Content-Type: application/x-www-form-urlencoded",
    ]
    unserved(await speak(port, request(path, lines, method="POST", body=b"client_id=evil")))


async def test_a_foreign_origin_is_refused_even_beside_same_origin(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """No browser sends such a contradiction. The stricter header decides."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        "Origin: http://evil.example",
        "Sec-Fetch-Site: same-origin",
    ]
    for path in ("/login", "/home"):
        unserved(await speak(port, request(path, lines, method="POST", body=b"client_id=evil")))


async def test_a_post_of_this_servers_origin_is_accepted(logged_in: Server) -> None:
    """The server's own form works in a browser without Fetch Metadata."""
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        f"Origin: http://localhost:{port}",
        "Content-Type: application/x-www-form-urlencoded",
    ]
    response = await speak(port, request("/login", lines, method="POST", body=b"client_id=mine"))
    assert response.status == 303
    assert "Location: /home" in response.head


async def test_same_origin_does_not_excuse_a_foreign_host(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """After DNS rebinding, a hostile page is same-origin. Only Host reveals it."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [
        f"Host: evil.example:{port}",
        f"Origin: http://evil.example:{port}",
        "Sec-Fetch-Site: same-origin",
    ]
    for path, method in product(PATHS, METHODS):
        unserved(await speak(port, request(path, lines, method=method)))


async def test_a_websocket_handshake_is_refused(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """There is no WebSocket here. A foreign page's handshake is refused as any request."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        "Upgrade: websocket",
        "Origin: http://evil.example",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    for path in PATHS:
        unserved(await speak(port, request(path, lines)))


# ---------- at other addresses


@asynccontextmanager
async def serving(
    new_server: Callable[..., Awaitable[Server]], **settings: Any
) -> AsyncIterator[int]:
    yield (await new_server(**settings)).port


async def test_the_host_of_the_redirect_uri_is_served_as_a_proxy_sends_it(
    new_server: Callable[..., Awaitable[Server]], expected_log: Any
) -> None:
    """No other name of that domain is."""
    expected_log(REFUSED)
    async with serving(new_server, redirect="https://xots.example/code") as port:
        assert (await speak(port, request("/login", ["Host: xots.example"]))).status == 200
        assert (await speak(port, request("/login", [f"Host: localhost:{port}"]))).status == 200
        assert (await speak(port, request("/login", ["Host: www.xots.example"]))).status == 421
        assert (await speak(port, request("/login", [f"Host: xots.example:{port}"]))).status == 421


@pytest.mark.parametrize("redirect", ["https://xots.example/code", "https://xots.example:443/code"])
async def test_behind_a_proxy_only_the_servers_own_form_is_accepted(
    new_server: Callable[..., Awaitable[Server]], expected_log: Any, redirect: str
) -> None:
    """Its origin is that of the redirect URI, without port 443, as browsers write it."""
    expected_log(REFUSED)
    async with serving(new_server, redirect=redirect) as port:
        for origin, status in (
            ("https://xots.example", 303),
            ("https://www.xots.example", 403),
            ("https://xots.example.evil.example", 403),
            ("https://xots.example:8443", 403),
            ("null", 403),
        ):
            lines = [
                "Host: xots.example",
                f"Origin: {origin}",
                "Content-Type: application/x-www-form-urlencoded",
            ]
            response = await speak(
                port, request("/login", lines, method="POST", body=b"client_id=mine")
            )
            assert response.status == status, origin


async def test_the_cookie_of_an_https_redirect_uri_is_secure(
    new_server: Callable[..., Awaitable[Server]],
) -> None:
    """A login over https never sends its cookie in clear."""
    async with serving(new_server, redirect="https://xots.example/code") as port:
        lines = ["Host: xots.example", "Content-Type: application/x-www-form-urlencoded"]
        response = await speak(
            port, request("/login", lines, method="POST", body=b"client_id=mine")
        )
    [cookie] = [line for line in response.head.split("\r\n") if line.startswith("Set-Cookie")]
    assert "secure" in cookie.lower().split("; ")


# ---------- the pure functions


@pytest.mark.parametrize(
    ("address", "ports", "redirect", "allowed"),
    [
        (
            "127.0.0.1",
            [5001],
            "http://localhost:5001/code",
            {"localhost:5001", "127.0.0.1:5001", "[::1]:5001"},
        ),
        (
            "localhost",
            [5001],
            "http://localhost:5001/code",
            {"localhost:5001", "127.0.0.1:5001", "[::1]:5001"},
        ),
        (
            "192.0.2.7",
            [5001],
            "http://localhost:5001/code",
            {"localhost:5001", "127.0.0.1:5001", "[::1]:5001", "192.0.2.7:5001"},
        ),
        (
            "2001:db8::7",
            [5001],
            "http://localhost:5001/code",
            {"localhost:5001", "127.0.0.1:5001", "[::1]:5001", "[2001:db8::7]:5001"},
        ),
        (
            "0.0.0.0",  # noqa: S104
            [5001],
            "https://XOTS.example/code",
            {"localhost:5001", "127.0.0.1:5001", "[::1]:5001", "xots.example"},
        ),
        (
            "::",
            [5001, 5002],
            "http://localhost:5001/code",
            {
                f"{name}:{port}"
                for name in ("localhost", "127.0.0.1", "[::1]")
                for port in (5001, 5002)
            },
        ),
        (
            "127.0.0.1",
            [80],
            "http://localhost/code",
            {
                f"{name}{port}"
                for name in ("localhost", "127.0.0.1", "[::1]")
                for port in ("", ":80")
            },
        ),
    ],
)
def test_allowed_hosts_are_loopback_the_address_and_the_redirects(
    address: str, ports: list[int], redirect: str, allowed: set[str]
) -> None:
    """Each with the real ports, never a wildcard, without port only for port 80."""
    assert allowed_hosts(address, ports, redirect) == allowed


@pytest.mark.parametrize(
    ("redirect", "sent"),
    [
        ("https://xots.example:443/code", "xots.example"),
        ("http://xots.example:80/code", "xots.example"),
        ("https://xots.example:8443/code", "xots.example:8443"),
        ("https://[2001:DB8::1]/code", "[2001:db8::1]"),
    ],
)
def test_the_redirects_host_is_allowed_as_a_browser_sends_it(redirect: str, sent: str) -> None:
    """Browsers omit the scheme's default port from Host and write lower case."""
    assert sent in allowed_hosts("127.0.0.1", [5001], redirect)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.", False),
        ("localhost.example", False),
        ("0.0.0.0", False),  # noqa: S104
        ("192.0.2.1", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_loopback_names_are_recognised(name: str, expected: bool) -> None:
    """By their spelling only: a name that merely resolves to loopback is none."""
    assert is_loopback_name(name) is expected


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:5001"},
        {"Origin": "null"},
        {"Referer": "http://localhost:5001/home"},
        {"Cookie": "a=b"},
        {"Accept-Language": "en"},
        {"Sec-Fetch-Site": "none"},
        {"sec-ch-ua": '"Chromium"'},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Sec-GPC": "1"},
        {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"},
    ],
)
def test_a_header_that_only_browsers_send_reveals_a_browser(headers: dict[str, str]) -> None:
    """One is enough, in any case."""
    assert looks_like_browser(HTTPHeaders(headers))
    assert looks_like_browser(HTTPHeaders({name.lower(): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"User-Agent": "curl/8.5.0", "Accept": "*/*"},
        {
            "User-Agent": "python-requests/2.32.3",
            "Accept-Encoding": "gzip, deflate",
            "Accept": "*/*",
        },
        {"User-Agent": "Go-http-client/1.1", "Authorization": "Bearer x"},
        {"User-Agent": "Tornado/6.6.1", "Secret-Header": "x"},
    ],
)
def test_a_program_is_not_taken_for_a_browser(headers: dict[str, str]) -> None:
    """With the usual headers of the usual clients."""
    assert not looks_like_browser(HTTPHeaders(headers))


def test_a_permitted_request_is_not_refused() -> None:
    """A path, one permitted Host, and no sign of another site."""
    allowed = frozenset({"localhost:5001"})
    assert refusal("/token", ["localhost:5001"], HTTPHeaders(), allowed, navigation=True) is None
    assert refusal("/token", ["LOCALHOST:5001"], HTTPHeaders(), allowed, navigation=False) is None


@pytest.mark.parametrize(
    ("path", "hosts", "headers", "navigation", "status"),
    [
        ("http://localhost:5001/token", ["localhost:5001"], {}, True, 400),
        ("*", ["localhost:5001"], {}, True, 400),
        ("", ["localhost:5001"], {}, True, 400),
        ("/token", [], {}, True, 400),
        ("/token", ["localhost:5001", "localhost:5001"], {}, True, 400),
        ("/token", ["evil.example"], {}, True, 421),
        ("/token", [""], {}, True, 421),
        ("/token", ["localhost:5001"], {"Sec-Fetch-Site": "cross-site"}, True, 403),
        (
            "/home",
            ["localhost:5001"],
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
            False,
            403,
        ),
        (
            "/token",
            ["localhost:5001"],
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
            True,
            403,
        ),
        (
            "/home/x",
            ["localhost:5001"],
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
            True,
            403,
        ),
    ],
)
def test_a_refusal_has_its_status(
    path: str, hosts: list[str], headers: dict[str, str], navigation: bool, status: int
) -> None:
    """400 for malformed requests, 421 for foreign hosts, 403 for foreign pages; with a sentence."""
    refused = refusal(
        path, hosts, HTTPHeaders(headers), frozenset({"localhost:5001"}), navigation=navigation
    )
    assert refused is not None
    assert refused[0] == status
    assert refused[1]
