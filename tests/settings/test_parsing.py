"""The parsers: the texts that each setting takes, and the messages about others."""

from __future__ import annotations

import pytest
from support.settings_problems import SECRET, problems_of

from xots.settings import load


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "five"),
        ("port", ""),
        ("port", "80.5"),
        ("port", "\u0665\u0660"),
        ("address", "example.com"),
        ("address", "127.0.0.1:5001"),
        ("address", "300.1.1.1"),
        ("redirect", "localhost:5001/code"),
        ("redirect", "http://localhost:5001/callback"),
        ("redirect", "http://localhost:5001/code?x=1"),
        ("redirect", "http://localhost:5001/code#x"),
        ("redirect", "http://localhost:99999/code"),
        ("refreshmins", "0"),
        ("refreshmins", "86401"),
        ("refreshmins", "-72000"),
        ("refreshmins", "1.5"),
        ("client_id", "two words"),
        ("account", "Upper"),
        ("account", "lease-x"),
        ("account", "a" * 65),
        ("account", "../x"),
        ("store", "nosuch://x"),
        ("token_url", "identity.xero.com"),
        ("token_url", "http://"),
        ("token_url", "http://[::1"),
        ("token_url", "javascript:alert(1)"),
        ("pkce", "maybe"),
        ("refresh_ahead", "-1"),
        ("refresh_ahead", "nan"),
        ("refresh_ahead", "inf"),
        ("min_ttl", "1e9"),
        ("tick", "0"),
        ("log_level", "loud"),
    ],
)
def test_a_value_that_cannot_be_is_refused_under_its_own_name(name: str, text: str) -> None:
    """One problem, which begins with the option that was wrong."""
    [problem] = problems_of({name: text})
    assert problem.startswith(f"--{name.replace('_', '-')}: ")


def test_an_unknown_store_lists_those_that_are_installed() -> None:
    """The message says what could stand there."""
    [problem] = problems_of({"store": "nosuch://x"})
    assert "memory" in problem


@pytest.mark.parametrize(
    "text",
    [
        "offline_access accounting.\u00e9tat",
        'offline_access "accounting"',
        "offline_access back\\slash",
        "offline_access nul\0",
        "offline_access tab\x7f",
    ],
)
def test_a_scope_with_a_character_that_none_may_have_is_refused(text: str) -> None:
    """RFC 6749 section 3.3 permits printable ASCII without space, quote and backslash."""
    [problem] = problems_of({"scopes": text})
    assert problem.startswith("--scopes: ")
    assert "character" in problem


def test_scopes_may_be_separated_by_commas_or_spaces() -> None:
    """As the first server's help writes them, and as OAuth does; named twice is named once."""
    expected = ("offline_access", "accounting.transactions", "accounting.reports.read")
    for text in (
        "offline_access, accounting.transactions, accounting.reports.read",
        "offline_access,accounting.transactions,accounting.reports.read",
        " offline_access  accounting.transactions\taccounting.reports.read accounting.transactions ",
    ):
        assert load({"scopes": text}, {}).scopes == expected


@pytest.mark.parametrize("text", ["", " , ", "accounting.transactions"])
def test_scopes_without_offline_access_are_refused(text: str) -> None:
    """Without it there is no refresh token, and nothing for this server to do."""
    [problem] = problems_of({"scopes": text})
    assert problem.startswith("--scopes: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("client_secret", f"{SECRET} with a space"),
        ("client_secret", f"{SECRET}\n-and-a-second-line"),
        ("token_url", f"https://user:{SECRET}@id.example/token"),
        ("redirect", f"https://user:{SECRET}@id.example/code"),
        ("store", f"nosuch://user:{SECRET}@redis.example"),
    ],
)
def test_a_problem_never_shows_a_secret(name: str, text: str) -> None:
    """Neither a secret that is misshapen, nor a password in a URL, is repeated in the message."""
    [problem] = problems_of({"client_id": "C"}, {f"XOTS_{name.upper()}": text})
    assert SECRET not in problem
