# ruff: noqa: ASYNC240 - nothing else waits for the loop of a test
"""The file store: its URL, its folder, the files that it refuses, its locks and its notices."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import secrets
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.store_programs import (
    AM_ROOT,
    OTHER_USER,
    RUN_TIMEOUT_SECONDS,
    in_the_folder,
    python,
)

from xots import file_access
from xots.backends import file as file_module
from xots.backends import leases
from xots.backends.file import FileStore
from xots.errors import StaleWrite, StoreUnavailable
from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.record_json import encode
from xots.sealing import Sealer
from xots.secret import Secret

# ---------- the URL


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
    """RFC 8089's forms of a local path are percent-decoded, even if the name is not UTF-8."""
    assert FileStore.from_url(url)._folder == Path(path)


@pytest.mark.parametrize(
    "path", ["/a folder", "/50%", "/what?", "/no#1", "/caf\u00e9", "/\udcff", "/new\nline"]
)
def test_a_path_survives_as_a_url(path: str) -> None:
    """A URL from ``Path.as_uri`` names the same path."""
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
    """The message shows the right form."""
    with pytest.raises(
        ValueError, match=r"file:///path/to/folder: an absolute path on this machine"
    ):
        FileStore.from_url(url)


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "a.b", "A", "a" * 65, "a\n", "a\0"])
async def test_an_invalid_name_never_becomes_a_path(store: FileStore, name: str) -> None:
    """No name leads out of the folder."""
    with pytest.raises(ValueError, match="is not a name"):
        await store.read(name)
    with pytest.raises(ValueError, match="is not a name"):
        await store.swap(name, b"", expected=None)
    with pytest.raises(ValueError, match="is not a name"):
        async with store.lease(name, 1):
            pass


# ---------- the folder and its files


async def test_nothing_is_created_before_the_first_use(folder: Path) -> None:
    """Making a store opens nothing."""
    await FileStore(folder).close()
    assert not folder.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
async def test_only_the_owner_has_rights(tmp_path: Path, umask: int) -> None:
    """The folder, the parents created with it and every file are closed, whatever the umask."""
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


async def test_a_folder_that_is_a_link_is_resolved_once(tmp_path: Path) -> None:
    """systemd's DynamicUser makes the folder a link; a later change of it has no effect."""
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


async def test_foreign_files_are_ignored(store: FileStore, version: str, folder: Path) -> None:
    """A copy that a user makes beside the records is not a record."""
    for name in (
        "default (copy).sealed",
        "default.sealed~",
        ".hidden.sealed",
        "README",
        "lease-x.sealed",
    ):
        (folder / name).write_bytes(b"foreign")
    assert await store.names() == ["default"]


