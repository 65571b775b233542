"""The keeper: the one order of acts that loses nothing, over the sandbox and a store that can be made to fail."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import SCOPES, START, WEB_APP, Bench, eventually, revocations

from xots.backends.base import Lease, Stored
from xots.backends.memory import MemoryStore
from xots.errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    StaleWrite,
    StoreUnavailable,
    TokenUnavailable,
    XotsError,
)
from xots.events import (
    ClockSkewed,
    ConsentWasLost,
    LoggedIn,
    Refreshed,
    RefreshFailed,
    RefreshTokenMissing,
    StoreDegraded,
    StoreLostWrites,
    StoreRecovered,
)
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.account import AccessToken, Intent, RefreshToken, encode
from xots.lifecycle.schedule import State, scheduled_refresh_at
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    Client,
    SiblingMode,
    fingerprint,
)
from xots.secret import Secret
from xots.web.status import explanation
from xots.xero.protocol import Credentials


async def test_a_check_of_the_store_says_why_it_cannot_be_used(bench: Bench) -> None:
    """A failure that nobody has met yet is found, and one that was met is not asked for again."""
    keeper = await bench.keeper()
    assert await keeper.check_store() is None
    bench.store.broken.add("check")
    assert await keeper.check_store() == "the disk is broken"
    assert keeper.store_problem is None
    bench.store.broken.clear()
    assert await keeper.check_store() is None


async def test_before_a_login_there_is_no_token(bench: Bench) -> None:
    """The error tells whether credentials or a login is missing."""
    keeper = await bench.keeper()
    assert keeper.state is State.NO_CREDENTIALS
    with pytest.raises(NoCredentials):
        await keeper.token()
    with pytest.raises(NoCredentials):
        await keeper.refresh()
    configured = TokenKeeper(
        bench.store, keeper._context.xero, bench.sealer, configured=WEB_APP, clock=bench.clock
    )
    assert configured.state is State.NOT_LOGGED_IN
    with pytest.raises(NotLoggedIn):
        await configured.token()


async def test_a_login_is_kept_before_it_counts(bench: Bench) -> None:
    """After a login the store holds a live token, sealed, and the token is served from memory."""
    keeper = await bench.logged_in()
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)
    token = await keeper.token()
    assert token.value.reveal().encode() not in bench.store._kept["default"].value
    asked = len(bench.sandbox.log)
    for _ in range(100):
        await keeper.token()
    assert len(bench.sandbox.log) == asked
    assert bench.happened(LoggedIn) == 1


async def test_a_new_keeper_on_the_store_goes_on(bench: Bench) -> None:
    """A restart needs neither a login nor a word with Xero."""
    first = await bench.logged_in()
    second = await bench.keeper()
    asked = len(bench.sandbox.log)
    assert await second.token() == await first.token()
    assert len(bench.sandbox.log) == asked


async def test_the_tick_refreshes_ahead_so_that_nobody_waits(bench: Bench) -> None:
    """Five minutes before the end the tick refreshes; callers never do."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=24, seconds=59)
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []
    bench.clock.advance(seconds=1)
    await keeper.maintain()
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["issued"]
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
    assert bench.happened(Refreshed) == 1


async def test_many_callers_share_one_refresh(bench: Bench) -> None:
    """64 callers at the moment of expiry: one refresh, one token for all."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=30)
    tokens = await asyncio.gather(*(keeper.token() for _ in range(64)))
    assert len({t.value for t in tokens}) == 1
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="done, _ = await asyncio.wait([task], timeout=SERVABLE_TIMEOUT_SECONDS)",
    new=(
        "await task\n        done, _ = await asyncio.wait([task], timeout=SERVABLE_TIMEOUT_SECONDS)"
    ),
    protects_from="a caller that disconnects in the middle of a refresh, and ends it",
)
async def test_a_caller_who_goes_away_does_not_end_the_refresh(bench: Bench) -> None:
    """The refresh is shielded: it is concluded and kept although its only caller was cancelled."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    bench.clock.advance(minutes=30)
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    bench.sandbox.release()
    await keeper.token()
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["issued"]


@pytest.mark.safeguard(
    file="tasks.py",
    old="while self._running:",
    new="while False:",
    protects_from="SIGTERM in the middle of a refresh",
)
async def test_closing_waits_for_the_refresh_and_keeps_it(bench: Bench) -> None:
    """What was begun is concluded and written before the keeper is closed; nothing new is begun."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    bench.clock.advance(minutes=30)
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    closing = asyncio.create_task(keeper.close())
    await asyncio.sleep(0)
    assert not closing.done()
    bench.sandbox.release()
    await closing
    assert (await caller).expires_at == bench.clock.now() + timedelta(minutes=30)
    successor = await bench.keeper()
    assert await successor.token() == await caller
    assert len(bench.sandbox.refreshes()) == 1


async def test_two_keepers_refresh_once(bench: Bench) -> None:
    """The second one takes the lease, reads again, and finds the work done."""
    first = await bench.logged_in()
    second = await bench.keeper()
    bench.clock.advance(minutes=30)
    tokens = await asyncio.gather(first.token(), second.token(), first.token(), second.token())
    assert len({t.value for t in tokens}) == 1
    assert len(bench.sandbox.refreshes()) == 1


async def test_forced_refreshes_at_once_are_one(bench: Bench) -> None:
    """Whoever forces a refresh gets one that began after he asked; those who ask together share it."""
    first = await bench.logged_in()
    second = await bench.keeper()
    await asyncio.gather(*(k.refresh() for k in (first, second, first, second)))
    assert len(bench.sandbox.refreshes()) == 1
    await first.refresh()
    assert len(bench.sandbox.refreshes()) == 2


async def test_a_lost_answer_is_asked_for_again_with_the_same_token(bench: Bench) -> None:
    """Xero issued and the answer was lost: the same token again, inside the grace, and all is well."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert keeper.state is State.REFRESH_FAILING
    assert bench.issues_from(keeper)
    assert bench.happened(RefreshFailed) == 1
    assert (await keeper.token()).expires_at > bench.clock.now(), (
        "the old token is served meanwhile"
    )
    bench.clock.advance(minutes=1)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert len({r.token for r in bench.sandbox.refreshes()}) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at)\n"
        "    )"
    ),
    new="begun = begin_refresh(found, token, by=context.process, now=began_at)",
    protects_from="a crash after Xero has committed: a spent token that no record shows as spent",
)
async def test_a_refresh_cut_off_by_a_crash_is_taken_up(bench: Bench) -> None:
    """A process that died after Xero committed leaves an intent; the next one refreshes with the same token."""
    dying = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    refresh = asyncio.create_task(dying.refresh())
    await bench.sandbox.held()
    (task,) = dying._tasks.running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await refresh
    survivor = await bench.keeper()
    assert survivor.account.intent is not None
    bench.sandbox.release()
    await survivor.maintain()
    assert survivor.state is State.CONNECTED
    assert survivor.account.intent is None
    assert len({r.token for r in bench.sandbox.refreshes()}) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at)\n"
        "    )"
    ),
    new=(
        "begun = begin_refresh(found, token, by=context.process, now=began_at)\n"
        "    await replica.commit(begun, after=found)\n"
        "    begun = replica.account"
    ),
    protects_from="a full disk: a token that is spent, and whose successor cannot be stored",
)
async def test_no_token_is_spent_when_the_intent_can_not_be_written(bench: Bench) -> None:
    """A full disk: Xero isn't asked, the access token is served to its end, and then the error says why."""
    keeper = await bench.logged_in()
    bench.store.broken.add("swap")
    bench.clock.advance(minutes=29)
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []
    assert (await keeper.token()).expires_at > bench.clock.now()
    bench.clock.advance(minutes=1)
    with pytest.raises(TokenUnavailable, match="the disk is full"):
        await keeper.token()
    assert bench.happened(StoreDegraded) == 1
    bench.store.broken.clear()
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
    assert bench.happened(StoreRecovered) == 1
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="if stored is None or self._opened(stored).write_id != account.write_id:",
    new="if True:",
    protects_from="taking a write that succeeded for one that failed",
)
async def test_a_write_whose_reply_was_lost_is_read_back(bench: Bench) -> None:
    """The same write id means that it went through: nothing is written twice and nothing is called lost."""
    keeper = await bench.logged_in()
    bench.store.lose_replies = 2
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
async def test_what_the_store_can_not_take_is_held_and_written_later(bench: Bench) -> None:
    """Xero issued, the disk failed: the new token is served from memory and written by a later tick."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    held = await keeper.token()
    assert bench.happened(StoreDegraded) == 1
    await keeper.maintain()
    bench.store.broken.clear()
    await keeper.maintain()
    successor = await bench.keeper()
    assert await successor.token() == held
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/keeper.py",
    old="if self._replica.unsaved:",
    new="if False:",
    protects_from="a new token that is lost with the process when it stops",
)
async def test_closing_writes_what_was_held(bench: Bench) -> None:
    """A process does not exit with a token that only it knows if the store works by then."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    bench.store.broken.clear()
    await keeper.close()
    assert bench.issues_from(keeper)
    successor = await bench.keeper()
    assert successor.account.current == keeper.account.current


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old=("version = await self._store.swap(self._name, sealed, expected=self._seen.version)"),
    new=(
        "there = await self._store.read(self._name)\n"
        "            version = await self._store.swap(\n"
        "                self._name, sealed, expected=_version(there)\n"
        "            )"
    ),
    protects_from="a write over another process's write",
)
@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="if stored is None or self._opened(stored).write_id != account.write_id:",
    new="if stored is None:",
    protects_from="taking another process's write for this one's own",
)
@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="self._hold(merged(*pair), above=theirs)",
    new="self._hold(pair[0], above=theirs)",
    protects_from="the loser of a race that throws its new token away",
)
async def test_whoever_slept_past_his_lease_adds_his_token(bench: Bench) -> None:
    """Somebody took over meanwhile: his record stands, and our new token joins it as a rival, proved soon after."""
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
    assert ours in [r.value.fingerprint for r in bench.kept().fallbacks]
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == 3
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("return account.consent_id is not None and account.consent_id == other.consent_id"),
    new="return True",
    protects_from="a token of an ended login among those of the next",
)
async def test_a_token_of_an_ended_consent_is_dropped(bench: Bench) -> None:
    """If another login took the record meanwhile, the late answer does not disturb it."""
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
    bench.store._kept["default"] = Stored(
        bench.sealer.seal(encode(other), "account", {"name": "default"}), "v-other"
    )
    bench.sandbox.release()
    with pytest.raises(TokenUnavailable):
        await refresh
    assert keeper.account.consent_id == "newer"
    assert (keeper.account.current, keeper.account.fallbacks) == (other.current, ())


