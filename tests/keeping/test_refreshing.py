"""A refresh: shared by its callers, written before it is sent, and sent once under the lease."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.bench import WEB_APP, Bench

from xots.clock import SystemClock
from xots.errors import TokenUnavailable
from xots.events import StoreDegraded, StoreRecovered
from xots.lifecycle.account import AccessToken
from xots.lifecycle.schedule import State
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.secret import Secret
from xots.xero.protocol import Credentials

# ---------- shared by callers and processes


async def test_many_callers_share_one_refresh(bench: Bench) -> None:
    """64 callers at the expiry get one token, from one refresh."""
    keeper = await bench.logged_in()
    bench.clock.advance(minutes=30)
    tokens = await asyncio.gather(*(keeper.token() for _ in range(64)))
    assert len({t.value for t in tokens}) == 1
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="tasks.py",
    old="if (running := self.running) is not None:",
    new="if False:",
    protects_from="many callers that queue for the lease, one after the other",
)
async def test_many_callers_take_the_lease_once(bench: Bench) -> None:
    """They share one task, and do not queue for the lease."""
    keeper = await bench.logged_in()
    taken = len(bench.store.leases)
    bench.clock.advance(minutes=30)
    await asyncio.gather(*(keeper.token() for _ in range(64)))
    assert len(bench.store.leases) == taken + 1


async def test_two_keepers_refresh_once(bench: Bench) -> None:
    """The second one takes the lease, reads the record again, and finds it refreshed."""
    first = await bench.logged_in()
    second = await bench.keeper()
    bench.clock.advance(minutes=30)
    tokens = await asyncio.gather(first.token(), second.token(), first.token(), second.token())
    assert len({t.value for t in tokens}) == 1
    assert len(bench.sandbox.refreshes()) == 1


async def test_concurrent_forced_refreshes_are_one(bench: Bench) -> None:
    """A caller gets a refresh that started after its call. Concurrent callers share it."""
    first = await bench.logged_in()
    second = await bench.keeper()
    await asyncio.gather(*(k.refresh() for k in (first, second, first, second)))
    assert len(bench.sandbox.refreshes()) == 1
    await first.refresh()
    assert len(bench.sandbox.refreshes()) == 2


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="done, _ = await asyncio.wait([task], timeout=SERVABLE_TIMEOUT_SECONDS)",
    new=(
        "await task\n        done, _ = await asyncio.wait([task], timeout=SERVABLE_TIMEOUT_SECONDS)"
    ),
    protects_from="a caller that disconnects in the middle of a refresh, and ends it",
)
async def test_a_cancelled_caller_does_not_end_the_refresh(bench: Bench) -> None:
    """The refresh is concluded and stored, although it was its only caller."""
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


async def test_a_caller_that_arrives_as_a_refresh_ends_gets_its_result(
    bench: Bench,
) -> None:
    """It runs before the end of the task is noticed. The refresh failed, so it gets an error."""
    keeper = await bench.logged_in()
    callers: list[asyncio.Task[AccessToken]] = []
    bench.store.after("lease", lambda: callers.append(asyncio.create_task(keeper.token())))
    bench.sandbox.add_fault("refresh:nth=1:reset")
    bench.clock.advance(minutes=31)
    with pytest.raises(TokenUnavailable):
        await keeper.token()
    with pytest.raises(TokenUnavailable):
        await callers[0]


async def test_a_store_that_hangs_does_not_delay_a_servable_token(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh goes on. A caller gets the old token, or an error if it lives too short."""
    monkeypatch.setattr("xots.keeping.refreshing.SERVABLE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr("xots.keeping.refreshing.ADDITIONAL_TIMEOUT_SECONDS", 0.02)
    keeper = await bench.logged_in()
    write = bench.store.hold("swap")
    old = keeper.account.access
    bench.clock.advance(minutes=29, seconds=10)
    assert list(await asyncio.gather(keeper.token(), keeper.token())) == [old, old]
    with pytest.raises(TokenUnavailable, match="a refresh is in progress"):
        await keeper.token(timedelta(minutes=10))
    with pytest.raises(
        TokenUnavailable, match=r"in progress.*/token returns the old access token until"
    ):
        await keeper.refresh()
    write.release()
    assert await keeper.token(timedelta(minutes=10)) != old
    assert len(bench.sandbox.refreshes()) == 1


async def test_a_caller_waits_for_the_refresh_once_the_old_token_is_not_servable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xero is slow, and the old access token expires while the caller waits."""
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


# ---------- before it is sent


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at, strict=strict)\n"
        "    )"
    ),
    new=(
        "begun = begin_refresh(found, token, by=context.process, now=began_at, strict=strict)\n"
        "    await replica.commit(begun, after=found)\n"
        "    begun = replica.account"
    ),
    protects_from="a full disk: a token that is spent, and whose successor cannot be stored",
)
async def test_no_token_is_spent_if_the_intent_cannot_be_written(bench: Bench) -> None:
    """On a full disk no request is sent. The access token is served until its expiry."""
    keeper = await bench.logged_in()
    bench.store.fail("swap", reason="the disk is full")
    bench.clock.advance(minutes=29)
    await keeper.maintain()
    assert bench.sandbox.refreshes() == []
    assert (await keeper.token()).expires_at > bench.clock.now()
    bench.clock.advance(minutes=1)
    with pytest.raises(TokenUnavailable, match="the disk is full"):
        await keeper.token()
    assert bench.happened(StoreDegraded) == 1
    bench.store.repair()
    assert (await keeper.token()).expires_at == bench.clock.now() + timedelta(minutes=30)
    assert bench.happened(StoreRecovered) == 1
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "begun = await replica.compare_and_set(\n"
        "        begin_refresh(found, token, by=context.process, now=began_at, strict=strict)\n"
        "    )"
    ),
    new=(
        "begun = begin_refresh(found, token, by=context.process, now=began_at, strict=strict)\n"
        "    asyncio.create_task(replica.compare_and_set(begun))"
    ),
    protects_from="a request that overtakes the write of its intent",
)
async def test_the_request_is_sent_after_the_store_has_acknowledged_the_intent(
    bench: Bench,
) -> None:
    """The write may take long, and the process may die in it."""
    keeper = await bench.logged_in()
    write = bench.store.hold("swap")
    refresh = asyncio.create_task(keeper.refresh())
    await write.reached()
    await asyncio.wait([refresh], timeout=0.2)
    sent = len(bench.sandbox.refreshes())
    write.release()
    assert sent == 0
    await refresh
    assert len(bench.sandbox.refreshes()) == 1


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old=(
        "    if not context.may_send(lease):\n"
        "        if strict:\n"
        "            unsent = replace(\n"
        "                begun, current=found.current, fallbacks=found.fallbacks, "
        "intent=found.intent\n"
        "            )\n"
        "            await replica.commit(unsent, after=begun)\n"
        "        return None\n"
    ),
    new="",
    protects_from=(
        "a suspended process that sends a token after its lease ran out: another "
        "process has spent it"
    ),
)
async def test_a_holder_that_loses_its_lease_in_the_write_of_the_intent_sends_nothing(
    bench: Bench,
) -> None:
    """Another process may spend the token. The next operation resumes the open refresh."""
    keeper = await bench.logged_in()
    bench.store.before("swap", lambda: bench.store.leases[-1].lose())
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert bench.sandbox.refreshes() == []
    assert bench.record().intent is not None
    await keeper.maintain()
    assert keeper.account.intent is None
    assert len(bench.sandbox.refreshes()) == 1


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Suspend the machine: its monotonic clock stands still, its boot-time clock goes on."""
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
async def test_a_holder_that_was_suspended_spends_nothing(
    bench: Bench, suspended: Callable[[float], None]
) -> None:
    """Other processes have refreshed for hours, so the grace period of its token is over."""
    keeper = await bench.logged_in()

    def suspend() -> None:
        bench.store.leases[-1].extend(60, since=SystemClock().elapsed())
        suspended(7200)

    bench.store.before("swap", suspend)
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert bench.sandbox.refreshes() == []


@pytest.mark.safeguard(
    file="keeping/context.py",
    old=(
        "        if account.token_url not in (None, self.xero.identity_server.token_url):\n"
        "            return True\n"
    ),
    new="",
    protects_from="a token that is sent to another identity server",
)
async def test_another_identity_servers_login_is_neither_spent_nor_revoked(bench: Bench) -> None:
    """A process with another token URL sends no token, and its error says why."""
    stranger = await bench.keeper(xero=bench.client(token_url="http://127.0.0.1:1/token"))
    keeper = await bench.logged_in()
    await stranger.follow()
    requests = len(bench.sandbox.log)
    bench.clock.advance(minutes=40)
    await stranger.maintain()
    with pytest.raises(TokenUnavailable, match="another identity server"):
        await stranger.token()
    assert not await stranger.end(forget=False)
    assert len(bench.sandbox.log) == requests
    assert keeper.account.current is not None
    assert bench.xero_would_issue()


async def test_the_tick_takes_no_lease_for_another_identity_servers_login(bench: Bench) -> None:
    """There is nothing to do for it."""
    await bench.logged_in()
    stranger = await bench.keeper(xero=bench.client(token_url="http://127.0.0.1:1/token"))
    taken = len(bench.store.leases)
    bench.clock.advance(minutes=40)
    await stranger.maintain()
    with pytest.raises(TokenUnavailable, match="another identity server"):
        await stranger.token()
    assert len(bench.store.leases) == taken


# ---------- the credentials


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="*others, last = self.credentials",
    new="others, last = (), self.credentials[0]",
    protects_from="a mistyped secret in the settings",
)
async def test_the_secrets_of_the_settings_and_of_the_record_are_both_tried(bench: Bench) -> None:
    """A mistyped secret in the settings costs no login. A new one there is stored."""
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


async def test_a_refused_client_costs_no_token(bench: Bench) -> None:
    """``invalid_client`` is retried slowly, and the refresh succeeds once the secret is correct."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    failing = keeper.state
    bench.clock.advance(seconds=30)
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == 1
    bench.clock.advance(minutes=6)
    await keeper.maintain()
    assert (failing, keeper.state) == (State.REFRESH_FAILING, State.CONNECTED)


async def test_a_corrected_secret_is_tried_when_a_caller_forces_a_refresh(bench: Bench) -> None:
    """After a restart, the wait that the wrong secret caused does not delay it."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    mended = await bench.keeper()
    await mended.maintain()
    assert len(bench.sandbox.refreshes()) == 1
    await mended.refresh()
    assert mended.state is State.CONNECTED


async def test_a_write_under_the_lease_makes_the_refresh_decide_again(bench: Bench) -> None:
    """A process whose lease has expired writes before the intent. The refresh reads and goes on."""
    keeper = await bench.logged_in()
    bench.store.before("swap", lambda: bench.overwrite(lambda account: account))
    await keeper.refresh()
    assert [request.outcome for request in bench.sandbox.refreshes()] == ["issued"]
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()
