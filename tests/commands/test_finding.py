"""How the commands find the server, prove that it is the caller's own, and send a key."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificates, make_certificates
from support.command_line import Ended, process
from support.other_user import OTHER_UID, become, needs_root
from support.stand_in import StandIn, serving
from support.thread_servers import ThreadServers, started_server

from xots.access import digest_of
from xots.client import Client
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.secret import Secret

Xots = Callable[..., Ended]

KEY = "hunter2-canary-9f3c-of-a-reader"

REQUESTS = {
    "token": "GET /token",
    "exec": "GET /token",
    "status": "GET /status",
    "refresh": "POST /refresh",
    "tenants": "GET /tenants",
    "login": "GET /status",
    "revoke": "POST /revoke",
    "logout": "POST /logout",
    "account list": "GET /accounts",
    "account add new": "POST /accounts",
    "account remove old": "POST /accounts/old/remove",
}
"""The commands for a running server, with the last request of each."""

WITH_STORE = ("revoke", "logout", "account list", "account add new", "account remove old")
"""Those that work on the store if no server runs."""

STATUS = {
    "healthy": True,
    "state": "connected",
    "account": "default",
    "redirect_uri": "https://xots.example/code",
}
RESPONSES: dict[str, tuple[int, object]] = {
    "GET /token": (200, {"accessToken": "t0ken", "expiresIn": 1800, "tenantId": "T"}),
    "GET /status": (200, STATUS),
    "POST /refresh": (303, "/token"),
    "GET /tenants": (200, [{"tenantId": "T"}]),
    "POST /revoke": (200, {"status": "revoked"}),
    "POST /logout": (303, "/"),
    "GET /accounts": (200, {"accounts": []}),
    "POST /accounts": (201, {"account": "new"}),
    "POST /accounts/old/remove": (200, {"account": "old"}),
}


def words_of(command: str, *options: str) -> list[str]:
    """Return a command with its options. ``exec`` gets a program that does not exist."""
    program = ["--", "/nonexistent/program"] if command == "exec" else []
    return [*command.split(), *options, *program]


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A server at a port."""
    with serving(StandIn()) as server:
        server.responses = RESPONSES
        yield server


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[StandIn]:
    """A server at the Unix socket ``tmp_path / "xots.sock"``."""
    with serving(StandIn(tmp_path / "xots.sock")) as server:
        server.responses = RESPONSES
        yield server


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the key, which the environment names."""
    path = tmp_path / "reader-key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    monkeypatch.setenv("XOTS_READER_KEY_FILE", str(path))
    return path


# ---------- the Unix socket


@pytest.mark.parametrize("source", ["option", "variable", "file"])
def test_a_command_connects_to_the_socket_that_a_source_names(
    xots: Xots,
    unix_server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """A port in the environment or the file does not count then."""
    arguments, path = [], str(tmp_path / "xots.sock")
    monkeypatch.setenv("XOTS_PORT", "1")
    if source == "option":
        arguments = ["--unix-socket", path]
    elif source == "variable":
        monkeypatch.setenv("XOTS_UNIX_SOCKET", path)
    else:
        (tmp_path / "xots.yaml").write_text(f"unix_socket: {path}\naddress: none\n")
        arguments = ["--config", str(tmp_path / "xots.yaml")]
    assert xots("token", *arguments) == Ended(0, "t0ken\n", "")


@pytest.mark.safeguard(
    file="client.py",
    old="self.key is not None and self.unix_socket is None:\n            headers",
    new="self.key is not None:\n            headers",
    protects_from="a key on a way that needs none",
)
def test_no_key_is_sent_over_the_socket(unix_server: StandIn, tmp_path: Path) -> None:
    """The file of the socket says who may connect."""
    Client(unix_socket=tmp_path / "xots.sock", key=Secret(KEY)).token()
    assert unix_server.keys == [None]


def test_a_port_on_the_command_line_comes_before_a_socket_elsewhere(
    xots: Xots,
    server: StandIn,
    unix_server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user means that server. With both on the command line, it is the socket."""
    path = str(tmp_path / "xots.sock")
    monkeypatch.setenv("XOTS_UNIX_SOCKET", path)
    assert xots("token", "--port", server.port).status == 0
    assert (len(server.requests), len(unix_server.requests)) == (1, 0)
    assert xots("token", "--port", server.port, "--unix-socket", path).status == 0
    assert (len(server.requests), len(unix_server.requests)) == (1, 1)