async def test_a_store_that_blips_while_a_stale_write_is_settled_loses_nothing(
    bench: Bench,
) -> None:
    """Stale write, then a read that fails: the new token is held, and joins the record when the store is back."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.overwrite(lambda account: replace(account, tenant_id="x"))
    bench.store.broken.add("second read")
    bench.sandbox.release()
    await refresh
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert keeper.account.current is not None
    assert keeper.account.current.value.fingerprint == issued
    bench.store.broken.clear()
    await keeper.maintain()
    kept = bench.kept()
    assert kept.tenant_id == "x"
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


async def test_a_held_token_survives_any_number_of_stale_writes(bench: Bench) -> None:
    """Others go on writing while the held record is written: it gives way to each and loses nothing."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    bench.store.broken.clear()
    bench.overwrite(lambda account: replace(account, tenant_id="x"))
    bench.store.before_swap = lambda: bench.overwrite(
        lambda account: replace(account, tenant_id="y")
    )
    await keeper.maintain()
    kept = bench.kept()
    assert kept.tenant_id == "y"
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


async def test_a_process_that_can_not_write_what_it_holds_says_so_at_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not exit quietly with a token that only it knows."""
    monkeypatch.setattr("xots.keeping.keeper.CLOSE_TIMEOUT_SECONDS", 0)
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    bench.keepers.remove(keeper)
    with pytest.raises(StoreUnavailable, match="could not take"):
        await keeper.close()


async def test_a_store_that_lost_its_record_is_told_again(bench: Bench) -> None:
    """An old dump, or nothing at all, does not end a login that memory knows; the operator is told."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    await keeper.refresh()
    bench.store._kept["default"] = old
    await keeper.refresh()
    assert bench.happened(StoreLostWrites) == 1
    assert keeper.state is State.CONNECTED
    bench.store._kept.clear()
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.happened(StoreLostWrites) == 2
    assert bench.issues_from(keeper)


async def test_revoking_stops_serving_at_once_and_tells_xero(bench: Bench) -> None:
    """Before anything is waited for, no token is served any more; then Xero is told, and the credentials stay."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:hold-before")
    ending = asyncio.create_task(keeper.end(forget=False))
    await bench.sandbox.held()
    with pytest.raises(NotLoggedIn):
        await keeper.token()
    bench.sandbox.release()
    assert await ending
    assert keeper.state is State.REVOKED
    assert keeper.account.client_id == DEFAULT_CLIENT_ID
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="await _conclude_open_refresh(context, lease)",
    new="pass",
    protects_from=(
        "a successor that was issued in a lost response, and stays valid after the logout"
    ),
)
async def test_an_open_intent_is_concluded_before_a_revoke(bench: Bench) -> None:
    """The successor that was issued and lost is revoked too, not forgotten alive."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert await keeper.end(forget=False)
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["lost", "issued"]
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_revocation_that_xero_does_not_hear_is_tried_again(bench: Bench) -> None:
    """Nothing is served, the tokens stay, and the tick tells Xero once it is back."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=2:503-html")
    assert not await keeper.end(forget=True)
    with pytest.raises(NotLoggedIn):
        await keeper.token()
    for _ in range(2):
        bench.clock.advance(minutes=2)
        await keeper.maintain()
    assert keeper.state is State.NO_CREDENTIALS
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_new_login_cancels_a_pending_revocation(bench: Bench) -> None:
    """Revocation at Xero would end the new login too."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    await keeper.login(bench.attempt())
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


