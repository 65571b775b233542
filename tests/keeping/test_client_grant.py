"""An account without a login: a keeper that gets its tokens by its client's own credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace as with_policy
from support.bench import SCOPES, UNLIMITED, Bench, eventually, running_bench

from xots.errors import NoCredentials, TokenUnavailable
from xots.events import Refreshed, RefreshFailed, StoreRecovered
from xots.keeping.ending import EndResult
from xots.keeping.keeper import TokenKeeper
from xots.keeping.usage import Fresh
from xots.lifecycle.account import ProblemKind
from xots.lifecycle.outlook import Need
from xots.lifecycle.policy import Grant, Policy
from xots.lifecycle.schedule import State
from xots.sandbox import (
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    Client,
    OAuthErrorCode,
    Organisation,
    SandboxOptions,
)
from xots.secret import Secret
from xots.xero.protocol import Credentials

OWN, FOREIGN = Organisation("One Ltd"), Organisation("Two Ltd")
CUSTOM = Client(
    DEFAULT_CUSTOM_CLIENT_ID, redirect_uris=(), custom_connection_tenant_id=OWN.tenant_id
)
CREDENTIALS = Credentials(
    client_id=DEFAULT_CUSTOM_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET)
)
POLICY = with_policy(UNLIMITED, grant=Grant.CLIENT_CREDENTIALS)
HALF_HOUR = timedelta(minutes=30)
GRANT = "client_credentials"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A bench whose Xero has a custom connection."""
    options = SandboxOptions(port=0, clients=(Client(), CUSTOM), organisations=(OWN, FOREIGN))
    async with running_bench(options) as bench:
        yield bench


async def client_keeper(bench: Bench, *, has_list: bool = False, **options: Any) -> TokenKeeper:
    """Start a keeper of the custom connection. Unless it ``has_list``, it requests no organisations
    beside its tokens."""
    defaults: dict[str, Any] = {
        "policy": POLICY,
        "configured": CREDENTIALS,
        "scopes": SCOPES[1:],
        "xero": bench.client() if has_list else bench.client(connections_url=""),
    }
    return await bench.keeper(**(defaults | options))


def requests(bench: Bench) -> int:
    """Return the number of requests for an access token that Xero has received."""
    return len(bench.sandbox.requests(GRANT))


def refuse(bench: Bench, error: OAuthErrorCode | None) -> None:
    """Let Xero refuse all custom connections, or none."""
    identity = bench.sandbox.identity
    identity.switches = replace(identity.switches, custom_connections_refused=error)


# ---------- tokens


async def test_the_first_caller_gets_a_token_without_a_login(bench: Bench) -> None:
    """The record holds the access token, and no secret of the client."""
    keeper = await client_keeper(bench)
    assert keeper.state is State.CONNECTED
    token = await keeper.token()
    assert bench.sandbox.identity.check_access(token.value.reveal(), bench.clock.now())
    record = bench.record()
    assert (record.access, record.tokens, record.intent) == (token, (), None)
    assert (record.client_id, record.client_secret) == (DEFAULT_CUSTOM_CLIENT_ID, None)
    assert record.without_user
    assert record.scopes_granted == SCOPES[1:]
    assert keeper.outlook.login_needed_at is None
    assert [request.outcome for request in bench.sandbox.requests(GRANT)] == ["issued"]
    assert bench.happened(Refreshed) == 1


async def test_callers_at_the_same_time_share_one_request(bench: Bench) -> None:
    """A caller that goes away does not end it for the others."""
    keeper = await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:hold-before")
    callers = [asyncio.create_task(keeper.token()) for _ in range(10)]
    await bench.sandbox.held()
    callers.pop().cancel()
    bench.sandbox.release()
    assert len({access.value for access in await asyncio.gather(*callers)}) == 1
    assert requests(bench) == 1


async def test_the_token_is_renewed_ahead_of_its_expiry(bench: Bench) -> None:
    """No caller waits: the old token is served until the new one has come."""
    keeper = await client_keeper(bench)
    await keeper.maintain()
    first = await keeper.token()
    bench.clock.advance(minutes=24)
    await keeper.maintain()
    assert requests(bench) == 1
    bench.clock.advance(minutes=1)
    bench.sandbox.add_fault("token:nth=1:hold-after")
    renewal = asyncio.create_task(keeper.maintain())
    await bench.sandbox.held()
    assert await keeper.token() == first
    bench.sandbox.release()
    await renewal
    assert (await keeper.token()).expires_at == bench.clock.now() + HALF_HOUR
    assert requests(bench) == 2
    assert bench.record().consent_id == keeper.account.consent_id


