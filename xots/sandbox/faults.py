"""The fault script: which call to which endpoint fails, and how.

The compact form of a rule, on the command line and at the control endpoint, is
``ENDPOINT:WHEN:KIND[=VALUE]``. Examples:

=============================== ==================================================================
refresh:nth=2:lost              the second refresh is carried out, and its response is lost
token:every:delay-before=0.3    every call to the token endpoint waits 0.3 s before it is handled
refresh:p=0.05:500-html         one refresh in twenty (by the seed) is a 500 with an HTML page
any:first=3:503-empty           the first three calls to any endpoint are a 503 without a body
=============================== ==================================================================

ENDPOINT is authorize, token (with any grant type), refresh (the token endpoint with a refresh
token), revocation, connections, accounting, jwks, or any. WHEN is ``every``, ``nth=N``, ``first=N``
or ``p=PROBABILITY``. A rule counts the calls to its endpoint from the time when it was added. If
several rules apply to a call, the one added first is used. KIND is one of `FaultKind`. A request is
*committed* when the simulated Xero has carried it out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "Endpoint",
    "Fault",
    "FaultKind",
    "FaultScript",
    "FaultSyntaxError",
    "Rule",
    "RunningRule",
]


class Endpoint(StrEnum):
    """The endpoints where faults can be injected."""

    AUTHORIZE = "authorize"
    TOKEN = "token"  # noqa: S105
    REFRESH = "refresh"
    REVOCATION = "revocation"
    CONNECTIONS = "connections"
    ACCOUNTING = "accounting"
    JWKS = "jwks"


class FaultKind(StrEnum):
    """The kinds of fault. A name that ends in ``-after`` means: after the commit."""

    DELAY_BEFORE = "delay-before"
    """Wait ``value`` seconds, then commit and respond."""
    DELAY_AFTER = "delay-after"
    HOLD_BEFORE = "hold-before"
    """Wait until released, then commit and respond."""
    HOLD_AFTER = "hold-after"
    RESET = "reset"
    """Nothing is committed, and the connection is reset."""
    LOST = "lost"
    """Committed; then the connection is reset without a response."""
    TRUNCATED = "truncated"
    """Committed; half of the body is sent, then the connection closes."""
    NOT_JSON = "not-json"
    """Committed; a 200 with a body that is not JSON."""
    S500_JSON = "500-json"
    S500_HTML = "500-html"
    S500_EMPTY = "500-empty"
    S502_JSON = "502-json"
    S502_HTML = "502-html"
    S502_EMPTY = "502-empty"
    S503_JSON = "503-json"
    S503_HTML = "503-html"
    S503_EMPTY = "503-empty"
    S500_JSON_AFTER = "500-json-after"
    S500_HTML_AFTER = "500-html-after"
    S500_EMPTY_AFTER = "500-empty-after"
    S502_JSON_AFTER = "502-json-after"
    S502_HTML_AFTER = "502-html-after"
    S502_EMPTY_AFTER = "502-empty-after"
    S503_JSON_AFTER = "503-json-after"
    S503_HTML_AFTER = "503-html-after"
    S503_EMPTY_AFTER = "503-empty-after"
    FORBIDDEN_HTML = "403-html"
    """Nothing is committed; the page of a firewall."""
    THROTTLED = "429"
    """Nothing is committed; ``value``, if given, is sent as Retry-After."""
    INVALID_CLIENT = "invalid-client"
    """Nothing is committed; 400 with ``invalid_client``."""
    NO_REFRESH_TOKEN = "no-refresh-token"  # noqa: S105
    """Committed; the response has no refresh token."""
    EXPIRES_IN = "expires-in"
    """Committed; ``expires_in`` is ``value`` seconds, although the token has another ``exp``."""
    EXTRA_KEYS = "extra-keys"
    """Committed; the response has additional, unknown keys."""
    LONG_REFRESH_TOKEN = "long-refresh-token"  # noqa: S105
    """Committed; the refresh token has ``value`` characters (default: 512)."""
    LONG_ACCESS_TOKEN = "long-access-token"  # noqa: S105
    """Committed; the access token has at least ``value`` characters (default: 4096)."""

    @property
    def status(self) -> tuple[int, str] | None:
        """The status and the form of the body (json, html, empty) of a server error, or None."""
        number, _, rest = self.value.partition("-")
        if number not in _SERVER_ERRORS:
            return None
        return int(number), rest.removesuffix("-after")

    @property
    def commits(self) -> bool:
        """True if the request is committed, even if the caller gets no response."""
        if self.status is not None:
            return self.value.endswith("-after")
        return self not in _NEVER_COMMITTED

    @property
    def loses_response(self) -> bool:
        """True if the request is committed, and the caller gets no usable response."""
        if self.status is not None:
            return self.commits
        return self in _LOST


_SERVER_ERRORS = ("500", "502", "503")
_NEVER_COMMITTED = frozenset(
    {
        FaultKind.RESET,
        FaultKind.FORBIDDEN_HTML,
        FaultKind.THROTTLED,
        FaultKind.INVALID_CLIENT,
    }
)
_LOST = frozenset({FaultKind.LOST, FaultKind.TRUNCATED, FaultKind.NOT_JSON})

_DEFAULT_LENGTHS = {FaultKind.LONG_REFRESH_TOKEN: 512.0, FaultKind.LONG_ACCESS_TOKEN: 4096.0}
_VALUE_NEEDED = frozenset({FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER, FaultKind.EXPIRES_IN})
_VALUE_ALLOWED = _VALUE_NEEDED | frozenset(_DEFAULT_LENGTHS) | {FaultKind.THROTTLED}

_TOKEN_ENDPOINTS = (Endpoint.TOKEN, Endpoint.REFRESH)
_ENDPOINTS: dict[FaultKind, tuple[Endpoint, ...]] = {
    FaultKind.NO_REFRESH_TOKEN: _TOKEN_ENDPOINTS,
    FaultKind.EXPIRES_IN: _TOKEN_ENDPOINTS,
    FaultKind.EXTRA_KEYS: _TOKEN_ENDPOINTS,
    FaultKind.LONG_REFRESH_TOKEN: _TOKEN_ENDPOINTS,
    FaultKind.LONG_ACCESS_TOKEN: _TOKEN_ENDPOINTS,
    FaultKind.INVALID_CLIENT: (*_TOKEN_ENDPOINTS, Endpoint.REVOCATION),
}
"""The endpoints of the kinds that are not for every endpoint."""


class FaultSyntaxError(ValueError):
    """A rule is not valid. The message says why, and lists the valid forms."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``value`` is in the kind's own unit: seconds, or characters.

    Raises:
        FaultSyntaxError: the value does not fit the kind.
    """

    kind: FaultKind
    value: float | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            object.__setattr__(self, "value", _DEFAULT_LENGTHS.get(self.kind))
        if problem := _value_problem(self.kind, self.value):
            raise FaultSyntaxError(problem)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``KIND[=VALUE]``. Raises FaultSyntaxError."""
        name, equals, value = text.partition("=")
        try:
            kind = FaultKind(name)
        except ValueError:
            kinds = ", ".join(FaultKind)
            raise FaultSyntaxError(f"unknown fault {name!r}; the kinds are: {kinds}") from None
        return cls(kind, _number(value, name) if equals else None)

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value:g}"


