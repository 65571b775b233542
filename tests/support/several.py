"""``Several``: accounts of several users on one store and one simulated Xero."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xots.accounts.accounts import Accounts
from xots.accounts.config import AccountConfig
from xots.accounts.keepers import Shared
from xots.backends.base import TokenStore
from xots.events import Event
from xots.keeping.changes import Changes
from xots.keeping.login import LoginAttempt
from xots.keeping.record_store import RecordStore
from xots.keeping.store_clock import StoreClock
from xots.keeping.usage import Fresh
from xots.lifecycle.account import Account, Entry
from xots.lifecycle.policy import Policy, staggered
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_REDIRECT_URI, Sandbox
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer

from .bench import SCOPES, WEB_APP

__all__ = ["Several"]


@dataclass
class Several:
    """Managers of accounts, as processes that share a store, and what they did."""

    sandbox: Sandbox
    clock: FakeClock
    store: TokenStore
    sealer: Sealer = field(default_factory=Sealer.for_this_process)
    fresh: Mapping[str, Fresh] = field(default_factory=dict)
    """The accounts whose token is not refreshed by use only."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """The problems of each account's settings."""
    policy: Policy = Policy()
    events: list[Event] = field(default_factory=list)
    managers: list[Accounts] = field(default_factory=list)
    clients: list[XeroClient] = field(default_factory=list)

    async def manager(
        self,
        store: TokenStore | None = None,
        *,
        seed: int = 7,
        max_accounts: int = 1000,
        declared: Mapping[str, str] | None = None,
    ) -> Accounts:
        """Start one more process; ``store`` is its own opening of the shared records."""
        store = store or self.store
        shared = Shared(
            store=store,
            sealer=self.sealer,
            clock=self.clock,
            rng=random.Random(seed),  # noqa: S311 - jitter
            observers=[self.events.append],
            changes=Changes(store),
            store_clock=StoreClock(store, self.clock),
        )
        accounts = Accounts(
            shared,
            self._configure(self._client()),
            declared=declared,
            max_accounts=max_accounts,
        )
        self.managers.append(accounts)
        await accounts.start()
        return accounts

    def _client(self) -> XeroClient:
        endpoints = IdentityServer(
            authorize_url=self.sandbox.authorize_url,
            token_url=self.sandbox.token_url,
            revoke_url=self.sandbox.revoke_url,
            connections_url=self.sandbox.connections_url,
        )
        client = XeroClient(endpoints, clock=self.clock)
        self.clients.append(client)
        return client

    def _configure(self, client: XeroClient) -> Callable[[str, Entry | None], AccountConfig]:
        def configured(name: str, entry: Entry | None) -> AccountConfig:
            return AccountConfig(
                name=name,
                source="the test",
                is_fixed=False,
                credentials=WEB_APP,
                scopes=SCOPES,
                tenant_id=None,
                pkce=False,
                policy=staggered(self.policy, name),
                fresh=self.fresh.get(name, Fresh.USED),
                xero=client,
                entry=entry,
                problems=lambda _: self.problems.get(name, []),
            )

        return configured

    def attempt(self, user_id: str | None = None) -> LoginAttempt:
        """Return an attempt of a user to log in with a code of their own."""
        identity = self.sandbox.identity
        request = identity.check_authorization(
            {
                "response_type": "code",
                "client_id": DEFAULT_CLIENT_ID,
                "redirect_uri": DEFAULT_REDIRECT_URI,
                "scope": " ".join(SCOPES),
                "state": "s",
            }
        )
        tenants = list(self.sandbox.world.accounting.organisations)[:1]
        code = identity.consent(request, self.sandbox.clock(), tenant_ids=tenants, user_id=user_id)[
            "code"
        ]
        return LoginAttempt(
            credentials=WEB_APP,
            code=Secret(code),
            verifier=None,
            redirect_uri=DEFAULT_REDIRECT_URI,
            scopes=SCOPES,
        )

    async def add(self, accounts: Accounts, *names: str, log_in: bool = True) -> None:
        """Add accounts at run time, and log in to each."""
        for name in names:
            await accounts.add(name, Entry(added_at=self.clock.now()))
            if log_in:
                async with accounts.opened(name) as found:
                    await found.keeper.login(self.attempt())

    async def record(self, name: str) -> Account:
        """Return the stored record of an account."""
        record = RecordStore(self.store, self.sealer, name)
        return record.opened(await record.read())

    def refreshes(self) -> int:
        """Return the number of refresh requests that Xero has received."""
        return len(self.sandbox.refreshes())

    async def close(self) -> None:
        """Stop all processes."""
        for accounts in self.managers:
            await accounts.close()
        for client in self.clients:
            client.close()
