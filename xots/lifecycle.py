"""The life of a login's tokens, as a pure state machine: what to do next, and what the record becomes.

Nothing here does I/O, reads a clock or draws a random number: ``now`` is an argument (aware UTC), so is the
jitter (0 to 1). The keeper asks ``next_step``, acts, and hands the outcome to ``after``; login and its end have
functions of their own.

Protocol facts: RFC 6749 (refresh, errors), and Xero's "token types" page: a refresh token is used once, a lost
answer may be retried with the same token for 30 minutes, one that lies unused dies after 60 days.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec.structs import replace

from .account import AccessToken, Account, Intent, Problem, RefreshToken, Secret

__all__ = [
    "ClientRefused",
    "Failure",
    "Issued",
    "Need",
    "NotSent",
    "Outcome",
    "Outlook",
    "Policy",
    "Refused",
    "Retrying",
    "Spend",
    "State",
    "Step",
    "Throttled",
    "Unknown",
    "Use",
    "Wait",
    "after",
    "after_end",
    "after_login",
    "after_revocation_failed",
    "after_revoked",
    "begin_refresh",
    "branched_off",
    "consent_epoch",
    "demanded_ttl",
    "ending_within",
    "good_for",
    "is_ours",
    "last_seconds",
    "merged",
    "next_step",
    "outlook",
    "promised_ttl",
    "refresh_due_at",
    "revocation_due",
    "state_of",
    "tick_seconds",
    "tokens_to_revoke",
    "unconcluded",
    "why_lost",
]

XERO_ACCESS_LIFE = timedelta(minutes=30)
"""How long Xero's access tokens live; for shorter-lived ones the promises below shrink in proportion."""

ASSUMED_LIFE = timedelta(minutes=5)
"""An answer without a usable ``expires_in`` (RFC 6749 only recommends it) is taken to live this long."""

XERO_REFRESH_LIFE = timedelta(days=60)
"""A refresh token that lies unused for so long dies (Xero: "token types"). Ours is rotated long before that."""

LAST_SECONDS = timedelta(seconds=10)
"""An access token with less left than this may die on its way to Xero, or be dead by another host's clock: it is no
longer served."""

MOST_DEMANDED = 0.9
"""The part of a fresh token's life that a caller may ask for. With more, a token just minted would be too old soon."""

SHORTEST_TICK = 0.25
"""In seconds: however short tokens live, no more looks are taken than this, nor refreshes made."""

CLOCK_DRIFT = timedelta(seconds=1)
"""Two clocks of one machine may drift apart by this much while an access token lives."""

MOST_DROPPED = 100
"""So many refresh tokens that are kept no longer are remembered by their fingerprints: Xero's of two days."""

LONGEST_LIFE = timedelta(days=1)
"""An ``expires_in`` beyond this is more likely a mistake than a promise."""

CLOCK_SKEW = timedelta(seconds=10)
"""The clocks of two hosts that share an account may differ by this much. A token that was issued further in the
future than that tells of a clock which stepped back: its expiry can't be trusted."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The durations that the decisions rest on."""

    refresh_ahead: timedelta = timedelta(seconds=300)
    """An access token is refreshed this long before its end (at most half its life before), so nobody waits."""
    min_ttl: timedelta = timedelta(seconds=60)
    """A caller is promised a token that lives at least this long."""
    refresh_lifetime: timedelta = timedelta(minutes=72000)
    """A refresh token is rotated before it is this old. Xero's die after 60 days unused; the default is 50."""
    tick: timedelta = timedelta(seconds=15)
    """How often it is looked whether a refresh is due."""
    grace: timedelta = timedelta(minutes=30)
    """How long Xero takes a spent refresh token once more (Xero: "token types")."""
    first_wait: timedelta = timedelta(seconds=1)
    """The first retry comes within this; each further wait may be twice as long."""
    longest_backoff: timedelta = timedelta(seconds=60)
    """Back-off never waits longer: some 30 tries fit into the grace, and an outage is over within a minute for us."""
    slow_wait: timedelta = timedelta(minutes=5)
    """The wait after ``invalid_client``, which only an operator can mend, and the most that a 429 may ask for while
    a refresh is open: several tries must still fall inside the grace."""
    longest_wait: timedelta = timedelta(hours=1)
    """The most that a 429 may ask for otherwise. A ``retry_not_before`` further off comes from a clock that stepped."""
    proving_wait: timedelta = timedelta(minutes=5)
    """A rival that arrived is proved or dropped by a refresh this soon, well inside the grace."""


