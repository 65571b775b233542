"""The file store: one sealed file for each account, in a folder that only its owner can write to.

A record is written to a temporary file beside it, which is synced and renamed over the old record;
then the folder is synced. After a power cut, the old record or the new one is there, complete.

Processes exclude one another by ``flock`` on two files for each record, which are never replaced.
The kernel releases such a lock whenever its holder dies::

    default.sealed         the record
    default.lock           locked while a process compares and replaces the record
    default.lease          locked while a process holds the lease
    default.new            a record while it is written; if the writer is killed, the next writer
                           removes it
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
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from ..errors import RecordUnusable, StoreUnavailable
from ..file_access import file_problem, folder_problem, mounts
from ..file_writing import make_folder, open_folder, restore_owner_rights
from .base import (
    MAX_RECORD_BYTES,
    Lease,
    Stored,
    TokenStore,
    check_size,
    checked_name,
    stale_write,
    version_of,
    wait_for_lease,
)
from .file_records import RECORD, FolderWatch, foreign_records, records_in

__all__ = ["FileStore"]

LOCK, LEASE, TEMPORARY = ".lock", ".lease", ".new"

PROBE = ".probe"
"""The name under which ``check`` writes. No account can have it, so no record is touched."""

WRITE_LOCK_TIMEOUT_SECONDS = 5.0
"""Time to wait for the write of another process: hundreds of times as long as one takes."""

WRITE_LOCK_POLL_INTERVAL_SECONDS = 0.005
"""Interval between attempts to lock a record that another process writes."""

TOO_LONG = (
    "another process has held {} for too long: find it with fuser, and restart it if it hangs"
)

LINKED = "it is a symbolic link, which is not followed: put the file that it names in its place"

NETWORK_FILE_SYSTEM = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph|cifs|davfs|gfs2|glusterfs|lustre|nfs4?|ocfs2|rclone|s3fs|smb3"
    r"|smbfs|sshfs)"
)
"""File systems whose ``flock`` may not reach other hosts, and whose rename and sync may promise
less than those of a local disk."""

T = TypeVar("T")


class FileStore(TokenStore):
    """Keeps records as files in a folder, which is created at the first use.

    Args:
        folder: its path; a relative path starts at the current folder. It may be a symbolic link,
            which is resolved once. Only its owner may have the right to write to it.
    """

    shared = True
    durable = True
    may_generate_key = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._ready = False
        self._unsynced = False
        """True after a rename whose folder could not be synced: a power cut may undo it."""

    @classmethod
    def from_url(cls, url: str) -> FileStore:
        """Return the store at ``file:///path/to/folder``, percent-encoded as by ``Path.as_uri``.

        Raises:
            ValueError: the URL has another form.
        """
        found = re.fullmatch(
            r"file:(?://(?:localhost)?)?(/(?!/)[^?#]+)", url, re.IGNORECASE | re.DOTALL
        )
        folder = unquote_to_bytes(found[1]) if found else b""
        if not folder or b"\0" in folder:
            raise ValueError(
                "the file store's URL is file:///path/to/folder: an absolute path on this machine, "
                "without a host other than localhost and without options (write ? as %3F, # as %23)"
            )
        return cls(Path(os.fsdecode(folder)))

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        return await self._in_thread(self._read, checked_name(name))

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        """See ``TokenStore.swap``."""
        check_size(name, len(value))
        version = await self._in_thread(self._swap, checked_name(name), value, expected)
        await self.note_due(name, due_at)
        return version

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        return await self._in_thread(self._names)

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``. The kernel knows when a holder dies, so the lease never
        expires."""
        lock = _FileLock()

        async def take() -> Lease | None:
            return Lease() if await self._in_thread(self._take_lease, name, lock) else None

        try:
            yield await wait_for_lease(take, TOO_LONG.format(self._folder / (name + LEASE)))
        finally:
            # Nothing was written to the file, and the kernel unlocks it whatever close returns.
            with suppress(OSError):
                lock.release()

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        """See ``TokenStore.changes``. It opens no record."""
        watch = FolderWatch()
        await self._in_thread(self._changed, watch)
        yield None
        while True:
            for name in await self._in_thread(self._changed, watch):
                yield name
            await asyncio.sleep(every_seconds)

    async def check(self) -> None:
        """See ``TokenStore.check``. It writes a small file, reads it and removes it."""
        await self._in_thread(self._check)

    async def foreign(self) -> list[str]:
        """See ``TokenStore.foreign``."""
        return await self._in_thread(self._foreign)

    async def warnings(self) -> list[str]:
        """See ``TokenStore.warnings``."""
        return await self._in_thread(self._warnings)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work`` in a thread, which runs to its end even if the caller is cancelled.

        Raises:
            StoreUnavailable: the system refused an operation.
        """
        try:
            return await asyncio.to_thread(work, *args)
        except OSError as error:
            # The file name of an error is a number if the folder's descriptor caused it.
            path = self._folder / (error.filename if isinstance(error.filename, str) else "")
            problem = LINKED if error.errno == errno.ELOOP else error.strerror
            is_of_record = path.suffix == RECORD and error.errno in (errno.ELOOP, errno.EACCES)
            kind = RecordUnusable if is_of_record else StoreUnavailable
            raise kind(f"the file store cannot be used: {path}: {problem}") from error

    def _read(self, name: str) -> Stored | None:
        with self._checked_folder() as folder:
            if self._unsynced:
                # A write failed after its rename, so a power cut may undo the record. Make it
                # durable before the caller finds its own write in it.
                self._sync(folder)
            return self._stored(folder, name + RECORD)

    def _swap(self, name: str, value: bytes, expected: str | None) -> str:
        with self._checked_folder() as folder, self._locked(folder, name):
            current = self._stored(folder, name + RECORD)
            if version_of(current) != expected:
                raise stale_write(str(self._folder / (name + RECORD)))
            with self._temporary_file(folder, name, value) as temporary:
                os.rename(temporary, name + RECORD, src_dir_fd=folder, dst_dir_fd=folder)
            self._sync(folder)
        return hashlib.sha256(value).hexdigest()

    def _names(self) -> list[str]:
        with self._checked_folder() as folder:
            return sorted(entry.name.removesuffix(RECORD) for entry in records_in(folder))

    def _changed(self, watch: FolderWatch) -> list[str]:
        with self._checked_folder() as folder:
            return watch.look(folder)

    def _check(self) -> None:
        with self._checked_folder() as folder, self._locked(folder, PROBE):
            probe = secrets.token_bytes(4096)
            with self._temporary_file(folder, PROBE, probe) as temporary:
                if (found := self._stored(folder, temporary)) is None or found.value != probe:
                    raise StoreUnavailable(
                        f"{self._folder} does not return the bytes just written: check the disk"
                    )
                os.unlink(temporary, dir_fd=folder)

    def _foreign(self) -> list[str]:
        with self._checked_folder() as folder:
            return foreign_records(folder)

    def _warnings(self) -> list[str]:
        with self._checked_folder() as folder:
            kind = _file_system(os.fstat(folder).st_dev)
        warnings = []
        if NETWORK_FILE_SYSTEM.fullmatch(kind):
            warnings.append(
                f"{self._folder} is on a network file system ({kind}): its locks may not reach "
                "other hosts, and a power cut may undo a write; keep the store on a local disk, or "
                "use Redis"
            )
        return warnings

    def _take_lease(self, name: str, lock: _FileLock) -> bool:
        file = checked_name(name) + LEASE
        with self._checked_folder() as folder:
            return lock.take(self._open(folder, file, os.O_RDWR | os.O_CREAT))

    @contextmanager
    def _checked_folder(self) -> Iterator[int]:
        """Open the folder for one operation. The next operation notices if it is replaced.

        Raises:
            StoreUnavailable: another user owns the folder or can write to it.
        """
        if not self._ready:
            make_folder(self._folder)
            self._folder = Path(os.path.realpath(self._folder, strict=True))
            self._ready = True
        with open_folder(self._folder) as folder:
            problem = folder_problem(self._folder, os.fstat(folder), for_writing=True)
            if problem:
                raise StoreUnavailable(problem)
            yield folder

    def _open(self, folder: int, file: str, flags: int) -> int:
        """Open a file of the folder.

        Raises:
            StoreUnavailable: it is not a regular file, or another user owns it or has rights to it.
        """
        # Not blocking: a pipe in the place of the file must not stop this thread.
        opened = os.open(
            file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        found, path = os.fstat(opened), self._folder / file
        problem = file_problem(path, found, owners=(os.geteuid(),), forbidden=0o7177)
        if not stat.S_ISREG(found.st_mode):
            problem = f"{path} is not a regular file: move it away"
        if problem:
            os.close(opened)
            raise RecordUnusable(problem)
        if flags & os.O_CREAT:
            restore_owner_rights(opened)
        return opened

    def _stored(self, folder: int, file: str) -> Stored | None:
        try:
            with os.fdopen(self._open(folder, file, os.O_RDONLY), "rb") as stream:
                check_size(file, os.fstat(stream.fileno()).st_size)
                value = stream.read(MAX_RECORD_BYTES + 1)
        except FileNotFoundError:
            return None
        check_size(file, len(value))
        return Stored(value, hashlib.sha256(value).hexdigest())

    @contextmanager
    def _locked(self, folder: int, name: str) -> Iterator[None]:
        """Lock a record, and remove the temporary file that a killed writer has left."""
        lock, give_up_at = _FileLock(), time.monotonic() + WRITE_LOCK_TIMEOUT_SECONDS
        try:
            while not lock.take(self._open(folder, name + LOCK, os.O_RDWR | os.O_CREAT)):
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(TOO_LONG.format(self._folder / (name + LOCK)))
                time.sleep(WRITE_LOCK_POLL_INTERVAL_SECONDS)
            with suppress(FileNotFoundError):
                os.unlink(name + TEMPORARY, dir_fd=folder)
            yield
        finally:
            lock.release()

    @contextmanager
    def _temporary_file(self, folder: int, name: str, value: bytes) -> Iterator[str]:
        """Write a new file and sync it, and yield its name. It is removed if its use fails.

        The lock of the record permits one at a time. So its name needs no random part, and no list
        of the folder, which is long with many accounts, to find it again.
        """
        temporary = name + TEMPORARY
        opened = self._open(folder, temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(opened, "wb") as stream:
                stream.write(value)
                stream.flush()
                os.fsync(opened)
            yield temporary
        except BaseException:
            # This error is the one to report. The next writer removes a file that remains.
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


class _FileLock:
    """A ``flock`` that any thread can release at any time, even while another thread takes it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._file: int | None = None
        self._released = False

    def take(self, file: int) -> bool:
        """Lock this open file and keep it open. Close it and return False if another process has
        locked it, or if ``release`` was called before."""
        with self._mutex:
            try:
                if not self._released:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._file = file
            except BlockingIOError:
                pass
            finally:
                if self._file is None:
                    os.close(file)
            return self._file is not None

    def release(self) -> None:
        """Unlock the file, now and for good: ``take`` locks nothing more."""
        with self._mutex:
            self._released = True
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _file_system(device: int) -> str:
    """Return the type of the file system on a device; empty if the system does not tell."""
    kinds = {mount.device: mount.kind for mount in mounts()}
    return kinds.get(f"{os.major(device)}:{os.minor(device)}", "")
