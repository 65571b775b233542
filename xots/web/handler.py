"""``Handler``: the base of all handlers. The guard decides on each request before it acts."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any, ClassVar

from tornado.web import Finish, HTTPError

from ..access import ADMIN_SCOPES, Caller, Rules, Scope
from ..accounts.accounts import Accounts
from ..errors import AccessError, TokenUnavailable
from ..keeping.keeper import TokenKeeper
from ..sealing import Sealer
from . import guard
from .checks import caller_of, decision_on
from .in_flight import InFlight
from .responses import Refused, Responses, WebConfig, supported_methods

__all__ = ["Handler", "Subject", "access_log"]

access_log = logging.getLogger("xots.access")

WITHOUT_LOGIN = (
    "nothing was done: this account has no login to start or to end. Its client gets access tokens "
    "by itself (grant: client_credentials)"
)


class Subject(Enum):
    """The subject of a request whose path names no account."""

    ACCOUNT = "the default account"
    SERVER = "all accounts"
    NONE = "no account, or one that the request names in another way"


class EveryMethod(tuple[str, ...]):
    """Every method, as Tornado checks it before the guard. ``Handler.check_method`` follows it."""

    def __contains__(self, method: object) -> bool:
        return True


class Handler(Responses):
    """One request: parse it, make one call to the account's keeper, write the response.

    The path ``/accounts/NAME/…`` names the account. Every other path serves the default account.
    """

    sealer: Sealer

    keeper: TokenKeeper
    """The account's keeper, from ``prepare`` on."""

    opens_account = True
    """False if the handler needs no keeper of the account that its path names."""

    scopes: ClassVar[frozenset[Scope] | None] = ADMIN_SCOPES
    """The scopes of which the caller needs one; None if the endpoint is open to all."""

    subject = Subject.ACCOUNT
    """The subject of a request whose path names no account."""

    caller: Caller | None = None
    """The sender of the request; None at an endpoint that is open to all."""

    rules: Rules
    """The rules that have given the caller its rights."""

    access_level: ClassVar[int] = logging.INFO
    """The level of the line for a successful request in the access log."""

    SUPPORTED_METHODS = EveryMethod()

    def initialize(
        self,
        accounts: Accounts,
        sealer: Sealer,
        config: WebConfig,
        in_flight: InFlight,
    ) -> None:
        """Take the arguments of ``make_app``."""
        self.accounts, self.sealer, self.config = accounts, sealer, config
        self._in_flight = in_flight
        self.account_config = accounts.default_config
        self._counted: str | None = None
        """The account that the request is counted for."""
        self._entered: str | None = None
        """The account whose keeper the request keeps open."""
        in_flight.enter()

    def on_finish(self) -> None:
        """Count the response, and end the use of the account."""
        if self._counted is not None:
            self._in_flight.leave_account(self._counted)
        self._in_flight.leave()
        if self._entered is not None:
            self.accounts.leave(self._entered)

    async def prepare(self) -> None:
        """Let the guard decide before any handler acts, and open the account of the request.

        Raises:
            HTTPError: the request is refused, or its method is not supported.
            AccessError: the caller does not have the right to it.
            Finish: the response was written.
            UnknownAccount, AccountUnusable, StoreUnavailable: as for ``Accounts.enter``.
        """
        self.named_account = self.path_kwargs.pop("account", None)
        request = self.request
        decision = decision_on(
            request.method or "", request.uri or "", request.headers, self.peer, self.config
        )
        if isinstance(decision, guard.Refusal):
            self.refused = True
            raise Refused(decision.status, decision.detail)
        if decision is guard.Decision.SEND_WORKER:
            self.write_worker()
            raise Finish
        self.check_access()
        self.check_method()
        if self.named_account is None:
            await self.use_account(self.accounts.default.name)
        elif self.opens_account:
            await self.use_account(self.named_account)

    def check_access(self) -> None:
        """Check that the caller has the right to the request, by the rules of this moment.

        Raises:
            AccessError: it has not, or the rules can't be read.
        """
        if self.scopes is None:
            return
        self.refused = True  # until all rules permit it
        rules = self.config.rules()
        if self.caller is None or self.rules is not rules:  # all else stays
            self.caller = caller_of(self.request.headers, self.peer, rules)
            self.caller.check_scopes(self.scopes)
            self.rules = rules
        if self.named_account is not None:
            self.check_account(self.named_account)
        elif self.subject is Subject.ACCOUNT:
            self.check_account(self.accounts.default.name)
        elif self.subject is Subject.SERVER:
            self.check_all_accounts()
        self.refused = False

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        """Write a part of the response, if the caller still has the right to it: the key may have
        been revoked while the request waited.

        Raises:
            AccessError: it has not.
        """
        if self.caller is not None and not self.refused and self.get_status() < 400:
            self.check_access()
        super().write(chunk)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write an error, which may list organisations, if the caller still has the right to it."""
        if self.caller is not None and not self.refused:
            try:
                self.check_access()
            except AccessError as error:
                kwargs["exc_info"] = (type(error), error, error.__traceback__)
        super().write_error(status_code, **kwargs)

    def check_account(self, name: str) -> None:
        """Check that the caller may use an account; raises AccessDenied if it may not."""
        if self.caller is not None:
            self.caller.check_account(name)

    def check_all_accounts(self) -> None:
        """Check that the caller may use every account; raises AccessDenied if it may not."""
        if self.caller is not None:
            self.caller.check_all_accounts()

    async def use_account(self, name: str) -> None:
        """Serve this account until the response is written.

        Raises:
            UnknownAccount, AccountUnusable, StoreUnavailable: as for ``Accounts.enter``.
            TokenUnavailable: it must be opened first, and too many requests wait already.
        """
        if self._counted is not None:
            self._in_flight.leave_account(self._counted)
        self._in_flight.enter_account(name)
        self._counted = name
        if name == self.accounts.default.name:
            self.keeper, self.account_config = self.accounts.default, self.accounts.default_config
            return
        if self.is_crowded and name not in self.accounts.open_now:
            self.check_crowd()
        found = await self.accounts.enter(name, to_end=self.ends_login)
        self._entered = name
        self.keeper, self.account_config = found.keeper, found.config

    def check_method(self) -> None:
        """Check that the path supports the method.

        Raises:
            HTTPError: it does not.
        """
        if self.request.method not in supported_methods(type(self)):
            raise HTTPError(405)

    async def head(self) -> None:
        """Respond as to GET. Tornado omits the body."""
        await self.get()  # type: ignore[misc]  # every handler here has a GET, which is a coroutine

    # ---------- the request

    @property
    def is_crowded(self) -> bool:
        """True if so many requests wait that no other one may wait for a refresh or a list. Logins
        and their ends have limits of their own.

        An account's requests also leave as much room to the others as they take themselves, so that
        one account in trouble does not stop the others.
        """
        left = self.config.max_waiting - self._in_flight.count
        own = self._in_flight.of_account(self._counted) if self._counted else 0
        return left < 0 or (left < own and len(self.accounts.names()) > 1)

    def check_crowd(self) -> None:
        """Check that this request may wait.

        Raises:
            TokenUnavailable: too many others do.
        """
        if self.is_crowded:
            raise TokenUnavailable(f"many requests wait for {self.server_name} already; retry", 1.0)

    def check_needs_login(self) -> None:
        """Check that a user can log in to the account, and end the login.

        Raises:
            HTTPError: the account has no login.
        """
        if not self.account_config.needs_login:
            raise HTTPError(409, WITHOUT_LOGIN)

    @property
    def is_read(self) -> bool:
        """True if the method is GET or HEAD."""
        return self.request.method in ("GET", "HEAD")

    @property
    def path(self) -> str:
        """The path without the account that it names."""
        return self.request.path.removeprefix(self.url(""))