# ---------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True, kw_only=True)
class Issued:
    """Xero issued an access token, and with it, as a rule, a new refresh token."""

    access_token: Secret
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's name of the scheme
    life: timedelta | None = None
    """None when the answer held no usable ``expires_in``."""
    refresh_token: Secret | None = None
    scopes: tuple[str, ...] | None = None
    """None when the answer did not say: RFC 6749 section 5.1 then means the scopes that were asked for."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What has no tokens in it."""

    detail: str
    """What happened, in words; never holds a secret."""


@dataclass(frozen=True, kw_only=True)
class NotSent(Failure):
    """The request never left (DNS, connection refused, TLS): the token is not spent."""


@dataclass(frozen=True, kw_only=True)
class Unknown(Failure):
    """The request may have been carried out: no answer, half an answer, or one that says nothing about the token."""


@dataclass(frozen=True, kw_only=True)
class Throttled(Failure):
    """429: not carried out."""

    retry_after: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class ClientRefused(Failure):
    """Xero refused the client or the request itself (``invalid_client`` and its like): the token is not spent."""

    code: str
    """The OAuth error code (RFC 6749 section 5.2)."""


@dataclass(frozen=True, kw_only=True)
class Refused(Failure):
    """``invalid_grant``: Xero will never issue from this token, or code, again."""


Outcome = Issued | NotSent | Unknown | Throttled | ClientRefused | Refused


# ------------------------------------------------------------------------------------------------- state


class State(StrEnum):
    """Where a login stands."""

    NO_CREDENTIALS = "no-credentials"
    NOT_LOGGED_IN = "not-logged-in"
    WAITING = "waiting"
    """A login was begun, and the person has not come back from Xero yet. Known to the process that began it only."""
    CONNECTED = "connected"
    REFRESH_FAILING = "refresh-failing"
    CONSENT_LOST = "consent-lost"
    REVOKED = "revoked"


def state_of(account: Account, now: datetime, policy: Policy | None = None) -> State:
    """The named state that the record is in."""
    if account.client_id is None:
        return State.NO_CREDENTIALS
    if account.consent_id is None:
        return State.NOT_LOGGED_IN if account.ended_at is None else State.REVOKED
    if next(candidates(account, now, policy or Policy()), None) is None:
        return State.CONSENT_LOST
    return State.REFRESH_FAILING if account.tries else State.CONNECTED


def good_for(account: Account, now: datetime) -> timedelta:
    """How long the access token may still be served; zero when there is none, it is dead or nobody is logged in."""
    access = account.access
    if access is None or account.consent_id is None or _from_the_future(access, now):
        return timedelta(0)
    return max(access.expires_at - max(now, access.issued_at), timedelta(0))


def ending_within(account: Account, left: timedelta, now: datetime) -> Account:
    """The record with its access token dated so that it ends no later than ``left`` from now; its life is as long.
    Less than ``CLOCK_DRIFT`` is left: clocks are slewed."""
    access = account.access
    late = access.expires_at - now - left if access else timedelta(0)
    if access is None or late < CLOCK_DRIFT:
        return account
    earlier = replace(
        access, issued_at=access.issued_at - late, expires_at=access.expires_at - late
    )
    return replace(account, access=earlier)


def _from_the_future(access: AccessToken, now: datetime) -> bool:
    return access.issued_at - now > CLOCK_SKEW


def promised_ttl(account: Account, policy: Policy) -> timedelta:
    """The least life that a caller is promised: ``min_ttl``, at most a quarter of a life shorter than Xero's, and never
    more than a token has that was just minted."""
    if account.access is None:
        return policy.min_ttl
    life = timedelta(seconds=account.access.life_seconds)
    return min(policy.min_ttl, life / 4 if life < XERO_ACCESS_LIFE else life * MOST_DEMANDED)


def last_seconds(account: Account, policy: Policy) -> timedelta:
    """An access token that lives less than this is never served, whatever else fails."""
    return min(LAST_SECONDS, promised_ttl(account, policy))


def demanded_ttl(account: Account, policy: Policy, asked: timedelta | None) -> timedelta:
    """The life that one caller is to get: what is promised to all, or more if ``asked``.

    What is asked for is capped at nine tenths of a fresh token's life, so that one caller can't have a token that
    was just minted refreshed again.
    """
    promised = promised_ttl(account, policy)
    if asked is None:
        return promised
    life = timedelta(seconds=account.access.life_seconds) if account.access else XERO_ACCESS_LIFE
    return max(promised, min(asked, life * MOST_DEMANDED))


def tick_seconds(account: Account, policy: Policy) -> float:
    """How often to look, in seconds: ``tick``, at most an eighth of a life shorter than Xero's."""
    tick = policy.tick.total_seconds()
    if account.access is None or account.access.life_seconds >= XERO_ACCESS_LIFE.total_seconds():
        return tick
    return max(min(tick, account.access.life_seconds / 8), SHORTEST_TICK)


# ------------------------------------------------------------------------------------------- what to do


