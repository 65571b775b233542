"""Secrets: never shown, never pickled."""

from __future__ import annotations

import copy
import pickle

import pytest

from xots.secret import Secret


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
