"""``Bench``: a simulated Xero, a store that fails on demand, and keepers on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from xots.backends.base import Stored
from xots.events import Event
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.keeping.siblings import siblings_in
from xots.lifecycle.account import Account
from xots.lifecycle.policy import Policy
from xots.lifecycle.record_json import decode, encode
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_REDIRECT_URI,
    Endpoint,
    Sandbox,
    SandboxOptions,
)
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock, FlakyStore
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
UNLIMITED = Policy(refresh_interval=timedelta(0))
"""The default policy without the shortest interval: most tests refresh twice at one instant."""
SCOPES = ("offline_access", "accounting.transactions")
WEB_APP = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))


class Bench:
    """A sandbox, a store, and keepers on them."""

    def __init__(self, sandbox: Sandbox, clock: FakeClock) -> None:
        self.sandbox, self.clock = sandbox, clock
        self.store = FlakyStore()
        self.sealer = Sealer.for_this_process()
        self.events: list[Event] = []
        self.keepers: list[TokenKeeper] = []

    def record(self, name: str = "default") -> Account:
        """Return the record of the store."""
        stored = self.store.dump()[name]
        return decode(self.sealer.open(stored.value, "account", {"name": name}))

    def overwrite(self, change: Callable[[Account], Account], name: str = "default") -> None:
        """Write as another process does whose lease has expired."""
        kept = self.record(name)
        changed = change(replace(kept, intent=None))
        changed = replace(
            changed, generation=kept.generation + 1, write_id=f"other{kept.generation}"
        )
        self.put(changed, f"other{kept.generation}", name)

    def put(self, account: Account, version: str, name: str = "default") -> None:
        """Replace the stored record, without a check of its version."""
        sealed = self.sealer.seal(encode(account), "account", {"name": name})
        self.store.restore(self.store.dump() | {name: Stored(sealed, version)})

    def client(self, clock: FakeClock | None = None, **changes: str) -> XeroClient:
        """Return a client for the sandbox; ``changes`` are other endpoints."""
        urls: dict[str, Any] = {
            "authorize_url": self.sandbox.authorize_url,
            "token_url": self.sandbox.token_url,
            "revoke_url": self.sandbox.revoke_url,
            "connections_url": self.sandbox.connections_url,
        }
        return XeroClient(IdentityServer(**(urls | changes)), clock=clock or self.clock)

    async def keeper(
        self, clock: FakeClock | None = None, xero: XeroClient | None = None, **options: Any
    ) -> TokenKeeper:
        """Start a keeper on a host with ``clock``; by default, the clock is that of Xero."""
        clock = clock or self.clock
        siblings = siblings_in(self.store, self.sealer, options.get("name", "default"))
        defaults: dict[str, Any] = {"policy": UNLIMITED, "siblings": siblings}
        keeper = TokenKeeper(
            self.store,
            xero or self.client(clock),
            self.sealer,
            rng=random.Random(7),  # noqa: S311 - jitter
            observers=[self.events.append],
            clock=clock,
            **(defaults | options),
        )
        self.keepers.append(keeper)
        await keeper.start()
        return keeper

    def attempt(
        self,
        tenant_ids: Sequence[str] | None = None,
        *,
        user_id: str | None = None,
        client: Credentials = WEB_APP,
        **changes: object,
    ) -> LoginAttempt:
        """Return an attempt with a code of its own; ``changes`` are other fields.

        ``tenant_ids`` are the organisations that the user connects; None is the first one. So is
        ``user_id``, the user.
        """
        identity = self.sandbox.identity
        request = identity.check_authorization(
            {
                "response_type": "code",
                "client_id": client.client_id,
                "redirect_uri": DEFAULT_REDIRECT_URI,
                "scope": " ".join(SCOPES),
                "state": "s",
            }
        )
        if tenant_ids is None:
            tenant_ids = list(self.sandbox.world.accounting.organisations)[:1]
        now = self.sandbox.clock()
        code = identity.consent(request, now, tenant_ids=tenant_ids, user_id=user_id)["code"]
        given = {
            "credentials": client,
            "code": Secret(code),
            "verifier": None,
            "scopes": SCOPES,
        } | changes
        return LoginAttempt(redirect_uri=DEFAULT_REDIRECT_URI, **given)  # type: ignore[arg-type]

    async def held_refresh(self, keeper: TokenKeeper) -> asyncio.Task[None]:
        """Start a refresh whose response Xero holds back, after it has issued."""
        self.sandbox.add_fault("refresh:nth=1:hold-after")
        refresh = asyncio.create_task(keeper.refresh())
        await self.sandbox.held()
        return refresh

    async def unsaved_refresh(self, keeper: TokenKeeper) -> None:
        """Refresh while the store fails after Xero has issued: only memory holds the new token."""
        refresh = await self.held_refresh(keeper)
        self.store.fail("swap", "read")
        self.sandbox.release()
        await refresh

    async def held_login(self, keeper: TokenKeeper) -> asyncio.Task[None]:
        """Start a login whose token response Xero holds back, after it has issued."""
        self.sandbox.add_fault("token:nth=1:hold-after")
        login = asyncio.create_task(keeper.login(self.attempt()))
        await self.sandbox.held()
        return login

    async def logged_in(self) -> TokenKeeper:
        """Start a keeper and log in."""
        keeper = await self.keeper()
        await keeper.login(self.attempt())
        return keeper

    def xero_would_issue(self) -> bool:
        """Tell if Xero would issue from a token of the store. This is the invariant."""
        account = self.record()
        tokens = [t for t in (account.current, *account.fallbacks) if t is not None]
        return any(
            self.sandbox.identity.would_issue(t.value.reveal(), self.clock.now()) for t in tokens
        )

    def happened(self, kind: type[Event]) -> int:
        """Return the number of events of a type."""
        return sum(isinstance(event, kind) for event in self.events)


@asynccontextmanager
async def running_bench(options: SandboxOptions) -> AsyncIterator[Bench]:
    """Run a sandbox with these options and a bench on it."""
    clock = FakeClock(START)
    async with Sandbox(options, clock.now) as sandbox:
        bench = Bench(sandbox, clock)
        yield bench
        bench.store.repair()
        sandbox.release()
        for keeper in bench.keepers:
            await keeper.close()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true. Fail after a time that no healthy run needs."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def revocations(bench: Bench) -> int:
    """Return the number of requests to the revocation endpoint."""
    return sum(request.endpoint is Endpoint.REVOCATION for request in bench.sandbox.log)