async def test_a_missing_folder_is_not_an_empty_one(
    store: FileStore, version: str, folder: Path
) -> None:
    """Its disk may be away: it is not created again, and works once it is back."""
    folder.rename(folder.with_name("away"))
    for operation in (
        store.read("default"),
        store.swap("default", b"new", expected=None),
        store.names(),
        store.check(),
    ):
        with pytest.raises(StoreUnavailable, match=rf"{folder}.*: No such file or directory"):
            await operation
    folder.with_name("away").rename(folder)
    await store.swap("default", b"new", expected=version)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """The message names the path that caused it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        StoreUnavailable, match=rf"{tmp_path}/file.*: (Not a directory|File exists)"
    ):
        asyncio.run(FileStore(tmp_path / "file" / "store").names())
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(StoreUnavailable, match=rf"{tmp_path}/link: it is a symbolic link"):
        asyncio.run(FileStore(tmp_path / "link").names())


async def test_no_secret_is_in_clear_in_any_file(store: FileStore, folder: Path) -> None:
    """No file, not even that of a killed writer, holds a secret in plain text or in base64."""
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
        store._checked_folder() as opened,
        store._temporary_file(opened, "default", sealed) as left_over,
    ):
        Path(folder, left_over).rename(folder / "default.new")
    async with store.lease("default", 10):
        await store.check()
        files = list(folder.iterdir())
        found = b"".join(path.read_bytes() for path in files)
    assert sum(path.suffix in (".sealed", ".new") for path in files) == 2
    assert sealed in found
    for canary in (*canaries, key):
        # The base64 form of a text depends on its offset modulo 3.
        shifted = [base64.urlsafe_b64encode(b"\0" * at + canary.encode())[4:-4] for at in range(3)]
        assert not [text for text in (canary.encode(), *shifted) if text in found]


# ---------- unsafe files


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
        r"is open to other users \(mode 0640\): chmod 600 /",
    ),
    "writable by all": (lambda path: path.chmod(0o602), r"is open to other users \(mode 0602\)"),
    "executable": (lambda path: path.chmod(0o700), r"is open to other users \(mode 0700\)"),
    "set-uid": (lambda path: path.chmod(0o4600), r"is open to other users \(mode 4600\)"),
}


@pytest.mark.safeguard(
    file="backends/file.py",
    old="flags | os.O_NOFOLLOW | ",
    new="flags | ",
    protects_from="a record that is a link to another file",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="forbidden=0o7177",
    new="forbidden=0",
    protects_from="another user that reads or changes the record",
)
@pytest.mark.parametrize("how", REFUSED)
async def test_an_unsafe_record_is_refused(
    store: FileStore, version: str, folder: Path, how: str
) -> None:
    """It is neither read nor replaced, and stays as it is."""
    spoil, message = REFUSED[how]
    spoil(folder / "default.sealed")
    before = os.lstat(folder / "default.sealed")
    for operation in (store.read("default"), store.swap("default", b"new", expected=version)):
        with pytest.raises(StoreUnavailable, match=rf"{folder}/default\.sealed:? {message}"):
            await operation
    assert os.lstat(folder / "default.sealed").st_ino == before.st_ino
    kept = [
        path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"
    ]
    assert set(kept) <= {b"old"}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("file", ["default.lock", "default.lease"])
async def test_an_unsafe_lock_is_refused(
    store: FileStore, version: str, folder: Path, file: str, how: str
) -> None:
    """A lock on such a file excludes no process, or lets another user block this one."""
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
    """Give a file to another user; without root, let this process appear as another user."""

    def give_away(path: Path) -> None:
        if AM_ROOT:
            os.chown(path, OTHER_USER, OTHER_USER)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    return give_away


@pytest.mark.safeguard(
    file="file_access.py",
    old="if found.st_uid not in owners:",
    new="if False:",
    protects_from="a record that another user owns",
)
@pytest.mark.safeguard(
    file="file_access.py",
    old="if found.st_uid not in (_trusted_owners() if owners is None else owners):",
    new="if False:",
    protects_from="a store or key in a folder that another user owns",
)
@pytest.mark.parametrize("file", ["default.sealed", ""])
async def test_a_record_or_folder_of_another_user_is_refused(
    store: FileStore, version: str, folder: Path, give_away: Callable[[Path], None], file: str
) -> None:
    """Nothing is read or replaced, and the message says how to run xots."""
    give_away(folder / file)
    for operation in (store.read("default"), store.swap("default", b"new", expected=version)):
        with pytest.raises(
            StoreUnavailable,
            match=r"belongs to user \d+, but xots runs as user \d+: run xots as the owner",
        ):
            await operation
    assert (folder / "default.sealed").read_bytes() == b"old"


@pytest.mark.safeguard(
    file="file_access.py",
    old="if mode & 0o022:",
    new="if False:",
    protects_from="another user that replaces the record",
)
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
async def test_a_folder_that_other_users_can_write_to_is_refused(
    store: FileStore, version: str, folder: Path, mode: int
) -> None:
    """They could replace the record. The mode of a folder such as /tmp has to stay."""
    folder.chmod(mode)
    remedy = "use another folder" if mode & 0o1000 else f"chmod go-w {folder}"
    for operation in (
        store.read("default"),
        store.swap("default", b"new", expected=version),
        store.check(),
        store.names(),
    ):
        with pytest.raises(
            StoreUnavailable,
            match=rf"{folder} is open to other users \(mode {mode:04o}\), .*: {remedy}$",
        ):
            await operation
    assert (folder / "default.sealed").read_bytes() == b"old"
    folder.chmod(0o755)
    await store.check()


# ---------- locks and leases


def test_two_processes_on_one_folder_lose_nothing(folder: Path) -> None:
    """Each adds one to the same record many times, and never meets the other inside the lease."""
    program = """
async def main():
    for number in range(40):
        done = False
        while not done:
            stored = await store.read("default")
            value = int(stored.value) + 1 if stored else 1
            try:
                version = stored.version if stored else None
                await store.swap("default", b"%d" % value, expected=version)
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
        _, errors = process.communicate(timeout=RUN_TIMEOUT_SECONDS)
        assert process.returncode == 0, errors
    assert (folder / "default.sealed").read_bytes() == b"80"
    assert in_the_folder(folder) == ["default.lease", "default.lock", "default.sealed"]


