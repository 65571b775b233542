"""``who_may_read``: the programs that may read an access token, in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from .access import TOKEN_SCOPES, Reader, Scope
from .settings import Settings, is_loopback
from .settings.parsing import ANYONE, NO_ADDRESS

__all__ = ["Summary", "who_may_read"]

ANYONES_PROXY = "every machine whose requests a program of theirs passes on (readers: anyone)"

WITHOUT_TLS = "; machines on the way can read what is sent (set tls_certificate and tls_key)"

REMEDIES = "set readers or allowed_users, or unix_socket with address: none"


class Summary(msgspec.Struct, frozen=True):
    """Who may read an access token."""

    text: str
    """A sentence without its end."""
    warned: bool = False
    """True if other machines may read a token without a key, or can listen."""


def who_may_read(
    settings: Settings,
    readers: Collection[Reader],
    user_text: Callable[[int], str],
    group_text: Callable[[int], str],
) -> Summary:
    """Return who may read an access token of a server with these settings.

    Args:
        settings: the settings.
        readers: the readers of the file that ``readers`` names; none if it names no file.
        user_text: returns a user in words, such as ``user alice (1000)``.
        group_text: returns a group in words.
    """
    has_tcp, has_keys = settings.address != NO_ADDRESS, settings.readers not in (None, ANYONE)
    is_anyone = settings.readers == ANYONE
    is_exposed = not is_loopback(settings.address) and not settings.allowed_users
    users = " or ".join(map(user_text, settings.allowed_users or ()))
    keys = _keys_text(settings, readers) if has_keys else ""
    parts = []
    if has_tcp:
        parts.append(_over_tcp(settings, users, keys, has_keys=has_keys))
    if settings.unix_socket is not None and (has_keys or not has_tcp):
        parts.append(_over_socket(settings, users, group_text, has_keys=has_keys))
    if keys and not has_tcp:
        parts.append(f"{keys}, if a proxy passes on their requests to this socket")
    if is_anyone and not is_exposed:
        parts.append(ANYONES_PROXY)
    is_heard = is_exposed and settings.tls_certificate is None
    return Summary("; ".join(parts) + (WITHOUT_TLS if is_heard else ""), is_anyone or is_heard)


def _keys_text(settings: Settings, readers: Collection[Reader]) -> str:
    """Return the programs with a key for an access token; empty if there is no such key."""
    useful = [reader for reader in readers if reader.scopes & TOKEN_SCOPES]
    if not useful:
        return ""
    admins = sum(Scope.ADMIN in reader.scopes for reader in useful)
    counts = [f"token: {len(useful) - admins}", f"admin: {admins}"]
    if limited := sum(reader.accounts is not None for reader in useful):
        counts.append(f"limited to some accounts: {limited}")
    number = "the only key" if len(useful) == 1 else f"one of {len(useful)} keys"
    return f"programs with {number} of {settings.readers} ({', '.join(counts)})"


def _over_tcp(settings: Settings, users: str, keys: str, *, has_keys: bool) -> str:
    if has_keys and not keys:
        return f"no program over TCP ({settings.readers} has no key with the scope token or admin)"
    if users:
        return f"{keys or 'programs'}, if they run as {users}"
    if keys:
        is_local = is_loopback(settings.address)
        return f"{keys}, on this machine or through a proxy on it" if is_local else keys
    why = "readers: anyone" if settings.readers == ANYONE else REMEDIES
    if is_loopback(settings.address):
        return f"every program of every user on this machine ({why})"
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    return f"every program that can connect to {host}:{settings.port} ({why})"


def _over_socket(
    settings: Settings, users: str, group_text: Callable[[int], str], *, has_keys: bool
) -> str:
    """Return the users to whom the mode of the socket's file gives the right to connect."""
    holders = ["root", "the user of xots"]
    if settings.unix_socket_group is not None:
        holders.append(group_text(settings.unix_socket_group))
    limit = f", but only {users}" if users else ""
    way = f"over {settings.unix_socket}{' without a key' if has_keys else ''}"
    return f"{way}: {', '.join(holders)}{limit}"
