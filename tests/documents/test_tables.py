"""The tables of the documents against the declarations in the code."""

from __future__ import annotations

import json
import re

import pytest
from documents.declarations import (
    COMMANDS,
    FORMAT,
    PROBLEMS,
    ROUTES,
    SETTINGS,
    STATUS_VALUES,
    Setting,
)
from documents.place import Place
from documents.reading import rows

from xots import __version__

SETTINGS_TABLE = rows("docs/settings.md", "option", "default", "meaning")
ENDPOINTS_TABLE = rows("docs/endpoints.md", "path", "methods")
PROBLEMS_TABLE = rows("docs/endpoints.md", "status", "`type`")
FIELDS_TABLE = rows("docs/endpoints.md", "field", "meaning")
TOKEN_TABLE = rows("docs/endpoints.md", "field", "type", "meaning")
COMMANDS_TABLE = rows("docs/operating.md", "command", "purpose")
ALERTS_TABLE = rows("docs/operating.md", "field", "alert if")
FORMATS_TABLE = rows("docs/upgrading.md", "format", "written by")


def quoted(cell: str) -> list[str]:
    """Return the pieces of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def plain(cell: str) -> str:
    """Return a cell without markup, commas and repeated spaces."""
    return " ".join(re.sub(r"[`*,]", " ", cell).split())


def row_of(setting: Setting) -> list[str]:
    """Return the row of a setting."""
    option = f"--{setting.name.replace('_', '-')}"
    (row,) = (row for row in SETTINGS_TABLE if option in quoted(row[0]))
    return row


def test_the_settings_table_has_every_setting_and_no_other() -> None:
    """Each row names one setting that is declared."""
    options = [quoted(row[0])[-1].removeprefix("--").replace("-", "_") for row in SETTINGS_TABLE]
    assert sorted(options) == sorted(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_table_has_each_default_as_it_is(name: str) -> None:
    """The second column is the default that the help shows, or empty."""
    assert plain(row_of(SETTINGS[name])[1]) == plain(SETTINGS[name].default or "")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_table_has_each_letter(name: str) -> None:
    """A letter stands beside its option, and beside no other one."""
    letters = quoted(row_of(SETTINGS[name])[0])[:-1]
    assert letters == ([f"-{SETTINGS[name].letter}"] if SETTINGS[name].letter else [])


@pytest.mark.parametrize(
    "table",
    [SETTINGS_TABLE, ENDPOINTS_TABLE, PROBLEMS_TABLE, FIELDS_TABLE, COMMANDS_TABLE],
    ids=["settings", "endpoints", "problems", "fields", "commands"],
)
def test_each_row_is_explained(table: list[list[str]]) -> None:
    """The last column is never empty."""
    assert [row[0] for row in table if not plain(row[-1])] == []


def test_the_endpoints_table_has_every_route_and_no_other() -> None:
    """Each route that is served stands in one row."""
    paths = [path for row in ENDPOINTS_TABLE for path in quoted(row[0])]
    assert sorted(paths) == sorted(ROUTES)


def test_the_problems_table_has_every_problem_with_its_status() -> None:
    """Each error that a caller can receive stands in one row, and no other one does."""
    found = {
        quoted(row[1])[0].removeprefix("urn:xots:"): int(status)
        for row in PROBLEMS_TABLE
        for status in [row[0]]
    }
    assert found == PROBLEMS
    assert len(PROBLEMS_TABLE) == len(PROBLEMS)


def test_the_fields_of_a_token_are_those_of_the_endpoint(place: Place) -> None:
    """``GET /token`` returns the fields of the table, and no other ones."""
    content = json.loads(place.run("curl -s http://127.0.0.1:5001/token"))
    assert [quoted(row[0])[0] for row in TOKEN_TABLE] == list(content)


def test_the_fields_of_the_status_are_those_of_the_endpoint(place: Place) -> None:
    """``GET /status`` returns the fields of the table, and no other ones."""
    content = json.loads(place.run("curl -s http://127.0.0.1:5001/status"))
    fields = [field for row in FIELDS_TABLE for field in quoted(row[0])]
    assert sorted(fields) == sorted(content)
    assert {field for row in ALERTS_TABLE for field in quoted(row[0])} <= set(content)


@pytest.mark.parametrize("field", ["retrying", "attention_for"])
def test_each_value_of_a_field_has_its_row(field: str) -> None:
    """The table of a field's values has all of them, and no other ones."""
    values = [quoted(row[0])[0] for row in rows("docs/endpoints.md", f"`{field}`")]
    assert sorted(values) == sorted(STATUS_VALUES[field])


def test_each_state_is_named() -> None:
    """The row of ``state`` names all of its values, and no other ones."""
    (row,) = (row for row in FIELDS_TABLE if row[0] == "`state`")
    assert set(quoted(row[1])) == STATUS_VALUES["state"]


def test_the_commands_table_has_every_command_and_no_other() -> None:
    """Each command stands in one row, as it is typed."""
    commands = [command for row in COMMANDS_TABLE for command in quoted(row[0])]
    assert sorted(commands) == sorted(["xots", *(f"xots {name}" for name in COMMANDS)])


def test_the_formats_table_begins_with_the_format_that_is_written() -> None:
    """The format that this version writes is the first one, and this version reads all of them."""
    assert [int(row[0]) for row in FORMATS_TABLE] == list(range(FORMAT, 0, -1))
    assert all(__version__ in row[2] for row in FORMATS_TABLE)
