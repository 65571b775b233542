"""Accounts that share a client and a Xero user: ending one leaves the others alive.

The keepers share one store and find each other's records there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import WEB_APP, Bench, revocations, running_bench

from xots.backends.base import Stored
from xots.end_events import ConnectionsRemain, Disconnected, LoginEnded, Revoked
from xots.errors import NotLoggedIn, TokenUnavailable
from xots.events import Refreshed
from xots.keeping.ending import EndOutcome, EndResult
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.account import Account, Revocation
from xots.lifecycle.schedule import State
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_PKCE_CLIENT_ID,
    Organisation,
    SandboxOptions,
    Switches,
    User,
)
from xots.xero.protocol import Credentials

ADA, BO = User(), User("00000000-0000-4000-8000-000000000002", "Bo", "Other", "bo@x.example")
ONE, TWO, THREE, FOUR = (Organisation(f"{name} Ltd") for name in ("One", "Two", "Three", "Four"))
ORGANISATIONS = (ONE, TWO, THREE, FOUR)
NAMES = {organisation.tenant_id: organisation.name for organisation in ORGANISATIONS}
PKCE_APP = Credentials(client_id=DEFAULT_PKCE_CLIENT_ID)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    options = SandboxOptions(port=0, users=(ADA, BO), organisations=ORGANISATIONS)
    async with running_bench(options) as bench:
        yield bench


async def logged_in(bench: Bench, name: str, *ticked: Organisation, **options: Any) -> TokenKeeper:
    """Start a keeper of the account ``name`` and log in to these organisations, of which the first
    one is chosen."""
    keeper = await bench.keeper(name=name)
    await log_in(bench, keeper, *ticked, **options)
    return keeper


async def log_in(bench: Bench, keeper: TokenKeeper, *ticked: Organisation, **options: Any) -> None:
    chosen = {"tenant_id": ticked[0].tenant_id} | options
    await keeper.login(bench.attempt([one.tenant_id for one in ticked], **chosen))


async def three(bench: Bench) -> tuple[TokenKeeper, TokenKeeper, TokenKeeper]:
    """Log in to three accounts as one user, each with an organisation of its own."""
    a = await logged_in(bench, "a", ONE)
    return a, await logged_in(bench, "b", TWO), await logged_in(bench, "c", THREE)


def connected(bench: Bench, user: User = ADA) -> list[str | None]:
    """Return the names of the organisations that the user has connected at Xero."""
    app = bench.sandbox.identity.app(DEFAULT_CLIENT_ID, user.user_id)
    return [NAMES[tenant_id] for tenant_id in app.connections] if app else []


def deletions(bench: Bench) -> int:
    """Return the number of requests that delete a connection."""
    return sum(request.method == "DELETE" for request in bench.sandbox.log)


def remaining(outcome: EndOutcome) -> list[str | None]:
    return [organisation.name for organisation in outcome.remaining]


async def assert_alive(*keepers: TokenKeeper) -> None:
    """Xero issues from each login."""
    for keeper in keepers:
        await keeper.refresh()
        assert keeper.state is State.CONNECTED


def holds_no_token(account: Account) -> bool:
    return account.access is None and account.tokens == () and account.revocation is None


# ---------- one of several


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="siblings = await context.siblings(context.replica.account)",
    new="siblings = {}",
    protects_from="the end of one account that ends all accounts of the same Xero user",
)
@pytest.mark.parametrize("consents_end", [False, True])
async def test_ending_one_account_leaves_the_others_of_its_user_alive(
    bench: Bench, consents_end: bool
) -> None:
    """Its connection is deleted and its tokens are forgotten. Nothing is revoked, and no token is
    spent, whatever Xero does with a consent without connections."""
    bench.sandbox.identity.switches = Switches(consents_end_without_connections=consents_end)
    a, b, c = await three(bench)
    outcome = await a.end(forget=False)
    assert outcome == EndOutcome(result=EndResult.DISCONNECTED, shared_with=("b", "c"))
    assert connected(bench) == ["Two Ltd", "Three Ltd"]
    assert revocations(bench) == 0
    assert bench.sandbox.refreshes() == []
    assert a.state is State.REVOKED
    assert holds_no_token(bench.record("a"))
    assert bench.record("a").client_id == DEFAULT_CLIENT_ID
    with pytest.raises(NotLoggedIn):
        await a.token()
    await assert_alive(b, c)


async def test_the_last_account_of_a_user_is_revoked(bench: Bench) -> None:
    """The revocation ends the forgotten tokens of the others too."""
    a, b, c = await three(bench)
    assert (await a.end(forget=False)).result is EndResult.DISCONNECTED
    assert (await b.end(forget=True)).shared_with == ("c",)
    assert (await c.end(forget=False)).result is EndResult.REVOKED
    assert revocations(bench) == 1
    assert connected(bench) == []
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


async def test_credentials_are_forgotten_with_the_tokens(bench: Bench) -> None:
    """A logout of one account forgets its client's secret, and no other account's."""
    a, b, _ = await three(bench)
    assert await a.end(forget=True)
    assert a.state is State.NO_CREDENTIALS
    assert bench.record("a").client_secret is None
    assert bench.record("b").client_secret == WEB_APP.client_secret
    await assert_alive(b)


async def test_the_log_says_what_happened(bench: Bench) -> None:
    """It names the accounts that stay."""
    a, _, _ = await three(bench)
    await a.end(forget=False)
    ended, disconnected = bench.events[-2:]
    assert isinstance(ended, LoginEnded)
    assert isinstance(disconnected, Disconnected)
    assert disconnected.shared_with == ("b", "c")
    assert "1 connection" in str(disconnected)
    assert "b, c" in str(disconnected)
    assert bench.happened(Revoked) == 0


async def test_an_expired_access_token_is_refreshed_once(bench: Bench) -> None:
    """Only with a good one can the connections be deleted. No caller receives it."""
    a, b, c = await three(bench)
    bench.clock.advance(minutes=31)
    assert (await a.end(forget=False)).problem is None
    assert len(bench.sandbox.refreshes()) == 1
    assert connected(bench) == ["Two Ltd", "Three Ltd"]
    assert holds_no_token(bench.record("a"))
    assert bench.happened(Refreshed) == 0
    await assert_alive(b, c)


async def test_an_open_refresh_is_concluded_first(bench: Bench) -> None:
    """Its successor would be a live token that no record names."""
    a, b, _ = await three(bench)
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await a.refresh()
    assert (await a.end(forget=False)).problem is None
    assert [r.outcome for r in bench.sandbox.refreshes()] == ["lost", "issued"]
    await assert_alive(b)


# ---------- what is spared


async def test_all_connections_of_the_own_consent_are_deleted(bench: Bench) -> None:
    """The chosen one and the others that the user ticked for this account."""
    a = await logged_in(bench, "a", ONE, TWO, FOUR)
    b = await logged_in(bench, "b", THREE)
    assert (await a.end(forget=False)).problem is None
    assert connected(bench) == ["Three Ltd"]
    await assert_alive(b)


async def test_a_connection_that_a_sibling_uses_is_spared(bench: Bench) -> None:
    """It is the sibling's chosen one, or one of its consent, which overtook the own one."""
    a = await logged_in(bench, "a", ONE, TWO)
    b = await logged_in(bench, "b", TWO, THREE, ONE)
    c = await logged_in(bench, "c", FOUR, TWO)
    outcome = await c.end(forget=False)
    assert (outcome.problem, connected(bench)) == (None, ["One Ltd", "Two Ltd", "Three Ltd"])
    outcome = await a.end(forget=False)
    assert (outcome.problem, connected(bench)) == (None, ["One Ltd", "Two Ltd", "Three Ltd"])
    await assert_alive(b)


