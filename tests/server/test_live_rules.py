"""The files of access change while a server runs: the next request meets the new rules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.command_line import called, process
from support.other_user import OTHER_UID
from support.raw_http import RawResponse, read_response
from support.readers import key_of, reader
from support.running import running

from xots.access import Scope
from xots.reader_file import add_reader, remove_reader
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

Get = Callable[..., Awaitable[RawResponse]]


FIRST = key_of("first")


def content(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    """Write a safe file in place, as an editor may do."""
    if path.is_dir():
        path.rmdir()
    path.write_text(text)
    path.chmod(0o600)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Get]:
    """Open one connection for many requests. Yield a function that sends ``GET /status`` with a
    key, or another path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def get(key: str | None = None, path: str = "/status") -> RawResponse:
        header = f"Authorization: Bearer {key}\r\n" if key else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{header}\r\n".encode())
        async with asyncio.timeout(10):
            return await read_response(reader)

    try:
        yield get
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file with the reader ``first``."""
    path = tmp_path / "readers"
    add_reader(path, reader("first", Scope.METRICS))
    return path


async def test_a_key_is_valid_from_the_next_request_on_until_it_is_removed(
    new_server: NewServer,
    path: Path,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands change the file of a running server, and an open connection shows it at once.
    The other key stays valid."""
    server = await new_server(readers=path)
    expected_log(r"WARNING xots.web: GET /status: refused \S+: this key is not valid here")
    async with connection(server.port) as get:
        assert (await get()).status == 401
        added = process("reader", "add", "late", "--scope", "admin", "--readers", str(path))
        key = added.out.strip()
        assert (await get(key)).status == 200
        assert (await get(FIRST)).status == 200
        assert called(capsys, "reader", "remove", "late", "--readers", str(path)).status == 0
        refused = await get(key)
        assert (refused.status, b"urn:xots:key-needed" in refused.body) == (401, True)
        assert not refused.shows(key)
        assert key not in caplog.text
        assert (await get(FIRST)).status == 200


async def test_the_rights_of_a_key_change_with_its_line(
    new_server: NewServer, path: Path, expected_log: Any
) -> None:
    """An operator edits the line: the same key has other scopes, or another account, at the next
    request."""
    server = await new_server(readers=path)
    expected_log("does not have the scope", "is limited to other accounts")
    async with connection(server.port) as get:
        assert (await get(FIRST)).status == 200
        line = content(path)
        write(path, line.replace("metrics", "token"))
        assert (await get(FIRST)).status == 403
        write(path, line.replace("*", "smith"))
        assert (await get(FIRST)).status == 403
        write(path, line)
        assert (await get(FIRST)).status == 200


def malformed(path: Path) -> None:
    path.write_text(content(path) + "first token *\n")


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff")


def missing(path: Path) -> None:
    path.unlink()


def unsafe(path: Path) -> None:
    path.chmod(0o622)


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def too_large(path: Path) -> None:
    os.truncate(path, 1 << 43)


@pytest.mark.safeguard(
    file="access_files.py",
    old="    raise RulesUnreadable(",
    new="    return None  # type: ignore[return-value]\n    (",
    protects_from="a server that is open to all while its readers can't be read",
)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (malformed, "line 3: this is no reader"),
        (not_text, "it is not UTF-8 text"),
        (missing, "no such file"),
        (unsafe, "open to other users"),
        (unreadable, "is not a regular file"),
        (too_large, "larger than 1024 KiB"),
    ],
)
async def test_no_key_is_valid_while_the_readers_can_not_be_read(
    new_server: NewServer, path: Path, expected_log: Any, damage: Callable[[Path], None], says: str
) -> None:
    """Each request is refused with 503, with a key and without one; the log names the cause. The
    repair needs no restart, and the endpoints that are open to all serve throughout."""
    server = await new_server(readers=path)
    expected_log(
        rf"ERROR xots\.readers: no request is permitted: .*{says}", "no key can be checked"
    )
    before = content(path)
    async with connection(server.port) as get:
        assert (await get(FIRST)).status == 200
        damage(path)
        for key in (FIRST, "wrong", None):
            refused = await get(key)
            assert (refused.status, b"urn:xots:rules-unreadable" in refused.body) == (503, True)
            assert says.encode() not in refused.body  # its receiver is not known
        assert (await get(path="/ping")).status == 200
        write(path, before)
        assert (await get(FIRST)).status == 200
        assert (await get()).status == 401


