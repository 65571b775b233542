"""``xots sandbox`` as a process."""

from __future__ import annotations

import argparse
import html
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    FaultKind,
    SiblingMode,
    User,
)
from xots.sandbox.command import add_arguments, run
from xots.sandbox.identity.clients import MAX_DEFAULT_USERS, default_users

PROGRAM = """
import argparse, sys
from xots.sandbox.command import add_arguments, run
parser = argparse.ArgumentParser("xots sandbox")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start the command on a free port. Yield the process and its printed settings."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            settings: dict[str, str] = {}
            for line in process.stdout:
                name, _, value = line.strip().partition(": ")
                # The second block of settings is that of the custom connection.
                settings[f"custom {name}" if name in settings else name] = value
                if line.startswith("Stop with"):
                    break
            yield process, settings
        finally:
            process.kill()


def failing(*options: str) -> tuple[int, str]:
    """Run the command until it fails. Return its exit status and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_settings_and_requests_and_stops_at_a_signal(
    number: signal.Signals,
) -> None:
    """It exits with status 0 within five seconds, and no line has the token."""
    with running("--fault", "refresh:every:500-html") as (process, settings):
        assert settings["client_id"] == DEFAULT_CLIENT_ID
        assert settings["client_secret"] == DEFAULT_CLIENT_SECRET
        assert settings["redirect"] == "http://localhost:5001/code"
        assert settings["Fault"] == "refresh:every:500-html"
        form = {"grant_type": "refresh_token", "refresh_token": "canary-token"}
        assert requests.post(settings["token_url"], form, timeout=5).status_code == 500
        process.send_signal(number)
        out, err = process.communicate(timeout=5)
    assert process.returncode == 0
    assert err == ""
    assert "POST /connect/token 500 faulted" in out
    assert "fault=500-html" in out
    assert "canary-token" not in out


def test_the_options_reach_the_sandbox() -> None:
    """They set lifetimes, modes, organisations, redirect URIs, new apps and consent."""
    options = ["--auto-consent", "--new-app", "--late-reuse-kills-chain", "--seed", "7"]
    options += ["--pkce-client", "P", "--client-id", "C"]
    options += ["--siblings", "last-valid", "--access-token-life", "60", "--grace-minutes", "1.5"]
    options += [
        "--refresh-token-life-days",
        "2",
        "--organisation",
        "Mine",
        "--redirect-uri",
        "http://localhost:9/x",
    ]
    with running(*options) as (_, settings):
        base = settings["token_url"].removesuffix("/connect/token")
        switches = requests.get(f"{base}/sandbox/switches", timeout=5).json()
        assert switches["sibling_mode"] == "last-valid"
        assert switches["late_reuse_kills_chain"] is True
        assert switches["access_token_life_seconds"] == 60
        assert switches["grace_seconds"] == 90
        assert switches["refresh_token_life_seconds"] == 2 * 86400
        query = {"response_type": "code", "client_id": "C", "redirect_uri": "http://localhost:9/x"}

        def location(scope: str) -> str:
            changed = {**query, "scope": scope}
            response = requests.get(
                settings["authorize_url"], changed, allow_redirects=False, timeout=5
            )
            return response.headers["Location"]

        assert location("accounting.invoices").startswith("http://localhost:9/x?code=")
        assert location("accounting.transactions") == "/identity/error?errorId=invalid-scope"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["Ada Sandbox", "Ben Sandbox"]),
        (["--users", "1"], ["Ada Sandbox"]),
        (["--users", "3"], ["Ada Sandbox", "Ben Sandbox", "Cleo Sandbox"]),
    ],
)
def test_the_command_has_two_users_or_as_many_as_the_option_says(
    options: list[str], names: list[str]
) -> None:
    """It prints their names, and the address of the page with their connected apps."""
    with running(*options) as (_, settings):
        assert settings["Users"] == ", ".join(names)
        page = requests.get(settings["Connected apps of each user"], timeout=5).text
        assert re.findall("<h2>(.*)</h2>", page) == [*names, "Custom connections"]


