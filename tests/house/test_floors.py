"""Imports point downward: the rooms of xots, lowest floor first, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xots

PACKAGE = Path(xots.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "clock", "secret", "tasks"),
    # A package's __init__, which every import of one of its modules imports too.
    ("lifecycle",),
    ("lifecycle.account",),
    ("lifecycle.outcomes", "wording"),
    ("lifecycle.schedule",),
    ("lifecycle.transitions", "lifecycle.outlook", "lifecycle.expiry"),
    ("lifecycle.merging",),
    ("events",),
    ("sealing",),
    ("xero",),
    ("xero.protocol",),
    ("xero.http",),
    ("backends.base",),
    ("backends.memory", "backends.file", "backends.redis_url"),
    ("backends.redis",),
    ("backends",),
    ("keeping",),
    ("keeping.replica",),
    ("keeping.reporting",),
    ("keeping.context",),
    ("keeping.refreshing", "keeping.tenants", "keeping.following"),
    ("keeping.ending", "keeping.login"),
    ("keeping.keeper",),
    ("rotation",),
    ("metrics", "notices", "readers"),
    ("web",),
    ("web.guard", "web.problems", "web.login_cookie"),
    ("web.handler",),
    ("web.tokens", "web.health", "web.acts"),
    ("web.status", "web.pages"),
    ("web.app",),
    ("settings.parsing",),
    ("settings.fields",),
    ("settings.sources",),
    ("settings",),
    ("key_file",),
    ("keys",),
    ("server",),
    ("demo", "check"),
    ("cli",),
    ("__main__",),
)
"""A module may import those of the floors before its own, and none beside it."""

ASIDE: dict[str, frozenset[str]] = {
    "client": frozenset({"errors"}),
    "sandbox": frozenset({"errors", "sandbox"}),
    "testing": frozenset({"errors", "backends", "backends.base"}),
}
"""The rooms aside, and all of xots that each may import."""

SEES_ASIDE = frozenset({"server", "demo", "cli", "__main__"})
"""Only these may import the rooms aside."""

EXEMPT = frozenset({"", "_version"})
"""The package's own ``__init__`` and the version; a test of their own keeps them light."""

ONE_ROOM_ONLY = {
    "cryptography": ("sealing",),
    "redis": ("backends.redis_url", "backends.redis"),
    "yaml": ("settings.sources",),
}
"""Libraries that only these modules know, apart from the sandbox."""

NEVER = {"client": frozenset({"tornado"})}
"""Libraries that a room may not import at all."""

ALL_FLOORS = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules() -> dict[str, Path]:
    """Every module of the package, by its name inside it; ``""`` is the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
KNOWN = {*MODULES, *ALL_FLOORS, *ASIDE}


def room_of(module: str) -> str:
    """A module's room: itself, but the sandbox is one room."""
    return "sandbox" if module.partition(".")[0] == "sandbox" else module


def imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Every import in a module's source, wherever it stands: its line, and the absolute name of a module."""
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


def problems(module: str, source: str) -> list[str]:
    """What a module imports and must not, a sentence each."""
    if module in EXEMPT:
        return []
    room = room_of(module)
    if room not in ALL_FLOORS and room not in ASIDE:
        return [
            f"xots/{module} is in no row of FLOORS or ASIDE (tests/house/test_floors.py): place it there"
        ]
    found = []
    for line, name in imported(module, source):
        library, _, inside = name.partition(".")
        where = f"xots.{module}, line {line}:"
        if library == "xots":
            if inside != "_version" and not may_import(room, inside):
                found.append(f"{where} {room} may not import {name}")
        elif library in NEVER.get(room, ()):
            found.append(f"{where} {room} may not import {library}")
        elif room not in (*ONE_ROOM_ONLY.get(library, (room,)), "sandbox"):
            allowed = " and ".join(ONE_ROOM_ONLY[library])
            found.append(f"{where} only {allowed} may import {library}")
    return found


def may_import(room: str, target: str) -> bool:
    """May this room import that module of xots?"""
    target = room_of(target)
    if room in ASIDE:
        return target in ASIDE[room]
    if target in ASIDE:
        return room in SEES_ASIDE
    return target in ALL_FLOORS and ALL_FLOORS[target] < ALL_FLOORS[room]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    """No import of the package points upward or sideways, not even inside a function or for types only."""
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
        ("server", "from .cli import main", "xots.cli"),
        ("keeping.keeper", "from ..sandbox import Sandbox", "xots.sandbox"),
        ("sandbox.api", "from ..secret import Secret", "xots.secret"),
        ("client", "from .secret import Secret", "xots.secret"),
        ("client", "import tornado.httpclient", "tornado"),
        ("keeping.keeper", "import yaml", "yaml"),
        ("settings.parsing", "from redis import asyncio", "redis"),
        ("xero.protocol", "from cryptography.fernet import Fernet", "cryptography"),
        ("backends.base", "import redis", "redis"),
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
            "from . import guard\nfrom ..keeping.keeper import TokenKeeper\nfrom .._version import __version__",
        ),
        ("backends", "from .base import TokenStore\nimport tornado"),
        ("backends.redis", "import redis.asyncio\nfrom . import redis_url"),
        ("backends.redis_url", "import redis.asyncio"),
        ("settings.sources", "def f():\n    import yaml"),
        ("sealing", "from cryptography.fernet import Fernet"),
        (
            "sandbox.tokens",
            "from .protocol import base64url\nfrom ..errors import XotsError\nimport cryptography",
        ),
        ("cli", "from .sandbox import command\nfrom . import client, demo"),
    ],
)
def test_a_permitted_import_passes(module: str, source: str) -> None:
    """The checker itself: it finds no fault where there is none."""
    assert problems(module, source) == []


def test_a_module_that_is_in_no_row_must_be_placed() -> None:
    """A new module fails until somebody has said where it belongs."""
    assert "place it" in problems("utils", "")[0]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("xots", {"asyncio", "cryptography", "msgspec", "tornado"}),
        ("xots.settings", {"tornado", "yaml"}),
        ("xots.xero.http", {"tornado"}),
    ],
)
def test_an_import_stays_light(module: str, heavy: set[str]) -> None:
    """Importing it loads none of the heavy libraries."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy & set(loaded) == set()
