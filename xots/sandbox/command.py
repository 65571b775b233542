"""``xots sandbox``: the simulated Xero as a command."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from .accounting import Organisation, default_organisations
from .faults import FaultSyntaxError, Rule
from .http.server import Sandbox
from .identity.clients import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    DEFAULT_PKCE_CLIENT_ID,
    DEFAULT_REDIRECT_URI,
    MAX_DEFAULT_USERS,
    Client,
    default_users,
)
from .identity.switches import SiblingMode, Switches
from .world import SandboxOptions

__all__ = ["add_arguments", "run"]

CUSTOM_SCOPES = "accounting.settings accounting.contacts accounting.invoices"
"""The scopes printed for the custom connection: those of all accounting data of the sandbox."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options. A bad value ends the program with a message and status 2."""
    for name, settings in _OPTIONS.items():
        parser.add_argument(name, **settings)


def run(arguments: argparse.Namespace) -> int:
    """Run the sandbox until SIGINT or SIGTERM, and return the exit status.

    0: stopped by a signal; 1: the address is not available; 2: two options contradict each other.
    """
    if (both := _shared_id(arguments)) is not None:
        print(f"xots sandbox: {both}; give each app an id of its own", file=sys.stderr)
        return 2
    sandbox = Sandbox(_sandbox_options(arguments))
    sandbox.world.on_logged = lambda request: print(request, flush=True)
    try:
        asyncio.run(_serve(sandbox))
    except OSError as error:
        where = f"{arguments.address} port {arguments.port}"
        problem = f"can't listen on {where}: {_reason(error)}"
        print(f"xots sandbox: {problem}; choose another with --address or --port", file=sys.stderr)
        return 1
    return 0


def _shared_id(arguments: argparse.Namespace) -> str | None:
    """Return a sentence about two apps with the same client id, or None."""
    ids = {
        "--client-id": arguments.client_id,
        "--pkce-client": arguments.pkce_client,
        "--custom-client": arguments.custom_client,
    }
    for one, other in combinations(ids, 2):
        if ids[one] == ids[other]:
            return f"{one} and {other} are both {ids[one]}"
    return None


def _reason(error: OSError) -> str | None:
    # The error of a failed name lookup has a negative number and a text of its own.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror


async def _serve(sandbox: Sandbox) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    sandbox.start()
    print(_greeting(sandbox), flush=True)
    try:
        await stopped.wait()
    finally:
        await sandbox.stop()


def _sandbox_options(arguments: argparse.Namespace) -> SandboxOptions:
    redirect_uris = tuple(arguments.redirect_uri or [DEFAULT_REDIRECT_URI])
    organisations = (
        tuple(map(Organisation, arguments.organisation or [])) or default_organisations()
    )
    secret, new_app = arguments.client_secret, arguments.new_app
    return SandboxOptions(
        port=arguments.port,
        address=arguments.address,
        clients=(
            Client(arguments.client_id, secret, redirect_uris, new_app),
            Client(arguments.pkce_client, None, redirect_uris, new_app),
            Client(arguments.custom_client, secret, (), new_app, organisations[0].tenant_id),
        ),
        users=default_users(arguments.users),
        organisations=organisations,
        switches=Switches(
            sibling_mode=arguments.siblings,
            late_reuse_kills_chain=arguments.late_reuse_kills_chain,
            grace_seconds=arguments.grace_minutes * 60,
            access_token_life_seconds=arguments.access_token_life,
            refresh_token_life_seconds=arguments.refresh_token_life_days * 86400,
        ),
        faults=tuple(arguments.fault),
        seed=arguments.seed,
        auto_consent=arguments.auto_consent,
    )


def _greeting(sandbox: Sandbox) -> str:
    web_app, public, custom = sandbox.options.clients
    urls = [
        f"  authorize_url: {sandbox.authorize_url}",
        f"  token_url: {sandbox.token_url}",
        f"  revoke_url: {sandbox.revoke_url}",
        f"  connections_url: {sandbox.connections_url}",
    ]
    lines = [
        f"A simulated Xero listens on {sandbox.url}. Settings for xots, or any client:",
        "",
        *urls,
        f"  redirect: {web_app.redirect_uris[0]}",
        f"  client_id: {web_app.client_id}",
        f"  client_secret: {web_app.secret}",
        "",
        f"Without a secret (PKCE): client_id {public.client_id}",
        "Settings for a custom connection to the first organisation, without a login:",
        "",
        *urls,
        "  grant: client_credentials",
        f"  client_id: {custom.client_id}",
        f"  client_secret: {custom.secret}",
        f"  scopes: {CUSTOM_SCOPES}",
        "",
        f"Users: {', '.join(user.name for user in sandbox.options.users)}",
        f"Connected apps of each user: {sandbox.url}/",
        f"Accounting API: {sandbox.api_url}    key set: {sandbox.jwks_url}",
        f"Control: {sandbox.url}/sandbox/{{clock,switches,faults,release,log,forget}}",
        *(f"Fault: {running.rule}" for running in sandbox.faults.rules),
        "Stop with Ctrl-C. A line for each request follows:",
        "",
    ]
    return "\n".join(lines)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a port from 0 to 65535")
    return int(text)


