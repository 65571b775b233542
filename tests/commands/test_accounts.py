"""``xots account``, and ``--account`` of the other commands, against a small HTTP server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.command_line import XOTS, Ended, process
from support.stand_in import StandIn, serving

from xots.client import Client
from xots.commands import requesting
from xots.commands.accounts import NEEDED_NOW
from xots.lifecycle.outlook import Need
from xots.lifecycle.policy import Grant
from xots.server import Server

Xots = Callable[..., Ended]

SECRET = "hunter2-canary"

SMITH = {
    "name": "smith",
    "source": "added at run time",
    "state": "connected",
    "organisation": "Smith\u202e & Co",
    "login_needed_at": "2027-01-16T10:00:30Z",
    "attention_for": "rotation",
    "problem": None,
    "shares_with": ["jones"],
}
NEW: dict[str, Any] = {
    "name": "new",
    "source": "the configuration file",
    "state": "not-logged-in",
    "organisation": None,
    "login_needed_at": None,
    "problem": "Xero could not be reached",
    "shares_with": [],
}
TOKEN = {"accessToken": "t0ken", "expiresIn": 1800, "tenantId": "T"}
STATUS = {
    "healthy": True,
    "state": "connected",
    "account": "smith",
    "redirect_uri": "http://localhost:7001/code",
    "revocation_pending": False,
}


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A server with two accounts."""
    with serving(StandIn()) as server:
        server.responses = {
            "GET /accounts": (200, {"accounts": [SMITH, NEW]}),
            "GET /accounts/smith/token": (200, TOKEN),
            "GET /accounts/smith/token?min_ttl=60": (200, TOKEN),
            "GET /accounts/smith/status": (200, STATUS),
            "GET /accounts/smith/tenants": (200, [{"tenantId": "T"}]),
            "POST /accounts/smith/refresh": (303, "/accounts/smith/token"),
            "POST /accounts/smith/logout": (303, "/accounts/smith/"),
            "POST /accounts/smith/revoke": (200, {"status": "revoked"}),
            "POST /accounts/smith/remove": (200, {"status": "removed", "account": "smith"}),
            "POST /accounts": (201, {"status": "added", "account": "smith"}),
            "GET /token": (200, TOKEN | {"accessToken": "default"}),
        }
        yield server


# ---------- --account


@pytest.mark.parametrize(
    ("command", "out", "request_made"),
    [
        (["token"], "t0ken\n", "GET /accounts/smith/token"),
        (["token", "--min-ttl", "60"], "t0ken\n", "GET /accounts/smith/token?min_ttl=60"),
        (["refresh"], "refreshed\n", "POST /accounts/smith/refresh"),
        (["tenants"], "T - -\n", "GET /accounts/smith/tenants"),
        (["login"], "logged in\n", "GET /accounts/smith/status"),
        (["revoke"], "revoked\n", "POST /accounts/smith/revoke"),
        (["logout"], "logged out\n", "POST /accounts/smith/logout"),
    ],
)
@pytest.mark.parametrize("source", ["option", "variable", "file"])
def test_a_command_uses_the_account_that_a_source_names(
    xots: Xots,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: list[str],
    out: str,
    request_made: str,
    source: str,
) -> None:
    """Its requests go to the paths of that account."""
    arguments = ["--port", server.port]
    if source == "option":
        arguments += ["--account", "smith"]
    elif source == "variable":
        monkeypatch.setenv("XOTS_ACCOUNT", "smith")
    else:
        (tmp_path / "xots.yaml").write_text("account: smith\n")
        arguments += ["--config", str(tmp_path / "xots.yaml")]
    assert xots(*command, *arguments) == Ended(0, out, "")
    assert request_made in [request for request, _ in server.requests]
    assert all(request.split()[1].startswith("/accounts/smith/") for request, _ in server.requests)


def test_the_status_of_an_account_is_shown(xots: Xots, server: StandIn) -> None:
    """The fields are those of the account."""
    ended = xots("status", "--json", "--port", server.port, "--account", "smith")
    assert (ended.status, json.loads(ended.out)) == (0, STATUS)


