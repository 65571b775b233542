"""The table of the commands, and the help made of it.

A new command is a function in one of the modules beside this one, and a row here. The row names the
functions of the command, whose module is imported when it runs: a start of the server needs none of
the others.
"""

from __future__ import annotations

import argparse
from enum import Enum
from pkgutil import resolve_name

import msgspec

__all__ = ["COMMANDS", "DEFAULT", "Command", "Group", "overview"]


class Group(Enum):
    """The groups of commands in the help, with their headings."""

    WITHOUT_SERVER = 'commands (the first word; "xots COMMAND -h" shows more)'
    RUNNING_SERVER = "commands for a running server"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command. Its functions are named as ``module:function``, with a module beside this one.

    Args:
        name: the first word on the command line.
        group: its group in the help.
        help: its effect in one line, which begins with a verb in lower case.
        declares: the function that declares its options.
        runs: the function that carries it out and returns the exit status.
        details: further sentences for its own help.
        takes_program: the arguments after ``--`` are a program and its arguments; ``runs`` gets
            them as ``options.program``.
    """

    name: str
    group: Group
    help: str
    declares: str
    runs: str
    details: str = ""
    takes_program: bool = False

    @property
    def description(self) -> str:
        """The text at the top of its own help."""
        return f"{self.help[0].upper()}{self.help[1:]}. {self.details}".rstrip()

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare its options."""
        resolve_name(f"{__package__}.{self.declares}")(parser)

    def run(self, options: argparse.Namespace) -> int:
        """Carry it out and return the exit status."""
        status: int = resolve_name(f"{__package__}.{self.runs}")(options)
        return status


END_DETAILS = (
    "If no server runs, the command works on the store. If other accounts share the client and the "
    "Xero user, nothing is revoked: this account's connections at Xero are deleted instead, and "
    "those accounts stay logged in."
)

ROWS = (
    Command(
        name="serve",
        group=Group.WITHOUT_SERVER,
        help='run the server, as "xots" alone does',
        declares="options:add_settings",
        runs="serving:serve",
    ),
    Command(
        name="demo",
        group=Group.WITHOUT_SERVER,
        help="run the server against a simulated Xero, logged in, on a throw-away store",
        declares="serving:add_demo_options",
        runs="serving:demo",
    ),
    Command(
        name="sandbox",
        group=Group.WITHOUT_SERVER,
        help="run a simulated Xero, to test an integration against",
        declares="serving:add_sandbox_options",
        runs="serving:sandbox",
    ),
    Command(
        name="check",
        group=Group.WITHOUT_SERVER,
        help="check that the settings, the store, its key, the login and Xero are in order",
        declares="options:add_settings",
        runs="checking:check",
        details="It changes nothing. The exit status is 0 if all is in order.",
    ),
    Command(
        name="key",
        group=Group.WITHOUT_SERVER,
        help="make, add or promote a sealing key (key new, key add, key promote)",
        declares="keys:add_key_options",
        runs="actions:run_action",
    ),
    Command(
        name="reader",
        group=Group.WITHOUT_SERVER,
        help="list, add or remove the readers, who have keys (reader list, reader add, reader "
        "remove)",
        declares="readers:add_reader_options",
        runs="actions:run_action",
        details="A running server that uses the file knows each change from its next request on.",
    ),
    Command(
        name="login",
        group=Group.RUNNING_SERVER,
        help="show where to log in, and wait until a user has logged in",
        declares="options:add_server",
        runs="requesting:login",
    ),
    Command(
        name="token",
        group=Group.RUNNING_SERVER,
        help="print a fresh access token",
        declares="requesting:add_token_options",
        runs="requesting:token",
    ),
    Command(
        name="exec",
        group=Group.RUNNING_SERVER,
        help="run a program with a fresh access token in its environment",
        declares="requesting:add_exec_options",
        runs="requesting:run_program",
        details="The token is in XERO_ACCESS_TOKEN, the tenant's id in XERO_TENANT_ID and the "
        "server's URL in XOTS_URL, or its socket in XOTS_UNIX_SOCKET. The name of an account that "
        "was named is in XOTS_ACCOUNT. XOTS_READER_KEY_FILE, XOTS_SERVER_USER and "
        "XOTS_TLS_CERTIFICATE are passed on too. The other settings of xots are taken out of its "
        "environment. The exit status is that of the program. Example: "
        "xots exec -- python3 report.py",
        takes_program=True,
    ),
    Command(
        name="status",
        group=Group.RUNNING_SERVER,
        help="print the state of the login, the store and the refreshes",
        declares="requesting:add_json_options",
        runs="requesting:status",
        details="The exit status is 0 if the server can serve a good token.",
    ),
    Command(
        name="refresh",
        group=Group.RUNNING_SERVER,
        help="refresh the token now, unless that was done just before",
        declares="options:add_server",
        runs="requesting:refresh",
    ),
    Command(
        name="tenants",
        group=Group.RUNNING_SERVER,
        help="list the connected organisations: id, type and name",
        declares="requesting:add_json_options",
        runs="requesting:tenants",
    ),
    Command(
        name="revoke",
        group=Group.RUNNING_SERVER,
        help="end the login and revoke it at Xero",
        declares="ending:add_end_options",
        runs="ending:revoke",
        details=f"The credentials are kept. {END_DETAILS}",
    ),
    Command(
        name="logout",
        group=Group.RUNNING_SERVER,
        help="end the login, revoke it at Xero, and forget the credentials",
        declares="ending:add_end_options",
        runs="ending:logout",
        details=END_DETAILS,
    ),
    Command(
        name="account",
        group=Group.RUNNING_SERVER,
        help="list, add or remove accounts (account list, account add, account remove)",
        declares="accounts:add_account_options",
        runs="actions:run_action",
        details="If no server runs, the command works on the store.",
    ),
)

COMMANDS = {command.name: command for command in ROWS}
"""The commands by name, in the order of the help."""

DEFAULT = COMMANDS["serve"]
"""The command that runs if the command line names none."""

SOURCES = """\
A setting can also come from the environment (--token-url as XOTS_TOKEN_URL), from a file in
systemd's credentials directory (token_url), or from the file that --config names (token_url: ...).
The command line comes first, then the others in that order. A secret is never taken from the
command line.
"""


def overview() -> str:
    """Return the list of the commands by group, and the sources of settings."""
    parts = []
    for group in Group:
        rows = [f"  {command.name:11}{command.help}" for command in ROWS if command.group is group]
        parts.append("\n".join([f"{group.value}:", *rows, ""]))
    return "\n".join([*parts, SOURCES])
