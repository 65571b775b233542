"""No secret reaches a sink: canaries are put wherever a secret may be, and looked for everywhere.

The sinks are the log of every logger at DEBUG, responses and pages, the output of the commands,
the environment of child processes, and files.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support import inside
from support.canaries import CANARY, Sinks, leaks, listening
from support.command_line import process
from support.running import running
from support.web import BROWSER, origin

from xots.access import digest_of
from xots.commands.repeats import MAX_LINES
from xots.errors import SettingsError, StoreUnavailable
from xots.key_file import read_key_file
from xots.keys import default_key_file
from xots.reader_file import new_key
from xots.sandbox import Organisation, Sandbox
from xots.sandbox.identity.clients import Client
from xots.sandbox.person import Person
from xots.secret import Secret
from xots.server import Server
from xots.settings import declared, load

NewServer = Callable[..., Awaitable[Server]]

PATHS = ("/", "/login", "/home", "/status", "/livez", "/ready", "/ping", "/tenants", "/nothing")

HOSTILE = "Acme\nforged\x1b[2J\x9b31m\u202eevil\u2066\u200b"


@pytest.fixture
def sinks(expected_log: Any) -> Iterator[Sinks]:
    """The sinks of one test, in which every log line is permitted."""
    expected_log.perhaps(r".")
    with listening() as found:
        yield found


class Recorder(Person):
    """A user whose browser notes each address, and shows each page of the server to the sinks."""

    def __init__(self, sinks: Sinks, server: Server) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._sinks, self._origin = sinks, origin(server)

    async def _fetch(self, method: str, url: str, body: Any, headers: Any) -> Any:
        self.addresses.append(url)
        response = await super()._fetch(method, url, body, headers)
        if url.startswith(self._origin):
            self._sinks.add(response.body)
        return response

    def parameters(self, name: str) -> list[str]:
        """Return the values of a query parameter in the addresses."""
        return [
            one for url in self.addresses for one in parse_qs(urlsplit(url).query).get(name, ())
        ]


async def raw(server: Server, request: bytes) -> bytes:
    """Send bytes to a server and return its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            found = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            length = int(found[0].partition(b":")[2]) if found else 0
            return head + await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.close()


# ---------- keys of readers


@pytest.mark.parametrize("where", ["right", "wrong", "in clear", "query", "cookie", "host"])
async def test_a_readers_key_reaches_no_sink(
    new_server: NewServer, sinks: Sinks, send: Any, tmp_path: Path, where: str
) -> None:
    """Sent in its place, or in a wrong one, by Bearer and by HTTP Basic, through all paths."""
    readers = tmp_path / "readers"
    name = "owner" if where == "right" else "other"
    readers.write_text(f"{name} admin * sha256:{digest_of(CANARY if name == 'owner' else 'x')}\n")
    server = await new_server(readers=readers, client_id="app", client_secret=Secret("secret"))
    plain = b64encode(f"owner:{CANARY}".encode()).decode()
    headers = {
        "query": [{"Authorization": "Bearer x"}],
        "cookie": [{"Cookie": f"key={CANARY}"}],
        "host": [{"Host": CANARY}],
        "in clear": [{"Authorization": CANARY}, {"Authorization": f"Key {CANARY}"}],
    }.get(where, [{"Authorization": f"Bearer {CANARY}"}, {"Authorization": f"Basic {plain}"}])
    for path in (*PATHS, "/token", "/refresh", "/accounts", "/accounts/default/status"):
        target = f"{path}?key={CANARY}" if where == "query" else path
        for given in headers:
            for accept in ({}, BROWSER):
                response = await send("GET", f"{origin(server)}{target}", {**given, **accept})
                sinks.add(response.body + str(response.headers).encode())
    assert sinks.leaks({CANARY, plain}) == []


async def test_a_key_in_a_path_is_not_logged(
    new_server: NewServer, sinks: Sinks, send: Any
) -> None:
    """A program may put it anywhere by mistake, also at the end of the part that is shown."""
    server, key = await new_server(), new_key()
    for path in (f"/{key}", f"/token/{key}/x", f"/{'a' * 170}{key}", f"/accounts/{key}/token"):
        sinks.add((await send("GET", f"{origin(server)}{path}")).body)
    assert sinks.leaks({key, key.removeprefix("xots_")[:20]}) == []
    assert "xots_***" in sinks.log


