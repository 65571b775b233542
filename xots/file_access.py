"""Access to files: can other users read or replace a secret file; new folders that are private, and
files that are written whole.

A *secrets mount* is a file system on which systemd or a container platform provides secrets. Its
files often have mode 0440 or 0444, because the platform decides who sees the mount.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

__all__ = [
    "Mount",
    "file_problem",
    "folder_problem",
    "folder_problems",
    "is_secrets_mount",
    "mount_of",
    "mounts",
    "parse_mounts",
    "public_file_problems",
    "read_bounded",
    "secret_file_problems",
]

SECRETS_FOLDERS = (Path("/run/secrets"), Path("/var/run/secrets"))
"""Docker, Podman and Kubernetes mount secrets here."""

SHARED_FOLDERS = frozenset(
    map(Path, ("/", "/dev", "/dev/shm", "/run", "/run/lock", "/tmp", "/var/tmp"))  # noqa: S108
)
"""Folders of the whole machine. Some are in memory, and systemd's ``ProtectSystem=strict`` makes
them read-only for a service, although other users can still read them and write to them."""

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of mounted file systems. Other systems have none."""

MAX_BYTES = 64 * 1024
"""Upper bound on a file of settings or secrets: more than a hundred times what one needs. It ends
the reading of a path such as ``/dev/zero``."""

MAX_LINKS = 40
"""Linux follows no more symbolic links in one path."""


# ---------- decisions


def file_problem(
    path: Path, found: os.stat_result, *, owners: Sequence[int], forbidden: int
) -> str | None:
    """Return why a file is not safe to use, with the remedy; None if it is safe.

    The remedy never takes this user's right to read the file.

    Args:
        path: its path.
        found: its status.
        owners: the user ids that may own it.
        forbidden: the mode bits that it must not have.
    """
    mode = stat.S_IMODE(found.st_mode)
    chmod = _command(f"chmod {mode & ~forbidden:03o}", path)
    if found.st_uid not in owners:
        return _owner_problem(path, found, chmod if mode & forbidden else None)
    if mode & forbidden:
        # This user may read a file of root by the rights of group and others only.
        needs_rights = found.st_uid != os.geteuid() and forbidden & 0o044
        remedy = f"{_take_over(path)} && {chmod}" if needs_rights else chmod
        return f"{path} is open to other users (mode {mode:04o}): {remedy}"
    return None


def folder_problem(
    folder: Path,
    found: os.stat_result,
    *,
    owners: Sequence[int] | None = None,
    for_writing: bool = False,
) -> str | None:
    """Return why the files of a folder are not safe, with the remedy; None if they are safe.

    A folder that others can write to is refused even with the sticky bit, such as ``/tmp``: another
    user can put a file there before the owner does.

    Args:
        folder: its path.
        found: its status.
        owners: the user ids that may own it; None for this user and root.
        for_writing: this process writes to the folder, so the remedy keeps its right to do so.
    """
    mode, chmod = stat.S_IMODE(found.st_mode), _command("chmod go-w", folder)
    if found.st_uid not in (_trusted_owners() if owners is None else owners):
        return _owner_problem(folder, found, chmod if mode & 0o022 else None)
    if mode & 0o022:
        needs_rights = for_writing and found.st_uid != os.geteuid()
        remedy = f"{_take_over(folder)} && {chmod}" if needs_rights else chmod
        if mode & stat.S_ISVTX:  # such as /tmp: its owner and mode must stay
            remedy = "use another folder"
        danger = f"is open to other users (mode {mode:04o}), who can put files into it"
        return f"{folder} {danger}: {remedy}"
    return None


def _owner_problem(path: Path, found: os.stat_result, chmod: str | None) -> str:
    """Return the problem of a wrong owner. ``chmod`` is the command that corrects the mode too."""
    user = os.geteuid()
    remedy = f"{_take_over(path)} && {chmod}" if chmod else _take_over(path)
    return (
        f"{path} belongs to user {found.st_uid}, but xots runs as user {user}: run xots as the "
        f"owner, or {remedy}"
    )


def _take_over(path: Path) -> str:
    return _command(f"chown {os.geteuid()}", path)


def _command(words: str, path: Path) -> str:
    """Return a command that an operator can copy into a shell."""
    return f"{words} {shlex.quote(str(path))}"


def _trusted_owners() -> tuple[int, int]:
    """Return the user ids that can read and replace each file of this process anyway."""
    return 0, os.geteuid()


class Mount(msgspec.Struct, frozen=True):
    """A mounted file system."""

    point: Path
    """The path at which it is mounted."""
    device: str
    """The numbers of its device: ``8:1``."""
    kind: str
    """The type of the file system: ``ext4``."""
    read_only: bool
    """True if this process cannot write to it, whatever the modes of its files."""


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts in a text in the format of ``/proc/self/mountinfo``.

    A line is ``36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/root rw``, after
    proc_pid_mountinfo(5).
    """
    found = []
    for line in filter(None, text.split("\n")):  # a mount point may hold other line ends
        of_mount, _, of_system = line.partition(" - ")
        _, _, device, _, point, options, *_ = of_mount.split(" ")
        kind, *_, system_options = of_system.split(" ")
        read_only = "ro" in options.split(",") + system_options.split(",")
        found.append(Mount(Path(_unescaped(point)), device, kind, read_only))
    return found


def _unescaped(text: str) -> str:
    r"""Replace each octal escape, such as ``\040``, with its character."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), text)


