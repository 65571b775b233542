"""The organisations of a login: the list, and the one to use."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from support.bench import Bench
from support.inside import replica_of

from xots.errors import LoginFailed, UnknownTenant, UpstreamFailed
from xots.events import TenantChosen
from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.schedule import State


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
    with pytest.raises(UpstreamFailed, match="connections_url is empty"):
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
