"""The guard: decisions about a request's target, method and headers, before any handler acts. Pure.

Every web page that the user visits can send requests to a token server on loopback. ``RULES`` lists
the signs by which such a request is recognised: Host, which a page cannot set (DNS rebinding), and
the headers that browsers add and a page cannot forge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from . import accept

__all__ = [
    "ACCOUNT_NAME",
    "RULES",
    "Decision",
    "Refusal",
    "Request",
    "Rule",
    "allowed_hosts",
    "browser_origin",
    "decide",
    "is_loopback_name",
    "is_opened_by_user",
    "is_other_loopback",
    "looks_like_browser",
]

ACCOUNT_NAME = "[a-z0-9-]{1,64}"
"""The name of an account in a path."""

ACCOUNT = f"/accounts/{ACCOUNT_NAME}"

LANDING_PATH = re.compile(rf"(?:{ACCOUNT})?/(?:login|home)?|/code|/accounts")
"""The paths at which a user may arrive from another site: by a link, a bookmark, or from Xero."""

PROBE_PATHS = frozenset({"/ping", "/ready"})
"""The paths that a load balancer requests by address, or by a name of its own."""

SUBRESOURCE_PATH = re.compile(rf"/style\.css|(?:{ACCOUNT})?/status")
"""The paths that a page of this server may load: the pages' assets, and the state of the login."""

FETCH_SITE = "Sec-Fetch-Site"

OWN_SITES = frozenset({"same-origin", "none"})
"""The values of Sec-Fetch-Site for this server's own pages and for the address bar. Another port of
localhost is same-site, and foreign."""

SIGNS_OF_PREFETCH = {
    "Purpose": frozenset({"prefetch"}),
    "X-Moz": frozenset({"prefetch"}),
    "X-Purpose": frozenset({"prefetch", "preview"}),
}
"""The values of older headers than Sec-Purpose, which counts with any value."""

PORT = re.compile(r":[0-9]*$")
"""The port at the end of a value of Host. An IPv6 address ends in a bracket."""

DEFAULT_PORTS = {"http": ":80", "https": ":443"}

BROWSER_HEADER = re.compile(r"(?i)origin|referer|cookie|accept-language|sec-.*")
"""The headers that browsers send and most programs do not."""


# ---------- host names


def is_loopback_name(host: str) -> bool:
    """True if this host name, without a port, is one of loopback's."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_hosts(
    address: str,
    ports: Iterable[int],
    redirect_uri: str,
    scheme: str = "http",
    further: Iterable[str] = (),
) -> frozenset[str]:
    """Return the exact values of Host that this server serves, in lower case.

    They are loopback's names, the configured address, unless it is a wildcard, and further names
    without a port, each with the ports that the server listens on, or without the port if that is
    the scheme's default; the host of the redirect URI; and all further names as they are.
    """
    without_port = {name for name in further if not PORT.search(name)}
    names = {"localhost", "127.0.0.1", "[::1]", *_address_name(address), *without_port}
    hosts = {f"{name}:{port}" for name in names for port in ports}
    hosts |= {host.removesuffix(DEFAULT_PORTS[scheme]) for host in hosts}
    hosts |= {urlsplit(redirect_uri).netloc.lower(), browser_origin(redirect_uri)[1], *further}
    return frozenset(hosts)


def _address_name(address: str) -> set[str]:
    if address == "localhost":
        return {address}
    ip = ip_address(address)
    if ip.is_unspecified:
        return set()
    return {f"[{ip}]" if ip.version == 6 else str(ip)}


def browser_origin(uri: str) -> tuple[str, str]:
    """Return scheme and host of a URI as a browser writes them in Origin and Host: in lower case,
    without the scheme's default port.

    Raises:
        ValueError: the URI is malformed.
        KeyError: its scheme is neither http nor https.
    """
    parts = urlsplit(uri.lower())
    return parts.scheme, parts.netloc.removesuffix(DEFAULT_PORTS[parts.scheme])


def is_other_loopback(host: str, redirect_uri: str) -> bool:
    """True if this value of Host and the redirect URI's host are different names of loopback."""
    wanted = browser_origin(redirect_uri)[1]
    host = host.lower()
    if host in (wanted, urlsplit(redirect_uri).netloc.lower()):
        return False
    return all(is_loopback_name(urlsplit(f"//{name}").hostname or "") for name in (host, wanted))


