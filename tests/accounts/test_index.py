"""The store's index of due accounts is a hint, and a correction never hides a due account."""

from __future__ import annotations

from datetime import datetime

import pytest
from msgspec.structs import replace
from support.bench import eventually
from support.several import Several

from xots.accounts.accounts import Accounts
from xots.keeping.record_store import RecordStore
from xots.lifecycle.transitions import begin_refresh
from xots.testing import FlakyStore


@pytest.fixture
async def accounts(several: Several) -> Accounts:
    """One account that is not in use. Announcements do not correct the index."""
    several.store.shares_index = True
    accounts = await several.manager()
    await several.add(accounts, "smith")
    await accounts.maintain()
    await accounts.swept()
    several.clock.advance(minutes=45)  # its keeper is closed, and no sweep is due
    await accounts.maintain()
    await eventually(lambda: not accounts.busy and accounts.open_now == ["default"])
    several.clock.advance(minutes=1)
    return accounts


async def begin_elsewhere(several: Several) -> None:
    """Write the intent of a refresh as another process does, which dies after that."""
    now = several.clock.now()
    record = RecordStore(several.store, several.sealer, "smith", lambda _: now)
    stored = await record.read()
    assert stored is not None
    account = record.opened(stored)
    assert account.current is not None
    begun = begin_refresh(account, account.current, by="another process", now=now)
    begun = replace(begun, generation=account.generation + 1, write_id="another write")
    await record.swap(begun, stored.version)


@pytest.mark.safeguard(
    file="accounts/accounts.py",
    old="await self._survey.correct_index(name)",
    new="await self._shared.store.note_due(name, due_at)",
    protects_from="a login lost because no process finds its open refresh within the grace period",
)
async def test_a_correction_of_the_index_does_not_hide_a_refresh_that_begins(
    several: Several, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes an intent between a look at the record and the correction, and dies.
    Xero accepts its token for half an hour, so this process must not wait for the next sweep."""
    await several.store.note_due("smith", several.clock.now())  # too early
    note_due, corrections = several.store.note_due, list[str]()

    async def note_due_late(name: str, due_at: datetime | None) -> None:
        if name == "smith" and not corrections:
            corrections.append(name)
            await begin_elsewhere(several)
        await note_due(name, due_at)

    monkeypatch.setattr(several.store, "note_due", note_due_late)
    await accounts.maintain()
    await eventually(lambda: not accounts.busy)
    assert corrections
    assert (await several.record("smith")).intent is not None
    several.clock.advance(seconds=15)
    await accounts.maintain()
    await eventually(lambda: not accounts.busy)
    assert (await several.record("smith")).intent is None
    assert several.refreshes() == 1


class WithoutIndex(FlakyStore):
    """A third party's store that does not tell the index of its writes."""

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        before, self._due_index.note = self._due_index.note, lambda *_: None  # type: ignore[method-assign]
        try:
            return await super().swap(name, value, expected=expected)
        finally:
            self._due_index.note = before  # type: ignore[method-assign]


async def test_a_store_that_keeps_no_index_forgets_no_account(several: Several) -> None:
    """Its writes are noted for it."""
    several.store = WithoutIndex()
    accounts = await several.manager()
    await several.add(accounts, "smith")
    several.clock.advance(days=51)
    assert await several.store.due(several.clock.now(), 10) == ["smith"]
