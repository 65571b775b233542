"""``Record``: one account's record in memory, and its agreement with the store.

What is in memory is what is served. It follows the store, with two exceptions, in which memory knows better: what Xero
issued and the store could not take yet is held until it is written, and a store that has lost writes (restored from an
old dump, failed over to a replica that lagged) is told again. Nothing that must not be lost is ever only a local
variable while something is awaited.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from . import lifecycle
from .account import Account, decode, encode
from .backends.base import Stored, TokenStore
from .errors import SealError, StaleWrite, StoreUnavailable
from .sealing import Sealer

__all__ = ["Record", "open_record", "reseal_all"]

PURPOSE = "account"


class Record:
    """One account's record.

    Args:
        store: where it is kept.
        sealer: what it is sealed with.
        name: the account's name in the store.
        on_health: told when the store begins to fail (why) and when it works again (None).
        on_lost_writes: told when the store was found to have lost writes.
    """

    def __init__(
        self,
        store: TokenStore,
        sealer: Sealer,
        name: str,
        *,
        on_health: Callable[[str | None], None],
        on_lost_writes: Callable[[], None],
    ) -> None:
        self.account = Account()
        self.unwritten = False
        """Does memory hold what the store has not acknowledged?"""
        self.rolled_back = False
        """Is that because the store lost what it had acknowledged?"""
        self.problem: str | None = None
        """Why the store can't be used just now; None when it can."""
        self._store = store
        self._sealer = sealer
        self._name = name
        self._version: str | None = None
        self._seen = self.account
        """The record that the store was last seen to hold."""
        self._on_health = on_health
        self._on_lost_writes = on_lost_writes

    # To be called under the lease

    async def read(self) -> None:
        """Bring memory and store together: write what memory holds back, else follow the store.

        Raises:
            StoreUnavailable: the store can't be read, or not be written where it must. Memory stays.
            SealError: what is there can't be opened. It is left as it is, and so is memory.
        """
        while not self.unwritten:
            seen, stored = self._seen, await self._store.read(self._name)
            theirs = self._opened(stored)
            if self.unwritten or self._seen is not seen:
                continue  # another act has held or written something meanwhile
            if not self._has_lost_writes(theirs):
                self._follow(stored, theirs)
                return
            self._join(stored, theirs)
        await self._write_held()

    async def save(self, account: Account) -> Account:
        """Write ``account`` in the place of the record that memory follows, and follow it; as it was written.

        Raises:
            StaleWrite: another record is there. Memory stays.
            StoreUnavailable, SealError: it was not written, or can't be known to be. Memory stays.
        """
        before, account = self.account, self._stamped(account, above=self.account)
        try:
            version = await self._swap(account)
        except StoreUnavailable as error:
            self.failed(error)
            raise
        if (
            self.account is before
        ):  # else another act has held something meanwhile, and joins this by itself
            self.account, self.unwritten, self.rolled_back = account, False, False
            self._seen, self._version = account, version
        return account

    async def keep(self, account: Account, *, after: Account) -> None:
        """Write ``account``, which was made from ``after`` and must not be lost: it counts at once. If memory follows
        another record by now, or another one is in the store, what both hold is united; if the store fails, it is
        held, and written by a later ``read``."""
        if self.account.write_id != after.write_id:
            # The lease was lost while something was awaited, and another act of this process went on from elsewhere.
            account = lifecycle.merged(self.account, account)
        self._hold(account, above=self.account)
        try:
            await self._write_held()
        except (StoreUnavailable, SealError) as error:
            self.problem = None  # that something is held is told even if the store failed before
            self.failed(error)

    async def change(self, change: Callable[[Account], Account]) -> None:
        """Write what ``change`` makes of the record that is there, whoever wrote that; raises as ``read``."""
        while True:
            try:
                await self.save(change(self.account))
            except StaleWrite:
                await self.read()
            else:
                return

    # Without the lease

    async def look(self, unchanged: Callable[[], bool]) -> bool:
        """Follow the store if it moved on. ``unchanged`` tells, once it was read, whether nobody acted meanwhile.

        Returns:
            True if there is something to be settled under the lease: the store has lost writes.

        Raises:
            StoreUnavailable, SealError: as ``read``.
        """
        stored = await self._store.read(self._name)
        if (
            not unchanged()
            or self.unwritten
            or (stored.version if stored else None) == self._version
        ):
            return False
        theirs = self._opened(stored)
        if self._has_lost_writes(theirs):
            return True
        self._follow(stored, theirs)
        return False

    def failed(self, error: Exception) -> None:
        """The store failed; what is in memory is served meanwhile."""
        began, self.problem = self.problem is None, f"{error}"
        if began:
            self._on_health(self.problem)

    def works(self) -> None:
        """The store was seen to work."""
        if self.problem is not None:
            self.problem = None
            self._on_health(None)

    # Inside

    async def _write_held(self) -> None:
        while self.unwritten:
            account = self.account
            try:
                self._version, self._seen = await self._swap(account), account
            except StaleWrite:
                stored = await self._store.read(self._name)
                self._join(stored, self._opened(stored))
            else:
                self.unwritten = (
                    self.account is not account
                )  # another act may have held more meanwhile
                self.rolled_back = False

    async def _swap(self, account: Account) -> str:
        """Compare-and-set, and a read-back where the reply may have been lost: the same write id means that it went
        through. It is never written again blindly."""
        sealed = self._sealer.seal(encode(account), PURPOSE, {"name": self._name})
        try:
            version = await self._store.swap(self._name, sealed, expected=self._version)
        except (StaleWrite, StoreUnavailable):
            stored = await self._store.read(self._name)
            if stored is None or self._opened(stored).write_id != account.write_id:
                raise
            version = stored.version
        self.works()
        return version

    def _has_lost_writes(self, theirs: Account) -> bool:
        """Does the store hold less than it was seen to hold?

        Told by the generation. After a fail-over, another process may have written past ours: then by the consent, and
        by the tokens.
        """
        seen = self._seen
        if theirs.generation == seen.generation:
            return theirs.write_id != seen.write_id
        return (
            theirs.generation < seen.generation
            or lifecycle.consent_epoch(theirs) < lifecycle.consent_epoch(seen)
            or lifecycle.branched_off(theirs, seen)
        )

    def _join(self, stored: Stored | None, theirs: Account) -> None:
        """Hold what memory and the store know, united: ours joins theirs, unless the store has lost writes, or holds
        what ours goes on from."""
        lost = self._has_lost_writes(theirs)
        ours_first = lost or theirs.write_id == self._seen.write_id
        pair = (self.account, theirs) if ours_first else (theirs, self.account)
        self._hold(lifecycle.merged(*pair), above=theirs)
        self._see(stored, theirs)
        if lost:
            self.rolled_back = True
            self._on_lost_writes()

    def _hold(self, account: Account, *, above: Account) -> None:
        self.account, self.unwritten = self._stamped(account, above=above), True

    def _stamped(self, account: Account, *, above: Account) -> Account:
        generation = max(self.account.generation, above.generation) + 1
        return replace(account, generation=generation, write_id=secrets.token_hex(8))

    def _follow(self, stored: Stored | None, theirs: Account) -> None:
        self.account = theirs
        self._see(stored, theirs)

    def _see(self, stored: Stored | None, theirs: Account) -> None:
        self._seen, self._version = theirs, stored.version if stored else None

    def _opened(self, stored: Stored | None) -> Account:
        return Account() if stored is None else open_record(self._sealer, stored, self._name)


def open_record(sealer: Sealer, stored: Stored, name: str) -> Account:
    """The record that a store holds under ``name``.

    Raises:
        SealError: it can't be opened, or was written by another version.
    """
    try:
        return decode(sealer.open(stored.value, PURPOSE, {"name": name}))
    except msgspec.MsgspecError as error:
        raise SealError(f"the record of {name!r} was written by another version: {error}") from None


async def reseal_all(store: TokenStore, sealer: Sealer, lease_seconds: float) -> tuple[int, int]:
    """Seal every record of a store anew that was not sealed with the key which seals now. May be run again.

    Returns:
        How many were sealed anew, and how many there are.

    Raises:
        StoreUnavailable: the store can't be read or written; what was done so far stands.
        SealError: a record can't be opened; it is left as it is.
    """
    names, done = await store.names(), 0
    for name in names:
        async with store.lease(name, lease_seconds):
            stored = await store.read(name)
            if stored is None or sealer.sealed_by_first(stored.value):
                continue
            body = sealer.open(stored.value, PURPOSE, {"name": name})
            await store.swap(
                name, sealer.seal(body, PURPOSE, {"name": name}), expected=stored.version
            )
            done += 1
    return done, len(names)
