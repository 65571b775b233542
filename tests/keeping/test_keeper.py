"""The keeper's methods: its state, its tokens, its tick and its close."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

import pytest
from support.bench import START, WEB_APP, Bench, eventually

from xots.errors import NoCredentials, NotLoggedIn, StoreUnavailable, TokenUnavailable
from xots.events import Refreshed
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.schedule import State

# ---------- state and store


async def test_before_a_login_there_is_no_token(bench: Bench) -> None:
    """The error tells whether the credentials or a login is missing."""
    keeper = await bench.keeper()
    assert not keeper.unsaved
    assert not keeper.rolled_back
    assert keeper.state is State.NO_CREDENTIALS
    with pytest.raises(NoCredentials):
        await keeper.token()
    with pytest.raises(NoCredentials):
        await keeper.refresh()
    configured = TokenKeeper(
        bench.store, bench.client(), bench.sealer, configured=WEB_APP, clock=bench.clock
    )
    assert configured.state is State.NOT_LOGGED_IN
    with pytest.raises(NotLoggedIn):
        await configured.token()


async def test_a_new_keeper_continues_with_the_stored_login(bench: Bench) -> None:
    """A restart needs neither a login nor a request to Xero."""
    first = await bench.logged_in()
    second = await bench.keeper()
    requests = len(bench.sandbox.log)
    assert await second.token() == await first.token()
    assert len(bench.sandbox.log) == requests


async def test_a_check_of_the_store_says_why_it_cannot_be_used(bench: Bench) -> None:
    """It finds a new failure, at most a second later."""
    keeper = await bench.keeper()
    assert await keeper.check_store() is None
    bench.store.fail("check", reason="the disk is broken")
    bench.clock.advance(1)
    assert await keeper.check_store() == "the disk is broken"
    assert keeper.store_problem is None
    bench.store.repair()
    bench.clock.advance(1)
    assert await keeper.check_store() is None


@pytest.mark.safeguard(
    file="keeping/checking.py",
    old=" or age >= CHECK_INTERVAL_SECONDS",
    new=" or age >= 0",
    protects_from="a check of the store for each of a flood of /ready",
)
async def test_the_store_is_checked_at_most_once_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests at the same time, and those within the second after them, share one check."""
    keeper, checks, check = await bench.keeper(), [], bench.store.check
    go_on = asyncio.Event()

    async def slow_check() -> None:
        checks.append(bench.clock.elapsed())
        await go_on.wait()
        await check()

    monkeypatch.setattr(bench.store, "check", slow_check)
    callers = [asyncio.create_task(keeper.check_store()) for _ in range(100)]
    await eventually(lambda: bool(checks))
    go_on.set()
    assert await asyncio.gather(*callers) == [None] * 100
    bench.clock.advance(0.9)
    assert await keeper.check_store() is None
    assert len(checks) == 1
    bench.clock.advance(0.1)
    assert await keeper.check_store() is None
    assert len(checks) == 2


async def test_a_caller_that_disconnects_cancels_no_check_of_the_store(bench: Bench) -> None:
    """The others still wait for it."""
    keeper = await bench.keeper()
    impatient = asyncio.create_task(keeper.check_store())
    patient = asyncio.create_task(keeper.check_store())
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient is None


async def test_a_closed_keeper_checks_no_store(bench: Bench) -> None:
    """The store may be closed already."""
    keeper = await bench.keeper()
    await keeper.close()
    bench.store.fail("check", reason="the store is closed")
    assert await keeper.check_store() == "the server is stopping"


# ---------- tokens


async def test_the_tick_refreshes_ahead_so_that_no_caller_waits(bench: Bench) -> None:
    """The tick refreshes five minutes before the expiry."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=24, seconds=59)
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []
    bench.clock.advance(seconds=1)
    await keeper.maintain()
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["issued"]
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
    assert bench.happened(Refreshed) == 1


async def test_a_caller_gets_the_lifetime_it_demands_or_an_error(bench: Bench) -> None:
    """The error tells when to retry."""
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


async def test_a_token_that_was_issued_for_a_caller_is_served_to_it(bench: Bench) -> None:
    """A slow response left it a shorter lifetime than demanded, and no other token has more."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=10)
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    waiting = asyncio.create_task(keeper.token(timedelta(hours=1)))
    await bench.sandbox.held()
    bench.clock.advance(minutes=4)
    bench.sandbox.release()
    assert (await waiting).issued_at == START + timedelta(minutes=10)
    assert len(bench.sandbox.refreshes()) == 1


