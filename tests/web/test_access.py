"""Who may read and act, on a real server: keys, users of the machine, proxies, and who did read."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.other_user import OTHER_UID, THIRD_UID, needs_root, raw_get
from support.raw_http import exchange
from support.readers import KeyHolder, basic, bearer, line, line_of
from support.web import BROWSER
from torture.access import PIPELINE, cases, go, running

from xots.access import ADMIN_SCOPES
from xots.sandbox.person import Page, Person
from xots.server import Server
from xots.settings.accounts import Layer
from xots.web.app import ROUTES
from xots.web.handler import Handler

NewServer = Callable[..., Awaitable[Server]]

CASES, SEED = 5_000, 15

PROXY_HEADERS = (
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "x-real-ip",
)


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    """A file with some readers."""
    path = tmp_path / "readers"
    path.write_text("".join(map(line, ("script", "monitor", "owner", "firm-owner", "firm-script"))))
    return path


def revoke(readers: Path, name: str) -> None:
    """Remove a reader, as an editor does."""
    kept = [one for one in readers.read_text().splitlines(True) if not one.startswith(f"{name} ")]
    readers.write_text("".join(kept))


def add(readers: Path, reader: str) -> None:
    """Add the line of a reader."""
    with readers.open("a") as file:
        file.write(reader)


# ---------- the table


@pytest.mark.safeguard(
    file="web/handler.py",
    old="        self.check_access()\n        self.check_method()",
    new="        self.check_method()",
    protects_from="any program of any user reading the token",
)
async def test_every_decision_is_that_of_the_oracle(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Routes, methods, keys, accounts and ways: a part of ``torture access``, at random."""
    caplog.set_level(logging.CRITICAL, "xots")  # thousands of refusals
    chosen = cases()
    random.Random(SEED).shuffle(chosen)  # noqa: S311 - no secret
    async with running() as found:
        figures = await go(found, chosen[: CASES - CASES % PIPELINE])
    with capsys.disabled():
        print(f"\naccess: {figures}")
    assert figures.wrong == []
    assert figures.cases == CASES
    assert len(figures.by_verdict) == 13  # the plain Unix socket only permits
    assert min(figures.by_verdict.values()) > CASES // 40


def test_an_endpoint_is_for_administrators_unless_it_says_otherwise() -> None:
    """So a new one is closed until somebody opens it; five are for other readers or for all."""
    assert Handler.scopes == ADMIN_SCOPES
    opened = {path for path, handler in ROUTES if getattr(handler, "scopes", None) != ADMIN_SCOPES}
    assert opened <= {"/token", "/tenants", "/livez", "/status", "/ping", "/ready"} | {
        r"/openapi\.json"
    }


@pytest.mark.safeguard(
    file="access.py",
    old="    if reader is None or not is_known or name not in (None, reader.name):",
    new="    if reader is None or not is_known:",
    protects_from="a key that is used under another reader's name",
)
async def test_a_browser_sends_the_name_of_the_reader_with_the_key(
    new_server: NewServer, readers: Path, send: Any, expected_log: Any
) -> None:
    """It is asked for both by HTTP Basic; a key with another's name is refused."""
    expected_log(r"WARNING xots\.web: GET /home: refused uid:")
    server = await new_server(readers=readers)
    url = f"http://localhost:{server.port}/home"
    first = await send("GET", url, BROWSER)
    assert first.status == 401
    assert first.headers.get_list("WWW-Authenticate")[1] == 'Basic realm="xots", charset="UTF-8"'
    assert "<h1>A valid key is needed</h1>" in first.text
    assert (await send("GET", url, BROWSER | basic("owner"))).status == 303
    assert (await send("GET", url, BROWSER | basic("script", "owner"))).status == 401


async def test_a_key_is_no_way_around_the_guard(
    new_server: NewServer, readers: Path, send: Any, expected_log: Any
) -> None:
    """A browser adds the key to the requests of a hostile page too; these stay refused."""
    expected_log(r"refused with status 403")
    server = await new_server(readers=readers)
    hostile = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    url = f"http://localhost:{server.port}/logout"
    response = await send("POST", url, BROWSER | basic("owner") | hostile, "")
    assert (response.status, response.headers.get_list("WWW-Authenticate")) == (403, [])


# ---------- accounts


async def begun(server: Server, person: Person) -> Page:
    """Start a login of the account ``firm``. The browser shows Xero's page then."""
    page = await person.open(f"http://localhost:{server.port}/accounts/firm/home")
    return await person.submit(page)


