# ruff: noqa: ASYNC240 - nothing else waits for the loop of a test
"""The file store on a real disk: its modes, its locks, its order of acts, and whatever may go wrong beneath it."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from xots.backends import base
from xots.backends import file as file_module
from xots.backends.file import FileStore
from xots.errors import StaleWrite, StoreUnavailable
from xots.lifecycle.account import AccessToken, Account, RefreshToken, encode
from xots.sealing import Sealer
from xots.secret import Secret

AM_ROOT = os.geteuid() == 0
SOMEBODY_ELSE = 65534
LONGEST_RUN_SECONDS = 30

PREFACE = """
import asyncio, os, sys
from pathlib import Path
from xots.backends.file import FileStore
from xots.errors import StaleWrite, StoreUnavailable
store = FileStore(Path(sys.argv[1]))
"""

SAVE_ONCE = """
from concurrent.futures import ThreadPoolExecutor
def say(words):
    os.writev(1, [f"{words}\\n".encode()])  # not write, which is to fail in the store alone
async def main():
    # strace counts the calls of each thread for itself: so there is one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    stored = await store.read("default")
    try:
        await store.swap("default", b"new", expected=stored.version if stored else None)
        say("saved")
    except StoreUnavailable as error:
        say(error)
    try:
        say((await store.read("default")).value.decode())
    except StoreUnavailable as error:
        say(error)
asyncio.run(main())
"""


def python(program: str, folder: Path, *before: str | Path) -> list[str | Path]:
    """The command that runs a program with a store on the folder, below other commands."""
    return [*before, sys.executable, "-c", PREFACE + program, folder]


def run(command: list[str | Path]) -> list[str]:
    """Run a command that must succeed; the lines it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FileStore]:
    store = FileStore(folder)
    yield store
    await store.close()


@pytest.fixture
async def version(store: FileStore) -> str:
    """The version of a record that is there already: "old"."""
    return await store.swap("default", b"old", expected=None)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def in_the_folder(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ----------------------------------------------------------------------------------------------------------- its URL


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///var/lib/xots", "/var/lib/xots"),
        ("file:///var/lib/xots/", "/var/lib/xots"),
        ("FILE://localhost/var/lib/xots", "/var/lib/xots"),
        ("file:/var/lib/xots", "/var/lib/xots"),
        ("file:///a%20folder/50%25%3F", "/a folder/50%?"),
        ("file:///caf%C3%A9/%FF", "/café/\udcff"),
    ],
)
def test_a_url_names_a_folder(url: str, path: str) -> None:
    """RFC 8089's forms of a local path, percent-decoded; a name that is not UTF-8 is one too."""
    assert FileStore.from_url(url)._folder == Path(path)


@pytest.mark.parametrize(
    "path", ["/a folder", "/50%", "/what?", "/no#1", "/caf\u00e9", "/\udcff", "/new\nline"]
)
def test_a_path_survives_as_a_url(path: str) -> None:
    """What ``Path.as_uri`` writes is read back."""
    assert FileStore.from_url(Path(path).as_uri())._folder == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "file:relative",
        "file://relative",
        "file://otherhost/var/lib/xots",
        "file://localhost",
        "file:///",
        "file:",
        "file:////two",
        "file:///folder?mode=700",
        "file:///folder#fragment",
        "file:///nul%00",
        "/var/lib/xots",
    ],
)
def test_a_url_that_names_no_local_folder_is_refused(url: str) -> None:
    """The message shows what to write."""
    with pytest.raises(
        ValueError, match=r"file:///path/to/folder: an absolute path on this machine"
    ):
        FileStore.from_url(url)


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "a.b", "A", "a" * 65, "a\n", "a\0"])
async def test_a_name_that_is_none_never_becomes_a_path(store: FileStore, name: str) -> None:
    """Nothing outside the folder can be named."""
    with pytest.raises(ValueError, match="is not a name"):
        await store.read(name)
    with pytest.raises(ValueError, match="is not a name"):
        await store.swap(name, b"", expected=None)
    with pytest.raises(ValueError, match="is not a name"):
        async with store.lease(name, 1):
            pass


