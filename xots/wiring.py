"""A keeper from the settings, without the web server.

The commands that work on the store itself use it as the server does.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from .accounts.accounts import Accounts
from .accounts.config import AccountConfig, Configure
from .accounts.directory import Summary
from .accounts.keepers import Shared
from .backends import open_store
from .clock import Clock, SystemClock
from .errors import SettingsError, XotsError
from .events import Event, Observer
from .keeping.changes import Changes
from .keeping.ending import EndOutcome
from .keeping.keeper import TokenKeeper
from .keeping.resealing import Resealed, reseal_all
from .keeping.store_clock import StoreClock
from .keeping.usage import Fresh
from .keys import sealer_for, store_url
from .lifecycle.account import Account, Entry
from .lifecycle.policy import Grant, staggered
from .safe_text import MAX_MESSAGE, safe_text
from .sealing import Sealer
from .settings import Settings
from .xero.http import XeroClient

__all__ = [
    "add_account",
    "end_login",
    "foreign_warnings",
    "list_accounts",
    "log_event",
    "mismatches",
    "open_accounts",
    "open_keeper",
    "remove_account",
    "reseal",
    "shown_store",
    "xero_client",
]

logger = logging.getLogger("xots")

MAX_FOREIGN_SHOWN = 5
"""Upper bound on the foreign records that a warning names."""

SKIPPED = "They are skipped: move them away, or delete them"

OTHER_LOGIN = (
    "Nothing was changed. Correct the setting, end the stored login with xots logout, or use "
    "another account with --account"
)
"""Consequence and remedy for settings that describe another login than the stored one."""


def log_event(event: Event) -> None:
    """Write an event to the log, as an observer of the keeper."""
    if not logger.isEnabledFor(event.level):
        return  # each read of a token is an event
    # Callers can cause many of some kinds, such as choices of an organisation.
    extra = {"kind": f"{type(event).__name__} of {event.account}", "limited": True}
    logger.log(event.level, "%s: %s", event.account, safe_text(event, MAX_MESSAGE), extra=extra)


def xero_client(settings: Settings, clock: Clock = SystemClock()) -> XeroClient:
    """Return the client of the identity server that the settings describe. The caller closes it.

    Raises:
        SettingsError: the settings name a proxy, and the library for it is not installed.
    """
    return XeroClient(
        settings.identity_server,
        clock=clock,
        max_requests=settings.max_requests,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        proxy=settings.proxy,
    )


class _XeroClients:
    """The clients of the identity servers, one for each. Accounts share them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._clients: dict[object, XeroClient] = {}

    def of(self, settings: Settings) -> XeroClient:
        """Return the client for these settings; raises as ``xero_client``."""
        key = (settings.identity_server, settings.ca_file, settings.proxy)
        if key not in self._clients:
            self._clients[key] = xero_client(settings, self._clock)
        return self._clients[key]

    def close(self) -> None:
        """Close all of them."""
        for client in self._clients.values():
            client.close()


def _configure(settings: Settings, clients: _XeroClients) -> Configure:
    """Return the function that combines the settings of an account."""

    def configured(name: str, entry: Entry | None) -> AccountConfig:
        own = settings.for_account(name, entry)
        is_default = name == settings.account
        return AccountConfig(
            name=name,
            source=_source(settings, name, entry),
            is_fixed=is_default or name in settings.accounts,
            credentials=own.credentials,
            scopes=own.scopes,
            tenant_id=own.tenant_id,
            pkce=own.pkce,
            policy=own.policy if is_default else staggered(own.policy, name),
            fresh=Fresh(own.fresh or Fresh.ALWAYS),
            xero=clients.of(own),
            entry=entry,
            # The start checks those of the default account.
            problems=(lambda _: []) if is_default else (lambda account: mismatches(own, account)),
        )

    return configured


def _source(settings: Settings, name: str, entry: Entry | None) -> str:
    if name in settings.accounts:
        return "the configuration file"
    if name == settings.account:
        return "the default account"
    return "added at run time" if entry else "the store"


