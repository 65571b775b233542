"""The command line: its help, its errors and its exit statuses."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xots import __version__
from xots.commands.main import main

SECRET = "hunter2-canary"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests sets nothing here, and lines are not wrapped."""
    for name in list(os.environ):
        if name.startswith("XOTS_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def status_of(*arguments: str) -> int:
    """The exit status of ``xots`` with these arguments, run in this process."""
    try:
        return main(arguments)
    except SystemExit as ended:  # argparse ends so
        return ended.code if isinstance(ended.code, int) else 1


def shown_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert status_of(*arguments) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return re.sub(r"\s+", " ", shown.out)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_shows_the_first_servers_options_with_its_defaults(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """Letters, names, words and defaults of the document that the server was asked for with."""
    text = shown_help(capsys, flag)
    for letter, name, words, default in (
        ("p", "port", "port to run on", "5001"),
        ("n", "address", "network address to run on", "127.0.0.1"),
        ("r", "redirect", "oauth2 redirect address", "http://localhost:5001/code"),
        (
            "o",
            "scopes",
            "oauth2 scopes",
            "offline_access, accounting.transactions, accounting.reports.read",
        ),
        ("m", "refreshmins", "set lifetime of refresh token (default 50 days)", "72000"),
    ):
        assert re.search(
            rf" -{letter}\b[^-]*, --{name}\b[^-]*? {re.escape(words)}[^()]* \(default: {re.escape(default)}\)",
            text,
        ), name
    assert re.search(r" -h, --help ", text)


def test_the_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for help learns of the demo and the sandbox."""
    text = shown_help(capsys, "-h")
    for command in ("serve", "demo", "sandbox"):
        assert re.search(rf" {command} +\w", text)


@pytest.mark.parametrize("command", ["serve", "demo", "sandbox"])
def test_every_command_has_a_help_of_its_own(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """``xots COMMAND -h`` explains that command."""
    assert "usage: xots" in shown_help(capsys, command, "-h")


def test_no_help_offers_an_option_for_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """What the process list shows to everybody is no place for one; a file that holds it may be named."""
    assert not re.search(r"--client-secret(?!-file)", shown_help(capsys, "-h"))


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints it and ends."""
    assert status_of("--version") == 0
    assert capsys.readouterr().out.strip() == f"xots {__version__}"


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
        (["--config", "/nonexistent/xots.yaml"], "/nonexistent/xots.yaml"),
        (["--prot", "5001"], "--prot"),
        (["nosuchcommand"], "nosuchcommand"),
        (["-p"], "port"),
        (["demo", "--port", "x"], "--port"),
        (["demo", "--access-token-life", "0"], "--access-token-life"),
        (["sandbox", "--port", "70000"], "--port"),
    ],
)
def test_a_bad_value_is_told_on_stderr_with_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """One sentence that names it; nothing on stdout, and no traceback."""
    assert status_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert named in shown.err
    assert "Traceback" not in shown.err


def test_all_bad_values_are_told_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A line for each, with its source, from all sources together."""
    config = tmp_path / "xots.yaml"
    config.write_text("tick: never\n")
    monkeypatch.setenv("XOTS_PKCE", "perhaps")
    assert status_of("-p", "70000", "-m", "0", "--config", str(config)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for source in ("--port", "--refreshmins", "XOTS_PKCE", str(config)):
        assert len([line for line in lines if source in line]) == 1


def test_the_config_file_may_be_named_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``XOTS_CONFIG`` names it where ``--config`` does not."""
    config = tmp_path / "xots.yaml"
    config.write_text("port: nonsense\n")
    monkeypatch.setenv("XOTS_CONFIG", str(config))
    assert status_of() == 2
    assert str(config) in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--client-secret", SECRET], [f"--client-secret={SECRET}"]])
def test_a_secret_on_the_command_line_is_refused_without_repeating_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """The message says where a secret may stand instead; it does not carry it on into a log."""
    assert status_of("--client-id", "C", *arguments) == 2
    shown = capsys.readouterr().err
    assert "client-secret" in shown
    assert SECRET not in shown
    assert "environment" in shown


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["demo", "--sandbox-port", "0"], ["sandbox"]], ids=str
)
def test_a_port_in_use_is_a_clear_error(command: list[str], taken_port: int) -> None:
    """The process says that the port is taken and how to choose another, and ends with status 1."""
    flag = "--port" if command == ["sandbox"] else "-p"
    ended = subprocess.run(
        [sys.executable, "-m", "xots", *command, flag, str(taken_port)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert str(taken_port) in ended.stderr
    assert "--port" in ended.stderr


def test_the_installed_command_shows_its_help() -> None:
    """``xots -h`` as a process of its own ends with status 0."""
    command = Path(sys.executable).with_name("xots")
    ended = subprocess.run([command, "-h"], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: xots")
    assert ended.stderr == ""
