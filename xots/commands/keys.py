"""``xots key``: make, add and promote sealing keys.

Each function imports the modules of the keys itself, so that the other commands start without
cryptography.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from ..errors import SettingsError
from ..settings import Settings
from .options import add_settings, read_settings
from .process import show

__all__ = ["add_key_options", "key"]


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions, each with every setting as an option."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    for name, action, text in ACTIONS:
        own = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        add_settings(own)
        own.set_defaults(action=action)


def key(options: argparse.Namespace) -> int:
    """Carry out the action that the command line names."""
    action: Callable[[Settings], None] = options.action
    action(read_settings(options))
    return 0


def _new(settings: Settings) -> None:
    from ..sealing import new_key

    print(new_key().reveal())


def _add(settings: Settings) -> None:
    from ..keys import add_key

    if settings.key:
        where = settings.sources["key"]
        raise SettingsError(
            [f"{where}: keys are set here, so xots reads no key file. No key was added"]
        )
    path, place = _key_file(settings)
    add_key(path, place)
    show(
        f"added a key to {path}; it opens records from now on. Once every process has this file, "
        "run: xots key promote"
    )


def _promote(settings: Settings) -> None:
    from ..keys import promote_key
    from ..wiring import reseal

    def promote() -> None:
        if settings.key:
            return  # the operator has put the new key before the others
        path, place = _key_file(settings)
        if not promote_key(path, place):
            show(
                f"no key in {path} waits to be promoted; checking that all records are sealed with "
                "the first key"
            )

    done, count = asyncio.run(reseal(settings, promote))
    print(f"{done} of {count} records were sealed anew; all are sealed with the first key now")


def _key_file(settings: Settings) -> tuple[Path, str]:
    """Return the path of the key file, and the place where it was set."""
    from ..keys import default_key_file

    path = settings.key_file or default_key_file()
    return path, settings.sources.get("key_file", str(path))


ACTIONS: tuple[tuple[str, Callable[[Settings], None], str], ...] = (
    ("new", _new, "print a new sealing key, for a key file"),
    (
        "add",
        _add,
        "add a new key to the key file: it opens records, but does not seal them until it is "
        "promoted, so that every process can get the file first",
    ),
    (
        "promote",
        _promote,
        "let the added key seal, and seal every record anew with it; can be run again",
    ),
)
"""The name, the function and the help of each action."""
