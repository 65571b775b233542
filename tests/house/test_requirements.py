"""The ranges of versions in setup.cfg, which ``make test-lowest`` and ``make test`` prove."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def requirements() -> Iterator[Requirement]:
    """Every requirement in setup.cfg, apart from the package's own extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for line in "\n".join(lists).split("\n"):
        if line and (requirement := Requirement(line)).name != config["metadata"]["name"]:
            yield requirement


def test_each_range_has_a_lower_bound() -> None:
    """Without one, "the lowest version" would be the first that was ever published."""
    unbounded = [
        str(requirement)
        for requirement in requirements()
        if ">=" not in {specifier.operator for specifier in requirement.specifier}
    ]
    assert unbounded == []


def test_each_library_is_declared_once() -> None:
    """Two ranges for one library can differ."""
    names = [requirement.name.lower() for requirement in requirements()]
    assert sorted(set(names)) == sorted(names)


def test_the_lowest_versions_come_from_setup_cfg_alone() -> None:
    """``make test-lowest`` installs the lowest versions of those ranges, and names none itself."""
    script = (ROOT / "tests" / "install-lowest").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--resolution lowest-direct --editable '.[dev]'" in script
    assert "@tests/install-lowest $(LOWEST)/bin/python" in makefile
    assert re.findall(r"[=<>~!]=\s*\d", script + makefile) == []
