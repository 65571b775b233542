"""Accounts that share their fate at Xero: which they are, and what one of them may delete."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.accounts import NOW

from xots.lifecycle.account import Account, Organisation, RefreshToken
from xots.lifecycle.logins import after_end
from xots.lifecycle.sharing import is_use_known, own_organisations, shares_fate
from xots.secret import Secret

URL = "https://id.example/token"


def account(tenant_id: str | None = "one", event: str | None = "event-a") -> Account:
    """A live login with its chosen organisation and its consent's event."""
    return Account(
        client_id="client",
        token_url=URL,
        consent_id=f"consent-{event}",
        consented_at=NOW,
        xero_userid="ada",
        tenant_id=tenant_id,
        auth_event_id=event,
        current=RefreshToken(value=Secret(f"token-{event}"), obtained_at=NOW),
    )


def listed(tenant_id: str, event: str | None) -> Organisation:
    return Organisation(connection_id=f"c-{tenant_id}", tenant_id=tenant_id, auth_event_id=event)


A, B = account("one", "event-a"), account("two", "event-b")


@pytest.mark.safeguard(
    file="lifecycle/sharing.py",
    old="return one is None or other is None or one == other",
    new="return one == other",
    protects_from="ending the login of an account whose record of an old version names no user",
)
@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({}, {}, True),
        ({}, {"xero_userid": "bo"}, False),
        ({}, {"client_id": "another"}, False),
        ({}, {"token_url": "https://other.example/token"}, False),
        ({"xero_userid": None}, {}, True),
        ({}, {"xero_userid": None}, True),
        ({"token_url": None}, {}, True),
        ({}, {"consent_id": None}, False),
        ({}, {"current": None}, False),
    ],
)
def test_live_logins_of_one_client_and_one_user_share_their_fate(
    ours: dict[str, str | None], theirs: dict[str, str | None], expected: bool
) -> None:
    """A user or server that a record does not know may be the same one."""
    assert shares_fate(replace(A, **ours), replace(B, **theirs)) is expected


def test_a_login_whose_tokens_xero_has_refused_has_nothing_to_lose() -> None:
    """It would keep its siblings from being revoked for ever."""
    assert B.current is not None
    lost = replace(B, current=replace(B.current, refused_at=NOW))
    assert not shares_fate(A, lost)


def test_an_ended_login_still_has_siblings_and_is_none() -> None:
    """Its revocation is pending, and would end the others."""
    ended = after_end(A, forget=False, now=NOW)
    assert shares_fate(ended, B)
    assert not shares_fate(B, ended)


def test_the_chosen_organisation_and_those_of_the_own_consent_are_own() -> None:
    """A connection names the last consent that included it, whichever made it."""
    found = [listed("one", "event-x"), listed("two", "event-a"), listed("three", "event-x")]
    assert [one.tenant_id for one in own_organisations(A, [], found)] == ["one", "two"]


def test_the_chosen_organisation_is_found_whatever_its_case() -> None:
    """The settings may write its id in capitals."""
    found = [listed("one", None)]
    assert own_organisations(replace(A, tenant_id="ONE"), [], found) == found
    assert own_organisations(A, [replace(B, tenant_id="ONE")], found) == []


def test_without_an_event_only_the_chosen_organisation_is_own() -> None:
    """Two unknown events are not the same event."""
    found = [listed("one", None), listed("two", None)]
    own = own_organisations(replace(A, auth_event_id=None), [], found)
    assert [one.tenant_id for one in own] == ["one"]
    assert own_organisations(replace(A, auth_event_id=None, tenant_id=None), [], found) == []


@pytest.mark.safeguard(
    file="lifecycle/sharing.py",
    old="if not any(_uses(sibling, one) for sibling in known)",
    new="if True",
    protects_from="disconnecting the organisation of an account that stays",
)
def test_what_a_sibling_uses_is_spared() -> None:
    """That is its chosen organisation, and the connections of its consent."""
    found = [listed("one", "event-b"), listed("two", "event-a"), listed("three", "event-a")]
    own = own_organisations(A, [None, B], found)
    assert [one.tenant_id for one in own] == ["three"]


def test_the_use_of_a_sibling_without_a_choice_is_unknown() -> None:
    """So is that of a record which cannot be read."""
    assert is_use_known(B)
    assert not is_use_known(replace(B, tenant_id=None))
    assert not is_use_known(None)
