"""Logins, ends and choices that overlap, and the reports that follow from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace as with_changes
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import START, Bench, eventually, revocations

from xots.backends.base import Lease, TokenStore
from xots.backends.memory import MemoryStore
from xots.errors import LoginFailed, StoreUnavailable, TokenUnavailable, UnknownTenant
from xots.events import (
    ClockSkewed,
    ConsentWasLost,
    LoginEnded,
    RecordFollowed,
    Revoked,
    StoreDegraded,
    StoreRecovered,
)
from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.outcomes import Issued, Refused, Throttled, Unknown
from xots.lifecycle.outlook import Retrying, outlook, why_lost
from xots.lifecycle.schedule import Policy, State, candidates
from xots.lifecycle.transitions import (
    after,
    after_end,
    after_login,
    after_revocation_failed,
    begin_refresh,
)
from xots.secret import Secret

POLICY = Policy()
MINUTE = timedelta(minutes=1)


# ---------------------------------------------------------------------------------- logins


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="            began_at=began_at,\n",
    new="            began_at=context.clock.now(),\n",
    protects_from="a login that replaces one which was begun later, because Xero was slow",
)
async def test_two_logins_at_once_after_a_logout_leave_one(bench: Bench) -> None:
    """The one that began later wins, and the other one's user is told that there is a login."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=False)
    other = await bench.keeper()
    bench.clock.advance(1)
    first = await bench.held_login(keeper)
    bench.clock.advance(1)
    await other.login(bench.attempt())
    bench.clock.advance(1)
    bench.sandbox.release()
    with pytest.raises(LoginFailed, match="another login"):
        await first
    await keeper.follow()
    assert keeper.account.consent_id == other.account.consent_id
    assert keeper.state is State.CONNECTED
    assert bench.issues_from(keeper)


async def test_a_login_that_began_earlier_does_not_replace_one_after_an_end(bench: Bench) -> None:
    """Xero ended its tokens with the login before it: the login made since is the live one."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    first = await bench.held_login(keeper)
    bench.clock.advance(1)
    assert await other.end(forget=False)
    await other.login(bench.attempt())
    bench.sandbox.release()
    with pytest.raises(LoginFailed, match="recorded at the same time"):
        await first
    assert bench.kept().consent_id == other.account.consent_id
    assert bench.issues_from(other)


@pytest.mark.parametrize(
    "behind",
    [
        0,
        pytest.param(
            9,
            marks=pytest.mark.safeguard(
                file="keeping/login.py",
                old="was_ended = found.ended_at != known.ended_at",
                new="was_ended = False",
                protects_from="a login that the record shows as live, and that Xero has ended",
            ),
        ),
    ],
)
async def test_an_end_during_an_exchange_wins_whatever_the_clocks_show(
    bench: Bench, behind: int
) -> None:
    """Also if the clock of the host that ends the login is some seconds behind."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    other = await bench.keeper(bench.clock.beside(-behind))
    login = await bench.held_login(keeper)
    assert await other.end(forget=False)
    bench.sandbox.release()
    with pytest.raises(LoginFailed):
        await login
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="was_ended or (known.revocation is not None and lease.lost)",
    new="was_ended",
    protects_from="a login that was suspended under its lease, and that Xero has ended since",
)
@pytest.mark.safeguard(
    file="keeping/login.py",
    old="            login = replace(login, consented_at=known.epoch - timedelta(microseconds=1))\n",
    new="            pass\n",
    protects_from="a login that Xero has ended, and that is newer than that end by a wrong clock",
)
async def test_a_login_that_lost_its_lease_under_a_pending_revocation_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have told Xero of the end meanwhile, which ends the new login too."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:503-html")
    assert not await keeper.end(forget=False)
    login = await bench.held_login(keeper)
    bench.store.lapse()
    other = await bench.keeper()
    bench.clock.advance(minutes=2)
    await other.maintain()
    assert revocations(bench) == 2
    monkeypatch.setattr(Lease, "lost", True)
    bench.sandbox.release()
    with pytest.raises(LoginFailed):
        await login
    monkeypatch.undo()
    assert bench.kept().consent_id is None