def test_without_an_account_the_paths_are_those_without_a_name(xots: Xots, server: StandIn) -> None:
    """A deployment with one account notices nothing."""
    assert xots("token", "--port", server.port) == Ended(0, "default\n", "")
    assert server.requests == [("GET /token", None)]


def test_login_shows_the_address_of_the_account(server: StandIn) -> None:
    """The user opens the page of that account, at the host of the redirect URI."""
    server.responses["GET /accounts/smith/status"] = (200, STATUS | {"healthy": False})
    program = (
        "import sys; sys.path.insert(0, ''); from xots.commands import requesting as r\n"
        "r.time.sleep = lambda _: sys.exit(9)\n"
        "from xots.commands.main import main; main(sys.argv[1:])"
    )
    arguments = ["login", "--account", "smith", "--port", server.port]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 9
    assert "open http://localhost:7001/accounts/smith/home in a browser" in ended.stdout


@pytest.mark.safeguard(
    file="commands/requesting.py",
    old=' and content.get("attention_for") not in LOGIN_NEEDED',
    new="",
    protects_from="a login that the user does not make in time, since a token is still served",
)
@pytest.mark.parametrize("need", requesting.LOGIN_NEEDED)
def test_login_waits_while_a_user_is_needed_although_a_token_is_served(
    xots: Xots, server: StandIn, monkeypatch: pytest.MonkeyPatch, need: str
) -> None:
    """The last access token lives on for a while. Other reasons for attention need no login."""
    path = "GET /accounts/smith/status"
    server.responses[path] = (200, STATUS | {"attention_for": need})

    def sleep(seconds: float) -> None:
        server.responses[path] = (200, STATUS | {"attention_for": "grace-ends"})

    monkeypatch.setattr(time, "sleep", sleep)
    ended = xots("login", "--account", "smith", "--port", server.port)
    shown, last = ended.out.splitlines()
    assert shown.startswith("open http://localhost:7001/accounts/smith/home")
    assert (ended.status, last, ended.err) == (0, "logged in", "")


def test_login_knows_the_needs_of_the_server() -> None:
    """They are those that a login, or an operator, alone can end."""
    now = {need.value for need in Need if need.is_now}
    assert set(requesting.LOGIN_NEEDED) == now | {Need.LAST_ATTEMPT.value}
    assert requesting.CLIENT_CREDENTIALS == Grant.CLIENT_CREDENTIALS


@pytest.mark.parametrize(
    ("healthy", "ended"),
    [
        (True, Ended(0, "no login is needed (grant: client_credentials)\n", "")),
        (False, Ended(1, "", "It is refused.\nAn operator must act.\n")),
    ],
)
def test_login_waits_for_no_account_without_a_login(
    xots: Xots, server: StandIn, healthy: bool, ended: Ended
) -> None:
    """No user can log in to it. The sentences of the status say what is wrong with it."""
    explanation = ["It is refused.", "An operator must act."]
    fields = {"healthy": healthy, "grant": "client_credentials", "explanation": explanation}
    server.responses["GET /accounts/smith/status"] = (200, STATUS | fields)
    assert xots("login", "--account", "smith", "--port", server.port) == ended


def test_an_account_that_the_server_does_not_have_is_reported(xots: Xots, server: StandIn) -> None:
    """The message is the server's."""
    assert "no such one" in xots("token", "--port", server.port, "--account", "other").reason()


def test_a_server_of_an_earlier_version_is_told_apart(xots: Xots, server: StandIn) -> None:
    """It has no paths of accounts. The message says what is needed."""
    server.responses["GET /accounts/smith/token"] = (
        404,
        {"type": "urn:xots:not-found", "title": "Not Found"},
    )
    ended = xots("token", "--port", server.port, "--account", "smith")
    assert "an earlier version" in ended.reason()


def test_a_malformed_account_is_not_repeated(xots: Xots, server: StandIn) -> None:
    """It may be a misplaced secret. No request is sent."""
    reason = xots("token", "--port", server.port, "--account", "../Smith").reason(status=2)
    assert reason.startswith("xots: --account: the value is not an account name")
    assert "Smith" not in reason
    assert server.requests == []


