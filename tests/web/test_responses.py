"""The formats of responses."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xots.lifecycle.schedule import State
from xots.web.read_log import Reads
from xots.web.responses import json_text

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.safeguard(
    file="web/responses.py",
    old="if encoded.isascii() and DELETE not in encoded:",
    new="if True:",
    protects_from="an organisation whose name drives the terminal of an operator",
)
@given(st.text(st.characters()))
@example("\x7f")
@example("\x00\x1b\b\f\n\r\t\"\\/<&>'")
@example("\ud800 \u2028 \U0001f600 é")
def test_text_is_printable_ascii_and_reads_back_as_it_was(text: str) -> None:
    """Each control character, and each beyond ASCII, is escaped, even one that is no character."""
    encoded = json_text({"name": text, "names": [text]})
    assert encoded.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in encoded[:-1])
    assert json.loads(encoded) == {"name": text, "names": [text]}


@pytest.mark.parametrize("name", ["plain", "\x1b[2J", "é", "\x7f"])
def test_a_value_has_the_same_form_whatever_its_text_is(name: str) -> None:
    """Text that needs no escape and text that needs one take different ways."""
    value = {"reads": Reads(name, 3, NOON, NOON), "state": State.WAITING, "none": None, "ok": True}
    expected = json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    assert json_text(value).decode() == expected + "\n"