async def test_an_expired_token_is_replaced_before_it_is_served(bench: Bench) -> None:
    """A host that slept has a record with an old token."""
    keeper = await client_keeper(bench)
    first = await keeper.token()
    bench.clock.advance(minutes=31)
    assert await keeper.token() != first
    assert requests(bench) == 2


async def test_a_caller_that_needs_a_longer_life_gets_it(bench: Bench) -> None:
    """A token that is young enough costs no request."""
    keeper = await client_keeper(bench)
    first = await keeper.token()
    bench.clock.advance(minutes=10)
    assert await keeper.token(timedelta(minutes=20)) == first
    assert await keeper.token(timedelta(minutes=25)) != first
    assert requests(bench) == 2


async def test_a_second_keeper_on_the_same_store_uses_the_token_of_the_first(bench: Bench) -> None:
    """Neither a restart nor another process costs a request."""
    first, second = await client_keeper(bench), await client_keeper(bench)
    tokens = await asyncio.gather(first.token(), second.token())
    assert tokens[0] == tokens[1]
    await asyncio.gather(first.maintain(), second.maintain())
    third = await client_keeper(bench)
    assert await third.token() == tokens[0]
    assert requests(bench) == 1


async def test_a_forced_refresh_gets_a_new_token(bench: Bench) -> None:
    """Not more often than the interval permits."""
    keeper = await client_keeper(bench, policy=Policy(grant=Grant.CLIENT_CREDENTIALS))
    await keeper.refresh()
    first = await keeper.token()
    await keeper.refresh()
    assert await keeper.token() == first
    bench.clock.advance(seconds=6)
    await keeper.refresh()
    assert await keeper.token() != first
    assert requests(bench) == 2


# ---------- failures


async def test_a_failed_request_is_repeated_after_a_growing_wait(bench: Bench) -> None:
    """The old token is served meanwhile, and the end of the wait is announced."""
    keeper = await client_keeper(bench)
    first = await keeper.token()
    bench.clock.advance(minutes=25)
    bench.sandbox.add_fault("token:first=4:500-html")
    waits = []
    for _ in range(4):
        await keeper.maintain()
        await keeper.maintain()
        assert await keeper.token() == first
        until = keeper.account.retry_not_before
        assert until is not None
        waits.append(until - bench.clock.now())
        bench.clock.advance(waits[-1].total_seconds() + 0.001)
    assert max(waits[:2]) < max(waits[2:]) <= timedelta(seconds=8)
    assert keeper.state is State.REFRESH_FAILING
    assert (requests(bench), bench.happened(RefreshFailed)) == (5, 4)
    await keeper.maintain()
    assert keeper.outlook.retrying is None
    assert await keeper.token() != first


async def test_a_lost_response_costs_nothing(bench: Bench) -> None:
    """The next attempt requests another token. No grace period runs."""
    keeper = await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:lost")
    with pytest.raises(TokenUnavailable) as raised:
        await keeper.token()
    assert raised.value.retry_after_seconds
    assert keeper.outlook.grace_ends_at is None
    assert keeper.outlook.attention_for is None
    bench.clock.advance(seconds=2)
    await keeper.token()
    assert [request.outcome for request in bench.sandbox.requests(GRANT)] == ["lost", "issued"]
    assert keeper.account.problem is None


async def test_the_wait_that_xero_demands_is_kept(bench: Bench) -> None:
    """Neither a tick nor a forced refresh shortens it."""
    keeper = await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:429=90")
    await keeper.maintain()
    bench.clock.advance(seconds=89)
    await keeper.maintain()
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert requests(bench) == 1
    bench.clock.advance(seconds=3)
    await keeper.maintain()
    assert keeper.can_serve


@pytest.mark.parametrize("has_token", [False, True])
@pytest.mark.parametrize(
    "error", [OAuthErrorCode.INVALID_CLIENT, OAuthErrorCode.UNAUTHORIZED_CLIENT]
)
async def test_a_refused_client_waits_for_the_operator_who_can_force_an_attempt(
    bench: Bench, error: OAuthErrorCode, has_token: bool
) -> None:
    """Minutes pass between two requests. After the correction, a forced refresh need not wait."""
    keeper = await client_keeper(bench, policy=Policy(grant=Grant.CLIENT_CREDENTIALS))
    if has_token:
        await keeper.maintain()
        bench.clock.advance(minutes=31)
    before = requests(bench)
    refuse(bench, error)
    for _ in range(9):
        await keeper.maintain()
        bench.clock.advance(seconds=15)
    assert requests(bench) == before + 1
    assert keeper.account.problem is not None
    assert keeper.account.problem.kind is ProblemKind.CLIENT_REFUSED
    assert keeper.outlook.attention_for is Need.CLIENT_REFUSED
    with pytest.raises(TokenUnavailable):
        await keeper.token()
    refuse(bench, None)
    await keeper.refresh()
    assert keeper.can_serve
    assert keeper.state is State.CONNECTED
    assert requests(bench) == before + 2


