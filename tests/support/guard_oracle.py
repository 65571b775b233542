"""The decision on a request by its method, target and headers, as SAFETY.md's threats demand it.

This file is read beside SAFETY.md, "Threats", and is written from it, not from ``xots.web.guard``.
The rules stand in the order in which they apply; the first that holds decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

__all__ = [
    "ACTS",
    "METHODS",
    "REMOVAL",
    "STATUSES",
    "Case",
    "Decision",
    "Oracle",
    "Verdict",
    "chosen_type",
    "looks_like_browser",
    "names_page",
]

LANDING_PATHS = frozenset({"/", "/login", "/home", "/code", "/accounts"})
"""The paths that a link on another site may open, apart from those of an account."""

ACCOUNT_LANDING_PATHS = frozenset({"/", "/login", "/home"})
"""The same for the paths of an account, after ``/accounts/NAME``."""

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

ANY_HOST_PATHS = frozenset({"/ping", "/ready"})
"""The paths that a container's probe requests by an IP address."""

ASSET_PATHS = frozenset({"/style.css", "/status"})
"""The paths that the pages themselves load: the style sheet, and the state for a script. The state
of an account too."""

ACTS = frozenset({"/refresh", "/revoke", "/logout"})
"""The paths at which a program's GET acts, and a browser's shows a button; of each account."""

REMOVAL = "/accounts/default/remove"
"""Acts by POST only. A browser's GET shows a button; the default account cannot be removed."""

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]+)?", re.IGNORECASE)

MEDIA_TYPES = ("application/json", "text/html", "text/plain")

STATUSES = {
    "/": {"GET": {303}, "HEAD": {303}, "POST": {400}},  # the form without any field
    "/login": {"GET": {200, 303}, "HEAD": {200, 303}, "POST": {400}},
    "/home": {"GET": {200, 303}, "HEAD": {200, 303}, "POST": {303}},
    "/code": {"GET": {400}},  # without the cookie of a login
    "/token": {"GET": {200}, "HEAD": {200}},
    "/token?min_ttl=999999": {"GET": {200, 503}, "HEAD": {200, 503}},
    "/tenants": {"GET": {200}, "HEAD": {200}},
    "/livez": {"GET": {200}, "HEAD": {200}},
    "/status": {"GET": {200}, "HEAD": {200}},
    "/refresh": {"GET": {303}, "POST": {303}},
    "/revoke": {"GET": {200}, "POST": {200}},
    "/logout": {"GET": {303}, "POST": {303}},
    "/ping": {"GET": {200}, "HEAD": {200}},
    "/ready": {"GET": {200}, "HEAD": {200}},
    "/style.css": {"GET": {200}, "HEAD": {200}},
    "/accounts": {"GET": {200}, "HEAD": {200}, "POST": {400}},  # the form without any field
}
"""The statuses of a served request while a user is logged in, by path and method. ``/login`` and
``/home`` redirect a browser to the redirect URI's host name."""

ONCE = frozenset({"/code", "/ping", "/ready", "/style.css", "/accounts"})
"""The paths that no account has of its own."""

STATUSES |= {
    f"/accounts/default{target}": statuses
    for target, statuses in STATUSES.items()
    if target not in ONCE
} | {REMOVAL: {"GET": {200}, "POST": {409}}}

METHODS = {target: frozenset(statuses) for target, statuses in STATUSES.items()}


class Verdict(StrEnum):
    """The effect of a request."""

    REFUSED = "refused"
    WORKER = "a service worker that unregisters itself"
    BUTTON = "a page with a button"
    WRONG_METHOD = "405"
    NOT_FOUND = "404"
    SERVED = "served"
    ACTED = "acted"


