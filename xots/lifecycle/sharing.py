"""Accounts that share their fate at Xero, and the connections that one of them may delete.

Xero keeps the connections of a user to an app, not of a login: one revocation ends all of that
user's logins to the app, with all connections. ``DELETE /connections/{id}`` disconnects one
organisation (Xero: "Connections"). The accounts that share a client and a Xero user are *siblings*
here. A connection names the last consent that included it, in ``auth_event_id``.
"""

from __future__ import annotations

from collections.abc import Iterable

from .account import Account, Organisation

__all__ = ["is_use_known", "is_user_known", "own_organisations", "shares_fate"]


def shares_fate(account: Account, other: Account) -> bool:
    """Tell if a revocation of ``account``'s tokens may end the login of ``other``, a live one.

    A record of an earlier version does not know its Xero user. Each user may be the same one then.
    """
    is_live = other.consent_id is not None and any(not t.refused_at for t in other.tokens)
    return (
        is_live
        and account.client_id == other.client_id
        and _may_be_same(account.token_url, other.token_url)
        and _may_be_same(account.xero_userid, other.xero_userid)
    )


def _may_be_same(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def is_user_known(account: Account, sibling: Account | None) -> bool:
    """Tell if a sibling surely has the same Xero user; None is one that cannot be read."""
    users = {account.xero_userid, sibling.xero_userid if sibling else None}
    return None not in users


def own_organisations(
    account: Account, siblings: Iterable[Account | None], listed: Iterable[Organisation]
) -> list[Organisation]:
    """Return the organisations that ``account`` uses and none of its siblings is known to use: of
    those listed, the chosen one and those of its own consent.

    Args:
        account: the account whose login ends.
        siblings: the records of its siblings; None for one that cannot be read.
        listed: all of the user's connections to the app.
    """
    known = [sibling for sibling in siblings if sibling is not None]
    own = [organisation for organisation in listed if _uses(account, organisation)]
    return [one for one in own if not any(_uses(sibling, one) for sibling in known)]


def is_use_known(sibling: Account | None) -> bool:
    """Tell if the organisations that a sibling uses are known. One without a chosen organisation
    may use any; so may one whose record cannot be read (None)."""
    return sibling is not None and sibling.tenant_id is not None


def _uses(account: Account, organisation: Organisation) -> bool:
    is_of_consent = (
        account.auth_event_id is not None and organisation.auth_event_id == account.auth_event_id
    )
    # A tenant id that was never checked against a list is written as the settings have it.
    chosen = (account.tenant_id or "").lower()
    return is_of_consent or organisation.tenant_id.lower() == chosen