def _value_problem(kind: FaultKind, value: float | None) -> str | None:
    """Return the reason why this kind can not have this value, or None."""
    if value is None:
        return f"{kind} needs a value: {kind}=SECONDS" if kind in _VALUE_NEEDED else None
    if kind not in _VALUE_ALLOWED:
        return f"{kind} takes no value"
    if not 0 <= value < float("inf"):
        return f"the value of {kind} must be a number from 0 up, not {value:g}"
    if kind in _DEFAULT_LENGTHS and value < 1:
        return f"the value of {kind} is a length, and must be 1 or more"
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """The calls to which a fault happens.

    ``endpoint`` None is any endpoint. At most one of ``nth``, ``first`` and ``probability`` is set;
    with none of them, the fault happens to every call.

    Raises:
        FaultSyntaxError: the kind is not for this endpoint, or a number is out of range.
    """

    endpoint: Endpoint | None
    fault: Fault
    nth: int | None = None
    first: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        endpoints = _ENDPOINTS.get(self.fault.kind)
        if endpoints is not None and self.endpoint not in endpoints:
            names = f"{', '.join(endpoints[:-1])} and {endpoints[-1]}"
            raise FaultSyntaxError(f"{self.fault.kind} is for the endpoints {names} only")
        for name, count in (("nth", self.nth), ("first", self.first)):
            if count is not None and count < 1:
                raise FaultSyntaxError(f"{name} must be 1 or more, not {count}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise FaultSyntaxError(f"p must be from 0 to 1, not {self.probability:g}")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``ENDPOINT:WHEN:KIND[=VALUE]``. Raises FaultSyntaxError."""
        try:
            return cls._parse(text)
        except FaultSyntaxError as error:
            raise FaultSyntaxError(f"fault rule {text!r}: {error}") from None

    @classmethod
    def _parse(cls, text: str) -> Rule:
        parts = text.split(":", 2)
        if len(parts) != 3:
            example = "refresh:nth=2:lost"
            raise FaultSyntaxError(f"a rule is ENDPOINT:WHEN:KIND[=VALUE], such as {example}")
        endpoint, when, fault = parts
        nth, first, probability = _read_when(when)
        return cls(_read_endpoint(endpoint), Fault.parse(fault), nth, first, probability)

    def __str__(self) -> str:
        p = None if self.probability is None else f"{self.probability:g}"
        conditions = (("nth", self.nth), ("first", self.first), ("p", p))
        when = next((f"{name}={v}" for name, v in conditions if v is not None), "every")
        return f"{self.endpoint or 'any'}:{when}:{self.fault}"

    def covers(self, endpoint: Endpoint) -> bool:
        """Return True if the rule counts calls to this endpoint. "token" includes "refresh"."""
        if self.endpoint is Endpoint.TOKEN:
            return endpoint in _TOKEN_ENDPOINTS
        return self.endpoint is None or self.endpoint is endpoint


@dataclass(slots=True)
class RunningRule:
    """A rule in the script, with its counts."""

    rule_id: int
    rule: Rule
    rng: random.Random = field(repr=False)
    calls: int = 0
    """Calls that the rule covers."""
    fired: int = 0
    """Calls to which its fault happened."""

    def count_call(self) -> bool:
        """Count one call. Return True if the fault is to happen to it."""
        self.calls += 1
        rule = self.rule
        if rule.nth is not None:
            return self.calls == rule.nth
        if rule.first is not None:
            return self.calls <= rule.first
        return rule.probability is None or self.rng.random() < rule.probability


class FaultScript:
    """The rules in force. The same seed and the same calls give the same faults.

    Args:
        rules: rules, or their texts.
        seed: for the rules with a probability.

    Raises:
        FaultSyntaxError: a text is not a valid rule.
    """

    def __init__(self, rules: tuple[str | Rule, ...] = (), *, seed: int = 0) -> None:
        self._seed = seed
        self._added = 0
        self._rules: list[RunningRule] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: str | Rule) -> int:
        """Add a rule, or the text of one, and return its id. Raises FaultSyntaxError."""
        if isinstance(rule, str):
            rule = Rule.parse(rule)
        self._added += 1
        rng = random.Random(f"{self._seed} {self._added}")  # noqa: S311 - a simulation
        self._rules.append(RunningRule(self._added, rule, rng))
        return self._added

    def remove(self, rule_id: int) -> bool:
        """Remove a rule. Return False if it is unknown."""
        before = len(self._rules)
        self._rules = [running for running in self._rules if running.rule_id != rule_id]
        return len(self._rules) < before

    def clear(self) -> None:
        """Remove every rule."""
        self._rules.clear()

    def next(self, endpoint: Endpoint) -> Fault | None:
        """Count a call to the endpoint. Return the fault that is to happen to it, or None."""
        covering = [running for running in self._rules if running.rule.covers(endpoint)]
        # Every covering rule counts the call, also after the first that applies.
        applying = [running for running in covering if running.count_call()]
        if not applying:
            return None
        applying[0].fired += 1
        return applying[0].rule.fault

    @property
    def rules(self) -> tuple[RunningRule, ...]:
        """The rules in the order in which they were added."""
        return tuple(self._rules)


def _read_endpoint(text: str) -> Endpoint | None:
    if text == "any":
        return None
    try:
        return Endpoint(text)
    except ValueError:
        names = ", ".join(Endpoint)
        raise FaultSyntaxError(
            f"unknown endpoint {text!r}; the endpoints are: {names}, any"
        ) from None


def _read_when(text: str) -> tuple[int | None, int | None, float | None]:
    """Read a condition as nth, first and probability."""
    name, _, value = text.partition("=")
    if text == "every":
        return None, None, None
    if name == "nth" and value.isdecimal():
        return int(value), None, None
    if name == "first" and value.isdecimal():
        return None, int(value), None
    if name == "p":
        return None, None, _number(value, name)
    raise FaultSyntaxError(
        f"unknown condition {text!r}; the conditions are: every, nth=N, first=N, p=PROBABILITY"
    )


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FaultSyntaxError(f"the value of {name} must be a number, not {text!r}") from None
