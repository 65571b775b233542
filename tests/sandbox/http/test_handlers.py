"""Every fault: its rule, what the caller sees on the wire, and whether the simulated Xero did what it was asked."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.sandbox_caller import ORGANISATIONS, Answer, Caller

from xots.sandbox import (
    Endpoint,
    Fault,
    FaultKind,
    FaultScript,
    FaultSyntaxError,
    Outcome,
    Rule,
    Sandbox,
    fingerprint,
)

TEXTS = [
    "refresh:nth=2:lost",
    "token:every:delay-before=0.3",
    "refresh:p=0.05:500-html",
    "any:first=3:503-empty-after",
    "refresh:every:429",
    "refresh:every:429=30",
    "token:nth=1:long-refresh-token=512",
    "revocation:nth=1:invalid-client",
]

BAD_TEXTS = [
    ("refresh:nth=2:explode", "the kinds are: delay-before, "),
    ("refresh:lost", "a rule is ENDPOINT:WHEN:KIND"),
    (
        "nowhere:every:lost",
        "the endpoints are: authorize, token, refresh, revocation, connections, accounting, jwks, any",
    ),
    ("refresh:sometimes:lost", "the conditions are: every, nth=N, first=N, p=PROBABILITY"),
    ("refresh:nth=0:lost", "nth must be 1 or more"),
    ("refresh:nth=-1:lost", "unknown condition"),
    ("refresh:p=2:lost", "p must be from 0 to 1"),
    ("refresh:p=x:lost", "must be a number"),
    ("refresh:every:delay-before", "delay-before needs a value"),
    ("refresh:every:delay-before=soon", "must be a number, not 'soon'"),
    ("refresh:every:delay-before=-1", "from 0 up"),
    ("refresh:every:delay-before=inf", "from 0 up"),
    ("refresh:every:lost=1", "lost takes no value"),
    ("refresh:every:long-refresh-token=0", "must be 1 or more"),
    ("connections:every:no-refresh-token", "token and refresh only"),
    ("accounting:every:invalid-client", "token, refresh and revocation only"),
    ("", "a rule is"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_rule_reads_and_writes_the_same_text(text: str) -> None:
    """The compact form is the only one."""
    rule = Rule.parse(text)
    assert Rule.parse(str(rule)) == rule
    assert str(rule).startswith(text)


@pytest.mark.parametrize(("text", "said"), BAD_TEXTS)
def test_a_bad_rule_is_named_and_says_what_could_stand_there(text: str, said: str) -> None:
    """The error is a sentence for whoever typed it."""
    with pytest.raises(FaultSyntaxError) as refused:
        Rule.parse(text)
    assert repr(text) in str(refused.value)
    assert said in str(refused.value)


def test_a_rule_counts_the_calls_to_its_endpoint_only() -> None:
    """``token`` covers refreshes too, ``any`` everything, and a rule starts counting when it is added."""
    script = FaultScript(("refresh:nth=2:lost", "token:nth=2:reset", "any:nth=4:truncated"))
    struck = [
        script.next(endpoint)
        for endpoint in (
            Endpoint.REFRESH,
            Endpoint.TOKEN,
            Endpoint.REFRESH,
            Endpoint.CONNECTIONS,
            Endpoint.REFRESH,
        )
    ]
    assert struck == [
        None,
        Fault(FaultKind.RESET),
        Fault(FaultKind.LOST),
        Fault(FaultKind.TRUNCATED),
        None,
    ]
    script.add("refresh:nth=1:lost")
    assert script.next(Endpoint.REFRESH) == Fault(FaultKind.LOST)


def test_the_first_rule_that_fits_has_the_call_and_removed_ones_have_none() -> None:
    """Rules come and go at run time."""
    script = FaultScript()
    first, second = script.add("refresh:every:lost"), script.add("refresh:first=2:reset")
    assert script.next(Endpoint.REFRESH) == Fault(FaultKind.LOST)
    assert script.remove(first)
    assert not script.remove(first)
    assert script.next(Endpoint.REFRESH) == Fault(FaultKind.RESET)
    assert script.next(Endpoint.REFRESH) is None
    assert [(running.rule_id, running.calls, running.fired) for running in script.rules] == [
        (second, 3, 1)
    ]
    script.clear()
    assert script.rules == ()


def test_the_same_seed_strikes_the_same_calls() -> None:
    """And another seed strikes others, about as often as it says."""

    def run(seed: int) -> list[bool]:
        script = FaultScript(("refresh:p=0.2:lost",), seed=seed)
        return [script.next(Endpoint.REFRESH) is not None for _ in range(1000)]

    assert run(1) == run(1) != run(2)
    assert 140 < sum(run(1)) < 260


# Over the wire. What the caller sees; kinds that only wait are tested further down.
WAITS = {FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER, FaultKind.HOLD_BEFORE, FaultKind.HOLD_AFTER}


def assert_seen(answer: Answer, kind: FaultKind) -> None:
    if kind in (FaultKind.RESET, FaultKind.LOST):
        assert answer.failure == "reset"
    elif kind is FaultKind.TRUNCATED:
        assert (answer.status, answer.failure) == (200, "short")
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.body)
    elif kind.status is not None:
        status, form = kind.status
        assert answer.status == status
        starts = {"json": b'{"error"', "html": b"<html", "empty": b""}[form]
        assert answer.body.startswith(starts)
        assert bool(answer.body) == (form != "empty")
    elif kind is FaultKind.FORBIDDEN_HTML:
        assert answer.status == 403
        assert answer.headers["content-type"].startswith("text/html")
    elif kind is FaultKind.THROTTLED:
        assert answer.status == 429
        assert "retry-after" not in answer.headers
    elif kind is FaultKind.INVALID_CLIENT:
        assert (answer.status, answer.json) == (400, {"error": "invalid_client"})
    elif kind is FaultKind.NOT_JSON:
        assert answer.status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.body)
    else:
        assert answer.status == 200
        assert ("refresh_token" in answer.json) == (kind is not FaultKind.NO_REFRESH_TOKEN)
        assert answer.json["expires_in"] == (60 if kind is FaultKind.EXPIRES_IN else 1800)
        assert ("ext_expires_in" in answer.json) == (kind is FaultKind.EXTRA_KEYS)
        if kind is FaultKind.LONG_REFRESH_TOKEN:
            assert len(answer.json["refresh_token"]) == 512
        if kind is FaultKind.LONG_ACCESS_TOKEN:
            assert 4096 <= len(answer.json["access_token"]) < 5000


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in WAITS])
async def test_a_refresh_goes_wrong_as_told_and_only_the_nth(
    caller: Caller, sandbox: Sandbox, kind: FaultKind
) -> None:
    """The wire, the state of the refresh token and the log agree on what happened."""
    value = 60.0 if kind is FaultKind.EXPIRES_IN else None
    sandbox.add_fault(Rule(Endpoint.REFRESH, Fault(kind, value), nth=2))
    token = sandbox.log_in().refresh_token or ""
    token = (await caller.refresh(token)).json["refresh_token"]
    assert_seen(await caller.refresh(token), kind)

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
    """Before the commit nothing is spent yet; after it, only the answer is missing."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault("refresh:nth=1:hold-after" if after else "refresh:nth=1:hold-before")
    asking = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    assert (sandbox.identity.counts.refreshes == 1) is after
    assert sandbox.refreshes() == []
    assert sandbox.release() == 1
    assert (await asking).status == 200
    assert sandbox.refreshes()[0].outcome is Outcome.ISSUED