# ---------- requests


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a request by which the guard decides, and the names of this server."""

    method: str
    target: str
    """The request target as the client sent it, with its query."""
    hosts: Sequence[str]
    """The values of all its Host headers."""
    headers: Mapping[str, str]
    """All its headers, by names without case, which it lists with capitals as in Sec-Fetch-Site.
    Repeated ones are joined by commas."""
    allowed_hosts: frozenset[str]
    """The result of ``allowed_hosts``."""
    redirect_uri: str
    scheme: str = "http"
    """The scheme of its connection: http or https."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def is_read(self) -> bool:
        """True if the method is GET or HEAD."""
        return self.method in ("GET", "HEAD")

    @property
    def is_landing(self) -> bool:
        """True if the request opens a page at which a user may arrive from another site."""
        return self.is_read and LANDING_PATH.fullmatch(self.path) is not None

    def is_own_origin(self, origin: str) -> bool:
        """True if this is an origin of this server. Behind a proxy that terminates TLS, it is that
        of the redirect URI."""
        host = self.hosts[0].lower().removesuffix(DEFAULT_PORTS[self.scheme])
        served_at = f"{self.scheme}://{host}"
        return origin in (served_at, "://".join(browser_origin(self.redirect_uri)))


class Refusal(NamedTuple):
    """The response to a request that is refused."""

    status: int
    detail: str
    """The fault, and the remedy."""


class Decision(Enum):
    """The decisions other than a refusal."""

    PERMIT = "permit"
    SEND_WORKER = "send the service worker that unregisters itself"


class Rule(NamedTuple):
    """The decision on the requests to which it applies."""

    applies: Callable[[Request], bool]
    decision: Refusal | Decision
    signs: tuple[str, ...] = ()
    """The headers of which a request has one if it applies; none: it may apply to any request."""


# ---------- the conditions of the rules


def _is_no_path(request: Request) -> bool:
    return not request.target.startswith("/")


def _has_no_single_host(request: Request) -> bool:
    return len(request.hosts) != 1 or not request.hosts[0].strip()


def _is_for_unknown_host(request: Request) -> bool:
    is_probe = request.path in PROBE_PATHS
    return not is_probe and request.hosts[0].lower() not in request.allowed_hosts


def _has_foreign_origin(request: Request) -> bool:
    return not request.is_own_origin(request.headers["Origin"].lower())


def _is_prefetch(request: Request) -> bool:
    headers = request.headers
    return "Sec-Purpose" in headers or any(
        _tokens(headers.get(name, "")) & signs for name, signs in SIGNS_OF_PREFETCH.items()
    )


def _is_navigation_preload(_: Request) -> bool:
    return True  # the header alone shows it


def _is_websocket(request: Request) -> bool:
    return "websocket" in _tokens(request.headers["Upgrade"])


def _tokens(value: str) -> set[str]:
    """Return the words of a header's value: those of a list, their parameters and versions too."""
    return {token.strip().lower() for token in re.split(r"[,;/]", value)}


def _comes_from_other_site(request: Request) -> bool:
    if request.headers[FETCH_SITE] in OWN_SITES:
        return False
    return not (request.is_landing and _is_top_level(request.headers))


def _is_top_level(headers: Mapping[str, str]) -> bool:
    """True if the browser opens the response as a page of its own, not inside another page. Not
    every browser sends Sec-Fetch-Dest."""
    is_navigation = headers.get("Sec-Fetch-Mode") == "navigate"
    return is_navigation and headers.get("Sec-Fetch-Dest", "document") == "document"


def _loads_service_worker(request: Request) -> bool:
    sign = request.headers.get("Service-Worker", "")
    return request.method == "GET" and sign.strip().lower() == "script"


def _comes_from_script(request: Request) -> bool:
    is_subresource = SUBRESOURCE_PATH.fullmatch(request.path) is not None
    return not is_subresource and request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"


def _is_not_top_level(request: Request) -> bool:
    headers = request.headers
    return headers.get("Sec-Fetch-Mode") == "navigate" and not _is_top_level(headers)


def _has_foreign_referer(request: Request) -> bool:
    has_referer = bool(request.headers.get("Referer"))
    return has_referer and not _has_own_referer(request) and not request.is_landing


def _has_own_referer(request: Request) -> bool:
    try:
        origin = browser_origin(request.headers.get("Referer", ""))
    except (ValueError, KeyError):
        return False
    return request.is_own_origin("://".join(origin))


def _is_form_without_proof(request: Request) -> bool:
    """True if a browser seems to send a form, and no header proves that the form is this server's.

    A permitted request has no Origin but this server's own.
    """
    headers = request.headers
    if request.is_read or not accept.names(headers.get("Accept", ""), "text/html"):
        return False
    is_from_own_page = headers.get(FETCH_SITE) == "same-origin" or _has_own_referer(request)
    return not (is_from_own_page or "Origin" in headers)


