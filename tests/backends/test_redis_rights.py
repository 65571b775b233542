"""The rights of the Redis user: those in deploy/redis-users.acl are enough, and all are needed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import redis
from support.redis_servers import (
    ACL_LINE,
    OLD_ACL_LINE,
    Opener,
    RedisServer,
    refusal,
    set_user,
)

from xots.backends import redis as redis_store
from xots.backends import redis_stream
from xots.backends.redis import RedisStore
from xots.errors import StoreUnavailable


def test_the_documented_rights_are_the_tested_ones() -> None:
    """A warning gives the line of deploy/redis-users.acl."""
    assert redis_store.USER_LINE == ACL_LINE


NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)

OPTIONAL = frozenset({"+psubscribe", "+zadd", "+zrem", "+zrangebyscore"})
"""The rights without which everything works, with more requests."""

FOR_OLD_PROCESSES = "+subscribe"
"""A process of an earlier version subscribes to one channel an account."""


async def use_everything(server: RedisServer, store: RedisStore) -> list[str]:
    """Use every operation of a store; raise if one fails, even silently. Return its warnings."""
    server.admin.flushall()
    server.admin.script_flush()
    changes = store.changes()
    assert await anext(changes) is None
    version = await store.swap("a", b"one", expected=None, due_at=NOW)
    assert await asyncio.wait_for(anext(changes), 5) == "a"
    assert await store.due(NOW, 10) == ["a"]
    await store.note_due("b", NOW)
    assert await store.due(NOW, 10) == ["a", "b"]
    await store.note_due("b", None)
    with suppress(TimeoutError):  # long enough for a ping
        await asyncio.wait_for(anext(changes), 0.4)
        raise AssertionError("a notice without a change")
    await store.swap("a", b"two", expected=version)
    assert await store.due(NOW, 10) == []
    assert await store.names() == ["a"]
    assert await store.read("a") is not None
    await store.check()
    assert await store.clock_skew("a") is not None
    async with store.lease("a", ttl_seconds=1) as lease:
        ends_at = time.monotonic() + 1.2
        while time.monotonic() < ends_at:
            await asyncio.sleep(0.01)
            assert not lease.lost, "not renewed"
    assert not server.admin.exists("xots:lease:a"), "not released"
    warnings = await store.warnings()
    assert any("append-only" in warning for warning in warnings)
    return warnings


async def test_the_minimal_rights_are_enough(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with these rights can do all that a store does, and Redis logs no refusal."""
    monkeypatch.setattr(redis_stream, "PING_INTERVAL_SECONDS", 0.05)
    server.admin.execute_command("ACL", "LOG", "RESET")
    server.admin.config_resetstat()
    assert len(await use_everything(server, open_store(set_user(server, ACL_LINE)))) == 1
    assert server.admin.acl_log() == []
    # The only error is that of a script that is not loaded yet.
    assert set(server.admin.info("errorstats")) == {"errorstat_NOSCRIPT"}


REQUIRED = [
    word
    for word in ACL_LINE.split()
    if word[0] in "+~&" and word not in {*OPTIONAL, FOR_OLD_PROCESSES}
]


@pytest.mark.parametrize("right", REQUIRED)
async def test_every_right_is_needed(
    right: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any one of them an operation fails, and Redis logs the lack of just that one."""
    monkeypatch.setattr(redis_stream, "PING_INTERVAL_SECONDS", 0.05)
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
    "line",
    [
        pytest.param(
            OLD_ACL_LINE,
            id="old line",
            marks=pytest.mark.safeguard(
                file="backends/redis.py",
                old="keys = [key, DUE] if await self._index.test() else [key]",
                new="keys = [key, DUE]",
                protects_from="a log of Redis that fills with refusals, one for each write",
            ),
        ),
        *(pytest.param(ACL_LINE.replace(f" {right}", ""), id=right) for right in sorted(OPTIONAL)),
    ],
)
async def test_an_optional_right_is_missed_by_one_warning(
    line: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without new rights everything works. One warning gives the whole line, and Redis logs one
    refusal for each kind of right: it was tested once."""
    monkeypatch.setattr(redis_stream, "PING_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(redis_stream, "NAMES_INTERVAL_SECONDS", 0.1)
    server.admin.execute_command("ACL", "LOG", "RESET")
    store = open_store(set_user(server, line))
    for _ in range(2):
        warnings = await use_everything(server, store)
        assert len(warnings) == 2
        assert ACL_LINE in warnings[1]
    refused = {entry["object"]: int(entry["count"]) for entry in server.admin.acl_log()}
    assert {f"+{command}" for command in refused} <= OPTIONAL
    assert set(refused.values()) == {1}
    assert store.shares_index == ("+zadd" in line and "+zrem" in line and "+zrange" in line)


async def test_rights_that_are_granted_later_are_used_after_a_restart(
    server: RedisServer, open_store: Opener
) -> None:
    """The operator follows the warning; another process without a restart goes on as before."""
    store = open_store(set_user(server, OLD_ACL_LINE))
    version = await store.swap("a", b"one", expected=None, due_at=NOW)
    url = set_user(server, ACL_LINE)
    await store.swap("a", b"two", expected=version, due_at=NOW)
    assert not store.shares_index
    restarted = open_store(url)
    assert len(await restarted.warnings()) == 1
    assert restarted.shares_index
    await restarted.note_due("a", NOW)
    assert await open_store(url).due(NOW, 10) == ["a"]


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="redis.pcall('ZADD'",
    new="redis.call('ZADD'",
    protects_from="a write that is reported as failed, although the record is written",
)
async def test_a_right_that_is_taken_away_fails_no_write(
    server: RedisServer, open_store: Opener
) -> None:
    """The record is written, and from the next use on the index is in memory."""
    store = open_store(set_user(server, ACL_LINE))
    version = await store.swap("a", b"one", expected=None, due_at=NOW)
    set_user(server, "user xots -zadd -zrem -zrangebyscore")
    version = await store.swap("a", b"two", expected=version, due_at=NOW)
    assert await store.due(NOW, 10) == []
    assert not store.shares_index
    await store.swap("a", b"three", expected=version, due_at=NOW)
    assert await store.due(NOW, 10) == ["a"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("GET", ["other"]),
        ("SET", ["other", "1"]),
        ("PUBLISH", ["other", ""]),
        ("SUBSCRIBE", ["xots:record:a"]),
        ("PSUBSCRIBE", ["*"]),
        ("ZADD", ["other", "0", "a"]),
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
