"""The records in the folder of a file store: foreign files, sizes, and the watch for changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from xots.backends import file_records
from xots.backends.base import MAX_RECORD_BYTES
from xots.backends.file import FileStore
from xots.backends.file_records import MAX_SKIPPED_LOOKS, FolderWatch
from xots.errors import RecordUnusable

# ---------- foreign files


@pytest.mark.usefixtures("version")
async def test_what_is_no_record_is_skipped_and_named(
    store: FileStore, folder: Path, tmp_path: Path
) -> None:
    """Links, folders, and files of other names. The record beside them is read and watched."""
    target = tmp_path / "elsewhere"
    target.write_bytes(b"value")
    (folder / "link.sealed").symlink_to(target)
    (folder / "folder.sealed").mkdir()
    for file in (b"UPPER.sealed", b"a b\n.sealed", b"a" * 65 + b".sealed", b"\xff\xfe.sealed"):
        (folder / os.fsdecode(file)).write_bytes(b"value")
    (folder / "notes.txt").write_bytes(b"ignored in silence")
    assert await store.names() == ["default"]
    assert await store.read("default") is not None
    changes = store.changes(every_seconds=0.01)
    assert await anext(changes) is None
    (folder / "another-link.sealed").symlink_to(target)
    await store.swap("new", b"value", expected=None)
    assert await asyncio.wait_for(anext(changes), 5) == "new"
    foreign = await store.foreign()
    assert len(foreign) == 7
    assert {"link.sealed", "folder.sealed", "UPPER.sealed"} <= {*foreign}


@pytest.mark.parametrize("kind", ["link", "folder", "rights"])
async def test_one_unusable_file_is_an_error_of_its_record_only(
    store: FileStore, version: str, folder: Path, kind: str
) -> None:
    """The message names the file. The other records are read."""
    await store.swap("good", b"value", expected=None)
    record = folder / "default.sealed"
    if kind == "rights":
        record.chmod(0o644)
    else:
        record.unlink()
        if kind == "link":
            record.symlink_to(folder / "good.sealed")
        else:
            record.mkdir()
    for call in (store.read("default"), store.swap("default", b"new", expected=version)):
        with pytest.raises(RecordUnusable, match=r"default\.sealed"):
            await call
    assert await store.read("good") is not None


@pytest.mark.safeguard(
    file="backends/file.py",
    old="check_size(file, os.fstat(stream.fileno()).st_size)",
    new="pass",
    protects_from="a process that runs out of memory, because a file in its store is huge",
)
async def test_a_huge_file_is_not_read(store: FileStore, folder: Path) -> None:
    """It is refused by its size: here a sparse file of eight terabytes."""
    await store.swap("good", b"value", expected=None)
    with (folder / "default.sealed").open("wb") as file:
        file.truncate(8 << 40)
    (folder / "default.sealed").chmod(0o600)
    with pytest.raises(RecordUnusable, match=rf"{8 << 40} bytes.*{MAX_RECORD_BYTES} at most"):
        await store.read("default")
    with pytest.raises(RecordUnusable):
        await store.swap("default", b"new", expected=None)
    assert await store.names() == ["default", "good"]
    assert await store.read("good") is not None


# ---------- the watch


@pytest.fixture
def opened(folder: Path, version: str) -> Iterator[int]:
    """The open folder, which holds a record "default"."""
    opened = os.open(folder, os.O_RDONLY)
    yield opened
    os.close(opened)


async def test_each_change_is_found_once(store: FileStore, version: str, opened: int) -> None:
    """A new record, a new version, and a record that is removed; in between nothing."""
    watch = FolderWatch()
    assert watch.look(opened) == ["default"]
    assert watch.look(opened) == []
    await store.swap("default", b"new", expected=version)
    await store.swap("other", b"new", expected=None)
    assert watch.look(opened) == ["default", "other"]
    os.unlink("other.sealed", dir_fd=opened)
    assert watch.look(opened) == ["other"]
    assert watch.look(opened) == []


@pytest.mark.safeguard(
    file="backends/file_records.py",
    old="self._read_at - self._changed_at >= COARSEST_TIME_SECONDS",
    new="True",
    protects_from="a login of another process that this one never sees",
)
async def test_a_write_in_the_same_tick_of_the_clock_is_found(
    store: FileStore, version: str, opened: int, folder: Path
) -> None:
    """The time of the folder is the same before and after it, as with a coarse clock."""
    watch, tick = FolderWatch(), os.fstat(opened).st_mtime_ns
    watch.look(opened)
    for value in (b"one", b"two"):
        version = await store.swap("default", value, expected=version)
        os.utime(folder, ns=(tick, tick))
        assert watch.look(opened) == ["default"]


@pytest.mark.safeguard(
    file="backends/file_records.py",
    old="and self._skipped < MAX_SKIPPED_LOOKS",
    new="",
    protects_from="a record that an operator restores by cp, and that no process sees",
)
async def test_a_quiet_folder_is_looked_at_by_its_time_alone(
    opened: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a write in place is not seen at once, but after some looks."""
    monkeypatch.setattr(file_records, "COARSEST_TIME_SECONDS", 0)
    watch = FolderWatch()
    watch.look(opened)
    (folder / "default.sealed").write_bytes(b"of another program, longer than before")
    looks = [watch.look(opened) for _ in range(MAX_SKIPPED_LOOKS + 1)]
    assert looks == [[]] * MAX_SKIPPED_LOOKS + [["default"]]


async def test_a_clock_that_is_set_back_hides_no_write(
    store: FileStore, version: str, opened: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier time of the folder is another time too."""
    monkeypatch.setattr(file_records, "COARSEST_TIME_SECONDS", 0)
    watch = FolderWatch()
    watch.look(opened)
    await store.swap("default", b"new", expected=version)
    earlier = os.fstat(opened).st_mtime_ns - int(timedelta(days=1).total_seconds() * 1e9)
    os.utime(folder, ns=(earlier, earlier))
    assert watch.look(opened) == ["default"]
