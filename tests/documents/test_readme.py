"""The README against the declarations: every setting, route and command stands there, as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xots.commands.table import COMMANDS
from xots.settings import declared, default_shown
from xots.web import api, pages

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

Row = list[str]
SETTINGS = {setting.name: setting for setting in declared()}
ROUTES = [route[0].replace("\\", "") for route in [*api.ROUTES, *pages.ROUTES]]


def tables(text: str) -> list[list[Row]]:
    """The rows of each table of the text, without header and rule; code blocks are passed over."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^[ ]{0,3}\|.*\n?)+", text, flags=re.MULTILINE)
    # A vertical bar inside a cell is written \| there.
    split = [[_cells(line) for line in block.strip().splitlines()] for block in blocks]
    return [rows[2:] for rows in split if len(rows) > 2]


def _cells(line: str) -> Row:
    return [
        cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))
    ]


def named_in(cell: str) -> list[str]:
    """The settings that a cell names in backticks: as option, variable or key."""
    found = []
    for quoted in re.findall(r"`([^`]+)`", cell):
        word = quoted.split("=")[0].split()[0]
        if re.fullmatch(r"--[a-z][a-z0-9-]+|XOTS_[A-Z0-9_]+|[a-z][a-z0-9]*(_[a-z0-9]+)+", word):
            found.append(word.removeprefix("--").removeprefix("XOTS_").replace("-", "_").lower())
    return list(dict.fromkeys(found))


def rows_of_settings() -> dict[str, Row]:
    """The rows of the settings table (or tables, if it is parted), by setting."""
    rows: dict[str, Row] = {}
    for table in tables(README):
        if not any("`--" in row[0] for row in table):
            continue
        for row in table:
            for name in named_in(row[0]):
                assert name not in rows, f"{name} stands in two rows"
                rows[name] = row
    return rows


def plain(cell: str) -> str:
    """A cell without markup, commas and repeated spaces."""
    return " ".join(cell.replace("`", "").replace("*", "").replace(",", " ").split())


def test_the_settings_table_has_every_setting_and_no_other() -> None:
    """What is declared can be looked up, and what can be looked up is declared."""
    assert sorted(rows_of_settings()) == sorted(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_table_has_each_default_as_it_is(name: str) -> None:
    """The second column is the default that the help shows; a dash, a word or nothing where there is none."""
    rows = rows_of_settings()
    assert name in rows
    shown, default = plain(rows[name][1]), default_shown(SETTINGS[name])
    if default is None:
        assert shown.lower() in ("", "-", "–", "—", "none", "not set", "unset")  # noqa: RUF001 - dashes of a README
    else:
        assert shown == plain(default)


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.letter])
def test_the_settings_table_has_each_letter(name: str) -> None:
    """A letter stands with its option, and with no other one."""
    rows = rows_of_settings()
    assert name in rows
    assert re.findall(r"(?<![\w-])-([a-zA-Z])\b", rows[name][0]) == [SETTINGS[name].letter]


def test_each_setting_is_explained() -> None:
    """No row is left without its meaning."""
    assert [
        name for name, row in rows_of_settings().items() if len(row) < 3 or not plain(row[2])
    ] == []


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_stands_in_the_endpoints_table(route: str) -> None:
    """A path that is served is told, with what it does."""
    rows = [
        row
        for table in tables(README)
        for row in table
        if re.fullmatch(r"(`/[a-z]*`(, | or | )?)+", row[0])
    ]
    told = [row for row in rows if f"`{route}`" in row[0]]
    assert len(told) == 1
    assert all(plain(cell) for cell in told[0])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named(command: str) -> None:
    """As ``xots COMMAND``, or in backticks."""
    assert re.search(rf"\bxots {command}\b|`{command}`", README)