async def test_a_caller_whose_login_ends_while_it_waits_gets_that_error(bench: Bench) -> None:
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


async def test_a_lifetime_that_xero_shortens_causes_no_storm_of_refreshes(bench: Bench) -> None:
    """The new token counts, although the one before it lives longer."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=10)
    switches = dataclasses.replace(bench.sandbox.identity.switches, access_token_life_seconds=300)
    bench.sandbox.identity.switches = switches
    for _ in range(40):
        bench.clock.advance(seconds=15)
        await keeper.token(timedelta(minutes=22))
    assert len(bench.sandbox.refreshes()) <= 25


@pytest.mark.safeguard(
    file="lifecycle/expiry.py",
    old=("account = capped_to(account, timedelta(seconds=self.access_ends_at - elapsed), now)"),
    new="pass",
    protects_from="serving an expired access token after the clock was set back",
)
async def test_a_clock_that_is_set_back_does_not_lengthen_a_lifetime(bench: Bench) -> None:
    """After 20 minutes ten are left, whatever the clock shows, and the refresh is in time."""
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


async def test_a_clock_set_back_by_seconds_does_not_lengthen_a_short_lifetime(bench: Bench) -> None:
    """The step is shorter than the last seconds of a long-lived token, which are never served."""
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


# ---------- closing


@pytest.mark.safeguard(
    file="tasks.py",
    old="while self._running:",
    new="while False:",
    protects_from="SIGTERM in the middle of a refresh",
)
async def test_closing_waits_for_a_refresh_and_stores_it(bench: Bench) -> None:
    """A refresh that has started is concluded and written, and none is started after it."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    bench.clock.advance(minutes=30)
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    closing = asyncio.create_task(keeper.close())
    for _ in range(20):  # far more turns of the event loop than a close needs
        await asyncio.sleep(0)
    assert not closing.done()
    bench.sandbox.release()
    await closing
    assert (await caller).expires_at == bench.clock.now() + timedelta(minutes=30)
    successor = await bench.keeper()
    assert await successor.token() == await caller
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/keeper.py",
    old="if self._replica.unsaved:",
    new="if False:",
    protects_from="a new token that is lost with the process when it stops",
)
async def test_closing_writes_an_unsaved_token(bench: Bench) -> None:
    """A process does not end with a token that only it knows if the store works by then."""
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    bench.store.repair()
    await keeper.close()
    assert bench.xero_would_issue()
    successor = await bench.keeper()
    assert successor.account.current == keeper.account.current


async def test_closing_raises_if_a_token_stays_unsaved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process does not end silently with a token that only it knows."""
    monkeypatch.setattr("xots.keeping.following.CLOSE_TIMEOUT_SECONDS", 0)
    keeper = await bench.logged_in()
    await bench.unsaved_refresh(keeper)
    bench.keepers.remove(keeper)
    with pytest.raises(StoreUnavailable, match="could not take"):
        await keeper.close()


async def test_a_closed_keeper_says_that_the_server_is_stopping(bench: Bench) -> None:
    """The error tells a program when to retry, and the tick does nothing."""
    keeper = await bench.logged_in()
    await keeper.close()
    bench.clock.advance(minutes=31)
    with pytest.raises(TokenUnavailable, match="the server is stopping"):
        await keeper.token()
    with pytest.raises(TokenUnavailable, match="the server is stopping"):
        await keeper.refresh()
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []


async def test_a_keeper_closes_neither_its_store_nor_its_client(bench: Bench) -> None:
    """The code that opened them does."""
    client = bench.client()
    keeper = await bench.keeper(xero=client)
    closed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.store, "close", lambda: closed.append("store"))
        patch.setattr(client, "close", lambda: closed.append("client"))
        await keeper.close()
    assert closed == []