@pytest.mark.safeguard(
    file="backends/file.py",
    old="while not lock.take(self._open(folder, name + LOCK, os.O_RDWR | os.O_CREAT)):",
    new="while False:",
    protects_from="two writers that both find the version they expect",
)
async def test_a_writer_that_hangs_does_not_hang_others(
    store: FileStore, version: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process may hold the lock for ever; the caller gets an error in time."""
    monkeypatch.setattr(file_module, "WRITE_LOCK_TIMEOUT_SECONDS", 0.1)
    with (folder / "default.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=r"held .*/default\.lock for too long"):
            await store.swap("default", b"new", expected=version)
    await store.swap("default", b"new", expected=version)


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease and never releases it."""
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
    """The kernel releases it; no caller waits for it to expire."""
    taken_at: list[float] = []

    async def take() -> None:
        async with store.lease("default", 60):
            taken_at.append(time.monotonic())

    waiter = asyncio.create_task(take())
    await asyncio.wait([waiter], timeout=0.2)
    assert not taken_at
    holder.kill()
    killed_at = time.monotonic()
    await asyncio.wait_for(waiter, RUN_TIMEOUT_SECONDS)
    assert taken_at[0] - killed_at < 2


async def test_waiting_for_a_lease_ends(
    store: FileStore, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the timeout the caller gets an error that names the file."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(StoreUnavailable, match=r"held .*/default\.lease for too long"):
        async with store.lease("default", 60):
            pass


async def test_a_lease_that_is_taken_too_late_is_released(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that takes it may end after its caller was cancelled."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
    take = store._take_lease

    def slow(*args: object) -> bool:
        begun.set()
        go_on.wait(RUN_TIMEOUT_SECONDS)
        try:
            return take(*args)  # type: ignore[arg-type]
        finally:
            over.set()

    monkeypatch.setattr(store, "_take_lease", slow)
    waiter = asyncio.ensure_future(store.lease("default", 60).__aenter__())
    await asyncio.to_thread(begun.wait, RUN_TIMEOUT_SECONDS)
    waiter.cancel()
    await asyncio.wait([waiter])
    go_on.set()
    await asyncio.to_thread(over.wait, RUN_TIMEOUT_SECONDS)
    monkeypatch.undo()
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 1)
    async with store.lease("default", 60):
        pass


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_file_is_left_open(store: FileStore, version: str, folder: Path) -> None:
    """Neither a success nor a failure leaves a file open."""

    async def all_operations() -> None:
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

    await all_operations()
    before = open_files()
    for _ in range(5):
        await all_operations()
    assert open_files() == before


# ---------- notices and warnings


async def test_a_change_is_reported_once(store: FileStore, version: str, folder: Path) -> None:
    """At the start, after each new record and when the record is gone; not in between."""
    notices = 0

    async def follow() -> None:
        nonlocal notices
        async for _ in store.changes(every_seconds=0.01):
            notices += 1

    async def until(count: int) -> None:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            while notices < count:
                await asyncio.sleep(0.005)

    follower = asyncio.create_task(follow())
    await until(1)
    await FileStore(folder).swap("default", b"old", expected=version)
    await until(2)
    (folder / "default.sealed").unlink()
    await until(3)
    await store.read("default")
    await asyncio.wait([follower], timeout=0.1)
    assert notices == 3
    folder.rename(folder.with_name("away"))
    with pytest.raises(StoreUnavailable, match="No such file"):
        await asyncio.wait_for(follower, RUN_TIMEOUT_SECONDS)


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
async def test_a_network_file_system_causes_a_warning(
    store: FileStore,
    version: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    network: bool,
) -> None:
    """The list of mounts shows its type; without such a list there is no warning."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = folder.with_name("mountinfo")
    if kind:
        mounts.write_text(
            f"22 27 0:0 / /proc rw,relatime - proc proc rw\n"
            f"36 35 {number} / /mnt/a\\040b rw,noatime shared:1 master:2 - {kind} "
            "host:/export rw,vers=4.2\n"
        )
    monkeypatch.setattr(file_access, "MOUNTS", mounts)
    warnings = await store.warnings()
    assert len(warnings) == network
    assert not network or f"is on a network file system ({kind})" in warnings[0]


async def test_the_real_list_of_mounts_is_understood(store: FileStore) -> None:
    """The folder of the tests is on a local disk, so there is no warning."""
    assert await store.warnings() == []
