"""``xots revoke`` and ``xots logout`` through a running server. In tests/keeping, no
server runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.command_line import Ended
from support.thread_servers import ThreadServers

from xots import wiring
from xots.keeping.ending import EndOutcome, EndResult
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.server import Server

Xots = Callable[..., Ended]


def at(server: Server) -> tuple[str, str]:
    return "--port", str(server.port)


def test_revoke_ends_the_login_and_keeps_the_credentials(
    xots: Xots, connected: Server, servers: ThreadServers
) -> None:
    """It reports success. Afterwards the server serves no token."""
    ended = xots("revoke", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "revoked" in ended.out
    assert "the login was ended here" in xots("token", *at(connected)).reason()
    assert (
        json.loads(xots("status", "--json", *at(connected)).out)["client_id"] == DEFAULT_CLIENT_ID
    )


def test_a_pending_revocation_is_reported(
    xots: Xots, connected: Server, servers: ThreadServers, expected_log: Any
) -> None:
    """The server serves no token any more, but Xero has not confirmed. The command says so."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    servers.sandbox.add_fault("revocation:nth=1:503-html")
    ended = xots("revoke", *at(connected))
    assert ended.status == 0
    assert "xots repeats the request until Xero confirms it" in ended.out
    servers.sandbox.faults.clear()
    servers.log_in(connected)


def test_logout_ends_the_login(xots: Xots, connected: Server) -> None:
    """It reports success. Afterwards the server serves no token."""
    ended = xots("logout", *at(connected))
    assert (ended.status, ended.err) == (0, "")
    assert "logged out" in ended.out
    assert xots("token", *at(connected)).status == 1
    assert connected.keeper.account.client_secret is None


@pytest.mark.parametrize("command", ["revoke", "logout"])
def test_an_end_without_a_revocation_that_the_store_did_not_take_names_the_store(
    xots: Xots, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """No server runs, and the identity server revokes nothing: it has nothing to confirm."""

    async def end_login(*args: object, **options: object) -> dict[str, EndOutcome]:
        return {"default": EndOutcome(result=EndResult.PENDING, revokes=False)}

    monkeypatch.setattr(wiring, "end_login", end_login)
    ended = xots(command, "--port", "1")
    assert ended.status == 1
    assert "the token store has not taken that yet; run this command again later" in ended.err
    assert "revocation" not in ended.err
