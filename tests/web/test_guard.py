"""The guard: each of its rules over real sockets, and the cases of each as a pure decision."""

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
from xots.web.guard import (
    Decision,
    Refusal,
    Request,
    allowed_hosts,
    decide,
    is_loopback_name,
    is_opened_by_user,
    looks_like_browser,
)

NO_LANDING = (
    "/accounts/",
    "/accounts/default",
    "/accounts/default/code",
    "/accounts/default/ping",
    "/accounts/default/home/",
    "/accounts/default/style.css",
    "/accounts//home",
    "/accounts/Default/home",
    "/accounts/defa%75lt/home",
    "/accounts/f_2/status",
    "/accounts/default/../../token",
    "/accounts/default//home",
    f"/accounts/{65 * 'a'}/home",
    "/other/default/home",
    "/accounts/default/accounts/default/home",
)
"""The paths that resemble those of an account at which a user may arrive."""

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
    "/accounts",
    "/accounts/default/",
    "/accounts/default/login",
    "/accounts/default/home?x=/token",
    "/accounts/default/status",
    "/accounts/default/token",
    "/accounts/default/refresh",
    "/accounts/default/remove",
    *NO_LANDING,
)
LANDING = (
    "/",
    "/login",
    "/home",
    "/code",
    "/accounts",
    "/accounts/default/",
    "/accounts/default/login",
    "/accounts/default/home",
)
ASSETS = ("/status", "/style.css", "/accounts/default/status")
PROBES = ("/ping", "/ready")
REFUSED = r"WARNING xots\.web: "
EVIL = "http://evil.example"


def without(condition: str, *, protects_from: str) -> pytest.MarkDecorator:
    """Return the mark of the rule with this condition."""
    return pytest.mark.safeguard(
        file="web/guard.py",
        old=f"Rule({condition}, " if condition in ONE_LINE else f"        {condition},\n",
        new="Rule(lambda _: False, " if condition in ONE_LINE else "        lambda _: False,\n",
        protects_from=protects_from,
    )


ONE_LINE = frozenset(
    {
        "_is_no_path",
        "_has_no_single_host",
        "_has_foreign_origin",
        "_comes_from_other_site",
        "_loads_service_worker",
        "_has_foreign_referer",
        "_is_navigation_preload",
        "_is_not_top_level",
    }
)
"""The conditions whose rules have one line in the source."""


@dataclass(frozen=True)
class Raw:
    """A response as it came: status 0 if the connection was closed without one."""

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


MALFORMED = ("empty", "missing", "twice the same", "ours then another", "another then ours")
"""Of these, a request to a probe's path is refused too."""


@without("_is_for_unknown_host", protects_from="a page that reads the token by DNS rebinding")
@pytest.mark.parametrize("lines", HOSTS.values(), ids=HOSTS.keys())
async def test_another_host_is_refused_on_every_path(
    logged_in: Server, unserved: Any, expected_log: Any, lines: Callable[[int], list[str]]
) -> None:
    """By GET and by POST. The refusal reveals nothing."""
    expected_log.perhaps(REFUSED)
    port = logged_in.port
    for path, method in product(PATHS, ("GET", "POST")):
        if path not in PROBES:
            unserved(await speak(port, request(path, lines(port), method=method)))


@pytest.mark.parametrize("path", PROBES)
async def test_a_probe_may_use_any_one_host(
    logged_in: Server, unserved: Any, expected_log: Any, path: str
) -> None:
    """A load balancer connects by address, and the response says one bit."""
    expected_log.perhaps(REFUSED)
    port = logged_in.port
    for host in ("10.0.0.7", f"10.0.0.7:{port}", "evil.example", f"0.0.0.0:{port}"):
        response = await speak(port, request(path, [f"Host: {host}"]))
        assert (response.status, response.body) == (200, b'{"ready":true}\n')
    for name in MALFORMED:
        unserved(await speak(port, request(path, HOSTS[name](port))))
    lines = ["Host: evil.example", "Origin: http://other.example"]
    assert (await speak(port, request(path, lines))).status == 403


async def test_a_refused_host_is_told_which_setting_adds_it(
    logged_in: Server, get: Any, expected_log: Any
) -> None:
    """In one sentence."""
    expected_log(REFUSED)
    response = await get(f"{logged_in.url}/token", Host="proxy.example")
    assert response.status == 421
    assert "add the name that you use to the setting allowed_hosts" in response.json["detail"]


