"""The transitions of the record in a refresh: its next version at the start and after each outcome.

Every function takes the record and returns a new one. ``now`` and ``jitter`` are arguments.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from ..secret import Secret
from .account import (
    AccessToken,
    Account,
    Intent,
    Problem,
    ProblemKind,
    RefreshNote,
    RefreshToken,
    bounded,
)
from .candidates import is_strict, surely_within_grace, within_grace
from .outcomes import ClientRefused, Failure, Issued, NotSent, Outcome, Refused, Throttled, Unknown
from .policy import Policy
from .waits import CUT_OFF_WAIT, backoff_wait, demanded_wait, doubled_wait, slow_wait

__all__ = [
    "after",
    "after_cut_off",
    "after_failure",
    "after_other_failure",
    "begin_refresh",
    "new_access_token",
    "with_expired_noted",
    "with_note",
]

MAX_LIFETIME = timedelta(days=1)
"""Upper bound on an access token's lifetime. A longer ``expires_in`` is more likely a mistake."""

ASSUMED_LIFETIME = timedelta(minutes=5)
"""Lifetime of an access token without a usable ``expires_in``, which RFC 6749 only recommends."""


def begin_refresh(
    account: Account, token: RefreshToken, *, by: str, now: datetime, strict: bool = False
) -> Account:
    """Return the account with the intent to spend ``token``. It is written before the request.

    If the refresh of another token is open, the intent remembers that token too. Its refresh counts
    as open again if this attempt spends nothing. A request without a known outcome, of this token
    or of the other one, may still be on its way to Xero. A refused token, which is sent once more
    at a user's request, stays refused until it is accepted. ``strict``: see
    ``candidates.is_strict``.
    """
    also_open = _also_open(account, token)
    intent = Intent(
        by=by,
        began_at=now,
        fingerprint=token.fingerprint,
        set_first_spent=token.first_spent_at is None,
        also_open=also_open,
    )
    if other := account.token(also_open):
        account = account.with_token(replace(other, may_be_in_flight=True))
    spent = replace(
        token,
        first_spent_at=token.first_spent_at or now,
        may_be_in_flight=token.first_spent_at is not None and token.refused_at is None,
        resent=strict and token.first_spent_at is not None,
    )
    return replace(account.with_token(spent), intent=intent)


def _also_open(account: Account, token: RefreshToken) -> str | None:
    """Return the fingerprint of the token, other than this one, whose refresh is open."""
    intent = account.intent
    if intent is None:
        return None
    return intent.also_open if intent.fingerprint == token.fingerprint else intent.fingerprint


def after(
    account: Account, outcome: Outcome, *, now: datetime, policy: Policy, jitter: float
) -> Account:
    """Return the account after the request for its open intent had this outcome.

    Args:
        account: the record with the intent.
        outcome: the result of the request.
        now: when the response arrived.
        policy: the durations to decide by.
        jitter: a random number in [0, 1), for the wait before the next attempt.
    """
    intent, _ = _open_refresh(account)
    found = _after_outcome(account, outcome, now=now, policy=policy, jitter=jitter)
    return with_note(found, intent.by, now)


def with_note(account: Account, by: str, at: datetime) -> Account:
    """Return the account with its last attempt, which ``by`` made, in the history."""
    kind = account.problem.kind if account.problem else None
    note = RefreshNote(at=at, by=by, ok=kind is None, kind=kind)
    return replace(account, refreshes=(note, *account.refreshes))


def _after_outcome(
    account: Account, outcome: Outcome, *, now: datetime, policy: Policy, jitter: float
) -> Account:
    """Return what ``after`` returns, without the note in the history."""
    match outcome:
        case Issued():
            issued = _after_issued(account, outcome, now=now, policy=policy)
            return with_expired_noted(issued, account, outcome, now, policy, jitter)
        case Refused():
            return _after_refused(account, outcome, now=now)
        case NotSent() | Throttled() | ClientRefused():
            account = _unspent(account)
    return after_other_failure(account, outcome, now=now, policy=policy, jitter=jitter)


def after_other_failure(
    account: Account,
    failure: Unknown | NotSent | Throttled | ClientRefused,
    *,
    now: datetime,
    policy: Policy,
    jitter: float,
) -> Account:
    """Return the account with the failure as its problem, and the next attempt after a wait that
    fits it."""
    wait = backoff_wait(account, policy, jitter)
    match failure:
        case Unknown():
            kind = ProblemKind.UNKNOWN
            wait = max(wait, demanded_wait(account, failure, policy, jitter))
        case NotSent():
            kind = ProblemKind.NOT_SENT
        case Throttled():
            kind = ProblemKind.THROTTLED
            wait = max(wait, demanded_wait(account, failure, policy, jitter))
        case ClientRefused():
            kind, wait = ProblemKind.CLIENT_REFUSED, slow_wait(policy, jitter)
    return after_failure(account, failure, kind, now, wait)


