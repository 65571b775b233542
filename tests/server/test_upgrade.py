"""A folder and a YAML file of the last version that wrote records of format 3: the login goes on.

``data/format-3`` is what a server of that version left: its YAML file, its key, and its store after
a login and a refresh. Only the address of its simulated Xero is replaced here.
``torture versions`` runs that version itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from xots.backends import open_store
from xots.keeping.record_store import PURPOSE
from xots.lifecycle.account import FORMAT
from xots.sandbox import DEFAULT_CLIENT_ID, Sandbox
from xots.sandbox.identity.protocol import AuthorizationRequest
from xots.sandbox.identity.tokens import AccessToken, RefreshToken
from xots.sealing import Sealer
from xots.secret import Secret
from xots.server import Server
from xots.settings.sources import load
from xots.testing import FakeClock

DATA = Path(__file__).parent / "data" / "format-3"

OLD_XERO = "http://127.0.0.1:35407"
"""The address of the simulated Xero of that login."""

Record = dict[str, Any]


@pytest.fixture
async def folder(tmp_path: Path, sandbox: Sandbox) -> Path:
    """The files of the older version, at the address of this simulated Xero."""
    folder = tmp_path / "deployment"
    shutil.copytree(DATA, folder)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    text = (folder / "xots.yaml").read_text().replace(OLD_XERO, sandbox.url)
    text = text.replace("store: STORE", f"store: {(folder / 'state').as_uri()}")
    text = text.replace("key_file: KEY", f"key_file: {folder / 'key'}")
    (folder / "xots.yaml").write_text(text)
    return folder


@pytest.fixture
async def record(folder: Path, sandbox: Sandbox, clock: FakeClock) -> Record:
    """The stored record, at the address of this simulated Xero, which knows its tokens."""
    path, sealer = folder / "state" / "default.sealed", sealer_of(folder)
    body = sealer.open(path.read_bytes(), PURPOSE, {"name": "default"})
    body = body.replace(OLD_XERO.encode(), sandbox.url.encode())
    path.write_bytes(sealer.seal(body, PURPOSE, {"name": "default"}))
    record: Record = json.loads(body)
    assert record["format"] == 3
    issued_at = datetime.fromisoformat(record["access"]["issued_at"])
    clock.advance((issued_at - clock.now()).total_seconds() + 60)
    request = AuthorizationRequest(DEFAULT_CLIENT_ID, "", tuple(record["scopes_granted"]))
    identity, tenants = sandbox.identity, [record["tenant_id"]]
    code = identity.consent(request, issued_at, tenant_ids=tenants)["code"]
    consent = identity.tokens.codes[code].consent
    expires_at = datetime.fromisoformat(record["access"]["expires_at"])
    tokens = identity.tokens
    tokens.access_tokens[record["access"]["value"]] = AccessToken(consent, expires_at)
    tokens.refresh_tokens[record["current"]["value"]] = RefreshToken(consent, issued_at)
    return record


@pytest.fixture
async def upgraded(folder: Path, record: Record, clock: FakeClock) -> AsyncIterator[Server]:
    """A server of this version on these files."""
    server = Server(load({}, {}, folder / "xots.yaml"), clock=clock)
    await server.start()
    yield server
    await server.stop()


def sealer_of(folder: Path) -> Sealer:
    return Sealer([Secret((folder / "key").read_text())])


async def test_the_same_login_continues(
    upgraded: Server, record: Record, sandbox: Sandbox, get: Any
) -> None:
    """The same token is served without a request to Xero, and /status shows the same login."""
    token = (await get(f"{upgraded.url}/token")).json["accessToken"]
    assert token == record["access"]["value"]
    assert list(sandbox.log) == []
    status = (await get(f"{upgraded.url}/status")).json
    assert status["state"] == "connected"
    assert status["account"] == "default"
    for name in ("client_id", "tenant_id", "consented_at", "refreshed_at", "refreshed_by"):
        assert status[name] == record[name], name
    assert status["scopes"] == record["scopes_granted"]
    assert status["refresh_token"] == f"#{Secret(record['current']['value']).fingerprint}"


async def test_the_first_refresh_keeps_the_login_and_writes_the_new_format(
    upgraded: Server, folder: Path, record: Record, sandbox: Sandbox, get: Any
) -> None:
    """Until then the record stays as the older version wrote it."""
    path = folder / "state" / "default.sealed"
    assert json.loads(sealer_of(folder).open(path.read_bytes(), PURPOSE, {"name": "default"})) == (
        record
    )
    assert (await get(f"{upgraded.url}/refresh")).status == 303
    assert (await get(f"{upgraded.url}/token")).json["accessToken"] != record["access"]["value"]
    [refresh] = sandbox.refreshes()
    assert refresh.outcome == "issued"
    written = json.loads(sealer_of(folder).open(path.read_bytes(), PURPOSE, {"name": "default"}))
    assert written["format"] == FORMAT
    assert written["generation"] > record["generation"]
    for name in ("client_id", "consent_id", "consented_at", "tenant_id", "scopes_granted"):
        assert written[name] == record[name], name


async def test_the_accounts_of_the_older_version_are_the_default_one(
    upgraded: Server, folder: Path, record: Record, get: Any
) -> None:
    """The list of accounts names it, and the store holds no other record."""
    listed = (await get(f"{upgraded.url}/accounts")).json["accounts"]
    assert [account["name"] for account in listed] == ["default"]
    store = open_store((folder / "state").as_uri())
    assert await store.names() == ["default"]
    await store.close()