@without("_has_no_single_host", protects_from="taking HTTP/1.0 without Host for loopback")
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


# ---------- Origin

ORIGINS: dict[str, Callable[[int], str]] = {
    "another site": lambda port: EVIL,
    "null": lambda port: "null",
    "another port": lambda port: f"http://localhost:{port + 1}",
    "another name of loopback": lambda port: f"http://127.0.0.1:{port}",
    "another scheme": lambda port: f"https://localhost:{port}",
    "no port": lambda port: "http://localhost",
    "ours within another": lambda port: f"http://localhost:{port}.evil.example",
    "empty": lambda port: "",
    "a list": lambda port: f"http://localhost:{port} {EVIL}",
    "two headers": lambda port: f"http://localhost:{port}\r\nOrigin: {EVIL}",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW")


@without("_has_foreign_origin", protects_from="a foreign page's WebSocket handshake or fetch")
@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
async def test_another_origin_is_refused_on_every_path_and_method(
    logged_in: Server, unserved: Any, expected_log: Any, origin: Callable[[int], str]
) -> None:
    """It must be exactly this server's own. Same-origin beside it does not help."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [f"Host: localhost:{port}", f"Origin: {origin(port)}", "Sec-Fetch-Site: same-origin"]
    for path, method in product(PATHS, METHODS):
        for sent in (lines, lines[:2]):
            response = await speak(port, request(path, sent, method=method))
            unserved(response)
            assert response.status == 403


async def test_a_post_of_this_servers_origin_is_accepted(logged_in: Server) -> None:
    """The server's own form works in a browser without Fetch Metadata."""
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        f"Origin: http://localhost:{port}",
        "Accept: text/html",
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
        if path not in PROBES:
            unserved(await speak(port, request(path, lines, method=method)))


# ---------- prefetch and WebSocket

HIDDEN = {
    "speculation rules": ["Sec-Purpose: prefetch;prerender"],
    "any other purpose": ["Sec-Purpose: "],
    "an older browser": ["Purpose: prefetch"],
    "Safari": ["X-Purpose: preview"],
    "Firefox": ["X-Moz: prefetch"],
}


@without("_is_prefetch", protects_from="a foreign page's prefetch, which looks like the user's own")
@pytest.mark.parametrize("lines", HIDDEN.values(), ids=HIDDEN.keys())
async def test_a_prefetch_is_refused_on_every_path(
    logged_in: Server, unserved: Any, expected_log: Any, lines: list[str]
) -> None:
    """It arrives with ``Sec-Fetch-Site: none``, as if the user had typed the address."""
    expected_log(REFUSED)
    port = logged_in.port
    own = [f"Host: localhost:{port}", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"]
    for path in PATHS:
        unserved(await speak(port, request(path, own + lines)))


@without("_is_websocket", protects_from="a WebSocket handshake that counts as a GET")
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "websocket/13"])
async def test_a_websocket_handshake_is_refused(
    logged_in: Server, unserved: Any, expected_log: Any, upgrade: str
) -> None:
    """There is no WebSocket here. A handshake carries no Fetch Metadata."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        f"Upgrade: {upgrade}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    for path in PATHS:
        unserved(await speak(port, request(path, lines)))


async def test_an_upgrade_to_http_2_is_served_as_usual(logged_in: Server) -> None:
    """``curl --http2`` offers one with each request."""
    lines = [f"Host: localhost:{logged_in.port}", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    response = await speak(logged_in.port, request("/token", lines))
    assert response.status == 200


# ---------- Fetch Metadata

SITES = ("cross-site", "same-site", "unheard-of", "", "none, cross-site")
MODES = ("navigate", "no-cors", "cors", "same-origin", "websocket")


def permitted(path: str, method: str, mode: str) -> bool:
    """True for a navigation to a path at which a user may arrive from elsewhere."""
    landing = path.partition("?")[0] in LANDING
    return landing and method in ("GET", "HEAD") and mode == "navigate"


@without("_comes_from_other_site", protects_from="requests of a foreign page")
@pytest.mark.parametrize("site", SITES)
async def test_pages_of_other_sites_reach_only_the_landing_paths(
    logged_in: Server, unserved: Any, expected_log: Any, site: str
) -> None:
    """Every route, method and mode. Another port of localhost is same-site, and foreign too."""
    expected_log(REFUSED)
    port = logged_in.port
    for path, method, mode in product(PATHS, METHODS, MODES):
        lines = [
            f"Host: localhost:{port}",
            f"Sec-Fetch-Site: {site}",
            f"Sec-Fetch-Mode: {mode}",
            f"Sec-Fetch-Dest: {'document' if mode == 'navigate' else 'empty'}",
        ]
        response = await speak(port, request(path, lines, method=method))
        if not permitted(path, method, mode):
            unserved(response)
        elif path != "/code":  # which refuses for want of a login
            assert response.status in (200, 303)


@without("_is_not_top_level", protects_from="frames, and service workers that pass navigations on")
@pytest.mark.parametrize(
    "destination", ["iframe", "frame", "embed", "object", "fencedframe", "empty", ""]
)
async def test_frames_and_service_workers_reach_no_path(
    logged_in: Server, unserved: Any, expected_log: Any, destination: str
) -> None:
    """Only a top-level navigation is the user's own, from this server's pages too."""
    expected_log(REFUSED)
    port = logged_in.port
    for path, site in product(PATHS, ("cross-site", "same-site", "same-origin", "none")):
        lines = [
            f"Host: localhost:{port}",
            f"Sec-Fetch-Site: {site}",
            "Sec-Fetch-Mode: navigate",
            f"Sec-Fetch-Dest: {destination}",
        ]
        unserved(await speak(port, request(path, lines)))


@without("_is_navigation_preload", protects_from="service workers that read the user's navigation")
@pytest.mark.parametrize("value", ["true", "", "other"])
async def test_a_navigation_preload_reaches_no_path(
    logged_in: Server, unserved: Any, expected_log: Any, value: str
) -> None:
    """The browser sends the user's own navigation, and a service worker reads the response. The
    worker chooses the value (Service Workers, "navigation preload")."""
    expected_log(REFUSED)
    port = logged_in.port
    for path in PATHS:
        lines = [
            f"Host: localhost:{port}",
            "Sec-Fetch-Site: none",
            "Sec-Fetch-Mode: navigate",
            "Sec-Fetch-Dest: document",
            f"Service-Worker-Navigation-Preload: {value}",
        ]
        unserved(await speak(port, request(path, lines)))


async def test_a_foreign_request_without_a_mode_reaches_no_landing_path(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """Without Sec-Fetch-Mode it does not count as a navigation."""
    expected_log(REFUSED)
    port = logged_in.port
    for path in PATHS:
        lines = [f"Host: localhost:{port}", "Sec-Fetch-Site: cross-site"]
        unserved(await speak(port, request(path, lines)))


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_the_servers_own_pages_and_the_address_bar_are_served(
    logged_in: Server, site: str
) -> None:
    """A click on a page of this server, and a typed address."""
    port = logged_in.port
    for path in ("/home", "/login", "/status", "/livez", "/style.css"):
        lines = [f"Host: localhost:{port}", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate"]
        assert (await speak(port, request(path, lines))).status == 200


@without("_comes_from_script", protects_from="a token that a left service worker fetches")
@pytest.mark.parametrize("mode", ["cors", "same-origin", "no-cors", ""])
async def test_a_script_of_this_origin_reaches_only_style_and_status(
    logged_in: Server, unserved: Any, expected_log: Any, mode: str
) -> None:
    """A service worker of another program that had this port is same-origin."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [f"Host: localhost:{port}", "Sec-Fetch-Site: same-origin", f"Sec-Fetch-Mode: {mode}"]
    for path in PATHS:
        response = await speak(port, request(path, lines))
        if path in ASSETS:
            assert response.status == 200
        else:
            unserved(response)


