"""The list of connections, and the deletion of one: requests, responses, and real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from xots.clock import SystemClock
from xots.errors import UpstreamFailed
from xots.lifecycle.outcomes import Failure
from xots.sandbox import DEFAULT_CLIENT_ID, Sandbox, SandboxOptions
from xots.secret import Secret
from xots.xero.connections import disconnect_request, read_connections, read_disconnect_response
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Response

CONNECTION = "7cb59f93-2964-421d-bb5e-a0f7a4572a44"


@pytest.fixture
async def xero() -> AsyncIterator[Sandbox]:
    """A simulated Xero on a free port, by the system's clock."""
    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        yield sandbox


@pytest.fixture
async def client(xero: Sandbox) -> AsyncIterator[XeroClient]:
    endpoints = IdentityServer(connections_url=xero.connections_url)
    client = XeroClient(endpoints, clock=SystemClock(), deadline_seconds=5)
    yield client
    client.close()


def connection_ids(xero: Sandbox) -> list[str]:
    app = xero.identity.app(DEFAULT_CLIENT_ID)
    return [one.connection_id for one in app.connections.values()] if app else []


@pytest.mark.parametrize(
    ("listed", "deleted"),
    [
        ("https://api.xero.com/connections", f"https://api.xero.com/connections/{CONNECTION}"),
        ("https://id.example/list/?tier=1", f"https://id.example/list/{CONNECTION}?tier=1"),
    ],
)
def test_the_id_follows_the_path_of_the_list(listed: str, deleted: str) -> None:
    """The access token is in the header only, and not in the representation."""
    request = disconnect_request(listed, Secret("a-token"), CONNECTION)
    assert (request.method, request.url, request.body) == ("DELETE", deleted, b"")
    assert request.headers["Authorization"] == "Bearer a-token"
    assert "a-token" not in repr(request)


@pytest.mark.safeguard(
    file="xero/connections.py",
    old="if valid_id(connection_id) is None:",
    new="if not connection_id:",
    protects_from="a DELETE to another resource, whose path a hostile list of connections names",
)
@pytest.mark.parametrize(
    "connection_id", ["", ".", "..", "a/b", "..%2fx", "a?b", "a#b", "a b", "a\n", "é", "x" * 65]
)
def test_an_id_that_could_name_another_resource_is_refused(connection_id: str) -> None:
    """It comes from outside, and would be sent with the user's access token."""
    with pytest.raises(ValueError, match="id of the connection"):
        disconnect_request("https://api.xero.com/connections", Secret("a"), connection_id)


@pytest.mark.parametrize("status", [200, 202, 301, 400, 401, 403, 429, 500, 503])
def test_only_204_and_404_mean_that_a_connection_is_gone(status: int) -> None:
    """Any other status is a failure, which names it."""
    assert read_disconnect_response(Response(204, {}, b"")) is None
    assert read_disconnect_response(Response(404, {}, b"{}")) is None
    failure = read_disconnect_response(Response(status, {}, b"secret"))
    assert isinstance(failure, Failure)
    assert f"{status}" in failure.detail
    assert "secret" not in failure.detail


async def test_a_connection_is_deleted_over_the_wire(client: XeroClient, xero: Sandbox) -> None:
    """A repetition succeeds too, and the other connections stay."""
    token = Secret(xero.log_in().access_token)
    first, *others = connection_ids(xero)
    assert await client.disconnect(token, first) is None
    assert await client.disconnect(token, first) is None
    assert connection_ids(xero) == others
    assert [(one.method, one.status) for one in xero.log] == [("DELETE", 204), ("DELETE", 404)]


@pytest.mark.parametrize("fault", ["503-html", "reset", "403-html", "lost"])
async def test_a_deletion_that_fails_is_not_repeated(
    client: XeroClient, xero: Sandbox, fault: str
) -> None:
    """Each call sends one request."""
    token = Secret(xero.log_in().access_token)
    xero.add_fault(f"connections:every:{fault}")
    first = connection_ids(xero)[0]
    assert isinstance(await client.disconnect(token, first), Failure)
    assert len(xero.log) == 1


async def test_a_strange_id_is_sent_nowhere(client: XeroClient, xero: Sandbox) -> None:
    """It is a failure, and no error."""
    token = Secret(xero.log_in().access_token)
    assert isinstance(await client.disconnect(token, "../connect/revocation"), Failure)
    assert xero.log == []


# ---------- the list


def test_connections_are_read_as_xero_sends_them() -> None:
    """A bare array; a name may be null, and unknown fields are ignored."""
    body = (
        b'[{"id": "1", "authEventId": "e", "tenantId": "t", "tenantType": "PRACTICE",'
        b' "tenantName": null, "new": 1}]'
    )
    (connection,) = read_connections(Response(200, {}, body))
    assert (connection.tenant_id, connection.tenant_name) == ("t", None)
    for bad in (
        Response(401, {}, body),
        Response(200, {}, b"{}"),
        Response(200, {}, b"<html>"),
        Response(200, {}, b"[{}]"),
    ):
        with pytest.raises(UpstreamFailed):
            read_connections(bad)


@pytest.mark.parametrize("field", ["id", "tenantId", "tenantType"])
@pytest.mark.parametrize(
    "value", ["", "a b", "a\nb", "\x1b[2J", "\x9b", "\u202e", "é", "a\n", "x" * 129], ids=ascii
)
@pytest.mark.safeguard(
    file="xero/connections.py",
    old='msgspec.Meta(pattern=r"\\A[!-~]{1,128}\\Z")',
    new='msgspec.Meta(pattern=r"")',
    protects_from="an id in the record that forges a line of the log or drives a terminal",
)
def test_a_strange_id_of_an_organisation_is_refused(field: str, value: str) -> None:
    """It would be kept in the record, and shown. The message does not repeat it."""
    content = [{"id": "1", "tenantId": "t", "tenantType": "ORGANISATION"} | {field: value}]
    with pytest.raises(UpstreamFailed, match="printable characters") as caught:
        read_connections(Response(200, {}, json.dumps(content).encode()))
    assert len(value) < 2 or value not in str(caught.value)


@pytest.mark.parametrize("body", [b"\xff", b'["\\ud800"]', b'[{"id":"\xed\xa0\x80"}]', b"[" * 9999])
def test_a_list_that_is_no_text_is_refused(body: bytes) -> None:
    """Bytes that are not UTF-8, lone surrogates and endless nesting raise the same error."""
    with pytest.raises(UpstreamFailed, match="not a list of connections"):
        read_connections(Response(200, {}, body))


def test_a_strange_name_of_an_organisation_is_accepted() -> None:
    """It is kept only in part, and shown as safe text, so it costs no login."""
    content = [{"id": "1", "tenantId": "t", "tenantName": "Acme\n\x1b[2J\u202e" * 100}]
    [connection] = read_connections(Response(200, {}, json.dumps(content).encode()))
    assert connection.tenant_id == "t"
