"""The outcomes of a refresh in a keeper: lost responses, replays, refusals and waits."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

import pytest
from msgspec.structs import replace
from support.bench import Bench
from support.inside import operations_of

from xots.errors import ConsentLost, TokenUnavailable
from xots.events import ConsentWasLost, RefreshFailed
from xots.lifecycle.account import Intent
from xots.lifecycle.schedule import State
from xots.sandbox import Client, SiblingMode

# ---------- a lost response


async def test_a_lost_response_is_requested_again_with_the_same_token(bench: Bench) -> None:
    """Xero accepts it again within the grace period."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    failing = keeper.state
    assert bench.xero_would_issue()
    assert bench.happened(RefreshFailed) == 1
    assert (await keeper.token()).expires_at > bench.clock.now(), (
        "the old token is served meanwhile"
    )
    bench.clock.advance(minutes=1)
    await keeper.maintain()
    assert (failing, keeper.state) == (State.REFRESH_FAILING, State.CONNECTED)
    assert len({r.token for r in bench.sandbox.refreshes()}) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at, strict=strict)\n"
        "    )"
    ),
    new="begun = begin_refresh(found, token, by=context.process, now=began_at)",
    protects_from="a crash after Xero has committed: a spent token that no record shows as spent",
)
async def test_a_refresh_cut_off_by_a_crash_is_resumed(bench: Bench) -> None:
    """The process died after Xero had issued. The next one sends the same token again."""
    dying = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:hold-after")
    refresh = asyncio.create_task(dying.refresh())
    await bench.sandbox.held()
    (task,) = operations_of(dying)
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
    file="lifecycle/transitions.py",
    old=(
        "return intent.also_open if intent.fingerprint == token.fingerprint else intent.fingerprint"
    ),
    new="return None",
    protects_from=(
        "a 429 that puts off for an hour a refresh that must come within the grace period"
    ),
)
async def test_a_late_request_stays_open_while_another_token_is_throttled(bench: Bench) -> None:
    """It invalidated the newer tokens. A 429 of an hour delays the next attempt by minutes."""
    bench.sandbox.identity.switches = dataclasses.replace(
        bench.sandbox.identity.switches, sibling_mode=SiblingMode.LAST_VALID_WITH_DESCENDANTS
    )
    keeper = await bench.logged_in()
    await keeper.refresh()
    (spent,) = bench.record().fallbacks
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
    assert bench.record().intent is not None
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


# ---------- a late response and a replay


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="        concluded = sending.issued(concluded, now, clock.elapsed())\n",
    new="",
    protects_from=(
        "serving a token that expired before its response was read, since the clock "
        "was set meanwhile"
    ),
)
async def test_a_response_read_after_its_token_expired_is_not_served(
    bench: Bench,
) -> None:
    """The clock was ahead at the request and was corrected while the process slept."""
    ahead = bench.clock.beside(days=1)
    slept = await bench.keeper(ahead)
    await slept.login(bench.attempt())
    other = await bench.keeper()
    refresh = await bench.held_refresh(slept)
    bench.clock.advance(hours=1)
    ahead.step(days=-1)
    write = bench.store.hold("swap")
    bench.sandbox.release()
    await write.reached()
    assert slept.unsaved
    served_unsaved = slept.can_serve
    bench.sandbox.add_fault("refresh:every:503-html")
    write.release()
    await refresh
    await other.follow()
    assert not served_unsaved
    assert not slept.can_serve
    assert not other.can_serve


async def test_a_replay_of_an_expired_access_token_is_followed_by_a_refresh(bench: Bench) -> None:
    """Xero repeats the lost response, whose access token has expired meanwhile."""
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


async def test_a_replay_is_as_old_as_its_first_request_although_the_clock_was_ahead(
    bench: Bench,
) -> None:
    """Its access token lives for 8 minutes more, not for the 28 that the clock shows."""
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


# ---------- refusals and waits


async def test_the_consent_is_lost_once_xero_refuses_every_token(bench: Bench) -> None:
    """The record stays, and the access token is served until its expiry."""
    keeper = await bench.logged_in()
    bench.sandbox.identity.forget()
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    lost = keeper.state
    assert bench.happened(ConsentWasLost) == 1
    assert (await keeper.token()).expires_at > bench.clock.now()
    bench.clock.advance(minutes=5)
    with pytest.raises(ConsentLost, match="invalid_grant"):
        await keeper.token()
    assert keeper.account.current is not None
    requests = len(bench.sandbox.refreshes())
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == requests, "a refused token was sent again"
    await keeper.login(bench.attempt())
    assert (lost, keeper.state) == (State.CONSENT_LOST, State.CONNECTED)


async def test_a_failed_refresh_raises_although_the_clock_was_set(
    bench: Bench,
) -> None:
    """The access token is the same one, although its dates are corrected at each read."""
    wall = bench.clock.beside()
    keeper = await bench.keeper(wall)
    await keeper.login(bench.attempt())
    await keeper.token()
    wall.step(minutes=-1)
    bench.sandbox.add_fault("refresh:nth=1:503-html")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()


@pytest.mark.safeguard(
    file="lifecycle/expiry.py",
    old="return structs.replace(account, retry_not_before=ends_at)",
    new="return account",
    protects_from="a clock that is set forward: requests to Xero before the wait of a 429 is over",
)
@pytest.mark.parametrize("step_minutes", [60, -8], ids=["forward", "back"])
async def test_setting_the_clock_does_not_change_the_wait_of_a_429(
    bench: Bench, step_minutes: int
) -> None:
    """The next request is sent after ten minutes, and not before."""
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
    file="lifecycle/expiry.py",
    old="if account.retry_not_before != self.wait:",
    new="if self.wait is None:",
    protects_from=(
        "a wait after a 429 that outlasts its login, and holds up a lost response of the next one"
    ),
)
async def test_a_wait_of_an_earlier_login_does_not_delay_a_lost_response(bench: Bench) -> None:
    """A 429 demanded four minutes. The lost response of the next login is requested after two."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:429=240")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    other = await bench.keeper()
    await other.login(bench.attempt())
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await other.refresh()
    assert bench.record().intent is not None
    await keeper.follow()
    bench.clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert bench.record().intent is None