@dataclass(frozen=True)
class Use:
    """Nothing is due: what the record holds is to be used."""


@dataclass(frozen=True)
class Wait:
    """Something is due, but not before ``until``."""

    until: datetime


@dataclass(frozen=True)
class Spend:
    """Refresh with this token now."""

    token: RefreshToken


Step = Use | Wait | Spend


def candidates(account: Account, now: datetime, policy: Policy) -> Iterator[RefreshToken]:
    """The refresh tokens worth spending, the best first.

    ``current``; rivals that were never spent; rivals spent within the grace; each in the record's own order, newest
    first, since a clock may have stepped. A ``current`` whose grace is over waits until all of these were tried, since
    late reuse may end the whole chain, but is not left out: only Xero's word condemns a token. So does the token of an
    open intent, and a rival that was spent in the future, which tells of a clock that stepped. A ``current`` that was
    spent and is not being asked for comes from a replay, which no rival can better. A rival spent before
    the grace, whose answer came, is left alone, but for the one that was spent last where ``current`` was refused: a
    clock may have stepped, and nothing else is left to lose. One that seems unspent and is older than ``current`` by
    the grace comes last: it is from an old dump of the store, and was spent long ago.
    """
    current = account.current
    open_one = account.intent.fingerprint if account.intent else None

    def rank(token: RefreshToken) -> int:
        if token is current and _within_grace(token, now, policy):
            return 0
        if token.first_spent_at is None:
            return (
                1
                if current is None or current.obtained_at - token.obtained_at < policy.grace
                else 4
            )
        replayed = token is current and open_one is None
        return 2 if replayed or _surely_within_grace(token.first_spent_at, now, policy) else 3

    live = [
        t
        for t in _tokens(account)
        if t is current or _within_grace(t, now, policy) or t.value.fingerprint == open_one
    ]
    if current is not None and current.refused_at:
        # Its predecessor is the last hope, whatever the clock says of it.
        spent = next((t for t in account.rivals if t.first_spent_at), None)
        live += [spent] if spent and spent not in live else []
    yield from sorted((t for t in live if not t.refused_at), key=rank)


def _within_grace(token: RefreshToken, now: datetime, policy: Policy) -> bool:
    return token.first_spent_at is None or now - token.first_spent_at < policy.grace


def _surely_within_grace(spent_at: datetime, now: datetime, policy: Policy) -> bool:
    """A moment in the future tells of a clock that stepped: then the age is not known."""
    return -CLOCK_SKEW <= now - spent_at < policy.grace


def refresh_due_at(account: Account, policy: Policy) -> datetime | None:
    """When the next refresh is due, back-off aside; None when nobody is logged in.

    The earliest of: an open intent, a current token that was spent or refused, or no access token (all at once),
    ``refresh_ahead`` before the access token's end, the refresh token's age reaching ``refresh_lifetime``, and the
    proving of a rival that was never spent.
    """
    current, access = account.current, account.access
    if account.consent_id is None or current is None:
        return None
    if account.intent:
        return account.intent.began_at
    if at_once := current.refused_at or current.first_spent_at:
        return at_once
    if access is None:
        return current.obtained_at
    ahead = min(policy.refresh_ahead, timedelta(seconds=access.life_seconds) / 2)
    proofs = (
        r.obtained_at + policy.proving_wait
        for r in account.rivals
        if not (r.first_spent_at or r.refused_at)
    )
    return min(access.expires_at - ahead, current.obtained_at + policy.refresh_lifetime, *proofs)


def next_step(
    account: Account,
    now: datetime,
    policy: Policy,
    *,
    needed: timedelta | None = None,
    meant: str | None = None,
) -> Step:
    """What to do about the tokens now.

    ``needed`` is the life that a caller asks for, if one does: a token that lives less is refreshed although it
    is not yet due. ``meant`` is the fingerprint of the refresh token that somebody wants spent whether due or not:
    if it is no longer the current one, somebody else has refreshed meanwhile and there is nothing to force.
    """
    due_at = refresh_due_at(account, policy)
    token = next(candidates(account, now, policy), None)
    if due_at is None or token is None:
        return Use()
    # What is due at once is so even where a clock that stepped back says that it is due in the future.
    current, access = account.current, account.access
    at_once = bool(
        account.intent
        or access is None
        or (current and (current.refused_at or current.first_spent_at))
    )
    stepped = access is not None and _from_the_future(access, now)
    short = needed is not None and good_for(account, now) < needed
    forced = meant is not None and current is not None and current.value.fingerprint == meant
    if due_at > now and not (at_once or stepped or short or forced):
        return Use()
    until = account.retry_not_before
    # The clock may have stepped under the wait too: one further off than is ever asked for counts as reached.
    # Somebody may have mended what only a person can, and says so.
    mended = forced and _client_refused(account)
    if (
        until is not None
        and now < until <= now + _longest_wait(account, policy) + policy.first_wait
        and not mended
    ):
        return Wait(until)
    return Spend(token)


