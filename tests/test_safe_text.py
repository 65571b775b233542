"""Text from outside: every character that is not visible is escaped, and long texts are cut."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.errors import UpstreamFailed
from xots.safe_text import safe_text

HIDDEN = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e",
    *"\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad\u3164\u115f\u2800",
    "\ud800",
    "\udfff",
    "\ue000",
    "\uffff",
    "\U000e0041",
]


@pytest.mark.parametrize("character", HIDDEN, ids=ascii)
def test_a_character_without_a_shape_is_escaped(character: str) -> None:
    """The text around it stays, and the result is visible ASCII."""
    shown = safe_text(f"a{character}b")
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert shown.isprintable()
    assert shown.isascii()


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u2003", "\u3000"], ids=ascii)
def test_each_space_is_shown_as_one(space: str) -> None:
    """Names of companies have them: in Japan the ideographic one."""
    assert safe_text(f"a{space}b") == "a b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eevil", r"\u202eevil"),
        ("\ud83d", r"\ud83d"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_the_escape_is_that_of_python(text: str, shown: str) -> None:
    """A reader recognises it."""
    assert safe_text(text) == shown


@pytest.mark.parametrize("text", ["", "Müller & Söhne", "株式会社", "مؤسسة", "🙂 {} %s \\"])
def test_visible_text_stays_as_it_is(text: str) -> None:
    """Names in every script can be read."""
    assert safe_text(text) == text


@given(st.text(st.characters(codec=None, exclude_categories=[])), st.integers(1, 300))
def test_every_text_is_visible_bounded_and_stable(text: str, limit: int) -> None:
    """A text that passes through twice does not change the second time."""
    shown = safe_text(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()
    assert not any(unicodedata.bidirectional(one) in ("RLO", "LRO", "RLI") for one in shown)
    assert safe_text(shown, limit) == shown


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    """An escape is not cut in the middle."""
    assert safe_text("a" * 200) == "a" * 200
    assert safe_text("a" * 201) == "a" * 199 + "…"
    assert safe_text("\x1b" * 100, 10) == r"\x1b\x1b…"


def test_an_object_that_cannot_be_shown_is_named() -> None:
    """A message about a failure must not fail itself."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert safe_text(Broken()) == "<Broken>"
    assert safe_text(OSError(2, "No such\nfile")) == r"[Errno 2] No such\nfile"


@pytest.mark.safeguard(
    file="errors.py",
    old="return safe_text(super().__str__(), MAX_MESSAGE)",
    new="return super().__str__()",
    protects_from="control characters of another program in a page, a response or a terminal",
)
def test_the_text_of_every_error_is_safe() -> None:
    """Its way leads to the log, to pages, to responses and to terminals."""
    assert str(UpstreamFailed("no\x1b[2J\nresponse\ud800")) == r"no\x1b[2J\nresponse\ud800"


def test_the_room_is_light() -> None:
    """Commands that need no server use it too."""
    code = "import sys, xots.safe_text; print(sorted(m for m in sys.modules if 'tornado' in m))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
