"""A login: its code is exchanged once, and its tokens are stored before it counts."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from support.bench import SCOPES, Bench, revocations
from support.inside import context_of, operations_of

from xots.errors import LoginFailed, StoreUnavailable
from xots.events import LoggedIn
from xots.lifecycle.outcomes import Issued
from xots.lifecycle.schedule import State
from xots.secret import Secret


async def test_a_login_is_stored_before_it_counts(bench: Bench) -> None:
    """The store holds a live token, sealed, and the access token is served from memory."""
    keeper = await bench.logged_in()
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()
    token = await keeper.token()
    assert token.value.reveal().encode() not in bench.store.dump()["default"].value
    requests = len(bench.sandbox.log)
    for _ in range(100):
        await keeper.token()
    assert len(bench.sandbox.log) == requests
    assert bench.happened(LoggedIn) == 1


async def test_a_login_keeps_the_time_of_the_last_end(bench: Bench) -> None:
    """A later change of it shows that an end came in between."""
    keeper = await bench.logged_in()
    bench.clock.advance(1)
    await keeper.end(forget=False)
    ended_at = keeper.account.ended_at
    bench.clock.advance(1)
    await keeper.login(bench.attempt())
    assert keeper.account.ended_at == ended_at == bench.clock.now() - timedelta(seconds=1)


@pytest.mark.safeguard(
    file="tasks.py",
    old="return await asyncio.shield(self.start(work))",
    new="return await self.start(work)",
    protects_from="a browser that is closed in the middle of a login",
)
async def test_a_browser_that_disconnects_does_not_end_the_login(bench: Bench) -> None:
    """The code is spent at Xero, so the tokens for it are stored."""
    keeper = await bench.keeper()
    login = await bench.held_login(keeper)
    login.cancel()
    with pytest.raises(asyncio.CancelledError):
        await login
    bench.sandbox.release()
    await asyncio.wait(operations_of(keeper))
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


# ---------- a login that fails


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(
            "read",
            marks=pytest.mark.safeguard(
                file="keeping/login.py",
                old="        await replica.peek()\n",
                new="",
                protects_from="a login that cannot be stored",
            ),
        ),
        pytest.param(
            "swap",
            marks=pytest.mark.safeguard(
                file="keeping/login.py",
                old="        await context.store.check()\n",
                new="",
                protects_from=(
                    "a login that only this process holds, and that an end at another process "
                    "revokes"
                ),
            ),
        ),
    ],
)
async def test_a_login_that_the_store_cannot_take_spends_no_code(bench: Bench, fails: str) -> None:
    """The store is checked before the exchange, so the same code still works later."""
    keeper = await bench.keeper()
    attempt = bench.attempt()
    bench.store.fail(fails)
    with pytest.raises(StoreUnavailable):
        await keeper.login(attempt)
    bench.store.repair()
    await keeper.login(attempt)
    assert keeper.state is State.CONNECTED


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="known, began_at = replica.account, context.clock.now()",
    new=(
        "known, began_at = replica.account, context.clock.now()\n"
        "        await replica.update(lambda account: type(account)())"
    ),
    protects_from="a second login that fails, and costs the first",
)
async def test_a_failed_login_changes_nothing(bench: Bench) -> None:
    """A code that Xero refuses leaves the live login as it was."""
    keeper = await bench.logged_in()
    before = keeper.account
    with pytest.raises(LoginFailed, match="used before"):
        await keeper.login(bench.attempt(code=Secret("wrong")))
    assert keeper.account == before
    assert await keeper.token() == before.access


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("invalid-client", "Xero does not accept the client id and secret"),
        ("503-html", "has status 503 and says nothing about the token; log in again"),
        ("reset", "Connection reset by peer; log in again"),
    ],
)
async def test_a_login_that_xero_refuses_says_why(bench: Bench, fault: str, says: str) -> None:
    """Each failure has its own advice."""
    keeper = await bench.keeper()
    bench.sandbox.add_fault(f"token:every:{fault}")
    with pytest.raises(LoginFailed, match=says):
        await keeper.login(bench.attempt())


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="if outcome.refresh_token is None:",
    new="if False:",
    protects_from="a login that is over after half an hour",
)
async def test_a_login_without_a_refresh_token_fails_whatever_its_scopes(bench: Bench) -> None:
    """It would end after half an hour. A login that was live before still is."""
    keeper = await bench.logged_in()
    before = keeper.account
    bench.sandbox.add_fault("token:nth=1:no-refresh-token")
    with pytest.raises(LoginFailed, match="no refresh token"):
        await keeper.login(bench.attempt())
    assert keeper.account == before


async def test_a_login_with_fewer_scopes_than_requested_fails(bench: Bench) -> None:
    """More scopes are accepted, since Xero's scopes add up."""
    keeper = await bench.keeper()
    with pytest.raises(LoginFailed, match=r"payroll\.settings"):
        await keeper.login(bench.attempt(scopes=(*SCOPES, "payroll.settings")))
    await keeper.login(bench.attempt(scopes=("offline_access",)))
    assert set(keeper.account.scopes_granted) == set(SCOPES)