async def test_another_keepers_login_and_end_are_followed(bench: Bench) -> None:
    """On a shared store, what one process does is seen by the other without being asked."""
    bench.store.shared = True
    first, second = await bench.keeper(), await bench.keeper()
    await first.login(bench.attempt())
    await eventually(lambda: second.state is State.CONNECTED)
    assert await second.token() == await first.token()
    await first.end(forget=False)
    await eventually(lambda: second.state is State.REVOKED)


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="*others, last = self.credentials",
    new="others, last = (), self.credentials[0]",
    protects_from="a mistyped secret in the settings",
)
async def test_a_changed_secret_and_the_old_one_are_both_tried(bench: Bench) -> None:
    """A mistyped secret in the settings does not cost the login, and a new one there is taken over."""
    await bench.logged_in()
    wrong = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret("mistyped"))
    keeper = await bench.keeper(configured=wrong)
    await keeper.refresh()
    assert keeper.account.client_secret == WEB_APP.client_secret
    renewed = bench.sandbox.identity.clients[DEFAULT_CLIENT_ID]
    bench.sandbox.identity.register(dataclasses.replace(renewed, secret="renewed"))
    after = await bench.keeper(
        configured=Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret("renewed"))
    )
    await after.refresh()
    assert after.account.client_secret == Secret("renewed")


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="if self.account.write_id != after.write_id:",
    new="if False:",
    protects_from="a late response to a refresh that overwrites a new login",
)
async def test_a_late_answer_does_not_overwrite_a_new_login_that_was_followed(bench: Bench) -> None:
    """The lease lapsed during a refresh, another process logged in, and this one has seen it: the login stands."""
    keeper, other = await bench.logged_in(), await bench.keeper()
    refresh = await bench.held_refresh(keeper)
    bench.store.lapse()
    bench.clock.advance(seconds=1)
    await other.login(bench.attempt())
    await keeper._following.settle()
    bench.sandbox.release()
    await refresh
    assert bench.kept().consent_id == other.account.consent_id
    assert keeper.account.consent_id == other.account.consent_id
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="        consent_id=None,\n",
    new="",
    protects_from="a late response that revives a login which was ended",
)
@pytest.mark.parametrize("forget", [False, True])
async def test_a_late_answer_does_not_revive_a_login_that_was_ended(
    bench: Bench, forget: bool
) -> None:
    """The same with an end: it stands, and what the late answer brought is revoked."""
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
    assert bench.kept().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_revocation_that_was_slept_through_does_not_end_a_new_login(bench: Bench) -> None:
    """The lease lapsed while Xero was told; somebody logged in meanwhile, and his record stands."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:hold-before")
    ending = asyncio.create_task(keeper.end(forget=False))
    await bench.sandbox.held()
    bench.store.lapse()
    bench.clock.advance(seconds=1)
    await keeper.login(bench.attempt())
    new = keeper.account.consent_id
    bench.sandbox.release()
    await ending
    assert bench.kept().consent_id == new
    assert bench.kept().current is not None


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="return self.account.token_url not in (None, self.xero.endpoints.token_url)",
    new="return False",
    protects_from="a token that is sent to another identity server",
)
async def test_another_identity_servers_login_is_neither_spent_nor_revoked(bench: Bench) -> None:
    """A process with another token URL that comes to follow it sends its tokens nowhere, and says why."""
    keeper, stranger = await bench.logged_in(), await bench.keeper()
    stranger._context.xero.endpoints = dataclasses.replace(
        stranger._context.xero.endpoints, token_url="http://127.0.0.1:1/token"
    )
    await stranger.follow()
    asked = len(bench.sandbox.log)
    bench.clock.advance(minutes=40)
    await stranger.maintain()
    with pytest.raises(TokenUnavailable, match="another identity server"):
        await stranger.token()
    assert not await stranger.end(forget=False)
    assert len(bench.sandbox.log) == asked
    assert keeper.account.current is not None
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="is_older = theirs.generation < seen.generation or theirs.epoch < seen.epoch",
    new="is_older = theirs.generation < seen.generation",
    protects_from="a login that a fail-over lost, after which other processes wrote on",
)
async def test_a_login_that_a_fail_over_lost_is_written_again_over_later_writes(
    bench: Bench,
) -> None:
    """A login is one write, a refresh two: the older consent's higher generation does not win."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    bench.clock.advance(minutes=1)
    await keeper.login(bench.attempt())
    new = keeper.account
    bench.store._kept["default"] = old
    for _ in range(3):
        bench.overwrite(lambda account: account)
    await keeper._following.settle()
    assert bench.happened(StoreLostWrites) == 1
    assert bench.kept().consent_id == new.consent_id
    assert bench.kept().current == new.current


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="return max(now, account.epoch + timedelta(microseconds=1))",
    new="return now",
    protects_from="a clock that was set back, and a merge in which the older login wins",
)
async def test_an_end_is_never_older_than_its_login(bench: Bench) -> None:
    """A clock that was ahead at the login and put right before the logout does not let the login win a merge."""
    wall = bench.clock.beside(50)
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    wall.step(-50)
    await keeper.end(forget=False)
    kept = bench.kept()
    assert kept.ended_at is not None
    assert kept.consented_at is not None
    assert kept.ended_at >= kept.consented_at


async def test_xero_refusing_every_token_loses_the_consent_and_says_so(bench: Bench) -> None:
    """Only then; the record stays as evidence, and the old access token is served to its end."""
    keeper = await bench.logged_in()
    bench.sandbox.identity.forget()
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert keeper.state is State.CONSENT_LOST
    assert bench.happened(ConsentWasLost) == 1
    assert (await keeper.token()).expires_at > bench.clock.now()
    bench.clock.advance(minutes=5)
    with pytest.raises(ConsentLost, match="invalid_grant"):
        await keeper.token()
    assert keeper.account.current is not None
    asked = len(bench.sandbox.refreshes())
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == asked, "what Xero refused is not tried again"
    await keeper.login(bench.attempt())
    assert keeper.state is State.CONNECTED


async def test_a_wrong_secret_drops_nothing(bench: Bench) -> None:
    """``invalid_client`` is slow to be tried again, and all is well once it is mended."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert keeper.state is State.REFRESH_FAILING
    bench.clock.advance(seconds=30)
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == 1
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED


async def test_a_demanded_life_is_kept_or_refused(bench: Bench) -> None:
    """A caller who names ``min_ttl`` gets at least that, or an error with the time to ask again."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=10)
    token = await keeper.token(timedelta(minutes=25))
    assert token.expires_at - bench.clock.now() >= timedelta(minutes=25)
    bench.sandbox.add_fault("refresh:every:500-json")
    bench.clock.advance(minutes=10)
    with pytest.raises(TokenUnavailable) as caught:
        await keeper.token(timedelta(minutes=25))
    assert caught.value.retry_after_seconds >= 1
    assert (await keeper.token()).expires_at > bench.clock.now()


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="known, began_at = replica.account, context.clock.now()",
    new=(
        "known, began_at = replica.account, context.clock.now()\n"
        "        await replica.update(lambda account: type(account)())"
    ),
    protects_from="a second login that fails, and costs the first",
)
async def test_a_failed_login_changes_nothing(bench: Bench) -> None:
    """A code that Xero refuses leaves the live login as it was."""
    keeper = await bench.logged_in()
    before = keeper.account
    with pytest.raises(LoginFailed, match="used before"):
        await keeper.login(bench.attempt(code=Secret("wrong")))
    assert keeper.account == before
    assert await keeper.token() == before.access


async def test_a_tenant_that_is_not_connected_fails_the_login(bench: Bench) -> None:
    """The message lists the organisations that are connected."""
    keeper = await bench.keeper()
    connected = next(iter(bench.sandbox.world.accounting.organisations.values()))
    with pytest.raises(LoginFailed, match=connected.tenant_id):
        await keeper.login(bench.attempt(tenant_id="11111111-1111-4111-8111-111111111111"))
    assert keeper.state is State.NO_CREDENTIALS
    await keeper.login(bench.attempt(tenant_id=connected.tenant_id))
    assert keeper.account.tenant_id == connected.tenant_id


async def test_a_login_whose_granted_scopes_fall_short_fails(bench: Bench) -> None:
    """Granted must hold all that was asked for; more is fine, since Xero's scopes add up."""
    keeper = await bench.keeper()
    with pytest.raises(LoginFailed, match=r"payroll\.settings"):
        await keeper.login(bench.attempt(scopes=(*SCOPES, "payroll.settings")))
    await keeper.login(bench.attempt(scopes=("offline_access",)))
    assert set(keeper.account.scopes_granted) == set(SCOPES)


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(
            "read",
            marks=pytest.mark.safeguard(
                file="keeping/login.py",
                old=(
                    "        lease = await held.enter_async_context(replica.locked())\n"
                    "        await context.store.check()\n"
                ),
                new="        lease = None\n        await context.store.check()\n",
                protects_from="a login that cannot be stored",
            ),
        ),
        pytest.param(
            "swap",
            marks=pytest.mark.safeguard(
                file="keeping/login.py",
                old="        await context.store.check()\n",
                new="",
                protects_from=(
                    "a login that only this process holds, and that an end at another process "
                    "revokes"
                ),
            ),
        ),
    ],
)
async def test_a_login_the_store_can_not_take_spends_no_code(bench: Bench, fails: str) -> None:
    """The store is read and tried before the code is exchanged: if that fails, the code is still good."""
    keeper = await bench.keeper()
    attempt = bench.attempt()
    bench.store.broken.add(fails)
    with pytest.raises(StoreUnavailable):
        await keeper.login(attempt)
    bench.store.broken.clear()
    await keeper.login(attempt)
    assert keeper.state is State.CONNECTED


async def test_events_name_tokens_by_fingerprint_only(bench: Bench) -> None:
    """No event shows a token, in its text or its fields."""
    keeper = await bench.logged_in()
    assert keeper.account.current is not None
    secret = keeper.account.current.value.reveal()
    await keeper.refresh()
    shown = " ".join(f"{event} {event!r}" for event in bench.events)
    assert secret not in shown
    assert keeper.account.current.value.reveal() not in shown
    assert fingerprint(secret) in shown


