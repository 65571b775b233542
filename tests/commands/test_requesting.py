"""The commands for a running server: their output, and the ways they end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support.command_line import XOTS, Ended, process
from support.thread_servers import ThreadServers

from xots.client import Client
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.server import Server

Xots = Callable[..., Ended]

COMMANDS = ("token", "status", "refresh", "tenants", "revoke", "logout", "login", "exec")
"""The commands for a running server."""

ENDING = ("revoke", "logout")
"""Those that work on the store if no server runs."""


def at(server: Server) -> tuple[str, str]:
    return "--port", str(server.port)


# ---------- output


def test_token_prints_the_bare_token(xots: Xots, connected: Server) -> None:
    """One line, which a shell can use directly."""
    access = connected.keeper.account.access
    assert access is not None
    assert xots("token", *at(connected)) == Ended(0, f"{access.value.reveal()}\n", "")


def test_token_as_json_is_the_whole_response(xots: Xots, connected: Server) -> None:
    """The fields of ``/token``, in JSON."""
    content = json.loads(xots("token", "--json", *at(connected)).out)
    assert content.keys() == {
        "accessToken",
        "tokenType",
        "expiresAt",
        "expiresIn",
        "scopes",
        "tenantId",
    }
    assert content["tenantId"] == connected.keeper.account.tenant_id


def test_token_accepts_a_least_life(xots: Xots, connected: Server, servers: ThreadServers) -> None:
    """A token that lives 1800 seconds meets 1500 without a refresh. Text is refused."""
    before = len(servers.sandbox.refreshes())
    content = json.loads(xots("token", "--json", "--min-ttl", "1500", *at(connected)).out)
    assert content["expiresIn"] >= 1500
    assert len(servers.sandbox.refreshes()) == before
    assert xots("token", "--min-ttl", "soon", *at(connected)).status == 2


def test_token_and_exec_choose_an_organisation(
    xots: Xots, connected: Server, servers: ThreadServers, expected_log: Any
) -> None:
    """By its id or name. An unknown one is reported with those to choose from."""
    expected_log(r"WARNING xots\.web: GET /token: ")
    tenant_id = connected.keeper.account.tenant_id or ""
    name = servers.sandbox.world.accounting.organisations[tenant_id].name or ""
    for text in (name, tenant_id.upper()):
        content = json.loads(xots("token", "--json", "--tenant", text, *at(connected)).out)
        assert content["tenantId"] == tenant_id
        program = (sys.executable, "-c", "import os; print(os.environ['XERO_TENANT_ID'])")
        ended = process("exec", *at(connected), "--tenant", text, "--", *program)
        assert (ended.status, ended.out) == (0, f"{tenant_id}\n")
    assert tenant_id in xots("token", "--tenant", "nobody & co", *at(connected)).reason()


def test_a_min_ttl_that_the_server_refuses_is_reported(
    xots: Xots, connected: Server, expected_log: Any
) -> None:
    """The message is the server's."""
    expected_log(r"WARNING xots\.web: GET /token: min_ttl")
    assert "min_ttl" in xots("token", "--min-ttl", "-1", *at(connected)).reason()


