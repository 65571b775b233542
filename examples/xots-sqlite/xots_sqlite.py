"""A store for xots in a SQLite file, which the processes of one machine can share.

Its URL is ``sqlite:///path/to/file.db``. Each operation opens the file, works in a thread and
closes the file again, so the store also works after the file was replaced by a backup.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from contextlib import closing
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from xots.backends import Stored, TokenStore, check_size, is_account
from xots.errors import StaleWrite, StoreUnavailable

BUSY_TIMEOUT_SECONDS = 5.0
"""Time to wait for the transaction of another process."""

# A commit returns only when a power cut can no longer undo it.
SETUP = """PRAGMA synchronous = EXTRA;
    CREATE TABLE IF NOT EXISTS records
    (name TEXT PRIMARY KEY, value BLOB NOT NULL, version TEXT NOT NULL)"""

READ = "SELECT value, version FROM records WHERE name = :name"

# One statement is one transaction: no other process writes between the comparison and the write.
SWAP = """INSERT OR REPLACE INTO records SELECT :name, :value, :version
    WHERE (SELECT version FROM records WHERE name = :name) IS :expected RETURNING version"""

NAMES = "SELECT name FROM records ORDER BY name"


class SqliteStore(TokenStore):
    """Keeps records in the table ``records`` of a SQLite file."""

    shared = True
    durable = True

    def __init__(self, path: str) -> None:
        self._path = path

    @classmethod
    def from_url(cls, url: str) -> SqliteStore:
        if not url.startswith("sqlite:///"):
            raise ValueError("the URL must have the form sqlite:///path/to/file.db")
        return cls(unquote(url.removeprefix("sqlite://")))

    async def read(self, name: str) -> Stored | None:
        for value, version in await self._execute(READ, name=name):
            check_size(name, len(value))
            return Stored(value, version)
        return None

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        check_size(name, len(value))
        version = secrets.token_hex(8)
        if not await self._execute(
            SWAP, name=name, value=value, version=version, expected=expected
        ):
            raise StaleWrite(f"another process has written {name} meanwhile")
        await self.note_due(name, due_at)  # the index is that of TokenStore, in memory
        return version

    async def names(self) -> list[str]:
        return [name for (name,) in await self._execute(NAMES) if is_account(name)]

    async def _execute(self, sql: str, **values: Any) -> list[Any]:
        return await asyncio.to_thread(self._execute_in_thread, sql, values)

    def _execute_in_thread(self, sql: str, values: dict[str, Any]) -> list[Any]:
        try:
            # Without an isolation level, each statement is committed when it ends.
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
            )
            with closing(connection):
                connection.executescript(SETUP)
                return connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