async def test_the_stores_own_rules(bench: Bench) -> None:
    """Compare-and-set: a version that moved is stale, and nothing is written."""
    store = MemoryStore()
    assert await store.read("a") is None
    first = await store.swap("a", b"1", expected=None)
    with pytest.raises(StaleWrite):
        await store.swap("a", b"2", expected=None)
    second = await store.swap("a", b"2", expected=first)
    with pytest.raises(StaleWrite):
        await store.swap("a", b"3", expected=first)
    assert await store.read("a") == Stored(b"2", second)
    assert await store.names() == ["a"]


# ------------------------------------------------------------------------------------- one safeguard each


@pytest.fixture
def leases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    """All the leases that are taken from now on."""
    taken: list[Lease] = []
    whole = bench.store.lease

    @asynccontextmanager
    async def noted(name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with whole(name, ttl_seconds) as lease:
            taken.append(lease)
            yield lease

    monkeypatch.setattr(bench.store, "lease", noted)
    return taken


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old=("                await self.read()\n                yield lease"),
    new="                yield lease",
    protects_from=(
        "acting on a record that another process has replaced: here, revoking its new login"
    ),
)
async def test_another_processs_login_cancels_a_pending_revocation(bench: Bench) -> None:
    """The process that was to tell Xero reads again first, and finds that its order is void."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    other = await bench.keeper()
    await other.login(bench.attempt())
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert revocations(bench) == 1
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="tasks.py",
    old="if (running := self.running) is not None:",
    new="if False:",
    protects_from="many callers that queue for the lease, one after the other",
)
async def test_many_callers_take_the_lease_once(bench: Bench, leases: list[Lease]) -> None:
    """They share one task, and don't queue at the store one after the other."""
    keeper = await bench.logged_in()
    leases.clear()
    bench.clock.advance(minutes=30)
    await asyncio.gather(*(keeper.token() for _ in range(64)))
    assert len(leases) == 1


@pytest.mark.safeguard(
    file="tasks.py",
    old="return await asyncio.shield(self.start(work))",
    new="return await self.start(work)",
    protects_from="a browser that is closed in the middle of a login",
)
async def test_a_browser_that_goes_away_does_not_end_the_login(bench: Bench) -> None:
    """The code is spent at Xero: what was issued for it is kept although nobody waits for it any more."""
    keeper = await bench.keeper()
    login = await bench.held_login(keeper)
    login.cancel()
    with pytest.raises(asyncio.CancelledError):
        await login
    bench.sandbox.release()
    while keeper._tasks.running:
        await asyncio.wait(keeper._tasks.running)
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at)\n"
        "    )"
    ),
    new=(
        "begun = begin_refresh(found, token, by=context.process, now=began_at)\n"
        "    asyncio.create_task(replica.compare_and_set(begun))"
    ),
    protects_from="a request that overtakes the write of its intent",
)
async def test_xero_is_asked_once_the_store_has_acknowledged_the_intent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: the write may take its time, and the process may die in it."""
    keeper = await bench.logged_in()
    write, asked, acknowledge = bench.store.swap, asyncio.Event(), asyncio.Event()

    async def slow(name: str, value: bytes, *, expected: str | None) -> str:
        asked.set()
        await acknowledge.wait()
        return await write(name, value, expected=expected)

    monkeypatch.setattr(bench.store, "swap", slow)
    refresh = asyncio.create_task(keeper.refresh())
    await asked.wait()
    await asyncio.wait([refresh], timeout=0.2)
    sent = len(bench.sandbox.refreshes())
    acknowledge.set()
    assert sent == 0
    await refresh
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="    if not context.may_send(lease):\n        return None\n",
    new="",
    protects_from=(
        "a suspended process that sends a token after its lease ran out: another "
        "process has spent it"
    ),
)
async def test_whoever_lost_his_lease_while_he_wrote_the_intent_sends_nothing(
    bench: Bench, leases: list[Lease]
) -> None:
    """Somebody else may be spending the token; the intent is there, and whoever looks next takes it up."""
    keeper = await bench.logged_in()
    bench.store.before_swap = lambda: leases[-1].lose()
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert bench.sandbox.refreshes() == []
    assert bench.kept().intent is not None
    await keeper.maintain()
    assert keeper.account.intent is None
    assert len(bench.sandbox.refreshes()) == 1


async def test_whoever_lost_his_lease_concludes_no_intent_at_an_end(
    bench: Bench, leases: list[Lease]
) -> None:
    """The end is written, and told to Xero by whoever has the lease."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.before_swap = lambda: leases[-1].lose()
    assert not await keeper.end(forget=False)
    assert len(bench.sandbox.refreshes()) == 1
    assert revocations(bench) == 0
    await keeper.maintain()
    assert keeper.state is State.REVOKED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="if not context.may_send(lease):",
    new="if context.is_foreign or not context.credentials:",
    protects_from="revoking the new login of the process that has taken the lease meanwhile",
)
async def test_whoever_lost_his_lease_revokes_nothing(bench: Bench, leases: list[Lease]) -> None:
    """Somebody may have logged in meanwhile, and Xero would end that login too."""
    keeper = await bench.logged_in()
    bench.store.before_swap = lambda: leases[-1].lose()
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    await keeper.login(bench.attempt())
    await keeper.maintain()
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="if replica.unsaved:",
    new="if False:",
    protects_from=(
        "a crash after the revocation and before the write: the store holds a login "
        "that Xero has ended"
    ),
)
async def test_xero_is_not_told_of_an_end_that_is_not_written(bench: Bench) -> None:
    """A process that died now would leave a login in the store that Xero has ended."""
    keeper = await bench.logged_in()
    bench.store.broken.add("swap")
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    assert bench.issues_from(keeper)
    bench.store.broken.clear()
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert keeper.state is State.REVOKED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return self.unsaved or self._holders > 0",
    new="return self._holders > 0",
    protects_from="another process's write that makes this one forget its new token",
)
async def test_what_is_held_is_not_dropped_for_what_another_process_wrote(bench: Bench) -> None:
    """Although the other one's generation is higher by now: the held token joins his record."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    bench.store.broken.clear()
    for _ in range(5):
        bench.overwrite(lambda account: account)
    assert bench.kept().generation > keeper.account.generation
    await keeper.follow()
    await keeper.maintain()
    kept = bench.kept()
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return theirs.write_id != seen.write_id",
    new="return False",
    protects_from="a token that a fail-over lost, after which another process wrote as often",
)
async def test_a_write_that_a_fail_over_lost_is_missed_although_another_took_its_generation(
    bench: Bench,
) -> None:
    """Two records of one generation are told apart by their write ids; the token of the lost one joins."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    await keeper.refresh()
    bench.store._kept["default"] = old
    while bench.kept().generation < keeper.account.generation:
        bench.overwrite(lambda account: account)
    (issued,) = [r.issued for r in bench.sandbox.refreshes()]
    await keeper._following.settle()
    assert bench.happened(StoreLostWrites) == 1
    kept = bench.kept()
    assert issued in [t.value.fingerprint for t in (kept.current, *kept.fallbacks) if t]


@pytest.mark.safeguard(
    file="lifecycle/expiry.py",
    old=("account = capped_to(account, timedelta(seconds=self.access_ends_at - elapsed), now)"),
    new="pass",
    protects_from="serving an expired access token after the clock was set back",
)
async def test_a_clock_that_steps_back_does_not_lengthen_a_life(bench: Bench) -> None:
    """A token seen 20 minutes ago has ten left, whatever the clock says, and is refreshed in time."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    first = await keeper.token()
    bench.clock.advance(minutes=20)
    wall.step(minutes=-20)
    assert (await keeper.token()).expires_at == first.expires_at - timedelta(minutes=20)
    bench.clock.advance(minutes=6)
    wall.step(minutes=-21)
    await keeper.maintain()
    assert (await keeper.token()).value != first.value
    assert len(bench.sandbox.refreshes()) == 1


async def test_a_replay_whose_life_is_over_is_followed_by_a_fresh_one(bench: Bench) -> None:
    """Xero gives the lost answer again, whose access token has died meanwhile: the next refresh follows at once."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches,
        sibling_mode=SiblingMode.SAME_RESPONSE,
        access_token_life_seconds=300,
    )
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    bench.clock.advance(minutes=3)
    await keeper.maintain()
    bench.clock.advance(minutes=6)
    token = await keeper.token()
    assert token.expires_at == bench.clock.now() + timedelta(minutes=5)
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["lost", "replayed", "issued"]


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="if outcome.refresh_token is None:",
    new="if False:",
    protects_from="a login that is over after half an hour",
)
async def test_a_login_without_a_refresh_token_fails_whatever_its_scopes(bench: Bench) -> None:
    """It would be over after half an hour; a login that was live before still is."""
    keeper = await bench.logged_in()
    before = keeper.account
    bench.sandbox.add_fault("token:nth=1:no-refresh-token")
    with pytest.raises(LoginFailed, match="no refresh token"):
        await keeper.login(bench.attempt())
    assert keeper.account == before


