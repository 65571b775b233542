"""The organisations of a login: the list, and the one to use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import Bench
from support.inside import replica_of

from xots.errors import (
    LoginFailed,
    TenantNotFound,
    UnknownTenant,
    UpstreamFailed,
    UpstreamThrottled,
)
from xots.events import TenantChosen
from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.account import Organisation
from xots.lifecycle.schedule import State
from xots.sandbox import Endpoint


async def test_a_tenant_that_is_not_connected_fails_the_login(bench: Bench) -> None:
    """The message lists the connected organisations."""
    keeper = await bench.keeper()
    connected = next(iter(bench.sandbox.world.accounting.organisations.values()))
    with pytest.raises(LoginFailed, match=connected.tenant_id):
        await keeper.login(bench.attempt(tenant_id="11111111-1111-4111-8111-111111111111"))
    assert keeper.state is State.NO_CREDENTIALS
    await keeper.login(bench.attempt(tenant_id=connected.tenant_id))
    assert keeper.account.tenant_id == connected.tenant_id


async def test_without_a_list_of_organisations_the_requested_one_is_used(bench: Bench) -> None:
    """A request for the list raises an error that names the setting."""
    keeper = await bench.keeper(xero=bench.client(connections_url=""))
    await keeper.login(bench.attempt(tenant_id="a-tenant"))
    assert keeper.account.tenant_id == "a-tenant"
    with pytest.raises(TenantNotFound, match="set connections_url"):
        await keeper.connections()


async def test_a_chosen_organisation_is_stored_and_reported(bench: Bench) -> None:
    """The id is written as Xero writes it. The rest of the record stays."""
    keeper = await bench.logged_in()
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    await replica_of(keeper).update(lambda account: replace(account, tenant_id=None))
    before = keeper.account
    await keeper.choose_tenant(tenant_id.upper())
    kept = bench.record()
    assert kept.tenant_id == keeper.account.tenant_id == tenant_id
    assert kept == replace(
        before, tenant_id=tenant_id, generation=kept.generation, write_id=kept.write_id
    )
    assert kept.generation > before.generation
    chosen = TenantChosen(account="default", at=bench.clock.now(), tenant_id=tenant_id)
    assert bench.events[-1] == chosen


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="if account.consent_id != consent_id:\n            raise",
    new="if False:\n            raise",
    protects_from="programs that post to an organisation of another login",
)
async def test_an_organisation_is_not_chosen_for_another_login(bench: Bench) -> None:
    """The list was that of the earlier login, and the new one may not be connected to it."""
    keeper = await bench.logged_in()
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    bench.clock.advance(LIST_KEPT_SECONDS)
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


async def test_an_organisation_is_not_chosen_for_a_login_after_the_lease(bench: Bench) -> None:
    """The process was suspended before its write, and another one has logged in meanwhile."""
    keeper = await bench.logged_in()
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    await replica_of(keeper).update(lambda account: replace(account, tenant_id=None))
    hold = bench.store.hold("swap")
    choice = asyncio.create_task(keeper.choose_tenant(tenant_id))
    await hold.reached()
    other = replace(bench.record(), consent_id="another", consented_at=bench.clock.now())
    bench.put(replace(other, generation=99, write_id="x"), "x")
    hold.release()
    with pytest.raises(UnknownTenant, match="has changed meanwhile"):
        await choice
    assert (bench.record().consent_id, bench.record().tenant_id) == ("another", None)


# ---------- lists that are not as Xero sends them


def add_to_list(bench: Bench, monkeypatch: pytest.MonkeyPatch, *entries: object) -> None:
    """Let Xero's list hold these entries before its own."""
    accounting = bench.sandbox.world.accounting
    own = accounting.connections
    monkeypatch.setattr(accounting, "connections", lambda found: [*entries, *own(found)])


def lists(bench: Bench) -> int:
    """Return the number of requests for the list."""
    return sum(one.endpoint is Endpoint.CONNECTIONS for one in bench.sandbox.log)


async def test_entries_that_cannot_be_used_are_reported_once_a_list(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """The login uses the organisation that is left, and the record holds no other."""
    skipped = "the list of organisations holds 2 entries that cannot be used; they are skipped"
    expected_log(skipped)
    add_to_list(bench, monkeypatch, {"tenantId": "a b"}, None)
    keeper = await bench.logged_in()
    [connection] = await keeper.connections()
    assert keeper.account.tenant_id == connection.tenant_id
    assert [one.tenant_id for one in bench.record().organisations or ()] == [connection.tenant_id]
    assert caplog.text.count(skipped) == 1


async def test_an_organisation_of_which_only_the_id_is_known_can_be_chosen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another identity server may send nothing else, or nulls."""
    nulls = {"id": None, "tenantType": None, "tenantName": None, "authEventId": None}
    add_to_list(bench, monkeypatch, {"tenantId": "t-1"}, {"tenantId": "t-2", **nulls})
    keeper = await bench.logged_in()
    await keeper.choose_tenant("T-2")
    assert bench.record().tenant_id == "t-2"
    found = {one.tenant_id: one for one in bench.record().organisations or ()}
    assert found["t-1"] == Organisation(tenant_id="t-1")
    assert found["t-2"] == Organisation(tenant_id="t-2")


@pytest.mark.parametrize(
    ("fault", "kind", "kept_seconds", "told"),
    [
        ("429=90", UpstreamThrottled, 90, 90),
        ("429=2", UpstreamThrottled, LIST_KEPT_SECONDS, LIST_KEPT_SECONDS),
        ("429=86400", UpstreamThrottled, 3600, 3600),
        ("429", UpstreamThrottled, LIST_KEPT_SECONDS, None),
        ("503-html", UpstreamFailed, LIST_KEPT_SECONDS, None),
    ],
)
@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="seconds = max(seconds, min(outcome.retry_after_seconds, longest))",
    new="pass",
    protects_from="requests to a Xero that has demanded to wait",
)
async def test_xero_is_not_asked_for_a_list_before_the_time_that_it_demanded(
    bench: Bench, fault: str, kind: type, kept_seconds: float, told: float | None
) -> None:
    """The failure names the time that is left. It is an hour at most."""
    keeper = await bench.logged_in()
    bench.clock.advance(LIST_KEPT_SECONDS)
    bench.sandbox.add_fault(f"connections:every:{fault}")
    before = lists(bench)
    for advanced in (0, kept_seconds - 1):
        bench.clock.advance(advanced)
        with pytest.raises(UpstreamFailed) as caught:
            await keeper.connections()
        assert type(caught.value) is kind
        left = None if told is None else told - advanced
        assert caught.value.retry_after_seconds == left
    assert lists(bench) == before + 1
    bench.sandbox.faults.clear()
    bench.clock.advance(1)
    assert await keeper.connections()
