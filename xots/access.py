"""Who may read a token and who may act: the decision on one request. Pure.

Two rules apply to a connection. ``allowed_users`` names the users of this machine that may connect
at all. ``readers`` holds named keys: with it, each request over TCP needs one. A Unix socket needs
none, since its file says who may connect; a request that a proxy passed on needs one all the same,
because any machine may have sent it to the proxy.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address

import msgspec

from .errors import AccessDenied, KeyRefused

__all__ = [
    "ADMIN_SCOPES",
    "ALL_SCOPES",
    "METRICS_SCOPES",
    "TOKEN_SCOPES",
    "Caller",
    "Peer",
    "Reader",
    "Rules",
    "Scope",
    "Transport",
    "digest_of",
    "forwarding_header",
    "identify",
]


class Scope(StrEnum):
    """The endpoints that a reader may use."""

    TOKEN = "token"  # noqa: S105 - a word
    """Access tokens: ``/token``, ``/tenants`` and ``/livez``."""
    METRICS = "metrics"
    """The state without secrets: ``/status``."""
    ADMIN = "admin"
    """Every endpoint."""


ADMIN_SCOPES = frozenset({Scope.ADMIN})
TOKEN_SCOPES = ADMIN_SCOPES | {Scope.TOKEN}
METRICS_SCOPES = ADMIN_SCOPES | {Scope.METRICS}
ALL_SCOPES = frozenset(Scope)
"""The scopes of which an endpoint demands one."""


class Transport(StrEnum):
    """The ways in which a connection can reach this server."""

    TCP = "TCP"
    TLS = "TLS"
    UNIX = "Unix socket"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The other end of a connection, as the kernel knows it when the connection is accepted."""

    transport: Transport
    uid: int | None
    """The user that connected; None if that is not certain. See ``peers``."""
    address: str | None = None
    """The IP address; None for a Unix socket."""

    @property
    def is_private(self) -> bool:
        """True if no other machine can read the connection."""
        return self.transport is not Transport.TCP or self.is_local

    @property
    def is_local(self) -> bool:
        """True if the other end is certainly on this machine."""
        return self.address is None or ip_address(self.address.partition("%")[0]).is_loopback

    @property
    def name(self) -> str:
        """The name of a caller without a key. No reader has such a name.

        A local program may have many addresses, and can hide its user: it counts as one caller.
        """
        if self.uid is not None:
            return f"uid:{self.uid}"
        return "(unknown)" if self.is_local else f"ip:{self.address}"


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """A named key."""

    name: str
    scopes: frozenset[Scope]
    accounts: frozenset[str] | None
    """The accounts that the key is limited to; None: it is not limited."""
    digest: str
    """The result of ``digest_of``."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of a server."""

    readers: Mapping[str, Reader] | None = None
    """The readers by digest; None if no key is needed."""
    serves_anyone: bool = False
    """True if the operator has set ``readers: anyone``."""
    allowed_users: Collection[int] | None = None
    """The ids of the users that may connect; None if all may."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, with its rights."""

    name: str
    """That of the reader, or of the peer."""
    scopes: frozenset[Scope] = ALL_SCOPES
    accounts: frozenset[str] | None = None
    """The accounts that its rights are limited to; None: they are not limited."""

    def check_scopes(self, demanded: frozenset[Scope]) -> None:
        """Check that the caller has one of these scopes.

        Raises:
            AccessDenied: it has none of them.
        """
        if not self.scopes & demanded:
            names = " or ".join(scope for scope in Scope if scope in demanded)
            raise AccessDenied(
                f"the key of {self.name} does not have the scope {names}, which this request "
                "needs; make a key with that scope: xots reader add --scope"
            )

    def check_account(self, account: str) -> None:
        """Check that the caller may use an account, whether or not there is one of that name.

        Raises:
            AccessDenied: it may not.
        """
        if self.accounts is not None and account not in self.accounts:
            raise AccessDenied(
                f"the key of {self.name} is limited to other accounts; make a key for this one: "
                "xots reader add --account"
            )

    def check_all_accounts(self) -> None:
        """Check that the caller's rights are not limited to some accounts.

        Raises:
            AccessDenied: they are.
        """
        if self.accounts is not None:
            raise AccessDenied(
                f"the key of {self.name} is limited to some accounts, and this request concerns "
                "all of them; use the paths /accounts/NAME/…, or a key without a limit"
            )


