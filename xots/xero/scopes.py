"""The scopes that a user or the settings give, as text. Pure."""

from __future__ import annotations

import re
from itertools import chain

from .protocol import SCOPE_SETS

__all__ = ["scopes"]

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
    if "offline_access" not in names:
        raise ValueError(
            "offline_access is missing; without it Xero issues no refresh token: add it"
        )
    return names
