"""The end of a login: nothing more is served, the end is written, and Xero revokes its tokens."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.bench import Bench, eventually, revocations
from support.other_server import facts_of_xero

from xots.end_events import Forgotten, LoginEnded, Revoked
from xots.errors import NotLoggedIn, TokenUnavailable
from xots.keeping.ending import EndResult
from xots.lifecycle.schedule import State
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.secret import Secret
from xots.web.status import explanation
from xots.xero.protocol import Credentials

# ---------- serving


async def test_revoking_stops_serving_at_once_and_tells_xero(bench: Bench) -> None:
    """No token is served while Xero is told. The credentials stay."""
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
    file="keeping/serving.py",
    old="self._ends_running += 1",
    new="self._ends_running += 0",
    protects_from="serving a token while its login is being ended",
)
async def test_no_token_is_served_while_an_end_waits_for_the_lease(bench: Bench) -> None:
    """Another process has the lease. The user who ended the login sees no token after that."""
    keeper = await bench.logged_in()
    async with bench.store.lease("default", 10):
        ending = asyncio.create_task(keeper.end(forget=False))
        await asyncio.wait([ending], timeout=0.05)
        assert keeper.account.consent_id is not None
        with pytest.raises(NotLoggedIn):
            await keeper.token()
    assert await ending


async def test_an_end_ends_the_wait_for_a_login_that_was_started(bench: Bench) -> None:
    """The state is REVOKED, and not WAITING."""
    keeper = await bench.logged_in()
    keeper.login_started()
    assert await keeper.end(forget=False)
    assert keeper.state is State.REVOKED


@pytest.mark.safeguard(
    file="lifecycle/logins.py",
    old="return max(now, account.epoch + timedelta(microseconds=1))",
    new="return now",
    protects_from="a clock that was set back, and a merge in which the older login wins",
)
async def test_an_end_is_never_older_than_its_login(bench: Bench) -> None:
    """The login does not win a merge, although its clock was ahead and was corrected since."""
    wall = bench.clock.beside(50)
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    wall.step(-50)
    await keeper.end(forget=False)
    kept = bench.record()
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
async def test_an_open_refresh_is_concluded_before_a_revocation(bench: Bench) -> None:
    """The token of the lost response is revoked too."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert await keeper.end(forget=False)
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["lost", "issued"]
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_holder_that_loses_its_lease_concludes_no_refresh_at_an_end(bench: Bench) -> None:
    """The end is written, and the next holder of the lease tells Xero."""
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
    """Another process writes before the open refresh is concluded. The end goes on."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.before("swap", lambda: bench.overwrite(lambda account: account))
    assert await keeper.end(forget=False)
    assert bench.record().consent_id is None
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
    """No token is served and Xero is not told. The end is concluded once the store works."""
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
    assert bench.record().consent_id is None
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
    """If the process died then, the store would hold a login that Xero has ended."""
    keeper = await bench.logged_in()
    bench.store.fail("swap")
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    assert bench.xero_would_issue()
    bench.store.repair()
    await keeper.maintain()
    assert bench.record().consent_id is None
    assert keeper.state is State.REVOKED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_a_logout_is_not_confirmed_while_it_is_unsaved(bench: Bench) -> None:
    """The store still holds the credentials, which would be back after a crash."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=False)
    bench.store.fail("swap")
    assert not await keeper.end(forget=True)
    bench.store.repair()
    await keeper.maintain()
    assert bench.record().client_secret is None


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="if not is_free or not context.may_send(lease):",
    new="if not is_free:",
    protects_from="revoking the new login of the process that has taken the lease meanwhile",
)
async def test_a_holder_that_loses_its_lease_revokes_nothing(bench: Bench) -> None:
    """Xero would end a new login of another process too."""
    keeper = await bench.logged_in()
    bench.store.before("swap", lambda: bench.store.leases[-1].lose())
    assert not await keeper.end(forget=False)
    assert revocations(bench) == 0
    await keeper.login(bench.attempt())
    await keeper.maintain()
    assert bench.xero_would_issue()


