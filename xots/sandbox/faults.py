"""The fault script: which call to which endpoint goes wrong, and how.

The compact form of a rule, on the command line and at the control endpoint::

    ENDPOINT:WHEN:KIND[=VALUE]

    refresh:nth=2:lost            the second refresh is answered, and the answer never arrives
    token:every:delay-before=0.3  every call to the token endpoint waits 0.3 s before anything happens
    refresh:p=0.05:500-html       one refresh in twenty (by the seed) is a 500 with a page of HTML
    any:first=3:503-empty         the first three calls to any endpoint

ENDPOINT is authorize, token (whatever the grant type), refresh (the token endpoint with a refresh token), revocation,
connections, accounting, jwks, or any. WHEN is ``every``, ``nth=N``, ``first=N`` or ``p=PROBABILITY``; a rule counts the
calls to its endpoint since it was added. If several rules fit a call, the one that was added first has it.
KIND is one of `FaultKind`. "Commit" is the moment at which the simulated Xero does what it was asked.
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
    """Where faults can be injected."""

    AUTHORIZE = "authorize"
    TOKEN = "token"  # noqa: S105
    REFRESH = "refresh"
    REVOCATION = "revocation"
    CONNECTIONS = "connections"
    ACCOUNTING = "accounting"
    JWKS = "jwks"


class FaultKind(StrEnum):
    """What can go wrong. A name that ends in ``-after`` means: after the commit."""

    DELAY_BEFORE = "delay-before"
    """Wait ``value`` seconds, then commit and answer."""
    DELAY_AFTER = "delay-after"
    HOLD_BEFORE = "hold-before"
    """Wait until released, then commit and answer."""
    HOLD_AFTER = "hold-after"
    RESET = "reset"
    """The connection is reset, and nothing was committed."""
    LOST = "lost"
    """Committed; then the connection is reset without an answer."""
    TRUNCATED = "truncated"
    """Committed; half of the body is sent, then the connection closes."""
    NOT_JSON = "not-json"
    """Committed; a 200 whose body isn't JSON."""
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
    """A firewall's page; nothing was committed."""
    THROTTLED = "429"
    """Nothing was committed; ``value``, if given, is sent as Retry-After."""
    INVALID_CLIENT = "invalid-client"
    """Nothing was committed; 400 with ``invalid_client``."""
    NO_REFRESH_TOKEN = "no-refresh-token"  # noqa: S105
    """Committed; the refresh token is left out of the answer."""
    EXPIRES_IN = "expires-in"
    """Committed; the answer says ``value`` seconds, whatever the token's own ``exp``."""
    EXTRA_KEYS = "extra-keys"
    """Committed; the answer has keys that nobody has heard of."""
    LONG_REFRESH_TOKEN = "long-refresh-token"  # noqa: S105
    """The refresh token issued has ``value`` characters (512)."""
    LONG_ACCESS_TOKEN = "long-access-token"  # noqa: S105
    """The access token issued has at least ``value`` characters (4096)."""

    @property
    def status(self) -> tuple[int, str] | None:
        """The status and body form (json, html, empty) of a server error, or None for other kinds."""
        number, _, rest = self.value.partition("-")
        return (
            (int(number), rest.removesuffix("-after")) if number in ("500", "502", "503") else None
        )

    @property
    def commits(self) -> bool:
        """Whether the simulated Xero does what it was asked, whatever the caller hears of it."""
        if self.status is not None:
            return self.value.endswith("-after")
        return self not in (
            FaultKind.RESET,
            FaultKind.FORBIDDEN_HTML,
            FaultKind.THROTTLED,
            FaultKind.INVALID_CLIENT,
        )

    @property
    def hides(self) -> bool:
        """Whether it was committed and the caller never sees the answer."""
        lost = (FaultKind.LOST, FaultKind.TRUNCATED, FaultKind.NOT_JSON)
        return self in lost or (self.status is not None and self.commits)


_VALUE_NEEDED = frozenset({FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER, FaultKind.EXPIRES_IN})
_DEFAULTS = {FaultKind.LONG_REFRESH_TOKEN: 512.0, FaultKind.LONG_ACCESS_TOKEN: 4096.0}
_VALUE_ALLOWED = _VALUE_NEEDED | frozenset(_DEFAULTS) | {FaultKind.THROTTLED}
_TOKEN_ONLY = frozenset(_DEFAULTS) | {
    FaultKind.NO_REFRESH_TOKEN,
    FaultKind.EXPIRES_IN,
    FaultKind.EXTRA_KEYS,
}
_TOKEN_ENDPOINTS = (Endpoint.TOKEN, Endpoint.REFRESH)


