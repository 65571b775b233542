"""``xots check``: is all in order for a server to start here? Each finding is a line."""

from __future__ import annotations

from urllib.parse import urlsplit

from .backends import open_store
from .errors import XotsError
from .keys import sealer_for, store_url
from .server import xero_client
from .settings import Settings

__all__ = ["check"]


async def check(settings: Settings) -> int:
    """Print what is in order and what is not; 0 if all is, else 1. Changes nothing, spends nothing.

    The settings themselves were checked when they were read: whoever comes here has good ones.
    """
    set_here = ", ".join(f"{name} ({source})" for name, source in settings.sources.items())
    _say(None, "settings", f"set: {set_here}" if set_here else "all have their defaults")
    if settings.credentials is None:
        _say(None, "client", "no client id is set: the form asks for it")
    else:
        secret = "with a secret" if settings.client_secret else "without a secret, as a PKCE app"
        _say(None, "client", f"{settings.credentials.client_id}, {secret}")
    _say(None, "redirect", f"register exactly this redirect URI at Xero: {settings.redirect_uri}")
    _say(None, "scopes", " ".join(settings.scopes))
    store_problem, key_problem = await _store_problems(settings)
    problems = [
        _say(store_problem, "store", shown_store(settings)),
        _say(key_problem, "key", "it opens all that the store holds"),
        _say(await _reach_problem(settings), "xero", f"{settings.token_url} answers"),
    ]
    return 1 if any(problems) else 0


def _say(problem: str | None, what: str, well: str) -> bool:
    print(f"{'FAIL' if problem else 'ok':6}{what:10}{problem or well}")
    return problem is not None


def shown_store(settings: Settings) -> str:
    """The store's URL without what may be secret in it."""
    parts = urlsplit(store_url(settings))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}:{f'//{host}' if host or parts.path.startswith('/') else ''}{parts.path}"


async def _store_problems(settings: Settings) -> tuple[str | None, str | None]:
    """What is wrong with the store, and with the key: whether it opens what the store holds."""
    try:
        store = open_store(store_url(settings))
    except XotsError as error:
        return f"{error}", "not looked for, since there is no store"
    try:
        await store.check()
        names = await store.names()
    except XotsError as error:
        await store.close()
        return f"{error}", "not tried, since the store can't be read"
    try:
        sealer = await sealer_for(store, settings)
        for name in names:
            if (stored := await store.read(name)) is not None:
                sealer.open(stored.value, "account", {"name": name})
    except XotsError as error:
        return None, f"{error}"
    else:
        return None, None
    finally:
        await store.close()


async def _reach_problem(settings: Settings) -> str | None:
    try:
        xero = xero_client(settings)
    except XotsError as error:
        return f"{error}"
    try:
        return await xero.reach()
    finally:
        xero.close()