@dataclass(frozen=True)
class Decision:
    """The decision on a request."""

    verdict: Verdict
    rule: str
    statuses: frozenset[int]
    may_call_xero: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A request without a body."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    version: str = "1.1"

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def account_path(self) -> str | None:
        """The part of the path after ``/accounts/NAME``; None if it names no account."""
        match self.path.split("/", 3):
            case ["", "accounts", name, rest] if NAME_CHARACTERS.issuperset(name):
                return f"/{rest}" if 0 < len(name) <= 64 else None
        return None

    @property
    def own_path(self) -> str:
        """The path without the account that it names."""
        return self.account_path or self.path

    @property
    def is_landing(self) -> bool:
        """True if a link on another site may open the path."""
        return self.path in LANDING_PATHS or self.account_path in ACCOUNT_LANDING_PATHS

    @property
    def is_read(self) -> bool:
        return self.method in ("GET", "HEAD")

    def values(self, name: str) -> list[str]:
        """Return the values of the header lines with this name."""
        return [value.strip() for given, value in self.headers if given.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """Return the header's value, its lines joined as RFC 9110 says; None if there is none."""
        values = self.values(name)
        return ",".join(values) if values else None

    def encoded(self) -> bytes:
        """Return the request's bytes."""
        lines = [f"{name}: {value}" for name, value in self.headers]
        if self.method in ("POST", "PUT", "PATCH"):
            lines.append("Content-Length: 0")
        head = [f"{self.method} {self.target} HTTP/{self.version}", *lines, "", ""]
        return "\r\n".join(head).encode("latin-1")

    def __str__(self) -> str:
        shown = "; ".join(f"{name}: {value}" for name, value in self.headers)
        return f"{self.method} {self.target} HTTP/{self.version} [{shown}]"


@dataclass(frozen=True)
class Oracle:
    """Decides for a server with a loopback address, the default redirect URI, and a login.

    Args:
        port: the server's port.
    """

    port: int

    def decide(self, case: Case) -> Decision:
        """Return the decision on a request."""
        for rule in (
            self._target_is_no_path,
            self._not_one_host,
            self._foreign_host,
            self._foreign_origin,
            self._prefetch,
            self._navigation_preload,
            self._websocket,
            self._foreign_site,
        ):
            if statuses := rule(case):
                return _refused(rule.__name__, statuses)
        if case.method == "GET" and case.value("Service-Worker") == "script":
            return Decision(Verdict.WORKER, "service worker", frozenset({200}))
        for rule in (
            self._not_a_navigation,
            self._foreign_referer,
            self._page_without_proof_of_origin,
        ):
            if statuses := rule(case):
                return _refused(rule.__name__, statuses)
        return self._permitted(case)

    # ---------- the rules: each returns the statuses of its refusal, or none if it does not apply

    def _target_is_no_path(self, case: Case) -> set[int]:
        """Absolute-form targets and ``*``: they carry an authority of their own, or none."""
        return set() if case.target.startswith("/") else {400}

    def _not_one_host(self, case: Case) -> set[int]:
        """No Host, an empty one or several. Tornado reads HTTP/1.0 without one as 127.0.0.1. The
        HTTP library refuses one that is malformed."""
        hosts = case.values("Host")
        if len(hosts) != 1 or not hosts[0]:
            return {400}
        return set() if HOST.fullmatch(hosts[0]) else {400, 421}

    def _foreign_host(self, case: Case) -> set[int]:
        """DNS rebinding: the page is same-origin then, and only Host reveals it."""
        permitted = self._host(case) in {
            f"{name}:{self.port}" for name in ("localhost", "127.0.0.1", "[::1]")
        }
        return set() if permitted or case.path in ANY_HOST_PATHS else {421}

    def _foreign_origin(self, case: Case) -> set[int]:
        """An Origin that is not this server's own: on every method, ``null`` and lists too."""
        origin = case.value("Origin")
        return set() if origin is None or origin.lower() in self._own_origins(case) else {403}

    def _prefetch(self, case: Case) -> set[int]:
        """A speculative request: no user opened it. A prefetch says
        ``Sec-Fetch-Site: none``."""
        speculative = (
            case.value("Sec-Purpose") is not None
            or (case.value("Purpose") or "").lower() == "prefetch"
            or (case.value("X-Purpose") or "").lower() in ("preview", "prefetch")
            or (case.value("X-Moz") or "").lower() == "prefetch"
        )
        return {403} if speculative else set()

    def _navigation_preload(self, case: Case) -> set[int]:
        """A navigation whose response a service worker reads before the browser shows it."""
        return {403} if case.value("Service-Worker-Navigation-Preload") is not None else set()

    def _websocket(self, case: Case) -> set[int]:
        """A WebSocket handshake: browsers send it cross-site without Fetch Metadata."""
        protocols = (case.value("Upgrade") or "").lower().split(",")
        return {400, 403} if "websocket" in {one.strip() for one in protocols} else set()

    def _foreign_site(self, case: Case) -> set[int]:
        """Another site's request, other than a link to a landing path. Same-site is another site:
        another port of localhost is same-site."""
        if case.value("Sec-Fetch-Site") in (None, "none", "same-origin"):
            return set()
        opens_a_page = case.value("Sec-Fetch-Mode") == "navigate" and case.value(
            "Sec-Fetch-Dest"
        ) in (None, "document")
        opens_landing_page = opens_a_page and case.is_read and case.is_landing
        return set() if opens_landing_page else {403}

    def _not_a_navigation(self, case: Case) -> set[int]:
        """A browser's request that is no top-level navigation: a script's, a frame's, or one that a
        service worker passes on. The mode without the site is a program's (Node)."""
        if case.value("Sec-Fetch-Site") is None:
            return set()
        mode = case.value("Sec-Fetch-Mode")
        if mode not in (None, "navigate"):
            is_asset = case.path in ASSET_PATHS or case.account_path == "/status"
            return set() if is_asset else {403}
        in_page = mode == "navigate" and case.value("Sec-Fetch-Dest") not in (None, "document")
        return {403} if in_page else set()

    def _foreign_referer(self, case: Case) -> set[int]:
        """A Referer of another origin, other than at a landing path."""
        if not case.value("Referer") or self._has_own_referer(case):
            return set()
        return set() if case.is_read and case.is_landing else {403}

    def _page_without_proof_of_origin(self, case: Case) -> set[int]:
        """A form's POST, from a browser that sends none of the three proofs of its origin."""
        if case.is_read or not names_page(case):
            return set()
        proved = (
            case.value("Origin") is not None  # a foreign one is refused already
            or case.value("Sec-Fetch-Site") == "same-origin"
            or self._has_own_referer(case)
        )
        return set() if proved else {403}

    # ---------- the effect of a permitted request

    def _permitted(self, case: Case) -> Decision:
        row = STATUSES.get(case.target, STATUSES.get(case.path))
        if row is None:
            # A method that no account's path supports needs no account.
            unknown = {404, 405} if case.account_path in STATUSES else {404}
            return Decision(Verdict.NOT_FOUND, "not found", frozenset(unknown))
        if case.method not in row:
            return Decision(Verdict.WRONG_METHOD, "method of the path", frozenset({405}))
        statuses = frozenset(row[case.method])
        if case.path == REMOVAL and case.method == "GET" and not names_page(case):
            return Decision(Verdict.WRONG_METHOD, "GET of a removal", frozenset({405}))
        if case.path == REMOVAL and case.method == "GET":
            return Decision(Verdict.BUTTON, "GET of a removal", statuses)
        if case.own_path in ACTS:
            if case.method == "GET" and looks_like_browser(case):
                if names_page(case):
                    return Decision(Verdict.BUTTON, "browser's GET", frozenset({200}))
                return Decision(Verdict.WRONG_METHOD, "browser's GET", frozenset({405}))
            return Decision(Verdict.ACTED, f"act by {case.method}", statuses, may_call_xero=True)
        opened_here = case.value("Sec-Fetch-Site") in ("none", "same-origin")
        may_call = {
            "/home": case.is_read and opened_here,
            "/tenants": True,
            "/token": "?" in case.target,
        }
        return Decision(Verdict.SERVED, "served", statuses, may_call.get(case.own_path, False))

    # ---------- the headers

    def _host(self, case: Case) -> str:
        return (case.value("Host") or "").lower()

    def _own_origins(self, case: Case) -> set[str]:
        """The origin that the request is sent to, and that of the redirect URI."""
        return {f"http://{self._host(case)}", f"http://localhost:{self.port}"}

    def _has_own_referer(self, case: Case) -> bool:
        try:
            parts = urlsplit(case.value("Referer") or "")
        except ValueError:
            return False
        return f"{parts.scheme}://{parts.netloc}".lower() in self._own_origins(case)


def chosen_type(case: Case) -> str:
    """Return the media type of the response that the Accept header chooses: the named one with the
    highest q, and the first of these."""
    named = {name: q for name, q in _named_types(case).items() if name in MEDIA_TYPES}
    return max(named, key=lambda name: named[name], default="application/json")


def names_page(case: Case) -> bool:
    """Tell if Accept names ``text/html``: a browser's user is to see the response."""
    return "text/html" in _named_types(case)


def _named_types(case: Case) -> dict[str, float]:
    """Return the media types that Accept names with a q above 0. Wildcards name none."""
    named: dict[str, float] = {}
    for part in (case.value("Accept") or "").split(","):
        name, *parameters = (one.strip().lower() for one in part.split(";"))
        q = next((float(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
        if q > 0:
            named.setdefault(name, q)
    return named


def looks_like_browser(case: Case) -> bool:
    """Tell if any header is one that browsers send and most programs do not."""
    names = {name.lower() for name, _ in case.headers}
    return (
        any(name.startswith("sec-") for name in names)
        or not names.isdisjoint({"origin", "referer", "cookie", "accept-language"})
        or "Mozilla/" in (case.value("User-Agent") or "")
    )


def _refused(rule: str, statuses: set[int]) -> Decision:
    return Decision(Verdict.REFUSED, rule.strip("_").replace("_", " "), frozenset(statuses))
