"""The siblings of an account: the live accounts of the same store that share its fate at Xero."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ..backends.base import TokenStore
from ..errors import RecordUnusable, SealError
from ..lifecycle.account import Account
from ..lifecycle.record_json import UnknownFormat, decode
from ..lifecycle.sharing import shares_fate
from ..sealing import Sealer
from .record_store import PURPOSE

__all__ = ["FindSiblings", "Siblings", "no_siblings", "siblings_in"]

Siblings = Mapping[str, Account | None]
"""The records of an account's siblings, by name; None for one that this version cannot read."""

FindSiblings = Callable[[Account], Awaitable[Siblings]]
"""Returns the siblings of an account (``sharing.shares_fate``) as the store holds them now, so that
the latest login of another process counts too. Raises StoreUnavailable."""


async def no_siblings(account: Account) -> Siblings:
    """Return no siblings: the account is the only one of its store."""
    return {}


def siblings_in(store: TokenStore, sealer: Sealer, name: str) -> FindSiblings:
    """Return a function that finds the siblings of the account ``name`` among all records of a
    store. It reads each of them.

    A record that these keys do not open belongs to another deployment, and counts as no sibling. A
    newer version's record counts as one: it is live, and its user is unknown.
    """

    async def find(account: Account) -> Siblings:
        found = dict[str, Account | None]()
        for other in sorted(set(await store.names()) - {name}):
            try:
                stored = await store.read(other)
            except RecordUnusable:
                found[other] = None
                continue
            if stored is None:
                continue
            try:
                record = decode(sealer.open(stored.value, PURPOSE, {"name": other}))
            except SealError:
                continue
            except UnknownFormat:
                found[other] = None
                continue
            if shares_fate(account, record):
                found[other] = record
        return found

    return find