# ------------------------------------------------------------------------------------------- its folder and its files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_everything_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    """The folder, those made above it, and every file, whatever the umask."""
    old = os.umask(umask)
    try:
        store = FileStore(tmp_path / "above" / "store")
        await store.swap("default", b"value", expected=None)
        async with store.lease("default", 10):
            pass
        await store.check()
    finally:
        os.umask(old)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "above").rglob("*")
    }
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o700
    assert modes.pop("store") == 0o700
    assert modes == dict.fromkeys(
        [".probe.lock", "default.lease", "default.lock", "default.sealed"], 0o600
    )


async def test_nothing_is_made_before_it_is_used(folder: Path) -> None:
    """To name a store opens nothing yet."""
    await FileStore(folder).close()
    assert not folder.exists()


async def test_a_folder_that_is_a_link_is_resolved_once(tmp_path: Path) -> None:
    """systemd's DynamicUser makes it one; where it leads later is of no concern."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "other").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to("real")
    store = FileStore(link)
    version = await store.swap("default", b"one", expected=None)
    link.unlink()
    link.symlink_to("other")
    await store.swap("default", b"two", expected=version)
    assert (tmp_path / "real" / "default.sealed").read_bytes() == b"two"
    assert in_the_folder(tmp_path / "other") == []


async def test_foreign_files_are_passed_over(store: FileStore, version: str, folder: Path) -> None:
    """A copy that somebody made beside the records is no record."""
    for name in (
        "default (copy).sealed",
        "default.sealed~",
        ".hidden.sealed",
        "README",
        "lease-x.sealed",
    ):
        (folder / name).write_bytes(b"foreign")
    assert await store.names() == ["default"]


async def test_a_folder_that_vanished_is_not_an_empty_one(
    store: FileStore, version: str, folder: Path
) -> None:
    """It is not made anew: its disk may have gone away. When it is back, all works again."""
    folder.rename(folder.with_name("away"))
    for act in (
        store.read("default"),
        store.swap("default", b"new", expected=None),
        store.names(),
        store.check(),
    ):
        with pytest.raises(StoreUnavailable, match=rf"{folder}.*: No such file or directory"):
            await act
    folder.with_name("away").rename(folder)
    await store.swap("default", b"new", expected=version)


# --------------------------------------------------------------------------------------------------- what it refuses


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/file")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a symlink": (
        make_link,
        "it is a symbolic link, which is not followed: put the file that it names in its place",
    ),
    "a dangling symlink": (make_dangling_link, "it is a symbolic link"),
    "a pipe": (make_pipe, "is not a regular file"),
    "readable by the group": (
        lambda path: path.chmod(0o640),
        r"is open to other users \(mode 0640\): .* chmod 0600",
    ),
    "writable by all": (lambda path: path.chmod(0o602), r"is open to other users \(mode 0602\)"),
    "executable": (lambda path: path.chmod(0o700), r"is open to other users \(mode 0700\)"),
    "set-uid": (lambda path: path.chmod(0o4600), r"is open to other users \(mode 4600\)"),
}


@pytest.mark.safeguard(
    file="backends/file.py",
    old="flags | os.O_NOFOLLOW | ",
    new="flags | ",
    protects_from="a record that is led elsewhere",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="forbidden=0o7177",
    new="forbidden=0",
    protects_from="another user who reads or changes the record",
)
@pytest.mark.parametrize("how", REFUSED)
async def test_a_record_that_is_not_ours_alone_is_refused(
    store: FileStore, version: str, folder: Path, how: str
) -> None:
    """Neither read nor replaced, and what is there stays as it is."""
    spoil, message = REFUSED[how]
    spoil(folder / "default.sealed")
    before = os.lstat(folder / "default.sealed")
    for act in (store.read("default"), store.swap("default", b"new", expected=version)):
        with pytest.raises(StoreUnavailable, match=rf"{folder}/default\.sealed:? {message}"):
            await act
    assert os.lstat(folder / "default.sealed").st_ino == before.st_ino
    kept = [
        path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"
    ]
    assert set(kept) <= {b"old"}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("file", ["default.lock", "default.lease"])
async def test_a_lock_that_is_not_ours_alone_is_refused(
    store: FileStore, version: str, folder: Path, file: str, how: str
) -> None:
    """Locking another's file would lock out nobody, or let others lock us out."""
    async with store.lease("default", 10):
        pass
    spoil, message = REFUSED[how]
    spoil(folder / file)
    with pytest.raises(StoreUnavailable, match=rf"{folder}/{file}:? {message}"):
        await (
            store.swap("default", b"new", expected=version)
            if file == "default.lock"
            else store.lease("default", 10).__aenter__()
        )
    stored = await store.read("default")
    assert stored is not None
    assert stored.value == b"old"


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file another user's. Where only root could, this user becomes another instead."""

    def give_away(path: Path) -> None:
        if AM_ROOT:
            os.chown(path, SOMEBODY_ELSE, SOMEBODY_ELSE)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    return give_away


