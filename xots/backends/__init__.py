"""The stores that can hold the records of accounts.

A store is registered as an entry point of the group ``xots.backends``. The name of the entry point
is the scheme of the store's URLs. The built-in stores are registered in the same way as those of
other packages, and ``BUILT_IN`` knows them too: a start with one of them does not read the entry
points of all installed packages. Only the chosen store is imported.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ..errors import StoreError
from .base import Lease, Stored, TokenStore, check_size, is_account

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BUILT_IN",
    "Lease",
    "Stored",
    "TokenStore",
    "check_size",
    "installed_backends",
    "is_account",
    "open_store",
    "scheme_of",
]

BUILT_IN = {
    "file": "file:FileStore",
    "memory": "memory:MemoryStore",
    **dict.fromkeys(("redis", "rediss", "sentinel", "unix"), "redis:RedisStore"),
}
"""The stores of this package by URL scheme, each as the ``module:class`` beside this one."""


def installed_backends() -> dict[str, EntryPoint]:
    """Return the entry points of the installed stores by URL scheme, in order."""
    # Imported here: that takes longer than to open a built-in store, which needs none.
    from importlib.metadata import entry_points

    found = entry_points(group="xots.backends")
    return {entry.name: entry for entry in sorted(found, key=lambda e: e.name)}


def scheme_of(url: str) -> str:
    """Return the scheme of a store's URL.

    Raises:
        StoreError: no store is installed for it; the message lists those that are.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in BUILT_IN:
        _added(scheme)
    return scheme


def open_store(url: str) -> TokenStore:
    """Return the store at ``url``. It opens nothing yet.

    Raises:
        StoreError: no store is installed for the scheme, or that store refuses the URL.
    """
    scheme = scheme_of(url)
    store_class: type[TokenStore] = (
        resolve_name(f"{__name__}.{BUILT_IN[scheme]}")
        if scheme in BUILT_IN
        else _added(scheme).load()
    )
    try:
        return store_class.from_url(url)
    except ValueError as error:
        raise StoreError(f"the store's URL cannot be used: {error}") from error


def _added(scheme: str) -> EntryPoint:
    """Return the entry point of a store of another package.

    Raises:
        StoreError: none is installed for the scheme.
    """
    installed = installed_backends()
    if scheme not in installed:
        # The text may be a misplaced password: never quote it.
        raise StoreError(
            "no store is installed for the scheme of this URL; installed are: "
            + ", ".join(installed)
        )
    return installed[scheme]