@pytest.mark.safeguard(
    file="commands/options.py",
    old='        "account": server.account,\n',
    new="",
    protects_from="a script under xots exec that uses the login of another account",
)
def test_exec_passes_a_named_account_on(server: StandIn) -> None:
    """Commands of xots in the program use the same account. Without a name, none is passed on."""
    show = "import os; print(os.environ.get('XOTS_ACCOUNT'))"
    for arguments, shown in ((["--account", "smith"], "smith"), ([], "None")):
        ended = process("exec", "--port", server.port, *arguments, "--", sys.executable, "-c", show)
        assert (ended.out, ended.err) == (f"{shown}\n", "")
    ended = process("exec", "--port", server.port, "--account", "smith", "--", XOTS, "token")
    assert ended.out == "t0ken\n"
    assert server.requests[-1] == ("GET /accounts/smith/token", None)


@pytest.mark.parametrize("tenant", ["T", "Smith & Söhne", "a=b?c#d"])
def test_a_token_can_be_for_an_organisation(xots: Xots, server: StandIn, tenant: str) -> None:
    """The id or the name is quoted in the request. ``exec`` passes the id of the response on."""
    query = urlencode({"min_ttl": 60, "tenant": tenant})
    server.responses[f"GET /accounts/smith/token?{query}"] = (200, TOKEN)
    place = ("--port", server.port, "--account", "smith", "--min-ttl", "60", "--tenant", tenant)
    assert xots("token", *place).out == "t0ken\n"
    show = "import os; print(os.environ['XERO_TENANT_ID'])"
    assert process("exec", *place, "--", sys.executable, "-c", show).out == "T\n"


# ---------- revoke and logout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"status": "ended", "detail": "forgotten here only"}, "forgotten here only"),
        (
            {"status": "disconnected", "shared_with": ["jones"], "detail": "jones stays\u202e"},
            "jones stays\\u202e",
        ),
        ({"status": "disconnected", "shared_with": 5}, "disconnected"),
        (
            {"status": "revocation-pending", "detail": "the token store has not taken that yet"},
            "the token store has not taken that yet",
        ),
    ],
)
@pytest.mark.parametrize("command", ["revoke", "logout"])
def test_an_end_tells_each_outcome(
    xots: Xots, server: StandIn, command: str, content: dict[str, Any], words: str
) -> None:
    """The words are the server's: that alone knows what is pending, and which account shares its
    Xero user."""
    status = 202 if content["status"] == "revocation-pending" else 200
    server.responses[f"POST /accounts/smith/{command}"] = (status, content)
    ended = xots(command, "--port", server.port, "--account", "smith")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith(f"{words}\n")
    assert "confirmed" not in ended.out


def test_the_login_of_an_unusable_account_is_ended_by_the_server(
    xots: Xots, server: StandIn
) -> None:
    """Its settings describe another login. That problem names this command as the remedy."""
    unusable = {"type": "urn:xots:account-unusable", "title": "The account cannot be used"}
    server.responses["GET /accounts/smith/status"] = (503, unusable)
    server.responses["POST /accounts/smith/revoke"] = (
        200,
        {"status": "ended", "detail": "forgotten here only"},
    )
    ended = xots("revoke", "--port", server.port, "--account", "smith")
    assert (ended.status, ended.err) == (0, "")
    assert "forgotten here only" in ended.out


@pytest.mark.parametrize(("command", "done"), [("revoke", "revoked"), ("logout", "logged out")])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("revoked", ""),
        ("ended", ". Forgotten here only"),
        ("revocation-pending", ". Forgotten here only"),
    ],
)
def test_the_accounts_that_are_ended_together_are_named(
    xots: Xots, server: StandIn, command: str, done: str, status: str, words: str
) -> None:
    """The server ends them, and names them in its response."""
    accounts = {"smith\u202e": status, "jones": "revoked"}
    request = f"POST /accounts/smith/{command}?all=true"
    detail = {} if status == "revoked" else {"detail": "forgotten here only"}
    server.responses[request] = (200, {"status": status, "accounts": accounts} | detail)
    ended = xots(command, "--all", "--account", "smith", "--port", server.port)
    assert ended == Ended(0, f"{done}: jones, smith\\u202e{words}\n", "")
    assert request in [request for request, _ in server.requests]


