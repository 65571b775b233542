"""A person at a browser, played by a program: follows redirects, keeps cookies, fills in forms.

The demo and the tests log in with it, over the same pages and with the same headers as a browser would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

__all__ = ["Page", "Person"]

MOST_REDIRECTS = 10


@dataclass
class Form:
    """A form of a page: where it leads, and what it would send as it stands."""

    action: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """What the browser shows."""

    url: str
    status: int
    text: str

    @property
    def form(self) -> Form:
        """The page's one form.

        Raises:
            LookupError: it has none.
        """
        reader = _FormReader()
        reader.feed(self.text)
        if reader.form is None:
            raise LookupError(
                f"no form on {urlsplit(self.url)._replace(query='').geturl()} (status {self.status})"
            )
        return reader.form


class _FormReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.form: Form | None = None
        self._select: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.form = Form(given.get("action") or "")
        elif self.form is None:
            return
        elif (
            tag == "input"
            and given.get("name")
            and ("checked" in given or given.get("type") != "checkbox")
        ):
            self.form.fields.append((given["name"] or "", given.get("value") or ""))
        elif tag == "select":
            self._select = given.get("name")
        elif (
            tag == "option" and self._select
        ):  # the first one is chosen, unless the person says otherwise
            self.form.fields.append((self._select, given.get("value") or ""))
            self._select = None


class Person:
    """One person with one browser; the cookies last as long as the object."""

    def __init__(self) -> None:
        self._http = AsyncHTTPClient()
        self.cookies: dict[str, dict[str, str]] = {}
        """By host name: cookies do not know ports."""

    async def open(self, url: str) -> Page:
        """Type an address into the browser."""
        return await self._go("GET", url, None, site="none", origin=None)

    async def submit(self, page: Page, **values: str) -> Page:
        """Fill in the page's form and send it; ``values`` take the place of what stands there."""
        fields = [(name, value) for name, value in page.form.fields if name not in values]
        target = urljoin(page.url, page.form.action)
        body = urlencode(fields + list(values.items()))
        site = "same-origin" if _origin(target) == _origin(page.url) else "cross-site"
        return await self._go("POST", target, body, site=site, origin=_origin(page.url))

    async def log_in(
        self, url: str, client_id: str, client_secret: str = "", tenant_id: str = ""
    ) -> Page:
        """Log in at the server that answers at ``url``: form, consent at the simulated Xero, and back."""
        page = await self.open(f"{url}/login")
        page = await self.submit(
            page, client_id=client_id, client_secret=client_secret, tenant_id=tenant_id
        )
        return await self.consent(await self.submit(page))

    async def consent(self, page: Page) -> Page:
        """Allow what the simulated Xero's consent page asks for."""
        return await self.submit(page, action="allow")

    async def _go(
        self, method: str, url: str, body: str | None, *, site: str, origin: str | None
    ) -> Page:
        for _ in range(MOST_REDIRECTS):
            response = await self._http.fetch(
                HTTPRequest(
                    url,
                    method=method,
                    body=body,
                    headers=self._headers(url, site, origin),
                    follow_redirects=False,
                ),
                raise_error=False,
            )
            for header in response.headers.get_list("Set-Cookie"):
                self._take(url, header)
            if response.code not in (301, 302, 303):
                return Page(url, response.code, response.body.decode())
            target = urljoin(url, response.headers["Location"])
            # A chain of redirects counts as cross-site once one of its steps was (Fetch Metadata).
            if site != "none" and _origin(target) != _origin(url):
                site = "cross-site"
            method, body, origin, url = "GET", None, None, target
        raise LookupError(f"more than {MOST_REDIRECTS} redirects")

    def _headers(self, url: str, site: str, origin: str | None) -> dict[str, str]:
        headers = {
            "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "Accept-Language": "en",
            "User-Agent": "Mozilla/5.0 (a person of the xots sandbox)",
            "Sec-Fetch-Site": site,
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        }
        if origin is not None:
            headers["Origin"] = origin
        if kept := self.cookies.get(urlsplit(url).hostname or ""):
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in kept.items())
        return headers

    def _take(self, url: str, header: str) -> None:
        kept = self.cookies.setdefault(urlsplit(url).hostname or "", {})
        for name, morsel in SimpleCookie(header).items():
            if morsel.value and morsel["max-age"] != "0":
                kept[name] = morsel.value
            else:
                kept.pop(name, None)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
