"""Fixtures of the web tests: a user's consent, a server in each state, a store that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support import inside
from support.readers import KeyHolder, reader
from support.web import origin

from xots.access import Scope
from xots.errors import StoreUnavailable
from xots.reader_file import add_reader
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Sandbox
from xots.sandbox.person import Page, Person
from xots.server import Server
from xots.web import express_request
from xots.web.express import Express
from xots.web.tokens import TokenHandler

NewServer = Callable[..., Awaitable[Server]]

XERO_LIFE = 1800


@pytest.fixture
def decide(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[str]]:
    """Decides on a consent page. Returns the address to which Xero redirects the browser."""

    async def decide(page: Page, action: str = "allow", tenants: tuple[str, ...] = ()) -> str:
        fields = [("tenant", tenant) for tenant in tenants] or page.form.fields
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode([*fields, ("action", action)])
        return str((await send("POST", page.url, headers, body)).headers["Location"])

    return decide


@pytest.fixture
def heads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the express lane know heads only, and the handler respond to all other requests."""
    monkeypatch.setattr(express_request, "find", lambda *_: None)


@pytest.fixture
def learns_at_once(heads_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the express lane learn a head that comes for the first time, and no other request."""
    monkeypatch.setattr(Express, "is_recurring", lambda *_: True)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the requests that the handler has responded to."""
    targets: list[str] = []
    get = TokenHandler.get

    async def counted(self: TokenHandler) -> None:
        targets.append(self.request.uri or "")
        await get(self)

    monkeypatch.setattr(TokenHandler, "get", counted)
    return targets


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    """The path of a file with the readers ``first`` and ``second``."""
    path = tmp_path / "readers"
    for name in ("first", "second"):
        add_reader(path, reader(name, Scope.TOKEN))
    add_reader(path, reader("owner", Scope.ADMIN))
    return path


@pytest.fixture
async def keyed(new_server: NewServer, credentials: dict[str, Any], readers: Path) -> Server:
    """A server with a login that needs these keys."""
    server = await new_server(readers=readers, **credentials)
    owner = KeyHolder(server, "owner")
    await owner.consent(
        await owner.submit(await owner.open(f"http://localhost:{server.port}/home"))
    )
    return server


@pytest.fixture
def token_of(
    get: Callable[..., Awaitable[Any]],
) -> Callable[[Server], Awaitable[str | None]]:
    """The access token that a server returns; None if it returns none."""

    async def token_of(server: Server) -> str | None:
        response = await get(f"{server.url}/token")
        return response.json["accessToken"] if response.status == 200 else None

    return token_of


@pytest.fixture
def brought_to(
    new_server: NewServer,
    credentials: Any,
    sandbox: Sandbox,
    person: Person,
    clock: Any,
    send: Any,
    expected_log: Any,
) -> Callable[[str], Awaitable[Server]]:
    """Starts a server and brings it into a state of ``test_endpoint_table``, by pages and acts."""

    async def brought_to(state: str) -> Server:
        if state == "no-credentials":
            return await new_server()
        if state in ("credentials", "waiting"):
            server = await new_server(**credentials)
            if state == "waiting":
                await person.submit(await person.open(f"{origin(server)}/home"))
            return server
        server = await new_server()
        page = await person.log_in(origin(server), DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
        assert page.status == 200
        if state.startswith("failing"):
            expected_log(r"WARNING xots: default: refresh failed")
            sandbox.add_fault("refresh:every:503-html")
            clock.advance(XERO_LIFE - (0 if state == "failing-dead" else 300))
            await server.rotation.tick()
        elif state == "consent-lost":
            expected_log(r"ERROR xots: default: the login is lost")
            sandbox.identity.forget()
            clock.advance(XERO_LIFE)
            await server.rotation.tick()
        elif state in ("revoked", "logged-out"):
            act = "revoke" if state == "revoked" else "logout"
            await send("POST", f"{server.url}/{act}", None, "")
        return server

    return brought_to


@pytest.fixture
def break_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    """Makes a server's store fail at every read, write and check, until the patches are undone."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the disk is full")

    def break_store(server: Server) -> None:
        store = inside.context_of(server.keeper).store
        for method in ("check", "swap", "read", "names"):
            monkeypatch.setattr(store, method, fail)

    return break_store
