"""Canaries: secret values that a test looks for in every sink, in every form they may have."""

from __future__ import annotations

import io
import json
import logging
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from xots.commands.logs import LogHandler

__all__ = ["CANARY", "Sinks", "leaks", "listening"]

CANARY = "hunter2/canary+9f3c"


def forms(value: str) -> set[bytes]:
    """Return the forms in which a sink may hold a value."""
    data = value.encode()
    digits = [b64encode(b"x" * before + data)[4 if before else 0 : -4] for before in range(3)]
    texts = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], data.hex()}
    found = {text.encode() for text in texts} | set(digits)
    found |= {one.replace(b"+", b"-").replace(b"/", b"_") for one in digits}
    return {one for one in found if len(one) >= 8} | {value.encode("utf-16-le")}


def leaks(content: str | bytes, secrets: Iterable[str]) -> list[str]:
    """Return those of the secrets that the content holds in some form."""
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return [one for one in secrets if any(form in data for form in forms(one))]


class Sinks:
    """The log at DEBUG of every logger, as text and as JSON, and all else that a test adds."""

    def __init__(self) -> None:
        self.streams = io.StringIO(), io.StringIO()
        self.seen: list[bytes] = []

    def add(self, content: str | bytes) -> None:
        self.seen.append(content.encode() if isinstance(content, str) else content)

    @property
    def log(self) -> str:
        return "".join(stream.getvalue() for stream in self.streams)

    def leaks(self, secrets: Iterable[str]) -> list[str]:
        """Return those of the secrets that a sink holds."""
        return leaks(b"\n".join([self.log.encode(errors="surrogatepass"), *self.seen]), secrets)


@contextmanager
def listening() -> Iterator[Sinks]:
    """Listen to every logger at DEBUG while the block runs."""
    sinks, root = Sinks(), logging.getLogger()
    handlers = [LogHandler(s, f) for s, f in zip(sinks.streams, ("text", "json"), strict=True)]
    level = root.level
    root.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield sinks
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