async def test_a_refused_client_recovers_by_itself(bench: Bench) -> None:
    """An authorisation at Xero needs no act here."""
    keeper = await client_keeper(bench)
    refuse(bench, OAuthErrorCode.INVALID_CLIENT)
    await keeper.maintain()
    refuse(bench, None)
    bench.clock.advance(minutes=5)
    await keeper.maintain()
    assert keeper.can_serve


@pytest.mark.safeguard(
    file="keeping/context.py",
    old="if self.is_foreign or self.lacks_credentials:",
    new="if self.is_foreign:",
    protects_from="a lease taken at each tick for a request that cannot be made",
)
async def test_without_credentials_no_request_is_made(bench: Bench) -> None:
    """The lease is not taken either, however often a tick or a caller comes."""
    bench.store.fail("lease", "swap")
    keeper = await client_keeper(bench, configured=None)
    for _ in range(3):
        await keeper.maintain()
        with pytest.raises(NoCredentials):
            await keeper.token()
        with pytest.raises(NoCredentials):
            await keeper.refresh()
        bench.clock.advance(minutes=1)
    assert keeper.state is State.NO_CREDENTIALS
    assert keeper.outlook.next_attempt_at is None
    assert keeper.outlook.attention_for is Need.NO_CREDENTIALS
    assert bench.sandbox.log == []
    assert keeper.store_problem is None


async def test_a_record_whose_client_left_the_settings_is_due_for_nothing(bench: Bench) -> None:
    """The record of an earlier run still names the client, but not its secret."""
    await (await client_keeper(bench)).token()
    bench.clock.advance(minutes=31)
    keeper = await client_keeper(bench, configured=None)
    await keeper.maintain()
    with pytest.raises(NoCredentials):
        await keeper.token()
    assert requests(bench) == 1


# ---------- the store


async def test_a_token_that_the_store_cannot_take_is_served_and_written_later(
    bench: Bench,
) -> None:
    """Memory holds it. The next tick writes it without another request."""
    keeper = await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:hold-after")
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    bench.store.fail("swap", "read")
    bench.sandbox.release()
    token = await caller
    assert keeper.unsaved
    assert bench.store.dump() == {}
    assert await keeper.token() == token
    bench.store.repair()
    await keeper.maintain()
    assert not keeper.unsaved
    assert bench.record().access == token
    assert requests(bench) == 1
    assert bench.happened(StoreRecovered) == 1


async def test_nothing_is_requested_while_the_store_cannot_be_read(bench: Bench) -> None:
    """Another process may have the token already. It is requested once the store works."""
    bench.store.fail("lease")
    keeper = await client_keeper(bench)
    with pytest.raises(TokenUnavailable, match="the token store cannot be used"):
        await keeper.token()
    assert requests(bench) == 0
    bench.store.repair()
    await keeper.maintain()
    assert keeper.can_serve


async def test_two_tokens_of_a_lapsed_lease_leave_the_later_one(bench: Bench) -> None:
    """The holder of an expired lease learns of the other token, and no token is lost."""
    first, second = await client_keeper(bench), await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:hold-after")
    caller = asyncio.create_task(first.token())
    await bench.sandbox.held()
    bench.store.lapse()
    bench.clock.advance(seconds=13)
    later = await second.token()
    bench.sandbox.release()
    await caller
    assert bench.record().access == later
    assert await first.token() == await second.token() == later
    assert requests(bench) == 2


async def test_a_store_that_lost_the_token_gets_it_again(bench: Bench) -> None:
    """It was restored from a copy that is older than the account. No request is needed."""
    keeper = await client_keeper(bench)
    token = await keeper.token()
    bench.store.restore({})
    await keeper.follow()
    await keeper.maintain()
    assert bench.record().access == await keeper.token() == token
    assert requests(bench) == 1


