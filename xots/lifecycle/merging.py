"""The merge of two versions of the record that were written independently.

A process that finds another version than the one it follows merges both. Each part has a rule:

- **The consent**: the later login, or the later end of one, wins.
- **The refresh tokens** of one consent are a set. Each token is in one of these states, and the
  later one in this list wins:

  1. unknown;
  2. held, and unspent;
  3. tombstoned: held and dropped. An old dump of the store brings the unspent copy back;
  4. held, and spent. Xero may still accept it, so it is tried again.

- **The first use** of a token is the earlier of the two times. A refusal by either counts, and so
  do a request that may still be in flight and a second one.
- **The access token** is the one that expires later.
- **An open intent** stays, since its request may have invalidated the tokens of the other version.
  If both versions have one, that of the first stays; the other's request may be in flight.
- **The Xero user** and the login at Xero never change within a consent: the version that knows them
  tells the other. **The organisations** are those of the later list.
- **The account's settings and its removal** are one decision: the version with the later
  ``entry.added_at`` has both. A live login that meets a removal is ended, since nothing would
  refresh or revoke it.
- **The notes** (refreshes, results of logins, notices) are united by their subjects, the latest
  first, and cut to their bounds. They belong to the account, so both versions count whatever login
  wins.
- **Everything else** is that of the first version.

No token leaves in a merge because there are many. The next refresh that succeeds keeps the bounds.

The set, its tombstones and the first uses do not depend on the order of the two versions. The order
of the tokens does: the current token of the first version stays current, unless the second version
descends from the first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from .account import (
    BEFORE_ALL_LOGINS,
    Account,
    LoginState,
    Notice,
    RefreshNote,
    RefreshToken,
    Revocation,
)
from .logins import after_end
from .tenants import MAX_LISTS_WITHOUT

__all__ = ["diverged", "is_same_consent", "merged"]


def merged(base: Account, other: Account) -> Account:
    """Return the account that holds the knowledge of both versions.

    If one version is the end of the other's login, the tokens of that login are revoked with it.
    Generation and write id are those of one of the two; the caller sets new ones.
    """
    login = _login_of_both(base, other)
    later = max((base, other), key=_entry_time)
    if later.removed and login.consent_id is not None:
        login = after_end(login, forget=True, now=login.epoch)
    return replace(
        login,
        entry=later.entry,
        removed=later.removed,
        refreshes=_united_notes(base.refreshes, other.refreshes, lambda n: (n.at, n.by)),
        login_states=_united_notes(base.login_states, other.login_states, lambda n: n.digest),
        notices=_united_notes(base.notices, other.notices, lambda n: (n.kind, n.key)),
    )


def _login_of_both(base: Account, other: Account) -> Account:
    """Return the account with the login of both versions."""
    if is_same_consent(base, other):
        return _united(base, other)
    winner, loser = (other, base) if other.epoch > base.epoch else (base, other)
    ended_at = _end_of(loser, winner)
    if ended_at is None:
        return winner
    forget = winner.client_id is None or winner.revocation is Revocation.FORGET_CREDENTIALS
    return _united(after_end(loser, forget=forget, now=ended_at), winner)


def is_same_consent(account: Account, other: Account) -> bool:
    """Tell if both versions belong to the same live consent."""
    return account.consent_id is not None and account.consent_id == other.consent_id


def diverged(theirs: Account, ours: Account) -> bool:
    """Tell if ``theirs`` descends from another version than ``ours``, such as one of an old dump.

    True if ``theirs`` has never held one of our tokens that may be live. Tombstones tell that
    without a clock, as far back as they reach.
    """
    tombstones_since = theirs.tombstones_ever - ours.tombstones_ever
    if not is_same_consent(theirs, ours) or tombstones_since > len(theirs.tombstones):
        return False
    known = {token.fingerprint for token in theirs.tokens}.union(theirs.tombstones)
    return not known.issuperset(t.fingerprint for t in ours.tokens if not t.refused_at)


_Note = TypeVar("_Note", bound=RefreshNote | LoginState | Notice)


def _united_notes(
    base: Iterable[_Note], other: Iterable[_Note], subject: Callable[[_Note], Hashable]
) -> tuple[_Note, ...]:
    """Return the notes of both, the latest first, with the latest one of each subject only."""
    latest_first = sorted([*base, *other], key=lambda note: note.at, reverse=True)
    found = dict[Hashable, _Note]()
    for note in latest_first:
        found.setdefault(subject(note), note)
    return tuple(found.values())


def _entry_time(account: Account) -> datetime:
    return account.entry.added_at if account.entry else BEFORE_ALL_LOGINS


def _end_of(login: Account, end: Account) -> datetime | None:
    """Return when ``end`` was recorded, if it is the end of a login and ``login`` a live one."""
    is_end = end.consent_id is None and login.consent_id is not None
    return end.ended_at if is_end else None


def _united(base: Account, other: Account) -> Account:
    """Return ``base`` with the tokens of both versions."""
    first, second = (other, base) if _descends_from(other, base) else (base, other)
    lister = max((base, other), key=lambda account: account.listed_at or BEFORE_ALL_LOGINS)
    access_tokens = [account.access for account in (base, other) if account.access is not None]
    united = replace(
        base,
        access=max(access_tokens, key=lambda access: access.expires_at, default=None),
        current=first.current and _known_to_both(first.current, second),
        fallbacks=_fallbacks_of_both(first, second),
        intent=base.intent or other.intent,
        xero_userid=base.xero_userid or other.xero_userid,
        auth_event_id=base.auth_event_id or other.auth_event_id,
        organisations=lister.organisations,
        listed_at=lister.listed_at,
        lists_without_tenant=_lists_without(base, lister),
    )
    if other.intent not in (None, united.intent) and other.spending is not None:
        cut_off = united.token(other.spending.fingerprint) or other.spending
        united = united.with_token(replace(cut_off, may_be_in_flight=True))
    united = united.with_tombstones(other.tombstones)
    return replace(united, tombstones_ever=max(united.tombstones_ever, other.tombstones_ever))


def _lists_without(base: Account, lister: Account) -> int:
    """Return how many of the lister's lists in a row lacked the organisation of ``base``."""
    is_same = base.tenant_id == lister.tenant_id
    is_listed = any(o.tenant_id == base.tenant_id for o in lister.organisations or ())
    if is_same or lister.organisations is None:
        return lister.lists_without_tenant
    return 0 if is_listed or base.tenant_id is None else MAX_LISTS_WITHOUT


