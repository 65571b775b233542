"""Imports point downward: the rooms of xots, lowest floor first, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

import xots
from xots.commands.table import COMMANDS, Command

PACKAGE = Path(xots.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("secret",),
    ("safe_text",),
    ("errors", "clock", "file_access", "file_writing", "advice", "peers"),
    ("proof",),
    ("log_filters",),
    ("tasks",),
    # A package's __init__, which every import of one of its modules imports too.
    ("lifecycle",),
    ("lifecycle.account", "lifecycle.policy"),
    ("lifecycle.outcomes", "lifecycle.record_json", "lifecycle.tenants", "wording"),
    ("lifecycle.waits", "lifecycle.candidates"),
    ("lifecycle.schedule",),
    ("lifecycle.attention",),
    ("lifecycle.outlook", "lifecycle.expiry"),
    ("lifecycle.transitions",),
    ("lifecycle.logins", "lifecycle.sharing"),
    ("lifecycle.merging", "lifecycle.client_grant"),
    ("events",),
    ("end_events",),
    ("sealing",),
    ("xero",),
    ("xero.claims", "xero.identity_server"),
    ("xero.protocol",),
    ("xero.coding", "xero.connections", "xero.requests", "xero.scopes"),
    ("xero.http",),
    ("backends.records",),
    ("backends.leases", "backends.due_index", "backends.file_records"),
    ("backends.base",),
    ("backends.memory", "backends.file", "backends.redis_url"),
    ("backends.redis_requests",),
    ("backends.redis_lease", "backends.redis_index", "backends.redis_stream"),
    ("backends.redis",),
    ("backends",),
    ("keeping",),
    ("keeping.usage", "keeping.record_store", "keeping.changes", "keeping.store_clock"),
    ("keeping.replica", "keeping.resealing", "keeping.siblings"),
    ("keeping.reporting",),
    ("keeping.context",),
    ("keeping.obtaining",),
    (
        "keeping.refreshing",
        "keeping.tenants",
        "keeping.following",
        "keeping.checking",
        "keeping.login_limit",
        "keeping.acts",
    ),
    ("keeping.disconnecting", "keeping.login"),
    ("keeping.ending", "keeping.logins"),
    ("keeping.serving",),
    ("keeping.keeper",),
    ("accounts",),
    ("accounts.config", "accounts.work"),
    ("accounts.directory", "accounts.keepers"),
    ("accounts.survey",),
    ("accounts.accounts",),
    ("rotation",),
    ("access",),
    ("web",),
    (
        "web.headers",
        "web.accept",
        "web.problems",
        "web.login_cookie",
        "web.in_flight",
        "web.read_log",
    ),
    ("web.guard", "web.refusals"),
    ("web.api_schemas",),
    ("web.api_operations",),
    ("web.express",),
    ("web.connection",),
    ("web.tls_connection", "web.express_connection"),
    ("web.acceptor",),
    ("web.responses",),
    ("web.checks",),
    ("web.handler", "web.express_request"),
    ("web.tokens", "web.health", "web.acts", "web.cookie_handler"),
    ("web.status", "web.pages", "web.callback"),
    ("web.accounts", "web.openapi"),
    ("web.app",),
    ("settings.parsing", "settings.declaring", "settings.accounts"),
    ("settings.fields", "settings.demands"),
    ("settings.reading",),
    ("settings.yaml_file", "settings.account_sources"),
    ("settings.sources",),
    ("settings",),
    ("key_file", "reader_file", "reread"),
    ("access_files", "access_summary"),
    ("keys",),
    ("wiring", "listening", "tls"),
    ("server",),
    ("demo", "check"),
    ("commands",),
    (
        "commands.actions",
        "commands.options",
        "commands.parser",
        "commands.process",
        "commands.repeats",
    ),
    ("commands.logs",),
    (
        "commands.serving",
        "commands.checking",
        "commands.keys",
        "commands.readers",
        "commands.requesting",
        "commands.ending",
        "commands.accounts",
    ),
    ("commands.table",),
    ("commands.main",),
    ("__main__",),
)
"""A module may import those of the floors before its own, and none beside it."""

FLOORS_ASIDE: tuple[tuple[str, ...], ...] = (
    ("sandbox.identity",),
    ("sandbox.identity.clients", "sandbox.identity.protocol"),
    ("sandbox.identity.switches",),
    ("sandbox.identity.randomness", "sandbox.identity.counts"),
    ("sandbox.identity.authorization", "sandbox.identity.consents", "sandbox.identity.signing"),
    ("sandbox.identity.tokens", "sandbox.identity.claims"),
    ("sandbox.identity.issuing",),
    ("sandbox.identity.provider",),
    ("sandbox.accounting", "sandbox.faults", "sandbox.limits", "sandbox.holds"),
    ("sandbox.log",),
    ("sandbox.world",),
    ("sandbox.http",),
    ("sandbox.http.responses",),
    ("sandbox.http.handlers",),
    ("sandbox.http.oauth", "sandbox.http.pages", "sandbox.http.api", "sandbox.http.control"),
    ("sandbox.http.app",),
    ("sandbox.http.server",),
    ("sandbox", "sandbox.command", "sandbox.person"),
    ("testing.clock", "testing.opening", "testing.flaky"),
    (
        "testing.record_rules",
        "testing.lease_rules",
        "testing.change_rules",
        "testing.index_rules",
        "testing.fault_rules",
    ),
    ("testing.contract",),
    ("testing",),
)
"""The floors inside the packages aside. Their own ``__init__`` exports their public names."""

ASIDE: dict[str, frozenset[str]] = {
    "client": frozenset({"errors", "proof", "secret"}),
    "sandbox": frozenset({"errors", "sandbox"}),
    "testing": frozenset({"errors", "backends", "backends.base", "backends.memory", "testing"}),
}
"""The rooms aside, and all of xots that each may import. A room's own floors are checked first."""

