"""The declarations: their defaults, their names in each source, and the values derived from them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from xots.settings import declared, load


def test_the_defaults_are_those_of_the_first_server() -> None:
    """Port, address, redirect, scopes and lifetime of its options, and 50 days is what the last one means."""
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


def test_the_identity_server_is_xeros_unless_set() -> None:
    """The addresses that Xero publishes are the defaults; nothing is discovered."""
    endpoints = load({}, {}).endpoints
    assert endpoints.authorize_url == "https://login.xero.com/identity/connect/authorize"
    assert endpoints.token_url == "https://identity.xero.com/connect/token"
    assert endpoints.revoke_url == "https://identity.xero.com/connect/revocation"
    assert endpoints.connections_url == "https://api.xero.com/connections"


def test_a_port_without_a_redirect_moves_the_redirect() -> None:
    """The default redirect follows the port; one that is set stays."""
    assert load({"port": "6001"}, {}).redirect_uri == "http://localhost:6001/code"
    both = load({"port": "6001", "redirect": "http://localhost:7001/code"}, {})
    assert both.redirect_uri == "http://localhost:7001/code"


def test_every_setting_has_a_help_and_a_parser_that_takes_its_default() -> None:
    """What is declared once is complete: no setting is without words, and no default would be refused."""
    for setting in declared():
        assert setting.help
        default: Any = setting.default
        if default is None:
            continue
        text = " ".join(default) if isinstance(default, tuple) else str(default)
        assert setting.parse(text) == default