async def test_a_mode_without_a_site_is_that_of_a_program(logged_in: Server) -> None:
    """Node's fetch sends it."""
    lines = [f"Host: localhost:{logged_in.port}", "Sec-Fetch-Mode: cors", "Accept-Language: *"]
    assert (await speak(logged_in.port, request("/token", lines))).status == 200


# ---------- service workers


@without("_loads_service_worker", protects_from="a service worker that stays on this port")
@pytest.mark.parametrize("path", ["/sw.js", "/nowhere", "/token", "/home", "/"])
async def test_the_script_of_a_service_worker_is_one_that_unregisters_itself(
    logged_in: Server, path: str
) -> None:
    """On every path: the one that the other program used is not known."""
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        "Service-Worker: script",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: same-origin",
        "Sec-Fetch-Dest: serviceworker",
    ]
    response = await speak(port, request(path, lines))
    assert response.status == 200
    assert "Content-Type: text/javascript" in response.head
    assert "Service-Worker-Allowed: /" in response.head
    assert b"self.registration.unregister()" in response.body
    assert b"eyJ" not in response.body


async def test_a_foreign_page_receives_no_service_worker(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """The rules before it hold."""
    expected_log(REFUSED)
    port = logged_in.port
    for lines in (
        [f"Host: localhost:{port}", "Sec-Fetch-Site: cross-site"],
        [f"Host: localhost:{port}", f"Origin: {EVIL}"],
        ["Host: evil.example"],
    ):
        unserved(await speak(port, request("/sw.js", [*lines, "Service-Worker: script"])))


# ---------- Referer and forms


@without("_has_foreign_referer", protects_from="a foreign page in a browser without Fetch Metadata")
@pytest.mark.parametrize("referer", [f"{EVIL}/page", "http://localhost:1/", "about:blank", "http:"])
async def test_a_foreign_referer_reaches_only_the_landing_paths(
    logged_in: Server, unserved: Any, expected_log: Any, referer: str
) -> None:
    """One that cannot be parsed counts as foreign."""
    expected_log(REFUSED)
    port = logged_in.port
    lines = [f"Host: localhost:{port}", f"Referer: {referer}"]
    for path, method in product(PATHS, METHODS):
        response = await speak(port, request(path, lines, method=method))
        if not permitted(path, method, "navigate"):
            unserved(response)
        elif path != "/code":
            assert response.status in (200, 303)


@without("_is_form_without_proof", protects_from="a form of a foreign page that hides its origin")
@pytest.mark.parametrize("path", ["/login", "/home", "/refresh", "/revoke", "/logout", "/token"])
async def test_a_browsers_post_must_prove_its_origin(
    logged_in: Server, unserved: Any, expected_log: Any, path: str
) -> None:
    """By one of three headers. Nothing else that a browser sends is a proof."""
    expected_log.perhaps(REFUSED)
    port, account = logged_in.port, logged_in.keeper.account
    for more in (
        [],
        ["Cookie: a=b"],
        ["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"],
        ["Referer: "],
    ):
        lines = [f"Host: localhost:{port}", "Accept: application/json, text/html;q=0.1", *more]
        response = await speak(port, request(path, lines, method="POST", body=b"client_id=evil"))
        unserved(response)
        assert response.status == 403
    assert logged_in.keeper.account == account


PROOFS: dict[str, Callable[[int], str]] = {
    "its origin": lambda port: f"Origin: http://localhost:{port}",
    "Fetch Metadata": lambda port: "Sec-Fetch-Site: same-origin",
    "its page": lambda port: f"Referer: http://localhost:{port}/login?x=y",
}


@pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS.keys())
async def test_each_of_three_headers_proves_an_own_form(
    logged_in: Server, proof: Callable[[int], str]
) -> None:
    """No browser needs to send all of them."""
    port = logged_in.port
    lines = [
        f"Host: localhost:{port}",
        "Accept: text/html",
        "Content-Type: application/x-www-form-urlencoded",
        proof(port),
    ]
    response = await speak(port, request("/login", lines, method="POST", body=b"client_id=mine"))
    assert response.status == 303


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/*", "text/html;q=0"])
async def test_a_programs_post_needs_no_proof(brought_to: Any, send: Any, accept: str) -> None:
    """curl and Node's fetch accept anything, and no page in particular."""
    server = await brought_to("connected")
    response = await send("POST", f"{server.url}/revoke", {"Accept": accept}, "")
    assert (response.status, response.json) == (200, {"status": "revoked"})


# ---------- acts

SIGNS = {
    "Node's fetch": {"Sec-Fetch-Mode": "cors", "Accept-Language": "*", "Accept": "*/*"},
    "PowerShell": {"User-Agent": "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-NZ) PowerShell/5.1"},
    "a Session with cookies": {"Cookie": "a=b", "Accept": "*/*"},
    "a page refused": {"Accept-Language": "en", "Accept": "text/html;q=0, */*"},
}


