"""Floods of calls: the requests at Xero stay few, the record small, and a due refresh in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import UNLIMITED, Bench, eventually, revocations

from xots.errors import (
    LoginFailed,
    TokenUnavailable,
    TooManyLogins,
    UnknownTenant,
    UpstreamFailed,
    XotsError,
)
from xots.events import LoginRefused, TenantChosen
from xots.keeping.acts import MAX_CHOICES_AT_ONCE
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login_limit import (
    LOGIN_INTERVAL_SECONDS,
    MAX_LOGINS_AT_ONCE,
    MAX_LOGINS_IN_A_ROW,
    LoginLimit,
)
from xots.keeping.tenants import LIST_KEPT_SECONDS, organisations_of
from xots.lifecycle.account import MAX_SPENT_FALLBACKS
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import State
from xots.sandbox import Endpoint
from xots.secret import Secret

UNKNOWN_TENANT = "11111111-1111-4111-8111-111111111111"


def requests(bench: Bench, endpoint: Endpoint) -> int:
    """Return the number of requests that Xero saw at this endpoint."""
    return sum(request.endpoint is endpoint for request in bench.sandbox.log)


async def outcomes(calls: list[Awaitable[object]]) -> list[type]:
    """Make the calls at once. Return the type of each result or error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(result) for result in results]


async def limited(bench: Bench) -> TokenKeeper:
    """Return a keeper with the default policy, after a login."""
    keeper = await bench.keeper(policy=Policy())
    await keeper.login(bench.attempt())
    return keeper


# ---------- refreshes


@pytest.mark.safeguard(
    file="keeping/serving.py",
    old="is_new = account.access != before.access or (recent and self.can_serve)",
    new="is_new = account.access != before.access",
    protects_from="a program that refreshes twice and takes the second response for a failure",
)
async def test_a_forced_refresh_right_after_another_one_gets_its_token(bench: Bench) -> None:
    """A login counts too. After the interval the next one is made."""
    keeper = await limited(bench)
    await keeper.refresh()
    assert bench.sandbox.refreshes() == []
    bench.clock.advance(Policy().refresh_interval.total_seconds())
    for made in (1, 2):
        await outcomes([keeper.refresh() for _ in range(50)])
        token = await keeper.token()
        for _ in range(50):
            await keeper.refresh()
        assert await keeper.token() == token
        assert len(bench.sandbox.refreshes()) == made
        bench.clock.advance(Policy().refresh_interval.total_seconds())


async def test_processes_share_the_interval_between_forced_refreshes(bench: Bench) -> None:
    """The second process has not followed the record yet, and decides again under the lease."""
    first = await limited(bench)
    second = await bench.keeper(policy=Policy())
    bench.clock.advance(60)
    await asyncio.gather(first.refresh(), second.refresh())
    await first.refresh()
    await second.refresh()
    assert len(bench.sandbox.refreshes()) == 1


async def test_a_refused_client_costs_one_request_in_each_interval(bench: Bench) -> None:
    """The error keeps its wait, and the first call after a correction of the secret succeeds."""
    keeper = await limited(bench)
    bench.clock.advance(60)
    bench.sandbox.add_fault("refresh:every:invalid-client")
    for made in (1, 2):
        for _ in range(100):
            with pytest.raises(TokenUnavailable) as failed:
                await keeper.refresh()
            assert failed.value.retry_after_seconds > 60
        assert len(bench.sandbox.refreshes()) == made
        bench.clock.advance(Policy().refresh_interval.total_seconds())
    bench.sandbox.faults.clear()
    await keeper.refresh()
    assert (await keeper.token()).issued_at == bench.clock.now()


async def test_refreshes_in_a_loop_take_neither_the_lease_nor_the_store(bench: Bench) -> None:
    """A store that hangs for others is not asked: the record in memory decides."""
    keeper = await limited(bench)
    bench.store.fail("lease", "read", "swap")
    for _ in range(100):
        await keeper.refresh()
    assert keeper.store_problem is None


async def test_the_record_stays_small_however_often_it_is_refreshed(bench: Bench) -> None:
    """Without an interval, its size is constant once the tombstones are full."""
    keeper = await bench.keeper(policy=UNLIMITED)
    await keeper.login(bench.attempt())
    sizes = []
    for _ in range(140):
        await keeper.refresh()
        sizes.append(len(bench.store.dump()["default"].value))
        assert bench.xero_would_issue()
    assert len(bench.record().fallbacks) == MAX_SPENT_FALLBACKS
    assert max(sizes[115:]) - min(sizes[115:]) < 100


