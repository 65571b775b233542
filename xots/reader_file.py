"""The file of readers: its format, and how it is read and changed.

One reader a line: its name, its scopes, the accounts that it is limited to or ``*``, and the
SHA-256 of its key. Lines that begin with ``#`` are comments::

    # name  scopes         accounts    digest of the key
    report  token          firm,smith  sha256:0f3a…
    owner   admin          *           sha256:77b0…

The file holds no key, so that other users may read it. They must not write to it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .access import Reader, Scope
from .backends.records import is_account
from .errors import SettingsError
from .file_access import folder_problems, public_file_problems, read_bounded
from .file_writing import locked, make_folder, write_file

__all__ = [
    "EVERY_ACCOUNT",
    "KEY_PREFIX",
    "MAX_READERS_BYTES",
    "NAME",
    "NoReaderFile",
    "add_reader",
    "new_key",
    "parsed",
    "read_readers",
    "remove_reader",
]

KEY_PREFIX = "xots_"
"""The begin of each key, by which people and scanners recognise one."""

NAME = re.compile(f"(?!{KEY_PREFIX})[A-Za-z0-9._-]{{1,64}}")
"""The name of a reader. It has no colon, which ends the user of HTTP Basic, and is no key."""

EVERY_ACCOUNT = "*"

DIGEST = re.compile("sha256:([0-9a-f]{64})")

MAX_READERS_BYTES = 1 << 20
"""Upper bound on the file: thousands of readers."""

HEADER = "# Readers: name, scopes, accounts (* for all), digest of the key. See xots reader -h\n"
"""The first line of a new file."""


class NoReaderFile(SettingsError):
    """There is no file of readers at the path."""


def parsed(text: str) -> dict[str, Reader]:
    """Return the readers in the text of a file, by digest.

    Raises:
        ValueError: with the number of a malformed line. The message does not quote it.
    """
    readers: dict[str, Reader] = {}
    names: set[str] = set()
    for number, reader in _lines(text):
        if reader.name in names or reader.digest in readers:
            raise ValueError(f"line {number}: this reader or its key stands in a line above")
        names.add(reader.name)
        readers[reader.digest] = reader
    return readers


def _lines(text: str) -> Iterator[tuple[int, Reader]]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            yield number, _reader(*words)
        except (ValueError, TypeError):
            raise ValueError(
                f"line {number}: this is no reader: write name, scopes, accounts and digest"
            ) from None


def _reader(name: str, scopes: str, accounts: str, digest: str) -> Reader:
    found = DIGEST.fullmatch(digest)
    limit = None if accounts == EVERY_ACCOUNT else frozenset(accounts.split(","))
    if found is None or not NAME.fullmatch(name) or not all(map(is_account, limit or ())):
        raise ValueError
    return Reader(
        name=name,
        scopes=frozenset(map(Scope, scopes.split(","))),
        accounts=limit,
        digest=found[1],
    )


def _line(reader: Reader) -> str:
    accounts = EVERY_ACCOUNT if reader.accounts is None else ",".join(sorted(reader.accounts))
    return f"{reader.name} {','.join(sorted(reader.scopes))} {accounts} sha256:{reader.digest}\n"


# ---------- reading


def read_readers(path: Path, place: str = "readers") -> dict[str, Reader]:
    """Return the readers of a file, by digest.

    Args:
        path: the file.
        place: where the path was set. A message names it.

    Raises:
        NoReaderFile: there is no such file.
        SettingsError: it can't be read, other users may replace it, or a line is malformed.
    """
    return _read(path, place).readers


class _Found(NamedTuple):
    """A file of readers, as it is now."""

    text: str
    readers: dict[str, Reader]
    status: os.stat_result | None
    """None if there is no file."""


def _read(path: Path, place: str) -> _Found:
    """Read a file of readers; raises as ``read_readers``."""
    try:
        with path.open("rb") as file:
            status, problems = os.fstat(file.fileno()), public_file_problems(path, file.fileno())
            content = b"" if problems else read_bounded(file, MAX_READERS_BYTES)
        text = content.decode()
        readers = parsed(text)
    except FileNotFoundError:
        raise _missing(place) from None
    except OSError as error:
        raise SettingsError([f"{place}: the file can't be read: {error.strerror}"]) from None
    except ValueError as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise SettingsError([f"{place}: {path}: {reason}"]) from None
    if problems:
        raise _unsafe(place, problems)
    return _Found(text, readers, status)


def _unsafe(place: str, problems: list[str]) -> SettingsError:
    return SettingsError([f"{place}: the file is not safe: {'; '.join(problems)}"])


def _missing(place: str) -> NoReaderFile:
    # The path may be a misplaced key: it is not repeated.
    return NoReaderFile(
        [f"{place}: no such file: make it with xots reader add NAME --readers FILE"]
    )


# ---------- changing


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def add_reader(path: Path, reader: Reader, place: str = "readers") -> None:
    """Add a line to a file of readers. A missing file is made, with mode 0600.

    Args:
        path: the file. A symbolic link stays, and the file that it names is changed.
        reader: the reader.
        place: where the path was set. A message names it.

    Raises:
        SettingsError: the file can't be read or changed, other users may replace it, a line is
            malformed, or a reader has this name.
    """

    def added(found: _Found) -> str:
        if any(known.name == reader.name for known in found.readers.values()):
            raise SettingsError(
                [
                    f"{place}: a reader has this name already: choose another name, or remove that "
                    "one first. To change its key without a gap, add a second name, give its key "
                    "to your programs, and remove the first one"
                ]
            )
        is_ended = found.text.endswith("\n") or not found.text
        return found.text + ("" if is_ended else "\n") + _line(reader)

    _change(path, place, added, make=True)


def remove_reader(path: Path, name: str, place: str = "readers") -> None:
    """Remove the line of a reader.

    Args:
        path: the file, as for ``add_reader``.
        name: the name of the reader.
        place: where the path was set. A message names it.

    Raises:
        NoReaderFile: there is no such file.
        SettingsError: as for ``add_reader``, or no reader has this name.
    """

    def removed(found: _Found) -> str:
        lines = found.text.splitlines(keepends=True)
        kept = [line for line in lines if line.split()[:1] != [name]]
        if len(kept) == len(lines):
            raise SettingsError([f"{place}: no reader has this name: see xots reader list"])
        return "".join(kept)

    _change(path, place, removed, make=False)


def _change(path: Path, place: str, change: Callable[[_Found], str], *, make: bool) -> None:
    """Change a file of readers, completely or not at all. Of two changes at once, one waits.

    Args:
        path: the file.
        place: where the path was set.
        change: returns the new text.
        make: make a missing file and its folder.

    Raises:
        NoReaderFile: there is no file, and none is made.
        SettingsError: as for ``add_reader``.
    """
    try:
        real = Path(os.path.realpath(path))
        if make:
            make_folder(real.parent)
        if problems := folder_problems(path):
            raise _unsafe(place, problems)
        with locked(real):
            found = _found_or_new(path, place) if make else _read(path, place)
            content = change(found).encode()
            if len(content) > MAX_READERS_BYTES:
                raise SettingsError([f"{place}: the file is full: remove some readers first"])
            write_file(real, content, like=found.status, new=found.status is None)
    except FileNotFoundError:
        raise _missing(place) from None
    except OSError as error:
        raise SettingsError([f"{place}: the file can't be changed: {error.strerror}"]) from None
    except ValueError:  # a null character
        raise SettingsError([f"{place}: this is not the path of a file"]) from None


def _found_or_new(path: Path, place: str) -> _Found:
    """Return the file, or the begin of a new one.

    Raises:
        SettingsError: as for ``add_reader``.
    """
    try:
        found = _read(path, place)
    except NoReaderFile:
        return _Found(HEADER, {}, None)
    return found