@pytest.mark.safeguard(
    file="web/acts.py",
    old="            raise HTTPError(405, USE_POST)",
    new="            self._confirm()",
    protects_from="telling a program 200 for an act that did not happen",
)
@pytest.mark.parametrize("headers", SIGNS.values(), ids=SIGNS.keys())
@pytest.mark.parametrize("path", ["/refresh", "/revoke", "/logout"])
async def test_a_get_that_looks_like_a_browsers_is_told_to_use_post(
    logged_in: Server, send: Any, expected_log: Any, path: str, headers: dict[str, str]
) -> None:
    """A program that cannot show a page never gets a 200 for an act that did not happen."""
    expected_log(rf"WARNING xots\.web: GET {path}: ")
    account = logged_in.keeper.account
    response = await send("GET", logged_in.url + path, headers)
    assert (response.status, response.headers["Allow"]) == (405, "GET, POST")
    assert response.json["type"] == "urn:xots:method-not-allowed"
    assert "use POST" in response.json["detail"]
    assert logged_in.keeper.account == account


@pytest.mark.parametrize("headers", SIGNS.values(), ids=SIGNS.keys())
async def test_a_program_that_looks_like_a_browser_acts_by_post(
    brought_to: Any, send: Any, headers: dict[str, str]
) -> None:
    """As the 405 says."""
    server = await brought_to("connected")
    response = await send("POST", f"{server.url}/revoke", headers, "")
    assert (response.status, response.json) == (200, {"status": "revoked"})


