"""Key files: their format, and how they are read and written.

A key file holds one sealing key a line. The first one seals, and all of them open. Lines that begin
with ``#`` are comments. The key below the line ``WAITING`` was added and is not promoted yet: it
only opens, so that every process can learn of it before it seals a record.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from .errors import SealError
from .file_access import folder_problems, read_bounded, secret_file_problems
from .file_writing import make_folder, write_file
from .secret import Secret

__all__ = ["KeyRing", "read_key_file", "write_key_file"]

HEADER = "# Sealing keys of xots, one a line: the first seals, all of them open."
WAITING = "# The next one opens only, until it is promoted (xots key promote):"


class KeyRing(msgspec.Struct, frozen=True):
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


def read_key_file(path: Path, place: str = "key_file") -> KeyRing:
    """Return the keys of a key file, at least one.

    Args:
        path: the file.
        place: where the path was set. The messages name it instead of a path that cannot be opened,
            since that text may be a key.

    Raises:
        SealError: it can't be read, other users may know or replace it, it is larger than 64 KiB,
            or it holds no key.
    """
    try:
        with path.open("rb") as file:
            problems = secret_file_problems(path, file.fileno())
            content = b"" if problems else read_bounded(file)
    except FileNotFoundError:
        raise SealError(
            f"{place}: no such file: name a file of sealing keys; xots key new prints a key"
        ) from None
    except OSError as error:
        raise SealError(f"{place}: the key file can't be read: {error.strerror}") from None
    except ValueError:
        raise SealError(f"{place}: this is not the path of a file") from None
    if problems:
        raise SealError(f"{place}: the key file is not safe: {'; '.join(problems)}")
    if not content.isascii():
        raise SealError(f"{place}: the key file {path} can't be read: it is not ASCII text")
    ring = parsed(content.decode("ascii"))
    if not ring.keys:
        raise SealError(f"{place}: the key file {path} holds no key: xots key new prints one")
    return ring


def write_key_file(path: Path, ring: KeyRing, *, new: bool = False) -> None:
    """Write a key file of mode 0600, completely or not at all.

    Args:
        path: the file. A symbolic link stays, and the file that it names is written. A missing
            folder is created.
        ring: the keys.
        new: refuse to replace a file.

    Raises:
        SealError: it can't be written, belongs to another user, is in a folder that others can
            write to, or exists although ``new`` is set.
    """
    real = path.resolve()
    try:
        make_folder(real.parent)
        problems = folder_problems(path)
        if problems:
            raise SealError(f"the key file can't be written safely: {'; '.join(problems)}")
        _check_owner(real)
        write_file(real, formatted(ring).encode(), new=new)
    except OSError as error:
        raise SealError(f"the key file {real} can't be written: {error.strerror}") from None


def _check_owner(path: Path) -> None:
    """A rename would give the file to this user, and the owner could no longer read it."""
    if path.exists() and path.stat().st_uid != os.geteuid():
        owner = path.stat().st_uid
        raise SealError(f"the key file {path} belongs to user {owner}: change it as that user")
