"""Accounts: opened when they are needed, kept fresh while they are used, closed when idle."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.bench import eventually
from support.several import Several

from xots.accounts.accounts import Accounts
from xots.accounts.config import AccountConfig
from xots.backends.file import FileStore
from xots.errors import AccountExists, TooManyAccounts, UnknownAccount
from xots.keeping.usage import Fresh
from xots.lifecycle.account import Entry
from xots.lifecycle.record_json import encode
from xots.lifecycle.schedule import State
from xots.lifecycle.transitions import begin_refresh
from xots.sandbox import Switches


async def tick(several: Several, accounts: Accounts, **duration: float) -> None:
    """Let time pass, and tick until nothing is left to do now."""
    several.clock.advance(**duration)
    await accounts.maintain()
    await eventually(lambda: not accounts.busy)


async def test_an_account_that_is_added_can_log_in_and_serve(several: Several) -> None:
    """Its token is that of its own login, and the default account has none."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    async with accounts.opened("smith") as found:
        access = await found.keeper.token()
    record = await several.record("smith")
    assert record.access is not None
    assert access.value == record.access.value
    assert accounts.default.account.consent_id is None
    assert accounts.names() == ["default", "smith"]


async def test_a_name_that_is_not_known_costs_no_request_to_the_store(several: Several) -> None:
    """Any client can invent names."""
    accounts = await several.manager()
    several.store.fail("read", "names")  # type: ignore[attr-defined]
    with pytest.raises(
        UnknownAccount, match="there is no account smith; /accounts or xots account"
    ):
        async with accounts.opened("smith"):
            pass


async def test_a_used_account_is_refreshed_ahead_and_an_unused_one_is_not(
    several: Several,
) -> None:
    """A caller within the last lifetime of a token keeps the account fresh."""
    accounts = await several.manager()
    await several.add(accounts, "used", "unused")
    refreshes = several.refreshes()
    for _ in range(4):
        async with accounts.opened("used") as found:
            await found.keeper.token()
        for _ in range(3):
            await tick(several, accounts, minutes=8)
    # No caller waited: each token lived for a minute at least.
    assert several.refreshes() - refreshes == 3
    assert (await several.record("unused")).generation < 3


async def test_an_account_is_closed_when_its_use_has_ended(several: Several) -> None:
    """It costs no memory then, and opens again for the next caller."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    async with accounts.opened("smith") as found:
        await found.keeper.token()
    assert accounts.open_now == ["default", "smith"]
    for _ in range(6):
        await tick(several, accounts, minutes=8)
    assert accounts.open_now == ["default"]
    async with accounts.opened("smith") as found:
        assert await found.keeper.token()


async def test_an_account_that_is_always_fresh_needs_no_caller(several: Several) -> None:
    """It is refreshed by the index, and its keeper is closed in between."""
    several.fresh = {"smith": Fresh.ALWAYS}
    accounts = await several.manager()
    await several.add(accounts, "smith")
    for _ in range(15):
        await tick(several, accounts, minutes=10)
        record = await several.record("smith")
        assert record.access is not None
        assert record.access.expires_at > several.clock.now()
    assert several.refreshes() in range(5, 8)
    assert accounts.open_now == ["default"]


async def test_an_unused_account_is_rotated_before_its_refresh_token_dies(
    several: Several,
) -> None:
    """Once in refreshmins, by the index alone."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    await tick(several, accounts, days=49)
    assert several.refreshes() == 0
    await tick(several, accounts, days=1.1)
    await eventually(lambda: several.refreshes() == 1)
    assert (await several.record("smith")).intent is None


async def test_a_new_process_finds_what_is_due_in_the_records(several: Several) -> None:
    """The index of this store ends with its process."""
    first = await several.manager()
    await several.add(first, "smith")
    await first.close()
    several.managers.clear()
    await several.store.note_due("smith", None)
    accounts = await several.manager()
    several.clock.advance(days=51)
    await accounts.maintain()
    await accounts.swept()
    await tick(several, accounts, seconds=15)
    await eventually(lambda: several.refreshes() == 1)


