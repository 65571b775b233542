"""``xots check``: a finding for each subject, and the exit status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Ended, process
from support.redis_servers import free_port
from support.thread_servers import sandbox_in_thread

from xots.sandbox import Sandbox


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the test run sets nothing here."""
    for name in list(os.environ):
        if name.startswith("XOTS_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A simulated Xero in a thread, by the real clock."""
    with sandbox_in_thread() as (_, sandbox):
        yield sandbox


def lines_by_subject(ended: Ended) -> dict[str, str]:
    """Return the lines of ``xots check`` by subject, which is the second word."""
    return {line.split()[1]: line for line in ended.out.splitlines()}


def test_check_reports_each_subject_that_is_in_order(sandbox: Sandbox) -> None:
    """One line for each: settings, store, key, redirect, Xero. The status is 0, and Xero gets no
    token request."""
    before = len(sandbox.log)
    ended = process(
        "check",
        "--token-url",
        sandbox.token_url,
        "-p",
        "6001",
        XOTS_CLIENT_ID="C",
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (0, "")
    found = lines_by_subject(ended)
    assert {"settings", "store", "key", "redirect", "xero"} <= found.keys()
    assert all(line.startswith("ok") for line in found.values())
    assert "http://localhost:6001/code" in found["redirect"]
    assert "XOTS_CLIENT_ID" in found["settings"]
    assert "--token-url" in found["settings"]
    assert sandbox.token_url in found["xero"]
    assert not [one for one in sandbox.log[before:] if one.grant_type]


def test_check_warns_of_a_secret_that_other_users_can_read(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The line has the remedy, and the status stays 0."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    ended = process(
        "check",
        "--token-url",
        sandbox.token_url,
        XOTS_CLIENT_ID="C",
        XOTS_CLIENT_SECRET_FILE=str(secret),
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (0, "")
    [warning] = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert warning.split()[:2] == ["warn", "files"]
    assert warning.endswith(f"chmod 600 {secret}")


def test_check_reports_an_unreachable_token_url() -> None:
    """That line has the reason, the others stay in order, and the status is 1."""
    ended = process(
        "check",
        "--token-url",
        f"http://127.0.0.1:{free_port()}/connect/token",
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (1, "")
    bad = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert len(bad) == 1
    assert bad[0].startswith("FAIL")
    assert "127.0.0.1" in bad[0]
    assert "refused" in bad[0]


def test_check_reports_all_bad_settings_with_status_2() -> None:
    """As at a start, there is a sentence for each, with its source."""
    ended = process("check", "-p", "70000", "--token-url", "nonsense", "--store", "nosuch://x")
    assert (ended.status, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert [
        sum(source in line for line in lines) for source in ("--port", "--token-url", "--store")
    ] == [1, 1, 1]
    assert len(lines) == 3


def test_check_shows_no_secret(sandbox: Sandbox) -> None:
    """It reports the source of the secret, and not the secret."""
    ended = process(
        "check",
        "--token-url",
        sandbox.token_url,
        XOTS_CLIENT_ID="C",
        XOTS_CLIENT_SECRET="secret-canary",
        XOTS_STORE="memory:",
    )
    assert ended.status == 0
    assert "secret-canary" not in ended.out + ended.err
    assert "XOTS_CLIENT_SECRET" in ended.out