async def test_an_end_without_a_login_ends_the_one_that_is_being_exchanged(bench: Bench) -> None:
    """The user revoked after the login was begun, and is told that it is done."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=False)
    bench.clock.advance(1)
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    bench.clock.advance(1)
    assert await other.end(forget=False)
    assert bench.happened(LoginEnded) == 1
    bench.sandbox.release()
    with pytest.raises(LoginFailed):
        await login
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_an_end_that_xero_is_being_told_of_wins_over_a_login_that_lost_its_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero has carried it out, and its response is still on the way when the login is recorded."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:503-html")
    assert not await keeper.end(forget=False)
    login = await bench.held_login(keeper)
    other = await bench.keeper()
    bench.clock.advance(minutes=2)
    bench.store.lapse()
    bench.sandbox.add_fault("revocation:nth=1:hold-after")
    telling = asyncio.create_task(other.maintain())
    await bench.sandbox.held(2)
    monkeypatch.setattr(Lease, "lost", True)
    bench.sandbox.release(1)
    with pytest.raises(LoginFailed):
        await login
    monkeypatch.undo()
    bench.sandbox.release()
    await telling
    for each in (keeper, other):
        await each.follow()
        await each.maintain()
    assert bench.kept().consent_id is None
    assert not keeper.can_serve
    assert not other.can_serve


OFF = [timedelta(days=1), timedelta(days=-1), timedelta(minutes=27), timedelta(minutes=-27)]


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("fault", [None, "refresh:every:429=600", "refresh:nth=3:lost"])
async def test_hosts_whose_clocks_differ_lose_no_refresh_token(
    bench: Bench, off: timedelta, fault: str | None
) -> None:
    """Extra refreshes and errors may happen, and the difference is reported; a served token lives."""
    right = await bench.logged_in()
    wrong = await bench.keeper(bench.clock.beside(off.total_seconds()))
    if fault is not None:
        bench.sandbox.add_fault(fault)
    for _ in range(40):
        bench.clock.advance(60)
        for keeper in (right, wrong):
            await keeper.follow()
            await keeper.maintain()
            try:
                access = await keeper.token()
            except TokenUnavailable:
                continue
            bench.sandbox.identity.check_access(access.value.reveal(), bench.clock.now())
        assert bench.issues_from(right)
    assert bench.happened(ConsentWasLost) == 0
    bench.sandbox.faults.clear()
    bench.clock.advance(minutes=61)
    for keeper in (right, wrong):
        await keeper.follow()
        await keeper.maintain()
    assert right.state is State.CONNECTED
    assert bench.happened(ClockSkewed) >= 1


async def test_a_login_keeps_the_time_of_the_last_end(bench: Bench) -> None:
    """An end during a later exchange is told by it."""
    keeper = await bench.logged_in()
    bench.clock.advance(1)
    await keeper.end(forget=False)
    ended_at = keeper.account.ended_at
    bench.clock.advance(1)
    await keeper.login(bench.attempt())
    assert keeper.account.ended_at == ended_at == bench.clock.now() - timedelta(seconds=1)


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="if context.replica.account.consent_id != consent_id:",
    new="if False:",
    protects_from="programs that post to an organisation of another login",
)
async def test_an_organisation_is_not_chosen_for_another_login(bench: Bench) -> None:
    """The list was of the login before: its organisation may not be connected to the new one."""
    keeper = await bench.logged_in()
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    bench.sandbox.add_fault("connections:nth=1:hold-before")
    choice = asyncio.create_task(keeper.choose_tenant(tenant_id))
    await bench.sandbox.held()
    other = await bench.keeper()
    bench.clock.advance(1)
    other_login = asyncio.create_task(other.login(bench.attempt()))
    await asyncio.wait([other_login], timeout=0.2)
    bench.sandbox.release()
    await other_login
    with pytest.raises(UnknownTenant, match="has changed meanwhile"):
        await choice


# ---------------------------------------------------------------------------------- ends


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="    except StoreUnavailable:\n        return  #",
    new="    except StoreUnavailable:\n        raise  #",
    protects_from="a logout on a full disk that ends nothing, since a refresh is open",
)
async def test_an_end_with_an_open_refresh_is_held_while_the_store_takes_no_writes(
    bench: Bench,
) -> None:
    """Nothing is served, Xero is not told, and both follow once the store works."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.broken.add("swap")
    assert not await keeper.end(forget=False)
    assert keeper.unsaved
    assert not keeper.can_serve
    assert revocations(bench) == 0
    bench.store.broken.clear()
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


def test_a_revocation_waits_as_long_as_a_429_demands() -> None:
    """As a refresh does."""
    now = START
    ended = after_end(logged_in(), forget=False, now=now)
    demanded = Throttled(detail="429", retry_after=10 * MINUTE)
    waiting = after_revocation_failed(ended, demanded, now=now, policy=POLICY, jitter=0.0)
    assert waiting.retry_not_before == now + 10 * MINUTE
    plain = Throttled(detail="429")
    waiting = after_revocation_failed(ended, plain, now=now, policy=POLICY, jitter=0.5)
    assert waiting.retry_not_before == now + POLICY.first_backoff * 0.5


