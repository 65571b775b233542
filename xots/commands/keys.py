"""``xots key``: make, add and promote sealing keys.

Each function imports the modules of the keys itself, so that the other commands start without
cryptography.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from ..errors import SettingsError, XotsError
from ..safe_text import MAX_MESSAGE, safe_text
from ..settings import Settings
from ..wording import counted
from .actions import Action, add_actions
from .options import add_settings, read_settings
from .process import show

__all__ = ["add_key_options"]


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions, each with every setting as an option."""
    add_actions(parser, ACTIONS, add_settings)


def _new(options: argparse.Namespace) -> int:
    from ..sealing import new_key

    read_settings(options)  # a wrong one is a problem for each action
    print(new_key().reveal())
    return 0


def _add(options: argparse.Namespace) -> int:
    from ..keys import add_key

    settings = read_settings(options)
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
    return 0


def _promote(options: argparse.Namespace) -> int:
    from ..keys import promote_key
    from ..wiring import reseal

    settings = read_settings(options)

    def promote() -> None:
        if settings.key:
            return  # the operator has put the new key before the others
        path, place = _key_file(settings)
        if not promote_key(path, place):
            show(
                f"no key in {path} waits to be promoted; checking that all records are sealed with "
                "the first key"
            )

    sealed = asyncio.run(reseal(settings, promote))
    for name in sealed.foreign:
        show(f"{safe_text(name)} is no name of an account: the record stays as it is")
    counts = f"{sealed.done} of {sealed.count} records were sealed anew"
    if not sealed.failures:
        print(f"{counts}; all are sealed with the first key now")
        return 0
    for failure in sealed.failures:
        print(f"xots: {safe_text(failure, MAX_MESSAGE)}", file=sys.stderr)
    raise XotsError(
        f"{counts}; {counted(len(sealed.failures), 'record')} could not be, for the reasons above. "
        "Keep the other keys, correct this, and run xots key promote again"
    )


def _key_file(settings: Settings) -> tuple[Path, str]:
    """Return the path of the key file, and the place where it was set."""
    from ..keys import default_key_file

    path = settings.key_file or default_key_file()
    return path, settings.sources.get("key_file", str(path))


ACTIONS = (
    Action(name="new", help="print a new sealing key, for a key file", run=_new),
    Action(
        name="add",
        help="add a new key to the key file: it opens records, but does not seal them until it is "
        "promoted, so that every process can get the file first",
        run=_add,
    ),
    Action(
        name="promote",
        help="let the added key seal, and seal every record anew with it; can be run again",
        run=_promote,
    ),
)
