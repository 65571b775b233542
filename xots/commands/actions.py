"""Commands whose second word is an action, such as ``xots key add``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import msgspec

__all__ = ["Action", "add_actions", "run_action"]


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Declare nothing."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One action of a command.

    Args:
        name: the second word on the command line.
        help: its effect, in words that begin with a verb in lower case.
        run: carries it out and returns the exit status.
        add_options: declares the options that it has alone.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None] = _no_options


def add_actions(
    parser: argparse.ArgumentParser,
    actions: Iterable[Action],
    add_common: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Declare the actions of a command: ``run_action`` carries one out.

    Args:
        parser: that of the command.
        actions: the actions, in the order of the help.
        add_common: declares the options that all of them have, after those of each one.
    """
    parsers = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    for action in actions:
        own = parsers.add_parser(
            action.name,
            help=action.help,
            description=f"{action.help[0].upper()}{action.help[1:]}.",
            allow_abbrev=False,
        )
        action.add_options(own)
        add_common(own)
        own.set_defaults(action=action)


def run_action(options: argparse.Namespace) -> int:
    """Carry out the action that the command line names, and return the exit status."""
    action: Action = options.action
    return action.run(options)