@pytest.mark.safeguard(
    file="keeping/keeper.py",
    old="self._ends_running += 1",
    new="self._ends_running += 0",
    protects_from="serving a token while its login is being ended",
)
async def test_nothing_is_served_while_an_end_waits_for_its_turn(bench: Bench) -> None:
    """Another process has the lease: who asked for the end is not to see a token handed out after it."""
    keeper = await bench.logged_in()
    async with bench.store.lease("default", 10):
        ending = asyncio.create_task(keeper.end(forget=False))
        await asyncio.wait([ending], timeout=0.05)
        assert keeper.account.consent_id is not None
        with pytest.raises(NotLoggedIn):
            await keeper.token()
    assert await ending


async def test_a_caller_who_comes_just_as_a_refresh_ends_does_not_wait_for_it_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He is next in the event loop, before anybody hears that it is over; it failed, and he gets his error too."""
    keeper = await bench.logged_in()
    callers: list[asyncio.Task[AccessToken]] = []
    lease = bench.store.lease

    @asynccontextmanager
    async def ends_with_a_caller(name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with lease(name, ttl_seconds) as held:
            yield held
        callers.append(asyncio.create_task(keeper.token()))

    monkeypatch.setattr(bench.store, "lease", ends_with_a_caller)
    bench.sandbox.add_fault("refresh:nth=1:reset")
    bench.clock.advance(minutes=31)
    with pytest.raises(TokenUnavailable):
        await keeper.token()
    with pytest.raises(TokenUnavailable):
        await callers[0]


async def test_an_old_dump_that_comes_back_under_a_refresh_is_not_gone_on_from(
    bench: Bench,
) -> None:
    """The store is restored while Xero is asked: its token was spent an hour ago, and spending it again may end all."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    await keeper.refresh()
    bench.clock.advance(hours=1)
    await keeper.maintain()
    refresh = await bench.held_refresh(keeper)
    bench.store._kept["default"] = old
    bench.sandbox.release()
    await refresh
    assert bench.happened(StoreLostWrites) == 1
    assert bench.issues_from(keeper)
    kept = bench.kept().current
    assert kept is not None
    assert kept.first_spent_at is None
    assert bench.sandbox.identity.would_issue(kept.value.reveal(), bench.clock.now())


async def test_a_host_whose_clock_is_behind_takes_no_token_from_the_others(bench: Bench) -> None:
    """To it, a good token comes from the future: it serves none, and leaves the others theirs while Xero is away."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:every:503-html")
    other = await bench.keeper(bench.clock.beside(minutes=-2))
    await other.maintain()
    with pytest.raises(TokenUnavailable):
        await other.token()
    await keeper._replica.read()
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)


async def test_a_refresh_that_failed_is_not_told_as_made_after_the_clock_stepped(
    bench: Bench,
) -> None:
    """The token that is there is dated anew at each look, and is still the same one."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    await keeper.token()
    wall.step(minutes=-1)
    bench.sandbox.add_fault("refresh:nth=1:503-html")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()


async def test_a_replay_is_as_old_as_its_first_request_although_the_clock_was_ahead(
    bench: Bench,
) -> None:
    """The lost answer's token has eight minutes left when it is given again, not the 28 that the clock makes of it."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches, sibling_mode=SiblingMode.SAME_RESPONSE
    )
    ahead = bench.clock.beside()
    keeper = await bench.keeper(ahead)
    await keeper.login(bench.attempt())
    ahead.step(minutes=20)
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.clock.advance(minutes=22)
    ahead.step(minutes=-20)
    await keeper.maintain()
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["lost", "replayed"]
    assert (await keeper.token()).expires_at == ahead.now() + timedelta(minutes=8)


async def test_a_logout_is_not_told_as_done_while_the_store_can_not_take_it(bench: Bench) -> None:
    """The revoked login's credentials are still there, and would be back after a crash."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=False)
    bench.store.broken = {"swap"}
    assert not await keeper.end(forget=True)
    bench.store.broken.clear()
    await keeper.maintain()
    assert bench.kept().client_secret is None