async def test_a_removed_account_is_hidden_and_continues_its_generations(
    several: Several,
) -> None:
    """Its login is ended at Xero. Added again, it has no login and a higher generation."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    before = await several.record("smith")
    await accounts.remove("smith")
    assert accounts.names() == ["default"]
    with pytest.raises(UnknownAccount):
        async with accounts.opened("smith"):
            pass
    assert (await several.record("smith")).removed
    await several.add(accounts, "smith", log_in=False)
    after = await several.record("smith")
    assert after.generation > before.generation
    assert after.consent_id is None
    assert not several.sandbox.identity.usable_refresh_tokens(several.clock.now())


@pytest.mark.safeguard(
    file="accounts/directory.py",
    old="if own is None or not own.is_live:",
    new="if own is None or own.client_id is None:",
    protects_from="an account without a login that ends the logins of other accounts",
)
async def test_an_account_without_a_login_shares_its_fate_with_no_other(several: Several) -> None:
    """It was ended, but keeps its client. An end of all from there ends no other login, as the list
    shows."""
    accounts = await several.manager()
    await several.add(accounts, "jones", "smith")
    await accounts.default.login(several.attempt())
    async with accounts.opened("smith") as found:
        await found.keeper.end(forget=False)
    assert accounts.siblings("smith") == {}
    shown = {summary.name: summary.shares_with for summary in accounts.summaries()}
    assert shown == {"default": ("jones",), "jones": ("default",), "smith": ()}
    assert list(await accounts.end_all("smith", forget=False)) == ["smith"]
    async with accounts.opened("jones") as found:
        assert await found.keeper.token()


async def test_an_account_that_another_process_has_ended_shares_its_fate_with_no_other(
    several: Several,
) -> None:
    """This process may still know its login. The record decides."""
    first, second = await several.manager(), await several.manager()
    await several.add(first, "jones", "smith")
    await first.swept()
    await second.swept()
    async with second.opened("smith") as found:
        await found.keeper.end(forget=False)
    assert list(await first.end_all("smith", forget=False)) == ["smith"]


async def test_an_account_is_added_once(several: Several) -> None:
    """The second entry would replace the first account's settings."""
    accounts = await several.manager()
    await several.add(accounts, "smith", log_in=False)
    with pytest.raises(AccountExists, match="an account smith already; remove it first"):
        await accounts.add("smith", Entry(added_at=several.clock.now()))


async def test_the_name_of_a_declared_account_is_not_added(several: Several) -> None:
    """It cannot be removed either, so the message suggests another name."""
    accounts = await several.manager(declared={"jones": "the configuration file"})
    for name, place in (("jones", "the configuration file"), ("default", "the default account")):
        expected = f"the account {name} is declared in the settings .{place}.; choose another name"
        with pytest.raises(AccountExists, match=expected):
            await accounts.add(name, Entry(added_at=several.clock.now()))


async def test_accounts_are_bounded(several: Several) -> None:
    """A page that any local user can open must not fill the store."""
    accounts = await several.manager(max_accounts=3)
    await several.add(accounts, "one", "two", log_in=False)
    with pytest.raises(TooManyAccounts):
        await accounts.add("three", Entry(added_at=several.clock.now()))


async def test_accounts_that_are_added_together_are_bounded(
    several: Several, tmp_path: Path
) -> None:
    """A store takes time for each write, and all of them would begin before the first one ends."""
    several.store = FileStore(tmp_path / "store")
    accounts = await several.manager(max_accounts=3)
    outcomes = await asyncio.gather(
        *(accounts.add(f"a{n}", Entry(added_at=several.clock.now())) for n in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, AccountConfig) for outcome in outcomes) == 2
    assert sum(isinstance(outcome, TooManyAccounts) for outcome in outcomes) == 8
    assert len(await several.store.names()) == 2


