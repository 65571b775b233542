"""Stored logins: a store with accounts that are logged in, as the keeper writes them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from xots.access import digest_of
from xots.backends import open_store
from xots.keeping.record_store import RecordStore
from xots.key_file import KeyRing, read_key_file, write_key_file
from xots.lifecycle.account import Account, Entry, Organisation
from xots.lifecycle.logins import after_login
from xots.lifecycle.outcomes import Issued
from xots.reader_file import new_key as new_reader_key
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Identity,
    Shape,
    Switches,
    TokenResponse,
    User,
)
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.xero.protocol import Response, read_token_response

__all__ = ["Stored", "new_readers", "new_store", "store_logins"]

TOKEN_BYTES = 1500
"""The size of Xero's access tokens."""

LIFE_SECONDS = 24 * 3600
"""The life of a stored access token: no refresh becomes due during a run."""

TENANT_ID = "11111111-2222-4333-8444-555555555555"
"""The one organisation of each login."""

SCOPES = ("offline_access", "accounting.transactions")

WRITES_AT_ONCE = 20


@dataclass(frozen=True)
class Stored:
    """A store with logins."""

    url: str
    key_file: Path
    xero_url: str
    """The base of the URLs of the simulated Xero."""

    @property
    def token_url(self) -> str:
        """The URL at which the simulated Xero issues tokens."""
        return f"{self.xero_url}/connect/token"

    @property
    def options(self) -> list[str]:
        """The options with which xots serves these logins."""
        return [
            *("--store", self.url),
            *("--key-file", str(self.key_file)),
            *("--authorize-url", f"{self.xero_url}/identity/connect/authorize"),
            *("--token-url", self.token_url),
            *("--revoke-url", f"{self.xero_url}/connect/revocation"),
            *("--connections-url", f"{self.xero_url}/connections"),
        ]


def new_store(folder: Path, url: str | None = None, xero_url: str = "http://127.0.0.1:9") -> Stored:
    """Return an empty store with a new key.

    Args:
        folder: an empty folder, for the key and, by default, the store.
        url: the URL of the store; None: a file store in the folder.
        xero_url: the base of the URLs of the simulated Xero; nothing listens at the default.
    """
    key_file = folder / "keys"
    write_key_file(key_file, KeyRing((new_key(),)), new=True)
    return Stored(url or (folder / "store").as_uri(), key_file, xero_url)


def store_logins(
    folder: Path,
    *,
    url: str | None = None,
    names: Iterable[str] = ("default",),
    token_bytes: int = TOKEN_BYTES,
) -> Stored:
    """Log in to a simulated Xero, once for each account, and store the logins.

    The simulated Xero only exists for this call, so that nothing responds to a refresh.

    Args:
        folder: as for ``new_store``.
        url: as for ``new_store``.
        names: the names of the accounts. Each has a user of its own.
        token_bytes: the size of each access token.
    """
    names = list(names)
    identity = Identity(
        users=[User(name) for name in names],
        switches=Switches(access_token_life_seconds=LIFE_SECONDS),
    )
    stored = new_store(folder, url)
    shape = Shape(mint=lambda claims: minted(claims, token_bytes))
    now = datetime.now(UTC)
    accounts = {
        name: _account(
            name,
            identity.log_in(DEFAULT_CLIENT_ID, now, scopes=SCOPES, user_id=name, shape=shape),
            stored.token_url,
            now,
        )
        for name in names
    }
    asyncio.run(_write(stored.url, Sealer(read_key_file(stored.key_file).keys), accounts))
    return stored


def _account(name: str, response: TokenResponse, token_url: str, now: datetime) -> Account:
    content = json.dumps(response.fields).encode()
    issued = read_token_response(Response(200, {}, content), now)
    if not isinstance(issued, Issued):
        raise TypeError(f"the simulated Xero issued no token: {type(issued).__name__}")
    account = after_login(
        Account(generation=1, write_id="login", entry=Entry(added_at=now)),
        issued,
        consent_id=name,
        client_id=DEFAULT_CLIENT_ID,
        client_secret=Secret(DEFAULT_CLIENT_SECRET),
        token_url=token_url,
        tenant_id=None,
        scopes_requested=SCOPES,
        began_at=now,
    )
    organisation = Organisation(
        connection_id=name,
        tenant_id=TENANT_ID,
        name="Demo Company",
        kind="ORGANISATION",
        auth_event_id=account.auth_event_id,
    )
    return replace(account, tenant_id=TENANT_ID, organisations=(organisation,), listed_at=now)


def minted(claims: object, size: int) -> str:
    """Return a token of this size, of the characters of a JWT. Each one is unique."""
    start = hashlib.sha256(json.dumps(claims, default=str).encode()).hexdigest()
    return f"{start}.".ljust(size, "A")[:size]


async def _write(url: str, sealer: Sealer, accounts: dict[str, Account]) -> None:
    store = open_store(url)
    free = asyncio.Semaphore(WRITES_AT_ONCE)

    async def write(name: str, account: Account) -> None:
        async with free:
            await RecordStore(store, sealer, name).swap(account, None)

    try:
        await store.warnings()
        async with asyncio.TaskGroup() as group:
            for name, account in accounts.items():
                group.create_task(write(name, account))
    finally:
        await store.close()


def new_readers(file: Path, count: int) -> str:
    """Write a file of so many readers, who may read each token, and return the key of the last."""
    keys = [new_reader_key() for _ in range(count)]
    lines = [
        f"reader-{number} token * sha256:{digest_of(key)}\n" for number, key in enumerate(keys)
    ]
    file.touch(mode=0o600)
    file.write_text("".join(lines), encoding="ascii")
    return keys[-1]
