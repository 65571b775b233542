"""Every fault over HTTP: the response, the state at the simulated Xero and the log."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.sandbox_caller import CUSTOM_CLIENT, Caller, Response

from xots.sandbox import (
    Endpoint,
    Fault,
    FaultKind,
    Outcome,
    Rule,
    Sandbox,
    fingerprint,
)

WAITS = {FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER, FaultKind.HOLD_BEFORE, FaultKind.HOLD_AFTER}


def assert_response(response: Response, kind: FaultKind) -> None:
    if kind in (FaultKind.RESET, FaultKind.LOST):
        assert response.failure == "reset"
    elif kind is FaultKind.TRUNCATED:
        assert (response.status, response.failure) == (200, "short")
        with pytest.raises(json.JSONDecodeError):
            json.loads(response.body)
    elif kind.status is not None:
        status, form = kind.status
        assert response.status == status
        starts = {"json": b'{"error"', "html": b"<html", "empty": b""}[form]
        assert response.body.startswith(starts)
        assert bool(response.body) == (form != "empty")
    elif kind is FaultKind.FORBIDDEN_HTML:
        assert response.status == 403
        assert response.headers["content-type"].startswith("text/html")
    elif kind is FaultKind.THROTTLED:
        assert response.status == 429
        assert "retry-after" not in response.headers
    elif kind is FaultKind.INVALID_CLIENT:
        assert (response.status, response.json) == (400, {"error": "invalid_client"})
    elif kind is FaultKind.NOT_JSON:
        assert response.status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(response.body)
    else:
        assert response.status == 200
        assert ("refresh_token" in response.json) == (kind is not FaultKind.NO_REFRESH_TOKEN)
        assert response.json["expires_in"] == (60 if kind is FaultKind.EXPIRES_IN else 1800)
        assert ("ext_expires_in" in response.json) == (kind is FaultKind.EXTRA_KEYS)
        if kind is FaultKind.LONG_REFRESH_TOKEN:
            assert len(response.json["refresh_token"]) == 512
        if kind is FaultKind.LONG_ACCESS_TOKEN:
            assert 4096 <= len(response.json["access_token"]) < 5000


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in WAITS])
async def test_only_the_nth_refresh_has_the_fault(
    caller: Caller, sandbox: Sandbox, kind: FaultKind
) -> None:
    """Response, refresh token and log agree about the outcome."""
    value = 60.0 if kind is FaultKind.EXPIRES_IN else None
    sandbox.add_fault(Rule(Endpoint.REFRESH, Fault(kind, value), nth=2))
    token = sandbox.log_in().refresh_token or ""
    token = (await caller.refresh(token)).json["refresh_token"]
    assert_response(await caller.refresh(token), kind)

    first, logged = sandbox.refreshes()
    assert (first.outcome, first.fault, logged.fault) == (Outcome.ISSUED, None, kind)
    assert logged.token == fingerprint(token)
    assert (logged.issued is not None) == kind.commits
    if not kind.commits:
        assert logged.outcome is Outcome.FAULTED
    else:
        assert logged.outcome is (Outcome.LOST if kind.loses_response else Outcome.ISSUED)
    sandbox.clock.advance(31 * 60)
    assert sandbox.identity.would_issue(token, sandbox.clock()) is not kind.commits
    assert len(sandbox.identity.usable_refresh_tokens(sandbox.clock())) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_held_request_waits_until_it_is_released(
    caller: Caller, sandbox: Sandbox, after: bool
) -> None:
    """Held before the commit, it has spent nothing; held after it, only the response is missing."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault("refresh:nth=1:hold-after" if after else "refresh:nth=1:hold-before")
    task = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    assert (sandbox.identity.counts.refreshes == 1) is after
    assert sandbox.refreshes() == []
    assert sandbox.release() == 1
    assert (await task).status == 200
    assert sandbox.refreshes()[0].outcome is Outcome.ISSUED


