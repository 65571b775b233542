"""One account's trouble delays no other account."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from support.bench import eventually
from support.several import Several

from xots.accounts.accounts import Accounts
from xots.accounts.work import MAX_AT_ONCE
from xots.backends.base import Stored
from xots.errors import AccountUnusable, StoreUnavailable
from xots.keeping.usage import Fresh
from xots.testing import FlakyStore

HEALTHY = ("a-healthy", "z-healthy")


@pytest.fixture
async def accounts(several: Several) -> Accounts:
    """Three accounts that are always kept fresh; the tests bring trouble to the middle one."""
    several.fresh = dict.fromkeys((*HEALTHY, "troubled"), Fresh.ALWAYS)
    accounts = await several.manager()
    await several.add(accounts, *HEALTHY, "troubled")
    return accounts


async def all_healthy_are_refreshed(several: Several, accounts: Accounts) -> None:
    """Let the tokens fall due, and wait for the refresh of the accounts without trouble."""
    before = {name: await several.record(name) for name in HEALTHY}
    several.clock.advance(minutes=26)
    await accounts.maintain()
    for name in HEALTHY:
        await eventually(lambda: not accounts.busy & {*HEALTHY})
        after = await several.record(name)
        assert after.refreshed_at != before[name].refreshed_at, name


async def test_a_held_lease(several: Several, accounts: Accounts) -> None:
    """Another process holds the lease and hangs."""
    async with several.store.lease("troubled", 60):
        await all_healthy_are_refreshed(several, accounts)
        assert accounts.busy == {"troubled"}
        await all_healthy_are_refreshed(several, accounts)


async def test_many_held_leases(several: Several, accounts: Accounts) -> None:
    """A process that is stopped may hold those of all accounts that it has in maintenance."""
    names = [f"held-{number}" for number in range(MAX_AT_ONCE + 6)]
    several.fresh = {**several.fresh, **dict.fromkeys(names, Fresh.ALWAYS)}
    await several.add(accounts, *names)
    before = {name: await several.record(name) for name in HEALTHY}
    async with AsyncExitStack() as held:
        for name in names:
            await held.enter_async_context(several.store.lease(name, 60))
        several.clock.advance(minutes=26)
        await accounts.maintain()
        await eventually(lambda: {*names} <= accounts.busy and not accounts.busy & {*HEALTHY})
        for name in HEALTHY:
            assert (await several.record(name)).refreshed_at != before[name].refreshed_at, name


async def test_a_response_that_does_not_come(several: Several, accounts: Accounts) -> None:
    """One request hangs at Xero; the tick and the other refreshes do not wait for it."""
    several.sandbox.add_fault("refresh:nth=1:hold-before")
    several.clock.advance(minutes=26)
    await accounts.maintain()
    await several.sandbox.held()
    await eventually(lambda: len(accounts.busy) == 1)
    [stuck] = accounts.busy
    several.clock.advance(seconds=20)
    await accounts.maintain()
    records = [await several.record(name) for name in (*HEALTHY, "troubled") if name != stuck]
    assert all(record.refreshed_at != record.consented_at for record in records)
    several.sandbox.release()


@pytest.mark.parametrize("fault", ["429=3000", "503-json", "invalid-client"])
async def test_a_failing_identity_server(several: Several, accounts: Accounts, fault: str) -> None:
    """The failure of one account's refresh is its own."""
    several.sandbox.add_fault(f"refresh:nth=1:{fault}")
    several.clock.advance(minutes=26)
    await accounts.maintain()
    await eventually(lambda: not accounts.busy)
    names = (*HEALTHY, "troubled")
    failed = [name for name in names if (await several.record(name)).failed_attempts]
    assert len(failed) == 1
    assert several.refreshes() == 3


async def test_a_lost_consent(several: Several, accounts: Accounts) -> None:
    """The account needs a user; it is not attempted again and again."""
    record = await several.record("troubled")
    assert record.current is not None
    token = several.sandbox.identity.tokens.refresh_tokens[record.current.value.reveal()]
    token.consent.ended = "revoked"  # type: ignore[assignment]
    await all_healthy_are_refreshed(several, accounts)
    await eventually(lambda: not accounts.busy)
    refused = several.refreshes()
    for _ in range(4):
        several.clock.advance(seconds=15)
        await accounts.maintain()
        await eventually(lambda: not accounts.busy)
    assert several.refreshes() == refused


async def test_an_unreadable_record(
    several: Several, accounts: Accounts, expected_log: object
) -> None:
    """It stays as it is, is named once, and can be used again once it is repaired."""
    expected_log("troubled: ")  # type: ignore[operator]
    stored = await several.store.read("troubled")
    assert stored is not None
    version = await several.store.swap("troubled", b"damaged", expected=stored.version)
    await all_healthy_are_refreshed(several, accounts)
    with pytest.raises(AccountUnusable):
        async with accounts.opened("troubled"):
            pass
    found = {summary.name: summary for summary in accounts.summaries()}
    assert found["troubled"].problem
    assert not found["a-healthy"].problem
    await several.store.swap("troubled", stored.value, expected=version)
    async with accounts.opened("troubled") as opened:
        assert await opened.keeper.token()


class BadSector(FlakyStore):
    """A store that cannot read one record."""

    bad: str | None = None

    async def read(self, name: str) -> Stored | None:
        if name == self.bad:
            raise StoreUnavailable("the disk has failed")
        return await super().read(name)


async def test_a_record_that_cannot_be_read(several: Several) -> None:
    """A new process finds what is due among the accounts after it."""
    several.fresh = dict.fromkeys((*HEALTHY, "troubled"), Fresh.ALWAYS)
    several.store = store = BadSector()
    await several.add(await several.manager(), *HEALTHY, "troubled")
    for name in HEALTHY:
        await store.note_due(name, None)
    store.bad = "troubled"
    accounts = await several.manager()
    await accounts.swept()
    await all_healthy_are_refreshed(several, accounts)
    with pytest.raises(StoreUnavailable):
        async with accounts.opened("troubled"):
            pass


async def test_settings_that_describe_another_login(
    several: Several, accounts: Accounts, expected_log: object
) -> None:
    """The account serves nothing and sends nothing."""
    expected_log("troubled: ")  # type: ignore[operator]
    several.clock.advance(minutes=11)
    await accounts.maintain()
    await eventually(lambda: "troubled" not in accounts.open_now)
    several.problems["troubled"] = ["client_id: the stored login belongs to another client"]
    refreshes = several.refreshes()
    await all_healthy_are_refreshed(several, accounts)
    assert several.refreshes() == refreshes + 2
    with pytest.raises(AccountUnusable, match="another client"):
        async with accounts.opened("troubled"):
            pass
