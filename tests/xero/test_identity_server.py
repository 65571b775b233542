"""The settings of an identity server: is it Xero?"""

from __future__ import annotations

import pytest

from xots.xero.identity_server import IdentityServer

PATH = "/identity/connect/authorize"


@pytest.mark.parametrize(
    ("authorize_url", "is_xero"),
    [
        (f"https://login.xero.com{PATH}", True),
        (f"http://localhost:5002{PATH}", True),
        (f"http://127.0.0.1:5002{PATH}", True),
        (f"http://[::1]:5002{PATH}", True),
        (f"https://login.example{PATH}", False),
        (f"https://login.xero.com.example{PATH}", False),
        (f"https://login.xero.com@login.example{PATH}", False),
        (f"http://localhost.example{PATH}", False),
        ("https://login.xero.com/authorize", False),
        ("http://localhost:5002/connect/authorize", False),
        ("", False),
    ],
)
def test_xero_is_known_by_host_and_path(authorize_url: str, is_xero: bool) -> None:
    """On this machine, the simulated Xero stands in for it. Other products use the same path."""
    assert IdentityServer(authorize_url=authorize_url).is_xero is is_xero
