"""``Accounts``: the accounts of one process, for the rest of the program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from ..clock import MAX_CLOCK_SKEW
from ..errors import (
    AccountExists,
    AccountFixed,
    AccountUnusable,
    RecordUnusable,
    SealError,
    SettingsError,
    StoreUnavailable,
    TooManyAccounts,
    UnknownAccount,
    XotsError,
)
from ..events import AccountsChanged, Observer
from ..keeping.ending import EndOutcome
from ..keeping.keeper import TokenKeeper
from ..keeping.record_store import RecordStore
from ..keeping.replica import Replica
from ..keeping.siblings import siblings_in
from ..lifecycle.account import Account, Entry
from ..lifecycle.logins import after_added, after_removed
from .config import AccountConfig, Configure
from .directory import Directory, Glimpse, Summary, glimpse
from .keepers import Keepers, Opened, Shared
from .survey import Survey
from .work import Work

__all__ = ["Accounts", "unknown_account"]

LACKS_CREDENTIALS = (
    "client_id: the account inherits grant: client_credentials, which needs the client's own "
    "credentials: give client_id and client_secret"
)


def unknown_account(name: str) -> UnknownAccount:
    """Return the error for an account that does not exist."""
    return UnknownAccount(
        f"there is no account {name}; /accounts or xots account list shows the accounts"
    )


class Accounts:
    """All accounts of one process. ``start`` comes first, ``close`` last.

    Args:
        shared: the store, its sealer, and the other parts that all keepers share.
        configure: returns the settings of an account.
        default: the account that the paths without a name serve. Its keeper is always open.
        declared: the accounts in the settings, with the place of each.
        max_accounts: upper bound on the accounts that are added at run time.
    """

    default: TokenKeeper
    """The keeper of the default account, set by ``start``."""
    default_config: AccountConfig
    """Its settings, set by ``start``."""

    def __init__(
        self,
        shared: Shared,
        configure: Configure,
        *,
        default: str = "default",
        declared: Mapping[str, str] | None = None,
        max_accounts: int = 1000,
    ) -> None:
        self._shared = shared
        self._configure = configure
        self._name_of_default = default
        self._max_accounts = max_accounts
        self._adding: set[str] = set()
        self._directory = Directory({default: "the default account"} | dict(declared or {}))
        self._survey = Survey(shared, configure, self._directory, self._is_open)
        self._keepers = Keepers(shared, configure, self._survey.observe)
        clock = shared.clock
        self._clock_offset = clock.now().timestamp() - clock.elapsed()
        self._work = Work(
            default, self._due, self._maintain_one, clock=shared.clock, rng=shared.rng
        )

    # ---------- lifetime

    async def start(self) -> None:
        """Open the default account, learn the names of the others, and begin to watch the store.

        Raises:
            StoreUnavailable: the store cannot be read.
            SealError: the default account's record cannot be opened. It stays as it is.
        """
        store, name = self._shared.store, self._name_of_default
        record = RecordStore(store, self._shared.sealer, name)
        entry = record.opened(await record.read()).entry
        self.default_config = self._configure(name, entry)
        self.default = await self._keepers.pin(self.default_config)
        await self._survey.start()

    async def close(self) -> None:
        """Start nothing new, and close every keeper once its operations are concluded and written.

        Raises:
            StoreUnavailable: the store did not take an unsaved change in time.
        """
        self._keepers.stop_waiting()
        await self._survey.stop()
        await self._work.close()
        await self._keepers.close()

    # ---------- the accounts

    def names(self) -> list[str]:
        """Return the names of the accounts, in order."""
        return list(self._directory)

    @property
    def open_now(self) -> list[str]:
        """The names of the accounts whose keepers are open, in order."""
        return self._keepers.names()

    @property
    def busy(self) -> frozenset[str]:
        """The names of the accounts in maintenance."""
        return self._work.busy

    def summaries(self) -> list[Summary]:
        """Return a summary of each account, in the order of their names. It makes no request."""
        return self._directory.summaries()

    def siblings(self, name: str) -> dict[str, Glimpse]:
        """Return the other live accounts that share this one's fate at Xero, by name."""
        return self._directory.siblings(name)

    async def swept(self) -> None:
        """Wait until every record was read once: before it, neither all siblings nor the removed
        accounts are known.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        await self._survey.complete()

    async def enter(self, name: str, *, to_end: bool = False) -> Opened:
        """Keep an account's keeper open for a request, until ``leave``.

        Args:
            name: the account.
            to_end: True if the caller only ends the login, which may be of another client or other
                scopes than the settings describe.

        Raises:
            UnknownAccount: there is none of this name. The store was not asked.
            AccountUnusable: its settings describe another login than its record, or the record
                cannot be opened.
            StoreUnavailable: its record cannot be read now.
            TokenUnavailable: the server is stopping.
        """
        if name not in self._directory:
            raise unknown_account(name)
        found = await self._enter(name, is_caller=True, to_end=to_end)
        if found.config.is_removed(found.keeper.account):
            self.leave(name)  # the directory does not know it yet
            raise unknown_account(name)
        return found

    def leave(self, name: str) -> None:
        """End a request that entered the account."""
        self._keepers.leave(name)

    def extend(self, keeper: TokenKeeper) -> bool:
        """Keep a keeper open as a request does that enters its account. Return False if such a
        request would be served by another keeper, or not at all."""
        if keeper is self.default:
            return True
        return keeper.name in self._directory and self._keepers.extend(keeper)

    @asynccontextmanager
    async def opened(self, name: str, *, to_end: bool = False) -> AsyncIterator[Opened]:
        """Enter an account, and leave it at the end; arguments and errors as for ``enter``."""
        found = await self.enter(name, to_end=to_end)
        try:
            yield found
        finally:
            self.leave(name)

    async def add(self, name: str, entry: Entry) -> AccountConfig:
        """Add an account at run time. Its entry is kept in its record.

        Returns:
            Its settings.

        Raises:
            AccountExists, TooManyAccounts: nothing was added.
            SettingsError: nothing was added; its scopes cannot be requested, or its client lacks
                the credentials that its grant needs.
            StoreUnavailable, SealError: the store cannot be read or written.
        """
        config = self._configure(name, entry)
        if entry.scopes and (problem := config.scope_problem):
            raise SettingsError([f"scopes: {problem}"])
        if config.lacks_credentials:
            raise SettingsError([LACKS_CREDENTIALS])
        await self.swept()  # before it, removed accounts look like others
        if place := self._directory.declared.get(name):
            raise AccountExists(
                f"the account {name} is declared in the settings ({place}); choose another name"
            )
        if name in self._directory or name in self._adding:
            raise AccountExists(f"there is an account {name} already; remove it first")
        count = len(self._directory) + len(self._adding)
        if count >= self._max_accounts:
            raise TooManyAccounts(
                f"there are {count} accounts already, and max_accounts is {self._max_accounts}: "
                "remove one, or raise max_accounts"
            )

        def added(account: Account) -> Account:
            if not account.removed and (account.entry or account.client_id):
                raise AccountExists(f"another process has added the account {name} meanwhile")
            return after_added(account, entry)

        self._adding.add(name)
        try:
            await self._update(name, added)
        finally:
            self._adding.discard(name)
        self._emit_change(name, removed=False)
        return config

    async def remove(self, name: str) -> EndOutcome:
        """End an account's login and hide the account. Its record stays, empty, so that adding the
        name again continues its generations.

        Returns:
            The outcome of the login's end.

        Raises:
            UnknownAccount, AccountFixed: there is none, or it stands in the settings.
            AccountUnusable: its record cannot be opened. It stays as it is.
            StoreUnavailable: the store cannot be read or written.
        """
        async with self.opened(name, to_end=True) as found:
            if found.config.is_fixed:
                raise AccountFixed(
                    f"the account {name} comes from the settings ({found.config.source}), so it "
                    "cannot be removed at run time; its login is ended by xots logout --account "
                    f"{name}"
                )
            await self.swept()
            ended = await found.keeper.end(forget=True)
        now = self._shared.clock.now()
        await self._update(name, lambda account: after_removed(account, now=now))
        self._emit_change(name, removed=True)
        return ended

    async def end_all(self, name: str, *, forget: bool) -> dict[str, EndOutcome | XotsError]:
        """End the logins of an account and of all that share its client and Xero user.

        Returns:
            The outcome of each end by account, the account itself last. An account that cannot be
            used, or whose store fails, has the error; the others are ended all the same.
        """
        await self.swept()
        ended: dict[str, EndOutcome | XotsError] = {}
        for each in (*await self._siblings_now(name), name):
            try:
                # It need not be in the directory yet: the store has it.
                found = await self._enter(each, is_caller=True, to_end=True)
                try:
                    ended[each] = await found.keeper.end(forget=forget, everywhere=True)
                finally:
                    self.leave(each)
            except XotsError as error:
                ended[each] = error
        return ended

    async def _siblings_now(self, name: str) -> list[str]:
        """Return the siblings, with those that another process has just logged in.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        found = set(self.siblings(name))
        store, sealer = self._shared.store, self._shared.sealer
        record = RecordStore(store, sealer, name)
        with suppress(RecordUnusable, SealError):  # without its record, no other one can be found
            account = record.opened(await record.read())
            if account.consent_id is None:
                return []  # another process may have ended it
            stored = await siblings_in(store, sealer, name)(account)
            found.update(other for other, sibling in stored.items() if sibling is not None)
        return sorted(found)

    # ---------- the tick

    async def maintain(self) -> None:
        """Start all that is due, in every account. ``Rotation`` calls this at every tick."""
        clock = self._shared.clock
        offset = clock.now().timestamp() - clock.elapsed()
        if abs(offset - self._clock_offset) > MAX_CLOCK_SKEW.total_seconds():
            # The clock was set: the times in the index and of open accounts may be far off.
            self._clock_offset = offset
            self._keepers.schedule_all()
            self._survey.demand_sweep()
        self._survey.sweep_if_due()
        await self._work.tick()

    def observe(self, observer: Observer) -> None:
        """Send every event of every account from now on to ``observer`` too."""
        self._shared.observers.append(observer)

    @property
    def store_problem(self) -> str | None:
        """Why the store cannot be used now; None if it can."""
        return self.default.store_problem

    @property
    def tick_seconds(self) -> float:
        """The interval between ticks that the tokens of the accounts demand."""
        return min(self.default.tick_seconds, self._survey.shortest_tick_seconds)

    async def _due(self, limit: int) -> list[str]:
        """Return due accounts: those that are open, and those of the store's index."""
        now = self._shared.clock.now()
        opened = self._keepers.due(now, limit)
        indexed = await self._shared.store.due(now, limit)
        names = dict.fromkeys([*opened, *indexed])
        return [name for name in names if name != self._name_of_default]

    async def _maintain_one(self, name: str) -> None:
        """Maintain one account, and correct the index if there was nothing to do.

        Raises:
            AccountUnusable, SealError, StoreUnavailable, TokenUnavailable: as ``_enter``.
        """
        found = await self._enter(name, is_caller=False)
        before = found.keeper.account.write_id
        try:
            await found.keeper.maintain()
        finally:
            self._keepers.leave(name)
            self._keepers.schedule(name, acted=True)
        if name == self._name_of_default:
            return  # it is maintained at every tick, whatever the index holds
        account, now = found.keeper.account, self._shared.clock.now()
        due_at = found.config.indexed_at(account, now)
        if account.write_id == before and (due_at is None or due_at > now):
            await self._survey.correct_index(name)

    # ---------- inside

    def _emit_change(self, name: str, *, removed: bool) -> None:
        event = AccountsChanged(account=name, at=self._shared.clock.now(), removed=removed)
        for observer in self._shared.observers:
            observer(event)

    def _is_open(self, name: str) -> bool:
        return self._keepers.get(name) is not None

    async def _enter(self, name: str, *, is_caller: bool, to_end: bool = False) -> Opened:
        """Open an account's keeper, and note the problem if that fails.

        Raises:
            AccountUnusable, StoreUnavailable, TokenUnavailable: as ``enter``.
        """
        try:
            return await self._keepers.enter(name, is_caller=is_caller, to_end=to_end)
        except (SealError, SettingsError, AccountUnusable) as error:
            self._survey.note_problem(name, str(error))
            raise AccountUnusable(str(error)) from None

    async def _update(self, name: str, change: Callable[[Account], Account]) -> None:
        """Write a change of an account's entry.

        Raises:
            StoreUnavailable, SealError: the store cannot be read or written.
        """
        config, clock = self._configure(name, None), self._shared.clock
        record = RecordStore(
            self._shared.store,
            self._shared.sealer,
            name,
            lambda account: config.indexed_at(account, clock.now()),
        )
        replica = Replica(record, clock=clock, report=lambda _: None)
        async with replica.locked():
            await replica.update(change)
        self._keepers.outdate(name)
        account = replica.account
        config = self._configure(name, account.entry)
        self._survey.note(name, glimpse(config, account, clock.now()))
        if (found := self._keepers.get(name)) is not None:
            # An open keeper has the settings from before. The next caller gets another one.
            with suppress(StoreUnavailable, SealError):
                await found.keeper.follow()
