"""Power cuts at any moment of a refresh on the file store: the next start recovers from each state.

strace records the operations of the real ``TokenKeeper`` and ``FileStore`` on the store's folder,
with their data. A refresh makes two saves: of the intent, and of the response. The command derives
the possible states of the disk after a power cut from the guarantees of POSIX:

- Data that was written to a file after its last sync is torn at any byte, or each of its sectors
  is on the disk or not. Zeros, garbage, or the end of the file replace the missing data.
- Each name of the folder refers to any of its files since the last sync of the folder,
  independently of the other names.

The command creates each of these states in a folder, and starts a real keeper on it, with the state
of Xero at that moment. The stored record must be the whole record before the save or of the save.
Once the save has returned, it must be the record of the save. The keeper must continue the login,
even if the save of the response is lost, and after both saves also a day later.

``--without fsync-file`` and ``--without fsync-folder`` remove these operations from the recording,
as if the store did not sync. Some states must fail then.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import copy
import itertools
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from xots.backends.file import FileStore
from xots.sandbox import Identity
from xots.secret import Secret

from ._clock import LeapingClock
from .system_calls import CLIENT, NAME, Stage, each, new_stage, refresh_under_strace

__all__ = ["Operation", "Recording", "State", "all_states", "main", "record", "replay"]

SECTOR = 512
REPLAYS_AT_A_TIME = 4
"""Number of replays at a time. A replay mostly waits for the disk."""

RECORD, LOCK = f"{NAME}.sealed", f"{NAME}.lock"
RECORDS = OLD, INTENT, RESPONSE = "old", "intent", "response"
SYNCS = {"fsync-file": "sync", "fsync-folder": "sync folder"}
READ_ONLY_CALLS = {
    "close",
    "fcntl",
    "flock",
    "fstat",
    "getdents64",
    "ioctl",
    "lseek",
    "newfstatat",
    "read",
}


@dataclass(frozen=True)
class Operation:
    """One operation on the folder: create, write, sync, rename, unlink, or sync folder.

    The kind "saved" marks the return of a save.
    """

    kind: str
    name: str = ""
    to: str = ""
    data: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return " ".join(
            word for word in (self.kind, self.name, self.to and f"to {self.to}") if word
        )


@dataclass
class Recording:
    """A refresh: the folder before it, its operations in order, and Xero before and after it."""

    before: dict[str, bytes]
    operations: list[Operation]
    records: dict[str, bytes]
    """The old record, the record with the intent, and the record with the response, in order."""
    key: Secret
    xero_before: Identity
    xero_after: Identity


async def record() -> Recording:
    """Record one refresh without faults."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as parent:
        # It has a seed, since a deep copy of the system's own random source is impossible.
        identity = Identity([CLIENT], random=random.Random(0))  # noqa: S311 - a simulation
        stage = await new_stage(Path(parent), identity)
        before, xero = _contents(stage.folder), copy.deepcopy(identity)
        trace = await refresh_under_strace(stage, ["store"], ["-s", "10000000"])
        assert (trace.status, trace.has("stopped"), stage.problems) == (0, True, []), trace
        operations = list(_operations(trace.calls["store"], stage.folder, set(before)))
        after = _contents(stage.folder)
    disk, records = _Disk(before), [before[RECORD]]
    for operation in operations:
        disk.apply(operation)
        if operation.to == RECORD:
            records.append(disk.now()[RECORD])
    assert disk.now() == after, "the model differs from the disk"
    assert [operation.kind for operation in operations].count("saved") == 2
    return Recording(
        before, operations, dict(zip(RECORDS, records, strict=True)), stage.key, xero, identity
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _operations(lines: list[str], folder: Path, there: set[str]) -> Iterator[Operation]:
    """Yield the operations in strace's lines about the folder.

    Raises:
        ValueError: a line has an unknown effect on the folder.
    """
    inside = rf"\d+<{re.escape(str(folder))}/(.+?)>"
    itself = rf"\d+<{re.escape(str(folder))}>"
    for line in lines:
        if str(folder) not in line or re.search(r"\) += -1 ", line):
            continue
        if found := re.match(rf'openat\({itself}, "(.+?)", (.+?)[,)]', line):
            if "O_TRUNC" in found[2]:
                raise ValueError(line)
            if "O_CREAT" in found[2] and found[1] not in there:
                there.add(found[1])
                yield Operation("create", found[1])
        elif found := re.match(rf'write\({inside}, (".*"), \d+\) += (\d+)', line):
            yield Operation(
                "write", found[1], data=ast.literal_eval(f"b{found[2]}")[: int(found[3])]
            )
        elif found := re.match(rf"fsync\({inside}\)", line):
            yield Operation("sync", found[1])
        elif found := re.match(rf"fsync\({itself}\)", line):
            yield Operation("sync folder")
        elif found := re.match(rf'renameat\({itself}, "(.+?)", {itself}, "(.+?)"\)', line):
            there.discard(found[1])
            yield Operation("rename", found[1], found[2])
        elif found := re.match(rf'unlinkat\({itself}, "(.+?)", 0\)', line):
            there.discard(found[1])
            yield Operation("unlink", found[1])
        elif re.match(rf"close\({inside}\)", line) and f"/{LOCK}>" in line:
            yield Operation("saved")  # a save releases the lock last
        elif (
            not re.match(rf'openat\(AT_FDCWD<.*?>, "{re.escape(str(folder))}", O_RDONLY', line)
            and line.partition("(")[0] not in READ_ONLY_CALLS
        ):
            raise ValueError(f"this call has an unknown effect on the folder: {line}")


# ------------------------------------------------------------------------------------- the model


@dataclass(eq=False)
class _File:
    """A file. It equals only itself: two files may have the same content for a moment."""

    data: bytes = b""
    synced: bytes = b""


class _Disk:
    """A folder, and its possible states after a power cut."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self._names: dict[str, _File | None] = {
            name: _File(data, data) for name, data in contents.items()
        }
        self._since_sync: dict[str, list[_File | None]] = {}
        """The files of each name since the last sync of the folder, the first as of that sync."""
        self._sync_folder()

    def apply(self, operation: Operation) -> None:
        """Change the folder as this operation does."""
        match operation.kind:
            case "create":
                self._link(operation.name, _File())
            case "write":
                self._file(operation.name).data += operation.data
            case "sync":
                self._file(operation.name).synced = self._file(operation.name).data
            case "rename":
                self._link(operation.to, self._file(operation.name))
                self._link(operation.name, None)
            case "unlink":
                self._link(operation.name, None)
            case "sync folder":
                self._sync_folder()

    def power_cut(self) -> Iterator[tuple[dict[str, bytes], str]]:
        """Return every state after a power cut at this moment, each with a description."""
        names = sorted(self._since_sync)
        for files in itertools.product(*(dict.fromkeys(self._since_sync[name]) for name in names)):
            linked = {
                name: file for name, file in zip(names, files, strict=True) if file is not None
            }
            unsynced = list(
                dict.fromkeys(file for file in linked.values() if file.data != file.synced)
            )
            for torn in itertools.product(*(_torn(file) for file in unsynced)):
                became = dict(zip(unsynced, torn, strict=True))
                contents = {
                    name: became[file][0] if file in became else file.data
                    for name, file in linked.items()
                }
                description = [
                    f"{name} {became[file][1]}" for name, file in linked.items() if file in became
                ]
                yield contents, "; ".join(description) or "nothing torn"

    def now(self) -> dict[str, bytes]:
        """Return the state without a power cut."""
        return {name: file.data for name, file in self._names.items() if file is not None}

    def _file(self, name: str) -> _File:
        file = self._names[name]
        assert file is not None
        return file

    def _link(self, name: str, file: _File | None) -> None:
        self._since_sync.setdefault(name, [self._names.get(name)]).append(file)
        self._names[name] = file

    def _sync_folder(self) -> None:
        self._since_sync = {name: [file] for name, file in self._names.items()}


def _torn(file: _File) -> Iterator[tuple[bytes, str]]:
    """Return the possible contents of a file that was not synced, each with a description."""
    kept, data = len(file.synced), file.data
    length = len(data) - kept
    garbage = random.Random(length).randbytes(length)  # noqa: S311 - any will do
    odd = {0, 1, SECTOR - 1, SECTOR + 1, length // 2, length - 1, length, *range(0, length, SECTOR)}
    for end in sorted(end for end in odd if 0 <= end <= length):
        yield data[: kept + end], f"ends after {kept + end} of {len(data)} bytes"
        yield (
            data[: kept + end] + bytes(length - end),
            f"zeros after {kept + end} of {len(data)} bytes",
        )
        yield data[: kept + end] + garbage[end:], f"garbage after {kept + end} of {len(data)} bytes"
    for there in itertools.product((True, False), repeat=-(-length // SECTOR)):
        for filler, word in ((bytes(length), "zeros"), (garbage, "garbage")):
            sectors = [
                (data[kept:] if one else filler)[number * SECTOR : (number + 1) * SECTOR]
                for number, one in enumerate(there)
            ]
            missing = [number for number, one in enumerate(there) if not one]
            yield data[:kept] + b"".join(sectors), f"{word} in the sectors {missing}"


@dataclass
class State:
    """A state of the folder after a power cut, and the expected outcome."""

    files: dict[str, bytes]
    may_be: tuple[str, ...]
    """The records that are correct."""
    xero: Identity
    days: int
    """Time until the next start."""
    description: str
    """The moment of the power cut, and the torn files."""


def all_states(recording: Recording, without: str | None = None) -> tuple[int, list[State]]:
    """Return the number of states, and one of each group that differs only in its history."""
    count, distinct = 0, dict[object, State]()
    for state in _states(
        recording,
        [
            operation
            for operation in recording.operations
            if operation.kind != SYNCS.get(without or "")
        ],
    ):
        count += 1
        key = (frozenset(state.files.items()), state.may_be, id(state.xero), state.days)
        distinct.setdefault(key, state)
    return count, list(distinct.values())


def _states(recording: Recording, operations: list[Operation]) -> Iterator[State]:
    disk = _Disk(recording.before)
    before, after = (
        (recording.xero_before, "before the request to Xero"),
        (recording.xero_after, "after the request to Xero"),
    )
    yield from _states_now(disk, (OLD,), [before], [0], "before the first operation")
    saved = 0
    for number, operation in enumerate(operations, start=1):
        disk.apply(operation)
        saved += operation.kind == "saved"
        when = f"after operation {number} ({operation})"
        if operation.kind == "saved" and saved == 1:  # then comes the request to Xero
            yield from _states_now(disk, (INTENT,), [before, after], [0], when)
        elif saved == 2:
            yield from _states_now(disk, (RESPONSE,), [after], [0, 1], when)
        else:
            yield from _states_now(
                disk, RECORDS[saved : saved + 2], [after if saved else before], [0], when
            )


def _states_now(
    disk: _Disk,
    may_be: tuple[str, ...],
    xeros: list[tuple[Identity, str]],
    days: list[int],
    when: str,
) -> Iterator[State]:
    for files, torn in disk.power_cut():
        for (xero, phase), later in itertools.product(xeros, days):
            yield State(
                files, may_be, xero, later, f"{when}, {phase}; {torn}; started {later} days later"
            )


# ------------------------------------------------------------------------------------ the replay


async def replay(recording: Recording, state: State) -> list[str]:
    """Start a keeper on the folder after a power cut. Return the errors."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as parent:
        folder = Path(parent) / "store"
        _create_files(folder, state.files)
        stage = Stage(folder, copy.deepcopy(state.xero), recording.key)
        stage.clock = clock = LeapingClock()
        clock.advance(timedelta(days=state.days).total_seconds())
        found = await FileStore(folder).read(NAME)
        if found is None or found.value not in [recording.records[one] for one in state.may_be]:
            known = [
                one for one, value in recording.records.items() if found and found.value == value
            ]
            stage.problems.append(
                f"the record is {known[0] if known else 'neither'}, not {' or '.join(state.may_be)}"
            )
        await stage.check_recovery()
        return stage.problems


def _create_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)


async def _run(without: str | None, show: int) -> int:
    """Replay all states, and print the figures. Return the exit status."""
    recording = await record()
    count, states = all_states(recording, without)
    found = await each(lambda state: replay(recording, state), states, REPLAYS_AT_A_TIME)
    failed = [(state, problems) for state, problems in zip(states, found, strict=True) if problems]
    kinds = Counter(operation.kind for operation in recording.operations)
    by_kind = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    print(f"operations of one refresh on the folder: {by_kind}")
    condition = f" without {without}" if without else ""
    print(f"states after a power cut{condition}: {count}, of which {len(states)} differ")
    recovered = len(states) - len(failed)
    print(f"recovered: {recovered} of {len(states)} ({100 * recovered / len(states):.4g}%)")
    for state, problems in failed[:show]:
        print(f"NOT RECOVERED {state.description}: {'; '.join(problems)}")
    if len(failed) > show:
        print(f"… and {len(failed) - show} more")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture crash_states", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--without",
        choices=sorted(SYNCS),
        help="remove these operations from the recording: some states must fail then",
    )
    parser.add_argument(
        "--show", type=int, default=10, help="number of failures to print (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    return asyncio.run(_run(options.without, options.show))