# ------------------------------------------------------------------------- sleep, and what overlaps in one process


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The machine sleeps for so many seconds: its monotonic clock stands still, the one since its boot goes on."""
    real, slept = time.clock_gettime, 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    monkeypatch.setattr(
        time, "clock_gettime", lambda c: real(c) + (slept if c == time.CLOCK_BOOTTIME else 0)
    )
    return sleep


@pytest.mark.safeguard(
    file="clock.py",
    old='if hasattr(time, "CLOCK_BOOTTIME"):',
    new="if False:",
    protects_from="a machine that wakes up with an intent of yesterday, and spends its token",
)
async def test_who_was_suspended_with_the_lease_spends_nothing(
    bench: Bench, suspended: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have gone on for hours meanwhile: the token whose intent was written is long out of its grace."""
    keeper = await bench.logged_in()
    lease = bench.store.lease

    @asynccontextmanager
    async def as_of_redis(name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with lease(name, ttl_seconds):
            yield Lease(ttl_seconds)

    monkeypatch.setattr(bench.store, "lease", as_of_redis)
    bench.store.before_swap = lambda: suspended(7200)
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert bench.sandbox.refreshes() == []


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="if lease.lost or not refused:",
    new="if not refused:",
    protects_from="a second attempt, hours after the first, that ends another process's login",
)
async def test_who_slept_past_his_lease_tries_no_other_secret(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero does not accept the secret of the settings; by then another process has a new login, which the second try
    would end."""
    keeper = await bench.logged_in()
    wrong = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret("mistyped"))
    other = await bench.keeper(configured=wrong)
    ask, lease = other._context.xero.revoke, bench.store.lease
    leases: list[Lease] = []

    @asynccontextmanager
    async def watched(name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with lease(name, ttl_seconds) as held:
            leases.append(held)
            yield held

    async def sleeping(credentials: Credentials, token: Secret) -> Any:
        outcome = await ask(credentials, token)
        if credentials == wrong:
            leases[-1].lose()
            bench.store.lapse()
            await keeper.login(bench.attempt())
        return outcome

    monkeypatch.setattr(bench.store, "lease", watched)
    monkeypatch.setattr(other._context.xero, "revoke", sleeping)
    assert not await other.end(forget=False)
    assert bench.issues_from(keeper)
    assert keeper.state is State.CONNECTED


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
async def test_what_is_held_while_another_act_is_at_the_store_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """Two acts of one process overlap, since one slept past its lease: whatever comes back from the store first, the
    new token is not forgotten."""
    keeper = await bench.logged_in()
    record = keeper._replica
    before = record.account
    swap, read = bench.store.swap, bench.store.read
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow_swap(name: str, value: bytes, *, expected: str | None) -> str:
        monkeypatch.setattr(bench.store, "swap", swap)
        version = await swap(name, value, expected=expected)
        reached.set()
        await go_on.wait()
        return version

    async def slow_read(name: str) -> Stored | None:
        monkeypatch.setattr(bench.store, "read", read)
        stored = await read(name)
        reached.set()
        await go_on.wait()
        return stored

    if during == "save":
        monkeypatch.setattr(bench.store, "swap", slow_swap)
        act = asyncio.create_task(record.compare_and_set(replace(before, tenant_id="another")))
    else:
        monkeypatch.setattr(bench.store, "read", slow_read)
        act = asyncio.create_task(record.read())
    await reached.wait()
    bench.store.broken |= {"swap", "read"}
    new = RefreshToken(value=Secret("new"), obtained_at=bench.clock.now())
    await record.commit(replace(before, fallbacks=(new,)), after=before)
    assert record.unsaved
    bench.store.broken.clear()
    go_on.set()
    await act
    await keeper.maintain()
    assert new in bench.kept().fallbacks
    assert not record.unsaved


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="return is_older or diverged(theirs, seen)",
    new="return is_older",
    protects_from="an old dump that other processes wrote on, until a live token was forgotten",
)
async def test_what_an_old_dumps_next_process_writes_drops_no_live_token(bench: Bench) -> None:
    """It has refreshed as often by then as the process which knows the live token."""
    keeper = await bench.logged_in()
    await keeper.refresh()
    bench.clock.advance(minutes=25)
    refresh = await bench.held_refresh(keeper)
    dump = bench.store._kept["default"]
    bench.sandbox.release()
    await refresh
    bench.clock.advance(minutes=10)
    await keeper.refresh()
    bench.clock.advance(minutes=21)
    bench.store._kept["default"] = dump
    other = await bench.keeper()
    await other.maintain()
    assert other.state is State.CONSENT_LOST
    assert bench.kept().generation > keeper.account.generation
    await keeper.follow()
    assert bench.happened(StoreLostWrites) == 1
    assert bench.issues_from(keeper)
    await keeper.maintain()
    await other.follow()
    assert keeper.state is other.state is State.CONNECTED


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="is_older = theirs.generation < seen.generation or theirs.epoch < seen.epoch",
    new="is_older = theirs.epoch < seen.epoch",
    protects_from="following an old dump of Redis that does not show a token as spent",
)
async def test_an_intent_that_the_store_has_lost_is_written_again(bench: Bench) -> None:
    """An old dump that holds the same tokens does not know that one of them was spent."""
    keeper = await bench.logged_in()
    dump = dict(bench.store._kept)
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store._kept = dump
    await keeper.follow()
    assert bench.happened(StoreLostWrites) == 1
    kept = bench.kept()
    assert kept.intent is not None
    assert kept.current is not None
    assert kept.current.first_spent_at == START


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("known = {token.fingerprint for token in theirs.tokens}.union(theirs.tombstones)"),
    new="known = {token.fingerprint for token in theirs.tokens}",
    protects_from="a token that was spent long ago, and is revived since a wrong clock dated it",
)
async def test_a_token_that_a_wrong_clock_dated_does_not_make_the_store_seem_restored(
    bench: Bench,
) -> None:
    """Who has slept through some rotations follows the record; what it knew was spent long ago, and is not revived."""
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
    assert asleep.account.write_id == bench.kept().write_id
    assert known is not None
    assert known.value not in [
        t.value for t in (asleep.account.current, *asleep.account.fallbacks) if t is not None
    ]


def late_reuse_kills(bench: Bench) -> None:
    """Xero ends the chain where a refresh token is used after its grace."""
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
async def test_a_successor_that_comes_late_is_what_is_tried_through_an_outage(
    bench: Bench, minutes: int
) -> None:
    """Its store was away from it, and another process asked Xero again meanwhile, which is away from then on."""
    late_reuse_kills(bench)
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"read", "swap"}
    bench.sandbox.release()
    await refresh
    (answered,) = bench.sandbox.refreshes()
    bench.store.broken.clear()
    bench.sandbox.add_fault("refresh:every:503-html")
    other = await bench.keeper()
    with pytest.raises(TokenUnavailable):
        await other.refresh()
    await keeper.maintain()
    assert bench.issues_from(keeper)
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
async def test_what_another_line_has_dropped_is_not_gone_on_from(bench: Bench) -> None:
    """A process that was cut off with a store of its own wrote more often; the others have rotated what it holds."""
    late_reuse_kills(bench)
    keeper = await bench.logged_in()
    cut_off = dict(bench.store._kept)
    other = await bench.keeper()
    for _ in range(3):
        bench.clock.advance(minutes=20)
        await other.refresh()
    gone_on, bench.store._kept = bench.store._kept, cut_off
    bench.sandbox.add_fault("refresh:every:429=1")
    for _ in range(10):
        bench.clock.advance(minutes=6)
        await keeper.maintain()
    assert keeper.account.generation > other.account.generation
    bench.store._kept = gone_on
    bench.sandbox.faults.clear()
    bench.clock.advance(minutes=6)
    await keeper.refresh()
    await other.follow()
    assert keeper.account == other.account
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)
    issued = [r for r in bench.sandbox.refreshes() if r.issued]
    assert [r.token for r in issued[1:]] == [r.issued for r in issued[:-1]]


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old="ours_first = has_lost or theirs.write_id == self._seen.account.write_id",
    new="ours_first = has_lost",
    protects_from="taking a record that was sealed with a new key for another process's write",
)
async def test_a_record_that_was_sealed_anew_does_not_hide_what_a_process_holds(
    bench: Bench,
) -> None:
    """The key is changed while a new token waits for the store: that token is the next to be spent."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    refresh = await bench.held_refresh(keeper)
    bench.store.broken.add("swap")
    bench.sandbox.release()
    await refresh
    assert keeper.unsaved
    bench.store.broken.clear()
    sealed = bench.sealer.seal(encode(bench.kept()), "account", {"name": "default"})
    bench.store._kept["default"] = Stored(sealed, "sealed-anew")
    known = keeper.account
    await keeper._following.settle()
    assert bench.kept().refreshed_at == known.refreshed_at
    await keeper.refresh()
    issued = bench.sandbox.refreshes()
    assert [r.token for r in issued[1:]] == [r.issued for r in issued[:-1]]
    assert bench.kept().write_id == keeper.account.write_id


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old=(
        "return intent.also_open if intent.fingerprint == token.fingerprint else intent.fingerprint"
    ),
    new="return None",
    protects_from=(
        "a 429 that puts off for an hour a refresh that must come within the grace period"
    ),
)
async def test_a_doubt_stays_open_when_another_token_is_not_spent(bench: Bench) -> None:
    """Who slept and then sent has killed what the others got: a 429 for that token puts it off by minutes only."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches, sibling_mode=SiblingMode.LAST_VALID_WITH_DESCENDANTS
    )
    keeper = await bench.logged_in()
    await keeper.refresh()
    (spent,) = bench.kept().fallbacks
    bench.sandbox.identity.refresh(Client(), spent.value.reveal(), bench.clock.now())
    late = Intent(
        by="slept:1",
        began_at=bench.clock.now(),
        fingerprint=spent.value.fingerprint,
        set_first_spent=False,
    )
    bench.overwrite(lambda account: replace(account, intent=late))
    bench.sandbox.add_fault("refresh:nth=1:429=3600")
    await keeper.follow()
    await keeper.maintain()
    assert bench.kept().intent is not None
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="lifecycle/expiry.py",
    old="if account.retry_not_before != self.wait:",
    new="if self.wait is None:",
    protects_from=(
        "a wait after a 429 that outlasts its login, and holds up a lost response of the next one"
    ),
)
async def test_a_wait_of_ones_own_ends_soon_where_others_have_gone_on(bench: Bench) -> None:
    """A wait of four minutes, which a 429 demands, does not hold up a lost response of the next login."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:429=240")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    other = await bench.keeper()
    await other.login(bench.attempt())
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await other.refresh()
    assert bench.kept().intent is not None
    await keeper.follow()
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.kept().intent is None


