"""``xots check``: a finding for each subject, and the exit status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace as with_settings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.command_line import Ended, process
from support.redis_servers import free_port
from support.thread_servers import sandbox_in_thread

from xots.check import login_finding
from xots.lifecycle.account import (
    AccessToken,
    Account,
    Entry,
    Intent,
    Problem,
    ProblemKind,
    RefreshToken,
)
from xots.lifecycle.record_json import encode
from xots.sandbox import Sandbox
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.settings import Settings


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


ADDED = datetime.now(UTC)


def write_record(
    folder: Path, key: Secret, name: str, token_url: str = "https://id.example", **fields: Any
) -> None:
    """Write the record of an account to the file store in ``folder``."""
    store = folder / "store"
    store.mkdir(mode=0o700, exist_ok=True)
    if not fields.get("removed"):
        current = RefreshToken(value=Secret("r"), obtained_at=ADDED)
        fields |= {"consent_id": "c", "consented_at": ADDED, "current": current}
    account = Account(**{"token_url": token_url, **fields})
    path = store / f"{name}.sealed"
    path.write_bytes(Sealer([key]).seal(encode(account), "account", {"name": name}))
    path.chmod(0o600)


def lines_by_subject(ended: Ended) -> dict[str, str]:
    """Return the lines of ``xots check`` by subject, which is the second word."""
    return {line.split()[1]: line for line in ended.out.splitlines()}


def lines_of(ended: Ended) -> list[str]:
    """Return the lines of ``xots check``, with one space between words."""
    return [" ".join(line.split()) for line in ended.out.splitlines()]


def at(sandbox: Sandbox) -> tuple[str, ...]:
    """Return the options of an identity server in place of Xero."""
    return ("--token-url", sandbox.token_url, "--authorize-url", sandbox.authorize_url)


def test_check_reports_each_subject_that_is_in_order(sandbox: Sandbox) -> None:
    """One line for each: settings, store, key, redirect, Xero. The status is 0, and Xero gets no
    token request."""
    before = len(sandbox.log)
    ended = process(
        "check",
        *at(sandbox),
        "-p",
        "6001",
        XOTS_CLIENT_ID="C",
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (0, "")
    found = lines_by_subject(ended)
    assert {"settings", "access", "store", "key", "redirect", "xero"} <= found.keys()
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
        *at(sandbox),
        XOTS_CLIENT_ID="C",
        XOTS_CLIENT_SECRET_FILE=str(secret),
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (0, "")
    [warning] = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert warning.split()[:2] == ["warn", "files"]
    assert warning.endswith(f"chmod 600 {secret}")


def test_check_says_who_may_read_the_token(sandbox: Sandbox, tmp_path: Path) -> None:
    """The line names the users and counts the keys. ``anyone`` is a warning."""
    readers = tmp_path / "readers"
    assert process("reader", "add", "report", "--readers", str(readers)).status == 0
    for setting, words in (
        ("", "ok access every program of every user on this machine (set readers or "),
        ("anyone", "warn access every program of every user on this machine (readers: anyone); "),
        (str(readers), f"ok access programs with the only key of {readers} (token: 1, admin: 0)"),
    ):
        given = {"XOTS_READERS": setting} if setting else {}
        ended = process("check", *at(sandbox), XOTS_STORE="memory:", **given)
        assert ended.status == 0
        [line] = [line for line in lines_of(ended) if line.split()[1] == "access"]
        assert line.startswith(words)
    settings = {"XOTS_ALLOWED_USERS": "0", "XOTS_STORE": "memory:"}
    assert "ok access programs, if they run as user root (0)" in lines_of(
        process("check", *at(sandbox), **settings)
    )


def test_check_fails_for_readers_that_can_not_be_used(sandbox: Sandbox, tmp_path: Path) -> None:
    """The line has the reason and the remedy. The others follow."""
    readers = tmp_path / "readers"
    for content, mode, words in (
        (None, 0, "XOTS_READERS: no such file: make it with xots reader add"),
        ("report token\n", 0o600, f"XOTS_READERS: {readers}: line 1: this is no reader"),
        ("", 0o622, f"XOTS_READERS: the file is not safe: {readers} is open to other users"),
    ):
        if content is not None:
            readers.write_text(content)
            readers.chmod(mode)
        ended = process("check", *at(sandbox), XOTS_READERS=str(readers), XOTS_STORE="memory:")
        assert (ended.status, ended.err) == (1, "")
        [line] = [line for line in lines_of(ended) if not line.startswith("ok")]
        assert line.startswith(f"FAIL access {words}")


def test_check_reports_an_unreachable_token_url() -> None:
    """That line has the reason, the others stay in order, and the status is 1."""
    ended = process(
        "check",
        "--token-url",
        f"http://127.0.0.1:{free_port()}/connect/token",
        "--authorize-url",
        "http://127.0.0.1/identity/connect/authorize",
        XOTS_STORE="memory:",
    )
    assert (ended.status, ended.err) == (1, "")
    bad = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert len(bad) == 1
    assert bad[0].startswith("FAIL")
    assert "127.0.0.1" in bad[0]
    assert "refused" in bad[0]


def test_check_checks_each_account_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    """Accounts of the YAML file and of the store have a line each. A record that cannot be opened,
    and one of another client, fail the check and stop it for no other."""
    key = new_key()
    write_record(
        tmp_path,
        key,
        "added",
        sandbox.token_url,
        client_id="D",
        entry=Entry(client_id="D", added_at=ADDED),
    )
    write_record(tmp_path, key, "mismatch", client_id="other")
    write_record(tmp_path, key, "gone", removed=True)
    write_record(tmp_path, new_key(), "sealed-elsewhere")
    config = tmp_path / "xots.yaml"
    config.write_text(
        f"token_url: {sandbox.token_url}\nauthorize_url: {sandbox.authorize_url}\n"
        f"client_id: C\nstore: file://{tmp_path}/store\n"
        "accounts: {smith: {client_id: E, client_secret: hunter2-canary}}\n"
    )
    config.chmod(0o600)
    ended = process("check", "--config", str(config), XOTS_KEY=key.reveal())
    assert (ended.status, ended.err) == (1, "")
    lines = lines_of(ended)
    for beginning in (
        "ok client C, without a secret",
        "ok client smith: E, with a secret",
        "FAIL key opens 3 of 4 records",
        "FAIL record sealed-elsewhere: ",
        "ok login default: not-logged-in",
        "ok login smith: not-logged-in",
        "ok login added: ",
        "FAIL login mismatch: ",
        "ok xero ",
    ):
        assert len([line for line in lines if line.startswith(beginning)]) == 1, beginning
    assert not [line for line in lines if "gone" in line]
    assert "hunter2-canary" not in ended.out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "opens all records of removed accounts; there are no others"),
        (("added",), "opens all records of the store (added)"),
    ],
)
def test_the_line_of_the_key_names_no_removed_account(
    sandbox: Sandbox, tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    """Its record stays, and holds no login."""
    key = new_key()
    for name in names:
        write_record(tmp_path, key, name, sandbox.token_url, client_id="C")
    write_record(tmp_path, key, "gone", removed=True)
    ended = process(
        "check",
        *at(sandbox),
        XOTS_KEY=key.reveal(),
        XOTS_CLIENT_ID="C",
        XOTS_STORE=f"file://{tmp_path}/store",
    )
    assert (ended.status, ended.err) == (0, "")
    assert " ".join(lines_by_subject(ended)["key"].split()) == f"ok key {said}"


def test_check_requests_each_identity_server(sandbox: Sandbox, tmp_path: Path) -> None:
    """Those of the accounts too, each once."""
    url = f"http://127.0.0.1:{free_port()}/token"
    other = f"token_url: {url}, authorize_url: {url}"
    config = tmp_path / "xots.yaml"
    config.write_text(
        f"token_url: {sandbox.token_url}\nauthorize_url: {sandbox.authorize_url}\n"
        "store: 'memory:'\n"
        f"accounts: {{a: , b: {{{other}}}, c: {{{other}}}}}\n"
    )
    ended = process("check", "--config", str(config))
    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.status == 1
    found = [line[:2] for line in lines if line[1] in ("xero", "server")]
    assert found == [["ok", "xero"], ["FAIL", "server"]]


def test_check_tells_what_is_assumed_of_another_identity_server(tmp_path: Path) -> None:
    """Its grace period, once for each value, with a warning for the default; and how the client
    authenticates there. The redirect URI is for that server."""
    url = f"http://127.0.0.1:{free_port()}/token"
    config = tmp_path / "xots.yaml"
    config.write_text(
        f"token_url: {url}\nauthorize_url: {url}\nclient_id: C\nclient_auth: post\n"
        "store: 'memory:'\naccounts:\n  a:\n"
        f"  b: {{token_url: '{url}b', authorize_url: '{url}', grace: 0}}\n"
        "  c: {grace: 60}\n"
    )
    lines = lines_of(process("check", "--config", str(config)))
    assert [line for line in lines if line.split()[1] in ("client", "grace", "redirect")] == [
        "ok client C, without a secret, as a PKCE app; it authenticates in the form (client_auth: "
        "post)",
        "ok client b: no client id is set: the user enters it in the form",
        "ok redirect register exactly this redirect URI at the identity server: "
        "http://localhost:5001/code",
        "warn grace default: a spent refresh token counts as accepted again for 1800 seconds (the "
        "default); set grace: 0 if the server ends a login at a second use",
        "ok grace b: a spent refresh token counts as never accepted again (grace: 0)",
        "ok grace c: a spent refresh token counts as accepted again for 60 seconds; set grace: 0 "
        "if the server ends a login at a second use",
    ]
    assert "ok scopes none are requested" in lines


def test_check_names_accounts_without_logins(sandbox: Sandbox, tmp_path: Path) -> None:
    """They need no redirect URI, and it is of no importance whether a token is accepted again."""
    config = tmp_path / "xots.yaml"
    account = "{grant: client_credentials, client_id: D, client_secret: hunter2-canary}"
    servers = f"token_url: {sandbox.token_url}\nauthorize_url: {sandbox.authorize_url}\n"
    config.write_text(f"{servers}store: 'memory:'\naccounts: {{a: {account}}}\n")
    config.chmod(0o600)
    ended = process("check", "--config", str(config))
    assert (ended.status, ended.err) == (0, "")
    assert "ok grant a: client_credentials: no user logs in" in lines_of(ended)
    assert "at Xero: http://localhost:5001/code" in lines_by_subject(ended)["redirect"]
    config.write_text(
        f"token_url: {sandbox.token_url}\nstore: 'memory:'\ngrant: client_credentials\n"
        "client_id: D\nclient_secret: hunter2-canary\n"
    )
    ended = process("check", "--config", str(config))
    assert (ended.status, ended.err) == (0, "")
    found = lines_by_subject(ended)
    assert {"grant", "server"} <= found.keys()
    assert not {"redirect", "grace", "xero"} & found.keys()


def test_check_calls_no_client_without_logins_a_pkce_app(sandbox: Sandbox) -> None:
    """PKCE protects a login. This client authenticates by its id alone."""
    ended = process(
        "check",
        *at(sandbox),
        "--grant",
        "client_credentials",
        "--client-auth",
        "none",
        XOTS_CLIENT_ID="C",
        XOTS_STORE="memory:",
    )
    words = "ok client C, without a secret; it authenticates by its id alone (client_auth: none)"
    assert words in lines_of(ended)


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
        *at(sandbox),
        XOTS_CLIENT_ID="C",
        XOTS_CLIENT_SECRET="secret-canary",
        XOTS_STORE="memory:",
    )
    assert ended.status == 0
    assert "secret-canary" not in ended.out + ended.err
    assert "XOTS_CLIENT_SECRET" in ended.out


NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
FAILED = Problem(kind=ProblemKind.UNKNOWN, detail="reset", at=NOW - timedelta(minutes=1))
REFUSED = Problem(
    kind=ProblemKind.CLIENT_REFUSED, detail="invalid_client", at=NOW, without_user=True
)


def stored_login(**fields: Any) -> Account:
    """Return a login whose only refresh was started two minutes ago and got no response."""
    began = NOW - timedelta(minutes=2)
    refresh = RefreshToken(value=Secret("r"), obtained_at=began, first_spent_at=began)
    access = AccessToken(value=Secret("a"), issued_at=began, expires_at=NOW + timedelta(minutes=28))
    account = Account(
        client_id="C",
        token_url=OTHER.token_url,
        consent_id="c",
        current=refresh,
        access=access,
        intent=Intent(
            fingerprint=refresh.fingerprint, by="h:1", began_at=began, set_first_spent=True
        ),
        failed_attempts=1,
        problem=FAILED,
    )
    return replace(account, **fields)


OTHER = Settings(
    client_id="C",
    token_url="https://id.example/token",
    authorize_url="https://id.example/login",
    grace=0,
)


def test_check_warns_of_a_login_whose_refreshes_fail() -> None:
    """With strict reuse detection, a user must log in before the last attempt."""
    found = login_finding(OTHER, stored_login(), NOW)
    assert (found.failed, found.warned) == (False, True)
    assert found.text.startswith("default: refresh-failing, ")
    assert found.text.endswith("; log in before 09:28:00 UTC")
    found = login_finding(with_settings(OTHER, grace=1800), stored_login(), NOW)
    assert found.warned
    assert "log in" not in found.text
    connected = stored_login(intent=None, failed_attempts=0, problem=None)
    assert not login_finding(with_settings(OTHER, grace=1800), connected, NOW).warned


def test_check_names_a_client_that_was_refused_before_its_first_token() -> None:
    """The problem is told. An account that has requested nothing yet has none."""
    own = with_settings(OTHER, grant="client_credentials", client_secret=Secret("s"))
    account = Account(client_id="C", token_url=OTHER.token_url, failed_attempts=1, problem=REFUSED)
    found = login_finding(own, account, NOW)
    assert (found.failed, found.warned) == (False, True)
    assert found.text.startswith("default: no access token is stored, ")
    assert "invalid_client" in found.text
    found = login_finding(own, Account(), NOW)
    assert (found.warned, found.text) == (False, "default: no access token was requested yet")


def test_check_tells_of_a_login_of_other_settings_only_that_they_differ() -> None:
    """Whether its tokens can be used is known to the settings of that login alone."""
    refused = RefreshToken(value=Secret("r"), obtained_at=NOW, refused_at=NOW)
    lost = stored_login(intent=None, current=refused)
    assert "the login is lost" in login_finding(OTHER, lost, NOW).text
    found = login_finding(with_settings(OTHER, client_id="D"), lost, NOW)
    assert found.failed
    assert "belongs to another client" in found.text
    assert "the login is lost" not in found.text
