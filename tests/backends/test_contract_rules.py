"""The contract suite itself: each rule finds a store that breaks it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.stores import faults_of_folder

from xots.backends import file as file_module
from xots.backends.base import Stored, TokenStore
from xots.backends.file import FileStore
from xots.backends.memory import MemoryStore
from xots.errors import StoreUnavailable
from xots.testing import TokenStoreContract, change_rules, fault_rules

# ---------- the index


class IgnoresTimes(MemoryStore):
    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        return await super().swap(name, value, expected=expected)


class KeepsTimes(MemoryStore):
    async def note_due(self, name: str, due_at: datetime | None) -> None:
        if due_at is not None:
            await super().note_due(name, due_at)


class NotesStaleWrites(MemoryStore):
    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        await self.note_due(name, due_at)
        return await super().swap(name, value, expected=expected, due_at=due_at)


class RemovesDueNames(MemoryStore):
    async def due(self, before: datetime, limit: int) -> list[str]:
        names = await super().due(before, limit)
        for name in names:
            await self.note_due(name, None)
        return names


class OrdersByName(MemoryStore):
    async def due(self, before: datetime, limit: int) -> list[str]:
        return sorted(await super().due(before, limit))


class ExcludesTheTime(MemoryStore):
    async def due(self, before: datetime, limit: int) -> list[str]:
        return await super().due(before - timedelta(microseconds=1), limit)


class IgnoresTheLimit(MemoryStore):
    async def due(self, before: datetime, limit: int) -> list[str]:
        return await super().due(before, 1000)


class IgnoresNotes(MemoryStore):
    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        version = await super().swap(name, value, expected=expected)
        await super().note_due(name, due_at)
        return version

    async def note_due(self, name: str, due_at: datetime | None) -> None:
        return


class WritesNotes(MemoryStore):
    async def note_due(self, name: str, due_at: datetime | None) -> None:
        await super().note_due(name, due_at)
        self._kept.setdefault(name, Stored(b"", "version"))


# ---------- the stream


class NamesNothing(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        yield None
        await asyncio.Event().wait()


class BeginsWithAName(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        yield "default"


class MissesNewNames(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        known = {*await self.names(), "default", "two"} - {"two"}
        async for name in super().changes(every_seconds):
            if name is None or name in known:
                yield name


class NamesAll(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        async for name in super().changes(every_seconds):
            yield name
            for other in await self.names():
                yield other


class NamesLeases(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        async for name in super().changes(every_seconds):
            yield name
            if "lease-of-the-store" in self._kept:
                yield "lease-of-the-store"


class EndsItsStream(MemoryStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        yield None


# ---------- sizes


class WritesAnySize(MemoryStore):
    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        version = await super().swap(name, b"", expected=expected, due_at=due_at)
        self._kept[name] = Stored(value, version)
        return version


class ReadsAnySize(MemoryStore):
    async def read(self, name: str) -> Stored | None:
        return self._kept.get(name)


# ---------- faults


class ReportsNoRecord(FileStore):
    async def read(self, name: str) -> Stored | None:
        try:
            return await super().read(name)
        except StoreUnavailable:
            return None


class ReportsNoNames(FileStore):
    async def names(self) -> list[str]:
        try:
            return await super().names()
        except StoreUnavailable:
            return []


class StreamsNoFault(FileStore):
    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        while True:
            try:
                async for name in super().changes(every_seconds):
                    yield name
            except StoreUnavailable:
                await asyncio.sleep(0.01)


class BlocksTheLoop(FileStore):
    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)


class BlocksAfterATurn(FileStore):
    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return work(*args)


class DurableInMemory(MemoryStore):
    durable = True


class CountsVersions(MemoryStore):
    """Its versions are counters."""

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        await super().swap(name, value, expected=expected, due_at=due_at)
        self._kept[name] = Stored(value, version := str(int(expected or 0) + 1))
        return version


BROKEN: list[tuple[type[TokenStore], str, str]] = [
    (CountsVersions, "test_a_version_never_stands_for_two_values", "versions begin anew"),
    (IgnoresTimes, "test_due_names_are_returned_in_order", "swap or due ignores due_at"),
    (ExcludesTheTime, "test_due_names_are_returned_in_order", "swap or due ignores due_at"),
    (RemovesDueNames, "test_due_names_are_returned_in_order", "due removes names"),
    (OrdersByName, "test_due_names_are_returned_in_order", "does not order them"),
    (IgnoresTheLimit, "test_due_names_are_returned_in_order", "the limit is not that"),
    (KeepsTimes, "test_each_write_replaces_the_time", "keeps the name"),
    (NotesStaleWrites, "test_each_write_replaces_the_time", "a stale write changes the index"),
    (IgnoresNotes, "test_a_note_corrects_the_index", "note_due adds no name"),
    (WritesNotes, "test_a_note_corrects_the_index", "note_due writes a record"),
    (BeginsWithAName, "test_the_stream_begins_with_every_record", "the first change is not None"),
    (NamesNothing, "test_each_change_is_named", "a change of a known name was not reported"),
    (MissesNewNames, "test_each_change_is_named", "a new name was not reported"),
    (NamesAll, "test_each_change_is_named", "a record was reported that had not changed"),
    (EndsItsStream, "test_names_of_the_store_are_not_reported", "was not reported"),
    (NamesLeases, "test_names_of_the_store_are_not_reported", "that no account can have"),
    (WritesAnySize, "test_a_record_that_is_too_large_is_not_written", "a record was written"),
    (ReadsAnySize, "test_a_record_that_is_too_large_is_not_read", "a record was read"),
    (ReportsNoRecord, "test_an_unreachable_store_is_an_error", "read returns None"),
    (ReportsNoNames, "test_an_unreachable_store_is_an_error", r"names returns \[\]"),
    (StreamsNoFault, "test_an_unreachable_store_is_an_error", "changes returns 'nothing in time'"),
    (BlocksTheLoop, "test_no_operation_runs_in_the_event_loop", "blocks the event loop"),
    (BlocksAfterATurn, "test_a_waiting_write_blocks_no_other_work", "blocks the event loop"),
    (DurableInMemory, "test_an_unreachable_store_is_an_error", "must define its faults"),
    (DurableInMemory, "test_a_waiting_write_blocks_no_other_work", "must define its faults"),
]


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    BROKEN,
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
async def test_a_rule_finds_a_store_that_breaks_it(
    kind: type[TokenStore],
    rule: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule fails, with the message that tells the author of the store what is wrong."""
    for rules in (change_rules, fault_rules):
        monkeypatch.setattr(rules, "EVENT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(file_module, "WRITE_LOCK_TIMEOUT_SECONDS", 0.3)
    folder = tmp_path / "store"
    of_file = issubclass(kind, FileStore)
    store = kind.from_url(folder.as_uri() if of_file else "memory:")
    arguments: list[Any] = [lambda: kind.from_url(folder.as_uri()) if of_file else store]
    test = getattr(TokenStoreContract(), rule)
    if "faults" in inspect.signature(test).parameters:
        arguments.append(faults_of_folder(folder) if of_file else None)
    with pytest.raises(AssertionError, match=message):
        await test(*arguments)