@pytest.mark.parametrize("query", ["", "?all=true"])
def test_revoke_says_that_there_is_no_login(xots: Xots, server: StandIn, query: str) -> None:
    """The words are the server's."""
    content = {"status": "revoked", "detail": "there is no login to revoke"}
    server.responses[f"POST /accounts/smith/revoke{query}"] = (200, content)
    option = ["--all"] if query else []
    ended = xots("revoke", *option, "--port", server.port, "--account", "smith")
    assert ended == Ended(0, "there is no login to revoke\n", "")


def test_logout_tells_what_the_end_leaves_at_xero(xots: Xots, server: StandIn) -> None:
    """The words are the server's."""
    content = {"status": "disconnected", "detail": "jones stays\u202e"}
    server.responses["POST /accounts/smith/logout"] = (200, content)
    ended = xots("logout", "--port", server.port, "--account", "smith")
    assert ended == Ended(0, "logged out: jones stays\\u202e\n", "")


def test_account_remove_tells_what_the_end_leaves_at_xero(xots: Xots, server: StandIn) -> None:
    """The words are the server's."""
    content = {"status": "removed", "account": "smith", "detail": "jones stays\u202e"}
    server.responses["POST /accounts/smith/remove"] = (200, content)
    ended = xots("account", "remove", "smith", "--port", server.port)
    assert ended == Ended(0, "removed smith: jones stays\\u202e\n", "")


@pytest.mark.parametrize("command", ["revoke", "logout"])
def test_the_help_of_an_end_tells_of_shared_logins(xots: Xots, command: str) -> None:
    """An operator must know before the end which other accounts it concerns."""
    words = xots(command, "-h").out
    assert "--all" in words
    assert "other accounts share the client and the Xero user" in words


def test_revoke_without_a_server_reports_a_store_without_the_login(
    xots: Xots, free_port: int
) -> None:
    """Also with ``--all``."""
    for arguments in ([], ["--all"]):
        reason = xots("revoke", *arguments, "--port", str(free_port)).reason()
        assert "no server runs, and the store holds no login" in reason


# ---------- account list


def test_account_list_shows_each_account(xots: Xots, server: StandIn) -> None:
    """One line for each: names from outside are shown safely. Problem and siblings follow it."""
    ended = xots("account", "list", "--port", server.port)
    assert (ended.status, ended.err) == (0, "")
    head, smith, siblings, new, problem = ended.out.splitlines()
    assert head.split("  ")[0] == "name"
    assert " ".join(smith.split()) == (
        "smith connected Smith\\u202e & Co 2027-01-16 10:00 UTC added at run time"
    )
    assert siblings.strip() == "same client and user as: jones"
    assert " ".join(new.split()) == "new not-logged-in - - the configuration file"
    assert problem.strip() == "problem: Xero could not be reached"
    assert head.index("state") == smith.index("connected") == new.index("not-logged-in")


def test_account_list_says_that_a_missing_login_is_needed_now(xots: Xots, server: StandIn) -> None:
    """The time in the list is that of the last look at the record."""
    for need, shown in (
        ("not-logged-in", "now"),
        ("consent-lost", "now"),
        ("client-refused", "now"),
        ("grace-ends", "2027-01-16 10:00 UTC"),
    ):
        accounts = {"accounts": [SMITH | {"attention_for": need}]}
        server.responses["GET /accounts"] = (200, accounts)
        line = xots("account", "list", "--port", server.port).out.splitlines()[1]
        assert f"Smith\\u202e & Co  {shown}" in line


def test_account_list_as_json_is_as_the_server_lists_them(xots: Xots, server: StandIn) -> None:
    """All fields are there."""
    ended = xots("account", "list", "--json", "--port", server.port)
    assert (ended.status, json.loads(ended.out)) == (0, [SMITH, NEW])


