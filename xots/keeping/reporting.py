"""The reports of the keeper: the events that follow from an operation, and why there is no token.

Everything here is pure. A ``Situation`` holds the account as it stands.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from ..advice import XERO
from ..clock import MAX_CLOCK_SKEW
from ..errors import ConsentLost, NoCredentials, NotLoggedIn, NoToken, TokenUnavailable, XotsError
from ..events import (
    ClockSkewed,
    ConsentWasLost,
    Event,
    RecordFollowed,
    Refreshed,
    RefreshFailed,
    RefreshResumed,
    RefreshTokenMissing,
    StoreDegraded,
    StoreLostWrites,
    StoreRecovered,
)
from ..lifecycle.account import Account, Problem, ProblemKind, RefreshToken
from ..lifecycle.outcomes import Failure, Issued, Outcome, Refused
from ..lifecycle.outlook import Need, Outlook, Retrying, why_lost
from ..lifecycle.policy import Policy
from ..lifecycle.schedule import (
    State,
    min_servable,
    scheduled_refresh_at,
    servable,
    unresolved_intent,
)
from ..wording import lost_text, problem_text, span_text, time_text
from .replica import StoreChange

__all__ = [
    "Situation",
    "client_token_event",
    "clock_skew",
    "cut_off_event",
    "followed_event",
    "loss_at_close",
    "no_token",
    "refresh_events",
    "resumed_event",
    "store_event",
]


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The account as it stands at one moment."""

    name: str
    at: datetime
    account: Account
    """The record, dated as this host's clock shows."""
    policy: Policy
    state: State
    outlook: Outlook
    unsaved: bool
    store_problem: str | None
    server: str = XERO
    """The name of the identity server in a sentence."""


# ---------- events


def resumed_event(
    name: str, found: Account, token: RefreshToken, at: datetime
) -> RefreshResumed | None:
    """Return the event of a refresh that resumes the open one of ``found``, if there is one."""
    cut_off = unresolved_intent(found)
    if cut_off is None:
        return None
    same = cut_off.fingerprint == token.fingerprint
    return RefreshResumed(account=name, at=at, by=cut_off.by, began_at=cut_off.began_at, same=same)


def refresh_events(
    situation: Situation,
    *,
    begun: Account,
    spent: RefreshToken,
    outcome: Outcome,
    concluded: Account,
    seconds: float,
) -> list[Event]:
    """Return the events of one attempt: none if it served the end of a login (``disconnecting``),
    which has events of its own.

    Args:
        situation: the account after the attempt's outcome was committed.
        begun: the record with the intent.
        spent: the refresh token that was sent.
        outcome: the result of the request.
        concluded: the record that the outcome made of ``begun``.
        seconds: the duration of the request.
    """
    if begun.consent_id is None:
        return []
    if isinstance(outcome, Issued):
        return _issued_events(situation, begun, spent, outcome, seconds)
    if situation.state is State.CONSENT_LOST:
        return [_lost_event(situation, spent, outcome)]
    problem = situation.account.problem
    if problem is None or problem != concluded.problem:
        # The lease ran out, and another process has gone on: its outcome counts, not ours.
        return [followed_event(situation)]
    return [_failed_event(situation, problem)]


def _issued_events(
    situation: Situation, begun: Account, spent: RefreshToken, issued: Issued, seconds: float
) -> list[Event]:
    account, outlook, events = situation.account, situation.outlook, list[Event]()
    problem = account.problem
    if problem is not None and problem.kind is ProblemKind.EXPIRED:
        events.append(_failed_event(situation, problem))
    elif account.access is not None:
        token = issued.refresh_token
        events.append(
            Refreshed(
                account=situation.name,
                at=situation.at,
                spent=spent.fingerprint,
                issued=token.fingerprint if token else None,
                expires_at=account.access.expires_at,
                seconds=seconds,
                failed_attempts=begun.failed_attempts,
                due_at=scheduled_refresh_at(begun, situation.policy),
            )
        )
    if outlook.retrying is Retrying.MISSING_TOKEN:
        events.append(
            RefreshTokenMissing(
                account=situation.name,
                at=situation.at,
                token=spent.fingerprint,
                next_attempt_at=outlook.next_attempt_at,
                grace_ends_at=outlook.grace_ends_at,
            )
        )
    return events


