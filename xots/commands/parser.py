"""``Parser``: argparse without the values of arguments in its messages.

A user may put a secret in the wrong place: ``--client-sercet=…``, or a token for a command. Its
message ends in a terminal, a journal or a ticket, so it names the option and never the value.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from ..settings.yaml_file import near_name

__all__ = ["Parser"]

ABOUT_ARGUMENT = re.compile(r"(argument [^:]+): (.*)", re.DOTALL)

OPTION = re.compile("--?[a-z]+(-[a-z]+)*")
"""A word that looks like the name of an option. No digits: a token has some."""

MAX_OPTION = 40
"""Upper bound on the characters of an unknown option that is named."""

QUOTES_NO_VALUE = ("expected ", "must ")
"""The beginnings of problems that are shown as they are. Our own ones begin with ``must``."""

DEFAULT_COLUMNS = 80
"""The width of a terminal that does not tell its own."""

PROBLEMS = {
    "invalid choice": "must be one of those that -h lists",
    "ignored explicit argument": "takes no value",
}


class Parser(argparse.ArgumentParser):
    """Parses a command's arguments. A wrong one ends the process with status 2.

    The arguments are those of argparse."""

    def __init__(self, *, formatter_class: Any = argparse.HelpFormatter, **others: Any) -> None:
        super().__init__(formatter_class=partial(formatter_class, width=_help_width()), **others)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments, as argparse does."""
        options, others = self.parse_known_args(args, namespace)
        if others:
            self.error(self.unexpected(others))
        return options

    def unexpected(self, others: Sequence[str]) -> str:
        """Return a sentence about arguments that the command does not have."""
        for other in others:
            name = other.partition("=")[0]
            if name.startswith("-") and OPTION.fullmatch(name) and len(name) <= MAX_OPTION:
                known = re.findall(r"--[a-z-]+", self.format_help())
                return f"{self.prog} has no option {name}{near_name(name, known)}"
        return f"{self.prog} has no such argument: its options are listed by -h"

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message without any value, and exit with status 2."""
        if found := ABOUT_ARGUMENT.fullmatch(message):
            argument, problem = found.groups()
            message = f"{argument}: {_without_value(problem)}"
        super().error(message)


def _help_width() -> int:
    """Return the width of the help as argparse does: two columns less than ``COLUMNS`` or the
    terminal. For that, argparse imports shutil with its libraries, at each start."""
    columns = 0
    with suppress(KeyError, ValueError):
        columns = max(0, int(os.environ["COLUMNS"]))
    if not columns:
        with suppress(OSError):  # stdout is no terminal
            columns = os.get_terminal_size().columns
    return (columns or DEFAULT_COLUMNS) - 2


def _without_value(problem: str) -> str:
    if problem.startswith(QUOTES_NO_VALUE):
        return problem
    words = (words for beginning, words in PROBLEMS.items() if problem.startswith(beginning))
    return next(words, "this value is not valid, see -h")
