"""A keeper from the settings, without the web server.

The commands that work on the store itself use it as the server does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from .backends import open_store
from .clock import Clock, SystemClock
from .errors import SettingsError, XotsError
from .events import Event, Observer
from .keeping.ending import EndOutcome
from .keeping.keeper import TokenKeeper
from .keeping.replica import reseal_all
from .keeping.siblings import siblings_in
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .safe_text import MAX_MESSAGE, safe_text
from .sealing import Sealer
from .settings import Settings
from .xero.http import XeroClient

__all__ = [
    "end_login",
    "log_event",
    "mismatches",
    "open_keeper",
    "reseal",
    "shown_store",
    "xero_client",
]

logger = logging.getLogger("xots")

OTHER_LOGIN = (
    "Nothing was changed. Correct the setting, end the stored login with xots logout, or use "
    "another account with --account"
)
"""Consequence and remedy for settings that describe another login than the stored one."""


def log_event(event: Event) -> None:
    """Write an event to the log, as an observer of the keeper."""
    # Callers can cause many of some kinds, such as choices of an organisation.
    extra = {"kind": f"{type(event).__name__} of {event.account}", "limited": True}
    logger.log(event.level, "%s: %s", event.account, safe_text(event, MAX_MESSAGE), extra=extra)


def xero_client(settings: Settings, clock: Clock = SystemClock()) -> XeroClient:
    """Return the client of the identity server that the settings describe. The caller closes it.

    Raises:
        SettingsError: the settings name a proxy, and the library for it is not installed.
    """
    ca_file = str(settings.ca_file) if settings.ca_file else None
    return XeroClient(settings.endpoints, clock=clock, ca_file=ca_file, proxy=settings.proxy)


@asynccontextmanager
async def open_keeper(
    settings: Settings,
    *,
    clock: Clock = SystemClock(),
    observers: Sequence[Observer] = (),
    ignore_scopes: bool = False,
) -> AsyncIterator[tuple[TokenKeeper, Sealer]]:
    """Open the keeper that the settings describe. At the end, close it, its store and its client.

    Args:
        settings: the settings.
        clock: this host's clock.
        observers: receive every event, as the log does.
        ignore_scopes: open it even if the settings name other scopes than the record, to end its
            login.

    Yields:
        The keeper, which has read its record, and its sealer.

    Raises:
        SettingsError: the settings describe another login than the record, or need a library that
            is not installed.
        StoreError: the store cannot be opened or read, or did not take the last change at the end.
        SealError: there is no key, or it does not open the record; nothing is overwritten.
    """
    async with AsyncExitStack() as opened:
        store = open_store(store_url(settings))
        opened.push_async_callback(store.close)
        xero = xero_client(settings, clock)
        opened.callback(xero.close)
        sealer = await sealer_for(store, settings)
        keeper = TokenKeeper(
            store,
            xero,
            sealer,
            policy=settings.policy,
            name=settings.account,
            configured=settings.credentials,
            observers=[log_event, *observers],
            clock=clock,
            siblings=siblings_in(store, sealer, settings.account),
        )
        for warning in await store.warnings():
            logger.warning("%s", safe_text(warning, MAX_MESSAGE))
        await keeper.start()
        opened.push_async_callback(keeper.close)
        if problems := mismatches(settings, keeper.account, ignore_scopes=ignore_scopes):
            raise SettingsError(problems)
        yield keeper, sealer


async def end_login(settings: Settings, *, forget: bool) -> EndOutcome:
    """End the login on the store itself, while no server runs.

    Args:
        settings: the settings.
        forget: drop the stored credentials too.

    Raises:
        XotsError: the store holds no login.
        StoreError, SealError, SettingsError: as for ``open_keeper``.
    """
    async with open_keeper(settings, ignore_scopes=True) as (keeper, _):
        if keeper.account.client_id is None:
            where = shown_store(settings)
            raise XotsError(f"no server runs, and the store holds no login: {where}")
        return await keeper.end(forget=forget)


async def reseal(
    settings: Settings, promote: Callable[[], object] = lambda: None
) -> tuple[int, int]:
    """Seal every record of the store with the first key. It can be run again.

    Args:
        settings: the settings.
        promote: changes which key is the first; called after the store was checked.

    Returns:
        The number of records sealed anew, and the number of all records.

    Raises:
        StoreError, SealError: some records could not be sealed anew; the others stay sealed anew.
    """
    store = open_store(store_url(settings))
    try:
        await store.check()
        promote()
        return await reseal_all(store, await sealer_for(store, settings))
    finally:
        await store.close()


def shown_store(settings: Settings) -> str:
    """Return the store's URL without user name, password and query, which may be secret."""
    parts = urlsplit(store_url(settings))
    host = parts.netloc.rpartition("@")[2]
    slashes = "//" if host or parts.path.startswith("/") else ""
    return f"{parts.scheme}:{slashes}{host}{parts.path}"


def mismatches(settings: Settings, account: Account, *, ignore_scopes: bool = False) -> list[str]:
    """Return a sentence for each setting that describes another login than the stored one.

    Without this check, one wrong setting could end the stored login at Xero, or send its tokens to
    another server.

    Args:
        settings: the settings.
        account: the stored record.
        ignore_scopes: do not compare the scopes, because the login is about to be ended.
    """
    if account.consent_id is None and account.revocation is None:
        return []
    found = [_client_mismatch(settings, account), _token_url_mismatch(settings, account)]
    if account.consent_id is not None and not ignore_scopes:
        found.append(_scope_mismatch(settings, account))
    return [problem for problem in found if problem]


def _client_mismatch(settings: Settings, account: Account) -> str | None:
    if settings.client_id in (None, account.client_id):
        return None
    where = settings.sources.get("client_id", "client_id")
    return (
        f"{where}: the stored login belongs to another client, {account.client_id}. {OTHER_LOGIN}"
    )


def _token_url_mismatch(settings: Settings, account: Account) -> str | None:
    if settings.token_url == account.token_url:
        return None
    where = settings.sources.get("token_url", "token_url (the default)")
    return (
        f"{where}: the stored login belongs to another identity server, {account.token_url}. "
        f"{OTHER_LOGIN}"
    )


SCOPE_NAME = re.compile(r"[a-z_]+([.][a-z_]+)*")
"""The form of Xero's scopes. Another word may be a secret that was set by mistake."""


def _shown_scopes(scopes: set[str]) -> str:
    """Return the scopes that have the form of Xero's, and the number of the others."""
    named = sorted(filter(SCOPE_NAME.fullmatch, scopes))
    others = len(scopes) - len(named)
    return " ".join([*named, f"({others} that are not named here)"] if others else named)


def _scope_mismatch(settings: Settings, account: Account) -> str | None:
    """Compare the scopes if they are set explicitly.

    As with the Go server that xots replaces, the user revokes the token before a start with more or
    fewer scopes.
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
