"""``AccountConfig``: the settings of one account, as its keeper and its pages need them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from ..keeping.usage import Fresh
from ..lifecycle.account import Account, Entry
from ..lifecycle.attention import attention_at
from ..lifecycle.policy import Grant, Policy
from ..xero.http import XeroClient
from ..xero.identity_server import IdentityServer
from ..xero.protocol import Credentials
from ..xero.scopes import login_problem

__all__ = ["AccountConfig", "Configure"]


class AccountConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one account, combined from the files and its record's entry."""

    name: str
    source: str
    """Where the account is declared, for messages and lists."""
    is_fixed: bool
    """True if it is declared in the settings, so that it cannot be removed at run time."""
    credentials: Credentials | None
    """The client's credentials in the settings or the entry; None if a user enters them."""
    scopes: tuple[str, ...]
    tenant_id: str | None
    pkce: bool
    policy: Policy
    fresh: Fresh
    xero: XeroClient
    """The client of its identity server. Accounts of one identity server share it."""
    entry: Entry | None
    """The entry that these settings were combined with."""
    problems: Callable[[Account], list[str]]
    """Return a sentence for each setting that describes another login than this record."""

    @property
    def identity_server(self) -> IdentityServer:
        """Its identity server."""
        return self.xero.identity_server

    @property
    def scope_problem(self) -> str | None:
        """Why a login with the scopes would bring no refresh token; None if it may bring one."""
        if self.policy.grant is not Grant.AUTHORIZATION_CODE:
            return None
        return login_problem(self.scopes, self.identity_server)

    @property
    def needs_login(self) -> bool:
        """True if a user must log in; False for a client that gets tokens by itself."""
        return self.policy.grant is Grant.AUTHORIZATION_CODE

    @property
    def lacks_credentials(self) -> bool:
        """True if the grant needs the client's credentials of the settings, and these hold none."""
        return not self.needs_login and self.credentials is None

    def is_removed(self, account: Account) -> bool:
        """Tell if the account with this record was removed. One in the settings stays."""
        return account.removed and not self.is_fixed

    def indexed_at(self, account: Account, now: datetime) -> datetime | None:
        """Return when this record needs attention, whether callers use the account or not: the time
        for the store's index."""
        if self.lacks_credentials:
            return None
        ahead = self.fresh is Fresh.ALWAYS and not self.is_removed(account)
        return attention_at(account, now, self.policy, ahead=ahead)


Configure = Callable[[str, Entry | None], AccountConfig]
"""Return the settings of the account of this name, whose record has this entry."""