def mount_of(path: Path, all_mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that holds a path without symbolic links; None if none is known.

    Of several mounts at one point, the last one hides the others.
    """
    above = [mount for mount in all_mounts if path.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(mount.point.parts), default=None)


def is_secrets_mount(mount: Mount) -> bool:
    """Tell if a container platform provides secrets on a mount.

    It does if the mount begins in a folder for secrets, or if it is in memory and read-only, as the
    secret volumes of Kubernetes are. A folder of the whole machine is no secrets mount.
    """
    if is_in_secrets_folder(mount):
        return True
    in_memory = mount.kind in ("tmpfs", "ramfs")
    return in_memory and mount.read_only and mount.point not in SHARED_FOLDERS


def is_in_secrets_folder(mount: Mount) -> bool:
    """Tell if a mount begins in a folder for secrets. There the owner of a file means nothing:
    Docker Compose mounts a file of the host with the host's user id."""
    return any(mount.point.is_relative_to(folder) for folder in SECRETS_FOLDERS)


# ---------- looking


def secret_file_problems(path: Path, descriptor: int) -> list[str]:
    """Return why other users may know or replace the content of an open file; empty if they cannot.

    The file must belong to this user or root, who alone may have rights to it. On a secrets mount,
    others may have the right to read it, and in a folder for secrets any user may own it.
    ``folder_problems`` checks its folder.

    Args:
        path: the path at which it was opened.
        descriptor: the open file. Its status is that of the content, even if the path changes.
    """
    return _problems(path, descriptor, others_may_read=False)


def public_file_problems(path: Path, descriptor: int) -> list[str]:
    """Return why other users may replace the content of an open file that holds no secret; empty if
    they cannot. It is like ``secret_file_problems``, except that others may read the file."""
    return _problems(path, descriptor, others_may_read=True)


def _problems(path: Path, descriptor: int, *, others_may_read: bool) -> list[str]:
    found, real = os.fstat(descriptor), _real_path(path, descriptor)
    mount = mount_of(real, mounts())
    provided = _in_credentials_directory(real) or (mount is not None and is_secrets_mount(mount))
    forbidden = 0o022 if provided or others_may_read else 0o077
    owners = (*_trusted_owners(), *_owners_on(mount, found))
    problem = file_problem(path, found, owners=owners, forbidden=forbidden)
    return [problem] if problem else folder_problems(path)


def read_bounded(file: BinaryIO, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of an open file of settings or secrets, which may be a pipe.

    Raises:
        OSError: it can't be read, or holds more than ``max_bytes``.
    """
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes // 1024} KiB")
    return content


def _owners_on(mount: Mount | None, found: os.stat_result) -> tuple[int, ...]:
    """Return the owner of a file or folder if the platform that mounts it decides on the owner."""
    return (found.st_uid,) if mount is not None and is_in_secrets_folder(mount) else ()


def _real_path(path: Path, descriptor: int) -> Path:
    """Return the path of an open file without symbolic links."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # not on Linux
        return path.resolve()


def _in_credentials_directory(real: Path) -> bool:
    """Tell if a path is in systemd's credentials directory, which other users cannot enter."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(
        folder and real.is_relative_to(Path(folder).resolve()) and _keeps_others_out(Path(folder))
    )


def _keeps_others_out(folder: Path) -> bool:
    """Tell if only the owner and the group have rights to a folder, as systemd makes it."""
    return folder.stat().st_mode & 0o007 == 0


def folder_problems(path: Path) -> list[str]:
    """Return why other users may replace a file; empty if they cannot.

    The folder must belong to this user or root, and no other user may have the right to write to
    it. If the path is a symbolic link, this holds for the folder of each link too. On a mount in a
    folder for secrets, any user may own it. A folder on a secrets mount that is read-only is safe:
    Kubernetes gives the mode 1777 to its volumes.
    """
    all_mounts = mounts()
    found = []
    for folder in dict.fromkeys(_folders(path)):
        mount = mount_of(folder.resolve(), all_mounts)
        if mount is not None and mount.read_only and is_secrets_mount(mount):
            continue
        status = folder.stat()
        owners = (*_trusted_owners(), *_owners_on(mount, status))
        found.append(folder_problem(folder, status, owners=owners))
    return list(filter(None, found))


def _folders(path: Path) -> Iterator[Path]:
    """Yield the folder of a path and, while the path is a symbolic link, that of its target."""
    path = path.absolute()
    yield path.parent
    for _ in range(MAX_LINKS):
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
        yield path.parent


def mounts() -> list[Mount]:
    """Return the mounts that this process sees; empty if the system does not tell."""
    return parse_mounts(os.fsdecode(MOUNTS.read_bytes())) if MOUNTS.exists() else []