def _fallbacks_of_both(first: Account, second: Account) -> tuple[RefreshToken, ...]:
    """Return the fallbacks in the order in which to try them: tokens that ``first`` has never
    known, its own, and tokens that it dropped but that ``second`` knows to be spent."""
    own = [_known_to_both(t, second) for t in first.fallbacks if not _was_tombstoned(t, second)]
    joining = [t for t in second.tokens if first.token(t.fingerprint) is None]
    joining = [t for t in joining if not _was_tombstoned(t, first)]
    revived = [t for t in joining if t.fingerprint in first.tombstones]
    new = [t for t in joining if t not in revived]
    return (*new, *own, *revived)


def _was_tombstoned(token: RefreshToken, by: Account) -> bool:
    """Tell if the token looks unspent and ``by`` has a tombstone for it: it was spent long ago."""
    return token.first_spent_at is None and token.fingerprint in by.tombstones


def _known_to_both(token: RefreshToken, account: Account) -> RefreshToken:
    """Return the token with the knowledge of ``account``: its earliest use, and any refusal."""
    other = account.token(token.fingerprint)
    if other is None:
        return token
    uses = filter(None, (token.first_spent_at, other.first_spent_at))
    refused_at = token.refused_at or other.refused_at
    return replace(
        token,
        first_spent_at=min(uses, default=None),
        refused_at=refused_at,
        may_be_in_flight=token.may_be_in_flight or other.may_be_in_flight,
        resent=token.resent or other.resent,
    )


def _descends_from(account: Account, base: Account) -> bool:
    """Tell if a refresh of ``base``'s current token led to that of ``account``."""
    if base.current is None:
        return True
    if account.current is None:
        return False
    new, old = account.current.fingerprint, base.current.fingerprint
    if new in base.tombstones:
        return False
    if old in account.tombstones:
        return True
    return base.token(new) is None and account.token(old) is not None
