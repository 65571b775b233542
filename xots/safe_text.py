"""``safe_text``: text, made safe to show in the log, on a terminal and on a page.

Text from outside is all that another program or user wrote: request paths, organisation names,
error texts of the identity server, of Redis and of the system, host names. It may hold control
characters that forge a line of the log, drive a terminal or reorder the text around them. It may
also quote a secret.
"""

from __future__ import annotations

import re
import unicodedata

from .secret import redacted

__all__ = ["MAX_MESSAGE", "safe_text"]

MAX_MESSAGE = 4000
"""Upper bound on a whole message. Most have less than 300 characters; a list of organisations may
have some thousands."""

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

READER_KEY = re.compile(r"xots_[\w-]{43}", re.ASCII)
"""A key that ``xots reader add`` has made. A server knows its digest only, so that it is not among
the live secrets."""

INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"
)
"""Characters without a shape that Python counts as printable: fillers and joiners."""

SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def safe_text(text: object, limit: int = 200) -> str:
    r"""Return a text with visible characters only, on one line, without the values of live secrets.
    It never raises.

    Everything else is escaped as Python writes it: ``\n``, ``\x1b``, ``\u202e``. That includes
    control characters, surrogates, bidirectional controls and zero-width characters. Each other
    space is shown as the ASCII one. A safe text is returned as it is.

    Args:
        text: the text; another object stands for its ``str``.
        limit: upper bound on the characters of the result. A longer one is cut, and ends with an
            ellipsis.
    """
    # A secret that is cut or escaped would not be recognised: redact first.
    given = text if isinstance(text, str) else _str(text)
    shown = redacted(READER_KEY.sub("xots_***", given) if "xots_" in given else given, limit)
    if len(shown) <= limit and _is_visible(shown):
        return shown
    # No character becomes shorter, so the rest of a long text need not be looked at.
    if len(shown) > limit and _is_visible(shown[:limit]):
        return shown[: limit - 1] + ELLIPSIS
    parts, room = [], limit
    for character in shown[: limit + 1]:
        part = character if _is_visible(character) else _escaped(character)
        parts.append(part)
        room -= len(part)
        if room < 0:
            return _cut(parts, limit)
    return "".join(parts)


def _str(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a value that cannot be shown must not break its message
        return f"<{type(value).__name__}>"


def _is_visible(text: str) -> bool:
    return text.isprintable() and (text.isascii() or INVISIBLE.isdisjoint(text))


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # Japanese names of companies have U+3000
        return " "
    code = ord(character)
    if code < 0x100:
        return SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cut(parts: list[str], limit: int) -> str:
    """Return as many whole parts as leave room for an ellipsis."""
    length = sum(map(len, parts))
    while parts and length > limit - 1:
        length -= len(parts.pop())
    return "".join(parts) + ELLIPSIS