@pytest.mark.safeguard(
    file="backends/file.py",
    old="if found.st_uid not in owners:",
    new="if False:",
    protects_from="another user who owns the record",
)
@pytest.mark.parametrize("file", ["default.sealed", ""])
async def test_what_belongs_to_another_user_is_refused(
    store: FileStore, version: str, folder: Path, give_away: Callable[[Path], None], file: str
) -> None:
    """A record of another owner, or a folder that its owner may write to."""
    give_away(folder / file)
    for act in (store.read("default"), store.swap("default", b"new", expected=version)):
        with pytest.raises(
            StoreUnavailable,
            match=r"belongs to user \d+, but xots runs as user \d+: run it as the owner",
        ):
            await act
    assert (folder / "default.sealed").read_bytes() == b"old"


@pytest.mark.safeguard(
    file="backends/file.py",
    old="forbidden=0o022",
    new="forbidden=0",
    protects_from="another user who puts another record in its place",
)
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
async def test_a_folder_that_others_may_write_to_is_refused(
    store: FileStore, version: str, folder: Path, mode: int
) -> None:
    """They could put another record in ours's place."""
    folder.chmod(mode)
    for act in (
        store.read("default"),
        store.swap("default", b"new", expected=version),
        store.check(),
        store.names(),
    ):
        with pytest.raises(
            StoreUnavailable,
            match=rf"{folder} is open to other users \(mode {mode:04o}\): close it with",
        ):
            await act
    assert (folder / "default.sealed").read_bytes() == b"old"
    folder.chmod(0o755)
    await store.check()


# -------------------------------------------------------------------------------------------------- several processes