@pytest.mark.parametrize(
    "content", [{}, {"accounts": 5}, {"accounts": [5]}, {"accounts": [{"name": "x"}]}, [1]]
)
def test_a_strange_list_of_accounts_is_not_of_xots(
    xots: Xots, server: StandIn, content: object
) -> None:
    """It ends in no traceback."""
    server.responses["GET /accounts"] = (200, content)
    assert "is not xots" in xots("account", "list", "--port", server.port).reason()


# ---------- account add and remove


def test_account_add_sends_the_fields_that_are_given(
    xots: Xots, server: StandIn, tmp_path: Path
) -> None:
    """The secret comes from its file, and is in the body only."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    ended = xots(
        *("account", "add", "smith", "--port", server.port, "--client-id", "D"),
        *("--client-secret-file", str(secret), "--tenant-id", "T"),
        *("--scopes", "offline_access,accounting.contacts", "--scopes", "accounting.settings"),
    )
    assert ended == Ended(0, "added smith. To log in: xots login --account smith\n", "")
    assert server.requests[-1] == (
        "POST /accounts",
        {
            "name": "smith",
            "client_id": "D",
            "client_secret": SECRET,
            "tenant_id": "T",
            "scopes": "offline_access accounting.contacts accounting.settings",
        },
    )
    xots("account", "add", "smith", "--port", server.port)
    assert server.requests[-1] == ("POST /accounts", {"name": "smith"})


WITHOUT_LOGIN = "added smith. It needs no login: xots token --account smith\n"


def test_account_add_shows_how_to_use_an_account_without_a_login(
    xots: Xots, server: StandIn
) -> None:
    """No page could be opened to log in."""
    content = {"status": "added", "account": "smith", "needs_login": False}
    server.responses["POST /accounts"] = (201, content)
    assert xots("account", "add", "smith", "--port", server.port) == Ended(0, WITHOUT_LOGIN, "")


def test_account_add_in_the_store_knows_an_account_without_a_login(
    xots: Xots, free_port: int, tmp_path: Path
) -> None:
    """It inherits the grant of the settings."""
    config = tmp_path / "xots.yaml"
    config.write_text(
        f"grant: client_credentials\nclient_id: C\nclient_secret: {SECRET}\n"
        f"port: {free_port}\nstore: file://{tmp_path}/store\n"
    )
    config.chmod(0o600)
    added = xots("account", "add", "smith", "--config", str(config))
    assert added == Ended(0, WITHOUT_LOGIN, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Smith"], "NAME: the value is not an account name"),
        (["lease-x"], "NAME: the value is not an account name"),
        (["smith", "--client-id", f"{SECRET} x"], "--client-id: the value is empty, or holds"),
        (["smith", "--scopes", f'{SECRET} "'], "--scopes: one of the scopes holds a character"),
        (["smith", "--client-secret-file", f"/{SECRET}"], "--client-secret-file: a client secret"),
        (
            ["smith", "--client-id", "D", "--client-secret-file", f"/{SECRET}"],
            "--client-secret-file: the file can't be read",
        ),
        (["smith", "--client-secret", SECRET], "give --client-secret-file"),
        (["smith", f"--client-secret={SECRET}"], "give --client-secret-file"),
    ],
)
def test_a_wrong_argument_of_account_add_is_not_repeated(
    xots: Xots, server: StandIn, arguments: list[str], words: str
) -> None:
    """The message names it. No request is sent, and the command line takes no secret."""
    ended = xots("account", "add", *arguments, "--port", server.port)
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert SECRET not in ended.err
    assert "Smith" not in ended.err
    assert server.requests == []


def test_a_secret_file_that_others_can_read_is_warned_about(
    xots: Xots, server: StandIn, tmp_path: Path
) -> None:
    """The account is added all the same."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    arguments = ("--client-id", "D", "--client-secret-file", str(secret), "--port", server.port)
    ended = xots("account", "add", "smith", *arguments)
    assert ended.status == 0
    assert ended.err.startswith(f"xots: warning: {secret} is open to other users (mode 0644)")


def test_account_remove_removes(xots: Xots, server: StandIn) -> None:
    """The server ends the login."""
    ended = xots("account", "remove", "smith", "--port", server.port)
    assert ended == Ended(0, "removed smith\n", "")
    assert server.requests[-1] == ("POST /accounts/smith/remove", None)


