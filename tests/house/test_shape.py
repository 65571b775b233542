"""The shape of the package and of the benchmarks: modules and classes stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xots

ROOT = Path(__file__).parents[2]
PACKAGE = Path(xots.__file__).parent

MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

MAX_LINES = 410
MAX_WIDTH = 100
MAX_VARIABLES = 12


def name_of(path: Path) -> str:
    """The name of a module in the package, or in the project."""
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_read_in_a_sitting(path: Path) -> None:
    """It is not long, and no line is wide."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > MAX_WIDTH] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_class_has_a_dozen_instance_variables_at_most(path: Path) -> None:
    """A class that needs more is two classes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert len(variables_of(node)) <= MAX_VARIABLES, node.name


def variables_of(node: ast.ClassDef) -> set[str]:
    """The names that a class assigns on ``self``."""
    return {
        found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Attribute)
        and isinstance(found.ctx, ast.Store)
        and isinstance(found.value, ast.Name)
        and found.value.id == "self"
    }
