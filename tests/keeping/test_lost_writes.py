"""A store that went back to an older record: a dump that was restored, or a fail-over."""

from __future__ import annotations

import dataclasses

import pytest
from support.bench import START, Bench
from support.inside import replica_of, settle

from xots.errors import TokenUnavailable
from xots.events import StoreLostWrites
from xots.lifecycle.schedule import State


async def test_a_record_that_the_store_has_lost_is_written_again(bench: Bench) -> None:
    """An old dump or an empty store ends no login. The operator gets a report."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    await keeper.refresh()
    bench.store.restore(old)
    await keeper.refresh()
    assert bench.happened(StoreLostWrites) == 1
    assert keeper.state is State.CONNECTED
    bench.store.restore({})
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.happened(StoreLostWrites) == 2
    assert bench.xero_would_issue()


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="is_older = theirs.generation < seen.generation or theirs.epoch < seen.epoch",
    new="is_older = theirs.epoch < seen.epoch",
    protects_from="following an old dump of Redis that does not show a token as spent",
)
async def test_an_intent_that_the_store_has_lost_is_written_again(bench: Bench) -> None:
    """An old dump with the same tokens does not show that one of them was spent."""
    keeper = await bench.logged_in()
    dump = bench.store.dump()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.restore(dump)
    await keeper.follow()
    assert bench.happened(StoreLostWrites) == 1
    kept = bench.record()
    assert kept.intent is not None
    assert kept.current is not None
    assert kept.current.first_spent_at == START


async def test_an_old_dump_restored_during_a_refresh_replaces_no_newer_token(
    bench: Bench,
) -> None:
    """Its token was spent an hour ago. Late reuse may end the whole chain."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    await keeper.refresh()
    bench.clock.advance(hours=1)
    await keeper.maintain()
    refresh = await bench.held_refresh(keeper)
    bench.store.restore(old)
    bench.sandbox.release()
    await refresh
    assert bench.happened(StoreLostWrites) == 1
    assert bench.xero_would_issue()
    kept = bench.record().current
    assert kept is not None
    assert kept.first_spent_at is None
    assert bench.sandbox.identity.would_issue(kept.value.reveal(), bench.clock.now())


