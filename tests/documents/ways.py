"""The way in which the tests treat each command of the documents.

A command that no row matches is run. A row with the way ``PARSED`` is an exception: it says why the
command is not run, and the test then checks that its program and options exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

__all__ = ["PROGRAMS", "WAYS", "Row", "Way", "is_command", "way_of"]

PROGRAMS = (
    *("apt", "curl", "journalctl", "make", "pip", "python3", "ssh", "systemctl", "systemd-run"),
    "xots",
)
"""A piece of code in a sentence is a command if it begins with one of these and a space."""


class Way(Enum):
    """What the tests do with a command."""

    RUN = "run"
    """It runs in a place of its own, beside a server with a simulated Xero, and exits with 0."""
    SERVES = "serves"
    """It starts a server. It says so, and exits with 0 at SIGTERM."""
    ENDS_LOGIN = "ends the login"
    """It runs like ``RUN``, beside a server that no other command uses."""
    PARSED = "parsed"
    """It is not run."""


@dataclass(frozen=True)
class Row:
    """The way of all commands that the pattern matches from their beginning."""

    pattern: str
    way: Way
    reason: str

    def matches(self, command: str) -> bool:
        """Tell if the row is for this command."""
        return re.match(self.pattern, command) is not None


WAYS = (
    # Commands that are not complete.
    Row(r"xots .*\b(COMMAND|FILE|NAME|ORGANISATION)\b", Way.PARSED, "has a placeholder"),
    Row(r"xots exec$", Way.PARSED, "is the name of the command; the README shows how it is run"),
    Row(r"xots (exec|token) --tenant$", Way.PARSED, "names an option without its value"),
    Row(r"xots account (add|remove)$", Way.PARSED, "is the name of the command"),
    Row(r"xots reader (list|add|remove)$", Way.PARSED, "is the name of the command"),
    Row(r"xots account add miller ", Way.PARSED, "needs the file of a secret"),
    # Commands that start a server.
    Row(r"xots( serve)?$", Way.SERVES, ""),
    Row(r"xots (-o|-p|--account|--config) \S+$", Way.SERVES, ""),
    Row(r"xots demo$", Way.SERVES, ""),
    Row(r"xots sandbox( (--fault|--redirect-uri) \S+)?$", Way.SERVES, ""),
    # Commands that end the login.
    Row(r"xots (revoke|logout)( --all)?$", Way.ENDS_LOGIN, ""),
    # Commands that need root, systemd or another machine.
    Row(r"apt install ", Way.PARSED, "needs root and the network"),
    Row(r"systemctl ", Way.PARSED, "needs a running systemd; test_deploy.py verifies the units"),
    Row(r"systemd-run ", Way.PARSED, "needs a running systemd"),
    Row(r"journalctl ", Way.PARSED, "needs a running systemd"),
    Row(r"ssh ", Way.PARSED, "needs another machine"),
    Row(r"useradd ", Way.PARSED, "needs root, and changes the machine"),
    Row(
        r"(install|mv) .*(fullchain|privkey)\.pem", Way.PARSED, "needs the files of an ACME client"
    ),
    Row(r"XOTS_\w+=.* xots status", Way.PARSED, "needs a key, which a later section makes"),
    Row(r"socat |.*/run/xots/socket", Way.PARSED, "needs the socket of the service"),
    Row(r".*xots\.example", Way.PARSED, "needs another machine"),
    # Commands that download packages.
    Row(
        r"python3 -m venv |\S*pip install (\.|requests|'xots\[proxy\]')$",
        Way.PARSED,
        "needs the network; tests/house/test_packaging.py installs xots from wheel and sdist",
    ),
    # The targets of the Makefile.
    Row(r"make demo( ARGS=|$)", Way.PARSED, "starts xots demo, which runs beside all these tests"),
    Row(r"make test", Way.PARSED, "runs these tests"),
    Row(r"make lint$", Way.PARSED, "tests/house/test_quality.py runs the same tools"),
    Row(
        r"make (torture|simulate|mutants)",
        Way.PARSED,
        "takes minutes or hours; tests/proofs runs short versions",
    ),
    Row(r"make bench", Way.PARSED, "takes minutes; tests/load tests its servers"),
    # Code in Python.
    Row(
        r"(?s).*class TestSqliteStore",
        Way.PARSED,
        "is an example of a test; tests/backends/test_contract.py runs the same suite",
    ),
)


def way_of(command: str) -> Row:
    """Return the row for a command; a row of the way ``RUN`` if none matches."""
    return next((row for row in WAYS if row.matches(command)), Row("", Way.RUN, ""))


def is_command(code: str) -> bool:
    """Tell if a piece of code in a sentence is a command."""
    return code.startswith(tuple(f"{program} " for program in PROGRAMS))
