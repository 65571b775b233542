"""The record and its secrets."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from xots.errors import SealError
from xots.lifecycle.account import (
    AccessToken,
    Account,
    Intent,
    Problem,
    ProblemKind,
    RefreshToken,
    UnknownFormat,
    decode,
    encode,
)
from xots.sealing import Sealer
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
CANARY = "canary-4f1d"

FULL = Account(
    generation=3,
    write_id="w",
    client_id="client",
    client_secret=Secret(CANARY + "-secret"),
    token_url="https://id.example/token",
    tenant_id="tenant",
    consent_id="consent",
    consented_at=NOW,
    scopes_requested=("offline_access",),
    scopes_granted=("offline_access", "openid"),
    access=AccessToken(value=Secret(CANARY + "-access"), issued_at=NOW, expires_at=NOW),
    current=RefreshToken(value=Secret(CANARY + "-current"), obtained_at=NOW, first_spent_at=NOW),
    fallbacks=(RefreshToken(value=Secret(CANARY + "-rival"), obtained_at=NOW, refused_at=NOW),),
    intent=Intent(by="host:1", began_at=NOW, fingerprint="f", set_first_spent=True),
    retry_not_before=NOW,
    failed_attempts=2,
    responses_without_token=1,
    problem=Problem(kind=ProblemKind.UNKNOWN, detail="reset", at=NOW),
    refreshed_at=NOW,
    refreshed_by="host:1",
)


def test_a_record_survives_its_encoding() -> None:
    """Every field comes back as it went, to the microsecond."""
    assert decode(encode(FULL)) == FULL
    assert decode(encode(Account())) == Account()


@pytest.mark.safeguard(
    file="lifecycle/account.py",
    old="forbid_unknown_fields=True",
    new="forbid_unknown_fields=False",
    protects_from="a write of an older version that drops what a newer one kept",
)
def test_a_field_that_is_not_known_is_refused() -> None:
    """What a newer version kept is not silently dropped."""
    with pytest.raises(UnknownFormat, match="not a record that this version"):
        decode(encode(FULL).replace(b'"failed_attempts"', b'"failed_trials"'))


def test_no_text_made_of_a_record_shows_a_secret() -> None:
    """``repr``, ``str`` and formatting mask every secret, however deep it lies."""
    for text in (
        repr(FULL),
        str(FULL),
        f"{FULL}",
        f"{FULL.client_secret}",
        f"{FULL.client_secret!r}",
        repr([FULL]),
    ):
        assert CANARY not in text


def test_a_secret_is_not_pickled() -> None:
    """Pickling or copying a secret by accident fails."""
    for act in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            act(Secret("x"))


def test_secrets_compare_by_value_and_have_fingerprints() -> None:
    """Equal values are equal; a fingerprint is 12 hex digits and tells values apart."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a").fingerprint != Secret("b").fingerprint
    assert len(Secret("a").fingerprint) == 12


@pytest.mark.safeguard(
    file="sealing.py",
    old=" or envelope.context != dict(context):",
    new=":",
    protects_from="one account's record put in the place of another's",
)
def test_sealed_text_opens_with_the_same_purpose_and_owner_only() -> None:
    """A text copied to another purpose, name or key does not open there."""
    sealer = Sealer.for_this_process()
    sealed = sealer.seal(encode(FULL), "account", {"name": "default"})
    assert CANARY.encode() not in sealed
    assert decode(sealer.open(sealed, "account", {"name": "default"})) == FULL
    for purpose, context in (
        ("cookie", {"name": "default"}),
        ("account", {"name": "other"}),
        ("account", {}),
    ):
        with pytest.raises(SealError, match="another purpose or owner"):
            sealer.open(sealed, purpose, context)
    with pytest.raises(SealError, match="another key, or tampered"):
        Sealer.for_this_process().open(sealed, "account", {"name": "default"})


def test_tampered_and_unsealed_texts_are_refused() -> None:
    """Nothing unsealed passes through, and no bit may be changed."""
    sealer = Sealer.for_this_process()
    sealed = sealer.seal(b"{}", "account", {})
    for bad in (b"", b"{}", encode(FULL), sealed[:-1], sealed[:-2] + b"AA", b"A" + sealed[1:]):
        with pytest.raises(SealError):
            sealer.open(bad, "account", {})


def test_a_second_key_opens_what_it_sealed_before() -> None:
    """The first key seals, all keys open: so keys can be rotated."""
    old, new = Secret("K" * 43 + "="), Secret("L" * 42 + "A=")
    sealed = Sealer([old]).seal(b"{}", "account", {})
    assert Sealer([new, old]).open(sealed, "account", {}) == b"{}"
    with pytest.raises(SealError):
        Sealer([old]).open(Sealer([new, old]).seal(b"{}", "account", {}), "account", {})


@pytest.mark.parametrize(
    "key", ["", "short", "not base64 at all, but long enough to be one!!", CANARY * 4]
)
def test_a_malformed_key_is_named_by_its_place_never_shown(key: str) -> None:
    """The message tells which key is malformed, and does not repeat it."""
    with pytest.raises(SealError, match="sealing key 2 is malformed") as caught:
        Sealer([Secret("K" * 43 + "="), Secret(key)])
    assert not key or key not in str(caught.value)


def test_a_fallback_is_replaced_where_it_stands_without_a_current_token() -> None:
    """It does not become the current one."""
    first, second = (RefreshToken(value=Secret(value), obtained_at=NOW) for value in ("a", "b"))
    account = Account(fallbacks=(first, second))
    refused = replace(first, refused_at=NOW)
    assert account.with_token(refused) == Account(fallbacks=(refused, second))
