"""The index and the stream on a real Redis: foreign keys and members, outages, connections."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from support.redis_servers import ACL_LINE, OLD_ACL_LINE, Opener, RedisServer, refusal, set_user

from xots.backends import redis_stream
from xots.errors import RecordUnusable

NOW = datetime(2026, 11, 2, 9, 0, 0, 654321, tzinfo=UTC)

NOT_UTF_8 = b"xots:record:\xff\xfe"

FOREIGN = [b"xots:record:A", b"xots:record:a b", b"xots:record:" + b"a" * 65, NOT_UTF_8]
"""Keys of another program that look like records."""


async def test_times_are_kept_in_seconds_since_1970(
    server: RedisServer, open_store: Opener
) -> None:
    """So other tools, and other hosts, read them alike."""
    store = open_store(server.url)
    await store.swap("a", b"value", expected=None, due_at=NOW)
    assert server.admin.zrange("xots:due", 0, -1, withscores=True) == [(b"a", NOW.timestamp())]
    assert await store.due(NOW, 1) == ["a"]
    assert await store.due(NOW - timedelta(microseconds=1), 1) == []


async def test_foreign_members_hide_no_due_name(server: RedisServer, open_store: Opener) -> None:
    """They are removed, however many there are: no account can have such a name."""
    store = open_store(server.url)
    await store.swap("a", b"value", expected=None, due_at=NOW)
    members: dict[bytes, int] = {b"foreign %d" % number: number for number in range(500)}
    server.admin.zadd("xots:due", {**members, b"\xff": 0, b"lease-a": 0, b"x" * 65: 0})
    assert await store.due(NOW, 2) == ["a"]
    assert server.admin.zrange("xots:due", 0, -1) == [b"a"]


async def test_an_index_of_another_type_is_not_used(
    server: RedisServer, open_store: Opener
) -> None:
    """Writes and the index in memory work, before and after the first test. A warning says so."""
    server.admin.set("xots:due", "of another program")
    store = open_store(server.url)
    version = await store.swap("a", b"one", expected=None, due_at=NOW)
    assert await store.due(NOW, 10) == ["a"]
    assert not store.shares_index
    (_, warning) = await store.warnings()
    assert "the key xots:due" in warning
    assert "delete the key" in warning
    server.admin.delete("xots:due")
    later = open_store(server.url)
    assert await later.due(NOW, 10) == []
    assert later.shares_index
    server.admin.delete("xots:due")
    server.admin.set("xots:due", "of another program")
    version = await later.swap("a", b"two", expected=version, due_at=NOW)
    assert await later.due(NOW, 10) == []  # a hint: this write is missing
    await later.swap("a", b"three", expected=version, due_at=NOW)
    assert await later.due(NOW, 10) == ["a"]


async def test_a_server_that_takes_no_writes_serves_reads_and_the_stream(
    own_server: RedisServer, open_store: Opener
) -> None:
    """A start there needs no index. The index is used once the server takes writes again."""
    store = open_store(own_server.url)
    own_server.admin.config_set("maxmemory", "1")
    assert await store.read("a") is None
    await store.warnings()
    assert await store.due(NOW, 10) == []
    await store.note_due("b", NOW)
    assert await store.due(NOW, 10) == ["b"]
    assert await asyncio.wait_for(anext(store.changes()), 5) is None
    own_server.admin.config_set("maxmemory", "0")
    await store.swap("a", b"value", expected=None, due_at=NOW)
    assert store.shares_index


async def test_a_foreign_record_blocks_no_other(server: RedisServer, open_store: Opener) -> None:
    """Keys that no account can have are skipped. One of another type is an error of its own."""
    store = open_store(server.url)
    await store.swap("good", b"value", expected=None)
    for key in FOREIGN:
        server.admin.set(key, "foreign")
    server.admin.hset("xots:record:hash", "field", "value")
    assert await store.names() == ["good", "hash"]
    assert len(await store.foreign()) == len(FOREIGN)
    assert await store.read("good") is not None
    for call in (store.read("hash"), store.swap("hash", b"new", expected=None)):
        with pytest.raises(RecordUnusable, match=r"xots:record:hash holds no record.*delete it"):
            await call
    assert server.admin.hget("xots:record:hash", "field") == b"value"


@pytest.mark.parametrize("line", [ACL_LINE, OLD_ACL_LINE], ids=["new line", "old line"])
async def test_foreign_announcements_are_skipped(
    line: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may publish on channels like these."""
    monkeypatch.setattr(redis_stream, "NAMES_INTERVAL_SECONDS", 0.1)
    for key in FOREIGN:
        server.admin.set(key, "foreign")
    store = open_store(set_user(server, line))
    changes = store.changes()
    assert await asyncio.wait_for(anext(changes), 5) is None
    for channel in (b"xots:changes:", b"xots:changes:\xff", b"xots:changes:A B"):
        server.admin.publish(channel, "")
    await store.swap("good", b"value", expected=None)
    assert await asyncio.wait_for(anext(changes), 5) == "good"


@pytest.mark.parametrize("line", [ACL_LINE, OLD_ACL_LINE], ids=["new line", "old line"])
async def test_the_stream_takes_one_connection_for_all_accounts(
    line: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred accounts have one subscription, and each change is reported."""
    monkeypatch.setattr(redis_stream, "NAMES_INTERVAL_SECONDS", 0.1)
    writer, store = open_store(server.unix_url), open_store(set_user(server, line))
    names = [f"account-{number}" for number in range(100)]
    versions = [await writer.swap(name, b"one", expected=None) for name in names]
    changes = store.changes()
    assert await asyncio.wait_for(anext(changes), 5) is None
    assert len(server.admin.client_list(_type="pubsub")) == 1
    assert len(server.admin.client_list()) <= 4  # the stream, the names, the writer, the admin
    for name, version in zip(names, versions, strict=True):
        await writer.swap(name, b"two", expected=version)
    async with asyncio.timeout(10):
        missing = {*names}
        while missing:
            missing.discard(await anext(changes) or "")


async def test_with_the_old_line_a_used_name_is_watched_before_it_has_a_record(
    server: RedisServer, open_store: Opener
) -> None:
    """The first login by another process is seen at once, as before."""
    store, writer = open_store(set_user(server, OLD_ACL_LINE)), open_store(server.url)
    assert await store.read("a") is None
    changes = store.changes()
    assert await asyncio.wait_for(anext(changes), 5) is None
    await writer.swap("a", b"value", expected=None)
    assert await asyncio.wait_for(anext(changes), 2) == "a"


async def test_with_the_old_line_a_broken_subscription_is_an_error(
    server: RedisServer, open_store: Opener
) -> None:
    """It raises StoreUnavailable, and misses no change silently."""
    changes = open_store(set_user(server, OLD_ACL_LINE)).changes()
    assert await asyncio.wait_for(anext(changes), 5) is None
    notice = asyncio.ensure_future(anext(changes))
    server.admin.client_kill_filter(_type="pubsub")
    assert "cannot be reached" in await refusal(notice)