@pytest.mark.safeguard(
    file="web/handler.py",
    old="        if self.request.method not in supported_methods(type(self)):",
    new="        if not hasattr(self, self.request.method.lower()):",
    protects_from="calling any method of a handler whose name a request gives",
)
@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW", "get", "PREPARE", "FINISH", "_LOG"])
async def test_an_unknown_method_is_refused_on_every_path(
    logged_in: Server, expected_log: Any, method: str
) -> None:
    """By a status from 400 to 499: it never reaches another method of the handler."""
    expected_log.perhaps(REFUSED)
    port = logged_in.port
    for path in PATHS:
        response = await speak(port, request(path, [f"Host: localhost:{port}"], method=method))
        assert response.status in (400, 404, 405)
        if response.status == 405:
            assert "Allow: GET" in response.head
    response = await speak(port, request("evil.example:443", ["Host: a:443"], method=method))
    assert response.status == 400


async def test_an_unknown_method_passes_the_guard_first(
    logged_in: Server, unserved: Any, expected_log: Any
) -> None:
    """A foreign host does not learn which paths exist."""
    expected_log(REFUSED)
    for path in ("/token", "/nowhere"):
        response = await speak(logged_in.port, request(path, ["Host: evil.example"], method="BREW"))
        assert response.status == 421


# ---------- the log


