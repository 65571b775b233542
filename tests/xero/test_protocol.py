"""The protocol: the outcome of each response."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.secret import Secret
from xots.xero.protocol import (
    Response,
    read_revocation_response,
    read_token_response,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
GOOD = {
    "access_token": "a",
    "expires_in": 1800,
    "token_type": "Bearer",
    "refresh_token": "r",
    "scope": "x y",
}


def response_of(status: int, content: object, **headers: str) -> Response:
    """A response; an underscore in a header's name stands for a hyphen."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def outcome_of(status: int, content: object, **headers: str) -> Outcome:
    """The outcome of this response of the token endpoint."""
    return read_token_response(response_of(status, content, **headers), NOW)


def revoked(status: int, content: object) -> Failure | None:
    """The outcome of this response of the revocation endpoint."""
    return read_revocation_response(response_of(status, content), NOW)


# ---------- responses of the token endpoint


def test_a_response_with_tokens_is_issued() -> None:
    """Every field that Xero sends is read; a scope is a string with spaces."""
    assert outcome_of(200, GOOD) == Issued(
        access_token=Secret("a"),
        lifetime=timedelta(minutes=30),
        refresh_token=Secret("r"),
        scopes=("x", "y"),
    )


@pytest.mark.parametrize("expires_in", [None, "soon", 0, -5, 1e300, True, [], "9" * 5000])
def test_an_unusable_lifetime_does_not_cost_the_refresh_token(expires_in: object) -> None:
    """The tokens of the response are read whatever the value of ``expires_in``."""
    outcome = outcome_of(200, GOOD | {"expires_in": expires_in})
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token == Secret("r")


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (60, 60),
        ("1800", 1800),
        (1799.5, 1799.5),
        ("1799.5", 1799.5),
        (0.25, 0.25),
        (0, 0),
        ("0", 0),
        (0.0, 0),
        (-5, 0),
        ("-5", 0),
        (-1e300, 0),
        (1e9, None),
        (1e300, None),
        (float("inf"), None),
        (float("nan"), None),
        ("9" * 5000, None),
        ("1e3", None),
        ("1800 ", None),
        ("", None),
        (True, None),
        ([1800], None),
        (None, None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_lifetime_may_be_digits_or_a_fraction(expires_in: object, seconds: float | None) -> None:
    """RFC 6749 section 5.1 demands a number; servers differ. One that is not positive means that
    the token has expired already."""
    outcome = outcome_of(200, GOOD | {"expires_in": expires_in})
    assert isinstance(outcome, Issued)
    assert outcome.lifetime == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("refresh_token", "line\nbreak"),
        ("refresh_token", ""),
        ("scope", "line\nbreak"),
        ("scope", ["line\nbreak", 5, None, ["x"]]),
        ("scope", ["a" * 5000, "b" * 5000]),
        ("scope", {"x": 1}),
        ("scope", 5),
        ("scope", None),
        ("token_type", "Bearer\r\n"),
        ("token_type", 5),
    ],
)
def test_a_malformed_field_counts_as_missing_and_costs_no_other(field: str, value: object) -> None:
    """The response is read as if the field were not there (RFC 6749 appendix A)."""
    without = {name: content for name, content in GOOD.items() if name != field}
    outcome = outcome_of(200, GOOD | {field: value})
    assert isinstance(outcome, Issued)
    assert outcome == outcome_of(200, without)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("x y", ("x", "y")),
        ("x", ("x",)),
        (" x  y ", ("x", "y")),
        ("x,y", ("x", "y")),
        ("x, y", ("x", "y")),
        (["x", "y"], ("x", "y")),
        (["x y", "z"], ("x", "y", "z")),
        (["x", 5, None, "", "b\x00d", ["y"], "y"], ("x", "y")),
        ("https://api.example/a.read urn:b", ("https://api.example/a.read", "urn:b")),
        ("", ()),
        (" , ", ()),
        ([], ()),
    ],
)
def test_scopes_are_separated_by_spaces_or_commas_or_are_an_array(
    scope: object, scopes: tuple[str, ...]
) -> None:
    """RFC 6749 section 3.3 demands spaces; an entry of an array that is no scope is skipped."""
    outcome = outcome_of(200, GOOD | {"scope": scope})
    assert isinstance(outcome, Issued)
    assert outcome.scopes == scopes


def test_a_refresh_token_may_hold_a_space() -> None:
    """RFC 6749 section A.17 permits it; a bearer token may not (RFC 6750 section 2.1)."""
    outcome = outcome_of(200, GOOD | {"refresh_token": "two words"})
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token == Secret("two words")
    assert isinstance(outcome_of(200, GOOD | {"access_token": "two words"}), Unknown)


