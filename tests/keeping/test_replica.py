"""A process's copy of the record: its writes, its unsaved changes, and its merges."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import Bench
from support.inside import replica_of, settle

from xots.backends.base import Lease, Stored
from xots.backends.memory import MemoryStore
from xots.errors import StoreUnavailable, TokenUnavailable, XotsError
from xots.events import StoreDegraded, StoreLostWrites
from xots.keeping.resealing import Resealed, reseal_all
from xots.lifecycle.account import RefreshToken
from xots.lifecycle.schedule import State
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.testing import FlakyStore

# ---------- a write


@pytest.mark.safeguard(
    file="keeping/record_store.py",
    old="if stored is None or self.opened(stored).write_id != account.write_id:",
    new="if True:",
    protects_from="taking a write that succeeded for one that failed",
)
async def test_a_write_whose_reply_was_lost_is_read_back(bench: Bench) -> None:
    """The same write id in the store proves the write. It is not repeated."""
    keeper = await bench.logged_in()
    bench.store.lose_replies(2)
    await keeper.refresh()
    assert keeper.account.generation == 3
    assert keeper.state is State.CONNECTED
    assert len(bench.sandbox.refreshes()) == 1
    assert bench.happened(StoreDegraded) == 0


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old=(
        "            await self._write_held()\n"
        "        except (StoreUnavailable, SealError) as error:\n"
    ),
    new=(
        "            await self._write_held()\n"
        "        except (StoreUnavailable, SealError) as error:\n"
        "            self.unsaved = False\n"
    ),
    protects_from="a new token that is dropped since the disk is full",
)
@pytest.mark.safeguard(
    file="keeping/keeper.py",
    old="if self._replica.needs_settling:",
    new="if False:",
    protects_from="a new token that is lost with the process, although the store works again",
)
async def test_a_token_that_the_store_cannot_take_is_written_later(bench: Bench) -> None:
    """The disk failed after Xero had issued it. Meanwhile memory holds and serves it."""
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    held = await keeper.token()
    assert bench.happened(StoreDegraded) == 1
    await keeper.maintain()
    bench.store.repair()
    await keeper.maintain()
    successor = await bench.keeper()
    assert await successor.token() == held
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="ours_first = has_lost or theirs.write_id == self._seen.account.write_id",
    new="ours_first = has_lost",
    protects_from="taking a record that was sealed with a new key for another process's write",
)
async def test_a_record_sealed_with_a_new_key_does_not_replace_an_unsaved_token(
    bench: Bench,
) -> None:
    """The unsaved token is the next one to be spent."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    refresh = await bench.held_refresh(keeper)
    bench.store.fail("swap")
    bench.sandbox.release()
    await refresh
    assert keeper.unsaved
    bench.store.repair()
    bench.put(bench.record(), "sealed-anew")
    known = keeper.account
    await settle(keeper)
    assert bench.record().refreshed_at == known.refreshed_at
    await keeper.refresh()
    issued = bench.sandbox.refreshes()
    assert [r.token for r in issued[1:]] == [r.issued for r in issued[:-1]]
    assert bench.record().write_id == keeper.account.write_id


# ---------- another process's write


