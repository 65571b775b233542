"""``xots check``: are the settings, the store, its key, the stored login and Xero in order?

It changes nothing and spends nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

from .backends import TokenStore, open_store
from .clock import SystemClock
from .errors import XotsError
from .keeping.record_store import open_record
from .keeping.reporting import clock_skew
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .lifecycle.schedule import State, state_of
from .safe_text import MAX_MESSAGE, safe_text
from .settings import Settings
from .wiring import mismatches, shown_store, xero_client
from .wording import problem_text

__all__ = ["Finding", "check", "clock_finding", "findings", "login_finding", "reach_problem"]


@dataclass(frozen=True)
class Finding:
    """The state of one subject, such as the store.

    Args:
        subject: the subject in one word.
        text: its state or, if it is not in order, the problem.
        failed: True if it is not in order.
        warned: True if it works, but should be changed.
    """

    subject: str
    text: str
    failed: bool = False
    warned: bool = False

    def __str__(self) -> str:
        state = "FAIL" if self.failed else "warn" if self.warned else "ok"
        return f"{state:6}{self.subject:10}{safe_text(self.text, MAX_MESSAGE)}"


async def check(settings: Settings) -> int:
    """Print each finding as soon as it is known. Return 0 if all is in order, else 1.

    Args:
        settings: the settings, which ``settings.load`` has validated already.
    """
    status = 0
    async for finding in findings(settings):
        print(finding, flush=True)
        status |= finding.failed
    return status


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield a finding for each subject, in the order in which a start meets them."""
    yield _settings_finding(settings)
    for warning in settings.warnings:
        yield Finding("files", warning, warned=True)
    yield _client_finding(settings)
    yield Finding(
        "redirect", f"register exactly this redirect URI at Xero: {settings.redirect_uri}"
    )
    yield Finding("scopes", " ".join(settings.scopes))
    async for finding in _store_findings(settings):
        yield finding
    problem = await reach_problem(settings)
    yield Finding("xero", problem or f"{settings.token_url} responds", failed=problem is not None)


def _settings_finding(settings: Settings) -> Finding:
    set_here = ", ".join(f"{name} ({source})" for name, source in settings.sources.items())
    return Finding("settings", f"set: {set_here}" if set_here else "all have their defaults")


def _client_finding(settings: Settings) -> Finding:
    if settings.credentials is None:
        return Finding("client", "no client id is set: the user enters it in the form")
    secret = "with a secret" if settings.client_secret else "without a secret, as a PKCE app"
    return Finding("client", f"{settings.credentials.client_id}, {secret}")


async def _store_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield findings about the store and its key, login and clock, up to the first that raises."""
    subject = "store"
    try:
        async with AsyncExitStack() as opened:
            store = open_store(store_url(settings))
            opened.push_async_callback(store.close)
            await store.check()
            names = await store.names()
            yield Finding(subject, shown_store(settings))
            for warning in await store.warnings():
                yield Finding(subject, warning, warned=True)

            subject = "key"
            account = await _open_records(settings, store, names)
            records = f"opens all records of the store ({', '.join(names)})"
            yield Finding(subject, records if names else "the store is empty")

            now = SystemClock().now()
            yield login_finding(settings, account, now)

            subject = "clock"
            yield clock_finding(settings, account, now, await store.clock_skew(settings.account))
    except XotsError as error:
        yield Finding(subject, str(error), failed=True)


async def _open_records(settings: Settings, store: TokenStore, names: list[str]) -> Account:
    """Open every record of the store. Return that of the settings' account, or an empty one."""
    sealer = await sealer_for(store, settings, make=False)
    accounts = {
        name: open_record(sealer, stored, name)
        for name in names
        if (stored := await store.read(name)) is not None
    }
    return accounts.get(settings.account, Account())


def login_finding(settings: Settings, account: Account, now: datetime) -> Finding:
    """Return the finding about the stored login: does it work, and do the settings describe it?"""
    state = state_of(account, now, settings.policy)
    problems = mismatches(settings, account)
    if state is State.CONSENT_LOST:
        problems.append(
            f"{settings.account}: the login is lost, a user must log in again: start xots and "
            "open /home"
        )
    if problems:
        return Finding("login", "; ".join(problems), failed=True)
    last = f", {problem_text(account.problem)}" if account.problem else ""
    return Finding("login", f"{settings.account}: {state}{last}")


def clock_finding(
    settings: Settings, account: Account, now: datetime, of_store: tuple[str, timedelta] | None
) -> Finding:
    """Return the finding about this host's clock, compared with the record's dates and the store's
    clock.

    Args:
        settings: the settings.
        account: the stored record.
        now: the time on this host.
        of_store: the store's name and how far its clock is ahead, as from
            ``TokenStore.clock_skew``.
    """
    if skew := clock_skew(settings.account, account, now, of_store):
        return Finding("clock", str(skew), failed=True)
    return Finding("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


async def reach_problem(settings: Settings) -> str | None:
    """Return the reason why the token URL can't be reached, or None. Xero issues nothing."""
    try:
        xero = xero_client(settings)
    except XotsError as error:
        return str(error)
    try:
        return await xero.reach()
    finally:
        xero.close()