@pytest.mark.safeguard(
    file="keeping/disconnecting.py",
    old="if own and unclear:",
    new="if False:",
    protects_from="disconnecting an organisation that an account without a choice uses",
)
async def test_nothing_is_deleted_while_a_sibling_may_use_any_organisation(bench: Bench) -> None:
    """The sibling has not chosen one. The outcome and the log name what remains."""
    a = await logged_in(bench, "a", ONE)
    b = await logged_in(bench, "b", TWO, THREE, tenant_id=None)
    outcome = await a.end(forget=False)
    assert outcome.result is EndResult.DISCONNECTED
    assert remaining(outcome) == ["One Ltd"]
    assert (
        "the connection to One Ltd may remain at Xero: xots does not know if the account b uses it"
        in str(outcome.problem)
    )
    assert deletions(bench) == 0
    assert holds_no_token(bench.record("a"))
    await assert_alive(b)


# ---------- all of them


async def test_all_accounts_of_a_user_can_be_ended(bench: Bench) -> None:
    """Each is ended everywhere, so that Xero revokes at the first one."""
    keepers = await three(bench)
    outcomes = [await keeper.end(forget=True, everywhere=True) for keeper in keepers]
    assert {outcome.result for outcome in outcomes} == {EndResult.REVOKED}
    assert connected(bench) == []
    assert deletions(bench) == 0
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []
    for name in ("a", "b", "c"):
        assert bench.record(name).client_id is None


