"""``Keepers``: the open keepers of a process, opened when they are needed and closed when idle."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from ..backends.base import TokenStore
from ..backends.due_index import DueIndex
from ..clock import Clock
from ..errors import AccountUnusable
from ..events import Event, Observer, TokenRead
from ..keeping.acts import stopping
from ..keeping.changes import Changes
from ..keeping.keeper import TokenKeeper
from ..keeping.login import LOGIN_TIMEOUT
from ..keeping.record_store import RecordStore
from ..keeping.siblings import siblings_in
from ..keeping.store_clock import StoreClock
from ..keeping.usage import Fresh
from ..lifecycle.attention import attention_at
from ..sealing import Sealer
from ..tasks import Tasks
from .config import AccountConfig, Configure

__all__ = ["Keepers", "Opened", "Shared"]


MAX_KEPT_SECONDS = 3600.0
"""Upper bound on the time until an open account is looked at again."""

UNCLAIMED_TIMEOUT = timedelta(seconds=60)
"""Time after which a keeper is closed whose callers were all cancelled while it was opened."""


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that all keepers of a process share. The code that opened them closes them."""

    store: TokenStore
    sealer: Sealer
    clock: Clock
    rng: random.Random
    observers: list[Observer]
    """They receive every event of every account."""
    changes: Changes
    store_clock: StoreClock


class Opened(msgspec.Struct):
    """An open keeper."""

    config: AccountConfig
    keeper: TokenKeeper
    callers: int = 0
    """Callers and operations that use the keeper now."""
    kept_until: float = math.inf
    """Until when the keeper stays open without a caller, by ``Clock.elapsed``. The first caller
    sets it."""
    is_outdated: bool = False
    """True once the account was added or removed here since it was opened."""
    was_fresh: bool = False
    """True if the account counted as used when it was scheduled last."""

    @property
    def open_until(self) -> float:
        """Until when the keeper stays open, by ``Clock.elapsed``."""
        return max(self.kept_until, self.keeper.usage.until)

    def is_idle(self, elapsed: float) -> bool:
        """True if nothing is lost when the keeper is closed."""
        is_needed = self.callers > 0 or self.keeper.unsaved
        return not is_needed and elapsed >= self.open_until


