"""Many accounts in one real store, with a simulated Xero and one clock that is set.

The accounts have logged in at different times of the 50 days before, so that some of them need the
rotation by age each day. The records are written as the keeper writes them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from support.inside import maintenance_of
from support.redis_servers import RedisServer

from xots.accounts.accounts import Accounts
from xots.accounts.config import AccountConfig
from xots.accounts.keepers import Shared
from xots.backends import open_store
from xots.backends.base import TokenStore
from xots.keeping.changes import Changes
from xots.keeping.record_store import RecordStore
from xots.keeping.store_clock import StoreClock
from xots.keeping.usage import Fresh
from xots.lifecycle.account import Account, Entry
from xots.lifecycle.logins import after_login
from xots.lifecycle.outcomes import Issued
from xots.lifecycle.policy import Policy, staggered
from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Identity,
    Sandbox,
    SandboxOptions,
    User,
    fingerprint,
)
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials, Response, read_token_response

SCOPES = ("offline_access", "accounting.transactions")
WEB_APP = Credentials(client_id=DEFAULT_CLIENT_ID, client_secret=Secret(DEFAULT_CLIENT_SECRET))

OLDEST = timedelta(days=49.99)
"""The age of the oldest login at the start: no rotation is due yet."""

OLD = 0.1
"""The part of the accounts that need the rotation by age during the run, besides those that need it
because of the spread of all logins."""

WRITES_AT_ONCE = 20
"""Records that are written at the same time before the start."""


def cheap_token(claims: Mapping[str, object], *, min_length: int = 0) -> str:
    """Return the claims in the form of a JWT. Nothing here verifies its signature, and that of RSA
    would take most of the time of a run."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, dict(claims))]
    head, body = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    signature = base64.urlsafe_b64encode(hashlib.sha512(body.encode()).digest() * 4).decode()
    return f"{head}.{body}.{signature.rstrip('=')}".ljust(min_length, "A")


class Place:
    """A store that several managers open, each for itself. Use it as a context manager."""

    def __init__(self, kind: str) -> None:
        self.redis = RedisServer() if kind == "redis" else None
        self._folder = None if kind == "redis" else Path(tempfile.mkdtemp(prefix="xots-accounts-"))

    def __enter__(self) -> Place:
        if self.redis is not None:
            self.redis.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.redis is not None:
            self.redis.__exit__(*error)
        if self._folder is not None:
            shutil.rmtree(self._folder)

    def open(self) -> TokenStore:
        """Return a new opening of the store."""
        if self.redis is not None:
            return open_store(self.redis.unix_url)
        assert self._folder is not None
        return open_store(self._folder.as_uri())

    def requests(self) -> int:
        """Return the number of commands that Redis has carried out; 0 without Redis."""
        if self.redis is None:
            return 0
        stats = self.redis.admin.info("commandstats")
        return sum(stat["calls"] for name, stat in stats.items() if name != "cmdstat_info")

    def cpu_seconds(self) -> float:
        """Return the processor time that Redis has used; 0 without Redis."""
        if self.redis is None:
            return 0.0
        found = self.redis.admin.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    def connections(self) -> int:
        """Return the number of connections to Redis, without the one that asks."""
        return 0 if self.redis is None else len(self.redis.admin.client_list()) - 1


