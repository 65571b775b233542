"""Logins and ends that overlap, and hosts whose clocks differ."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from support.bench import Bench, revocations

from xots.backends.base import Lease
from xots.end_events import LoginEnded
from xots.errors import LoginFailed, TokenUnavailable
from xots.events import ClockSkewed, ConsentWasLost
from xots.lifecycle.schedule import State

# ---------- two logins


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="            began_at=began_at,\n",
    new="            began_at=context.clock.now(),\n",
    protects_from="a login that replaces one which was begun later, because Xero was slow",
)
async def test_two_logins_at_once_after_a_logout_leave_one(bench: Bench) -> None:
    """The login that began later wins. The other one fails, and its message says why."""
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
    assert bench.xero_would_issue()


async def test_a_login_that_began_earlier_does_not_replace_one_after_an_end(bench: Bench) -> None:
    """Xero ended its tokens with the login before it, so the later login is the live one."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    first = await bench.held_login(keeper)
    bench.clock.advance(1)
    assert await other.end(forget=False)
    await other.login(bench.attempt())
    bench.sandbox.release()
    with pytest.raises(LoginFailed, match="recorded at the same time"):
        await first
    assert bench.record().consent_id == other.account.consent_id
    assert bench.xero_would_issue()


# ---------- a login and an end


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
    assert bench.record().consent_id is None
    assert keeper.state is State.REVOKED
    await keeper.maintain()
    assert bench.record().tokens == ()
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


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
    """The clock of the host that ends the login may be some seconds behind."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=1)
    other = await bench.keeper(bench.clock.beside(-behind))
    login = await bench.held_login(keeper)
    assert await other.end(forget=False)
    bench.sandbox.release()
    with pytest.raises(LoginFailed):
        await login
    await keeper.maintain()
    assert bench.record().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_an_end_without_a_login_ends_the_one_that_is_being_exchanged(bench: Bench) -> None:
    """The user revoked after the login began, and the end was confirmed."""
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
    assert bench.record().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="was_ended or (known.revocation is not None and lease.lost)",
    new="was_ended",
    protects_from="a login that was suspended under its lease, and that Xero has ended since",
)
@pytest.mark.safeguard(
    file="keeping/login.py",
    old="login = replace(login, consented_at=known.epoch - timedelta(microseconds=1))",
    new="pass",
    protects_from="a login that Xero has ended, and that is newer than that end by a wrong clock",
)
async def test_a_login_that_lost_its_lease_under_a_pending_revocation_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have told Xero of the end, which ends the new login too."""
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
    assert bench.record().consent_id is None


async def test_an_end_that_xero_is_being_told_of_wins_over_a_login_that_lost_its_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero has carried it out, and its response is under way when the login is recorded."""
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
    assert bench.record().consent_id is None
    assert not keeper.can_serve
    assert not other.can_serve


# ---------- two hosts


OFF = [timedelta(days=1), timedelta(days=-1), timedelta(minutes=27), timedelta(minutes=-27)]


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("fault", [None, "refresh:every:429=600", "refresh:nth=3:lost"])
async def test_hosts_whose_clocks_differ_lose_no_refresh_token(
    bench: Bench, off: timedelta, fault: str | None
) -> None:
    """Extra refreshes and errors may occur, and the difference is reported."""
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
        assert bench.xero_would_issue()
    assert bench.happened(ConsentWasLost) == 0
    bench.sandbox.faults.clear()
    bench.clock.advance(minutes=61)
    for keeper in (right, wrong):
        await keeper.follow()
        await keeper.maintain()
    assert right.state is State.CONNECTED
    assert bench.happened(ClockSkewed) >= 1