async def test_a_closed_keeper_says_that_the_server_is_stopping(bench: Bench) -> None:
    """A program that requests a token just then is told when to come back; the tick does nothing."""
    keeper = await bench.logged_in()
    await keeper.close()
    bench.clock.advance(minutes=31)
    with pytest.raises(TokenUnavailable, match="the server is stopping"):
        await keeper.token()
    with pytest.raises(TokenUnavailable, match="the server is stopping"):
        await keeper.refresh()
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []


async def test_the_tick_takes_no_lease_for_another_identity_servers_login(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is to be done with it here."""
    await bench.logged_in()
    stranger = await bench.keeper()
    elsewhere = with_changes(stranger._context.xero.endpoints, token_url="http://127.0.0.1:1/token")
    stranger._context.xero.endpoints = elsewhere
    taken: list[str] = []
    monkeypatch.setattr(bench.store, "lease", lambda name, ttl: taken.append(name))
    bench.clock.advance(minutes=40)
    await stranger.maintain()
    with pytest.raises(TokenUnavailable, match="another identity server"):
        await stranger.token()
    assert taken == []


async def test_a_keeper_closes_neither_its_store_nor_its_client(bench: Bench) -> None:
    """The code that opened them does."""
    keeper = await bench.logged_in()
    closed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.store, "close", lambda: closed.append("store"))
        patch.setattr(keeper._context.xero, "close", lambda: closed.append("client"))
        await keeper.close()
    assert closed == []


# ---------------------------------------------------------------------------------- reports


async def test_a_record_of_ones_own_is_not_reported_as_another_processs(bench: Bench) -> None:
    """After lost writes, this process writes the record again."""
    keeper = await bench.logged_in()
    old = bench.store._kept["default"]
    await keeper.refresh()
    bench.store._kept["default"] = old
    await keeper.follow()
    assert bench.kept().write_id == keeper.account.write_id
    assert bench.happened(RecordFollowed) == 0


@pytest.mark.parametrize("forget", [False, True])
async def test_an_end_is_reported_once(bench: Bench, forget: bool) -> None:
    """With the fate of the credentials, and apart from Xero's own confirmation."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=forget)
    ends = [event for event in bench.events if isinstance(event, LoginEnded)]
    assert [event.forgotten for event in ends] == [forget]
    assert bench.happened(Revoked) == 1


async def test_the_reason_of_a_degraded_store_is_the_stores_own(bench: Bench) -> None:
    """Also where the write of an intent is the first to fail."""
    keeper = await bench.logged_in()
    bench.store.broken.add("swap")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    (degraded,) = [event for event in bench.events if isinstance(event, StoreDegraded)]
    assert degraded.reason == keeper.store_problem == "the disk is full"


async def test_the_watch_goes_on_after_a_store_that_could_not_tell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, expected_log: Any
) -> None:
    """Whether the store fails as a store does, or raises something else, a later write is seen."""
    monkeypatch.setattr("xots.keeping.following.RETRY_INTERVAL_SECONDS", 0)
    changes, errors = bench.store.changes, [StoreUnavailable("away"), KeyError("a bug")]

    async def failing(name: str, every_seconds: float = 0.01) -> AsyncIterator[None]:
        if errors:
            raise errors.pop()
        async for change in changes(name, every_seconds=every_seconds):
            yield change

    monkeypatch.setattr(bench.store, "changes", failing)
    monkeypatch.setattr(bench.store, "shared", True)
    expected_log("following the store failed")
    keeper, other = await bench.keeper(), await bench.keeper()
    await other.login(bench.attempt())
    await eventually(lambda: keeper.state is State.CONNECTED)
    assert errors == []


