"""A simulated user with a browser: follows redirects, keeps cookies and fills in forms.

The demo and the tests log in with it, through the same pages and with the same headers as a user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

__all__ = ["Form", "Page", "Person"]

MAX_REDIRECTS = 10

_HEADERS = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Accept-Language": "en",
    "User-Agent": "Mozilla/5.0 (a simulated user of the xots sandbox)",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-User": "?1",
}

DEFAULT_REFERRER_POLICY = "strict-origin-when-cross-origin"


@dataclass
class Form:
    """A form of a page: its target, and the fields that it sends without changes."""

    action: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The page in the browser."""

    url: str
    status: int
    text: str
    referrer_policy: str = DEFAULT_REFERRER_POLICY

    @property
    def form(self) -> Form:
        """The page's only form.

        Raises:
            LookupError: the page has no form.
        """
        reader = _PageReader()
        reader.feed(self.text)
        if reader.form is None:
            raise LookupError(f"no form on {self._address} (status {self.status})")
        return reader.form

    def link(self, text: str) -> str:
        """Return the target of the link with this text.

        Raises:
            LookupError: the page has no such link.
        """
        reader = _PageReader()
        reader.feed(self.text)
        if text not in reader.links:
            raise LookupError(f"no link {text!r} on {self._address} (status {self.status})")
        return urljoin(self.url, reader.links[text])

    @property
    def _address(self) -> str:
        return urlsplit(self.url)._replace(query="").geturl()


class _PageReader(HTMLParser):
    """Reads the links and the last form of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.form: Form | None = None
        self.links: dict[str, str] = {}
        """Targets by text."""
        self._select: str | None = None
        """The name of an open select element."""
        self._target: str | None = None
        """The target of an open link."""

    def handle_data(self, data: str) -> None:
        if self._target is not None:
            self.links[data] = self._target

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._target = None
        elif tag == "select":
            self._select = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self._target = given.get("href")
        elif tag == "form":
            self.form = Form(given.get("action", ""))
        elif self.form is not None:
            self._read_field(self.form, tag, given)

    def _read_field(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, value = given.get("name", ""), given.get("value", "")
        match tag:
            case "input" if name and _is_sent(given):
                form.fields.append((name, value))
            case "select":
                self._select = name
            case "option" if self._select:
                self._read_option(form, self._select, given)

    def _read_option(self, form: Form, name: str, given: dict[str, str]) -> None:
        """Choose the first option, or the selected one."""
        others = [field for field in form.fields if field[0] != name]
        if "selected" in given or len(others) == len(form.fields):
            form.fields[:] = [*others, (name, given.get("value", ""))]


def _is_sent(given: dict[str, str]) -> bool:
    return "checked" in given or given.get("type") != "checkbox"


class Person:
    """One user with one browser. The cookies live as long as the object.

    Args:
        ca_file: PEM file of the authorities that the browser trusts; None for the system's.
    """

    def __init__(self, ca_file: str | None = None) -> None:
        self._http = AsyncHTTPClient()
        self._ca_file = ca_file
        self.cookies: dict[str, dict[str, str]] = {}
        """By host name: a cookie is valid for every port."""

    async def open(self, url: str) -> Page:
        """Open an address, as if the user typed it."""
        return await self._go("GET", url, None, source=None)

    async def follow(self, page: Page, text: str) -> Page:
        """Click on the page's link with this text.

        Raises:
            LookupError: the page has no such link.
        """
        return await self._go("GET", page.link(text), None, source=page)

    async def submit(self, page: Page, **values: str) -> Page:
        """Submit the page's form. ``values`` replace the fields of the same names.

        Raises:
            LookupError: the page has no form, or there are too many redirects.
        """
        fields = [(name, value) for name, value in page.form.fields if name not in values]
        target = urljoin(page.url, page.form.action)
        body = urlencode(fields + list(values.items()))
        return await self._go("POST", target, body, source=page)

    async def log_in(
        self,
        url: str,
        client_id: str,
        client_secret: str = "",
        tenant_id: str = "",
        user_id: str | None = None,
    ) -> Page:
        """Log in at the server with this URL: form, consent at the simulated Xero, and callback.

        ``user_id`` chooses the Xero user, as in `consent`.
        """
        page = await self.open(f"{url}/login")
        page = await self.submit(
            page, client_id=client_id, client_secret=client_secret, tenant_id=tenant_id
        )
        return await self.consent(await self.submit(page), user_id)

    async def consent(self, page: Page, user_id: str | None = None) -> Page:
        """Allow the request on the simulated Xero's consent page.

        Args:
            page: the consent page.
            user_id: the Xero user; None is the one that the page has chosen, which is the first.
        """
        choice = {} if user_id is None else {"user": user_id}
        return await self.submit(page, action="allow", **choice)

    async def _go(self, method: str, url: str, body: str | None, *, source: Page | None) -> Page:
        """Navigate, and follow the redirects. ``source`` is the page that holds the form or the
        link; None if the user typed the address."""
        site, policy = "none", DEFAULT_REFERRER_POLICY
        if source is not None:
            site, policy = _site(source.url, url), source.referrer_policy
        for _ in range(MAX_REDIRECTS):
            headers = self._headers(url) | {"Sec-Fetch-Site": site}
            if source is not None:
                headers |= _source_headers(source.url, url, method, policy)
            response = await self._fetch(method, url, body, headers)
            policy = response.headers.get("Referrer-Policy", policy)
            if response.code not in (301, 302, 303):
                return Page(url, response.code, response.body.decode(), policy)
            target = urljoin(url, response.headers["Location"])
            # A chain of redirects is cross-site from its first cross-site step on (Fetch Metadata).
            if site == "same-origin":
                site = _site(url, target)
            method, body, url = "GET", None, target
        raise LookupError(f"more than {MAX_REDIRECTS} redirects")

    async def _fetch(
        self, method: str, url: str, body: str | None, headers: dict[str, str]
    ) -> HTTPResponse:
        request = HTTPRequest(
            url,
            method=method,
            body=body,
            headers=headers,
            follow_redirects=False,
            ca_certs=self._ca_file,
        )
        response = await self._http.fetch(request, raise_error=False)
        for header in response.headers.get_list("Set-Cookie"):
            self._keep_cookies(url, header)
        return response

    def _headers(self, url: str) -> dict[str, str]:
        headers = dict(_HEADERS)
        if kept := self.cookies.get(urlsplit(url).hostname or ""):
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in kept.items())
        return headers

    def _keep_cookies(self, url: str, header: str) -> None:
        kept = self.cookies.setdefault(urlsplit(url).hostname or "", {})
        for name, morsel in SimpleCookie(header).items():
            if morsel.value and morsel["max-age"] != "0":
                kept[name] = morsel.value
            else:
                kept.pop(name, None)


def _site(source: str, target: str) -> str:
    return "same-origin" if _origin(source) == _origin(target) else "cross-site"


def _source_headers(source: str, target: str, method: str, policy: str) -> dict[str, str]:
    """Return Origin and Referer as a browser derives them from the page with the URL ``source``."""
    headers = {} if method == "GET" else {"Origin": _origin(source)}
    if _origin(source) == _origin(target):
        headers["Referer"] = source
    elif policy == DEFAULT_REFERRER_POLICY:
        headers["Referer"] = f"{_origin(source)}/"
    return headers


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