# ---------- the rules

FOREIGN_PAGE = (
    "a web page of another site may have sent this request, and nothing was done; open this "
    "server's /home in the address bar, or send the request from a program without the header {}"
)

FRAME_OR_WORKER = Refusal(
    403,
    "this server's pages are not shown inside other pages, and not read by service workers; reload "
    "the page, or open it in a window of its own",
)

RULES: tuple[Rule, ...] = (
    # An absolute target is for proxies; a handler would see a path that does not exist.
    Rule(_is_no_path, Refusal(400, "the request target must be a path, such as /token")),
    # HTTP/1.0 permits a request without Host, which must not count as one to loopback.
    Rule(_has_no_single_host, Refusal(400, "a request must have exactly one Host header")),
    # DNS rebinding: a hostile name that resolves to loopback makes a page same-origin.
    Rule(
        _is_for_unknown_host,
        Refusal(
            421,
            "the Host header names a host that this server does not serve; use localhost with the "
            "server's port, or add the name that you use to the setting allowed_hosts",
        ),
    ),
    # WebSocket handshakes, and browsers without Fetch Metadata, show a foreign page by Origin only.
    Rule(_has_foreign_origin, Refusal(403, FOREIGN_PAGE.format("Origin")), ("Origin",)),
    # A prefetch by speculation rules arrives with "Sec-Fetch-Site: none", as if the user typed it.
    Rule(
        _is_prefetch,
        Refusal(403, "a prefetch or preview is refused; open the address to see its page"),
        ("Sec-Purpose", *SIGNS_OF_PREFETCH),
    ),
    # The browser sends a navigation itself and hands the response to a service worker.
    Rule(_is_navigation_preload, FRAME_OR_WORKER, ("Service-Worker-Navigation-Preload",)),
    # A handshake needs no permission of this server, and its response can be read by any page.
    Rule(
        _is_websocket,
        Refusal(403, "there is no WebSocket here; send the request without the header Upgrade"),
        ("Upgrade",),
    ),
    # A page of another site, or of another port, may only lead the user to a landing path.
    Rule(_comes_from_other_site, Refusal(403, FOREIGN_PAGE.format(FETCH_SITE)), (FETCH_SITE,)),
    # A service worker of a program that had this port before is replaced at its next update.
    Rule(_loads_service_worker, Decision.SEND_WORKER, ("Service-Worker",)),
    # Until then, such a worker could read its responses. No page here has a script of its own.
    Rule(
        _comes_from_script,
        Refusal(
            403,
            "a script or a service worker in the browser sent this request; open the address in "
            "the address bar, or use a program without the header Sec-Fetch-Site",
        ),
        (FETCH_SITE,),
    ),
    # A frame, or a service worker that passes a navigation on, could show or read the response.
    Rule(_is_not_top_level, FRAME_OR_WORKER, (FETCH_SITE,)),
    # Speculation rules and old browsers show a foreign page by Referer only.
    Rule(_has_foreign_referer, Refusal(403, FOREIGN_PAGE.format("Referer")), ("Referer",)),
    # A browser that sends none of these headers must not act for a foreign page's form.
    Rule(
        _is_form_without_proof,
        Refusal(
            403,
            "no header shows that a page of this server sent this form, and nothing was done; let "
            "the browser send Origin or Referer, or use a program without text/html in Accept",
        ),
    ),
)
"""The rules, each with its reason. The first that applies decides."""

SIGNS = frozenset(sign for rule in RULES for sign in rule.signs)


def decide(request: Request) -> Refusal | Decision:
    """Return the decision on a request: permitted, refused, or the worker that unregisters
    itself."""
    names = SIGNS.intersection(request.headers)
    for applies, decision, signs in RULES:
        may_apply = not signs or not names.isdisjoint(signs)
        if may_apply and applies(request):
            return decision
    return Decision.PERMIT


# ---------- what handlers ask


def is_opened_by_user(headers: Mapping[str, str]) -> bool:
    """True if the user opened this page by the address bar or from another page of this server.

    A link of a foreign page leads to a landing path too. That must cause no request to Xero.
    """
    return headers.get(FETCH_SITE) in OWN_SITES


def looks_like_browser(headers: Mapping[str, str]) -> bool:
    """True if a browser seems to have sent the request.

    Both mistakes matter: a browser that counts as a program acts on a mere link, and a program that
    counts as a browser is told to use POST.
    """
    if any(map(BROWSER_HEADER.fullmatch, headers)):
        return True
    return "Mozilla/" in headers.get("User-Agent", "")
