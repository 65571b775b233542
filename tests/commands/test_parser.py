"""``Parser``: argparse with fewer imports, and with messages that quote no value."""

from __future__ import annotations

import argparse
import os

import pytest

from xots.commands.parser import Parser

DESCRIPTION = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 10


@pytest.mark.parametrize("columns", [None, "", "0", "-20", "wide", "37", "120"])
@pytest.mark.parametrize("terminal", [None, 0, 55])
def test_the_help_is_as_wide_as_that_of_argparse(
    monkeypatch: pytest.MonkeyPatch, columns: str | None, terminal: int | None
) -> None:
    """``COLUMNS`` decides, then the terminal. Without both, the help has 78 columns."""

    def size(_: int = 1) -> os.terminal_size:
        if terminal is None:
            raise OSError("no terminal")
        return os.terminal_size((terminal, 20))

    monkeypatch.setattr(os, "get_terminal_size", size)
    monkeypatch.delenv("COLUMNS")
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    for style in (argparse.HelpFormatter, argparse.RawDescriptionHelpFormatter):
        parsers = [
            make(prog="x", description=DESCRIPTION, epilog=DESCRIPTION, formatter_class=style)
            for make in (Parser, argparse.ArgumentParser)
        ]
        own, plain = (parser.format_help() for parser in parsers)
        assert own == plain
