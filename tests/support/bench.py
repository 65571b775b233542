"""A simulated Xero, a store that fails on demand, and as many keepers on them as a test wants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from xots.backends.base import Stored
from xots.backends.memory import MemoryStore
from xots.errors import (
    StoreUnavailable,
)
from xots.events import (
    Event,
)
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.lifecycle.account import Account, decode, encode
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_REDIRECT_URI,
    Endpoint,
    Sandbox,
)
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient
from xots.xero.protocol import Credentials, Endpoints

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCOPES = ("offline_access", "accounting.transactions")
WEB_APP = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))


class TroubledStore(MemoryStore):
    """A memory store that fails on demand: by the name of the method, or after the write, when the reply is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.lose_replies = 0
        self.before_swap: Callable[[], None] | None = None

    async def read(self, name: str) -> Stored | None:
        if "read" in self.broken:
            raise StoreUnavailable("the disk is gone")
        if "second read" in self.broken:  # the first one still works
            self.broken = self.broken - {"second read"} | {"read", "swap"}
        return await super().read(name)

    def lapse(self) -> None:
        """Whoever holds the lease has slept past it."""
        self._locks.clear()

    async def check(self) -> None:
        if self.broken - {"read"}:
            raise StoreUnavailable("the disk is broken")

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        if "swap" in self.broken:
            raise StoreUnavailable("the disk is full")
        if self.before_swap is not None:
            act, self.before_swap = self.before_swap, None
            act()
        version = await super().swap(name, value, expected=expected)
        if self.lose_replies:
            self.lose_replies -= 1
            raise StoreUnavailable("the reply was lost")
        return version


class Bench:
    """A sandbox, a store, and as many keepers on them as a test wants."""

    def __init__(self, sandbox: Sandbox, clock: FakeClock) -> None:
        self.sandbox, self.clock = sandbox, clock
        self.store = TroubledStore()
        self.sealer = Sealer.for_this_process()
        self.events: list[Event] = []
        self.keepers: list[TokenKeeper] = []

    def kept(self) -> Account:
        """What the store holds."""
        stored = self.store._kept["default"]
        return decode(self.sealer.open(stored.value, "account", {"name": "default"}))

    def overwrite(self, change: Callable[[Account], Account]) -> None:
        """Write as another process would that slept past its lease."""
        kept = self.kept()
        changed = change(replace(kept, intent=None))
        changed = replace(
            changed, generation=kept.generation + 1, write_id=f"other{kept.generation}"
        )
        sealed = self.sealer.seal(encode(changed), "account", {"name": "default"})
        self.store._kept["default"] = Stored(sealed, f"other{kept.generation}")

    async def keeper(self, clock: FakeClock | None = None, **options: Any) -> TokenKeeper:
        """Start a keeper on a host that goes by ``clock``; by default the true one, Xero's."""
        clock = clock or self.clock
        endpoints = Endpoints(
            authorize_url=self.sandbox.authorize_url,
            token_url=self.sandbox.token_url,
            revoke_url=self.sandbox.revoke_url,
            connections_url=self.sandbox.connections_url,
        )
        keeper = TokenKeeper(
            self.store,
            XeroClient(endpoints, clock=clock),
            self.sealer,
            rng=random.Random(7),  # noqa: S311 - jitter
            observers=[self.events.append],
            clock=clock,
            **options,
        )
        self.keepers.append(keeper)
        await keeper.start()
        return keeper

    def attempt(self, **changes: object) -> LoginAttempt:
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
        tenants = list(self.sandbox.world.accounting.organisations)
        code = identity.consent(request, self.sandbox.clock(), tenant_ids=tenants[:1])["code"]
        given = {
            "credentials": WEB_APP,
            "code": Secret(code),
            "verifier": None,
            "scopes": SCOPES,
        } | changes
        return LoginAttempt(redirect_uri=DEFAULT_REDIRECT_URI, **given)  # type: ignore[arg-type]

    async def held_refresh(self, keeper: TokenKeeper) -> asyncio.Task[None]:
        """A refresh whose answer Xero holds back, after it has issued."""
        self.sandbox.add_fault("refresh:nth=1:hold-after")
        refresh = asyncio.create_task(keeper.refresh())
        await self.sandbox.held()
        return refresh

    async def held_login(self, keeper: TokenKeeper) -> asyncio.Task[None]:
        """A login whose token response Xero holds back, after it has issued."""
        self.sandbox.add_fault("token:nth=1:hold-after")
        login = asyncio.create_task(keeper.login(self.attempt()))
        await self.sandbox.held()
        return login

    async def logged_in(self) -> TokenKeeper:
        keeper = await self.keeper()
        await keeper.login(self.attempt())
        return keeper

    def issues_from(self, keeper: TokenKeeper) -> bool:
        """Would Xero issue from the token that the *store* holds? The invariant, in short."""
        account = self.kept()
        tokens = [t for t in (account.current, *account.fallbacks) if t is not None]
        return any(
            self.sandbox.identity.would_issue(t.value.reveal(), self.clock.now()) for t in tokens
        )

    def happened(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds; looks often, and gives up after a time that no healthy run needs."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def revocations(bench: Bench) -> int:
    return sum(request.endpoint is Endpoint.REVOCATION for request in bench.sandbox.log)
