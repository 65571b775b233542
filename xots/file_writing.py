"""New files and folders that are private, files that are written whole, and locks of files."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked", "make_folder", "open_folder", "restore_owner_rights", "write_file"]

LOCK_SECONDS = 10.0
"""Upper bound on the wait for a lock. A change takes some milliseconds."""


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents with mode 0700, whatever the umask. A power cut does
    not undo it. Folders that exist stay as they are."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    for one in reversed(missing):
        try:
            one.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another process has just made it
        one.chmod(0o700)  # the umask may have taken the owner's rights
        with open_folder(one.parent) as above:
            os.fsync(above)


def write_file(
    path: Path, content: bytes, *, like: os.stat_result | None = None, new: bool = False
) -> None:
    """Write a file completely or not at all. A power cut does not undo it.

    Args:
        path: the file, without symbolic links.
        content: its content.
        like: the status whose mode, owner and group the file gets; None for mode 0600 and this
            user.
        new: refuse to replace a file.

    Raises:
        OSError: it can't be written, or exists although ``new`` is set.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            restore_owner_rights(file.fileno())
            file.write(content)
            file.flush()
            if like is not None:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            os.fsync(file.fileno())
        if new:
            os.link(draft, path)  # fails if the file exists, unlike a rename
        else:
            draft.rename(path)
        with open_folder(path.parent) as folder:
            os.fsync(folder)
    finally:
        draft.unlink(missing_ok=True)


def restore_owner_rights(descriptor: int) -> None:
    """Let the owner read and write a file that was created with mode 0600, whatever the umask."""
    if os.fstat(descriptor).st_mode & 0o600 != 0o600:
        os.fchmod(descriptor, 0o600)


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder, yield its descriptor, and close it."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a path: that of a file ``.NAME.lock`` beside it, which stays.

    Only the owner of the folder and root can open that file. Each user who may read a folder or a
    file can lock it, and would stop a change for as long as it likes.

    Raises:
        OSError: the file can't be opened, or another process holds the lock for ``LOCK_SECONDS``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(path.with_name(f".{path.name}.lock"), flags, 0o600)
    try:
        restore_owner_rights(opened)
        owner = path.parent.stat().st_uid
        if os.geteuid() == 0 and os.fstat(opened).st_uid != owner:
            os.fchown(opened, owner, -1)  # else the owner could not change the path any more
        give_up_at = time.monotonic() + LOCK_SECONDS
        while not _lock(opened):
            if time.monotonic() > give_up_at:
                raise OSError(errno.EBUSY, "another process holds its lock")
            time.sleep(0.05)
        yield
    finally:
        os.close(opened)


def _lock(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
