"""The commands that ask a running server, and ``xots check``: what they print, and how they end.

One simulated Xero and its servers run in a thread for the whole module, by the real clock; commands run in this
process where they can, and as processes where that is what is tested.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from xots.client import Client as Asker
from xots.commands.main import main
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Client, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import Settings

XOTS = str(Path(sys.executable).with_name("xots"))
ASKING = ("token", "status", "refresh", "tenants", "revoke", "logout", "login", "exec")
"""The commands that ask a running server."""

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own."""

    def __enter__(self) -> Loop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@dataclass
class House:
    """What runs in the thread."""

    loop: Loop
    sandbox: Sandbox
    server: Server
    nobody: Server
    """A server that has credentials, and that nobody has logged in to."""
    bare: Server
    """A server without credentials."""

    def log_in(self, server: Server) -> None:
        async def log_in() -> None:
            person = Person()
            page = await person.submit(await person.open(f"http://localhost:{server.port}/home"))
            assert (await person.consent(page)).status == 200

        self.loop.run(log_in())


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """A simulated Xero and three servers wired to it, each registered there."""

    async def started(sandbox: Sandbox, **settings: Any) -> Server:
        server = Server(
            Settings(
                port=0,
                store="memory:",
                authorize_url=sandbox.authorize_url,
                token_url=sandbox.token_url,
                revoke_url=sandbox.revoke_url,
                connections_url=sandbox.connections_url,
                **settings,
            )
        )
        await server.start()
        client = sandbox.identity.clients[DEFAULT_CLIENT_ID]
        sandbox.identity.register(
            replace(client, redirect_uris=(*client.redirect_uris, server.redirect_uri))
        )
        return server

    async def start() -> tuple[Sandbox, Server, Server, Server]:
        sandbox = Sandbox(SandboxOptions(port=0, clients=(Client(redirect_uris=()),)))
        sandbox.start()
        credentials = {
            "client_id": DEFAULT_CLIENT_ID,
            "client_secret": Secret(DEFAULT_CLIENT_SECRET),
        }
        servers = [await started(sandbox, **given) for given in (credentials, credentials, {})]
        return sandbox, *servers

    async def stop(sandbox: Sandbox, *servers: Server) -> None:
        for server in servers:
            await server.stop()
        await sandbox.stop()

    with Loop() as loop:
        sandbox, *servers = loop.run(start())
        yield House(loop, sandbox, *servers)
        loop.run(stop(sandbox, *servers))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of whoever runs the tests sets nothing here, and nothing is written in his folders."""
    for name in list(os.environ):
        if name.startswith("XOTS_") or name in (
            "CREDENTIALS_DIRECTORY",
            "XERO_ACCESS_TOKEN",
            "XERO_TENANT_ID",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def connected(house: House) -> Server:
    """The server that somebody is logged in to, whatever the test before did to it."""
    current = house.server.keeper.account.current
    # Another server's logout ends this one's login at Xero too: both are the same person's, to the same app.
    if current is None or not house.sandbox.identity.would_issue(
        current.value.reveal(), house.sandbox.clock()
    ):
        house.log_in(house.server)
    return house.server


@dataclass(frozen=True)
class Ended:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def xots(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command in this process."""

    def xots(*arguments: str) -> Ended:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as ended:  # argparse ends so
            status = ended.code if isinstance(ended.code, int) else 1
        shown = capsys.readouterr()
        return Ended(status, shown.out, shown.err)

    return xots


