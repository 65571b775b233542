"""Who may do what, as DESIGN.md ("Who may read and act") and docs/security.md say.

This file is read beside these documents, and is written from them, not from ``xots.access``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["OPEN", "SCOPE_TABLE", "Case", "Key", "Verdict", "Way", "verdict"]

OPEN = frozenset({"/ping", "/ready", "/style.css"})
"""The paths that need no key: the probes, which say one bit, and a file without any data."""

SCOPE_TABLE = {
    "/token": {"token", "admin"},
    "/tenants": {"token", "admin"},
    "/livez": {"token", "admin"},
    "/status": {"metrics", "admin"},
    "/openapi.json": {"token", "metrics", "admin"},
    "/nothing": {"token", "metrics", "admin"},
}
"""The scopes of which a key needs one; ``admin`` alone for every other path. A path that does not
exist is the same to all."""

OF_ALL_ACCOUNTS = frozenset({"/accounts"})
OF_NO_ACCOUNT = frozenset({"/code", "/openapi.json", "/nothing", *OPEN})


class Way(StrEnum):
    """The way of a request to the server."""

    TCP = "TCP"
    TLS = "TLS"
    SOCKET = "Unix socket"
    PROXY = "TCP, passed on by a proxy"
    PROXY_SOCKET = "Unix socket, passed on by a proxy"


class Verdict(StrEnum):
    """The decision on a request."""

    PERMITTED = "permitted"
    KEY_NEEDED = "key-needed"
    DENIED = "access-denied"


@dataclass(frozen=True)
class Key:
    """A key as a request sends it."""

    name: str
    header: str | None
    """The value of Authorization; None: no such header."""
    is_valid: bool = True
    scopes: frozenset[str] = frozenset()
    accounts: frozenset[str] | None = None


@dataclass(frozen=True)
class Case:
    """A request."""

    way: Way
    method: str
    path: str
    """Without the account."""
    account: str | None
    """The account in the path; None: the path names none."""
    key: Key

    @property
    def target(self) -> str:
        return self.path if self.account is None else f"/accounts/{self.account}{self.path}"


def verdict(case: Case, *, default: str = "default") -> Verdict:
    """Return the decision of a server with readers."""
    if case.path in OPEN and case.account is None:
        return Verdict.PERMITTED
    if case.way is Way.SOCKET:
        return Verdict.PERMITTED
    if not case.key.is_valid:
        return Verdict.KEY_NEEDED
    if not case.key.scopes & SCOPE_TABLE.get(case.path, {"admin"}):
        return Verdict.DENIED
    if case.key.accounts is None or (case.account is None and case.path in OF_NO_ACCOUNT):
        return Verdict.PERMITTED
    if case.account is None and case.path in OF_ALL_ACCOUNTS:
        return Verdict.DENIED
    is_its_own = (case.account or default) in case.key.accounts
    return Verdict.PERMITTED if is_its_own else Verdict.DENIED