def _word(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _redirect_uri(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.fragment:
        raise argparse.ArgumentTypeError(f"must be a redirect URI, such as {DEFAULT_REDIRECT_URI}")
    return text


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of seconds from 1 up")
    return int(text)


def _user_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_DEFAULT_USERS:
        raise argparse.ArgumentTypeError(f"must be a number of users from 1 to {MAX_DEFAULT_USERS}")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def _sibling_mode(text: str) -> SiblingMode:
    try:
        return SiblingMode(text)
    except ValueError:
        modes = ", ".join(SiblingMode)
        raise argparse.ArgumentTypeError(f"must be one of: {modes}") from None


def _rule(text: str) -> Rule:
    try:
        return Rule.parse(text)
    except FaultSyntaxError as error:
        raise argparse.ArgumentTypeError(f"must be a rule: {error}") from None


_OPTIONS: dict[str, dict[str, Any]] = {
    "--port": {
        "type": _port,
        "default": 5002,
        "help": "port to listen on; 0 is any free port (default: %(default)s)",
    },
    "--address": {
        "default": "127.0.0.1",
        "help": "address to listen on (default: %(default)s, and ::1)",
    },
    "--client-id": {
        "type": _word,
        "default": DEFAULT_CLIENT_ID,
        "help": "the app's client id (default: %(default)s)",
    },
    "--client-secret": {
        "type": _word,
        "default": DEFAULT_CLIENT_SECRET,
        "help": "its made-up secret, which is printed: never use a real one (default: %(default)s)",
    },
    "--pkce-client": {
        "type": _word,
        "default": DEFAULT_PKCE_CLIENT_ID,
        "metavar": "ID",
        "help": "client id of an app without a secret (default: %(default)s)",
    },
    "--custom-client": {
        "type": _word,
        "default": DEFAULT_CUSTOM_CLIENT_ID,
        "metavar": "ID",
        "help": "client id of a custom connection for the first organisation, with the same secret "
        "(default: %(default)s)",
    },
    "--redirect-uri": {
        "type": _redirect_uri,
        "action": "append",
        "metavar": "URI",
        "help": f"registered redirect URI; may be repeated (default: {DEFAULT_REDIRECT_URI})",
    },
    "--users": {
        "type": _user_count,
        "default": 2,
        "metavar": "COUNT",
        "help": "number of Xero users; with more than one, the consent page asks which one logs in "
        "(default: %(default)s)",
    },
    "--organisation": {
        "type": _word,
        "action": "append",
        "metavar": "NAME",
        "help": "an organisation; may be repeated (default: two demo companies)",
    },
    "--access-token-life": {
        "type": _seconds,
        "default": 1800,
        "metavar": "SECONDS",
        "help": "lifetime of an access token (default: %(default)s)",
    },
    "--refresh-token-life-days": {
        "type": _amount,
        "default": 60.0,
        "metavar": "DAYS",
        "help": "lifetime of an unused refresh token (default: 60)",
    },
    "--grace-minutes": {
        "type": _amount,
        "default": 30.0,
        "metavar": "MINUTES",
        "help": "time in which a used refresh token is accepted again (default: 30)",
    },
    "--siblings": {
        "type": _sibling_mode,
        "default": SiblingMode.ALL_VALID,
        "metavar": "MODE",
        "help": "effect on earlier successors when a refresh token is used again in that time: "
        f"{', '.join(SiblingMode)} (default: %(default)s)",
    },
    "--late-reuse-kills-chain": {
        "action": "store_true",
        "help": "reuse of a refresh token after that time ends all tokens of the consent",
    },
    "--new-app": {
        "action": "store_true",
        "help": "the apps were made on or after 2 March 2026: no broad scopes",
    },
    "--fault": {
        "type": _rule,
        "action": "append",
        "default": [],
        "metavar": "RULE",
        "help": "ENDPOINT:WHEN:KIND[=VALUE], such as refresh:nth=2:lost or token:p=0.05:500-html; "
        "may be repeated",
    },
    "--seed": {"type": int, "help": "make tokens, ids and random faults repeatable"},
    "--auto-consent": {
        "action": "store_true",
        "help": "consent to every request as the first user, without showing the page",
    },
}
"""The command's options, as arguments of ``add_argument``."""