SEES_ASIDE = frozenset(
    {
        "demo",
        "commands.options",
        "commands.serving",
        "commands.requesting",
        "commands.ending",
        "commands.accounts",
    }
)
"""Only these may import the rooms aside."""

EXEMPT = frozenset({"", "_version"})
"""The package's own ``__init__`` and the version; a test of their own keeps them light."""

ONE_ROOM_ONLY = {
    "cryptography": ("sealing", "sandbox"),
    "redis": (
        "backends.redis_url",
        "backends.redis_requests",
        "backends.redis_lease",
        "backends.redis_index",
        "backends.redis_stream",
        "backends.redis",
    ),
    "yaml": ("settings.yaml_file",),
    "prometheus_client": (),  # no room has metrics yet
}
"""Libraries that only these modules and rooms know."""

PURE = frozenset({"asyncio", "socket", "tornado"})

NEVER = {
    "client": frozenset({"tornado"}),
    "lifecycle": PURE,
    "access": PURE,
    "access_summary": PURE,
    "advice": PURE,
    "wording": PURE,
    "events": PURE,
    "end_events": PURE,
    "xero.identity_server": PURE,
    "xero.protocol": PURE,
    "xero.scopes": PURE,
    "settings.accounts": PURE,
    "settings.demands": PURE,
    "settings.fields": PURE,
    "settings.parsing": PURE,
    "web.accept": PURE,
    "web.api_operations": PURE,
    "web.api_schemas": PURE,
    "web.guard": PURE,
    "web.headers": PURE,
    "web.login_cookie": PURE,
    "sandbox.identity": PURE,
    "sandbox.accounting": PURE,
    "sandbox.faults": PURE,
    "sandbox.limits": PURE,
    "sandbox.log": PURE,
}
"""Libraries that a room, with the modules inside it, may not import at all."""

INSIDE = {room: number for number, floor in enumerate(FLOORS_ASIDE) for room in floor}
ALL_FLOORS = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules() -> dict[str, Path]:
    """Return every module of the package, by its name inside it; ``""`` is the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
KNOWN = {*MODULES, *ALL_FLOORS, *INSIDE, *ASIDE}


def room_of(module: str) -> str:
    """Return a module's room: the module itself, but a package aside is one room."""
    package = module.partition(".")[0]
    return package if package in ASIDE else module


def imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield every import in a module's source: its line, and the absolute name of a module."""
    package = f"xots.{module}".rstrip(".").split(".")
    if MODULES.get(module, Path()).name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                # "from . import guard" means the module of that name, if there is one.
                inner = f"{origin}.{alias.name}"
                yield node.lineno, inner if inner.removeprefix("xots.") in KNOWN else origin
        elif isinstance(node, ast.Call) and called(node) in ("__import__", "import_module"):
            yield from ((node.lineno, ast.literal_eval(name)) for name in node.args[:1])


def called(node: ast.Call) -> str:
    """Return the name of the function or method that a call names."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def problems(module: str, source: str) -> list[str]:
    """Return a sentence for each forbidden import of a module."""
    if module in EXEMPT:
        return []
    room = room_of(module)
    is_placed = module in {*ALL_FLOORS, *INSIDE, *(ASIDE.keys() - {"sandbox", "testing"})}
    if not is_placed:
        tables = "FLOORS, FLOORS_ASIDE or ASIDE (tests/house/test_floors.py)"
        return [f"xots/{module} is in no row of {tables}: place it there"]
    found = []
    for line, name in imported(module, source):
        library, _, inside = name.partition(".")
        where = f"xots.{module}, line {line}:"
        if library == "xots":
            if inside != "_version" and not may_import(module, inside):
                found.append(f"{where} {room} may not import {name}")
        elif library in never(module):
            found.append(f"{where} {room} may not import {library}")
        elif room not in ONE_ROOM_ONLY.get(library, (room,)):
            allowed = " and ".join(ONE_ROOM_ONLY[library]) or "no room"
            found.append(f"{where} only {allowed} may import {library}")
    return found


def never(module: str) -> set[str]:
    """Return the libraries that a module may not import, by its room or a package around it."""
    return {
        library
        for room, libraries in NEVER.items()
        if f"{module}.".startswith(f"{room}.")
        for library in libraries
    }


def may_import(module: str, target: str) -> bool:
    """Tell if this module may import that module of xots."""
    room = room_of(module)
    if module in INSIDE and room == room_of(target):
        return INSIDE.get(target, len(FLOORS_ASIDE)) < INSIDE[module]
    target = room_of(target)
    if room in ASIDE:
        return target in ASIDE[room]
    if target in ASIDE:
        return room in SEES_ASIDE
    return target in ALL_FLOORS and ALL_FLOORS[target] < ALL_FLOORS[room]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    """No import points upward or sideways, not even inside a function or for types only."""
    assert problems(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("errors", "from . import keeping", "xots.keeping"),
        ("errors", "from .events import Event", "xots.events"),
        ("lifecycle.account", "import xots.lifecycle.schedule", "xots.lifecycle.schedule"),
        (
            "lifecycle.schedule",
            "from xots.keeping.keeper import TokenKeeper",
            "xots.keeping.keeper",
        ),
        (
            "sealing",
            "from . import TokenKeeper",
            "xots",
        ),  # the package itself would bring everything
        ("xero.http", "def f():\n    from .. import sealing, rotation", "xots.rotation"),
        ("backends.base", "from .memory import MemoryStore", "xots.backends.memory"),
        ("backends.memory", "from . import open_store", "xots.backends"),
        ("backends.redis_url", "from .redis import RedisStore", "xots.backends.redis"),
        (
            "keeping.keeper",
            "if TYPE_CHECKING:\n    from ..settings import Settings",
            "xots.settings",
        ),
        ("rotation", "from .web import guard", "xots.web.guard"),
        ("web.guard", "from .handler import Handler", "xots.web.handler"),
        ("web.status", "from . import pages", "xots.web.pages"),
        ("web.app", "from ..settings import Settings", "xots.settings"),
        ("settings.sources", "from ..server import serve", "xots.server"),
        ("wiring", "from .server import Server", "xots.server"),
        ("server", "from .commands.main import main", "xots.commands.main"),
        ("server", "from .sandbox import Sandbox", "xots.sandbox"),
        ("commands.keys", "from .table import COMMANDS", "xots.commands.table"),
        ("keeping.keeper", "from ..sandbox import Sandbox", "xots.sandbox"),
        ("sandbox.http.api", "from ...secret import Secret", "xots.secret"),
        (
            "sandbox.identity.claims",
            "from .provider import Identity",
            "xots.sandbox.identity.provider",
        ),
        ("sandbox.identity.provider", "from ..faults import Fault", "xots.sandbox.faults"),
        ("sandbox.identity.provider", "from .. import Client", "xots.sandbox"),
        ("sandbox.world", "from .http.server import Sandbox", "xots.sandbox.http.server"),
        ("sandbox.http.pages", "from . import oauth", "xots.sandbox.http.oauth"),
        ("sandbox.identity.signing", "import tornado.web", "tornado"),
        ("sandbox.limits", "def f():\n    import asyncio", "asyncio"),
        ("client", "from .settings import Settings", "xots.settings"),
        ("client", "import tornado.httpclient", "tornado"),
        ("keeping.keeper", "import yaml", "yaml"),
        ("settings.parsing", "from redis import asyncio", "redis"),
        ("xero.protocol", "from cryptography.fernet import Fernet", "cryptography"),
        ("backends.base", "import redis", "redis"),
        ("sandbox.identity.claims", "import redis", "redis"),
        ("errors", "import importlib\nimportlib.import_module('xots.server')", "xots.server"),
        ("errors", "def f():\n    __import__('xots.server')", "xots.server"),
        ("lifecycle.schedule", "import asyncio", "asyncio"),
        ("web.guard", "from tornado import web", "tornado"),
        ("testing.clock", "from .contract import TokenStoreContract", "xots.testing.contract"),
        ("web.app", "import prometheus_client", "prometheus_client"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, forbidden: str) -> None:
    """The checker itself: it names the module that must not be imported."""
    assert [problem.split()[-1] for problem in problems(module, source)] == [forbidden]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("events", "from .errors import XotsError"),
        (
            "web.pages",
            "from . import guard\n"
            "from ..keeping.keeper import TokenKeeper\n"
            "from .._version import __version__",
        ),
        ("backends", "from .base import TokenStore\nimport tornado"),
        ("backends.redis", "import redis.asyncio\nfrom . import redis_url"),
        ("backends.redis_url", "import redis.asyncio"),
        ("settings.yaml_file", "def f():\n    import yaml"),
        ("sealing", "from cryptography.fernet import Fernet"),
        (
            "sandbox.identity.signing",
            "from .protocol import base64url\nfrom ...errors import XotsError\nimport cryptography",
        ),
        ("sandbox.http.app", "from . import control\nfrom ..world import World\nimport tornado"),
        ("commands.serving", "from ..sandbox import command\nfrom .. import demo"),
        ("commands.main", "from .table import COMMANDS"),
    ],
)
def test_a_permitted_import_passes(module: str, source: str) -> None:
    """The checker itself: it finds no fault where there is none."""
    assert problems(module, source) == []


def test_a_module_that_is_in_no_row_must_be_placed() -> None:
    """A new module fails until it has a floor."""
    assert "place it" in problems("utils", "")[0]
    assert "place it" in problems("sandbox.utils", "")[0]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_table_of_commands_names_functions_of_the_modules_below_it(command: Command) -> None:
    """It imports them when a command runs, so no import statement names them."""
    for reference in (command.declares, command.runs):
        assert callable(resolve_name(f"xots.commands.{reference}"))
        assert may_import("commands.table", f"commands.{reference.partition(':')[0]}")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("xots", {"asyncio", "cryptography", "msgspec", "tornado"}),
        ("xots.settings", {"tornado", "yaml"}),
        ("xots.xero.http", {"tornado"}),
        ("xots.commands.main", {"cryptography", "redis", "tornado", "yaml"}),
    ],
)
def test_an_import_stays_light(module: str, heavy: set[str]) -> None:
    """Importing it loads none of the heavy libraries."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy & set(loaded) == set()