async def test_a_command_repairs_nothing_by_itself(
    new_server: NewServer, path: Path, expected_log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A malformed file stays as it is, so that its readers come back once its line is corrected."""
    server = await new_server(readers=path)
    expected_log("no key can be checked now", "no request is permitted")
    malformed(path)
    before = content(path)
    for words in (("add", "late"), ("remove", "first"), ("list",)):
        ended = called(capsys, "reader", *words, "--readers", str(path))
        assert "line 3: " in ended.reason(status=2)
    assert content(path) == before
    async with connection(server.port) as get:
        assert (await get(FIRST)).status == 503
        write(path, before.removesuffix("first token *\n"))
        remove_reader(path, "first")
        assert (await get()).status == 401


# ---------- allowed_users, in a process of its own


@asynccontextmanager
async def server_with(config: Path) -> AsyncIterator[tuple[Any, Get]]:
    """Run ``xots`` with this YAML file; give the process and a connection to it."""
    async with running("-p", "0", "--config", str(config), XOTS_STORE="memory:") as xots:
        found = await xots.until("stderr", r"serving on http://127.0.0.1:(\d+)")
        async with connection(int(found[1])) as get:
            yield xots, get


async def stopped(xots: Any) -> list[str]:
    """Stop the process, and return the lines of its log."""
    xots.process.terminate()
    assert await xots.ended() == 0
    return list(xots.output.splitlines())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a YAML file that permits this user."""
    config = tmp_path / "xots.yaml"
    config.write_text(f"allowed_users: {os.geteuid()}\n")
    return config


async def test_a_user_who_is_removed_is_refused_on_an_open_connection(config: Path) -> None:
    """The refusal names the user and the setting; added again, the user is served."""
    async with server_with(config) as (xots, get):
        assert (await get()).status == 200
        write(config, f"allowed_users: [{OTHER_UID}]\n")
        refused = await get()
        assert (refused.status, refused.shows("allowed_users")) == (403, True)
        assert refused.shows(f"user {os.geteuid()} ")
        write(config, f"allowed_users: [{OTHER_UID}, {os.geteuid()}]\n")
        assert (await get()).status == 200
        lines = await stopped(xots)
    assert len([line for line in lines if " WARNING " in line]) == 1


BROKEN = ("allowed_users: [\n", "allowed_users: no-such-user\n", "port: 5001\n", "", None)


@pytest.mark.safeguard(
    file="commands/serving.py",
    old='        if found := read_one(options, "allowed_users").allowed_users:',
    new='        found = read_one(options, "allowed_users").allowed_users\n        if True:',
    protects_from="a server that is open to all users since a line was deleted",
)
async def test_the_last_users_stay_while_the_yaml_file_names_none(config: Path) -> None:
    """A file that is broken, without the setting or gone neither stops the service nor opens it.
    The log has an ERROR for each fault."""
    async with server_with(config) as (xots, get):
        for users, status in ((os.geteuid(), 200), (OTHER_UID, 403)):
            write(config, f"allowed_users: {users}\n")
            assert (await get()).status == status
            for text in BROKEN:
                if text is None:
                    missing(config)
                else:
                    write(config, text)
                assert [(await get()).status for _ in range(4)] == [status] * 4
        lines = await stopped(xots)
    errors = [line for line in lines if " ERROR xots.readers: allowed_users stays as it" in line]
    assert len(errors) == 2 * (len(BROKEN) - 1)  # each once; two have the same words
    assert any(f"{config}: " in line for line in errors)
    assert "Correct the file" in errors[0]
    assert sum("more lines like this one were counted" in line for line in lines) >= 1
