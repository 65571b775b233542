"""``/status``: how things are, in fields and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from .._version import __version__
from ..clock import MAX_CLOCK_SKEW
from ..keeping.keeper import TokenKeeper
from ..keeping.replica import LEASE_SECONDS
from ..lifecycle.outlook import Need, Outlook, Retrying, why_lost
from ..lifecycle.schedule import XERO_REFRESH_LIFETIME, State
from ..wording import problem_text, span_text, time_text
from .handler import Handler

__all__ = ["ROUTES", "explanation"]


class StatusHandler(Handler):
    """``GET /status``: everything but secrets."""

    async def get(self) -> None:
        """A page for a browser, JSON for a program."""
        account, outlook, now = self.keeper.account, self.keeper.outlook, self.keeper.clock.now()
        access, current, problem = account.access, account.current, account.problem
        grace_left = outlook.grace_ends_at - now if outlook.grace_ends_at else None
        status = self.summary() | {
            "access_token": f"#{access.value.fingerprint}" if access else None,
            "refresh_token": f"#{current.value.fingerprint}" if current else None,
            "account": self.keeper.name,
            "client_id": credentials.client_id
            if (credentials := self.keeper.credentials)
            else None,
            "tenant_id": account.tenant_id,
            "scopes": account.scopes_granted,
            "consented_at": account.consented_at,
            "refreshed_at": account.refreshed_at,
            "refreshed_by": account.refreshed_by,
            "failed_attempts": account.failed_attempts,
            "last_problem": problem_text(problem) if problem else None,
            "last_problem_at": problem.at if problem else None,
            "retry_not_before": account.retry_not_before,
            "retrying": outlook.retrying,
            "next_attempt_at": outlook.next_attempt_at,
            "grace_ends_at": outlook.grace_ends_at,
            "grace_seconds_left": None
            if grace_left is None
            else max(int(grace_left.total_seconds()), 0),
            "login_needed_at": outlook.login_needed_at,
            "attention_for": outlook.attention_for,
            "revocation_pending": account.revocation is not None,
            "store": "degraded" if self.keeper.store_problem else "ok",
            "unsaved": self.keeper.unsaved,
            "clock_skew": str(skew) if (skew := self.keeper.clock_skew) else None,
            "redirect_uri": self.config.redirect_uri,
            "version": __version__,
        }
        told = list(explanation(self.keeper, outlook, now))
        if account.token_url not in (None, self.config.token_url):
            told.append(
                f"The stored login is of another identity server, {account.token_url}: it is left alone here."
            )
        if self.wants_page:
            self.write_page("status.html", title="Status", told=told, status=status)
        else:
            self.write_json({"explanation": told} | status)


def explanation(keeper: TokenKeeper, outlook: Outlook, now: datetime) -> Iterator[str]:
    """What happened, what is being retried and when, and when a person will be needed: a few sentences."""
    if keeper.account.consent_id is not None:
        yield from _served(keeper, now)
    if outlook.retrying is not None:
        yield from _retried(keeper, outlook, now)
    elif outlook.next_attempt_at is not None:
        yield f"The next refresh is due at {_moment(outlook.next_attempt_at, now)}."
    yield _needed(keeper, outlook, now)
    if keeper.store_problem is not None:
        yield f"The token store can't be used: {keeper.store_problem}. No refresh token is spent before it works again."
    if keeper.clock_skew is not None:
        text = str(keeper.clock_skew)
        yield f"{text[0].upper()}{text[1:]}."
    if keeper.unsaved:
        yield "What happened last is known to this process only, so don't end it now."
        yield _if_it_ends(keeper, outlook, now)


def _served(keeper: TokenKeeper, now: datetime) -> Iterator[str]:
    account = keeper.account
    if account.refreshed_at is not None:
        at, by = _moment(account.refreshed_at, now), account.refreshed_by
        yield (
            f"Last refreshed at {at} by {by}."
            if by
            else f"Logged in at {at}, and not refreshed since."
        )
        if account.refreshed_at - now > MAX_CLOCK_SKEW:
            yield "That lies in the future: the clock was set back."
    if account.access is not None and keeper.can_serve:
        yield f"Programs get an access token that is good until {_moment(account.access.expires_at, now)}."
    else:
        yield "There is no access token to serve now."


def _retried(keeper: TokenKeeper, outlook: Outlook, now: datetime) -> Iterator[str]:
    account, ends_at, next_at = keeper.account, outlook.grace_ends_at, outlook.next_attempt_at
    intent, problem = account.intent, account.problem
    match outlook.retrying:
        case Retrying.UNDER_WAY if intent:
            yield f"{intent.by} began a refresh at {_moment(intent.began_at, now)}, and has not concluded it yet."
            within = span_text(timedelta(seconds=LEASE_SECONDS) + keeper.policy.tick)
            yield f"Should that process be gone, the refresh is taken up again within {within}."
        case Retrying.LOST_RESPONSE if ends_at:
            began_at = _moment(ends_at - keeper.policy.grace, now)
            yield f"What came of the refresh begun at {began_at} is not known: Xero may have carried it out."
        case Retrying.MISSING_TOKEN:
            yield "Xero's last answer held no refresh token, so the same one is tried once more."
        case Retrying.PROOF:
            yield "Several refresh tokens may be live; the next refresh shows which one is."
        case Retrying.REVOCATION if account.ended_at:
            yield f"The login was ended at {_moment(account.ended_at, now)}, and Xero could not be told yet."
    if problem is not None:
        tries = f"{account.failed_attempts} failed {'try' if account.failed_attempts == 1 else 'tries'} so far"
        words = problem_text(problem)
        yield f"{tries}, the last at {_moment(problem.at, now)}: {words}."
    if ends_at is not None and account.intent is not None:
        until = _moment(ends_at, now)
        if ends_at > now:
            yield f"Xero takes the same refresh token again until {until}."
        else:
            yield f"Xero surely took the same refresh token again until {until}; it is tried all the same."
    if next_at is not None and outlook.retrying is not Retrying.UNDER_WAY:
        yield (
            f"The next try is at {_moment(next_at, now)} or after."
            if next_at > now
            else "The next try is due now."
        )


def _needed(keeper: TokenKeeper, outlook: Outlook, now: datetime) -> str:
    account, at = keeper.account, outlook.login_needed_at
    match outlook.attention_for:
        case Need.NO_LOGIN if keeper.state is State.WAITING:
            return "A login was begun, and has not come back from Xero yet."
        case Need.NO_LOGIN if keeper.state is State.NO_CREDENTIALS:
            return "A person is needed now: open / to enter the app's credentials, and log in."
        case Need.NO_LOGIN:
            return "Nobody is logged in. A person is needed now: open /home and log in."
        case Need.CONSENT_LOST:
            what = account.problem.detail if account.problem else "no token"
            return (
                "The login is lost. A person is needed now: open /home and log in. Xero refused every refresh token "
                f"({what}): {why_lost(account, keeper.policy)}."
            )
        case Need.CLIENT_REFUSED:
            return (
                "A person is needed now: mend the client id or secret in the settings, restart xots, and ask for a "
                "refresh; or log in again with the right ones. The login is kept until then."
            )
    if at <= now:
        return "Unless the next try succeeds, a person must log in now."
    if outlook.attention_for is Need.GRACE_ENDS:
        return f"If nothing improves, a person may have to log in after {_moment(at, now)}."
    return (
        f"If no refresh succeeds before, a person must log in after {_moment(at, now)}: "
        f"a refresh token that lies unused for {XERO_REFRESH_LIFETIME.days} days dies."
    )


def _if_it_ends(keeper: TokenKeeper, outlook: Outlook, now: datetime) -> str:
    """What is lost if this process ends with what it holds."""
    if keeper.rolled_back:
        return "Should it end, a person may have to log in: the store holds an older record."
    if keeper.account.failed_attempts:
        return "Should it end, the next one tries again."
    if outlook.grace_ends_at is None:
        return "Should it end, a login, or the end of one, has to be done again."
    if outlook.grace_ends_at > now:
        return f"Should it end, the refresh can be repeated until {_moment(outlook.grace_ends_at, now)}."
    return "Should it end, a person may have to log in."


def _moment(moment: datetime, now: datetime) -> str:
    # What was dated a moment later than another, so that their order is told, is not in the future for that.
    past = moment <= now + timedelta(milliseconds=1)
    apart = (
        f"{span_text(max(now - moment, timedelta(0)))} ago"
        if past
        else f"{span_text(moment - now)} from now"
    )
    return f"{time_text(moment, now)} ({apart})"


ROUTES = [(r"/status", StatusHandler)]
