"""The list of connections, and the deletion of one: requests, responses, and real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.clock import SystemClock
from xots.errors import UpstreamFailed, UpstreamThrottled
from xots.lifecycle.outcomes import Failure
from xots.sandbox import DEFAULT_CLIENT_ID, Sandbox, SandboxOptions
from xots.secret import Secret
from xots.xero.connections import (
    Connection,
    Listed,
    disconnect_request,
    read_connections,
    read_disconnect_response,
)
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Response

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
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


def listed(content: object, status: int = 200, **headers: str) -> Listed:
    """The list in this response; an underscore in a header's name stands for a hyphen."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_connections(Response(status, named, body), NOW)


XEROS = {
    "id": "7cb59f93",
    "authEventId": "e-1",
    "tenantId": "t",
    "tenantType": "PRACTICE",
    "tenantName": "Acme",
    "createdDateUtc": "2019-12-07T18:46:19.5165400",
}


def test_connections_are_read_as_xero_sends_them() -> None:
    """A bare array; fields that xots does not know are kept for those who ask for the list."""
    assert listed([XEROS]) == Listed(
        (
            Connection(
                tenant_id="t",
                id="7cb59f93",
                tenant_type="PRACTICE",
                tenant_name="Acme",
                auth_event_id="e-1",
                fields=XEROS,
            ),
        ),
        skipped=0,
    )
    assert listed([]) == Listed((), skipped=0)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_does_not_matter_in_a_list(mark: bytes) -> None:
    """RFC 8259 section 8.1 lets a reader ignore it."""
    assert listed(mark + json.dumps([XEROS]).encode()) == listed([XEROS])


FIELDS = {
    "id": "id",
    "authEventId": "auth_event_id",
    "tenantType": "tenant_type",
    "tenantName": "tenant_name",
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["missing", None, 5, True, 1.5, [], ["x"], {}, {"x": 1}])
def test_each_field_but_the_tenant_id_may_be_missing_or_of_a_wrong_type(
    field: str, value: object
) -> None:
    """It counts as missing then, and costs neither the entry nor the others."""
    entry = {name: content for name, content in XEROS.items() if name != field}
    if value != "missing":
        entry[field] = value  # type: ignore[assignment]
    [connection] = listed([entry]).connections
    [full] = listed([XEROS]).connections
    assert connection == replace(full, **{FIELDS[field]: None, "fields": entry})  # type: ignore[arg-type]


STRANGE = ["", "a b", "a\nb", "\x1b[2J", "\x9b", "\u202e", "é", "a\n", "x" * 129]


@pytest.mark.parametrize(("field", "value"), [(f, v) for f in FIELDS for v in STRANGE], ids=ascii)
def test_a_strange_text_in_a_field_that_is_kept_counts_as_missing(field: str, value: str) -> None:
    """A name may be any text: it is kept only in part, and shown as safe text."""
    [connection] = listed([XEROS | {field: value}]).connections
    assert getattr(connection, FIELDS[field]) == (value if field == "tenantName" else None)


@pytest.mark.parametrize("connection_id", ["..", "a/b", "a?b", "a%2fb", "x" * 65])
def test_an_id_that_could_name_another_resource_is_not_read(connection_id: str) -> None:
    """Its connection cannot be deleted."""
    [connection] = listed([XEROS | {"id": connection_id}]).connections
    assert connection.id is None


@pytest.mark.parametrize(
    "entry",
    [
        *({"id": "1", "tenantId": value} for value in (*STRANGE, None, 5, True, ["t"], {"t": 1})),
        {},
        {"id": "1", "TenantId": "t"},
        None,
        "t",
        5,
        ["t"],
        [XEROS],
    ],
    ids=ascii,
)
@pytest.mark.safeguard(
    file="xero/connections.py",
    old='re.compile(r"[!-~]{1,128}")',
    new='re.compile(r"(?s).*")',
    protects_from="an id in the record that forges a line of the log or drives a terminal",
)
def test_an_entry_without_a_valid_tenant_id_is_skipped_and_counted(entry: object) -> None:
    """The id would be kept in the record, and shown. The other entries are read."""
    assert listed([entry, XEROS, entry]) == Listed(listed([XEROS]).connections, skipped=2)


@pytest.mark.parametrize(
    "entry",
    [
        b'{"tenantId":"t","tenantName":"\xff"}',
        b'{"tenantId":"t","x":1e999}',
        b'{"tenantId":"t","x":' + b"9" * 5000 + b"}",
        b'{"tenantId":"t","x":' + b"[" * 30 + b"]" * 30 + b"}",
        b'{"tenantId":"t","x":' + b'{"a":' * 300 + b"1" + b"}" * 301,
    ],
    ids=["no text", "a large number", "a long number", "nested arrays", "nested objects"],
)
def test_an_entry_that_cannot_be_written_as_json_again_is_skipped(entry: bytes) -> None:
    """Those who ask for the list would receive an error instead of it."""
    found = listed(b"[" + entry + b"," + json.dumps(XEROS).encode() + b"]")
    assert found == Listed(listed([XEROS]).connections, skipped=1)
    json.dumps([connection.fields for connection in found.connections], allow_nan=False)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b'{"connections": []}', b"null", b'"x"', b"<html>", b"[", b"[1,]", b"[NaN]"),
        *(b"\xff", b'["\\ud800"]', b"[" * 9999, b"\xff\xfe[\0]\0"),
    ],
    ids=ascii,
)
def test_a_body_that_is_no_array_is_refused(body: bytes) -> None:
    """Neither is it read as a login without organisations. The message does not repeat it."""
    with pytest.raises(UpstreamFailed, match="is not a list of connections"):
        listed(body)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_another_error(content: bytes) -> None:
    """Each body is a list or a failure."""
    for body in (content, b"[" + content + b"]", b'[{"tenantId":"' + content + b'"}]'):
        with suppress(UpstreamFailed):
            listed(body)


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (401, UpstreamFailed, "status 401"),
        (302, UpstreamFailed, "status 302, a redirect, which is not followed"),
        (204, UpstreamFailed, "status 204"),
        (429, UpstreamThrottled, "status 429"),
        (503, UpstreamFailed, "status 503"),
    ],
)
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0", 0),
        ("Mon, 23 Nov 2026 12:01:00 GMT", 60),
        ("soon", None),
        ("9" * 5000, 10**6),
    ],
    ids=["none", "7", "0", "a date", "no time", "digits"],
)
def test_another_status_is_a_failure_with_the_time_to_wait(
    status: int, kind: type, told: str, header: str | None, seconds: float | None
) -> None:
    """RFC 9110 section 10.2.3: each status may have a Retry-After."""
    with pytest.raises(UpstreamFailed, match=f"responded with {told}$") as caught:
        listed([XEROS], status, **({"Retry_After": header} if header else {}))
    assert type(caught.value) is kind
    assert caught.value.retry_after_seconds == seconds
