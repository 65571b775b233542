"""Sealed bytes: they open with the same key, purpose and owner only."""

from __future__ import annotations

import pytest
from support.accounts import CANARY, FULL

from xots.errors import SealError
from xots.lifecycle.record_json import decode, encode
from xots.sealing import Sealer
from xots.secret import Secret


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
