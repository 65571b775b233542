"""The pages as a browser sees them, and the requests that a browser sends."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

from xots.sandbox import Endpoint, LoggedRequest, Sandbox
from xots.sandbox.person import Page, Person
from xots.server import Server

__all__ = [
    "BROWSER",
    "WANTS_PAGE",
    "begin",
    "changed",
    "one_form",
    "origin",
    "query",
    "revocations",
    "verifies",
]

WANTS_PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
"""The one header by which the server chooses a page."""

BROWSER = {
    **WANTS_PAGE,
    "Accept-Language": "en-NZ,en;q=0.5",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-User": "?1",
}
"""The headers of a browser that opens an address which its user has typed."""


def origin(server: Server) -> str:
    """Return the server's origin with the redirect URI's host: there no page redirects to it."""
    return f"http://localhost:{server.port}"


def query(url: str) -> dict[str, str]:
    """Return the parameters of a URL."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def changed(url: str, **changes: str | None) -> str:
    """Return the URL with other parameters in its query; None leaves one out."""
    kept = {name: value for name, value in (query(url) | changes).items() if value is not None}
    return f"{url.partition('?')[0]}?{urlencode(kept)}"


async def begin(person: Person, server: Server) -> Page:
    """Press the button on ``/home``. The browser shows Xero's consent page then."""
    return await person.submit(await person.open(f"{origin(server)}/home"))


def one_form(page: Page, marker: str) -> Page:
    """Return the page with no form left on it but the one that holds ``marker``."""
    forms = [
        form for form in re.findall(r"<form.*?</form>", page.text, re.DOTALL) if marker in form
    ]
    assert len(forms) == 1, f"{len(forms)} forms with {marker!r} on the page"
    return replace(page, text=forms[0])


def revocations(sandbox: Sandbox) -> list[LoggedRequest]:
    """Return the requests for a revocation."""
    return [one for one in sandbox.log if one.endpoint is Endpoint.REVOCATION]


def verifies(text: str, challenge: str) -> bool:
    """True if some part of the text proves the challenge: S256 of a verifier of 43 characters."""
    digest = base64.urlsafe_b64decode(challenge + "=")
    raw = text.encode()
    return any(hashlib.sha256(raw[at : at + 43]).digest() == digest for at in range(len(raw) - 42))