def with_expired_noted(
    account: Account, before: Account, issued: Issued, now: datetime, policy: Policy, jitter: float
) -> Account:
    """Return the account after ``issued``, with a long wait if its access token had expired at its
    issue: the next one may have, too. ``before`` is the record before the response."""
    if issued.lifetime is None or issued.lifetime > timedelta(0):
        return account
    failure = Failure(detail="expires_in is not above 0")
    account = replace(
        account, failed_attempts=before.failed_attempts, access=before.access or account.access
    )
    return after_failure(account, failure, ProblemKind.EXPIRED, now, slow_wait(policy, jitter))


def after_cut_off(account: Account, *, now: datetime) -> Account:
    """Return the account once its open refresh is known to be cut off: it has no outcome, and is
    not repeated now."""
    intent, _ = _open_refresh(account)
    failure = Unknown(detail=f"{intent.by} started a refresh and recorded no outcome")
    at = max(now, intent.began_at)  # this host's clock may be behind that of the other process
    noted = after_failure(account, failure, ProblemKind.UNKNOWN, at, CUT_OFF_WAIT)
    noted = replace(noted, retry_not_before=now + CUT_OFF_WAIT)
    return with_note(noted, intent.by, now)


def _after_issued(account: Account, issued: Issued, *, now: datetime, policy: Policy) -> Account:
    intent, spent = _open_refresh(account)
    spent = replace(spent, refused_at=None)
    account = replace(
        account.with_token(spent),
        access=_access_after(account, issued, now, policy),
        scopes_granted=account.scopes_granted if issued.scopes is None else issued.scopes,
        refreshed_at=now,
        refreshed_by=intent.by,
        xero_userid=account.xero_userid or issued.xero_userid,  # a record of format 3 has none
        auth_event_id=account.auth_event_id or issued.auth_event_id,
        failed_attempts=0,
        problem=None,
        retry_not_before=None,
    )
    if issued.refresh_token is None:
        return _without_refresh_token(account, spent, now=now, policy=policy)
    others = _others(account, spent)
    successor = _successor(account, spent, issued.refresh_token, now)
    kept = [t for t in others if t is not successor and _worth_keeping(t, spent, now, policy)]
    has_rotated = issued.refresh_token != spent.value
    if has_rotated and not is_strict(policy):
        kept.insert(0, spent)
    return _concluded(account, successor, bounded(kept), rotates=True)


def _successor(account: Account, spent: RefreshToken, value: Secret, now: datetime) -> RefreshToken:
    """Return the refresh token that came in the response to a request with ``spent``.

    A known one came with a replay of an earlier response: it is as old, and as spent, as before. A
    tombstoned one was spent before, at an unknown time; the time of ``spent`` is the safe guess.
    """
    known = next((t for t in _others(account, spent) if t.value == value), None)
    tombstoned = value.fingerprint in account.tombstones
    first_spent_at = spent.first_spent_at if tombstoned else None
    return known or RefreshToken(value=value, obtained_at=now, first_spent_at=first_spent_at)


def _access_after(account: Account, issued: Issued, now: datetime, policy: Policy) -> AccessToken:
    """Return the new access token, dated by the earliest request that may have issued it.

    The response to a retry may be a replay of the lost one, so its lifetime counts from the first
    attempt. If that lies outside the grace period, the retry is late or a clock was set: the age of
    the access token is unknown, and it counts as expired. A server that accepts no token twice
    sends no replay.
    """
    intent, spent = _open_refresh(account)
    began = min(intent.began_at, now)
    if not (intent.set_first_spent or is_strict(policy)):  # a retry
        datable = surely_within_grace(spent, now, policy)
        began = min(spent.first_spent_at or began, began) if datable else began - _lifetime(issued)
    access = new_access_token(issued, began)
    if account.access is None or account.access.value != access.value:
        return access
    return min(account.access, access, key=lambda a: a.expires_at)  # a replay, as old as it was