async def test_a_secret_that_was_mended_is_tried_when_somebody_asks(bench: Bench) -> None:
    """After a restart, the wait that the wrong one brought does not hold up who asks for a refresh."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    mended = await bench.keeper()
    await mended.maintain()
    assert len(bench.sandbox.refreshes()) == 1
    await mended.refresh()
    assert mended.state is State.CONNECTED


async def test_it_is_told_how_long_a_refresh_was_due(bench: Bench) -> None:
    """Also where tries failed before, each of which had stamped the token."""
    keeper = await bench.logged_in()
    due_at = scheduled_refresh_at(keeper.account, keeper.policy)
    bench.sandbox.add_fault("refresh:first=3:429=1")
    bench.clock.advance(minutes=25)
    for _ in range(5):
        await keeper.maintain()
        bench.clock.advance(seconds=30)
    (told,) = [event for event in bench.events if isinstance(event, Refreshed)]
    assert (told.failed_attempts, told.due_at) == (3, due_at)


async def test_a_store_that_hangs_keeps_no_caller_from_a_good_token(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh goes on; who asked is served what is left of the old token, and else told that it takes long."""
    monkeypatch.setattr("xots.keeping.refreshing.SERVABLE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr("xots.keeping.refreshing.ADDITIONAL_TIMEOUT_SECONDS", 0.02)
    keeper = await bench.logged_in()
    swap, go_on = bench.store.swap, asyncio.Event()

    async def hang(name: str, value: bytes, *, expected: str | None) -> str:
        await go_on.wait()
        return await swap(name, value, expected=expected)

    monkeypatch.setattr(bench.store, "swap", hang)
    old = keeper.account.access
    bench.clock.advance(minutes=29, seconds=10)
    assert await asyncio.gather(keeper.token(), keeper.token()) == [old, old]
    with pytest.raises(TokenUnavailable, match="a refresh is in progress"):
        await keeper.token(timedelta(minutes=10))
    with pytest.raises(
        TokenUnavailable, match=r"in progress.*/token returns the old access token until"
    ):
        await keeper.refresh()
    go_on.set()
    assert await keeper.token(timedelta(minutes=10)) != old
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="        concluded = sending.issued(concluded, now, clock.elapsed())\n",
    new="",
    protects_from=(
        "serving a token that expired before its response was read, since the clock "
        "was set meanwhile"
    ),
)
async def test_an_answer_that_was_slept_through_is_dead_whatever_the_clock_was_set_to(
    bench: Bench,
) -> None:
    """Asked for by a clock that is ahead, which is mended in the sleep: its token ended, here and for the others."""
    ahead = bench.clock.beside(days=1)
    slept = await bench.keeper(ahead)
    await slept.login(bench.attempt())
    other = await bench.keeper()
    refresh = await bench.held_refresh(slept)
    bench.clock.advance(hours=1)
    ahead.step(days=-1)
    swap, go_on = bench.store.swap, asyncio.Event()

    async def hang(name: str, value: bytes, *, expected: str | None) -> str:
        await go_on.wait()
        return await swap(name, value, expected=expected)

    bench.store.swap = hang  # type: ignore[method-assign]
    bench.sandbox.release()
    async with asyncio.timeout(10):
        while not slept.unsaved:
            await asyncio.sleep(0)
    served_unsaved = slept.can_serve
    bench.store.swap = swap  # type: ignore[method-assign]
    bench.sandbox.add_fault("refresh:every:503-html")
    go_on.set()
    await refresh
    await other.follow()
    assert not served_unsaved
    assert not slept.can_serve
    assert not other.can_serve


async def test_a_token_that_was_minted_for_a_caller_is_served_to_him(bench: Bench) -> None:
    """Its answer took so long that less is left than he asked for, and no other could give him more."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=10)
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    asked = asyncio.create_task(keeper.token(timedelta(hours=1)))
    await bench.sandbox.held()
    bench.clock.advance(minutes=4)
    bench.sandbox.release()
    assert (await asked).issued_at == START + timedelta(minutes=10)
    assert len(bench.sandbox.refreshes()) == 1


async def test_a_short_life_is_not_lengthened_by_a_small_step_back(bench: Bench) -> None:
    """A clock that steps back by less than the last seconds of a long-lived token."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches, access_token_life_seconds=12
    )
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    bench.sandbox.add_fault("refresh:every:503-html")
    bench.clock.advance(seconds=13)
    wall.step(-4.9)
    with pytest.raises(TokenUnavailable):
        await keeper.token()


# ------------------------------------------------------------------------------------------- what is told of it


async def test_that_something_is_held_is_told_although_the_store_failed_before(
    bench: Bench,
) -> None:
    """An operator who knows that the store is away must still learn that this process is not to be ended."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    keeper._replica.failed(StoreUnavailable("the disk is gone"))
    bench.sandbox.release()
    await refresh
    assert [e.unsaved for e in bench.events if isinstance(e, StoreDegraded)] == [False, True]


async def test_the_log_names_the_next_try_of_the_outlook(bench: Bench) -> None:
    """A refresh that was asked for before it was due failed without spending its token: the next is tried when due."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    with pytest.raises(
        TokenUnavailable,
        match=r"correct the client id.*the next request to Xero is at 12:\d\d:\d\d UTC",
    ):
        await keeper.refresh()
    (failed,) = [event for event in bench.events if isinstance(event, RefreshFailed)]
    assert (
        failed.next_attempt_at
        == keeper.outlook.next_attempt_at
        == bench.clock.now() + timedelta(minutes=25)
    )


async def test_an_answer_without_a_refresh_token_is_a_warning(bench: Bench) -> None:
    """It may have been lost on the way, and the grace is short."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:no-refresh-token")
    await keeper.refresh()
    (missing,) = [event for event in bench.events if isinstance(event, RefreshTokenMissing)]
    assert missing.level == logging.WARNING
    assert missing.grace_ends_at == bench.clock.now() + timedelta(minutes=30)
    assert (
        "is spent again, next attempt at 12:00:01 UTC or later. Xero accepts it again until 12:30"
        in str(missing)
    )
    bench.clock.advance(minutes=1)
    await keeper.maintain()
    assert bench.happened(RefreshTokenMissing) == 1


@pytest.mark.parametrize("fault", ["503-html", "invalid-client"])
async def test_who_was_overtaken_calls_nothing_failed(bench: Bench, fault: str) -> None:
    """He slept past his lease, and another process has refreshed: what came of his own try matters no more."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    bench.sandbox.add_fault("refresh:nth=1:hold-before")
    bench.sandbox.add_fault(f"refresh:nth=1:{fault}")
    refresh = asyncio.create_task(keeper.refresh())
    await bench.sandbox.held()
    bench.store.lapse()
    await other.refresh()
    bench.sandbox.release()
    await refresh
    assert bench.happened(RefreshFailed) == 0
    assert keeper.account.failed_attempts == 0


async def test_what_ends_with_a_process_that_knows_more_than_a_rolled_back_store_is_told(
    bench: Bench,
) -> None:
    """The store holds an old dump and takes no writes: no refresh of its tokens can be promised."""
    keeper = await bench.logged_in()
    await keeper.refresh()
    dump = bench.store._kept["default"]
    for _ in range(4):
        bench.clock.advance(minutes=25)
        await keeper.maintain()
    bench.store._kept["default"] = dump
    bench.store.broken.add("swap")
    await keeper.follow()
    assert keeper.unsaved
    told = list(explanation(keeper, keeper.outlook, bench.clock.now()))
    assert told[-1] == "If it ends, a user may have to log in: the store holds an older record."
    assert all("can be repeated" not in str(event) for event in bench.events)
    bench.store.broken.clear()
    await keeper.maintain()
    assert not keeper.rolled_back
    assert bench.issues_from(keeper)


async def test_a_life_that_xero_shortens_makes_no_storm(bench: Bench) -> None:
    """The new tokens count, although the one before them still lives longer."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=10)
    switches = dataclasses.replace(bench.sandbox.identity.switches, access_token_life_seconds=300)
    bench.sandbox.identity.switches = switches
    for _ in range(40):
        bench.clock.advance(seconds=15)
        await keeper.token(timedelta(minutes=22))
    assert len(bench.sandbox.refreshes()) <= 25


async def test_what_is_read_while_another_act_writes_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is older than what was written meanwhile, and no sign that the store has lost anything."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    read = bench.store.read
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(name: str) -> Stored | None:
        monkeypatch.setattr(bench.store, "read", read)
        stored = await read(name)
        reached.set()
        await go_on.wait()
        return stored

    monkeypatch.setattr(bench.store, "read", slow)
    bench.store.lapse()
    settling = asyncio.create_task(keeper._following.settle())
    await reached.wait()
    bench.sandbox.release()
    await refresh
    go_on.set()
    await settling
    assert bench.happened(StoreLostWrites) == 0
    assert keeper.account.intent is None


async def test_who_can_not_be_served_any_more_waits_for_the_refresh(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero is slow, and the old access token runs out while the caller waits."""
    monkeypatch.setattr("xots.keeping.refreshing.SERVABLE_TIMEOUT_SECONDS", 0.02)
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=29, seconds=51)
    bench.sandbox.add_fault("refresh:nth=1:hold-before")
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    bench.clock.advance(seconds=5)
    done, _ = await asyncio.wait([caller], timeout=0.1)
    assert not done
    bench.sandbox.release()
    assert (await caller).expires_at > bench.clock.now()


