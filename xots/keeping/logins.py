"""``Logins``: the logins of one account that this process has started or carries out."""

from __future__ import annotations

from ..lifecycle.schedule import State
from ..tasks import Closed, Tasks
from .acts import stopping
from .context import Context
from .login import LOGIN_TIMEOUT, LoginAttempt, log_in
from .login_limit import LoginLimit
from .tenants import TenantList

__all__ = ["Logins"]

NONE_STARTED = float("-inf")


class Logins:
    """Knows if a user is awaited, and bounds the exchanges of codes.

    Args:
        context: the parts of the account's keeper.
        tasks: the keeper's tasks, which run the exchanges.
        organisations: the list of the login's organisations.
    """

    def __init__(self, context: Context, tasks: Tasks, organisations: TenantList) -> None:
        self._context = context
        self._tasks = tasks
        self._organisations = organisations
        self._limit = LoginLimit()
        self._awaited_until = NONE_STARTED
        """Time until which a started login may return from Xero, by ``Clock.elapsed``."""

    @property
    def state(self) -> State:
        """The state of the login, including one that a user has started here."""
        context = self._context
        state = context.state
        if state not in (State.NO_CREDENTIALS, State.NOT_LOGGED_IN, State.REVOKED):
            return state
        if context.clock.elapsed() < self._awaited_until:
            return State.WAITING
        return state

    def started(self) -> None:
        """Note that a user was sent to Xero."""
        self._awaited_until = self._context.clock.elapsed() + LOGIN_TIMEOUT.total_seconds()

    def returned(self) -> None:
        """Note that the user returned from Xero, with or without a code."""
        self._awaited_until = NONE_STARTED

    async def run(self, attempt: LoginAttempt) -> None:
        """Exchange a code: see ``TokenKeeper.login``."""
        try:
            await self._tasks.run(self._log_in(attempt))  # its own limit bounds these
        except Closed:
            raise stopping() from None

    async def _log_in(self, attempt: LoginAttempt) -> None:
        with self._limit.admitted(self._context.clock.elapsed()):
            await log_in(self._context, attempt, self._organisations)