def _client_refused(account: Account) -> bool:
    return account.problem is not None and account.problem.kind == "client-refused"


def _longest_wait(account: Account, policy: Policy) -> timedelta:
    """The longest wait between tries: while a refresh is open, several must fall inside the grace."""
    return policy.slow_wait if account.intent else policy.longest_wait


# ------------------------------------------------------------------------------- what the operator is told


class Retrying(StrEnum):
    """What is begun and not done yet."""

    UNDER_WAY = "under-way"
    """A refresh was begun and is not concluded: it is under way, or its process was cut off."""
    LOST_ANSWER = "lost-answer"
    """A refresh may have reached Xero, and its answer never arrived."""
    MISSING_TOKEN = "missing-refresh-token"  # noqa: S105
    """Xero's answer held no refresh token."""
    REFRESH = "refresh"
    """A refresh failed without spending the token."""
    PROOF = "proof"
    """Several refresh tokens may be live; a refresh is to show which one is."""
    REVOCATION = "revocation"
    """The login was ended here, and Xero is not told yet."""


class Need(StrEnum):
    """What a person will be needed for."""

    NO_LOGIN = "not-logged-in"
    CONSENT_LOST = "consent-lost"
    CLIENT_REFUSED = "client-refused"
    """Xero does not accept the client's id and secret, which no retry mends."""
    GRACE_ENDS = "grace-ends"
    """All that is left are spent tokens, which Xero takes once more within the grace only."""
    TOKEN_DIES = "refresh-token-unused"  # noqa: S105
    """A refresh token is there that was never spent, and dies if it lies unused."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is being retried and when, and when a person will be needed if nothing improves."""

    retrying: Retrying | None
    next_try_at: datetime | None
    """The earliest moment of the next try, or refresh; None when nothing is to be tried."""
    grace_ends_at: datetime | None
    """Until when Xero surely takes a spent token again, while that matters: its successor is not known, or not kept."""
    person_needed_at: datetime
    """When a person must log in if no try succeeds; never before now."""
    person_needed_for: Need


def outlook(account: Account, now: datetime, policy: Policy, *, unwritten: bool = False) -> Outlook:
    """How things will go on. ``unwritten``: the store does not hold this record yet.

    The latest hope of all the refresh tokens counts. That a token was spent does not say that Xero took it: after the
    grace it may still issue, but nobody can count on it.
    """
    live = list(candidates(account, now, policy)) if account.consent_id else []
    hopes = [(_hope_ends_at(token, now, policy), token) for token in live]
    until, best = max(hopes, key=lambda hope: hope[0], default=(now, None))
    if account.consent_id is None:
        need = Need.NO_LOGIN
    elif best is None:
        need = Need.CONSENT_LOST
    elif _client_refused(account):
        need, until = Need.CLIENT_REFUSED, now
    else:
        need = Need.GRACE_ENDS if best.first_spent_at else Need.TOKEN_DIES
    return Outlook(
        retrying=_retrying(account, live),
        next_try_at=_next_try_at(account, now, policy),
        grace_ends_at=_grace_ends_at(account, now, policy, unwritten)
        if account.consent_id
        else None,
        person_needed_at=max(until, now),
        person_needed_for=need,
    )


def unconcluded(account: Account) -> Intent | None:
    """The intent of a refresh that is under way or was cut off; None when it is known how the last try went."""
    intent, problem = account.intent, account.problem
    known = account.unrotated or (
        problem is not None and intent is not None and problem.at >= intent.began_at
    )
    return None if known else intent


def why_lost(account: Account, policy: Policy) -> str:
    """Why Xero refused the refresh tokens, as far as the record of a lost consent tells."""
    newest = max(
        (t for t in _tokens(account) if t.refused_at), key=lambda t: t.obtained_at, default=None
    )
    if newest is None or newest.refused_at is None:
        return "the record holds no refresh token"
    spent = newest.first_spent_at
    if spent is not None and newest.refused_at - spent >= policy.grace:
        minutes = f"{policy.grace.total_seconds() / 60:.0f} minutes"
        return f"the answer to the refresh begun at {spent:%Y-%m-%d %H:%M:%S} UTC was not had within Xero's {minutes}"
    if newest.refused_at - newest.obtained_at >= XERO_REFRESH_LIFE:
        return f"the refresh token lay unused for {XERO_REFRESH_LIFE.days} days"
    return "most likely the app was disconnected at Xero"


