"""The organisations and the user of a login, in the record: written when they change, and only
then."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace
from support.bench import Bench, eventually
from support.inside import replica_of

from xots.errors import (
    AmbiguousTenant,
    NoCredentials,
    NotLoggedIn,
    TenantNotFound,
    TokenUnavailable,
)
from xots.keeping.keeper import TokenKeeper
from xots.keeping.tenants import LIST_KEPT_SECONDS
from xots.lifecycle.account import MAX_NAME_LENGTH, MAX_ORGANISATIONS, Organisation
from xots.sandbox import Endpoint, Switches
from xots.sandbox.accounting import Organisation as Listed


def connect(bench: Bench, *organisations: Listed) -> list[str]:
    """Let Xero know these organisations only, and return their ids."""
    known = bench.sandbox.world.accounting.organisations
    known.clear()
    known.update({one.tenant_id: one for one in organisations})
    return list(known)


async def logged_in(bench: Bench, *organisations: Listed) -> TokenKeeper:
    """Start a keeper and log in to these organisations."""
    keeper = await bench.keeper()
    await keeper.login(bench.attempt(connect(bench, *organisations)))
    return keeper


def names(bench: Bench) -> list[str | None]:
    """Return the names of the organisations in the stored record."""
    return [organisation.name for organisation in bench.record().organisations or ()]


async def list_again(bench: Bench, keeper: TokenKeeper) -> None:
    """Let Xero list the organisations anew."""
    bench.clock.advance(LIST_KEPT_SECONDS)
    await keeper.connections()


# ---------- the user


async def test_a_login_records_its_user_and_its_organisations(bench: Bench) -> None:
    """Other processes know them, and so does the next start, without a request to Xero."""
    keeper = await logged_in(bench, Listed("Beta"), Listed(None), Listed("alpha"))
    account = bench.record()
    user = next(iter(bench.sandbox.identity.users))
    app = bench.sandbox.identity.app(account.client_id or "", user)
    assert app is not None
    events = {connection.auth_event_id for connection in app.connections.values()}
    assert (account.xero_userid, {account.auth_event_id}) == (user, events)
    assert account.organisations == tuple(
        Organisation(
            connection_id=app.connections[listed.tenant_id].connection_id,
            tenant_id=listed.tenant_id,
            name=listed.name,
            kind="ORGANISATION",
            auth_event_id=account.auth_event_id,
        )
        for listed in (Listed(None), Listed("alpha"), Listed("Beta"))
    )
    assert account.listed_at == bench.clock.now()
    lists = len(bench.sandbox.log)
    other = await bench.keeper()
    assert other.known_organisations == keeper.known_organisations == account.organisations
    assert len(bench.sandbox.log) == lists


async def test_a_refresh_records_the_user_of_a_record_that_does_not_know(bench: Bench) -> None:
    """The record was written in format 3."""
    keeper = await bench.logged_in()
    known = keeper.account
    await replica_of(keeper).update(
        lambda account: replace(
            account, xero_userid=None, auth_event_id=None, organisations=None, listed_at=None
        )
    )
    await keeper.refresh()
    found = bench.record()
    assert (found.xero_userid, found.auth_event_id) == (known.xero_userid, known.auth_event_id)
    assert known.xero_userid is not None
    await list_again(bench, keeper)
    await eventually(lambda: bench.record().organisations == known.organisations)


async def test_another_user_replaces_all_that_the_record_knows(bench: Bench) -> None:
    """Xero may not send the id of the login, and its list may fail."""
    keeper = await bench.logged_in()
    bench.sandbox.identity.switches = Switches(omit_authentication_event_id=True)
    bench.clock.advance(1)
    await keeper.login(bench.attempt())
    found = bench.record()
    assert (found.auth_event_id, found.xero_userid is None) == (None, False)


# ---------- the list


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="if after_list(account, found, listed_at=at) == account:",
    new="if False:",
    protects_from="the use of the lease for each list",
)
async def test_a_flood_of_lists_writes_nothing(bench: Bench) -> None:
    """Xero's order changes with each list. Only the organisations count."""
    bench.sandbox.identity.switches = Switches(shuffle_connections=True)
    keeper = await logged_in(bench, *(Listed(f"Company {n}") for n in range(5)))
    before, leases = bench.record(), len(bench.store.leases)
    for _ in range(20):
        await list_again(bench, keeper)
        await asyncio.gather(*(keeper.connections() for _ in range(20)))
    assert (bench.record(), len(bench.store.leases)) == (before, leases)