def test_two_processes_on_one_folder_lose_nothing(folder: Path) -> None:
    """Each adds one to the same record again and again, and never finds the other inside the lease."""
    program = """
async def main():
    for number in range(40):
        done = False
        while not done:
            stored = await store.read("default")
            value = int(stored.value) + 1 if stored else 1
            try:
                await store.swap("default", b"%d" % value, expected=stored.version if stored else None)
                done = True
            except StaleWrite:
                pass
        if number % 4 == 0:
            async with store.lease("default", 10):
                mark = os.open(sys.argv[1] + "/inside", os.O_CREAT | os.O_EXCL)
                os.close(mark)
                await asyncio.sleep(0.002)
                os.unlink(sys.argv[1] + "/inside")
asyncio.run(main())
"""
    processes = [
        subprocess.Popen(python(program, folder), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=LONGEST_RUN_SECONDS)
        assert process.returncode == 0, errors
    assert (folder / "default.sealed").read_bytes() == b"80"
    assert in_the_folder(folder) == ["default.lease", "default.lock", "default.sealed"]


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease and will never give it back."""
    program = """
async def main():
    async with store.lease("default", 60):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen(python(program, folder), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


async def test_a_killed_holders_lease_is_free_at_once(
    store: FileStore, holder: subprocess.Popen[str]
) -> None:
    """The kernel gives it back; nobody waits for it to run out."""
    took: list[float] = []

    async def take() -> None:
        async with store.lease("default", 60):
            took.append(time.monotonic())

    waiter = asyncio.create_task(take())
    await asyncio.wait([waiter], timeout=0.2)
    assert not took
    holder.kill()
    killed_at = time.monotonic()
    await asyncio.wait_for(waiter, LONGEST_RUN_SECONDS)
    assert took[0] - killed_at < 2


async def test_a_lease_that_is_held_for_too_long_is_given_up(
    store: FileStore, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told which file it is, in time."""
    monkeypatch.setattr(base, "LEASE_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(StoreUnavailable, match=r"held .*/default\.lease for too long"):
        async with store.lease("default", 60):
            pass


@pytest.mark.safeguard(
    file="backends/file.py",
    old="while not lock.take(self._open(folder, name + LOCK, os.O_RDWR | os.O_CREAT)):",
    new="while False:",
    protects_from="two writers that both find the version they expect",
)
async def test_a_writer_that_hangs_does_not_hang_others(
    store: FileStore, version: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process may hold the lock for ever: who waits is told so, in time."""
    monkeypatch.setattr(file_module, "WRITE_LOCK_TIMEOUT_SECONDS", 0.1)
    with (folder / "default.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=r"held .*/default\.lock for too long"):
            await store.swap("default", b"new", expected=version)
    await store.swap("default", b"new", expected=version)


async def test_a_lease_that_comes_too_late_is_given_back(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that takes it may be slower than its caller, who was cancelled meanwhile."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
    take = store._take_lease

    def slow(*args: object) -> bool:
        begun.set()
        go_on.wait(LONGEST_RUN_SECONDS)
        try:
            return take(*args)  # type: ignore[arg-type]
        finally:
            over.set()

    monkeypatch.setattr(store, "_take_lease", slow)
    waiter = asyncio.ensure_future(store.lease("default", 60).__aenter__())
    await asyncio.to_thread(begun.wait, LONGEST_RUN_SECONDS)
    waiter.cancel()
    await asyncio.wait([waiter])
    go_on.set()
    await asyncio.to_thread(over.wait, LONGEST_RUN_SECONDS)
    monkeypatch.undo()
    monkeypatch.setattr(base, "LEASE_TIMEOUT_SECONDS", 1)
    async with store.lease("default", 60):
        pass


async def test_no_file_is_left_open(store: FileStore, version: str, folder: Path) -> None:
    """Neither by what succeeds nor by what fails."""

    async def all_acts() -> None:
        nonlocal version
        version = await store.swap("default", secrets.token_bytes(20), expected=version)
        await store.check()
        await store.names()
        await store.warnings()
        async with store.lease("default", 10):
            with pytest.raises(StaleWrite):
                await store.swap("default", b"", expected=None)
        for file in ("default.sealed", "default.lock"):
            (folder / file).chmod(0o640)
            with pytest.raises(StoreUnavailable):
                await store.swap("default", b"", expected=version)
            (folder / file).chmod(0o600)

    await all_acts()
    before = open_files()
    for _ in range(5):
        await all_acts()
    assert open_files() == before


# ------------------------------------------------------------------------------------------- the order of a save


def trace(
    folder: Path, *options: str, program: str = SAVE_ONCE
) -> tuple[list[str], list[str], int]:
    """Run a program that saves once under strace: what it printed, the system calls, and its status."""
    log = folder.with_name("trace")
    before: list[str | Path] = ["strace", "-f", "--seccomp-bpf", "-y", "-o", log, *options]
    done = subprocess.run(
        python(program, folder, *before),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LONGEST_RUN_SECONDS,
        check=False,
    )
    lines = [re.sub(r"^\d+ +", "", line) for line in log.read_text().splitlines()]
    return (
        done.stdout.splitlines(),
        [line for line in lines if str(folder) in line],
        done.returncode,
    )


@pytest.mark.safeguard(
    file="backends/file.py",
    old="os.fsync(opened)",
    new="pass",
    protects_from="a power cut: a record that is torn or empty",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="            self._sync(folder)\n        return hashlib",
    new="        return hashlib",
    protects_from="a power cut: the record before, though the new one was acknowledged",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="os.O_RDWR | os.O_CREAT | os.O_EXCL",
    new="os.O_RDWR | os.O_CREAT",
    protects_from="writing into a file that somebody put there",
)
async def test_a_save_is_on_the_disk_before_it_is_acknowledged(version: str, folder: Path) -> None:
    """The whole file is synced before it gets its name, and the folder after that."""
    printed, calls, _ = trace(folder, "-e", "trace=openat,write,fsync,/^rename")
    assert printed == ["saved", "new"]
    new = rf"<{folder}/default\.[0-9a-f]+\.new>"
    acts = (
        rf'openat\(\d+<{folder}>, "default\.[0-9a-f]+\.new", O_RDWR\|O_CREAT\|O_EXCL\|.*O_NOFOLLOW\|O_CLOEXEC, 0600\)',
        rf'write\(\d+{new}, "new", 3\) += 3',
        rf"fsync\(\d+{new}\) += 0",
        rf'rename\w*\(\d+<{folder}>, "default\.\w+\.new", \d+<{folder}>, "default\.sealed".*\) += 0',
        rf"fsync\(\d+<{folder}>\) += 0",
    )
    relevant = [call for call in calls if re.match("write|fsync|rename", call) or ".new" in call]
    assert len(relevant) == len(acts), relevant
    for act, call in zip(acts, relevant, strict=True):
        assert re.match(act, call), call


@pytest.mark.safeguard(
    file="backends/file.py",
    old="os.fsync(above)",
    new="pass",
    protects_from="a power cut that takes the whole folder",
)
def test_a_new_folder_is_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    """What was acknowledged is not lost because the folder around it was."""
    folder = tmp_path / "above" / "store"
    log = tmp_path / "trace"
    run(
        python(
            SAVE_ONCE, folder, "strace", "-f", "--seccomp-bpf", "-y", "-o", log, "-e", "trace=fsync"
        )
    )
    synced = re.findall(r"fsync\(\d+<(.*?)>\)", log.read_text())
    assert synced[:2] == [str(tmp_path), str(tmp_path / "above")]


async def test_a_crash_before_the_rename_leaves_the_old_record(
    store: FileStore, version: str, folder: Path
) -> None:
    """What the killed writer left is removed by the next one, and by no reader."""
    _, _, status = trace(folder, "-e", "inject=/^rename:error=EIO:signal=KILL")
    assert status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert [name for name in in_the_folder(folder) if name.endswith(".new")]
    (folder / "other.0123456789abcdef.new").write_bytes(b"of another record, perhaps being written")
    stored = await store.read("default")
    assert stored is not None
    assert stored.value == b"old"
    assert await store.names() == ["default"]
    await store.swap("default", b"next", expected=version)
    assert in_the_folder(folder) == ["default.lock", "default.sealed", "other.0123456789abcdef.new"]


@pytest.mark.safeguard(
    file="backends/file.py",
    old=(
        "            with self._temporary_file(folder, name, value) as temporary:\n"
        "                os.rename(temporary, name + RECORD, src_dir_fd=folder, "
        "dst_dir_fd=folder)\n"
    ),
    new=(
        "            record = self._open(folder, name + RECORD, os.O_RDWR | os.O_CREAT | "
        "os.O_TRUNC)\n"
        '            with os.fdopen(record, "wb") as stream:\n'
        "                stream.write(value)\n"
        "                stream.flush()\n"
        "                os.fsync(record)\n"
    ),
    protects_from="a full disk or a kill in the middle of a write in place",
)
@pytest.mark.parametrize("call", ["write", "fsync", "/^rename"])
@pytest.mark.parametrize(
    ("error", "words"), [("EIO", "Input/output error"), ("ENOSPC", "No space left on device")]
)
async def test_a_save_that_fails_leaves_the_old_record(
    version: str, folder: Path, call: str, error: str, words: str
) -> None:
    """Whichever step fails: it is told, the old record is read back, and nothing is left over."""
    printed, _, _ = trace(folder, "-e", f"inject={call}:error={error}:when=1")
    assert re.fullmatch(
        rf"the file store cannot be used: {folder}(/default\.\w+\.new)?: {words}", printed[0]
    )
    assert printed[1:] == ["old"]
    assert in_the_folder(folder) == ["default.lock", "default.sealed"]


async def test_a_folder_that_can_not_be_listed_is_an_error(version: str, folder: Path) -> None:
    """As on a failing disk. Nothing is written then."""
    printed, _, _ = trace(folder, "-P", str(folder), "-e", "inject=getdents64:error=EIO")
    assert printed == [f"the file store cannot be used: {folder}: Input/output error", "old"]


@pytest.mark.safeguard(
    file="backends/file.py",
    old="if self._unsynced:",
    new="if False:",
    protects_from="reading back as kept what a power cut may yet undo",
)
@pytest.mark.parametrize(
    ("failing", "seen"),
    [
        ("when=2", "new"),  # its second sync, of the folder; then the reader's own succeeds
        ("when=2+", "the file store cannot be used: {folder}: Input/output error"),
    ],
)
async def test_what_may_yet_be_undone_is_not_read_back_as_kept(
    version: str, folder: Path, failing: str, seen: str
) -> None:
    """The new record is in its place, but the folder could not be synced: a reader syncs it first, or fails."""
    printed, calls, _ = trace(
        folder, "-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:{failing}"
    )
    assert printed == [
        f"the file store cannot be used: {folder}: Input/output error",
        seen.format(folder=folder),
    ]
    assert len(calls) == 3


def in_a_mount_namespace(script: str, program: str, folder: Path) -> list[str]:
    """Run a shell script that mounts what it likes on the folder, and then the program; nobody else sees the mounts.

    Without root, in a user namespace of its own.
    """
    folder.mkdir(mode=0o700)
    options = "-m" if AM_ROOT else "-Urm"
    shell: list[str | Path] = [
        "unshare",
        options,
        "sh",
        "-euc",
        f'{script}; shift; exec "$@"',
        "sh",
        folder,
    ]
    return run(python(program, folder, *shell))


def test_a_full_disk_is_an_error_and_keeps_the_old_record(folder: Path) -> None:
    """A real one: writing and checking fail, reading goes on; once there is room, all works again."""
    program = """
async def main():
    version = await store.swap("default", b"old" * 1000, expected=None)
    filler = Path(sys.argv[1]) / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 1024)
        except OSError:
            pass
    for act in (store.swap("default", b"new" * 2000, expected=version), store.check()):
        try:
            await act
        except StoreUnavailable as error:
            print(error)
    print((await store.read("default")).value == b"old" * 1000)
    filler.unlink()
    await store.swap("default", b"new" * 2000, expected=version)
    await store.check()
    print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()))
asyncio.run(main())
"""
    printed = in_a_mount_namespace(
        'mount -t tmpfs -o size=64k,mode=700 tmpfs "$1"', program, folder
    )
    full = f"the file store cannot be used: {folder}: No space left on device"
    assert printed == [full, full, "True", ".probe.lock default.lock default.sealed"]
    assert in_the_folder(folder) == []


def test_a_read_only_disk_is_an_error(folder: Path) -> None:
    """As after an I/O error, when the kernel takes no more writes: reading goes on."""
    program = """
import subprocess
async def main():
    version = await store.swap("default", b"old", expected=None)
    subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
    for act in (store.swap("default", b"new", expected=version), store.check(), store.lease("default", 9).__aenter__()):
        try:
            await act
        except StoreUnavailable as error:
            print(error)
    print((await store.read("default")).value.decode())
asyncio.run(main())
"""
    printed = in_a_mount_namespace(
        'mount -t tmpfs -o size=64k,mode=700 tmpfs "$1"', program, folder
    )
    assert [line.rpartition(": ")[2] for line in printed] == [*["Read-only file system"] * 3, "old"]
    assert all(str(folder) in line for line in printed[:-1])


def test_a_folder_that_this_user_may_not_write_to_is_an_error() -> None:
    """As another user where root runs the tests, since root may write anywhere."""
    program = """
async def main():
    warm = FileStore(Path(sys.argv[2]))  # whatever is imported late is imported by now
    version = await warm.swap("default", b"", expected=None)
    async with warm.lease("default", 9):
        await warm.check()
    try:
        await warm.swap("default", b"", expected=None)
    except StaleWrite:
        pass
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(*[int(sys.argv[3])] * 3)
        os.setresuid(*[int(sys.argv[3])] * 3)
    version = (await store.read("default")).version
    for act in (store.swap("default", b"new", expected=version), store.check(), store.lease("default", 9).__aenter__()):
        try:
            await act
        except StoreUnavailable as error:
            print(error)
    print((await store.read("default")).value.decode())
asyncio.run(main())
"""
    # Not below pytest's own folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o711)
        folder, warm = Path(outer, "store"), Path(outer, "warm")
        folder.mkdir(mode=0o700)
        record = folder / "default.sealed"
        record.write_bytes(b"old")
        record.chmod(0o600)
        if AM_ROOT:
            os.chown(folder, SOMEBODY_ELSE, SOMEBODY_ELSE)
            os.chown(record, SOMEBODY_ELSE, SOMEBODY_ELSE)
        folder.chmod(0o500)
        try:
            printed = run([*python(program, folder), warm, str(SOMEBODY_ELSE)])
        finally:
            folder.chmod(0o700)
        assert [line.rpartition(": ")[2] for line in printed] == [*["Permission denied"] * 3, "old"]
        assert all(str(folder) in line for line in printed[:-1])
        assert in_the_folder(folder) == ["default.sealed"]


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    """The message names the place where it went wrong."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        StoreUnavailable, match=rf"{tmp_path}/file.*: (Not a directory|File exists)"
    ):
        asyncio.run(FileStore(tmp_path / "file" / "store").names())
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(StoreUnavailable, match=rf"{tmp_path}/link: it is a symbolic link"):
        asyncio.run(FileStore(tmp_path / "link").names())


# ----------------------------------------------------------------------------------------------- what else it promises


async def test_no_secret_is_in_clear_in_any_file(store: FileStore, folder: Path) -> None:
    """Looked for in every file of the folder, one of a writer that was killed included; plain and in base64."""
    canaries = [f"canary-{number}-{secrets.token_urlsafe(24)}" for number in range(5)]
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    account = Account(
        client_id="client",
        client_secret=Secret(canaries[0]),
        access=AccessToken(
            value=Secret(canaries[1]), issued_at=now, expires_at=now + timedelta(minutes=30)
        ),
        current=RefreshToken(value=Secret(canaries[2]), obtained_at=now),
        fallbacks=(RefreshToken(value=Secret(canaries[3]), obtained_at=now),),
    )
    key = base64.urlsafe_b64encode(canaries[4][:32].encode()).decode()
    sealed = Sealer([Secret(key)]).seal(encode(account), "account", {"name": "default"})
    await store.swap("default", sealed, expected=None)
    with (
        store._opened_folder() as opened,
        store._temporary_file(opened, "default", sealed) as left_over,
    ):
        Path(folder, left_over).rename(folder / "default.killed.new")
    async with store.lease("default", 10):
        await store.check()
        files = list(folder.iterdir())
        found = b"".join(path.read_bytes() for path in files)
    assert sum(path.suffix in (".sealed", ".new") for path in files) == 2
    assert sealed in found
    for canary in (*canaries, key):
        # In base64 any text looks one of three ways, by where it begins.
        shifted = [base64.urlsafe_b64encode(b"\0" * at + canary.encode())[4:-4] for at in range(3)]
        assert not [text for text in (canary.encode(), *shifted) if text in found]


async def test_a_change_is_told_once(store: FileStore, version: str, folder: Path) -> None:
    """First when it begins to look, then when another record takes the place, and when it is gone; not in between."""
    told = 0

    async def follow() -> None:
        nonlocal told
        async for _ in store.changes("default", every_seconds=0.01):
            told += 1

    async def until(count: int) -> None:
        async with asyncio.timeout(LONGEST_RUN_SECONDS):
            while told < count:
                await asyncio.sleep(0.005)

    follower = asyncio.create_task(follow())
    await until(1)
    await FileStore(folder).swap("default", b"old", expected=version)
    await until(2)
    (folder / "default.sealed").unlink()
    await until(3)
    await store.read("default")
    await asyncio.wait([follower], timeout=0.1)
    assert told == 3
    folder.rename(folder.with_name("away"))
    with pytest.raises(StoreUnavailable, match="No such file"):
        await asyncio.wait_for(follower, LONGEST_RUN_SECONDS)


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("nfs4", True),
        ("cifs", True),
        ("smb3", True),
        ("9p", True),
        ("fuse.sshfs", True),
        ("ext4", False),
        ("", False),
    ],
)
async def test_a_network_file_system_is_warned_of(
    store: FileStore,
    version: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    network: bool,
) -> None:
    """As the list of mounts tells it; where there is no such list, nothing is said."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = folder.with_name("mountinfo")
    if kind:
        mounts.write_text(
            f"22 27 0:0 / /proc rw,relatime - proc proc rw\n"
            f"36 35 {number} / /mnt/a\\040b rw,noatime shared:1 master:2 - {kind} host:/export rw,vers=4.2\n"
        )
    monkeypatch.setattr(file_module, "MOUNTS", mounts)
    warnings = await store.warnings()
    assert len(warnings) == network
    assert not network or f"is on a network file system ({kind})" in warnings[0]


async def test_the_real_list_of_mounts_is_understood(store: FileStore) -> None:
    """The tests' own folder is on a local disk."""
    assert await store.warnings() == []