@pytest.mark.parametrize("forget", [False, True])
async def test_an_end_after_many_refreshes_is_one_request(bench: Bench, forget: bool) -> None:
    """Nothing that Xero issued for the login is live afterwards."""
    keeper = await bench.logged_in()
    for _ in range(40):
        await keeper.refresh()
    assert await keeper.end(forget=forget)
    assert revocations(bench) == 1
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="if pause_ends_at(failed_at, now, context.policy) is not None:",
    new="if False:",
    protects_from="a request for each call, while Xero does not confirm a revocation",
)
async def test_an_unconfirmed_revocation_is_repeated_once_in_each_interval(bench: Bench) -> None:
    """A user who ends the login again does not have to wait for the back-off."""
    keeper = await limited(bench)
    bench.sandbox.add_fault("revocation:every:503-html")
    for made in (1, 2):
        for _ in range(20):
            assert not await keeper.end(forget=False)
        assert revocations(bench) == made
        bench.clock.advance(Policy().refresh_interval.total_seconds())
    bench.sandbox.faults.clear()
    assert await keeper.end(forget=False)
    assert keeper.state is State.REVOKED


# ---------- lists of organisations


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="kept is None or kept.consent_id != consent_id or elapsed >= kept.until",
    new="True",
    protects_from="a request to Xero for each call of /tenants",
)
async def test_the_list_is_requested_once_in_some_seconds(bench: Bench) -> None:
    """Callers at the same time share it. The login has read it already."""
    keeper = await bench.logged_in()
    assert requests(bench, Endpoint.CONNECTIONS) == 1
    first = await keeper.connections()
    assert keeper.known_organisations == organisations_of(first)
    bench.clock.advance(LIST_KEPT_SECONDS)
    await outcomes([keeper.connections() for _ in range(50)])
    assert requests(bench, Endpoint.CONNECTIONS) == 2
    bench.clock.advance(LIST_KEPT_SECONDS - 1)
    assert await keeper.connections() == first
    assert requests(bench, Endpoint.CONNECTIONS) == 2


async def test_a_failure_to_list_is_kept_as_long(bench: Bench) -> None:
    """The last list stays known. A response that is no list is a failure."""
    keeper = await bench.logged_in()
    known = keeper.known_organisations
    assert known
    for made, fault in enumerate(("503-html", "not-json"), start=2):
        bench.clock.advance(LIST_KEPT_SECONDS)
        bench.sandbox.add_fault(f"connections:every:{fault}")
        found = await outcomes([keeper.connections() for _ in range(20)])
        assert set(found) == {UpstreamFailed}
        assert requests(bench, Endpoint.CONNECTIONS) == made
        bench.sandbox.faults.clear()
    assert keeper.known_organisations == known


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="return account.organisations if account.consent_id is not None else None",
    new="return account.organisations",
    protects_from="a page that shows the organisations of a login that has ended",
)
async def test_a_list_belongs_to_one_login(bench: Bench, expected_log: Any) -> None:
    """An end drops it, even while Xero has not confirmed the end, and a login whose list could not
    be read knows none."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:every:503-html")
    assert not await keeper.end(forget=False)
    assert keeper.account.organisations is not None
    assert keeper.known_organisations is None
    bench.clock.advance(1)
    bench.sandbox.faults.clear()
    assert await keeper.end(forget=False)
    bench.sandbox.add_fault("connections:nth=1:503-html")
    expected_log("could not be listed")
    await keeper.login(bench.attempt())
    assert keeper.known_organisations is None
    other = replace(keeper.account, consent_id="another", generation=99, write_id="x")
    bench.put(other, "x")
    await keeper.follow()
    await keeper.connections()
    assert requests(bench, Endpoint.CONNECTIONS) == 3


async def test_invented_organisations_cost_no_requests(bench: Bench) -> None:
    """Each one is looked for in the list that is kept."""
    keeper = await bench.logged_in()
    found = await outcomes([keeper.choose_tenant(UNKNOWN_TENANT) for _ in range(50)])
    assert set(found) == {UnknownTenant}
    assert requests(bench, Endpoint.CONNECTIONS) == 1


# ---------- logins


def invented(bench: Bench, keeper: TokenKeeper) -> Awaitable[None]:
    """Return a login with an invented code."""
    return keeper.login(bench.attempt(code=Secret("invented")))


@pytest.mark.safeguard(
    file="keeping/login_limit.py",
    old="wait = rested_at - elapsed - MAX_LOGINS_IN_A_ROW * LOGIN_INTERVAL_SECONDS",
    new="wait = 0.0",
    protects_from="a request to Xero for each invented code",
)
async def test_invented_codes_cost_a_bounded_number_of_requests(bench: Bench) -> None:
    """Further ones are refused before any request, and leave no event."""
    keeper = await bench.logged_in()
    found = []
    for _ in range(200):
        found += await outcomes([invented(bench, keeper)])
    admitted = MAX_LOGINS_IN_A_ROW - 1  # the login itself was one
    assert found[:admitted] == [LoginFailed] * admitted
    assert set(found[admitted:]) == {TooManyLogins}
    assert requests(bench, Endpoint.TOKEN) == MAX_LOGINS_IN_A_ROW
    assert bench.happened(LoginRefused) == admitted
    bench.clock.advance(LOGIN_INTERVAL_SECONDS)
    with pytest.raises(LoginFailed):
        await invented(bench, keeper)
    with pytest.raises(TooManyLogins) as refused:
        await invented(bench, keeper)
    assert 0 < refused.value.retry_after_seconds <= LOGIN_INTERVAL_SECONDS


async def test_few_exchanges_are_in_progress_at_once(bench: Bench) -> None:
    """A refused login has not spent its code: a later attempt succeeds."""
    keeper = await bench.keeper()
    bench.sandbox.add_fault("token:every:hold-before")
    started = [asyncio.create_task(keeper.login(bench.attempt())) for _ in range(2)]
    await eventually(lambda: len(bench.sandbox.world.holds) == MAX_LOGINS_AT_ONCE)
    third = bench.attempt()
    with pytest.raises(TooManyLogins):
        await keeper.login(third)
    bench.sandbox.faults.clear()
    bench.sandbox.release()
    await asyncio.gather(*started, return_exceptions=True)
    bench.clock.advance(1)
    await keeper.login(third)
    assert keeper.state is State.CONNECTED


def test_the_limit_of_logins_recovers() -> None:
    """One more login each interval, and the whole row after a rest. The clock starts anywhere."""
    for start in (-1e6, 0.0, 1e9):
        limit, now = LoginLimit(), start
        for rest in (0.0, LOGIN_INTERVAL_SECONDS * MAX_LOGINS_IN_A_ROW, 1e5):
            now += rest
            for _ in range(MAX_LOGINS_IN_A_ROW):
                with limit.admitted(now):
                    pass
            for _ in range(3):
                with pytest.raises(TooManyLogins), limit.admitted(now):
                    pass
                now += LOGIN_INTERVAL_SECONDS
                with limit.admitted(now):
                    pass


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="        if replica.account.revocation is not None:\n            lease",
    new="        if True:\n            lease",
    protects_from="invented codes that wait for the lease, and delay the refresh that is due",
)
async def test_a_login_needs_no_lease_before_its_code_is_accepted(bench: Bench) -> None:
    """Xero holds a refresh back. An invented code is refused meanwhile."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    refresh = await bench.held_refresh(keeper)
    with pytest.raises(LoginFailed):
        async with asyncio.timeout(5):
            await invented(bench, other)
    bench.sandbox.release()
    await refresh
    assert bench.xero_would_issue()


