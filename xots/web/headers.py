"""The headers of every response, and those of every response to a browser."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from types import MappingProxyType

__all__ = ["BROWSER_HEADERS", "SECURITY_HEADERS", "http_date"]

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        # A tab that another program on this port has left is of the same origin: it could open a
        # window at /token and read it.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # With "no-referrer", browsers send "Origin: null" with this server's own forms too.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Never Strict-Transport-Security, not even with TLS: browsers apply it to all ports of a
        # host, so that the plain HTTP servers of localhost would not open any more.
    }
)
"""They forbid browsers to cache, frame or sniff a response, and to give it or its window to another
page."""

BROWSER_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # Another program that had this port before may have left a service worker. Never "cookies":
        # browsers share those among all ports of a host.
        "Clear-Site-Data": '"storage"',
    }
)
"""The additional headers of every page, and of every other response to a browser."""


@lru_cache(maxsize=2)  # this second, by the clock of the handler and by that of the keeper
def http_date(seconds: int) -> str:
    """Return the value of the header Date, for a time in seconds since 1970."""
    return formatdate(seconds, usegmt=True)