async def test_all_accounts_are_ended_although_xero_is_down(bench: Bench) -> None:
    """Each end is pending. Once Xero is back, a revocation ends what is left."""
    keepers = await three(bench)
    bench.sandbox.add_fault("revocation:first=3:503-html")
    for keeper in keepers:
        assert not await keeper.end(forget=False, everywhere=True)
    bench.clock.advance(minutes=2)
    for keeper in keepers:
        await keeper.maintain()
        assert holds_no_token(keeper.account)
    assert connected(bench) == []
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []


# ---------- who shares


async def test_another_user_or_client_shares_nothing(bench: Bench) -> None:
    """Its login is alive after a revocation, so a revocation is made."""
    a = await logged_in(bench, "a", ONE)
    b = await logged_in(bench, "b", TWO, user_id=BO.user_id)
    assert await a.end(forget=False) == EndOutcome(result=EndResult.REVOKED)
    await assert_alive(b)
    assert connected(bench, BO) == ["Two Ltd"]
    c = await logged_in(bench, "c", THREE)
    assert await b.end(forget=False) == EndOutcome(result=EndResult.REVOKED)
    await assert_alive(c)


@pytest.mark.parametrize("unknown", ["a", "b"])
async def test_an_unknown_user_may_be_the_same_one(bench: Bench, unknown: str) -> None:
    """A record of an earlier version does not name its user. The outcome names the account."""
    await logged_in(bench, "a", ONE)
    b = await logged_in(bench, "b", TWO)
    bench.overwrite(lambda account: replace(account, xero_userid=None), unknown)
    a = await bench.keeper(name="a")
    outcome = await a.end(forget=False)
    assert outcome.shared_with == outcome.user_unknown == ("b",)
    assert "does not know if the Xero user of b is the same one" in str(outcome.explanation)
    assert "does not know if the Xero user of b is the same one" in str(bench.events[-1])
    assert connected(bench) == ["Two Ltd"]
    await assert_alive(b)


async def test_without_the_claim_of_the_event_the_chosen_organisation_is_deleted(
    bench: Bench,
) -> None:
    """The claim may be missing, so that the other connections of the consent are not known."""
    bench.sandbox.identity.switches = Switches(omit_authentication_event_id=True)
    a = await logged_in(bench, "a", ONE, FOUR)
    b = await logged_in(bench, "b", TWO)
    assert await a.end(forget=False)
    assert connected(bench) == ["Four Ltd", "Two Ltd"]
    await assert_alive(b)


