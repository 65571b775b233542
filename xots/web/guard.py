"""The guard: decisions about a request's target and headers, before any handler sees it. Pure.

Every web page that the user visits can send requests to a token server on loopback. Two kinds of
header tell these requests apart: Host, which a page cannot set (DNS rebinding), and Fetch Metadata,
which a page cannot forge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = [
    "FOREIGN_PAGE",
    "allowed_hosts",
    "browser_origin",
    "foreign_origin",
    "is_loopback_name",
    "looks_like_browser",
    "refusal",
]

LANDING_PATHS = frozenset({"/", "/login", "/home", "/code"})
"""The paths at which a user may arrive from another site: by a link, a bookmark, or from Xero."""

FOREIGN_PAGE = "requests from web pages of other sites are refused"

TOP_LEVEL = frozenset({("navigate", "document"), ("navigate", "")})
"""Sec-Fetch-Mode and Sec-Fetch-Dest of a top-level navigation. Not every browser sends the
latter."""

DEFAULT_PORTS = {"http": ":80", "https": ":443"}

BROWSER_HEADER = re.compile(r"(?i)origin|referer|cookie|accept-language|sec-.*")
"""The headers that browsers send and programs do not."""


# ---------- host names


def is_loopback_name(host: str) -> bool:
    """True if this host name, without a port, is one of loopback's."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_hosts(address: str, ports: Iterable[int], redirect_uri: str) -> frozenset[str]:
    """Return the exact values of Host that this server serves, in lower case.

    They are loopback's names and the configured address, unless it is a wildcard, each with the
    ports that the server listens on; and the host of the redirect URI.
    """
    names = {"localhost", "127.0.0.1", "[::1]", *_address_name(address)}
    hosts = {f"{name}:{port}" for name in names for port in ports}
    if 80 in ports:
        hosts |= names
    hosts |= {urlsplit(redirect_uri).netloc.lower(), browser_origin(redirect_uri)[1]}
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


# ---------- requests


def refusal(
    path: str,
    hosts: Sequence[str],
    headers: Mapping[str, str],
    allowed: frozenset[str],
    *,
    navigation: bool,
) -> tuple[int, str] | None:
    """Return why a request is refused, as status and sentence; None if it is permitted.

    Args:
        path: the request target as the client sent it.
        hosts: every Host header of the request.
        headers: all its headers.
        allowed: the result of ``allowed_hosts``.
        navigation: True for GET and HEAD.
    """
    if not path.startswith("/"):
        return 400, "the request target must be a path"
    if len(hosts) != 1:
        return 400, "a request must have exactly one Host header"
    if hosts[0].lower() not in allowed:
        return 421, (
            "the Host header names a host that this server does not serve; the setting "
            "allowed_hosts adds one"
        )
    landing = navigation and path.partition("?")[0] in LANDING_PATHS
    if _from_other_site(headers) and not (landing and _is_top_level(headers)):
        return 403, FOREIGN_PAGE
    return None


def _from_other_site(headers: Mapping[str, str]) -> bool:
    return headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def _is_top_level(headers: Mapping[str, str]) -> bool:
    """True if the browser opens the response as a page of its own, not inside another page."""
    return (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest", "")) in TOP_LEVEL


def foreign_origin(headers: Mapping[str, str], host: str, redirect_uri: str) -> bool:
    """True if a request has an Origin header that names another origin than this server's.

    A browser without Fetch Metadata sends no other sign of a foreign page. Behind a proxy that
    terminates TLS, this server's origin is that of the redirect URI.
    """
    ours = (f"http://{host.lower()}", "://".join(browser_origin(redirect_uri)))
    return headers.get("Origin", ours[0]).lower() not in ours


def looks_like_browser(headers: Mapping[str, str]) -> bool:
    """True if a browser seems to have sent the request.

    Both mistakes matter: a browser that counts as a program acts on a mere link, and a program that
    counts as a browser receives a page.
    """
    if any(map(BROWSER_HEADER.fullmatch, headers)):
        return True
    return "Mozilla/" in headers.get("User-Agent", "")