async def test_the_list_shows_state_organisation_and_need(several: Several) -> None:
    """Without a request to the store or to Xero."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    await several.add(accounts, "jones", log_in=False)
    requests = len(several.sandbox.log)
    several.store.fail("read", "names")  # type: ignore[attr-defined]
    found = {summary.name: summary for summary in accounts.summaries()}
    several.store.repair()  # type: ignore[attr-defined]
    assert list(found) == ["default", "jones", "smith"]
    assert found["smith"].state is State.CONNECTED
    assert found["smith"].organisation
    assert found["smith"].login_needed_at == several.clock.now() + timedelta(days=60)
    assert found["jones"].state is State.NOT_LOGGED_IN
    assert len(several.sandbox.log) == requests


async def test_an_account_without_a_login_uses_no_organisation(several: Several) -> None:
    """Neither by its name nor by its id: the next login chooses one."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    async with accounts.opened("smith") as found:
        await found.keeper.end(forget=False)
    [_, smith] = accounts.summaries()
    assert (smith.name, smith.state, smith.organisation) == ("smith", State.REVOKED, None)


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_clock_that_is_set_delays_no_refresh(several: Several, days: int) -> None:
    """The index holds times of day. They are corrected at the next tick."""
    several.fresh = {"always": Fresh.ALWAYS}
    accounts = await several.manager()
    await several.add(accounts, "used", "always")
    async with accounts.opened("used") as found:
        await found.keeper.token()
    several.clock.step(days=days)
    for _ in range(4):
        await tick(several, accounts, minutes=9)
        await accounts.swept()
    for name in ("used", "always"):
        access = (await several.record(name)).access
        assert access is not None
        issued = several.sandbox.identity.tokens.access_tokens[access.value.reveal()]
        assert issued.expires_at > several.sandbox.clock(), name


async def test_callers_that_come_together_share_one_keeper(several: Several) -> None:
    """Two keepers in one process would refresh behind each other's back."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    for _ in range(3):
        await tick(several, accounts, minutes=11)
    assert accounts.open_now == ["default"]

    async def keeper() -> object:
        async with accounts.opened("smith") as found:
            await found.keeper.token()
            return found.keeper

    keepers = await asyncio.gather(*(keeper() for _ in range(20)))
    assert len(set(map(id, keepers))) == 1
    assert several.refreshes() == 1


async def test_a_caller_that_leaves_early_keeps_no_keeper_open(several: Several) -> None:
    """A client that disconnects cancels nothing, and costs no memory."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    for _ in range(3):
        await tick(several, accounts, minutes=11)
    hold = several.store.hold("read")  # type: ignore[attr-defined]
    entering = accounts.opened("smith")
    caller = asyncio.create_task(entering.__aenter__())
    await hold.reached()
    caller.cancel()
    await asyncio.wait([caller])
    hold.release()
    await eventually(lambda: "smith" in accounts.open_now)
    await tick(several, accounts, minutes=2)
    await eventually(lambda: accounts.open_now == ["default"])


async def test_an_index_that_is_lost_is_made_again(several: Several) -> None:
    """A user of Redis can lose the right to the shared one. The records tell what is due."""
    accounts = await several.manager()
    await several.add(accounts, "smith")
    store = several.store
    store.shares_index = True
    await tick(several, accounts, minutes=30)
    store.shares_index = False
    await store.note_due("smith", None)
    several.clock.advance(days=51)
    async with asyncio.timeout(20):
        while several.refreshes() == 0:  # until the sweep has read the record
            await tick(several, accounts, seconds=15)


