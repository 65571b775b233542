"""``xots revoke`` and ``xots logout``: through the running server, or on the store if none runs."""

from __future__ import annotations

import argparse
import asyncio
import os

from ..client import Client
from ..errors import ServerUnreachable, XotsError
from ..settings import Settings
from .options import SERVER_URL, client_for, read_settings

__all__ = ["logout", "revoke"]


def revoke(options: argparse.Namespace) -> int:
    """End the login and keep the credentials."""
    return _end(read_settings(options), forget=False, done="revoked")


def logout(options: argparse.Namespace) -> int:
    """End the login and forget the credentials."""
    return _end(read_settings(options), forget=True, done="logged out")


def _end(settings: Settings, *, forget: bool, done: str) -> int:
    server = client_for(settings)
    if _serves(server, settings.account):
        special = _end_by_request(server, forget=forget)
    else:
        special = _end_in_store(settings, forget=forget)
    print(special or done)
    return 0


def _serves(server: Client, account: str) -> bool:
    """Return True if the server runs and serves this account, not another one."""
    try:
        content = server.request("GET", "/status", "account")
    except ServerUnreachable:
        if SERVER_URL in os.environ:  # under xots exec, the settings of the store are unknown
            raise
        return False
    return bool(content["account"] == account)


def _end_by_request(server: Client, *, forget: bool) -> str | None:
    """Let the server end the login. Return the sentence about the outcome, if it is a special
    one."""
    if forget:
        server.request("POST", "/logout", done_at="/")
    else:
        content = server.request("POST", "/revoke", "status")
        if content["status"] == "ended":
            return "revoked here; the identity server revokes no tokens (revoke_url is empty)"
        if content["status"] == "disconnected":
            return str(content["detail"])
    if server.request("GET", "/status", "revocation_pending")["revocation_pending"]:
        done = "logged out" if forget else "revoked"
        return (
            f"{done} here. Xero has not confirmed the revocation; the server retries until it does"
        )
    return None


def _end_in_store(settings: Settings, *, forget: bool) -> str | None:
    """End the login in the store. Return the sentence about the outcome, if it is a special one.

    Raises:
        XotsError: Xero has not confirmed it, or one of the errors of ``wiring.end_login``.
    """
    from ..wiring import end_login  # here, because a request to a server needs no Tornado

    ended = asyncio.run(end_login(settings, forget=forget))
    if not ended:
        raise XotsError(
            "the login is ended here, and no token of it is served any more. Xero has not "
            "confirmed the revocation; run this command again later"
        )
    return ended.explanation if ended.shared_with else None
