"""The organisation (tenant) that an account uses: checked against the lists of the login. Pure.

A tenant id from the settings or a form is only a demand until a list was read. A list that could
not be read proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from .account import MAX_ORGANISATIONS, Account, Organisation

__all__ = ["MAX_LISTS_WITHOUT", "after_list", "tenant_problem", "verified_tenant"]

MAX_LISTS_WITHOUT = 2
"""Number of lists in a row without the chosen organisation, after which it counts as vanished."""


def after_list(account: Account, found: Sequence[Organisation], *, listed_at: datetime) -> Account:
    """Return the account after its login's organisations were listed.

    The first list of a login verifies the demanded organisation; without a demand, the only one is
    used. Later lists count how often the chosen one was missing.
    """
    listed, is_first = tuple(found[:MAX_ORGANISATIONS]), account.organisations is None
    tenant_id = account.tenant_id
    if is_first and tenant_id is None and len({one.tenant_id for one in found}) == 1:
        tenant_id = found[0].tenant_id
    missed = 0
    if tenant_id is not None and _as_listed(tenant_id, found) is None:
        missed = MAX_LISTS_WITHOUT if is_first else account.lists_without_tenant + 1
    missed = min(missed, MAX_LISTS_WITHOUT)
    if is_first:
        tenant_id = _as_listed(tenant_id, found) or tenant_id
    return replace(
        account,
        tenant_id=tenant_id,
        organisations=listed,
        listed_at=account.listed_at if account.organisations == listed else listed_at,
        lists_without_tenant=missed,
    )


def _as_listed(tenant_id: str | None, found: Sequence[Organisation]) -> str | None:
    """Return the tenant id as Xero writes it; None if it is not listed."""
    wanted = (tenant_id or "").lower()
    return next((one.tenant_id for one in found if one.tenant_id.lower() == wanted), None)


def verified_tenant(account: Account, *, has_list: bool) -> str | None:
    """Return the organisation that callers are told to use; None if there is none, or it could not
    be verified. ``has_list``: the identity server lists organisations."""
    return None if tenant_problem(account, has_list=has_list) else account.tenant_id


def tenant_problem(account: Account, *, has_list: bool) -> str | None:
    """Return why callers are told no organisation although one may be chosen; None if they are told
    one, if none is chosen, or if the identity server has none."""
    if account.consent_id is None or not has_list:
        return None
    if account.organisations is None:
        return (
            "the organisations of this login could not be listed yet; the list is requested again "
            "at each refresh"
        )
    if account.lists_without_tenant >= MAX_LISTS_WITHOUT:
        return (
            "the chosen organisation is not connected: choose another one at /home, correct "
            "tenant_id in the settings, or log in again"
        )
    return None
