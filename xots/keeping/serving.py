"""``Serving``: the access tokens of one account, for the callers in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec

from ..errors import XotsError
from ..events import TokenRead
from ..lifecycle.account import AccessToken
from ..lifecycle.schedule import (
    access_lifetime,
    effective_min_ttl,
    is_work,
    issued_since,
    min_servable,
    newest_token,
    servable,
)
from ..lifecycle.waits import pause_ends_at
from ..tasks import Tasks
from .acts import stopping
from .context import Context
from .logins import Logins
from .refreshing import Refreshing
from .reporting import no_token

__all__ = ["Serving"]


class Serving:
    """Serves access tokens from memory, and refreshes first if they live too short.

    Args:
        context: the parts of the account's keeper.
        refreshing: the refresh that all callers share.
        logins: the logins of the account, for its state.
        tasks: the keeper's tasks.
    """

    def __init__(
        self, context: Context, refreshing: Refreshing, logins: Logins, tasks: Tasks
    ) -> None:
        self._context = context
        self._refreshing = refreshing
        self._logins = logins
        self._tasks = tasks
        self._ends_running = 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Serve nothing while the login is ended."""
        self._ends_running += 1
        try:
            yield
        finally:
            self._ends_running -= 1

    @property
    def can_serve(self) -> bool:
        """True if an access token may be served now."""
        context = self._context
        return self._servable(min_servable(context.account, context.policy)) is not None

    async def token(
        self, min_ttl: timedelta | None = None, *, may_wait: bool = True
    ) -> AccessToken:
        """Return an access token that lives at least ``min_ttl`` (None: as the policy promises).

        If the token in memory lives shorter, it is refreshed first. If that fails or takes long, a
        caller without a ``min_ttl`` receives the old token. A token that was issued since the call
        began is returned, even if the response took so long that it lives shorter. Without
        ``may_wait`` no refresh is waited for.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: a user has to act.
            TokenUnavailable: none can be returned now; ``retry_after_seconds`` says when to retry.
        """
        context = self._context
        started, requested_at = False, context.clock.now()
        context.usage.note(context.clock.elapsed(), access_lifetime(context.replica.account))
        access = self.token_now(min_ttl)
        while may_wait and access is None and not started and self._refresh_could_help(min_ttl):
            # A refresh of another caller may have been started for a shorter lifetime.
            started = await self._refreshing.join(
                min_life=self.min_life(min_ttl),
                stale_ok=lambda: min_ttl is None and self.can_serve,
            )
            access = self.token_now(min_ttl)
        issued_for_caller = started and issued_since(context.account, requested_at)
        if access is None and (min_ttl is None or issued_for_caller):
            access = self._servable(min_servable(context.account, context.policy))
        if access is None:
            raise self._no_token()
        self._emit_reads(access, 1)
        return access

    def token_now(self, min_ttl: timedelta | None = None) -> AccessToken | None:
        """Return the access token that ``token`` returns without a refresh; None if there is
        none."""
        return self._servable(self.min_life(min_ttl))

    def note_reads(self, access: AccessToken, count: int) -> None:
        """Note that callers received this token of ``token_now``, as ``token`` notes each call."""
        self._context.usage.note(self._context.clock.elapsed(), access.lifetime)
        self._emit_reads(access, count)

    @property
    def edition(self) -> object | None:
        """An object that is replaced when anything changes that callers receive, apart from what
        the time changes; None while they receive nothing at once."""
        is_stopped = self._ends_running or self._tasks.closed
        return None if is_stopped else self._context.replica.account

    async def refresh(self, *, by_user: bool = False) -> None:
        """Refresh now, due or not, unless the token was issued within ``refresh_interval``. A wait
        that is running is kept, unless Xero refused the client.

        Args:
            by_user: True if a user demands it. A refused token is then sent once more if no other
                is left.

        Raises:
            NoCredentials, NotLoggedIn, ConsentLost: there is nothing to refresh.
            TokenUnavailable: it did not succeed; nothing is lost.
        """
        context = self._context
        before = context.replica.account
        await self._refreshing.complete(newest_token(before), by_user=by_user)
        account, now = context.replica.account, context.clock.now()
        recent = pause_ends_at(account.refreshed_at, now, context.policy) is not None
        is_new = account.access != before.access or (recent and self.can_serve)
        if account.consent_id is None or not is_new:
            raise self._no_token()

    def min_life(self, min_ttl: timedelta | None) -> timedelta:
        """Return the least lifetime left of a token that a caller receives without a refresh."""
        return effective_min_ttl(self._context.replica.account, self._context.policy, min_ttl)

    def _servable(self, min_life: timedelta) -> AccessToken | None:
        if self._ends_running or self._context.is_foreign:
            return None
        return servable(self._context.account, self._context.clock.now(), min_life)

    def _refresh_could_help(self, min_ttl: timedelta | None) -> bool:
        """Tell if a refresh is in progress, or would be made now."""
        if self._ends_running:
            return False
        step = self._context.next_step(min_life=self.min_life(min_ttl))
        return self._refreshing.in_progress or is_work(step)

    def _emit_reads(self, access: AccessToken, count: int) -> None:
        context = self._context
        token = access.value.fingerprint
        at = context.clock.now()
        context.emit(TokenRead(account=context.name, at=at, token=token, count=count))

    def _no_token(self) -> XotsError:
        if self._tasks.closed and self._context.account.consent_id is not None:
            return stopping()
        return no_token(
            msgspec.structs.replace(self._context.situation(), state=self._logins.state),
            ending=bool(self._ends_running),
            in_progress=self._refreshing.in_progress,
            foreign=self._context.is_foreign,
        )
