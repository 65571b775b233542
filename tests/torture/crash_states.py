"""A power cut at any moment of a refresh over the file store: every state that it may leave on the disk, replayed.

The acts on the store's folder are recorded by strace from the real ``TokenKeeper`` on the real ``FileStore``, with
their data: two saves, of the intent and of the answer. What a power cut may leave follows from what POSIX promises:

- What was written to a file and not synced since may be there or not, each sector for itself, or torn anywhere; in
  the place of what is missing there are zeros, garbage, or the file's end.
- Each name of the folder leads to what it led to at any moment since the folder was last synced, each for itself.

Every such state is laid out in a folder, and a real keeper is started on it, with Xero as it then was. The record must
be the one before the save or the one of the save, whole; once the save has returned, the one of the save. The login
must go on from there, also when a save of the answer was undone; and, after both saves, also a day later.

``--without fsync-file`` and ``--without fsync-folder`` leave these acts out, as if the store did not sync: then some
states must fail.
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

__all__ = ["Act", "Recording", "State", "all_states", "main", "record", "replay"]

SECTOR = 512
JOBS = 4
"""How many states are replayed at a time: a replay waits for the disk most of its time."""

RECORD, LOCK = f"{NAME}.sealed", f"{NAME}.lock"
RECORDS = OLD, INTENT, ANSWER = "old", "intent", "answer"
SYNCS = {"fsync-file": "sync", "fsync-folder": "sync folder"}
CHANGE_NOTHING = {
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
class Act:
    """One act on the folder: create, write, sync, rename, unlink, sync folder; or "saved": a save has returned."""

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
    """A refresh: the folder before it, the acts in their order, and Xero before and after it."""

    before: dict[str, bytes]
    acts: list[Act]
    records: dict[str, bytes]
    """What the record was, one after the other: the old one, the one with the intent, the one with the answer."""
    key: Secret
    xero_before: Identity
    xero_after: Identity


async def record() -> Recording:
    """Replica one refresh in which nothing goes wrong."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as above:
        # Seeded, since the system's own source of chance can't be copied with the rest.
        identity = Identity([CLIENT], random=random.Random(0))  # noqa: S311 - a simulation
        stage = await new_stage(Path(above), identity)
        before, xero = _contents(stage.folder), copy.deepcopy(identity)
        trace = await refresh_under_strace(stage, ["store"], ["-s", "10000000"])
        assert (trace.status, trace.said("stopped"), stage.problems) == (0, True, []), trace
        acts = list(_acts(trace.calls["store"], stage.folder, set(before)))
        after = _contents(stage.folder)
    disk, records = _Disk(before), [before[RECORD]]
    for act in acts:
        disk.act(act)
        if act.to == RECORD:
            records.append(disk.now()[RECORD])
    assert disk.now() == after, "the model does not come to what is on the disk"
    assert [act.kind for act in acts].count("saved") == 2
    return Recording(
        before, acts, dict(zip(RECORDS, records, strict=True)), stage.key, xero, identity
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _acts(lines: list[str], folder: Path, there: set[str]) -> Iterator[Act]:
    """Strace's lines about the folder as acts.

    Raises:
        ValueError: a line of which it is not known what it does to the folder.
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
                yield Act("create", found[1])
        elif found := re.match(rf'write\({inside}, (".*"), \d+\) += (\d+)', line):
            yield Act("write", found[1], data=ast.literal_eval(f"b{found[2]}")[: int(found[3])])
        elif found := re.match(rf"fsync\({inside}\)", line):
            yield Act("sync", found[1])
        elif found := re.match(rf"fsync\({itself}\)", line):
            yield Act("sync folder")
        elif found := re.match(rf'renameat\({itself}, "(.+?)", {itself}, "(.+?)"\)', line):
            there.discard(found[1])
            yield Act("rename", found[1], found[2])
        elif found := re.match(rf'unlinkat\({itself}, "(.+?)", 0\)', line):
            there.discard(found[1])
            yield Act("unlink", found[1])
        elif re.match(rf"close\({inside}\)", line) and f"/{LOCK}>" in line:
            yield Act("saved")  # the lock is given back last
        elif (
            not re.match(rf'openat\(AT_FDCWD<.*?>, "{re.escape(str(folder))}", O_RDONLY', line)
            and line.partition("(")[0] not in CHANGE_NOTHING
        ):
            raise ValueError(f"what does this do to the folder? {line}")


# ------------------------------------------------------------------------------------------------ the model


@dataclass(eq=False)
class _File:
    """Equal to itself only: two files may hold the same for a moment."""

    data: bytes = b""
    synced: bytes = b""


class _Disk:
    """A folder, with all that a power cut may make of it."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self._names: dict[str, _File | None] = {
            name: _File(data, data) for name, data in contents.items()
        }
        self._since: dict[str, list[_File | None]] = {}
        """What each name has led to since the folder was last synced, the first as it was then."""
        self._sync_folder()

    def act(self, act: Act) -> None:
        match act.kind:
            case "create":
                self._lead(act.name, _File())
            case "write":
                self._file(act.name).data += act.data
            case "sync":
                self._file(act.name).synced = self._file(act.name).data
            case "rename":
                self._lead(act.to, self._file(act.name))
                self._lead(act.name, None)
            case "unlink":
                self._lead(act.name, None)
            case "sync folder":
                self._sync_folder()

    def power_cut(self) -> Iterator[tuple[dict[str, bytes], str]]:
        """Return every state after a power cut at this moment, each with a description."""
        names = sorted(self._since)
        for files in itertools.product(*(dict.fromkeys(self._since[name]) for name in names)):
            led = {name: file for name, file in zip(names, files, strict=True) if file is not None}
            unsynced = list(
                dict.fromkeys(file for file in led.values() if file.data != file.synced)
            )
            for torn in itertools.product(*(_torn(file) for file in unsynced)):
                became = dict(zip(unsynced, torn, strict=True))
                contents = {
                    name: became[file][0] if file in became else file.data
                    for name, file in led.items()
                }
                words = [
                    f"{name} {became[file][1]}" for name, file in led.items() if file in became
                ]
                yield contents, "; ".join(words) or "nothing torn"

    def now(self) -> dict[str, bytes]:
        """Return the state without a power cut."""
        return {name: file.data for name, file in self._names.items() if file is not None}

    def _file(self, name: str) -> _File:
        file = self._names[name]
        assert file is not None
        return file

    def _lead(self, name: str, file: _File | None) -> None:
        self._since.setdefault(name, [self._names.get(name)]).append(file)
        self._names[name] = file

    def _sync_folder(self) -> None:
        self._since = {name: [file] for name, file in self._names.items()}


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
    """What a power cut may leave, and what it must then be."""

    files: dict[str, bytes]
    may_be: tuple[str, ...]
    """Which records may be found."""
    xero: Identity
    days: int
    """How many days later the next start is."""
    words: str
    """When the power was cut, and what was torn."""