async def test_the_store_has_recovered_once_everything_is_written(bench: Bench) -> None:
    """When that is reported, nothing exists in this process only."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.broken |= {"swap", "read"}
    bench.sandbox.release()
    await refresh
    unsaved: list[bool] = []
    keeper.observe(
        lambda event: unsaved.append(keeper.unsaved) if isinstance(event, StoreRecovered) else None
    )
    bench.store.broken.clear()
    await keeper.maintain()
    assert unsaved == [False]


def logged_in() -> Account:
    return after_login(
        Account(),
        issued("r0"),
        consent_id="c",
        client_id="client",
        client_secret=None,
        token_url="https://id.example/token",
        tenant_id=None,
        scopes_requested=("offline_access",),
        began_at=START,
    )


def issued(token: str | None) -> Issued:
    refresh_token = Secret(token) if token else None
    return Issued(access_token=Secret("a"), lifetime=30 * MINUTE, refresh_token=refresh_token)


def attempted(account: Account, outcome: object, minutes: int) -> Account:
    at = START + minutes * MINUTE
    account = begin_refresh(account, candidates(account, at, POLICY)[0], by="h:1", now=at)
    return after(account, outcome, now=at, policy=POLICY, jitter=0.5)  # type: ignore[arg-type]


def test_a_server_that_does_not_rotate_is_known_to_until_it_does() -> None:
    """Two responses without a refresh token tell; later refreshes are reported as any other."""
    account = attempted(logged_in(), issued(None), 25)
    assert account.rotates
    assert outlook(account, START + 25 * MINUTE, POLICY).retrying is Retrying.MISSING_TOKEN
    account = attempted(account, issued(None), 26)
    assert (account.rotates, account.responses_without_token, account.intent) == (False, 0, None)
    at = START + 51 * MINUTE
    begun = begin_refresh(account, candidates(account, at, POLICY)[0], by="h:1", now=at)
    assert outlook(begun, at, POLICY).retrying is Retrying.UNDER_WAY
    lost = after(begun, Unknown(detail="reset"), now=at, policy=POLICY, jitter=0.5)
    assert outlook(lost, at, POLICY).retrying is Retrying.LOST_RESPONSE
    account = attempted(lost, issued(None), 52)
    assert (account.rotates, account.intent) == (False, None)
    account = attempted(account, issued("r1"), 80)
    assert account.rotates
    assert attempted(account, issued(None), 110).intent is not None


def test_a_lost_consent_is_explained_by_its_newest_token() -> None:
    """An older token that lay unused is no reason."""
    old = RefreshToken(
        value=Secret("old"),
        obtained_at=START - timedelta(days=70),
        refused_at=START,
    )
    new = RefreshToken(value=Secret("new"), obtained_at=START, refused_at=START + MINUTE)
    account = replace(logged_in(), current=new, fallbacks=(old,))
    assert "disconnected" in why_lost(account, POLICY)
    assert "unused" in why_lost(replace(account, current=old, fallbacks=()), POLICY)


def test_a_login_keeps_the_scopes_of_the_settings() -> None:
    """A later start compares them."""
    account = after_login(
        Account(generation=3, write_id="w", tenant_id="before", failed_attempts=4),
        issued("r0"),
        consent_id="c",
        client_id="client",
        client_secret=Secret("s"),
        token_url="https://id.example/token",
        tenant_id="tenant",
        scopes_requested=("a", "b"),
        scopes_configured=("b",),
        began_at=START + MINUTE,
    )
    access = AccessToken(
        value=Secret("a"), issued_at=START + MINUTE, expires_at=START + 31 * MINUTE
    )
    assert account == Account(
        generation=3,
        write_id="w",
        client_id="client",
        client_secret=Secret("s"),
        token_url="https://id.example/token",
        tenant_id="tenant",
        consent_id="c",
        consented_at=START + MINUTE,
        scopes_requested=("a", "b"),
        scopes_granted=("a", "b"),
        scopes_configured=("b",),
        access=access,
        current=RefreshToken(value=Secret("r0"), obtained_at=START + MINUTE),
        refreshed_at=START + MINUTE,
    )


def test_the_count_of_responses_without_token_is_that_of_one_refresh() -> None:
    """A token that Xero refuses takes its own count along."""
    fallback = RefreshToken(value=Secret("x"), obtained_at=START)
    account = replace(logged_in(), fallbacks=(fallback,))
    account = attempted(account, issued(None), 25)
    assert account.responses_without_token == 1
    account = attempted(account, Refused(detail="invalid_grant"), 26)
    assert account.responses_without_token == 0


class PlainStore(MemoryStore):
    """A store without a lock of its own: its leases are records."""

    def lease(self, name: str, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        return TokenStore.lease(self, name, ttl_seconds)


@pytest.mark.safeguard(
    file="backends/base.py",
    old=" <= self._ttl_seconds + MAX_CLOCK_SKEW.total_seconds()",
    new=" <= self._ttl_seconds",
    protects_from="a lease that another host takes over, since its clock is some seconds behind",
)
@pytest.mark.parametrize(("ahead", "is_taken"), [(4, False), (3600, True)])
async def test_a_lease_is_not_taken_over_for_a_clock_that_is_some_seconds_ahead(
    monkeypatch: pytest.MonkeyPatch, ahead: int, is_taken: bool
) -> None:
    """Its end lies a little further off than a lease lasts; an hour further off, it is taken over."""
    store, real = PlainStore(), time.time
    monkeypatch.setattr("xots.backends.base.LEASE_TIMEOUT_SECONDS", 0.2)
    there = pytest.MonkeyPatch()
    there.setattr(time, "time", lambda: real() + ahead)
    async with store.lease("default", 60):
        there.undo()
        if is_taken:
            async with store.lease("default", 60):
                pass
        else:
            with pytest.raises(StoreUnavailable, match="for too long"):
                await store.lease("default", 60).__aenter__()
