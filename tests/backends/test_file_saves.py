"""A save of the file store: the order of its system calls, and the failure of each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.store_programs import (
    AM_ROOT,
    OTHER_USER,
    RUN_TIMEOUT_SECONDS,
    in_the_folder,
    python,
    run,
)

from xots.backends.file import FileStore

SAVE_ONCE = """
from concurrent.futures import ThreadPoolExecutor
def say(words):
    os.writev(1, [f"{words}\\n".encode()])  # not write, which shall fail only in the store
async def main():
    # One thread, because strace counts the calls of each thread apart.
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


def trace(
    folder: Path, *options: str, program: str = SAVE_ONCE
) -> tuple[list[str], list[str], int]:
    """Save once under strace; return the output, the system calls and the exit status."""
    log = folder.with_name("trace")
    before: list[str | Path] = ["strace", "-f", "--seccomp-bpf", "-y", "-o", log, *options]
    done = subprocess.run(
        python(program, folder, *before),
        stdout=subprocess.PIPE,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
    )
    lines = [re.sub(r"^\d+ +", "", line) for line in log.read_text().splitlines()]
    return (
        done.stdout.splitlines(),
        [line for line in lines if str(folder) in line],
        done.returncode,
    )


# ---------- the order


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
    protects_from="a power cut: the old record, though the new one was acknowledged",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="os.O_RDWR | os.O_CREAT | os.O_EXCL",
    new="os.O_RDWR | os.O_CREAT",
    protects_from="writing into a file that was put there",
)
async def test_a_save_is_on_the_disk_before_it_is_acknowledged(version: str, folder: Path) -> None:
    """The whole file is synced before the rename, and the folder after it."""
    printed, calls, _ = trace(folder, "-e", "trace=openat,write,fsync,/^rename")
    assert printed == ["saved", "new"]
    new = rf"<{folder}/default\.new>"
    steps = (
        rf'openat\(\d+<{folder}>, "default\.new", '
        r"O_RDWR\|O_CREAT\|O_EXCL\|.*O_NOFOLLOW\|O_CLOEXEC, 0600\)",
        rf'write\(\d+{new}, "new", 3\) += 3',
        rf"fsync\(\d+{new}\) += 0",
        rf'rename\w*\(\d+<{folder}>, "default\.new", '
        rf'\d+<{folder}>, "default\.sealed".*\) += 0',
        rf"fsync\(\d+<{folder}>\) += 0",
    )
    relevant = [call for call in calls if re.match("write|fsync|rename", call) or ".new" in call]
    assert len(relevant) == len(steps), relevant
    for step, call in zip(steps, relevant, strict=True):
        assert re.match(step, call), call


@pytest.mark.safeguard(
    file="file_writing.py",
    old="os.fsync(above)",
    new="pass",
    protects_from="a power cut that takes the whole folder",
)
def test_a_new_folder_is_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    """An acknowledged record is not lost with the folder around it."""
    folder = tmp_path / "above" / "store"
    log = tmp_path / "trace"
    run(
        python(
            SAVE_ONCE, folder, "strace", "-f", "--seccomp-bpf", "-y", "-o", log, "-e", "trace=fsync"
        )
    )
    synced = re.findall(r"fsync\(\d+<(.*?)>\)", log.read_text())
    assert synced[:2] == [str(tmp_path), str(tmp_path / "above")]


# ---------- failing calls