async def test_an_identity_server_without_connections_revokes_one_login(bench: Bench) -> None:
    """There, one revocation ends one login (RFC 7009), and no record names a user."""
    client = bench.client(connections_url="")
    a, b = [await bench.keeper(name=name, xero=client) for name in ("a", "b")]
    for keeper in (a, b):
        await keeper.login(bench.attempt())
    assert (await a.end(forget=False)).result is EndResult.REVOKED
    assert revocations(bench) == 1


async def test_a_record_of_a_newer_version_counts_as_a_sibling(bench: Bench) -> None:
    """Its user and its organisations are unknown. A record under another key is none of ours."""
    a = await logged_in(bench, "a", ONE)
    newer = bench.sealer.seal(b'{"format": 99}', "account", {"name": "b"})
    bench.store.restore(bench.store.dump() | {"b": Stored(newer, "1"), "c": Stored(b"x", "1")})
    outcome = await a.end(forget=False)
    assert outcome.shared_with == ("b",)
    assert remaining(outcome) == ["One Ltd"]
    assert revocations(bench) == 0


# ---------- Xero is down


@pytest.mark.parametrize("deleted", [0, 1])
async def test_tokens_are_forgotten_although_xero_deletes_no_connection(
    bench: Bench, deleted: int
) -> None:
    """The outcome and the log name the connections that remain, and say what to do."""
    a = await logged_in(bench, "a", ONE, TWO)
    b = await logged_in(bench, "b", THREE)
    bench.sandbox.add_fault(f"connections:nth={2 + deleted}:503-html")
    outcome = await a.end(forget=False)
    assert outcome.result is EndResult.DISCONNECTED
    assert remaining(outcome) == ["One Ltd", "Two Ltd"][deleted:]
    assert deletions(bench) == 1 + deleted
    event = bench.events[-1]
    assert isinstance(event, ConnectionsRemain)
    assert event.organisations == ("One Ltd", "Two Ltd")[deleted:]
    for text in (str(event), str(outcome.problem)):
        assert "Two Ltd may remain at Xero" in text
        assert "status 503" in text
        assert "disconnect the app at Xero" in text
    assert holds_no_token(bench.record("a"))
    await assert_alive(b)


async def test_the_connections_that_have_an_id_are_deleted_although_others_have_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the list may lack everything but its tenant id. The other one is not spared."""
    accounting = bench.sandbox.world.accounting
    rows = accounting.connections

    def without_an_id(connections: Any) -> list[dict[str, object]]:
        return [
            row | {"id": None} if row["tenantName"] == "One Ltd" else row
            for row in rows(connections)
        ]

    monkeypatch.setattr(accounting, "connections", without_an_id)
    a = await logged_in(bench, "a", ONE, TWO)
    b = await logged_in(bench, "b", THREE)
    outcome = await a.end(forget=False)
    assert connected(bench) == ["One Ltd", "Three Ltd"]
    assert remaining(outcome) == ["One Ltd"]
    assert "names no id for it" in str(outcome.problem)
    await assert_alive(b)


async def test_an_end_reports_the_connections_that_it_cannot_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may belong to the ended login. The others are deleted."""
    a = await logged_in(bench, "a", ONE)
    b = await logged_in(bench, "b", TWO)
    accounting = bench.sandbox.world.accounting
    rows = accounting.connections
    monkeypatch.setattr(accounting, "connections", lambda found: [{"id": "1"}, *rows(found)])
    outcome = await a.end(forget=False)
    assert connected(bench) == ["Two Ltd"]
    assert remaining(outcome) == []
    assert "holds 1 entries that cannot be used" in str(outcome.problem)
    await assert_alive(b)


