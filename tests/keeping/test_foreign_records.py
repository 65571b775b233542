"""A record that another process wrote with other settings: its tokens are neither served nor
sent."""

from __future__ import annotations

from typing import Any

import pytest
from support.bench import Bench

from xots.errors import TokenUnavailable, UpstreamFailed
from xots.lifecycle.policy import Grant, Policy
from xots.sandbox import Client
from xots.secret import Secret
from xots.xero.protocol import Credentials

CLIENT = Policy(grant=Grant.CLIENT_CREDENTIALS)
OWN, OTHER = "CAFE", "BABE"


@pytest.fixture
def custom(bench: Bench) -> Bench:
    """Two custom connections are registered at the simulated Xero."""
    for client_id in (OWN, OTHER):
        bench.sandbox.identity.register(
            Client(client_id, "secret", (), custom_connection_tenant_id="tenant")
        )
    return bench


def credentials(client_id: str) -> Credentials:
    return Credentials(client_id=client_id, client_secret=Secret("secret"))


async def client_keeper(bench: Bench, client_id: str = OWN) -> Any:
    """Return a keeper whose client gets tokens by itself."""
    return await bench.keeper(
        policy=CLIENT, configured=credentials(client_id), scopes=("accounting.contacts",)
    )


async def refuses(keeper: Any) -> None:
    """Check that a keeper serves nothing of the record, and says why."""
    await keeper.follow()
    with pytest.raises(TokenUnavailable, match="another identity server, client or grant"):
        await keeper.token()
    assert not keeper.can_serve


@pytest.mark.safeguard(
    file="keeping/serving.py",
    old="        if self._ends_running or self._context.is_foreign:\n",
    new="        if self._ends_running:\n",
    protects_from="a token of another client or identity server for programs of this one",
)
async def test_tokens_of_another_identity_server_are_not_served(bench: Bench) -> None:
    """Two processes with different settings started before the login."""
    other = await bench.keeper(xero=bench.client(token_url="http://127.0.0.1:1/token"))
    await bench.logged_in()
    await refuses(other)
    with pytest.raises((UpstreamFailed, TokenUnavailable)):
        await other.connections()


async def test_a_login_and_a_client_do_not_share_their_tokens(custom: Bench) -> None:
    """Neither serves what the other got, and the client does not write into the login."""
    login = await custom.keeper()
    client = await client_keeper(custom)
    await client.token()
    await refuses(login)
    login = await custom.logged_in()
    await refuses(client)
    await client.maintain()
    assert custom.record().current == login.account.current


async def test_two_clients_do_not_share_their_tokens(custom: Bench) -> None:
    """Each may be of another organisation."""
    second = await client_keeper(custom, OTHER)
    first = await client_keeper(custom)
    await first.token()
    await refuses(second)
    assert custom.record().client_id == OWN