def _without_refresh_token(
    account: Account, spent: RefreshToken, *, now: datetime, policy: Policy
) -> Account:
    """Return the account after a response without a refresh token.

    Either the token was lost on the way, or the server does not rotate. At the first such response
    the intent stays open, and a retry requests the token again. After the second, the server counts
    as one that does not rotate, and the spent token as fresh. A server that has rotated tokens of
    this login before is asked again as long as the grace period lasts. A server that accepts no
    token twice is not: without a new token, the old one stays valid (RFC 6749 section 6).
    """
    others = _others(account, spent)
    has_rotated = bool(others) and within_grace(spent, now, policy)
    is_first = account.rotates and account.responses_without_token == 0
    is_first = is_first and not is_strict(policy)
    if is_first or has_rotated:
        return replace(
            account,
            responses_without_token=account.responses_without_token + 1,
            retry_not_before=now + doubled_wait(policy, account.responses_without_token),
        )
    fresh = RefreshToken(value=spent.value, obtained_at=now)
    kept = tuple(t for t in others if _worth_keeping(t, spent, now, policy))
    return _concluded(account, fresh, bounded(kept), rotates=False)


def _after_refused(account: Account, refused: Refused, *, now: datetime) -> Account:
    """Return the account with the spent token condemned. The others stay."""
    _, spent = _open_refresh(account)
    account = account.with_token(replace(spent, refused_at=now))
    return replace(
        account,
        intent=_other_open_refresh(account),
        failed_attempts=account.failed_attempts + 1,
        responses_without_token=0,
        retry_not_before=None,
        problem=Problem(kind=ProblemKind.REFUSED, detail=refused.detail, at=now),
    )


def after_failure(
    account: Account, failure: Failure, kind: ProblemKind, now: datetime, wait: timedelta
) -> Account:
    """Return the account with the failure as its problem, and the next attempt after ``wait``."""
    return replace(
        account,
        failed_attempts=account.failed_attempts + 1,
        retry_not_before=now + wait,
        problem=Problem(kind=kind, code=_code_of(failure), detail=failure.detail, at=now),
    )


def _code_of(failure: Failure) -> str | None:
    return failure.code if isinstance(failure, ClientRefused) else None


def _unspent(account: Account) -> Account:
    """Return the account after an outcome that proves that this attempt did not spend the token.

    If an earlier attempt may have spent it, the intent and the first-spent time stay.
    """
    intent, spent = _open_refresh(account)
    if spent.refused_at:
        return replace(account, intent=_other_open_refresh(account))
    if not intent.set_first_spent:
        return account.with_token(replace(spent, resent=False))
    account = account.with_token(replace(spent, first_spent_at=None))
    return replace(account, intent=_other_open_refresh(account))


def _other_open_refresh(account: Account) -> Intent | None:
    """Return the intent of the other token whose refresh is open, now that this attempt is over."""
    intent, _ = _open_refresh(account)
    token = account.token(intent.also_open)
    if token is None or token.refused_at:
        return None
    return replace(intent, fingerprint=token.fingerprint, set_first_spent=False, also_open=None)


def _concluded(
    account: Account,
    current: RefreshToken,
    fallbacks: tuple[RefreshToken, ...],
    *,
    rotates: bool,
) -> Account:
    """Return the account with these tokens only, tombstones for the others, and no intent."""
    concluded = replace(
        account,
        current=current,
        fallbacks=fallbacks,
        intent=None,
        responses_without_token=0,
        rotates=rotates,
    )
    return concluded.with_tombstones(token.fingerprint for token in account.tokens)


def _worth_keeping(
    token: RefreshToken, proved: RefreshToken, now: datetime, policy: Policy
) -> bool:
    """Tell if ``token`` stays as a fallback, now that Xero has accepted ``proved``."""
    if token.refused_at:
        return False
    if token.first_spent_at is None:  # it may have arrived after the accepted token was sent
        return token.obtained_at > (proved.first_spent_at or now)
    return within_grace(token, now, policy)


def _open_refresh(account: Account) -> tuple[Intent, RefreshToken]:
    """Return the intent and the refresh token that it names.

    Raises:
        LookupError: the record has no intent, or does not hold the token that it names.
    """
    intent, token = account.intent, account.spending
    if intent is None or token is None:
        raise LookupError("the record holds no intent, or not the token that its intent names")
    return intent, token


def _others(account: Account, token: RefreshToken) -> tuple[RefreshToken, ...]:
    return tuple(t for t in account.tokens if t.value != token.value)


def new_access_token(issued: Issued, began: datetime) -> AccessToken:
    """Return the access token of a response to the request that was sent at ``began``."""
    return AccessToken(
        value=issued.access_token,
        token_type=issued.token_type,
        issued_at=began,
        expires_at=began + _lifetime(issued),
    )


def _lifetime(issued: Issued) -> timedelta:
    return ASSUMED_LIFETIME if issued.lifetime is None else min(issued.lifetime, MAX_LIFETIME)