@pytest.mark.parametrize("read", [read_token_response, read_revocation_response])
@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b""), (302, b""), (401, b"login"), (400, b'{"error": "slow_down"}'), (200, b"{}")],
)
def test_a_failing_server_may_demand_a_wait(read: Any, status: int, body: bytes) -> None:
    """RFC 9110 section 10.2.3: ``Retry-After`` comes with each unclear response."""
    outcome = read(Response(status, {"Retry-After": "77"}, body), NOW)
    if read is read_revocation_response and status == 200:
        assert outcome is None
    else:
        assert isinstance(outcome, Unknown)
        assert outcome.retry_after == timedelta(seconds=77)


@pytest.mark.parametrize(
    ("token_type", "shown"),
    [
        ("Bearer", "Bearer"),
        ("bearer", "Bearer"),
        ("BEARER", "Bearer"),
        ("DPoP", "DPoP"),
        ("urn:x:t-1", "urn:x:t-1"),
    ],
)
def test_the_case_of_a_token_type_does_not_matter(token_type: str, shown: str) -> None:
    """RFC 6749 section 5.1; a program that puts it into a header receives the usual case."""
    outcome = outcome_of(200, GOOD | {"token_type": token_type})
    assert isinstance(outcome, Issued)
    assert outcome.token_type == shown


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226])
@pytest.mark.safeguard(
    file="xero/protocol.py",
    old="return 200 <= status < 300",
    new="return status == 200",
    protects_from="a new refresh token that is thrown away for an unusual status",
)
def test_each_2xx_with_an_access_token_is_issued(status: int) -> None:
    """RFC 6749 section 5.1 demands 200. The server has rotated the refresh token all the same."""
    outcome = outcome_of(status, GOOD)
    assert isinstance(outcome, Issued)
    assert outcome.refresh_token == Secret("r")


@pytest.mark.parametrize("status", [100, 302, 400, 401, 403, 429, 500])
def test_tokens_in_another_response_are_not_issued(status: int) -> None:
    """The response of an error may hold an example."""
    assert not isinstance(outcome_of(status, GOOD), Issued)


def test_a_byte_order_mark_does_not_matter() -> None:
    """RFC 8259 section 8.1 lets a reader ignore it."""
    mark = b"\xef\xbb\xbf"
    assert outcome_of(200, mark + json.dumps(GOOD).encode()) == outcome_of(200, GOOD)
    assert isinstance(outcome_of(400, mark + b'{"error": "invalid_grant"}'), Refused)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": ""}',
        b"[" * 100000,
        b"\xff\xfe",
    ],
)
def test_a_200_without_a_token_is_unknown(body: bytes) -> None:
    """The page of a captive portal, or half a response, says nothing about the token."""
    assert isinstance(outcome_of(200, body), Unknown)


@pytest.mark.safeguard(
    file="xero/protocol.py",
    old='if code == "invalid_grant":',
    new="if code:",
    protects_from="any 4xx, or a page with that word in it, that costs the login",
)
def test_only_invalid_grant_itself_refuses_a_token() -> None:
    """Neither a substring, nor another status, nor text that is not JSON does."""
    assert isinstance(outcome_of(400, {"error": "invalid_grant"}), Refused)
    assert isinstance(outcome_of(401, {"error": "invalid_grant"}), Refused)
    for status, content in (
        (400, b"invalid_grant"),
        (400, {"error": "not invalid_grant"}),
        (400, {"error": "not_invalid_grant"}),
        (400, {"error": "Invalid_Grant"}),
        (401, {"error": "slow_down"}),
        (400, {"message": "invalid_grant"}),
        (400, {"error": ["invalid_grant"]}),
        (400, ["invalid_grant"]),
        (403, {"error": "invalid_grant"}),
        (500, {"error": "invalid_grant"}),
        (200, {"error": "invalid_grant"}),
    ):
        assert not isinstance(outcome_of(status, content), Refused), (status, content)


@pytest.mark.parametrize(
    "code",
    [
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_request",
    ],
)
def test_the_other_errors_of_oauth_refuse_the_client(code: str) -> None:
    """They refuse no token; the code is kept for the operator."""
    outcome = outcome_of(400, {"error": code})
    assert isinstance(outcome, ClientRefused)
    assert outcome.code == code


