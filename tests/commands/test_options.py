"""The settings as options: their help, their sources and their errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import Ended

from xots.server import Server

Xots = Callable[..., Ended]

SECRET = "hunter2-canary"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_shows_the_options_of_the_first_server_with_its_defaults(
    xots: Xots, flag: str
) -> None:
    """Letters, names, words and defaults are those of the first server's document."""
    ended = xots(flag)
    assert (ended.status, ended.err) == (0, "")
    text = re.sub(r"\s+", " ", ended.out)
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
            rf" -{letter}\b[^-]*, --{name}\b[^-]*? {re.escape(words)}[^()]* "
            rf"\(default: {re.escape(default)}\)",
            text,
        ), name
    assert re.search(r" -h, --help ", text)


def test_no_help_offers_an_option_for_a_secret(xots: Xots) -> None:
    """All users of the machine see the process list. A file that holds a secret can be named."""
    assert not re.search(r"--client-secret(?!-file)", xots("-h").out)


def test_all_bad_values_are_reported_at_once(
    xots: Xots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is one line for each, with its source, from all sources together."""
    config = tmp_path / "xots.yaml"
    config.write_text("tick: never\n")
    monkeypatch.setenv("XOTS_PKCE", "perhaps")
    ended = xots("-p", "70000", "-m", "0", "--config", str(config))
    assert ended.status == 2
    lines = ended.err.splitlines()
    assert len(lines) == 4
    for source in ("--port", "--refreshmins", "XOTS_PKCE", str(config)):
        assert len([line for line in lines if source in line]) == 1


def test_the_config_file_can_be_named_in_the_environment(
    xots: Xots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``XOTS_CONFIG`` names it if ``--config`` does not."""
    config = tmp_path / "xots.yaml"
    config.write_text("port: nonsense\n")
    monkeypatch.setenv("XOTS_CONFIG", str(config))
    ended = xots()
    assert ended.status == 2
    assert str(config) in ended.err


@pytest.mark.parametrize("arguments", [["--client-secret", SECRET], [f"--client-secret={SECRET}"]])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    xots: Xots, arguments: list[str]
) -> None:
    """The message names the sources for a secret. It does not carry the secret into a log."""
    ended = xots("--client-id", "C", *arguments)
    assert ended.status == 2
    assert "client-secret" in ended.err
    assert SECRET not in ended.err
    assert "environment" in ended.err


def test_scopes_given_several_times_are_joined(xots: Xots, tmp_path: Path) -> None:
    """The first server's option is a list. Each text can hold several scopes."""
    options = (
        *("-o", "offline_access", "--scopes", "a.read, b"),
        *("-o=b c", "--store", f"file://{tmp_path}/store", "--token-url", "http://127.0.0.1:1/"),
        *("--authorize-url", "http://127.0.0.1:1/"),
    )
    found = [line.split() for line in xots("check", *options).out.splitlines()]
    assert ["ok", "scopes", "offline_access", "a.read", "b", "c"] in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "6001", "-p", "6001"],
        ["-p", "6001", "--port=6002"],
        ["--tenant-id", SECRET, "--tenant-id", SECRET],
    ],
)
def test_another_option_given_twice_is_refused(xots: Xots, arguments: list[str]) -> None:
    """The last value would win unnoticed. The message repeats none."""
    ended = xots("check", *arguments)
    assert ended.status == 2
    assert "must be given only once" in ended.err
    assert SECRET not in ended.err


@pytest.mark.parametrize("source", ["environment", "config"])
def test_the_address_of_the_server_comes_from_all_sources(
    connected: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xots: Xots, source: str
) -> None:
    """The commands find the server at the port that its own settings give it."""
    if source == "environment":
        monkeypatch.setenv("XOTS_PORT", str(connected.port))
        assert xots("token").status == 0
    else:
        config = tmp_path / "xots.yaml"
        # The command ignores the other settings of the file: it may have no right to read the
        # files that they name.
        config.write_text(
            f"port: {connected.port}\nclient_id: C\nclient_secret_file: /nonexistent\n"
        )
        assert xots("token", "--config", str(config)).status == 0