async def test_a_store_that_takes_a_write_is_not_rolled_back_any_more(bench: Bench) -> None:
    """A later unsaved change is one refresh ahead of the store, as usual."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    await keeper.refresh()
    bench.store.restore(old)
    bench.store.fail("swap")
    await keeper.follow()
    assert keeper.rolled_back
    bench.store.repair()
    await replica_of(keeper).compare_and_set(replica_of(keeper).account)
    assert not keeper.unsaved
    assert not keeper.rolled_back


# ---------- other processes have written on


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="is_older = theirs.generation < seen.generation or theirs.epoch < seen.epoch",
    new="is_older = theirs.generation < seen.generation",
    protects_from="a login that a fail-over lost, after which other processes wrote on",
)
async def test_a_login_that_a_fail_over_lost_is_written_again_over_later_writes(
    bench: Bench,
) -> None:
    """The higher generation of the older login does not win: refreshes make more writes."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    bench.clock.advance(minutes=1)
    await keeper.login(bench.attempt())
    new = keeper.account
    bench.store.restore(old)
    for _ in range(3):
        bench.overwrite(lambda account: account)
    await settle(keeper)
    assert bench.happened(StoreLostWrites) == 1
    assert bench.record().consent_id == new.consent_id
    assert bench.record().current == new.current


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return theirs.write_id != seen.write_id",
    new="return False",
    protects_from="a token that a fail-over lost, after which another process wrote as often",
)
async def test_a_lost_write_is_noticed_although_another_write_has_its_generation(
    bench: Bench,
) -> None:
    """The write ids differ. The token of the lost write joins the record."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    await keeper.refresh()
    bench.store.restore(old)
    while bench.record().generation < keeper.account.generation:
        bench.overwrite(lambda account: account)
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    await settle(keeper)
    assert bench.happened(StoreLostWrites) == 1
    kept = bench.record()
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return is_older or diverged(theirs, seen)",
    new="return is_older",
    protects_from="an old dump that other processes wrote on, until a live token was forgotten",
)
async def test_a_process_that_starts_on_an_old_dump_costs_no_live_token(bench: Bench) -> None:
    """It has written as often as the process that knows the live token."""
    keeper = await bench.logged_in()
    await keeper.refresh()
    bench.clock.advance(minutes=25)
    refresh = await bench.held_refresh(keeper)
    dump = bench.store.dump()
    bench.sandbox.release()
    await refresh
    bench.clock.advance(minutes=10)
    await keeper.refresh()
    bench.clock.advance(minutes=21)
    bench.store.restore(dump)
    other = await bench.keeper()
    await other.maintain()
    lost = other.state
    assert bench.record().generation > keeper.account.generation
    await keeper.follow()
    assert bench.happened(StoreLostWrites) == 1
    assert bench.xero_would_issue()
    await keeper.maintain()
    await other.follow()
    assert lost is State.CONSENT_LOST
    assert keeper.state is other.state is State.CONNECTED


def late_reuse_kills(bench: Bench) -> None:
    """Let Xero end the chain when a refresh token is used after its grace period."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches, late_reuse_kills_chain=True
    )


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("first, second = (other, base) if _descends_from(other, base) else (base, other)"),
    new="first, second = base, other",
    protects_from=(
        "retries with a token until its grace period is over, which then end the chain "
        "of its own successor"
    ),
)
@pytest.mark.parametrize("minutes", [33, 65, 1440])
async def test_a_late_successor_is_used_in_a_long_outage_and_not_the_token_before_it(
    bench: Bench, minutes: int
) -> None:
    """Another process has retried with the token before it, while the successor was unsaved."""
    late_reuse_kills(bench)
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    refresh = await bench.held_refresh(keeper)
    bench.store.fail("read", "swap")
    bench.sandbox.release()
    await refresh
    (answered,) = bench.sandbox.refreshes()
    bench.store.repair()
    bench.sandbox.add_fault("refresh:every:503-html")
    other = await bench.keeper()
    with pytest.raises(TokenUnavailable):
        await other.refresh()
    await keeper.maintain()
    assert bench.xero_would_issue()
    spent_before = len(bench.sandbox.refreshes())
    for _ in range(minutes):
        bench.clock.advance(minutes=1)
        await keeper.maintain()
        await other.follow()
        await other.maintain()
    bench.sandbox.faults.clear()
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    await other.follow()
    assert keeper.state is other.state is State.CONNECTED
    assert answered.token not in {r.token for r in bench.sandbox.refreshes()[spent_before:]}


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("    if old in account.tombstones:\n        return True\n"),
    new="",
    protects_from=(
        "a process that was cut off, and takes its own current token for unspent when it comes back"
    ),
)
async def test_a_tombstoned_token_of_a_cut_off_process_is_not_current_again(bench: Bench) -> None:
    """The process had a store of its own and wrote more often. The others rotated its token."""
    late_reuse_kills(bench)
    keeper = await bench.logged_in()
    cut_off = bench.store.dump()
    other = await bench.keeper()
    for _ in range(3):
        bench.clock.advance(minutes=20)
        await other.refresh()
    gone_on = bench.store.dump()
    bench.store.restore(cut_off)
    bench.sandbox.add_fault("refresh:every:429=1")
    for _ in range(10):
        bench.clock.advance(minutes=6)
        await keeper.maintain()
    assert keeper.account.generation > other.account.generation
    bench.store.restore(gone_on)
    bench.sandbox.faults.clear()
    bench.clock.advance(minutes=6)
    await keeper.refresh()
    await other.follow()
    assert keeper.account == other.account
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()
    issued = [r for r in bench.sandbox.refreshes() if r.issued]
    assert [r.token for r in issued[1:]] == [r.issued for r in issued[:-1]]


# ---------- no writes were lost


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("known = {token.fingerprint for token in theirs.tokens}.union(theirs.tombstones)"),
    new="known = {token.fingerprint for token in theirs.tokens}",
    protects_from="a token that was spent long ago, and is revived since a wrong clock dated it",
)
async def test_a_token_dated_by_a_wrong_clock_is_no_sign_of_lost_writes(
    bench: Bench,
) -> None:
    """A process that missed some rotations follows the record. It revives no spent token."""
    asleep = await bench.logged_in()
    ahead = await bench.keeper(bench.clock.beside(days=1))
    await ahead.refresh()
    await asleep.follow()
    known = asleep.account.current
    awake = await bench.keeper()
    for _ in range(3):
        bench.clock.advance(minutes=35)
        await awake.refresh()
    await asleep.follow()
    assert bench.happened(StoreLostWrites) == 0
    assert asleep.account.write_id == bench.record().write_id
    assert known is not None
    assert known.value not in [
        t.value for t in (asleep.account.current, *asleep.account.fallbacks) if t is not None
    ]