class Keepers:
    """The open keepers.

    Args:
        shared: the parts that they share.
        configure: returns the settings of an account.
        observe: receives every event of an open keeper, with the keeper.
    """

    def __init__(
        self,
        shared: Shared,
        configure: Configure,
        observe: Callable[[Opened], None],
    ) -> None:
        self._shared = shared
        self._configure = configure
        self._observe = observe
        self._open: dict[str, Opened] = {}
        self._opening: dict[str, asyncio.Task[Opened]] = {}
        self._pinned: set[str] = set()
        self._due = DueIndex()
        self._tasks = Tasks()

    def names(self) -> list[str]:
        """Return the names of the open accounts, in order."""
        return sorted(self._open)

    def get(self, name: str) -> Opened | None:
        """Return an open keeper; None if the account is not open."""
        return self._open.get(name)

    def outdate(self, name: str) -> None:
        """Open the account anew at its next use: it was added or removed."""
        if (found := self._open.get(name)) is not None:
            found.is_outdated = True

    def schedule_all(self) -> None:
        """Schedule all open accounts anew, after the clock was set."""
        for name in tuple(self._open):
            self.schedule(name)

    async def pin(self, config: AccountConfig) -> TokenKeeper:
        """Open a keeper that stays open, whatever its record holds.

        Raises:
            StoreUnavailable, SealError: as ``TokenKeeper.start``.
        """
        keeper = await self._start(config)
        self._pinned.add(config.name)
        self._added(config, keeper)
        self._due.note(config.name, None)  # it is maintained at every tick
        return keeper

    async def enter(self, name: str, *, is_caller: bool, to_end: bool = False) -> Opened:
        """Return the open keeper of an account, and count one caller. ``leave`` ends that.

        Args:
            name: the account.
            is_caller: True for a request, after which the keeper stays open for a while.
            to_end: True if the caller only ends the login. It is one of another client or scopes
                than the settings describe, but never one of another identity server.

        Raises:
            AccountUnusable: its settings describe another login than its record.
            StoreUnavailable, SealError: its record cannot be read or opened.
            TokenUnavailable: the server is stopping.
        """
        if self._tasks.closed:
            raise stopping()
        while (found := self._open.get(name)) is None or self._is_outdated(found):
            if found is not None:
                self._close(name)
            await self._opened(name)
        if problems := _problems(found, to_end=to_end):
            if self._is_free(found):
                self._close(name)
            raise AccountUnusable("; ".join(problems))
        found.callers += 1
        self._keep(found, LOGIN_TIMEOUT.total_seconds() if is_caller else 0)
        return found

    def extend(self, keeper: TokenKeeper) -> bool:
        """Keep an open keeper open as a request does. Return False if ``enter`` would open another
        one, or refuse the request."""
        found = self._open.get(keeper.name)
        if found is None or found.keeper is not keeper or self._tasks.closed:
            return False
        is_removed = found.config.is_removed(keeper.account)
        if is_removed or self._has_other_settings(found) or _problems(found, to_end=False):
            return False
        self._keep(found, LOGIN_TIMEOUT.total_seconds())
        self.schedule(keeper.name)
        return True

    def leave(self, name: str) -> None:
        """End a use of the account. An idle keeper is closed."""
        found = self._open[name]
        found.callers -= 1
        self.schedule(name)

    def due(self, now: datetime, limit: int) -> list[str]:
        """Return the open accounts that are due for a refresh ahead, or to be closed."""
        return self._due.due(now, limit)

    def schedule(self, name: str, *, acted: bool = False) -> None:
        """Note when an open account is due next, or close it if it is idle. It is called after
        every event and every use.

        Args:
            name: the account.
            acted: True if the due operation has just been attempted.
        """
        found, clock = self._open.get(name), self._shared.clock
        if found is None or name in self._pinned or self._tasks.closed:
            return
        now, elapsed = clock.now(), clock.elapsed()
        if found.is_idle(elapsed):
            self._close(name)
            return
        keeper = found.keeper
        account, policy = keeper.account, keeper.policy
        found.was_fresh = keeper.usage.keeps_fresh(elapsed)
        kept = timedelta(seconds=min(max(found.open_until - elapsed, 0), MAX_KEPT_SECONDS))
        times = [now + kept]
        if (attention := attention_at(account, now, policy, ahead=found.was_fresh)) is not None:
            times.append(attention)
        if keeper.unsaved or keeper.store_problem is not None:
            times.append(now)
        not_before = now + timedelta(seconds=keeper.tick_seconds) if acted else now
        self._due.note(name, max(not_before, min(times)))

    def stop_waiting(self) -> None:
        """Let no operation wait for requests of others, before ``close``. Those that are in
        progress are concluded."""
        for found in self._open.values():
            found.config.xero.stop_waiting()

    async def close(self) -> None:
        """Close all keepers, and wait until every operation is concluded and written.

        Raises:
            StoreUnavailable: the store did not take an unsaved change in time.
        """
        await self._tasks.drain()  # from now on nothing is opened
        while self._opening:
            await asyncio.wait(self._opening.values())
        closing = [found.keeper.close() for found in self._open.values()]
        outcomes = await asyncio.gather(*closing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    # ---------- inside

    def _keep(self, found: Opened, seconds: float) -> None:
        """Keep a keeper open for this time from now on, at least."""
        kept_until = self._shared.clock.elapsed() + seconds
        is_first = found.kept_until == math.inf
        found.kept_until = kept_until if is_first else max(found.kept_until, kept_until)

    def _is_outdated(self, found: Opened) -> bool:
        """Tell if a keeper is to be closed, since its account has other settings now."""
        return self._has_other_settings(found) and self._is_free(found)

    def _has_other_settings(self, found: Opened) -> bool:
        """Tell if the account was added again with other settings since it was opened, here or by
        another process, whose write the keeper follows."""
        return found.is_outdated or found.keeper.account.entry != found.config.entry

    def _is_free(self, found: Opened) -> bool:
        """Tell if a keeper can be closed now: nothing uses it or would be lost."""
        is_pinned = found.config.name in self._pinned
        return found.callers == 0 and not found.keeper.unsaved and not is_pinned

    async def _opened(self, name: str) -> Opened:
        """Open a keeper, in one task that all callers share."""
        task = self._opening.get(name)
        if task is None:
            task = self._opening[name] = asyncio.create_task(self._open_now(name))
            task.add_done_callback(lambda _: self._opening.pop(name, None))
        return await asyncio.shield(task)

    async def _open_now(self, name: str) -> Opened:
        record = RecordStore(self._shared.store, self._shared.sealer, name)
        account = record.opened(await record.read())
        config = self._configure(name, account.entry)
        if config.is_removed(account):
            config = replace(config, fresh=Fresh.USED)  # no caller enters it
        return self._added(config, await self._start(config))

    def _added(self, config: AccountConfig, keeper: TokenKeeper) -> Opened:
        found = self._open[config.name] = Opened(config, keeper)
        self._due.note(config.name, self._shared.clock.now() + UNCLAIMED_TIMEOUT)
        self._observe(found)
        return found

    async def _start(self, config: AccountConfig) -> TokenKeeper:
        shared = self._shared
        keeper = TokenKeeper(
            shared.store,
            config.xero,
            shared.sealer,
            policy=config.policy,
            name=config.name,
            configured=config.credentials,
            scopes=config.scopes,
            tenant_id=config.tenant_id,
            fresh=config.fresh,
            observers=[self._emit],
            clock=shared.clock,
            rng=shared.rng,
            changes=shared.changes,
            store_clock=shared.store_clock,
            siblings=siblings_in(shared.store, shared.sealer, config.name),
        )
        await keeper.start()
        return keeper

    def _emit(self, event: Event) -> None:
        """Pass an event on, and schedule its account anew."""
        for observer in self._shared.observers:
            observer(event)
        found = self._open.get(event.account)
        if found is None or (isinstance(event, TokenRead) and found.was_fresh):
            return  # the due time of an account that is used already stays
        self.schedule(event.account)
        if not isinstance(event, TokenRead):
            self._observe(found)

    def _close(self, name: str) -> None:
        """Close a keeper in the background."""
        found = self._open.pop(name)
        self._due.note(name, None)
        self._tasks.start(found.keeper.close())


def _problems(found: Opened, *, to_end: bool) -> list[str]:
    """Return why the account cannot be used: nothing is served from a login that is another one
    than its settings describe, and nothing is sent to another identity server."""
    account = found.keeper.account
    is_foreign = account.token_url not in (None, found.config.identity_server.token_url)
    is_ended = account.consent_id is None
    return found.config.problems(account) if is_foreign or not (to_end or is_ended) else []
