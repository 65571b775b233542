"""A login's end: nothing is served from it, and the identity server revokes its tokens.

If other accounts log in by the same Xero user, a revocation would end these too. Then the login's
own connections are deleted and its tokens forgotten (``disconnecting``). The end is written first,
with the tokens, as an end that Xero has not confirmed. So a crash or a store failure at any later
point leaves an end that is resumed, never a login without connections. Each attempt looks for
siblings anew, since one may have logged in meanwhile. Of two siblings that end at the same time,
the later one sees the other's end: it revokes.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ..advice import XERO
from ..backends.base import Lease
from ..end_events import (
    ConnectionsRemain,
    Disconnected,
    Forgotten,
    LoginEnded,
    RevocationFailed,
    Revoked,
)
from ..errors import SealError, StaleWrite, StoreUnavailable
from ..lifecycle.account import AccessToken, Organisation
from ..lifecycle.candidates import without_reuse
from ..lifecycle.logins import after_end, after_revocation_failed, after_revoked, tokens_to_revoke
from ..lifecycle.schedule import min_servable, revocation_due, servable
from ..lifecycle.sharing import is_user_known
from ..lifecycle.waits import pause_ends_at
from ..safe_text import safe_text
from ..wording import FORGOTTEN_TEXT, WITHOUT_USER_TEXT, remaining_text, shared_text
from .context import Context
from .disconnecting import Disconnection, delete_connections
from .refreshing import spend
from .siblings import Siblings

__all__ = [
    "EndOutcome",
    "EndResult",
    "end_login",
    "is_revocation_due",
    "resume_revocation",
]

MAX_NAME = 80
"""Upper bound on the characters of an organisation's name in a sentence."""


class EndResult(StrEnum):
    """The results of a login's end."""

    REVOKED = "revoked"
    """Nothing is left to revoke."""
    PENDING = "revocation-pending"
    """The login is ended here, and that is still to be written or told to the identity server."""
    DISCONNECTED = "disconnected"
    """The login shares its Xero user with others. Its tokens are forgotten, not revoked."""
    FORGOTTEN = "forgotten"
    """Nothing is revoked: the identity server revokes no tokens, or the account had no login. The
    tokens are forgotten here only."""


class EndOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a login's end. It is true unless the end is pending."""

    result: EndResult
    server: str = XERO
    """The name of the identity server in a sentence."""
    revokes: bool = True
    """Are the tokens to be revoked? Not at a server that revokes none, nor without a login."""
    without_user: bool = False
    """True if the client's own credentials got the tokens, without a login."""
    had_login: bool = True
    """False if there was no login, and none of an earlier end that Xero has not confirmed."""
    shared_with: tuple[str, ...] = ()
    """If ``DISCONNECTED``: the accounts that a revocation would have ended too."""
    user_unknown: tuple[str, ...] = ()
    """Those of them that may have another Xero user."""
    remaining: tuple[Organisation, ...] = ()
    """If ``DISCONNECTED``: organisations of this login whose connections may remain at Xero."""
    problem: str | None = None
    """Why they may, with what to do; None if each connection of this login's own is deleted."""

    def __bool__(self) -> bool:
        return self.result is not EndResult.PENDING

    @property
    def pending_text(self) -> str:
        """Why the end is pending, in the middle of a sentence."""
        if self.revokes:
            return f"{self.server} has not confirmed the revocation yet"
        return "the token store has not taken that yet"

    @property
    def explanation(self) -> str | None:
        """The outcome in words for a user; None unless the login lives on in part."""
        match self.result:
            case EndResult.REVOKED:
                return None
            case EndResult.FORGOTTEN if self.without_user:
                return f"the account's tokens are forgotten here only: {WITHOUT_USER_TEXT}"
            case EndResult.FORGOTTEN:
                return f"the login is ended here and its tokens are {FORGOTTEN_TEXT}"
            case EndResult.PENDING:
                retry = f"the request until {self.server} confirms it"
                if not self.revokes:
                    retry = "the write"
                return f"the login is ended here, but {self.pending_text}; xots repeats {retry}"
        shared = shared_text(self.shared_with, self.user_unknown, self.server)
        text = f"the login is ended here and its tokens are forgotten. {shared}"
        return text if self.problem is None else f"{text}. However, {self.problem}"


def _outcome(
    context: Context, result: EndResult, *, had_login: bool = True, without_user: bool = False
) -> EndOutcome:
    server = context.xero.identity_server
    return EndOutcome(
        result=result,
        server=server.name,
        revokes=bool(server.revoke_url) and not without_user,
        without_user=without_user,
        had_login=had_login,
    )


def _pending(context: Context, *, without_user: bool = False) -> EndOutcome:
    return _outcome(context, EndResult.PENDING, without_user=without_user)


def _nothing_left(
    context: Context, *, had_login: bool = True, without_user: bool = False
) -> EndOutcome:
    """Return the outcome once the record holds no token any more."""
    revokes = context.xero.identity_server.revoke_url and not without_user
    result = EndResult.REVOKED if revokes or not had_login else EndResult.FORGOTTEN
    return _outcome(context, result, had_login=had_login, without_user=without_user)


