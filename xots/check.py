"""``xots check``: are the settings, the store, its key, the stored login and Xero in order?

It changes nothing and spends nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from .access import Reader
from .access_summary import who_may_read
from .backends import TokenStore, open_store
from .backends.base import checked_name
from .clock import SystemClock
from .errors import SealError, SettingsError, StoreError, StoreUnavailable, XotsError
from .keeping.record_store import open_record
from .keeping.reporting import clock_skew
from .keys import sealer_for, store_url
from .lifecycle.account import Account
from .lifecycle.outlook import Need, outlook
from .lifecycle.policy import Grant
from .lifecycle.schedule import State, state_of
from .peers import group_text, user_text
from .reader_file import read_readers
from .safe_text import MAX_MESSAGE, safe_text
from .sealing import Sealer
from .settings import Settings
from .tls import read_identity
from .wiring import mismatches, shown_store, xero_client
from .wording import counted, problem_text, time_text
from .xero.identity_server import ClientAuth

__all__ = ["Finding", "check", "clock_finding", "findings", "login_finding", "reach_problem"]


AUTH_TEXTS = {
    ClientAuth.BASIC: "",
    ClientAuth.POST: "; it authenticates in the form (client_auth: post)",
    ClientAuth.NONE: "; it authenticates by its id alone (client_auth: none)",
}
"""How a client authenticates, where that is not the default."""

GRACE = (
    "a spent refresh token counts as accepted again for {:g} seconds{}; set grace: 0 if the server "
    "ends a login at a second use"
)
"""The assumption about an identity server other than Xero."""

NO_GRACE = "a spent refresh token counts as never accepted again (grace: 0)"

FOREIGN = "no account can have this name; the record is skipped: move it away, or delete it"


class Finding(msgspec.Struct, frozen=True):
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
    for finding in _tls_findings(settings):
        yield finding
    accounts = _settings_of_accounts(settings)
    for own in accounts:
        if own.account == settings.account or own.client_id != settings.client_id:
            yield _client_finding(own, settings)
    for finding in (*_grant_findings(accounts), *_login_findings(accounts)):
        yield finding
    yield Finding("scopes", " ".join(accounts[0].scopes) or "none are requested")
    yield _access_finding(settings)
    async for finding in _store_findings(settings):
        yield finding
    for own in _by_identity_server(settings):
        problem = await reach_problem(own)
        subject = "xero" if own.identity_server.is_xero else "server"
        yield Finding(subject, problem or f"{own.token_url} responds", failed=problem is not None)


def _tls_findings(settings: Settings) -> Iterator[Finding]:
    """Yield the finding about the certificate of this server, if it has one."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    try:
        found = read_identity(settings.tls_certificate, settings.tls_key, settings.sources)
    except SettingsError as error:
        yield Finding("tls", str(error), failed=True)
        return
    if found.expires_at is None:
        yield Finding("tls", f"clients refuse the certificate: {found.problem}", failed=True)
        return
    until = f"{found.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    yield Finding("tls", f"the certificate is for {', '.join(found.names)} until {until}")


def _settings_of_accounts(settings: Settings) -> list[Settings]:
    """Return the settings of each account that they name, that of the seed's paths first."""
    names = dict.fromkeys([settings.account, *settings.accounts])
    return [settings.for_account(name) for name in names]


def _by_identity_server(settings: Settings) -> list[Settings]:
    """Return the settings of one account for each way to an identity server."""
    ways: list[tuple[object, ...]] = []
    found = []
    for own in _settings_of_accounts(settings):
        way = (own.token_url, own.proxy, own.ca_file)
        if way not in ways:
            ways.append(way)
            found.append(own)
    return found


def _settings_finding(settings: Settings) -> Finding:
    set_here = ", ".join(f"{name} ({source})" for name, source in settings.sources.items())
    return Finding("settings", f"set: {set_here}" if set_here else "all have their defaults")


def _access_finding(settings: Settings) -> Finding:
    """Return who may read a token, or why the file of readers can't be used."""
    readers: Mapping[str, Reader] = {}
    try:
        if isinstance(path := settings.readers, Path):
            readers = read_readers(path, settings.sources.get("readers", "readers"))
    except SettingsError as error:
        return Finding("access", str(error), failed=True)
    found = who_may_read(settings, readers.values(), user_text, group_text)
    return Finding("access", found.text, warned=found.warned)


def _client_finding(own: Settings, settings: Settings) -> Finding:
    """Return the finding about an account's client. Only further accounts are named."""
    name = "" if own.account == settings.account else f"{own.account}: "
    auth = AUTH_TEXTS[ClientAuth(own.client_auth)]
    if own.credentials is None:
        return Finding("client", f"{name}no client id is set: the user enters it in the form{auth}")
    secret = "with a secret" if own.client_secret else "without a secret"
    if own.client_secret is None and _has_login(own):
        secret += ", as a PKCE app"
    return Finding("client", f"{name}{own.credentials.client_id}, {secret}{auth}")


def _grant_findings(accounts: Sequence[Settings]) -> Iterator[Finding]:
    """Yield a finding for each account without logins."""
    for own in accounts:
        if not _has_login(own):
            yield Finding("grant", f"{own.account}: {own.grant}: no user logs in")