async def test_no_message_about_the_file_of_readers_repeats_it(
    sinks: Sinks, new_server: NewServer, send: Any, tmp_path: Path
) -> None:
    """A key may stand in it by mistake, or in the setting in place of the file."""
    readers = tmp_path / "readers"
    readers.write_text("")
    server = await new_server(readers=readers)
    for text in (CANARY, f"owner admin * {CANARY}", f"owner {CANARY} * sha256:{'0' * 64}"):
        readers.write_text(text)
        response = await send("GET", f"{origin(server)}/token", {"Authorization": "Bearer x"})
        assert response.status == 503
        assert str(tmp_path) not in response.text
        sinks.add(response.body)
    for setting in ({"readers": Path(CANARY)}, {"readers": tmp_path}):
        with pytest.raises(SettingsError) as raised:
            await new_server(**setting)
        sinks.add(str(raised.value).encode())
    assert sinks.leaks({CANARY}) == []


# ---------- a login, and all that follows


async def test_a_whole_login_leaves_no_secret_in_any_sink(
    new_server: NewServer, sandbox: Sandbox, clock: Any, send: Any, sinks: Sinks, tmp_path: Path
) -> None:
    """Client secret, sealing key, tokens, codes, states and verifiers; through pages, endpoints,
    a failed and a successful refresh, a second login, and the end."""
    server = await new_server(store=f"file://{tmp_path}/store")
    sandbox.identity.register(Client("canary-app", CANARY, (server.redirect_uri,)))
    attempts = []
    log_in = server.keeper.login

    async def noted(attempt: Any) -> None:
        attempts.append(attempt)
        await log_in(attempt)

    server.keeper.login = noted  # type: ignore[method-assign]
    person = Recorder(sinks, server)
    secrets = {CANARY, read_key_file(default_key_file()).keys[0].reveal()}

    def note() -> None:
        account = server.keeper.account
        secrets.update(token.value.reveal() for token in account.tokens)
        secrets.update([account.access.value.reveal()] if account.access else [])
        secrets.update(sandbox.identity.usable_refresh_tokens(clock.now()))

    await person.log_in(origin(server), "canary-app", CANARY)
    note()
    assert server.keeper.can_serve
    token = (await send("GET", f"{server.url}/token")).json["accessToken"]
    assert token in secrets
    sandbox.add_fault("refresh:nth=1:500-html")
    for _ in range(2):
        response = await send("POST", f"{server.url}/refresh", None, "")
        sinks.add(response.body)
        clock.advance(120)
        note()
    for path in PATHS:
        for headers in (None, BROWSER):
            response = await send("GET", f"{server.url}{path}", headers)
            sinks.add(response.body)
            sinks.add(str(dict(response.headers)))
    await person.open(person.addresses[-2])  # the callback a second time
    await person.log_in(origin(server), "canary-app", "wrong-secret-canary")
    secrets.add("wrong-secret-canary")
    note()
    sinks.add((await send("POST", f"{server.url}/logout", None, "")).body)
    for file in (tmp_path / "store").rglob("*"):
        if file.is_file():
            sinks.add(file.read_bytes())
    secrets.update([*person.parameters("code"), *person.parameters("state")])
    secrets.update(attempt.verifier.reveal() for attempt in attempts)
    assert len(attempts) >= 2
    assert len(secrets) >= 12
    assert "refreshed" in sinks.log
    assert sinks.leaks(secrets) == []


# ---------- malformed requests

FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
MULTIPART = b"Content-Type: multipart/form-data; boundary=b\r\n"
SECRET = b"hunter2-canary"


def post(path: bytes, headers: bytes, body: bytes) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return (
        b"POST "
        + path
        + b" HTTP/1.1\r\nHost: localhost:PORT\r\n"
        + headers
        + length
        + b"\r\n"
        + body
    )


