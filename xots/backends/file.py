"""The file store: one sealed file an account, in a folder that only its owner may write to.

A record is written to a temporary file beside it, synced, renamed into its place, and the folder synced: after a power
cut, the old record or the new one is there, never a torn one. Processes keep out of each other's way by ``flock`` on
two files a record that are never replaced, which the kernel releases when their holder dies, however it dies::

    default.sealed         the record
    default.lock           held while the record is compared and replaced
    default.lease          held while somebody acts for the account
    default.1f0c….new      a record being written; whoever holds the lock next removes one that a killed writer left
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from ..errors import StaleWrite, StoreUnavailable
from .base import (
    LEASE_PATIENCE_SECONDS,
    LEASE_PREFIX,
    LOOK_EVERY_SECONDS,
    Lease,
    Stored,
    TokenStore,
    checked_name,
)

__all__ = ["FileStore"]

RECORD, LOCK, LEASE, TEMPORARY = ".sealed", ".lock", ".lease", ".new"

PROBE = ".probe"
"""What ``check`` writes under: no account can have this name, so no record is near."""

WRITE_PATIENCE_SECONDS = 5.0
"""How long to wait for another process to finish its write: hundreds of times as long as one takes."""

TOO_LONG = "another process has held {} for too long: see which, with fuser"

LINKED = "it is a symbolic link, which is not followed: put what it leads to in its place"

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of what is mounted where; other systems have none, and nothing is said of their file systems."""

NETWORK_FILE_SYSTEM = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph|cifs|davfs|gfs2|glusterfs|lustre|nfs4?|ocfs2|rclone|s3fs|smb3|smbfs|sshfs)"
)
"""Those whose ``flock`` may not reach other hosts, and whose rename and sync may promise less than a local disk's."""

T = TypeVar("T")