async def end_login(context: Context, *, forget: bool, everywhere: bool = False) -> EndOutcome:
    """End the login and revoke its tokens; ``forget`` its credentials too.

    Args:
        context: the parts of the account's keeper.
        forget: forget the client's credentials too.
        everywhere: revoke the tokens although that ends the login's siblings at Xero too. The
            caller ends each of them in the same way.

    Raises:
        StoreUnavailable, SealError: the store cannot be read; nothing was changed.
    """
    replica = context.replica
    async with replica.locked() as lease:
        # 1. Request the outcome of an open refresh once more: its successor is to be revoked too.
        await _conclude_open_refresh(context, lease)
        found, now = replica.account, context.clock.now()
        is_pristine = found.client_id is None and found.ended_at is None
        if is_pristine and not forget:
            return _nothing_left(context, had_login=False)
        access = servable(found, now, min_servable(found, context.policy))
        # 2. Write the end. From now on no late response can revive the login. An end is written
        # even if there is no login: it also ends one whose code is being exchanged now.
        await replica.commit(after_end(found, forget=forget, now=now), after=found)
        had_login = found.consent_id is not None or found.revocation is not None
        if had_login or forget:
            context.emit(LoginEnded(account=context.name, at=now, forgotten=forget))
        if replica.unsaved:
            # Xero is told only after the end is stored. Otherwise a crash would leave a live login
            # in the store that Xero has ended.
            return _pending(context, without_user=found.without_user)
        # 3. Tell Xero, unless Xero has failed to confirm an earlier request just now.
        if replica.account.revocation is None:
            return _nothing_left(context, had_login=had_login, without_user=found.without_user)
        failed_at = found.problem.at if found.problem and found.revocation else None
        if pause_ends_at(failed_at, now, context.policy) is not None:
            return _pending(context)
        return await _conclude(context, lease, access, everywhere=everywhere)


def is_revocation_due(context: Context) -> bool:
    """Tell if a pending revocation is due now."""
    is_due = revocation_due(context.account, context.clock.now(), context.policy)
    return is_due and not context.is_foreign


async def resume_revocation(context: Context) -> None:
    """Tell Xero of an earlier end, if that is still due once the lease is held. It never raises for
    a failed store or request."""
    try:
        async with context.replica.locked() as lease:
            if is_revocation_due(context):
                await _conclude(context, lease, None)
    except (StoreUnavailable, SealError) as error:
        context.replica.failed(error)


async def _conclude_open_refresh(context: Context, lease: Lease) -> None:
    account = context.account
    tokens = without_reuse(account, context.clock.now(), context.policy)
    if account.intent is None or context.is_foreign or not tokens:
        return
    try:
        await spend(context, tokens[0], lease)
    except StaleWrite:
        await context.replica.read()
    except StoreUnavailable:
        return  # nothing was spent; memory holds the end until the store works again


async def _conclude(
    context: Context, lease: Lease, access: AccessToken | None, *, everywhere: bool = False
) -> EndOutcome:
    """Revoke the tokens of an end that is written; or delete the login's own connections and forget
    its tokens, if it has siblings that are not to be ended too.

    If the store fails meanwhile, the end stays as it is written, and is resumed.
    """
    siblings: Siblings = {}
    try:
        if context.has_list and not everywhere:
            siblings = await context.siblings(context.replica.account)
        if not siblings:
            return await _revoke(context, lease)
        if not context.may_send(lease):
            return _pending(context)
        done = await delete_connections(context, lease, access, siblings)
    except StaleWrite:  # another process has the account
        return _pending(context)
    except (StoreUnavailable, SealError) as error:
        context.replica.failed(error)
        return _pending(context)
    if lease.lost:
        return _pending(context)
    return await _forget_tokens(context, siblings, done)


async def _forget_tokens(context: Context, siblings: Siblings, done: Disconnection) -> EndOutcome:
    """Write the account without the tokens of the ended login, whether or not Xero has deleted all
    of its connections."""
    known, shared_with = context.replica.account, tuple(siblings)
    user_unknown = tuple(n for n, sibling in siblings.items() if not is_user_known(known, sibling))
    await context.replica.commit(after_revoked(known), after=known)
    name, at = context.name, context.clock.now()
    context.emit(
        Disconnected(
            account=name,
            at=at,
            shared_with=shared_with,
            user_unknown=user_unknown,
            deleted=done.deleted,
        )
    )
    problem = None
    if done.problem is not None:
        shown = tuple(safe_text(one.name or one.tenant_id, MAX_NAME) for one in done.remaining)
        problem = remaining_text(shown, done.problem, context.server_name)
        context.emit(
            ConnectionsRemain(account=name, at=at, organisations=shown, reason=done.problem)
        )
    return EndOutcome(
        result=EndResult.DISCONNECTED,
        server=context.server_name,
        shared_with=shared_with,
        user_unknown=user_unknown,
        remaining=done.remaining,
        problem=problem,
    )


async def _revoke(context: Context, lease: Lease) -> EndOutcome:
    """Tell the identity server to revoke the tokens, if it revokes any.

    It stops once the lease is lost: a user may have logged in since, and this request would end
    that login too.
    """
    replica = context.replica
    known = replica.account
    tokens = tokens_to_revoke(known) if context.xero.identity_server.revoke_url else ()
    for token in tokens:
        async with context.xero.slot() as is_free:
            # The wait may have been long enough for a lease to run out.
            if not is_free or not context.may_send(lease):
                return _pending(context)
            _, failure = await context.authenticated(context.xero.revoke, token, lease)
        if failure is not None:
            now, jitter = context.clock.now(), context.rng.random()
            failed = after_revocation_failed(
                known, failure, now=now, policy=context.policy, jitter=jitter
            )
            await replica.commit(failed, after=known)
            context.emit(
                RevocationFailed(
                    account=context.name,
                    at=now,
                    detail=failure.detail,
                    retry_not_before=replica.account.retry_not_before,
                )
            )
            return _pending(context)
    await replica.commit(after_revoked(known), after=known)
    ended = Revoked if context.xero.identity_server.revoke_url else Forgotten
    context.emit(ended(account=context.name, at=context.clock.now()))
    return _nothing_left(context)