def get(path: bytes, headers: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost:PORT\r\n%b\r\n" % (path, headers)


MALFORMED = {
    "body": post(b"/login", FORM, b"client_id=a&client_secret=%FF" + SECRET),
    "body name": post(b"/login", FORM, b"client_id=%FF&client_secret=" + SECRET),
    "raw body": post(b"/login", FORM, b"client_id=a&client_secret=\xff" + SECRET),
    "tenant": post(b"/home", FORM, b"tenant_id=%FF" + SECRET),
    "too long": post(b"/login", FORM, b"client_id=a&client_secret=" + SECRET * 100),
    "spaces": post(b"/login", FORM, b"client_id=a&client_secret=a+" + SECRET),
    "coding": post(b"/login", FORM + b"Content-Encoding: " + SECRET + b"\r\n", b"a=b"),
    "no multipart": post(b"/login", MULTIPART, b"client_secret=" + SECRET),
    "part header": post(
        b"/login",
        MULTIPART,
        b'--b\r\nContent-Disposition: form-data; name="client_secret"; x\x01' + SECRET + b"\r\n\r\n"
        b"x\r\n--b--\r\n",
    ),
    "part value": post(
        b"/login",
        MULTIPART,
        b'--b\r\nContent-Disposition: form-data; name="client_secret"\r\n\r\n\xff'
        + SECRET
        + b"\r\n--b--\r\n",
    ),
    "boundary": post(b"/login", MULTIPART.replace(b"=b", b"=" + SECRET), b"x"),
    "query": get(b"/code?state=%FF" + SECRET),
    "code": get(b"/code?state=a&code=%FF" + SECRET),
    "code twice": get(b"/code?state=a&state=" + SECRET),
    "min_ttl": get(b"/token?min_ttl=%FF" + SECRET),
    "min_ttl text": get(b"/token?min_ttl=" + SECRET),
    "unknown query": get(b"/status?token=" + SECRET),
    "cookie": get(b"/home", b'Cookie: xots-form="\\777%b; =; xots-login-a=b\r\n' % SECRET),
    "bearer": get(b"/token", b"Authorization: Bearer " + SECRET + b"\x01\r\n"),
    "header name": get(b"/token", b"X " + SECRET + b": a\r\n"),
    "no colon": get(b"/token", SECRET + b"\r\n"),
    "host": get(b"/token").replace(b"localhost", SECRET),
    "start line": b"GET /token " + SECRET + b"\r\n\r\n",
    "method": b"hunter2-canary /token HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n",
    "version": b"GET /token HTTP/" + SECRET + b"\r\nHost: localhost:PORT\r\n\r\n",
    "absolute": get(b"http://user:" + SECRET + b"@localhost/token"),
    "length": post(b"/login", b"Content-Length: " + SECRET + b"\r\n", b""),
    "chunk": get(b"/token", b"Transfer-Encoding: chunked\r\n") + SECRET + b"\r\n\r\n",
    "transfer": get(b"/token", b"Transfer-Encoding: " + SECRET + b"\r\n"),
    "charset": post(b"/login", FORM.replace(b"\r\n", b"; charset=" + SECRET + b"\r\n"), b"a=%FF"),
    "accept": get(b"/nothing", b"Accept: text/html;q=" + SECRET + b"\r\n"),
}


@pytest.mark.safeguard(
    file="web/responses.py",
    old='raise HTTPError(400, f"{what} is not UTF-8 text") from None',
    new='raise HTTPError(400, f"{what} is not UTF-8 text: {value!r}") from None',
    protects_from="a secret in the log and the response because its encoding is malformed",
)
@pytest.mark.safeguard(
    file="web/problems.py",
    old="if error.__cause__ is not None:",
    new="if False:",
    protects_from="a secret that Tornado's parsers quote in the log and the response",
)
async def test_a_malformed_request_is_not_quoted(server: Server, sinks: Sinks) -> None:
    """Neither the response nor the log repeats it; none is a fault of the server."""
    for name, request in MALFORMED.items():
        response = await raw(server, request.replace(b"PORT", str(server.port).encode()))
        sinks.add(response)
        assert sinks.leaks([SECRET.decode()]) == [], name
        assert b" 500 " not in response[:16], name
    assert "Traceback" not in sinks.log


async def test_the_response_names_the_field_that_is_malformed(server: Server, sinks: Sinks) -> None:
    """A programmer learns which one."""
    for name, words in (("body", b"client_secret is not UTF-8"), ("query", b"state is not UTF-8")):
        response = await raw(server, MALFORMED[name].replace(b"PORT", str(server.port).encode()))
        assert response.startswith(b"HTTP/1.1 400 ")
        assert words in response


# ---------- exceptions


def broken(kind: str) -> Exception:
    match kind:
        case "decoding":
            return UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY)
        case "system":
            return OSError(5, "Input/output error", f"/x/{CANARY}")
        case "chain":
            error = RuntimeError(f"{CANARY}\ud800")
            error.__cause__ = KeyError(CANARY)
            return error
    return ValueError(f"invalid: {CANARY}\n{CANARY}")