@dataclass
class World:
    """Accounts in a store, managers of them, and the simulated Xero."""

    sandbox: Sandbox
    clock: FakeClock
    place: Place
    sealer: Sealer = field(default_factory=Sealer.for_this_process)
    policy: Policy = Policy()
    always: set[str] = field(default_factory=set)
    """The accounts that are kept fresh without callers."""
    logged_in_at: dict[str, datetime] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """The account of each refresh token that a login issued, by the token's fingerprint."""
    managers: list[Accounts] = field(default_factory=list)
    _opened: dict[Accounts, tuple[TokenStore, XeroClient]] = field(default_factory=dict)

    # ---------- the accounts

    async def fill(self, ages: Mapping[str, timedelta]) -> None:
        """Log in to each account, and advance the clock until the logins have these ages."""
        store, oldest_first = self.place.open(), sorted(ages, key=lambda name: -ages[name])
        ended_at = self.clock.now() + max(ages.values())
        writes = set[asyncio.Task[None]]()
        for name in oldest_first:
            self._advance_to(ended_at - ages[name])
            writes.add(asyncio.create_task(self._write(store, name, self._log_in(name))))
            if len(writes) >= WRITES_AT_ONCE:
                await asyncio.gather(*writes)
                writes.clear()
        await asyncio.gather(*writes)
        self._advance_to(ended_at)
        await store.close()

    def _advance_to(self, time: datetime) -> None:
        self.clock.advance((time - self.clock.now()).total_seconds())

    def _log_in(self, name: str) -> Account:
        """Log a user of its own in to the account, and return the record."""
        now = self.clock.now()
        account, token = new_record(self.sandbox, name, now)
        self.owners[token] = name
        self.logged_in_at[name] = now
        return account

    async def _write(self, store: TokenStore, name: str, account: Account) -> None:
        config, now = self.configured(name, account.entry, None), account.consented_at
        assert now is not None
        await RecordStore(
            store, self.sealer, name, lambda account: config.indexed_at(account, now)
        ).swap(account, None)

    async def record(self, store: TokenStore, name: str) -> Account:
        """Return the stored record of an account."""
        record = RecordStore(store, self.sealer, name)
        return record.opened(await record.read())

    def policy_of(self, name: str) -> Policy:
        """Return the policy of an account."""
        return staggered(self.policy, name)

    def configured(
        self, name: str, entry: Entry | None, client: XeroClient | None
    ) -> AccountConfig:
        """Return the settings of an account."""
        return AccountConfig(
            name=name,
            source="the run",
            is_fixed=False,
            credentials=WEB_APP,
            scopes=SCOPES,
            tenant_id=None,
            pkce=False,
            policy=self.policy_of(name),
            fresh=Fresh.ALWAYS if name in self.always else Fresh.USED,
            xero=client,  # type: ignore[arg-type] # None: it is only indexed
            entry=entry,
            problems=lambda _: [],
        )

    # ---------- the managers

    async def manager(self, seed: int = 7) -> Accounts:
        """Start a manager, as a process of its own would: with its own opening of the store."""
        store, client = self.place.open(), self._client()
        shared = Shared(
            store=store,
            sealer=self.sealer,
            clock=self.clock,
            rng=random.Random(seed),  # noqa: S311 - jitter
            observers=[],
            changes=Changes(store),
            store_clock=StoreClock(store, self.clock),
        )
        await store.warnings()
        accounts = Accounts(shared, lambda name, entry: self.configured(name, entry, client))
        self.managers.append(accounts)
        self._opened[accounts] = (store, client)
        await accounts.start()
        return accounts

    async def close(self, *managers: Accounts) -> None:
        """Stop these managers; all of them if none is named."""
        for accounts in managers or tuple(self.managers):
            await accounts.close()
            store, client = self._opened.pop(accounts)
            client.close()
            await store.close()
            self.managers.remove(accounts)

    async def tick(self, managers: Iterable[Accounts]) -> None:
        """Tick these managers at once, and wait until all that was due is done."""
        managers = tuple(managers)
        await asyncio.gather(*(accounts.maintain() for accounts in managers))
        await self.settle(managers)

    async def settle(self, managers: Iterable[Accounts]) -> None:
        """Wait until no account is in maintenance."""
        while tasks := {task for accounts in managers for task in maintenance_of(accounts)}:
            await asyncio.wait(tasks)

    def _client(self) -> XeroClient:
        endpoints = IdentityServer(
            authorize_url=self.sandbox.authorize_url,
            token_url=self.sandbox.token_url,
            revoke_url=self.sandbox.revoke_url,
            connections_url=self.sandbox.connections_url,
        )
        return XeroClient(endpoints, clock=self.clock)


def new_record(sandbox: Sandbox, name: str, now: datetime) -> tuple[Account, str]:
    """Log the user ``name`` in. Return the record, and the fingerprint of its refresh token."""
    content = json.dumps(sandbox.log_in(SCOPES, user_id=name).fields).encode()
    issued = read_token_response(Response(200, {}, content), now)
    assert isinstance(issued, Issued)
    assert issued.refresh_token is not None
    account = after_login(
        Account(generation=1, write_id="login", entry=Entry(added_at=now)),
        issued,
        consent_id=name,
        client_id=WEB_APP.client_id,
        client_secret=WEB_APP.client_secret,
        token_url=sandbox.token_url,
        tenant_id=None,
        scopes_requested=SCOPES,
        began_at=now,
    )
    return account, fingerprint(issued.refresh_token.reveal())


def names_of(count: int) -> list[str]:
    """Return the names of so many accounts."""
    return [f"account-{number:05}" for number in range(count)]


def age_of_login(rng: random.Random, hours: float) -> timedelta:
    """Return the age of a login at the start of a run of so many hours."""
    return OLDEST - (timedelta(hours=hours) if rng.random() < OLD else OLDEST) * rng.random()


@asynccontextmanager
async def new_world(
    kind: str,
    count: int,
    *,
    hours: float = 24,
    seed: int = 1,
    always: Callable[[str], bool] = lambda _: False,
    beside: World | None = None,
    users: int = 0,
) -> AsyncIterator[World]:
    """Make a store of ``kind`` with so many accounts, each logged in.

    Args:
        kind: ``redis`` or ``file``.
        count: the number of accounts.
        hours: the duration of the run.
        seed: the seed of the times of the logins.
        always: tells which accounts are kept fresh without callers.
        beside: another world, whose Xero and clock this one shares. All logins are made now.
        users: the number of users at Xero, if a world beside this one has more accounts.
    """
    names, rng = names_of(count), random.Random(seed)  # noqa: S311 - repeatable
    async with AsyncExitStack() as opened:
        place = opened.enter_context(Place(kind))
        clock = FakeClock() if beside is None else beside.clock
        if beside is None:
            options = SandboxOptions(
                port=0, users=tuple(map(User, names_of(max(count, users)))), seed=seed
            )
            sandbox = Sandbox(options, clock.now)
            sandbox.world.identity = Identity(
                options.clients, users=options.users, mint=cheap_token, random=rng
            )
            await opened.enter_async_context(sandbox)
        else:
            sandbox = beside.sandbox
        made = World(sandbox, clock, place, always=set(filter(always, names)))
        if beside is None:
            await made.fill({name: age_of_login(rng, hours) for name in names})
        else:
            await made.fill(dict.fromkeys(names, timedelta(0)))
        opened.push_async_callback(made.close)
        yield made
