"""The control endpoints, which only the sandbox has."""

from __future__ import annotations

import asyncio

import pytest
from support.sandbox_caller import CUSTOM_CLIENT, START, Caller

from xots.sandbox import Sandbox, SiblingMode, fingerprint

PATHS = ["clock", "switches", "faults", "faults/1", "release", "log", "forget"]


async def test_the_clock_is_set_and_advanced(caller: Caller, sandbox: Sandbox) -> None:
    """The clock takes a time with a time zone, or seconds."""
    assert (await caller.control("GET", "clock")).json == {
        "now": START.isoformat(),
        "offset_seconds": 0,
    }
    response = await caller.control("POST", "clock", {"now": "2027-01-01T00:00:00Z"})
    assert response.json["now"] == "2027-01-01T00:00:00+00:00"
    response = await caller.control("POST", "clock", {"advance": -1.5})
    assert response.json["now"] == "2026-12-31T23:59:58.500000+00:00"
    assert sandbox.clock().isoformat() == response.json["now"]


async def test_switches_are_read_and_set_one_by_one(caller: Caller, sandbox: Sandbox) -> None:
    """The other switches stay the same."""
    before = (await caller.control("GET", "switches")).json
    assert before["sibling_mode"] == "all-valid"
    response = await caller.control(
        "POST", "switches", {"sibling_mode": "same-response", "grace_seconds": 60}
    )
    assert response.json == before | {"sibling_mode": "same-response", "grace_seconds": 60}
    assert sandbox.identity.switches.sibling_mode is SiblingMode.SAME_RESPONSE


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
async def test_custom_connections_are_deactivated_until_the_switch_is_set_back(
    caller: Caller, error: str
) -> None:
    """Xero documents no error for it. Access tokens and other clients are not affected."""
    form = {"grant_type": "client_credentials", "scope": "accounting.settings"}
    token = (await caller.token(CUSTOM_CLIENT, **form)).json["access_token"]
    switched = await caller.control("POST", "switches", {"custom_connections_refused": error})
    assert switched.json["custom_connections_refused"] == error
    refused = await caller.token(CUSTOM_CLIENT, **form)
    assert (refused.status, refused.json) == (400, {"error": error})
    assert (await caller.api("/connections", token)).status == 200
    assert (await caller.log_in()).status == 200
    await caller.control("POST", "switches", {"custom_connections_refused": None})
    assert (await caller.token(CUSTOM_CLIENT, **form)).status == 200


async def test_faults_are_added_listed_and_removed(caller: Caller, sandbox: Sandbox) -> None:
    """Rules are removed by id, or all at once."""
    added = await caller.control("POST", "faults", {"rule": "refresh:nth=1:lost"})
    assert (added.status, added.json) == (201, {"id": 1})
    await caller.control("POST", "faults", {"rule": "jwks:every:reset"})
    await caller.refresh(sandbox.log_in().refresh_token)
    assert (await caller.control("GET", "faults")).json == {
        "faults": [
            {"id": 1, "rule": "refresh:nth=1:lost", "calls": 1, "fired": 1},
            {"id": 2, "rule": "jwks:every:reset", "calls": 0, "fired": 0},
        ]
    }
    assert [(await caller.control("DELETE", "faults/1")).status for _ in range(2)] == [204, 404]
    assert (await caller.control("DELETE", "faults")).status == 204
    assert sandbox.faults.rules == ()


async def test_held_requests_are_released_over_http(caller: Caller, sandbox: Sandbox) -> None:
    """A test of another process can release them too."""
    sandbox.add_fault("refresh:every:hold-before")
    tasks = [asyncio.create_task(caller.refresh(sandbox.log_in().refresh_token)) for _ in range(3)]
    await sandbox.held(3)
    assert (await caller.control("GET", "release")).json == {"held": 3}
    assert (await caller.control("POST", "release", {"count": 1})).json == {
        "released": 1,
        "held": 2,
    }
    assert (await caller.control("POST", "release")).json == {"released": 2, "held": 0}
    assert [response.status for response in await asyncio.gather(*tasks)] == [200] * 3


