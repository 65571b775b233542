"""The organisation in use: verified by a list before callers are told it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.accounts import MINUTE, NOW, logged_in

from xots.lifecycle.account import MAX_ORGANISATIONS, Account, Organisation
from xots.lifecycle.tenants import after_list, tenant_problem, verified_tenant

ONE = Organisation(tenant_id="One-1", name="One")
TWO = Organisation(tenant_id="two-2", name="Two")


def listed(account: Account, *found: Organisation) -> Account:
    """Return the account after a list."""
    return after_list(account, found, listed_at=NOW)


def demanding(tenant_id: str | None) -> Account:
    """Return the record of a login whose organisations could not be listed."""
    return replace(logged_in(), tenant_id=tenant_id)


@pytest.mark.safeguard(
    file="lifecycle/tenants.py",
    old="    if account.organisations is None:\n        return (\n",
    new="    if False:\n        return (\n",
    protects_from="postings to an organisation that the login may not cover",
)
def test_an_organisation_is_not_served_before_a_list_was_read() -> None:
    """It is only a demand of the settings or of the form."""
    account = demanding("one-1")
    assert verified_tenant(account, has_list=True) is None
    assert "could not be listed" in str(tenant_problem(account, has_list=True))
    assert verified_tenant(listed(account, ONE, TWO), has_list=True) == "One-1"


def test_an_identity_server_without_a_list_has_the_organisation_of_the_settings() -> None:
    """There is nothing to verify it by."""
    assert verified_tenant(demanding("one-1"), has_list=False) == "one-1"
    assert tenant_problem(demanding(None), has_list=False) is None


@pytest.mark.parametrize(
    ("demanded", "found", "used"),
    [
        ("one-1", (ONE, TWO), "One-1"),
        ("three", (ONE, TWO), None),
        ("three", (ONE,), None),
        (None, (ONE,), "One-1"),
        (None, (ONE, TWO), None),
        (None, (), None),
        ("one-1", (), None),
    ],
)
def test_the_first_list_decides(
    demanded: str | None, found: tuple[Organisation, ...], used: str | None
) -> None:
    """The demanded organisation, or the only one if none is demanded."""
    account = listed(demanding(demanded), *found)
    assert verified_tenant(account, has_list=True) == used
    is_missing = demanded is not None and used is None
    assert (tenant_problem(account, has_list=True) is not None) == is_missing


def test_a_later_list_chooses_no_organisation() -> None:
    """A user may have left the choice open."""
    account = listed(listed(demanding(None), ONE, TWO), ONE)
    assert account.tenant_id is None


def test_an_organisation_has_vanished_after_two_lists_without_it() -> None:
    """One list may be incomplete. It is back with the next list that holds it."""
    account = listed(demanding("one-1"), ONE, TWO)
    once = listed(account, TWO)
    assert verified_tenant(once, has_list=True) == "One-1"
    twice = listed(once, TWO)
    assert verified_tenant(twice, has_list=True) is None
    assert "is not connected" in str(tenant_problem(twice, has_list=True))
    assert listed(twice, TWO) == twice
    assert verified_tenant(listed(twice, ONE, TWO), has_list=True) == "One-1"
    assert verified_tenant(listed(listed(once, ONE, TWO), TWO), has_list=True) == "One-1"


def test_the_same_list_changes_nothing() -> None:
    """So it need not be written, and keeps the time when it was new."""
    account = listed(demanding("one-1"), ONE, TWO)
    assert after_list(account, (ONE, TWO), listed_at=NOW + MINUTE) == account


def test_an_organisation_beyond_the_bound_is_listed_too() -> None:
    """The record keeps the first of a long list only."""
    many = [Organisation(tenant_id=f"t-{number}") for number in range(MAX_ORGANISATIONS + 1)]
    last = many[-1].tenant_id
    account = listed(demanding(last), *many)
    assert account.organisations is not None
    assert len(account.organisations) == MAX_ORGANISATIONS
    assert verified_tenant(listed(account, *many), has_list=True) == last


def test_without_a_login_there_is_no_problem_to_tell() -> None:
    """The missing login is told instead."""
    assert tenant_problem(Account(), has_list=True) is None
