"""A login survives restarts, and settings of another login are refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Client, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.sealing import Sealer
from xots.secret import Secret

XOTS = str(Path(sys.executable).with_name("xots"))
CANARIES = (DEFAULT_CLIENT_SECRET,)


@dataclass
class House:
    """A simulated Xero, a free port and a state folder, for one server after another."""

    sandbox: Sandbox
    port: int
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")}
        return kept | {
            "XOTS_PORT": str(self.port),
            "XOTS_STORE": self.folder.joinpath("state").as_uri(),
            "XOTS_KEY_FILE": str(self.folder / "key"),
            "XOTS_AUTHORIZE_URL": self.sandbox.authorize_url,
            "XOTS_TOKEN_URL": self.sandbox.token_url,
            "XOTS_REVOKE_URL": self.sandbox.revoke_url,
            "XOTS_CONNECTIONS_URL": self.sandbox.connections_url,
            "XOTS_REFRESH_INTERVAL": "0",
            **more,
        }

    async def command(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        """Run a command to its end; return its status, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            XOTS,
            *arguments,
            env=self.environment(**more),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    @asynccontextmanager
    async def serving(
        self, *arguments: str, **more: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a server, once its port is open. Kill it at the end if it still runs."""
        log = (self.folder / "log").open("ab")
        process = await asyncio.create_subprocess_exec(
            XOTS, *arguments, env=self.environment(**more), stdout=log, stderr=log
        )
        log.close()
        try:
            async with asyncio.timeout(20):
                while await self.get("/ping") is None:
                    assert process.returncode is None, (self.folder / "log").read_text()
                    await asyncio.sleep(0.02)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def get(self, path: str) -> tuple[int, Any] | None:
        """Send a program's GET; return status and JSON, or None if the port is closed."""

        def fetch() -> tuple[int, Any] | None:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}{path}", timeout=20
                ) as response:
                    return response.status, json.load(response)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)
            except OSError:
                return None

        return await asyncio.to_thread(fetch)

    async def log_in(self) -> None:
        page = await Person().log_in(
            f"http://localhost:{self.port}", DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
        )
        assert page.status == 200, page.text

    async def token(self) -> str:
        response = await self.get("/token")
        assert response is not None
        assert response[0] == 200, response
        return str(response[1]["accessToken"])