async def test_the_log_is_read_and_emptied(caller: Caller, sandbox: Sandbox) -> None:
    """Each entry has all its fields, for a test in another process."""
    tokens = sandbox.log_in()
    response = await caller.refresh(tokens.refresh_token)
    [row] = (await caller.control("GET", "log")).json["log"]
    assert row == {
        "number": 1,
        "at": START.isoformat(),
        "endpoint": "refresh",
        "method": "POST",
        "path": "/connect/token",
        "outcome": "issued",
        "status": 200,
        "client_id": sandbox.options.clients[0].client_id,
        "grant_type": "refresh_token",
        "error": None,
        "reason": None,
        "token": fingerprint(tokens.refresh_token or ""),
        "issued": fingerprint(response.json["refresh_token"]),
        "fault": None,
    }
    assert (await caller.control("DELETE", "log")).status == 204
    assert sandbox.log == []


async def test_every_consent_can_be_forgotten(caller: Caller, sandbox: Sandbox) -> None:
    """Their refresh tokens are refused, as if Xero had lost the consents."""
    token = sandbox.log_in().refresh_token
    assert (await caller.control("POST", "forget", {"client_id": "unknown"})).json == {"ended": 0}
    assert (await caller.control("POST", "forget")).json == {"ended": 1}
    assert (await caller.refresh(token)).json == {"error": "invalid_grant"}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("clock", {"now": "yesterday"}),
        ("clock", {"now": "2026-11-01T00:00:00"}),
        ("clock", {"advance": "1"}),
        ("clock", {"advance": 1e300}),
        ("clock", {"later": 1}),
        ("clock", [1]),
        ("switches", {"sibling_mode": "some-valid"}),
        ("switches", {"grace_seconds": "60"}),
        ("switches", {"grace_seconds": -60}),
        ("switches", {"gracious": True}),
        ("switches", {"custom_connections_refused": "deactivated"}),
        ("faults", {"rule": "refresh:every:explode"}),
        ("faults", {}),
        ("release", {"count": -1}),
        ("release", {"count": "all"}),
        ("forget", {"user": "x"}),
    ],
)
async def test_a_bad_value_is_400_and_changes_nothing(
    caller: Caller, sandbox: Sandbox, path: str, content: object
) -> None:
    """The response has an error message."""
    before = sandbox.identity.switches, sandbox.clock(), sandbox.faults.rules
    response = await caller.control("POST", path, content)
    assert response.status == 400
    assert response.json["error"]
    assert (sandbox.identity.switches, sandbox.clock(), sandbox.faults.rules) == before


async def test_a_body_that_is_not_json_is_400(caller: Caller) -> None:
    """It is not a server error."""
    assert (await caller.send("POST", "/sandbox/clock", body=b"\xff{")).status == 400


BROWSERS = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", BROWSERS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_web_page_cannot_drive_the_sandbox(
    caller: Caller, path: str, headers: dict[str, str], method: str
) -> None:
    """Each request from a page of another site has one of these headers."""
    assert (await caller.send(method, f"/sandbox/{path}", headers=headers)).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "localhost", "localhost:1", "127.0.0.1.evil.example:{port}"]
)
async def test_a_foreign_host_name_cannot_drive_the_sandbox(
    caller: Caller, sandbox: Sandbox, host: str
) -> None:
    """Only the names of the loopback addresses, with the port, are accepted."""
    for path in PATHS:
        response = await caller.send(
            "POST", f"/sandbox/{path}", host=host.format(port=sandbox.port)
        )
        assert response.status == 421
    for good in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert (
            await caller.send("GET", "/sandbox/clock", host=f"{good}:{sandbox.port}")
        ).status == 200


async def test_a_user_can_open_the_log_in_a_browser(caller: Caller) -> None:
    """A typed address has no origin."""
    assert (
        await caller.send("GET", "/sandbox/log", headers={"Sec-Fetch-Site": "none"})
    ).status == 200