@pytest.mark.parametrize(
    ("action", "request_made"),
    [("add", "POST /accounts"), ("remove", "POST /accounts/smith/remove")],
)
def test_a_refusal_of_the_server_is_shown(
    xots: Xots, server: StandIn, action: str, request_made: str
) -> None:
    """Such as that the configuration file names the account. The status is 1."""
    server.responses[request_made] = (409, {"title": "Fixed", "detail": "named in the file"})
    reason = xots("account", action, "smith", "--port", server.port).reason()
    assert reason == "xots: named in the file"


@pytest.mark.parametrize("action", ["list", "add", "remove"])
def test_the_server_of_exec_is_not_replaced_by_the_store(
    xots: Xots, monkeypatch: pytest.MonkeyPatch, free_port: int, action: str
) -> None:
    """Under ``xots exec`` the store's settings are unknown: another store would be changed."""
    monkeypatch.setenv("XOTS_URL", f"http://127.0.0.1:{free_port}")
    name = [] if action == "list" else ["smith"]
    assert f"{free_port}" in xots("account", action, *name).reason()


def test_without_a_server_the_accounts_of_the_store_are_changed(
    xots: Xots, free_port: int, tmp_path: Path
) -> None:
    """A later command finds them there. An account of the YAML file cannot be removed."""
    (tmp_path / "xots.yaml").write_text("client_id: C\naccounts: {jones: {tenant_id: T}}\n")
    place = (
        *("--port", str(free_port), "--config", str(tmp_path / "xots.yaml")),
        *("--store", f"file://{tmp_path}/store"),
    )
    refused = xots("account", "add", "smith", "--scopes", "accounting.contacts", *place)
    assert refused.status == 2
    assert "scopes: offline_access is missing" in refused.err
    added = xots("account", "add", "smith", "--client-id", "D", "--scopes", "granular", *place)
    assert (added.status, added.err) == (0, "")
    assert "log in at /accounts/smith/home" in added.out
    listed = json.loads(xots("account", "list", "--json", *place).out)
    sources = {one["name"]: one["source"] for one in listed}
    assert sources.keys() == {"default", "jones", "smith"}
    assert sources["smith"] == "added at run time"
    assert "smith" in xots("account", "add", "smith", *place).reason()
    assert xots("account", "remove", "smith", *place).out == "removed smith\n"
    assert "jones" in xots("account", "remove", "jones", *place).reason()
    listed = json.loads(xots("account", "list", "--json", *place).out)
    assert {one["name"] for one in listed} == {"default", "jones"}


def test_a_running_server_gets_and_loses_an_account(
    xots: Xots, connected: Server, expected_log: Any
) -> None:
    """The commands name the account, and the default one is untouched."""
    expected_log(r"WARNING xots\.web: GET /accounts/smith/token: there is no account")
    place = ("--port", str(connected.port))
    token = xots("token", *place).out
    added = xots("account", "add", "smith", "--client-id", "D", *place)
    assert added == Ended(0, "added smith. To log in: xots login --account smith\n", "")
    assert "log in" in xots("token", "--account", "smith", *place).reason()
    status = json.loads(xots("status", "--json", "--account", "smith", *place).out)
    assert (status["account"], status["client_id"]) == ("smith", "D")
    names = [one["name"] for one in Client(port=connected.port).accounts()]
    assert names == ["default", "smith"]
    assert xots("account", "remove", "smith", *place).status == 0
    assert xots("token", "--account", "smith", *place).status == 1
    assert xots("token", *place).out == token


def test_a_client_of_an_account_sends_its_requests_to_the_account(server: StandIn) -> None:
    """A program of the package can use it too."""
    client = Client(port=int(server.port), account="smith")
    assert client.token()["accessToken"] == "t0ken"
    assert [one["name"] for one in client.accounts()] == ["smith", "new"]


def test_a_need_that_is_now_is_shown_as_now() -> None:
    """The command knows the same values as the server."""
    assert set(NEEDED_NOW) == {need.value for need in Need if need.is_now}