def process(*arguments: str, **environment: str) -> Ended:
    """Run a command as a process of its own."""
    ended = subprocess.run(
        [XOTS, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=os.environ | environment,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def told_why(ended: Ended, status: int = 1) -> str:
    """The one sentence of a command that failed: on stderr, with nothing on stdout."""
    assert (ended.status, ended.out) == (status, "")
    assert "Traceback" not in ended.err
    [line] = ended.err.splitlines()
    assert line.startswith("xots: ")
    return line


def at(server: Server) -> tuple[str, str]:
    return "--port", str(server.port)


# ------------------------------------------------------------------------------------ what they print


def test_token_prints_the_bare_token(xots: Any, connected: Server) -> None:
    """One line that a shell can take as it is."""
    access = connected.keeper.account.access
    assert access is not None
    assert xots("token", *at(connected)) == Ended(0, f"{access.value.reveal()}\n", "")


def test_token_as_json_is_all_that_the_server_tells(xots: Any, connected: Server) -> None:
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


def test_token_takes_a_least_life(xots: Any, connected: Server, house: House) -> None:
    """With 1800-second tokens, one that lives 1500 more is there; what is no number is told."""
    before = len(house.sandbox.refreshes())
    content = json.loads(xots("token", "--json", "--min-ttl", "1500", *at(connected)).out)
    assert content["expiresIn"] >= 1500
    assert len(house.sandbox.refreshes()) == before
    assert xots("token", "--min-ttl", "soon", *at(connected)).status == 2


def test_a_min_ttl_that_the_server_refuses_is_told(
    xots: Any, connected: Server, expected_log: Any
) -> None:
    """The server's own sentence is passed on."""
    expected_log(r"WARNING xots\.web: GET /token: min_ttl")
    assert "min_ttl" in told_why(xots("token", "--min-ttl", "-1", *at(connected)))


def test_status_prints_how_things_are(xots: Any, connected: Server) -> None:
    """A line for each thing known, for people; no token among them."""
    ended = xots("status", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert [
        line
        for line in ended.out.splitlines()
        if line.startswith("state ") and line.endswith(" connected")
    ]
    assert DEFAULT_CLIENT_ID in ended.out
    assert "eyJ" not in ended.out


def test_status_as_json_is_what_the_server_tells(xots: Any, connected: Server) -> None:
    """The fields of ``/status``, in JSON."""
    ended = xots("status", "--json", *at(connected))
    status = json.loads(ended.out)
    assert ended.status == 0
    assert (status["state"], status["healthy"], status["client_id"]) == (
        "connected",
        True,
        DEFAULT_CLIENT_ID,
    )


def test_refresh_refreshes(xots: Any, connected: Server, house: House) -> None:
    """One refresh at Xero, and another token than before."""
    before, refreshes = xots("token", *at(connected)).out, len(house.sandbox.refreshes())
    ended = xots("refresh", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "refreshed" in ended.out
    assert len(house.sandbox.refreshes()) == refreshes + 1
    assert xots("token", *at(connected)).out != before


def test_a_refresh_that_fails_is_told(
    xots: Any, connected: Server, house: House, expected_log: Any
) -> None:
    """The reason is the server's; the token that is still good is served all the same."""
    expected_log(r"WARNING xots: default: refresh failed", r"WARNING xots\.web: POST /refresh: ")
    house.sandbox.add_fault("refresh:nth=1:503-html")
    assert "503" in told_why(xots("refresh", *at(connected)))
    assert xots("token", *at(connected)).status == 0
    house.sandbox.faults.clear()
    house.log_in(connected)


def test_tenants_lists_the_organisations(xots: Any, connected: Server, house: House) -> None:
    """Id, type and name, a line each."""
    ended = xots("tenants", *at(connected))
    only = next(iter(house.sandbox.world.books.organisations))
    assert ended == Ended(0, f"{only} ORGANISATION Demo Company (NZ)\n", "")


def test_tenants_as_json_are_as_xero_gives_them(xots: Any, connected: Server) -> None:
    """The same content as at ``/tenants``."""
    given = Asker(port=connected.port).request("GET", "/tenants")
    assert {"id", "tenantId", "tenantType", "tenantName", "createdDateUtc"} <= given[0].keys()
    ended = xots("tenants", "--json", *at(connected))
    assert (ended.status, json.loads(ended.out)) == (0, given)


def test_revoke_ends_the_login_and_keeps_the_credentials(
    xots: Any, connected: Server, house: House
) -> None:
    """It says that it is done; afterwards there is no token."""
    ended = xots("revoke", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "revoked" in ended.out
    assert "revoked" in told_why(xots("token", *at(connected)))
    assert (
        json.loads(xots("status", "--json", *at(connected)).out)["client_id"] == DEFAULT_CLIENT_ID
    )


def test_a_revocation_that_is_pending_is_told(
    xots: Any, connected: Server, house: House, expected_log: Any
) -> None:
    """Nothing is served any more, but Xero has not been told yet: the command does not say that it is done."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    house.sandbox.add_fault("revocation:nth=1:503-html")
    ended = xots("revoke", *at(connected))
    assert ended.status == 0
    assert "retries" in ended.out
    house.sandbox.faults.clear()
    house.log_in(connected)


def test_logout_ends_the_login(xots: Any, connected: Server) -> None:
    """It says that it is done; afterwards there is no token."""
    ended = xots("logout", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "logged out" in ended.out
    assert xots("token", *at(connected)).status == 1
    assert connected.keeper.account.client_secret is None


def test_login_says_so_when_somebody_is_logged_in(xots: Any, connected: Server) -> None:
    """There is nothing to wait for."""
    ended = xots("login", *at(connected))
    assert (ended.status, ended.out, ended.err) == (0, "logged in\n", "")


def test_login_shows_where_and_waits_until_somebody_has(house: House, xots: Any) -> None:
    """It prints an address that can be opened, and ends with 0 once the login there succeeded."""
    xots("logout", *at(house.nobody))
    with subprocess.Popen(
        [XOTS, "login", *at(house.nobody)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert f"http://localhost:{house.nobody.port}/" in command.stdout.readline()
        assert command.poll() is None
        house.log_in(house.nobody)
        rest, _ = command.communicate(timeout=20)
    assert (command.returncode, rest) == (0, "logged in\n")
    xots("logout", *at(house.nobody))


def test_login_waits_at_a_server_without_credentials_too(house: House) -> None:
    """The form comes first there; the command shows an address and waits."""
    with subprocess.Popen(
        [XOTS, "login", *at(house.bare)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert f"http://localhost:{house.bare.port}/" in command.stdout.readline()
        assert command.poll() is None
        command.terminate()


@pytest.mark.parametrize("source", ["environment", "config"])
def test_where_the_server_is_comes_from_all_sources(
    connected: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xots: Any, source: str
) -> None:
    """The port that the server was given by its settings is where the commands look for it."""
    if source == "environment":
        monkeypatch.setenv("XOTS_PORT", str(connected.port))
        assert xots("token").status == 0
    else:
        config = tmp_path / "xots.yaml"
        # The rest of the server's own file is no concern of a command's, which may not even be able to read it.
        config.write_text(
            f"port: {connected.port}\nclient_id: C\nclient_secret_file: /nonexistent\n"
        )
        assert xots("token", "--config", str(config)).status == 0


# --------------------------------------------------------------------------------------------- errors


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def arguments_of(command: str, port: int) -> list[str]:
    return [command, "--port", str(port), *(["--", "true"] if command == "exec" else [])]


# Revoke and logout are not among them: without a server they are for the store itself.
@pytest.mark.parametrize(
    "command", [command for command in ASKING if command not in ("revoke", "logout")]
)
def test_without_a_server_every_command_says_so(xots: Any, free_port: int, command: str) -> None:
    """Which address was tried, why it failed and how to start one; exit status 1."""
    told = told_why(xots(*arguments_of(command, free_port)))
    assert f"no server responds at http://127.0.0.1:{free_port}" in told
    assert "refused" in told
    assert "start one with: xots" in told


@pytest.mark.parametrize("kind", ["nobody", "bare"])
@pytest.mark.parametrize("command", ["token", "exec", "refresh", "tenants", "revoke"])
def test_before_a_login_every_command_says_where_to_log_in(
    xots: Any, house: House, command: str, kind: str
) -> None:
    """The server's sentence: nobody has logged in, and the address to open; exit status 1."""
    server = getattr(house, kind)
    told = told_why(xots(*arguments_of(command, server.port)))
    assert f"open http://localhost:{server.port}/ in a browser and log in" in told


def test_status_before_a_login_is_shown_and_its_exit_status_is_1(xots: Any, house: House) -> None:
    """A script can ask for the exit status alone, and a person reads why."""
    for server, state in ((house.nobody, "not-logged-in"), (house.bare, "no-credentials")):
        ended = xots("status", "--json", *at(server))
        assert (ended.status, json.loads(ended.out)["state"]) == (1, state)
        assert xots("status", *at(server)).status == 1


STRANGERS = {
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 14\r\n\r\n<p>Welcome</p>",
    "an error page": b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nnot found",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
    "an empty object": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n[[1]]",
    "a number": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n42",
    "a JSON error": b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}',
    "not UTF-8": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    "no HTTP": b"SSH-2.0-OpenSSH_10.0\r\n",
    "nothing": b"",
}
"""What other programs may answer at the port."""


@pytest.fixture(scope="module")
def strangers(house: House) -> Iterator[dict[str, int]]:
    """The ports of other programs than xots, each of which gives one kind of answer to whatever comes."""

    def answers(what: bytes) -> Callable[..., Coroutine[Any, Any, None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(what)
            writer.close()
            await writer.wait_closed()

        return answer

    async def start() -> dict[str, asyncio.Server]:
        return {
            kind: await asyncio.start_server(answers(what), "127.0.0.1", 0)
            for kind, what in STRANGERS.items()
        }

    async def stop() -> None:
        for server in servers.values():
            server.close()
            await server.wait_closed()

    servers = house.loop.run(start())
    yield {kind: server.sockets[0].getsockname()[1] for kind, server in servers.items()}
    house.loop.run(stop())


@pytest.mark.parametrize(
    ("command", "kind"),
    # To revoke and logout, what does not even speak HTTP is no server: they turn to the store then.
    [
        (c, k)
        for c in ASKING
        for k in STRANGERS
        if c not in ("revoke", "logout") or k not in ("no HTTP", "nothing")
    ],
)
def test_another_program_at_the_port_is_not_taken_for_xots(
    xots: Any, strangers: dict[str, int], command: str, kind: str
) -> None:
    """No success is claimed and no traceback shown: one sentence with the address, and exit status 1."""
    told = told_why(xots(*arguments_of(command, strangers[kind])))
    assert f"127.0.0.1:{strangers[kind]}" in told


# ----------------------------------------------------------------------------------------------- exec

SHOW = "import os, sys; print(os.environ['XERO_ACCESS_TOKEN'], os.environ['XERO_TENANT_ID'], *sys.argv[1:])"


def test_exec_gives_the_program_the_token_and_the_tenant(connected: Server) -> None:
    """In its environment and nowhere else; its arguments are passed on as they are."""
    account = connected.keeper.account
    assert account.access is not None
    ended = process(
        "exec", *at(connected), "--", sys.executable, "-c", SHOW, "--port", "x", "--", "y"
    )
    assert ended == Ended(
        0, f"{account.access.value.reveal()} {account.tenant_id} --port x -- y\n", ""
    )


@pytest.mark.parametrize("status", [0, 7, 255])
def test_the_exit_status_of_exec_is_the_programs(connected: Server, status: int) -> None:
    """A script's verdict passes through."""
    assert (
        process(
            "exec", *at(connected), "--", sys.executable, "-c", f"raise SystemExit({status})"
        ).status
        == status
    )


def test_exec_keeps_the_rest_of_the_environment(connected: Server) -> None:
    """The program finds what the user has set, and a stale token of his is replaced."""
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


def test_exec_names_no_tenant_that_was_not_chosen(house: House, xots: Any) -> None:
    """Where no organisation is chosen, one that the environment happens to name is not taken for it."""
    xots("revoke", *at(house.server))
    xots(
        "logout", *at(house.server)
    )  # or the organisation that was chosen before would be gone on with
    house.sandbox.log_in()  # connects the app to all organisations, so that a login finds several to choose among
    house.log_in(house.server)
    assert json.loads(xots("token", "--json", *at(house.server)).out)["tenantId"] is None
    show = "import os; print(os.environ.get('XERO_TENANT_ID'))"
    ended = process(
        "exec",
        *at(house.server),
        "--",
        sys.executable,
        "-c",
        show,
        XERO_TENANT_ID="another-login's",
    )
    xots("revoke", *at(house.server))
    assert ended.out == "None\n"


@pytest.mark.parametrize("arguments", [[], ["--"]], ids=str)
def test_exec_without_a_program_says_how(
    xots: Any, connected: Server, arguments: list[str]
) -> None:
    """What was asked wrongly ends with 2, and an example."""
    assert "xots exec -- " in told_why(xots("exec", *at(connected), *arguments), status=2)


def test_exec_of_a_program_that_is_not_there_names_it(xots: Any, connected: Server) -> None:
    """The system's reason, and no traceback."""
    told = told_why(xots("exec", *at(connected), "--", "/nonexistent/program"))
    assert "/nonexistent/program" in told


# ------------------------------------------------------------------------------------------ their weight

ALL_IN_ONE = """
import sys
from xots.commands.main import main
from xots.client import Client as Asker
port, commands = sys.argv[1], sys.argv[2:]
for command in commands:
    main([command, "--port", port, *(["--", "/nonexistent/program"] if command == "exec" else [])])
    print(command, "loads", *{"tornado", "cryptography", "redis"} & sys.modules.keys(), file=sys.stderr)
"""


def test_the_commands_import_no_tornado(connected: Server, free_port: int) -> None:
    """They start fast: neither the server's framework nor its cryptography is loaded, with a server or without."""
    last = ["revoke", "logout"]
    order = [command for command in ASKING if command not in last]
    for port, commands in ((free_port, order), (connected.port, order + last)):
        ended = subprocess.run(
            [sys.executable, "-c", ALL_IN_ONE, str(port), *commands],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        loads = [line for line in ended.stderr.splitlines() if " loads" in line]
        assert loads == [f"{command} loads" for command in commands]


# ----------------------------------------------------------------------------------------------- check


def lines_by_subject(ended: Ended) -> dict[str, str]:
    """The findings of ``xots check`` by what they are about: the second word of each line."""
    return {line.split()[1]: line for line in ended.out.splitlines()}


def test_check_says_of_each_thing_that_it_is_in_order(house: House) -> None:
    """Settings, store, key, redirect and reachability, a line each; exit status 0, and nothing was asked of Xero."""
    asked = len(house.sandbox.log)
    ended = process(
        "check",
        "--token-url",
        house.sandbox.token_url,
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
    assert house.sandbox.token_url in found["xero"]
    assert not [one for one in house.sandbox.log[asked:] if one.grant_type]


def test_check_tells_an_unreachable_token_url(free_port: int) -> None:
    """That line says so and why, the others stay well, and the exit status is 1."""
    ended = process(
        "check", "--token-url", f"http://127.0.0.1:{free_port}/connect/token", XOTS_STORE="memory:"
    )
    assert (ended.status, ended.err) == (1, "")
    bad = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert len(bad) == 1
    assert bad[0].startswith("FAIL")
    assert "127.0.0.1" in bad[0]
    assert "refused" in bad[0]


def test_check_with_bad_settings_tells_them_all_with_status_2(xots: Any) -> None:
    """As the server would at its start: a sentence each, with its source."""
    ended = xots("check", "-p", "70000", "--token-url", "nonsense", "--store", "nosuch://x")
    assert (ended.status, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert [
        sum(source in line for line in lines) for source in ("--port", "--token-url", "--store")
    ] == [1, 1, 1]
    assert len(lines) == 3


def test_check_shows_no_secret(house: House) -> None:
    """That there is one is told, and where it came from."""
    ended = process(
        "check",
        "--token-url",
        house.sandbox.token_url,
        XOTS_CLIENT_ID="C",
        XOTS_CLIENT_SECRET="secret-canary",
        XOTS_STORE="memory:",
    )
    assert ended.status == 0
    assert "secret-canary" not in ended.out + ended.err
    assert "XOTS_CLIENT_SECRET" in ended.out