async def test_an_administrator_of_one_account_logs_in_to_it(
    new_server: NewServer, credentials: dict[str, Any], readers: Path, send: Any
) -> None:
    """``/code`` serves all accounts: the cookie of the login names this one."""
    server = await new_server(readers=readers, accounts={"firm": Layer()}, **credentials)
    person = KeyHolder(server, "firm-owner")
    page = await person.consent(await begun(server, person))
    assert (page.status, page.url) == (200, f"http://localhost:{server.port}/accounts/firm/home")
    url = f"http://localhost:{server.port}/accounts/firm/token"
    assert (await send("GET", url, bearer("firm-script"))).status == 200


@pytest.mark.safeguard(
    file="web/callback.py",
    old="        self.check_account(account)",
    new="        pass",
    protects_from="an administrator of one account who finishes the login of another",
)
async def test_an_administrator_of_another_account_does_not_finish_its_login(
    new_server: NewServer, credentials: dict[str, Any], readers: Path, get: Any, expected_log: Any
) -> None:
    """The login stays open for its own administrator."""
    expected_log(r"GET /code: refused uid:\d+: the key of smith is limited")
    add(readers, line_of("smith", "admin", "smith"))
    accounts = {"firm": Layer(), "smith": Layer()}
    server = await new_server(readers=readers, accounts=accounts, **credentials)
    person = KeyHolder(server, "firm-owner")
    page = await begun(server, person)
    person.name = "smith"
    assert (await person.consent(page)).status == 403
    url = f"{server.url}/accounts/firm/status"
    assert (await get(url, **bearer("owner"))).json["state"] == "waiting"


@pytest.mark.safeguard(
    file="web/acts.py",
    old="                self.check_all_accounts()\n",
    new="",
    protects_from="an administrator of one account who ends the logins of others",
)
@pytest.mark.parametrize("act", ["revoke", "logout"])
async def test_an_administrator_of_one_account_does_not_end_those_that_share_its_user(
    new_server: NewServer, readers: Path, send: Any, expected_log: Any, act: str
) -> None:
    """``all=true`` concerns every account; the end of its own one is permitted."""
    expected_log(rf"POST /accounts/firm/{act}: refused uid:\d+: the key of firm-owner is limited")
    server = await new_server(readers=readers, accounts={"firm": Layer()})
    url = f"{server.url}/accounts/firm/{act}"
    response = await send("POST", f"{url}?all=true", bearer("firm-owner"), "")
    assert (response.status, response.json["type"]) == (403, "urn:xots:access-denied")
    assert (await send("POST", url, bearer("firm-owner"), "")).status != 403
    assert (await send("POST", f"{url}?all=true", bearer("owner"), "")).status != 403


# ---------- revocation


@pytest.mark.safeguard(
    file="web/handler.py",
    old="if self.caller is None or self.rules is not rules:",
    new="if self.caller is None:",
    protects_from="rights that a request keeps although the rules have changed meanwhile",
)
@pytest.mark.safeguard(
    file="web/handler.py",
    old="        if self.caller is not None and not self.refused and self.get_status() < 400:",
    new="        if False:",
    protects_from="a token for a key that was revoked while its request waited",
)
async def test_a_key_that_is_revoked_while_its_request_waits_gets_no_token(
    new_server: NewServer,
    credentials: dict[str, Any],
    readers: Path,
    sandbox: Any,
    clock: Any,
    get: Any,
    expected_log: Any,
) -> None:
    """The request waits for a refresh, which Xero holds."""
    expected_log(r"GET /token: refused uid:\d+: this key is not valid here")
    server = await new_server(readers=readers, **credentials)
    owner = KeyHolder(server, "owner")
    home = await owner.open(f"http://localhost:{server.port}/home")
    await owner.consent(await owner.submit(home))
    clock.advance(minutes=31)
    sandbox.add_fault("refresh:nth=1:hold-after")
    waiting = asyncio.create_task(get(f"{server.url}/token", **bearer("script")))
    await sandbox.held()
    revoke(readers, "script")
    sandbox.release()
    response = await waiting
    assert (response.status, response.json["type"]) == (401, "urn:xots:key-needed")


@pytest.mark.safeguard(
    file="web/handler.py",
    old="        if self.caller is not None and not self.refused:",
    new="        if False:",
    protects_from="the names of organisations for a key that was revoked meanwhile",
)
@pytest.mark.parametrize("target", ["/tenants", "/token?tenant=no-such-name"])
async def test_a_key_that_is_revoked_while_its_request_waits_gets_no_list(
    new_server: NewServer,
    credentials: dict[str, Any],
    readers: Path,
    sandbox: Any,
    clock: Any,
    get: Any,
    expected_log: Any,
    target: str,
) -> None:
    """The request for the organisations waits for Xero. An error may list them too."""
    expected_log(r"WARNING xots.web: GET /t\w+: ")
    server = await new_server(readers=readers, **credentials)
    owner = KeyHolder(server, "owner")
    home = await owner.open(f"http://localhost:{server.port}/home")
    await owner.consent(await owner.submit(home))
    clock.advance(seconds=30)
    sandbox.add_fault("connections:nth=1:hold-after")
    waiting = asyncio.create_task(get(f"{server.url}{target}", **bearer("script")))
    await sandbox.held()
    revoke(readers, "script")
    sandbox.release()
    response = await waiting
    assert response.status == 401
    assert "Demo Company" not in response.text