async def test_a_lease_that_is_lost_in_the_wait_for_other_requests_revokes_nothing(
    bench: Bench,
) -> None:
    """Other accounts' requests may take longer than a lease lasts."""
    client = bench.client()
    keeper = await bench.keeper(xero=client)
    await keeper.login(bench.attempt())
    async with AsyncExitStack() as others:
        for _ in range(10):
            await others.enter_async_context(client.slot())
        ending = asyncio.create_task(keeper.end(forget=False))
        await eventually(lambda: bench.record().revocation is not None)
        bench.store.leases[-1].lose()
    assert not await ending
    assert revocations(bench) == 0


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="if lease.lost or not refused:",
    new="if not refused:",
    protects_from="a second attempt, hours after the first, that ends another process's login",
)
async def test_a_holder_whose_lease_has_expired_tries_no_other_secret(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero refuses the secret of the settings. A second request would end another's new login."""
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
    assert bench.xero_would_issue()
    assert keeper.state is State.CONNECTED


async def test_a_revocation_that_does_not_reach_xero_is_retried(bench: Bench) -> None:
    """No token is served, the record keeps the tokens, and a tick tells Xero."""
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


async def test_a_revocation_waits_for_a_store_that_has_failed(bench: Bench) -> None:
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
    """The revocation would end the new login too."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    await keeper.login(bench.attempt())
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


@pytest.mark.safeguard(
    file="keeping/replica.py",
    old=("                await self.read()\n                yield lease"),
    new="                yield lease",
    protects_from=(
        "acting on a record that another process has replaced: here, revoking its new login"
    ),
)
async def test_another_processs_login_cancels_a_pending_revocation(bench: Bench) -> None:
    """The process reads the record again before it tells Xero."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    other = await bench.keeper()
    await other.login(bench.attempt())
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert revocations(bench) == 1
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


async def test_a_late_response_to_a_revocation_does_not_end_a_new_login(bench: Bench) -> None:
    """The lease expired meanwhile, and the record of the new login stands."""
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
    assert bench.record().consent_id == new
    assert bench.record().current is not None


async def test_a_server_that_revokes_nothing_is_sent_no_request(bench: Bench) -> None:
    """Its URL is empty in the settings. The login is forgotten here only, and outcome and log say
    so."""
    keeper = await bench.keeper(xero=bench.client(revoke_url=""))
    await keeper.login(bench.attempt())
    outcome = await keeper.end(forget=False)
    assert outcome
    assert outcome.result is EndResult.FORGOTTEN
    assert "forgotten here only: the identity server revokes no tokens" in str(outcome.explanation)
    assert (bench.happened(Revoked), bench.happened(Forgotten)) == (0, 1)
    assert "forgotten here only" in str(bench.events[-1])
    assert keeper.state is State.REVOKED
    assert keeper.account.revocation is None
    assert revocations(bench) == 0
    again = await keeper.end(forget=False)
    assert (again.result, again.had_login) == (EndResult.REVOKED, False)


async def test_an_end_that_the_store_did_not_take_is_pending_without_a_revocation(
    bench: Bench,
) -> None:
    """It does not promise a request that will never be sent."""
    keeper = await bench.keeper(xero=bench.client(revoke_url=""))
    await keeper.login(bench.attempt())
    bench.store.fail("swap")
    outcome = await keeper.end(forget=False)
    assert outcome.result is EndResult.PENDING
    assert "the token store has not taken that yet" in str(outcome.explanation)
    sentences = explanation(keeper, keeper.outlook, bench.clock.now())
    assert any("its tokens are still to be forgotten" in one for one in sentences)
    bench.store.repair()
    await keeper.maintain()
    await keeper.maintain()
    assert bench.happened(Forgotten) == 1
    assert keeper.account.current is None


@pytest.mark.parametrize("revoked", [True, False])
async def test_an_end_at_another_server_names_it(bench: Bench, revoked: bool) -> None:
    """In the outcome and in each event."""
    url = "https://id.example/authorize"
    keeper = await bench.keeper(xero=bench.client(authorize_url=url, connections_url=""))
    await keeper.login(bench.attempt())
    if not revoked:
        bench.sandbox.add_fault("revocation:nth=1:503-html")
    outcome = await keeper.end(forget=True)
    assert bool(outcome) is revoked
    text = "\n".join([str(outcome.explanation), *map(str, bench.events)])
    assert facts_of_xero(text) == []
    assert {event.server for event in bench.events} == {"the identity server"}
    words = "has revoked the login's tokens" if revoked else "has not confirmed the revocation"
    assert f"the identity server {words}" in text


async def test_a_repeated_end_repeats_its_revocation_and_is_reported(bench: Bench) -> None:
    """The first request failed. The user ends the login once more, and the log says so again."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:503-html")
    assert not await keeper.end(forget=False)
    assert bench.happened(LoginEnded) == 1
    assert await keeper.end(forget=False)
    assert bench.happened(LoginEnded) == 2
    assert revocations(bench) == 2