async def test_a_list_that_differs_is_written_once(bench: Bench) -> None:
    """The user connected or disconnected an organisation, or renamed one."""
    keeper = await logged_in(bench, Listed("Acme"), Listed("Beta"))
    tenant_id = keeper.account.organisations[0].tenant_id if keeper.account.organisations else ""
    connect(bench, Listed("Acme Ltd", tenant_id))
    generation = bench.record().generation
    await list_again(bench, keeper)
    await eventually(lambda: names(bench) == ["Acme Ltd"])
    await list_again(bench, keeper)
    await keeper.close()
    assert bench.record().generation == generation + 1
    listed_at = bench.clock.now() - timedelta(seconds=LIST_KEPT_SECONDS)
    assert bench.record().listed_at == listed_at


async def test_many_organisations_and_long_names_are_cut_once(bench: Bench) -> None:
    """The cut list is no reason to write again."""
    listed = (Listed(f"{n:03}" + "\u3042" * 200) for n in range(MAX_ORGANISATIONS + 20))
    keeper = await logged_in(bench, *listed)
    before = bench.record()
    assert [name and name[:3] for name in names(bench)] == [f"{n:03}" for n in range(100)]
    assert {len(name or "") for name in names(bench)} == {MAX_NAME_LENGTH}
    for _ in range(3):
        await list_again(bench, keeper)
    await keeper.close()
    assert bench.record() == before


async def test_a_list_does_not_wait_for_the_write(bench: Bench) -> None:
    """The lease may be held for as long as Xero takes. A failed store costs the caller nothing."""
    keeper = await logged_in(bench, Listed("Acme"))
    refresh = await bench.held_refresh(keeper)
    connect(bench, Listed("Other", next(iter(bench.sandbox.world.accounting.organisations))))
    await list_again(bench, keeper)
    assert names(bench) == ["Acme"]
    bench.sandbox.release()
    await refresh
    await eventually(lambda: names(bench) == ["Other"])


async def test_a_failed_write_is_repeated_with_the_next_list(bench: Bench) -> None:
    """The store was away for a moment."""
    keeper = await logged_in(bench, Listed("Acme"))
    connect(bench, Listed("Other", next(iter(bench.sandbox.world.accounting.organisations))))
    bench.store.fail("lease", "swap", "read")
    await list_again(bench, keeper)
    await eventually(lambda: keeper.store_problem is not None)
    bench.store.repair()
    await list_again(bench, keeper)
    await eventually(lambda: names(bench) == ["Other"])


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="        if account.consent_id != consent_id:\n            return account\n",
    new="",
    protects_from="the organisations of one user in the record of another",
)
@pytest.mark.parametrize("lapsed", [False, True])
async def test_a_list_is_never_written_for_another_login(bench: Bench, lapsed: bool) -> None:
    """Another process logs in before the write, or even after the lease has run out."""
    keeper = await logged_in(bench, Listed("Acme"))
    connect(bench, Listed("Other", next(iter(bench.sandbox.world.accounting.organisations))))
    hold = bench.store.hold("swap" if lapsed else "lease")
    await list_again(bench, keeper)
    await hold.reached()
    other = replace(
        bench.record(), consent_id="another", consented_at=bench.clock.now(), organisations=None
    )
    bench.put(replace(other, generation=99, write_id="x"), "x")
    hold.release()
    await keeper.close()
    assert (bench.record().consent_id, bench.record().organisations) == ("another", None)


# ---------- one of them for a caller


ID = "7b5f8f3e-1111-4111-8111-00000000000a"
OTHER_ID = "7b5f8f3e-1111-4111-8111-00000000000b"


def lists(bench: Bench) -> int:
    """Return the number of lists that Xero was asked for."""
    return sum(request.endpoint is Endpoint.CONNECTIONS for request in bench.sandbox.log)


@pytest.mark.parametrize(
    "text", [ID, ID.upper(), "Straße & Söhne", "STRASSE & söhne", " Straße & Söhne "]
)
async def test_an_organisation_is_found_by_its_id_or_name_in_any_case(
    bench: Bench, text: str
) -> None:
    """The id is written as Xero writes it. Xero is not asked again, and nothing is chosen."""
    keeper = await logged_in(bench, Listed("Straße & Söhne", ID), Listed("Other", OTHER_ID))
    before = bench.record()
    assert await keeper.tenant(text, may_wait=False) == ID
    assert lists(bench) == 1
    assert bench.record() == before