async def test_a_sweep_does_not_make_ticks_rare(several: Several) -> None:
    """It takes minutes for 10,000 accounts, and a token may live for seconds."""
    several.sandbox.identity.switches = Switches(access_token_life_seconds=20)
    accounts, store, seen = await several.manager(), several.store, list[float]()
    await several.add(accounts, "smith")
    short = accounts.tick_seconds
    assert short < 5

    def note_at_next_read() -> None:
        store.before("read", lambda: seen.append(accounts.tick_seconds))  # type: ignore[attr-defined]

    several.clock.advance(hours=2)
    store.after("names", note_at_next_read)  # type: ignore[attr-defined]
    await accounts.maintain()
    await eventually(lambda: bool(seen))
    assert seen == [short]


async def test_a_stop_waits_only_for_requests_that_are_in_progress(several: Several) -> None:
    """While Xero hangs, the others would follow one after the other, for minutes. They have sent
    and written nothing."""
    names = [f"account-{number:02}" for number in range(30)]
    several.fresh = dict.fromkeys(names, Fresh.ALWAYS)
    accounts = await several.manager()
    await several.add(accounts, *names)
    several.clients[0].deadline_seconds = 2
    several.sandbox.add_fault("refresh:p=1:hold-before")
    several.clock.advance(minutes=26)
    await accounts.maintain()
    await eventually(lambda: len(accounts.busy) == 30)
    await accounts.close()
    records = [await several.record(name) for name in names]
    assert sum(record.intent is not None for record in records) == 10


async def test_the_end_of_all_ends_a_login_that_was_just_made_elsewhere(several: Several) -> None:
    """Xero ends it with the others, whether or not this process has heard of it."""
    here, elsewhere = await several.manager(), await several.manager()
    await several.add(here, "smith")
    await here.swept()
    await several.add(elsewhere, "jones")
    ended = await here.end_all("smith", forget=False)
    assert sorted(ended) == ["jones", "smith"]
    assert (await several.record("jones")).consent_id is None


async def test_an_account_that_is_added_during_a_sweep_stays_known(several: Several) -> None:
    """The names that the sweep has read do not have it."""
    accounts = await several.manager()
    await accounts.swept()
    hold = several.store.hold("names", after=True)  # type: ignore[attr-defined]
    several.clock.advance(hours=2)
    maintaining = asyncio.create_task(accounts.maintain())
    await hold.reached()
    await several.add(accounts, "smith", log_in=False)
    hold.release()
    await maintaining
    await eventually(lambda: not accounts.busy)
    assert accounts.names() == ["default", "smith"]


async def test_a_name_of_the_index_alone_is_no_account(several: Several) -> None:
    """A record may have been deleted, or another program may have written the name."""
    accounts = await several.manager()
    await several.store.note_due("ghost", several.clock.now())
    await tick(several, accounts, seconds=15)
    assert accounts.names() == ["default"]
    assert await several.store.due(several.clock.now() + timedelta(days=90), 9) == []


async def test_a_record_that_an_earlier_version_writes_is_put_into_the_shared_index(
    several: Several,
) -> None:
    """That version tells no index. If it is killed in a refresh, another process is to resume it
    within Xero's 30 minutes."""
    store = several.store
    store.shared = store.shares_index = True
    accounts = await several.manager()
    await several.add(accounts, "smith")
    record = await several.record("smith")
    assert record.current is not None
    await close_idle(several, accounts)
    at = several.clock.now()
    begun = begin_refresh(record, record.current, by="old:1", now=at)
    fields = json.loads(encode(replace(begun, generation=9, write_id="old", entry=None)))
    old = json.dumps(fields | {"format": 3}).encode()
    stored = await store.read("smith")
    assert stored is not None
    sealed = several.sealer.seal(old, "account", {"name": "smith"})
    await store.swap("smith", sealed, expected=stored.version)
    assert "smith" not in await store.due(at, 9)
    async with asyncio.timeout(20):
        while "smith" not in await store.due(at, 9):
            await asyncio.sleep(0.05)


async def close_idle(several: Several, accounts: Accounts) -> None:
    """Let the accounts fall idle."""
    for _ in range(6):
        await tick(several, accounts, minutes=8)
    assert accounts.open_now == ["default"]