async def test_tokens_are_forgotten_although_xero_lists_no_connection(bench: Bench) -> None:
    """The record knows the organisations that it listed at the login."""
    a = await logged_in(bench, "a", ONE, TWO)
    b = await logged_in(bench, "b", THREE)
    bench.sandbox.add_fault("connections:every:503-html")
    outcome = await a.end(forget=True)
    assert outcome.result is EndResult.DISCONNECTED
    assert remaining(outcome) == ["One Ltd", "Two Ltd"]
    assert deletions(bench) == 0
    assert holds_no_token(bench.record("a"))
    assert bench.record("a").client_id is None
    await assert_alive(b)


async def test_tokens_are_forgotten_although_xero_issues_no_access_token(bench: Bench) -> None:
    """The access token has expired, and one refresh fails. The end is not delayed."""
    a = await logged_in(bench, "a", ONE)
    b = await logged_in(bench, "b", TWO)
    bench.clock.advance(minutes=31)
    bench.sandbox.add_fault("refresh:first=1:503-html")
    outcome = await a.end(forget=False)
    assert remaining(outcome) == ["One Ltd"]
    assert len(bench.sandbox.refreshes()) == 1
    assert holds_no_token(bench.record("a"))
    await assert_alive(b)


async def test_deletions_that_take_long_end(bench: Bench) -> None:
    """A user may have many connections. The others are reported."""
    a = await logged_in(bench, "a", ONE, TWO)
    b = await logged_in(bench, "b", THREE)
    bench.sandbox.world.on_logged = lambda request: bench.clock.advance(
        seconds=40 * (request.method == "DELETE")
    )
    outcome = await a.end(forget=False)
    assert remaining(outcome) == ["Two Ltd"]
    assert deletions(bench) == 1
    await assert_alive(b)


# ---------- a pending revocation


@pytest.mark.parametrize("forget", [False, True])
async def test_a_pending_revocation_does_not_end_a_later_login_of_the_user(
    bench: Bench, forget: bool
) -> None:
    """The account had no sibling when it ended. Its connection is deleted instead."""
    a = await logged_in(bench, "a", ONE)
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await a.end(forget=forget)
    b = await logged_in(bench, "b", TWO)
    bench.clock.advance(minutes=2)
    await a.maintain()
    assert revocations(bench) == 1
    assert connected(bench) == ["Two Ltd"]
    assert holds_no_token(bench.record("a"))
    assert (bench.record("a").client_id is None) is forget
    assert bench.happened(Disconnected) == 1
    await assert_alive(b)


async def test_a_pending_revocation_spares_the_connection_that_a_later_login_uses(
    bench: Bench,
) -> None:
    """The user has logged in to the same organisation, with another account."""
    a = await logged_in(bench, "a", ONE)
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await a.end(forget=False)
    b = await logged_in(bench, "b", ONE)
    bench.clock.advance(minutes=2)
    await a.maintain()
    assert connected(bench) == ["One Ltd"]
    assert holds_no_token(bench.record("a"))
    await assert_alive(b)


# ---------- the store, the lease, a crash


async def test_nothing_is_deleted_before_the_end_is_written(bench: Bench) -> None:
    """A crash then would leave a login without its connections. The end follows later."""
    a, b, c = await three(bench)
    bench.store.fail("swap")
    assert not await a.end(forget=False)
    assert deletions(bench) == revocations(bench) == 0
    with pytest.raises(NotLoggedIn):
        await a.token()
    bench.store.repair()
    await a.maintain()
    assert bench.record("a").consent_id is None
    await a.maintain()
    assert connected(bench) == ["Two Ltd", "Three Ltd"]
    assert revocations(bench) == 0
    await assert_alive(b, c)


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old="        context.replica.failed(error)\n        return _pending(context)",
    new="        return await _revoke(context, lease)",
    protects_from="revoking every login of the user because the store could not name them",
)
async def test_nothing_is_revoked_while_the_siblings_cannot_be_read(bench: Bench) -> None:
    """The end is written, and concluded once the store works."""
    a, b, c = await three(bench)
    bench.store.fail("names")
    assert not await a.end(forget=False)
    assert deletions(bench) == revocations(bench) == 0
    assert bench.record("a").revocation is Revocation.KEEP_CREDENTIALS
    bench.store.repair()
    await a.maintain()
    await a.maintain()
    assert connected(bench) == ["Two Ltd", "Three Ltd"]
    assert holds_no_token(bench.record("a"))
    await assert_alive(b, c)