async def test_an_id_comes_before_a_name(bench: Bench) -> None:
    """A user at Xero may give an organisation the id of another one as its name."""
    keeper = await logged_in(bench, Listed(OTHER_ID, ID), Listed("Other", OTHER_ID))
    assert await keeper.tenant(OTHER_ID) == OTHER_ID


@pytest.mark.safeguard(
    file="keeping/tenants.py",
    old="if len(same) > 1:",
    new="if False:",
    protects_from="a program that posts to the wrong one of two organisations of one name",
)
async def test_a_name_of_two_organisations_is_refused_with_their_ids(bench: Bench) -> None:
    """The case of a name does not tell them apart. Each id still does."""
    keeper = await logged_in(
        bench, Listed("Acme", ID), Listed("ACME", OTHER_ID), Listed("Third"), Listed(None)
    )
    with pytest.raises(AmbiguousTenant, match=f"{ID}.*{OTHER_ID}|{OTHER_ID}.*{ID}") as caught:
        await keeper.tenant("acme")
    assert sorted(caught.value.organisations) == [(ID, "Acme"), (OTHER_ID, "ACME")]
    assert await keeper.tenant(OTHER_ID) == OTHER_ID


@pytest.mark.parametrize("text", ["Nobody", "Acm", "   ", "no name", "\x1b[2J\u202e" * 5000])
async def test_an_unknown_organisation_is_refused_with_the_list(bench: Bench, text: str) -> None:
    """The message is safe to show. A flood of names costs one list in some seconds."""
    keeper = await logged_in(bench, Listed("Acme", ID), Listed(None, OTHER_ID))
    bench.clock.advance(LIST_KEPT_SECONDS)
    for _ in range(50):
        with pytest.raises(TenantNotFound, match=f"{OTHER_ID} .no name., {ID} .Acme.") as caught:
            await keeper.tenant(text)
    assert str(caught.value).isprintable()
    assert caught.value.organisations == [(OTHER_ID, None), (ID, "Acme")]
    assert lists(bench) == 2


async def test_an_organisation_beyond_the_records_bound_is_found(bench: Bench) -> None:
    """A firm may have more of them. Xero's list has them all."""
    listed = [Listed(f"Company {n:03}") for n in range(MAX_ORGANISATIONS + 20)]
    keeper = await logged_in(bench, *listed)
    assert await keeper.tenant("company 119") == listed[119].tenant_id
    assert await keeper.tenant(listed[118].tenant_id) == listed[118].tenant_id
    assert lists(bench) == 1  # the login's, which is kept for some seconds


async def test_organisations_that_were_never_listed_are_listed_for_a_caller(bench: Bench) -> None:
    """Callers at the same time share one list, and the record has it afterwards."""
    keeper = await logged_in(bench, Listed("Acme", ID), Listed("Other", OTHER_ID))
    await replica_of(keeper).update(lambda account: replace(account, organisations=None))
    bench.clock.advance(LIST_KEPT_SECONDS)
    with pytest.raises(TokenUnavailable, match="many requests"):
        await keeper.tenant("Acme", may_wait=False)
    found = await asyncio.gather(*(keeper.tenant("Acme") for _ in range(20)))
    assert (set(found), lists(bench)) == ({ID}, 2)
    await eventually(lambda: names(bench) == ["Acme", "Other"])
    assert await keeper.tenant("Acme", may_wait=False) == ID


async def test_a_login_without_a_list_has_the_organisation_that_is_used(bench: Bench) -> None:
    """Another identity server may have none."""
    keeper = await bench.keeper(xero=bench.client(connections_url=""))
    with pytest.raises(NoCredentials):
        await keeper.tenant("a-tenant")
    await keeper.login(bench.attempt(tenant_id="a-tenant"))
    assert await keeper.tenant("A-Tenant") == "a-tenant"
    for may_wait in (True, False):
        with pytest.raises(TenantNotFound, match="leave tenant out, or set connections_url"):
            await keeper.tenant("another", may_wait=may_wait)


async def test_an_organisation_of_an_ended_login_is_not_served(bench: Bench) -> None:
    """The record keeps the list until Xero has confirmed the end."""
    keeper = await logged_in(bench, Listed("Acme", ID))
    bench.sandbox.add_fault("revocation:every:503-html")
    await keeper.end(forget=False)
    with pytest.raises(NotLoggedIn):
        await keeper.tenant("Acme")
    bench.sandbox.faults.clear()
