"""The parsers: the texts that they accept, and the problems that they report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.settings_problems import SECRET, problems_of

from xots.secret import Secret
from xots.settings import load, parsing
from xots.xero.http import Proxy


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
        ("client_auth", "digest"),
        ("grant", "password"),
        ("issuer", "two words"),
        ("grace", "-1"),
        ("grace", "86401"),
        ("grace", "never"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_option(name: str, text: str) -> None:
    """It is one problem, which begins with the option."""
    [problem] = problems_of({name: text})
    assert problem.startswith(f"--{name.replace('_', '-')}: ")


def test_the_problem_of_an_unknown_store_lists_the_installed_ones() -> None:
    """The operator sees the possible values."""
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
def test_a_scope_with_a_forbidden_character_is_refused(text: str) -> None:
    """RFC 6749 section 3.3 permits printable ASCII without space, quotation mark and backslash."""
    [problem] = problems_of({"scopes": text})
    assert problem.startswith("--scopes: ")
    assert "character" in problem


def test_commas_and_spaces_separate_scopes() -> None:
    """The Go server writes commas, and OAuth writes spaces. A repeated scope counts once."""
    expected = ("offline_access", "accounting.transactions", "accounting.reports.read")
    for text in (
        "offline_access, accounting.transactions, accounting.reports.read",
        "offline_access,accounting.transactions,accounting.reports.read",
        " offline_access  accounting.transactions\taccounting.reports.read "
        "accounting.transactions ",
    ):
        assert load({"scopes": text}, {}).scopes == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("client_secret", f"{SECRET} with a space"),
        ("client_secret", f"{SECRET}\n-and-a-second-line"),
        ("token_url", f"https://user:{SECRET}@id.example/token"),
        ("redirect", f"https://user:{SECRET}@id.example/code"),
        ("store", f"nosuch://user:{SECRET}@redis.example"),
        ("proxy", f"socks5://user:{SECRET}@proxy.example"),
        ("proxy", f"http://user:{SECRET}@proxy.example:port"),
        ("proxy", f"http://user:{SECRET}\u2100@proxy.example"),  # urlsplit quotes this one
    ],
)
def test_a_problem_never_shows_a_secret(name: str, text: str) -> None:
    """The message repeats neither an invalid secret nor a URL that holds a password."""
    [problem] = problems_of({"client_id": "C"}, {f"XOTS_{name.upper()}": text})
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("address", "[::1]", "::1"),
        ("address", "localhost", "localhost"),
        ("pkce", "OFF", False),
        ("pkce", "1", True),
        ("refresh_ahead", "0", 0.0),
        ("log_level", "DEBUG", "debug"),
        (
            "allowed_hosts",
            "a.example, B.example:8080 [::1]:80",
            ("a.example", "b.example:8080", "[::1]:80"),
        ),
        ("account", "lease", "lease"),
        ("revoke_url", "", ""),
        ("grace", "0", 0.0),
        ("grace", "86400", 86400.0),
        ("client_auth", "POST", "post"),
        ("issuer", "https://id.example", "https://id.example"),
        ("proxy", "http://proxy.example:3128", Proxy(host="proxy.example", port=3128)),
    ],
)
def test_a_valid_value_has_one_form(name: str, text: str, value: Any) -> None:
    """The parser removes the differences between the ways to write a value."""
    environment = {"XOTS_REDIRECT": "http://localhost:5001/code", f"XOTS_{name.upper()}": text}
    assert getattr(load({}, environment), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("allowed_hosts", "https://x.example"),
        ("allowed_hosts", "x.example/path"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "user@x.example"),
        ("proxy", "https://proxy.example"),
        ("proxy", "http://proxy.example/path"),
        ("proxy", "http://proxy.example?query"),
        ("proxy", "proxy.example:3128"),
        ("proxy", "http://:3128"),
        ("client_secret_file", "/nonexistent"),
        ("ca_file", "/nonexistent"),
        ("ca_file", __file__),
    ],
)
def test_an_invalid_host_proxy_or_file_is_refused(name: str, text: str) -> None:
    """It is one problem, which begins with the option."""
    [problem] = problems_of({name: text})
    assert problem.startswith(f"--{name.replace('_', '-')}: ")


def test_a_proxy_can_have_a_quoted_user_name_and_password() -> None:
    """The quoted characters are those that would end the password in a URL."""
    proxy = parsing.proxy("http://a%40b:c%2Fd@proxy.example")
    expected = Proxy(host="proxy.example", port=80, username="a@b", password=Secret("c/d"))
    assert proxy == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt=consent", (("prompt", "consent"),)),
        (
            "access_type=offline&prompt=login%20consent",
            (("access_type", "offline"), ("prompt", "login consent")),
        ),
        (
            "audience=https%3A%2F%2Fapi.example%2F%3Fa%26b&x=",
            (("audience", "https://api.example/?a&b"), ("x", "")),
        ),
        ("login_hint=%C3%A9tat", (("login_hint", "\u00e9tat"),)),
        ("", ()),
    ],
)
def test_further_parameters_are_written_as_in_a_query(
    text: str, expected: tuple[tuple[str, str], ...]
) -> None:
    """Their order stays, a value may be empty, and percent-encoded characters are decoded."""
    assert parsing.authorize_params(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        f"prompt={SECRET} consent",
        f"prompt={SECRET}\n",
        f"prompt={SECRET}\x7f",
        f"prompt={SECRET}%0A",
        f"prompt={SECRET}%ff",
        SECRET,
        f"{SECRET}&prompt=consent",
        f"prompt=consent&&a={SECRET}",
        f"={SECRET}",
        f"two%20words={SECRET}",
        f"prompt=consent&prompt={SECRET}",
        f"state={SECRET}",
        f"scope={SECRET}",
        f"redirect%5Furi=https://evil.example/{SECRET}",
        f"prompt=consent&code_challenge_method={SECRET}",
    ],
)
def test_a_malformed_repeated_or_own_parameter_is_refused(text: str) -> None:
    """The problem names the option, and does not repeat the value."""
    [problem] = problems_of({"authorize_params": text})
    assert problem.startswith("--authorize-params: ")
    assert SECRET not in problem


def test_keys_can_have_the_form_of_a_key_file() -> None:
    """A credential of systemd can be a key file: its comments are no keys."""
    expected = (Secret("one"), Secret("two"), Secret("three"))
    assert parsing.keys("# sealing keys\none\n  # an old one:\ntwo, three\n") == expected
    assert parsing.keys("# sealing keys\rone\r\n# an old one:\rtwo three") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"redis://xots:{SECRET}@redis.example/0", True),
        (f"redis://:{SECRET}@redis.example", True),
        ("redis://xots@redis.example:6379/0", False),
        ("https://redis.example:443/a:b@c", False),
        ("C:D@E", False),
    ],
)
def test_a_password_in_a_url_is_found(text: str, expected: bool) -> None:
    """It stands between the user name and the host name."""
    assert parsing.holds_password(text) is expected


def test_only_loopback_addresses_count_as_loopback() -> None:
    """Every other address can be reached from other machines."""
    assert all(map(parsing.is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    others = ("0.0.0.0", "::", "192.0.2.1")  # noqa: S104 - no socket is bound to it
    assert not any(map(parsing.is_loopback, others))


def test_three_addresses_are_localhost_in_a_browser() -> None:
    """The other loopback addresses are not what the name means there."""
    assert all(map(parsing.is_localhost, ("127.0.0.1", "::1", "localhost")))
    others = ("127.0.0.2", "127.1.0.1", "0.0.0.0", "::")  # noqa: S104 - no socket is bound to it
    assert not any(map(parsing.is_localhost, others))


def test_a_readable_file_is_its_path(tmp_path: Path) -> None:
    """The parser opens the file, and leaves the content to its reader."""
    (tmp_path / "secret").write_text("content")
    assert parsing.readable_file(str(tmp_path / "secret")) == tmp_path / "secret"
