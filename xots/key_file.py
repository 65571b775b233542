"""Key files: their format, and how they are read and written.

A key file holds one sealing key a line. The first one seals, and all of them open. Lines that begin
with ``#`` are comments. The key below the line ``WAITING`` was added and is not promoted yet: it
only opens, so that every process can learn of it before it seals a record.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from .errors import SealError
from .secret import Secret

__all__ = ["KeyRing", "read_key_file", "write_key_file"]

HEADER = "# Sealing keys of xots, one a line: the first seals, all of them open."
WAITING = "# The next one opens only, until it is promoted (xots key promote):"


@dataclass(frozen=True)
class KeyRing:
    """The keys of a key file."""

    promoted: tuple[Secret, ...]
    """The first one seals."""
    waiting: Secret | None = None
    """The key that was added and is not promoted yet."""

    @property
    def keys(self) -> tuple[Secret, ...]:
        """All keys, the one that seals first."""
        return self.promoted if self.waiting is None else (*self.promoted, self.waiting)


def parsed(text: str) -> KeyRing:
    """Return the keys in the text of a key file."""
    above, _, below = text.partition(WAITING)
    promoted, added = _keys_in(above), _keys_in(below)
    return KeyRing(promoted + added[1:], added[0] if added else None)


def _keys_in(text: str) -> tuple[Secret, ...]:
    lines = map(str.strip, text.splitlines())
    return tuple(Secret(line) for line in lines if line and not line.startswith("#"))


def formatted(ring: KeyRing) -> str:
    """Return the text of a key file with these keys."""
    lines = [HEADER, *map(Secret.reveal, ring.promoted)]
    if ring.waiting is not None:
        lines += [WAITING, ring.waiting.reveal()]
    return "\n".join([*lines, ""])


def read_key_file(path: Path) -> KeyRing:
    """Return the keys of a key file, at least one.

    Raises:
        SealError: it can't be read, other users can read it, or it holds no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            ring = parsed(file.read())
    except OSError as error:
        raise SealError(f"{_named(path)} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SealError(f"the key file {path} can't be read: it is not ASCII text") from None
    if mode & 0o077 and not _is_credential(path):
        raise SealError(
            f"the key file {path} is open to other users (mode {mode:04o}): chmod 600 {path}"
        )
    if not ring.keys:
        raise SealError(f"the key file {path} holds no key: xots key new prints one")
    return ring


def _named(path: Path) -> str:
    """Return the words for a key file. The path of one that does not exist may be a misplaced
    key."""
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    return f"the key file {path}" if exists else "the key file (setting key_file)"


def _is_credential(path: Path) -> bool:
    """Tell if systemd passed the file. Then its folder protects it, and the service's group may be
    able to read it."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.resolve().is_relative_to(Path(folder).resolve())


def write_key_file(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """Write a key file of mode 0600, completely or not at all.

    Args:
        path: the file. A symbolic link stays, and the file that it names is written.
        ring: the keys.
        new: refuse to replace a file.

    Raises:
        SealError: it can't be written, belongs to another user, or exists although ``new`` is set.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path)
        _write(path, formatted(ring), new=new)
    except OSError as error:
        raise SealError(f"the key file {path} can't be written: {error.strerror}") from None


def _check_owner(path: Path) -> None:
    """A rename would give the file to this user, and the owner could no longer read it."""
    if path.exists() and path.stat().st_uid != os.geteuid():
        owner = path.stat().st_uid
        raise SealError(f"the key file {path} belongs to user {owner}: change it as that user")


def _write(path: Path, text: str, *, new: bool) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(draft, path)  # fails if the file exists, unlike a rename
        else:
            draft.rename(path)
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