def client_token_event(
    situation: Situation,
    *,
    concluded: Account,
    failed_attempts: int,
    due_at: datetime | None,
    seconds: float,
) -> Event:
    """Return the event of a request with the client's own credentials.

    Args:
        situation: the account after the outcome was committed.
        concluded: the record that the outcome made.
        failed_attempts: the failed attempts before it.
        due_at: when the request was due, if that is known.
        seconds: the duration of the request.
    """
    account = situation.account
    if account.problem is not None and account.problem == concluded.problem:
        return _failed_event(situation, account.problem)
    if concluded.problem is not None or account.access is None:
        return followed_event(situation)
    return Refreshed(
        account=situation.name,
        at=situation.at,
        spent=None,
        issued=None,
        expires_at=account.access.expires_at,
        seconds=seconds,
        failed_attempts=failed_attempts,
        due_at=due_at,
    )


def cut_off_event(situation: Situation, spent: RefreshToken, problem: Problem) -> Event:
    """Return the event of a refresh that was cut off and is not repeated now.

    Args:
        situation: the account after that was written.
        spent: the refresh token that it may have spent.
        problem: how it was cut off.
    """
    if situation.state is State.CONSENT_LOST:
        return _lost_event(situation, spent, Failure(detail=problem.detail))
    return _failed_event(situation, problem)


def _lost_event(situation: Situation, spent: RefreshToken, failure: Failure) -> ConsentWasLost:
    account, at, policy = situation.account, situation.at, situation.policy
    served = servable(account, at, min_servable(account, policy))
    return ConsentWasLost(
        account=situation.name,
        at=at,
        detail=failure.detail,
        token=spent.fingerprint,
        is_refused=isinstance(failure, Refused),
        reason=why_lost(account, policy, situation.server),
        served_until=served.expires_at if served else None,
    )


def _failed_event(situation: Situation, problem: Problem) -> RefreshFailed:
    outlook = situation.outlook
    return RefreshFailed(
        account=situation.name,
        at=situation.at,
        problem=problem,
        failed_attempts=situation.account.failed_attempts,
        next_attempt_at=outlook.next_attempt_at,
        grace_ends_at=outlook.grace_ends_at,
        login_needed_at=outlook.login_needed_at,
        attention_for=outlook.attention_for,
    )


def followed_event(situation: Situation) -> RecordFollowed:
    """Return the event of a record that another process wrote."""
    account = situation.account
    return RecordFollowed(
        account=situation.name,
        at=situation.at,
        generation=account.generation,
        refreshed_at=account.refreshed_at,
        refreshed_by=account.refreshed_by,
    )


def store_event(situation: Situation, change: StoreChange) -> Event:
    """Return the event of a change of the store's health."""
    name, at = situation.name, situation.at
    if change is StoreChange.RECOVERED:
        return StoreRecovered(account=name, at=at)
    if change is StoreChange.LOST_WRITES:
        return StoreLostWrites(account=name, at=at, generation=situation.account.generation)
    return StoreDegraded(
        account=name,
        at=at,
        reason=str(situation.store_problem),
        unsaved=situation.unsaved,
        grace_ends_at=situation.outlook.grace_ends_at,
    )


def clock_skew(
    name: str, account: Account, now: datetime, of_store: tuple[str, timedelta] | None
) -> ClockSkewed | None:
    """Return the event of clocks that differ by more than ``MAX_CLOCK_SKEW``; None if they agree.

    Args:
        name: the account's name.
        account: its record. One dated in the future shows that the clock of its writer is ahead, or
            that this host's was set back.
        now: this host's time.
        of_store: the comparison that the store made, if it can: see ``TokenStore.clock_skew``.
    """
    found = [(host, at - now) for host, at in _dates(account) if at > now]
    if of_store is not None:
        found.append(of_store)
    host, ahead = max(found, key=lambda one: abs(one[1]), default=("", timedelta(0)))
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return None
    return ClockSkewed(account=name, at=now, host=host, ahead=ahead)