class FileStore(TokenStore):
    """Keeps records as files in a folder, which is made when it is first used.

    Args:
        folder: where; a relative one is taken from the current folder. It may be a symbolic link, which is resolved
            once. Nobody but its owner may be able to write to it.
    """

    shared = True
    durable = True
    may_generate_key = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._ready = False
        self._unsynced = False
        """Was a record renamed into its place, and the folder then could not be synced?"""

    @classmethod
    def from_url(cls, url: str) -> FileStore:
        """``file:///path/to/folder``, percent-encoded where need be (as ``Path.as_uri`` writes it)."""
        found = re.fullmatch(
            r"file:(?://(?:localhost)?)?(/(?!/)[^?#]+)", url, re.IGNORECASE | re.DOTALL
        )
        folder = unquote_to_bytes(found[1]) if found else b""
        if not folder or b"\0" in folder:
            raise ValueError(
                "the file store's URL is file:///path/to/folder: an absolute path on this machine, no host but "
                "localhost, and no options (a ? or # in a folder's name is written %3F or %23)"
            )
        return cls(Path(os.fsdecode(folder)))

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        return await self._in_thread(self._read, checked_name(name))

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """See ``TokenStore.swap``."""
        return await self._in_thread(self._swap, checked_name(name), value, expected)

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        return await self._in_thread(self._names)

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``. The kernel knows when a holder is gone, so this lease never runs out."""
        held, give_up_at = _Held(), time.monotonic() + LEASE_PATIENCE_SECONDS
        try:
            while not await self._in_thread(self._take_lease, checked_name(name), held):
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(TOO_LONG.format(self._folder / (name + LEASE)))
                await asyncio.sleep(LOOK_EVERY_SECONDS)
            yield Lease()
        finally:
            # Nothing was written to it, and the kernel has unlocked it whatever it answers: no act has failed for that.
            with suppress(OSError):
                held.give_back()

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """See ``TokenStore.changes``. Yields first when it begins to look: somebody may have written just before."""
        known: tuple[int, ...] | None = ()
        while True:
            if (found := await self._in_thread(self._look, checked_name(name))) != known:
                known = found
                yield
            await asyncio.sleep(every_seconds)

    async def check(self) -> None:
        """See ``TokenStore.check``. Writes a small file, reads it, and removes it."""
        await self._in_thread(self._check)

    async def warnings(self) -> list[str]:
        """See ``TokenStore.warnings``."""
        return await self._in_thread(self._warnings)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Whole: a caller who is cancelled leaves the thread to run to its end, and to release what it locked."""
        try:
            return await asyncio.to_thread(work, *args)
        except OSError as error:
            # An error of an open folder has its number for a name.
            where = self._folder / (error.filename if isinstance(error.filename, str) else "")
            what = LINKED if error.errno == errno.ELOOP else error.strerror
            raise StoreUnavailable(f"the file store can't be used: {where}: {what}") from error

    def _read(self, name: str) -> Stored | None:
        with self._opened() as folder:
            if self._unsynced:
                # A write failed after its rename. Whoever reads it back must not take for kept what may yet be undone.
                self._sync(folder)
            return self._stored(folder, name + RECORD)

    def _swap(self, name: str, value: bytes, expected: str | None) -> str:
        with self._opened() as folder, self._locked(folder, name):
            current = self._stored(folder, name + RECORD)
            if (current.version if current else None) != expected:
                raise StaleWrite(
                    f"{self._folder / name}{RECORD} was written by somebody else meanwhile"
                )
            with self._written(folder, name, value) as temporary:
                os.rename(temporary, name + RECORD, src_dir_fd=folder, dst_dir_fd=folder)
            self._sync(folder)
        return hashlib.sha256(value).hexdigest()

    def _names(self) -> list[str]:
        with self._opened() as folder:
            found = [
                re.fullmatch(rf"([a-z0-9-]{{1,64}}){RECORD}", file)
                for file in os.listdir(folder)  # noqa: PTH208
            ]
        return sorted(one[1] for one in found if one and not one[1].startswith(LEASE_PREFIX))

    def _look(self, name: str) -> tuple[int, ...] | None:
        with self._opened() as folder:
            try:
                found = os.stat(name + RECORD, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _check(self) -> None:
        with self._opened() as folder, self._locked(folder, PROBE):
            probe = secrets.token_bytes(4096)
            with self._written(folder, PROBE, probe) as temporary:
                if (found := self._stored(folder, temporary)) is None or found.value != probe:
                    raise StoreUnavailable(
                        f"{self._folder} does not give back what is written there: check the disk"
                    )
                os.unlink(temporary, dir_fd=folder)

    def _warnings(self) -> list[str]:
        with self._opened() as folder:
            device = os.fstat(folder).st_dev
        # A line is "36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/root rw", after proc(5).
        mounts = os.fsdecode(MOUNTS.read_bytes()).splitlines() if MOUNTS.exists() else []
        kinds = {mount.split()[2]: mount.partition(" - ")[2].split()[0] for mount in mounts}
        kind = kinds.get(f"{os.major(device)}:{os.minor(device)}", "")
        said = (
            f"{self._folder} is on a network file system ({kind}): its locks may not reach other hosts, and a power "
            "cut may undo what was written; keep the store on a local disk, or share one in Redis"
        )
        return [said] if NETWORK_FILE_SYSTEM.fullmatch(kind) else []

    def _take_lease(self, name: str, held: _Held) -> bool:
        with self._opened() as folder:
            return held.take(self._open(folder, name + LEASE, os.O_RDWR | os.O_CREAT))

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder, open for one operation: one that was replaced or put back is seen by the next."""
        if not self._ready:
            _make_folder(self._folder)
            self._folder = Path(os.path.realpath(self._folder, strict=True))
            self._ready = True
        with _folder(self._folder) as folder:
            if fault := _fault(os.fstat(folder), stat.S_IFDIR, (0, os.geteuid()), closed=0o022):
                raise StoreUnavailable(f"{self._folder} {fault}")
            yield folder

    def _open(self, folder: int, file: str, flags: int) -> int:
        """Open a file of the folder, if it is a plain one of this user's own that nobody else may touch."""
        # Not blocking: a pipe in the file's place must not stop us.
        opened = os.open(
            file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        if fault := _fault(os.fstat(opened), stat.S_IFREG, (os.geteuid(),), closed=0o7177):
            os.close(opened)
            raise StoreUnavailable(f"{self._folder / file} {fault}")
        return opened

    def _stored(self, folder: int, file: str) -> Stored | None:
        try:
            with os.fdopen(self._open(folder, file, os.O_RDONLY), "rb") as stream:
                value = stream.read()
        except FileNotFoundError:
            return None
        return Stored(value, hashlib.sha256(value).hexdigest())

    @contextmanager
    def _locked(self, folder: int, name: str) -> Iterator[None]:
        """Hold a record's lock, with no temporary file of it around: only a killed writer can have left one."""
        held, give_up_at = _Held(), time.monotonic() + WRITE_PATIENCE_SECONDS
        try:
            while not held.take(self._open(folder, name + LOCK, os.O_RDWR | os.O_CREAT)):
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(TOO_LONG.format(self._folder / (name + LOCK)))
                time.sleep(WRITE_PATIENCE_SECONDS / 1000)
            for file in os.listdir(folder):
                if file.startswith(f"{name}.") and file.endswith(TEMPORARY):
                    os.unlink(file, dir_fd=folder)
            yield
        finally:
            held.give_back()

    @contextmanager
    def _written(self, folder: int, name: str, value: bytes) -> Iterator[str]:
        """A new file with this value, on the disk for certain; removed if what is then done with it fails."""
        temporary = f"{name}.{secrets.token_hex(8)}{TEMPORARY}"
        opened = self._open(folder, temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(opened, "wb") as stream:
                stream.write(value)
                stream.flush()
                os.fsync(opened)
            yield temporary
        except BaseException:
            # The error that led here is the one to tell; what can't be removed now, the next writer removes.
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise

    def _sync(self, folder: int) -> None:
        self._unsynced = False
        try:
            os.fsync(folder)
        except OSError:
            self._unsynced = True
            raise


class _Held:
    """A ``flock`` that may be given back at any time, and by another thread than the one that is just taking it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._file: int | None = None
        self._over = False

    def take(self, file: int) -> bool:
        """Lock this open file and keep it, if nobody else has; else close it."""
        with self._mutex:
            try:
                if not self._over:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._file = file
            except BlockingIOError:
                pass
            finally:
                if self._file is None:
                    os.close(file)
            return self._file is not None

    def give_back(self) -> None:
        """Unlock it; what is taken from now on is given back at once."""
        with self._mutex:
            self._over = True
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _fault(found: os.stat_result, kind: int, owners: tuple[int, ...], closed: int) -> str | None:
    """Why what was found is not to be used, and what to do: its kind, its owner, or bits of its mode."""
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_IFMT(found.st_mode) != kind:
        return "is not a regular file: move it away"
    if found.st_uid not in owners:
        return f"belongs to user {found.st_uid}, and this is user {os.geteuid()}: run xots as its owner"
    return (
        f"is open to others (mode {mode:04o}): close it with chmod {mode & ~closed:04o}"
        if mode & closed
        else None
    )


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


def _make_folder(folder: Path) -> None:
    """Make the folder, and those above it, for this user alone; a power cut does not undo it."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        with _folder(one.parent) as above:
            os.fsync(above)
