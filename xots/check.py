"""``xots check``: is all in order for a server to start here? Each finding is a line."""

from __future__ import annotations

from .backends import TokenStore, open_store
from .clock import SystemClock
from .errors import XotsError
from .keeping.replica import open_record
from .keeping.reporting import clock_skew
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .lifecycle.schedule import State, state_of
from .settings import Settings
from .wiring import mismatches, shown_store, xero_client
from .wording import problem_text

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
    problems = [
        *await _check_store(settings),
        _say(await _reach_problem(settings), "xero", f"{settings.token_url} answers"),
    ]
    return 1 if any(problems) else 0


def _say(problem: str | None, what: str, well: str) -> bool:
    print(f"{'FAIL' if problem else 'ok':6}{what:10}{problem or well}")
    return problem is not None


async def _check_store(settings: Settings) -> list[bool]:
    """Does the store work, does the key open what it holds, and do the settings go with the login that is there?"""
    try:
        store = open_store(store_url(settings))
    except XotsError as error:
        return [_say(f"{error}", "store", "")]
    try:
        await store.check()
        names = await store.names()
        _say(None, "store", shown_store(settings))
    except XotsError as error:
        return [_say(f"{error}", "store", "")]
    else:
        return await _check_records(settings, store, names)
    finally:
        await store.close()


async def _check_records(settings: Settings, store: TokenStore, names: list[str]) -> list[bool]:
    account = Account()
    try:
        sealer = await sealer_for(store, settings, make=False)
        for name in names:
            if (stored := await store.read(name)) is not None:
                opened = open_record(sealer, stored, name)
                account = opened if name == settings.account else account
    except XotsError as error:
        return [_say(f"{error}", "key", "")]
    _say(
        None,
        "key",
        f"it opens all that the store holds ({', '.join(names)})"
        if names
        else "the store is empty",
    )
    state = state_of(account, SystemClock().now(), settings.policy)
    problems = mismatches(settings, account)
    if state is State.CONSENT_LOST:
        problems.append(
            f"{settings.account}: the login is lost, a person must log in again: start xots, open /home"
        )
    problem = account.problem
    failing = f", {problem_text(problem)}" if problem else ""
    return [
        _say("; ".join(problems) or None, "login", f"{settings.account}: {state}{failing}"),
        await _check_clock(settings, store, account),
    ]


async def _check_clock(settings: Settings, store: TokenStore, account: Account) -> bool:
    """Compare this host's clock with the record's dates and with the store's clock."""
    now = SystemClock().now()
    try:
        of_store = await store.clock_skew(settings.account)
    except XotsError as error:
        return _say(f"{error}", "clock", "")
    skew = clock_skew(settings.account, account, now, of_store)
    return _say(f"{skew}" if skew else None, "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


async def _reach_problem(settings: Settings) -> str | None:
    try:
        xero = xero_client(settings)
    except XotsError as error:
        return f"{error}"
    try:
        return await xero.reach()
    finally:
        xero.close()