def _hope_ends_at(token: RefreshToken, now: datetime, policy: Policy) -> datetime:
    """Until when Xero surely takes the token. Moments in the future tell of a clock that stepped: they count as now."""
    dies_at = min(token.obtained_at, now) + XERO_REFRESH_LIFE
    return (
        dies_at
        if token.first_spent_at is None
        else min(dies_at, min(token.first_spent_at, now) + policy.grace)
    )


def _grace_ends_at(
    account: Account, now: datetime, policy: Policy, unwritten: bool
) -> datetime | None:
    # What a process that dies leaves behind is the record before its last refresh: the intent to spend the token that
    # was spent last. Of a failed try, nothing is missing there but how it went.
    last_of_all = unwritten and not account.tries
    spent = [
        min(token.first_spent_at, now)
        for token in _tokens(account)
        if token.first_spent_at is not None
        and not token.refused_at
        and (
            last_of_all
            or (account.intent and account.intent.fingerprint == token.value.fingerprint)
        )
    ]
    return max(spent) + policy.grace if spent else None


def _retrying(account: Account, live: list[RefreshToken]) -> Retrying | None:
    intent = account.intent
    if account.consent_id is None:
        return Retrying.REVOCATION if account.revocation else None
    if not live:
        return None
    if intent and account.unrotated:
        return Retrying.MISSING_TOKEN
    if intent and intent.stamped and unconcluded(account):
        return Retrying.UNDER_WAY
    if intent:
        return Retrying.LOST_ANSWER
    if account.tries:
        return Retrying.REFRESH
    return (
        Retrying.PROOF
        if any(t is not account.current and t.first_spent_at is None for t in live)
        else None
    )


def _next_try_at(account: Account, now: datetime, policy: Policy) -> datetime | None:
    if account.revocation is not None:
        return now if revocation_due(account, now, policy) else account.retry_not_before
    if next(candidates(account, now, policy), None) is None:
        return None
    step, due_at = next_step(account, now, policy), refresh_due_at(account, policy)
    if isinstance(step, Use) and due_at is not None:  # not due yet: how will it be then?
        now = max(now, due_at)
        step = next_step(account, now, policy)
    match step:
        case Wait(until):
            return until
        case Spend():
            return now
        case Use():
            return None


# ------------------------------------------------------------------------------------ what it becomes


def begin_refresh(account: Account, token: RefreshToken, *, by: str, now: datetime) -> Account:
    """The record with the intent to spend ``token``, to be written before the request is sent.

    Where the refresh of another token is still open, it is open again should this one come to nothing.
    """
    stamped, fingerprint, open_one = (
        token.first_spent_at is None,
        token.value.fingerprint,
        account.intent,
    )
    doubted = None
    if open_one is not None:
        doubted = open_one.doubted if open_one.fingerprint == fingerprint else open_one.fingerprint
    intent = Intent(by=by, began_at=now, fingerprint=fingerprint, stamped=stamped, doubted=doubted)
    if stamped:
        account = _replaced(account, replace(token, first_spent_at=now))
    return replace(account, intent=intent)


def after(
    account: Account, outcome: Outcome, *, now: datetime, policy: Policy, jitter: float
) -> Account:
    """The record after the refresh that its intent speaks of came to ``outcome``. ``jitter`` is in [0, 1)."""
    match outcome:
        case Issued():
            return after_issued(account, outcome, now=now, policy=policy)
        case Refused():
            return after_refused(account, outcome, now=now)
        case Unknown():
            return _failed(account, outcome, "unknown", now, _backoff(account, policy, jitter))
        case NotSent():
            return _failed(
                _unspent(account), outcome, "not-sent", now, _backoff(account, policy, jitter)
            )
        case Throttled():
            account = _unspent(account)
            wait = _backoff(account, policy, jitter)
            if outcome.retry_after is not None:
                # The jitter comes on top, so that a crowd sent away together does not come back together.
                asked = (
                    min(outcome.retry_after, _longest_wait(account, policy))
                    + jitter * policy.first_wait
                )
                wait = max(wait, asked)
            return _failed(account, outcome, "throttled", now, wait)
        case ClientRefused():
            return _failed(
                _unspent(account),
                outcome,
                "client-refused",
                now,
                policy.slow_wait * (0.5 + jitter / 2),
            )


