"""The commands that send requests to a running server: ``login``, ``token``, ``exec``,
``status``, ``refresh`` and ``tenants``.

They need neither Tornado nor cryptography, so they start fast.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..client import Client
from ..errors import XotsError
from ..safe_text import MAX_MESSAGE, safe_text
from .options import (
    UsageError,
    add_server,
    client_for,
    read_server_settings,
    server_client,
    server_variables,
)
from .process import show

__all__ = [
    "add_exec_options",
    "add_json_options",
    "add_token_options",
    "login",
    "refresh",
    "run_program",
    "status",
    "tenants",
    "token",
]

LOGIN_POLL_INTERVAL_SECONDS = 1.0

LOGIN_NEEDED = (
    "not-logged-in",
    "consent-lost",
    "last-attempt",
    "client-refused",
    "no-credentials",
)
"""The values of ``attention_for`` with which ``xots login`` waits, even if a token is served."""

CLIENT_CREDENTIALS = "client_credentials"
"""The ``grant`` of an account without a login."""


def login(options: argparse.Namespace) -> int:
    """Show where to log in, and wait until a user has. The exit status is 1 if the account needs no
    login, but gets no token."""
    server = server_client(options)
    found = _status(server)
    if found.get("grant") == CLIENT_CREDENTIALS:
        return _without_login(found)
    if not _is_logged_in(found):
        # A login starts at the redirect URI's host.
        url = str(found["redirect_uri"]).removesuffix("/code")
        where = " on this machine" if url.partition("://")[2].startswith("localhost:") else ""
        show(f"open {url}{server.path}/home in a browser{where}, and log in")
        if server.unix_socket is not None:
            show(
                f"if no port is open there (address: none), forward it to {server.unix_socket} "
                "first, for example by ssh -L"
            )
        while not _is_logged_in(_status(server)):
            time.sleep(LOGIN_POLL_INTERVAL_SECONDS)
    print("logged in")
    return 0


def _status(server: Client) -> dict[str, Any]:
    content: dict[str, Any] = server.request("GET", "/status", "healthy", "state", "redirect_uri")
    return content


def _without_login(content: dict[str, Any]) -> int:
    if content["healthy"]:
        print(f"no login is needed (grant: {CLIENT_CREDENTIALS})")
        return 0
    for sentence in _explanation(content):
        print(safe_text(sentence, MAX_MESSAGE), file=sys.stderr)
    return 1


def _is_logged_in(content: dict[str, Any]) -> bool:
    """Tell if the server can serve a token, and will not need a user when that expires."""
    return bool(content["healthy"]) and content.get("attention_for") not in LOGIN_NEEDED


def add_token_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots token``."""
    add_exec_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the whole response of the server as JSON"
    )


def token(options: argparse.Namespace) -> int:
    """Print an access token."""
    content = server_client(options).token(options.min_ttl, options.tenant)
    print(json.dumps(content) if options.json else content["accessToken"])
    return 0


def add_exec_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots exec``."""
    add_server(parser)
    parser.add_argument(
        "--min-ttl",
        type=_seconds,
        metavar="SECONDS",
        help="demand a token that lives at least this many seconds",
    )
    parser.add_argument(
        "--tenant",
        metavar="ID",
        help="the organisation to use, by its id or its unique name (default: the chosen one)",
    )


def _seconds(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError("must be a whole number of seconds")
    return int(text)


def run_program(options: argparse.Namespace) -> int:
    """Replace this process by ``options.program``, with an access token in its environment."""
    program: list[str] = options.program
    if not program:
        raise UsageError(
            "no program is named; name it after two hyphens: xots exec -- python3 report.py"
        )
    settings = read_server_settings(options)
    server = client_for(settings)
    content = server.token(options.min_ttl, options.tenant)
    environment = _inherited(os.environ) | server_variables(settings, server)
    environment["XERO_ACCESS_TOKEN"] = content["accessToken"]
    if content.get("tenantId"):
        environment["XERO_TENANT_ID"] = content["tenantId"]
    try:
        # Running the program that the user names is the command's purpose.
        os.execvpe(program[0], program, environment)  # noqa: S606
    except OSError as error:
        raise XotsError(f"{program[0]} can't be run: {error.strerror}") from None


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a program may have: not the settings of xots, among which are
    secrets, and not the organisation of another login."""
    dropped = ("CREDENTIALS_DIRECTORY", "XERO_TENANT_ID")
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("XOTS_") and name not in dropped
    }


def add_json_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots status`` and ``xots tenants``."""
    add_server(parser)
    parser.add_argument("--json", action="store_true", help="print the response as JSON")


def status(options: argparse.Namespace) -> int:
    """Print the status. The exit status is 0 if the server can serve a good token, else 1."""
    content = server_client(options).request("GET", "/status", "healthy", "state")
    if options.json:
        print(json.dumps(content))
    else:
        _print_status(content)
    return 0 if content["healthy"] else 1


def _print_status(content: dict[str, Any]) -> None:
    for sentence in _explanation(content):
        show(sentence)
    for name, value in content.items():
        if name != "explanation":
            for text in _shown(value):
                show(f"{name.replace('_', ' '):26}{text}")


def _explanation(content: dict[str, Any]) -> list[Any]:
    sentences = content.get("explanation")
    return sentences if isinstance(sentences, list) else []


def _shown(value: Any) -> list[str]:
    """Return a value as one text or more, each for a line of its own."""
    if isinstance(value, list):
        reads = [_reads_text(one) for one in value if isinstance(one, dict)]
        return reads or [" ".join(map(str, value))]
    return ["-" if value is None else str(value)]


def _reads_text(reads: Mapping[str, Any]) -> str:
    """Return the reads of one reader in words."""
    reader, count, first, last = map(reads.get, ("reader", "count", "first_at", "last_at"))
    times = "once, at" if count == 1 else f"{count} times, first at {first}, last at"
    return f"{reader}: {times} {last}"


def refresh(options: argparse.Namespace) -> int:
    """Refresh the token now."""
    server_client(options).request("POST", "/refresh", "accessToken", done_at="/token")
    print("refreshed")
    return 0


def tenants(options: argparse.Namespace) -> int:
    """List the connected organisations, one a line: id, type and name."""
    found = server_client(options).tenants()
    if options.json:
        print(json.dumps(found))
        return 0
    for tenant in found:
        show(tenant["tenantId"], tenant.get("tenantType") or "-", tenant.get("tenantName") or "-")
    return 0