@pytest.mark.parametrize("named", [(), ("accounting.transactions",)])
async def test_a_refresh_token_counts_as_granted_offline_access(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...]
) -> None:
    """A server may issue one without naming that scope. Another scope is missed as before."""
    keeper = await bench.keeper()
    xero = context_of(keeper).xero
    exchange = xero.exchange

    async def exchanged(*args: Any, **kwargs: Any) -> Any:
        issued = await exchange(*args, **kwargs)
        assert isinstance(issued, Issued)
        return msgspec.structs.replace(issued, scopes=named)

    monkeypatch.setattr(xero, "exchange", exchanged)
    if named:
        await keeper.login(bench.attempt())
        assert keeper.state is State.CONNECTED
        return
    with pytest.raises(LoginFailed) as failed:
        await keeper.login(bench.attempt())
    assert "missing: accounting.transactions; permit them" in str(failed.value)


@pytest.mark.parametrize(
    ("authorize_url", "says"),
    [
        (None, "Xero issued no refresh token: the scopes must include offline_access"),
        (
            "https://id.example/authorize",
            "the identity server issued no refresh token, without which the login would end with "
            "its access token: request the scope or the parameter by which this server issues one "
            "(settings scopes and authorize_params)",
        ),
    ],
)
async def test_a_missing_refresh_token_has_the_advice_of_its_server(
    bench: Bench, authorize_url: str | None, says: str
) -> None:
    """Other servers issue it by other scopes, or by a parameter."""
    url = authorize_url or bench.sandbox.authorize_url
    keeper = await bench.keeper(xero=bench.client(authorize_url=url))
    bench.sandbox.add_fault("token:nth=1:no-refresh-token")
    with pytest.raises(LoginFailed, match=re.escape(says)):
        await keeper.login(bench.attempt())


# ---------- the lease during the exchange


@pytest.mark.safeguard(
    file="keeping/login.py",
    old=(
        "        if replica.account.revocation is not None:\n"
        "            lease = await held.enter_async_context(replica.locked())\n"
        "        await context.store.check()\n"
        "        known, began_at = replica.account, context.clock.now()\n"
        "        if known.revocation is None:\n"
        "            await held.aclose()\n"
        "\n"
        "        # 2. Exchange the code, and list the organisations of the login.\n"
        "        issued, token = await _exchange(context, attempt)\n"
    ),
    new=(
        "        lease = await held.enter_async_context(replica.locked())\n"
        "        await context.store.check()\n"
        "        known, began_at = replica.account, context.clock.now()\n"
        "        issued, token = await _exchange(context, attempt)\n"
        "        if known.revocation is None:\n"
        "            await held.aclose()\n"
    ),
    protects_from="an invented code that delays a refresh, since its exchange holds the lease",
)
async def test_a_code_exchange_does_not_delay_a_refresh(bench: Bench) -> None:
    """Another process refreshes the earlier login while Xero holds the token response back."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    refresh = asyncio.create_task(other.refresh())
    done, _ = await asyncio.wait([refresh], timeout=5)
    bench.sandbox.release()
    assert done
    await refresh
    await login
    assert len(bench.sandbox.refreshes()) == 1
    assert keeper.state is State.CONNECTED
    assert bench.xero_would_issue()


@pytest.mark.safeguard(
    file="keeping/login.py",
    old="        if known.revocation is None:\n            await held.aclose()\n",
    new="        await held.aclose()\n",
    protects_from="a revocation of the login before that ends the new one during its exchange",
)
async def test_a_code_exchange_delays_an_unconfirmed_revocation(bench: Bench) -> None:
    """Another process is due to retry the revocation, and finds the new login instead."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:first=1:503-html")
    assert not await keeper.end(forget=False)
    other = await bench.keeper()
    login = await bench.held_login(keeper)
    bench.clock.advance(minutes=2)
    tick = asyncio.create_task(other.maintain())
    await asyncio.wait([tick], timeout=0.2)
    sent = revocations(bench)
    bench.sandbox.release()
    await login
    await tick
    assert (sent, revocations(bench)) == (1, 1)
    assert keeper.state is other.state is State.CONNECTED
    assert bench.xero_would_issue()
