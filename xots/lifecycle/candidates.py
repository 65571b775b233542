"""The refresh tokens that are worth spending, the most promising first.

Every function is pure: ``now`` is an argument, aware UTC. Protocol facts come from RFC 6749 and
Xero's page "Token types": a refresh token is used once, and a lost response may be retried with the
same token for 30 minutes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum

from ..clock import MAX_CLOCK_SKEW
from .account import Account, RefreshToken
from .policy import Policy

__all__ = [
    "Rank",
    "candidates",
    "is_strict",
    "sent_for_user",
    "surely_within_grace",
    "within_grace",
    "without_reuse",
]


class Rank(IntEnum):
    """The order in which refresh tokens are spent, the most promising first."""

    CURRENT = 0
    """The current token, unspent or spent within the grace period."""
    UNSPENT = 1
    """A fallback that was never spent."""
    IN_GRACE = 2
    """A fallback spent within the grace period, or a current token that a replay brought."""
    LATE = 3
    """A token spent longer ago, or at a future time. Its reuse may end the whole chain."""
    OUTDATED = 4
    """A fallback that looks unspent but is older than the current token by the grace period: it
    comes from an old dump of the store and was spent long ago."""


def candidates(account: Account, now: datetime, policy: Policy) -> tuple[RefreshToken, ...]:
    """Return the refresh tokens worth spending, the most promising first.

    Tokens of one rank stay in the record's order, since dates may be wrong. Only Xero condemns a
    token, so neither the current token nor that of an open refresh is left out. Any other fallback
    is left out once its grace period is over: Xero may end the whole consent on late reuse.
    ``is_strict`` has stricter rules.
    """
    if is_strict(policy):
        return _without_reuse(account, policy) + _last_attempt(account, policy)
    ranked = [(_rank(account, token, now, policy), token) for token in account.tokens]
    kept = [(rank, token) for rank, token in ranked if rank is not None]
    return tuple(token for _, token in sorted(kept, key=lambda pair: pair[0]))


def is_strict(policy: Policy) -> bool:
    """Tell if the identity server accepts no refresh token twice, and may end the login at a second
    use (RFC 9700 section 4.14.2): ``grace`` is zero.

    A token that may have been spent is then sent once more at most, when the access token has
    expired. It is no fallback of another token.
    """
    return not policy.grace


def without_reuse(account: Account, now: datetime, policy: Policy) -> tuple[RefreshToken, ...]:
    """Return the candidates that the identity server permits to send now, whatever became of
    earlier requests."""
    if is_strict(policy):
        return _without_reuse(account, policy)
    return candidates(account, now, policy)


def _without_reuse(account: Account, policy: Policy) -> tuple[RefreshToken, ...]:
    """Return the tokens that were surely not spent. An outdated one comes from an old dump."""
    return tuple(token for token in _newest(account, policy) if token.is_fresh)


def _last_attempt(account: Account, policy: Policy) -> tuple[RefreshToken, ...]:
    """Return the token that may have been spent and was not sent again yet, if there is one. An
    outdated one was spent: its successor is known. A server that does not rotate accepts it again
    and again."""
    spent = (account.spending, account.current)
    tokens = (token for token in spent if token in _newest(account, policy) and not token.is_fresh)
    left = (t for t in tokens if not (t.refused_at or (t.resent and account.rotates)))
    return tuple(left)[:1]


def _newest(account: Account, policy: Policy) -> list[RefreshToken]:
    """Return the current token, and the fallbacks that are newer."""
    current = account.current
    return [t for t in account.tokens if t is current or not _is_outdated(account, t, policy)]


def sent_for_user(account: Account, policy: Policy, *, is_live: bool) -> RefreshToken | None:
    """Return the current token, to send it once more at a user's request once no other is left. A
    server's momentary ``invalid_grant``, or an outage, then costs no login.

    A server that accepts no token twice may end the access token: it is not sent while that is live
    (``is_live``).
    """
    token = account.current
    if token is None or token.is_fresh:
        return None
    return None if is_live and is_strict(policy) else token


def _rank(account: Account, token: RefreshToken, now: datetime, policy: Policy) -> Rank | None:
    """Return the token's rank; None if it is not worth spending."""
    if token.refused_at:
        return None
    if token is account.current:
        return _rank_of_current(account, token, now, policy)
    if token.first_spent_at is None:
        return Rank.OUTDATED if _is_outdated(account, token, policy) else Rank.UNSPENT
    if surely_within_grace(token, now, policy):
        return Rank.IN_GRACE
    spent_in_future = within_grace(token, now, policy)
    is_last_hope = token in (account.spending, _last_resort(account))
    return Rank.LATE if spent_in_future or is_last_hope else None


def _rank_of_current(account: Account, token: RefreshToken, now: datetime, policy: Policy) -> Rank:
    if within_grace(token, now, policy):
        return Rank.CURRENT
    # Without an open refresh, a replay brought this spent token. Spending the fallback again that
    # brought it would bring it once more.
    return Rank.IN_GRACE if account.intent is None else Rank.LATE


def _is_outdated(account: Account, token: RefreshToken, policy: Policy) -> bool:
    current = account.current
    return current is not None and current.obtained_at - token.obtained_at >= policy.grace


def _last_resort(account: Account) -> RefreshToken | None:
    """Return the first spent fallback if the current token was refused: a clock may have been set
    since it was spent, and nothing else is left to lose."""
    if account.current is None or account.current.refused_at is None:
        return None
    return next((token for token in account.fallbacks if token.first_spent_at), None)


def within_grace(token: RefreshToken, now: datetime, policy: Policy) -> bool:
    """Tell if the token is unspent or within its grace period. A spending in the future counts as
    one now: a clock is wrong."""
    if token.first_spent_at is None:
        return True
    return max(now - token.first_spent_at, timedelta(0)) < policy.grace


def surely_within_grace(token: RefreshToken, now: datetime, policy: Policy) -> bool:
    """Like ``within_grace``, but False for a token spent in the future: the clock was set back, so
    its age is unknown."""
    is_past = token.first_spent_at is None or token.first_spent_at - now <= MAX_CLOCK_SKEW
    return is_past and within_grace(token, now, policy)
