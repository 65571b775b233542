"""Two real processes of an older version and two of this one, on one Redis or one folder.

The older version is the one before records of format 4. The command takes it from the repository's
history (``--commit``), or from a checkout (``--old``). It runs these stories:

old rights   The processes share one Redis, whose user has the rights of that version. The older
             ones log in, all refresh. Once this version has written the record, the older ones
             serve the token that they have, overwrite nothing, and ask for their upgrade. This
             version asks for its rights. The older processes are replaced one by one.
new rights   The same with the rights of this version.
a folder     The older version, with its settings in a YAML file, logs in and ends. This version
             starts with the same file and continues the login. The older one refuses to start.

All the time, the simulated Xero would accept a refresh token of the stored record, and the record's
generation never goes back.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from support.redis_servers import ACL_LINE, OLD_ACL_LINE, RedisServer, set_user

from xots.backends import open_store
from xots.backends.base import Stored
from xots.keeping.record_store import PURPOSE
from xots.lifecycle.account import FORMAT
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox, SandboxOptions
from xots.sandbox.person import Person
from xots.sealing import Sealer, new_key
from xots.secret import Secret

from ._copies import ROOT
from .processes import Line, Process, ended, environment_for, until

COMMIT = "0eff001"
"""The last commit that writes records of format 3."""

NEWER = "written by a newer version of xots"
"""An older process says so of a record that it cannot read."""

CHECK_INTERVAL_SECONDS = 0.05

SETTINGS_YAML = """\
port: 0
address: 127.0.0.1
scopes: [offline_access, accounting.transactions, accounting.reports.read]
refreshmins: 72000
account: default
store: {XOTS_STORE}
key_file: {XOTS_KEY_FILE}
authorize_url: {XOTS_AUTHORIZE_URL}
token_url: {XOTS_TOKEN_URL}
revoke_url: {XOTS_REVOKE_URL}
connections_url: {XOTS_CONNECTIONS_URL}
pkce: true
refresh_ahead: 300
refresh_interval: 0
"""
"""A YAML file for the older version, with the variables of the environment that it replaces."""


class WrongError(AssertionError):
    """A story does not go as it must; the message says how."""


def demand(condition: object, message: str) -> None:
    """Raise ``WrongError`` unless the condition holds."""
    if not condition:
        raise WrongError(message)


# ---------------------------------------------------------------------------------- the programs


def extract(commit: str, folder: Path) -> None:
    """Write the package of a commit to a folder, as a wheel would install it.

    Raises:
        SystemExit: git or the history is missing.
    """
    command = ["git", "-C", str(ROOT), "archive", commit, "xots", "templates"]
    try:
        packed = subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the commit {commit} cannot be read: {error}. This command needs git and the history "
            "of the repository; --old takes a checkout instead"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "templates").rename(folder / "xots" / "templates")


@dataclass
class Server(Process):
    """One process, with the name that the report gives it."""

    name: str = ""

    def has_said(self, text: str) -> bool:
        """Tell if its log holds this text."""
        return text in self.log.read_text()


@dataclass
class House:
    """A simulated Xero, a store and a key, with servers of two versions."""

    sandbox: Sandbox
    old: Path
    """The folder of the older package."""
    folder: Path
    url: str
    """The store, as the servers open it."""
    admin_url: str
    """The same store with all rights."""
    running: AsyncExitStack
    servers: list[Server] = field(default_factory=list)
    """Those that run."""
    lines: dict[str, Line] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """The log of each server that has ended."""

    @property
    def key(self) -> Path:
        return self.folder / "key"

    async def start(
        self, name: str, settings: Mapping[str, str] | None = None, *, refused: bool = False
    ) -> Server:
        """Start a server of the version that its name begins with; wait until it serves.

        With ``refused`` it must end with the status 2 instead.

        Raises:
            WrongError: it does not.
        """
        environment = environment_for(self.sandbox, self.url, self.key) | dict(settings or {})
        environment = {variable: value for variable, value in environment.items() if value}
        environment["PYTHONPATH"] = str(self.old if name.startswith("old") else ROOT)
        path = self.folder / f"log-{name}"
        with path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "xots",
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.running.push_async_callback(ended, process)
        server = Server(process, path, name=name)
        await until(server.has_started_or_ended)
        said = path.read_text()
        demand(process.returncode == (2 if refused else None), f"{name} said: {said}")
        if not refused:
            server.port = int(server.log_matches(r"serving on http://127\.0\.0\.1:(\d+)")[0])
            self.servers.append(server)
            self.lines[name] = Line(server.port, self.sandbox.clock)
            self.running.callback(self.lines[name].close)
            uris = tuple(f"http://localhost:{one.port}/code" for one in self.servers)
            client = replace(self.sandbox.options.clients[0], redirect_uris=uris)
            self.sandbox.identity.register(client)
        return server

    async def stop(self, server: Server) -> None:
        """Stop a server as systemd does."""
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(server.process.wait(), 30)
        self.servers.remove(server)
        self.lines.pop(server.name).close()

    async def log_in(self, server: Server) -> None:
        page = await Person().log_in(
            f"http://localhost:{server.port}", DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
        )
        demand(page.status == 200, f"the login at {server.name} failed: {page.text}")

    async def token(self, server: Server) -> str:
        response = await self.lines[server.name].get("/token")
        demand(
            response.status == 200, f"{server.name}: /token: {response.status} {response.body!r}"
        )
        return response.token

    async def refresh(self, server: Server) -> int:
        """Force a refresh, and return the status of the response."""
        return (await self.lines[server.name].get("/refresh")).status

    async def same(self, *servers: Server) -> str:
        """Wait until these servers serve the same token, and return it."""
        tokens: set[str] = set()

        async def found() -> bool:
            responses = [await self.lines[server.name].get("/token") for server in servers]
            tokens.clear()
            tokens.update(response.token for response in responses if response.status == 200)
            return len(tokens) == 1 and all(response.status == 200 for response in responses)

        await until(found)
        return tokens.pop()

    async def stored(self) -> Stored:
        """Return the sealed record."""
        store = open_store(self.admin_url)
        try:
            found = await store.read("default")
        finally:
            await store.close()
        assert found is not None
        return found

    async def record(self) -> dict[str, object]:
        """Return the content of the record, whatever its format is."""
        sealer = Sealer([Secret(self.key.read_text())])
        opened = sealer.open((await self.stored()).value, PURPOSE, {"name": "default"})
        content: dict[str, object] = json.loads(opened)
        return content

    async def check_always(self) -> None:
        """Check again and again that no login is lost and that the record never goes back.

        Raises:
            WrongError: one of these happens.
        """
        newest = 0
        while True:
            record = await self.record()
            generation = record["generation"]
            assert isinstance(generation, int)
            demand(generation >= newest, f"the generation went back from {newest} to {generation}")
            newest = generation
            tokens = [record.get("current"), *record.get("fallbacks", [])]  # type: ignore[misc]
            identity, now = self.sandbox.identity, self.sandbox.clock()
            values = [token["value"] for token in tokens if isinstance(token, dict)]
            demand(
                any(identity.would_issue(value, now) for value in values),
                f"Xero would accept no token of generation {generation}",
            )
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    def warnings(self, server: Server) -> list[str]:
        """Return the different lines from WARNING up in its log."""
        found = [line for line in server.log.read_text().splitlines() if "WARNING" in line]
        found += [line for line in server.log.read_text().splitlines() if "ERROR" in line]
        return list(dict.fromkeys(found))


@asynccontextmanager
async def house(old: Path, redis: RedisServer | None, url: str = "") -> AsyncIterator[House]:
    """Return a house without servers. End its servers afterwards."""
    async with AsyncExitStack() as running:
        folder = Path(tempfile.mkdtemp(prefix="xots-versions-"))
        running.callback(shutil.rmtree, folder)
        sandbox = await running.enter_async_context(Sandbox(SandboxOptions(port=0)))
        store = (folder / "state").as_uri()
        admin_url = redis.unix_url if redis else store
        found = House(sandbox, old, folder, url or store, admin_url, running)
        found.key.write_text(new_key().reveal())
        found.key.chmod(0o600)
        yield found
        for server in found.servers:
            print(f"  {server.name} said:")
            for line in found.warnings(server) or ["nothing from WARNING up"]:
                print(f"    {line}")


# ------------------------------------------------------------------------------------ the stories


async def on_one_redis(old: Path, line: str, *, has_new_rights: bool) -> list[str]:
    """Run two servers of each version on one Redis, whose user has the rights of ``line``."""
    with RedisServer("appendonly yes") as redis:
        url = set_user(redis, line)
        async with house(old, redis, url) as servers:
            checks: list[asyncio.Task[None]] = []
            try:
                return await _shared_login(servers, redis, checks, has_new_rights=has_new_rights)
            finally:
                for check in checks:
                    check.cancel()


async def _shared_login(
    servers: House, redis: RedisServer, checks: list[asyncio.Task[None]], *, has_new_rights: bool
) -> list[str]:
    report, sandbox = [], servers.sandbox
    # 1. The older version alone: a login, and refreshes by both.
    old = [await servers.start(f"old-{number}") for number in (1, 2)]
    await servers.log_in(old[0])
    checks.append(asyncio.create_task(servers.check_always()))
    await servers.same(*old)
    for server in old:
        demand(await servers.refresh(server) == 303, f"{server.name} does not refresh")
    token = await servers.same(*old)
    # 2. This version joins. It sends nothing to Xero, and the older ones go on to refresh.
    requests = len(sandbox.log)
    new = [await servers.start(f"new-{number}") for number in (1, 2)]
    demand(await servers.same(*old, *new) == token, "the new ones serve another token")
    demand(len(sandbox.log) == requests, "the new ones sent a request to Xero at their start")
    for server in old:
        demand(await servers.refresh(server) == 303, f"{server.name} does not refresh any more")
        await servers.same(*old, *new)
    record = await servers.record()
    demand(record.get("format") == 3, f"the record has the format {record.get('format')}")
    report.append(f"generation {record['generation']}: format 3, all four serve the same token")
    _check_rights(servers, new, has_new_rights=has_new_rights)
    # 3. This version writes. The older ones serve what they have, and write nothing.
    token = await servers.same(*old, *new)
    demand(await servers.refresh(new[0]) == 303, "the new version does not refresh")
    record, stored = await servers.record(), await servers.stored()
    demand(record.get("format") == FORMAT, f"the record has the format {record.get('format')}")
    fresh = await servers.same(*new)
    demand(fresh != token, "the new version has refreshed, and serves the old token")
    for server in old:
        await until(partial(server.has_said, NEWER))
        demand(await servers.token(server) == token, f"{server.name} does not serve its token")
        for path in ("/refresh", "/logout", "/revoke"):
            response = await servers.lines[server.name].request("POST", path)
            demand(response.status == 503, f"{server.name}: {path} gave {response.status}")
            demand(NEWER in response.body.decode(), f"{server.name}: {response.body.decode()}")
    demand(await servers.stored() == stored, "an older process has written")
    report.append(
        f"generation {record['generation']}: format {FORMAT}; both older ones: 503, {NEWER!r}"
    )
    for _ in range(3):
        for server in new:
            demand(await servers.refresh(server) == 303, f"{server.name} does not refresh")
    fresh = await servers.same(*new)
    # 4. The operator gives the new rights, and replaces one process after the other.
    set_user(redis, ACL_LINE)
    for server in list(servers.servers):
        print(f"  {server.name} said:")
        for said in servers.warnings(server) or ["nothing from WARNING up"]:
            print(f"    {said}")
        await servers.stop(server)
        after = await servers.start(f"new-for-{server.name}")
        demand(await servers.token(after) == fresh, f"{after.name} serves another token")
    _check_rights(servers, servers.servers, has_new_rights=True)
    before = sandbox.identity.counts.refreshes
    for server in servers.servers:
        demand(await servers.refresh(server) == 303, f"{server.name} does not refresh")
        await servers.same(*servers.servers)
    made = sandbox.identity.counts.refreshes - before
    demand(made == len(servers.servers), f"{len(servers.servers)} refreshes cost {made}")
    for check in checks:
        if check.done():
            check.result()
    refreshes = sandbox.refreshes()
    refused = [refresh for refresh in refreshes if refresh.outcome != "issued"]
    demand(not refused, f"Xero refused: {refused}")
    demand(sandbox.identity.counts.consents == 1, "there was another login")
    report.append(
        f"generation {(await servers.record())['generation']}: four new processes, one login, "
        f"{len(refreshes)} refreshes, none refused, no token spent twice: "
        f"{len({refresh.token for refresh in refreshes})} tokens"
    )
    return report


def _check_rights(servers: House, new: list[Server], *, has_new_rights: bool) -> None:
    """Check that a process without the new rights asks for them with the whole line, once."""
    wanted = ACL_LINE.partition("resetchannels")[2]
    for server in new:
        asked = [line for line in servers.warnings(server) if wanted in line]
        demand(len(asked) == (not has_new_rights), f"{server.name} asked for rights: {asked}")


async def in_one_folder(old: Path) -> list[str]:
    """Log in with the older version and a YAML file, and continue with this one."""
    async with house(old, None) as servers:
        config = servers.folder / "xots.yaml"
        variables = environment_for(servers.sandbox, servers.url, servers.key)
        config.write_text(SETTINGS_YAML.format(**variables))
        config.chmod(0o600)
        settings = {name: "" for name in variables if name.startswith("XOTS_")}
        settings["XOTS_CONFIG"] = str(config)
        before = await servers.start("old-1", settings)
        await servers.log_in(before)
        token, status = await servers.token(before), await _status(servers, before)
        await servers.stop(before)
        requests = len(servers.sandbox.log)
        after = await servers.start("new-1", settings)
        demand(await servers.token(after) == token, "the new version serves another token")
        demand(len(servers.sandbox.log) == requests, "the new version sent a request at its start")
        shown = await _status(servers, after)
        changed = {name: (status[name], shown.get(name)) for name in SAME_LOGIN}
        changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
        demand(not changed, f"/status shows another login: {changed}")
        demand(await servers.refresh(after) == 303, "the new version does not refresh")
        demand(await servers.token(after) != token, "the token is the same after a refresh")
        stored = await servers.stored()
        await servers.stop(after)
        refused = await servers.start("old-2", settings, refused=True)
        demand(refused.has_said(NEWER), "the older version does not say what is needed")
        demand(await servers.stored() == stored, "the older version has written")
        demand(servers.sandbox.identity.counts.consents == 1, "there was another login")
        print(f"  old-2 said:\n    {refused.log.read_text().strip()}")
        return [f"the login goes on: {json.dumps({name: shown[name] for name in SAME_LOGIN})}"]


SAME_LOGIN = (
    "state",
    "account",
    "client_id",
    "tenant_id",
    "scopes",
    "consented_at",
    "access_token",
    "refresh_token",
    "login_needed_at",
)
"""The fields of /status that identify a login."""


async def _status(servers: House, server: Server) -> dict[str, object]:
    response = await servers.lines[server.name].get("/status")
    content: dict[str, object] = json.loads(response.body)
    return content


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="torture versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--commit", default=COMMIT, help="the older version, in git (default: %(default)s)"
    )
    parser.add_argument("--old", type=Path, help="instead: a checkout of the older version")
    options = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="xots-old-") as name:
        folder = Path(name)
        if options.old is None:
            extract(options.commit, folder)
        else:
            shutil.copytree(options.old / "xots", folder / "xots")
            shutil.copytree(
                options.old / "templates", folder / "xots" / "templates", dirs_exist_ok=True
            )
        stories = {
            "old rights": on_one_redis(folder, OLD_ACL_LINE, has_new_rights=False),
            "new rights": on_one_redis(folder, ACL_LINE, has_new_rights=True),
            "a folder": in_one_folder(folder),
        }
        for title, story in stories.items():
            print(f"{title}:", flush=True)
            try:
                for line in asyncio.run(story):
                    print(f"  {line}", flush=True)
            except WrongError as error:
                wrong += 1
                print(f"  WRONG: {error}", flush=True)
    return 1 if wrong else 0