@asynccontextmanager
async def open_accounts(
    settings: Settings,
    *,
    clock: Clock = SystemClock(),
    observers: Sequence[Observer] = (),
    ignore_scopes: bool = False,
) -> AsyncIterator[tuple[Accounts, Sealer]]:
    """Open the accounts that the settings describe. At the end, close them, their store and their
    clients.

    Args:
        settings: the settings.
        clock: this host's clock.
        observers: receive every event, as the log does.
        ignore_scopes: open them even if the settings name other scopes than the record of the
            default account, to end its login.

    Yields:
        The accounts, and their sealer. The default account's record has been read.

    Raises:
        SettingsError: the settings describe another login than the record of the default account,
            or need a library that is not installed.
        StoreError: the store cannot be opened or read, or did not take the last change at the end.
        SealError: there is no key, or it does not open the record; nothing is overwritten.
    """
    async with AsyncExitStack() as opened:
        store = open_store(store_url(settings))
        opened.push_async_callback(store.close)
        clients = _XeroClients(clock)
        opened.callback(clients.close)
        sealer = await sealer_for(store, settings)
        shared = Shared(
            store=store,
            sealer=sealer,
            clock=clock,
            rng=random.SystemRandom(),
            observers=[log_event, *observers],
            changes=Changes(store),
            store_clock=StoreClock(store, clock),
        )
        accounts = Accounts(
            shared,
            _configure(settings, clients),
            default=settings.account,
            declared=dict.fromkeys(settings.accounts, "the configuration file"),
            max_accounts=settings.max_accounts,
        )
        for warning in [*await store.warnings(), *foreign_warnings(await store.foreign())]:
            logger.warning("%s", safe_text(warning, MAX_MESSAGE))
        opened.push_async_callback(accounts.close)
        await accounts.start()
        account = accounts.default.account
        default = settings.for_account(settings.account, account.entry)
        if problems := mismatches(default, account, ignore_scopes=ignore_scopes):
            raise SettingsError(problems)
        yield accounts, sealer


@asynccontextmanager
async def open_keeper(
    settings: Settings,
    *,
    clock: Clock = SystemClock(),
    observers: Sequence[Observer] = (),
) -> AsyncIterator[tuple[TokenKeeper, Sealer]]:
    """Open the keeper of the default account: see ``open_accounts``."""
    opening = open_accounts(settings, clock=clock, observers=observers)
    async with opening as (accounts, sealer):
        yield accounts.default, sealer


async def end_login(
    settings: Settings, *, forget: bool, everywhere: bool = False
) -> dict[str, EndOutcome]:
    """End the login on the store itself, while no server runs.

    Args:
        settings: the settings.
        forget: drop the stored credentials too.
        everywhere: end the logins of all accounts that share the client and the Xero user too.

    Returns:
        The outcome for each account that was ended, by name.

    Raises:
        XotsError: the store holds no login.
        StoreError, SealError, SettingsError: as for ``open_accounts``.
    """
    async with open_accounts(settings, ignore_scopes=True) as (accounts, _):
        if accounts.default.account.client_id is None:
            where = shown_store(settings)
            raise XotsError(f"no server runs, and the store holds no login: {where}")
        if everywhere:
            ended = await accounts.end_all(settings.account, forget=forget)
            for error in (each for each in ended.values() if isinstance(each, XotsError)):
                raise error
            return {name: one for name, one in ended.items() if isinstance(one, EndOutcome)}
        return {settings.account: await accounts.default.end(forget=forget)}


async def add_account(settings: Settings, name: str, entry: Entry) -> bool:
    """Add an account on the store itself, while no server runs. Return True if a user must log in
    to it; raises as ``Accounts.add``."""
    async with open_accounts(settings) as (accounts, _):
        return (await accounts.add(name, entry)).needs_login


async def remove_account(settings: Settings, name: str) -> EndOutcome:
    """Remove an account on the store itself; returns and raises as ``Accounts.remove``."""
    async with open_accounts(settings) as (accounts, _):
        return await accounts.remove(name)


async def list_accounts(settings: Settings) -> list[Summary]:
    """Return a summary of each account of the store and the settings."""
    async with open_accounts(settings) as (accounts, _):
        await accounts.swept()
        return accounts.summaries()


async def reseal(settings: Settings, promote: Callable[[], object] = lambda: None) -> Resealed:
    """Seal every record of the store with the first key. It can be run again.

    Args:
        settings: the settings.
        promote: changes which key is the first; called after the store was checked.

    Raises:
        StoreError: the store itself fails; records sealed so far stay sealed.
        SealError: there is no key.
    """
    store = open_store(store_url(settings))
    try:
        await store.check()
        promote()
        return await reseal_all(store, await sealer_for(store, settings))
    finally:
        await store.close()