def after_issued(account: Account, issued: Issued, *, now: datetime, policy: Policy) -> Account:
    """The record after an answer with tokens: the new one is current, the spent one is kept beside it."""
    intent, spent = account.intent, _spent_token(account)
    began = min(intent.began_at, now) if intent else now
    if spent.first_spent_at is not None and not (intent and intent.stamped):
        # The answer to a retry may be a replay of the lost one, so its token's life counts from the first try. If that
        # lies outside the grace, a clock may have stepped: the token's age is not known, and its life counts as over.
        datable = _surely_within_grace(spent.first_spent_at, now, policy)
        began = min(spent.first_spent_at, began) if datable else began - _life(issued)
    access = _access_token(issued, began)
    if (
        account.access is not None and account.access.value == access.value
    ):  # a replay of the answer that brought it
        access = min(account.access, access, key=lambda a: a.expires_at)
    account = replace(
        account,
        access=access,
        scopes_granted=issued.scopes if issued.scopes is not None else account.scopes_granted,
        refreshed_at=now,
        refreshed_by=intent.by if intent else None,
        tries=0,
        problem=None,
        retry_not_before=None,
    )
    if issued.refresh_token is None:
        return _not_rotated(account, spent, now=now, policy=policy)
    # One that is known already, and was spent, is a replay of an answer further back: it is no fresher for that. When
    # one was spent that is kept no longer is not known, but that it was after the one which brought it.
    known = next((t for t in _others(account, spent) if t.value == issued.refresh_token), None)
    again = issued.refresh_token.fingerprint in account.dropped
    fresh = RefreshToken(
        value=issued.refresh_token,
        obtained_at=now,
        first_spent_at=spent.first_spent_at if again else None,
    )
    successor = known or fresh
    rest = tuple(
        t
        for t in _others(account, spent)
        if t is not known and _worth_keeping(t, spent, now, policy)
    )
    if issued.refresh_token != spent.value:  # one that answers with the same token does not rotate
        rest = (spent, *rest)
    return _keeping(account, successor, rest, unrotated=0)


def _not_rotated(
    account: Account, spent: RefreshToken, *, now: datetime, policy: Policy
) -> Account:
    """An answer without a refresh token: was it dropped on the way, or does this server not rotate?

    The first time the intent stays, and one more try inside the grace asks again; the second time in a row it is the
    server's way, and the token counts as fresh. A server that has rotated this login's tokens before is asked again as
    long as the grace lasts: only who issues after it does not rotate any more.
    """
    others = _others(account, spent)
    rotates = bool(others) and _within_grace(spent, now, policy)
    if account.unrotated == 0 or rotates:
        wait = min(policy.first_wait * 2 ** min(account.unrotated, 20), policy.longest_backoff)
        return replace(account, unrotated=account.unrotated + 1, retry_not_before=now + wait)
    fresh = replace(spent, obtained_at=now, first_spent_at=None)
    rest = tuple(t for t in others if _worth_keeping(t, spent, now, policy))
    return _keeping(account, fresh, rest, unrotated=2)


def _keeping(
    account: Account, current: RefreshToken, rivals: tuple[RefreshToken, ...], *, unrotated: int
) -> Account:
    """The record with these tokens and no others, and no open intent."""
    kept = replace(account, current=current, rivals=rivals, intent=None, unrotated=unrotated)
    held = {token.value for token in _tokens(kept)}
    return _remembering(
        kept, tuple(t.value.fingerprint for t in _tokens(account) if t.value not in held)
    )


def _remembering(account: Account, dropped: tuple[str, ...]) -> Account:
    """The record, which has dropped these besides, but for what it holds."""
    held = {token.value.fingerprint for token in _tokens(account)}
    new = tuple(one for one in dropped if one not in held and one not in account.dropped)
    old = tuple(one for one in account.dropped if one not in held)
    return replace(
        account, dropped=(*new, *old)[:MOST_DROPPED], dropped_ever=account.dropped_ever + len(new)
    )


def _worth_keeping(
    token: RefreshToken, proved: RefreshToken, now: datetime, policy: Policy
) -> bool:
    """May Xero still take ``token``, and could it matter, now that ``proved`` was accepted?"""
    if token.refused_at:
        return False
    if (
        token.first_spent_at is None
    ):  # a rival: dropped once another token was proved after it arrived
        return token.obtained_at > (proved.first_spent_at or now)
    return now - token.first_spent_at < policy.grace


def after_refused(account: Account, refused: Refused, *, now: datetime) -> Account:
    """The record after ``invalid_grant``: the token that was spent is condemned, the others stay."""
    account = _replaced(account, replace(_spent_token(account), refused_at=now))
    return replace(
        account,
        intent=_doubt(account),
        tries=account.tries + 1,
        retry_not_before=None,
        problem=Problem(kind="refused", detail=refused.detail, at=now),
    )


def after_login(
    account: Account,
    issued: Issued,
    *,
    consent_id: str,
    client_id: str,
    client_secret: Secret | None,
    token_url: str,
    tenant_id: str | None,
    scopes_asked: tuple[str, ...],
    scopes_set: tuple[str, ...] = (),
    began_at: datetime,
    now: datetime,
) -> Account:
    """The record after a code exchange: a new consent, with nothing left of the one before but the generation."""
    token = issued.refresh_token
    return Account(
        generation=account.generation,
        write_id=account.write_id,
        client_id=client_id,
        client_secret=client_secret,
        token_url=token_url,
        tenant_id=tenant_id,
        consent_id=consent_id,
        consented_at=_newer_than(account, now),
        scopes_asked=scopes_asked,
        scopes_set=scopes_set,
        scopes_granted=scopes_asked if issued.scopes is None else issued.scopes,
        access=_access_token(issued, began_at),
        current=RefreshToken(value=token, obtained_at=now) if token else None,
        refreshed_at=now,
    )


