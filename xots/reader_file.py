"""The file of readers: its format, and how it is read.

One reader a line: its name, its scopes, the accounts that it is limited to or ``*``, and the
SHA-256 of its key. Lines that begin with ``#`` are comments::

    # name  scopes         accounts    digest of the key
    report  token          firm,smith  sha256:0f3a…
    owner   admin          *           sha256:77b0…

The file holds no key, so that other users may read it. They must not write to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .access import Reader, Scope
from .backends.records import is_account
from .errors import SettingsError
from .file_access import public_file_problems, read_bounded

__all__ = ["EVERY_ACCOUNT", "MAX_READERS_BYTES", "NAME", "parsed", "read_readers"]

NAME = re.compile("[A-Za-z0-9._-]{1,64}")
"""The name of a reader. It has no colon, which ends the user of HTTP Basic."""

EVERY_ACCOUNT = "*"

DIGEST = re.compile("sha256:([0-9a-f]{64})")

MAX_READERS_BYTES = 1 << 20
"""Upper bound on the file: thousands of readers."""


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


def read_readers(path: Path, place: str = "readers") -> dict[str, Reader]:
    """Return the readers of a file, by digest.

    Args:
        path: the file.
        place: where the path was set. A message names it.

    Raises:
        SettingsError: it can't be read, other users may replace it, or a line is malformed.
    """
    try:
        with path.open("rb") as file:
            problems = public_file_problems(path, file.fileno())
            content = b"" if problems else read_bounded(file, MAX_READERS_BYTES)
        readers = parsed(content.decode())
    except FileNotFoundError:
        # The path may be a misplaced key: it is not repeated.
        problem = "no such file: make it with xots reader add NAME --readers FILE"
        raise SettingsError([f"{place}: {problem}"]) from None
    except OSError as error:
        raise SettingsError([f"{place}: the file can't be read: {error.strerror}"]) from None
    except ValueError as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise SettingsError([f"{place}: {path}: {reason}"]) from None
    if problems:
        raise SettingsError([f"{place}: the file is not safe: {'; '.join(problems)}"])
    return readers
