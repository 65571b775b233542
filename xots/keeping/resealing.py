"""Sealing every record of a store anew, after a change of the sealing key."""

from __future__ import annotations

import msgspec

from ..backends.base import TokenStore, checked_name
from ..clock import SystemClock
from ..errors import SealError, StoreError, StoreUnavailable
from ..sealing import Sealer
from .record_store import LEASE_SECONDS, PURPOSE

__all__ = ["Resealed", "reseal_all"]


class Resealed(msgspec.Struct, frozen=True):
    """The result of sealing all records of a store with the first key."""

    done: int
    """The number of records that were sealed anew."""
    count: int
    """The number of all records."""
    failures: tuple[str, ...]
    """The name of each record that stays as it is, with the reason."""
    foreign: tuple[str, ...] = ()
    """The names of records that no account can have. They stay as they are."""


async def reseal_all(store: TokenStore, sealer: Sealer) -> Resealed:
    """Seal every record of a store with the first key. It may be run again.

    A record that cannot be opened, read or written stays as it is, and the others follow.

    Raises:
        StoreUnavailable: the store itself fails; records sealed so far stay sealed.
    """
    names, done, failures = await store.names(), 0, []
    for name in names:
        try:
            done += await _reseal(store, sealer, checked_name(name))
        except (SealError, StoreError, ValueError) as error:
            failures.append(f"{name}: {error}")
            if isinstance(error, StoreUnavailable):
                await store.check()  # if all of it fails, the other records would fail too
    return Resealed(done, len(names), tuple(failures), tuple(await store.foreign()))


async def _reseal(store: TokenStore, sealer: Sealer, name: str) -> bool:
    """Seal one record with the first key. Return False if it is sealed with that already."""
    async with store.lease(name, LEASE_SECONDS):
        stored = await store.read(name)
        if stored is None or sealer.sealed_by_first(stored.value):
            return False
        body = sealer.open(stored.value, PURPOSE, {"name": name})
        sealed = sealer.seal(body, PURPOSE, {"name": name})
        # The index is a hint: a server that runs looks at the account now, and corrects it.
        due_at = SystemClock().now()
        await store.swap(name, sealed, expected=stored.version, due_at=due_at)
        return True
