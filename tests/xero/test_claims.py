"""The claims of an access token, read without trust in their form."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xots.lifecycle.outcomes import Issued
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.claims import Claims, claims_of
from xots.xero.protocol import Response, read_token_response

USER = "9f6b5c1e-8c1d-4d3e-9a55-0a8c5f4e2b1d"
EVENT = "d0ddcf81-f942-4f4d-b3c7-f98045204db4"
CLAIMS = {"xero_userid": USER, "authentication_event_id": EVENT, "jti": "x"}


def jwt(payload: bytes, signature: str = "c2ln") -> str:
    """Return a token with this payload, as Xero writes it: base64url without padding."""
    return (
        f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.{signature}"
    )


def read(content: object) -> Claims:
    return claims_of(Secret(jwt(json.dumps(content).encode())))


def test_the_claims_of_xeros_token_are_read() -> None:
    """The login may have no id: Xero does not always send it."""
    assert read(CLAIMS) == Claims(USER, EVENT)
    assert read({"xero_userid": USER}) == Claims(USER, None)
    assert read({"authentication_event_id": EVENT}) == Claims(None, EVENT)
    for length in range(4):  # each length of the padding
        assert read(CLAIMS | {"jti": "x" * length}) == Claims(USER, EVENT)


@pytest.mark.safeguard(
    file="lifecycle/account.py",
    old="if isinstance(value, str) and VALID_ID.fullmatch(value) else None",
    new="if isinstance(value, str) else None",
    protects_from="a claim in the record that forges a line of the log or fills the record",
)
@pytest.mark.parametrize(
    "value", [None, 7, True, ["a"], {"a": 1}, "", "a" * 65, "a b", "a\n", "\x1b[2J", "é", "<b>"]
)
def test_a_claim_of_another_form_counts_as_missing(value: object) -> None:
    """The other claim is not lost with it."""
    assert read(CLAIMS | {"xero_userid": value}) == Claims(None, EVENT)
    assert read(CLAIMS | {"authentication_event_id": value}) == Claims(USER, None)


@pytest.mark.parametrize(
    "token",
    [
        *["", ".", "..", "...", "opaque", "a.b", "a.!!!.c", "a.é.c", "a.b.c.d", "a..c", "a.YQ==.c"],
        *[jwt(content) for content in (b"", b"[]", b"null", b"7", b"\xff", b"{", b'{"a":NaN')],
        *[jwt(b"[" * 9000), jwt(b'{"a":' + b"9" * 9000 + b"}"), jwt(b'"\\ud800"')],
        jwt(json.dumps(CLAIMS | {"jti": "x" * 20000}).encode()),
    ],
    ids=lambda token: ascii(token)[:20],
)
def test_a_token_of_another_form_has_no_claims(token: str) -> None:
    """Another identity server's token may be any text."""
    assert claims_of(Secret(token)) == Claims()


@given(st.text() | st.builds(jwt, st.binary()))
def test_no_token_raises(token: str) -> None:
    """The reader is called for each response of the token endpoint."""
    claims_of(Secret(token))


def test_the_outcome_of_a_request_holds_the_claims() -> None:
    """A login and a refresh learn them alike."""
    body = {"access_token": jwt(json.dumps(CLAIMS).encode()), "refresh_token": "r"}
    outcome = read_token_response(Response(200, {}, json.dumps(body).encode()), FakeClock().now())
    assert isinstance(outcome, Issued)
    assert (outcome.xero_userid, outcome.auth_event_id) == (USER, EVENT)