@pytest.fixture
async def house(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[House]:
    client = Client(redirect_uris=(f"http://localhost:{unused_tcp_port}/code",))
    async with Sandbox(SandboxOptions(port=0, clients=(client,))) as sandbox:
        house = House(sandbox, unused_tcp_port, tmp_path)
        assert (await house.command("key", "new", XOTS_KEY_FILE=""))[0] == 0
        (tmp_path / "key").write_text((await house.command("key", "new", XOTS_KEY_FILE=""))[1])
        (tmp_path / "key").chmod(0o600)
        yield house


async def killed(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def test_a_killed_server_continues_with_the_same_login(house: House) -> None:
    """After kill -9 it serves the same token at once, and refreshes it later without a login."""
    async with house.serving() as process:
        await house.log_in()
        token = await house.token()
        await killed(process)
    requests = len(house.sandbox.log)
    async with house.serving():
        assert await house.token() == token
        assert len(house.sandbox.log) == requests, (
            "a request was sent to Xero before the stored token was served"
        )
        assert (await house.command("refresh", "--port", str(house.port)))[0] == 0
        assert await house.token() != token


async def test_a_restart_needs_no_xero(house: House) -> None:
    """The stored token is served while the token URL refuses connections."""
    async with house.serving() as process:
        await house.log_in()
        token = await house.token()
        await killed(process)
    await house.sandbox.stop()
    async with house.serving():
        assert await house.token() == token


async def test_no_secret_is_in_clear_in_the_folder_or_the_log(house: House) -> None:
    """No file of the store, and no line of the debug log, holds a secret, a token or a key."""
    async with house.serving(XOTS_LOG_LEVEL="debug"):
        await house.log_in()
        first = await house.token()
        assert (await house.command("refresh", "--port", str(house.port)))[0] == 0
        secrets = [
            first,
            await house.token(),
            DEFAULT_CLIENT_SECRET,
            (house.folder / "key").read_text().strip(),
        ]
        secrets += house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock())
        files = [
            path
            for path in [*(house.folder / "state").iterdir(), house.folder / "log"]
            if path.is_file()
        ]
        assert len(files) >= 2
        for path in files:
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


async def test_a_wrong_or_missing_key_is_refused_and_overwrites_nothing(house: House) -> None:
    """The start fails with advice, and the record stays. The right key opens it later."""
    async with house.serving():
        await house.log_in()
        token = await house.token()
    (record,) = (house.folder / "state").glob("*.sealed")
    before = record.read_bytes()
    right = (house.folder / "key").read_text()
    for wrong in ((await house.command("key", "new"))[1], "malformed\n", ""):
        (house.folder / "key").write_text(wrong)
        status, out, err = await house.command("serve")
        assert (status, out) == (2, "")
        assert "key" in err
        assert "Traceback" not in err
        assert not [key for key in (right, wrong) if len(key) > 20 and key.strip() in err]
        assert record.read_bytes() == before
    (house.folder / "key").unlink()
    status, _, err = await house.command("serve")
    assert status == 2
    assert "XOTS_KEY_FILE: no such file" in err
    (house.folder / "key").write_text(right)
    (house.folder / "key").chmod(0o644)
    status, _, err = await house.command("serve")
    assert status == 2
    assert "chmod 600" in err
    (house.folder / "key").chmod(0o600)
    async with house.serving():
        assert await house.token() == token


@pytest.mark.parametrize("harm", ["cut", "changed", "of another account", "unsealed"])
async def test_a_tampered_or_foreign_record_is_refused_and_left(house: House, harm: str) -> None:
    """A record that this account did not seal is neither opened nor overwritten."""
    async with house.serving():
        await house.log_in()
    record = house.folder / "state" / "default.sealed"
    sealed = record.read_bytes()
    harmed = {
        "cut": sealed[:-10],
        "changed": sealed[:100] + b"AAAA" + sealed[104:],
        "unsealed": b'{"generation": 1}',
    }
    name = "other" if harm == "of another account" else "default"
    path = record.with_name(f"{name}.sealed")
    path.write_bytes(harmed.get(harm, sealed))
    path.chmod(0o600)
    status, _, err = await house.command("serve", "--account", name)
    assert status == 2
    assert "Traceback" not in err
    assert "sealed" in err
    assert path.read_bytes() == harmed.get(harm, sealed)


async def test_the_file_store_makes_its_own_key_once_and_says_where(
    house: House, tmp_path: Path
) -> None:
    """The key file has mode 0600. If it is gone later, the start fails and makes none."""
    own = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XOTS_KEY_FILE": ""}
    async with house.serving(**own):
        await house.log_in()
        token = await house.token()
    key = tmp_path / "config" / "xots" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert str(key) in (house.folder / "log").read_text()
    assert key.read_text().splitlines()[-1] not in (house.folder / "log").read_text()
    async with house.serving(**own):
        assert await house.token() == token
    key.rename(tmp_path / "elsewhere")
    status, _, err = await house.command("serve", **own)
    assert status == 2
    assert str(key) in err
    assert not key.exists()


async def test_another_client_or_identity_server_is_refused(house: House) -> None:
    """The message says where the setting was set and what to do, and the login stays."""
    async with house.serving():
        await house.log_in()
        token = await house.token()
    for setting, value in (
        ("XOTS_CLIENT_ID", "ANOTHER"),
        ("XOTS_TOKEN_URL", "https://identity.example/token"),
    ):
        for command in (
            "serve",
            "logout",
            "revoke",
        ):  # an end would send the tokens to another server, or with another client's id
            status, _, err = await house.command(command, **{setting: value})
            assert status == 2
            assert setting in err
            assert "xots logout" in err
        status, out, _ = await house.command("check", **{setting: value})
        assert status == 1
        assert re.search(rf"^FAIL +login .*{setting}", out, re.MULTILINE)
    async with house.serving(XOTS_CLIENT_ID=DEFAULT_CLIENT_ID):
        assert await house.token() == token


async def test_other_scopes_set_explicitly_abort_the_start(house: House) -> None:
    """The seed's document demands it. ``xots revoke`` on the store permits the new scopes."""
    async with house.serving():
        await house.log_in()
    new = "offline_access,accounting.contacts,accounting.transactions"
    status, _, err = await house.command("serve", "-o", new)
    assert status == 2
    assert "added: accounting.contacts; removed: accounting.reports.read" in err
    assert "xots revoke" in err
    assert (await house.command("check", "-o", new))[0] == 1
    assert await house.command("revoke", "-o", new) == (0, "revoked\n", "")
    assert house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock()) == []
    async with house.serving("-o", new):
        response = await house.get("/token")
        assert response is not None
        assert (response[0], response[1]["type"]) == (401, "urn:xots:not-logged-in")
        person = Person()
        page = await person.consent(
            await person.submit(await person.open(f"http://localhost:{house.port}/home"))
        )
        assert page.status == 200, "the credentials are gone"
        response = await house.get("/token")
        assert response is not None
        assert set(new.split(",")) <= set(response[1]["scopes"])


