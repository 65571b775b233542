"""Where tokens are kept: stores are found by entry point, group ``xots.backends``, name = URL scheme.

The built-in ones are registered the same way as a stranger's; only the chosen one is imported.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points

from ..errors import StoreError
from .base import Lease, Stored, TokenStore

__all__ = ["Lease", "Stored", "TokenStore", "installed_backends", "open_store", "scheme_of"]


def installed_backends() -> dict[str, EntryPoint]:
    """The stores that are installed, by URL scheme, in order."""
    return {
        entry.name: entry
        for entry in sorted(entry_points(group="xots.backends"), key=lambda e: e.name)
    }


def scheme_of(url: str) -> str:
    """The scheme of a store's URL.

    Raises:
        StoreError: no store is installed for it; the message lists those that are.
    """
    return _backend(url).name


def _backend(url: str) -> EntryPoint:
    scheme, installed = url.partition(":")[0].lower(), installed_backends()
    if scheme not in installed:
        # What does not look like a scheme may be a password that was put in its place: it is not repeated.
        shown = repr(scheme) if re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else "this"
        raise StoreError(
            f"no store is installed for {shown}; installed are: {', '.join(installed)}"
        )
    return installed[scheme]


def open_store(url: str) -> TokenStore:
    """The store that ``url`` names.

    Raises:
        StoreError: no store is installed for its scheme, or the URL is not one for that store.
    """
    kind: type[TokenStore] = _backend(url).load()
    try:
        return kind.from_url(url)
    except ValueError as error:
        raise StoreError(f"the store's URL can't be used: {error}") from error
