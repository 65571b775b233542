"""``Directory``: the known accounts, with a summary of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from heapq import merge
from itertools import islice

import msgspec

from ..keeping.usage import Fresh
from ..lifecycle.account import Account
from ..lifecycle.outlook import Need, outlook
from ..lifecycle.schedule import State, state_of
from ..lifecycle.tenants import verified_tenant
from .config import AccountConfig

__all__ = ["Directory", "Glimpse", "Summary", "glimpse"]

MAX_SHARING = 20
"""Upper bound on the accounts that a summary names as sharing a Xero user. A firm's thousand
accounts may all share one: a list of all would name a million."""


class Glimpse(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an account's record that the directory remembers. It holds no secret."""

    source: str
    is_removed: bool = False
    is_live: bool = False
    """True while a user is logged in at a server with organisations. At another one, logins of one
    client do not share their fate."""
    client_id: str | None = None
    user_id: str | None = None
    """The Xero user who logged in; None if Xero did not tell."""
    state: State = State.NO_CREDENTIALS
    organisation: str | None = None
    login_needed_at: datetime | None = None
    attention_for: Need | None = Need.NO_LOGIN
    problem: str | None = None
    """Why the account cannot be used; None if it can."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One account in the list of all."""

    name: str
    source: str
    is_fixed: bool
    """True if it is declared in the settings, so that it cannot be removed at run time."""
    state: State
    organisation: str | None
    """The name of the organisation in use, or its id if the name is not known. None without a
    login."""
    login_needed_at: datetime | None
    """When a user must log in if no refresh succeeds; now, if no user is logged in."""
    attention_for: Need | None
    problem: str | None
    shares_with: tuple[str, ...]
    """The first ``MAX_SHARING`` of the other accounts of the same client and Xero user: see
    ``Directory.siblings``."""


def glimpse(config: AccountConfig, account: Account, now: datetime) -> Glimpse:
    """Return the part of a record that the directory remembers."""
    problems = config.problems(account)
    ahead = config.fresh is Fresh.ALWAYS
    found = outlook(
        account, now, config.policy, ahead=ahead, lacks_credentials=config.lacks_credentials
    )
    return Glimpse(
        source=config.source,
        is_removed=config.is_removed(account),
        is_live=(
            account.consent_id is not None
            and not account.without_user
            and config.identity_server.has_organisations
        ),
        client_id=account.client_id,
        user_id=account.xero_userid,
        state=state_of(account, now, config.policy, is_configured=config.credentials is not None),
        organisation=_organisation(config, account),
        login_needed_at=found.login_needed_at,
        attention_for=found.attention_for,
        problem="; ".join(problems) or None,
    )


def _organisation(config: AccountConfig, account: Account) -> str | None:
    """Return the name of the organisation in use; its id if the name is not known."""
    used = verified_tenant(account, has_list=config.identity_server.has_organisations)
    if account.consent_id is None:
        return None
    for organisation in account.organisations or ():
        if organisation.tenant_id == used:
            return organisation.name or used
    return used


class Directory:
    """The accounts that are declared in the settings or have a record.

    Args:
        declared: the names in the settings, with the place of each.
    """

    def __init__(self, declared: dict[str, str]) -> None:
        self._declared = {name: Glimpse(source=source) for name, source in declared.items()}
        self._seen: dict[str, Glimpse] = {}

    def __contains__(self, name: object) -> bool:
        found = self._seen.get(name) if isinstance(name, str) else None
        return name in self._declared if found is None else not found.is_removed

    def __iter__(self) -> Iterator[str]:
        """The names of the accounts that are not removed, in order."""
        return iter(sorted(name for name in self._declared | self._seen if name in self))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def expect(self, names: Iterable[str]) -> None:
        """Remember the names of records that are to be read soon."""
        for name in names:
            self._seen.setdefault(name, Glimpse(source="the store"))

    def get(self, name: str) -> Glimpse | None:
        """Return the glimpse of an account; None if its record was never read."""
        return self._seen.get(name)

    def note(self, name: str, found: Glimpse) -> Glimpse | None:
        """Remember an account, and return its glimpse before; None if there was none."""
        before = self._seen.get(name)
        self._seen[name] = found
        return before

    @property
    def declared(self) -> dict[str, str]:
        """The accounts in the settings, each with its place. Some may have no record yet."""
        return {name: found.source for name, found in self._declared.items()}

    @property
    def seen(self) -> frozenset[str]:
        """The names of the accounts that have a record, as far as they are known."""
        return frozenset(self._seen)

    def forget(self, names: Iterable[str]) -> None:
        """Forget accounts that have no record any more. Those in the settings stay."""
        for name in names:
            self._seen.pop(name, None)

    def siblings(self, name: str) -> dict[str, Glimpse]:
        """Return the other live accounts of the same client and Xero user.

        Xero ends all of a user's connections to an app together. An account whose user is not known
        may be any user's, so it counts. An account without a login has none.
        """
        return {other: self._seen[other] for other in _Sharing(self._seen).others(name)}

    def summaries(self) -> list[Summary]:
        """Return a summary of each account, in the order of their names."""
        known = self._declared | self._seen
        sharing = _Sharing(known)
        return [
            _summary(
                name,
                known[name],
                is_fixed=name in self._declared,
                shares_with=tuple(islice(sharing.others(name), MAX_SHARING)),
            )
            for name in self
        ]


class _Sharing:
    """The live accounts by client and user, so that a list of all compares no two of them."""

    def __init__(self, known: dict[str, Glimpse]) -> None:
        self._known = known
        self._of_user: defaultdict[tuple[str | None, str | None], list[str]] = defaultdict(list)
        self._of_client: defaultdict[str | None, list[str]] = defaultdict(list)
        for name, found in sorted(known.items()):
            if found.is_live:
                self._of_user[found.client_id, found.user_id].append(name)
                self._of_client[found.client_id].append(name)

    def others(self, name: str) -> Iterator[str]:
        """Yield the siblings of an account, in order: see ``Directory.siblings``."""
        own = self._known.get(name)
        if own is None or not own.is_live:
            return
        if own.user_id is None:
            names: Iterable[str] = self._of_client[own.client_id]
        else:
            unknown = self._of_user[own.client_id, None]
            names = merge(self._of_user[own.client_id, own.user_id], unknown)
        yield from (other for other in names if other != name)


def _summary(name: str, found: Glimpse, *, is_fixed: bool, shares_with: tuple[str, ...]) -> Summary:
    return Summary(
        name=name,
        source=found.source,
        is_fixed=is_fixed,
        state=found.state,
        organisation=found.organisation,
        login_needed_at=found.login_needed_at,
        attention_for=found.attention_for,
        problem=found.problem,
        shares_with=shares_with,
    )