@pytest.mark.parametrize("explicit", [(), ("-o", "classic")], ids=["by default", "set explicitly"])
async def test_the_granular_scopes_of_a_second_attempt_permit_the_next_start(
    house: House, explicit: tuple[str, ...]
) -> None:
    """The scopes that the user chose on the page count, although the settings name others."""
    old = house.sandbox.options.clients[0]
    house.sandbox.identity.register(
        Client(old.client_id, old.secret, old.redirect_uris, new_app=True)
    )
    async with house.serving(*explicit):
        person = Person()
        page = await person.open(f"http://localhost:{house.port}/login")
        page = await person.submit(
            page, client_id=DEFAULT_CLIENT_ID, client_secret=DEFAULT_CLIENT_SECRET
        )
        page = await person.submit(page, scopes="granular")
        page = await person.consent(page)
        assert page.status == 200, page.text
        token = await house.token()
    async with house.serving(*explicit):
        assert await house.token() == token


async def test_a_logout_that_does_not_reach_xero_is_concluded_later(house: House) -> None:
    """The command exits with status 1 and says so. A second run concludes it."""
    async with house.serving():
        await house.log_in()
    house.sandbox.add_fault("revocation:nth=1:503-html")
    status, out, err = await house.command("logout")
    assert (status, out) == (1, "")
    assert "has not confirmed the revocation" in err
    assert await house.command("logout") == (0, "logged out\n", "")
    assert house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock()) == []


async def test_an_end_reaches_its_own_account_only(house: House) -> None:
    """A command for another account does not end the login of a running server."""
    async with house.serving():
        await house.log_in()
        status, _, err = await house.command("logout", "--account", "other")
        assert status == 1
        assert "no login" in err
        assert await house.token()


@pytest.mark.parametrize("through_server", [False, True])
@pytest.mark.parametrize("command", ["revoke", "logout"])
async def test_a_command_leaves_the_other_accounts_of_the_same_user_alive(
    house: House, through_server: bool, command: str
) -> None:
    """One revocation would end both. The command names the account that stays."""
    for name in ("other", "default"):
        async with house.serving("--account", name):
            await house.log_in()
    if through_server:
        async with house.serving("--account", "other"):
            ended = await house.command(command, "--account", "other")
    else:
        ended = await house.command(command, "--account", "other")
    assert (ended[0], ended[2]) == (0, "")
    assert "Nothing was revoked" in ended[1]
    assert "default" in ended[1]
    async with house.serving():
        refreshed = await house.get("/refresh")
        assert refreshed is not None
        assert refreshed[0] == 200
        assert await house.command("revoke") == (0, "revoked\n", "")
    assert house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock()) == []


@pytest.mark.parametrize("through_server", [False, True])
async def test_a_command_ends_all_accounts_of_a_user_and_names_them(
    house: House, through_server: bool
) -> None:
    """A second one says that there is no login."""
    for name in ("other", "default"):
        async with house.serving("--account", name):
            await house.log_in()
    if through_server:
        async with house.serving():
            listed = await house.command("account", "list")
            ended = await house.command("revoke", "--all")
            again = await house.command("revoke")
    else:
        listed = await house.command("account", "list")
        ended = await house.command("revoke", "--all")
        again = await house.command("revoke")
    for name in ("default", "other"):
        assert f"same client and user as: {name}" in listed[1]
    assert ended == (0, "revoked: default, other\n", "")
    assert (again[0], again[2]) == (0, "")
    assert again[1].startswith("there is no login to revoke")
    assert house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock()) == []


async def test_the_commands_say_that_a_login_is_forgotten_here_only(house: House) -> None:
    """Through the server and on the store, if the identity server revokes no tokens."""
    empty = {"XOTS_REVOKE_URL": ""}
    async with house.serving(**empty):
        await house.log_in()
        revoked = await house.command("revoke", **empty)
        await house.log_in()
        logged_out = await house.command("logout", **empty)
        await house.log_in()
    in_store = await house.command("revoke", "--all", **empty)
    for status, out, err in (revoked, logged_out, in_store):
        assert (status, err) == (0, "")
        assert "forgotten here only: the identity server revokes no tokens" in out
    assert in_store[1].startswith("revoked: default. The login is ended here")


async def test_a_login_after_a_promotion_is_sealed_with_the_new_key(
    house: House, sealed_with: Callable[[Path, str], bool]
) -> None:
    """The server has opened no record since, and seals with the key that is first now."""
    async with house.serving():
        assert (await house.command("key", "add"))[0] == 0
        assert (await house.command("key", "promote"))[0] == 0
        await house.log_in()
        new = next(
            line
            for line in (house.folder / "key").read_text().splitlines()
            if not line.startswith("#")
        )
        assert sealed_with(house.folder / "state" / "default.sealed", new)


