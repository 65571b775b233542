"""The rights of the Redis user: those in deploy/redis-users.acl are enough, and all are needed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
import redis
from support.redis_servers import (
    ACL_LINE,
    Opener,
    RedisServer,
    refusal,
    set_user,
)

from xots.backends import redis as redis_store
from xots.backends.redis import RedisStore
from xots.errors import StoreUnavailable


def test_the_documented_rights_are_the_tested_ones() -> None:
    """The module's docstring shows the line of deploy/redis-users.acl, wrapped."""
    assert ACL_LINE in " ".join((redis_store.__doc__ or "").split())


async def use_everything(server: RedisServer, store: RedisStore) -> None:
    """Use every operation of a store; raise if one fails, even silently."""
    server.admin.flushall()
    server.admin.script_flush()
    changes = store.changes("a")
    await anext(changes)
    version = await store.swap("a", b"one", expected=None)
    await asyncio.wait_for(anext(changes), 5)
    with suppress(TimeoutError):  # long enough for a ping
        await asyncio.wait_for(anext(changes), 0.4)
        raise AssertionError("a notice without a change")
    await store.swap("a", b"two", expected=version)
    assert await store.names() == ["a"]
    assert await store.read("a") is not None
    await store.check()
    assert len(await store.warnings()) == 1
    assert await store.clock_skew("a") is not None
    async with store.lease("a", ttl_seconds=1) as lease:
        ends_at = time.monotonic() + 1.2
        while time.monotonic() < ends_at:
            await asyncio.sleep(0.01)
            assert not lease.lost, "not renewed"
    assert not server.admin.exists("xots:lease:a"), "not released"


async def test_the_minimal_rights_are_enough(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with these rights can do all that a store does, and Redis logs no refusal."""
    monkeypatch.setattr(redis_store, "PING_INTERVAL_SECONDS", 0.05)
    server.admin.execute_command("ACL", "LOG", "RESET")
    server.admin.config_resetstat()
    await use_everything(server, open_store(set_user(server, ACL_LINE)))
    assert server.admin.acl_log() == []
    # The only error is that of a script that is not loaded yet.
    assert set(server.admin.info("errorstats")) == {"errorstat_NOSCRIPT"}


@pytest.mark.parametrize("right", [word for word in ACL_LINE.split() if word[0] in "+~&"])
async def test_every_right_is_needed(
    right: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any one of them an operation fails, and Redis logs the lack of just that one."""
    monkeypatch.setattr(redis_store, "PING_INTERVAL_SECONDS", 0.05)
    store = open_store(set_user(server, ACL_LINE.replace(f" {right}", "")))
    server.admin.execute_command("ACL", "LOG", "RESET")
    with pytest.raises((StoreUnavailable, AssertionError)):
        await use_everything(server, store)
    lacking = {entry["object"] for entry in server.admin.acl_log()}
    if right[0] == "+":
        assert lacking == {right[1:]}
    else:
        assert lacking
        assert all(item.startswith(right[1:].rstrip("*")) for item in lacking)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("GET", ["other"]),
        ("SET", ["other", "1"]),
        ("PUBLISH", ["other", ""]),
        ("SUBSCRIBE", ["xots:record:a"]),
    ],
)
def test_the_minimal_rights_cover_no_other_key_or_channel(
    command: str, arguments: list[str], server: RedisServer
) -> None:
    """The same user can neither read nor write them."""
    set_user(server, ACL_LINE)
    with (
        redis.Redis(port=server.port, username="xots", password="secret") as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(command, *arguments)


async def test_a_missing_right_is_named(server: RedisServer, open_store: Opener) -> None:
    """The message names the right, and the file that lists all of them."""
    store = open_store(set_user(server, ACL_LINE.replace(" +get", "")))
    message = await refusal(store.read("a"))
    assert "'get'" in message
    assert "deploy/redis-users.acl" in message
