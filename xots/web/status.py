"""``/status``: the state of a login, as fields for a monitor and as sentences for an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from .._version import __version__
from ..access import METRICS_SCOPES
from ..advice import capitalised, remedy
from ..clock import MAX_CLOCK_SKEW
from ..events import ClockSkewed
from ..keeping.keeper import TokenKeeper
from ..keeping.record_store import LEASE_SECONDS
from ..lifecycle.account import AccessToken, Account, Intent, Problem, ProblemKind, RefreshToken
from ..lifecycle.candidates import is_strict
from ..lifecycle.outlook import Need, Outlook, Retrying, why_lost
from ..lifecycle.policy import Grant, Policy
from ..lifecycle.schedule import XERO_REFRESH_LIFETIME, State
from ..safe_text import MAX_MESSAGE, safe_text
from ..wording import (
    FORGOTTEN_TEXT,
    counted,
    failure_text,
    lost_text,
    problem_text,
    span_text,
    time_text,
)
from ..xero.identity_server import IdentityServer
from .handler import Handler
from .health import health, if_known, store_health
from .problems import SET_CREDENTIALS

__all__ = ["ROUTES", "explanation"]

SAME_TIME = timedelta(milliseconds=1)
"""A difference up to this is artificial: it keeps two dates of the record in order."""


class StatusHandler(Handler):
    """``GET /status``: all that is known of the login, without secrets."""

    scopes = METRICS_SCOPES

    async def get(self) -> None:
        """Respond with a page to a browser, and with JSON to a program."""
        keeper, outlook, now = self.keeper, self.keeper.outlook, self.keeper.clock.now()
        status = _fields(keeper, self.config.redirect_uri, outlook, now)
        if self.config.express is not None:
            self.config.express.flush()
        status |= {"readers": self.config.reads.of(keeper.name)}
        found = [
            *explanation(keeper, outlook, now, self.full_url),
            *_identity_server(keeper.account, self.account_config.identity_server.token_url),
        ]
        sentences = [safe_text(sentence, MAX_MESSAGE) for sentence in found]
        if self.wants_page:
            self.write_page("status.html", title="Status", explanation=sentences, status=status)
        else:
            self.write_json({"explanation": sentences} | status)


# ---------- the fields


def _fields(
    keeper: TokenKeeper, redirect_uri: str, outlook: Outlook, now: datetime
) -> dict[str, Any]:
    account = keeper.account
    return {
        **health(keeper),
        "access_token": if_known(account.access, _fingerprint),
        "refresh_token": if_known(account.current, _fingerprint),
        "account": keeper.name,
        "grant": keeper.policy.grant,
        "client_id": if_known(keeper.credentials, lambda credentials: credentials.client_id),
        "tenant_id": keeper.tenant_id,
        "tenant_problem": keeper.tenant_problem,
        "scopes": account.scopes_granted,
        "consented_at": account.consented_at,
        "refreshed_at": account.refreshed_at,
        "refreshed_by": if_known(account.refreshed_by, safe_text),
        "failed_attempts": account.failed_attempts,
        "last_problem": if_known(
            account.problem, lambda problem: problem_text(problem, keeper.identity_server.name)
        ),
        "last_problem_at": if_known(account.problem, lambda problem: problem.at),
        "retry_not_before": account.retry_not_before,
        "retrying": outlook.retrying,
        "next_attempt_at": outlook.next_attempt_at,
        "grace_ends_at": outlook.grace_ends_at,
        "grace_seconds_left": if_known(outlook.grace_ends_at, lambda end: _seconds(end - now)),
        "login_needed_at": outlook.login_needed_at,
        "attention_for": outlook.attention_for,
        "revocation_pending": account.revocation is not None,
        "store": store_health(keeper.store_problem),
        "unsaved": keeper.unsaved,
        "clock_skew": if_known(keeper.clock_skew, safe_text),
        "redirect_uri": redirect_uri,
        "version": __version__,
    }


def _fingerprint(token: AccessToken | RefreshToken) -> str:
    return f"#{token.value.fingerprint}"


def _seconds(left: timedelta) -> int:
    return max(int(left.total_seconds()), 0)


# ---------- the sentences


def explanation(
    keeper: TokenKeeper, outlook: Outlook, now: datetime, url: Callable[[str], str] = str
) -> list[str]:
    """Return the state of the login in sentences: the last events, the next attempts, and the time
    when a user must log in.

    Args:
        keeper: the account's keeper.
        outlook: its next attempts.
        now: this host's time.
        url: returns the URL of the account's page for the path of the default account's.
    """
    account, policy, server = keeper.account, keeper.policy, keeper.identity_server
    sentences = [
        *_tokens(account, now, can_serve=keeper.can_serve),
        *_attempts(account, outlook, policy, now, server),
        _login_need(keeper, outlook, now, url),
        *_store(keeper.store_problem),
        *_clocks(keeper.clock_skew),
    ]
    if keeper.unsaved:
        loss = _loss(keeper, outlook, now)
        sentences += [UNSAVED, f"If it stops, {loss}."]
    return sentences


def _tokens(account: Account, now: datetime, *, can_serve: bool) -> Iterator[str]:
    """Describe the last refresh, and the access token that programs receive."""
    if account.consent_id is None:
        return
    if account.refreshed_at is not None:
        yield _last_refresh(account.refreshed_at, account.refreshed_by, now)
        if account.refreshed_at - now > MAX_CLOCK_SKEW:
            yield "That time lies in the future: the clock was set back."
    if can_serve and account.access is not None:
        until = _time(account.access.expires_at, now)
        yield f"Programs receive an access token that expires at {until}."
    else:
        yield "No access token can be returned now."


def _last_refresh(at: datetime, by: str | None, now: datetime) -> str:
    if by is None:
        return f"Logged in at {_time(at, now)}, and not refreshed since."
    return f"Last refreshed at {_time(at, now)} by {by}."


def _attempts(
    account: Account, outlook: Outlook, policy: Policy, now: datetime, server: IdentityServer
) -> Iterator[str]:
    """Describe the operation that is not done yet, and the next attempt or refresh."""
    if outlook.retrying is None:
        yield from _next_refresh(outlook.next_attempt_at, now)
        return
    yield from _operation(account, outlook, policy, now, server)
    yield from _failures(account.problem, account.failed_attempts, now, server.name)
    yield from _grace(account.intent, outlook.grace_ends_at, now, server.name)
    if outlook.retrying is not Retrying.UNDER_WAY:
        yield from _next_attempt(outlook.next_attempt_at, now)


def _next_refresh(at: datetime | None, now: datetime) -> Iterator[str]:
    if at is not None:
        yield f"The next refresh is due at {_time(at, now)}."


def _operation(
    account: Account, outlook: Outlook, policy: Policy, now: datetime, server: IdentityServer
) -> Iterator[str]:
    match outlook.retrying:
        case Retrying.UNDER_WAY if account.intent:
            yield from _under_way(account, account.intent, policy, now)
        case Retrying.LOST_RESPONSE if outlook.attention_for is Need.LAST_ATTEMPT:
            yield (
                "A refresh was started, and no usable response arrived: its refresh token may be "
                f"spent, and {server.name} accepts none twice. It is sent once more when the "
                "access token has expired."
            )
        case Retrying.LOST_RESPONSE if outlook.grace_ends_at:
            began = _time(outlook.grace_ends_at - policy.grace, now)
            yield (
                f"A refresh started at {began}, and no usable response arrived: {server.name} may "
                "have carried it out."
            )
        case Retrying.MISSING_TOKEN:
            yield (
                f"{capitalised(server.name)}'s last response held no refresh token: the same one "
                "is spent again."
            )
        case Retrying.PROOF:
            yield "Several refresh tokens may be live: the next refresh shows which one is."
        case Retrying.REVOCATION if account.ended_at:
            ended = _time(account.ended_at, now)
            rest = f"{server.name} has not confirmed the revocation yet"
            if not server.revoke_url:
                rest = "its tokens are still to be forgotten"
            yield f"The login was ended at {ended}, and {rest}."


def _under_way(account: Account, intent: Intent, policy: Policy, now: datetime) -> Iterator[str]:
    began = _time(intent.began_at, now)
    yield f"{intent.by} started a refresh at {began} and has recorded no outcome yet."
    if is_strict(policy):
        return
    within = span_text(timedelta(seconds=LEASE_SECONDS) + policy.tick)
    yield f"If that process has ended, another process resumes the refresh within {within}."


def _failures(problem: Problem | None, attempts: int, now: datetime, server: str) -> Iterator[str]:
    if problem is not None:
        count, at = counted(attempts, "failed attempt"), _time(problem.at, now)
        yield f"{count} so far, the last at {at}: {failure_text(problem, server)}."


def _grace(
    intent: Intent | None, ends_at: datetime | None, now: datetime, server: str
) -> Iterator[str]:
    """Tell when the grace period ends, while a refresh is open."""
    if intent is None or ends_at is None:
        return
    until = _time(ends_at, now)
    if ends_at > now:
        yield f"{capitalised(server)} accepts the same refresh token again until {until}."
    else:
        yield (
            f"The grace period of the refresh token ended at {until}: {server} may refuse it now."
        )


def _next_attempt(at: datetime | None, now: datetime) -> Iterator[str]:
    if at is None:
        return
    if at > now:
        yield f"The next attempt is at {_time(at, now)} or later."
    else:
        yield "The next attempt is due now."


NO_LOGIN = "No user is logged in. Open {home} and log in."
ENDED = "The login was ended here. Open {home} and log in."
FORGOTTEN = f"The login was ended here. Its tokens are {FORGOTTEN_TEXT}. Open {{home}} and log in."

NO_LOGIN_YET = {
    State.NO_CREDENTIALS: (
        "The app's credentials are missing. Open {form} to enter them, and log in."
    ),
    State.WAITING: "A login was started and has not returned from {server} yet.",
}
"""The sentences of two states that need another one than ``NO_LOGIN``."""

NO_CREDENTIALS = (
    "The client's credentials are missing, so this account gets no token. An operator must act: "
    f"{SET_CREDENTIALS}."
)

CLIENT_REFUSED = (
    "An operator must act: {remedy}. After a change of the settings, restart xots and request a "
    "refresh. The login is kept until then."
)

CLIENT_REFUSED_WITHOUT_LOGIN = (
    "An operator must act: {remedy}. After a change of the settings, restart xots."
)


def _login_need(
    keeper: TokenKeeper, outlook: Outlook, now: datetime, url: Callable[[str], str]
) -> str:
    """Tell when a user must log in, or how an operator can help."""
    account, server = keeper.account, keeper.identity_server
    need, needed_at = outlook.attention_for, outlook.login_needed_at
    if need is Need.NO_LOGIN:
        sentence = _no_login(account, keeper.state, server)
        return sentence.format(form=url("/"), home=url("/home"), server=server.name)
    if need is Need.NO_CREDENTIALS:
        return NO_CREDENTIALS
    if need is Need.CONSENT_LOST:
        lost = _lost(account, keeper.policy, server.name)
        return f"{lost} A user must log in again: open {url('/home')}."
    if need is Need.CLIENT_REFUSED:
        code = account.problem.code if account.problem else None
        can_log_in = keeper.policy.grant is Grant.AUTHORIZATION_CODE
        text = CLIENT_REFUSED if can_log_in else CLIENT_REFUSED_WITHOUT_LOGIN
        advice = remedy(code, server.name, url("/home"), can_log_in=can_log_in)
        return text.format(remedy=advice)
    if needed_at is None:
        return "No user has to log in: the client's own credentials get the access tokens."
    if need is Need.LAST_ATTEMPT:
        return (
            f"A user must probably log in after {_time(needed_at, now)}. Log in at {url('/home')} "
            "before that, and programs notice nothing."
        )
    if needed_at <= now:
        return "If the next attempt fails, a user must log in."
    if need is Need.GRACE_ENDS:
        return f"If nothing improves, a user may have to log in after {_time(needed_at, now)}."
    if not server.is_xero:
        return LIFETIME_UNKNOWN
    return (
        f"If no refresh succeeds, a user must log in after {_time(needed_at, now)}: unused refresh "
        f"tokens expire after {XERO_REFRESH_LIFETIME.days} days."
    )


LIFETIME_UNKNOWN = (
    "If no refresh succeeds, a user may have to log in: an unused refresh token may expire."
)
"""The need for a login while an unspent refresh token is left, at a server of which its lifetime is
not known."""


def _no_login(account: Account, state: State, server: IdentityServer) -> str:
    if state is State.REVOKED and account.revocation is None:
        return ENDED if server.revoke_url else FORGOTTEN
    return NO_LOGIN_YET.get(state, NO_LOGIN)


def _lost(account: Account, policy: Policy, server: str) -> str:
    response = account.problem.detail if account.problem else "no token"
    is_refused = account.problem is None or account.problem.kind is ProblemKind.REFUSED
    text = capitalised(lost_text(server, is_refused=is_refused))
    return f"The login is lost. {text} ({response}): {why_lost(account, policy, server)}."


def _store(problem: str | None) -> Iterator[str]:
    if problem is not None:
        yield f"The token store cannot be used: {problem}."
        yield "No refresh token is spent until it works again."


def _clocks(skew: ClockSkewed | None) -> Iterator[str]:
    if skew is not None:
        yield f"{capitalised(str(skew))}."


UNSAVED = (
    "The last change exists in this process only: do not stop this process before the store works "
    "again."
)


def _loss(keeper: TokenKeeper, outlook: Outlook, now: datetime) -> str:
    """Return the consequence if this process ends with a change that the store did not take."""
    account = keeper.account
    if account.without_user:
        return "the next process requests another access token"
    if keeper.rolled_back:
        return "a user may have to log in: the store holds an older record"
    if account.failed_attempts:
        return "the next process repeats the attempt"
    is_refresh = account.consent_id is not None and account.refreshed_by is not None
    if outlook.grace_ends_at is None and not is_refresh:
        return "the last login or logout must be repeated"
    if outlook.grace_ends_at is not None and outlook.grace_ends_at > now:
        return f"the refresh can be repeated until {_time(outlook.grace_ends_at, now)}"
    return "a user may have to log in"


def _identity_server(account: Account, token_url: str) -> Iterator[str]:
    """Tell if the login belongs to another identity server than the settings name."""
    if account.token_url not in (None, token_url):
        yield (
            f"The stored login belongs to another identity server, {account.token_url}: this "
            "process leaves it alone."
        )


def _time(at: datetime, now: datetime) -> str:
    """Return a time in words, with its distance from now."""
    ahead = at - now
    if ahead > SAME_TIME:
        return f"{time_text(at, now)} ({span_text(ahead)} from now)"
    return f"{time_text(at, now)} ({span_text(-ahead)} ago)"


ROUTES = [(r"/status", StatusHandler)]