@pytest.mark.safeguard(
    file="keeping/record_store.py",
    old=("version = await self._store.swap(self._name, sealed, expected=expected, due_at=due_at)"),
    new=(
        "there = await self.read()\n"
        "            version = await self._store.swap(\n"
        "                self._name, sealed, expected=there and there.version, due_at=due_at\n"
        "            )"
    ),
    protects_from="a write over another process's write",
)
@pytest.mark.safeguard(
    file="keeping/record_store.py",
    old="if stored is None or self.opened(stored).write_id != account.write_id:",
    new="if stored is None:",
    protects_from="taking another process's write for this one's own",
)
@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="self._hold(merged(*pair), above=theirs)",
    new="self._hold(pair[0], above=theirs)",
    protects_from="the loser of a race that throws its new token away",
)
async def test_a_holder_whose_lease_has_expired_adds_its_token(bench: Bench) -> None:
    """The record of the other process stands. The late token is a fallback, and is proved soon."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    refresh = await bench.held_refresh(keeper)
    bench.store.lapse()
    other = await bench.keeper()
    await other.refresh()
    bench.sandbox.release()
    await refresh
    theirs, ours = [r.issued for r in bench.sandbox.refreshes()]
    assert keeper.account.current is not None
    assert keeper.account.current.value.fingerprint == theirs
    assert ours in [r.value.fingerprint for r in bench.record().fallbacks]
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == 3
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("return account.consent_id is not None and account.consent_id == other.consent_id"),
    new="return True",
    protects_from="a token of an ended login among those of the next",
)
async def test_a_token_of_an_ended_consent_is_dropped(bench: Bench) -> None:
    """A late response does not change the record of another login."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    other = replace(
        keeper.account,
        generation=9,
        write_id="another",
        consent_id="newer",
        consented_at=bench.clock.now() + timedelta(seconds=1),
        current=RefreshToken(value=Secret("another login's"), obtained_at=bench.clock.now()),
        intent=None,
        fallbacks=(),
    )
    bench.put(other, "v-other")
    bench.sandbox.release()
    with pytest.raises(TokenUnavailable):
        await refresh
    assert keeper.account.consent_id == "newer"
    assert (keeper.account.current, keeper.account.fallbacks) == (other.current, ())


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="if self.account.write_id != after.write_id:",
    new="if False:",
    protects_from="a late response to a refresh that overwrites a new login",
)
async def test_a_late_response_does_not_overwrite_a_new_login(bench: Bench) -> None:
    """The lease expired during a refresh, and another process logged in. Memory follows it."""
    keeper, other = await bench.logged_in(), await bench.keeper()
    refresh = await bench.held_refresh(keeper)
    bench.store.lapse()
    bench.clock.advance(seconds=1)
    await other.login(bench.attempt())
    await settle(keeper)
    bench.sandbox.release()
    await refresh
    assert bench.record().consent_id == other.account.consent_id
    assert keeper.account.consent_id == other.account.consent_id
    assert bench.xero_would_issue()


@pytest.mark.safeguard(
    file="lifecycle/logins.py",
    old="        consent_id=None,\n",
    new="",
    protects_from="a late response that revives a login which was ended",
)
@pytest.mark.parametrize("forget", [False, True])
async def test_a_late_response_does_not_revive_a_login_that_was_ended(
    bench: Bench, forget: bool
) -> None:
    """The end stands, and the token of the late response is revoked."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.lapse()
    bench.clock.advance(seconds=1)
    bench.sandbox.add_fault("refresh:first=1:503-html")
    await keeper.end(forget=forget)
    bench.sandbox.release()
    with pytest.raises(XotsError):
        await refresh
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.state is (State.NO_CREDENTIALS if forget else State.REVOKED)
    assert bench.record().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_store_that_fails_after_a_stale_write_costs_no_token(
    bench: Bench,
) -> None:
    """Memory holds the new token, which joins the record once the store works."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.overwrite(lambda account: replace(account, tenant_id="x"))
    bench.store.after("read", lambda: bench.store.fail("swap", "read"))
    bench.sandbox.release()
    await refresh
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert keeper.account.current is not None
    assert keeper.account.current.value.fingerprint == issued
    bench.store.repair()
    await keeper.maintain()
    kept = bench.record()
    assert kept.tenant_id == "x"
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


async def test_an_unsaved_token_survives_any_number_of_stale_writes(bench: Bench) -> None:
    """It is merged with each record that another process writes meanwhile."""
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    bench.store.repair()
    bench.overwrite(lambda account: replace(account, tenant_id="x"))
    bench.store.before(
        "swap", lambda: bench.overwrite(lambda account: replace(account, tenant_id="y"))
    )
    await keeper.maintain()
    kept = bench.record()
    assert kept.tenant_id == "y"
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return self.unsaved or self._holders > 0",
    new="return self._holders > 0",
    protects_from="another process's write that makes this one forget its new token",
)
async def test_an_unsaved_token_is_not_dropped_for_another_processs_record(bench: Bench) -> None:
    """It joins that record, although its generation is higher."""
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    bench.store.repair()
    for _ in range(5):
        bench.overwrite(lambda account: account)
    assert bench.record().generation > keeper.account.generation
    await keeper.follow()
    await keeper.maintain()
    kept = bench.record()
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


# ---------- two operations of one process