def foreign_warnings(names: Sequence[str]) -> list[str]:
    """Return a sentence about the store's records that no account can have, if there are any."""
    if not names:
        return []
    shown = ", ".join(safe_text(name) for name in names[:MAX_FOREIGN_SHOWN])
    others = f" and {len(names) - MAX_FOREIGN_SHOWN} more" if names[MAX_FOREIGN_SHOWN:] else ""
    return [f"the store holds records that no account can have: {shown}{others}. {SKIPPED}"]


def shown_store(settings: Settings) -> str:
    """Return the store's URL without user name, password and query, which may be secret."""
    parts = urlsplit(store_url(settings))
    host = parts.netloc.rpartition("@")[2]
    slashes = "//" if host or parts.path.startswith("/") else ""
    return f"{parts.scheme}:{slashes}{host}{parts.path}"


def mismatches(settings: Settings, account: Account, *, ignore_scopes: bool = False) -> list[str]:
    """Return a sentence for each setting that describes another login than the stored one. The last
    one tells the consequence and the remedy. The scopes of another login are not compared.

    Without this check, one wrong setting could end the stored login at Xero, or send its tokens to
    another server.

    Args:
        settings: the settings.
        account: the stored record.
        ignore_scopes: do not compare the scopes, because the login is about to be ended. Without a
            user, compare nothing then: such an end sends no request.
    """
    if account.consent_id is None and account.revocation is None:
        return []
    if account.without_user and ignore_scopes:
        return []
    compared = (
        _grant_mismatch(settings, account),
        _client_mismatch(settings, account),
        _token_url_mismatch(settings, account),
    )
    if found := [problem for problem in compared if problem]:
        return [*found[:-1], f"{found[-1]}. {OTHER_LOGIN}"]
    is_login = account.consent_id is not None and not account.without_user
    scopes = _scope_mismatch(settings, account) if is_login and not ignore_scopes else None
    return [scopes] if scopes else []


def _grant_mismatch(settings: Settings, account: Account) -> str | None:
    stored = Grant.CLIENT_CREDENTIALS if account.without_user else Grant.AUTHORIZATION_CODE
    if settings.policy.grant is stored:
        return None
    where = settings.sources.get("grant", "grant (the default)")
    return f"{where}: the stored login has another grant, {stored}"


def _client_mismatch(settings: Settings, account: Account) -> str | None:
    if settings.client_id in (None, account.client_id):
        return None
    where = settings.sources.get("client_id", "client_id")
    return f"{where}: the stored login belongs to another client, {account.client_id}"


def _token_url_mismatch(settings: Settings, account: Account) -> str | None:
    if settings.token_url == account.token_url:
        return None
    where = settings.sources.get("token_url", "token_url (the default)")
    return f"{where}: the stored login belongs to another identity server, {account.token_url}"


SCOPE_NAME = re.compile(r"[a-z_]+([.][a-z_]+)*")
"""The form of Xero's scopes. Another word may be a secret that was set by mistake."""


def _shown_scopes(scopes: set[str]) -> str:
    """Return the scopes that have the form of Xero's, and the number of the others."""
    named = sorted(filter(SCOPE_NAME.fullmatch, scopes))
    others = len(scopes) - len(named)
    return " ".join([*named, f"({others} that are not named here)"] if others else named)


def _scope_mismatch(settings: Settings, account: Account) -> str | None:
    """Compare the scopes if they are set explicitly.

    Without a user, other scopes count from the next access token on. With one, the user revokes the
    token before a start with more or fewer scopes, as with the Go server that xots replaces.
    """
    wanted, requested = set(settings.scopes), set(account.scopes_requested)
    if "scopes" not in settings.sources or wanted in (requested, set(account.scopes_configured)):
        return None
    names = {"added": wanted - requested, "removed": requested - wanted}
    changes = [f"{kind}: {_shown_scopes(scopes)}" for kind, scopes in names.items() if scopes]
    return (
        f"{settings.sources['scopes']}: these scopes are not those of the stored login "
        f"({'; '.join(changes)}). Nothing was changed. To change the scopes, end that login with "
        "xots revoke, start again, and log in"
    )