async def test_a_rolled_back_store_that_takes_the_next_write_is_no_more_so(bench: Bench) -> None:
    """Whatever is held after that is one refresh ahead of the store, as ever."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    await keeper.refresh()
    bench.store._kept["default"] = old
    bench.store.broken.add("swap")
    await keeper.follow()
    assert keeper.rolled_back
    bench.store.broken.clear()
    await keeper._replica.compare_and_set(keeper._replica.account)
    assert not keeper.unsaved
    assert not keeper.rolled_back


# ------------------------------------------------------------------------------ logins and clocks


@pytest.mark.safeguard(
    file="keeping/login.py",
    old=(
        "            await held.aclose()\n"
        "\n"
        "        # 2. Exchange the code, and list the organisations of the login.\n"
        "        issued, token = await _exchange(context, attempt)\n"
    ),
    new=(
        "            issued, token = await _exchange(context, attempt)\n"
        "            await held.aclose()\n"
        "        else:\n"
        "            issued, token = await _exchange(context, attempt)\n"
    ),
    protects_from="an invented code that delays a refresh, since its exchange holds the lease",
)
async def test_a_code_exchange_does_not_delay_a_refresh(bench: Bench) -> None:
    """Another process refreshes the login before while Xero holds back the token response."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    refresh = asyncio.create_task(other.refresh())
    done, _ = await asyncio.wait([refresh], timeout=5)
    bench.sandbox.release()
    assert done
    await refresh
    await login
    assert len(bench.sandbox.refreshes()) == 1
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="    if replica.account.consent_id != login.consent_id:\n",
    new="    if False:\n",
    protects_from="a login that is reported as made, and that Xero has ended",
)
@pytest.mark.parametrize("seconds", [0, 1])
async def test_an_end_that_is_recorded_during_a_code_exchange_wins(
    bench: Bench, seconds: int
) -> None:
    """The login fails, the record holds none, and Xero revokes the tokens of the exchange."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    bench.clock.advance(seconds)
    assert await other.end(forget=False)
    bench.clock.advance(seconds)
    bench.sandbox.release()
    with pytest.raises(LoginFailed, match="recorded at the same time"):
        await login
    assert bench.kept().consent_id is None
    assert keeper.state is State.REVOKED
    await keeper.maintain()
    assert bench.kept().tokens == ()
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="        if known.revocation is None:\n            await held.aclose()\n",
    new="        await held.aclose()\n",
    protects_from="a revocation of the login before that ends the new one during its exchange",
)
async def test_a_code_exchange_keeps_an_unconfirmed_revocation_waiting(bench: Bench) -> None:
    """Another process is due to retry the revocation, and finds the new login instead."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    bench.clock.advance(minutes=2)
    tick = asyncio.create_task(other.maintain())
    await asyncio.wait([tick], timeout=0.2)
    sent = revocations(bench)
    bench.sandbox.release()
    await login
    await tick
    assert (sent, revocations(bench)) == (1, 1)
    assert keeper.state is other.state is State.CONNECTED
    assert bench.issues_from(keeper)


@pytest.mark.safeguard(
    file="lifecycle/expiry.py",
    old="return structs.replace(account, retry_not_before=ends_at)",
    new="return account",
    protects_from="a clock that is set forward: requests to Xero before the wait of a 429 is over",
)
@pytest.mark.parametrize("step_minutes", [60, -8], ids=["forward", "back"])
async def test_a_step_of_the_clock_leaves_the_wait_of_a_429_as_long_as_it_was(
    bench: Bench, step_minutes: int
) -> None:
    """Ten minutes after a 429 that demands them, and not before, the next request goes out."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    bench.sandbox.add_fault("refresh:nth=1:429=600")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    wall.step(minutes=step_minutes)
    bench.clock.advance(minutes=9, seconds=59)
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert len(bench.sandbox.refreshes()) == 1
    bench.clock.advance(seconds=2)
    await keeper.refresh()
    assert [r.outcome for r in bench.sandbox.refreshes()][1:] == ["issued"]


@pytest.mark.safeguard(
    file="keeping/following.py",
    old="if self.skew is None or self.skew.host != found.host:",
    new="if True:",
    protects_from="the same report of clocks that differ at every tick",
)
async def test_a_record_from_the_future_is_reported_once(bench: Bench) -> None:
    """The process that finds it reports a difference of clocks at its start, not at each tick."""
    writer = await bench.keeper(bench.clock.beside(minutes=3))
    await writer.login(bench.attempt())
    bench.sandbox.add_fault("refresh:every:503-html")
    keeper = await bench.keeper()
    for _ in range(4):
        bench.clock.advance(seconds=15)
        await keeper.maintain()
        assert keeper.clock_skew is not None
    skews = [event for event in bench.events if isinstance(event, ClockSkewed)]
    assert [skew.ahead for skew in skews] == [timedelta(minutes=3)]
    assert writer.clock_skew is None


async def test_a_clock_that_was_set_back_is_reported_although_a_refresh_dates_the_record_anew(
    bench: Bench,
) -> None:
    """A refresh that is due overwrites the only date which shows it, so it is noted before."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    bench.clock.advance(minutes=26)
    wall.step(minutes=-40)
    await keeper.maintain()
    assert bench.happened(Refreshed) == 1
    (skew,) = [event for event in bench.events if isinstance(event, ClockSkewed)]
    assert (skew.host, skew.ahead) == ("the host of the last login", timedelta(minutes=14))


async def test_a_look_at_a_store_without_news_takes_no_lease(
    bench: Bench, leases: list[Lease]
) -> None:
    """Every tick looks; a lease would keep the other processes waiting."""
    keeper = await bench.logged_in()
    taken = len(leases)
    await keeper.follow()
    assert len(leases) == taken


async def test_an_end_ends_the_wait_for_a_login_that_was_started(bench: Bench) -> None:
    """The account says that it was revoked, and waits for nobody."""
    keeper = await bench.logged_in()
    keeper.login_started()
    assert await keeper.end(forget=False)
    assert keeper.state is State.REVOKED


async def test_a_caller_whose_login_ends_while_it_waits_is_told_so(bench: Bench) -> None:
    """Its refresh succeeds late, for a login that another process has ended meanwhile."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    bench.clock.advance(minutes=29, seconds=30)
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    bench.store.lapse()
    await other.end(forget=False)
    bench.sandbox.release()
    with pytest.raises(NotLoggedIn):
        await caller


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("invalid-client", "Xero does not accept the client id and secret"),
        ("503-html", "has status 503 and says nothing about the token; log in again"),
        ("reset", "Connection reset by peer; log in again"),
    ],
)
async def test_a_login_that_xero_does_not_take_says_why(
    bench: Bench, fault: str, says: str
) -> None:
    """Each failure has advice of its own."""
    keeper = await bench.keeper()
    bench.sandbox.add_fault(f"token:every:{fault}")
    with pytest.raises(LoginFailed, match=says):
        await keeper.login(bench.attempt())


async def test_a_revocation_that_meets_a_failed_store_says_why(bench: Bench) -> None:
    """It is due again once the store works."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    bench.clock.advance(minutes=2)
    bench.store.broken.add("read")
    await keeper.maintain()
    assert keeper.store_problem == "the disk is gone"
    bench.store.broken.clear()
    await keeper.maintain()
    await keeper.maintain()
    assert keeper.account.revocation is None
