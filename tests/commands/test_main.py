"""The command line: its help, its errors and its exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.command_line import XOTS, Ended, process

from xots import __version__
from xots.commands.table import COMMANDS

Xots = Callable[..., Ended]


def shown_help(xots: Xots, *arguments: str) -> str:
    ended = xots(*arguments)
    assert (ended.status, ended.err) == (0, "")
    return re.sub(r"\s+", " ", ended.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_lists_every_command(xots: Xots, command: str) -> None:
    """One line explains the command."""
    assert re.search(rf" {command} +\w", shown_help(xots, "-h"))
    assert f" {COMMANDS[command].help} " in shown_help(xots, "-h")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(xots: Xots, command: str) -> None:
    """``xots COMMAND -h`` explains that command."""
    text = shown_help(xots, command, "-h")
    assert "usage: xots" in text
    if command != "serve":
        assert COMMANDS[command].description in text


def test_serve_has_the_help_of_xots_alone(xots: Xots) -> None:
    """``xots`` without a command is ``xots serve``."""
    assert xots("serve", "-h") == xots("-h")


def test_version_prints_the_version(xots: Xots) -> None:
    """``--version`` prints it and ends."""
    assert xots("--version") == Ended(0, f"xots {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "70000"], "--port"),
        (["-p", "http"], "--port"),
        (["-n", "example.com"], "--address"),
        (["-r", "http://localhost:5001/elsewhere"], "--redirect"),
        (["-o", "accounting.transactions"], "--scopes"),
        (["-m", "0"], "--refreshmins"),
        (["--token-url", "nonsense"], "--token-url"),
        (["--config", "/nonexistent/xots.yaml"], "--config"),
        (["--prot", "5001"], "--prot"),
        (["nosuchcommand"], "the first argument is no command"),
        (["-p"], "port"),
        (["demo", "--port", "x"], "--port"),
        (["demo", "--access-token-life", "0"], "--access-token-life"),
        (["sandbox", "--port", "70000"], "--port"),
        (["key"], "ACTION"),
        (["key", "burn"], "ACTION"),
    ],
)
def test_a_bad_value_is_reported_on_stderr_with_status_2(
    xots: Xots, arguments: list[str], named: str
) -> None:
    """A sentence names it; stdout stays empty, and there is no traceback."""
    ended = xots(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert named in ended.err
    assert "Traceback" not in ended.err


def test_a_mistyped_command_is_answered_with_the_nearest_one(xots: Xots) -> None:
    """The message names the command that was probably meant, and where all of them are listed."""
    reason = xots("tokn").reason(status=2)
    assert "did you mean token?" in reason
    assert "xots -h" in reason


def test_the_installed_command_shows_its_help() -> None:
    """``xots -h`` as a process of its own ends with status 0."""
    ended = process("-h")
    assert ended.status == 0
    assert ended.out.startswith("usage: xots")
    assert ended.err == ""


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    """``xots -h | true`` writes neither a traceback nor a complaint of the interpreter."""
    with subprocess.Popen(
        [XOTS, "key", "new"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        assert command.stderr.read() == ""
    assert command.returncode == 1


def test_a_command_runs_with_stdout_closed() -> None:
    """A service can run without stdout. The command ends as it would with one."""
    ended = subprocess.run(
        ["sh", "-c", f"{XOTS} key new >&-"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_package_can_be_run_as_a_module() -> None:
    """``python -m xots`` is the same command."""
    ended = subprocess.run(
        [sys.executable, "-m", "xots", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"xots {__version__}\n"
