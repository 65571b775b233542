"""The Accept header: the media types that it names, and the one that it prefers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.web.accept import names, preferred

JSON, HTML, TEXT = "application/json", "text/html", "text/plain"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", None),
        ("*/*", None),
        ("text/*, */*;q=0.1", None),
        ("image/png", None),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("application/json, text/html", JSON),
        ("application/json;q=0.4, text/html;q=0.5", HTML),
        ("text/html;q=0.9, application/json", JSON),
        ("text/plain;q=0.5, text/html;q=0.5", TEXT),
        ("TEXT/HTML", HTML),
        (" text/html ; level=1 ; Q = 0.3 , text/plain;q=0.2", HTML),
        ("text/plain;q=.5", TEXT),
        ("text/plain;q=1.000, text/html", TEXT),
        ("text/plain;q=0.001", TEXT),
        ("text/plain;q=7, text/html", TEXT),
        ("text/plainer, text/plain-html", None),
        (",,;q=1,", None),
    ],
)
def test_the_named_type_with_the_highest_q_is_preferred(accept: str, expected: str | None) -> None:
    """The first of equal ones. A wildcard names no type."""
    assert preferred(accept) == expected


@pytest.mark.safeguard(
    file="web/accept.py",
    old="(weight := _weight(parameters)) > 0:",
    new="(weight := _weight(parameters)) >= 0:",
    protects_from="sending a type that the client refuses",
)
@pytest.mark.parametrize("weight", ["0", "0.0", "0.000", "0.", ".0", "00"])
def test_a_type_with_q_0_is_not_named(weight: str) -> None:
    """It is refused (RFC 9110 section 12.4.2)."""
    assert preferred(f"text/plain;q={weight}") is None
    assert preferred(f"text/plain;q={weight}, text/html;q=0.1") == HTML
    assert not names(f"text/html;q={weight}, */*", HTML)


@pytest.mark.parametrize("weight", ["", "high", "-1", "nan", "inf", "1e3", '"0"'])
def test_a_malformed_q_counts_as_missing(weight: str) -> None:
    """The type is named: a browser's form must then prove its origin."""
    assert names(f"text/html;q={weight}", HTML)
    assert preferred(f"text/html;q={weight}") == HTML


def test_a_type_is_named_beside_a_preferred_one() -> None:
    """Only the named types count, whichever is preferred."""
    accept = "application/json, text/html;q=0.1"
    assert names(accept, HTML)
    assert names(accept, JSON)
    assert not names(accept, TEXT)


@given(st.text(alphabet="text/hmlpnaioj*q=;,. 0159-", max_size=80))
def test_any_text_is_parsed(accept: str) -> None:
    """The preferred type is a named one."""
    found = preferred(accept)
    assert found is None or names(accept, found)
