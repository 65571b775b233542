"""What the code declares, for the tests that compare the documents with it.

All imports of tables of the program are in this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from xots.commands.main import main
from xots.commands.table import COMMANDS as COMMAND_TABLE
from xots.lifecycle.account import FORMAT
from xots.lifecycle.outlook import Need, Retrying
from xots.lifecycle.schedule import State
from xots.settings import declared, default_shown, load
from xots.web.accounts import ROUTES_OF_ACCOUNT
from xots.web.app import ROUTES as ROUTE_TABLE
from xots.web.problems import PROBLEM_TYPES
from xots.web.refusals import REFUSALS

__all__ = [
    "ACTIONS",
    "COMMANDS",
    "FORMAT",
    "PROBLEMS",
    "ROUTES",
    "SETTINGS",
    "STATUS_VALUES",
    "Setting",
    "load",
    "run_xots",
]


@dataclass(frozen=True)
class Setting:
    """A setting as a table of a document shows it."""

    name: str
    default: str | None
    """The default as the help shows it; None if there is none."""
    letter: str | None


SETTINGS = {
    setting.name: Setting(setting.name, default_shown(setting), setting.letter)
    for setting in declared()
}

ROUTES = [route[0].replace("\\", "") for route in ROUTE_TABLE]
ROUTES += ["/accounts/NAME/…", *(f"/accounts/NAME{path}" for path, _ in ROUTES_OF_ACCOUNT)]

ACTIONS = {
    "key": ("new", "add", "promote"),
    "reader": ("list", "add", "remove"),
    "account": ("list", "add", "remove"),
}
"""The second words of the commands that have some."""

COMMANDS = [
    " ".join((name, action)).strip()
    for name in COMMAND_TABLE
    for action in ACTIONS.get(name, ("",))
]


PROBLEMS = {slug: status for status, slug, _ in PROBLEM_TYPES.values()} | {
    "bad-request": HTTPStatus.BAD_REQUEST,
    "conflict": HTTPStatus.CONFLICT,
    "forbidden": HTTPStatus.FORBIDDEN,
    "internal-error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "method-not-allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "misdirected-request": HTTPStatus.MISDIRECTED_REQUEST,
    "not-found": HTTPStatus.NOT_FOUND,
    **{refusal.name: refusal.status for refusal in REFUSALS},
}
"""The status of each problem, by the last part of its ``type``."""

STATUS_VALUES: dict[str, set[str]] = {
    "state": {value.value for value in State},
    "retrying": {value.value for value in Retrying},
    "attention_for": {value.value for value in Need},
}
"""The fields of ``/status`` that have a fixed set of values."""


def run_xots(arguments: list[str]) -> int:
    """Run the command ``xots`` in this process; return its exit status."""
    return main(arguments)