@pytest.mark.parametrize(
    ("options", "client_id", "organisation"),
    [
        ([], DEFAULT_CUSTOM_CLIENT_ID, "Demo Company (NZ)"),
        (["--new-app", "--custom-client", "A&B", "--organisation", "Mine"], "A&B", "Mine"),
    ],
)
def test_the_printed_custom_connection_works_for_the_first_organisation_alone(
    options: list[str], client_id: str, organisation: str
) -> None:
    """Its token needs no tenant header, and the start page names both."""
    with running(*options) as (_, settings):
        for url in ("authorize_url", "token_url", "revoke_url", "connections_url"):
            assert settings[f"custom {url}"] == settings[url]
        assert settings["custom client_id"] == client_id
        form = {"grant_type": settings["grant"], "scope": settings["scopes"]}
        client = (quote_plus(client_id), settings["custom client_secret"])
        issued = requests.post(settings["token_url"], form, auth=client, timeout=5).json()
        assert "refresh_token" not in issued
        bearer = {"Authorization": f"Bearer {issued['access_token']}"}

        def read(url: str) -> Any:
            return requests.get(url, headers=bearer, timeout=5).json()

        assert [row["tenantName"] for row in read(settings["connections_url"])] == [organisation]
        api_url = settings["Accounting API"].split()[0]
        assert read(f"{api_url}/Organisation")["Organisations"][0]["Name"] == organisation
        assert len(read(f"{api_url}/Contacts")["Contacts"]) == 4
        assert len(read(f"{api_url}/Invoices")["Invoices"]) == 5
        page = requests.get(settings["Connected apps of each user"], timeout=5).text
        assert f"<li><code>{html.escape(client_id)}</code>: {organisation}</li>" in page


def test_default_users_are_distinct_and_the_first_one_is_the_default_user() -> None:
    """A consent without a choice is by that user, as before the option."""
    users = default_users(MAX_DEFAULT_USERS)
    assert users[0] == User()
    assert len({user.user_id for user in users}) == len(users) == 8
    assert len({user.email for user in users}) == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fault", "refresh:every:explode"], ", ".join(FaultKind)),
        (["--siblings", "nonsense"], ", ".join(SiblingMode)),
        (["--port", "70000"], "must be a port"),
        (["--redirect-uri", "localhost/code"], "must be a redirect URI"),
        (["--access-token-life", "0"], "seconds from 1 up"),
        (["--users", "0"], "number of users from 1 to 8"),
        (["--users", "9"], "number of users from 1 to 8"),
        (["--users", "two"], "number of users from 1 to 8"),
        (["--grace-minutes", "soon"], "must be a number above 0"),
        (["--client-secret", ""], "must not be empty"),
    ],
)
def test_a_bad_value_is_a_message_and_status_2(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option and the valid values."""
    parser = argparse.ArgumentParser("xots sandbox")
    add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(options)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"argument {options[0]}:" in error
    assert said in error


def test_a_bad_fault_rule_ends_the_process_without_a_traceback() -> None:
    """The message lists the kinds."""
    status, error = failing("--fault", "refresh:nth=2:explode")
    assert status == 2
    assert "unknown fault 'explode'; the kinds are: delay-before" in error


def test_a_port_in_use_is_a_message_and_status_1() -> None:
    """The message names the port and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, error = failing("--port", str(port))
    assert status == 1
    assert (
        f"can't listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another with --address or --port" in error
    )


def test_a_foreign_address_is_a_message_and_status_1() -> None:
    """The message names the address."""
    status, error = failing("--port", "0", "--address", "192.0.2.1")
    assert status == 1
    assert "can't listen on 192.0.2.1 port 0: Cannot assign requested address" in error


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("--client-id", "--pkce-client"),
        ("--client-id", "--custom-client"),
        ("--pkce-client", "--custom-client"),
    ],
)
def test_two_apps_with_one_client_id_are_a_message_and_status_2(
    one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second app would replace the first."""
    parser = argparse.ArgumentParser("xots sandbox")
    add_arguments(parser)
    assert run(parser.parse_args([one, "SAME", other, "SAME"])) == 2
    assert f"{one} and {other} are both SAME; give each app an id" in capsys.readouterr().err
