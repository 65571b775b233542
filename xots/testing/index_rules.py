# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``IndexRules``: the index of due accounts of every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..errors import StaleWrite
from .opening import Opening, is_stale, opened

__all__ = ["IndexRules"]

BEGINNING = datetime(2026, 11, 2, 9, 0, 0, 123456, tzinfo=UTC)


def at(minute: int) -> datetime:
    """Return the time of a minute in the tests."""
    return BEGINNING + timedelta(minutes=minute)


class IndexRules:
    """The rules for the index of due accounts, one test for each."""

    async def test_due_names_are_returned_in_order(self, opening: Opening) -> None:
        """``due`` returns the names up to a time, that time included, the earliest first."""
        async with opened(opening) as (store, _):
            assert await store.due(at(9), 10) == []
            for name, due_at in (("c", at(3)), ("a", at(2)), ("b", at(1)), ("never", None)):
                await store.swap(name, b"value", expected=None, due_at=due_at)
            assert await store.due(at(1) - timedelta(microseconds=1), 10) == [], "it is too early"
            assert await store.due(at(1), 10) == ["b"], "swap or due ignores due_at"
            assert await store.due(at(2), 10) == ["b", "a"], (
                "due removes names, or does not order them"
            )
            assert await store.due(at(9), 10) == ["b", "a", "c"], "due removes names"
            assert await store.due(at(9), 2) == ["b", "a"], "the limit is not that of the earliest"
            assert await store.due(at(9), 10) == ["b", "a", "c"], "due removes names"

    async def test_each_write_replaces_the_time(self, opening: Opening) -> None:
        """A write without a time removes the name. A stale write changes nothing."""
        async with opened(opening) as (store, _):
            version = await store.swap("a", b"one", expected=None, due_at=at(1))
            await store.swap("b", b"one", expected=None, due_at=at(2))
            version = await store.swap("a", b"two", expected=version, due_at=at(3))
            assert await store.due(at(9), 10) == ["b", "a"], "a write keeps the earlier time"
            await is_stale(store.swap("a", b"late", expected=None, due_at=at(0)))
            assert await store.due(at(9), 10) == ["b", "a"], "a stale write changes the index"
            version = await store.swap("a", b"three", expected=version, due_at=None)
            assert await store.due(at(9), 10) == ["b"], "a write without a time keeps the name"

    async def test_a_note_corrects_the_index(self, opening: Opening) -> None:
        """``note_due`` adds, moves and removes a name, and writes no record."""
        async with opened(opening) as (store, _):
            await store.note_due("a", None)
            await store.note_due("a", at(1))
            assert await store.due(at(9), 10) == ["a"], "note_due adds no name"
            version = await store.swap("b", b"value", expected=None, due_at=at(2))
            await store.note_due("a", at(3))
            assert await store.due(at(9), 10) == ["b", "a"], "note_due moves no name"
            await store.note_due("b", None)
            assert await store.due(at(9), 10) == ["a"], "note_due removes no name"
            assert await store.names() == ["b"], "note_due writes a record"
            stored = await store.read("b")
            assert stored is not None
            assert stored.version == version

    async def test_a_shared_index_is_seen_by_other_openings(self, opening: Opening) -> None:
        """If ``shares_index`` is true, each opening sees and corrects the index of the others."""
        async with opened(opening) as (store, another):
            await store.swap("a", b"value", expected=None, due_at=at(1))
            await another.note_due("b", at(2))
            assert store.shares_index == another.shares_index
            is_seen = store.shares_index or another is store
            assert await another.due(at(9), 10) == (["a", "b"] if is_seen else ["b"])
            try:
                await another.swap("a", b"late", expected=None, due_at=None)
            except StaleWrite:
                await another.note_due("a", None)
            assert await another.due(at(9), 10) == ["b"]
            assert await store.due(at(9), 10) == (["b"] if is_seen else ["a"])
