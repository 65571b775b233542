"""The parts that all sources of settings share: texts, the values of texts, and files.

A problem is added to a list, so that ``sources.load`` reports all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..file_access import MAX_BYTES, public_file_problems, read_bounded, secret_file_problems
from ..secret import Secret
from . import parsing
from .fields import declared

__all__ = [
    "SETTINGS",
    "File",
    "Given",
    "check_tls_files",
    "collecting",
    "is_secret",
    "read_client_secret",
    "read_text",
    "secret_in_file",
    "set_twice",
    "values_of",
]

SETTINGS = {setting.name: setting for setting in declared()}


@dataclass(frozen=True)
class Given:
    """The text that a source gives for a setting."""

    text: str = field(repr=False)
    place: str
    """The source and its key, as messages name them."""


def values_of(given: Mapping[str, Given], problems: list[str]) -> dict[str, Any]:
    """Return the value of each setting whose text has one."""
    values = {}
    for name, found in given.items():
        with collecting(problems, f"{found.place}: "):
            values[name] = SETTINGS[name].parse(found.text)
    return values


@contextmanager
def collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Add a ValueError of the block to the problems, and go on after the block."""
    try:
        yield
    except ValueError as error:
        problems.append(f"{prefix}{error}")


def read_client_secret(
    values: dict[str, Any], places: dict[str, str], problems: list[str], warnings: list[str]
) -> None:
    """Set ``client_secret`` from ``client_secret_file``, unless a source gives it itself."""
    path = values.get("client_secret_file")
    if path is None or "client_secret" in places:
        return
    place = places["client_secret"] = places["client_secret_file"]
    with collecting(problems, f"{place}: "):
        values["client_secret"], found = secret_in_file(path)
        warnings += (f"{place}: {danger}" for danger in found)


def secret_in_file(path: Path) -> tuple[Secret, list[str]]:
    """Return the client secret that a file holds, and why other users may know or replace it.

    Raises:
        ValueError: with the file and the problem. The message does not quote its content.
    """
    file = read_text(path)
    try:
        return parsing.secret(file.text.strip()), file.dangers(secret=True)
    except ValueError:
        raise ValueError(
            f"{path} does not hold a client secret: one line of printable text"
        ) from None


DANGERS = {
    "ca_file": public_file_problems,
    "tls_certificate": public_file_problems,
    "tls_key": secret_file_problems,
}
"""For each setting that names a file of TLS, the dangers of that file."""


def check_tls_files(
    values: Mapping[str, Any], places: Mapping[str, str], problems: list[str], warnings: list[str]
) -> None:
    """Warn if other users can replace the authorities that xots trusts, or the server's
    certificate, or can read its key."""
    for name, dangers_of in DANGERS.items():
        if name not in values:
            continue
        path, place = values[name], places[name]
        try:
            with path.open("rb") as file:
                dangers = dangers_of(path, file.fileno())
        except OSError as error:
            problems.append(f"{place}: the file that it names can't be read: {error.strerror}")
        else:
            warnings += (f"{place}: {danger}" for danger in dangers)


ALTERNATIVES = (("client_secret_file", "client_secret"), ("key_file", "key"))
"""Of each pair, only one setting may be set."""


def set_twice(places: Mapping[str, str]) -> Iterator[str]:
    for one, other in ALTERNATIVES:
        if {one, other} <= places.keys():
            yield f"{places[one]}: {other} is set too ({places[other]}): remove one of them"


# ---------- secrets and files


def is_secret(name: str, text: str) -> bool:
    """Tell if the text of a setting is a secret or holds one."""
    return SETTINGS[name].secret or parsing.holds_password(text)


@dataclass(frozen=True)
class File:
    """The text of a file, and what other users may do with it."""

    text: str = field(repr=False)
    secret_dangers: list[str]
    """Why other users may know or replace the text."""
    public_dangers: list[str]
    """Why other users may replace it."""

    def dangers(self, *, secret: bool) -> list[str]:
        """Return the dangers for a text that is secret or not. Another user who can replace it can
        change any setting: a proxy, for example, would receive all requests."""
        return self.secret_dangers if secret else self.public_dangers


def read_text(path: Path, unnamed: str = "the file", max_bytes: int = MAX_BYTES) -> File:
    """Return the text of a file, with its dangers.

    Args:
        path: the file.
        unnamed: the words for a file that does not exist. Its path may be a misplaced secret.
        max_bytes: upper bound on the file.

    Raises:
        ValueError: with the file and the reason. The message does not quote its content.
    """
    try:
        with path.open("rb") as file:
            secret_dangers = secret_file_problems(path, file.fileno())
            public_dangers = public_file_problems(path, file.fileno())
            return File(read_bounded(file, max_bytes).decode(), secret_dangers, public_dangers)
    except OSError as error:
        shown = path if _exists(path) else unnamed
        raise ValueError(f"{shown} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except ValueError:  # a null character in the path
        raise ValueError(f"{unnamed} can't be read: its path is malformed") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
