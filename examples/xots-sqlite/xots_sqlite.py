"""``sqlite:///path/to/file.db``: a store for xots in a SQLite file, which the processes of one machine may share."""

import asyncio, contextlib, sqlite3  # noqa: E401, I001 - a short example

from xots import backends, errors


class SqliteStore(backends.TokenStore):
    shared, durable, path = True, True, ""
    setup = "PRAGMA synchronous = EXTRA; CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value, version TEXT)"
    put = "REPLACE INTO kept SELECT ?1, ?2, random() WHERE (SELECT version FROM kept WHERE name = ?1) IS ?3 RETURNING *"

    @classmethod
    def from_url(cls, url: str) -> "SqliteStore":
        if not url.startswith("sqlite:///"):
            raise ValueError("write sqlite:///path/to/file.db")
        (store := cls()).path = url[9:]
        return store

    async def read(self, name: str) -> backends.Stored | None:
        sql = "SELECT value, version FROM kept WHERE name = ?"
        rows = await asyncio.to_thread(self._rows, sql, name)
        return backends.Stored(*rows[0]) if rows else None

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        for row in await asyncio.to_thread(self._rows, self.put, name, value, expected):
            return str(row[2])
        raise errors.StaleWrite(f"{name} was written by somebody else meanwhile")

    async def names(self) -> list[str]:
        sql = "SELECT name FROM kept WHERE name NOT LIKE 'lease-%' ORDER BY name"
        return [row[0] for row in await asyncio.to_thread(self._rows, sql)]

    def _rows(self, sql: str, *values: str | bytes | None) -> list[sqlite3.Row]:
        try:
            with contextlib.closing(sqlite3.connect(self.path)) as kept, kept:
                return kept.executescript(self.setup).execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise errors.StoreUnavailable(f"{self.path}: {error}") from error
