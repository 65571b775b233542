"""``xots revoke`` and ``xots logout``: through the running server, or on the store if none runs."""

from __future__ import annotations

import argparse
import asyncio
import os

from ..client import Client
from ..errors import ServerRefused, ServerUnreachable, XotsError
from ..settings import Settings
from .options import SERVER_URL, add_settings, client_for, read_settings
from .process import show

__all__ = ["add_revoke_options", "logout", "revoke"]

UNKNOWN_ACCOUNT = ("unknown-account", "not-found")
"""The problem of a request for an account that the server does not have. A server of an earlier
version has no paths of accounts."""


UNUSABLE = "account-unusable"
"""The problem of a request for an account whose settings describe another login."""


def add_revoke_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``xots revoke``: every setting, and ``--all``."""
    add_settings(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="end the logins of all accounts that share the client and the Xero user",
    )


def revoke(options: argparse.Namespace) -> int:
    """End the login and keep the credentials."""
    settings = read_settings(options)
    server = client_for(settings)
    if _serves(server, settings):
        show(_revoke_by_request(server, everywhere=options.all))
    else:
        show(_end_in_store(settings, forget=False, everywhere=options.all) or "revoked")
    return 0


def logout(options: argparse.Namespace) -> int:
    """End the login and forget the credentials."""
    settings = read_settings(options)
    server = client_for(settings)
    if _serves(server, settings):
        server.request("POST", "/logout", done_at="/")
        print("logged out" + (_UNCONFIRMED if _is_pending(server) else ""))
    else:
        show(_end_in_store(settings, forget=True) or "logged out")
    return 0


def _serves(server: Client, settings: Settings) -> bool:
    """Return True if the server runs and serves this account, not only others."""
    try:
        content = server.request("GET", "/status", "account")
    except (ServerUnreachable, ServerRefused) as error:
        if isinstance(error, ServerRefused) and error.kind == UNUSABLE:
            return True  # its login can be ended all the same
        is_elsewhere = isinstance(error, ServerUnreachable) or error.kind in UNKNOWN_ACCOUNT
        # Under xots exec, the settings of the store are unknown.
        if SERVER_URL in os.environ or not is_elsewhere:
            raise
        return False
    return bool(content["account"] == settings.account)


_UNCONFIRMED = " here. Xero has not confirmed the revocation; the server retries until it does"


def _is_pending(server: Client) -> bool:
    content = server.request("GET", "/status", "revocation_pending")
    return bool(content["revocation_pending"])


def _revoke_by_request(server: Client, *, everywhere: bool) -> str:
    """Let the server end the login. Return the sentence about the outcome."""
    content = server.request("POST", "/revoke?all=true" if everywhere else "/revoke", "status")
    match content["status"]:
        case "ended":
            return "revoked here; the identity server revokes no tokens (revoke_url is empty)"
        case "disconnected":
            return str(content.get("detail") or "disconnected")
    return "revoked" + (_UNCONFIRMED if _is_pending(server) else "")


def _end_in_store(settings: Settings, *, forget: bool, everywhere: bool = False) -> str | None:
    """End the login in the store. Return the sentence about the outcome, if it is a special one.

    Raises:
        XotsError: Xero has not confirmed it, or one of the errors of ``wiring.end_login``.
    """
    from ..wiring import end_login  # here, because a request to a server needs no Tornado

    ended = asyncio.run(end_login(settings, forget=forget, everywhere=everywhere))
    if not all(ended):
        raise XotsError(
            "the login is ended here, and no token of it is served any more. Xero has not "
            "confirmed the revocation; run this command again later"
        )
    return next((each.explanation for each in ended if each.shared_with), None)
