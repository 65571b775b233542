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
import threading
import weakref
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["Secret", "concealed", "redacted"]

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


def concealed(kind: type, value: object) -> Secret:
    """Return a decoded field as the secret that its type demands: msgspec's ``dec_hook``.

    Raises:
        TypeError: the field is of another type, or its value is no string. The message does not
            show the value.
    """
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError(f"{kind.__name__} is not written as {type(value).__name__}")


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
        forms = list(starts.get(text[at : at + MIN_LENGTH], ()))  # other threads may change them
        found = [form for form in forms if text.startswith(form, at)]
        if found:
            parts += [text[copied:at], REPLACEMENT]
            copied = at = at + max(map(len, found))  # one may be the beginning of another
            shown += len(REPLACEMENT)
        else:
            at += 1
            shown += 1
    return "".join([*parts, text[copied:]])


class _Registry:
    """The live secrets, and an index of the forms in which a text may hold their values."""

    def __init__(self) -> None:
        self._live: dict[str, dict[int, weakref.ref[Secret]]] = {}
        """The references to the live secrets of each value, by the secrets' ids: a ``WeakSet``
        would merge them, and forget the value when the first of them ends."""
        self._changed: set[str] = set()
        """The values whose first secret has begun or last one has ended since the last search."""
        self._forms: dict[str, frozenset[str]] = {}
        self._starts: dict[str, dict[str, int]] = {}
        # The garbage collector may call ``forget`` at any time, also in the thread that holds it.
        self._lock = threading.RLock()

    def add(self, secret: Secret) -> None:
        """Know a secret until it ends."""
        key, value = id(secret), secret.reveal()

        def forget(reference: weakref.ref[Secret]) -> None:
            with self._lock:
                live = self._live.get(value, {})
                if live.get(key) is not reference:  # a new secret may have the same id by now
                    return
                del live[key]
                if not live:
                    del self._live[value]
                    # A value that no search has met leaves nothing behind.
                    (self._changed.add if value in self._forms else self._changed.discard)(value)

        with self._lock:
            self._live.setdefault(value, {})[key] = weakref.ref(secret, forget)
            self._changed.add(value)

    def starts(self) -> dict[str, dict[str, int]]:
        """Return the forms of all live secrets by their first ``MIN_LENGTH`` characters, each with
        the number of values that have it.

        A search by them costs the same for one secret and for thousands. The cost of the index
        follows the secrets that have begun or ended since the last search.
        """
        with self._lock:
            while self._changed:
                value = self._changed.pop()
                is_live = value in self._live
                if is_live and value not in self._forms:
                    self._forms[value] = frozenset(_forms(value))
                    self._count(self._forms[value], 1)
                elif not is_live and value in self._forms:
                    self._count(self._forms.pop(value), -1)
            return self._starts

    def _count(self, forms: frozenset[str], change: int) -> None:
        for form in forms:
            start = form[:MIN_LENGTH]
            counts = self._starts.setdefault(start, {})
            counts[form] = counts.get(form, 0) + change
            if counts[form] == 0:
                del counts[form]
            if not counts:
                del self._starts[start]


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