async def test_held_requests_are_released_one_by_one_oldest_first(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A test decides the order in which answers come."""
    sandbox.add_fault("refresh:every:hold-before")
    tokens = [sandbox.log_in().refresh_token for _ in range(2)]
    asking = []
    for count, token in enumerate(tokens, start=1):
        asking.append(asyncio.create_task(caller.refresh(token)))
        await sandbox.held(count)
    assert sandbox.release(1) == 1
    await asking[0]
    assert not asking[1].done()
    assert sandbox.release() == 1
    assert (await asking[1]).status == 200
    assert [request.token for request in sandbox.refreshes()] == [
        fingerprint(token or "") for token in tokens
    ]


async def test_a_caller_who_hangs_up_before_the_commit_changes_nothing_about_it(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Xero would go on and issue; the answer is lost."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault("refresh:nth=1:hold-before")
    asking = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    # Another whole request goes round, so the sandbox has seen the first one's end.
    await caller.send("GET", "/.well-known/openid-configuration/jwks")
    logged = asyncio.Event()
    sandbox.world.on_logged = lambda request: logged.set()
    sandbox.release()
    await logged.wait()
    [request] = sandbox.refreshes()
    assert (request.outcome, request.status) == (Outcome.LOST, None)
    assert request.issued is not None


@pytest.mark.parametrize("kind", ["delay-before=0", "delay-after=0.001"])
async def test_a_delayed_request_is_answered_after_all(
    caller: Caller, sandbox: Sandbox, kind: str
) -> None:
    """A delay changes nothing but the time."""
    sandbox.add_fault(f"refresh:every:{kind}")
    assert (await caller.refresh(sandbox.log_in().refresh_token)).status == 200


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("hold-before", Outcome.FAULTED), ("hold-after", Outcome.LOST)],
)
async def test_stopping_cuts_what_waits_without_waiting(
    caller: Caller, sandbox: Sandbox, kind: str, outcome: Outcome
) -> None:
    """The callers see a reset, and nothing that was held is committed any more."""
    token = sandbox.log_in().refresh_token or ""
    sandbox.add_fault(f"refresh:every:{kind}")
    asking = asyncio.create_task(caller.refresh(token))
    await sandbox.held()
    await sandbox.stop()
    assert (await asking).failure == "reset"
    assert sandbox.refreshes()[0].outcome is outcome
    assert (sandbox.identity.counts.refreshes == 1) is (outcome is Outcome.LOST)


async def test_stopping_cuts_a_delay_short(caller: Caller, sandbox: Sandbox) -> None:
    """However long it was to be."""
    sandbox.add_fault("refresh:nth=1:delay-after=600")
    sandbox.add_fault("refresh:nth=2:hold-before")
    token = sandbox.log_in().refresh_token
    asking = [asyncio.create_task(caller.refresh(token)) for _ in range(2)]
    await sandbox.held()
    await sandbox.stop()
    assert [answer.failure for answer in await asyncio.gather(*asking)] == ["reset", "reset"]


async def test_retry_after_is_sent_if_it_was_given(caller: Caller, sandbox: Sandbox) -> None:
    """And nothing was spent."""
    sandbox.add_fault("refresh:nth=1:429=30")
    answer = await caller.refresh(sandbox.log_in().refresh_token)
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")


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
async def test_every_endpoint_can_go_wrong(
    caller: Caller, sandbox: Sandbox, endpoint: str, method: str, path: str
) -> None:
    """Reset, lost, cut short or failing."""
    for kind in ("reset", "lost", "truncated", "503-html"):
        sandbox.add_fault(f"{endpoint}:nth=1:{kind}")
        answer = await caller.send(method, path or caller.authorize_path())
        expected = {"reset": "reset", "lost": "reset", "truncated": "short", "503-html": ""}[kind]
        assert answer.failure == expected
        assert sandbox.log[-1].endpoint == endpoint
        assert sandbox.log[-1].fault == kind


async def test_a_lost_revocation_has_revoked(caller: Caller, sandbox: Sandbox) -> None:
    """The caller hears nothing of it."""
    tokens = sandbox.log_in()
    sandbox.add_fault("revocation:nth=1:lost")
    assert (await caller.revoke(tokens.refresh_token)).failure == "reset"
    assert not sandbox.identity.would_issue(tokens.refresh_token or "", sandbox.clock())
    assert sandbox.log[-1].outcome is Outcome.LOST


async def test_a_lost_exchange_has_consumed_the_code(caller: Caller, sandbox: Sandbox) -> None:
    """As in 2018, when tokens were issued and never delivered."""
    code = (await caller.consent()).callback["code"]
    sandbox.add_fault("token:nth=1:lost")
    assert (await caller.exchange(code)).failure == "reset"
    assert (await caller.exchange(code)).json == {"error": "invalid_grant"}


async def test_more_than_five_calls_at_once_are_throttled(caller: Caller, sandbox: Sandbox) -> None:
    """The sixth is a 429 while the five run, and welcome after them."""
    token, tenant_id = sandbox.log_in().access_token, ORGANISATIONS[0].tenant_id
    rule = sandbox.add_fault("accounting:every:hold-after")
    asking = [
        asyncio.create_task(caller.api("/api.xro/2.0/Invoices", token, tenant_id)) for _ in range(5)
    ]
    await sandbox.held(5)
    sandbox.faults.remove(rule)
    sixth = await caller.api("/api.xro/2.0/Invoices", token, tenant_id)
    assert (sixth.status, sixth.headers["x-rate-limit-problem"]) == (429, "concurrent")
    sandbox.release()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 5
    assert (await caller.api("/api.xro/2.0/Invoices", token, tenant_id)).status == 200


async def test_the_log_holds_no_secret(caller: Caller, sandbox: Sandbox) -> None:
    """Neither a token, nor a code, nor the client's secret, in no form of a line."""
    answer = await caller.log_in()
    renewed = await caller.refresh(answer.json["refresh_token"])
    await caller.api("/connections", renewed.json["access_token"])
    await caller.revoke(renewed.json["refresh_token"])
    text = "".join(f"{request} {request!r}" for request in sandbox.log)
    secrets = ["sandbox-secret-opens-nothing"]
    secrets += [
        one.json[name] for one in (answer, renewed) for name in ("access_token", "refresh_token")
    ]
    assert not [secret for secret in secrets if secret in text]
    assert [request.number for request in sandbox.log] == [1, 2, 3, 4, 5]
