"""The end of a login: nothing more is served, the end is written, and Xero revokes its tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.bench import Bench, revocations

from xots.errors import NotLoggedIn, TokenUnavailable
from xots.lifecycle.schedule import State
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.secret import Secret
from xots.xero import Credentials

# ---------- serving


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


async def test_an_end_ends_the_wait_for_a_login_that_was_started(bench: Bench) -> None:
    """The account says that it was revoked, and waits for nobody."""
    keeper = await bench.logged_in()
    keeper.login_started()
    assert await keeper.end(forget=False)
    assert keeper.state is State.REVOKED


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


# ---------- an open refresh


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


async def test_whoever_lost_his_lease_concludes_no_intent_at_an_end(bench: Bench) -> None:
    """The end is written, and told to Xero by whoever has the lease."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.before("swap", lambda: bench.store.leases[-1].lose())
    assert not await keeper.end(forget=False)
    assert len(bench.sandbox.refreshes()) == 1
    assert revocations(bench) == 0
    await keeper.maintain()
    assert keeper.state is State.REVOKED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_stale_record_at_an_end_is_read_again(bench: Bench) -> None:
    """Another process has written while the open refresh was to be concluded: the end goes on."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.before("swap", lambda: bench.overwrite(lambda account: account))
    assert await keeper.end(forget=False)
    assert bench.kept().consent_id is None
    assert len(bench.sandbox.refreshes()) == 1


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
    bench.store.fail("swap")
    assert not await keeper.end(forget=False)
    assert keeper.unsaved
    assert not keeper.can_serve
    assert revocations(bench) == 0
    bench.store.repair()
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


# ---------- the revocation


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
    bench.store.fail("swap")
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    assert bench.issues_from(keeper)
    bench.store.repair()
    await keeper.maintain()
    assert bench.kept().consent_id is None
    assert keeper.state is State.REVOKED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_logout_is_not_told_as_done_while_the_store_can_not_take_it(bench: Bench) -> None:
    """The revoked login's credentials are still there, and would be back after a crash."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=False)
    bench.store.fail("swap")
    assert not await keeper.end(forget=True)
    bench.store.repair()
    await keeper.maintain()
    assert bench.kept().client_secret is None


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="if not context.may_send(lease):",
    new="if context.is_foreign or not context.credentials:",
    protects_from="revoking the new login of the process that has taken the lease meanwhile",
)
async def test_whoever_lost_his_lease_revokes_nothing(bench: Bench) -> None:
    """Somebody may have logged in meanwhile, and Xero would end that login too."""
    keeper = await bench.logged_in()
    bench.store.before("swap", lambda: bench.store.leases[-1].lose())
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    await keeper.login(bench.attempt())
    await keeper.maintain()
    assert bench.issues_from(keeper)


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
    client = bench.client()
    other = await bench.keeper(xero=client, configured=wrong)
    ask = client.revoke

    async def sleeping(credentials: Credentials, token: Secret) -> Any:
        outcome = await ask(credentials, token)
        if credentials == wrong:
            bench.store.leases[-1].lose()
            bench.store.lapse()
            await keeper.login(bench.attempt())
        return outcome

    monkeypatch.setattr(client, "revoke", sleeping)
    assert not await other.end(forget=False)
    assert bench.issues_from(keeper)
    assert keeper.state is State.CONNECTED


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


async def test_a_revocation_that_meets_a_failed_store_says_why(bench: Bench) -> None:
    """It is due again once the store works."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    bench.clock.advance(minutes=2)
    bench.store.fail("read", reason="the disk is gone")
    await keeper.maintain()
    assert keeper.store_problem == "the disk is gone"
    bench.store.repair()
    await keeper.maintain()
    await keeper.maintain()
    assert keeper.account.revocation is None


# ---------- a new login


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