# ---------- the decision


def identify(
    rules: Rules, peer: Peer, authorization: Sequence[str], forwarded_by: str | None
) -> Caller:
    """Return the sender of a request.

    Args:
        rules: the rules now.
        peer: the other end of its connection.
        authorization: the values of its Authorization headers.
        forwarded_by: the result of ``forwarding_header``.

    Raises:
        AccessDenied: the user may not connect, a proxy has passed the request on, or the key was
            sent in clear by HTTP Basic.
        KeyRefused: it needs a key, and has no valid one.
    """
    _check_user(rules, peer)
    if rules.readers is None:
        if forwarded_by is not None and not rules.serves_anyone:
            raise AccessDenied(
                f"a proxy has passed this request on (header {forwarded_by}), and without keys "
                "every machine that reaches the proxy could get the token; give your programs keys "
                "(xots reader add) and set readers"
            )
        return Caller(name=peer.name)
    if peer.transport is Transport.UNIX and forwarded_by is None:
        return Caller(name=peer.name)
    reader = _reader(rules.readers, peer, authorization)
    return Caller(name=reader.name, scopes=reader.scopes, accounts=reader.accounts)


def _check_user(rules: Rules, peer: Peer) -> None:
    if rules.allowed_users is None:
        return
    if peer.uid is None:
        raise AccessDenied(
            "the user of this connection is not known for certain, and allowed_users is set; "
            "connect from a program on this machine, and keep the connection open until the "
            "response arrives"
        )
    if peer.uid not in rules.allowed_users:
        raise AccessDenied(
            f"user {peer.uid} may not use this server; an operator can add the user to the setting "
            "allowed_users"
        )


def _reader(readers: Mapping[str, Reader], peer: Peer, authorization: Sequence[str]) -> Reader:
    """Return the reader whose key a request has; raises as ``identify``."""
    if not authorization:
        raise KeyRefused(
            "this request needs a key; send the header Authorization: Bearer KEY, with a key that "
            "xots reader add has made (for the commands of xots: set reader_key_file)",
            may_use_basic=peer.is_private,
        )
    scheme, _, rest = authorization[0].strip().partition(" ")
    name, key = None, rest.strip()
    if scheme.lower() == "basic":
        if not peer.is_private:
            raise AccessDenied(
                "HTTP Basic has sent a key in clear over the network; remove that key, and use "
                "https:// (settings tls_certificate and tls_key)"
            )
        name, key = _basic(key)
    reader = readers.get(digest_of(key))
    is_known = scheme.lower() in ("bearer", "basic") and len(authorization) == 1
    if reader is None or not is_known or name not in (None, reader.name):
        raise KeyRefused(
            "this key is not valid here: it was removed, or it belongs to another server; an "
            "operator can make one with xots reader add",
            may_use_basic=peer.is_private,
            is_wrong=True,
        )
    return reader


def _basic(encoded: str) -> tuple[str | None, str]:
    """Return user and password of HTTP Basic (RFC 7617 section 2); no text if they are malformed.
    A browser sends the reader's name as the user."""
    try:
        name, _, key = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None, ""
    return name, key


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits. A key has 256 random bits, so its digest
    needs neither salt nor stretching."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


FORWARDING_HEADER = re.compile(r"(?i)forwarded|via|x-forwarded-.*|x-real-ip")
"""The headers that proxies add (RFC 7239; RFC 9110 section 7.6.3)."""


def forwarding_header(names: Iterable[str]) -> str | None:
    """Return the first of these names of headers that only a proxy sends; None if there is none."""
    return next(filter(FORWARDING_HEADER.fullmatch, names), None)