def after_end(account: Account, *, forget: bool, now: datetime) -> Account:
    """The record when a login ends: nothing is served any more, the tokens stay until Xero has revoked them.

    Clearing ``consent_id`` is what keeps a late answer to a refresh from reviving the login.
    """
    tokens = _tokens(account)
    ended = replace(
        account,
        consent_id=None,
        ended_at=_newer_than(account, now),
        access=None,
        scopes_granted=(),
        revocation="forget" if forget or account.revocation == "forget" else "revoke",
        intent=None,
        tries=0,
        retry_not_before=None,
        problem=None,
    )
    return ended if tokens else after_revoked(ended)


def after_revoked(account: Account) -> Account:
    """The record once Xero has revoked the tokens: the credentials stay, unless they were to be forgotten too.

    A forgotten account is an empty record, not a missing one, so that generations never restart.
    """
    if account.revocation == "forget":
        return Account(
            generation=account.generation, write_id=account.write_id, ended_at=account.ended_at
        )
    return replace(
        account,
        current=None,
        rivals=(),
        revocation=None,
        tries=0,
        retry_not_before=None,
        problem=None,
    )


def after_revocation_failed(
    account: Account, failure: Failure, *, now: datetime, policy: Policy, jitter: float
) -> Account:
    """The record after Xero could not be told: everything stays, and it is tried again."""
    slow = isinstance(failure, ClientRefused)
    wait = policy.slow_wait * (0.5 + jitter / 2) if slow else _backoff(account, policy, jitter)
    return _failed(account, failure, "revocation", now, wait)


def tokens_to_revoke(account: Account) -> tuple[RefreshToken, ...]:
    """What to name to Xero at a login's end, the likeliest to be live first. Xero answers 200 to a dead one too
    (RFC 7009 section 2.2), so all of them are named."""
    return tuple(t for t in _tokens(account) if not t.refused_at)


def revocation_due(account: Account, now: datetime, policy: Policy) -> bool:
    """Is there a revocation to be tried at Xero now?"""
    until = account.retry_not_before
    waiting = until is not None and now < until <= now + policy.longest_wait
    return account.revocation is not None and not waiting


def merged(base: Account, other: Account) -> Account:
    """The record that holds what two hold, where a process finds another record than the one it means to follow.

    The newest consent wins, by ``consented_at``; the end of a login counts as one, by ``ended_at``. Of the same consent
    the tokens are united, and what is current in ``base`` stays current, unless ``other`` has gone on from that. If one
    is the end of the other's login, what that still holds is to be revoked with it. Generation and write id are the
    caller's to set.
    """
    if is_ours(base, other):
        return _united(base, other)
    winner, loser = (other, base) if consent_epoch(other) > consent_epoch(base) else (base, other)
    if winner.consent_id is None and loser.consent_id is not None and winner.ended_at is not None:
        forget = winner.client_id is None or winner.revocation == "forget"
        return _united(after_end(loser, forget=forget, now=winner.ended_at), winner)
    return winner


def branched_off(theirs: Account, ours: Account) -> bool:
    """Does ``theirs`` go on from another record than ``ours``, such as an old dump's? It has never held a token of
    ours that may be live, as far as it reaches back."""
    known = {token.value.fingerprint for token in _tokens(theirs)} | set(theirs.dropped)
    return (
        is_ours(theirs, ours)
        and any(
            not token.refused_at and token.value.fingerprint not in known for token in _tokens(ours)
        )
        and theirs.dropped_ever - ours.dropped_ever <= len(theirs.dropped)
    )


def consent_epoch(account: Account) -> float:
    """When the login, or the end of one, that the record speaks of came to be, as a timestamp; 0 for neither."""
    moments = [m.timestamp() for m in (account.consented_at, account.ended_at) if m is not None]
    return max(moments, default=0.0)


def _newer_than(account: Account, now: datetime) -> datetime:
    """When a login or an end of one counts as done: later than what the record speaks of, whatever the clock did."""
    return max(now, datetime.fromtimestamp(consent_epoch(account), UTC) + timedelta(microseconds=1))


