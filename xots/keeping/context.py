"""``Context``: the parts of one account's keeper, which every operation on the account shares."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import msgspec

from ..backends.base import Lease, TokenStore
from ..clock import Clock
from ..events import Event
from ..lifecycle.account import Account, RefreshToken
from ..lifecycle.outcomes import ClientRefused
from ..lifecycle.outlook import Outlook, outlook
from ..lifecycle.policy import Grant, Policy
from ..lifecycle.schedule import (
    Idle,
    State,
    Step,
    next_step,
    state_of,
)
from ..safe_text import safe_text
from ..secret import Secret
from ..xero.http import XeroClient
from ..xero.protocol import Credentials
from .changes import Changes
from .replica import Replica
from .reporting import Situation
from .siblings import FindSiblings
from .store_clock import StoreClock
from .usage import Usage

__all__ = ["Context", "this_process"]

T = TypeVar("T")


def this_process() -> str:
    """Return host name and process id, for the record's ``by`` fields."""
    return f"{safe_text(socket.gethostname(), 64)}:{os.getpid()}"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The account's name and policy, its replica, and the store, the client and the clock to
    use."""

    name: str
    policy: Policy
    replica: Replica
    store: TokenStore
    xero: XeroClient
    configured: Credentials | None
    """The client's credentials in the settings, if they are there."""
    scopes: tuple[str, ...]
    """The scopes in the settings: those of a grant without a login."""
    tenant_id: str | None
    """The organisation that the settings name."""
    clock: Clock
    rng: random.Random
    """The source of jitter."""
    process: str
    """Host name and process id, for the record's ``by`` fields."""
    emit: Callable[[Event], None]
    usage: Usage
    changes: Changes
    store_clock: StoreClock
    siblings: FindSiblings
    """Finds the other accounts that a revocation of this one's tokens would end too."""

    @property
    def server_name(self) -> str:
        """The name of the identity server in the middle of a sentence."""
        return self.xero.identity_server.name

    @property
    def account(self) -> Account:
        """The record, its dates corrected for clock changes. ``replica.account`` is as stored."""
        return self.replica.dated()

    @property
    def state(self) -> State:
        """The state of the record."""
        return state_of(
            self.account, self.clock.now(), self.policy, is_configured=self.configured is not None
        )

    @property
    def is_foreign(self) -> bool:
        """True if the record's tokens are those of another identity server or grant, or of another
        client without a login. They are neither served nor sent."""
        account = self.replica.account  # no date of it matters here, and dating takes time
        if account.token_url not in (None, self.xero.identity_server.token_url):
            return True
        is_client = self.policy.grant is Grant.CLIENT_CREDENTIALS
        if account.consent_id is None or self.lacks_credentials:
            return False
        if account.without_user is not is_client:
            return True
        return (
            is_client
            and self.configured is not None
            and (account.client_id != self.configured.client_id)
        )

    @property
    def lacks_credentials(self) -> bool:
        """True if the grant needs the client's credentials of the settings, and these hold none.
        Then no request is made."""
        return self.policy.grant is Grant.CLIENT_CREDENTIALS and self.configured is None

    @property
    def has_list(self) -> bool:
        """True if the identity server lists organisations."""
        return self.xero.identity_server.has_organisations

    @property
    def credentials(self) -> list[Credentials]:
        """The credentials to authenticate with, the likeliest first; empty if there are none.

        Both secrets are tried if the settings hold another one than the record: neither a new
        secret nor a mistyped one costs the login. The settings' credentials of another client are
        used only once no login and no revocation is left. Those of the record are not for another
        identity server than the one that they were entered for.
        """
        account, configured = self.replica.account, self.configured
        if account.client_id is None or self.is_foreign:
            return [configured] if configured else []
        kept = Credentials(client_id=account.client_id, client_secret=account.client_secret)
        if configured is None or configured == kept:
            return [kept]
        if configured.client_id == kept.client_id:
            return [configured, kept]
        return [kept] if account.consent_id or account.revocation else [configured]

    @property
    def outlook(self) -> Outlook:
        """What is retried and when, and when a user must log in if nothing improves."""
        result_is_unsaved = self.replica.unsaved and not self.replica.rolled_back
        found = outlook(
            self.account,
            self.clock.now(),
            self.policy,
            unsaved=result_is_unsaved,
            ahead=self.keeps_fresh,
            lacks_credentials=self.lacks_credentials,
        )
        if self.is_foreign:  # tokens of another identity server are left alone
            return msgspec.structs.replace(found, retrying=None, next_attempt_at=None)
        return found

    @property
    def keeps_fresh(self) -> bool:
        """True if the access token is to be refreshed ahead of its expiry."""
        return self.usage.keeps_fresh(self.clock.elapsed())

    def situation(self) -> Situation:
        """Return a snapshot for events and errors."""
        return Situation(
            name=self.name,
            at=self.clock.now(),
            account=self.account,
            policy=self.policy,
            state=self.state,
            outlook=self.outlook,
            unsaved=self.replica.unsaved,
            store_problem=self.replica.problem,
            server=self.server_name,
        )

    def next_step(
        self,
        *,
        min_life: timedelta | None = None,
        expected_current: str | None = None,
        by_user: bool = False,
    ) -> Step:
        """Return the next step: see ``schedule.next_step``. Nothing is done about foreign tokens,
        nor without the credentials that the grant needs."""
        if self.is_foreign or self.lacks_credentials:
            return Idle()
        return next_step(
            self.account,
            self.clock.now(),
            self.policy,
            ahead=self.keeps_fresh,
            min_life=min_life,
            expected_current=expected_current,
            by_user=by_user,
        )

    def may_send(self, lease: Lease) -> bool:
        """Tell if this process may send one of the record's refresh tokens to Xero now."""
        return not lease.lost and not self.is_foreign and bool(self.credentials)

    async def authenticated(
        self,
        request: Callable[[Credentials, Secret], Awaitable[T]],
        token: RefreshToken,
        lease: Lease,
    ) -> tuple[Credentials, T]:
        """Send ``request`` with the likeliest credentials. If Xero refuses them, send it with the
        next, unless the lease has run out meanwhile."""
        *others, last = self.credentials
        for credentials in others:
            outcome = await request(credentials, token.value)
            refused = isinstance(outcome, ClientRefused) and outcome.code == "invalid_client"
            if lease.lost or not refused:
                return credentials, outcome
        return last, await request(last, token.value)