# ---------- proxies


@pytest.mark.safeguard(
    file="access.py",
    old="        if forwarded_by is not None and not rules.serves_anyone:",
    new="        if False:",
    protects_from="a proxy that hands the token to other machines",
)
@pytest.mark.parametrize("header", PROXY_HEADERS)
async def test_without_readers_a_proxy_gets_no_token(
    logged_in: Server, get: Any, expected_log: Any, header: str
) -> None:
    """The header names the proxy; the refusal names the setting. The probes respond."""
    expected_log(r"GET /token: refused uid:\d+: a proxy has passed this request on")
    response = await get(f"{logged_in.url}/token", **{header: "192.0.2.1"})
    assert (response.status, response.json["type"]) == (403, "urn:xots:access-denied")
    assert "set readers" in response.json["detail"]
    assert (await get(f"{logged_in.url}/ping", **{header: "192.0.2.1"})).status == 200


async def test_with_readers_for_anyone_a_proxy_gets_a_token(
    new_server: NewServer, credentials: dict[str, Any], log_in: Any, get: Any
) -> None:
    """The operator has said so."""
    server = await new_server(readers="anyone", **credentials)
    await log_in(server)
    assert (await get(f"{server.url}/token", Via="1.1 proxy")).status == 200


# ---------- users of this machine


@needs_root
@pytest.mark.parametrize("way", ["TCP", "socket"])
async def test_a_user_that_is_not_allowed_is_refused(
    new_server: NewServer, tmp_path: Path, expected_log: Any, way: str
) -> None:
    """A second real user: the refusal names the setting. The other user is served."""
    expected_log(rf"GET /status: refused uid:{OTHER_UID}: user {OTHER_UID} may not use this server")
    path = tmp_path / "socket"
    server = await new_server(unix_socket=path, allowed_users=(os.geteuid(), THIRD_UID))
    open_to_all(path)
    where = server.port if way == "TCP" else path
    response = await raw_get(where, "/status")
    assert response.startswith(b"HTTP/1.1 403 ")
    assert b"allowed_users" in response
    assert (await raw_get(where, "/ping")).startswith(b"HTTP/1.1 200 ")
    assert (await raw_get(where, "/status", uid=THIRD_UID)).startswith(b"HTTP/1.1 200 ")


def open_to_all(path: Path) -> None:
    """Let all users reach a socket in a folder of the test."""
    path.chmod(0o666)
    for folder in path.parents:
        if folder.stat().st_mode & 0o055 == 0 and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o711)


@needs_root
@pytest.mark.safeguard(
    file="peers.py",
    old="        if found is None or not found.is_held or found.uid == NOBODY:",
    new="        if found is None or not found.is_held:",
    protects_from="each user without an id in a user namespace",
)
@pytest.mark.parametrize("way", ["TCP", "socket"])
async def test_the_user_without_an_id_is_no_certain_user(
    new_server: NewServer, tmp_path: Path, expected_log: Any, way: str
) -> None:
    """The kernel shows several users by this id."""
    expected_log(r"GET /status: refused \(unknown\): the user of this connection is not known")
    path = tmp_path / "socket"
    server = await new_server(unix_socket=path, allowed_users=(65534,))
    open_to_all(path)
    where = server.port if way == "TCP" else path
    assert (await raw_get(where, "/status", uid=65534)).startswith(b"HTTP/1.1 403 ")


@needs_root
async def test_root_is_no_allowed_user_unless_it_is_named(
    new_server: NewServer, get: Any, expected_log: Any
) -> None:
    """A proxy that runs as root would else serve all users."""
    expected_log(r"user 0 may not use this server")
    server = await new_server(allowed_users=(THIRD_UID,))
    assert (await get(f"{server.url}/status")).status == 403
    assert (await raw_get(server.port, "/status", uid=THIRD_UID)).startswith(b"HTTP/1.1 200 ")