@pytest.mark.parametrize("kind", ["decoding", "system", "chain", "value"])
async def test_an_exception_in_a_handler_shows_no_data(
    logged_in: Server, send: Any, sinks: Sinks, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its text may quote whatever a library was given. The log shows its type and the code."""

    def fail(*_: object, **__: object) -> Any:
        raise broken(kind)

    for name in ("token", "refresh", "end", "connections", "check_store", "login"):
        monkeypatch.setattr(logged_in.keeper, name, fail)
    for name in ("can_serve", "outlook", "store_problem", "clock_skew"):
        monkeypatch.setattr(type(logged_in.keeper), name, property(fail))
    statuses = []
    for method, path in (
        *(("GET", path) for path in ("/token", "/tenants", "/status", "/livez", "/ready", "/home")),
        *(("POST", path) for path in ("/refresh", "/revoke", "/logout")),
    ):
        for headers in (None, BROWSER | {"Origin": f"http://127.0.0.1:{logged_in.port}"}):
            body = "" if method == "POST" else None
            response = await send(method, f"{logged_in.url}{path}", headers, body)
            statuses.append(response.status)
            sinks.add(response.body)
    assert statuses.count(500) >= 10
    assert f"{type(broken(kind)).__name__}" in sinks.log
    assert sinks.leaks([CANARY]) == []
    monkeypatch.undo()


async def test_a_store_error_with_any_character_is_shown(
    logged_in: Server, send: Any, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a store may hold bytes that are no text: no page and no response fails."""

    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable(f"/x/{HOSTILE}\udcff cannot be read")

    store = inside.context_of(logged_in.keeper).store
    for name in ("check", "swap", "read"):
        monkeypatch.setattr(store, name, fail)
    await send("POST", f"{logged_in.url}/refresh", None, "")
    for path in ("/status", "/home", "/ready", "/livez"):
        for headers in (None, BROWSER):
            response = await send("GET", f"{origin(logged_in)}{path}", headers)
            assert response.status in (200, 503), path
            assert response.text.replace("\n", "").isprintable(), path
    assert r"\udcff cannot be read" in (await send("GET", f"{logged_in.url}/status")).json["reason"]
    monkeypatch.undo()


# ---------- text from outside


async def test_names_of_organisations_drive_no_terminal_and_forge_no_line(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, log_in: Any, send: Any, sinks: Sinks
) -> None:
    """Their characters are escaped on pages, in responses, in the log and by the commands."""
    organisations = sandbox.world.accounting.organisations
    for tenant_id in organisations:
        organisations[tenant_id] = Organisation(HOSTILE, tenant_id)
    server = await new_server(**credentials, tenant_id="another-one")
    with pytest.raises(AssertionError):
        await log_in(server)  # the message lists the connected ones
    ours = await new_server(**credentials)
    await log_in(ours)
    response = await send("GET", f"{ours.url}/tenants")
    assert response.json[0]["tenantName"] == HOSTILE
    for path in ("/tenants", "/status", "/home"):
        page = await send("GET", f"{ours.url}{path}", BROWSER)
        assert page.text.replace("\n", "").isprintable()
    assert all(line.isprintable() for line in sinks.log.splitlines())
    assert r"Acme\nforged\x1b[2J\x9b31m\u202eevil" in sinks.log.replace(r"\\", "\\")
    shown = await asyncio.to_thread(process, "tenants", "--port", str(ours.port))
    assert shown.out.count("\n") == len(response.json)
    assert shown.out.replace("\n", "").isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
async def test_a_name_that_the_terminal_cannot_show_is_no_traceback(encoding: str) -> None:
    """A lone surrogate, or a character that the locale does not have, is escaped."""
    names = ["Müller 株式会社", "lone \ud800 surrogate", HOSTILE]
    content = json.dumps([{"tenantId": name, "tenantName": name} for name in names])

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write((head + content).encode())
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as stranger:
        port = str(stranger.sockets[0].getsockname()[1])
        environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
        ended = await asyncio.to_thread(_bytes_of, "tenants", "--port", port, **environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.count(b"\n") == 3
    assert rb"lone \ud800 surrogate" in ended.stdout
    assert b"\x1b" not in ended.stdout


def _bytes_of(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    import os

    command = [sys.executable, "-m", "xots", *arguments]
    return subprocess.run(
        command, capture_output=True, check=False, timeout=20, env=os.environ | environment
    )


async def test_requests_with_long_paths_make_a_short_log(server: Server, sinks: Sinks) -> None:
    """1,000 requests of 60 kB, which once were 60 MB, are less than 1 MB."""
    path = b"/" + b"x" * 30_000 + b"%0a\x9b" + b"y" * 30_000
    request = get(path).replace(b"PORT", str(server.port).encode())
    for _ in range(20):
        responses = await asyncio.gather(*(raw(server, request) for _ in range(50)))
        assert all(one.startswith(b"HTTP/1.1 404 ") for one in responses)
    assert len(sinks.log) < 1_000_000
    assert all(line.isprintable() for line in sinks.log.splitlines())


@pytest.mark.safeguard(
    file="web/app.py",
    old='"limited": handler.get_status() >= 400',
    new='"limited": False',
    protects_from="a log that a program fills by requests of no path, or of a wrong method",
)
async def test_a_flood_of_failing_requests_makes_a_short_log(server: Server, sinks: Sinks) -> None:
    """Unknown paths, wrong methods and malformed requests are counted, as refusals are."""
    port = str(server.port).encode()
    malformed = b"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nno header\r\n\r\n"
    kinds = (get(b"/nowhere"), get(b"/token?min_ttl=x"), get(b"/code"), malformed)
    for kind in kinds:
        request = kind.replace(b"PORT", port)
        await asyncio.gather(*(raw(server, request) for _ in range(100)))
    assert len(sinks.log.splitlines()) < 4 * 2 * 2 * MAX_LINES + 20


async def test_repeats_of_one_bug_do_not_hide_another(
    server: Server, send: Any, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type of the exception and the handler make a kind of their own."""

    def fail(error: type[Exception]) -> Any:
        def raise_it(*_: object, **__: object) -> None:
            raise error

        return raise_it

    for error, times in ((ValueError, MAX_LINES + 5), (AssertionError, 1), (LookupError, 1)):
        monkeypatch.setattr(server.keeper, "token", fail(error))
        for _ in range(times):
            await send("GET", f"{server.url}/token")
    for error in (ValueError, AssertionError, LookupError):
        assert f"    {error.__name__}" in sinks.log


# ---------- settings and command lines

WRONG = (
    CANARY,
    f"{CANARY} two words",
    f"http://{CANARY}:x",
    f"/nonexistent/{CANARY}",
    f"{CANARY}\0",
)
SOURCES = ("command line", "environment", "credentials", "YAML", "YAML list")


def problems(source: str, name: str, value: str, folder: Path) -> str:
    """Return the problems of a setting with this value in this source."""
    arguments, environment, config = {}, {}, None
    match source:
        case "command line":
            arguments = {name: value}
        case "environment":
            environment = {f"XOTS_{name.upper()}": value}
        case "credentials":
            (folder / name).write_text(value)
            environment = {"CREDENTIALS_DIRECTORY": str(folder)}
        case _:
            config = folder / "xots.yaml"
            shown = json.dumps([value, value] if source == "YAML list" else value)
            config.write_text(f"{name}: {shown}\n")
    try:
        load(arguments, environment, config)
    except SettingsError as error:
        return "\n".join([str(error), *error.problems])
    return ""


@pytest.mark.parametrize("source", SOURCES)
def test_no_problem_repeats_the_value_of_a_setting(tmp_path: Path, source: str) -> None:
    """A secret may stand in any setting by mistake. The setting and its source are named."""
    reported = 0
    for number, (setting, value) in enumerate((s, v) for s in declared() for v in WRONG):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = problems(source, setting.name, value, folder)
        assert leaks(text, [CANARY]) == [], (setting.name, value)
        reported += bool(text)
        if text:
            name = setting.option if source == "command line" else setting.name
            assert name in text or name.upper() in text
    assert reported > 2 * len(declared())


@pytest.mark.parametrize(
    "arguments",
    [
        [CANARY],
        [f"--{CANARY}"],
        [f"--client-sercet={CANARY}"],
        ["--client-sercet", CANARY],
        ["serve", CANARY],
        ["-p", CANARY],
        [f"-p{CANARY}"],
        ["--config", f"/nonexistent/{CANARY}"],
        ["--key-file", f"/nonexistent/{CANARY}"],
        ["--store", CANARY],
        ["--store", f"{CANARY}://x"],
        ["key", CANARY],
        ["key", "add", "--key-file", f"/nonexistent/{CANARY}"],
        ["token", "--min-ttl", CANARY],
        ["token", f"--json={CANARY}"],
        ["token", CANARY],
        ["exec", CANARY],
        ["exec", "--client-secret", CANARY, "--", "true"],
        ["status", "--address", CANARY],
        ["demo", "--port", CANARY],
        ["demo", "--access-token-life", CANARY],
        ["sandbox", "--port", CANARY],
        ["sandbox", "--siblings", CANARY],
        ["sandbox", "--redirect-uri", CANARY],
    ],
    ids=lambda arguments: " ".join(arguments).replace("\0", ""),
)
def test_no_error_repeats_an_argument(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret may stand in the wrong argument. The message says what is wrong without it."""
    from xots.commands.main import main

    monkeypatch.delenv("XOTS_PORT", raising=False)
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    shown = capsys.readouterr()
    assert status == 2
    assert len(shown.err) > 20
    assert leaks(shown.out + shown.err, [CANARY]) == []


def test_an_unknown_option_is_answered_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message names both."""
    from xots.commands.main import main

    with pytest.raises(SystemExit):
        main([f"--prot={CANARY}"])
    assert "xots has no option --prot (did you mean --port?)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["XOTS_CONFIG", "XOTS_KEY_FILE", "XOTS_CLIENT_SECRET_FILE"])
def test_a_secret_in_place_of_a_file_is_not_repeated(name: str) -> None:
    """The whole command ends with status 2 and one sentence."""
    environment = {name: f"/nonexistent/{CANARY}", "XOTS_CLIENT_ID": "C", "XOTS_STORE": "memory:"}
    reason = process("serve", XOTS_PORT="0", **environment).reason(status=2)
    assert leaks(reason, [CANARY]) == []
    assert name in reason or name.removeprefix("XOTS_").lower() in reason


# ---------- processes


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_the_output_of_a_server_is_visible_and_holds_no_secret(log_format: str) -> None:
    """At DEBUG, from start to stop: each line of its log is one message."""
    environment = {
        "XOTS_PORT": "0",
        "XOTS_STORE": "memory:",
        "XOTS_CLIENT_ID": "C",
        "XOTS_CLIENT_SECRET": CANARY,
        "XOTS_LOG_LEVEL": "debug",
        "XOTS_LOG_FORMAT": log_format,
        "PYTHONASYNCIODEBUG": "1",
    }
    async with running("serve", **environment) as server:
        found = await server.until("stderr", r"serving on http://127.0.0.1:(\d+)")
        for path in (b"/\x1b[2J\x9b31m\xe2\x80\xae", b"/%0aforged", CANARY.encode()):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
            headers = b"Host: localhost:%b\r\nAuthorization: Basic %b\r\nConnection: close"
            credentials = b64encode(b"C:" + CANARY.encode())
            writer.write(
                b"GET %b HTTP/1.1\r\n%b\r\n\r\n"
                % (path, headers % (found[1].encode(), credentials))
            )
            await reader.read()
            writer.close()
        server.process.terminate()
        assert await server.ended() == 0
    lines = server.output.splitlines()
    assert any("GET /" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert leaks(server.output, [CANARY]) == []
    if log_format == "json":
        assert all("message" in json.loads(line) for line in lines)


def test_an_unexpected_exception_of_a_command_quotes_nothing() -> None:
    """Python's own traceback shows the text of the exception."""
    code = (
        "from xots.commands.process import protect_process; protect_process(); "
        f"{{}}[{CANARY[:7]!r} + {CANARY[7:]!r}]"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("KeyError")
    assert CANARY not in ended.stderr


@pytest.mark.safeguard(
    file="commands/process.py",
    old="resource.setrlimit(resource.RLIMIT_CORE, (0, hard))",
    new="",
    protects_from="a core dump that holds tokens and keys",
)
@pytest.mark.parametrize("command", [[], ["check"], ["token"], ["key", "new"]], ids=str)
def test_no_command_leaves_a_core_dump(command: list[str]) -> None:
    """The limit is 0 before the command reads a setting."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,"
        " resource.RLIM_INFINITY)); from xots.commands.main import main\n"
        f"try: main([*{command!r}, '-h'])\n"
        "except SystemExit: print('limit', resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if "not allowed" in ended.stderr or "exceeds" in ended.stderr:
        pytest.skip("this user may not raise the limit")
    assert ended.stdout.endswith("limit 0\n")


@pytest.mark.safeguard(
    file="commands/requesting.py",
    old='if not name.startswith("XOTS_") and name not in dropped',
    new="if name not in dropped",
    protects_from="the settings of xots, with their secrets, in a program that exec runs",
)
async def test_exec_passes_no_setting_on(logged_in: Server) -> None:
    """The program gets the token, the organisation and the server's URL, and no setting."""
    environment = {
        "XOTS_CLIENT_SECRET": CANARY,
        "XOTS_KEY": CANARY,
        "XOTS_URL": CANARY,
        "CREDENTIALS_DIRECTORY": f"/nonexistent/{CANARY}",
        "COLOUR": "blue",
    }
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    port = str(logged_in.port)
    ended = await asyncio.to_thread(
        process, "exec", "--port", port, "--", sys.executable, "-c", show, **environment
    )
    assert ended.status == 0, ended.err
    assert leaks(ended.out, [CANARY]) == []
    given = json.loads(ended.out)
    assert given["COLOUR"] == "blue"
    assert given["XOTS_URL"] == f"http://127.0.0.1:{port}"
    assert [name for name in given if name.startswith("XOTS_")] == ["XOTS_URL"]


# ---------- Redis


async def test_an_error_of_redis_that_quotes_the_password_is_redacted(sinks: Sinks) -> None:
    """A server that does not know a command repeats its arguments."""
    from xots.backends import open_store

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            words = data.decode().split("\r\n")[2::2]
            writer.write(f"-ERR unknown command, with args: {words}\x1b\u202e\r\n".encode())
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as redis:
        port = redis.sockets[0].getsockname()[1]
        store = open_store(f"redis://user:hunter2-canary@127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailable) as caught:
            await store.check()
        await store.close()
    assert "unknown command" in str(caught.value)
    assert str(caught.value).isprintable()
    sinks.add(str(caught.value))
    assert sinks.leaks(["hunter2-canary"]) == []


def test_the_host_name_in_the_record_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes show it: in their log, on their pages and in their terminals."""
    from xots.keeping.keeper import TokenKeeper
    from xots.sealing import Sealer
    from xots.testing import FakeClock, FlakyStore
    from xots.xero.http import XeroClient

    monkeypatch.setattr(socket, "gethostname", lambda: HOSTILE)

    async def keeper() -> TokenKeeper:
        clock = FakeClock()
        xero = XeroClient(clock=clock)
        return TokenKeeper(FlakyStore(), xero, Sealer([Secret("A" * 43 + "=")]), clock=clock)

    assert inside.context_of(asyncio.run(keeper())).process.isprintable()