@pytest.mark.parametrize(
    "during",
    [
        pytest.param(
            "save",
            marks=pytest.mark.safeguard(
                file="keeping/replica.py",
                old="        if self.account is before:\n",
                new="        if True:\n",
                protects_from=(
                    "two operations of one process: a write that makes it forget the new token of "
                    "the other one"
                ),
            ),
        ),
        pytest.param(
            "read",
            marks=pytest.mark.safeguard(
                file="keeping/replica.py",
                old="if self.unsaved or self._seen is not seen:",
                new="if False:",
                protects_from=(
                    "two operations of one process: a read that makes it forget the new token of "
                    "the other one"
                ),
            ),
        ),
    ],
)
async def test_an_unsaved_token_survives_another_operation_of_its_process(
    bench: Bench, during: str
) -> None:
    """They overlap after one lost its lease. Neither a write nor a read forgets the new token."""
    keeper = await bench.logged_in()
    record = replica_of(keeper)
    before = record.account
    act: asyncio.Task[Any]
    if during == "save":
        reply = bench.store.hold("swap", after=True)
        act = asyncio.create_task(record.compare_and_set(replace(before, tenant_id="another")))
    else:
        reply = bench.store.hold("read", after=True)
        act = asyncio.create_task(record.read())
    await reply.reached()
    bench.store.fail("swap", "read")
    new = RefreshToken(value=Secret("new"), obtained_at=bench.clock.now())
    await record.commit(replace(before, fallbacks=(new,)), after=before)
    assert record.unsaved
    bench.store.repair()
    reply.release()
    await act
    await keeper.maintain()
    assert new in bench.record().fallbacks
    assert not record.unsaved


async def test_a_record_that_was_read_during_a_write_is_read_again(bench: Bench) -> None:
    """It is older than that write, which does not mean that the store has lost writes."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    reply = bench.store.hold("read", after=True)
    bench.store.lapse()
    settling = asyncio.create_task(settle(keeper))
    await reply.reached()
    bench.sandbox.release()
    await refresh
    reply.release()
    await settling
    assert bench.happened(StoreLostWrites) == 0
    assert keeper.account.intent is None


# ---------- keys


async def test_resealing_counts_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is sealed under its own lease. A record that the first key sealed stays as it is."""
    old, new, store = new_key(), new_key(), MemoryStore()
    versions = {}
    for name, keys in (("a", [old]), ("b", [old]), ("c", [new])):
        sealed = Sealer(keys).seal(b"{}", "account", {"name": name})
        versions[name] = await store.swap(name, sealed, expected=None)
    sealer, leased, lease = Sealer([new, old]), list[str](), store.lease

    def noted(name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        leased.append(name)
        return lease(name, ttl_seconds)

    with monkeypatch.context() as noting:
        noting.setattr(store, "lease", noted)
        assert await reseal_all(store, sealer) == Resealed(2, 3, ())
    assert sorted(leased) == ["a", "b", "c"]
    assert await reseal_all(store, sealer) == Resealed(0, 3, ())
    kept = await store.read("c")
    assert kept is not None
    assert kept.version == versions["c"]
    for name in versions:
        stored = await store.read(name)
        assert stored is not None
        assert Sealer([new]).open(stored.value, "account", {"name": name}) == b"{}"


@pytest.mark.safeguard(
    file="keeping/resealing.py",
    old="except (SealError, StoreError, ValueError) as error:",
    new="except ZeroDivisionError as error:",
    protects_from="one foreign record that keeps the old sealing key in use for all later ones",
)
async def test_a_record_that_cannot_be_opened_stops_the_resealing_of_no_other() -> None:
    """It stays as it is, and is reported with its name."""
    old, new, store = new_key(), new_key(), MemoryStore()
    sealed = Sealer([old]).seal(b"{}", "account", {"name": "a"})
    for name, value in (("a", sealed), ("b", b"foreign"), ("c", sealed)):
        await store.swap(name, value, expected=None)
    found = await reseal_all(store, Sealer([new, old]))
    assert (found.done, found.count) == (1, 3)
    assert [failure.partition(":")[0] for failure in found.failures] == ["b", "c"]
    kept = await store.read("c")
    assert kept is not None
    assert kept.value == sealed


class _OneBadRecord(FlakyStore):
    """A store that cannot read the record ``a``."""

    async def read(self, name: str) -> Stored | None:
        if name == "a":
            raise StoreUnavailable("a has more than 1 MB")
        return await super().read(name)


async def test_resealing_goes_past_an_unreadable_record_but_not_past_a_store_that_fails() -> None:
    """The store's own check tells them apart: each further record could take a time-out."""
    old, new, store = new_key(), new_key(), _OneBadRecord()
    for name in ("a", "b"):
        sealed = Sealer([old]).seal(b"{}", "account", {"name": name})
        await store.swap(name, sealed, expected=None)
    found = await reseal_all(store, Sealer([new, old]))
    assert found == Resealed(1, 2, ("a: a has more than 1 MB",))
    store.fail("check")
    with pytest.raises(StoreUnavailable):
        await reseal_all(store, Sealer([new, old]))
