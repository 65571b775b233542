"""The record, its fields and its encoding."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.accounts import CANARY, FULL, MINUTE, NOW

from xots.lifecycle.account import (
    BOUNDS,
    MAX_IN_FLIGHT_FALLBACKS,
    MAX_LOGIN_PROBLEM_LENGTH,
    MAX_LOGIN_STATES,
    MAX_NAME_LENGTH,
    MAX_NOTICES,
    MAX_ORGANISATIONS,
    MAX_REFRESH_NOTES,
    MAX_SPENT_FALLBACKS,
    MAX_TOMBSTONES,
    AccessToken,
    Account,
    LoginState,
    Notice,
    Organisation,
    ProblemKind,
    RefreshNote,
    RefreshToken,
    valid_id,
)
from xots.lifecycle.record_json import UnknownFormat, decode, encode
from xots.sealing import Sealer
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


UUID = "fe79f7dd-b6d4-4a92-ba7b-538af6289c58"


def with_long_lists(name: str, longer_by: int) -> Account:
    """Return a record whose lists are all at their bounds, or ``longer_by`` longer."""
    organisation = Organisation(
        connection_id=UUID, tenant_id=UUID, name=name, kind="ORGANISATION", auth_event_id=UUID
    )
    notes = [
        RefreshNote(at=NOW - n * MINUTE, by="h" * 64, ok=False, kind=ProblemKind.CLIENT_REFUSED)
        for n in range(MAX_REFRESH_NOTES + longer_by)
    ]
    state = LoginState(digest="f" * 64, at=NOW, problem="x" * (MAX_LOGIN_PROBLEM_LENGTH + 1))
    notice = Notice(kind="k" * 32, key="k" * 64, at=NOW)
    return replace(
        FULL,
        access=replace(FULL.access, value=Secret("a" * 2200)) if FULL.access else None,
        fallbacks=tuple(
            RefreshToken(value=Secret(f"{n:043}"), obtained_at=NOW, first_spent_at=NOW)
            for n in range(MAX_IN_FLIGHT_FALLBACKS + MAX_SPENT_FALLBACKS)
        ),
        tombstones=tuple(f"{n:012}" for n in range(MAX_TOMBSTONES)),
        organisations=(organisation,) * (MAX_ORGANISATIONS + longer_by),
        refreshes=tuple(notes),
        login_states=(state,) * (MAX_LOGIN_STATES + longer_by),
        notices=(notice,) * (MAX_NOTICES + longer_by),
    )


@pytest.mark.safeguard(
    file="lifecycle/account.py",
    old="if found is not None and len(found) > bound:",
    new="if False:",
    protects_from="a record that grows until the store refuses it",
)
def test_each_list_is_cut_to_its_bound_however_the_record_is_made() -> None:
    """The constructor, a replacement and the decoder cut alike, and keep the first ones."""
    made = with_long_lists("Demo", 5)
    assert {name: len(getattr(made, name)) for name in BOUNDS} == BOUNDS
    assert made.refreshes[0].at == NOW
    assert made == with_long_lists("Demo", 0) == decode(encode(made))
    assert made.login_states[0].problem == "x" * MAX_LOGIN_PROBLEM_LENGTH
    assert len(Account(notices=made.notices * 2).notices) == MAX_NOTICES


@pytest.mark.parametrize(
    ("name", "at_most"), [("Demo Company (NZ) Limited", 64), ("\U0001f9fe" * 200, 128)]
)
def test_a_record_with_every_list_full_stays_small(name: str, at_most: int) -> None:
    """A write costs little, and the store never refuses it. Sizes are in kB, sealed, with tokens
    as long as Xero's."""
    sealed = Sealer.for_this_process().seal(
        encode(with_long_lists(name, 5)), "account", {"name": "n"}
    )
    print(f"sealed record with every list full: {len(sealed) / 1000:.1f} kB")
    assert len(sealed) < at_most * 1000


def test_a_long_name_of_an_organisation_is_cut() -> None:
    """Xero's names are shorter."""
    organisation = Organisation(tenant_id="t", name="\u3042" * 101)
    assert organisation.name == "\u3042" * MAX_NAME_LENGTH


@pytest.mark.parametrize(
    "value", ["", "a" * 65, "a b", "a\n", "\u0661", "a_b", None, 1, True, ["a"], b"a", {"a": 1}]
)
def test_an_id_from_outside_is_kept_only_if_it_is_plain(value: object) -> None:
    """Any other value counts as missing."""
    assert valid_id(value) is None
    assert valid_id(UUID) == UUID
    assert valid_id("A" * 64) == "A" * 64
