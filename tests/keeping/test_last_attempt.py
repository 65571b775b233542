"""``grace: 0``: the last attempt with a token that may have been spent, made once and not lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace
from support.bench import UNLIMITED, Bench
from support.inside import operations_of

from xots.errors import TokenUnavailable
from xots.events import ConsentWasLost, RefreshFailed
from xots.keeping.keeper import TokenKeeper
from xots.lifecycle.schedule import State

STRICT = replace(UNLIMITED, grace=timedelta(0))


async def before_the_last_attempt(bench: Bench) -> TokenKeeper:
    """Return a keeper whose first request never reached the server, once the access token has
    expired."""
    keeper = await bench.keeper(policy=STRICT)
    await keeper.login(bench.attempt())
    bench.sandbox.add_fault("refresh:nth=1:reset")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    assert keeper.state is State.REFRESH_FAILING
    bench.clock.advance(minutes=30)
    return keeper


@pytest.mark.safeguard(
    file="keeping/refreshing.py",
    old="            await replica.commit(unsent, after=begun)\n",
    new="            pass\n",
    protects_from="a login that is lost because the lease ran out before the last attempt",
)
async def test_a_lost_lease_costs_no_last_attempt(bench: Bench) -> None:
    """The process was suspended in the write of the intent, and sends nothing. It makes the last
    attempt later."""
    keeper = await before_the_last_attempt(bench)
    sent = len(bench.sandbox.refreshes())
    bench.store.before("swap", lambda: bench.store.leases[-1].lose())
    await keeper.maintain()
    assert len(bench.sandbox.refreshes()) == sent
    bench.clock.advance(minutes=1)
    await keeper.maintain()
    assert keeper.state is State.CONNECTED
    assert len(bench.sandbox.refreshes()) == sent + 1


async def test_a_last_attempt_that_was_cut_off_is_reported(bench: Bench) -> None:
    """The process died in it. Another one reports the lost login after a minute, once."""
    dying = await before_the_last_attempt(bench)
    bench.sandbox.add_fault("refresh:nth=1:hold-before")
    refresh = asyncio.create_task(dying.maintain())
    await bench.sandbox.held()
    (task,) = operations_of(dying)
    task.cancel()
    await asyncio.wait([refresh])
    survivor = await bench.keeper(policy=STRICT)
    await survivor.maintain()
    assert bench.happened(ConsentWasLost) == 0
    bench.clock.advance(minutes=1)
    await survivor.maintain()
    await survivor.maintain()
    assert survivor.state is State.CONSENT_LOST
    assert bench.happened(ConsentWasLost) == 1
    bench.sandbox.release()


async def test_a_refresh_that_was_cut_off_is_noted_before_its_last_attempt(bench: Bench) -> None:
    """A process that restarts after the access token has expired sends nothing at first. Its
    predecessor's response may still be written."""
    dying = await bench.keeper(policy=STRICT)
    await dying.login(bench.attempt())
    bench.clock.advance(minutes=30)
    bench.sandbox.add_fault("refresh:nth=1:hold-before")
    refresh = asyncio.create_task(dying.maintain())
    await bench.sandbox.held()
    (task,) = operations_of(dying)
    task.cancel()
    await asyncio.wait([refresh])
    survivor = await bench.keeper(policy=STRICT)
    sent = len(bench.sandbox.refreshes())
    await survivor.maintain()
    assert bench.happened(RefreshFailed) == 1
    assert len(bench.sandbox.refreshes()) == sent
    bench.clock.advance(minutes=1)
    await survivor.maintain()
    assert len(bench.sandbox.refreshes()) == sent + 1
    bench.sandbox.release()
