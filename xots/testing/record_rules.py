# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``RecordRules``: the records of every store, its names and its compare-and-set."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from unittest.mock import patch

from ..backends.base import MAX_RECORD_BYTES, TokenStore
from ..errors import StaleWrite
from .opening import EVENT_TIMEOUT_SECONDS, Opening, is_stale, opened, refusal

__all__ = ["RecordRules"]

EVERY_BYTE = bytes(range(256))
"""Each value that a byte can have, once."""


class RecordRules:
    """The rules for records, one test for each."""

    async def test_a_missing_name_is_none(self, opening: Opening) -> None:
        """A name that was never written reads as None. It is not an error."""
        async with opened(opening) as (store, another):
            assert await store.read("default") is None
            assert await store.names() == []
            assert await another.read("default") is None

    async def test_what_was_written_is_read_back(self, opening: Opening) -> None:
        """Each opening returns the same bytes: every byte value, no bytes, and 256 kB of them."""
        async with opened(opening) as (store, another):
            version = None
            for value in (
                EVERY_BYTE,
                b"",
                EVERY_BYTE * 1024,
                b"\r\n",
                b"\x00",
                b"{}",
                "é".encode(),
            ):
                version = await store.swap("default", value, expected=version)
                for reader in (store, another):
                    stored = await reader.read("default")
                    assert stored is not None
                    assert type(stored.value) is bytes
                    assert stored.value == value
                    assert stored.version == version, "swap and read return different versions"

    async def test_an_empty_value_is_not_a_missing_name(self, opening: Opening) -> None:
        """A record without bytes exists: it is listed, and a second creation is stale."""
        async with opened(opening) as (store, _):
            await store.swap("default", b"", expected=None)
            assert await store.names() == ["default"]
            await is_stale(store.swap("default", b"new", expected=None))

    async def test_a_stale_write_writes_nothing(self, opening: Opening) -> None:
        """A write that expects no record or another version is stale and changes nothing."""
        async with opened(opening) as (store, another):
            first = await store.swap("default", b"first", expected=None)
            await is_stale(another.swap("default", b"intruder", expected=None))
            second = await another.swap("default", b"second", expected=first)
            await is_stale(store.swap("default", b"late", expected=first))
            await is_stale(store.swap("default", b"late", expected="no such version"))
            stored = await store.read("default")
            assert stored is not None
            assert (stored.value, stored.version) == (b"second", second)

    async def test_a_version_of_a_missing_nameis_stale(self, opening: Opening) -> None:
        """A store that lost the expected record raises StaleWrite and does not create another."""
        async with opened(opening) as (store, _):
            version = await store.swap("other", b"value", expected=None)
            await is_stale(store.swap("default", b"value", expected=version))
            assert await store.read("default") is None

    async def test_a_version_never_stands_for_two_values(self, opening: Opening) -> None:
        """Versions are not counters: no version of an earlier value fits later bytes."""
        async with opened(opening) as (store, _):
            value_of: dict[str, bytes] = {}
            version = None
            for value in (b"one", b"two", b"one", b"three", b"two", b"one"):
                old, version = version, await store.swap("default", value, expected=version)
                assert value_of.setdefault(version, value) == value, (
                    "one version stood for two values"
                )
                if old is not None:
                    await is_stale(store.swap("default", b"late", expected=old))
            elsewhere = await store.swap("other", b"four", expected=None)
            assert value_of.setdefault(elsewhere, b"four") == b"four", (
                "versions begin anew for each name"
            )

    async def test_names_are_listed_in_order(self, opening: Opening) -> None:
        """Each valid name has its own record and is listed, in order; leases are hidden."""
        names = [
            "-",
            "0",
            "a",
            "a-",
            "a-b",
            "a0",
            "default",
            "lease",
            "leasehold",
            "z" * 63,
            "z" * 64,
        ]
        async with opened(opening) as (store, another):
            for name in reversed(names):
                await store.swap(name, name.encode(), expected=None)
            await store.swap("lease-of-the-store", b"", expected=None)
            async with store.lease("default", 10), store.lease("z" * 64, 10):
                assert await another.names() == sorted(names)
            assert await store.names() == sorted(names)
            for name in names:
                stored = await another.read(name)
                assert stored is not None
                assert stored.value == name.encode()

    async def test_a_record_that_is_too_large_is_not_written(self, opening: Opening) -> None:
        """A record may have ``MAX_RECORD_BYTES``, and not one more. The old record stays."""
        async with opened(opening) as (store, another):
            largest = b"x" * MAX_RECORD_BYTES
            version = await store.swap("default", largest, expected=None)
            for name, expected in (("default", version), ("new", None)):
                swap = another.swap(name, largest + b"x", expected=expected)
                message = await refusal(swap, "a record was written that is too large")
                assert name in message, "the error does not name the record"
            stored = await another.read("default")
            assert stored is not None
            assert stored.version == version
            assert await another.names() == ["default"]

    async def test_a_record_that_is_too_large_is_not_read(self, opening: Opening) -> None:
        """The record of another program is refused by ``check_size``, and the other ones are read.
        Here the upper bound is lowered, because no store writes such a record."""
        async with opened(opening) as (store, another):
            await another.swap("default", b"x" * 1001, expected=None)
            await another.swap("other", b"x" * 1000, expected=None)
            with patch("xots.backends.records.MAX_RECORD_BYTES", 1000):
                message = await refusal(
                    store.read("default"), "a record was read that is too large"
                )
                assert "default" in message, "the error does not name the record"
                assert await store.names() == ["default", "other"]
                stored = await store.read("other")
                assert stored is not None
                changes = store.changes(every_seconds=0.05)
                async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                    await anext(changes)
                    await another.swap("other", b"new", expected=stored.version)
                    while await anext(changes) != "other":
                        pass
                await changes.aclose()  # type: ignore[attr-defined] # an async generator

    async def test_of_swaps_at_the_same_time_one_wins(self, opening: Opening) -> None:
        """Of concurrent swaps of one version, creations or not, exactly one is written."""
        async with opened(opening) as (store, another):
            version = None
            for turn in range(3):
                values = [f"{turn} {number}".encode() for number in range(8)]
                swaps = [
                    (store, another)[number % 2].swap("default", value, expected=version)
                    for number, value in enumerate(values)
                ]
                results = await asyncio.gather(*swaps, return_exceptions=True)
                won = [number for number, result in enumerate(results) if isinstance(result, str)]
                assert len(won) == 1, results
                assert all(isinstance(result, str | StaleWrite) for result in results), results
                stored = await another.read("default")
                assert stored is not None
                assert stored.value == values[won[0]]
                version = stored.version
                assert version == results[won[0]]

    async def test_no_change_is_lost(self, opening: Opening) -> None:
        """Each increment by concurrent writers counts, if they retry their stale writes."""
        async with opened(opening) as (store, another):

            async def add(through: TokenStore, times: int) -> None:
                while times:
                    stored = await through.read("default")
                    value = b"%d" % (int(stored.value) + 1 if stored else 1)
                    with suppress(StaleWrite):
                        await through.swap(
                            "default", value, expected=stored.version if stored else None
                        )
                        times -= 1

            await asyncio.gather(*(add(one, 5) for one in (store, another, store, another)))
            stored = await store.read("default")
            assert stored is not None
            assert stored.value == b"20"

    async def test_a_cancelled_swap_is_whole_or_nothing(self, opening: Opening) -> None:
        """A cancelled write leaves the old or the new value, and a store that works."""
        async with opened(opening) as (store, another):
            version, possible = None, [b""]
            for number in range(10):
                new = b"new %d" % number * 1000
                swap = asyncio.ensure_future(store.swap("default", new, expected=version))
                for _ in range(number):
                    await asyncio.sleep(0)
                swap.cancel()
                with suppress(asyncio.CancelledError):
                    await swap
                # The cancelled write may still take effect. Then this write is stale: read again.
                settled, version = b"settled %d" % number, None
                async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                    while version is None:
                        stored = await another.read("default")
                        assert (stored.value if stored else b"") in (*possible, new)
                        with suppress(StaleWrite):
                            version = await another.swap(
                                "default", settled, expected=stored.version if stored else None
                            )
                possible = [settled]
