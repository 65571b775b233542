"""Secrets: never shown, never pickled."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
import timeit
import tracemalloc
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus, urlencode

import pytest

from xots.secret import Secret, redacted


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


VALUE = 'k3y+of/the "one"%~ä'
TEXTS = {
    "as it is": VALUE,
    "JSON": json.dumps({"secret": VALUE}),
    "percent-encoded": urlencode({"client_secret": VALUE}),
    "percent-encoded in lower case": re.sub(
        "%..", lambda code: code[0].lower(), urlencode({"s": VALUE})
    ),
    "percent-encoded space": quote(VALUE, safe=""),
    **{
        f"base64 after {before} bytes": b64encode(b"x" * before + VALUE.encode() + b":").decode()
        for before in range(4)
    },
    "URL-safe base64": urlsafe_b64encode(b"x" + VALUE.encode()).decode(),
    "Basic": b64encode(f"id:{quote_plus(VALUE)}".encode()).decode(),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_live_secret_is_redacted_in_every_form(text: str) -> None:
    """A library may quote what it was sent. The words around the secret stay."""
    secret = Secret(VALUE)
    shown = redacted(f"before {text} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "[secret]" in shown
    assert len(shown) < len(f"before {text} after")
    for part in ("k3y", "k3y+of"):
        assert part not in shown
    del secret


@pytest.mark.safeguard(
    file="secret.py",
    old="key, value = id(secret), secret.reveal()",
    new="key, value = 0, secret.reveal()",
    protects_from="a secret in the log because an equal one was forgotten",
)
def test_a_value_is_redacted_while_one_of_its_secrets_lives() -> None:
    """The record and a request often hold equal secrets, of which one ends first."""
    first, second = Secret("equal-value"), Secret("equal-value")
    del second
    gc.collect()
    assert redacted("an equal-value here") == "an [secret] here"
    del first
    gc.collect()
    assert redacted("an equal-value here") == "an equal-value here"


def test_short_values_are_not_looked_for() -> None:
    """They occur in words by chance."""
    secret = Secret("the")
    assert redacted("these words") == "these words"
    del secret


def test_a_secret_that_holds_another_one_is_replaced_whole() -> None:
    """No rest of the longer one stays."""
    secrets = [Secret("inner-part"), Secret("outer-inner-part-outer")]
    assert redacted("outer-inner-part-outer, inner-part") == "[secret], [secret]"
    del secrets


def test_the_cost_does_not_grow_with_the_number_of_secrets() -> None:
    """Each request logs a line. A search for each secret in turn would take 100 times as long."""
    line = "200 GET /token 127.0.0.1 1ms" * 4

    def seconds() -> float:
        redacted(line)
        return min(timeit.repeat(lambda: redacted(line), number=100, repeat=5))

    few = [Secret(f"token-number-{number}") for number in range(10)]
    before = seconds()
    many = [Secret(f"{number}-token-number") for number in range(5000)]
    assert seconds() < 10 * before
    del few, many


def test_the_cost_does_not_grow_with_the_number_of_secrets_when_one_is_new() -> None:
    """A record that is read holds new secrets, which live for a moment. The tokens of thousands of
    accounts begin alike, as all JWTs do."""
    line = "account-00001: refreshed; the access token is valid for 30 minutes"

    def seconds() -> float:
        def look() -> None:
            secret = Secret("a-new-secret")
            redacted(line)
            del secret
            redacted(line)

        return min(timeit.repeat(look, number=10, repeat=5))

    few = [Secret(f"eyJhbGci-{number}") for number in range(10)]
    before = seconds()
    many = [Secret(f"eyJhbGci-{number}") for number in range(10, 3000)]
    redacted(line)
    assert seconds() < 10 * before
    del few, many


def test_a_value_is_redacted_again_once_a_new_secret_has_it() -> None:
    """The index forgets a value that no secret holds, and learns it anew."""
    for _ in range(2):
        secret = Secret("value-of-two")
        assert redacted("a value-of-two here") == "a [secret] here"
        del secret
        assert redacted("a value-of-two here") == "a value-of-two here"


def test_a_form_that_two_values_have_is_redacted_until_both_are_gone() -> None:
    """A value may be the percent-encoded form of another one."""
    encoded, plain = Secret("an%2Fexample"), Secret("an/example")
    assert redacted("an%2Fexample") == "[secret]"
    del encoded
    assert redacted("an%2Fexample") == "[secret]"
    del plain
    assert redacted("an%2Fexample") == "an%2Fexample"


def test_secrets_that_end_before_a_search_leave_nothing_behind() -> None:
    """A sweep reads the records of thousands of accounts without a line in the log."""
    redacted("a line of the log")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1000):
        Secret(f"value-{number}-" + "x" * 1000)
    assert tracemalloc.get_traced_memory()[0] - before < 100_000
    tracemalloc.stop()
