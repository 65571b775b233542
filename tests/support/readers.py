"""Readers of tests, each with a key that is made of its name, and a user whose browser has one."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from xots.access import Reader, Scope, digest_of
from xots.sandbox.person import Person
from xots.server import Server

__all__ = ["READERS", "KeyHolder", "basic", "bearer", "key", "key_of", "line", "line_of", "reader"]

READERS = {
    "script": ("token", "*"),
    "monitor": ("metrics", "*"),
    "owner": ("admin", "*"),
    "both": ("token,metrics", "*"),
    "firm-script": ("token", "firm"),
    "firm-monitor": ("metrics", "firm"),
    "firm-owner": ("admin", "firm"),
    "two-firms": ("admin", "firm,default"),
    "ghost": ("admin", "unknown"),
    "gone": ("admin", "*"),
}
"""Readers of every kind: name, scopes, accounts."""


def key_of(name: str) -> str:
    """Return the key of a reader."""
    return hashlib.sha256(name.encode()).hexdigest()


def key(name: str) -> str:
    """Return the line of a raw request with the key of a reader."""
    return f"Authorization: Bearer {key_of(name)}"


def line_of(name: str, scopes: str, accounts: str = "*") -> str:
    """Return the line of a reader in the file of readers."""
    return f"{name} {scopes} {accounts} sha256:{digest_of(key_of(name))}\n"


def line(name: str) -> str:
    """Return the line of one of ``READERS``."""
    return line_of(name, *READERS[name])


def reader(name: str, *scopes: Scope, accounts: frozenset[str] | None = None) -> Reader:
    """Return a reader. Without scopes, it has the scope ``token``."""
    return Reader(
        name=name,
        scopes=frozenset(scopes or (Scope.TOKEN,)),
        accounts=accounts,
        digest=digest_of(key_of(name)),
    )


def bearer(name: str) -> dict[str, str]:
    """Return the header with the key of a reader."""
    return {"Authorization": f"Bearer {key_of(name)}"}


def basic(name: str, key_holder: str | None = None) -> dict[str, str]:
    """Return the header of a browser with the key of a reader, or with that of another one."""
    key = key_of(key_holder or name)
    return {"Authorization": f"Basic {b64encode(f'{name}:{key}'.encode()).decode()}"}


class KeyHolder(Person):
    """A user whose browser sends the key of a reader to one server, as after HTTP Basic."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__()
        self.name = name
        """That of the reader."""
        self._server = f"http://localhost:{server.port}/"

    def _headers(self, url: str) -> dict[str, str]:
        key = basic(self.name) if url.startswith(self._server) else {}
        return super()._headers(url) | key
