"""Fault rules: their texts, and the calls to which they apply."""

from __future__ import annotations

import pytest

from xots.sandbox import (
    Endpoint,
    Fault,
    FaultKind,
    FaultScript,
    FaultSyntaxError,
    Rule,
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
        "the endpoints are: authorize, token, refresh, revocation, connections, accounting, jwks, "
        "any",
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
def test_the_text_of_a_rule_is_read_and_written(text: str) -> None:
    """Reading the text of a rule gives an equal rule."""
    rule = Rule.parse(text)
    assert Rule.parse(str(rule)) == rule
    assert str(rule).startswith(text)


@pytest.mark.parametrize(("text", "said"), BAD_TEXTS)
def test_the_error_for_a_bad_rule_quotes_it_and_lists_the_valid_forms(text: str, said: str) -> None:
    """The operator can correct the rule from the message alone."""
    with pytest.raises(FaultSyntaxError) as refused:
        Rule.parse(text)
    assert repr(text) in str(refused.value)
    assert said in str(refused.value)


def test_a_rule_counts_the_calls_to_its_endpoint_only() -> None:
    """It counts from its addition on. ``token`` includes refreshes, ``any`` every endpoint."""
    script = FaultScript(("refresh:nth=2:lost", "token:nth=2:reset", "any:nth=4:truncated"))
    faults = [
        script.next(endpoint)
        for endpoint in (
            Endpoint.REFRESH,
            Endpoint.TOKEN,
            Endpoint.REFRESH,
            Endpoint.CONNECTIONS,
            Endpoint.REFRESH,
        )
    ]
    assert faults == [
        None,
        Fault(FaultKind.RESET),
        Fault(FaultKind.LOST),
        Fault(FaultKind.TRUNCATED),
        None,
    ]
    script.add("refresh:nth=1:lost")
    assert script.next(Endpoint.REFRESH) == Fault(FaultKind.LOST)


def test_the_rule_added_first_applies_and_a_removed_rule_does_not() -> None:
    """Rules are added and removed at run time."""
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


def test_the_same_seed_gives_the_same_faults() -> None:
    """Another seed gives others, about as many as the probability says."""

    def run(seed: int) -> list[bool]:
        script = FaultScript(("refresh:p=0.2:lost",), seed=seed)
        return [script.next(Endpoint.REFRESH) is not None for _ in range(1000)]

    assert run(1) == run(1) != run(2)
    assert 140 < sum(run(1)) < 260
