"""Several processes on one Redis share the accounts: each due refresh is made once.

Both with the rights of the Redis user as they are now, and with those of the version before the
index and the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from support.bench import START, eventually
from support.redis_servers import ACL_LINE, OLD_ACL_LINE, RedisServer, set_user
from support.several import Several

from xots.accounts.accounts import Accounts
from xots.backends.redis import RedisStore
from xots.keeping.usage import Fresh
from xots.sandbox import Sandbox, SandboxOptions
from xots.testing import FakeClock

ALWAYS = tuple(f"always-{number}" for number in range(6))


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=[ACL_LINE, OLD_ACL_LINE], ids=["new rights", "old rights"])
def url(redis_server: RedisServer, request: pytest.FixtureRequest) -> str:
    redis_server.admin.flushall()
    return set_user(redis_server, request.param)


@pytest.fixture
async def several(url: str) -> AsyncIterator[Several]:
    xero = FakeClock(START)
    store = RedisStore.from_url(url)
    async with Sandbox(SandboxOptions(port=0), xero.now) as sandbox:
        several = Several(sandbox, xero.beside(), store, fresh=dict.fromkeys(ALWAYS, Fresh.ALWAYS))
        yield several
        sandbox.release()
        await several.close()
    await store.close()


@pytest.fixture
async def two(several: Several, url: str) -> AsyncIterator[tuple[Accounts, Accounts]]:
    """Two processes, each with its own connections."""
    stores = [RedisStore.from_url(url) for _ in range(2)]
    yield await several.manager(stores[0], seed=1), await several.manager(stores[1], seed=2)
    await several.close()
    several.managers.clear()
    several.clients.clear()
    for store in stores:
        await store.close()


async def tick(several: Several, *managers: Accounts, minutes: float) -> None:
    several.clock.advance(minutes=minutes)
    await asyncio.gather(*(accounts.maintain() for accounts in managers))
    await eventually(lambda: not any(accounts.busy for accounts in managers))


async def test_an_account_is_known_to_the_other_process_soon(
    several: Several, two: tuple[Accounts, Accounts]
) -> None:
    """Its login, its token and its removal too."""
    one, other = two
    await several.add(one, "smith")
    await eventually(lambda: "smith" in other.names())
    async with one.opened("smith") as ours, other.opened("smith") as theirs:
        assert await ours.keeper.token() == await theirs.keeper.token()
        await ours.keeper.refresh()
        wanted = ours.keeper.account.access
        await eventually(lambda: theirs.keeper.account.access == wanted)
    await one.remove("smith")
    await eventually(lambda: "smith" not in other.names())


async def test_a_due_refresh_is_made_once(several: Several, two: tuple[Accounts, Accounts]) -> None:
    """Both processes find the same accounts due at the same tick."""
    await several.add(two[0], *ALWAYS)
    await eventually(lambda: two[1].names() == two[0].names())
    for rounds in range(1, 5):
        await tick(several, *two, minutes=26)
        assert several.refreshes() == len(ALWAYS) * rounds
    for name in ALWAYS:
        record = await several.record(name)
        assert record.access is not None
        assert record.access.expires_at > several.clock.now()


async def test_the_accounts_of_a_dead_process_are_not_forgotten(
    several: Several, two: tuple[Accounts, Accounts]
) -> None:
    """The index, or a sweep, tells the other one."""
    one, other = two
    await several.add(one, *ALWAYS)
    await eventually(lambda: other.names() == one.names())
    await one.close()
    several.managers.remove(one)
    refreshes = several.refreshes()
    for _ in range(3):
        await tick(several, other, minutes=26)
    assert several.refreshes() - refreshes == 3 * len(ALWAYS)


async def test_each_process_keeps_fresh_what_its_own_callers_use(
    several: Several, two: tuple[Accounts, Accounts]
) -> None:
    """The other one need not know. The refreshes of two processes are not twice as many."""
    await several.add(two[0], "one", "other", "both")
    await eventually(lambda: two[1].names() == two[0].names())
    refreshes = several.refreshes()
    for _ in range(9):
        for accounts, names in zip(two, (("one", "both"), ("other", "both")), strict=True):
            for name in names:
                async with accounts.opened(name) as found:
                    access = await found.keeper.token(may_wait=False)
                    assert access.expires_at > several.clock.now()
        await tick(several, *two, minutes=13)
    # 117 minutes hold four refreshes of each account.
    assert several.refreshes() - refreshes == 3 * 4


async def test_connections_do_not_grow_with_the_accounts(
    several: Several, two: tuple[Accounts, Accounts], redis_server: RedisServer
) -> None:
    """One subscription serves all accounts of a process."""
    await several.add(two[0], "first")
    async with two[0].opened("first") as found:
        await found.keeper.token()
    await eventually(lambda: two[1].names() == two[0].names())
    before = len(redis_server.admin.client_list())
    names = [f"more-{number}" for number in range(20)]
    await several.add(two[0], *names)
    assert len(two[0].open_now) == 22
    assert len(redis_server.admin.client_list()) <= before + 2
