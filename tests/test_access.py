"""The decision on one request, where no test can make the request: from another machine."""

from __future__ import annotations

import pytest
from support.readers import basic, bearer, reader

from xots.access import Peer, Rules, Scope, Transport, identify
from xots.errors import AccessDenied, KeyRefused

READER = reader("owner", Scope.ADMIN)
RULES = Rules(readers={READER.digest: READER})


def peer(transport: Transport, address: str = "192.0.2.7") -> Peer:
    return Peer(transport=transport, uid=None, address=address)


@pytest.mark.safeguard(
    file="access.py",
    old="        if not peer.is_private:",
    new="        if False:",
    protects_from="a key that a network can read",
)
def test_http_basic_is_refused_on_a_network_without_tls() -> None:
    """The browser would send the key again with each request."""
    sent = [basic("owner")["Authorization"]]
    with pytest.raises(AccessDenied, match="in clear over the network"):
        identify(RULES, peer(Transport.TCP), sent, None)
    for private in (peer(Transport.TLS), peer(Transport.TCP, "127.0.0.1")):
        assert identify(RULES, private, sent, None).name == "owner"


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
def test_a_browser_is_asked_for_a_key_over_a_private_connection_only(transport: Transport) -> None:
    """It would send the key otherwise."""
    with pytest.raises(KeyRefused) as raised:
        identify(RULES, peer(transport), [], None)
    assert raised.value.may_use_basic == (transport is Transport.TLS)


@pytest.mark.safeguard(
    file="access.py",
    old=" and len(authorization) == 1",
    new="",
    protects_from="a request that a proxy and this server read differently",
)
def test_two_keys_in_one_request_are_refused() -> None:
    """Whichever of them is valid."""
    valid, wrong = bearer("owner")["Authorization"], "Bearer wrong"
    assert identify(RULES, peer(Transport.TLS), [valid], None).scopes == {Scope.ADMIN}
    for sent in ([valid, wrong], [wrong, valid], [valid, valid]):
        with pytest.raises(KeyRefused):
            identify(RULES, peer(Transport.TLS), sent, None)


def test_an_allowed_user_is_certain_whatever_key_it_has() -> None:
    """Both rules apply."""
    rules = Rules(readers=RULES.readers, allowed_users=(1000,))
    sent = [bearer("owner")["Authorization"]]
    known = Peer(transport=Transport.TCP, uid=1000, address="127.0.0.1")
    assert identify(rules, known, sent, None).name == "owner"
    with pytest.raises(KeyRefused):
        identify(rules, known, [], None)
    with pytest.raises(AccessDenied, match="allowed_users"):
        identify(rules, peer(Transport.TLS), sent, None)