async def test_a_refused_request_has_one_line_in_the_log(
    logged_in: Server, get: Any, expected_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With status, method and path, without the query, and no line of the access log."""
    expected_log.perhaps(REFUSED)
    caplog.set_level("INFO")
    caplog.clear()
    await get(f"{logged_in.url}/token?secret=1", Origin=EVIL)
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("xots")]
    assert line.startswith("GET /token: refused with status 403: ")
    caplog.clear()
    await get(f"{logged_in.url}/status")
    assert [record.name for record in caplog.records] == ["xots.access"]


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


def test_a_further_host_without_a_port_is_served_at_the_ports_of_the_server() -> None:
    """A proxy sends it without a port; a client that connects itself sends the port."""
    further = ("xots.lan", "[2001:db8::7]", "proxy.lan:8080")
    allowed = allowed_hosts("0.0.0.0", [5001], "http://localhost/code", further=further)  # noqa: S104
    for host in ("xots.lan", "xots.lan:5001", "[2001:db8::7]:5001", "proxy.lan:8080"):
        assert host in allowed
    for host in ("xots.lan:5002", "proxy.lan", "proxy.lan:5001", "proxy.lan:8080:5001"):
        assert host not in allowed


@pytest.mark.parametrize(
    ("scheme", "port", "expected"),
    [("https", 443, True), ("https", 80, False), ("http", 80, True), ("http", 443, False)],
)
def test_a_host_has_no_port_if_that_is_the_default_of_the_scheme(
    scheme: str, port: int, expected: bool
) -> None:
    """Browsers omit it then, and only then."""
    allowed = allowed_hosts("127.0.0.1", [port], "https://xots.example/code", scheme)
    assert ("localhost" in allowed, f"localhost:{port}" in allowed) == (expected, True)


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


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({}, False),
    ],
)
def test_only_fetch_metadata_shows_that_the_user_opened_a_page(
    headers: dict[str, str], expected: bool
) -> None:
    """A request without it may come from any page."""
    assert is_opened_by_user(HTTPHeaders(headers)) is expected


def decision(
    target: str = "/token", *, method: str = "GET", host: str | None = None, **headers: str
) -> Refusal | Decision:
    """Return the decision on a request to localhost:5001; underscores in names are hyphens."""
    return decide(
        Request(
            method=method,
            target=target,
            hosts=["localhost:5001"] if host is None else [host],
            headers=HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()}),
            allowed_hosts=frozenset({"localhost:5001", "localhost", "xots.example"}),
            redirect_uri="https://xots.example/code",
        )
    )


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("/token", {}),
        ("/token", {"host": "LOCALHOST:5001"}),
        ("/token", {"Origin": "http://localhost:5001"}),
        ("/token", {"host": "LOCALHOST:5001", "Origin": "http://localhost:5001"}),
        ("/token", {"host": "localhost", "Origin": "http://localhost"}),
        ("/token", {"host": "xots.example", "Origin": "https://xots.example"}),
        ("/token", {"Referer": "http://localhost:5001/home"}),
        ("/token", {"Referer": "https://xots.example:443/home"}),
        ("/token", {"Referer": ""}),
        ("/token", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}),
        ("/token", {"Purpose": "testing", "X_Moz": "microsummary", "X_Purpose": "prefetched"}),
        ("/token", {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"}),
        ("/home?a=b", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}),
        ("/home", {"Referer": "https://login.xero.com/"}),
        ("/sw.js", {"Service_Worker": "script", "method": "POST"}),
        ("/revoke", {"method": "POST", "Accept": "*/*"}),
    ],
)
def test_these_requests_are_permitted(target: str, given: dict[str, str]) -> None:
    """Programs, the user's own navigations, and a user who arrives from Xero."""
    assert decision(target, **given) is Decision.PERMIT


def test_the_worker_is_a_decision_of_its_own() -> None:
    """Before the rules on scripts, which would refuse it."""
    assert decision("/sw.js", Service_Worker="script") is Decision.SEND_WORKER


@pytest.mark.parametrize(
    ("target", "given", "status"),
    [
        pytest.param(
            "http://localhost:5001/token",
            {},
            400,
            id="an absolute target",
            marks=without("_is_no_path", protects_from="absolute targets, which are for proxies"),
        ),
        ("*", {}, 400),
        ("", {}, 400),
        ("*", {"host": ""}, 400),
        ("/token", {"host": "evil.example"}, 421),
        ("/token", {"host": ""}, 400),
        ("/token", {"host": " "}, 400),
        ("/token", {"host": "evil.example", "Origin": EVIL}, 421),
        ("/ping", {"host": "[", "Referer": "http://[/"}, 403),
        ("/token", {"Origin": "http://localhost"}, 403),
        ("/token", {"Origin": "http://xots.example"}, 403),
        ("/token", {"Purpose": "x, Prefetch"}, 403),
        ("/token", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/token", {"Referer": "http://localhost:5001@evil.example/"}, 403),
        ("/home", {"method": "POST", "Referer": EVIL}, 403),
        ("/home/x", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ("/home", {"method": "POST", "Accept": "text/html", "Sec_Fetch_Site": "none"}, 403),
    ],
)
def test_a_refusal_has_its_status(target: str, given: dict[str, str], status: int) -> None:
    """400 for malformed requests, 421 for foreign hosts, 403 for foreign pages; with a sentence."""
    refused = decision(target, **given)
    assert isinstance(refused, Refusal)
    assert refused.status == status
    assert refused.detail


@pytest.mark.parametrize(
    "given",
    [
        {"Origin": EVIL},
        {"Sec_Purpose": "prefetch"},
        {"Upgrade": "websocket"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
        {"Referer": EVIL},
        {"method": "POST", "Accept": "text/html"},
    ],
)
def test_a_refusal_says_what_to_do(given: dict[str, str]) -> None:
    """The second part of its sentence."""
    refused = decision(**given)
    assert isinstance(refused, Refusal)
    what_to_do = refused.detail.partition("; ")[2]
    assert what_to_do.split()[0] in ("open", "send", "reload", "let")
