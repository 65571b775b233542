"""A keeper from settings, without HTTP: its store, sealer and HTTP client, opened and closed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from .backends import open_store
from .clock import Clock, SystemClock
from .errors import SettingsError, XotsError
from .events import Event, Observer
from .keeping.keeper import TokenKeeper
from .keeping.replica import reseal_all
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .sealing import Sealer
from .settings import Settings
from .xero import XeroClient

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


def log_event(event: Event) -> None:
    """The observer that writes events to the log."""
    logger.log(event.level, "%s: %s", event.account, event)


def xero_client(settings: Settings, clock: Clock = SystemClock()) -> XeroClient:
    """The client that the settings describe.

    Raises:
        SettingsError: a proxy is wanted, and what it needs is not installed.
    """
    ca_file = str(settings.ca_file) if settings.ca_file else None
    return XeroClient(settings.endpoints, clock=clock, ca_file=ca_file, proxy=settings.proxy)


@asynccontextmanager
async def open_keeper(
    settings: Settings,
    *,
    clock: Clock = SystemClock(),
    observers: Sequence[Observer] = (),
    to_end: bool = False,
) -> AsyncIterator[tuple[TokenKeeper, Sealer]]:
    """Open the keeper that the settings describe, and close it with all that it uses at the end.

    Args:
        settings: the settings.
        clock: this host's clock.
        observers: receive every event, besides the log.
        to_end: open it although the settings name other scopes than the record, to end its login.

    Yields:
        The keeper, its record read, and the sealer that it seals with.

    Raises:
        SettingsError: the settings describe another login than the record, or need a library that is
            not installed.
        StoreError: the store cannot be opened or read, or, at the end, did not take a change.
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
        )
        for warning in await store.warnings():
            logger.warning("%s", warning)
        await keeper.start()
        opened.push_async_callback(keeper.close)
        if problems := mismatches(settings, keeper.account, to_end=to_end):
            raise SettingsError(problems)
        yield keeper, sealer


async def end_login(settings: Settings, *, forget: bool) -> bool:
    """End the login on the store itself, where no server runs. Return True once Xero has revoked it.

    Raises:
        XotsError: there is no login to end, or one of the errors of ``open_keeper``.
    """
    async with open_keeper(settings, to_end=True) as (keeper, _):
        if keeper.account.client_id is None:
            where = shown_store(settings)
            raise XotsError(f"no server runs, and the store holds no login: {where}")
        return await keeper.end(forget=forget)


async def reseal(
    settings: Settings, promote: Callable[[], object] = lambda: None
) -> tuple[int, int]:
    """Seal every record of the store with the first key: how many were sealed anew, and how many there are.

    ``promote`` changes which key is the first, once the store was seen to work.

    Raises:
        StoreError, SealError: it could not be finished; what was done stands, and it may be run again.
    """
    store = open_store(store_url(settings))
    try:
        await store.check()
        promote()
        return await reseal_all(store, await sealer_for(store, settings))
    finally:
        await store.close()


def shown_store(settings: Settings) -> str:
    """The store's URL without what may be secret in it."""
    parts = urlsplit(store_url(settings))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}:{f'//{host}' if host or parts.path.startswith('/') else ''}{parts.path}"


def mismatches(settings: Settings, account: Account, *, to_end: bool = False) -> list[str]:
    """Where the settings speak of another login than the one that is kept: so one wrong setting can't burn it, nor
    send its tokens to another server.

    Scopes count only where they were set explicitly (the document that xots was asked for with: to limit or expand
    scopes, the token has to be revoked first), and not for ``to_end``.
    """
    if account.consent_id is None and account.revocation is None:
        return []
    problems = []
    another = (
        "set that again, end that login with xots logout, or keep the two apart with --account"
    )
    if settings.client_id not in (None, account.client_id):
        where = settings.sources["client_id"]
        problems.append(
            f"{where}: the stored login is of another client, {account.client_id}; {another}"
        )
    if settings.token_url != account.token_url:
        where = settings.sources.get("token_url", "token_url (the default)")
        problems.append(
            f"{where}: the stored login is of another identity server, {account.token_url}; {another}"
        )
    if account.consent_id is None or to_end:
        return problems
    wanted = set(settings.scopes)
    if "scopes" in settings.sources and wanted not in (
        set(account.scopes_requested),
        set(account.scopes_configured),
    ):
        kept = set(account.scopes_requested)
        changes = [f"added: {' '.join(sorted(wanted - kept))}"] if wanted - kept else []
        changes += [f"removed: {' '.join(sorted(kept - wanted))}"] if kept - wanted else []
        problems.append(
            f"{settings.sources['scopes']}: these scopes are not those of the stored login ({'; '.join(changes)}); "
            "to change them, end that login with xots revoke, start again, and log in"
        )
    return problems