def _login_findings(accounts: Sequence[Settings]) -> Iterator[Finding]:
    """Yield what the operator must know about the identity servers at which users log in."""
    logins = [own for own in accounts if _has_login(own)]
    if logins:
        where = " and ".join(dict.fromkeys(own.identity_server.name for own in logins))
        redirect_uri = logins[0].redirect_uri
        yield Finding("redirect", f"register exactly this redirect URI at {where}: {redirect_uri}")
    named = set()
    for own in logins:
        is_default = "grace" not in own.sources
        assumption = (own.token_url, own.grace, is_default)
        if own.identity_server.is_xero or assumption in named:
            continue
        named.add(assumption)
        text = GRACE.format(own.grace, " (the default)" if is_default else "")
        yield Finding(
            "grace", f"{own.account}: {text if own.grace else NO_GRACE}", warned=is_default
        )


def _has_login(own: Settings) -> bool:
    return own.policy.grant is Grant.AUTHORIZATION_CODE


async def _store_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield findings about the store and its key, records, logins and clock, up to the first that
    raises. One record raises nothing."""
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
            for name in await store.foreign():
                yield Finding("record", f"{safe_text(name)}: {FOREIGN}", warned=True)

            subject = "key"
            sealer = await sealer_for(store, settings, make=False)
            accounts, problems = await _open_records(sealer, store, names)
            yield _key_finding(names, accounts, problems)
            for name, problem in problems.items():
                yield Finding("record", f"{name}: {problem}", failed=True)

            subject = "login"
            now = SystemClock().now()
            for name in _names_to_show(settings, accounts):
                if name not in problems:
                    account = accounts.get(name, Account())
                    own = settings.for_account(name, account.entry)
                    path = "" if name == settings.account else f"/accounts/{name}"
                    yield login_finding(own, account, now, path)

            subject = "clock"
            skew = await store.clock_skew(settings.account)
            yield clock_finding(settings, accounts.get(settings.account, Account()), now, skew)
    except XotsError as error:
        yield Finding(subject, str(error), failed=True)


async def _open_records(
    sealer: Sealer, store: TokenStore, names: list[str]
) -> tuple[dict[str, Account], dict[str, str]]:
    """Return each record that can be opened, and the problem of each other one, by name.

    Raises:
        StoreUnavailable: the store itself fails.
    """
    accounts, problems = {}, {}
    for name in names:
        try:
            if (stored := await store.read(checked_name(name))) is not None:
                accounts[name] = open_record(sealer, stored, name)
        except (SealError, StoreError, ValueError) as error:
            problems[name] = str(error)
            if isinstance(error, StoreUnavailable):
                await store.check()  # if all of it fails, the other records would fail too
    return accounts, problems


def _key_finding(
    names: list[str], accounts: Mapping[str, Account], problems: Mapping[str, str]
) -> Finding:
    """Return the finding about the key. Removed accounts are not named."""
    if problems:
        opened = len(names) - len(problems)
        return Finding("key", f"opens {opened} of {counted(len(names), 'record')}", failed=True)
    shown = [name for name in names if name in accounts and not accounts[name].removed]
    if shown:
        return Finding("key", f"opens all records of the store ({', '.join(shown)})")
    if accounts:
        return Finding("key", "opens all records of removed accounts; there are no others")
    return Finding("key", "the store is empty")


def _names_to_show(settings: Settings, accounts: Mapping[str, Account]) -> list[str]:
    """Return the accounts of the settings, and those of the store that were not removed."""
    stored = [name for name, account in accounts.items() if not account.removed]
    return list(dict.fromkeys([settings.account, *settings.accounts, *stored]))


def login_finding(settings: Settings, account: Account, now: datetime, path: str = "") -> Finding:
    """Return the finding about the stored login: does it work, and do the settings describe it?

    Args:
        settings: the settings of the account.
        account: its record.
        now: the time on this host.
        path: the path of the account, such as ``/accounts/smith``.
    """
    is_configured = settings.credentials is not None
    state = state_of(account, now, settings.policy, is_configured=is_configured)
    problems = mismatches(settings, account)
    if state is State.CONSENT_LOST and not problems:
        problems.append(
            f"the login is lost, a user must log in again: start xots and open {path}/home"
        )
    if problems:
        return Finding("login", f"{settings.account}: {'; '.join(problems)}", failed=True)
    text = state.value
    if settings.policy.grant is Grant.CLIENT_CREDENTIALS and account.access is None:
        is_first = account.problem is None
        text = "no access token was requested yet" if is_first else "no access token is stored"
    if account.problem:
        text += f", {problem_text(account.problem, settings.identity_server.name)}"
    ahead = outlook(account, now, settings.policy)
    if ahead.attention_for is Need.LAST_ATTEMPT and ahead.login_needed_at:
        text += f"; log in before {time_text(ahead.login_needed_at, now)}"
    failing = state is State.REFRESH_FAILING
    return Finding("login", f"{settings.account}: {text}", warned=failing)


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
