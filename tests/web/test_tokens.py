"""``/token``: the token of each caller, on a clock that the tests set, in good times and bad."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from xots.sandbox import DEFAULT_CLIENT_SECRET, Outcome, Sandbox, SiblingMode
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"
REFUSED_AT_TOKEN = r"WARNING xots\.web: GET /token: "


def expiry(token: str) -> datetime:
    """Return the expiry of an access token as Xero wrote it: its ``exp`` claim."""
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return datetime.fromtimestamp(claims["exp"], UTC)


def live_for(sandbox: Sandbox, seconds: int) -> None:
    """Give the access tokens that Xero issues from now on this lifetime."""
    sandbox.identity.switches = replace(
        sandbox.identity.switches, access_token_life_seconds=seconds
    )


def issued(sandbox: Sandbox) -> list[Outcome]:
    return [one.outcome for one in sandbox.refreshes()]


# ---------- the response


async def test_the_token_is_json_with_all_that_a_program_needs(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """The token, its type, its expiry in two forms, its scopes and its tenant."""
    response = await get(f"{logged_in.url}/token")
    assert response.status == 200
    assert response.headers["Content-Type"].split(";")[0] == "application/json"
    content = response.json
    assert content.keys() == {
        "accessToken",
        "tokenType",
        "expiresAt",
        "expiresIn",
        "scopes",
        "tenantId",
    }
    assert content["tokenType"] == "Bearer"
    assert datetime.fromisoformat(content["expiresAt"]) == expiry(content["accessToken"])
    assert content["expiresIn"] == XERO_LIFE
    assert content["scopes"] == [
        "offline_access",
        "accounting.transactions",
        "accounting.reports.read",
    ]
    assert content["tenantId"] in sandbox.world.accounting.organisations
    clock.advance(100.5)
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == XERO_LIFE - 101


async def test_the_response_in_plain_text_is_the_bare_token(brought_to: Any, get: Any) -> None:
    """A shell can use it as it is. A program that names no media type receives JSON."""
    server = await brought_to("connected")
    token = (await get(f"{server.url}/token")).json["accessToken"]
    response = await get(f"{server.url}/token", Accept="text/plain")
    assert (response.status, response.text.rstrip("\n")) == (200, token)
    assert response.headers["Content-Type"].split(";")[0] == "text/plain"
    assert response.headers["Cache-Control"] == "no-store"
    for accept in ("*/*", "application/json", "application/json, text/plain", "text/plain;q=0"):
        assert (await get(f"{server.url}/token", Accept=accept)).json["accessToken"] == token


async def test_an_error_is_never_plain_text(brought_to: Any, get: Any) -> None:
    """So a shell does not take the text of an error for a token."""
    server = await brought_to("credentials")
    response = await get(f"{server.url}/token", Accept="text/plain")
    assert response.status == 401
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"


async def test_the_token_is_neither_cached_nor_readable_for_another_origin(
    logged_in: Server, get: Any, expected_log: Any
) -> None:
    """No cache keeps it, and no CORS header permits a page's script to read it."""
    expected_log(r"WARNING xots\.web: GET /token: refused with status 403: ")
    for origin, status in (({}, 200), ({"Origin": "http://evil.example"}, 403)):
        response = await get(f"{logged_in.url}/token", **origin)
        assert response.status == status
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_xeros_api_accepts_the_token(logged_in: Server, sandbox: Sandbox, get: Any) -> None:
    """With the tenant id beside it, the token opens the accounting API."""
    content = (await get(f"{logged_in.url}/token")).json
    headers = {
        "Authorization": f"Bearer {content['accessToken']}",
        "xero_tenant_id": content["tenantId"],
    }
    response = await get(f"{sandbox.api_url}/Invoices", **headers)
    assert response.status == 200
    assert response.json["Invoices"]


