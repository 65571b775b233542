"""The record, its fields and its encoding."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.accounts import CANARY, FULL, MINUTE, NOW

from xots.lifecycle.account import AccessToken, Account, RefreshToken
from xots.lifecycle.record_json import UnknownFormat, decode, encode
from xots.secret import Secret


def test_a_record_survives_its_encoding() -> None:
    """Each field is the same after it, to the microsecond."""
    assert decode(encode(FULL)) == FULL
    assert decode(encode(Account())) == Account()


@pytest.mark.safeguard(
    file="lifecycle/account.py",
    old="forbid_unknown_fields=True",
    new="forbid_unknown_fields=False",
    protects_from="a write of an older version that drops what a newer one kept",
)
def test_an_unknown_field_is_refused() -> None:
    """A field of a newer version is not dropped silently."""
    with pytest.raises(UnknownFormat, match="not a record that this version"):
        decode(encode(FULL).replace(b'"failed_attempts"', b'"failed_trials"'))


def test_no_text_made_of_a_record_shows_a_secret() -> None:
    """``repr``, ``str`` and formatting mask every secret, at any depth."""
    for text in (
        repr(FULL),
        str(FULL),
        f"{FULL}",
        f"{FULL.client_secret}",
        f"{FULL.client_secret!r}",
        repr([FULL]),
    ):
        assert CANARY not in text


def test_a_fallback_is_replaced_in_its_place_without_a_current_token() -> None:
    """It does not become the current one."""
    first, second = (RefreshToken(value=Secret(value), obtained_at=NOW) for value in ("a", "b"))
    account = Account(fallbacks=(first, second))
    refused = replace(first, refused_at=NOW)
    assert account.with_token(refused) == Account(fallbacks=(refused, second))


def test_an_access_tokens_lifetime_is_from_issue_to_expiry() -> None:
    """It does not depend on the time of the call."""
    token = AccessToken(value=Secret("a"), issued_at=NOW, expires_at=NOW + MINUTE)
    assert token.lifetime == MINUTE