def _united(base: Account, other: Account) -> Account:
    """``base`` with the tokens of both.

    An open intent stays: who slept and then sent may have killed what the others got meanwhile, so a refresh is due.
    """
    first, second = (other, base) if _goes_on(other, base) else (base, other)
    held = {token.value for token in _tokens(first)}
    joining = [t for t in _tokens(second) if t.value not in held and not _outlived(t, first)]
    older = [t for t in joining if t.value.fingerprint in first.dropped]
    staying = [_known_to_both(t, second) for t in first.rivals if not _outlived(t, second)]
    tokens = (a for a in (base.access, other.access) if a is not None)
    united = replace(
        base,
        access=max(tokens, key=lambda a: a.expires_at, default=None),
        current=first.current and _known_to_both(first.current, second),
        rivals=(*(t for t in joining if t not in older), *staying, *older),
        intent=base.intent or other.intent,
    )
    united = _remembering(united, other.dropped)
    return replace(united, dropped_ever=max(united.dropped_ever, other.dropped_ever))


def _goes_on(account: Account, base: Account) -> bool:
    """Has ``account`` gone on from the current token of ``base`` to one that is new there?"""
    if account.current is None or base.current is None:
        return base.current is None
    new, old = account.current.value.fingerprint, base.current.value.fingerprint
    if new in base.dropped or old in account.dropped:
        return new not in base.dropped
    known = {token.value.fingerprint for token in _tokens(base)}
    return new not in known and old in {rival.value.fingerprint for rival in account.rivals}


def _outlived(token: RefreshToken, by: Account) -> bool:
    """Does the token seem unspent, and was it dropped by this record? Then it was spent long ago."""
    return token.first_spent_at is None and token.value.fingerprint in by.dropped


def _known_to_both(token: RefreshToken, account: Account) -> RefreshToken:
    """The token, with what ``account`` knows of it besides: the earliest spending, and any refusal."""
    other = next((t for t in _tokens(account) if t.value == token.value), token)
    spent = [t.first_spent_at for t in (token, other) if t.first_spent_at is not None]
    return replace(
        token,
        first_spent_at=min(spent, default=None),
        refused_at=token.refused_at or other.refused_at,
    )


def is_ours(account: Account, other: Account) -> bool:
    """Do both records speak of the same consent?"""
    return account.consent_id is not None and account.consent_id == other.consent_id


# ---------------------------------------------------------------------------------------------- helpers


def _failed(
    account: Account, outcome: Failure, kind: str, now: datetime, wait: timedelta
) -> Account:
    return replace(
        account,
        tries=account.tries + 1,
        retry_not_before=now + wait,
        problem=Problem(kind=kind, detail=outcome.detail, at=now),
    )


def _backoff(account: Account, policy: Policy, jitter: float) -> timedelta:
    """Full jitter: a random part of a wait that doubles with every try, up to a cap."""
    ceiling: timedelta = policy.first_wait * 2 ** min(account.tries, 20)
    return min(ceiling, policy.longest_backoff) * jitter


def _unspent(account: Account) -> Account:
    """The record after an answer which shows that this try did not spend the token.

    If an earlier try may have spent it, the intent stays open and the token's first-spent time stands.
    """
    if account.intent is None or not account.intent.stamped:
        return account
    return replace(
        _replaced(account, replace(_spent_token(account), first_spent_at=None)),
        intent=_doubt(account),
    )


def _doubt(account: Account) -> Intent | None:
    """The refresh of another token that is open again, now that the one after it came to nothing."""
    intent = account.intent
    live = {token.value.fingerprint for token in _tokens(account) if not token.refused_at}
    if intent is None or intent.doubted not in live:
        return None
    return replace(intent, fingerprint=intent.doubted, stamped=False, doubted=None)


def _tokens(account: Account) -> tuple[RefreshToken, ...]:
    return (account.current, *account.rivals) if account.current else account.rivals


def _spent_token(account: Account) -> RefreshToken:
    """The token that the intent speaks of."""
    if account.intent:
        for token in _tokens(account):
            if token.value.fingerprint == account.intent.fingerprint:
                return token
    raise LookupError("the record holds no intent, or not the token that its intent speaks of")


def _others(account: Account, token: RefreshToken) -> tuple[RefreshToken, ...]:
    return tuple(t for t in _tokens(account) if t.value != token.value)


def _replaced(account: Account, token: RefreshToken) -> Account:
    """The record with ``token`` in the place of the one with the same value."""
    if account.current and account.current.value == token.value:
        return replace(account, current=token)
    return replace(
        account, rivals=tuple(token if r.value == token.value else r for r in account.rivals)
    )


def _access_token(issued: Issued, began: datetime) -> AccessToken:
    return AccessToken(
        value=issued.access_token,
        token_type=issued.token_type,
        issued_at=began,
        expires_at=began + _life(issued),
    )


def _life(issued: Issued) -> timedelta:
    return min(issued.life, LONGEST_LIFE) if issued.life else ASSUMED_LIFE