async def test_an_end_that_was_cut_off_after_the_deletion_is_concluded(bench: Bench) -> None:
    """The process dies before it writes the account without tokens. The next one repeats it."""
    a, b, c = await three(bench)
    before = bench.store.dump()
    bench.sandbox.add_fault("connections:nth=2:hold-after")
    ending = asyncio.create_task(a.end(forget=False))
    await bench.sandbox.held()
    written = bench.store.dump()
    bench.sandbox.release()
    assert await ending
    assert written["a"] != before["a"]
    bench.store.restore(written)
    bench.events.clear()
    again = await bench.keeper(name="a")
    assert again.account.revocation is not None
    await again.maintain()
    assert holds_no_token(bench.record("a"))
    assert bench.happened(Disconnected) == 1
    assert bench.happened(ConnectionsRemain) == 0
    assert connected(bench) == ["Two Ltd", "Three Ltd"]
    assert revocations(bench) == 0
    await assert_alive(b, c)


@pytest.mark.safeguard(
    file="keeping/disconnecting.py",
    old="if not context.may_send(lease):\n        return",
    new="if False:\n        return",
    protects_from="deleting the connection of a login that was made while this process slept",
)
async def test_a_holder_that_loses_its_lease_deletes_nothing(bench: Bench) -> None:
    """A user has logged in to the account again meanwhile, with the same connection."""
    a, b, _ = await three(bench)
    again = await bench.keeper(name="a")
    bench.sandbox.add_fault("connections:nth=1:hold-before")
    ending = asyncio.create_task(a.end(forget=False))
    await bench.sandbox.held()
    bench.store.leases[-1].lose()
    bench.store.lapse()
    bench.clock.advance(seconds=1)
    await log_in(bench, again, ONE)
    bench.sandbox.release()
    assert not await ending
    assert deletions(bench) == 0
    assert connected(bench) == ["One Ltd", "Two Ltd", "Three Ltd"]
    await assert_alive(again, b)


@pytest.mark.safeguard(
    file="keeping/ending.py",
    old=(
        "        if not context.may_send(lease):\n"
        "            return _pending(context)\n"
        "        done"
    ),
    new="        done",
    protects_from="an access token that is sent to another identity server than its own",
)
async def test_tokens_of_another_identity_server_are_left_alone(bench: Bench) -> None:
    """The settings name another one by now. The end stays pending, as a revocation does."""
    for name, organisation in (("a", ONE), ("b", TWO)):
        await logged_in(bench, name, organisation)
    sent = len(bench.sandbox.log)
    a = await bench.keeper(name="a", xero=bench.client(token_url="http://127.0.0.1:1/token"))
    assert not await a.end(forget=False)
    assert len(bench.sandbox.log) == sent
    assert bench.record("a").revocation is Revocation.KEEP_CREDENTIALS


@pytest.mark.parametrize("first", ["a", "b"])
async def test_of_two_siblings_that_end_at_once_one_revokes(bench: Bench, first: str) -> None:
    """Otherwise the forgotten tokens of both would stay valid."""
    keepers = {"a": await logged_in(bench, "a", ONE), "b": await logged_in(bench, "b", TWO)}
    other = "ba"[first == "b"]
    bench.sandbox.add_fault("connections:nth=1:hold-before")
    ending = asyncio.create_task(keepers[first].end(forget=False))
    await bench.sandbox.held()
    assert (await keepers[other].end(forget=False)).result is EndResult.REVOKED
    bench.sandbox.release()
    assert (await ending).result is EndResult.DISCONNECTED
    assert bench.sandbox.identity.usable_refresh_tokens(bench.clock.now()) == []
