"""``Secret``: a string that no log, traceback or page may show; and ``redacted``, the last line of
defence behind it.

Every live ``Secret`` is known here, by a weak reference. ``redacted`` replaces the values of all of
them in a text, so that a message that quotes one by mistake does not show it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
import weakref
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["Secret", "redacted"]

MIN_LENGTH = 8
"""Shorter values are not looked for: they are no good secrets, and occur in words by chance."""

REPLACEMENT = "[secret]"

PERCENT_CODE = re.compile("%[0-9A-F]{2}")


class Secret:
    """A string whose ``repr`` and ``str`` are masked. It compares in constant time and is not
    pickled."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value) >= MIN_LENGTH:
            _registry.add(self)

    def reveal(self) -> str:
        """Return the string itself. Call this where it is sent or sealed, and nowhere else."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """12 hex digits of its SHA-256: enough to tell two tokens apart, and useless to an
        attacker."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled: seal it instead")


def redacted(text: str, limit: int = sys.maxsize) -> str:
    """Return a text without the values of live secrets, also where they are escaped as in JSON,
    percent-encoded, or in base64.

    Args:
        text: the text.
        limit: only so many characters of the result are searched, since the caller cuts it there.
    """
    starts = _registry.starts()
    places = range(min(len(text) - MIN_LENGTH, limit) + 1)
    if starts.keys().isdisjoint([text[at : at + MIN_LENGTH] for at in places]):
        return text  # as nearly always
    parts: list[str] = []
    at = shown = copied = 0
    last = len(text) - MIN_LENGTH
    while at <= last and shown <= limit:
        found = [f for f in starts.get(text[at : at + MIN_LENGTH], ()) if text.startswith(f, at)]
        if found:
            parts += [text[copied:at], REPLACEMENT]
            copied = at = at + max(map(len, found))  # one may be the beginning of another
            shown += len(REPLACEMENT)
        else:
            at += 1
            shown += 1
    return "".join([*parts, text[copied:]])


class _Registry:
    """The live secrets, and an index of the forms in which a text may hold their values.

    The references are kept by the secrets' ids: a ``WeakSet`` would merge secrets of equal values,
    and forget the value when the first of them ends.
    """

    def __init__(self) -> None:
        self._live: dict[int, weakref.ref[Secret]] = {}
        self._forms: dict[str, tuple[str, ...]] = {}
        self._starts: dict[str, tuple[str, ...]] = {}
        self._is_current = True

    def add(self, secret: Secret) -> None:
        """Know a secret until it ends."""
        key = id(secret)

        def forget(reference: weakref.ref[Secret]) -> None:
            if self._live.get(key) is reference:  # a new secret may have the same id by now
                del self._live[key]
                self._is_current = False

        self._live[key] = weakref.ref(secret, forget)
        self._is_current = False

    def starts(self) -> dict[str, tuple[str, ...]]:
        """Return the forms of all live secrets by their first ``MIN_LENGTH`` characters.

        A search by them costs the same for one secret and for thousands.
        """
        if self._is_current:
            return self._starts
        self._is_current = True  # before the look, so that a change meanwhile is not missed
        live = [secret for reference in list(self._live.values()) if (secret := reference())]
        values = {secret.reveal() for secret in live}
        self._forms = {value: self._forms.get(value) or tuple(_forms(value)) for value in values}
        starts: dict[str, tuple[str, ...]] = {}
        for forms in self._forms.values():
            for form in forms:
                start = form[:MIN_LENGTH]
                starts[start] = (*starts.get(start, ()), form)
        self._starts = starts
        return starts


_registry = _Registry()


def _forms(value: str) -> Iterator[str]:
    """Yield the forms of a value that a text may hold: as it is, escaped, and encoded."""
    data = value.encode(errors="surrogatepass")
    escaped = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    quoted = {quote(data, safe=""), quote_plus(data)}
    quoted |= {PERCENT_CODE.sub(lambda code: code[0].lower(), text) for text in quoted}
    yield from {value, *escaped, *quoted}
    for content in {data, quote_plus(data).encode()}:
        yield from _in_base64(content)


def _in_base64(data: bytes) -> Iterator[str]:
    """Yield the base64 digits that depend on ``data`` alone, for each of the three places at which
    it may begin inside a longer text."""
    for before in range(3):
        first, end = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        digits = b64encode(bytes(before) + data).decode()[first:end]
        if len(digits) >= MIN_LENGTH:
            yield digits
            if "+" in digits or "/" in digits:
                yield digits.replace("+", "-").replace("/", "_")
