"""``xots reader``: list, add and remove the readers, who have a key of their own each."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .. import reader_file
from ..access import Reader, Scope, digest_of
from ..errors import SettingsError, XotsError
from ..file_writing import write_file
from ..safe_text import MAX_MESSAGE, safe_text
from ..settings import parsing
from .actions import Action, add_actions
from .options import UsageError, add_one, as_usage, read_one
from .process import columns, show

__all__ = ["add_reader_options"]

SCOPES = tuple(scope.value for scope in Scope)

COLUMNS = ("name", "scopes", "accounts")


def add_reader_options(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions with their options."""
    add_actions(parser, ACTIONS, lambda own: add_one(own, "readers"))


def _file(options: argparse.Namespace) -> tuple[Path, str]:
    """Return the path of the file of readers, and the place where it was set.

    Raises:
        SettingsError: none is set.
    """
    settings = read_one(options, "readers")
    place = settings.sources.get("readers", "readers")
    if isinstance(settings.readers, Path):
        return settings.readers, place
    problem = "is not set" if settings.readers is None else "names no file, but anyone"
    raise SettingsError(
        [
            f"{place}: the file of readers {problem}: name one with --readers FILE, and set "
            "readers to it for the server (XOTS_READERS, or readers: FILE in its YAML file)"
        ]
    )


# ---------- list


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the readers as JSON")


def _list(options: argparse.Namespace) -> int:
    path, place = _file(options)
    try:
        found = list(reader_file.read_readers(path, place).values())
    except reader_file.NoReaderFile:
        found = []
    if options.json:
        print(json.dumps(list(map(_summary, found))))
    elif found:
        for line in columns([COLUMNS, *map(_row, found)]):
            show(line)
    else:
        show("there are no readers: xots reader add NAME makes one")
    return 0


def _summary(reader: Reader) -> dict[str, str | list[str] | None]:
    accounts = None if reader.accounts is None else sorted(reader.accounts)
    return {"name": reader.name, "scopes": sorted(reader.scopes), "accounts": accounts}


def _row(reader: Reader) -> tuple[str, ...]:
    accounts = "all" if reader.accounts is None else ",".join(sorted(reader.accounts))
    return reader.name, ",".join(sorted(reader.scopes)), accounts


# ---------- add


def _declare_add(parser: argparse.ArgumentParser) -> None:
    _declare_name(parser)
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        dest="own_scopes",
        help="what its key permits: access tokens (token), the state without secrets (metrics), "
        "everything (admin); may be repeated (default: token)",
    )
    parser.add_argument(
        "--account",
        action="append",
        dest="own_accounts",
        metavar="NAME",
        help="limit its key to this account; may be repeated (default: no limit)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the key to a new file of mode 0600 instead of printing it",
    )


def _add(options: argparse.Namespace) -> int:
    name = _name(options)
    with as_usage("--account"):
        accounts = frozenset(map(parsing.account_name, options.own_accounts or ()))
    path, place = _file(options)
    output: Path | None = options.output
    if output is None and sys.stdout is None:
        raise UsageError("stdout is closed, and the key is printed there alone")
    key = reader_file.new_key()
    new = Reader(
        name=name,
        scopes=frozenset(map(Scope, options.own_scopes or [Scope.TOKEN])),
        accounts=accounts or None,
        digest=digest_of(key),
    )
    reader_file.add_reader(path, new, place)
    try:
        _hand_over(key, output)
    except OSError as error:
        reader_file.remove_reader(path, name, place)
        if isinstance(error, BrokenPipeError):
            raise
        way = "printed" if output is None else f"written to {output}"
        raise XotsError(
            f"the key can't be {way}: {error.strerror}. The reader was removed again"
        ) from None
    kept = "shown only now: keep it in a file of mode 0600" if output is None else f"in {output}"
    hint = (
        f"xots: added {name} to {path}. Its key is {kept}. "
        "The commands of xots send the key if reader_key_file names that file; other programs send "
        "the header Authorization: Bearer KEY. A running server with this file as its readers "
        "accepts the key from its next request on"
    )
    print(safe_text(hint, MAX_MESSAGE), file=sys.stderr)
    return 0


def _hand_over(key: str, output: Path | None) -> None:
    """Print the key, or write it to a new file.

    Raises:
        OSError: it can't be printed or written, or there is such a file.
    """
    if output is None:
        print(key, flush=True)
    else:
        write_file(output, f"{key}\n".encode(), new=True)


# ---------- remove


def _declare_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name of the reader: up to 64 letters, digits, hyphens, dots and underscores",
    )


def _name(options: argparse.Namespace) -> str:
    name: str = options.name
    if reader_file.NAME.fullmatch(name):
        return name
    raise UsageError(
        "NAME: the value is not a reader's name: use up to 64 letters, digits, hyphens, dots and "
        f"underscores, and do not begin with {reader_file.KEY_PREFIX}, as keys do"
    )


def _remove(options: argparse.Namespace) -> int:
    name = _name(options)
    path, place = _file(options)
    reader_file.remove_reader(path, name, place)
    show(f"removed {name} from {path}: a running server refuses its key from its next request on")
    return 0


ACTIONS = (
    Action(
        name="list",
        help="list the readers with their scopes and accounts",
        run=_list,
        add_options=_declare_list,
    ),
    Action(
        name="add",
        help="make a key, print it or write it to a file, and add its reader",
        run=_add,
        add_options=_declare_add,
    ),
    Action(
        name="remove",
        help="remove a reader, whose key is refused from then on",
        run=_remove,
        add_options=_declare_name,
    ),
)
