"""``xots revoke`` and ``xots logout``: through the running server, or on the store if none runs."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from ..advice import capitalised
from ..client import Client
from ..errors import ServerRefused, ServerUnreachable, XotsError
from ..settings import Settings
from .options import (
    add_settings,
    client_for,
    is_under_exec,
    read_server_settings,
    read_settings,
)
from .process import show

__all__ = ["add_end_options", "logout", "revoke"]

UNKNOWN_ACCOUNT = ("unknown-account", "not-found")
"""The problem of a request for an account that the server does not have. A server of an earlier
version has no paths of accounts."""


UNUSABLE = "account-unusable"
"""The problem of a request for an account whose settings describe another login."""


def add_end_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of both commands: every setting, and ``--all``."""
    add_settings(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="end the logins of all accounts that share the client and the Xero user",
    )


def revoke(options: argparse.Namespace) -> int:
    """End the login and keep the credentials."""
    if server := _running_server(options):
        show(_revoke_by_request(server, everywhere=options.all))
    else:
        settings = read_settings(options)
        show(_end_in_store(settings, "revoked", forget=False, everywhere=options.all))
    return 0


def logout(options: argparse.Namespace) -> int:
    """End the login and forget the credentials."""
    if server := _running_server(options):
        show(_log_out_by_request(server, everywhere=options.all))
    else:
        settings = read_settings(options)
        show(_end_in_store(settings, "logged out", forget=True, everywhere=options.all))
    return 0


def _running_server(options: argparse.Namespace) -> Client | None:
    """Return a client for the server if it runs and serves the account, not only others."""
    settings = read_server_settings(options)
    server = client_for(settings)
    return server if _serves(server, settings.account) else None


def _serves(server: Client, account: str) -> bool:
    try:
        content = server.request("GET", "/status", "account")
    except (ServerUnreachable, ServerRefused) as error:
        if isinstance(error, ServerRefused) and error.kind == UNUSABLE:
            return True  # its login can be ended all the same
        is_elsewhere = isinstance(error, ServerUnreachable) or error.kind in UNKNOWN_ACCOUNT
        if is_under_exec() or not is_elsewhere:
            raise
        return False
    return bool(content["account"] == account)


def _revoke_by_request(server: Client, *, everywhere: bool) -> str:
    """Let the server end the login. Return the sentence about the outcome."""
    content = server.request("POST", "/revoke?all=true" if everywhere else "/revoke", "status")
    if everywhere and not (content["status"] == "revoked" and content.get("detail")):
        return _all_ended("revoked", content)
    return str(content.get("detail") or content["status"])


def _log_out_by_request(server: Client, *, everywhere: bool) -> str:
    """Let the server end the login and forget the credentials. Return the sentence about it."""
    if everywhere:
        return _all_ended("logged out", server.request("POST", "/logout?all=true", "status"))
    content = server.request("POST", "/logout", "status", done_at="/")
    if content is None:
        return "logged out"
    return f"logged out: {content.get('detail') or content['status']}"


def _all_ended(done: str, content: Mapping[str, Any]) -> str:
    """Return the sentence about a response that names the accounts whose logins it ended."""
    accounts = content.get("accounts")
    text = f"{done}: {', '.join(sorted(accounts))}" if isinstance(accounts, dict) else done
    if content["status"] == "revoked":
        return text
    return f"{text}. {capitalised(str(content.get('detail') or content['status']))}"


def _end_in_store(settings: Settings, done: str, *, forget: bool, everywhere: bool) -> str:
    """End the login in the store. Return the sentence about the outcome.

    Raises:
        XotsError: it is pending, or one of the errors of ``wiring.end_login``.
    """
    from ..wiring import end_login  # here, because a request to a server needs no Tornado

    ended = asyncio.run(end_login(settings, forget=forget, everywhere=everywhere))
    if pending := [each for each in ended.values() if not each]:
        raise XotsError(
            "the login is ended here, and no token of it is served any more. "
            f"However, {pending[0].pending_text}; run this command again later"
        )
    if not forget and not any(each.had_login for each in ended.values()):
        return "there is no login to revoke: it was ended before"
    if everywhere:
        rest = {capitalised(each.explanation) for each in ended.values() if each.explanation}
        return ". ".join([f"{done}: {', '.join(sorted(ended))}", *sorted(rest)])
    explanation = ended[settings.account].explanation
    if explanation is None:
        return done
    return f"{done}: {explanation}" if forget else explanation