@needs_root
async def test_a_user_behind_a_forwarder_of_root_counts_as_root(
    new_server: NewServer, expected_log: Any
) -> None:
    """As docs/security.md says: the kernel knows the forwarder only."""
    expected_log(rf"user {OTHER_UID} may not use this server")
    server = await new_server(allowed_users=(0,))
    forwarder = socket.create_server(("127.0.0.1", 0))

    def forward() -> None:
        accepted, _ = forwarder.accept()
        with accepted, socket.create_connection(("127.0.0.1", server.port)) as onward:
            onward.sendall(accepted.recv(65536))
            while data := onward.recv(65536):
                accepted.sendall(data)

    thread = threading.Thread(target=forward)
    thread.start()
    assert (await raw_get(server.port, "/status")).startswith(b"HTTP/1.1 403 ")
    port, host = forwarder.getsockname()[1], f"localhost:{server.port}"
    assert (await raw_get(port, "/status", host=host)).startswith(b"HTTP/1.1 200 ")
    thread.join(20)
    forwarder.close()


@pytest.mark.safeguard(
    file="peers.py",
    old="        is_held = state == ESTABLISHED and inode != 0",
    new="        is_held = True",
    protects_from="a user that counts as root once its socket is closed",
)
async def test_a_client_that_sends_and_closes_at_once_is_refused(
    new_server: NewServer, credentials: dict[str, Any], log_in: Any, sandbox: Any, expected_log: Any
) -> None:
    """The kernel reports user 0 for a socket that no program has any more."""
    expected_log(r"GET /refresh: refused \(unknown\): the user of this connection is not known")
    server = await new_server(allowed_users=(0, os.geteuid()), **credentials)
    await log_in(server)
    before = len(sandbox.log)
    refused = asyncio.Event()
    handler = logging.Handler()
    handler.emit = lambda record: refused.set()  # type: ignore[method-assign]
    logging.getLogger("xots.web").addHandler(handler)
    try:
        # The event loop, and with it the server, stands still meanwhile.
        with socket.create_connection(("127.0.0.1", server.port)) as connected:
            host = f"Host: localhost:{server.port}"
            connected.sendall(f"GET /refresh HTTP/1.1\r\n{host}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            await refused.wait()
    finally:
        logging.getLogger("xots.web").removeHandler(handler)
    assert len(sandbox.log) == before


async def test_a_client_of_ipv4_over_an_ipv6_socket_has_its_user(new_server: NewServer) -> None:
    """As all connections of Java have."""
    server = await new_server(allowed_users=(os.geteuid(),))
    with socket.socket(socket.AF_INET6) as connected:
        connected.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connected, ("::ffff:127.0.0.1", server.port))
        request = f"GET /status HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n"
        await loop.sock_sendall(connected, request.encode())
        assert (await loop.sock_recv(connected, 100)).startswith(b"HTTP/1.1 200 ")


# ---------- who did read


async def test_the_reads_of_each_reader_are_counted(
    new_server: NewServer,
    credentials: dict[str, Any],
    readers: Path,
    tmp_path: Path,
    get: Any,
    send: Any,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the name of the key, or the user; with the time. The log has one line for each."""
    caplog.set_level("INFO", "xots.readers")
    path = tmp_path / "socket"
    server = await new_server(readers=readers, unix_socket=path, **credentials)
    owner = KeyHolder(server, "owner")
    home = await owner.open(f"http://localhost:{server.port}/home")
    await owner.consent(await owner.submit(home))
    first = clock.now()
    for _ in range(3):
        assert (await get(f"{server.url}/token", **bearer("script"))).status == 200
        clock.advance(seconds=1)
    [response] = await exchange(path, [(b"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n", False)])
    assert response.status == 200
    status = (await get(f"{server.url}/status", **bearer("monitor"))).json
    by_reader = {one["reader"]: one for one in status["readers"]}
    assert [(name, one["count"]) for name, one in by_reader.items()] == [
        (f"uid:{os.geteuid()}", 1),
        ("script", 3),
    ]
    assert by_reader["script"]["first_at"] == first.isoformat().replace("+00:00", "Z")
    assert by_reader["script"]["last_at"] > by_reader["script"]["first_at"]
    lines = [record.getMessage() for record in caplog.records if record.name == "xots.readers"]
    assert len(lines) == 2
    assert lines[0].startswith("default: script reads the access token for the first time")
    page = await send("GET", f"http://localhost:{server.port}/status", BROWSER | basic("monitor"))
    assert "script: 3" in page.text


async def test_a_refused_read_is_not_counted(
    logged_in: Server, get: Any, send: Any, expected_log: Any
) -> None:
    """Neither is a request whose parameter is wrong, nor HEAD, whose response has no token."""
    expected_log.perhaps(r"^WARNING xots\.web: ")
    await get(f"{logged_in.url}/token", Via="1.1 proxy")
    await get(f"{logged_in.url}/token?min_ttl=x")
    assert (await send("HEAD", f"{logged_in.url}/token")).status == 200
    assert (await get(f"{logged_in.url}/status")).json["readers"] == []
