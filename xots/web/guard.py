"""Who may speak: decisions about a request's headers, before any handler sees it. Pure.

A token server on loopback is reachable from every web page that its user visits. What tells those requests apart is
the Host header, which a page can't set (DNS rebinding), and the Fetch Metadata headers, which it can't forge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = [
    "allowed_hosts",
    "browser_origin",
    "foreign_origin",
    "is_loopback_name",
    "looks_like_browser",
    "refusal",
]

LANDING_PATHS = frozenset({"/", "/login", "/home", "/code"})
"""Where a person may arrive from another site: by a link, a bookmark, or sent back by Xero."""


def is_loopback_name(host: str) -> bool:
    """Is this host name (no port) one of loopback's?"""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_hosts(address: str, ports: Iterable[int], redirect_uri: str) -> frozenset[str]:
    """The exact values of Host that this server answers to, lower case.

    Loopback's names, the configured address unless it is a wildcard, each with the ports that are really listened
    on, and the redirect URI's host as it stands there.
    """
    names = {"localhost", "127.0.0.1", "[::1]"}
    if address != "localhost" and not (ip := ip_address(address)).is_unspecified:
        names.add(f"[{ip}]" if ip.version == 6 else str(ip))
    hosts = {f"{name}:{port}" for name in names for port in ports}
    if 80 in ports:
        hosts |= names
    return frozenset(
        hosts | {urlsplit(redirect_uri).netloc.lower(), browser_origin(redirect_uri)[1]}
    )


def browser_origin(uri: str) -> tuple[str, str]:
    """A URI's scheme and host as a browser writes them in Origin and Host: without a port that is the scheme's own."""
    parts = urlsplit(uri.lower())
    return parts.scheme, parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])


def refusal(
    path: str,
    hosts: Sequence[str],
    headers: Mapping[str, str],
    allowed: frozenset[str],
    *,
    navigation: bool,
) -> tuple[int, str] | None:
    """Why a request is refused, as status and sentence; None when it may go on.

    Args:
        path: the request target as it was sent.
        hosts: every Host header that was sent.
        headers: the others.
        allowed: what ``allowed_hosts`` gave.
        navigation: is it a GET or HEAD?
    """
    if not path.startswith("/"):
        return 400, "the request target must be a path"
    if len(hosts) != 1:
        return 400, "exactly one Host header is wanted"
    if hosts[0].lower() not in allowed:
        return 421, "this server does not answer to that host name"
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        landing = navigation and path.partition("?")[0] in LANDING_PATHS
        top_level = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get(
            "Sec-Fetch-Dest", ""
        ) in (
            "",
            "document",
        )
        if not (landing and top_level):
            return 403, "a request from another site's web page is not answered"
    return None


def foreign_origin(headers: Mapping[str, str], host: str, redirect_uri: str) -> bool:
    """Does a request that changes something come from another origin, by what its Origin header says?

    A browser without Fetch Metadata tells no more than this. Behind a proxy that ends TLS, the own origin is the
    redirect URI's.
    """
    origin = headers.get("Origin")
    return origin is not None and origin.lower() not in (
        f"http://{host.lower()}",
        "://".join(browser_origin(redirect_uri)),
    )


def looks_like_browser(headers: Mapping[str, str]) -> bool:
    """Does the request look as if a browser sent it? Programs must not be taken for one, nor one for a program."""
    return (
        any(name in headers for name in ("Origin", "Referer", "Cookie", "Accept-Language"))
        or any(name.lower().startswith("sec-") for name in headers)
        or "Mozilla/" in headers.get("User-Agent", "")
    )
