"""The control endpoints that only the sandbox has."""

from __future__ import annotations

import asyncio

import pytest
from support.sandbox_caller import START, Caller

from xots.sandbox import Sandbox, SiblingMode, fingerprint

PATHS = ["clock", "switches", "faults", "faults/1", "release", "log", "forget"]


async def test_the_clock_is_set_and_advanced(caller: Caller, sandbox: Sandbox) -> None:
    """To a time with a zone, or by seconds."""
    assert (await caller.control("GET", "clock")).json == {
        "now": START.isoformat(),
        "offset_seconds": 0,
    }
    answer = await caller.control("POST", "clock", {"now": "2027-01-01T00:00:00Z"})
    assert answer.json["now"] == "2027-01-01T00:00:00+00:00"
    answer = await caller.control("POST", "clock", {"advance": -1.5})
    assert answer.json["now"] == "2026-12-31T23:59:58.500000+00:00"
    assert sandbox.clock().isoformat() == answer.json["now"]


async def test_switches_are_read_and_set_one_by_one(caller: Caller, sandbox: Sandbox) -> None:
    """What isn't named stays as it is."""
    before = (await caller.control("GET", "switches")).json
    assert before["sibling_mode"] == "all-valid"
    answer = await caller.control(
        "POST", "switches", {"sibling_mode": "same-response", "grace_seconds": 60}
    )
    assert answer.json == before | {"sibling_mode": "same-response", "grace_seconds": 60}
    assert sandbox.identity.switches.sibling_mode is SiblingMode.SAME_RESPONSE


async def test_faults_are_added_listed_and_removed(caller: Caller, sandbox: Sandbox) -> None:
    """By id, or all at once."""
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
    """For a sandbox that runs in another process."""
    sandbox.add_fault("refresh:every:hold-before")
    asking = [asyncio.create_task(caller.refresh(sandbox.log_in().refresh_token)) for _ in range(3)]
    await sandbox.held(3)
    assert (await caller.control("GET", "release")).json == {"held": 3}
    assert (await caller.control("POST", "release", {"count": 1})).json == {
        "released": 1,
        "held": 2,
    }
    assert (await caller.control("POST", "release")).json == {"released": 2, "held": 0}
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3


async def test_the_log_is_read_and_emptied(caller: Caller, sandbox: Sandbox) -> None:
    """With everything that a test in another process needs."""
    tokens = sandbox.log_in()
    answer = await caller.refresh(tokens.refresh_token)
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
        "issued": fingerprint(answer.json["refresh_token"]),
        "fault": None,
    }
    assert (await caller.control("DELETE", "log")).status == 204
    assert sandbox.log == []


async def test_every_consent_can_be_forgotten(caller: Caller, sandbox: Sandbox) -> None:
    """As if Xero had lost them."""
    token = sandbox.log_in().refresh_token
    assert (await caller.control("POST", "forget", {"client_id": "nobody"})).json == {"ended": 0}
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
        ("faults", {"rule": "refresh:every:explode"}),
        ("faults", {}),
        ("release", {"count": -1}),
        ("release", {"count": "all"}),
        ("forget", {"user": "x"}),
    ],
)
async def test_a_bad_request_is_400_and_changes_nothing(
    caller: Caller, sandbox: Sandbox, path: str, content: object
) -> None:
    """With a sentence that says what is wrong."""
    before = sandbox.identity.switches, sandbox.clock(), sandbox.faults.rules
    answer = await caller.control("POST", path, content)
    assert answer.status == 400
    assert answer.json["error"]
    assert (sandbox.identity.switches, sandbox.clock(), sandbox.faults.rules) == before


async def test_a_body_that_is_not_json_is_400(caller: Caller) -> None:
    """Never a server error."""
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
    """Whatever a page of another site can send carries one of these."""
    assert (await caller.send(method, f"/sandbox/{path}", headers=headers)).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "localhost", "localhost:1", "127.0.0.1.evil.example:{port}"]
)
async def test_a_foreign_host_name_cannot_drive_the_sandbox(
    caller: Caller, sandbox: Sandbox, host: str
) -> None:
    """A name that was made to point here is refused; loopback's own names with the port are not."""
    for path in PATHS:
        answer = await caller.send("POST", f"/sandbox/{path}", host=host.format(port=sandbox.port))
        assert answer.status == 421
    for good in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert (
            await caller.send("GET", "/sandbox/clock", host=f"{good}:{sandbox.port}")
        ).status == 200


async def test_an_address_bar_may_read_the_sandbox(caller: Caller) -> None:
    """A developer looks at the log in a browser."""
    assert (
        await caller.send("GET", "/sandbox/log", headers={"Sec-Fetch-Site": "none"})
    ).status == 200