@pytest.mark.parametrize(
    ("status", "content", "detail"),
    [
        (400, {"error": "slow_down"}, "status 400, error slow_down, and says nothing"),
        (401, {"error": "Access.Denied-1"}, "status 401, error Access.Denied-1, and"),
        (403, {"error": "invalid_client"}, "status 403, error invalid_client, and"),
        (403, {"error": "invalid_grant"}, "status 403, error invalid_grant, and"),
        (500, {"error": "server_error"}, "status 500, error server_error, and"),
        (503, {"error": "temporarily_unavailable"}, "error temporarily_unavailable, and"),
        (
            200,
            {"error": "slow_down"},
            "status 200, error slow_down, but is not the JSON of a token",
        ),
        (200, {}, "status 200 but is not the JSON of a token"),
        (204, b"", "status 204 but is not the JSON of a token"),
        (400, {"error": "x" * 65}, "status 400 and says nothing"),
        (400, {"error": "a b"}, "status 400 and says nothing"),
        (400, {"error": "line\n"}, "status 400 and says nothing"),
        (400, {"error": "\u202e"}, "status 400 and says nothing"),
        (400, {"error": ""}, "status 400 and says nothing"),
        (400, {"error": {"code": "x"}}, "status 400 and says nothing"),
        (400, {"error_description": "slow_down"}, "status 400 and says nothing"),
        (400, ["slow_down"], "status 400 and says nothing"),
        (302, b"", "status 302, a redirect, which is not followed, and says nothing"),
        (307, b"", "status 307, a redirect, which is not followed, and says nothing"),
        (503, b"<html>", "status 503 and says nothing about the token"),
    ],
)
def test_an_unclear_response_is_named_by_its_status_and_its_error_code(
    status: int, content: object, detail: str
) -> None:
    """The code alone, with safe characters: they are fewer than in RFC 6749 section 5.2."""
    outcome = outcome_of(status, content)
    assert isinstance(outcome, Unknown)
    assert detail in outcome.detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("9" * 5000, 10**6),
        ("Mon, 23 Nov 2026 12:01:00 GMT", 60),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """RFC 9110 section 10.2.3; any other value is ignored."""
    outcome = outcome_of(429, b"", **({"Retry_After": header} if header else {}))
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == (None if seconds is None else timedelta(seconds=seconds))


@given(status=st.integers(100, 599), body=st.binary(max_size=200))
def test_random_bytes_neither_refuse_nor_issue_a_token(status: int, body: bytes) -> None:
    """Every response has an outcome."""
    assert isinstance(outcome_of(status, body), Unknown | Throttled)


def test_a_detail_never_repeats_what_the_server_sent() -> None:
    """A response that echoes the token cannot put it into a log."""
    for status in (200, 302, 400, 401, 403, 429, 500):
        for content in (
            b"canary",
            {"error_description": "canary"},
            {"error": 5, "x": "canary"},
            {"error": "the canary"},
            {"error": "slow_down", "error_description": "canary", "error_uri": "canary"},
        ):
            assert "canary" not in str(outcome_of(status, content))


def test_an_error_code_that_is_the_token_is_not_shown() -> None:
    """A broken server may echo any part of the request there."""
    token = Secret("canary-4b1d7c0e5f2a49d6")
    outcome = outcome_of(400, {"error": token.reveal()})
    assert isinstance(outcome, Unknown)
    assert "canary" not in outcome.detail


# ---------- responses of the other endpoints


def test_a_token_is_revoked_by_a_2xx_or_because_it_is_unknown() -> None:
    """RFC 7009 section 2.2; every other response is a failure."""
    assert revoked(200, b"") is None
    assert revoked(204, b"") is None
    assert revoked(400, {"error": "invalid_grant"}) is None
    assert isinstance(revoked(400, {"error": "invalid_client"}), ClientRefused)
    assert isinstance(revoked(429, b""), Throttled)
    assert isinstance(revoked(302, b""), Unknown)
    assert isinstance(revoked(503, b"<html>"), Unknown)


@pytest.mark.parametrize("status", [400, 401])
def test_a_server_that_cannot_revoke_a_refresh_token_is_a_failure_with_its_code(
    status: int,
) -> None:
    """RFC 7009 section 2.2.1. A retry does not help, so the next one waits for an operator; at the
    token endpoint the code says nothing."""
    failure = revoked(status, {"error": "unsupported_token_type"})
    assert isinstance(failure, ClientRefused)
    assert failure.code == "unsupported_token_type"
    assert "unsupported_token_type" in failure.detail
    assert isinstance(outcome_of(status, {"error": "unsupported_token_type"}), Unknown)


# ---------- what is kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token_type", "x" * 129),
        ("token_type", "Bearer\x1b"),
        ("scope", "a " * 5000),
        ("scope", "a\u202eb"),
        ("refresh_token", "x" * 16385),
        ("refresh_token", "x\ud800"),
    ],
    ids=ascii,
)
def test_a_field_of_a_token_response_is_bounded_and_printable(field: str, value: str) -> None:
    """Otherwise it counts as missing; the access token is kept."""
    content = {"access_token": "a", "expires_in": 1800, field: value}
    outcome = read_token_response(Response(200, {}, json.dumps(content).encode()), NOW)
    assert isinstance(outcome, Issued)
    assert outcome.token_type == "Bearer"
    assert (outcome.scopes, outcome.refresh_token) == (None, None)