@pytest.mark.safeguard(
    file="commands/options.py",
    old="    if unix_socket := _unix_socket(settings):\n",
    new="    unix_socket = _unix_socket(settings)\n    if unix_socket and unix_socket.exists():\n",
    protects_from="a token from another user's program at the port while the server is stopped",
)
@pytest.mark.parametrize("command", ["token", "exec", "status", "refresh", "tenants", "login"])
def test_no_command_turns_from_the_socket_to_a_port(
    xots: Xots, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The program at the port may be another user's. The message names the socket."""
    monkeypatch.setenv("XOTS_PORT", server.port)
    reason = xots(*words_of(command, "--unix-socket", str(tmp_path / "away"))).reason()
    assert f"no server responds at unix:{tmp_path}/away (No such file or directory)" in reason
    assert "--unix-socket or XOTS_UNIX_SOCKET" in reason
    assert server.requests == []


def test_without_an_address_a_command_needs_a_socket(xots: Xots) -> None:
    """``address: none`` is that of a server with a socket alone."""
    assert "set unix_socket too" in xots("token", "--address", "none").reason(status=2)


def test_the_real_server_serves_the_commands_over_its_socket(
    servers: ThreadServers, xots: Xots, tmp_path: Path
) -> None:
    """They need no key there, and the server has no port."""
    path = tmp_path / "xots.sock"
    server = servers.loop.run(
        started_server(
            servers.sandbox,
            client_id=DEFAULT_CLIENT_ID,
            client_secret=Secret(DEFAULT_CLIENT_SECRET),
            unix_socket=path,
            address="none",
            readers=readers_file(tmp_path),
        )
    )
    ended = xots("status", "--json", "--unix-socket", str(path))
    assert (ended.status, json.loads(ended.out)["state"]) == (1, "not-logged-in")
    assert "log in" in xots("token", "--unix-socket", str(path)).reason()
    servers.loop.run(server.stop())


@needs_root
def test_a_user_who_may_not_connect_to_the_socket_is_told(
    unix_server: StandIn, tmp_path: Path
) -> None:
    """That is a refusal: the server runs, and no command works on a store instead."""
    (tmp_path / "xots.sock").chmod(0o600)
    program = (
        "import os; from pathlib import Path; from xots.client import Client\n"
        f"from xots.errors import ServerRefused{become()}"
        "try: Client(unix_socket=Path('xots.sock')).token()\n"
        "except ServerRefused as error: print(error.kind, error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=tmp_path
    )
    assert ended.stdout.startswith(b"access-denied this user may not connect to unix:xots.sock")
    assert b"unix_socket_group" in ended.stdout


# ---------- the key


@pytest.mark.parametrize("command", REQUESTS)
def test_every_command_sends_the_key_of_its_file(
    xots: Xots, server: StandIn, key_file: Path, command: str
) -> None:
    """As a Bearer token (RFC 6750 section 2.1), with each request, to a server of this user."""
    ended = xots(*words_of(command, "--port", server.port))
    assert ended.status == (1 if command == "exec" else 0), ended.err
    assert server.requests[-1][0] == REQUESTS[command]
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in ended.out + ended.err


def test_a_key_file_can_be_named_by_an_option(
    xots: Xots, server: StandIn, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file, no key is sent."""
    monkeypatch.delenv("XOTS_READER_KEY_FILE")
    assert xots("token", "--port", server.port).status == 0
    assert xots("token", "--port", server.port, "--reader-key-file", str(key_file)).status == 0
    assert server.keys == [None, f"Bearer {KEY}"]


def _open_to_all(path: Path) -> None:
    path.chmod(0o644)


def _in_an_open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def _of_two_keys(path: Path) -> None:
    path.write_text(f"{KEY}\n{KEY}-2\n")


def _with_a_header(path: Path) -> None:
    path.write_text(f"{KEY}\r\nX-Forwarded-For: {KEY}")


def _not_ascii(path: Path) -> None:
    path.write_text(f"{KEY}\u20ac")


def _not_text(path: Path) -> None:
    path.write_bytes(KEY.encode() + b"\xff")


def _empty(path: Path) -> None:
    path.write_text("\n")


def _missing(path: Path) -> None:
    path.unlink()


@pytest.mark.safeguard(
    file="commands/options.py",
    old="    if dangers := file.dangers(secret=secret):\n",
    new="    if dangers := []:\n",
    protects_from="a reader's key that other users of the machine know",
)
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_open_to_all, "chmod 600"),
        (_in_an_open_folder, "chmod go-w"),
        (_of_two_keys, "must hold one key"),
        (_with_a_header, "must hold one key"),
        (_not_ascii, "must hold one key"),
        (_not_text, "is not UTF-8 text"),
        (_empty, "must hold one key"),
        (_missing, "can't be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_key_file_that_is_not_safe_to_use_stops_the_command(
    xots: Xots, server: StandIn, key_file: Path, harm: Callable[[Path], None], words: str
) -> None:
    """The message names the setting and the remedy, and does not quote the file. No request is
    sent."""
    harm(key_file)
    for command in ("token", "revoke"):
        reason = xots(command, "--port", server.port).reason(status=2)
        assert reason.startswith("xots: XOTS_READER_KEY_FILE: ")
        assert words in reason
        assert KEY not in reason
    assert server.requests == []


def test_a_key_in_the_place_of_its_file_is_not_repeated(
    xots: Xots, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may take the setting for the key itself."""
    monkeypatch.setenv("XOTS_READER_KEY_FILE", KEY)
    assert KEY not in xots("token", "--port", server.port).reason(status=2)


def test_a_key_that_a_response_repeats_is_not_shown(
    xots: Xots, server: StandIn, key_file: Path
) -> None:
    """A program that is not xots may quote the request in its error."""
    server.responses = {"GET /token": (400, {"title": "Bad", "detail": f"Bearer {KEY}"})}
    assert xots("token", "--port", server.port).reason() == "xots: Bearer [secret]"


def readers_file(folder: Path) -> Path:
    """Return a server's file of readers, with the reader of ``KEY``."""
    path = folder / "readers"
    path.write_text(f"script metrics * sha256:{digest_of(KEY)}\n")
    path.chmod(0o600)
    return path


def test_the_real_server_demands_the_key_and_accepts_it(
    servers: ThreadServers,
    xots: Xots,
    tmp_path: Path,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_log: Any,
) -> None:
    """Without one, the message names the setting. A key without the right to an act is told so, and
    the act is not done on a store instead."""
    expected_log(r"WARNING xots\.web: POST /revoke: refused uid:")
    server = servers.loop.run(started_server(servers.sandbox, readers=readers_file(tmp_path)))
    place = ("--port", str(server.port))
    ended = xots("status", "--json", *place)
    assert (ended.status, json.loads(ended.out)["state"]) == (1, "no-credentials")
    assert "the key of script does not have the scope" in xots("revoke", *place).reason()
    monkeypatch.delenv("XOTS_READER_KEY_FILE")
    for command in ("token", "revoke"):
        assert "needs a key" in (reason := xots(command, *place).reason())
        assert "set reader_key_file" in reason
    servers.loop.run(server.stop())


@pytest.mark.parametrize("kind", ["key-needed", "access-denied", "rules-unreadable"])
@pytest.mark.parametrize("command", WITH_STORE)
def test_a_refusal_does_not_lead_to_the_store(
    xots: Xots, server: StandIn, command: str, kind: str
) -> None:
    """The command reports it, and opens no store."""
    problem = {"type": f"urn:xots:{kind}", "title": "Refused", "detail": "no right"}
    server.responses = dict.fromkeys(RESPONSES, (401, problem))
    assert xots(*words_of(command, "--port", server.port)).reason() == "xots: no right"
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


@pytest.mark.safeguard(
    file="client.py",
    old="            is_connected = connection.sock is not None",
    new="            is_connected = False",
    protects_from="a command that changes the store beside a server that runs",
)
@pytest.mark.parametrize("command", WITH_STORE)
def test_a_server_that_speaks_tls_is_not_taken_for_none(
    xots: Xots, tls_server: StandIn, command: str
) -> None:
    """A command without its certificate gets no response from it, and opens no store."""
    ended = xots(*words_of(command, "--port", tls_server.port))
    assert "if it speaks TLS, set tls_certificate" in ended.reason()
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


# ---------- another user's program

SQUATTER = """
kind = sys.argv[1]
family, place = (
    (socket.AF_INET, ("127.0.0.1", 0)) if kind == "tcp" else (socket.AF_UNIX, "xots.sock")
)
listening = socket.socket(family)
listening.bind(place)
listening.listen()
print(listening.getsockname()[1] if kind == "tcp" else 0, flush=True)
body = json.dumps({
    "accessToken": "forged", "tenantId": None, "healthy": True, "state": "connected",
    "account": "default", "status": "revoked", "accounts": [], "redirect_uri": "https://evil/code",
}).encode()
head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
while True:
    connected, _ = listening.accept()
    while data := connected.recv(65536):
        print(data.hex(), flush=True)
        if b"\\r\\n\\r\\n" in data:
            connected.sendall(head + body)
    connected.close()
"""
"""A program, after its imports, that records all that it receives, and gives every request a forged
response."""


@dataclass
class Squatter:
    process: subprocess.Popen[str]
    place: tuple[str, int] | str
    """Where it listens, as a socket connects to it."""

    def received(self) -> bytes:
        """End it, and return all that it has received."""
        with socket.socket(
            socket.AF_UNIX if isinstance(self.place, str) else socket.AF_INET
        ) as end:
            end.connect(self.place)
            end.sendall(b"the end")
            assert self.process.stdout is not None
            lines = iter(self.process.stdout.readline, f"{b'the end'.hex()}\n")
            received = b"".join(map(bytes.fromhex, lines))
        self.process.kill()
        return received


@contextmanager
def squatter(folder: Path, kind: str) -> Iterator[Squatter]:
    """Run the program as another user, with a folder of its own."""
    theirs = folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, OTHER_UID, OTHER_UID)
    with subprocess.Popen(
        [sys.executable, "-c", f"import json, os, socket, sys{become()}{SQUATTER}", kind],
        cwd=theirs,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield Squatter(process, ("127.0.0.1", port) if port else str(theirs / "xots.sock"))
        finally:
            process.kill()


def options_of(found: Squatter) -> tuple[str, str]:
    """Return the option that names the place of the program."""
    if isinstance(found.place, str):
        return "--unix-socket", found.place
    return "--port", str(found.place[1])


@needs_root
@pytest.mark.safeguard(
    file="proof.py",
    old="    if uid is not None or must_know:\n",
    new="    if False:\n",
    protects_from="a key that another user's program at the port receives",
)
def test_another_users_program_at_the_port_gets_no_key(
    xots: Xots, tmp_path: Path, key_file: Path
) -> None:
    """No command sends it a byte, or believes it. The message names the user and the setting."""
    with squatter(tmp_path, "tcp") as found:
        for command in REQUESTS:
            reason = xots(*words_of(command, *options_of(found))).reason()
            assert f"runs as user {OTHER_UID}, so nothing was sent to it" in reason
            assert "set server_user to it" in reason
        assert found.received() == b""
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


@needs_root
@pytest.mark.safeguard(
    file="proof.py",
    old="    _check_user(unix_peer(connected), where, server_user)\n",
    new="",
    protects_from="a token that another user's program at the socket has made up",
)
def test_another_users_program_at_the_socket_gets_no_request(
    xots: Xots, tmp_path: Path, key_file: Path
) -> None:
    """No command sends it a byte, or believes it, also if the folder of the socket is safe."""
    with squatter(tmp_path, "unix") as found:
        os.chown(tmp_path / "theirs", 0, 0)
        for command in REQUESTS:
            reason = xots(*words_of(command, *options_of(found))).reason()
            assert f"runs as user {OTHER_UID}, so nothing was sent to it" in reason
            assert "set server_user to it" in reason
        assert found.received() == b""
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


@needs_root
def test_another_users_program_at_the_port_fools_no_command_without_a_key(
    xots: Xots, tmp_path: Path
) -> None:
    """It gets no byte, such as the secret of a client, and no command believes it."""
    with squatter(tmp_path, "tcp") as found:
        for command in REQUESTS:
            reason = xots(*words_of(command, *options_of(found))).reason()
            assert "stop that program; only if your server runs as that user, set" in reason
        assert found.received() == b""


@needs_root
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server_of_the_named_user_is_trusted(
    xots: Xots, tmp_path: Path, key_file: Path, kind: str
) -> None:
    """The service has a user of its own. It gets the key at a port, and none over its socket."""
    with squatter(tmp_path, kind) as found:
        ended = xots("token", *options_of(found), "--server-user", str(OTHER_UID))
        assert ended == Ended(0, "forged\n", "")
        assert (KEY.encode() in found.received()) == (kind == "tcp")


@needs_root
def test_a_server_user_that_does_not_exist_is_reported(
    xots: Xots, tmp_path: Path, key_file: Path
) -> None:
    """The message names the setting, and nothing is sent."""
    with squatter(tmp_path, "tcp") as found:
        options = (*options_of(found), "--server-user", "nobody-has-this-name")
        for command in ("token", "revoke"):
            reason = xots(command, *options).reason(status=2)
            assert reason == "xots: server_user: the value names no user of this machine"
        assert found.received() == b""


# ---------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[StandIn]:
    """A server that speaks TLS at all loopback addresses of IPv4."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with serving(StandIn(("0.0.0.0", 0), context)) as server:  # noqa: S104 - for 127.0.0.2
        server.responses = RESPONSES
        yield server


@pytest.mark.safeguard(
    file="client.py",
    old="                prove_certificate(connected, self.url, self.certificate)\n",
    new="                pass\n",
    protects_from="a key that a server with any certificate receives",
)
def test_a_server_with_another_certificate_gets_no_key(
    xots: Xots, tls_server: StandIn, certificates: Certificates, key_file: Path
) -> None:
    """Only the first certificate of the file counts, whoever has signed the other one."""
    place = ("--port", tls_server.port, "--tls-certificate")
    assert xots("token", *place, str(certificates.server)) == Ended(0, "t0ken\n", "")
    assert tls_server.keys == [f"Bearer {KEY}"]
    for other in (certificates.ca, certificates.client):
        for command in ("token", "revoke"):
            reason = xots(command, *place, str(other)).reason()
            assert "has another certificate than the file of tls_certificate" in reason
    assert len(tls_server.requests) == 1


def test_the_certificate_is_read_at_each_command(
    xots: Xots, tls_server: StandIn, certificates: Certificates, tmp_path: Path
) -> None:
    """A chain may follow it in the file."""
    path = tmp_path / "chain.pem"
    place = ("--port", tls_server.port, "--tls-certificate", str(path))
    chain = [certificates.ca.read_text(), certificates.server.read_text()]
    path.write_text("".join(chain))
    assert xots("token", *place).status == 1
    path.write_text("".join(reversed(chain)))
    assert xots("token", *place).status == 0


@pytest.mark.parametrize(
    "content", ["", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"]
)
def test_a_file_without_a_certificate_is_reported(
    xots: Xots, tls_server: StandIn, tmp_path: Path, content: str
) -> None:
    """No request is sent."""
    path = tmp_path / "empty.pem"
    path.write_text(content)
    reason = xots("token", "--port", tls_server.port, "--tls-certificate", str(path)).reason(2)
    assert "--tls-certificate: the file that it names holds no certificate" in reason


def test_a_certificate_that_others_can_replace_is_refused(
    xots: Xots, tls_server: StandIn, certificates: Certificates, tmp_path: Path
) -> None:
    """They could send the key to a server of their own."""
    path = tmp_path / "open.pem"
    path.write_bytes(certificates.server.read_bytes())
    path.chmod(0o666)
    reason = xots("token", "--port", tls_server.port, "--tls-certificate", str(path)).reason(2)
    assert "chmod 644" in reason
    assert tls_server.requests == []


def test_a_server_without_tls_gets_no_key_in_clear(
    xots: Xots, server: StandIn, certificates: Certificates, key_file: Path
) -> None:
    """With a certificate in the settings, a command never speaks plain HTTP."""
    place = ("--port", server.port, "--tls-certificate", str(certificates.server))
    for command in ("token", "revoke"):
        assert "does not prove by TLS" in xots(command, *place).reason()
    assert server.requests == []


def test_a_url_with_https_is_verified_by_the_authorities_of_the_system(
    xots: Xots,
    tls_server: StandIn,
    certificates: Certificates,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The certificate must be for the host of the URL, too. No certificate is in the settings."""
    monkeypatch.setenv("XOTS_URL", f"https://127.0.0.1:{tls_server.port}")
    assert "does not prove by TLS" in xots("token").reason()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    assert xots("token") == Ended(0, "t0ken\n", "")
    monkeypatch.setenv("XOTS_URL", f"https://127.0.0.2:{tls_server.port}")
    assert "not valid for '127.0.0.2'" in xots("token").reason()
    assert tls_server.keys == [f"Bearer {KEY}"]


def test_a_url_without_tls_contradicts_a_certificate(
    certificates: Certificates, xots: Xots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names both."""
    monkeypatch.setenv("XOTS_URL", "http://127.0.0.1:1")
    reason = xots("token", "--tls-certificate", str(certificates.server)).reason(status=2)
    assert reason == "xots: XOTS_URL: must be https://HOST:PORT with tls_certificate"


# ---------- exec

SHOW = (
    "import json, os, pathlib; print(json.dumps([dict(os.environ), "
    "pathlib.Path('/proc/self/cmdline').read_text()]))"
)


def test_exec_passes_on_how_to_find_the_server_and_no_key(
    server: StandIn,
    unix_server: StandIn,
    tls_server: StandIn,
    certificates: Certificates,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The paths are absolute, since the program may change its folder. The key is neither in the
    environment nor in the list of processes."""
    monkeypatch.chdir(key_file.parent)
    found = {
        ("--port", server.port, "--server-user", "root"): {
            "XOTS_URL": f"http://127.0.0.1:{server.port}",
            "XOTS_SERVER_USER": "root",
        },
        ("--unix-socket", "xots.sock", "--account", "smith"): {
            "XOTS_UNIX_SOCKET": str(key_file.parent / "xots.sock"),
            "XOTS_ACCOUNT": "smith",
        },
        ("--port", tls_server.port, "--tls-certificate", "server.pem"): {
            "XOTS_URL": f"https://127.0.0.1:{tls_server.port}",
            "XOTS_TLS_CERTIFICATE": str(key_file.parent / "server.pem"),
        },
    }
    (key_file.parent / "server.pem").write_bytes(certificates.server.read_bytes())
    unix_server.responses = {"GET /accounts/smith/token": RESPONSES["GET /token"]}
    given = {"XOTS_READER_KEY_FILE": key_file.name, "XOTS_STORE": "memory:"}
    for options, wanted in found.items():
        ended = process("exec", *options, "--", sys.executable, "-c", SHOW, **given)
        assert ended.status == 0, ended.err
        environment, arguments = json.loads(ended.out)
        passed = {name: text for name, text in environment.items() if name.startswith("XOTS_")}
        assert passed == wanted | {"XOTS_READER_KEY_FILE": str(key_file)}
        assert KEY not in ended.out + arguments


def test_a_command_under_exec_uses_the_same_way_to_the_server(
    xots: Xots,
    unix_server: StandIn,
    tls_server: StandIn,
    certificates: Certificates,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over the socket or TLS, with the same key and certificate."""
    ways = {
        ("--unix-socket", str(key_file.parent / "xots.sock")): unix_server,
        ("--port", tls_server.port, "--tls-certificate", str(certificates.server)): tls_server,
    }
    for options, server in ways.items():
        ended = process("exec", *options, "--", sys.executable, "-c", SHOW)
        assert ended.status == 0, ended.err
        environment, _ = json.loads(ended.out)
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", environment)
            for command in ("token", "revoke"):
                assert xots(command).status == 0
                assert server.requests[-1][0] == REQUESTS[command]
    assert set(tls_server.keys) == {f"Bearer {KEY}"}


@pytest.mark.safeguard(
    file="commands/options.py",
    old='or (has_token and "XOTS_UNIX_SOCKET" in os.environ)',
    new="",
    protects_from="a script under xots exec that ends another login than that of its server",
)
@pytest.mark.parametrize("command", ["revoke", "logout", "account list"])
def test_under_exec_no_command_turns_from_the_socket_to_a_store(
    xots: Xots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The settings of the server's store are unknown there."""
    monkeypatch.setenv("XOTS_UNIX_SOCKET", str(tmp_path / "away"))
    monkeypatch.setenv("XERO_ACCESS_TOKEN", "t0ken")
    assert "no server responds" in xots(*words_of(command)).reason()


# ---------- output


def test_login_shows_the_host_of_the_redirect_uri(
    xots: Xots, unix_server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser can't open a socket, and the name of this machine may be another one outside."""
    for redirect_uri, words in (
        ("https://xots.example/code", "open https://xots.example/home in a browser, and log in"),
        (
            "https://localhost:5001/code",
            "open https://localhost:5001/home in a browser on this machine, and log in",
        ),
    ):
        status = STATUS | {"healthy": False, "redirect_uri": redirect_uri}
        responses = {"GET /status": (200, status)}
        unix_server.responses = dict(responses)

        def sleep(
            seconds: float, found: dict[str, tuple[int, object]] = unix_server.responses
        ) -> None:
            found["GET /status"] = (200, STATUS)

        monkeypatch.setattr("time.sleep", sleep)
        path = tmp_path / "xots.sock"
        hint = f"if no port is open there (address: none), forward it to {path} first, for example"
        ended = xots("login", "--unix-socket", str(path))
        assert ended == Ended(0, f"{words}\n{hint} by ssh -L\nlogged in\n", "")


def test_status_shows_each_reader_on_a_line(xots: Xots, server: StandIn) -> None:
    """A program that imitates xots ends in no traceback."""
    first, last = "2026-11-28T04:00:00Z", "2026-11-28T05:00:00Z"
    readers = [
        {"reader": "report", "count": 12, "first_at": first, "last_at": last},
        {"reader": "uid:0", "count": 1, "first_at": last, "last_at": last},
        {},
        5,
    ]
    server.responses = {"GET /status": (200, STATUS | {"readers": readers})}
    lines = xots("status", "--port", server.port).out.splitlines()
    assert [line.removeprefix("readers").lstrip() for line in lines if "readers" in line] == [
        f"report: 12 times, first at {first}, last at {last}",
        f"uid:0: once, at {last}",
        "None: None times, first at None, last at None",
    ]
