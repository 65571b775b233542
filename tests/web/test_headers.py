"""The security headers: on every response, however it came about."""

from __future__ import annotations

from typing import Any

import pytest
from support.web import BROWSER, WANTS_PAGE, origin
from tornado.httputil import HTTPHeaders

from xots.keeping.keeper import TokenKeeper
from xots.server import Server
from xots.web.guard import looks_like_browser
from xots.web.headers import SECURITY_HEADERS

PROGRAM: dict[str, str] = {}
MULTIPART = {"Content-Type": "multipart/form-data"}
WORKER = {"Service-Worker": "script"}
CACHED = {"If-None-Match": "*", "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}

REQUESTS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "JSON": ("GET", "/status", PROGRAM, 200),
    "text": ("GET", "/token", {"Accept": "text/plain"}, 200),
    "a page": ("GET", "/home", BROWSER, 200),
    "the style sheet": ("GET", "/style.css", PROGRAM, 200),
    "a worker": ("GET", "/sw.js", WORKER, 200),
    "HEAD": ("HEAD", "/token", PROGRAM, 200),
    "a conditional request": ("GET", "/token", CACHED, 200),
    "a redirect": ("GET", "/", PROGRAM, 303),
    "a malformed parameter": ("GET", "/token?min_ttl=x", PROGRAM, 400),
    "a malformed body": ("POST", "/login", MULTIPART, 400),
    "a foreign page": ("GET", "/token", {"Origin": "null"}, 403),
    "a missing page": ("GET", "/nowhere", BROWSER, 404),
    "a missing path": ("GET", "/nowhere", PROGRAM, 404),
    "an unsupported method": ("PUT", "/token", PROGRAM, 405),
    "an unknown method": ("BREW", "/token", PROGRAM, 405),
    "HEAD of an act": ("HEAD", "/revoke", PROGRAM, 405),
    "a redirect of a browser": ("GET", "/", BROWSER, 303),
    "a token for a browser": ("GET", "/token", BROWSER, 200),
    "a foreign host": ("GET", "/token", {"Host": "evil.example"}, 421),
}


def check(headers: Any, *, for_browser: bool = False) -> None:
    """Check the security headers of a response, and those for a browser if it is a page."""
    for name in (
        "Cache-Control",
        "Content-Security-Policy",
        "Cross-Origin-Opener-Policy",
        "Cross-Origin-Resource-Policy",
        "Referrer-Policy",
        "X-Content-Type-Options",
        "X-Frame-Options",
    ):
        assert len(headers.get_list(name)) == 1, name
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    # With "no-referrer", browsers send "Origin: null" with this server's own forms too (Fetch,
    # "append Origin").
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    # Also of JSON: a window that shows it can be read by the tab that opened it.
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Server" not in headers
    assert "Etag" not in headers
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    if for_browser or headers.get("Content-Type", "").startswith("text/html"):
        # Never "cookies": browsers clear those of every port of localhost.
        assert headers["Clear-Site-Data"] == '"storage"'
    else:
        assert "Clear-Site-Data" not in headers


@pytest.mark.safeguard(
    file="web/responses.py",
    old=", **SECURITY_HEADERS",
    new="",
    protects_from="a foreign page that frames a page, or reads a response by a side channel",
)
@pytest.mark.safeguard(
    file="web/headers.py",
    old='"Cross-Origin-Opener-Policy": "same-origin",',
    new="",
    protects_from="a tab that another program on this port left, which opens a window at /token",
)
@pytest.mark.safeguard(
    file="web/responses.py",
    old="            headers |= BROWSER_HEADERS",
    new="            pass",
    protects_from="a service worker that another program left on this port",
)
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"), REQUESTS.values(), ids=REQUESTS.keys()
)
async def test_every_response_has_the_security_headers(
    logged_in: Server,
    send: Any,
    expected_log: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    """Also one that Tornado makes before the handler, and an error."""
    expected_log.perhaps(r"WARNING (xots\.web|tornado\.general): ")
    body = "" if method in ("POST", "PUT") else None
    response = await send(method, origin(logged_in) + path, headers, body)
    assert response.status == status
    check(response.headers, for_browser=looks_like_browser(HTTPHeaders(headers)))


@pytest.mark.parametrize("headers", [PROGRAM, WANTS_PAGE], ids=["a program", "a browser"])
async def test_an_unexpected_error_has_the_security_headers(
    logged_in: Server,
    send: Any,
    expected_log: Any,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    """Headers that the handler had set before are gone."""
    expected_log(r"ERROR xots\.web: GET /token failed")

    async def fail(*args: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(TokenKeeper, "token", fail)
    response = await send("GET", f"{origin(logged_in)}/token", headers)
    assert response.status == 500
    check(response.headers)


async def test_a_redirect_claims_no_page(logged_in: Server, get: Any) -> None:
    """Its empty body has no type, so that no browser takes it for a page without its headers."""
    response = await get(f"{origin(logged_in)}/")
    assert (response.status, response.body) == (303, b"")
    assert "Content-Type" not in response.headers


def test_the_constant_holds_plain_text() -> None:
    """Responses that no handler makes are written from it."""
    for name, value in SECURITY_HEADERS.items():
        assert f"{name}: {value}".isprintable()
        assert f"{name}: {value}".isascii()