async def test_the_log_can_be_json(house: House) -> None:
    """With ``log_format: json``, every line has a time, a level, a logger and a message."""
    async with house.serving(XOTS_LOG_FORMAT="json"):
        await house.log_in()
    lines = [json.loads(line) for line in (house.folder / "log").read_text().splitlines()]
    assert lines
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert any(line["message"].startswith("default: logged in") for line in lines)


async def test_a_lost_login_fails_the_check_and_the_log_is_in_utc(house: House) -> None:
    """In any time zone, the lines of the log have their time in UTC, as the messages do."""
    async with house.serving(TZ="America/New_York"):
        await house.log_in()
        house.sandbox.identity.forget()
        response = await house.get("/refresh")
        assert response is not None
        assert response[1]["type"] == "urn:xots:consent-lost"
    status, out, err = await house.command("check")
    assert (status, err) == (1, "")
    assert re.search(
        r"^FAIL +login +default: the login is lost, a user must log in again", out, re.MULTILINE
    )
    lines = (house.folder / "log").read_text().splitlines()
    times = [
        re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC [A-Z]+ ", line) for line in lines
    ]
    assert all(times)
    assert times[-1] is not None
    last = datetime.fromisoformat(times[-1][1]).replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - last) < timedelta(hours=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"generation": 9, "unknown": true}', "not a record that this version of xots reads"),
        (b'{"format": 99, "generation": 9}', "upgrade this process"),
    ],
    ids=["unknown field", "newer format"],
)
async def test_a_record_of_another_version_fails_the_check_and_the_start(
    house: House, body: bytes, says: str
) -> None:
    """The message is a sentence and no traceback, and the record stays."""
    async with house.serving():
        await house.log_in()
    record = house.folder / "state" / "default.sealed"
    sealer = Sealer([Secret((house.folder / "key").read_text().split()[-1])])
    record.write_bytes(sealer.seal(body, "account", {"name": "default"}))
    before = record.read_bytes()
    status, out, err = await house.command("check")
    assert (status, err) == (1, "")
    assert re.search(rf"^FAIL +record .*{says}", out, re.MULTILINE)
    status, _, err = await house.command("serve")
    assert status == 2
    assert says in err
    assert "Traceback" not in err
    assert record.read_bytes() == before


async def test_a_check_makes_no_key(house: House, tmp_path: Path) -> None:
    """A check changes nothing: it makes neither a key nor a record."""
    own = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XOTS_KEY_FILE": ""}
    status, out, _ = await house.command("check", **own)
    assert status == 0, out
    assert not (tmp_path / "config" / "xots").exists()


async def test_logout_on_the_store_forgets_the_credentials(house: House) -> None:
    """Xero revokes the tokens without a server, and the next start has no credentials."""
    async with house.serving():
        await house.log_in()
    assert await house.command("logout") == (0, "logged out\n", "")
    assert house.sandbox.identity.usable_refresh_tokens(house.sandbox.clock()) == []
    status, _, err = await house.command("revoke")
    assert status == 1
    assert "no login" in err
    async with house.serving():
        response = await house.get("/token")
        assert response is not None
        assert response[1]["type"] == "urn:xots:no-credentials"


async def test_keys_are_rotated_under_a_running_server(
    house: House, sealed_with: Callable[[Path, str], bool]
) -> None:
    """Its record is sealed anew at the promotion, and its later writes have the new key."""
    record = house.folder / "state" / "default.sealed"
    async with house.serving():
        await house.log_in()
        old = (house.folder / "key").read_text().split()[-1]
        assert sealed_with(record, old)
        assert (await house.command("key", "add"))[0] == 0
        new = (house.folder / "key").read_text().split()[-1]
        assert new != old
        assert (await house.command("refresh", "--port", str(house.port)))[0] == 0
        assert sealed_with(record, old), "a key that was only added has sealed"
        status, out, _ = await house.command("key", "promote")
        assert (status, out) == (
            0,
            "1 of 1 records were sealed anew; all are sealed with the first key now\n",
        )
        assert sealed_with(record, new)
        assert (await house.command("refresh", "--port", str(house.port)))[0] == 0
        assert sealed_with(record, new), "the server has sealed with the old key"
        assert "0 of 1" in (await house.command("key", "promote"))[1], (
            "a second run has sealed records again"
        )
        (house.folder / "key").write_text(f"{new}\n")
        token = await house.token()
    async with house.serving():
        assert await house.token() == token


@pytest.fixture
def sealed_with() -> Callable[[Path, str], bool]:
    from cryptography.fernet import Fernet, InvalidToken

    def opens(path: Path, key: str) -> bool:
        try:
            Fernet(key).decrypt(path.read_bytes())
        except InvalidToken:
            return False
        return True

    return opens