def test_status_prints_a_line_for_each_field(xots: Xots, connected: Server) -> None:
    """The lines are for users. No token is among them."""
    ended = xots("status", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert [
        line
        for line in ended.out.splitlines()
        if line.startswith("state ") and line.endswith(" connected")
    ]
    assert DEFAULT_CLIENT_ID in ended.out
    assert "eyJ" not in ended.out


def test_status_as_json_is_the_whole_response(xots: Xots, connected: Server) -> None:
    """The fields of ``/status``, in JSON."""
    ended = xots("status", "--json", *at(connected))
    status = json.loads(ended.out)
    assert ended.status == 0
    assert (status["state"], status["healthy"], status["client_id"]) == (
        "connected",
        True,
        DEFAULT_CLIENT_ID,
    )


def test_refresh_refreshes(xots: Xots, connected: Server, servers: ThreadServers) -> None:
    """Xero gets one refresh, and the token is a new one."""
    before, refreshes = xots("token", *at(connected)).out, len(servers.sandbox.refreshes())
    ended = xots("refresh", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "refreshed" in ended.out
    assert len(servers.sandbox.refreshes()) == refreshes + 1
    assert xots("token", *at(connected)).out != before


def test_a_refresh_that_fails_is_reported(
    xots: Xots, connected: Server, servers: ThreadServers, expected_log: Any
) -> None:
    """The reason is the server's. It still serves the token that has not expired."""
    expected_log(r"WARNING xots: default: refresh failed", r"WARNING xots\.web: POST /refresh: ")
    servers.sandbox.add_fault("refresh:nth=1:503-html")
    assert "503" in xots("refresh", *at(connected)).reason()
    assert xots("token", *at(connected)).status == 0
    servers.sandbox.faults.clear()
    servers.log_in(connected)


def test_tenants_lists_the_organisations(
    xots: Xots, connected: Server, servers: ThreadServers
) -> None:
    """One line for each: id, type and name."""
    ended = xots("tenants", *at(connected))
    only = next(iter(servers.sandbox.world.accounting.organisations))
    assert ended == Ended(0, f"{only} ORGANISATION Demo Company (NZ)\n", "")


def test_tenants_as_json_are_as_xero_lists_them(xots: Xots, connected: Server) -> None:
    """The same content as at ``/tenants``."""
    given = Client(port=connected.port).request("GET", "/tenants")
    assert {"id", "tenantId", "tenantType", "tenantName", "createdDateUtc"} <= given[0].keys()
    ended = xots("tenants", "--json", *at(connected))
    assert (ended.status, json.loads(ended.out)) == (0, given)


def test_login_ends_at_once_if_a_user_is_logged_in(xots: Xots, connected: Server) -> None:
    """It says so, with status 0."""
    ended = xots("login", *at(connected))
    assert (ended.status, ended.out, ended.err) == (0, "logged in\n", "")


def test_login_shows_the_address_and_waits_for_the_login(
    servers: ThreadServers, xots: Xots
) -> None:
    """It prints an address to open, and ends with status 0 once the user has logged in there."""
    xots("logout", *at(servers.logged_out))
    with subprocess.Popen(
        [XOTS, "login", *at(servers.logged_out)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert f"http://localhost:{servers.logged_out.port}/" in command.stdout.readline()
        assert command.poll() is None
        servers.log_in(servers.logged_out)
        rest, _ = command.communicate(timeout=20)
    assert (command.returncode, rest) == (0, "logged in\n")
    xots("logout", *at(servers.logged_out))


def test_login_waits_at_a_server_without_credentials_too(servers: ThreadServers) -> None:
    """The user enters them in a form first. The command shows the address and waits."""
    with subprocess.Popen(
        [XOTS, "login", *at(servers.bare)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert f"http://localhost:{servers.bare.port}/" in command.stdout.readline()
        assert command.poll() is None
        command.terminate()


# ---------- exec

SHOW = (
    "import os, sys; print(os.environ['XERO_ACCESS_TOKEN'], os.environ['XERO_TENANT_ID'], "
    "*sys.argv[1:])"
)


def test_exec_gives_the_program_the_token_and_the_tenant(connected: Server) -> None:
    """They are in its environment only. Its arguments are passed on unchanged."""
    account = connected.keeper.account
    assert account.access is not None
    ended = process(
        "exec", *at(connected), "--", sys.executable, "-c", SHOW, "--port", "x", "--", "y"
    )
    assert ended == Ended(
        0, f"{account.access.value.reveal()} {account.tenant_id} --port x -- y\n", ""
    )


def test_exec_says_how_to_name_the_program(xots: Xots) -> None:
    """A user forgets the two hyphens before it."""
    ended = xots("exec", "python3", "report.py")
    assert ended.status == 2
    assert "xots: xots exec has no such argument" in ended.err
    assert "xots exec -- python3 report.py" in ended.err


@pytest.mark.parametrize("status", [0, 7, 255])
def test_the_exit_status_of_exec_is_that_of_the_program(connected: Server, status: int) -> None:
    """A script can test it."""
    assert (
        process(
            "exec", *at(connected), "--", sys.executable, "-c", f"raise SystemExit({status})"
        ).status
        == status
    )


def test_exec_keeps_the_rest_of_the_environment(connected: Server) -> None:
    """The program gets the variables of the user. A stale token among them is replaced."""
    show = "import os; print(os.environ['COLOUR'], os.environ['XERO_ACCESS_TOKEN'][:3])"
    ended = process(
        "exec",
        *at(connected),
        "--",
        sys.executable,
        "-c",
        show,
        COLOUR="teal",
        XERO_ACCESS_TOKEN="stale",
    )
    assert ended.out == "teal eyJ\n"


def test_exec_names_no_tenant_that_was_not_chosen(servers: ThreadServers, xots: Xots) -> None:
    """If no organisation is chosen, the program gets none, even if the environment names one."""
    xots("revoke", *at(servers.server))
    # Without the logout, the organisation chosen before would stay.
    xots("logout", *at(servers.server))
    # This login connects the app to all organisations, so that the next one has a choice.
    servers.sandbox.log_in()
    servers.log_in(servers.server)
    assert json.loads(xots("token", "--json", *at(servers.server)).out)["tenantId"] is None
    show = "import os; print(os.environ.get('XERO_TENANT_ID'))"
    ended = process(
        "exec",
        *at(servers.server),
        "--",
        sys.executable,
        "-c",
        show,
        XERO_TENANT_ID="another-login's",
    )
    xots("revoke", *at(servers.server))
    assert ended.out == "None\n"


@pytest.mark.safeguard(
    file="commands/options.py",
    old="        return _parsed(url, has_certificate=has_certificate)\n",
    new="        pass\n",
    protects_from="a script under xots exec that uses the login of another company",
)
@pytest.mark.parametrize("command", ["token", "revoke"])
def test_a_command_under_exec_requests_from_the_same_server(
    connected: Server, xots: Xots, command: str
) -> None:
    """The program gets no setting, but a script in it may run xots: its server is that of exec,
    unless the script names another one."""
    access = connected.keeper.account.access
    assert access is not None
    ended = process("exec", *at(connected), "--", XOTS, command)
    assert ended.status == 0, ended.err
    if command == "token":
        assert ended.out == f"{access.value.reveal()}\n"
    else:
        assert connected.keeper.account.consent_id is None


def test_the_server_of_exec_is_reported_if_it_is_away(xots: Xots, free_port: int) -> None:
    """A command that works on the store otherwise does not choose another login."""
    url = f"http://127.0.0.1:{free_port}"
    for command in ("token", "revoke", "logout"):
        assert url.removeprefix("http://") in process(command, XOTS_URL=url).reason()


@pytest.mark.parametrize("url", ["ftp://localhost:5001", "localhost:5001", "http://a:b", "k3y"])
def test_a_malformed_url_of_the_server_is_not_repeated(url: str) -> None:
    """The message shows the form."""
    reason = process("token", XOTS_URL=url).reason(status=2)
    assert "XOTS_URL: must be http://HOST:PORT" in reason
    assert url not in reason


@pytest.mark.parametrize("arguments", [[], ["--"]], ids=str)
def test_exec_without_a_program_says_how(
    xots: Xots, connected: Server, arguments: list[str]
) -> None:
    """The status is 2, and the message shows an example."""
    assert "xots exec -- " in xots("exec", *at(connected), *arguments).reason(status=2)


def test_exec_of_a_missing_program_names_it(xots: Xots, connected: Server) -> None:
    """The message has the system's reason. There is no traceback."""
    reason = xots("exec", *at(connected), "--", "/nonexistent/program").reason()
    assert "/nonexistent/program" in reason


# ---------- errors


def arguments_of(command: str, port: int) -> list[str]:
    return [command, "--port", str(port), *(["--", "true"] if command == "exec" else [])]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ENDING])
def test_without_a_server_every_command_reports_it(
    xots: Xots, free_port: int, command: str
) -> None:
    """The message has the address, the reason and how to start a server; the status is 1."""
    reason = xots(*arguments_of(command, free_port)).reason()
    assert f"no server responds at http://127.0.0.1:{free_port}" in reason
    assert "refused" in reason
    assert "start one with xots" in reason


@pytest.mark.parametrize("kind", ["logged_out", "bare"])
@pytest.mark.parametrize("command", ["token", "exec", "refresh", "tenants"])
def test_before_a_login_every_command_shows_where_to_log_in(
    xots: Xots, servers: ThreadServers, command: str, kind: str
) -> None:
    """The message is the server's, with the address to open; the status is 1."""
    server = getattr(servers, kind)
    reason = xots(*arguments_of(command, server.port)).reason()
    assert f"open http://localhost:{server.port}/home in a browser and log in" in reason


def test_a_revoke_without_a_login_asks_for_none(xots: Xots, servers: ThreadServers) -> None:
    """A login would only make one more to revoke."""
    for server in (servers.logged_out, servers.bare):
        reason = xots(*arguments_of("revoke", server.port)).reason()
        assert "there is no login to revoke" in reason
        assert "log in" not in reason


def test_status_before_a_login_is_shown_and_its_exit_status_is_1(
    xots: Xots, servers: ThreadServers
) -> None:
    """A script tests the status, and a user reads the reason."""
    for server, state in ((servers.logged_out, "not-logged-in"), (servers.bare, "no-credentials")):
        ended = xots("status", "--json", *at(server))
        assert (ended.status, json.loads(ended.out)["state"]) == (1, state)
        assert xots("status", *at(server)).status == 1


def response(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


STRANGERS = {
    "a page": response("200 OK", "text/html", b"<p>Welcome</p>"),
    "an error page": response("404 Not Found", "text/html", b"not found"),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n"
    b"Content-Length: 0\r\n\r\n",
    "an empty object": response("200 OK", "application/json", b"{}"),
    "a list": response("200 OK", "application/json", b"[[1]]"),
    "another explanation": response(
        "200 OK", "application/json", b'{"healthy": true, "state": 1, "explanation": 5}'
    ),
    "a number": response("200 OK", "application/json", b"42"),
    "a JSON error": response("404 Not Found", "application/json", b'{"a": 1}'),
    "not UTF-8": response("200 OK", "application/json", b"\xff\xfe"),
    "no HTTP": b"SSH-2.0-OpenSSH_10.0\r\n",
    "nothing": b"",
}
"""Responses of other programs at the port."""


@pytest.fixture(scope="module")
def strangers(servers: ThreadServers) -> Iterator[dict[str, int]]:
    """The ports of programs other than xots. Each sends one kind of response to every request."""

    def respond(body: bytes) -> Callable[..., Coroutine[Any, Any, None]]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(body)
            writer.close()
            await writer.wait_closed()

        return handle

    async def start() -> dict[str, asyncio.Server]:
        return {
            kind: await asyncio.start_server(respond(body), "127.0.0.1", 0)
            for kind, body in STRANGERS.items()
        }

    async def stop() -> None:
        for stranger in started.values():
            stranger.close()
            await stranger.wait_closed()

    started = servers.loop.run(start())
    yield {kind: stranger.sockets[0].getsockname()[1] for kind, stranger in started.items()}
    servers.loop.run(stop())


@pytest.mark.parametrize(
    ("command", "kind"),
    # For revoke and logout, a program that does not speak HTTP is no server: they use the store.
    [
        (c, k)
        for c in COMMANDS
        for k in STRANGERS
        if c not in ENDING or k not in ("no HTTP", "nothing")
        if c not in ("login", "status") or k != "another explanation"
    ],
)
def test_another_program_at_the_port_is_not_taken_for_xots(
    xots: Xots, strangers: dict[str, int], command: str, kind: str
) -> None:
    """There is no success and no traceback: one sentence with the address, and status 1."""
    reason = xots(*arguments_of(command, strangers[kind])).reason()
    assert f"127.0.0.1:{strangers[kind]}" in reason


def test_a_strange_explanation_is_left_out(xots: Xots, strangers: dict[str, int]) -> None:
    """The status of a program that imitates xots ends in no traceback."""
    ended = xots("status", "--port", str(strangers["another explanation"]))
    assert (ended.status, ended.err) == (0, "")


# ---------- imports

ALL_IN_ONE = """
import sys
from xots.commands.main import main
port, commands = sys.argv[1], sys.argv[2:]
heavy = {"tornado", "cryptography", "redis"}
for command in commands:
    main([command, "--port", port, *(["--", "/nonexistent/program"] if command == "exec" else [])])
    print(command, "loads", *heavy & sys.modules.keys(), file=sys.stderr)
"""


def test_the_commands_import_no_tornado(connected: Server, free_port: int) -> None:
    """They start fast: they load neither Tornado nor cryptography nor redis, with a server or
    without one."""
    order = [command for command in COMMANDS if command not in ENDING]
    for port, commands in ((free_port, order), (connected.port, [*order, *ENDING])):
        ended = subprocess.run(
            [sys.executable, "-c", ALL_IN_ONE, str(port), *commands],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        loads = [line for line in ended.stderr.splitlines() if " loads" in line]
        assert loads == [f"{command} loads" for command in commands]