async def test_a_close_waits_for_the_request_in_progress_and_writes_its_token(
    bench: Bench,
) -> None:
    """The next process uses it."""
    keeper = await client_keeper(bench)
    bench.sandbox.add_fault("token:nth=1:hold-after")
    caller = asyncio.create_task(keeper.token())
    await bench.sandbox.held()
    closing = asyncio.create_task(keeper.close())
    for _ in range(20):  # far more turns of the event loop than a close needs
        await asyncio.sleep(0)
    assert not closing.done()
    bench.sandbox.release()
    await closing
    assert (await caller) == bench.record().access
    await keeper.maintain()
    assert requests(bench) == 1


# ---------- use


async def test_an_account_that_is_not_in_use_requests_nothing(bench: Bench) -> None:
    """``fresh: used``: a caller makes it fresh for the lifetime of a token."""
    keeper = await client_keeper(bench, fresh=Fresh.USED)
    await keeper.maintain()
    assert (requests(bench), await bench.store.due(bench.clock.now(), 9)) == (0, [])
    await keeper.token()
    bench.clock.advance(minutes=25)
    await keeper.maintain()
    assert requests(bench) == 2
    bench.clock.advance(minutes=31)
    await keeper.maintain()
    assert requests(bench) == 2
    await keeper.token()
    assert requests(bench) == 3


async def test_an_account_that_is_not_in_use_can_be_refreshed(bench: Bench) -> None:
    """A forced refresh needs no earlier caller, with and without a token in the record."""
    keeper = await client_keeper(bench, fresh=Fresh.USED)
    await keeper.refresh()
    assert keeper.can_serve
    bench.clock.advance(minutes=31)
    await keeper.refresh()
    assert keeper.can_serve
    assert requests(bench) == 2


# ---------- the organisation


async def test_the_only_organisation_is_used_once_it_was_listed(bench: Bench) -> None:
    """The list follows the first token, and no caller waits for it."""
    keeper = await client_keeper(bench, has_list=True)
    await keeper.token()
    await eventually(lambda: keeper.tenant_id is not None)
    assert keeper.tenant_id == OWN.tenant_id
    assert keeper.tenant_problem is None
    await eventually(lambda: bench.record().tenant_id == OWN.tenant_id)
    second = await client_keeper(bench, has_list=True)
    assert second.tenant_id == OWN.tenant_id
    assert [one.tenant_id for one in await second.connections()] == [OWN.tenant_id]
    assert await second.tenant("one ltd") == OWN.tenant_id


async def test_a_tenant_id_in_the_settings_is_checked_against_the_list(
    bench: Bench, expected_log: Any
) -> None:
    """One of another organisation is never served."""
    keeper = await client_keeper(bench, has_list=True, tenant_id=OWN.tenant_id.upper())
    await keeper.token()
    await eventually(lambda: keeper.tenant_id == OWN.tenant_id)
    expected_log("the chosen organisation is not connected")
    other = await client_keeper(bench, has_list=True, name="other", tenant_id=FOREIGN.tenant_id)
    await other.token()
    await eventually(lambda: other.account.organisations is not None)
    assert other.tenant_id is None


async def test_a_tenant_id_that_is_set_later_counts_from_the_next_token(bench: Bench) -> None:
    """The record was made without it. Where no list exists, the settings alone tell it."""
    first = await client_keeper(bench)
    await first.token()
    assert first.tenant_id is None
    second = await client_keeper(bench, tenant_id="t1")
    await second.refresh()
    assert second.tenant_id == "t1"
    assert bench.record().tenant_id == "t1"


# ---------- an end


@pytest.mark.parametrize("forget", [True, False])
async def test_an_end_sends_nothing_and_the_next_tick_begins_anew(
    bench: Bench, forget: bool
) -> None:
    """The client's own token cannot be revoked here, and no connection is deleted. The outcome
    claims neither."""
    keeper = await client_keeper(bench, has_list=True)
    await keeper.token()
    await eventually(lambda: bench.record().tenant_id is not None)
    made = len(bench.sandbox.log)
    outcome = await keeper.end(forget=forget)
    assert outcome.result is EndResult.FORGOTTEN
    assert "its access token stays valid until it expires" in str(outcome.explanation)
    assert "revoke_url" not in str(outcome.explanation)
    assert not keeper.can_serve
    assert (bench.record().access, bench.record().without_user) == (None, False)
    assert len(bench.sandbox.log) == made
    await keeper.maintain()
    assert keeper.can_serve


async def test_an_end_that_the_store_did_not_take_promises_no_request(bench: Bench) -> None:
    """Only the write is repeated."""
    keeper = await client_keeper(bench)
    await keeper.token()
    bench.store.fail("swap")
    outcome = await keeper.end(forget=True)
    assert outcome.result is EndResult.PENDING
    assert "the token store has not taken that yet" in str(outcome.explanation)
    bench.store.repair()
