"""The commands. ``xots`` alone serves; the first word may name another command.

Whatever goes wrong ends in one sentence on stderr and an exit status: 2 for what was asked wrongly, 1 for the rest.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import SealError, ServerUnreachable, SettingsError, XotsError

if TYPE_CHECKING:
    from .client import Client
    from .settings import Settings

__all__ = ["main"]

DESCRIPTION = "Xero OAuth Token Server: logs in to Xero once, then serves fresh access tokens."

EPILOG = """\
commands (the first word; "xots COMMAND -h" tells more):
  serve      run the server; what "xots" alone does
  demo       run the server against a simulated Xero, logged in, on a throw-away store
  sandbox    run the simulated Xero by itself
  check      look whether the settings, the store and Xero are in order
  key        make, add or promote a sealing key (key new, key add, key promote)

commands that ask a running server, and say why when it can't answer:
  login      show where to log in, and wait until somebody has
  token      print a fresh access token
  exec       run a program with a fresh access token in its environment
  status     print how things are
  refresh    refresh the token now
  tenants    list the connected organisations
  revoke     end the login, and revoke it at Xero (works without a server, too)
  logout     the same, and forget the credentials

Each option can also be set in the environment (--token-url as XOTS_TOKEN_URL), in a file of systemd's credentials
directory (token_url), or in the file that --config names (token_url: …); the command line comes first, then in that
order. A secret is never taken from the command line.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        print(
            f"xots: {name!r} is no command{f' (did you mean {near[0]}?)' if near else ''}; see xots -h",
            file=sys.stderr,
        )
        return 2
    try:
        return COMMANDS[name](arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"xots: {problem}", file=sys.stderr)
        return 2
    except XotsError as error:
        print(f"xots: {error}", file=sys.stderr)
        # Trying again mends neither a setting nor a key: systemd is told so by the status.
        return 2 if isinstance(error, SealError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Otherwise the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _serve(arguments: list[str]) -> int:
    settings = _settings(arguments)
    _log_to_stderr(settings.log_level, settings.log_format)
    import asyncio

    from .server import serve

    asyncio.run(serve(settings))
    return 0


def _demo(arguments: list[str]) -> int:
    parser = _parser(
        "xots demo", "Run the server against a simulated Xero, logged in, on a throw-away store."
    )
    import asyncio

    from . import demo

    demo.add_arguments(parser)
    options = parser.parse_args(arguments)
    _log_to_stderr("warning")
    asyncio.run(demo.run(options))
    return 0


def _sandbox(arguments: list[str]) -> int:
    parser = _parser("xots sandbox", "Run a simulated Xero, to test an integration against.")
    from .sandbox import command

    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def _check(arguments: list[str]) -> int:
    settings = _settings(
        arguments, "xots check", "Look whether the settings, the store and Xero are in order."
    )
    import asyncio

    from .check import check

    return asyncio.run(check(settings))


# ------------------------------------------------------------------------- commands that ask a running server


def _login(arguments: list[str]) -> int:
    server, _ = _server(arguments, "login", "Show where to log in, and wait until somebody has.")
    where = f"http://localhost:{server.port}" if server.host in ("127.0.0.1", "::1") else server.url
    if not _health(server)["healthy"]:
        print(f"open {where}/home in a browser on this machine, and log in", flush=True)
        while not _health(server)["healthy"]:
            time.sleep(1)
    print("logged in")
    return 0


def _health(server: Client) -> dict[str, Any]:
    health: dict[str, Any] = server.ask("GET", "/livez", "healthy", also=(401, 503))
    return health


def _token(arguments: list[str]) -> int:
    server, options = _server(
        arguments,
        "token",
        "Print a fresh access token.",
        lambda parser: (
            parser.add_argument(
                "--min-ttl", type=int, metavar="SECONDS", help="one that lives at least so long"
            ),
            parser.add_argument(
                "--json", action="store_true", help="print all that the server tells of it"
            ),
        ),
    )
    content = server.token(options.min_ttl)
    print(json.dumps(content) if options.json else content["accessToken"])
    return 0


def _exec(arguments: list[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, program = arguments[:at], arguments[at + 1 :]
    if not program and not {"-h", "--help"} & set(own):
        print(
            "xots: nothing to run; name it after two hyphens: xots exec -- python3 report.py",
            file=sys.stderr,
        )
        return 2
    server, options = _server(
        own,
        "exec",
        "Run a program with a fresh access token in its environment, as XERO_ACCESS_TOKEN, and the tenant's id as "
        "XERO_TENANT_ID:  xots exec -- python3 report.py",
        lambda parser: parser.add_argument(
            "--min-ttl", type=int, metavar="SECONDS", help="one that lives so long"
        ),
    )
    content = server.token(options.min_ttl)
    environment = os.environ | {"XERO_ACCESS_TOKEN": content["accessToken"]}
    environment.pop("XERO_TENANT_ID", None)  # one of another login must not be taken for this one's
    if content.get("tenantId"):
        environment["XERO_TENANT_ID"] = content["tenantId"]
    try:
        os.execvpe(program[0], program, environment)  # noqa: S606 - running what the user names is the command's job
    except OSError as error:
        raise XotsError(f"{program[0]} can't be run: {error.strerror}") from None


def _status(arguments: list[str]) -> int:
    server, options = _server(
        arguments,
        "status",
        "Print how things are. The exit status is 0 if a good token can be served.",
        lambda parser: parser.add_argument("--json", action="store_true", help="print it as JSON"),
    )
    status = server.ask("GET", "/status", "healthy", "state")
    if options.json:
        print(json.dumps(status))
    else:
        for sentence in status.pop("explanation", ()):
            print(sentence)
        for name, value in status.items():
            shown = " ".join(value) if isinstance(value, list) else "-" if value is None else value
            print(f"{name.replace('_', ' '):26}{shown}")
    return 0 if status["healthy"] else 1


def _refresh(arguments: list[str]) -> int:
    server, _ = _server(arguments, "refresh", "Refresh the token now.")
    server.ask("POST", "/refresh", "accessToken", done_at="/token")
    print("refreshed")
    return 0


def _tenants(arguments: list[str]) -> int:
    server, options = _server(
        arguments,
        "tenants",
        "List the connected organisations: id, type and name.",
        lambda parser: parser.add_argument(
            "--json", action="store_true", help="print it as Xero gives it"
        ),
    )
    tenants = server.ask("GET", "/tenants")
    if not all(isinstance(tenant, dict) and "tenantId" in tenant for tenant in tenants):
        raise XotsError(f"what answers at {server.url} is not xots")
    if options.json:
        print(json.dumps(tenants))
        return 0
    for tenant in tenants:
        print(tenant["tenantId"], tenant.get("tenantType") or "-", tenant.get("tenantName") or "-")
    return 0


def _revoke(arguments: list[str]) -> int:
    return _end(
        arguments,
        "revoke",
        "End the login, and revoke it at Xero. The credentials are kept.",
        forget=False,
    )


def _logout(arguments: list[str]) -> int:
    return _end(
        arguments,
        "logout",
        "End the login, revoke it at Xero, and forget the credentials.",
        forget=True,
    )


def _end(arguments: list[str], command: str, description: str, *, forget: bool) -> int:
    """End the login through the running server, or on the store itself when none runs."""
    from .client import Client

    settings = _settings(
        arguments, f"xots {command}", f"{description} Works on the store when no server runs."
    )
    server = Client(_reachable(settings.address), settings.port)
    try:
        # A server that serves another account is none for this one.
        running = server.ask("GET", "/status", "account")["account"] == settings.account
    except ServerUnreachable:
        running = False
    if running:
        server.ask("POST", f"/{command}", "status", done_at="/" if forget else None)
        pending = server.ask("GET", "/status", "revocation_pending")["revocation_pending"]
    else:
        import asyncio

        from .server import end_login

        if not asyncio.run(end_login(settings, forget=forget)):
            print(f"xots: {PENDING}; run this again when it can", file=sys.stderr)
            return 1
        pending = False
    said = "logged out" if forget else "revoked"
    print(f"{said} here; {PENDING}, which is tried again by itself" if pending else said)
    return 0


PENDING = "nothing is served from that login any more, but Xero can't be told just now"


def _key(arguments: list[str]) -> int:
    from . import keys

    acts = ("new", "add", "promote")
    if not arguments or arguments[0] not in (*acts, "-h", "--help"):
        print(f"xots: what is to be done with the key? One of: {', '.join(acts)}", file=sys.stderr)
        return 2
    act = arguments[0] if arguments[0] in acts else ""
    settings = _settings(
        arguments[1:] if act else arguments,
        f"xots key {act or 'new|add|promote'}",
        "new: print a new sealing key, for a key file.\n"
        "add: add a new key to the key file; it opens, so that every process can be told of it first.\n"
        "promote: let the key that was added seal, and seal every record anew with it. May be run again.",
    )
    if act == "new":
        from .sealing import new_key

        print(new_key().reveal())
        return 0
    path = settings.key_file or keys.default_key_file()
    if act == "add" and settings.key:
        raise SettingsError(
            [
                f"{settings.sources['key']}: the keys are set here, so there is no key file to add one to"
            ]
        )
    if act == "add":
        keys.add_key(path)
        print(
            f"{path} holds one more key, which opens; once every process has it: xots key promote"
        )
        return 0
    import asyncio

    from .server import reseal

    def promote() -> None:
        if not settings.key and not keys.promote_key(path):
            print(
                f"no key of {path} waits to be promoted; looking whether all records are sealed with the first one"
            )

    done, count = asyncio.run(reseal(settings, promote))
    print(f"{done} of {count} records were sealed anew; all are sealed with the first key now")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "demo": _demo,
    "sandbox": _sandbox,
    "check": _check,
    "login": _login,
    "token": _token,
    "exec": _exec,
    "status": _status,
    "refresh": _refresh,
    "tenants": _tenants,
    "revoke": _revoke,
    "logout": _logout,
    "key": _key,
}


def _parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _settings(arguments: list[str], prog: str = "xots", description: str = DESCRIPTION) -> Settings:
    """The settings of a server, from the command line and the other sources."""
    from .settings import declared, load

    parser = _parser(prog, description, EPILOG if prog == "xots" else None)
    _add_settings(parser, [setting.name for setting in declared()])
    parser.add_argument("--version", action="version", version=f"xots {__version__}")
    options = vars(parser.parse_args(arguments))
    return load(options, os.environ, _config(options))


def _server(
    arguments: list[str],
    command: str,
    description: str,
    more: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> tuple[Client, argparse.Namespace]:
    """The running server that a command is to ask, and the command's own options."""
    from .client import Client
    from .settings import load

    parser = _parser(f"xots {command}", description)
    _add_settings(parser, WHERE)
    more(parser)
    options = parser.parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in WHERE}
    settings = load(given, os.environ, _config(vars(options)), only=WHERE)
    return Client(_reachable(settings.address), settings.port), options


def _reachable(address: str) -> str:
    """Where a server that listens on this address is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - not bound to


WHERE = ("address", "port")
"""The settings that say where a running server is."""


def _config(options: dict[str, Any]) -> Path | None:
    """The YAML file to read: the option's, else the environment's."""
    return options.pop("config") or (
        Path(found) if (found := os.environ.get("XOTS_CONFIG")) else None
    )


def _add_settings(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    from .settings import declared, default_shown

    for setting in declared():
        if setting.name not in names:
            continue
        shown = default_shown(setting)
        flags = [f"-{setting.letter}"] if setting.letter else []
        parser.add_argument(
            *flags,
            setting.option,
            dest=setting.name,
            default=argparse.SUPPRESS,
            metavar=setting.metavar or setting.name.upper(),
            # One that holds a secret is taken here only to be refused with a reason, rather than shown as unknown.
            help=argparse.SUPPRESS
            if setting.secret
            else setting.help + (f" (default: {shown})" if shown else ""),
        )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=None, help="read settings from a YAML file"
    )


def _log_to_stderr(level: str, form: str = "text") -> None:
    logging.basicConfig(level=level.upper())
    logging.getLogger().handlers[0].setFormatter(_JsonLines() if form == "json" else _text_lines())


def _text_lines() -> logging.Formatter:
    """Each with its time in UTC, as are the times in the messages."""
    lines = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    lines.converter = time.gmtime
    lines.default_msec_format = "%s.%03d UTC"
    return lines


class _JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
