"""The stores that can hold the records of accounts.

A store is registered as an entry point of the group ``xots.backends``. The name of the entry point
is the scheme of the store's URLs. The built-in stores are registered in the same way as those of
other packages. Only the chosen store is imported.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ..errors import StoreError
from .base import Lease, Stored, TokenStore, check_size, is_account

__all__ = [
    "Lease",
    "Stored",
    "TokenStore",
    "check_size",
    "installed_backends",
    "is_account",
    "open_store",
    "scheme_of",
]


def installed_backends() -> dict[str, EntryPoint]:
    """Return the entry points of the installed stores by URL scheme, in order."""
    return {
        entry.name: entry
        for entry in sorted(entry_points(group="xots.backends"), key=lambda e: e.name)
    }


def scheme_of(url: str) -> str:
    """Return the scheme of a store's URL.

    Raises:
        StoreError: no store is installed for it; the message lists those that are.
    """
    return _backend(url).name


def _backend(url: str) -> EntryPoint:
    scheme, installed = url.partition(":")[0].lower(), installed_backends()
    if scheme not in installed:
        # The text may be a misplaced password: never quote it.
        raise StoreError(
            "no store is installed for the scheme of this URL; installed are: "
            + ", ".join(installed)
        )
    return installed[scheme]


def open_store(url: str) -> TokenStore:
    """Return the store at ``url``. It opens nothing yet.

    Raises:
        StoreError: no store is installed for the scheme, or that store refuses the URL.
    """
    store_class: type[TokenStore] = _backend(url).load()
    try:
        return store_class.from_url(url)
    except ValueError as error:
        raise StoreError(f"the store's URL cannot be used: {error}") from error