def _dates(account: Account) -> list[tuple[str, datetime]]:
    """Return the dates that hosts wrote into the record, each with the host."""
    refreshed_by = account.refreshed_by or "the host of the last login"
    dates = [
        (refreshed_by, account.refreshed_at),
        ("the host of the last logout", account.ended_at),
    ]
    if account.intent is not None:
        dates.append((account.intent.by, account.intent.began_at))
    if account.problem is not None:
        dates.append(("the host of the last failed attempt", account.problem.at))
    return [(host, at) for host, at in dates if at is not None]


def loss_at_close(name: str, problem: str | None, *, rolled_back: bool, grace: timedelta) -> str:
    """Return the message of a keeper that closes with a change that the store did not take.

    ``grace`` is the time in which the identity server accepts a spent refresh token again.
    """
    again = f"can be repeated for {span_text(grace)}" if grace else "cannot be repeated"
    loss = (
        f"the next start goes on from the record before it: a refresh {again}, a login or its end "
        "has to be done again"
    )
    if rolled_back:
        loss = "the next start goes on from the store's older record: a user may have to log in"
    return f"stopped with a change of {name!r} that the store could not take ({problem}); {loss}"


# ---------- no token


NO_LOGIN: dict[State, tuple[type[NoToken], str]] = {
    State.NO_CREDENTIALS: (
        NoCredentials,
        "the client's credentials have not been entered yet",
    ),
    State.NOT_LOGGED_IN: (NotLoggedIn, "no user has logged in yet"),
    State.WAITING: (
        NotLoggedIn,
        "no user has logged in yet: a login was started and has not returned from {server}",
    ),
    State.REVOKED: (NotLoggedIn, "the login was ended here"),
}
"""The states without a login, each with its error and its text."""


def no_token(situation: Situation, *, ending: bool, in_progress: bool, foreign: bool) -> XotsError:
    """Return the error that tells why no access token can be returned.

    Args:
        situation: the account as it stands.
        ending: a login's end is being carried out.
        in_progress: a refresh is in progress.
        foreign: another identity server issued the record's tokens.
    """
    if ending:
        return NotLoggedIn("the login is being ended")
    if situation.state in NO_LOGIN:
        error, message = NO_LOGIN[situation.state]
        return error(message.format(server=situation.server))
    if foreign:
        url = situation.account.token_url
        return TokenUnavailable(
            "the stored login belongs to another identity server, client or grant than the "
            f"settings name (its token_url is {url}); set the same again, or keep the two apart "
            "with an account of their own",
            situation.policy.max_wait.total_seconds(),
        )
    problem = situation.account.problem
    if situation.state is State.CONSENT_LOST:
        detail = problem.detail if problem else "no token"
        is_refused = problem is None or problem.kind is ProblemKind.REFUSED
        text = lost_text(situation.server, is_refused=is_refused)
        return ConsentLost(f"the login is lost: {text} ({detail})")
    return _unavailable(situation, in_progress)


def _unavailable(situation: Situation, in_progress: bool) -> TokenUnavailable:
    account, now, policy = situation.account, situation.at, situation.policy
    reason, wait = _reason(situation, in_progress), policy.first_backoff
    next_at = account.retry_not_before
    if situation.outlook.attention_for is Need.LAST_ATTEMPT:
        next_at = situation.outlook.next_attempt_at
    if next_at is not None and next_at > now:
        wait = max(wait, next_at - now)
        reason += f"; the next request to {situation.server} is at {time_text(next_at, now)}"
    if situation.outlook.attention_for is Need.LAST_ATTEMPT:
        reason += "; a user must probably log in then"
    if served := servable(account, now, min_servable(account, policy)):
        until = time_text(served.expires_at, now)
        reason += f"; /token returns the old access token until {until}"
    return TokenUnavailable(reason, min(wait, policy.max_wait).total_seconds())


def _reason(situation: Situation, in_progress: bool) -> str:
    problem = situation.account.problem
    if situation.store_problem is not None:
        return f"the token store cannot be used: {situation.store_problem}"
    if problem is not None:
        return problem_text(problem, situation.server)
    if in_progress:
        return "a refresh is in progress and takes long"
    return "the access token could not be refreshed"
