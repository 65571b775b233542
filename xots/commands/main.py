"""``xots`` on the command line. Without a command, it serves.

Each error ends in one sentence on stderr and an exit status: 2 if the command line, a setting or a
key is wrong, which no retry corrects; 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..errors import SealError, SettingsError, XotsError
from ..safe_text import MAX_MESSAGE, safe_text
from ..settings.yaml_file import near_name
from .options import UsageError
from .parser import Parser
from .process import protect_process
from .table import COMMANDS, DEFAULT, Command, overview

__all__ = ["main"]

DESCRIPTION = "Xero OAuth Token Server: logs in to Xero once, then serves fresh access tokens."

WRONG_INPUT = (UsageError, SettingsError, SealError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: the command line without the program's name; None for that of this process.
    """
    protect_process()
    try:
        command, arguments = _command(sys.argv[1:] if argv is None else argv)
        status = command.run(_options(command, arguments))
        if sys.stdout is not None:  # a service may run with stdout closed
            sys.stdout.flush()
    except XotsError as error:
        problems = error.problems if isinstance(error, SettingsError) else [str(error)]
        for problem in problems:
            print(f"xots: {safe_text(problem, MAX_MESSAGE)}", file=sys.stderr)
        # systemd does not restart the server after status 2.
        return 2 if isinstance(error, WRONG_INPUT) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Otherwise the interpreter reports the closed pipe when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    else:
        return status


def _command(argv: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """Return the command that the first word names, and the arguments after it."""
    if not argv or argv[0].startswith("-"):
        return DEFAULT, argv
    if argv[0] in COMMANDS:
        return COMMANDS[argv[0]], argv[1:]
    raise UsageError(f"the first argument is no command{near_name(argv[0], COMMANDS)}; see xots -h")


def _options(command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command's arguments. A wrong one ends the process with status 2, as argparse does."""
    parser = _parser(command)
    command.add_options(parser)
    if not command.takes_program:
        all_known: argparse.Namespace = parser.parse_args(arguments)
        return all_known
    own, program = _split(arguments)
    options, others = parser.parse_known_args(own, argparse.Namespace(program=program))
    if others:
        raise UsageError(
            f"{parser.unexpected(others)}; a program is named after two hyphens: "
            f"xots {command.name} -- python3 report.py"
        )
    return options


def _parser(command: Command) -> Parser:
    if command is not DEFAULT:
        return Parser(
            prog=f"xots {command.name}", description=command.description, allow_abbrev=False
        )
    return Parser(
        prog="xots",
        description=DESCRIPTION,
        epilog=overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arguments before the first ``--``, and those after it."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]
