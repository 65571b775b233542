"""The declarations of the settings, and the values that follow from them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from xots.settings import Settings, declared, default_shown, load


def test_the_defaults_are_those_of_the_go_server() -> None:
    """Port, address, redirect, scopes, and a lifetime of 50 days for refresh tokens."""
    settings = load({}, {})
    assert settings.port == 5001
    assert settings.address == "127.0.0.1"
    assert settings.redirect_uri == "http://localhost:5001/code"
    assert settings.scopes == (
        "offline_access",
        "accounting.transactions",
        "accounting.reports.read",
    )
    assert settings.refreshmins == 72000
    assert settings.policy.refresh_lifetime == timedelta(days=50)
    assert settings.credentials is None
    assert settings.sources == {}


def test_the_default_identity_server_is_xero() -> None:
    """The defaults are the URLs that Xero publishes. None is discovered at run time."""
    endpoints = load({}, {}).identity_server
    assert endpoints.authorize_url == "https://login.xero.com/identity/connect/authorize"
    assert endpoints.token_url == "https://identity.xero.com/connect/token"
    assert endpoints.revoke_url == "https://identity.xero.com/connect/revocation"
    assert endpoints.connections_url == "https://api.xero.com/connections"


def test_the_default_redirect_follows_the_port() -> None:
    """A redirect that is set does not change with the port."""
    assert load({"port": "6001"}, {}).redirect_uri == "http://localhost:6001/code"
    both = load({"port": "6001", "redirect": "http://localhost:7001/code"}, {})
    assert both.redirect_uri == "http://localhost:7001/code"


def test_every_setting_has_a_help_and_its_parser_accepts_its_default() -> None:
    """A default written as text gives the same value again."""
    for setting in declared():
        assert setting.help
        default: Any = setting.default
        if default is None:
            continue
        text = " ".join(default) if isinstance(default, tuple) else str(default)
        assert setting.parse(text) == default


def test_a_setting_has_one_name_in_each_source() -> None:
    """Option and variable derive from the name of the field."""
    names = {setting.name: (setting.option, setting.variable) for setting in declared()}
    assert names["token_url"] == ("--token-url", "XOTS_TOKEN_URL")
    assert names["port"] == ("--port", "XOTS_PORT")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("port", "5001"),
        ("min_ttl", "60"),
        ("pkce", "true"),
        ("scopes", "offline_access, accounting.transactions, accounting.reports.read"),
        ("redirect", "http://localhost:5001/code"),
        ("client_id", None),
        ("key", None),
    ],
)
def test_a_default_is_shown_as_an_operator_writes_it(name: str, shown: str | None) -> None:
    """A setting without a default shows none."""
    [setting] = [setting for setting in declared() if setting.name == name]
    assert default_shown(setting) == shown


def test_the_repr_of_the_settings_hides_the_url_of_the_store() -> None:
    """It can hold the password of Redis."""
    assert "hunter2" not in repr(Settings(store="redis://xots:hunter2@redis.example"))
