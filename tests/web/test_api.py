"""What programs get from the server, on a clock that is set: tokens, health and status, in good times and bad."""

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

from xots.sandbox import DEFAULT_CLIENT_SECRET, Outcome, Sandbox, SiblingMode, fingerprint
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"
REFUSED_AT_TOKEN = r"WARNING xots\.web: GET /token: "
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def expiry(token: str) -> datetime:
    """The end of a token's life as Xero wrote it, its ``exp`` claim."""
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return datetime.fromtimestamp(claims["exp"], UTC)


def live_for(sandbox: Sandbox, seconds: int) -> None:
    """Let the access tokens that Xero issues from now on live so long."""
    sandbox.identity.switches = replace(
        sandbox.identity.switches, access_token_life_seconds=seconds
    )


def issued(sandbox: Sandbox) -> list[Outcome]:
    return [one.outcome for one in sandbox.refreshes()]


# ----------------------------------------------------------------------------------------- the answer


async def test_token_is_json_with_all_that_a_program_needs(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """The token, its type, its end in two forms, its scopes and the tenant, as the interface promises."""
    answer = await get(f"{logged_in.url}/token")
    assert answer.status == 200
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    content = answer.json
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


async def test_the_token_may_not_be_stored_nor_read_by_another_origin(
    logged_in: Server, get: Any
) -> None:
    """No cache keeps it, and no CORS header invites a page's script, whatever Origin asks."""
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = await get(f"{logged_in.url}/token", **origin)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_xeros_own_api_takes_the_token(logged_in: Server, sandbox: Sandbox, get: Any) -> None:
    """With the tenant id beside it, the token opens the accounting API."""
    content = (await get(f"{logged_in.url}/token")).json
    headers = {
        "Authorization": f"Bearer {content['accessToken']}",
        "xero_tenant_id": content["tenantId"],
    }
    answer = await get(f"{sandbox.api_url}/Invoices", **headers)
    assert answer.status == 200
    assert answer.json["Invoices"]


@pytest.mark.parametrize("with_credentials", [False, True])
async def test_before_a_login_programs_are_told_what_to_do(
    new_server: NewServer, credentials: Any, get: Any, expected_log: Any, with_credentials: bool
) -> None:
    """401 with a challenge, and a problem whose type tells this from a wrong key."""
    server = await new_server(**(credentials if with_credentials else {}))
    answer = await get(f"{server.url}/token")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = answer.json
    assert problem["type"].endswith("not-logged-in" if with_credentials else "no-credentials")
    assert problem["status"] == 401
    assert problem["title"]
    assert f"http://localhost:{server.port}/" in problem["detail"]


async def test_head_is_get_without_the_body(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """Status and headers are those of GET; no body follows (RFC 9110 section 9.3.2)."""
    expected_log.perhaps(r"WARNING xots\.web: ")
    for path in (
        "/token",
        "/livez",
        "/status",
        "/home",
        "/login",
        "/style.css",
        "/nowhere",
        "/code",
    ):
        got, head = (
            await send("GET", logged_in.url + path),
            await send("HEAD", logged_in.url + path),
        )
        assert head.body == b""
        assert head.status == got.status
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert head.headers.get("Content-Length") == got.headers.get("Content-Length")


# ---------------------------------------------------------------------------------------------- min_ttl


async def test_min_ttl_gets_a_longer_lived_token_when_the_one_there_is_too_short(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """A caller with a long job ahead is given what he asks for, and the others are not disturbed for it."""
    clock.advance(XERO_LIFE - 400)
    assert (await get(f"{logged_in.url}/token?min_ttl=400")).json["expiresIn"] == 400
    assert issued(sandbox) == []
    content = (await get(f"{logged_in.url}/token?min_ttl=401")).json
    assert content["expiresIn"] == XERO_LIFE
    assert expiry(content["accessToken"]) - clock.now() == timedelta(seconds=XERO_LIFE)
    assert issued(sandbox) == ["issued"]


async def test_min_ttl_below_the_promise_lowers_nothing(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """``min_ttl=0`` still gets the minute that everybody is promised."""
    clock.advance(XERO_LIFE - 59)
    assert (await get(f"{logged_in.url}/token?min_ttl=0")).json["expiresIn"] == XERO_LIFE
    assert issued(sandbox) == ["issued"]


async def test_a_min_ttl_beyond_any_tokens_life_is_capped(
    logged_in: Server, sandbox: Sandbox, get: Any
) -> None:
    """A greedy caller can't have a token that was just minted refreshed again."""
    for _ in range(5):
        assert (await get(f"{logged_in.url}/token?min_ttl=999999")).status == 200
    assert issued(sandbox) == []


async def test_a_min_ttl_that_cannot_be_had_is_503_and_costs_the_others_nothing(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """While Xero fails, who asks for more life than is left is told so; who asks for none gets what is left."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE - 400)
    refused = await get(f"{logged_in.url}/token?min_ttl=500")
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == 400


@pytest.mark.parametrize(
    "asked",
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
    logged_in: Server, get: Any, expected_log: Any, asked: str
) -> None:
    """Anything but one whole number of seconds in plain digits is 400, and no token comes with it."""
    expected_log(REFUSED_AT_TOKEN)
    answer = await get(f"{logged_in.url}/token?{asked}")
    assert answer.status == 400
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert b"eyJ" not in answer.body


# --------------------------------------------------------------------------------------------- rotation


async def test_a_tick_refreshes_before_the_token_ends(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """Five minutes before the end and not sooner, so that no caller has to wait for Xero."""
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


async def test_the_refresh_token_is_rotated_at_refreshmins_though_the_access_token_is_good(
    new_server: NewServer, credentials: Any, sandbox: Sandbox, clock: Any, log_in: LogIn
) -> None:
    """Whatever else happens, a refresh token does not get older than its set lifetime."""
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
    """With 90-second tokens, polled all along, each caller gets the promised quarter of a life, by the ``exp`` claim.

    The chain at Xero is unbroken: each refresh spends the token that the one before it issued.
    """
    live_for(sandbox, 90)
    await log_in(server)
    served: list[str] = []

    async def poll() -> None:
        answer = await get(f"{server.url}/token")
        assert answer.status == 200
        content = answer.json
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


async def test_callers_alone_keep_a_login_alive_without_any_tick(
    server: Server, sandbox: Sandbox, clock: Any, log_in: LogIn, get: Any
) -> None:
    """Should ticks fail to come, as on a machine that slept, the next caller waits for the refresh and is served."""
    live_for(sandbox, 90)
    await log_in(server)
    for _ in range(5):
        clock.advance(3600)
        answer = await get(f"{server.url}/token")
        assert answer.status == 200
        assert expiry(answer.json["accessToken"]) > sandbox.clock()
    assert issued(sandbox) == ["issued"] * 5


async def test_64_callers_at_the_instant_of_expiry_cost_one_refresh(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """All wait for the same refresh and get the same token."""
    sandbox.add_fault("refresh:every:hold-before")
    clock.advance(XERO_LIFE)
    callers = [asyncio.create_task(get(f"{logged_in.url}/token")) for _ in range(64)]
    await sandbox.held()
    for _ in range(5):  # by now all of them have asked
        assert (await get(f"{logged_in.url}/livez")).status == 503
    assert not any(caller.done() for caller in callers)
    sandbox.release()
    answers = await asyncio.gather(*callers)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["accessToken"] for answer in answers}) == 1
    assert expiry(answers[0].json["accessToken"]) - clock.now() == timedelta(seconds=XERO_LIFE)
    assert issued(sandbox) == ["issued"]


async def test_a_caller_who_hangs_up_does_not_break_the_refresh(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """The token that Xero issues for a caller who has gone is kept, and the next caller gets it."""
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


async def test_a_caller_waits_for_no_one_while_a_refresh_ahead_is_under_way(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any
) -> None:
    """A slow Xero delays nobody as long as the old token keeps the promise."""
    sandbox.add_fault("refresh:every:hold-before")
    clock.advance(XERO_LIFE - 300)
    ticking = asyncio.create_task(logged_in.rotation.tick())
    await sandbox.held()
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == 300
    sandbox.release()
    await ticking
    assert (await get(f"{logged_in.url}/token")).json["expiresIn"] == XERO_LIFE


# -------------------------------------------------------------------------------------------- bad times


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
async def test_while_xero_fails_the_old_token_is_served_to_its_end_and_all_is_well_after(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any, fault: str
) -> None:
    """Its last seconds are served; then 503 with Retry-After; and once Xero is back and that time is over, 200."""
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
        answer = await get(f"{logged_in.url}/token")
        assert (answer.status, answer.json["accessToken"]) == (200, token)
        assert answer.json["expiresIn"] == left
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
    answer = await get(f"{logged_in.url}/token")
    assert answer.status == 200
    assert answer.json["accessToken"] != token
    assert expiry(answer.json["accessToken"]) > clock.now()
    assert (await get(f"{logged_in.url}/livez")).status == 200


@pytest.mark.parametrize("mode", SiblingMode)
@pytest.mark.parametrize("fault", ["lost", "truncated", "500-html-after", "not-json"])
async def test_after_a_lost_answer_the_same_refresh_token_is_retried_and_the_chain_lives_on(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
    fault: str,
    mode: SiblingMode,
) -> None:
    """Within Xero's 30 minutes the retry succeeds, whatever Xero makes of siblings, and so do the next rotations."""
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


async def test_a_lost_answer_is_retried_several_times_within_the_grace(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """If the answers stay away for 25 minutes, the login outlives it, since the waits are capped."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:lost")
    clock.advance(XERO_LIFE - 300)
    for _ in range(25 * 4):
        await logged_in.rotation.tick()
        clock.advance(15)
    tries = sandbox.refreshes()
    assert len(tries) >= 5
    assert len({one.token for one in tries}) == 1
    sandbox.faults.clear()
    for _ in range(8):
        await logged_in.rotation.tick()
        clock.advance(15)
    assert sandbox.refreshes()[-1].outcome == Outcome.ISSUED
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_a_retry_after_of_xeros_is_obeyed(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """Throttled for 20 seconds, neither ticks nor callers ask again before they are over."""
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


async def test_callers_do_not_hammer_a_xero_that_fails(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """Five minutes of a caller every second while Xero fails cost a back-off's worth of requests, not 300."""
    expected_log(REFRESH_FAILED, REFUSED_AT_TOKEN)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE)
    for _ in range(300):
        assert (await get(f"{logged_in.url}/token")).status == 503
        clock.advance(1)
    assert len(sandbox.refreshes()) < 60


async def test_a_refused_client_loses_nothing_and_is_told(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """With the secret changed at Xero the old token is served to its end; with the secret restored all goes on."""
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


async def test_a_lost_consent_is_401_and_a_new_login_mends_it(
    logged_in: Server, sandbox: Sandbox, clock: Any, log_in: LogIn, get: Any, expected_log: Any
) -> None:
    """When Xero refuses every refresh token, programs are told that a person must log in; then all is well."""
    expected_log(r"ERROR xots: default: the login is lost")
    sandbox.identity.forget()
    clock.advance(XERO_LIFE)
    answer = await get(f"{logged_in.url}/token")
    assert answer.status == 401
    assert answer.json["type"].endswith("consent-lost")
    health = await get(f"{logged_in.url}/livez")
    assert (health.status, health.json["state"]) == (503, "consent-lost")
    await logged_in.rotation.tick()
    assert len(sandbox.refreshes()) == 1  # nobody asks Xero again in vain
    await log_in(logged_in)
    assert (await get(f"{logged_in.url}/token")).status == 200


async def test_the_access_token_of_a_lost_consent_is_served_to_its_end(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """Xero's access tokens live on when the refresh token is refused, so programs keep theirs."""
    expected_log(r"ERROR xots: default: the login is lost")
    sandbox.identity.forget()
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    answer = await get(f"{logged_in.url}/token")
    assert (answer.status, answer.json["expiresIn"]) == (200, 300)


@pytest.mark.parametrize(("age", "seconds"), [(60, 86400), (XERO_LIFE - 300, -86400)])
async def test_a_clock_that_steps_a_day_serves_nothing_dead_and_starts_no_storm(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    get: Any,
    expected_log: Any,
    age: int,
    seconds: int,
) -> None:
    """Xero's clock stands where it was; after the step there is one refresh, and its token is good.

    A step back puts off no refresh that is due by the time that has passed. It is reported.
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
        answer = await get(f"{logged_in.url}/token")
        assert answer.status == 200
        assert answer.json["expiresIn"] == XERO_LIFE
        assert expiry(answer.json["accessToken"]) - sandbox.clock() == timedelta(seconds=XERO_LIFE)
    assert issued(sandbox) == ["issued"]


# -------------------------------------------------------------------------------------- health and status


async def test_livez_tells_the_three_answers(
    new_server: NewServer, credentials: Any, log_in: LogIn, get: Any, clock: Any
) -> None:
    """401 before there are credentials, 503 before a login, 200 with the expiries after it."""
    bare = await get(f"{(await new_server()).url}/livez")
    assert (bare.status, bare.json["state"]) == (401, "no-credentials")
    assert bare.headers["WWW-Authenticate"].startswith("Bearer")
    server = await new_server(**credentials)
    waiting = await get(f"{server.url}/livez")
    assert (waiting.status, waiting.json["state"]) == (503, "not-logged-in")
    await log_in(server)
    healthy = await get(f"{server.url}/livez")
    assert (healthy.status, healthy.json["state"]) == (200, "connected")
    assert healthy.headers["Content-Type"].split(";")[0] == "application/json"
    assert datetime.fromisoformat(
        healthy.json["access_token_expiry_utc"]
    ) == clock.now() + timedelta(minutes=30)
    assert datetime.fromisoformat(
        healthy.json["refresh_token_expiry_utc"]
    ) == clock.now() + timedelta(minutes=72000)
    assert healthy.json["reason"] is None


async def test_livez_tells_why_it_is_not_healthy(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, expected_log: Any
) -> None:
    """With the token dead and Xero failing, the reason is in the answer."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:500-json")
    clock.advance(XERO_LIFE)
    await logged_in.rotation.tick()
    answer = await get(f"{logged_in.url}/livez")
    assert (answer.status, answer.json["state"]) == (503, "refresh-failing")
    assert "500" in answer.json["reason"]


async def test_status_is_json_for_a_program_under_the_names_of_the_first_server(
    logged_in: Server, clock: Any, get: Any
) -> None:
    """Whoever read the fields of the server that this one succeeds finds them here."""
    answer = await get(f"{logged_in.url}/status")
    assert answer.status == 200
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    content = answer.json
    assert datetime.fromisoformat(content["access_token_expiry_utc"]) == clock.now() + timedelta(
        minutes=30
    )
    assert datetime.fromisoformat(content["refresh_token_expiry_utc"]) == clock.now() + timedelta(
        minutes=72000
    )
    assert content["scopes"] == [
        "offline_access",
        "accounting.transactions",
        "accounting.reports.read",
    ]


async def test_status_is_a_page_for_a_browser(logged_in: Server, get: Any) -> None:
    """What Accept asks for decides."""
    answer = await get(f"{logged_in.url}/status", **BROWSER)
    assert answer.status == 200
    assert answer.headers["Content-Type"].split(";")[0] == "text/html"
    assert "2026-11-02 09:30:00 UTC" in answer.text
    assert "accounting.reports.read" in answer.text


async def test_status_and_health_hold_fingerprints_and_no_secret(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, canaries: Any
) -> None:
    """No token and no client secret in JSON, page or health, before and after a rotation."""
    for _ in range(2):
        secret = canaries(logged_in)
        answers = [
            await get(f"{logged_in.url}/status"),
            await get(f"{logged_in.url}/status", **BROWSER),
            await get(f"{logged_in.url}/livez"),
            await get(f"http://localhost:{logged_in.port}/home", **BROWSER),
            await get(f"http://localhost:{logged_in.port}/login", **BROWSER),
        ]
        assert [answer.status for answer in answers] == [200] * 5
        for answer in answers:
            text = answer.text + str(list(answer.headers.get_all()))
            assert not [one for one in secret if one in text]
        shown = answers[0].json
        assert fingerprint(secret[-1]) in shown["access_token"]
        clock.advance(XERO_LIFE - 300)
        await logged_in.rotation.tick()


async def test_status_answers_before_anything_is_known(new_server: NewServer, get: Any) -> None:
    """Without credentials there is a status too, for both kinds of reader."""
    server = await new_server()
    assert (await get(f"{server.url}/status")).json["state"] == "no-credentials"
    assert "no-credentials" in (await get(f"{server.url}/status", **BROWSER)).text


# ------------------------------------------------------------------------------------------ what is not


async def test_an_unknown_path_is_404_for_both_kinds_of_reader(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """A program gets a problem in JSON, a browser a page; every method alike."""
    expected_log(r"WARNING xots\.web: \w+ /nowhere: ")
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        body = "" if method in ("POST", "PUT", "PATCH") else None
        answer = await send(method, f"{logged_in.url}/nowhere", None, body)
        assert answer.status == 404
        assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
        assert answer.json["status"] == 404
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = await send("GET", f"{logged_in.url}/nowhere", BROWSER)
    assert page.status == 404
    assert page.headers["Content-Type"].split(";")[0] == "text/html"


@pytest.mark.parametrize(
    "path", ["/token/", "/Token", "//token", "/token%00", "/token;a=b", "/status/x", "/..%2ftoken"]
)
async def test_a_path_that_only_resembles_a_route_is_404(
    logged_in: Server, get: Any, expected_log: Any, path: str
) -> None:
    """Nothing is guessed: a route is its exact path."""
    expected_log(r"WARNING xots\.web: GET ")
    answer = await get(logged_in.url + path)
    assert answer.status == 404
    assert b"eyJ" not in answer.body


@pytest.mark.parametrize("path", ["/token", "/livez", "/status", "/code"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
async def test_a_method_that_is_not_offered_is_405(
    logged_in: Server, send: Any, expected_log: Any, path: str, method: str
) -> None:
    """The answer is a problem in JSON, and nothing secret comes with it."""
    expected_log(rf"WARNING xots\.web: {method} {path}: ")
    body = "" if method in ("POST", "PUT", "PATCH") else None
    answer = await send(method, logged_in.url + path, None, body)
    assert answer.status == 405
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert answer.json["status"] == 405
    assert b"eyJ" not in answer.body


@pytest.mark.parametrize(
    ("path", "offered"),
    [("/token", {"GET", "HEAD"}), ("/home", {"GET", "HEAD", "POST"}), ("/code", {"GET", "HEAD"})],
)
async def test_a_405_says_which_methods_are_offered(
    logged_in: Server, send: Any, expected_log: Any, path: str, offered: set[str]
) -> None:
    """RFC 9110 section 15.5.6: the answer must list in Allow what the path takes."""
    expected_log(rf"WARNING xots\.web: DELETE {path}: ")
    answer = await send("DELETE", logged_in.url + path)
    assert answer.status == 405
    assert {one.strip() for one in answer.headers.get("Allow", "").split(",")} == offered


async def test_a_browsers_wrong_method_gets_a_page(
    logged_in: Server, send: Any, expected_log: Any
) -> None:
    """A person sees a page, whatever went wrong."""
    expected_log(r"WARNING xots\.web: POST /token: ")
    answer = await send("POST", f"{logged_in.url}/token", BROWSER, "")
    assert answer.status == 405
    assert answer.headers["Content-Type"].split(";")[0] == "text/html"


async def test_a_browser_before_a_login_gets_a_page_at_token(
    server: Server, get: Any, expected_log: Any
) -> None:
    """Whoever types the address into a browser reads what to do, with the same status."""
    answer = await get(f"{server.url}/token", **BROWSER)
    assert answer.status == 401
    assert answer.headers["Content-Type"].split(";")[0] == "text/html"
    assert f"http://localhost:{server.port}/" in answer.text


async def test_a_body_that_is_too_large_is_refused_and_the_server_goes_on(
    logged_in: Server, expected_log: Any, get: Any
) -> None:
    """Nobody has anything large to send; the connection of one who does ends, and the others are served."""
    expected_log.perhaps(r"tornado\.general: ")
    reader, writer = await asyncio.open_connection("127.0.0.1", logged_in.port)
    head = f"POST /login HTTP/1.1\r\nHost: localhost:{logged_in.port}\r\nContent-Length: 99999999\r\n\r\n"
    writer.write(head.encode())
    received = await reader.read()
    writer.close()
    assert not received.startswith(b"HTTP/1.1 2")
    assert (await get(f"{logged_in.url}/token")).status == 200