async def test_a_flood_of_everything_leaves_the_login_live(bench: Bench) -> None:
    """All calls at once, while the refresh is due."""
    keeper = await limited(bench)
    bench.clock.advance(26 * 60)
    calls: list[Awaitable[object]] = []
    for _ in range(60):
        calls += [keeper.refresh(), keeper.connections(), invented(bench, keeper)]
        calls += [keeper.token(), keeper.maintain()]
    found = await outcomes(calls)
    assert all(not issubclass(kind, Exception) or issubclass(kind, XotsError) for kind in found)
    assert len(bench.sandbox.refreshes()) == 1
    assert requests(bench, Endpoint.CONNECTIONS) <= 2
    assert requests(bench, Endpoint.TOKEN) <= 1 + MAX_LOGINS_IN_A_ROW + 1
    assert bench.xero_would_issue()


# ---------- acts


@pytest.mark.safeguard(
    file="keeping/acts.py",
    old="if len(self.running) >= at_most:",
    new="if False:",
    protects_from="a due refresh that waits behind hundreds of changes that a program requests",
)
async def test_a_flood_of_choices_does_not_delay_a_refresh(bench: Bench) -> None:
    """A few wait for the lease. The others are refused at once, and the login can be ended."""
    keeper = await limited(bench)
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    bench.clock.advance(Policy().refresh_interval.total_seconds())
    refresh = await bench.held_refresh(keeper)
    choices = [asyncio.create_task(keeper.choose_tenant(tenant_id)) for _ in range(100)]
    await eventually(lambda: sum(choice.done() for choice in choices) == 100 - MAX_CHOICES_AT_ONCE)
    assert {type(choice.exception()) for choice in choices if choice.done()} == {TokenUnavailable}
    end = asyncio.create_task(keeper.end(forget=False))
    bench.sandbox.release()
    await refresh
    await asyncio.gather(*[choice for choice in choices if not choice.done()])
    assert await end


async def test_the_choice_of_the_chosen_organisation_writes_nothing(bench: Bench) -> None:
    """Nor does it report anything."""
    keeper = await limited(bench)
    tenant_id, before, events = keeper.account.tenant_id, bench.record(), len(bench.events)
    assert tenant_id is not None
    await keeper.choose_tenant(tenant_id)
    assert bench.record() == before
    assert not any(isinstance(event, TenantChosen) for event in bench.events[events:])
