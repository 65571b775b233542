"""``RecordStore``: the record of one account in its store, sealed there and opened here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime

from ..backends.base import Lease, Stored, TokenStore
from ..errors import SealError, StaleWrite, StoreUnavailable
from ..lifecycle.account import Account
from ..lifecycle.record_json import UnknownFormat, decode, encode, format_of
from ..sealing import Sealer

__all__ = ["LEASE_SECONDS", "PURPOSE", "RecordStore", "open_record"]

PURPOSE = "account"

LEASE_SECONDS = 12.0
"""Lifetime of a lease whose holder died, where the store cannot detect that: longer than a pause of
a busy machine, and short enough for a caller to wait for."""

FIRST_INDEXED_FORMAT = 4
"""The record format of the first version that keeps the store's index."""


class RecordStore:
    """The record of one account.

    Args:
        store: keeps the record. It is not closed here.
        sealer: seals the record.
        name: the account's name in the store.
        due_at: when a record needs attention next, for the store's index.
    """

    def __init__(
        self,
        store: TokenStore,
        sealer: Sealer,
        name: str,
        due_at: Callable[[Account], datetime | None] = lambda _: None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._name = name
        self._due_at = due_at

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Return the account's lease: see ``TokenStore.lease``."""
        return self._store.lease(self._name, LEASE_SECONDS)

    async def read(self) -> Stored | None:
        """Return the sealed record: see ``TokenStore.read``."""
        return await self._store.read(self._name)

    def opened(self, stored: Stored | None) -> Account:
        """Return the record; an empty one if the store has none.

        Raises:
            SealError: as ``open_record``.
        """
        return Account() if stored is None else open_record(self._sealer, stored, self._name)

    def is_indexed(self, stored: Stored) -> bool:
        """Tell if the version of xots that wrote a record keeps the store's index of due accounts.
        The record is one that ``opened`` opens."""
        data = self._sealer.open(stored.value, PURPOSE, {"name": self._name})
        return format_of(data) >= FIRST_INDEXED_FORMAT

    async def swap(self, account: Account, expected: str | None) -> str:
        """Replace the version ``expected``, and return the new version.

        After a lost response, the write id in the store tells if the write went through. It is
        never repeated without that check.

        Raises:
            StaleWrite: another version is stored.
            StoreUnavailable, SealError: it was not written, or this is not known.
        """
        context = {"name": self._name}
        sealed = self._sealer.seal(encode(account), PURPOSE, context)
        due_at = self._due_at(account)
        try:
            version = await self._store.swap(self._name, sealed, expected=expected, due_at=due_at)
        except (StaleWrite, StoreUnavailable):
            stored = await self.read()
            if stored is None or self.opened(stored).write_id != account.write_id:
                raise
            version = stored.version
        if not self._store.shares_index:
            # The index is in memory, and a third party's store may leave it to its caller.
            with suppress(StoreUnavailable):
                await self._store.note_due(self._name, due_at)
        return version


def open_record(sealer: Sealer, stored: Stored, name: str) -> Account:
    """Return the record that a store holds under ``name``.

    Raises:
        SealError: it cannot be opened, or a newer version of xots wrote it.
    """
    try:
        return decode(sealer.open(stored.value, PURPOSE, {"name": name}))
    except UnknownFormat as error:
        raise SealError(f"the record of {name!r} cannot be read: {error}") from None