async def test_held_requests_are_released_one_by_one_oldest_first(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A test decides the order of the responses."""
    sandbox.add_fault("refresh:every:hold-before")
    tokens = [sandbox.log_in().refresh_token for _ in range(2)]
    tasks: list[asyncio.Task[Response]] = []
    for count, token in enumerate(tokens, start=1):
        tasks.append(asyncio.create_task(caller.refresh(token)))
        await sandbox.held(count)
    assert sandbox.release(1) == 1
    await tasks[0]
    assert not tasks[1].done()
    assert sandbox.release() == 1
    assert (await tasks[1]).status == 200
    assert [request.token for request in sandbox.refreshes()] == [
        fingerprint(token or "") for token in tokens
    ]


async def test_a_request_is_committed_although_its_caller_has_closed_the_connection(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Xero issues tokens all the same, and the response is lost."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault("refresh:nth=1:hold-before")
    task = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # The sandbox has noticed the closed connection when it has handled another request.
    await caller.send("GET", "/.well-known/openid-configuration/jwks")
    logged = asyncio.Event()
    sandbox.world.on_logged = lambda request: logged.set()
    sandbox.release()
    await logged.wait()
    [request] = sandbox.refreshes()
    assert (request.outcome, request.status) == (Outcome.LOST, None)
    assert request.issued is not None


@pytest.mark.parametrize("kind", ["delay-before=0", "delay-after=0.001"])
async def test_a_delayed_request_gets_its_response(
    caller: Caller, sandbox: Sandbox, kind: str
) -> None:
    """A delay changes only the time."""
    sandbox.add_fault(f"refresh:every:{kind}")
    assert (await caller.refresh(sandbox.log_in().refresh_token)).status == 200


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("hold-before", Outcome.FAULTED), ("hold-after", Outcome.LOST)],
)
async def test_stopping_resets_held_requests_at_once(
    caller: Caller, sandbox: Sandbox, kind: str, outcome: Outcome
) -> None:
    """The caller gets a reset, and a request held before its commit is not committed."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault(f"refresh:every:{kind}")
    task = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    await sandbox.stop()
    assert (await task).failure == "reset"
    assert sandbox.refreshes()[0].outcome is outcome
    assert (sandbox.identity.counts.refreshes == 1) is (outcome is Outcome.LOST)


async def test_stopping_ends_a_delay_at_once(caller: Caller, sandbox: Sandbox) -> None:
    """A delay of ten minutes ends too."""
    sandbox.add_fault("refresh:nth=1:delay-after=600")
    sandbox.add_fault("refresh:nth=2:hold-before")
    token = sandbox.log_in().refresh_token
    tasks = [asyncio.create_task(caller.refresh(token)) for _ in range(2)]
    await sandbox.held()
    await sandbox.stop()
    assert [response.failure for response in await asyncio.gather(*tasks)] == ["reset", "reset"]


async def test_retry_after_is_sent_if_the_rule_has_a_value(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A 429 with seconds tells the caller how long to wait."""
    sandbox.add_fault("refresh:nth=1:429=30")
    response = await caller.refresh(sandbox.log_in().refresh_token)
    assert (response.status, response.headers["retry-after"]) == (429, "30")


@pytest.mark.parametrize(
    ("endpoint", "method", "path"),
    [
        ("authorize", "GET", ""),
        ("token", "POST", "/connect/token"),
        ("revocation", "POST", "/connect/revocation"),
        ("connections", "GET", "/connections"),
        ("connections", "DELETE", "/connections/x"),
        ("accounting", "GET", "/api.xro/2.0/Organisation"),
        ("jwks", "GET", "/.well-known/openid-configuration/jwks"),
    ],
)
async def test_faults_happen_at_every_endpoint(
    caller: Caller, sandbox: Sandbox, endpoint: str, method: str, path: str
) -> None:
    """Each endpoint can reset, lose, truncate and fail."""
    for kind in ("reset", "lost", "truncated", "503-html"):
        sandbox.add_fault(f"{endpoint}:nth=1:{kind}")
        response = await caller.send(method, path or caller.authorize_path())
        expected = {"reset": "reset", "lost": "reset", "truncated": "short", "503-html": ""}[kind]
        assert response.failure == expected
        assert sandbox.log[-1].endpoint == endpoint
        assert sandbox.log[-1].fault == kind


async def test_a_lost_revocation_has_revoked(caller: Caller, sandbox: Sandbox) -> None:
    """The caller gets no response, and the consent has ended."""
    tokens = sandbox.log_in()
    sandbox.add_fault("revocation:nth=1:lost")
    assert (await caller.revoke(tokens.refresh_token)).failure == "reset"
    assert not sandbox.identity.would_issue(tokens.refresh_token or "", sandbox.clock())
    assert sandbox.log[-1].outcome is Outcome.LOST


async def test_a_lost_exchange_has_consumed_the_code(caller: Caller, sandbox: Sandbox) -> None:
    """So the caller can not exchange the same code again."""
    code = (await caller.consent()).callback["code"]
    sandbox.add_fault("token:nth=1:lost")
    assert (await caller.exchange(code)).failure == "reset"
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}


async def test_the_log_holds_no_secret(caller: Caller, sandbox: Sandbox) -> None:
    """No form of a log entry has a token or the client's secret."""
    response = await caller.log_in()
    renewed = await caller.refresh(response.json["refresh_token"])
    await caller.api("/connections", renewed.json["access_token"])
    await caller.revoke(renewed.json["refresh_token"])
    text = "".join(f"{request} {request!r}" for request in sandbox.log)
    secrets = ["sandbox-secret-opens-nothing"]
    secrets += [
        one.json[name] for one in (response, renewed) for name in ("access_token", "refresh_token")
    ]
    assert not [secret for secret in secrets if secret in text]
    assert [request.number for request in sandbox.log] == [1, 2, 3, 4, 5]


async def test_the_log_tells_the_requests_of_a_custom_connection_from_others(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A rule for ``token`` hits them too, and a test can count them."""
    sandbox.add_fault("token:nth=2:lost")
    form = {"grant_type": "client_credentials", "scope": "accounting.settings"}
    failures = [(await caller.token(CUSTOM_CLIENT, **form)).failure for _ in range(3)]
    await caller.log_in()
    assert failures == ["", "reset", ""]
    logged = sandbox.requests("client_credentials")
    assert [request.outcome for request in logged] == ["issued", "lost", "issued"]
    assert {request.client_id for request in logged} == {CUSTOM_CLIENT.client_id}
    assert sandbox.refreshes() == []
