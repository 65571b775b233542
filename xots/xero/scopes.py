"""The scopes that a user or the settings give. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import chain

from .identity_server import IdentityServer
from .protocol import SCOPE_SETS

__all__ = ["login_problem", "scopes"]

SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")
"""RFC 6749 section 3.3: printable ASCII without space, quotation mark and backslash."""


def scopes(text: str) -> tuple[str, ...]:
    """Parse scopes, separated by spaces or commas. The name of a scope set stands for its scopes.

    The result holds each scope once, in the order of the text.

    Raises:
        ValueError: they cannot be requested. The message does not repeat them.
    """
    sets = (SCOPE_SETS.get(word, (word,)) for word in text.replace(",", " ").split())
    names = tuple(dict.fromkeys(chain.from_iterable(sets)))
    if not all(map(SCOPE.fullmatch, names)):
        raise ValueError("one of the scopes holds a character that no scope can have")
    return names


def login_problem(scopes: Collection[str], server: IdentityServer) -> str | None:
    """Return why a login with these scopes would bring no refresh token; None if it may bring one.

    Only Xero demands ``offline_access``. Other servers have rules of their own.
    """
    if server.is_xero and "offline_access" not in scopes:
        return "offline_access is missing; without it Xero issues no refresh token: add it"
    return None