async def test_a_crash_before_the_rename_leaves_the_old_record(
    store: FileStore, version: str, folder: Path
) -> None:
    """The next writer removes the temporary file of a killed writer; a reader does not."""
    _, _, status = trace(folder, "-e", "inject=/^rename:error=EIO:signal=KILL")
    assert status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert [name for name in in_the_folder(folder) if name.endswith(".new")]
    (folder / "other.new").write_bytes(b"of another record, perhaps being written")
    stored = await store.read("default")
    assert stored is not None
    assert stored.value == b"old"
    assert await store.names() == ["default"]
    await store.swap("default", b"next", expected=version)
    assert in_the_folder(folder) == ["default.lock", "default.sealed", "other.new"]


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
    protects_from="a full disk, or a kill during a write in place",
)
@pytest.mark.parametrize("call", ["write", "fsync", "/^rename"])
@pytest.mark.parametrize(
    ("error", "words"), [("EIO", "Input/output error"), ("ENOSPC", "No space left on device")]
)
async def test_a_save_that_fails_leaves_the_old_record(
    version: str, folder: Path, call: str, error: str, words: str
) -> None:
    """Whichever step fails: it is an error, the old record is read, and no file is left over."""
    printed, _, _ = trace(folder, "-e", f"inject={call}:error={error}:when=1")
    assert re.fullmatch(
        rf"the file store cannot be used: {folder}(/default\.new)?: {words}", printed[0]
    )
    assert printed[1:] == ["old"]
    assert in_the_folder(folder) == ["default.lock", "default.sealed"]


@pytest.mark.safeguard(
    file="backends/file.py",
    old="if self._unsynced:",
    new="if False:",
    protects_from="reading a record that a power cut may still undo",
)
@pytest.mark.parametrize(
    ("failing", "seen"),
    [
        ("when=2", "new"),  # its second sync, of the folder; then the reader's own succeeds
        ("when=2+", "the file store cannot be used: {folder}: Input/output error"),
    ],
)
async def test_a_record_that_a_power_cut_may_undo_is_not_read(
    version: str, folder: Path, failing: str, seen: str
) -> None:
    """If the folder was not synced after the rename, a reader syncs it first, or fails."""
    printed, calls, _ = trace(
        folder, "-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:{failing}"
    )
    assert printed == [
        f"the file store cannot be used: {folder}: Input/output error",
        seen.format(folder=folder),
    ]
    assert len(calls) == 3


# ---------- failing disks


def in_a_mount_namespace(script: str, program: str, folder: Path) -> list[str]:
    """Run a shell script that mounts a file system on the folder, and then the program. Without
    root they run in a user namespace."""
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
    """Writes and checks fail and reads succeed; once there is room, all succeed again."""
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
    for operation in (store.swap("default", b"new" * 2000, expected=version), store.check()):
        try:
            await operation
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
    """As after an I/O error, when the kernel refuses writes; reads still succeed."""
    program = """
import subprocess
async def main():
    version = await store.swap("default", b"old", expected=None)
    subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
    swap = store.swap("default", b"new", expected=version)
    for operation in (swap, store.check(), store.lease("default", 9).__aenter__()):
        try:
            await operation
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


def test_a_folder_without_the_right_to_write_is_an_error() -> None:
    """If root runs the tests, the program becomes another user: root may write anywhere."""
    program = """
async def main():
    warm = FileStore(Path(sys.argv[2]))  # imports the modules that are imported late
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
    swap = store.swap("default", b"new", expected=version)
    for operation in (swap, store.check(), store.lease("default", 9).__aenter__()):
        try:
            await operation
        except StoreUnavailable as error:
            print(error)
    print((await store.read("default")).value.decode())
asyncio.run(main())
"""
    # Not below pytest's folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o711)
        folder, warm = Path(outer, "store"), Path(outer, "warm")
        folder.mkdir(mode=0o700)
        record = folder / "default.sealed"
        record.write_bytes(b"old")
        record.chmod(0o600)
        if AM_ROOT:
            os.chown(folder, OTHER_USER, OTHER_USER)
            os.chown(record, OTHER_USER, OTHER_USER)
        folder.chmod(0o500)
        try:
            printed = run([*python(program, folder), warm, str(OTHER_USER)])
        finally:
            folder.chmod(0o700)
        assert [line.rpartition(": ")[2] for line in printed] == [*["Permission denied"] * 3, "old"]
        assert all(str(folder) in line for line in printed[:-1])
        assert in_the_folder(folder) == ["default.sealed"]