def all_states(recording: Recording, without: str | None = None) -> tuple[int, list[State]]:
    """Return the number of states, and those that differ in more than their history."""
    count, distinct = 0, dict[object, State]()
    for state in _states(
        recording, [act for act in recording.acts if act.kind != SYNCS.get(without or "")]
    ):
        count += 1
        key = (frozenset(state.files.items()), state.may_be, id(state.xero), state.days)
        distinct.setdefault(key, state)
    return count, list(distinct.values())


def _states(recording: Recording, acts: list[Act]) -> Iterator[State]:
    disk = _Disk(recording.before)
    before, after = (
        (recording.xero_before, "before Xero was asked"),
        (recording.xero_after, "after Xero was asked"),
    )
    yield from _states_now(disk, (OLD,), [before], [0], "before the first act")
    saved = 0
    for number, act in enumerate(acts, start=1):
        disk.act(act)
        saved += act.kind == "saved"
        when = f"after act {number} ({act})"
        if act.kind == "saved" and saved == 1:  # Xero is asked here
            yield from _states_now(disk, (INTENT,), [before, after], [0], when)
        elif saved == 2:
            yield from _states_now(disk, (ANSWER,), [after], [0, 1], when)
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
        for (xero, asked), later in itertools.product(xeros, days):
            yield State(
                files, may_be, xero, later, f"{when}, {asked}; {torn}; started {later} days later"
            )


# ----------------------------------------------------------------------------------------------- the replay


async def replay(recording: Recording, state: State) -> list[str]:
    """Start on the folder after a power cut; return the errors."""
    with tempfile.TemporaryDirectory(prefix="xots-torture-") as above:
        folder = Path(above) / "store"
        _lay_out(folder, state.files)
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


def _lay_out(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)


async def _run(without: str | None, show: int) -> int:
    recording = await record()
    count, states = all_states(recording, without)
    found = await each(lambda state: replay(recording, state), states, JOBS)
    failed = [(state, problems) for state, problems in zip(states, found, strict=True) if problems]
    kinds = Counter(act.kind for act in recording.acts)
    print(
        f"acts of one refresh on the folder: {', '.join(f'{kind} {number}' for kind, number in kinds.items())}"
    )
    print(
        f"states after a power cut{f' without {without}' if without else ''}: {count}, of which {len(states)} differ"
    )
    recovered = len(states) - len(failed)
    print(f"recovered: {recovered} of {len(states)} ({100 * recovered / len(states):.4g}%)")
    for state, problems in failed[:show]:
        print(f"NOT RECOVERED {state.words}: {'; '.join(problems)}")
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
        help="leave these acts out of the record: then some states must fail",
    )
    parser.add_argument(
        "--show", type=int, default=10, help="how many failures to print (default 10)"
    )
    options = parser.parse_args(arguments)
    return asyncio.run(_run(options.without, options.show))
