"""``xots account``: list, add and remove accounts, through the running server, or on the store if
none runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..client import Client
from ..errors import ServerUnreachable
from ..safe_text import MAX_MESSAGE, safe_text
from ..settings import Settings, parsing
from ..settings.reading import secret_in_file
from .actions import Action, add_actions
from .options import (
    Joined,
    UsageError,
    add_server_address,
    as_usage,
    is_under_exec,
    read_settings,
    server_client,
)
from .process import columns, show

__all__ = ["add_account_options"]

STORE = ("store", "key_file")
"""The settings of the store that are options. ``--client-id`` is that of the account to add."""

NEEDED_NOW = ("not-logged-in", "no-credentials", "consent-lost", "client-refused")
"""The values of ``attention_for`` for which a user or an operator is needed now."""

COLUMNS = ("name", "state", "organisation", "login needed", "source")


def add_account_options(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions with their options."""
    add_actions(parser, ACTIONS, lambda own: add_server_address(own, *STORE))


# ---------- list


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the accounts as JSON")


def _list(options: argparse.Namespace) -> int:
    found = _accounts_of_server(server_client(options))
    if found is None:
        found = _accounts_of_store(read_settings(options))
    if options.json:
        print(json.dumps(found))
    else:
        _print_table(found)
    return 0


def _accounts_of_server(server: Client) -> list[dict[str, Any]] | None:
    """Return the accounts of the running server; None if none runs."""
    try:
        return server.accounts()
    except ServerUnreachable:
        if is_under_exec():
            raise
        return None


def _accounts_of_store(settings: Settings) -> list[dict[str, Any]]:
    import msgspec  # here, because a request to a server needs none of these

    from .. import wiring

    summaries = asyncio.run(wiring.list_accounts(settings))
    found: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(summaries))
    return found  # as the server sends them


def _print_table(found: list[dict[str, Any]]) -> None:
    """Print one line for each account, and further lines for its problem and its siblings."""
    lines = columns([COLUMNS, *map(_row, found)])
    for line, summary in zip(lines, [{}, *found], strict=True):
        show(line)
        if summary.get("problem"):
            show(f"  problem: {summary['problem']}")
        shares_with = summary.get("shares_with")
        if isinstance(shares_with, list) and shares_with:
            show(f"  same client and user as: {', '.join(map(str, shares_with))}")


def _row(summary: dict[str, Any]) -> tuple[str, ...]:
    fields = ("name", "state", "organisation", "login_needed_at", "source")
    name, state, organisation, needed, source = (summary.get(field) for field in fields)
    # The time of a login that is needed now is that of the last look at the record.
    when = "now" if needed and summary.get("attention_for") in NEEDED_NOW else _time_text(needed)
    texts = (name, state, organisation, when, source)
    return tuple("-" if text is None else safe_text(text) for text in texts)


def _time_text(text: object) -> str | None:
    """Return a time of the server as people read it."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# ---------- add


def _declare_add(parser: argparse.ArgumentParser) -> None:
    _declare_name(parser)
    parser.add_argument(
        "--client-id",
        dest="own_client_id",
        metavar="ID",
        help="client id of the account's app (default: that of the server's settings)",
    )
    parser.add_argument(
        "--client-secret-file",
        dest="own_secret_file",
        metavar="FILE",
        help="file that holds the client secret of that app; it is read once",
    )
    # The option is declared so that the refusal gives a reason. It is not offered.
    parser.add_argument("--client-secret", dest="own_secret", help=argparse.SUPPRESS)
    parser.add_argument(
        "--tenant-id",
        dest="own_tenant_id",
        metavar="ID",
        help="id of the organisation to use",
    )
    parser.add_argument(
        "--scopes",
        action=Joined,
        dest="own_scopes",
        metavar="SCOPES",
        help="scopes to request; granular and classic stand for whole sets",
    )


def _add(options: argparse.Namespace) -> int:
    fields = _entry_fields(options)
    name = fields["name"]
    server = server_client(options)
    if _accounts_of_server(server) is None:
        needs_login = _add_in_store(read_settings(options), name, fields)
        to_log_in = f"Start xots and log in at /accounts/{name}/home"
    else:
        any_account = replace(server, account=None)
        added = any_account.request("POST", "/accounts", "account", body=fields)
        needs_login = added.get("needs_login", True)  # each one does at an earlier version
        to_log_in = f"To log in: xots login --account {name}"
    without_login = f"It needs no login: xots token --account {name}"
    show(f"added {name}. {to_log_in if needs_login else without_login}")
    return 0


def _entry_fields(options: argparse.Namespace) -> dict[str, str]:
    """Return the fields of the account to add: those that are given.

    Raises:
        UsageError: one of them is not valid. The message does not repeat it.
    """
    if options.own_secret is not None:
        raise UsageError(
            "--client-secret: the command line can't give a secret, since every user of the "
            "machine can see it: put it into a file, and give --client-secret-file"
        )
    fields = {"name": _name(options)}
    for option, field, parse in (
        ("--client-id", "client_id", parsing.printable),
        ("--tenant-id", "tenant_id", parsing.printable),
        ("--scopes", "scopes", lambda text: " ".join(parsing.scopes(text))),
    ):
        text = getattr(options, f"own_{field}")
        if text is not None:
            with as_usage(option):
                fields[field] = parse(text)
    path = options.own_secret_file
    if path is not None and "client_id" not in fields:
        raise UsageError(
            "--client-secret-file: a client secret needs a client id: give --client-id too"
        )
    if path is not None:
        with as_usage("--client-secret-file"):
            secret, dangers = secret_in_file(Path(path))
            fields["client_secret"] = secret.reveal()
        for danger in dangers:
            print(f"xots: warning: {safe_text(danger, MAX_MESSAGE)}", file=sys.stderr)
    return fields


def _add_in_store(settings: Settings, name: str, fields: dict[str, str]) -> bool:
    """Add the account. Return True if a user must log in to it."""
    from .. import wiring
    from ..lifecycle.account import Entry
    from ..secret import Secret

    secret = fields.get("client_secret")
    entry = Entry(
        client_id=fields.get("client_id"),
        client_secret=None if secret is None else Secret(secret),
        tenant_id=fields.get("tenant_id"),
        scopes=tuple(fields.get("scopes", "").split()),
        added_at=datetime.now(UTC),
    )
    return asyncio.run(wiring.add_account(settings, name, entry))


# ---------- remove


def _declare_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name of the account: up to 64 lower-case letters, digits and hyphens",
    )


def _name(options: argparse.Namespace) -> str:
    with as_usage("NAME"):
        return parsing.account_name(options.name)


def _remove(options: argparse.Namespace) -> int:
    name = _name(options)
    server = server_client(options)
    if _accounts_of_server(server) is None:
        from .. import wiring

        settings = read_settings(options)
        detail = asyncio.run(wiring.remove_account(settings, name)).explanation
    else:
        removed = replace(server, account=name).request("POST", "/remove", "account")
        detail = removed.get("detail")
    show(f"removed {name}" + (f": {detail}" if detail else ""))
    return 0


ACTIONS = (
    Action(
        name="list",
        help="list the accounts with their states",
        run=_list,
        add_options=_declare_list,
    ),
    Action(
        name="add",
        help="add an account, which inherits the settings that are not given; a user then logs in",
        run=_add,
        add_options=_declare_add,
    ),
    Action(
        name="remove",
        help="end the login of an account that was added at run time, and remove it",
        run=_remove,
        add_options=_declare_name,
    ),
)