@pytest.mark.parametrize("with_credentials", [False, True])
async def test_before_a_login_the_response_says_where_to_log_in(
    new_server: NewServer, credentials: Any, get: Any, expected_log: Any, with_credentials: bool
) -> None:
    """401 with a challenge, and a problem type that differs from that of a wrong key."""
    server = await new_server(**(credentials if with_credentials else {}))
    response = await get(f"{server.url}/token")
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    problem = response.json
    assert problem["type"].endswith("not-logged-in" if with_credentials else "no-credentials")
    assert problem["status"] == 401
    assert problem["title"]
    assert f"http://localhost:{server.port}/" in problem["detail"]


# ---------- min_ttl


async def test_min_ttl_refreshes_a_token_that_expires_too_soon(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """A caller with a long job receives a fresh token; a shorter demand costs no refresh."""
    clock.advance(XERO_LIFE - 400)
    assert (await get(f"{logged_in.url}/token?min_ttl=400")).json["expiresIn"] == 400
    assert issued(sandbox) == []
    content = (await get(f"{logged_in.url}/token?min_ttl=401")).json
    assert content["expiresIn"] == XERO_LIFE
    assert expiry(content["accessToken"]) - clock.now() == timedelta(seconds=XERO_LIFE)
    assert issued(sandbox) == ["issued"]


async def test_a_min_ttl_below_the_promise_changes_nothing(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """``min_ttl=0`` still returns a token that lives for the promised minute."""
    clock.advance(XERO_LIFE - 59)
    assert (await get(f"{logged_in.url}/token?min_ttl=0")).json["expiresIn"] == XERO_LIFE
    assert issued(sandbox) == ["issued"]


async def test_a_min_ttl_beyond_the_lifetime_of_a_token_is_capped(
    logged_in: Server, sandbox: Sandbox, get: Any
) -> None:
    """No caller can cause a refresh of a token that was just issued."""
    for _ in range(5):
        assert (await get(f"{logged_in.url}/token?min_ttl=999999")).status == 200
    assert issued(sandbox) == []


async def test_a_min_ttl_that_xero_cannot_fulfil_is_503_for_that_caller_only(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """While Xero fails, the other callers receive the token that is left."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE - 400)
    refused = await get(f"{logged_in.url}/token?min_ttl=500")
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == 400


@pytest.mark.parametrize(
    "parameters",
    [
        "min_ttl=",
        "min_ttl=abc",
        "min_ttl=-1",
        "min_ttl=1.5",
        "min_ttl=1e3",
        "min_ttl=60&min_ttl=60",
        "min_ttl=99999999999999999999",
        "min_ttl=%D9%A3",
        "min_ttl=%FF",
        "min_ttl=0x10",
        "min_ttl=1_0",
    ],
)
async def test_a_bad_min_ttl_is_refused(
    logged_in: Server, get: Any, expected_log: Any, parameters: str
) -> None:
    """Anything but one whole number of seconds in plain digits is 400 without a token."""
    expected_log(REFUSED_AT_TOKEN)
    response = await get(f"{logged_in.url}/token?{parameters}")
    assert response.status == 400
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert b"eyJ" not in response.body


# ---------- rotation


async def test_a_tick_refreshes_before_the_token_expires(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """Five minutes before and not sooner, so that no caller waits for Xero."""
    first = (await get(f"{logged_in.url}/token")).json["accessToken"]
    clock.advance(XERO_LIFE - 301)
    await logged_in.rotation.tick()
    assert (await get(f"{logged_in.url}/token")).json["accessToken"] == first
    clock.advance(1)
    await logged_in.rotation.tick()
    content = (await get(f"{logged_in.url}/token")).json
    assert content["accessToken"] != first
    assert content["expiresIn"] == XERO_LIFE
    assert issued(sandbox) == ["issued"]


async def test_the_refresh_token_is_rotated_at_refreshmins_although_the_access_token_is_valid(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, clock: Any, log_in: LogIn
) -> None:
    """A refresh token does not reach an age above its configured lifetime."""
    server = await new_server(**credentials, refreshmins=10)
    await log_in(server)
    clock.advance(10 * 60 - 1)
    await server.rotation.tick()
    assert issued(sandbox) == []
    clock.advance(1)
    await server.rotation.tick()
    assert issued(sandbox) == ["issued"]


async def test_forty_rotations_of_short_tokens_never_fail_a_caller_and_cost_one_refresh_each(
    server: Server, sandbox: Sandbox, clock: Any, log_in: LogIn, get: Any
) -> None:
    """Callers of 90-second tokens always receive one with a quarter of its lifetime left.

    The chain at Xero is unbroken: each refresh spends the token that the last one issued.
    """
    live_for(sandbox, 90)
    await log_in(server)
    served: list[str] = []

    async def poll() -> None:
        response = await get(f"{server.url}/token")
        assert response.status == 200
        content = response.json
        token = content["accessToken"]
        left = (expiry(token) - sandbox.clock()).total_seconds()
        assert left >= 90 / 4
        assert content["expiresIn"] == int(left)
        if token not in served:
            served.append(token)

    await poll()
    while len(sandbox.refreshes()) < 40:
        clock.advance(7)
        await poll()
        clock.advance(4)
        await server.rotation.tick()
        await poll()
    refreshes = sandbox.refreshes()
    assert {one.outcome for one in refreshes} == {Outcome.ISSUED}
    assert len(served) == 1 + len(refreshes)
    assert all(later.token == earlier.issued for earlier, later in pairwise(refreshes))
    apart = [later.at - earlier.at for earlier, later in pairwise(refreshes)]
    assert min(apart) >= timedelta(seconds=45)  # so none was needless either


async def test_callers_alone_keep_a_login_alive_without_a_tick(
    server: Server, sandbox: Sandbox, clock: Any, log_in: LogIn, get: Any
) -> None:
    """If no tick comes, as on a suspended machine, the next caller waits for the refresh."""
    live_for(sandbox, 90)
    await log_in(server)
    for _ in range(5):
        clock.advance(3600)
        response = await get(f"{server.url}/token")
        assert response.status == 200
        assert expiry(response.json["accessToken"]) > sandbox.clock()
    assert issued(sandbox) == ["issued"] * 5


async def test_64_callers_at_the_instant_of_expiry_cost_one_refresh(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """All wait for the same refresh and receive the same token."""
    sandbox.add_fault("refresh:every:hold-before")
    clock.advance(XERO_LIFE)
    callers = [asyncio.create_task(get(f"{logged_in.url}/token")) for _ in range(64)]
    await sandbox.held()
    for _ in range(5):  # by now all of their requests have arrived
        assert (await get(f"{logged_in.url}/livez")).status == 503
    assert not any(caller.done() for caller in callers)
    sandbox.release()
    responses = await asyncio.gather(*callers)
    assert {response.status for response in responses} == {200}
    assert len({response.json["accessToken"] for response in responses}) == 1
    assert expiry(responses[0].json["accessToken"]) - clock.now() == timedelta(seconds=XERO_LIFE)
    assert issued(sandbox) == ["issued"]


async def test_a_caller_that_disconnects_does_not_break_the_refresh(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """The issued token is kept, and the next caller receives it."""
    sandbox.add_fault("refresh:nth=1:hold-after")
    clock.advance(XERO_LIFE)
    _, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    writer.write(f"GET /token HTTP/1.1\r\nHost: 127.0.0.1:{logged_in.port}\r\n\r\n".encode())
    await sandbox.held()
    writer.close()
    await writer.wait_closed()
    waiting = asyncio.create_task(get(f"{logged_in.url}/token"))
    sandbox.release()
    assert (await waiting).status == 200
    assert issued(sandbox) == ["issued"]


async def test_no_caller_waits_for_a_refresh_ahead(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """A slow Xero delays no caller as long as the old token keeps the promise."""
    sandbox.add_fault("refresh:every:hold-before")
    clock.advance(XERO_LIFE - 300)
    ticking = asyncio.create_task(logged_in.rotation.tick())
    await sandbox.held()
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == 300
    sandbox.release()
    await ticking
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == XERO_LIFE


# ---------- bad times


@pytest.mark.parametrize(
    "fault",
    [
        "500-html",
        "503-json",
        "502-empty",
        "lost",
        "reset",
        "truncated",
        "not-json",
        "403-html",
        "429",
        "429=20",
        "down",
    ],
)
async def test_while_xero_fails_the_old_token_is_returned_until_it_expires(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any, fault: str
) -> None:
    """Then 503 with Retry-After; and 200 once Xero is back and that time is over."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    token = (await get(f"{logged_in.url}/token")).json["accessToken"]
    ends_at = expiry(token)
    if fault == "down":
        sandbox.options = replace(sandbox.options, port=sandbox.port)
        await sandbox.stop()
    else:
        sandbox.add_fault(f"refresh:every:{fault}")
    for left in (300, 240, 120, 61, 59, 30, 10):
        clock.advance((ends_at - clock.now()).total_seconds() - left)
        await logged_in.rotation.tick()
        response = await get(f"{logged_in.url}/token")
        assert (response.status, response.json["accessToken"]) == (200, token)
        assert response.json["expiresIn"] == left
        assert (await get(f"{logged_in.url}/livez")).status == 200
    clock.advance((ends_at - clock.now()).total_seconds() + 1)
    refused = await get(f"{logged_in.url}/token")
    assert refused.status == 503
    assert refused.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert refused.json["type"].endswith("token-unavailable")
    assert refused.json["detail"]
    assert "WWW-Authenticate" not in refused.headers
    assert (await get(f"{logged_in.url}/livez")).status == 503
    if fault == "down":
        sandbox.start()
    sandbox.faults.clear()
    clock.advance(int(refused.headers["Retry-After"]))
    response = await get(f"{logged_in.url}/token")
    assert response.status == 200
    assert response.json["accessToken"] != token
    assert expiry(response.json["accessToken"]) > clock.now()
    assert (await get(f"{logged_in.url}/livez")).status == 200


@pytest.mark.parametrize("mode", SiblingMode)
@pytest.mark.parametrize("fault", ["lost", "truncated", "500-html-after", "not-json"])
async def test_after_a_lost_response_the_same_refresh_token_is_spent_again(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
    fault: str,
    mode: SiblingMode,
) -> None:
    """Within Xero's 30 minutes the retry succeeds in every sibling mode, as do later rotations."""
    expected_log(REFRESH_FAILED)
    sandbox.identity.switches = replace(sandbox.identity.switches, sibling_mode=mode)
    sandbox.add_fault(f"refresh:nth=1:{fault}")
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    assert issued(sandbox) == ["lost"]
    clock.advance(60)
    await logged_in.rotation.tick()
    lost, retried = sandbox.refreshes()
    assert retried.token == lost.token
    assert retried.outcome in (Outcome.ISSUED, Outcome.REPLAYED)
    for _ in range(3):
        clock.advance(XERO_LIFE - 300)
        await logged_in.rotation.tick()
        assert sandbox.refreshes()[-1].outcome == Outcome.ISSUED
        token = (await get(f"{logged_in.url}/token")).json["accessToken"]
        assert (expiry(token) - clock.now()).total_seconds() >= 60


async def test_a_lost_response_is_retried_several_times_within_the_grace_period(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """The waits are capped, so the login survives 25 minutes of lost responses."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:lost")
    clock.advance(XERO_LIFE - 300)
    for _ in range(25 * 4):
        await logged_in.rotation.tick()
        clock.advance(15)
    attempts = sandbox.refreshes()
    assert len(attempts) >= 5
    assert len({one.token for one in attempts}) == 1
    sandbox.faults.clear()
    for _ in range(8):
        await logged_in.rotation.tick()
        clock.advance(15)
    assert sandbox.refreshes()[-1].outcome == Outcome.ISSUED
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_xeros_retry_after_is_obeyed(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """After a 429 with 20 seconds, neither ticks nor callers cause a request any sooner."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    sandbox.add_fault("refresh:nth=1:429=20")
    clock.advance(XERO_LIFE)
    refused = await get(f"{logged_in.url}/token")
    assert refused.status == 503
    assert 20 <= int(refused.headers["Retry-After"]) <= 22
    for _ in range(4):
        clock.advance(4.9)
        await logged_in.rotation.tick()
        assert (await get(f"{logged_in.url}/token")).status == 503
    assert len(sandbox.refreshes()) == 1
    clock.advance(int(refused.headers["Retry-After"]) - 19)
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_callers_cause_no_storm_of_requests_while_xero_fails(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """One call a second for five minutes causes a few requests with back-off, not 300."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE)
    for _ in range(300):
        assert (await get(f"{logged_in.url}/token")).status == 503
        clock.advance(1)
    assert len(sandbox.refreshes()) < 60


async def test_a_refused_client_loses_nothing(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """With the old secret restored at Xero, refreshes succeed again. /status shows the reason."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    client = next(iter(sandbox.identity.clients.values()))
    sandbox.identity.register(replace(client, secret="changed-at-xero"))
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == 300
    assert "invalid_client" in (await get(f"{logged_in.url}/status")).json["reason"]
    clock.advance(301)
    refused = await get(f"{logged_in.url}/token")
    assert refused.status == 503
    sandbox.identity.register(replace(client, secret=DEFAULT_CLIENT_SECRET))
    clock.advance(int(refused.headers["Retry-After"]))
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_a_lost_consent_is_401_until_a_user_logs_in_again(
    logged_in: Server, sandbox: Sandbox, clock: Any, log_in: LogIn, get: Any, expected_log: Any
) -> None:
    """Xero receives no further request for a consent that it has refused."""
    expected_log(r"ERROR xots: default: the login is lost")
    sandbox.identity.forget()
    clock.advance(XERO_LIFE)
    response = await get(f"{logged_in.url}/token")
    assert response.status == 401
    assert response.json["type"].endswith("consent-lost")
    health = await get(f"{logged_in.url}/livez")
    assert (health.status, health.json["state"]) == (503, "consent-lost")
    await logged_in.rotation.tick()
    assert len(sandbox.refreshes()) == 1  # no further request is made
    await log_in(logged_in)
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_the_access_token_of_a_lost_consent_is_returned_until_it_expires(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """Xero's access tokens stay valid when the refresh token is refused."""
    expected_log(r"ERROR xots: default: the login is lost")
    sandbox.identity.forget()
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    response = await get(f"{logged_in.url}/token")
    assert (response.status, response.json["expiresIn"]) == (200, 300)


@pytest.mark.parametrize(("age", "seconds"), [(60, 86400), (XERO_LIFE - 300, -86400)])
async def test_a_clock_that_steps_a_day_causes_one_refresh_and_no_expired_token(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
    age: int,
    seconds: int,
) -> None:
    """Xero's clock does not step. After the step there is one refresh, and its token is valid.

    A step back delays no refresh that is due by the elapsed time. It is reported.
    """
    if seconds < 0:
        expected_log(
            r"WARNING xots: default: this host's clock is at least 23 hours behind that of"
        )
    clock.advance(age)
    clock.step(seconds)
    sandbox.clock.advance(-seconds)
    for _ in range(3):
        await logged_in.rotation.tick()
        response = await get(f"{logged_in.url}/token")
        assert response.status == 200
        assert response.json["expiresIn"] == XERO_LIFE
        assert expiry(response.json["accessToken"]) - sandbox.clock() == timedelta(
            seconds=XERO_LIFE
        )
    assert issued(sandbox) == ["issued"]
