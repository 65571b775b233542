"""Checks a command of the documents without running it: its syntax, its program and its options."""

from __future__ import annotations

import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from unittest import mock

from documents.declarations import ACTIONS, COMMANDS, run_xots
from documents.place import BIN
from documents.reading import ROOT

__all__ = ["faults"]

SEPARATORS = {"&&", "||", "|", ";", "(", ")", "&"}

BUILTINS = {"cd", "export", "umask"}

ELSEWHERE = {"apt", "journalctl", "socat", "ssh", "systemctl", "systemd-run"}
"""Programs of an operator's machine, which need not be on this one."""


def faults(command: str) -> list[str]:
    """Return what is wrong with a command; an empty list if nothing is."""
    syntax = subprocess.run(
        ["bash", "-n", "-c", command], capture_output=True, text=True, check=False
    )
    if syntax.returncode:
        return [syntax.stderr]
    return [fault for words in _simple_commands(command) for fault in _faults_of(words)]


def _simple_commands(command: str) -> list[list[str]]:
    """Split a command at its operators, without assignments and redirections."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word in SEPARATORS:
            parts.append([])
        elif redirected or word in (">", ">>", "<"):
            redirected = not redirected
        elif parts[-1] or not re.match(r"\w+=", word):
            parts[-1].append(word)
    return [words for words in parts if words]


def _faults_of(words: list[str]) -> list[str]:
    program, arguments = Path(words[0]).name, words[1:]
    if program not in BUILTINS | ELSEWHERE and not shutil.which(program, path=_search_path()):
        return [f"there is no program {words[0]}"]
    if "-c" in arguments and arguments[arguments.index("-c") - 1] == "sh":
        return faults(arguments[arguments.index("-c") + 1])
    if program == "sh" and arguments[:1] == ["-c"]:
        return faults(arguments[1])
    if program == "xots":
        return _faults_of_xots(arguments)
    return _faults_of_make(arguments) if program == "make" else []


def _search_path() -> str:
    return f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def _options(arguments: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}


def _faults_of_xots(arguments: list[str]) -> list[str]:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    name = own[0] if own and not own[0].startswith("-") else "serve"
    full_name = " ".join(own[:2]) if name in ACTIONS else name
    if full_name not in (*COMMANDS, "COMMAND"):
        return [f"xots has no command {full_name}"]
    known = _help_of_xots("serve" if name == "COMMAND" else full_name)
    return [f"xots {full_name} has no option {option}" for option in _options(own) - known]


@cache
def _help_of_xots(name: str) -> set[str]:
    return _printed_options(lambda: run_xots([*name.split(), "-h"]))


def _printed_options(act: Callable[[], object]) -> set[str]:
    """Return the options in the help that an act prints."""
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        act()
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", output.getvalue())) | {"--help"}


def _faults_of_make(arguments: list[str]) -> list[str]:
    target, *rest = arguments
    dry_run = subprocess.run(
        ["make", "--dry-run", target, *rest], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if dry_run.returncode:
        return [dry_run.stderr]
    words = shlex.split(rest[0].removeprefix("ARGS=")) if rest else []
    if target == "demo":
        return faults(shlex.join(["xots", "demo", *words]))
    if target == "test":
        return [f"there is no {word}" for word in words[:1] if not (ROOT / word).exists()]
    return _faults_of_proof(target, words) if words else []


def _faults_of_proof(target: str, words: list[str]) -> list[str]:
    """Return the faults in the options of ``make torture``, ``mutants``, ``simulate`` or
    ``bench``."""
    names = {"mutants": "mutants", "simulate": "simulation", "bench": "benchmarks"}
    name = names.get(target, words[0])
    if target == "torture" and not (ROOT / f"tests/torture/{name}.py").exists():
        return [f"there is no torture {name}"]
    return [f"{target} has no option {option}" for option in _options(words) - _help_of_proof(name)]


@cache
def _help_of_proof(name: str) -> set[str]:
    if name == "simulation":
        module = importlib.import_module("simulation.__main__")
        with mock.patch.object(sys, "argv", ["simulation", "--help"]):
            return _printed_options(module.main)
    if name == "benchmarks":
        module = importlib.import_module("benchmarks.__main__")
        return _printed_options(lambda: module.main(["--help"]))
    module = importlib.import_module(f"torture.{name}")
    return _printed_options(lambda: module.main(["--help"]))