class FaultSyntaxError(ValueError):
    """A rule that can't be read. Its text says what is wrong, and what could stand there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. ``value`` is in the kind's own unit: seconds, or characters."""

    kind: FaultKind
    value: float | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            if self.kind in _VALUE_NEEDED:
                raise FaultSyntaxError(f"{self.kind} needs a value: {self.kind}=SECONDS")
            object.__setattr__(self, "value", _DEFAULTS.get(self.kind))
        elif self.kind not in _VALUE_ALLOWED:
            raise FaultSyntaxError(f"{self.kind} takes no value")
        elif not 0 <= self.value < float("inf"):
            raise FaultSyntaxError(
                f"the value of {self.kind} must be a number from 0 up, not {self.value:g}"
            )
        elif self.kind in _DEFAULTS and self.value < 1:
            raise FaultSyntaxError(f"the value of {self.kind} is a length, and must be 1 or more")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``KIND[=VALUE]``. Raises FaultSyntaxError."""
        name, equals, value = text.partition("=")
        try:
            kind = FaultKind(name)
        except ValueError:
            raise FaultSyntaxError(
                f"unknown fault {name!r}; the kinds are: {', '.join(FaultKind)}"
            ) from None
        return cls(kind, _number(value, kind) if equals else None)

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Rule:
    """When which fault happens. ``endpoint`` None means any; without ``nth``, ``first`` or ``probability``, always."""

    endpoint: Endpoint | None
    fault: Fault
    nth: int | None = None
    first: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        kind = self.fault.kind
        if kind in _TOKEN_ONLY and self.endpoint not in _TOKEN_ENDPOINTS:
            raise FaultSyntaxError(f"{kind} is for the endpoints token and refresh only")
        if kind is FaultKind.INVALID_CLIENT and self.endpoint not in (
            *_TOKEN_ENDPOINTS,
            Endpoint.REVOCATION,
        ):
            raise FaultSyntaxError(
                f"{kind} is for the endpoints token, refresh and revocation only"
            )
        for name, count in (("nth", self.nth), ("first", self.first)):
            if count is not None and count < 1:
                raise FaultSyntaxError(f"{name} must be 1 or more, not {count}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise FaultSyntaxError(f"p must be from 0 to 1, not {self.probability:g}")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``ENDPOINT:WHEN:KIND[=VALUE]``. Raises FaultSyntaxError."""
        where, _, rest = text.partition(":")
        when, colon, what = rest.partition(":")
        try:
            if not colon:
                raise FaultSyntaxError(  # noqa: TRY301
                    "a rule is ENDPOINT:WHEN:KIND[=VALUE], such as refresh:nth=2:lost"
                )
            nth, first, probability = _when(when)
            return cls(_endpoint(where), Fault.parse(what), nth, first, probability)
        except FaultSyntaxError as error:
            raise FaultSyntaxError(f"fault rule {text!r}: {error}") from None

    def __str__(self) -> str:
        when = "every"
        if self.nth is not None:
            when = f"nth={self.nth}"
        elif self.first is not None:
            when = f"first={self.first}"
        elif self.probability is not None:
            when = f"p={self.probability:g}"
        return f"{self.endpoint or 'any'}:{when}:{self.fault}"

    def covers(self, endpoint: Endpoint) -> bool:
        """Return whether calls to this endpoint count for the rule."""
        if self.endpoint is Endpoint.TOKEN:
            return endpoint in _TOKEN_ENDPOINTS
        return self.endpoint is None or self.endpoint is endpoint


@dataclass(slots=True)
class RunningRule:
    """A rule in the script: ``calls`` counts what it covered, ``fired`` how often it struck."""

    rule_id: int
    rule: Rule
    chance: random.Random = field(repr=False)
    calls: int = 0
    fired: int = 0

    def strikes(self) -> bool:
        """Count one call, and return whether it goes wrong."""
        self.calls += 1
        rule = self.rule
        if rule.nth is not None:
            return self.calls == rule.nth
        if rule.first is not None:
            return self.calls <= rule.first
        return rule.probability is None or self.chance.random() < rule.probability


class FaultScript:
    """The rules in force. The same seed and the same calls make the same faults."""

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
        chance = random.Random(f"{self._seed} {self._added}")  # noqa: S311
        self._rules.append(RunningRule(self._added, rule, chance))
        return self._added

    def remove(self, rule_id: int) -> bool:
        """Remove a rule; return whether it was there."""
        before = len(self._rules)
        self._rules = [running for running in self._rules if running.rule_id != rule_id]
        return len(self._rules) < before

    def clear(self) -> None:
        """Remove every rule."""
        self._rules.clear()

    def next(self, endpoint: Endpoint) -> Fault | None:
        """Count a call to the endpoint, and return what goes wrong with it, if anything."""
        struck = [
            running
            for running in self._rules
            if running.rule.covers(endpoint) and running.strikes()
        ]
        if not struck:
            return None
        struck[0].fired += 1
        return struck[0].rule.fault

    @property
    def rules(self) -> tuple[RunningRule, ...]:
        """The rules in the order in which they were added."""
        return tuple(self._rules)


def _endpoint(text: str) -> Endpoint | None:
    if text == "any":
        return None
    try:
        return Endpoint(text)
    except ValueError:
        raise FaultSyntaxError(
            f"unknown endpoint {text!r}; they are: {', '.join(Endpoint)}, any"
        ) from None


def _when(text: str) -> tuple[int | None, int | None, float | None]:
    """Read a condition as nth, first and probability."""
    name, _, value = text.partition("=")
    if text == "every":
        return None, None, None
    if name == "nth" and value.isdecimal():
        return int(value), None, None
    if name == "first" and value.isdecimal():
        return None, int(value), None
    if name == "p":
        return None, None, _number(value, "p")
    raise FaultSyntaxError(
        f"unknown condition {text!r}; it is every, nth=N, first=N or p=PROBABILITY"
    )


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FaultSyntaxError(f"the value of {name} must be a number, not {text!r}") from None
